"""Cut a copy into sections that read a short interval of their source, so that each can be read as one piece."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from weighbridge.algebra.copies import Copy, Loop, pick


def reach(copy: Copy) -> int:
    """Return the length of the interval of the source that a copy reads from, in elements.

    Examples:
        >>> from weighbridge.algebra.copies import Loop
        >>> reach(Copy(0, 5, 0, (Loop(3, 10, 2), Loop(2, 1, 1))))
        22
    """
    return copy.source_last - copy.source_start + 1


def sections(copy: Copy, longest: int, numel: int) -> Iterator[Copy]:
    """Cut a copy so that no section reads from an interval of more than `longest` elements, or copies over `numel`.

    Args:
        copy: The copy.
        longest: The most elements of the source from a section's first to its last; at least 1.
        numel: The most elements in a section; at least 1.

    Yields:
        Sections in the order in which they lie in the source, as far as its loops allow that.

    Examples:
        >>> from weighbridge.algebra.copies import Loop
        >>> rows = Copy(0, 0, 0, (Loop(4, 10, 1), Loop(10, 1, 4)))
        >>> [(part.source_start, part.numel) for part in sections(rows, 20, 100)]
        [(0, 20), (20, 20)]
    """
    if not copy.loops or (reach(copy) <= longest and copy.numel <= numel):
        yield copy
        return
    number = max(range(len(copy.loops)), key=lambda k: (copy.loops[k].source_stride, copy.loops[k].size))
    size, stride, _ = copy.loops[number]
    inner = pick(copy, number, 0, 1)
    room = (longest - reach(inner)) // stride + 1 if stride else size
    count = max(1, min(room, numel // inner.numel, size))
    for start in range(0, size, count):
        part = pick(copy, number, start, min(start + count, size))
        if reach(part) <= longest and part.numel <= numel:
            yield part
        else:
            yield from sections(part, longest, numel)


class Rows(NamedTuple):
    """What several copies read alike: parts of the same rows.

    Args:
        start: The first element that any of them reads.
        number: How many rows.
        stride: Elements from one row to the next.
        reach: Elements from the first that is read of a row to the last.
    """

    start: int
    number: int
    stride: int
    reach: int

    def between(self, copies: Sequence[Copy], first: int, last: int) -> list[Copy]:
        """Return what the copies read of rows [first, last), counted from the first element that is read of them.

        Examples:
            >>> halves = [Copy(0, k, 4 * k, (Loop(4, 2, 1),)) for k in range(2)]
            >>> [part.source_start for part in Rows(0, 4, 2, 2).between(halves, 2, 4)]
            [0, 1]
        """
        found = [pick(copy, _outermost(copy), first, last) for copy in copies]
        return [part._replace(source_start=part.source_start - self.start - first * self.stride) for part in found]


def rows_of(copies: Sequence[Copy]) -> Rows | None:
    """Return the rows that all of some copies read parts of; None if they do not, or leave most of each row out.

    Examples:
        >>> thirds = [Copy(0, 4 * k, 0, (Loop(5, 12, 4), Loop(4, 1, 1))) for k in range(3)]
        >>> rows_of(thirds)
        Rows(start=0, number=5, stride=12, reach=12)
        >>> rows_of([thirds[0], thirds[2]._replace(loops=())]), rows_of([thirds[0]._replace(source_start=9), thirds[0]])
        (None, None)
    """
    if any(not copy.loops for copy in copies):
        return None
    outer = {(loop.size, loop.source_stride) for loop in (copy.loops[_outermost(copy)] for copy in copies)}
    inner = [pick(copy, _outermost(copy), 0, 1) for copy in copies]
    start = min(part.source_start for part in inner)
    width = max(part.source_start + reach(part) for part in inner) - start
    if len(outer) != 1:
        return None
    ((number, stride),) = outer
    is_dense = width <= stride <= 2 * sum(part.numel for part in inner)
    return Rows(start, number, stride, width) if is_dense else None


def _outermost(copy: Copy) -> int:
    return max(range(len(copy.loops)), key=lambda k: copy.loops[k].source_stride)


class Intervals(NamedTuple):
    """Intervals of one length in a source, laid one after the other.

    Args:
        start: Where the first one begins, in elements of the source.
        numel: How many elements each of them has.
        loops: Count the others, outermost first; only the loops' sizes and source strides matter.
    """

    start: int
    numel: int
    loops: tuple[Loop, ...]

    def between(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield where elements [start, stop) of the row of intervals lie in the source: first element, and how many.

        Examples:
            >>> list(Intervals(5, 10, (Loop(3, 1000, 0),)).between(8, 21))
            [(13, 2), (1005, 10), (2005, 1)]
        """
        for number in range(start // self.numel, -(-stop // self.numel)):
            origin = number * self.numel
            first, last = max(start, origin), min(stop, origin + self.numel)
            place = self.start + first - origin
            for size, stride, _ in reversed(self.loops):
                number, turn = divmod(number, size)
                place += turn * stride
            yield place, last - first


def close_gaps(copy: Copy, far: int) -> tuple[Copy, Intervals]:
    """Leave out of a copy's source what lies between parts that are far apart, at least as much as they hold.

    Args:
        copy: The copy.
        far: From how many elements on a stride leads to another part.

    Returns:
        The copy as it reads from the parts laid one after the other, and where these lie.

    Examples:
        >>> columns = Copy(0, 7, 0, (Loop(4, 1000, 3), Loop(3, 1, 1)))
        >>> close_gaps(columns, 100)[0].loops
        (Loop(size=4, source_stride=3, target_stride=3), Loop(size=3, source_stride=1, target_stride=1))
        >>> close_gaps(columns, 2000)[1]
        Intervals(start=7, numel=3003, loops=())
    """
    order = sorted(range(len(copy.loops)), key=lambda k: copy.loops[k].source_stride)
    strides = [loop.source_stride for loop in copy.loops]
    distant: list[int] = []
    numel = 1
    for number in order:
        size, stride, _ = copy.loops[number]
        if distant or (stride >= far and 2 * numel <= stride):
            distant.append(number)
        else:
            numel += (size - 1) * stride
    step = numel
    for number in distant:
        strides[number] = step
        step *= copy.loops[number].size
    loops = tuple(
        [Loop(loop.size, stride, loop.target_stride) for loop, stride in zip(copy.loops, strides, strict=True)]
    )
    apart = tuple([copy.loops[number] for number in reversed(distant)])
    return Copy(copy.source, 0, copy.target_start, loops), Intervals(copy.source_start, numel, apart)
