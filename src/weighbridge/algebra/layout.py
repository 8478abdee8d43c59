"""The layout algebra: what a value is made of, said as the strided copies that write it.

A `Layout` is a shape and copies that write each element of the row-major value exactly once. Movements of elements are
methods on it: `reshape` changes the shape alone, `permute`, `split` and `concat` cut the copies at the boundaries of
axes and give their loops new target strides. A chain of movements is never run: its layout is.

Sources are slot numbers, so that tensors which are made alike (one per layer, say) share one layout.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import prod
from typing import Final

from weighbridge.algebra.copies import (
    MAX_PIECES,
    Copy,
    Loop,
    align,
    check_pieces,
    cut_copy,
    fuse,
    fuse_reversibly,
    remapped,
    rescaled,
    solve_shape,
    strides,
    turned,
)
from weighbridge.algebra.coverage import coverage
from weighbridge.base.errors import LayoutError
from weighbridge.base.specs import Shape

MAX_COPIES: Final = 4096
"""How many copies a layout of few sources may have before it counts as fragmented."""

COPIES_PER_SOURCE: Final = 64
"""How many copies per source a layout of many sources may have before it counts as fragmented."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A value as the copies that write it.

    Build one with `of` and change it with its methods: they keep the copies disjoint, covering, simplified and in order
    of the target, so that equal layouts are equal values.

    Args:
        shape: Sizes of the value's axes.
        copies: What writes the row-major flat value; `Copy.source` is a slot number.

    Examples:
        >>> fused = concat([Layout.of(0, (2, 3)), Layout.of(1, (4, 3))], axis=0).transpose(0, 1)
        >>> fused.shape
        (3, 6)
        >>> for copy in fused.copies:
        ...     print(copy.source, copy.target_start, *map(tuple, copy.loops))
        0 0 (3, 1, 6) (2, 3, 1)
        1 2 (3, 1, 6) (4, 3, 1)
    """

    shape: Shape
    copies: tuple[Copy, ...]

    @classmethod
    def of(cls, source: int, shape: Sequence[int]) -> Layout:
        """Return the layout of a whole source, unchanged.

        Args:
            source: Slot number of the source.
            shape: Sizes of the source's axes.
        """
        shape = tuple(shape)
        if any(size < 0 for size in shape):
            raise LayoutError("shape-mismatch", "no axis has a negative size", got=_text(shape))
        numel = prod(shape)
        loops = (Loop(numel, 1, 1),) if numel > 1 else ()
        return cls(shape, (Copy(source, 0, 0, loops),) if numel else ())

    @property
    def numel(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    def reshape(self, shape: Sequence[int]) -> Layout:
        """Give the same flat value another shape; one size may be -1.

        Raises:
            LayoutError: `shape-mismatch`.

        Examples:
            >>> Layout.of(0, (4, 6)).reshape((3, -1)).shape
            (3, 8)
        """
        new = solve_shape(shape, self.numel)
        if prod(new) != self.numel or any(size < 0 for size in new):
            raise LayoutError(
                "shape-mismatch",
                "cannot reshape",
                expected=f"{self.numel} elements {_text(self.shape)}",
                got=_text(shape),
            )
        return Layout(new, self.copies)

    def permute(self, axes: Sequence[int]) -> Layout:
        """Reorder the axes: axis `i` of the result is axis `axes[i]`.

        Raises:
            LayoutError: `axis-out-of-range` unless each axis is named once.

        Examples:
            >>> Layout.of(0, (2, 3, 5)).permute((2, 0, 1)).shape
            (5, 2, 3)
        """
        ndim = len(self.shape)
        axes = [checked_axis(axis, ndim) for axis in axes]
        if sorted(axes) != list(range(ndim)):
            raise LayoutError("axis-out-of-range", f"name each of {ndim} axes once", got=_text(axes))
        shape = tuple(self.shape[axis] for axis in axes)
        blocks = _blocks(self.shape, axes)
        if len(blocks) <= 1 or not self.copies:
            return Layout(shape, self.copies)
        written = strides([size for _, size in blocks])
        moves = [(stride, size, new) for (stride, size), new in zip(blocks, written, strict=True)]

        def move(index: int) -> int:
            return sum([index // stride % size * new for stride, size, new in moves])

        return Layout(shape, remapped(align(self.copies, [stride for stride, _ in blocks]), move))

    def transpose(self, first: int, second: int) -> Layout:
        """Exchange two axes.

        Raises:
            LayoutError: `axis-out-of-range`.
        """
        ndim = len(self.shape)
        axes = list(range(ndim))
        a, b = checked_axis(first, ndim), checked_axis(second, ndim)
        axes[a], axes[b] = b, a
        return self.permute(axes)

    def split(self, axis: int, sizes: Sequence[int]) -> tuple[Layout, ...]:
        """Cut the value along an axis into parts of the given sizes.

        Raises:
            LayoutError: `axis-out-of-range`, or `shape-mismatch` when the sizes do not add up to the axis.

        Examples:
            >>> q, k = Layout.of(0, (6, 2)).split(0, (4, 2))
            >>> q.shape, k.copies[0].source_start
            ((4, 2), 8)
        """
        axis = checked_axis(axis, len(self.shape))
        if any(size < 0 for size in sizes) or sum(sizes) != self.shape[axis]:
            raise LayoutError(
                "shape-mismatch",
                f"the parts do not add up to axis {axis}",
                expected=f"sizes that add up to {self.shape[axis]}",
                got=" + ".join(map(str, sizes)) or "no parts",
            )
        return self._cut_axis(axis, (0, *accumulate(sizes)))

    def slice(self, axis: int, start: int, stop: int) -> Layout:
        """Restrict an axis to [start, stop).

        Raises:
            LayoutError: `axis-out-of-range`.

        Examples:
            >>> Layout.of(0, (6, 2)).slice(0, 1, 3).shape
            (2, 2)
        """
        axis = checked_axis(axis, len(self.shape))
        size = self.shape[axis]
        _check_interval(start, stop, size)
        return self if (start, stop) == (0, size) else self._cut_axis(axis, (0, start, stop, size))[1]

    def _cut_axis(self, axis: int, bounds: Sequence[int], limit: int = MAX_PIECES) -> tuple[Layout, ...]:
        size, stride = self.shape[axis], prod(self.shape[axis + 1 :])
        block = stride * size
        widths = [stop - start for start, stop in pairwise(bounds)]
        parts: list[list[Copy]] = [[] for _ in widths]
        pieces, limit = 0, limit + len(widths) + len(self.copies)
        for copy in align(self.copies, (block, stride)):
            for number, part in cut_copy(copy, stride, size, bounds):
                check_pieces(pieces := pieces + 1, limit)
                shift, rows = bounds[number] * stride, widths[number] * stride
                parts[number].append(rescaled(part, block, rows, -shift))
        shapes = [(*self.shape[:axis], width, *self.shape[axis + 1 :]) for width in widths]
        return tuple(Layout(shape, fuse(part)) for shape, part in zip(shapes, parts, strict=True))


def concat(layouts: Sequence[Layout], axis: int) -> Layout:
    """Join values along an axis that they have.

    Raises:
        LayoutError: `operation-arity` for no values, `axis-out-of-range`, or `shape-mismatch` when other axes differ.

    Examples:
        >>> concat([Layout.of(0, (2, 3)), Layout.of(1, (2, 5))], axis=-1).shape
        (2, 8)
    """
    if not layouts:
        raise LayoutError("operation-arity", "there is nothing to join")
    first = layouts[0].shape
    axis = checked_axis(axis, len(first))
    before, after = first[:axis], first[axis + 1 :]
    for layout in layouts:
        shape = layout.shape
        if len(shape) != len(first) or shape[:axis] != before or shape[axis + 1 :] != after:
            raise LayoutError(
                "shape-mismatch",
                f"tensors that are joined on axis {axis} differ on another",
                expected=_text(first),
                got=_text(shape),
            )
    total = sum([layout.shape[axis] for layout in layouts])
    return Layout((*before, total, *after), _concat_copies(layouts, axis, prod(after) * total))


def _concat_copies(layouts: Sequence[Layout], axis: int, row: int) -> tuple[Copy, ...]:
    copies: list[Copy] = []
    shift = 0
    is_outermost = prod(layouts[0].shape[:axis]) == 1
    for layout in layouts:
        block = prod(layout.shape[axis:])
        if is_outermost:
            copies += [Copy(source, read, write + shift, loops) for source, read, write, loops in layout.copies]
        else:
            copies += [rescaled(copy, block, row, shift) for copy in align(layout.copies, (block,))]
        shift += block
    return fuse(copies)


def stack(layouts: Sequence[Layout], axis: int) -> Layout:
    """Join values of one shape along a new axis, which the result has at `axis`.

    Raises:
        LayoutError: As `concat`.

    Examples:
        >>> stack([Layout.of(0, (2, 3)), Layout.of(1, (2, 3))], axis=1).shape
        (2, 2, 3)
    """
    if not layouts:
        raise LayoutError("operation-arity", "there is nothing to stack")
    first = layouts[0].shape
    axis = checked_axis(axis, len(first) + 1)
    for layout in layouts:
        if layout.shape != first:
            raise LayoutError(
                "shape-mismatch", "tensors that are stacked differ", expected=_text(first), got=_text(layout.shape)
            )
    shape = (*first[:axis], 1, *first[axis:])
    return concat([Layout(shape, layout.copies) for layout in layouts], axis)


def flat(layout: Layout, start: int, stop: int) -> Layout:
    """Restrict the flat value to its elements [start, stop), as a value of one axis.

    Raises:
        LayoutError: `axis-out-of-range`.

    Examples:
        >>> flat(Layout.of(0, (4, 6)), 5, 9).copies
        (Copy(source=0, source_start=5, target_start=0, loops=(Loop(size=4, source_stride=1, target_stride=1),)),)
    """
    numel = layout.numel
    _check_interval(start, stop, numel)
    near = [copy for copy in layout.copies if copy.target_start < stop and copy.target_last >= start]
    bounds = (0, start, stop, numel)
    inside = [part for copy in near for number, part in cut_copy(copy, 1, numel, bounds) if number == 1]
    return Layout((stop - start,), fuse([part._replace(target_start=part.target_start - start) for part in inside]))


def windows(layout: Layout, numel: int) -> Iterator[Layout]:
    """Cut the flat value into windows of `numel` elements, the last one shorter, in linear time.

    However many pieces the copies fall into, this many are written: they are cut a part of the value at a time, as the
    windows are drawn.

    Examples:
        >>> [window.shape for window in windows(Layout.of(0, (7, 3)), 10)]
        [(10,), (10,), (1,)]
    """
    flat = layout.reshape((layout.numel,))
    step = max(1, MAX_PIECES // (len(layout.copies) or 1)) * numel
    for start in range(0, flat.numel, step):
        stop = min(start + step, flat.numel)
        part = flat._cut_axis(0, (0, start, stop, flat.numel), flat.numel)[1] if stop - start < flat.numel else flat
        yield from part._cut_axis(0, (*range(0, part.numel, numel), part.numel), part.numel)


def invert(
    layouts: Sequence[Layout], source_shapes: Sequence[Sequence[int]], parts: Container[int] = ()
) -> tuple[Layout, ...]:
    """Say how the sources are written from the values that were made of them.

    Args:
        layouts: The values; together they read each element of each source exactly once.
        source_shapes: Shape of each source, by slot number.
        parts: Numbers of sources of which some elements may not be read, and are not written then.

    Returns:
        One layout per source; its copies' `source` is the number of a value in `layouts`.

    Raises:
        LayoutError: `layout-coverage` when an element is read twice or not at all.

    Examples:
        >>> parts = Layout.of(0, (4, 3)).split(0, (1, 3))
        >>> [copy.source for copy in invert(parts, [(4, 3)])[0].copies]
        [0, 1]
    """
    groups = [layout.copies for layout in layouts]
    written = turned(groups, len(source_shapes))
    for slot, (shape, copies) in enumerate(zip(source_shapes, written, strict=True)):
        counts = coverage(copies, prod(shape))
        if counts.multiple or (counts.unused and slot not in parts):
            raise LayoutError("layout-coverage", f"source {slot} is not read exactly once", got=str(counts))
    fused = fuse_reversibly(written, groups)
    return tuple(Layout(tuple(shape), copies) for shape, copies in zip(source_shapes, fused, strict=True))


def prove(layout: Layout, source_numels: Sequence[int], *, is_whole: bool = True) -> None:
    """Check a layout that comes from outside: it writes each element once, and reads only what is there.

    Args:
        layout: Any shape and copies, for example from a plan's JSON form.
        source_numels: Number of elements of each source, by slot number.
        is_whole: Whether it writes all elements; else none of them twice.

    Raises:
        LayoutError: `layout-coverage`.
    """
    counts = coverage(layout.copies, layout.numel)
    if counts.multiple or (counts.unused and is_whole):
        raise LayoutError("layout-coverage", "the copies do not write each element once", got=str(counts))
    for copy in layout.copies:
        sound = 0 <= copy.source < len(source_numels) and copy.source_start >= 0
        sound = sound and all(loop.source_stride >= 0 for loop in copy.loops)
        if not sound or copy.source_last >= source_numels[copy.source]:
            raise LayoutError("layout-coverage", "a copy reads outside of its source", got=repr(copy))


def is_fragmented(layout: Layout, sources: int, cap: int = MAX_COPIES) -> bool:
    """Tell whether a layout has more copies than are worth running one by one.

    Args:
        layout: The value.
        sources: Number of sources it is made of.
        cap: Number of copies that is always allowed.
    """
    return len(layout.copies) > max(cap, COPIES_PER_SOURCE * sources)


def checked_axis(axis: int, ndim: int) -> int:
    """Return an axis counted from the front; negative ones count from the back.

    Raises:
        LayoutError: `axis-out-of-range`.

    Examples:
        >>> checked_axis(-1, 3)
        2
    """
    if not -ndim <= axis < ndim:
        expected = f"from {-ndim} to {ndim - 1}: the tensor has {ndim} axes" if ndim else "none: the tensor has no axes"
        raise LayoutError("axis-out-of-range", f"there is no axis {axis}", expected=expected)
    return axis % ndim


def _check_interval(start: int, stop: int, size: int) -> None:
    if not 0 <= start <= stop <= size:
        expected, got = f"an interval in [0, {size})", f"[{start}, {stop})"
        raise LayoutError("axis-out-of-range", "the interval reaches outside", expected=expected, got=got)


def _blocks(shape: Shape, axes: Sequence[int]) -> list[tuple[int, int]]:
    """Return stride and size of each block of axes that stay together, in the new order; axes of size 1 vanish."""
    old = strides(shape)
    kept = [axis for axis in axes if shape[axis] != 1]
    order = sorted(kept)
    follows = dict(pairwise(order))
    blocks: list[tuple[int, int]] = []
    for number, axis in enumerate(kept):
        joins = number > 0 and follows.get(kept[number - 1]) == axis
        size = shape[axis] * (blocks.pop()[1] if joins else 1)
        blocks.append((old[axis], size))
    return blocks


def _text(shape: Sequence[int]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
