"""Strided copies: nests of loops that move elements from one flat array to another, and how they are cut and fused.

A copy is a start and some loops. Its loops carry two strides each, one for the source and one for the target, so all
that a movement of elements does to indices is integer arithmetic on a handful of numbers. Loops belong to no axis:
the target of a copy is the row-major *flat* index of a value, and `align` cuts loops where an axis needs them cut.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from math import gcd, prod
from operator import mul
from typing import Final, NamedTuple

from weighbridge.base.errors import LayoutError

MAX_PIECES: Final = 1 << 16
"""How many copies one operation may add by cutting before it gives up."""


class Loop(NamedTuple):
    """One loop of a copy: `size` iterations that advance each side by its stride, in elements."""

    size: int
    source_stride: int
    target_stride: int


class Copy(NamedTuple):
    """Move `numel` elements of one source to a value.

    Args:
        source: Number of the source among the sources of a step.
        source_start: Flat index of the first element read.
        target_start: Flat index of the first element written.
        loops: Nest of loops, the one with the largest target stride first.

    Examples:
        >>> Copy(0, 0, 0, (Loop(3, 1, 2), Loop(2, 3, 1))).numel
        6
    """

    source: int
    source_start: int
    target_start: int
    loops: tuple[Loop, ...]

    @property
    def numel(self) -> int:
        """Number of elements that are moved."""
        return prod(loop.size for loop in self.loops)

    @property
    def target_last(self) -> int:
        """Flat index of the last element written."""
        return self.target_start + sum([(size - 1) * stride for size, _, stride in self.loops])

    @property
    def source_last(self) -> int:
        """Flat index of the last element read."""
        return self.source_start + sum([(size - 1) * stride for size, stride, _ in self.loops])


def strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the row-major strides of a shape, in elements.

    Examples:
        >>> strides((2, 3, 5))
        (15, 5, 1)
    """
    return tuple(accumulate(reversed(shape[1:]), mul, initial=1))[::-1] if shape else ()


def solve_shape(shape: Sequence[int], numel: int) -> tuple[int, ...]:
    """Replace a single -1 by the size that makes the shape hold `numel` elements, if there is one.

    Examples:
        >>> solve_shape((4, -1), 24)
        (4, 6)
    """
    shape = tuple(shape)
    known = prod(size for size in shape if size != -1)
    if shape.count(-1) != 1 or known <= 0 or numel % known:
        return shape
    return tuple(numel // known if size == -1 else size for size in shape)


def runs(copy: Copy) -> int:
    """Return the length, in elements, of the runs that are contiguous on both sides.

    Examples:
        >>> whole_rows, elements = Copy(0, 0, 0, (Loop(5, 14, 7), Loop(7, 1, 1))), Copy(0, 0, 0, (Loop(5, 1, 2),))
        >>> runs(whole_rows), runs(elements), runs(Copy(0, 3, 9, ()))
        (7, 1, 1)
    """
    if not copy.loops:
        return 1
    size, read, write = copy.loops[-1]
    return size if read == write == 1 else 1


def swapped(copy: Copy, source: int = 0) -> Copy:
    """Return the copy that undoes `copy`, reading from source number `source`.

    Examples:
        >>> swapped(Copy(3, 10, 20, (Loop(4, 1, 2),)))
        Copy(source=0, source_start=20, target_start=10, loops=(Loop(size=4, source_stride=2, target_stride=1),))
    """
    loops = tuple([Loop(size, write, read) for size, read, write in copy.loops])
    return simplify(Copy(source, copy.target_start, copy.source_start, loops))


def simplify(copy: Copy) -> Copy:
    """Drop loops of one iteration, order the others, and fuse loops that continue each other on both sides.

    Examples:
        >>> simplify(Copy(0, 0, 0, (Loop(7, 1, 1), Loop(1, 9, 9), Loop(5, 7, 7)))).loops
        (Loop(size=35, source_stride=1, target_stride=1),)
    """
    loops = copy.loops
    if not loops or (len(loops) == 1 and loops[0].size != 1):
        return copy
    fused: list[Loop] = []
    for loop in sorted([loop for loop in loops if loop.size != 1], key=_by_target, reverse=True):
        size, read, write = loop
        if fused and fused[-1].source_stride == size * read and fused[-1].target_stride == size * write:
            loop = Loop(fused.pop().size * size, read, write)
        fused.append(loop)
    return copy if fused == list(loops) else Copy(*copy[:3], tuple(fused))


def _by_target(loop: Loop) -> tuple[int, int]:
    return loop.target_stride, loop.source_stride


def pick(copy: Copy, number: int, start: int, stop: int) -> Copy:
    """Restrict loop `number` of a copy to its iterations [start, stop)."""
    _, read, write = copy.loops[number]
    kept = (Loop(stop - start, read, write),) if stop - start != 1 else ()
    loops = copy.loops[:number] + kept + copy.loops[number + 1 :]
    return Copy(copy.source, copy.source_start + start * read, copy.target_start + start * write, loops)


# Cutting


def align(copies: Iterable[Copy], boundaries: Iterable[int], limit: int = MAX_PIECES) -> list[Copy]:
    """Cut copies until no loop carries across a multiple of any of the boundaries of the target's flat index.

    Afterwards each loop's target stride is, for each boundary, either a multiple of it or wholly below it: with the
    strides of a shape as boundaries, each loop lies on exactly one axis.

    Args:
        copies: Simplified copies.
        boundaries: Flat indices; each divides the next larger one.
        limit: How many copies may be added.

    Raises:
        LayoutError: `layout-fragmented`.

    Examples:
        >>> align([Copy(0, 0, 0, (Loop(6, 1, 1),))], [3])[0].loops
        (Loop(size=2, source_stride=3, target_stride=3), Loop(size=3, source_stride=1, target_stride=1))
    """
    done = list(copies)
    limit += len(done)
    for boundary in sorted(set(boundaries), reverse=True):
        todo, done = done[::-1], []
        while todo:
            copy = todo.pop()
            if not _carries(copy, boundary):
                done.append(copy)
            else:
                todo.extend(_divide(copy, boundary))
                check_pieces(len(todo) + len(done), limit)
    return done


def check_pieces(pieces: int, limit: int) -> None:
    """Stop an operation that cuts its input into more than `limit` copies.

    Raises:
        LayoutError: `layout-fragmented`.
    """
    if pieces > limit:
        raise LayoutError(
            "layout-fragmented",
            "the tensor falls into too many pieces",
            expected=f"at most {limit} strided copies",
            hint="do it in two steps, or in an order that keeps longer runs together",
        )


def _carries(copy: Copy, boundary: int) -> bool:
    """Tell whether the loops that are no multiple of `boundary` reach beyond the block that the copy starts in."""
    room = boundary - copy.target_start % boundary
    for size, _, stride in copy.loops:
        if stride % boundary:
            room -= (size - 1) * stride
    return room <= 0


def _divide(copy: Copy, boundary: int) -> tuple[Copy, ...]:
    """Cut the largest loop that carries across `boundary`, in reverse order of the target."""
    inner = [k for k, loop in enumerate(copy.loops) if loop.target_stride % boundary and loop.size > 1]
    number = max(inner, key=lambda k: copy.loops[k].target_stride)
    size, _, stride = copy.loops[number]
    phase = copy.target_start % boundary
    rest = sum((copy.loops[k].size - 1) * copy.loops[k].target_stride for k in inner if k != number)
    # After `period` iterations the loop is where it began, relative to the boundary.
    period = boundary // gcd(boundary, stride)
    tiles = boundary % stride == 0 and phase % stride + rest < stride
    if size > period and (not tiles or phase < stride):
        return _regroup(copy, number, period)
    head = max(1, (boundary - 1 - phase - rest) // stride + 1)  # less than all, as the copy carries
    return pick(copy, number, head, size), pick(copy, number, 0, head)


def _regroup(copy: Copy, number: int, period: int) -> tuple[Copy, ...]:
    """Turn a loop into a loop over whole periods and one inside a period; what is left over becomes its own copy."""
    size, read, write = copy.loops[number]
    count, left = divmod(size, period)
    loops = (Loop(count, read * period, write * period),) if count > 1 else ()
    loops = (*copy.loops[:number], *loops, Loop(period, read, write), *copy.loops[number + 1 :])
    body = Copy(*copy[:3], loops)
    return (pick(copy, number, size - left, size), body) if left else (body,)


def cut_copy(copy: Copy, stride: int, size: int, bounds: Sequence[int]) -> Iterator[tuple[int, Copy]]:
    """Cut a copy along one axis.

    Args:
        copy: Copy that is aligned to `stride` and `stride * size`.
        stride: Stride of the axis in the target, in elements.
        size: Size of the axis.
        bounds: Where the parts begin and end on the axis: part `i` is [bounds[i], bounds[i + 1]).

    Yields:
        Number of a part, and the copy that lies in it; its target is still the whole.
    """
    loops = copy.loops
    along = [k for k, loop in enumerate(loops) if loop[2] % (stride * size) and not loop[2] % stride]
    first = copy.target_start // stride % size
    last = first + sum([(loops[k].size - 1) * loops[k].target_stride for k in along]) // stride
    part = bisect_right(bounds, first) - 1
    if last < bounds[part + 1]:
        yield part, copy
        return
    number = max(along, key=lambda k: loops[k].target_stride)
    count, step = loops[number].size, loops[number].target_stride // stride
    rest = last - first - (count - 1) * step
    done = 0
    while done < count:
        at = first + done * step
        stop = bounds[bisect_right(bounds, at)]
        whole = (stop - 1 - at - rest) // step + 1
        taken = max(1, min(whole, count - done))
        yield from cut_copy(pick(copy, number, done, done + taken), stride, size, bounds)
        done += taken


# Moving


def remapped(copies: Iterable[Copy], move: Callable[[int], int]) -> tuple[Copy, ...]:
    """Apply a map of flat indices, linear on each copy and its loops, to the targets of copies."""
    moved = []
    for source, read, write, loops in copies:
        changed = tuple([Loop(size, stride, move(step)) for size, stride, step in loops])
        moved.append(simplify(Copy(source, read, move(write), changed)))
    return fuse(moved)


def rescaled(copy: Copy, block: int, row: int, shift: int) -> Copy:
    """Move a copy that is aligned to `block` into rows of another length, `shift` elements from their start."""
    source, read, write, loops = copy
    whole, inside = divmod(write, block)
    start = whole * row + inside + shift
    if len(loops) == 1 and loops[0][2] < block:
        return Copy(source, read, start, loops)
    changed = tuple([Loop(size, stride, step // block * row + step % block) for size, stride, step in loops])
    return simplify(Copy(source, read, start, changed))


# Fusing


def sort_by_target(copies: Iterable[Copy]) -> list[Copy]:
    """Return copies in the order of their places in the target."""
    return sorted(copies, key=lambda copy: copy.target_start)


def fuse(copies: Iterable[Copy]) -> tuple[Copy, ...]:
    """Order simplified copies by their place in the target, and join neighbours that are one longer copy.

    Examples:
        >>> fuse([Copy(0, 4, 4, (Loop(3, 1, 1),)), Copy(0, 0, 0, (Loop(4, 1, 1),))])[0].loops
        (Loop(size=7, source_stride=1, target_stride=1),)
    """
    fused: list[Copy] = []
    for copy in sort_by_target(copies):
        while fused and fused[-1].source == copy.source:
            joined = _fuse_pair(fused[-1], copy)
            if joined is None:
                break
            fused.pop()
            copy = joined
        fused.append(copy)
    return tuple(fused)


def turned(groups: Sequence[Sequence[Copy]], sources: int) -> list[list[Copy]]:
    """Return for each source the copies that give it back; their `source` is the number of a group.

    Raises:
        LayoutError: `layout-coverage` where a copy reads from no source.
    """
    written: list[list[Copy]] = [[] for _ in range(sources)]
    for number, copies in enumerate(groups):
        for copy in copies:
            if not 0 <= copy.source < sources:
                raise LayoutError("layout-coverage", "a copy reads from no source", got=repr(copy))
            written[copy.source].append(swapped(copy, number))
    return written


def fuse_reversibly(written: Sequence[Sequence[Copy]], groups: Sequence[Sequence[Copy]]) -> list[tuple[Copy, ...]]:
    """Fuse the copies that turn others round, unless what turns these round again would not be the others.

    Which copies are neighbours is another matter on the other side: two blocks of one size may be one copy there.

    Args:
        written: What `turned` gives.
        groups: What it was given.

    Examples:
        >>> sizes, starts = (2, 3, 2), ((3, 0), (0, 2), (5, 5))
        >>> blocks = [Copy(0, *start, (Loop(size, 1, 1),)) for size, start in zip(sizes, starts, strict=True)]
        >>> back = turned([blocks], 1)
        >>> len(fuse(back[0])), len(fuse_reversibly(back, [blocks])[0])
        (2, 3)
    """
    fused = [fuse(copies) for copies in written]
    if all(len(few) == len(many) for few, many in zip(fused, written, strict=True)):
        return fused
    if all(fuse(back) == tuple(copies) for back, copies in zip(turned(fused, len(groups)), groups, strict=True)):
        return fused
    return [tuple(sort_by_target(copies)) for copies in written]


def _fuse_pair(first: Copy, second: Copy) -> Copy | None:
    """Return one copy for two of the same source, where a loop can hold both."""
    step = second.source_start - first.source_start, second.target_start - first.target_start
    if step[0] < 0 or step[1] <= 0:
        return None
    if first.loops == second.loops:
        loops: tuple[Loop, ...] | None = (Loop(2, *step), *first.loops)
    else:
        loops = _continued(first.loops, second.loops, step) or _begun(first.loops, second.loops, step)
    return simplify(Copy(*first[:3], loops)) if loops else None


def _continued(first: tuple[Loop, ...], second: tuple[Loop, ...], step: tuple[int, int]) -> tuple[Loop, ...] | None:
    """Return the loops of `first` with one of them prolonged by `second`."""
    for k, (size, read, write) in enumerate(first):
        if step != (size * read, size * write):
            continue
        others = first[:k] + first[k + 1 :]
        if second == others:
            return (*first[:k], Loop(size + 1, read, write), *first[k + 1 :])
        same = len(second) == len(first) and second[k][1:] == (read, write)
        if same and second[:k] + second[k + 1 :] == others:
            return (*first[:k], Loop(size + second[k].size, read, write), *first[k + 1 :])
    return None


def _begun(first: tuple[Loop, ...], second: tuple[Loop, ...], step: tuple[int, int]) -> tuple[Loop, ...] | None:
    """Return the loops of `second` with one of them begun by `first`."""
    for k, (size, read, write) in enumerate(second):
        if step == (read, write) and second[:k] + second[k + 1 :] == first:
            return (*second[:k], Loop(size + 1, read, write), *second[k + 1 :])
    return None
