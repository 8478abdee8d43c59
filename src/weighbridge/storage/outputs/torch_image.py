"""Lay out a new torch file: a zip archive with a pickle, the bytes of each storage, and a receipt.

    archive/data.pkl, archive/byteorder, archive/version    the head
    archive/data/0, archive/data/1, ...                      one for each storage, aligned to 64 bytes
    archive/weighbridge.json                                 the receipt, which torch passes over
    the archive's directory

That is the format of `torch.save` since 1.6 (torch/serialization.py, `_save`; caffe2/serialize/inline_container.cc),
whose members are stored as they are (PKWARE's APPNOTE.TXT, with its 64-bit fields where 32 bits do not do). Where all
of it lies is known before a tensor is read. Only the checksums of the members are not: they are put in when the file is
filled.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from weighbridge.base.batches import run_in_batches
from weighbridge.base.errors import CheckpointError
from weighbridge.base.file_names import RECEIPT_NAME
from weighbridge.base.file_sets import FileImage
from weighbridge.base.specs import DTYPES, Placed, Shape, TensorSpec
from weighbridge.storage.formats.torch_pickles import Storage, Stored, storage_class
from weighbridge.storage.outputs.checksums import Checksums
from weighbridge.storage.outputs.file_writer import reporting_write_errors
from weighbridge.storage.outputs.pickle_text import pickle_tensors, row_major_strides
from weighbridge.storage.places.regular_files import OpenFiles

_ROOT: Final = "archive/"
FIXED: Final = ("data.pkl", "byteorder", "version")
"""The members in the head, which are known from the start."""
ALIGNMENT_BYTES: Final = 64
"""At multiples of this the bytes of a storage begin."""
_FORMAT_VERSION: Final = b"3\n"
_SMALL: Final = 2**32 - 1
"""From this number on, a field of 32 bits says that one of 64 bits holds the number."""
_PADDING: Final = b"FB"
"""The kind of extra field that torch pads its headers with."""
_UTF8: Final = 0x800
_FIRST_DAY: Final = 0x21
"""1 January 1980, so that the same tensors make the same file."""


class Member(NamedTuple):
    """A member of the archive.

    Args:
        name: Its name.
        header_offset: Where its own header begins in the file.
        offset: Where its bytes begin.
        size_bytes: How many there are.
    """

    name: str
    header_offset: int
    offset: int
    size_bytes: int

    def header(self, checksum: int) -> bytes:
        """Return the header before its bytes, padded so that these are aligned."""
        size_bytes = min(self.size_bytes, _SMALL)
        extra = _extra_sizes([self.size_bytes] * 2 if size_bytes == _SMALL else [])
        name = self.name.encode()
        padded = self.offset - self.header_offset - _HEADER.size - len(name) - len(extra)
        extra += _PADDING + struct.pack("<H", padded - 4) + b"Z" * (padded - 4)
        fields = (b"PK\3\4", _version(extra), _UTF8, 0, 0, _FIRST_DAY, checksum, size_bytes, size_bytes)
        return _HEADER.pack(*fields, len(name), len(extra)) + name + extra

    def entry(self, checksum: int) -> bytes:
        """Return its entry in the archive's directory."""
        size_bytes, offset = min(self.size_bytes, _SMALL), min(self.header_offset, _SMALL)
        large = [self.size_bytes] * 2 if size_bytes == _SMALL else []
        extra = _extra_sizes(large + [self.header_offset] * (offset == _SMALL))
        name, version = self.name.encode(), _version(extra)
        fields = (b"PK\1\2", version, version, _UTF8, 0, 0, _FIRST_DAY, checksum, size_bytes, size_bytes)
        return _ENTRY.pack(*fields, len(name), len(extra), 0, 0, 0, 0, offset) + name + extra


_HEADER: Final = struct.Struct("<4s5H3I2H")
_ENTRY: Final = struct.Struct("<4s6H3I5H2I")


def _extra_sizes(numbers: Sequence[int]) -> bytes:
    """Return the extra field for numbers that need 64 bits; nothing where there are none."""
    return struct.pack(f"<HH{len(numbers)}Q", 1, 8 * len(numbers), *numbers) if numbers else b""


def _version(extra: bytes) -> int:
    """Return the version of the format that is needed to read a header with this extra field."""
    return 45 if extra.startswith(b"\1\0") else 20


def next_member(name: str, start: int, size_bytes: int) -> Member:
    """Put a member at the first place from `start` on at which its bytes are aligned."""
    extra_bytes = (20 if size_bytes >= _SMALL else 0) + 4
    least = start + _HEADER.size + len((_ROOT + name).encode()) + extra_bytes
    return Member(_ROOT + name, start, least + -least % ALIGNMENT_BYTES, size_bytes)


@dataclass(frozen=True, slots=True)
class TorchImage:
    """A torch file without its tensors' values.

    Args:
        image: Its head and the place of each storage, under the key of the tensor that fills it.
        filled: The members whose checksums are not known before the file is filled, the receipt's at last.
        fixed: The entries of the others in the archive's directory.
    """

    image: FileImage
    filled: tuple[Member, ...]
    fixed: bytes

    def complete(self, path: Path, receipt: bytes, known: Checksums, *, sync: bool = True) -> None:
        """Write what stands around the tensors of a file that is filled, and its first bytes not yet.

        Args:
            path: The file.
            receipt: The receipt, of the size that the file was laid out for.
            known: What it was filled through.
            sync: Force it to the disk.

        Raises:
            CheckpointError: `read-failed`, `source-changed`.
            DestinationError: `destination-no-room`, `write-failed`.
        """
        storages, place = self.filled[:-1], self.filled[-1]
        assert len(receipt) == place.size_bytes
        files = OpenFiles({}, is_passing=True)
        checksums = run_in_batches(
            lambda member: known.of(files, path, self.image.name, member.offset, member.size_bytes),
            storages,
            lambda member: member.size_bytes,
        )
        pairs = [*zip(storages, checksums, strict=True), (place, zlib.crc32(receipt))]
        entries = self.fixed + b"".join(member.entry(checksum) for member, checksum in pairs)
        with reporting_write_errors(str(path)), path.open("r+b") as file:
            for member, checksum in pairs:
                file.seek(member.header_offset)
                file.write(member.header(checksum))
            file.seek(place.offset)
            file.write(receipt)
            file.write(
                entries + directory_end(len(self.filled) + len(FIXED), place.offset + len(receipt), len(entries))
            )
            file.flush()
            if sync:
                os.fsync(file.fileno())


def directory_end(count: int, offset: int, size_bytes: int) -> bytes:
    """Return what follows the archive's directory, in 64 bits as torch writes it whatever the size."""
    large = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size_bytes, offset)
    where = struct.pack("<4sIQI", b"PK\6\7", 0, offset + size_bytes, 1)
    few = min(count, 0xFFFF)
    small = (b"PK\5\6", 0, 0, few, few, min(size_bytes, _SMALL), min(offset, _SMALL), 0)
    return large + where + struct.pack("<4s4H2IH", *small)


def lay_out_torch(
    name: str, specs: Mapping[str, TensorSpec], ties: Mapping[str, str], receipt_bytes: int
) -> TorchImage:
    """Lay out a torch file that holds a dict of tensors.

    Args:
        name: The file's name.
        specs: The tensors, in the order in which the dict has them.
        ties: For each key that shares its storage, the key of the tensor that fills it.
        receipt_bytes: Size of the receipt.

    Raises:
        CheckpointError: `dtype-unknown` for a dtype that torch lacks, `header-invalid` for a name that is no text.
    """
    keys = [key for key in specs if key not in ties]
    stored = {key: describe_stored(f"{name}: {key}", specs[key], str(number)) for number, key in enumerate(keys)}
    head, fixed = begin_archive(pickle_tensors([(key, stored[ties.get(key, key)]) for key in specs]))
    filled = list(_place_all(keys, specs, len(head)))
    filled.append(next_member(RECEIPT_NAME, _stop(filled, len(head)), receipt_bytes))
    entries_bytes = len(fixed) + sum(len(member.entry(0)) for member in filled)
    size_bytes = _stop(filled, 0) + entries_bytes + len(directory_end(0, 0, 0))
    tensors = [Placed(key, member.offset, member.size_bytes) for key, member in zip(keys, filled, strict=False)]
    return TorchImage(FileImage(name, size_bytes, head, tuple(tensors)), tuple(filled), fixed)


def begin_archive(raw: bytes) -> tuple[bytes, bytes]:
    """Return the members of an archive that are known from the start, and their entries in its directory.

    Args:
        raw: The pickle.
    """
    head, fixed = b"", b""
    for part, content in zip(FIXED, (raw, b"little", _FORMAT_VERSION), strict=True):
        member = next_member(part, len(head), len(content))
        head += member.header(zlib.crc32(content)) + content
        fixed += member.entry(zlib.crc32(content))
    return head, fixed


def _place_all(keys: Sequence[str], specs: Mapping[str, TensorSpec], start: int) -> Iterator[Member]:
    for number, key in enumerate(keys):
        member = next_member(f"data/{number}", start, specs[key].size_bytes)
        start = member.offset + member.size_bytes
        yield member


def _stop(members: Sequence[Member], start: int) -> int:
    return members[-1].offset + members[-1].size_bytes if members else start


def describe_stored(where: str, spec: TensorSpec, storage: str) -> Stored:
    """Describe a tensor as torch has it, dense in a storage of its own.

    Raises:
        CheckpointError: `dtype-unknown` for a dtype that torch lacks.
    """
    layout = _layout_in_torch(spec)
    if layout is None:
        what, hint = (
            "torch has no such dtype, so no torch file can hold it",
            "write a safetensors file, or another dtype",
        )
        raise CheckpointError("dtype-unknown", what, where=where, got=str(spec), hint=hint)
    dtype, shape = layout
    own = Storage(storage, dtype, spec.numel) if storage_class(dtype)[1] else Storage(storage, "uint8", spec.size_bytes)
    return Stored(own, dtype, 0, shape, row_major_strides(shape))


_NEWER: Final = ("F4", "F8_E8M0")
"""Dtypes that the oldest torch which this works with lacks."""


def _layout_in_torch(spec: TensorSpec) -> tuple[str, Shape] | None:
    """Return the name of torch's dtype for a spec, and the shape there; torch is asked only where it may lack it.

    To import it takes longer, and more memory, than to write a file of some gigabytes.
    """
    name = DTYPES[spec.dtype].torch_name
    if name and spec.dtype not in _NEWER:
        return name, spec.shape
    from weighbridge.storage.formats.torch_tensors import torch_layout

    layout = torch_layout(spec)
    return None if layout is None else (str(layout[0]).removeprefix("torch."), layout[1])
