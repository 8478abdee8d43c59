"""What one process of many holds of a tensor, as intervals of each axis; and copies that are cut to it.

A cut works on the side that is written, where it is a slice of the value, or on the side that is read, where it is the
same with the copies turned round.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from math import prod
from typing import Any

from weighbridge.algebra.copies import Copy, align, fuse, strides, swapped
from weighbridge.algebra.layout import Layout, concat
from weighbridge.base.errors import LayoutError
from weighbridge.base.forms.json_forms import items, numbers, table
from weighbridge.base.specs import Shape

Interval = tuple[int, int]
"""Half-open interval [start, stop) of the indices of one axis."""


@dataclass(frozen=True, slots=True)
class Part:
    """Which elements of a tensor are held: those whose index on each axis lies in one of the axis's intervals.

    They are held as a tensor of their own, in the order that they have in the whole one. Intervals that touch are
    joined, so that equal parts are equal values.

    Args:
        shape: Sizes of the whole tensor's axes.
        axes: For each axis, its intervals [start, stop) in ascending order; none where nothing is held.

    Raises:
        LayoutError: `axis-out-of-range` for an interval that lies outside its axis, is empty or out of order, or for
            another number of axes.

    Examples:
        >>> Part((8, 3), (((0, 2), (4, 6)), ((0, 3),))).held
        (4, 3)
        >>> Part((8,), (((0, 2), (2, 6)),)).axes
        (((0, 6),),)
    """

    shape: Shape
    axes: tuple[tuple[Interval, ...], ...]

    def __post_init__(self) -> None:
        if len(self.axes) != len(self.shape):
            what, expected = "a part has another number of axes than its tensor", f"{len(self.shape)} axes"
            raise LayoutError("axis-out-of-range", what, expected=expected, got=f"{len(self.axes)}")
        for size, intervals in zip(self.shape, self.axes, strict=True):
            _check_axis(size, intervals)
        object.__setattr__(self, "axes", tuple(map(_joined, self.axes)))

    @classmethod
    def whole(cls, shape: Sequence[int]) -> Part:
        """Return the part that holds everything.

        Examples:
            >>> Part.whole((2, 3)).is_whole
            True
        """
        return cls(tuple(shape), tuple(((0, size),) if size else () for size in shape))

    @classmethod
    def empty(cls, shape: Sequence[int]) -> Part:
        """Return the part that holds nothing, of a tensor that has axes.

        Examples:
            >>> Part.empty((2, 3)).held
            (0, 0)
        """
        return cls(tuple(shape), ((),) * len(shape))

    @property
    def held(self) -> Shape:
        """Sizes of the axes of what is held."""
        return tuple([sum([stop - start for start, stop in intervals]) for intervals in self.axes])

    @property
    def numel(self) -> int:
        """Number of elements that are held."""
        return prod(self.held)

    @property
    def is_whole(self) -> bool:
        """Whether everything is held."""
        return self.held == self.shape

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form: the shape, and the intervals of each axis.

        Examples:
            >>> Part((4,), (((1, 3),),)).to_dict()
            {'shape': [4], 'axes': [[[1, 3]]]}
        """
        return {"shape": list(self.shape), "axes": [[list(each) for each in intervals] for intervals in self.axes]}

    @staticmethod
    def from_dict(form: object) -> Part:
        """Read the JSON form.

        Raises:
            PlanError: `plan-format`.
            LayoutError: `axis-out-of-range`.

        Examples:
            >>> Part.from_dict({"shape": [4], "axes": [[[1, 3]]]}) == Part((4,), (((1, 3),),))
            True
        """
        read = table(form)
        axes = [[numbers(items(each, 2)) for each in items(axis)] for axis in items(read.get("axes"))]
        return Part(numbers(read.get("shape")), tuple(tuple((start, stop) for start, stop in axis) for axis in axes))


def _check_axis(size: int, intervals: Sequence[Interval]) -> None:
    bounds = [0, *chain.from_iterable(intervals), size]
    ascend = all(start <= stop for start, stop in pairwise(bounds))
    if not ascend or any(start == stop for start, stop in intervals):
        raise LayoutError(
            "axis-out-of-range",
            "the intervals of a part do not lie in their axis one behind the other",
            expected=f"intervals [start, stop) within [0, {size})",
            got=", ".join(f"[{start}, {stop})" for start, stop in intervals[:8]),
        )


def _joined(intervals: Iterable[Interval]) -> tuple[Interval, ...]:
    """Join intervals, in ascending order of their starts, that touch or overlap."""
    found: list[Interval] = []
    for start, stop in intervals:
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(stop, found[-1][1])
        else:
            found.append((start, stop))
    return tuple(found)


def cut_layout(layout: Layout, part: Part) -> Layout:
    """Restrict a value to a part of it.

    Args:
        layout: The value; it may write some of its elements only.
        part: What is to be left, of a tensor of the value's shape.

    Raises:
        LayoutError: `layout-fragmented` where it falls into too many copies.

    Examples:
        >>> cut_layout(Layout.of(0, (4, 3)), Part((4, 3), (((1, 2), (3, 4)), ((0, 3),)))).copies[0].loops
        (Loop(size=2, source_stride=6, target_stride=3), Loop(size=3, source_stride=1, target_stride=1))
    """
    assert layout.shape == part.shape
    for axis, intervals in enumerate(part.axes):
        size = layout.shape[axis]
        if intervals == ((0, size),) or not size:
            continue
        if not intervals:
            return Layout(part.held, ())
        cuts = [layout.slice(axis, start, stop) for start, stop in intervals]
        layout = cuts[0] if len(cuts) == 1 else concat(cuts, axis)
    return layout


def cut_reads(copies: Iterable[Copy], part: Part) -> list[Copy]:
    """Restrict copies that read a tensor to a part of it.

    Args:
        copies: The copies; all of them read the tensor.
        part: What is to be read.

    Returns:
        Copies whose source indices are those of what is held; their target indices are unchanged.

    Raises:
        LayoutError: As `cut_layout`.

    Examples:
        >>> cut_reads(Layout.of(0, (4, 3)).copies, Part((4, 3), (((2, 3),), ((0, 3),))))
        [Copy(source=0, source_start=0, target_start=6, loops=(Loop(size=3, source_stride=1, target_stride=1),))]
    """
    turned = Layout(part.shape, tuple([swapped(copy, copy.source) for copy in copies]))
    return [swapped(copy, copy.source) for copy in cut_layout(turned, part).copies]


def cut_slots(layout: Layout, parts: Sequence[Part | None]) -> Layout:
    """Restrict a value to what it reads of parts of its sources.

    Args:
        layout: The value.
        parts: For each slot, the part that is left of it; None for all of it.

    Returns:
        A value that writes some of its elements only.

    Raises:
        LayoutError: As `cut_layout`.
    """
    by_slot: dict[int, list[Copy]] = {}
    for copy in layout.copies:
        by_slot.setdefault(copy.source, []).append(copy)
    changed = {slot: part for slot in by_slot if (part := parts[slot]) is not None and not part.is_whole}
    if not changed:
        return layout
    left = [cut_reads(copies, changed[slot]) if slot in changed else copies for slot, copies in by_slot.items()]
    return Layout(layout.shape, fuse(chain.from_iterable(left)))


def without_slots(layout: Layout, unread: Collection[int]) -> Layout:
    """Leave out of a value what it reads from some slots.

    Examples:
        >>> both = concat([Layout.of(0, (2,)), Layout.of(1, (3,))], axis=0)
        >>> [copy.target_start for copy in without_slots(both, {0}).copies]
        [2]
    """
    if not unread:
        return layout
    return Layout(layout.shape, tuple([copy for copy in layout.copies if copy.source not in unread]))


def part_around(copies: Iterable[Copy], shape: Shape) -> Part:
    """Return a part of a tensor that holds all that some copies write of it, and little else.

    Each copy adds one interval to each axis, from the first index that it touches to the last one.

    Examples:
        >>> rows = cut_layout(Layout.of(0, (6, 2)), Part((6, 2), (((1, 3),), ((0, 2),))))
        >>> part_around([swapped(copy) for copy in rows.copies], (6, 2)).axes
        (((1, 3),), ((0, 2),))
    """
    steps = strides(shape)
    found: list[list[Interval]] = [[] for _ in shape]
    for copy in align(copies, steps):
        for axis, (step, size) in enumerate(zip(steps, shape, strict=True)):
            first = copy.target_start // step % size
            loops = [loop for loop in copy.loops if step <= loop.target_stride < step * size]
            last = first + sum([(loop.size - 1) * loop.target_stride // step for loop in loops])
            found[axis].append((first, last + 1))
    return Part(shape, tuple(_joined(sorted(intervals)) for intervals in found))
