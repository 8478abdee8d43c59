"""Lay out a new directory of torch.distributed.checkpoint: rows of the tensors, each an item of its own.

    __0_0.distcp, __0_1.distcp, ...    items, one after the other: archives of `torch.save`, each with a chunk
    .metadata                          which tensors there are, and where their chunks lie; written last

A chunk is some rows of a tensor, so that a rank of any number of ranks reads little that it does not need. Where all of
it lies is known before a tensor is read, but for the checksums of the chunks: they are put in when the files are
filled. Tensors that are known to be one lie in the same items.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

from weighbridge.base.batches import run_in_batches
from weighbridge.base.file_sets import FileImage
from weighbridge.base.specs import DTYPES, Header, Placed, Shape, TensorSpec
from weighbridge.storage.formats.torch_archives import item_bytes
from weighbridge.storage.outputs.checksums import Checksums
from weighbridge.storage.outputs.file_writer import reporting_write_errors
from weighbridge.storage.outputs.pickle_text import pickle_tensor, row_major_strides
from weighbridge.storage.outputs.torch_image import (
    ALIGNMENT_BYTES,
    FIXED,
    Member,
    begin_archive,
    describe_stored,
    directory_end,
    next_member,
)
from weighbridge.storage.places.regular_files import OpenFiles
from weighbridge.storage.sharded.boxes import Box
from weighbridge.storage.sharded.chunked import Chunk, ChunkedCheckpoint, Whole
from weighbridge.storage.sharded.dcp_metadata import Described, Item, Tensor
from weighbridge.storage.sharded.dcp_names import ITEMS_SUFFIX

CHUNK_BYTES: Final = 32 * 2**20
"""The most that a chunk holds, unless it is a single row."""


class ItemForm(NamedTuple):
    """An archive with one tensor, without the tensor's values: all chunks of one dtype and shape have the same.

    Args:
        head: What stands before the tensor's member.
        entries: What stands in the archive's directory for the members in the head.
        data: The tensor's member.
        dtype: Name of the tensor's dtype in torch.
        shape: Its shape there.
    """

    head: bytes
    entries: bytes
    data: Member
    dtype: str
    shape: Shape

    def end(self, checksum: int) -> bytes:
        """Return what stands behind the tensor's bytes."""
        entries = self.entries + self.data.entry(checksum)
        return entries + directory_end(len(FIXED) + 1, self.data.offset + self.data.size_bytes, len(entries))

    @property
    def size_bytes(self) -> int:
        """Size of the whole archive."""
        return self.data.offset + self.data.size_bytes + len(self.end(0))


@lru_cache(maxsize=4096)
def _form(spec: TensorSpec) -> ItemForm:
    stored = describe_stored("", spec, "0")
    head, entries = begin_archive(pickle_tensor(stored))
    return ItemForm(head, entries, next_member("data/0", len(head), spec.size_bytes), stored.dtype, stored.shape)


class PlacedItem(NamedTuple):
    """A chunk of a new file.

    Args:
        name: What the chunk is called among all chunks.
        start: Its first row; of a tensor without rows, 0.
        item: Where its archive lies.
        form: The archive.
    """

    name: str
    start: int
    item: Item
    form: ItemForm

    @property
    def rows(self) -> int:
        """How many rows it has; of a tensor without rows, 1."""
        return self.form.shape[0] if self.form.shape else 1

    @property
    def box(self) -> Box:
        """Which elements of its tensor it holds."""
        shape = self.form.shape
        return Box((self.start, *(0 for _ in shape[1:])) if shape else (), shape)

    @property
    def offset(self) -> int:
        """Where the tensor's bytes begin in the file."""
        return self.item.offset + self.form.data.offset


@dataclass(frozen=True, slots=True)
class DcpImage:
    """A directory without its tensors' values.

    Args:
        images: The files of items; the key of a place is the name of a chunk.
        chunks: The chunks of each tensor that has some of its own, in the order of its rows.
        described: What there is then, by the tensors' keys.
    """

    images: tuple[FileImage, ...]
    chunks: Mapping[str, tuple[PlacedItem, ...]]
    described: Described

    def complete(self, directory: Path, known: Checksums, *, sync: bool = True) -> None:
        """Write what stands around the chunks of files that are filled, and their first bytes not yet.

        Args:
            directory: Where the files are.
            known: What they were filled through.
            sync: Force them to the disk.

        Raises:
            CheckpointError: `read-failed`, `source-changed`.
            DestinationError: `destination-no-room`, `write-failed`.
        """
        files = OpenFiles({}, is_passing=True)
        placed = [each for chunks in self.chunks.values() for each in chunks]

        def work(each: PlacedItem) -> int:
            name, size_bytes = each.item.name, each.form.data.size_bytes
            return known.of(files, directory / name, name, each.offset, size_bytes)

        checksums = run_in_batches(work, placed, lambda each: each.form.data.size_bytes)
        files.close()
        ends: dict[str, list[tuple[PlacedItem, int]]] = {}
        for each, checksum in zip(placed, checksums, strict=True):
            ends.setdefault(each.item.name, []).append((each, checksum))
        for name, pairs in ends.items():
            _write_around(directory / name, pairs, sync=sync)

    def checkpoint(self, directory: Path, specs: Mapping[str, TensorSpec]) -> ChunkedCheckpoint:
        """Return the files that are filled as a checkpoint, to be read back before anybody else can open them.

        Args:
            directory: Where the files are.
            specs: The tensors that have chunks of their own.
        """
        tensors = {
            key: Whole(
                self.described.tensors[key].shape,
                item_bytes(chunks[0].form.dtype),
                tuple(_chunk(each, directory) for each in chunks if each.box.numel),
            )
            for key, chunks in self.chunks.items()
        }
        files = OpenFiles({}, is_passing=True)
        header = Header({key: specs[key] for key in tensors})
        return ChunkedCheckpoint(where=str(directory), header=header, tensors=tensors, open_files=files)


def _chunk(each: PlacedItem, directory: Path) -> Chunk:
    return Chunk(each.box, directory / each.item.name, each.offset, row_major_strides(each.form.shape))


def _write_around(path: Path, pairs: Sequence[tuple[PlacedItem, int]], *, sync: bool) -> None:
    with reporting_write_errors(str(path)), path.open("r+b") as file:
        for each, checksum in pairs:
            if each.item.offset:
                file.seek(each.item.offset)
                file.write(each.form.head)
            file.seek(each.item.offset + each.form.data.header_offset)
            file.write(each.form.data.header(checksum))
            file.seek(each.offset + each.form.data.size_bytes)
            file.write(each.form.end(checksum))
        file.flush()
        if sync:
            os.fsync(file.fileno())


def lay_out_dcp(specs: Mapping[str, TensorSpec], ties: Mapping[str, str], most_bytes: int | None) -> DcpImage:
    """Lay out a directory that holds some tensors.

    Args:
        specs: The tensors.
        ties: For each key that lies in the items of another, that one's key.
        most_bytes: Largest size of a file, unless it holds a single chunk; None for one file.

    Raises:
        CheckpointError: `dtype-unknown` for a dtype that torch lacks.
    """
    names = [f"__0_0{ITEMS_SUFFIX}"]
    stop, files = 0, {names[0]: list[PlacedItem]()}
    chunks: dict[str, tuple[PlacedItem, ...]] = {}
    for key, spec in specs.items():
        made = []
        for start, part in _rows(key, spec) if key not in ties else ():
            form = _form(part)
            begin = stop + -stop % ALIGNMENT_BYTES
            if most_bytes is not None and begin and begin + form.size_bytes > most_bytes:
                names.append(f"__0_{len(names)}{ITEMS_SUFFIX}")
                files[names[-1]], begin = [], 0
            rows = part.shape[0] if part.shape else 1
            item = Item(names[-1], begin, form.size_bytes)
            made.append(PlacedItem(f"{key}[{start}:{start + rows}]", start, item, form))
            files[names[-1]].append(made[-1])
            stop = begin + form.size_bytes
        if made:
            chunks[key] = tuple(made)
    images = tuple(_image(name, placed) for name, placed in files.items())
    return DcpImage(images, chunks, _describe(specs, ties, chunks))


def _rows(key: str, spec: TensorSpec) -> Iterator[tuple[int, TensorSpec]]:
    """Cut a tensor into rows; one whose elements share bytes is moved whole."""
    describe_stored(key, spec, "0")  # refuses, by the tensor's name, what torch lacks
    if not spec.size_bytes or not spec.shape or DTYPES[spec.dtype].kind == "packed":
        yield 0, spec
        return
    rows = spec.shape[0]
    step = max(1, CHUNK_BYTES // (spec.size_bytes // rows))
    for start in range(0, rows, step):
        yield start, TensorSpec(spec.dtype, (min(step, rows - start), *spec.shape[1:]))


def _image(name: str, placed: Sequence[PlacedItem]) -> FileImage:
    places = tuple(Placed(each.name, each.offset, each.form.data.size_bytes) for each in placed)
    last = placed[-1].item if placed else Item(name, 0, 0)
    head = placed[0].form.head if placed else b""
    return FileImage(name, last.offset + last.size_bytes, head, places)


def _describe(
    specs: Mapping[str, TensorSpec], ties: Mapping[str, str], chunks: Mapping[str, tuple[PlacedItem, ...]]
) -> Described:
    tensors = {}
    for key in specs:
        own = chunks[ties.get(key, key)]
        shape = (own[-1].start + own[-1].rows, *own[0].form.shape[1:]) if own[0].form.shape else ()
        tensors[key] = Tensor(own[0].form.dtype, shape, tuple((each.box, each.item) for each in own))
    return Described(tensors, {}, {})
