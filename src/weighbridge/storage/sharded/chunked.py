"""A checkpoint whose tensors lie in chunks: each opens as the whole that it is, and is read from where its chunks lie.

What is asked for is an interval of a tensor's bytes. It falls into a few boxes, and what a chunk has of a box goes
straight to its place where it is one run on both sides; else through a section, from which it is copied by strides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from weighbridge.base.errors import CheckpointError
from weighbridge.base.process.machines import check_byte_order
from weighbridge.base.specs import Shape
from weighbridge.storage.formats.opened import Opened
from weighbridge.storage.lookup import check_range, not_found
from weighbridge.storage.outputs.pickle_text import row_major_strides
from weighbridge.storage.places.regular_files import OpenFiles
from weighbridge.storage.protocol import Extent
from weighbridge.storage.sharded.boxes import Box, boxes_between, find_fault, flat_of

if TYPE_CHECKING:
    import torch

SECTION_BYTES: Final = 2**20
"""The most of a chunk that is read at once if it does not go straight to its place."""


class Chunk(NamedTuple):
    """One of the pieces that a tensor is stored in.

    Args:
        box: Which elements it holds.
        path: The file, with links resolved.
        offset: Where its first element lies in the file, in bytes.
        strides: Its strides there, in elements.
    """

    box: Box
    path: Path
    offset: int
    strides: Shape


class Whole(NamedTuple):
    """A tensor that lies in chunks.

    Args:
        shape: Its shape, as torch has it: two elements of float4 are one.
        itemsize: Bytes of an element.
        chunks: Its chunks, none of them empty.
    """

    shape: Shape
    itemsize: int
    chunks: tuple[Chunk, ...]

    @property
    def size_bytes(self) -> int:
        """Size of all its elements."""
        return prod(self.shape) * self.itemsize

    @property
    def run(self) -> Chunk | None:
        """The one chunk in which it lies as it is, row by row; None where it does not."""
        chunk = self.chunks[0] if len(self.chunks) == 1 else None
        return chunk if chunk is not None and _are_dense(self.shape, chunk.strides) else None

    @property
    def rows(self) -> list[Chunk] | None:
        """The chunks in the order of its rows, if each is some rows of it as they are; None otherwise."""
        if not self.shape or any(
            chunk.box.sizes[1:] != self.shape[1:] or not _are_dense(chunk.box.sizes, chunk.strides)
            for chunk in self.chunks
        ):
            return None
        return sorted(self.chunks, key=lambda chunk: chunk.box.offsets)


def check_chunks(whole: Whole, where: str) -> None:
    """Refuse a tensor whose chunks do not hold each of its elements once.

    Args:
        whole: The tensor.
        where: What to call it.

    Raises:
        CheckpointError: `dcp-invalid`.
    """
    outside = [chunk.box for chunk in whole.chunks if not _is_inside(chunk.box, whole.shape)]
    if outside:
        what, expected = "a chunk lies outside of its tensor", f"a part of {list(whole.shape)}"
        raise CheckpointError("dcp-invalid", what, where=where, expected=expected, got=str(outside[0]))
    fault = find_fault(whole.shape, [chunk.box for chunk in whole.chunks])
    if fault is not None:
        what = "the chunks of a tensor do not hold each of its elements once"
        hint = "check that the files of all ranks are there, and of one save alone"
        got = f"{fault.what}: {fault.box} of {list(whole.shape)}"
        raise CheckpointError("dcp-invalid", what, where=where, got=got, hint=hint)


def _is_inside(box: Box, shape: Shape) -> bool:
    return len(box.sizes) == len(box.offsets) == len(shape) and all(
        stop <= size for stop, size in zip(box.stops, shape, strict=True)
    )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ChunkedCheckpoint(Opened):
    """Tensors that lie in chunks.

    Args:
        tensors: Where the tensors lie, by key.
        open_files: Reads the files.
    """

    tensors: Mapping[str, Whole]
    open_files: OpenFiles

    def _whole(self, key: str) -> Whole:
        try:
            return self.tensors[key]
        except KeyError:
            raise not_found(key, self.header, self.where) from None

    def extent(self, key: str) -> Extent | None:
        """Locate the bytes of a tensor that lies in one chunk as it is; None for all others.

        Raises:
            CheckpointError: `tensor-not-found`.
        """
        whole = self._whole(key)
        chunk = whole.run
        return None if chunk is None else Extent(chunk.path, chunk.offset, whole.size_bytes)

    def pieces(self, key: str, start_byte: int, size_bytes: int) -> list[Extent] | None:
        """Locate bytes of a tensor that lies in chunks of rows, in their order; None for all others.

        Raises:
            CheckpointError: `tensor-not-found`.
        """
        whole = self._whole(key)
        rows = whole.rows
        if rows is None:
            return None
        row_bytes, found = prod(whole.shape[1:]) * whole.itemsize, []
        for chunk in rows:
            first = chunk.box.offsets[0] * row_bytes
            start, stop = max(start_byte, first), min(start_byte + size_bytes, first + chunk.box.sizes[0] * row_bytes)
            if start < stop:
                found.append(Extent(chunk.path, chunk.offset + start - first, stop - start))
        return found

    def is_made(self, key: str) -> bool:
        """Tell whether a tensor lies in several chunks, of which a part is read without the others."""
        return self._whole(key).run is None

    def tensor(self, key: str) -> torch.Tensor:
        """Read a whole tensor into memory of its own.

        Raises:
            CheckpointError: `tensor-not-found`, `source-changed`, `file-truncated`, `read-failed`.
        """
        from weighbridge.storage.formats.torch_tensors import tensor_over

        own = bytearray(self._whole(key).size_bytes)
        self.read(key, 0, memoryview(own))
        return tensor_over(own, 0, self.header[key])

    def read(self, key: str, start_byte: int, buffer: memoryview) -> None:
        """Fill the whole buffer with the tensor's row-major bytes, from `start_byte` on.

        Raises:
            CheckpointError: `tensor-not-found`, `tensor-bounds`, `source-changed`, `file-truncated`, `read-failed`.
        """
        check_byte_order()
        whole = self._whole(key)
        check_range(key, whole.size_bytes, start_byte, buffer.nbytes, self.where)
        with buffer.cast("B") as view:
            run = whole.run
            if run is not None:
                self.open_files.read(run.path, run.offset + start_byte, view)
                return
            start, skipped = divmod(start_byte, whole.itemsize)
            stop = -(-(start_byte + len(view)) // whole.itemsize)
            if not skipped and (stop - start) * whole.itemsize == len(view):
                _fill(whole, start, stop, view, self.open_files)
                return
            elements = memoryview(bytearray((stop - start) * whole.itemsize))
            _fill(whole, start, stop, elements, self.open_files)
            view[:] = elements[skipped : skipped + len(view)]


class _Part(NamedTuple):
    """What a chunk has of a box: where it lies in the chunk and in the buffer, in elements, and how."""

    sizes: Shape
    read_start: int
    read_strides: Shape
    write_start: int
    write_strides: Shape

    @property
    def reach(self) -> int:
        """How many elements of the chunk lie from its first to its last one."""
        return sum([(size - 1) * stride for size, stride in zip(self.sizes, self.read_strides, strict=True)]) + 1

    @property
    def is_run(self) -> bool:
        """Whether it is one run of elements on both sides."""
        return _are_dense(self.sizes, self.read_strides) and _are_dense(self.sizes, self.write_strides)

    def halves(self) -> Iterator[_Part]:
        """Cut it where that brings its elements closest together in the chunk."""
        axis = max(range(len(self.sizes)), key=lambda axis: (self.sizes[axis] > 1, self.read_strides[axis]))
        half = self.sizes[axis] // 2
        for start, size in ((0, half), (half, self.sizes[axis] - half)):
            yield _Part(
                (*self.sizes[:axis], size, *self.sizes[axis + 1 :]),
                self.read_start + start * self.read_strides[axis],
                self.read_strides,
                self.write_start + start * self.write_strides[axis],
                self.write_strides,
            )


def _are_dense(sizes: Sequence[int], strides: Sequence[int]) -> bool:
    """Tell whether elements lie one after the other in row-major order; the stride of an axis of one is no matter."""
    wanted = 1
    for size, stride in zip(reversed(sizes), reversed(strides), strict=True):
        if size != 1 and stride != wanted:
            return False
        wanted *= size
    return True


def _fill(whole: Whole, start: int, stop: int, buffer: memoryview, files: OpenFiles) -> None:
    """Fill a buffer with elements [start, stop) of a tensor's row-major value."""
    strides = row_major_strides(whole.shape)
    for box in boxes_between(whole.shape, start, stop):
        for chunk in whole.chunks:
            shared = chunk.box.shared(box)
            if shared is not None:
                inside = zip(shared.offsets, chunk.box.offsets, chunk.strides, strict=True)
                begin = sum([(at - first) * stride for at, first, stride in inside])
                part = _Part(shared.sizes, begin, chunk.strides, flat_of(shared, whole.shape) - start, strides)
                _fill_part(part, chunk, whole.itemsize, buffer, files)


def _fill_part(part: _Part, chunk: Chunk, itemsize: int, buffer: memoryview, files: OpenFiles) -> None:
    offset = chunk.offset + part.read_start * itemsize
    if part.is_run:
        first = part.write_start * itemsize
        files.read(chunk.path, offset, buffer[first : first + prod(part.sizes) * itemsize])
    elif part.reach * itemsize > SECTION_BYTES:
        for half in part.halves():
            _fill_part(half, chunk, itemsize, buffer, files)
    else:
        section = memoryview(bytearray(part.reach * itemsize))
        files.read(chunk.path, offset, section)
        _spread(part, section, itemsize, buffer)


def _spread(part: _Part, section: memoryview, itemsize: int, buffer: memoryview) -> None:
    """Copy a section's elements to their places in the buffer, bit for bit."""
    import torch

    dtype = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[itemsize]
    source, target = torch.frombuffer(section, dtype=dtype), torch.frombuffer(buffer, dtype=dtype)
    placed = target.as_strided(part.sizes, part.write_strides, part.write_start)
    placed.copy_(source.as_strided(part.sizes, part.read_strides, 0))
