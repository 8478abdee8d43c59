"""Cut a transpose into squares: parts whose runs are about as long in the source as in the target."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from math import isqrt
from typing import Final, NamedTuple

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


class Pages(NamedTuple):
    """Where the pages of a file begin that a target lies in.

    Args:
        numel: Elements of a page.
        first: Elements of the target before the first page that begins in it.
    """

    numel: int = 1
    first: int = 0


NO_PAGES: Final = Pages()
"""It does not matter where squares end."""


def stripes(copy: Copy, numel: int, longest: int, pages: Pages = NO_PAGES) -> Iterator[Iterator[Square]]:
    """Cut a transpose into squares of at most `numel` elements, in the order of the target's rows.

    Args:
        copy: A copy of which `is_transpose` holds.
        numel: The most elements of one, at least 1.
        longest: The most rows of one, at least 1.
        pages: Where squares had better end in the target's rows, if they are long enough for that.

    Yields:
        The squares that become rows of the target together, all along these rows.

    Examples:
        >>> from weighbridge.algebra.copies import Loop
        >>> turn = Copy(0, 0, 0, (Loop(3, 1, 5), Loop(5, 3, 1)))
        >>> [[(part.rows, part.columns) for part in stripe] for stripe in stripes(turn, 4, 4)]
        [[(2, 2), (2, 2), (1, 2)], [(2, 1), (2, 1), (1, 1)]]
    """
    read, written = _axes(copy)
    assert read is not None
    assert written is not None
    other = next((number for number in range(len(copy.loops)) if number not in (read, written)), None)
    if other is not None:
        for index in range(copy.loops[other].size):
            yield from stripes(pick(copy, other, index, index + 1), numel, longest, pages)
        return
    across, along = copy.loops[read], copy.loops[written]
    most = min(along.size, longest, numel)
    rows = min(most, numel // min(across.size, isqrt(numel)))
    if across.target_stride % pages.numel or not pages.numel <= rows < along.size:
        pages = NO_PAGES
    longer = rows + -rows % pages.numel
    rows = longer if longer <= most else rows - rows % pages.numel
    columns = min(across.size, numel // rows)
    ends = [*range(_first_end(copy, rows, pages), along.size, rows), along.size]
    for column in range(0, across.size, columns):
        width = min(columns, across.size - column)
        yield (
            Square(
                copy.source_start + row * along.source_stride + column,
                copy.target_start + row + column * across.target_stride,
                width,
                end - row,
                along.source_stride,
                across.target_stride,
            )
            for row, end in pairwise([0, *ends])
        )


def _first_end(copy: Copy, rows: int, pages: Pages) -> int:
    """Return where the first square ends in its rows: at the last beginning of a page, if there is one."""
    first = (pages.first - copy.target_start) % pages.numel
    return rows - (rows - first) % pages.numel if first < rows else rows
