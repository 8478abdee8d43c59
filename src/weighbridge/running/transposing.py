"""Transpose what is much larger than the budget, square by square.

A window of the target is a few of its rows, and so a few columns of the source: pieces of a few hundred bytes, and each
page of the source is read many times. A square reads longer runs, and writes runs as long. Those end where pages of the
file do: the kernel would write a page twice to the disk that is filled half by one square, and half by a later one. For
the same reason all squares of some rows of the target come before those of the next ones.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from math import isqrt
from typing import TYPE_CHECKING, Final, NamedTuple

from weighbridge.algebra.copies import Copy
from weighbridge.algebra.squares import NO_PAGES, Pages, Square, is_transpose, stripes
from weighbridge.base.specs import DTYPES
from weighbridge.planning.program import Output
from weighbridge.planning.steps import Step
from weighbridge.running.budgets import SHORT_RUN_BYTES
from weighbridge.running.strided import GRAIN, SECTION_BYTES
from weighbridge.storage.protocol import FileReader

if TYPE_CHECKING:
    import torch

    from weighbridge.storage.outputs.sinks import Sink
    from weighbridge.storage.protocol import Checkpoint


PAGE_BYTES: Final = mmap.PAGESIZE


class Room(NamedTuple):
    """What a worker has to transpose in: a square is held once, and some columns of it twice more.

    Args:
        itemsize: Bytes of an element.
        square_numel: The most elements of a square.
        strip_numel: The most elements of the columns that are turned at once.
    """

    itemsize: int
    square_numel: int
    strip_numel: int

    @classmethod
    def within(cls, output: Output, share_bytes: int) -> Room:
        """Divide the most that a worker may hold."""
        itemsize = DTYPES[output.dtype].itemsize
        strip_numel = min(SECTION_BYTES, share_bytes // 4) // itemsize
        return cls(itemsize, share_bytes // itemsize - 2 * strip_numel, strip_numel)

    @property
    def size_bytes(self) -> int:
        """How many bytes that is."""
        return (self.square_numel + 2 * self.strip_numel) * self.itemsize


def is_squared(output: Output, step: Step, checkpoint: Checkpoint, share_bytes: int, window_numel: int) -> bool:
    """Tell whether a tensor is better made square by square than window by window.

    Args:
        output: What is made.
        step: The step that makes it.
        checkpoint: What is read.
        share_bytes: The most that a worker may hold.
        window_numel: How many elements a window would have.
    """
    if not isinstance(checkpoint, FileReader) or output.spec.size_bytes <= share_bytes:
        return False
    room = Room.within(output, share_bytes)
    most = min(isqrt(room.square_numel), room.strip_numel, SHORT_RUN_BYTES // room.itemsize)
    return all(
        is_transpose(copy)
        and copy.source < len(step.sources)
        and step.program.sources[copy.source].dtype == output.dtype
        and window_numel // max(loop.target_stride for loop in copy.loops if loop.source_stride == 1) < most
        for copy in output.layout.copies
    )


def cut_squares(copy: Copy, room: Room, offset: int) -> Iterator[Iterator[Square]]:
    """Cut a transpose into squares, in the order of the target's rows; see `squares.stripes`.

    Args:
        copy: The copy.
        room: What a worker has.
        offset: Where the target begins in the file, in bytes.
    """
    is_aligned = offset % room.itemsize == 0 and PAGE_BYTES % room.itemsize == 0
    pages = Pages(PAGE_BYTES // room.itemsize, -offset // room.itemsize) if is_aligned else NO_PAGES
    return stripes(copy, room.square_numel, room.strip_numel, pages)


def square_places(square: Square, itemsize: int) -> list[tuple[int, int]]:
    """Return where the rows of a square lie in its source, each a start and a size in bytes."""
    starts = (square.source_start + row * square.source_stride for row in range(square.rows))
    return [(start * itemsize, square.columns * itemsize) for start in starts]


def write_square(
    square: Square, key: str, checkpoint: FileReader, buffer: torch.Tensor, room: Room, offset: int, sink: Sink
) -> None:
    """Read a square's rows, transpose them some columns at a time, and write the rows that these become.

    Args:
        square: The square.
        key: The tensor that is read.
        checkpoint: What it is in.
        buffer: As many bytes as the room has.
        room: How they are divided.
        offset: Where the target begins in the file, in bytes.
        sink: The file.
    """
    from weighbridge.storage.formats.torch_tensors import bytes_of

    itemsize = room.itemsize
    elements = buffer.view(_bits_of(itemsize))
    whole, strips = elements[: square.numel], elements[room.square_numel :]
    checkpoint.collect(key, square_places(square, itemsize), bytes_of(whole))
    step = room.strip_numel // square.rows
    for first in range(0, square.columns, step):
        part = whole.view(square.rows, square.columns)[:, first : first + step]
        turned = _turn(part, strips)
        starts = (square.target_start + (first + n) * square.target_stride for n in range(part.shape[1]))
        sink.spread([(offset + start * itemsize, square.rows * itemsize) for start in starts], bytes_of(turned))


def _turn(columns: torch.Tensor, strips: torch.Tensor) -> torch.Tensor:
    """Transpose some columns of a matrix; they are laid side by side first, since torch does only that in blocks."""
    (rows, width), half = columns.shape, len(strips) // 2
    dense, turned = strips[: rows * width].view(rows, width), strips[half : half + rows * width]
    step = max(1, GRAIN // width)
    for start in range(0, rows, step):
        dense[start : start + step].copy_(columns[start : start + step])
    turned.view(width, rows).copy_(dense.t())
    return turned


def _bits_of(itemsize: int) -> torch.dtype:
    """Return a dtype that moves elements of a size bit for bit."""
    import torch

    return {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[itemsize]
