"""A checkpoint of one or several safetensors files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, overload
from weakref import WeakValueDictionary

from weighbridge.base.errors import CheckpointError
from weighbridge.base.file_sets import FileImage
from weighbridge.base.json_text import join_keys, shorten
from weighbridge.base.process.machines import check_byte_order
from weighbridge.base.specs import Header, Placed, TensorSpec
from weighbridge.storage.formats.opened import Opened
from weighbridge.storage.formats.safetensors_header import LENGTH_BYTES, Head, check_length, parse_head
from weighbridge.storage.formats.shard_index import WeightMap, check_shards
from weighbridge.storage.lookup import check_range, not_found
from weighbridge.storage.places.directory import Extra
from weighbridge.storage.places.file_fingerprints import AnySource
from weighbridge.storage.places.paths import resolve_inside
from weighbridge.storage.places.rank_pieces import check_whole, without_pieces
from weighbridge.storage.places.regular_files import (
    OpenFiles,
    SourceFile,
    open_regular,
    read_prefix,
    reporting_read_errors,
)
from weighbridge.storage.places.stamps import FileStamp
from weighbridge.storage.protocol import Extent, IndexText
from weighbridge.storage.remote.folders import RemoteFolder, read_together
from weighbridge.storage.remote.remote_files import Location, RemoteFile, RemoteSource

if TYPE_CHECKING:
    import torch

    from weighbridge.storage.formats.torch_tensors import FileMap
    from weighbridge.storage.places.scatter import Span

_Place = tuple[Location, Placed]
"""A file and a tensor's place in it."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SafetensorsCheckpoint(Opened):
    """A checkpoint of one or several safetensors files.

    `read` never touches mapped memory. `tensor` maps the file: if somebody cuts it short while a tensor from it is in
    use, the process ends with a bus error, as with any memory map.

    Args:
        places: Where each tensor lies.
        open_files: Reads the files.
        maps: The maps of files that tensors still lie in.
    """

    places: Mapping[str, _Place]
    open_files: OpenFiles
    maps: WeakValueDictionary[Path, FileMap]

    def extent(self, key: str) -> Extent:
        """Locate a tensor's bytes.

        Raises:
            CheckpointError: `tensor-not-found`.
        """
        try:
            path, (_, offset, size_bytes) = self.places[key]
        except KeyError:
            raise not_found(key, self.places, self.where) from None
        return Extent(path, offset, size_bytes)

    def tensor(self, key: str) -> torch.Tensor:
        """Return a tensor over a private map of its file: a view, or a copy where the file does not align it.

        One of a file that lies elsewhere is in memory of its own.

        Raises:
            CheckpointError: `tensor-not-found`, `source-changed`, `file-truncated`, `read-failed`.
        """
        from weighbridge.storage.formats.torch_tensors import tensor_over

        check_byte_order()
        path, offset, size_bytes = self.extent(key)
        if self.is_past_cache or not size_bytes or isinstance(path, RemoteFile):
            own = bytearray(size_bytes)
            self.open_files.read(path, offset, memoryview(own))
            return tensor_over(own, 0, self.header[key])
        return tensor_over(self._map(path), offset, self.header[key])

    def _map(self, path: Path) -> FileMap:
        mapped = self.maps.get(path)
        if mapped is None:
            mapped = self.maps[path] = _map_file(self.open_files, path)
        return mapped

    def read(self, key: str, start_byte: int, buffer: memoryview) -> None:
        """Fill the whole buffer with the tensor's bytes from `start_byte` on.

        Raises:
            CheckpointError: `tensor-not-found`, `tensor-bounds`, `source-changed`, `file-truncated`, `read-failed`.
        """
        check_byte_order()
        path, offset, size_bytes = self.extent(key)
        check_range(key, size_bytes, start_byte, buffer.nbytes, self.where)
        self.open_files.read(path, offset + start_byte, buffer)

    def collect(self, key: str, places: Iterable[tuple[int, int]], buffer: memoryview) -> None:
        """Fill the whole buffer from several places of a tensor, each a start and a size in bytes.

        Raises:
            CheckpointError: As `read`.
        """
        path, offset, size_bytes = self.extent(key)
        listed = [(offset + start, length) for start, length in places]
        low, high = min(listed)[0], max(map(sum, listed))
        check_range(key, size_bytes, low - offset, high - low, self.where)
        self.open_files.collect(path, listed, buffer)

    def scatter(self, key: str, start_byte: int, spans: Sequence[Span]) -> None:
        """Fill pieces of memory with the file's bytes from `start_byte` of a tensor on.

        Raises:
            CheckpointError: `tensor-not-found`, `source-changed`, `file-truncated`, `read-failed`.
        """
        path, offset, _ = self.extent(key)
        self.open_files.scatter(path, offset + start_byte, spans)

    def past_cache(self) -> SafetensorsCheckpoint:
        """Return the same checkpoint, read past the page cache."""
        return replace(self, open_files=OpenFiles(_stamps(self.opened), direct=True), is_past_cache=True)

    def mapped(self) -> FileMaps:
        """Return maps of the files that nobody else shares."""
        return FileMaps(self)


class FileMaps:
    """Private maps of a checkpoint's files, made when a tensor of a file is first asked for.

    Args:
        checkpoint: The checkpoint.
    """

    def __init__(self, checkpoint: SafetensorsCheckpoint) -> None:
        self.checkpoint = checkpoint
        self._maps: dict[Path, FileMap] = {}

    def tensor(self, key: str) -> torch.Tensor | None:
        """Return a tensor over a map of its file; None where the file does not align it.

        Raises:
            CheckpointError: `tensor-not-found`, `source-changed`, `read-failed`.
        """
        from weighbridge.storage.formats.torch_tensors import is_aligned, tensor_over

        path, offset, size_bytes = self.checkpoint.extent(key)
        spec = self.checkpoint.header[key]
        if self.checkpoint.is_past_cache or isinstance(path, RemoteFile) or not is_aligned(offset, spec):
            return None
        if size_bytes == 0:
            return tensor_over(bytearray(), 0, spec)
        if path not in self._maps:
            self._maps[path] = _map_file(self.checkpoint.open_files, path)
        return tensor_over(self._maps[path], offset, spec)


def _map_file(open_files: OpenFiles, path: Path) -> FileMap:
    from weighbridge.storage.formats.torch_tensors import map_file

    held = open_files.hold_unchanged(path)
    with reporting_read_errors(str(path)):
        return map_file(held.number, held.stamp.size_bytes)


def open_safetensors_file(path: Path) -> SafetensorsCheckpoint:
    """Open one safetensors file; nothing around it is looked at.

    Raises:
        CheckpointError: `checkpoint-partial` for one rank's piece, and what `read_head` raises.
    """
    file, head = _read_whole(path.name, path.resolve())
    return assemble(str(path), [file], [head])


def open_safetensors_set(
    directory: Path, names: Sequence[str], *, extras: tuple[Extra, ...] = (), notes: tuple[str, ...] = ()
) -> SafetensorsCheckpoint:
    """Open safetensors files that lie in one directory without an index.

    Raises:
        CheckpointError: `checkpoint-ambiguous` if two files share a key, `path-unsafe`, and what
            `open_safetensors_file` raises.
    """
    opened = [_read_whole(name, resolve_inside(directory, name)) for name in sorted(names)]
    _check_disjoint(opened, str(directory))
    return assemble(str(directory), [file for file, _ in opened], [head for _, head in opened], None, extras, notes)


def open_safetensors_index(
    directory: Path,
    index: SourceFile,
    weight_map: WeightMap,
    *,
    where: str,
    extras: tuple[Extra, ...] = (),
    notes: tuple[str, ...] = (),
) -> SafetensorsCheckpoint:
    """Open the safetensors files that an index names.

    Raises:
        CheckpointError: `index-mismatch`, `path-unsafe`, and what `open_safetensors_file` raises.
    """
    opened = [_read_whole(name, path) for name, path in find_shards(directory, weight_map, index.name)]
    check_shards(weight_map, {file.name: head.specs for file, head in opened}, f"{directory / index.name}")
    files, heads = [file for file, _ in opened], [head for _, head in opened]
    return assemble(where, files, heads, index, extras, notes)


def open_elsewhere(
    folder: RemoteFolder,
    names: Sequence[str],
    weight_map: WeightMap | None,
    *,
    where: str,
    index: AnySource | None = None,
    extras: tuple[Extra, ...] = (),
    notes: tuple[str, ...] = (),
) -> SafetensorsCheckpoint:
    """Open safetensors files of a folder that lies elsewhere: all headers at once.

    Args:
        folder: The folder.
        names: The files.
        weight_map: What the index says of them; None where there is none.
        where: What to call the checkpoint.
        index: The index.
        extras: Files beside the weights.
        notes: What was left aside.

    Raises:
        CheckpointError: `index-mismatch` where one is not there, `checkpoint-ambiguous` if two files share a key, and
            what `open_safetensors_file` raises.
    """
    folder.look_for(names)
    names = sorted(names)
    found = [folder.find(name) for name in names]
    missing = [name for name, file in zip(names, found, strict=True) if file is None]
    if missing:
        hint = "look whether all files of the checkpoint have arrived there"
        where, got = f"{folder.where}", f"no file {join_keys(missing)}"
        raise CheckpointError("index-mismatch", "a shard is missing", where=where, got=got, hint=hint)
    opened = read_together([partial(_read_whole, name, file) for name, file in zip(names, found, strict=True) if file])
    if weight_map is not None and index is not None:
        check_shards(weight_map, {file.name: head.specs for file, head in opened}, f"{folder.where}/{index.name}")
    else:
        _check_disjoint(opened, where)
    return assemble(where, [file for file, _ in opened], [head for _, head in opened], index, extras, notes)


@overload
def read_head(name: str, path: Path) -> tuple[SourceFile, Head]: ...
@overload
def read_head(name: str, path: Location) -> tuple[AnySource, Head]: ...
def read_head(name: str, path: Location) -> tuple[AnySource, Head]:
    """Read and check the head of a safetensors file; its tensor data is not touched.

    Args:
        name: What to call the file: its path relative to the checkpoint's directory.
        path: The file, here or elsewhere.

    Raises:
        CheckpointError: `file-truncated`, `header-too-large`, `header-invalid`, `header-duplicate-key`,
            `name-too-long`, `dtype-unknown`, `tensor-bounds`, `checkpoint-not-found`, `read-failed`; and as
            `RemoteFile.pieces` for a file elsewhere.
    """
    source = _read_elsewhere(name, path) if isinstance(path, RemoteFile) else _read_here(name, path)
    try:
        return source, parse_head(source.head, source.size_bytes, str(path))
    except CheckpointError as problem:
        raise problem.with_context(
            hint="fetch the file again, or write it anew with the library that made it"
        ) from None


def _read_elsewhere(name: str, file: RemoteFile) -> RemoteSource:
    """Read the first bytes, which normally hold the whole header, and the rest of it where they do not."""
    head = file.first_bytes()
    stop = LENGTH_BYTES + check_length(head[:LENGTH_BYTES], file.size_bytes, str(file))
    if len(head) < stop:
        head += b"".join(file.pieces(len(head), stop - len(head)))
    return RemoteSource(name, file, head[:stop])


def _read_here(name: str, path: Path) -> SourceFile:
    descriptor, stamp = open_regular(path, is_resolved=True)
    try:
        with reporting_read_errors(str(path)):
            prefix = read_prefix(descriptor, min(LENGTH_BYTES, stamp.size_bytes))
            length = check_length(prefix, stamp.size_bytes, str(path))
            head = read_prefix(descriptor, LENGTH_BYTES + length)
    finally:
        os.close(descriptor)
    return SourceFile(name, path, stamp, head)


def _read_whole(name: str, path: Location) -> tuple[AnySource, Head]:
    file, head = read_head(name, path)
    check_whole(name, head.metadata, str(path))
    return file, head


def find_shards(directory: Path, weight_map: WeightMap, index_name: str) -> list[tuple[str, Path]]:
    """Resolve the files that an index names, sorted by name.

    Raises:
        CheckpointError: `index-mismatch` if one is not there, `path-unsafe`.
    """
    shards = []
    for name in sorted(set(weight_map.values())):
        try:
            shards.append((name, resolve_inside(directory, name)))
        except CheckpointError as error:
            if error.code != "checkpoint-not-found":
                raise
            hint = "fetch the checkpoint again; a shard did not arrive"
            where, got = f"{directory / index_name}", f"no file {shorten(name)}"
            raise CheckpointError("index-mismatch", "a shard is missing", where=where, got=got, hint=hint) from None
    return shards


def _check_disjoint(opened: Sequence[tuple[AnySource, Head]], where: str) -> None:
    for number, (file, head) in enumerate(opened):
        for other, other_head in opened[:number]:
            shared = head.specs.keys() & other_head.specs.keys()
            if shared:
                got = f"{other.name} and {file.name} both hold {join_keys(shared)}"
                hint = "open the file that is meant"
                raise CheckpointError(
                    "checkpoint-ambiguous", "two files hold the same key", where=where, got=got, hint=hint
                )


def assemble(
    where: str,
    files: Sequence[AnySource],
    heads: Sequence[Head],
    index: AnySource | None = None,
    extras: tuple[Extra, ...] = (),
    notes: tuple[str, ...] = (),
) -> SafetensorsCheckpoint:
    """Make one checkpoint of files whose heads were read and checked.

    Args:
        where: What to call it.
        files: The files, sorted by name.
        heads: What the head of each says.
        index: The index, where there is one.
        extras: Files beside the weights.
        notes: What was left aside.
    """
    specs: dict[str, TensorSpec] = {}
    places: dict[str, _Place] = {}
    for file, head in zip(files, heads, strict=True):
        specs.update(head.specs)
        places.update(zip(map(itemgetter(0), head.tensors), zip(repeat(file.path), head.tensors), strict=False))
    images = (
        FileImage(file.name, file.size_bytes, file.head, head.tensors) for file, head in zip(files, heads, strict=True)
    )
    return SafetensorsCheckpoint(
        where=where,
        header=Header(specs, without_pieces(heads[0].metadata)),
        images=tuple(images),
        opened=(*files, index) if index else tuple(files),
        places=places,
        open_files=OpenFiles(_stamps(files)),
        maps=WeakValueDictionary(),
        index=IndexText(index.name, index.head) if index else None,
        extras=extras,
        notes=notes,
    )


def _stamps(files: Iterable[AnySource]) -> dict[Path, FileStamp]:
    """Return what each file on this disk must still be when it is read."""
    return {file.path: file.stamp for file in files if isinstance(file, SourceFile)}
