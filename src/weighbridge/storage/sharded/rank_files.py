"""Safetensors files that the ranks of a torch.distributed.checkpoint wrote, each its own pieces, opened as one whole.

    shard-00001-model-00001-of-00001.safetensors, shard-00002-model-00001-of-00001.safetensors

`DCP_SHARDING_INFO` in the metadata of each says where its pieces begin in their tensors (torch/distributed/checkpoint/
filesystem.py and hf_storage.py). Nothing says how large a tensor is: it reaches as far as its pieces do. So no file of
a rank may be missing, and that none is missing at the end is taken from the files' numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from weighbridge.base.errors import CheckpointError
from weighbridge.base.json_text import shorten
from weighbridge.base.specs import DTYPES, Header, Shape, TensorSpec
from weighbridge.storage.formats.safetensors_files import read_head
from weighbridge.storage.formats.safetensors_header import Head
from weighbridge.storage.outputs.pickle_text import row_major_strides
from weighbridge.storage.places.extras import find_extras
from weighbridge.storage.places.paths import resolve_inside
from weighbridge.storage.places.rank_pieces import check_ranks, offsets_of, without_pieces
from weighbridge.storage.places.regular_files import OpenFiles, SourceFile
from weighbridge.storage.sharded.boxes import Box
from weighbridge.storage.sharded.chunked import Chunk, ChunkedCheckpoint, Whole, check_chunks


def open_rank_files(directory: Path, names: Sequence[str]) -> ChunkedCheckpoint:
    """Open the files of all ranks.

    Args:
        directory: Where they lie.
        names: Their names.

    Raises:
        CheckpointError: `checkpoint-partial` where files are missing, or do not say where their pieces lie;
            `dcp-invalid` for pieces that do not hold each element of a tensor once; and what `read_head` raises.
    """
    count = check_ranks(names, str(directory))
    opened = [read_head(name, resolve_inside(directory, name)) for name in sorted(names)]
    files = [file for file, _ in opened]
    pieces: dict[str, list[tuple[str, Chunk]]] = {}
    for file, head in opened:
        for key, piece in _pieces_of(file, head).items():
            pieces.setdefault(key, []).append(piece)
    specs, tensors = {}, {}
    for key in sorted(pieces):
        specs[key], tensors[key] = _join(pieces[key], f"{directory}: {key}")
    extras, left = find_extras(directory, names)
    note = f"the files of {count} ranks are read as one; nothing in them says that there were no more"
    return ChunkedCheckpoint(
        where=str(directory),
        header=Header(specs, without_pieces(opened[0][1].metadata)),
        opened=tuple(files),
        extras=extras,
        notes=(note, *left),
        tensors=tensors,
        open_files=OpenFiles({file.path: file.stamp for file in files}),
    )


def _pieces_of(file: SourceFile, head: Head) -> dict[str, tuple[str, Chunk]]:
    """Return the pieces that a file holds, each with its dtype, by the tensors' keys."""
    offsets = offsets_of(head.metadata, str(file.path))
    made = {}
    for key, place, _ in head.tensors:
        spec = head.specs[key]
        if len(offsets.get(key, ())) != len(spec.shape):
            what, got = "a file does not say where its pieces lie", f"nothing that fits {shorten(key)}"
            raise CheckpointError("checkpoint-partial", what, where=str(file.path), got=got)
        chunk = Chunk(Box(offsets[key], spec.shape), file.path, place, row_major_strides(spec.shape))
        made[key] = spec.dtype, chunk
    return made


def _join(pieces: Sequence[tuple[str, Chunk]], where: str) -> tuple[TensorSpec, Whole]:
    """Return the tensor that pieces are of."""
    dtypes, chunks = {dtype for dtype, _ in pieces}, [chunk for _, chunk in pieces]
    axes = {len(chunk.box.sizes) for chunk in chunks}
    if len(dtypes) > 1 or len(axes) > 1:
        got = ", ".join(f"{dtype} {list(chunk.box.sizes)}" for dtype, chunk in pieces[:4])
        raise CheckpointError("dcp-invalid", "these are not pieces of one tensor", where=where, got=got)
    (dtype,) = dtypes
    shape: Shape = tuple(map(max, zip(*(chunk.box.stops for chunk in chunks), strict=True)))
    if DTYPES[dtype].kind == "packed":
        what = "elements smaller than a byte are not put together from pieces"
        raise CheckpointError("dcp-unsupported", what, where=where, got=dtype)
    whole = Whole(shape, DTYPES[dtype].itemsize, tuple(chunk for chunk in chunks if chunk.box.numel))
    check_chunks(whole, where)
    return TensorSpec(dtype, shape), whole
