"""Boxes of a tensor, an interval on each axis: whether chunks cover it, each element once, and what they share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import prod
from typing import Final, NamedTuple

from weighbridge.base.specs import Shape

MOST_LOOKS: Final = 10_000_000
"""How often boxes that lie across each other are looked at, to tell which elements they share."""


class Box(NamedTuple):
    """An interval on each axis of a tensor.

    Args:
        offsets: Where it begins on each axis.
        sizes: How far it reaches from there.
    """

    offsets: Shape
    sizes: Shape

    @property
    def numel(self) -> int:
        """How many elements lie in it."""
        return prod(self.sizes)

    @property
    def stops(self) -> Shape:
        """Where it ends on each axis."""
        return tuple([offset + size for offset, size in zip(self.offsets, self.sizes, strict=True)])

    def __str__(self) -> str:
        return "[" + ", ".join(f"{start}:{stop}" for start, stop in zip(self.offsets, self.stops, strict=True)) + "]"

    def shared(self, other: Box) -> Box | None:
        """Return what lies in both; None where that is nothing.

        Examples:
            >>> print(Box((0, 0), (4, 6)).shared(Box((2, 3), (9, 1))))
            [2:4, 3:4]
        """
        starts = tuple(map(max, zip(self.offsets, other.offsets, strict=True)))
        stops = tuple(map(min, zip(self.stops, other.stops, strict=True)))
        if not all(start < stop for start, stop in zip(starts, stops, strict=True)):
            return None
        return Box(starts, tuple([stop - start for start, stop in zip(starts, stops, strict=True)]))


class Fault(NamedTuple):
    """A part of a tensor that chunks do not cover once: what is wrong with it, and one box of it."""

    what: str
    box: Box


def find_fault(shape: Shape, boxes: Sequence[Box]) -> Fault | None:
    """Find a part of a tensor that lies in none of some boxes, or in two; None where each element lies in one.

    Args:
        shape: The tensor's shape.
        boxes: The boxes, all of which lie in it; empty ones count for nothing.

    Examples:
        >>> halves = [Box((0, 0), (2, 5)), Box((2, 0), (2, 5))]
        >>> find_fault((4, 5), halves)
        >>> print(*find_fault((5, 5), halves))
        no chunk holds this [4:5, 0:5]
        >>> print(*find_fault((4, 5), [*halves, Box((1, 3), (1, 2))]))
        two chunks hold this [1:2, 3:5]
    """
    if not prod(shape):
        return None
    try:
        return _fault(shape, [box for box in boxes if box.numel], 0, _Looks())
    except _TooManyError:
        return Fault("more chunks lie across each other than can be told apart", _rest(shape, 0))


class _TooManyError(Exception):
    """Boxes would be looked at too often."""


class _Looks:
    """How often boxes may still be looked at."""

    def __init__(self) -> None:
        self.left = MOST_LOOKS

    def take(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise _TooManyError


def _fault(shape: Shape, boxes: Sequence[Box], axis: int, looks: _Looks) -> Fault | None:
    """Look at boxes that are the same interval, or more, on each axis before `axis`."""
    if axis == len(shape):
        if len(boxes) == 1:
            return None
        return Fault("two chunks hold this" if boxes else "no chunk holds this", Box((), ()))
    for start, stop, inside in _intervals(shape[axis], boxes, axis, looks):
        found = (
            _fault(shape, inside, axis + 1, looks) if inside else Fault("no chunk holds this", _rest(shape, axis + 1))
        )
        if found is not None:
            box = Box((start, *found.box.offsets), (stop - start, *found.box.sizes))
            return found._replace(box=box)
    return None


def _rest(shape: Shape, axis: int) -> Box:
    return Box((0,) * (len(shape) - axis), shape[axis:])


def _intervals(size: int, boxes: Sequence[Box], axis: int, looks: _Looks) -> Iterator[tuple[int, int, list[Box]]]:
    """Yield intervals that cover an axis, none of which a box ends in, each with the boxes that hold it.

    Boxes of one grid begin and end at the same places: sorting them is all there is to do. Only others are cut.
    """
    alike: dict[tuple[int, int], list[Box]] = {}
    for box in boxes:
        alike.setdefault((box.offsets[axis], box.offsets[axis] + box.sizes[axis]), []).append(box)
    ends = sorted(alike)
    if all(first[1] <= second[0] for first, second in pairwise(ends)):
        done = 0
        for start, stop in ends:
            if done < start:
                yield done, start, []
            yield start, stop, alike[start, stop]
            done = stop
        if done < size:
            yield done, size, []
        return
    cuts = sorted({0, size, *(end for interval in ends for end in interval)})
    over: list[tuple[int, int]] = []
    coming = iter([*ends, (size, size)])
    following = next(coming)
    for start, stop in pairwise(cuts):
        over = [interval for interval in over if start < interval[1]]
        while following[0] == start:
            over.append(following)
            following = next(coming)
        inside = [box for interval in over for box in alike[interval]]
        looks.take(len(over) + len(inside))
        yield start, stop, inside


def boxes_between(shape: Shape, start: int, stop: int) -> Iterator[Box]:
    """Yield boxes whose elements, one box after the other, are [start, stop) of a tensor's row-major value.

    Each is one place on its first axes, an interval on the next, and all of the axes after that.

    Examples:
        >>> [str(box) for box in boxes_between((4, 5), 3, 17)]
        ['[0:1, 3:5]', '[1:3, 0:5]', '[3:4, 0:2]']
        >>> [str(box) for box in boxes_between((), 0, 1)]
        ['[]']
    """
    if start < stop:
        yield from _between(shape, (), start, stop)


def _between(shape: Shape, place: Shape, start: int, stop: int) -> Iterator[Box]:
    axis = len(place)
    if axis == len(shape):
        yield Box(place, (1,) * axis)
        return
    row = prod(shape[axis + 1 :])
    (first, head), (last, tail) = divmod(start, row), divmod(stop, row)
    if first == last:
        yield from _between(shape, (*place, first), head, tail)
        return
    if head:
        yield from _between(shape, (*place, first), head, row)
        first += 1
    if first < last:
        rest = _rest(shape, axis + 1)
        yield Box((*place, first, *rest.offsets), (*(1,) * axis, last - first, *rest.sizes))
    if tail:
        yield from _between(shape, (*place, last), 0, tail)


def flat_of(box: Box, shape: Shape) -> int:
    """Return the row-major index of a box's first element."""
    index = 0
    for offset, size in zip(box.offsets, shape, strict=True):
        index = index * size + offset
    return index
