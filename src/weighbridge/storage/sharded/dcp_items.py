"""The items of a directory of torch.distributed.checkpoint: each is a whole file of `torch.save`, within another file.

A chunk of a tensor is an archive that holds one tensor, whose bytes are stored as they are. Of each item its directory
at the end is read, and the pickle at its beginning; where the tensor's bytes lie follows from these. A checkpoint has
many thousands of items, most of which differ in nothing of that: one that is known already is compared, not read.
"""

from __future__ import annotations

import io
import os
import struct
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import IO, TYPE_CHECKING, Final, NamedTuple
from zipfile import ZIP_STORED

from weighbridge.base.errors import CheckpointError
from weighbridge.base.json_text import join_keys
from weighbridge.storage.formats.pickles import Bounded, read_pickle
from weighbridge.storage.formats.torch_archives import (
    ZIP_MAGIC,
    Directory,
    item_bytes,
    place_member,
    read_content,
    read_directory,
    stored_reach,
)
from weighbridge.storage.formats.torch_pickles import UNSAFE_HINT, Stored, read_tensor
from weighbridge.storage.places.regular_files import reporting_read_errors

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_BUFFER_BYTES: Final = 4096
_MAX_PICKLE_BYTES: Final = 2**16
"""The pickle of a tensor has a few hundred bytes."""

_MAX_FRAME_BYTES: Final = 2**14
"""What stands before a tensor's bytes, and behind them, has about a thousand each."""
_CHECKSUM_BYTES: Final = 4
_HEADER_CHECKSUM: Final = 14
"""Where a member's own header has the checksum."""
_ENTRY_BYTES: Final = 46
_ENTRY_CHECKSUM: Final = 16
_ENTRY_LENGTHS_AT: Final = 28
_ENTRY_LENGTHS: Final = struct.Struct("<3H")
"""An entry of the directory, without its name and what follows that, whose three lengths it says."""
_END_BYTES: Final = 22
_END_MAGIC: Final = b"PK\5\6"
"""What ends an archive that has no comment."""


class FilePart(io.RawIOBase):
    """A part of an open file, as a file of its own.

    Args:
        descriptor: The file, which stays open and belongs to the caller.
        offset: Where the part begins, in bytes.
        size_bytes: Its length.
    """

    def __init__(self, descriptor: int, offset: int, size_bytes: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._offset = offset
        self._size_bytes = size_bytes
        self._at = 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place; see `io.IOBase.seek`."""
        at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size_bytes}[whence]
        if at < 0:
            raise ValueError("a place before the beginning")
        self._at = at
        return at

    def tell(self) -> int:
        """Return the place."""
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill a buffer with what follows, as far as the part reaches."""
        view = memoryview(buffer).cast("B")
        view = view[: max(0, min(len(view), self._size_bytes - self._at))]
        count = os.preadv(self._descriptor, [view], self._offset + self._at) if len(view) else 0
        self._at += count
        return count


class Items:
    """Finds the tensors of items, each of which is looked at, but read only where it is not like one before.

    All chunks of one dtype and shape that one writer made have the same bytes, but for the tensor's values and the
    checksums, on which nothing depends that is read here. So an item whose other bytes are those of an earlier one says
    what that one says.
    """

    def __init__(self) -> None:
        self._known: dict[object, _Form] = {}

    def find(self, descriptor: int, offset: int, size_bytes: int, kind: object) -> tuple[Stored, int]:
        """Find the tensor of an item.

        Args:
            descriptor: The file that it lies in.
            offset: Where it begins, in bytes.
            size_bytes: Its length.
            kind: Anything hashable that items have in common that may well be alike.

        Returns:
            What its pickle says of the tensor, and where its first element lies in the file.

        Raises:
            CheckpointError: `dcp-unsafe`, `dcp-unsupported`, `dcp-invalid`; without the place.
        """
        with reporting_read_errors(""):
            form = self._known.get((kind, size_bytes))
            if form is None or not form.is_at(descriptor, offset):
                form = self._known[kind, size_bytes] = _read_item(descriptor, offset, size_bytes)
        return form.stored, offset + form.start


class _Frame(NamedTuple):
    """Bytes that stand in an item, with zeros in the place of checksums.

    Args:
        start: Where they begin in the item.
        content: The bytes.
        checksums: Where checksums stand among them.
    """

    start: int
    content: bytes
    checksums: tuple[int, ...]

    def is_at(self, descriptor: int, offset: int) -> bool:
        """Tell whether the item that begins at an offset of a file has these bytes, too."""
        found = os.pread(descriptor, len(self.content), offset + self.start)
        return len(found) == len(self.content) and _blanked(found, self.checksums) == self.content


def _blanked(raw: bytes, checksums: Iterable[int]) -> bytearray:
    made = bytearray(raw)
    for at in checksums:
        made[at : at + _CHECKSUM_BYTES] = bytes(_CHECKSUM_BYTES)
    return made


class _Form(NamedTuple):
    """What an item holds.

    Args:
        stored: What its pickle says of the tensor.
        start: Where the tensor's first element lies in the item.
        frames: All of its bytes that say so; none where they lie in another order than torch writes them.
    """

    stored: Stored
    start: int
    frames: tuple[_Frame, ...]

    def is_at(self, descriptor: int, offset: int) -> bool:
        """Tell whether the item of the same size that begins at an offset of a file says the same."""
        return bool(self.frames) and all(frame.is_at(descriptor, offset) for frame in self.frames)


def _read_item(descriptor: int, offset: int, size_bytes: int) -> _Form:
    stream = io.BufferedReader(FilePart(descriptor, offset, size_bytes), _BUFFER_BYTES)
    if stream.read(len(ZIP_MAGIC)) != ZIP_MAGIC:
        expected = "an archive of torch.save, stored as it is"
        raise CheckpointError("dcp-unsupported", "an item is of another form", expected=expected)
    try:
        return _read_archive(stream, size_bytes)
    except CheckpointError as problem:
        if problem.code != "pickle-invalid":
            raise
        raise CheckpointError("dcp-invalid", f"an item is damaged: {problem.what}", got=problem.got) from None


def _read_archive(stream: IO[bytes], size_bytes: int) -> _Form:
    directory = read_directory(stream)
    members = directory.members
    root = next(iter(members), "").split("/")[0]
    if any(member.compress_type != ZIP_STORED for member in members.values()):
        raise CheckpointError("dcp-unsupported", "an item is compressed", expected="an archive, stored as it is")
    order = members.get(f"{root}/byteorder")
    if order is not None and read_content(stream, order, size_bytes) != sys.byteorder.encode():
        raise CheckpointError("dcp-unsupported", "an item is of a machine with another order of bytes")
    described = members.get(f"{root}/data.pkl")
    if described is None or described.file_size > _MAX_PICKLE_BYTES:
        raise CheckpointError("dcp-invalid", "an item holds no tensor", got=f"an archive of {join_keys(members)}")
    stored = _read_stored(read_content(stream, described, size_bytes))
    member = members.get(f"{root}/data/{stored.storage.key}") if stored.storage is not None else None
    if member is None:
        raise CheckpointError("dcp-invalid", "an item does not hold the bytes of its tensor")
    place = place_member(stream, member, size_bytes)
    start = stored.offset * item_bytes(stored.dtype)
    if start + stored_reach(stored) * item_bytes(stored.dtype) > place.size_bytes:
        raise CheckpointError("dcp-invalid", "a tensor is larger than its item")
    read = [place_member(stream, each, size_bytes) for each in (described, order) if each is not None]
    is_usual = all(sum(each) <= member.header_offset for each in read) and sum(place) <= directory.start
    frames = _frames(stream, directory, member.header_offset, place.offset) if is_usual else ()
    return _Form(stored, place.offset + start, frames)


def _frames(stream: IO[bytes], directory: Directory, header_offset: int, data_offset: int) -> tuple[_Frame, ...]:
    """Return all bytes that are read of an item: those before its tensor's, and from its directory on.

    Args:
        stream: The item.
        directory: Its directory.
        header_offset: Where the header of the tensor's member begins; what is read of other members stands before.
        data_offset: Where the tensor's bytes begin; the directory stands somewhere behind them.
    """
    stream.seek(directory.start)
    end = stream.read(_MAX_FRAME_BYTES + 1)
    if max(data_offset, len(end)) > _MAX_FRAME_BYTES or end[-_END_BYTES:][:4] != _END_MAGIC or end[-2:] != bytes(2):
        return ()  # a comment at the end may be looked for anywhere
    stream.seek(0)
    head = stream.read(data_offset)
    own = (header_offset + _HEADER_CHECKSUM,)
    listed = tuple(_entry_checksums(end, len(directory.members)))
    return tuple(
        _Frame(start, bytes(_blanked(raw, checksums)), checksums)
        for start, raw, checksums in ((0, head, own), (directory.start, end, listed))
    )


def _entry_checksums(directory: bytes, count: int) -> Iterator[int]:
    """Yield where the checksums of so many members stand in an archive's directory."""
    at = 0
    for _ in range(count):
        yield at + _ENTRY_CHECKSUM
        at += _ENTRY_BYTES + sum(_ENTRY_LENGTHS.unpack_from(directory, at + _ENTRY_LENGTHS_AT))


@lru_cache(maxsize=4096)
def _read_stored(raw: bytes) -> Stored:
    """Read the pickle of an item: all chunks of one dtype and shape have the same."""
    pickled = read_pickle(Bounded(io.BytesIO(raw), len(raw)))
    found = read_tensor(pickled.value)
    foreign = next(
        (name for name in pickled.globals if name.module.split(".")[0] not in ("torch", "collections")), None
    )
    if foreign is not None:
        got = f"the code of {str(foreign)[:80]}"
        raise CheckpointError("dcp-unsafe", "an item holds more than a tensor", got=got, hint=UNSAFE_HINT)
    if not isinstance(found, Stored) or found.is_conj or found.is_neg:
        got = "something else" if found is None or isinstance(found, Stored) else found.what
        raise CheckpointError("dcp-unsupported", "an item holds no dense tensor", got=got)
    return found
