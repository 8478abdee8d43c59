"""Repeated entries, held to torch's own `repeat_interleave`: there, and back from any of the equal entries."""

from __future__ import annotations

from math import prod

import torch
from hypothesis import given, settings, strategies as st

from weighbridge.algebra.layout import Layout, concat
from weighbridge.algebra.quotient import Grid
from weighbridge.algebra.repeating import repeat_entries


def run(layout: Layout, sources: list[torch.Tensor]) -> torch.Tensor:
    """Copy element by element, each once."""
    made = torch.full((layout.numel,), -1)
    for copy in layout.copies:
        pairs = [(copy.source_start, copy.target_start)]
        for size, read, write in copy.loops:
            pairs = [(a + turn * read, b + turn * write) for a, b in pairs for turn in range(size)]
        for a, b in pairs:
            assert made[b] == -1
            made[b] = sources[copy.source].reshape(-1)[a]
    return made.reshape(layout.shape)


@st.composite
def joined(draw: st.DrawFn) -> tuple[Layout, list[Grid]]:
    """Fine grids joined by rows, then turned or of other axes; and how many of their entries stand for one."""
    columns, blocks = draw(st.integers(1, 6)), draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    shapes = [(rows, columns) for rows in draw(st.lists(st.integers(1, 8), min_size=1, max_size=3))]
    value = concat([Layout.of(number, shape) for number, shape in enumerate(shapes)], 0)
    after = draw(st.sampled_from([value, value.transpose(0, 1), value.reshape(value.shape[::-1])]))
    return after, [Grid.of(shape, blocks) for shape in shapes]


@settings(deadline=None)
@given(joined())
def test_entries_are_repeated_as_torch_does(case: tuple[Layout, list[Grid]]) -> None:
    layout, grids = case
    coarse = [torch.arange(prod(grid.stored)).reshape(grid.stored) + 1000 * n for n, grid in enumerate(grids)]
    fine = []
    for entries, grid in zip(coarse, grids, strict=True):
        repeated = entries.repeat_interleave(grid.blocks[0], 0).repeat_interleave(grid.blocks[1], 1)
        fine.append(repeated[: grid.shape[0], : grid.shape[1]])
    made = repeat_entries([layout], grids)
    (after,) = made.layouts
    assert run(after, [coarse[number] for number in made.slots]).equal(run(layout, fine))
    assert made.slots[: len(grids)] == tuple(range(len(grids)))
    read: list[list[int]] = [[0] * coarse[number].numel() for number in made.slots]
    for copy in after.copies:
        places = [copy.source_start]
        for size, step, _ in copy.loops:
            places = [place + turn * step for place in places for turn in range(size)]
        for place in places:
            read[copy.source][place] += 1
    whole = len(read) - made.partial
    assert all(set(times) == {1} for times in read[:whole])
    assert all(set(times) == {0, 1} for times in read[whole:])
