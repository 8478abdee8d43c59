"""Count how often each element of a flat array is touched by strided copies, without a bitmap of the array.

Copies are first split into groups whose extents do not overlap. A group of contiguous runs is swept from left to right.
Any other group is cut into rows as long as its largest stride; the rows are swept, and each distinct set of pieces that
shares a row is counted the same way, one stride smaller. All of it is integer arithmetic, so the counts are exact.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from math import prod

from weighbridge.algebra.copies import MAX_PIECES, Copy, Loop, align, simplify, sort_by_target
from weighbridge.base.errors import LayoutError

Span = tuple[int, int]
"""Half-open interval [start, stop) of flat indices."""

Count = tuple[int, int]
"""Number of elements touched once, and of those touched more than once."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """How often the elements of an array are touched.

    Args:
        numel: Number of elements.
        once: Those touched exactly once.
        unused: Those not touched at all.
        multiple: Those touched more than once.

    Examples:
        >>> Coverage(5, once=4, unused=1, multiple=0).exact
        False
    """

    numel: int
    once: int
    unused: int
    multiple: int

    @property
    def exact(self) -> bool:
        """Whether each element is touched exactly once."""
        return self.once == self.numel

    def __str__(self) -> str:
        return f"{self.once} of {self.numel} elements once, {self.unused} not at all, {self.multiple} more than once"


def coverage(copies: Iterable[Copy], numel: int) -> Coverage:
    """Count how often the copies write each of the `numel` elements of their target.

    For the elements of a source, pass `map(swapped, copies)`. The copies may come from anywhere: nothing about them is
    taken for granted but that they hold integers.

    Raises:
        LayoutError: `layout-coverage` when a copy reaches outside, or when the copies are too tangled to be counted.

    Examples:
        >>> coverage([Copy(0, 0, 0, (Loop(4, 1, 2),)), Copy(0, 0, 1, (Loop(3, 1, 2),))], 8)
        Coverage(numel=8, once=7, unused=1, multiple=0)
    """
    copies = list(copies)
    spans = _spans(copies)
    if spans is not None and all(0 <= start < stop <= numel for start, stop in spans):
        once, multiple = _sweep(spans)
    else:
        once, multiple = _count_checked(copies, numel)
    return Coverage(numel, once, numel - once - multiple, multiple)


def _count_checked(copies: Iterable[Copy], numel: int) -> Count:
    pieces = [piece for copy in copies for piece in _pieces(copy, numel)]
    try:
        return _count(pieces, _Budget(MAX_PIECES + 16 * len(pieces)))
    except LayoutError as error:
        if error.code != "layout-fragmented":
            raise
        raise LayoutError("layout-coverage", "the copies are too fragmented to prove anything about them") from None


def _pieces(copy: Copy, numel: int) -> list[Copy]:
    """Return the target side of a copy alone, in order; twice when a stride of zero touches each element again."""
    sound = copy.target_start >= 0 and all(loop.size >= 1 and loop.target_stride >= 0 for loop in copy.loops)
    if not sound or copy.target_last >= numel:
        raise LayoutError(
            "layout-coverage",
            "a copy reaches outside of its tensor",
            expected=f"elements [0, {numel})",
            got=repr(copy),
        )
    loops = tuple(Loop(size, 0, stride) for size, _, stride in copy.loops if stride)
    again = any(loop.size > 1 and not loop.target_stride for loop in copy.loops)
    return [simplify(Copy(0, 0, copy.target_start, loops))] * (2 if again else 1)


def _spans(copies: Sequence[Copy]) -> list[Span] | None:
    """Return the interval of each copy when all are contiguous."""
    spans = []
    for _, _, start, loops in copies:
        if not loops:
            spans.append((start, start + 1))
        elif len(loops) == 1 and loops[0][2] == 1:
            spans.append((start, start + loops[0][0]))
        else:
            return None
    return spans


def _sweep(spans: list[Span]) -> Count:
    """Count elements of intervals, which need not be in order."""
    spans.sort()
    if all(left[1] <= right[0] for left, right in pairwise(spans)):
        return sum(stop - start for start, stop in spans), 0
    events: defaultdict[int, int] = defaultdict(int)
    for start, stop in spans:
        events[start] += 1
        events[stop] -= 1
    counts = [0, 0, 0]
    depth, at = 0, 0
    for place in sorted(events):
        counts[min(depth, 2)] += place - at
        depth, at = depth + events[place], place
    return counts[1], counts[2]


@dataclass(slots=True)
class _Budget:
    """Pieces that may still be looked at before the copies count as too fragmented."""

    left: int

    def spend(self, pieces: int) -> None:
        self.left -= pieces
        if self.left < 0:
            raise LayoutError("layout-fragmented", "too many pieces")


def _count(pieces: Sequence[Copy], budget: _Budget) -> Count:
    budget.spend(len(pieces))
    once = multiple = 0
    for group in _groups(pieces):
        spans = _spans(group)
        if spans is not None:
            found = _sweep(spans)
        elif len(group) == 1 and _is_nested(group[0]):
            found = group[0].numel, 0
        else:
            found = _count_rows(group, budget)
        once, multiple = once + found[0], multiple + found[1]
    return once, multiple


def _groups(pieces: Sequence[Copy]) -> Iterator[list[Copy]]:
    """Yield the pieces in groups whose extents do not overlap."""
    group: list[Copy] = []
    last = -1
    for piece in sort_by_target(pieces):
        if group and piece.target_start > last:
            yield group
            group = []
        group.append(piece)
        last = max(last, piece.target_last)
    if group:
        yield group


def _is_nested(piece: Copy) -> bool:
    """Tell whether each loop steps over all that the loops inside it touch, so that nothing is touched twice."""
    reach = 0
    for size, _, stride in reversed(piece.loops):
        if stride <= reach:
            return False
        reach += (size - 1) * stride
    return True


def _count_rows(group: Sequence[Copy], budget: _Budget) -> Count:
    """Count a group by its rows, which are as long as its largest stride."""
    origin = group[0].target_start
    pieces = [Copy(0, 0, piece.target_start - origin, piece.loops) for piece in group]
    length, largest = 0, _largest_stride(pieces)
    # Cutting a stride that does not divide the row gives one that is larger: start again with that.
    while largest > length:
        length = largest
        pieces = align(pieces, [length], budget.left)
        largest = _largest_stride(pieces)
    begin: defaultdict[int, list[tuple[int, Copy]]] = defaultdict(list)
    end: defaultdict[int, list[int]] = defaultdict(list)
    for number, (start, stop, inside) in enumerate(_rows(pieces, length, budget)):
        begin[start].append((number, inside))
        end[stop].append(number)
    return _sweep_rows(begin, end, budget)


def _largest_stride(pieces: Iterable[Copy]) -> int:
    return max(loop.target_stride for piece in pieces for loop in piece.loops)


def _rows(pieces: Iterable[Copy], length: int, budget: _Budget) -> Iterator[tuple[int, int, Copy]]:
    """Yield for each piece the interval of rows that it touches, and what it touches inside each of them."""
    for piece in pieces:
        row, offset = divmod(piece.target_start, length)
        inside = Copy(0, 0, offset, tuple([loop for loop in piece.loops if loop.target_stride != length]))
        *others, longest = sorted([1, *(loop.size for loop in piece.loops if loop.target_stride == length)])
        budget.spend(prod(others))  # before `product` makes lists of them
        for shifts in product(*map(range, others)):
            yield row + sum(shifts), row + sum(shifts) + longest, inside


def _sweep_rows(begin: dict[int, list[tuple[int, Copy]]], end: dict[int, list[int]], budget: _Budget) -> Count:
    active: dict[int, Copy] = {}
    known: dict[tuple[Copy, ...], Count] = {}
    once = multiple = 0
    for row, following in pairwise(sorted({*begin, *end})):
        for number in end.get(row, ()):
            del active[number]
        active.update(begin.get(row, ()))
        pieces = tuple(active.values())
        budget.spend(len(pieces))
        if pieces not in known:
            known[pieces] = _count(pieces, budget)
        once += known[pieces][0] * (following - row)
        multiple += known[pieces][1] * (following - row)
    return once, multiple
