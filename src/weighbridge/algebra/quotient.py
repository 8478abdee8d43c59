"""Divide a movement of elements by grids: what it does to entries that each stand for a block of elements.

A grid of scales has an entry for each block of a weight, and a packed tensor one for each few elements. Where every
block of the source becomes one block of the target, the same movement over entries is the weight's own, divided: the
copies are cut at the boundaries of axes and blocks on both sides, loops inside a block vanish, and those over blocks
stay, with other strides. Where an axis has one entry for all of it, several entries may come to one place, which must
then be equal, and one may go to several.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod
from operator import itemgetter
from typing import Final, NamedTuple

from weighbridge.algebra.copies import Copy, Loop, align, fuse, simplify, strides, swapped
from weighbridge.algebra.coverage import coverage
from weighbridge.algebra.layout import Layout
from weighbridge.base.specs import Shape

MAX_ENTRIES: Final = 1 << 16
"""The most entries that are looked at one by one, where copies of parts of blocks do not come to the same otherwise."""

MAX_TURNS: Final = 512
"""The most entries of one source that may come to one place, or places that one entry may go to."""


@dataclass(frozen=True)
class Grid:
    """How the entries of a stored tensor lie over the elements of a value.

    Args:
        shape: Sizes of the value.
        blocks: For each axis, how many elements an entry stands for; the last one may have fewer.
        steps: For each axis, how far the entry of the next block lies in the stored tensor, in its elements.
        stored: Sizes of the stored tensor.
        whole: Axes that have one entry for all of their elements.
        roles: The axes of which blocks are told apart, in an order that is the same on both sides of a movement.
        kept: Those along which elements must keep their places in an entry, as numbers of `roles`.
        inner: What a block has beyond its first element in the stored tensor, as loops of sizes and steps.

    Examples:
        >>> Grid.of((6, 8), (4, 1)).stored
        (2, 8)
    """

    shape: Shape
    blocks: tuple[int, ...]
    steps: tuple[int, ...]
    stored: Shape
    whole: frozenset[int] = frozenset()
    roles: tuple[int, ...] = ()
    kept: tuple[int, ...] = ()
    inner: tuple[tuple[int, int], ...] = ()

    @staticmethod
    def of(shape: Sequence[int], blocks: Sequence[int], kept: tuple[int, ...] = ()) -> Grid:
        """Return the grid whose stored tensor has the axes of the value."""
        counts = tuple(-(-size // block) for size, block in zip(shape, blocks, strict=True))
        return Grid(tuple(shape), tuple(blocks), strides(counts), counts, roles=tuple(range(len(counts))), kept=kept)

    @cached_property
    def padded(self) -> tuple[int, ...]:
        """Strides of the value with every axis made whole blocks long."""
        sides = zip(self.shape, self.blocks, strict=True)
        return strides(tuple(-(-size // block) * block for size, block in sides))

    @cached_property
    def boundaries(self) -> tuple[int, ...]:
        """Where axes and blocks end in the padded value: each divides the next larger one."""
        return (*self.padded, *(step * block for step, block in zip(self.padded, self.blocks, strict=True)))

    @cached_property
    def _axes(self) -> tuple[tuple[int, int, int, int, int], ...]:
        """For each axis: its stride, size, padded stride, block and step."""
        return tuple(zip(strides(self.shape), self.shape, self.padded, self.blocks, self.steps, strict=True))

    def pad(self, index: int) -> int:
        """Return where a flat index, or a stride along one axis, lies in the padded value."""
        return sum([index // stride % size * padded for stride, size, padded, _, _ in self._axes])

    def entry(self, padded_index: int) -> int:
        """Return the stored index of the entry that an element of the padded value belongs to."""
        found, rest = 0, padded_index
        for _, _, padded, block, step in self._axes:
            place, rest = divmod(rest, padded)
            found += place // block * step
        return found

    def places(self, padded_index: int) -> list[int]:
        """Return where an element of the padded value lies in its entry, along each axis."""
        found, rest = [], padded_index
        for _, _, padded, block, _ in self._axes:
            place, rest = divmod(rest, padded)
            found.append(place % block)
        return found

    def kept_places(self, padded_index: int) -> list[int]:
        """Return where an element of the padded value lies in its entry, along each axis that is kept."""
        found = self.places(padded_index)
        return [found[self.roles[number]] for number in self.kept]

    def is_along_role(self, padded_stride: int) -> bool:
        """Tell whether a stride of the padded value leads along an axis of which blocks are told apart."""
        axes = zip(self.padded, self.shape, strict=True)
        return next(n for n, (step, size) in enumerate(axes) if size > 1 and step <= padded_stride) in self.roles

    @property
    def sizes_inside(self) -> list[int]:
        """Sizes of the loops over what a block has inside."""
        return [size for size, _ in self.inner]

    @property
    def is_fine(self) -> bool:
        """Whether each entry stands for one element, but along axes that have one for all."""
        return all(block == 1 or axis in self.whole for axis, block in enumerate(self.blocks))

    @property
    def is_plain(self) -> bool:
        """Whether the stored tensor is the value itself."""
        return self.stored == self.shape and not self.whole and set(self.blocks) <= {1} and self.steps == self.padded

    def refined(self) -> Grid:
        """Return the grid with an entry for each element of the axes that have one for all."""
        blocks = [1 if axis in self.whole else block for axis, block in enumerate(self.blocks)]
        fine = Grid.of(self.shape, blocks)
        return Grid(fine.shape, fine.blocks, fine.steps, fine.stored, roles=self.roles)


class Seam(NamedTuple):
    """Why a movement does not divide.

    Args:
        source: Number of the source whose blocks do not stay whole.
        role: The axis, as a number of the grids' `roles`; None where no single axis is to blame.
        block: Elements of a block along it.
        at: Where two parts meet within a block, in elements along the axis.
        size: How long the axis is there.
        is_target: Whether that is a block of the target, and not of the source.
        is_order: Whether blocks stay whole and their elements would change places within them.
    """

    source: int
    role: int | None = None
    block: int = 1
    at: int = 0
    size: int = 0
    is_target: bool = False
    is_order: bool = False


class Quotient(NamedTuple):
    """A movement of entries.

    Args:
        slots: For each tensor that is read, the number of its source; one that is read for several places stands here
            as often.
        outputs: The number of a target, and what writes it; a target that several ways make stands here as often.
    """

    slots: tuple[int, ...]
    outputs: tuple[tuple[int, Layout], ...]

    @property
    def is_plain(self) -> bool:
        """Whether each entry is read once and written once, so that no two need to be equal."""
        return len(set(self.slots)) == len(self.slots) and len(dict(self.outputs)) == len(self.outputs)


def divide(
    layouts: Sequence[Layout], sources: Sequence[Grid], targets: Sequence[Grid], *, may_repeat: bool = True
) -> Quotient | Seam:
    """Divide a movement by grids.

    Args:
        layouts: What is made of the elements of the sources.
        sources: The grid of each source, by slot number.
        targets: The grid of each value that is made.
        may_repeat: Whether entries for a whole axis may come to one place, or go to several.

    Returns:
        What the movement does to entries, or why it does not come down to that.

    Raises:
        LayoutError: `layout-fragmented`.

    Examples:
        >>> from weighbridge.algebra.layout import concat
        >>> parts = [Grid.of((size, 4), (128, 1)) for size in (256, 192)]
        >>> joined = concat([Layout.of(0, (256, 4)), Layout.of(1, (192, 4))], 0)
        >>> found = divide([joined], parts, [Grid.of((448, 4), (128, 1))])
        >>> found.outputs[0][1].shape, [copy.target_start for copy in found.outputs[0][1].copies]
        ((4, 4), [0, 8])
        >>> joined = concat([Layout.of(1, (192, 4)), Layout.of(0, (256, 4))], 0)
        >>> divide([joined], parts, [Grid.of((448, 4), (128, 1))])
        Seam(source=0, role=0, block=128, at=192, size=448, is_target=True, is_order=False)
    """
    if all(grid.is_plain for grid in (*sources, *targets)):
        return Quotient(tuple(range(len(sources))), tuple(enumerate(layouts)))
    may_repeat = may_repeat and any(grid.whole for grid in (*sources, *targets))
    if may_repeat and not all(grid.is_fine for grid in (*sources, *targets)):
        seam = _divide(layouts, [grid.refined() for grid in sources], [grid.refined() for grid in targets], False)
        if isinstance(seam, Seam):
            return seam
    return _divide(layouts, sources, targets, may_repeat)


def _divide(
    layouts: Sequence[Layout], sources: Sequence[Grid], targets: Sequence[Grid], may_repeat: bool
) -> Quotient | Seam:
    made: list[tuple[int, int, list[Copy]]] = []
    for number, (layout, target) in enumerate(zip(layouts, targets, strict=True)):
        pairs = _pairs(layout, sources, target, may_repeat)
        if isinstance(pairs, Seam):
            return pairs
        ways = _ways(pairs, prod(target.stored))
        if ways is None or (len(ways) > 1 and not may_repeat):
            return _find_seam(layout, sources, target)
        made += [(way, number, copies) for way, copies in enumerate(ways)]
    made.sort(key=itemgetter(0, 1))  # the first way of each target before all others, as in a step
    told = _told_apart([copies for _, _, copies in made], sources)
    if told is None or (len(told[0]) > len(sources) and not may_repeat):
        return next(_seams(layouts, sources, targets), Seam(0))
    slots, written = told
    numbers = [number for _, number, _ in made]
    outputs = [(n, Layout(targets[n].stored, copies)) for n, copies in zip(numbers, written, strict=True)]
    return Quotient(tuple(slots), tuple(outputs))


# ---- what elements do, as pairs of entries ----


def _pairs(layout: Layout, sources: Sequence[Grid], target: Grid, may_repeat: bool) -> list[Copy] | Seam:
    """Return which entry of which source goes to which entry, each pair of a copy once."""
    found: dict[Copy, None] = {}
    for copy in _aligned(layout, sources, target):
        source = sources[copy.source]
        steps = [(source.kept_places(read), target.kept_places(write)) for _, read, write in copy.loops]
        starts = source.kept_places(copy.source_start), target.kept_places(copy.target_start)
        if starts[0] != starts[1] or source.sizes_inside != target.sizes_inside:
            return _find_seam(layout, sources, target)
        if any(read != write for read, write in steps):
            seam = _find_seam(layout, sources, target)
            return seam._replace(is_order=seam.role is None)
        loops = [Loop(size, source.entry(read), target.entry(write)) for size, read, write in copy.loops]
        moving = tuple([loop for loop in loops if loop.source_stride and loop.target_stride])
        turns = [loop for loop in loops if bool(loop.source_stride) != bool(loop.target_stride)]
        along = [_is_along(cut, loop, source, target) for cut, loop in zip(copy.loops, loops, strict=True)]
        if turns and (not may_repeat or any(along) or prod(loop.size for loop in turns) > MAX_TURNS):
            return _find_seam(layout, sources, target)
        start = Copy(copy.source, source.entry(copy.source_start), target.entry(copy.target_start), moving)
        found |= dict.fromkeys(map(simplify, _turned_out(start, turns)))
    return [_with_inner(copy, sources[copy.source], target) for copy in _singled(list(found), target)]


def _is_along(cut: Loop, loop: Loop, source: Grid, target: Grid) -> bool:
    """Tell whether a loop stays at one entry on one side, and leads along rows or columns on the other."""
    if loop.source_stride and not loop.target_stride:
        return source.is_along_role(cut.source_stride)
    return bool(loop.target_stride and not loop.source_stride) and target.is_along_role(cut.target_stride)


def _turned_out(copy: Copy, loops: Sequence[Loop]) -> Iterator[Copy]:
    """Yield a copy once for each turn of loops that stay at one place on one side."""
    for places in product(*(range(loop.size) for loop in loops)):
        pairs = list(zip(places, loops, strict=True))
        read = sum(place * loop.source_stride for place, loop in pairs)
        write = sum(place * loop.target_stride for place, loop in pairs)
        yield copy._replace(source_start=copy.source_start + read, target_start=copy.target_start + write)


def _singled(copies: list[Copy], target: Grid) -> list[Copy]:
    """Return copies none of which repeats pairs of another one, as far as that is found by looking at each pair."""
    counts = coverage(copies, prod(target.stored))
    if not counts.multiple or sum(copy.numel for copy in copies) > MAX_ENTRIES:
        return copies
    pairs = {single for copy in copies for single in _turned_out(copy._replace(loops=()), copy.loops)}
    return sorted(pairs)


def _with_inner(copy: Copy, source: Grid, target: Grid) -> Copy:
    """Add the loops over what a block has inside, which is the same on both sides."""
    sides = zip(source.inner, target.inner, strict=True)
    return simplify(
        copy._replace(loops=(*copy.loops, *(Loop(size, read, write) for (size, read), (_, write) in sides)))
    )


def _aligned(layout: Layout, sources: Sequence[Grid], target: Grid) -> Iterator[Copy]:
    """Cut copies where axes and blocks end, on both sides; they then move elements of the padded values."""
    for copy in _on_axes(layout, sources, target):
        source = sources[copy.source]
        loops = tuple([Loop(size, source.pad(read), target.pad(write)) for size, read, write in copy.loops])
        padded = Copy(copy.source, source.pad(copy.source_start), target.pad(copy.target_start), loops)
        for part in align([padded], target.boundaries):
            yield from map(_turned, align([_turned(part)], source.boundaries))


def _on_axes(layout: Layout, sources: Sequence[Grid], target: Grid) -> Iterator[Copy]:
    """Cut copies so that each of their loops lies on one axis of the source and one of the target."""
    for copy in align(layout.copies, strides(target.shape)):
        yield from map(_turned, align([_turned(copy)], strides(sources[copy.source].shape)))


def _turned(copy: Copy) -> Copy:
    """Exchange the sides of a copy, with every loop left as it is cut."""
    loops = tuple([Loop(size, write, read) for size, read, write in copy.loops])
    return Copy(copy.source, copy.target_start, copy.source_start, loops)


# ---- which of the pairs can be had together ----


def _ways(copies: Sequence[Copy], numel: int) -> list[list[Copy]] | None:
    """Sort copies into ways of writing each entry of a target once; None where they do not come out even."""
    ways = _sorted_apart(copies, numel)
    return ways if all(coverage(way, numel).exact for way in ways) else None


def _sorted_apart(copies: Iterable[Copy], numel: int) -> list[list[Copy]]:
    """Put each copy where no other one writes what it writes, into as few lists as come of that.

    Too many copies for that stay in one list.
    """
    copies = list(copies)
    if not coverage(copies, numel).multiple or len(copies) > MAX_TURNS:
        return [copies]
    apart: list[list[Copy]] = []
    for copy in copies:
        free = next((way for way in apart if not coverage([*way, copy], numel).multiple), None)
        if free is None:
            apart.append([copy])
        else:
            free.append(copy)
    return apart


def _told_apart(
    outputs: Sequence[Sequence[Copy]], sources: Sequence[Grid]
) -> tuple[list[int], list[tuple[Copy, ...]]] | None:
    """Give a source that is read several times as many slots, so that each is read once.

    Returns:
        For each slot the number of its source, and the copies of each output with the slots that they read. None where
        some entries of a source are read more often than others.
    """
    slots = list(range(len(sources)))
    renumbered = [list(copies) for copies in outputs]
    uses: dict[int, list[tuple[int, int]]] = {}
    for k, copies in enumerate(outputs):
        for i, copy in enumerate(copies):
            uses.setdefault(copy.source, []).append((k, i))
    for number, places in sorted(uses.items()):
        reads = [swapped(outputs[k][i], place) for place, (k, i) in enumerate(places)]
        numel = prod(sources[number].stored)
        times = _sorted_apart(reads, numel)
        counts = [coverage(each, numel) for each in times]
        if any(count.multiple for count in counts) or (len(times) > 1 and not all(count.exact for count in counts)):
            return None
        for again in times[1:]:
            for read in again:
                k, i = places[read.source]
                renumbered[k][i] = renumbered[k][i]._replace(source=len(slots))
            slots.append(number)
    return slots, [fuse(copies) for copies in renumbered]


# ---- what is in the way ----


def _find_seam(layout: Layout, sources: Sequence[Grid], target: Grid) -> Seam:
    """Return where two parts meet within a block, or name the source alone."""
    found = list(_seams([layout], sources, [target]))
    return min(found, key=lambda seam: (seam.at, seam.source)) if found else Seam(0)


def _seams(layouts: Sequence[Layout], sources: Sequence[Grid], targets: Sequence[Grid]) -> Iterator[Seam]:
    """Yield each place where a part begins within a block of one side, and elsewhere in one of the other."""
    for layout, target in zip(layouts, targets, strict=True):
        for copy in _on_axes(layout, sources, target):
            source = sources[copy.source]
            for role, axes in enumerate(zip(source.roles, target.roles, strict=True)):
                read, write = (
                    index // strides(grid.shape)[axis] % grid.shape[axis]
                    for index, grid, axis in (
                        (copy.source_start, source, axes[0]),
                        (copy.target_start, target, axes[1]),
                    )
                )
                block = target.blocks[axes[1]]
                if axes[0] in source.whole or axes[1] in target.whole or (read - write) % block == 0:
                    continue
                at_target = bool(write % block)
                at, size = (write, target.shape[axes[1]]) if at_target else (read, source.shape[axes[0]])
                yield Seam(copy.source, role, block, at, size, at_target)
