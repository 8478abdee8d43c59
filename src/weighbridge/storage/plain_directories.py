"""Read a directory that is beyond doubt one checkpoint of safetensors files, by the few steps that such a one takes.

Opening is for whatever a directory may hold, and who loads a model for the first time in a process waits for all that
it imports. Here any other directory is none, and so is one with something wrong in it: `open_checkpoint` says what.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from weighbridge.base.errors import WeighbridgeError
from weighbridge.base.specs import TensorSpec
from weighbridge.storage.formats.safetensors_header import LENGTH_BYTES, Head, check_length, parse_head
from weighbridge.storage.formats.shard_index import MAX_INDEX_BYTES, check_shards, parse_index
from weighbridge.storage.places.stamps import FileStamp, stamp_of

if TYPE_CHECKING:
    import torch

    from weighbridge.storage.formats.safetensors_files import SafetensorsCheckpoint

WEIGHTS: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"

_BESIDE: Final = ("", ".jinja", ".json", ".md", ".model", ".txt")
"""How the names of files end that hold no weights, as a rule lies beside them in any checkpoint."""

_LIBRARY_FORMAT: Final = {"format": "pt"}
"""The metadata of a plain file of weights, if it has any."""


class ReadFile(NamedTuple):
    """One file: its name, its path without links, its stamp, and its head or, for an index, all of it."""

    name: str
    path: Path
    stamp: FileStamp
    head: bytes


class PlainDirectory(NamedTuple):
    """A directory as it was when it was read.

    Args:
        where: The path that it was read by.
        folder: That path with links resolved.
        names: All files in it but hidden ones, sorted.
        files: Those of the weights, sorted by name.
        heads: What their heads say.
        shard_index: The index, where there is one.
    """

    where: str
    folder: Path
    names: tuple[str, ...]
    files: tuple[ReadFile, ...]
    heads: tuple[Head, ...]
    shard_index: ReadFile | None

    @property
    def specs(self) -> dict[str, TensorSpec]:
        """Specs of all tensors."""
        return {key: spec for head in self.heads for key, spec in head.specs.items()}

    def is_unchanged(self) -> bool:
        """Tell whether each file is still what it was when it was read."""
        files = (*self.files, self.shard_index) if self.shard_index is not None else self.files
        try:
            return all(stamp_of(os.lstat(file.path)) == file.stamp for file in files)
        except OSError:
            return False

    def tensors(self) -> dict[str, torch.Tensor] | None:
        """Return all tensors over private maps of the files, as a checkpoint has them; None where one is not aligned.

        Raises:
            OSError: As the system says.
        """
        from weighbridge.storage.formats.torch_tensors import is_aligned, map_file, tensor_over

        found: dict[str, torch.Tensor] = {}
        for file, head in zip(self.files, self.heads, strict=True):
            descriptor = _open(file.path)
            try:
                if stamp_of(os.fstat(descriptor)) != file.stamp:
                    return None
                mapped = map_file(descriptor, file.stamp.size_bytes)
            finally:
                os.close(descriptor)
            for key, offset, size_bytes in head.tensors:
                if not is_aligned(offset, head.specs[key]):
                    return None
                found[key] = tensor_over(mapped if size_bytes else bytearray(), offset, head.specs[key])
        return found

    def opened(self) -> SafetensorsCheckpoint:
        """Return the checkpoint that `open_checkpoint` would have returned when this was read."""
        from weighbridge.base.file_names import RECEIPT_NAME
        from weighbridge.storage.formats.safetensors_files import assemble
        from weighbridge.storage.places.directory import Extra
        from weighbridge.storage.places.extras import left_aside, may_go
        from weighbridge.storage.places.regular_files import SourceFile

        own = {
            RECEIPT_NAME,
            *(file.name for file in self.files),
            self.shard_index.name if self.shard_index is not None else "",
        }
        beside = [name for name in self.names if name not in own]
        extras = tuple(Extra(name, self.folder / name) for name in beside if may_go(name))
        notes = left_aside([name for name in beside if not may_go(name)])
        files = [SourceFile(*file) for file in self.files]
        index = None if self.shard_index is None else SourceFile(*self.shard_index)
        return assemble(self.where, files, self.heads, index, extras, notes)


def list_plain_names(directory: str | os.PathLike[str]) -> tuple[str, ...] | None:
    """Return the names in a directory that holds one model's weights, and small files beside them; None for others.

    Links, sub-directories, hidden metadata and any file that might hold weights of another kind make it another one.
    """
    try:
        with os.scandir(directory) as found:
            entries = sorted(found, key=lambda entry: entry.name)
            shown = [entry for entry in entries if not entry.name.startswith(".")]
            if ".metadata" in [entry.name for entry in entries] or not all(map(_is_plain, shown)):
                return None
    except OSError:
        return None
    names = tuple(entry.name for entry in shown)
    weights = [name for name in names if name.endswith(".safetensors")]
    others = [name for name in names if name not in weights and name != INDEX]
    is_one = INDEX in names or weights == [WEIGHTS]
    is_clear = all(Path(name).suffix in _BESIDE and not name.endswith(".index.json") for name in others)
    return names if is_one and is_clear and not (INDEX in names and WEIGHTS in weights) else None


def _is_plain(entry: os.DirEntry[str]) -> bool:
    """Tell whether an entry is a file, and no link, with a name that means the same everywhere."""
    name = entry.name
    return entry.is_file(follow_symlinks=False) and name.isascii() and name.isprintable() and "\\" not in name


def read_plain_directory(directory: str | os.PathLike[str]) -> PlainDirectory | None:
    """Read the heads of all files, and check them as `open_checkpoint` does; None for anything but the plainest.

    Args:
        directory: Its path.
    """
    names = list_plain_names(directory)
    try:
        return None if names is None else _read(directory, names)
    except (OSError, WeighbridgeError):
        return None


def _read(directory: str | os.PathLike[str], names: tuple[str, ...]) -> PlainDirectory | None:
    folder = Path(os.path.realpath(directory))
    files = [_read_file(folder, name) for name in names if name.endswith(".safetensors")]
    heads = [parse_head(file.head, file.stamp.size_bytes, str(file.path)) for file in files]
    if any(head.metadata not in ({}, _LIBRARY_FORMAT) for head in heads):
        return None
    index = _read_file(folder, INDEX) if INDEX in names else None
    if index is not None:
        weight_map = parse_index(index.head, str(index.path))
        specs: Mapping[str, Sequence[str]] = {file.name: [*head.specs] for file, head in zip(files, heads, strict=True)}
        if set(weight_map.values()) != set(specs):
            return None
        check_shards(weight_map, specs, str(index.path))
    return PlainDirectory(str(Path(directory)), folder, names, tuple(files), tuple(heads), index)


def _read_file(folder: Path, name: str) -> ReadFile:
    path = folder / name
    descriptor = _open(path)
    try:
        stamp = stamp_of(os.fstat(descriptor))
        if name == INDEX:
            size_bytes = min(stamp.size_bytes, MAX_INDEX_BYTES)
        else:
            length = check_length(os.pread(descriptor, LENGTH_BYTES, 0), stamp.size_bytes, str(path))
            size_bytes = LENGTH_BYTES + length
        return ReadFile(name, path, stamp, os.pread(descriptor, size_bytes, 0))
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    """Open a regular file that is no link, without waiting for anything.

    Raises:
        OSError: As the system says, and for anything else.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is no regular file")
    return descriptor
