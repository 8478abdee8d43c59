"""The items of a directory of torch.distributed.checkpoint: each is a whole file of `torch.save`, within another file.

A chunk of a tensor is an archive that holds one tensor, whose bytes are stored as they are. Of each item its directory
at the end is read, and the pickle at its beginning; where the tensor's bytes lie follows from these.
"""

from __future__ import annotations

import io
import os
import sys
from functools import lru_cache
from typing import IO, TYPE_CHECKING, Final
from zipfile import ZIP_STORED

from weighbridge.base.errors import CheckpointError
from weighbridge.base.json_text import join_keys
from weighbridge.storage.formats.pickles import Bounded, read_pickle
from weighbridge.storage.formats.torch_archives import (
    ZIP_MAGIC,
    Extent,
    item_bytes,
    list_members,
    place_member,
    read_content,
    stored_reach,
)
from weighbridge.storage.formats.torch_pickles import UNSAFE_HINT, Stored, read_tensor
from weighbridge.storage.places.regular_files import reporting_read_errors

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_BUFFER_BYTES: Final = 4096
_MAX_PICKLE_BYTES: Final = 2**16
"""The pickle of a tensor has a few hundred bytes."""


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


def find_tensor(descriptor: int, offset: int, size_bytes: int) -> tuple[Stored, Extent]:
    """Find the tensor of an item.

    Args:
        descriptor: The file that it lies in.
        offset: Where it begins, in bytes.
        size_bytes: Its length.

    Returns:
        What its pickle says of the tensor, and where its first element lies in the file, with all bytes from there on.

    Raises:
        CheckpointError: `dcp-unsafe`, `dcp-unsupported`, `dcp-invalid`; without the place.
    """
    stream = io.BufferedReader(FilePart(descriptor, offset, size_bytes), _BUFFER_BYTES)
    with reporting_read_errors(""):
        if stream.read(len(ZIP_MAGIC)) != ZIP_MAGIC:
            expected = "an archive of torch.save, stored as it is"
            raise CheckpointError("dcp-unsupported", "an item is of another form", expected=expected)
        try:
            return _find_tensor(stream, offset, size_bytes)
        except CheckpointError as problem:
            if problem.code != "pickle-invalid":
                raise
            raise CheckpointError("dcp-invalid", f"an item is damaged: {problem.what}", got=problem.got) from None


def _find_tensor(stream: IO[bytes], offset: int, size_bytes: int) -> tuple[Stored, Extent]:
    members = list_members(stream)
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
    return stored, Extent(offset + place.offset + start, place.size_bytes - start)


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
