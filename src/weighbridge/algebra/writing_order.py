"""Copies in the order in which they write: cut into parts of a size, and laid densely, to be written run by run."""

from __future__ import annotations

from collections.abc import Iterator

from weighbridge.algebra.copies import Copy, Loop, pick
from weighbridge.algebra.sections import Intervals


def chunks(copy: Copy, numel: int) -> Iterator[Copy]:
    """Cut a copy into parts of at most `numel` elements, in the order of its loops: the outermost is cut first.

    Examples:
        >>> rows = Copy(0, 0, 0, (Loop(5, 3, 10), Loop(3, 1, 1)))
        >>> [(part.target_start, part.numel) for part in chunks(rows, 7)]
        [(0, 6), (20, 6), (40, 3)]
        >>> [part.numel for part in chunks(rows, 2)][:3]
        [2, 1, 2]
    """
    if copy.numel <= numel:
        yield copy
        return
    size = copy.loops[0].size
    inner = copy.numel // size
    count = max(1, numel // inner)
    for start in range(0, size, count):
        part = pick(copy, 0, start, min(start + count, size))
        yield from [part] if inner <= numel else chunks(part, numel)


def densely(copy: Copy) -> tuple[Copy, Intervals]:
    """Lay what a copy writes one element behind the other.

    Returns:
        The copy, which writes to a buffer of its own number of elements, and the runs of the target that these belong
        to, in their order.

    Examples:
        >>> part, runs = densely(Copy(0, 7, 4, (Loop(2, 1, 30), Loop(3, 20, 5), Loop(5, 4, 1))))
        >>> [loop.target_stride for loop in part.loops], list(runs.between(0, part.numel))
        ([15, 5, 1], [(4, 15), (34, 15)])
    """
    loops: list[Loop] = []
    step = run = 1
    outer: list[Loop] = []
    for size, read, write in reversed(copy.loops):
        loops.append(Loop(size, read, step))
        step *= size
        if write == run and not outer:
            run = step
        else:
            outer.append(Loop(size, write, 0))
    dense = Copy(copy.source, copy.source_start, 0, tuple(reversed(loops)))
    return dense, Intervals(copy.target_start, run, tuple(reversed(outer)))
