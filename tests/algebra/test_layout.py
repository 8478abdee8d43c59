"""Laws of the layout algebra, with numpy as the twin."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import prod

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st
from numpy.lib.stride_tricks import as_strided

from weighbridge.algebra.copies import Copy, Loop, align, cut_copy, fuse, runs, simplify, swapped
from weighbridge.algebra.coverage import Coverage, coverage
from weighbridge.algebra.layout import (
    MAX_COPIES,
    Layout,
    concat,
    flat,
    invert,
    is_fragmented,
    prove,
    stack,
    windows,
)
from weighbridge.algebra.rereading import reread
from weighbridge.base.errors import LayoutError

Array = np.ndarray
laws = settings(max_examples=1000, deadline=None)


def run(layout: Layout, sources: list[Array]) -> Array:
    """Execute the copies one by one; what no copy writes stays -1."""
    out = np.full(layout.numel, -1, np.int64)
    for source, read, write, loops in layout.copies:
        sizes = [loop.size for loop in loops]
        source_array = as_strided(sources[source].reshape(-1)[read:], sizes, [loop.source_stride * 8 for loop in loops])
        as_strided(out[write:], sizes, [loop.target_stride * 8 for loop in loops])[...] = source_array
    return out.reshape(layout.shape)


class CheckingLayout:
    """A layout and the array that it must describe, changed in step."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.sources: list[Array] = []
        self.dropped = False
        self.layout, self.array = self.leaf()

    def leaf(self, shape: tuple[int, ...] | None = None) -> tuple[Layout, Array]:
        if shape is None:
            shape = tuple(self.chance.choice([1, 2, 3, 4, 5, 6, 8, 12]) for _ in range(self.chance.randint(0, 3)))
        array = np.arange(prod(shape), dtype=np.int64).reshape(shape) + 1_000_000 * len(self.sources)
        self.sources.append(array)
        return Layout.of(len(self.sources) - 1, shape), array

    def step(self) -> None:
        moves = [self.reshape, self.reshape, self.permute, self.permute, self.stack, self.unflatten]
        if self.array.ndim:
            moves += [self.transpose, self.slice, self.concat, self.split]
        self.chance.choice(moves)()
        assert self.layout.shape == self.array.shape

    def reshape(self) -> None:
        left, sizes = self.array.size, []
        while left > 1 and len(sizes) < 4:
            sizes.append(self.chance.choice([d for d in range(1, left + 1) if left % d == 0]))
            left //= sizes[-1]
        self.set([*sizes, left], lambda x, shape: x.reshape(shape))

    def unflatten(self) -> None:
        self.set((-1,), lambda x, shape: x.reshape(shape))

    def permute(self) -> None:
        axes = list(range(self.array.ndim))
        self.chance.shuffle(axes)
        self.layout, self.array = self.layout.permute(axes), self.array.transpose(axes)

    def transpose(self) -> None:
        a, b = (self.chance.randrange(-self.array.ndim, self.array.ndim) for _ in range(2))
        self.layout, self.array = self.layout.transpose(a, b), self.array.swapaxes(a, b)

    def slice(self) -> None:
        axis = self.chance.randrange(self.array.ndim)
        size = self.array.shape[axis]
        start = self.chance.randint(0, size)
        stop = self.chance.randint(start, size)
        if start < stop or self.chance.random() < 0.05:
            self.layout = self.layout.slice(axis, start, stop)
            self.array = self.array.take(range(start, stop), axis)
            self.dropped = True

    def split(self) -> None:
        """Cut, swap the parts, and join: the order of the parts changes."""
        axis = self.chance.randrange(self.array.ndim)
        size = self.array.shape[axis]
        cuts = sorted(self.chance.randint(0, size) for _ in range(2))
        sizes = (cuts[0], cuts[1] - cuts[0], size - cuts[1])
        layouts, arrays = self.layout.split(axis, sizes), np.split(self.array, cuts, axis)
        assert [part.shape for part in layouts] == [part.shape for part in arrays]
        self.layout, self.array = concat(layouts[::-1], axis), np.concatenate(arrays[::-1], axis)

    def concat(self) -> None:
        axis = self.chance.randrange(-self.array.ndim, self.array.ndim)
        shape = list(self.array.shape)
        shape[axis] = self.chance.choice([0, 1, 2, 3, 5])
        pairs = [(self.layout, self.array), self.leaf(tuple(shape))]
        self.chance.shuffle(pairs)
        self.layout = concat([pair[0] for pair in pairs], axis)
        self.array = np.concatenate([pair[1] for pair in pairs], axis)

    def stack(self) -> None:
        axis = self.chance.randint(-self.array.ndim - 1, self.array.ndim)
        pairs = [(self.layout, self.array), self.leaf(self.array.shape)]
        self.chance.shuffle(pairs)
        self.layout = stack([pair[0] for pair in pairs], axis)
        self.array = np.stack([pair[1] for pair in pairs], axis)

    def set(self, shape: object, move: Callable[..., Array]) -> None:
        self.layout = self.layout.reshape(shape)  # type: ignore[arg-type]
        self.array = move(self.array, self.layout.shape)


def chain(seed: int, steps: int = 9) -> CheckingLayout:
    twin = CheckingLayout(random.Random(seed))
    for _ in range(twin.chance.randint(1, steps)):
        if twin.array.size > 3000:
            break
        twin.step()
    return twin


chains = st.integers(0, 2**40).map(chain)


def is_tidy(layout: Layout) -> bool:
    """Tell whether the copies are simplified, in order, and their loops too."""
    starts = [copy.target_start for copy in layout.copies]
    return starts == sorted(starts) and all(simplify(copy) == copy for copy in layout.copies)


# Chains


@pytest.mark.parametrize("block", range(12))
def test_random_chains_equal_numpy(block: int) -> None:
    """12,000 random chains of movements give the elements that numpy gives, written exactly once."""
    for seed in range(block * 1000, (block + 1) * 1000):
        twin = chain(seed)
        assert np.array_equal(run(twin.layout, twin.sources), twin.array), seed
        assert is_tidy(twin.layout), seed
        prove(twin.layout, [source.size for source in twin.sources])
        if not twin.dropped:
            inverses = invert([twin.layout], [source.shape for source in twin.sources])
            for source, inverse in zip(twin.sources, inverses, strict=True):
                assert np.array_equal(run(inverse, [twin.array.copy()]), source), seed


@laws
@given(chains)
def test_inverse_of_inverse_is_the_same_value(twin: CheckingLayout) -> None:
    if not twin.dropped:
        inverses = invert([twin.layout], [source.shape for source in twin.sources])
        (again,) = invert(inverses, [twin.array.shape])
        assert np.array_equal(run(again, twin.sources), twin.array)
        assert len(again.copies) <= max(4 * len(twin.layout.copies), 8)


@laws
@given(chains)
def test_what_is_dropped_is_counted_as_unused(twin: CheckingLayout) -> None:
    for slot, source in enumerate(twin.sources):
        copies = [swapped(copy) for copy in twin.layout.copies if copy.source == slot]
        used = np.isin(source, twin.array).sum()
        assert coverage(copies, source.size) == Coverage(source.size, used, source.size - used, 0)


@laws
@given(chains, st.data())
def test_slice_then_run_is_run_then_slice(twin: CheckingLayout, data: st.DataObject) -> None:
    if twin.array.ndim:
        axis = data.draw(st.integers(0, twin.array.ndim - 1))
        start = data.draw(st.integers(0, twin.array.shape[axis]))
        stop = data.draw(st.integers(start, twin.array.shape[axis]))
        part = twin.layout.slice(axis, start, stop)
        assert np.array_equal(run(part, twin.sources), run(twin.layout, twin.sources).take(range(start, stop), axis))


@laws
@given(chains, st.data())
def test_flat_windows_tile_the_value(twin: CheckingLayout, data: st.DataObject) -> None:
    numel = twin.array.size
    start = data.draw(st.integers(0, numel))
    stop = data.draw(st.integers(start, numel))
    assert np.array_equal(run(flat(twin.layout, start, stop), twin.sources), twin.array.reshape(-1)[start:stop])
    size = data.draw(st.integers(1, 1 + numel))
    parts = [run(part, twin.sources) for part in windows(twin.layout, size)]
    assert np.array_equal(np.concatenate([np.zeros(0, np.int64), *parts]), twin.array.reshape(-1))


@laws
@given(chains, st.data())
def test_permuting_back_is_the_identity(twin: CheckingLayout, data: st.DataObject) -> None:
    axes = data.draw(st.permutations(range(twin.array.ndim)))
    back = twin.layout.permute(axes).permute([axes.index(axis) for axis in range(len(axes))])
    assert np.array_equal(run(back, twin.sources), twin.array)


@laws
@given(chains, st.data())
def test_joining_what_was_split_is_the_identity(twin: CheckingLayout, data: st.DataObject) -> None:
    if twin.array.ndim:
        axis = data.draw(st.integers(0, twin.array.ndim - 1))
        first = data.draw(st.integers(0, twin.array.shape[axis]))
        back = concat(twin.layout.split(axis, (first, twin.array.shape[axis] - first)), axis)
        assert np.array_equal(run(back, twin.sources), twin.array)


# One copy where one is enough


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_split_and_concat_of_one_source_is_one_copy(axis: int) -> None:
    whole = Layout.of(0, (4, 6, 10))
    parts = whole.split(axis, [1] * whole.shape[axis])
    assert concat(parts, axis) == whole


def test_unbind_and_stack_of_a_transpose_is_one_copy() -> None:
    whole = Layout.of(0, (5, 6, 7)).transpose(1, 2)
    parts = [part.reshape((7, 6)) for part in whole.split(0, [1] * 5)]
    assert stack(parts, 0) == whole


@given(st.lists(st.integers(2, 5), min_size=1, max_size=6), st.randoms(use_true_random=False))
@laws
def test_einops_like_chain_is_one_copy(sizes: list[int], chance: random.Random) -> None:
    axes = list(range(len(sizes)))
    chance.shuffle(axes)
    assert len(Layout.of(0, [prod(sizes)]).reshape(sizes).permute(axes).reshape((-1,)).copies) == 1


def test_reshape_that_needs_two_views_elsewhere_is_one_copy() -> None:
    twice = Layout.of(0, (10, 10)).transpose(0, 1).reshape((5, 2, 5, 2))
    assert len(twice.copies) == 1
    assert twice.reshape((10, 10)).transpose(0, 1) == Layout.of(0, (10, 10))


def test_fused_experts_are_one_contiguous_copy_each() -> None:
    gates = [Layout.of(i, (6, 10)) for i in range(8)]
    ups = [Layout.of(8 + i, (6, 10)) for i in range(8)]
    fused = concat([stack(gates, 0), stack(ups, 0)], 1)
    assert fused.shape == (8, 12, 10)
    assert [copy.source for copy in fused.copies] == [source for i in range(8) for source in (i, 8 + i)]
    assert {runs(copy) for copy in fused.copies} == {60}
    back = [part.split(0, [1] * 8) for part in fused.split(1, (6, 6))]
    assert back[1][5].reshape((6, 10)) == ups[5]


def test_layouts_are_values() -> None:
    assert Layout.of(0, [4, 6]).permute((1, 0)) == Layout.of(0, (4, 6)).transpose(0, 1)
    assert len({Layout.of(0, (4, 6)), Layout.of(0, (4, 6)), Layout.of(1, (4, 6))}) == 2


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (1, 1)])
def test_empty_and_scalar_values_work_everywhere(shape: tuple[int, ...]) -> None:
    source = np.arange(prod(shape), dtype=np.int64).reshape(shape)
    layout = Layout.of(0, shape)
    assert np.array_equal(run(stack([layout, layout], 0), [source]), np.stack([source, source]))
    assert layout.permute(range(len(shape))) == layout
    assert invert([layout], [shape]) == (layout,)
    assert flat(layout, 0, layout.numel).numel == layout.numel
    if shape:
        axis = shape.index(min(shape))
        assert concat(layout.split(axis, (0, shape[axis])), axis) == layout
        assert layout.transpose(0, -1).transpose(0, -1) == layout


# Copies


loops = st.lists(st.builds(Loop, st.integers(1, 5), st.integers(0, 40), st.integers(0, 40)), max_size=3).map(tuple)
copies = st.builds(Copy, st.just(0), st.integers(0, 30), st.integers(0, 30), loops)


def pairs(copy: Copy) -> list[tuple[int, int]]:
    """List every element that a copy moves: (read, written)."""
    moved = [(copy.source_start, copy.target_start)]
    for size, read, write in copy.loops:
        moved = [(a + i * read, b + i * write) for a, b in moved for i in range(size)]
    return sorted(moved)


@laws
@given(copies)
@example(Copy(0, 2, 3, (Loop(1, 9, 9),)))
def test_simplify_keeps_the_elements_and_is_idempotent(copy: Copy) -> None:
    simple = simplify(copy)
    assert pairs(simple) == pairs(copy)
    assert simplify(simple) == simple
    assert all(loop.size != 1 for loop in simple.loops)
    assert pairs(swapped(copy)) == sorted((b, a) for a, b in pairs(copy))


@laws
@given(copies.map(simplify), st.lists(st.integers(2, 5), min_size=1, max_size=3))
def test_align_keeps_the_elements_and_leaves_no_carry(copy: Copy, factors: list[int]) -> None:
    boundaries = [prod(factors[:k]) for k in range(1, len(factors) + 1)]
    parts = align([copy], boundaries)
    assert sorted(pair for part in parts for pair in pairs(part)) == pairs(copy)
    for part in parts:
        for boundary in boundaries:
            low = [(size, stride) for size, _, stride in part.loops if size > 1 and stride % boundary]
            assert part.target_start % boundary + sum((size - 1) * stride for size, stride in low) < boundary


@laws
@given(st.lists(copies.map(simplify), max_size=6))
def test_fuse_keeps_the_elements(parts: list[Copy]) -> None:
    fused = fuse(parts)
    assert sorted(pair for part in fused for pair in pairs(part)) == sorted(p for part in parts for p in pairs(part))
    assert len(fused) <= len(parts)


@laws
@given(st.lists(st.integers(1, 6), max_size=4), st.randoms(use_true_random=False))
def test_g13_rereading_by_any_strides_reads_the_same_elements(shape: list[int], chance: random.Random) -> None:
    steps = [chance.choice([0, 1, 2, 3, 7, prod(shape)]) for _ in shape]
    memory = np.arange(1 + sum((size - 1) * step for size, step in zip(shape, steps, strict=True)), dtype=np.int64)
    value = as_strided(memory, shape, [step * 8 for step in steps]).copy()
    layout = Layout.of(0, shape)
    for _ in range(3):
        layout = layout.reshape([-1]).reshape(chance.sample(layout.shape, len(layout.shape)))
        layout = layout.permute(chance.sample(range(len(shape)), len(shape)))
        if shape:
            axis = chance.randrange(len(shape))
            layout = layout.slice(axis, chance.randrange(layout.shape[axis]), layout.shape[axis])
    parts = [part for copy in layout.copies for part in reread(copy, shape, steps)]
    assert (run(Layout(layout.shape, tuple(parts)), [memory]) == run(layout, [value])).all()


def test_g13_rereading_stops_at_its_limit() -> None:
    with pytest.raises(LayoutError, match="too many pieces"):
        reread(Copy(0, 0, 0, (Loop(4999, 1, 5003), Loop(5003, 4999, 1))), (4999, 5003), (1, 4999))


def test_align_cuts_at_the_largest_boundary_first_whatever_order_they_come_in() -> None:
    copy = Copy(0, 0, 2, (Loop(4, 9, 2),))
    assert align([copy], [3, 6]) == align([copy], [6, 3])
    assert [(part.target_start, part.numel) for part in align([copy], [3, 6])] == [(2, 1), (4, 1), (6, 2)]


def test_a_copy_is_cut_only_where_it_must_be() -> None:
    for start, loops, boundary, parts in (
        (2, (Loop(3, 3, 1),), 3, [(2, 1), (3, 2)]),
        (0, (Loop(3, 5, 2),), 3, [(0, 2), (4, 1)]),
        (0, (Loop(5, 7, 2),), 5, [(0, 3), (6, 2)]),
        (3, (Loop(3, 1, 2), Loop(2, 4, 1)), 5, [(3, 2), (5, 4)]),
        (3, (Loop(3, 2, 4), Loop(2, 2, 2)), 10, [(3, 4), (11, 2)]),
    ):
        found = align([Copy(0, 0, start, loops)], [boundary])
        assert [(part.target_start, part.numel) for part in found] == parts
    row = Copy(0, 0, 0, (Loop(12, 1, 1),))
    assert list(cut_copy(row, 1, 12, (0, 5, 12))) == [
        (0, Copy(0, 0, 0, (Loop(5, 1, 1),))),
        (1, Copy(0, 5, 5, (Loop(7, 1, 1),))),
    ]
    pairs = Copy(0, 0, 0, (Loop(4, 1, 2), Loop(2, 10, 1)))
    assert list(cut_copy(pairs, 1, 8, (0, 4, 8))) == [
        (0, Copy(0, 0, 0, (Loop(2, 1, 2), Loop(2, 10, 1)))),
        (1, Copy(0, 2, 4, (Loop(2, 1, 2), Loop(2, 10, 1)))),
    ]


def test_elements_in_steps_that_do_not_fill_a_block_are_cut_by_where_they_lie_in_it() -> None:
    copy = Copy(0, 0, 2, (Loop(6, 5, 2),))
    assert align([copy], [3]) == [Copy(0, 5 * place, 2 + 2 * place, (Loop(2, 15, 6),)) for place in range(3)]


@pytest.mark.parametrize("first", [(), (Loop(3, 1, 1),)], ids=["an element", "a row"])
def test_a_row_in_front_of_others_becomes_one_of_them_and_an_element_does_not(first: tuple[Loop, ...]) -> None:
    rows = Copy(0, 10, 5, (Loop(2, 10, 5), Loop(3, 1, 1)))
    alone = Copy(0, 0, 0, first)
    whole = Copy(0, 0, 0, (Loop(3, 10, 5), Loop(3, 1, 1)))
    assert fuse([alone, rows]) == ((whole,) if first else (alone, rows))


def test_rows_behind_other_rows_are_one_copy_with_more_of_them() -> None:
    def rows(count: int, start: int) -> Copy:
        return Copy(0, start, start, (Loop(count, 10, 10), Loop(3, 1, 1)))

    assert fuse([rows(2, 0), rows(4, 20)]) == (rows(6, 0),)


def test_halves_of_rows_that_lie_side_by_side_are_one_copy_with_longer_rows() -> None:
    halves = [Copy(0, 8 * half, 2 * half, (Loop(4, 1, 4), Loop(2, 4, 1))) for half in range(2)]
    assert fuse(halves) == (Copy(0, 0, 0, (Loop(4, 1, 4), Loop(4, 4, 1))),)


def test_an_element_that_is_read_again_and_again_is_one_copy() -> None:
    assert fuse([Copy(0, 5, place, ()) for place in range(3)]) == (Copy(0, 5, 0, (Loop(3, 0, 1),)),)


def test_as_many_pieces_as_are_allowed_are_made_and_no_more() -> None:
    copy = Copy(0, 0, 0, (Loop(30, 1, 1), Loop(7, 30, 41)))
    parts = align([copy], [19])
    assert align([copy], [19], limit=len(parts) - 1) == parts
    with pytest.raises(LayoutError, match="too many pieces"):
        align([copy], [19], limit=len(parts) - 2)


def test_align_stops_at_its_limit() -> None:
    with pytest.raises(LayoutError) as caught:
        align([Copy(0, 0, 0, (Loop(1000, 1, 1), Loop(7, 1000, 1009)))], [997], limit=3)
    assert caught.value.code == "layout-fragmented"


# Coverage


def count_by_bitmap(parts: list[Copy], numel: int) -> Coverage:
    counts = np.zeros(numel, np.int64)
    for part in parts:
        written = np.array([part.target_start])
        for size, _, stride in part.loops:
            written = np.add.outer(written, np.arange(size) * stride).reshape(-1)
        np.add.at(counts, written, 1)
    return Coverage(numel, int((counts == 1).sum()), int((counts == 0).sum()), int((counts > 1).sum()))


@laws
@given(st.lists(copies, max_size=6), st.integers(0, 20))
def test_coverage_of_any_copies_equals_a_bitmap(parts: list[Copy], spare: int) -> None:
    numel = max((part.target_last + 1 for part in parts), default=0) + spare
    assert coverage(parts, numel) == count_by_bitmap(parts, numel)


@laws
@given(chains, st.data())
def test_coverage_notices_a_single_wrong_copy(twin: CheckingLayout, data: st.DataObject) -> None:
    """Drop, repeat or shift one copy of a sound layout: the counts are those of a bitmap."""
    parts = list(twin.layout.copies)
    if parts:
        number = data.draw(st.integers(0, len(parts) - 1))
        change = data.draw(st.sampled_from(["drop", "repeat", "shift"]))
        chosen = parts.pop(number)
        parts += [] if change == "drop" else [chosen, chosen] if change == "repeat" else []
        parts += [chosen._replace(target_start=chosen.target_start - 1)] if change == "shift" else []
        if all(part.target_start >= 0 for part in parts):
            found = coverage(parts, twin.array.size)
            assert not found.exact
            assert found == count_by_bitmap(parts, twin.array.size)


def test_coverage_of_interleaved_columns_is_exact() -> None:
    columns = [Copy(0, 0, i, (Loop(1 << 30, 1, 512),)) for i in range(512)]
    assert coverage(columns, 512 << 30).exact
    assert coverage(columns[:-1], 512 << 30) == Coverage(512 << 30, 511 << 30, 1 << 30, 0)


def test_coverage_of_huge_transposed_blocks_is_exact() -> None:
    blocks = [Layout.of(i, (768, 2048)).transpose(0, 1) for i in range(64)]
    fused = concat([stack(blocks[:32], 0), stack(blocks[32:], 0)], 2)
    assert coverage(fused.copies, fused.numel).exact
    assert not coverage(fused.copies[1:], fused.numel).exact


@pytest.mark.parametrize(
    "copy",
    [
        Copy(0, 0, -1, ()),
        Copy(0, 0, 12, ()),
        Copy(0, 0, 0, (Loop(13, 1, 1),)),
        Copy(0, 0, 0, (Loop(0, 1, 1),)),
        Copy(0, 0, 0, (Loop(-2, 1, 1),)),
        Copy(0, 0, 5, (Loop(3, 1, -1),)),
        Copy(0, 0, 0, (Loop(3, 1, 4), Loop(5, 1, 1))),
    ],
)
def test_coverage_refuses_copies_that_reach_outside(copy: Copy) -> None:
    with pytest.raises(LayoutError) as caught:
        coverage([copy], 12)
    assert caught.value.code == "layout-coverage"


def test_coverage_gives_up_on_tangled_copies() -> None:
    """Strides that are large primes have no common rows short of their product."""
    primes = (10007, 10009, 10037, 10039, 10061, 10067, 10069, 10079)
    tangle = [Copy(0, 0, i, (Loop(9000, 0, prime), Loop(4999, 0, 2))) for i, prime in enumerate(primes)]
    with pytest.raises(LayoutError, match="too fragmented") as caught:
        coverage(tangle, 1 << 40)
    assert caught.value.code == "layout-coverage"


@pytest.mark.parametrize(
    "copy", [Copy(1, 0, 0, (Loop(6, 1, 1),)), Copy(0, 1, 0, (Loop(6, 1, 1),)), Copy(0, 5, 0, (Loop(6, -1, 1),))]
)
def test_prove_refuses_reads_outside_of_a_source(copy: Copy) -> None:
    prove(Layout((6,), (Copy(0, 0, 0, (Loop(6, 1, 1),)),)), [6])
    with pytest.raises(LayoutError) as caught:
        prove(Layout((6,), (copy,)), [6])
    assert caught.value.code == "layout-coverage"


# Errors


@pytest.mark.parametrize(
    ("code", "act"),
    [
        ("shape-mismatch", lambda x: x.reshape((5, 5))),
        ("shape-mismatch", lambda x: x.reshape((-1, -1))),
        ("shape-mismatch", lambda x: x.reshape((-1, 5))),
        ("shape-mismatch", lambda x: x.reshape((-2, -12))),
        ("shape-mismatch", lambda x: x.split(0, (1, 2))),
        ("shape-mismatch", lambda x: x.split(0, (5, -1))),
        ("shape-mismatch", lambda x: concat([x, Layout.of(1, (4, 7))], 0)),
        ("shape-mismatch", lambda x: concat([x, Layout.of(1, (4,))], 0)),
        ("shape-mismatch", lambda x: stack([x, Layout.of(1, (6, 4))], 0)),
        ("shape-mismatch", lambda x: Layout.of(0, (-1, 3))),
        ("axis-out-of-range", lambda x: x.permute((0, 0))),
        ("axis-out-of-range", lambda x: x.permute((0,))),
        ("axis-out-of-range", lambda x: x.transpose(0, 2)),
        ("axis-out-of-range", lambda x: x.slice(0, 2, 1)),
        ("axis-out-of-range", lambda x: x.slice(0, 0, 5)),
        ("axis-out-of-range", lambda x: x.slice(-3, 0, 1)),
        ("axis-out-of-range", lambda x: flat(x, 3, 25)),
        ("axis-out-of-range", lambda x: concat([Layout.of(0, ())], 0)),
        ("axis-out-of-range", lambda x: stack([x], 3)),
        ("operation-arity", lambda x: concat([], 0)),
        ("operation-arity", lambda x: stack([], 0)),
        ("layout-coverage", lambda x: invert([x.slice(0, 0, 3)], [(4, 6)])),
        ("layout-coverage", lambda x: invert([x, x], [(4, 6)])),
        ("layout-coverage", lambda x: invert([x], [])),
    ],
)
def test_misuse_has_a_code(code: str, act: Callable[[Layout], object]) -> None:
    with pytest.raises(LayoutError) as caught:
        act(Layout.of(0, (4, 6)))
    assert caught.value.code == code


def test_fragmentation_is_allowed_to_grow_with_the_sources() -> None:
    many = Layout((MAX_COPIES + 1,), tuple(Copy(0, 2 * i, i, ()) for i in range(MAX_COPIES + 1)))
    assert is_fragmented(many, 1)
    assert not is_fragmented(many, MAX_COPIES // 64 + 1)
