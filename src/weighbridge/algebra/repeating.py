"""Repeat entries: where each entry of a grid becomes several, what was read from the finer grid reads the coarser one.

The entries that one becomes are told apart by their places in it. Each place reads a tensor of its own, the same one
again: so no tensor is read twice at one element, and the way back makes each entry once for each place, all of which
must be equal. At the edge of a grid some places are not there, so that such a tensor is read in part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import ceil
from typing import NamedTuple

from weighbridge.algebra.copies import Copy, Loop, align, fuse, simplify, strides, swapped
from weighbridge.algebra.layout import Layout
from weighbridge.algebra.quotient import Grid


class Repeated(NamedTuple):
    """What reads a coarser grid in the place of a finer one.

    Args:
        slots: For each tensor that is read, the number of its source; those of which all entries are read come first.
        layouts: The values, made of these tensors.
        partial: How many of the last tensors are read in part.
    """

    slots: tuple[int, ...]
    layouts: tuple[Layout, ...]
    partial: int


def repeat_entries(layouts: Sequence[Layout], grids: Sequence[Grid]) -> Repeated:
    """Let values that are made of finer grids be made of coarser ones, whose entries are repeated.

    Args:
        layouts: What is made of the entries of the finer grids.
        grids: For each source its finer grid as the value, and how many of its entries one of the coarser grid becomes
            along each axis, as blocks.

    Raises:
        LayoutError: `layout-fragmented`.

    Examples:
        >>> made = repeat_entries([Layout.of(0, (5,))], [Grid.of((5,), (2,))])
        >>> made.slots, made.partial
        ((0, 0), 1)
    """
    read = [[placed for copy in layout.copies for placed in _placed(copy, grids[copy.source])] for layout in layouts]
    first = {(number, (0,) * len(grid.shape)) for number, grid in enumerate(grids)}
    used = first | {(copy.source, places) for pairs in read for copy, places in pairs}
    order = sorted(used, key=lambda slot: (slot not in first, not _is_whole(grids[slot[0]], slot[1]), slot))
    number_of = {slot: number for number, slot in enumerate(order)}
    made = [
        Layout(layout.shape, fuse([copy._replace(source=number_of[copy.source, places]) for copy, places in pairs]))
        for layout, pairs in zip(layouts, read, strict=True)
    ]
    partial = sum(not _is_whole(grids[source], places) for source, places in order)
    return Repeated(tuple(source for source, _ in order), tuple(made), partial)


def _is_whole(grid: Grid, places: Sequence[int]) -> bool:
    """Tell whether every entry becomes one at these places in it."""
    sides = zip(grid.shape, grid.blocks, grid.stored, places, strict=True)
    return all(ceil((size - place) / block) == count for size, block, count, place in sides)


def _placed(copy: Copy, grid: Grid) -> Iterator[tuple[Copy, tuple[int, ...]]]:
    """Yield the parts of a copy that read one place of each entry, as they read the coarser grid, with that place."""
    for part in align([swapped(copy)], strides(grid.shape)):
        loops = tuple([Loop(size, read, grid.pad(write)) for size, read, write in part.loops])
        padded = Copy(copy.source, part.source_start, grid.pad(part.target_start), loops)
        for piece in align([padded], grid.boundaries):
            yield from _turned_out(piece, grid)


def _turned_out(piece: Copy, grid: Grid) -> Iterator[tuple[Copy, tuple[int, ...]]]:
    """Yield a copy, whose target is the padded value of the finer grid, for each place in an entry that it reaches."""
    over = [Loop(size, grid.entry(at), to) for size, to, at in piece.loops if grid.entry(at)]
    within = [loop for loop in piece.loops if not grid.entry(loop.target_stride)]
    for turn in product(*(range(loop.size) for loop in within)):
        pairs = list(zip(turn, within, strict=True))
        at = piece.target_start + sum(place * loop.target_stride for place, loop in pairs)
        to = piece.source_start + sum(place * loop.source_stride for place, loop in pairs)
        yield simplify(Copy(piece.source, grid.entry(at), to, tuple(over))), tuple(grid.places(at))
