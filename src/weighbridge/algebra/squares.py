"""Cut a transpose into squares: parts whose runs are about as long in the source as in the target."""

from __future__ import annotations

from collections.abc import Iterator
from math import isqrt
from typing import NamedTuple

from weighbridge.algebra.copies import Copy, pick


class Square(NamedTuple):
    """A part of a transpose: rows of the source, each one run, become rows of the target.

    Args:
        source_start: The first element that is read.
        target_start: The first element that is written.
        columns: Elements that are read of each row; so many rows are written.
        rows: Rows that are read; so many elements are written of each row.
        source_stride: Elements from one row of the source to the next.
        target_stride: Elements from one row of the target to the next.
    """

    source_start: int
    target_start: int
    columns: int
    rows: int
    source_stride: int
    target_stride: int

    @property
    def numel(self) -> int:
        """Number of elements."""
        return self.columns * self.rows


def is_transpose(copy: Copy) -> bool:
    """Tell whether a copy has runs in the source along one axis, and in the target along another one.

    Examples:
        >>> from weighbridge.algebra.copies import Loop
        >>> is_transpose(Copy(0, 0, 0, (Loop(3, 1, 5), Loop(5, 3, 1)))), is_transpose(Copy(0, 0, 0, (Loop(4, 1, 1),)))
        (True, False)
    """
    read, written = _axes(copy)
    return read is not None and written is not None and read != written


def _axes(copy: Copy) -> tuple[int | None, int | None]:
    read = next((number for number, loop in enumerate(copy.loops) if loop.source_stride == 1), None)
    return read, next((number for number, loop in enumerate(copy.loops) if loop.target_stride == 1), None)


def squares(copy: Copy, numel: int) -> Iterator[Square]:
    """Cut a transpose into squares of at most `numel` elements, in the order of the source's rows.

    Args:
        copy: A copy of which `is_transpose` holds.
        numel: The most elements of one, at least 1.

    Examples:
        >>> from weighbridge.algebra.copies import Loop
        >>> [(part.rows, part.columns) for part in squares(Copy(0, 0, 0, (Loop(3, 1, 5), Loop(5, 3, 1))), 4)]
        [(2, 2), (2, 1), (2, 2), (2, 1), (1, 2), (1, 1)]
    """
    read, written = _axes(copy)
    assert read is not None
    assert written is not None
    other = next((number for number in range(len(copy.loops)) if number not in (read, written)), None)
    if other is not None:
        for index in range(copy.loops[other].size):
            yield from squares(pick(copy, other, index, index + 1), numel)
        return
    across, along = copy.loops[read], copy.loops[written]
    columns = min(across.size, isqrt(numel))
    rows = min(along.size, numel // columns)
    columns = min(across.size, numel // rows)
    for row in range(0, along.size, rows):
        for column in range(0, across.size, columns):
            yield Square(
                copy.source_start + row * along.source_stride + column,
                copy.target_start + row + column * across.target_stride,
                min(columns, across.size - column),
                min(rows, along.size - row),
                along.source_stride,
                across.target_stride,
            )
