"""Tell whether two values are written alike, however their copies are cut: one long copy may be several short ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, product
from math import prod
from operator import itemgetter
from typing import Final

from weighbridge.algebra.copies import Copy, Loop
from weighbridge.algebra.layout import Layout

MAX_RUNS: Final = 1 << 18
"""The most runs that copies are cut into to be compared."""


def is_same(first: Layout, second: Layout) -> bool:
    """Tell whether two layouts move the same elements to the same places; no, where that would take too long to find.

    Examples:
        >>> whole = Layout((10,), (Copy(0, 0, 0, (Loop(2, 6, 5), Loop(4, 1, 1))), Copy(0, 4, 4, (Loop(1, 1, 1),))))
        >>> parts = [Copy(0, 0, 0, (Loop(4, 1, 1),)), Copy(0, 6, 5, (Loop(4, 1, 1),)), Copy(0, 4, 4, (Loop(1, 1, 1),))]
        >>> is_same(whole, Layout((10,), tuple(parts))), is_same(whole, Layout((10,), tuple(parts[:2])))
        (True, False)
    """
    if first.shape != second.shape:
        return False
    if first.copies == second.copies:
        return True
    shared = _shared_loops([*first.copies, *second.copies])
    sides = [_without(side.copies, shared) for side in (first, second)]
    if sum(_count_runs(copy) for side in sides for copy in side) > MAX_RUNS:
        return False
    return _runs(sides[0]) == _runs(sides[1])


def _shared_loops(copies: Sequence[Copy]) -> Counter[Loop]:
    """Return the loops that all copies have: what they repeat is the same if it is so once."""
    shared = Counter(copies[0].loops) if copies else Counter[Loop]()
    for copy in copies:
        shared &= Counter(copy.loops)
    return shared


def _without(copies: Iterable[Copy], shared: Counter[Loop]) -> list[Copy]:
    left = []
    for copy in copies:
        loops, gone = [], Counter(shared)
        for loop in copy.loops:
            if gone[loop]:
                gone[loop] -= 1
            else:
                loops.append(loop)
        left.append(copy._replace(loops=tuple(loops)))
    return left


def _count_runs(copy: Copy) -> int:
    return prod(size for size, read, write in copy.loops if (read, write) != (1, 1))


def _runs(copies: Iterable[Copy]) -> list[list[int]]:
    """Cut copies into runs of neighbours, as long as can be: source, start in it, start in the target, length."""
    joined: list[list[int]] = []
    for source, read, write, length in sorted(chain.from_iterable(map(_cut, copies)), key=itemgetter(2)):
        last = joined[-1] if joined else [-1, 0, 0, 0]
        if [source, read, write] == [last[0], last[1] + last[3], last[2] + last[3]]:
            last[3] += length
        else:
            joined.append([source, read, write, length])
    return joined


def _cut(copy: Copy) -> Iterator[tuple[int, int, int, int]]:
    outer = [loop for loop in copy.loops if loop[1:] != (1, 1)]
    length = prod(loop.size for loop in copy.loops if loop[1:] == (1, 1))
    for places in product(*(range(loop.size) for loop in outer)):
        read = sum(place * loop.source_stride for place, loop in zip(places, outer, strict=True))
        write = sum(place * loop.target_stride for place, loop in zip(places, outer, strict=True))
        yield copy.source, copy.source_start + read, copy.target_start + write, length
