"""A directory of torch.distributed.checkpoint, which the ranks of a training wrote together.

    .metadata                                   which tensors there are, and where their chunks lie
    __0_0.distcp, __0_1.distcp, __1_0.distcp    items, one after the other: chunks, and objects that are no tensors

Any number of ranks wrote it, and any number may read it: a tensor opens as the whole that it is. The metadata is read,
and of each chunk that is asked for the little that says where its bytes lie.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from shlex import quote
from typing import NamedTuple

from weighbridge.base.errors import CheckpointError
from weighbridge.base.process.collecting import without_collection
from weighbridge.base.specs import MAX_AXES, Header, TensorSpec, check_keys, dtype_named
from weighbridge.storage.formats.torch_archives import item_bytes
from weighbridge.storage.places.extras import find_extras
from weighbridge.storage.places.paths import resolve_inside
from weighbridge.storage.places.regular_files import OpenFiles, SourceFile, read_small_file, sample_file
from weighbridge.storage.sharded.boxes import Box
from weighbridge.storage.sharded.chunked import Chunk, ChunkedCheckpoint, Whole, check_chunks
from weighbridge.storage.sharded.dcp_entries import EVERYTHING, select
from weighbridge.storage.sharded.dcp_items import Items
from weighbridge.storage.sharded.dcp_metadata import (
    MAX_METADATA_BYTES,
    Described,
    Item,
    Tensor,
    read_metadata,
)
from weighbridge.storage.sharded.dcp_names import METADATA_NAME
from weighbridge.storage.sharded.dcp_objects import OBJECTS_NAME, keep_objects


@without_collection()
def open_dcp(directory: Path, entry: str | None = None) -> ChunkedCheckpoint:
    """Open a directory of torch.distributed.checkpoint.

    Args:
        directory: The directory.
        entry: Which of the dicts that were saved is meant; see `dcp_entries.select`.

    Raises:
        CheckpointError: `dcp-unsafe` for metadata, or an item, that names code; `dcp-unsupported` for items that are
            compressed, or that an extension has changed; `dcp-invalid` for damaged ones, and for chunks that do not
            hold each element of a tensor once; `checkpoint-ambiguous`, `checkpoint-not-found`, `file-truncated`,
            `path-unsafe`, `dtype-unknown`, `source-changed`, `read-failed`.
    """
    path = resolve_inside(directory, METADATA_NAME)
    raw, stamp = read_small_file(path, MAX_METADATA_BYTES, is_resolved=True)
    try:
        described = read_metadata(raw)
        names, notes = select(described, entry)
    except CheckpointError as problem:
        if problem.code == "checkpoint-ambiguous" and problem.hint:
            problem.hint = f"name the one that is meant: {quote(f'{directory}::{problem.hint}')}"
        raise problem.with_context(where=str(path)) from None
    chosen = {key: described.tensors[name] for key, name in names.items()}
    check_keys(chosen, str(directory))
    objects = described.objects.values() if entry == EVERYTHING else ()
    files = _open_files(directory, described, chosen.values(), objects)
    opened = OpenFiles({file.path: file.stamp for file in files}, is_passing=True)
    reader = _Reader({file.name: file for file in files}, opened, Items())
    tensors, specs = {}, {}
    for key, tensor in chosen.items():
        where = f"{directory}: {names[key]}"
        try:
            specs[key] = _spec_of(tensor)
            tensors[key] = reader.read(tensor, where)
        except CheckpointError as problem:
            raise problem.with_context(where=where) from None
    extras, left = find_extras(directory, (METADATA_NAME, *(item.name for item in _items(described))))
    if entry == EVERYTHING:
        kept, said = keep_objects(described.objects, reader.content, path)
        extras, left = (*(each for each in extras if each.name != OBJECTS_NAME), *kept), (*said, *left)
    return ChunkedCheckpoint(
        where=str(directory),
        header=Header(specs),
        opened=(*files, SourceFile(METADATA_NAME, path, stamp, raw)),
        extras=extras,
        notes=(*notes, *left),
        tensors=tensors,
        open_files=OpenFiles({file.path: file.stamp for file in files}),
    )


def _items(described: Described) -> Iterable[Item]:
    yield from described.objects.values()
    for tensor in described.tensors.values():
        yield from (item for _, item in tensor.chunks)


def _open_files(
    directory: Path, described: Described, tensors: Iterable[Tensor], objects: Iterable[Item]
) -> list[SourceFile]:
    """Open the files that chunks and objects lie in, and check that the others are there."""
    used = {item.name for tensor in tensors for _, item in tensor.chunks} | {item.name for item in objects}
    files = []
    for name in sorted({item.name for item in _items(described)}):
        try:
            path = resolve_inside(directory, name)
        except CheckpointError as problem:
            if problem.code != "checkpoint-not-found":
                raise
            got, hint = f"no file {name}", "fetch the checkpoint again; the file of a rank did not arrive"
            what = "a file that the metadata names is missing"
            raise CheckpointError("dcp-invalid", what, where=str(directory), got=got, hint=hint) from None
        if name in used:
            files.append(sample_file(name, path))
    return files


def _spec_of(tensor: Tensor) -> TensorSpec:
    """Return a tensor's spec: two elements of float4 are one of torch's."""
    code = dtype_named(tensor.dtype).code
    if len(tensor.shape) > MAX_AXES or prod([max(1, size) for size in tensor.shape]) >= 2**59:
        raise CheckpointError("tensor-bounds", "the shape is too large", expected="less than 2**63 bits")
    if code != "F4":
        return TensorSpec(code, tensor.shape)
    if not tensor.shape:
        raise CheckpointError("dtype-unknown", "a float4 tensor has no axis", expected="at least one axis")
    return TensorSpec(code, (*tensor.shape[:-1], tensor.shape[-1] * 2))


class _Reader(NamedTuple):
    """Finds chunks in files."""

    files: Mapping[str, SourceFile]
    open_files: OpenFiles
    items: Items

    def read(self, tensor: Tensor, where: str) -> Whole:
        """Find all chunks of a tensor, and check that they are it."""
        chunks = tuple(self._find(box, item, tensor.dtype) for box, item in tensor.chunks)
        whole = Whole(tensor.shape, item_bytes(tensor.dtype), chunks)
        check_chunks(whole, where)
        return whole

    def content(self, item: Item) -> bytes:
        """Read a whole item."""
        buffer = bytearray(item.size_bytes)
        self.open_files.read(self.files[item.name].path, item.offset, memoryview(buffer))
        return bytes(buffer)

    def _find(self, box: Box, item: Item, dtype: str) -> Chunk:
        file = self.files[item.name]
        try:
            if item.offset + item.size_bytes > file.stamp.size_bytes:
                expected, got = f"{item.size_bytes:,} bytes", f"a file of {file.stamp.size_bytes:,}"
                raise CheckpointError("file-truncated", "the file ends before its items do", expected=expected, got=got)
            number = self.open_files.hold(file.path).number
            stored, offset = self.items.find(number, item.offset, item.size_bytes, (dtype, box.sizes))
            if (stored.dtype, stored.shape) != (dtype, box.sizes):
                expected, got = f"{dtype} {list(box.sizes)}", f"{stored.dtype} {list(stored.shape)}"
                what = "an item is not the chunk that the metadata says it is"
                raise CheckpointError("dcp-invalid", what, expected=expected, got=got)
        except CheckpointError as problem:
            raise problem.with_context(where=f"{file.path}, from byte {item.offset:,} on") from None
        return Chunk(box, file.path, offset, stored.strides)
