"""Which elements of a tensor a copy touches, on the side that it reads or on the side that it writes, as boxes."""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import NamedTuple

from weighbridge.algebra.copies import Copy
from weighbridge.base.specs import Shape, coordinates

Span = tuple[int, int]
"""Half-open interval [start, stop) of one axis."""


class Region(NamedTuple):
    """The elements that a copy touches on one side: a span of each axis, and whether they come in row-major order."""

    spans: tuple[Span, ...]
    ascending: bool


def region_of(copy: Copy, shape: Shape, *, of_target: bool) -> Region | None:
    """Return the box of a tensor that a copy touches on one side; None where it is no box.

    Examples:
        >>> from weighbridge.algebra.layout import Layout, concat
        >>> both = concat([Layout.of(0, (2, 3)), Layout.of(1, (4, 3))], 0)
        >>> region_of(both.copies[1], both.shape, of_target=True).spans
        ((2, 6), (0, 3))
    """
    start = copy.target_start if of_target else copy.source_start
    loops = [(loop.size, loop.target_stride if of_target else loop.source_stride) for loop in copy.loops]
    low = coordinates(start, shape)
    high = coordinates(start + sum((size - 1) * stride for size, stride in loops), shape)
    spans = tuple((a, b + 1) for a, b in zip(low, high, strict=True))
    if min((b - a for a, b in spans), default=1) < 1 or prod(b - a for a, b in spans) != prod(n for n, _ in loops):
        return None
    return Region(spans, all(outer[1] >= inner[1] for outer, inner in pairwise(loops)))


def region_text(copy: Copy, shape: Shape, *, of_target: bool) -> str | None:
    """Write the elements that a copy touches on one side as a box of the tensor; None where they are no box."""
    found = region_of(copy, shape, of_target=of_target)
    if found is None:
        return None
    axes = (span_text(span, whole) for span, whole in zip(found.spans, shape, strict=True))
    return f"[{', '.join(axes)}]" + ("" if found.ascending else " re-ordered")


def region(copy: Copy, shape: Shape, *, of_target: bool) -> str:
    """Write the elements that a copy touches on one side: as a box of the tensor, or as loops over its flat elements.

    Examples:
        >>> from weighbridge.algebra.layout import Layout, concat
        >>> both = concat([Layout.of(0, (2, 3)), Layout.of(1, (4, 3))], 0)
        >>> region(both.copies[1], both.shape, of_target=True)
        '[2:6, :]'
    """
    found = region_text(copy, shape, of_target=of_target)
    if found is not None:
        return found
    start = copy.target_start if of_target else copy.source_start
    strides = [(loop.size, loop.target_stride if of_target else loop.source_stride) for loop in copy.loops]
    return f"{{from {start}: {' '.join(f'{size}x{stride}' for size, stride in strides)}}}"


def span_text(span: Span, whole: int) -> str:
    """Write an interval of an axis as an index would have it.

    Examples:
        >>> span_text((0, 6), 6), span_text((2, 3), 6), span_text((2, 4), 6)
        (':', '2', '2:4')
    """
    start, stop = span
    if stop - start == whole:
        return ":"
    return str(start) if stop - start == 1 else f"{start}:{stop}"
