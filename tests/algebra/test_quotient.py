"""A movement divided by grids, held against the movement of an array of entry numbers."""

from __future__ import annotations

from collections import Counter
from itertools import product
from math import prod

import numpy as np
import pytest
from hypothesis import given, strategies as st

from weighbridge.algebra.layout import Layout, concat, stack
from weighbridge.algebra.quotient import Grid, Quotient, Seam, divide

Pairs = set[tuple[int, int, int]]
"""Source, its entry, and the entry of the target that one of its elements goes to."""


def element_numbers(layout: Layout, numels: list[int]) -> np.ndarray:
    """The number of the source and of its element in each place of a value."""
    made = np.full((layout.numel, 2), -1)
    for copy in layout.copies:
        for places in product(*(range(loop.size) for loop in copy.loops)):
            read = copy.source_start + sum(p * loop.source_stride for p, loop in zip(places, copy.loops, strict=True))
            write = copy.target_start + sum(p * loop.target_stride for p, loop in zip(places, copy.loops, strict=True))
            assert made[write, 0] == -1
            assert read < numels[copy.source]
            made[write] = copy.source, read
    assert (made >= 0).all()
    return made


def entry_numbers(grid: Grid) -> np.ndarray:
    """The stored index of the first thing of the entry of each element, by the definition of a grid."""
    places = np.indices(grid.shape)
    blocks = [place // block for place, block in zip(places, grid.blocks, strict=True)]
    return sum((block * step for block, step in zip(blocks, grid.steps, strict=True)), np.zeros(grid.shape, int))


def places_inside(grid: Grid) -> np.ndarray:
    places = [np.indices(grid.shape)[grid.roles[number]] % grid.blocks[grid.roles[number]] for number in grid.kept]
    return np.stack([place.ravel() for place in places], -1) if places else np.zeros((prod(grid.shape), 0), int)


def brute_force(layout: Layout, sources: list[Grid], target: Grid) -> tuple[Pairs, bool]:
    """Return all pairs of entries, and whether all elements keep their places where they must."""
    moved = element_numbers(layout, [prod(grid.shape) for grid in sources])
    written = entry_numbers(target).ravel()
    entries = [entry_numbers(grid).ravel() for grid in sources]
    pairs = {(int(k), int(entries[k][e]), int(t)) for (k, e), t in zip(moved, written, strict=True)}
    inside = [places_inside(grid) for grid in sources]
    here = places_inside(target)
    keeps = all((inside[k][e] == here[number]).all() for number, (k, e) in enumerate(moved))
    return pairs, keeps


def is_bijection(pairs: Pairs) -> bool:
    sources = Counter((k, entry) for k, entry, _ in pairs)
    targets = Counter(entry for _, _, entry in pairs)
    return all(count == 1 for count in (*sources.values(), *targets.values()))


def pairs_of(layout: Layout, grid_numels: list[int]) -> Pairs:
    moved = element_numbers(layout, grid_numels)
    return {(int(k), int(e), t) for t, (k, e) in enumerate(moved)}


@st.composite
def movements(draw: st.DrawFn) -> tuple[list[Layout], list[tuple[int, ...]]]:
    """Draw what is made of a few matrices: they are joined, cut, stacked, turned, and their rows interleaved."""
    columns = draw(st.integers(1, 6))
    rows = draw(st.lists(st.integers(0, 9), min_size=1, max_size=3))
    values = [Layout.of(number, (size, columns)) for number, size in enumerate(rows)]
    whole = concat(values, 0)
    total = whole.shape[0]
    match draw(st.sampled_from(["joined", "cut", "stacked", "turned", "interleaved", "columns"])):
        case "cut":
            at = draw(st.integers(0, total))
            made = list(whole.split(0, (at, total - at)))
        case "stacked":
            parts = whole.split(0, (total // 2, total // 2)) if total % 2 == 0 else [whole]
            made = [stack(parts, 0)]
        case "turned":
            made = [whole.transpose(0, 1)]
        case "interleaved":
            part = draw(st.sampled_from([size for size in range(1, total + 1) if total % size == 0] or [1]))
            lanes = whole.reshape((part, total // part, columns)).permute((1, 0, 2))
            made = [lanes.reshape((total, columns))]
        case "columns":
            at = draw(st.integers(0, columns))
            made = list(whole.split(1, (at, columns - at)))
        case _:
            made = [whole]
    return made, [(size, columns) for size in rows]


blocks = st.tuples(st.integers(1, 5), st.integers(1, 4))


@given(movements(), blocks, st.booleans(), st.data())
def test_what_divides_is_what_keeps_blocks_whole(
    drawn: tuple[list[Layout], list[tuple[int, ...]]], block: tuple[int, int], is_kept: bool, data: st.DataObject
) -> None:
    """Law C2: it divides if no two entries share a place and none has two; then it moves entries as their elements."""
    made, shapes = drawn
    kept = (0, 1) if is_kept else ()
    sources = [Grid.of(shape, block, kept) for shape in shapes]
    targets = [_grid(layout.shape, block, kept) for layout in made]
    found = divide(made, sources, targets)
    brute = [brute_force(layout, sources, target) for layout, target in zip(made, targets, strict=True)]
    reads = Counter((k, entry) for pairs, _ in brute for k, entry, _ in pairs)
    divides = all(is_bijection(pairs) and keeps for pairs, keeps in brute) and max(reads.values(), default=1) == 1
    assert isinstance(found, Quotient) == divides
    if isinstance(found, Quotient):
        assert found.is_plain
        numels = [prod(grid.stored) for grid in sources]
        assert [pairs_of(layout, numels) for _, layout in found.outputs] == [pairs for pairs, _ in brute]
        assert [layout.shape for _, layout in found.outputs] == [target.stored for target in targets]


def _grid(shape: tuple[int, ...], block: tuple[int, int], kept: tuple[int, ...] = ()) -> Grid:
    more = len(shape) - 2
    grid = Grid.of(shape, (*[1] * more, *block))
    return Grid(grid.shape, grid.blocks, grid.steps, grid.stored, roles=(more, more + 1), kept=kept)


def single(shape: tuple[int, ...], rows: int | None, columns: int | None) -> Grid:
    """The grid of entries for whole axes, whose stored tensor has one place there."""
    sizes = [max(1, size) if block is None else block for size, block in zip(shape[-2:], (rows, columns), strict=True)]
    grid = _grid(shape, (sizes[0], sizes[1]))
    counts = [
        *grid.stored[:-2],
        *(1 if b is None else n for n, b in zip(grid.stored[-2:], (rows, columns), strict=True)),
    ]
    whole = frozenset(len(shape) - 2 + n for n, block in enumerate((rows, columns)) if block is None)
    return Grid(grid.shape, grid.blocks, grid.steps, tuple(counts), whole, grid.roles)


@given(movements(), st.sampled_from([(None, None), (1, None), (None, 1), (2, None), (None, 3)]))
def test_one_entry_for_an_axis_goes_to_several_places_and_several_come_to_one(
    drawn: tuple[list[Layout], list[tuple[int, ...]]], block: tuple[int | None, int | None]
) -> None:
    made, shapes = drawn
    sources, targets = [single(shape, *block) for shape in shapes], [single(layout.shape, *block) for layout in made]
    found = divide(made, sources, targets)
    if isinstance(found, Seam):
        return
    pairs: list[Pairs] = [set() for _ in made]
    read: Counter[tuple[int, int]] = Counter()
    numels = [prod(sources[slot].stored) for slot in found.slots]
    for number, layout in found.outputs:
        for slot, entry, place in pairs_of(layout, numels):
            pairs[number].add((found.slots[slot], entry, place))
            read[slot, entry] += 1
    assert pairs == [brute_force(layout, sources, target)[0] for layout, target in zip(made, targets, strict=True)]
    assert max(read.values(), default=1) == 1
    assert all(read[slot, 0] for slot, number in enumerate(found.slots) if prod(shapes[number]))


def test_equal_scalars_come_to_one_and_a_cut_copies_them() -> None:
    shapes = [(6, 4), (2, 4), (3, 4)]
    joined = concat([Layout.of(number, shape) for number, shape in enumerate(shapes)], 0)
    grids, whole = [single(shape, None, None) for shape in shapes], single((11, 4), None, None)
    found = divide([joined], grids, [whole])
    assert isinstance(found, Quotient)
    assert [(number, layout.copies[0].source) for number, layout in found.outputs] == [(0, 0), (0, 1), (0, 2)]
    back = divide(Layout.of(0, (11, 4)).split(0, (6, 2, 3)), [whole], grids)
    assert isinstance(back, Quotient)
    assert back.slots == (0, 0, 0)
    assert [layout.copies[0].source for _, layout in back.outputs] == [0, 1, 2]
    assert isinstance(divide([joined], grids, [whole], may_repeat=False), Seam)


def test_an_entry_that_goes_to_two_experts_is_read_twice_and_the_others_once() -> None:
    """Three matrices of 6 rows become two of 9: each must have one scale, and the middle one is in both."""
    whole = concat([Layout.of(number, (6, 4)) for number in range(3)], 0).reshape((2, 9, 4))
    grids = [single((6, 4), None, None)] * 3
    found = divide([whole], grids, [single((2, 9, 4), None, None)])
    assert isinstance(found, Quotient)
    assert found.slots == (0, 1, 2, 1)
    assert [len(layout.copies) for _, layout in found.outputs] == [2, 2]


def test_rows_with_an_entry_each_have_none_for_all_of_them() -> None:
    """A matrix that is turned would have one for each of its former columns."""
    turned = [Layout.of(0, (6, 4)).transpose(0, 1)]
    assert isinstance(divide(turned, [single((6, 4), 1, None)], [single((4, 6), 1, None)]), Seam)


def test_experts_of_one_scalar_each_have_a_vector() -> None:
    experts = [Layout.of(number, (6, 4)) for number in range(5)]
    grids = [single((6, 4), None, None) for _ in experts]
    found = divide([stack(experts, 0)], grids, [single((5, 6, 4), None, None)])
    assert isinstance(found, Quotient)
    assert found.is_plain
    assert found.outputs[0][1].shape == (5, 1, 1)


@pytest.mark.parametrize(("rows", "at"), [((64, 8, 8), 72), ((80, 80), 80), ((33, 32), 33), ((32, 40, 32), 72)])
def test_a_seam_says_where_two_parts_meet_in_a_block(rows: tuple[int, ...], at: int) -> None:
    shapes = [(size, 6) for size in rows]
    joined = concat([Layout.of(number, shape) for number, shape in enumerate(shapes)], 0)
    seam = divide([joined], [Grid.of(shape, (32, 3)) for shape in shapes], [Grid.of((sum(rows), 6), (32, 3))])
    assert seam == Seam(len(rows) - 1, 0, 32, at, sum(rows), is_target=True)


def test_nothing_is_moved_of_an_empty_tensor() -> None:
    found = divide([Layout.of(0, (0, 6))], [Grid.of((0, 6), (4, 3))], [Grid.of((0, 6), (4, 3))])
    assert isinstance(found, Quotient)
    assert found.outputs[0][1] == Layout((0, 2), ())
