"""Torch files as places: the pickle of one, and where its storages lie.

Two formats. Since torch 1.6 a file is a zip archive whose members are stored as they are: `<root>/data.pkl`, and
`<root>/data/<key>` for each storage (torch/serialization.py, `_save`). Before, it was five pickles, a magic number, a
version, the machine's properties, the value, and the keys of the storages, which follow, each with its number of
elements before it (`_legacy_save`). Either way a file is mapped, and only its pickles are read.
"""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Mapping
from functools import cache
from math import prod
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple

from weighbridge.base.errors import CheckpointError
from weighbridge.base.json_text import join_keys, shorten
from weighbridge.base.specs import dtype_named
from weighbridge.storage.formats.file_starts import name_start
from weighbridge.storage.formats.pickles import Bounded, Pickled, read_pickle
from weighbridge.storage.formats.torch_pickles import Storage, Stored, read_storage
from weighbridge.storage.places.regular_files import SourceFile, open_regular, reporting_read_errors
from weighbridge.storage.places.stamps import check_stamp

if TYPE_CHECKING:
    import torch

    from weighbridge.storage.formats.torch_tensors import FileMap

ZIP_MAGIC: Final = b"PK\x03\x04"
"""How an archive begins."""
_LOCAL_HEADER_BYTES: Final = 30
_LEGACY_MAGIC: Final = 0x1950A86A20F9469CFC6C
_COUNT_BYTES: Final = 8
_ITEM_BYTES: Final = {"complex128": 16, "qint8": 1, "quint8": 1, "qint32": 4, "quint4x2": 1, "quint2x4": 1}
"""Sizes of the elements of torch's dtypes that safetensors files do not have."""


class Extent(NamedTuple):
    """Where bytes lie in a file."""

    offset: int
    size_bytes: int


class Archive(NamedTuple):
    """A torch file that was opened.

    Args:
        pickled: What its pickle says.
        places: Where each storage lies.
        is_swapped: Whether its numbers have the other order of bytes than this machine's.
        map: Its bytes, mapped so that nothing that is written to them reaches the file.
    """

    pickled: Pickled
    places: Mapping[str, Extent]
    is_swapped: bool
    map: FileMap


def open_archive(file: SourceFile) -> Archive:
    """Read the pickle of a torch file, find its storages, and map it.

    Raises:
        CheckpointError: `pickle-invalid`, `pickle-unsafe`, `dtype-unknown`, `source-changed`, `read-failed`,
            `checkpoint-not-found`.
    """
    from weighbridge.storage.formats.torch_tensors import map_file

    descriptor, stamp = open_regular(file.path, is_resolved=True)
    with os.fdopen(descriptor, "rb") as stream, reporting_read_errors(str(file.path)):
        check_stamp(file.path, stamp, file.stamp)
        read = _read_zip if file.head.startswith(ZIP_MAGIC) else _read_legacy
        pickled, places, order = read(stream, file)
        return Archive(pickled, places, order != sys.byteorder, map_file(descriptor, stamp.size_bytes))


_Read = tuple[Pickled, dict[str, Extent], str]
"""A pickle, the places of the storages, and the order of bytes."""


# Zip archives


def _read_zip(stream: IO[bytes], file: SourceFile) -> _Read:
    members = list_members(stream)
    root = next(iter(members), "").split("/")[0]
    if f"{root}/constants.pkl" in members:
        got, hint = "a TorchScript archive", "load it with torch.jit.load, and save its state_dict() with torch.save"
        raise CheckpointError("pickle-invalid", "this is no checkpoint", got=got, hint=hint)
    if f"{root}/data.pkl" not in members:
        got, hint = f"an archive of {join_keys(members)}", "write it again with torch.save"
        raise CheckpointError("pickle-invalid", "this archive holds no checkpoint", got=got, hint=hint)
    size_bytes = file.stamp.size_bytes
    order = (
        read_content(stream, members[f"{root}/byteorder"], size_bytes) if f"{root}/byteorder" in members else b"little"
    )
    stream.seek(place_member(stream, members[f"{root}/data.pkl"], size_bytes).offset)
    pickled = read_pickle(Bounded(stream, size_bytes))
    names = {key: f"{root}/data/{key}" for key in _storages(pickled)}
    places = {key: place_member(stream, members[name], size_bytes) for key, name in names.items() if name in members}
    return pickled, places, order.decode("ascii", "replace")


class Directory(NamedTuple):
    """The directory of an archive.

    Args:
        members: The members by name, in its order.
        start: Where it begins, in bytes; what ends the archive follows it.
    """

    members: dict[str, zipfile.ZipInfo]
    start: int


def list_members(stream: IO[bytes]) -> dict[str, zipfile.ZipInfo]:
    """Return the members of an archive by name; as `read_directory`."""
    return read_directory(stream).members


def read_directory(stream: IO[bytes]) -> Directory:
    """Read the directory of an archive, which must be there, and name each member once.

    Raises:
        CheckpointError: `pickle-invalid`, without the place.
    """
    try:
        with zipfile.ZipFile(stream) as archive:
            listed, start = archive.infolist(), archive.start_dir
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        hint = "check that the file was copied to its end"
        raise CheckpointError("pickle-invalid", "the archive is damaged", got=str(error), hint=hint) from None
    members = {info.filename: info for info in listed}
    if len(members) != len(listed):
        raise CheckpointError("pickle-invalid", "the archive is damaged", got="two members of one name")
    return Directory(members, start)


def place_member(stream: IO[bytes], member: zipfile.ZipInfo, file_size_bytes: int) -> Extent:
    """Find the bytes of a member that is stored as it is: they follow its own header, whose length it alone says.

    Raises:
        CheckpointError: `pickle-invalid`, without the place.
    """
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
        raise CheckpointError("pickle-invalid", "the archive is compressed", got=shorten(member.filename))
    start = member.header_offset
    # What a damaged directory says may be no place in a file at all.
    stream.seek(start if 0 <= start <= file_size_bytes else file_size_bytes)
    header = stream.read(_LOCAL_HEADER_BYTES)
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    found = Extent(start + _LOCAL_HEADER_BYTES + lengths, member.file_size)
    if not header.startswith(ZIP_MAGIC) or sum(found) > file_size_bytes:
        raise CheckpointError("pickle-invalid", "the archive is damaged", got=f"no member {shorten(member.filename)}")
    return found


def read_content(stream: IO[bytes], member: zipfile.ZipInfo, file_size_bytes: int) -> bytes:
    """Read the bytes of a member that is stored as it is.

    Raises:
        CheckpointError: `pickle-invalid`, without the place.
    """
    place = place_member(stream, member, file_size_bytes)
    stream.seek(place.offset)
    return stream.read(place.size_bytes)


def read_member(path: Path, name: str, limit_bytes: int) -> bytes | None:
    """Read what stands beside the tensors of a torch file under a name of its own.

    Args:
        path: The file.
        name: Name of the member, without the folder that all lie in.
        limit_bytes: The largest that is read.

    Returns:
        The member's bytes; None where there is none, or the file is no archive.

    Raises:
        CheckpointError: `checkpoint-not-found`, `read-failed`, `pickle-invalid` for a damaged archive.
    """
    descriptor, stamp = open_regular(path)
    with os.fdopen(descriptor, "rb") as stream, reporting_read_errors(str(path)):
        members = list_members(stream) if stream.read(len(ZIP_MAGIC)) == ZIP_MAGIC else {}
        found = members.get(f"{next(iter(members), '').split('/')[0]}/{name}")
        if found is None:
            return None
        if found.file_size > limit_bytes:
            expected, got = f"at most {limit_bytes:,} bytes", f"{found.file_size:,} bytes"
            raise CheckpointError("read-failed", "this is too large", where=str(path), expected=expected, got=got)
        return read_content(stream, found, stamp.size_bytes)


def _storages(pickled: Pickled) -> dict[str, Storage]:
    found = (read_storage(value) for value in pickled.outside)
    return {storage.key: storage for storage in found}


# The format before torch 1.6


def _read_legacy(stream: IO[bytes], file: SourceFile) -> _Read:
    bounded = Bounded(stream, file.stamp.size_bytes)
    try:
        magic = read_pickle(bounded).value
    except CheckpointError as problem:
        raise _no_torch_file(file, problem.got) from None
    if magic != _LEGACY_MAGIC or type(magic) is not int:
        raise _no_torch_file(file, "a pickle that torch.save did not write")
    version, machine = read_pickle(bounded).value, read_pickle(bounded).value
    pickled, keys = read_pickle(bounded), read_pickle(bounded).value
    if type(version) is not int or type(machine) is not dict or type(keys) is not list:
        raise _no_torch_file(file, "a file of another version")
    places = _place_storages(stream, keys, _storages(pickled), file.stamp.size_bytes)
    return pickled, places, "little" if machine.get("little_endian", True) else "big"


def _place_storages(
    stream: IO[bytes], keys: list[Any], storages: Mapping[str, Storage], file_size_bytes: int
) -> dict[str, Extent]:
    places = {}
    for key in keys:
        storage = storages.get(key) if type(key) is str else None
        if storage is None:
            raise CheckpointError("pickle-invalid", "a storage is of no tensor", got=shorten(str(key)[:200]))
        count = int.from_bytes(stream.read(_COUNT_BYTES), "little")
        places[key] = Extent(stream.tell(), count * item_bytes(storage.dtype))
        if sum(places[key]) > file_size_bytes:
            raise CheckpointError("pickle-invalid", "the file ends before its storages", got=shorten(key))
        stream.seek(sum(places[key]))
    return places


def _no_torch_file(file: SourceFile, got: str) -> CheckpointError:
    """Return the error for a file that is none of torch's, with what it is instead where its start tells."""
    foreign = name_start(file.head)
    got, hint = (foreign.what, foreign.hint) if foreign else (got, "write it again with a current PyTorch")
    return CheckpointError("pickle-invalid", "this is no torch file", got=got, hint=hint)


# Tensors


@cache
def item_bytes(dtype: str) -> int:
    """Return the size of an element of a torch dtype, which for two of float4 is a byte.

    Raises:
        CheckpointError: `dtype-unknown`.

    Examples:
        >>> item_bytes("bfloat16"), item_bytes("float4_e2m1fn_x2")
        (2, 1)
    """
    return _ITEM_BYTES.get(dtype) or max(1, dtype_named(dtype).bits // 8)


class Builder:
    """Makes the tensors of an archive, each a view of the mapped file.

    Args:
        archive: The archive.
    """

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._flat: dict[tuple[Storage, str], torch.Tensor] = {}

    def build(self, stored: Stored) -> torch.Tensor:
        """Make one tensor.

        Raises:
            CheckpointError: `pickle-invalid`, `tensor-bounds`, `dtype-unknown`; without the place.
        """
        import torch

        dtype = getattr(torch, stored.dtype, None)
        if not isinstance(dtype, torch.dtype):
            raise CheckpointError("dtype-unknown", "this torch has no such dtype", got=shorten(stored.dtype))
        if prod([max(1, size) for size in stored.shape]) >= 2**59:
            raise CheckpointError("tensor-bounds", "the shape is too large", expected="less than 2**63 bits")
        if stored.storage is None:
            return torch.empty_strided(stored.shape, stored.strides, dtype=dtype, device="meta")
        if not all(stored.shape):
            return torch.empty(stored.shape, dtype=dtype, device="cpu")
        place = self._find(stored.storage)
        if (stored.offset + stored_reach(stored)) * dtype.itemsize > place.size_bytes:
            raise CheckpointError("pickle-invalid", "a tensor is larger than its storage")
        tensor = self._storage(stored.storage, place, dtype).as_strided(stored.shape, stored.strides, stored.offset)
        tensor = tensor.conj() if stored.is_conj else tensor
        return torch._neg_view(tensor) if stored.is_neg else tensor

    def _find(self, storage: Storage) -> Extent:
        """Find where a storage lies, which may be a part of one."""
        whole = self._archive.places.get(storage.key)
        itemsize = item_bytes(storage.dtype)
        start, size_bytes = storage.start * itemsize, storage.numel * itemsize
        if whole is None or start + size_bytes > whole.size_bytes:
            raise CheckpointError("pickle-invalid", "a storage is not in the file", got=shorten(storage.key))
        return Extent(whole.offset + start, size_bytes)

    def _storage(self, storage: Storage, place: Extent, dtype: torch.dtype) -> torch.Tensor:
        """Return a storage's elements on one axis, over the map where they are aligned and in this machine's order."""
        import torch

        flat = self._flat.get((storage, str(dtype)))
        if flat is None:
            count = place.size_bytes // dtype.itemsize * dtype.itemsize
            flat = torch.frombuffer(self._archive.map, dtype=torch.uint8, count=count, offset=place.offset)
            if self._archive.is_swapped and dtype.itemsize > 1:
                flat = flat.clone()
                flat.untyped_storage().byteswap(dtype)  # type: ignore[no-untyped-call]
            elif place.offset % dtype.itemsize:
                flat = flat.clone()
            flat = self._flat[storage, str(dtype)] = flat.view(dtype)
        return flat


def stored_reach(stored: Stored) -> int:
    """Return how many elements a tensor that has any spans in its storage, from its first one on."""
    return sum([(size - 1) * stride for size, stride in zip(stored.shape, stored.strides, strict=True)]) + 1
