"""What operations that join and cut have in common: tensors joined, cut to sizes, and dealt out to the targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Final

from weighbridge.algebra.layout import Layout, checked_axis
from weighbridge.base.errors import LayoutError
from weighbridge.base.specs import Shape
from weighbridge.operations.values import Context, Lane, Value, common_dtype

MAX_PARTS: Final = 1 << 16
"""The most tensors that one may be cut into. How many it is comes from a shape, which may be any number."""


def check_parts(count: int) -> None:
    """Refuse more parts than one tensor may fall into, as `layout-fragmented`."""
    if count > MAX_PARTS:
        raise LayoutError(
            "layout-fragmented",
            "a tensor would fall into too many parts",
            expected=f"at most {MAX_PARTS:,}",
            got=f"{count:,}",
            hint="compare the axis that is divided, and the number of parts, with the tensor's shape",
        )


def combine(values: Sequence[Value], axis: int, join: Callable[[Sequence[Layout], int], Layout]) -> Value:
    """Join values to one by an operation on layouts."""
    dtype = common_dtype(values)
    layout = join([value.layout for value in values], axis)
    return Value(layout, dtype, any(value.is_rounded for value in values))


def split_value(value: Value, axis: int, sizes: Sequence[int]) -> tuple[Value, ...]:
    """Cut a value along an axis to parts of the sizes."""
    return tuple(Value(layout, value.dtype, value.is_rounded) for layout in value.layout.split(axis, sizes))


def unbind(value: Value, axis: int) -> tuple[Value, ...]:
    """Take a value apart along an axis, which vanishes."""
    axis = checked_axis(axis, len(value.shape))
    rest = (*value.shape[:axis], *value.shape[axis + 1 :])
    check_parts(value.shape[axis])
    parts = value.layout.split(axis, [1] * value.shape[axis])
    return tuple(Value(part.reshape(rest), value.dtype, value.is_rounded) for part in parts)


def equal_sizes(size: int, parts: int) -> list[int]:
    """Return the sizes of equal parts.

    Raises:
        LayoutError: `split-unequal`, `layout-fragmented`.
    """
    if parts < 1 or size % parts:
        what = f"a size of {size} does not divide into {parts} equal parts"
        raise LayoutError("split-unequal", what, hint="give the sizes of the parts: Split(dim, sizes)")
    check_parts(parts)
    return [size // parts] * parts


def into_parts(lane: Lane, parts: Sequence[Value]) -> tuple[Lane, ...]:
    """Make lanes of parts that are joined again."""
    return tuple(Lane(lane.name, (part,)) for part in parts)


def into_targets(parts: Sequence[Value], counts: Sequence[int], context: Context) -> tuple[Lane, ...]:
    """Deal parts out to the targets, in order."""
    bounds = pairwise((0, *accumulate(counts)))
    return tuple(
        Lane(target, tuple(parts[start:stop]), context.is_indexed(number))
        for number, (target, (start, stop)) in enumerate(zip(context.targets, bounds, strict=True))
    )


def target_counts(context: Context) -> list[int]:
    """Return how many tensors each target takes.

    Raises:
        LayoutError: `operation-argument` where that is not known, `operation-arity` where there are no targets.
    """
    counts = []
    for number, target in enumerate(context.targets):
        count = context.count(number)
        if count is None:
            raise LayoutError("operation-argument", f"it is not known how many tensors {target!r} stands for")
        counts.append(count)
    if counts == [1] and context.has_star(0) and not context.indexed:
        raise LayoutError("operation-argument", f"it is not known how many tensors {context.targets[0]!r} stands for")
    if not counts:
        raise LayoutError("operation-arity", "there are no targets to cut a tensor for")
    return counts


def target_sizes(context: Context, counts: Sequence[int], shape: Shape, axis: int) -> list[int] | None:
    """Return the size of each part on an axis as the targets' shapes have it, or None where one is unknown."""
    shapes = [context.shape(number, index) for number, count in enumerate(counts) for index in range(count)]
    known = [wanted for wanted in shapes if wanted is not None]
    if not known or len(known) < len(shapes):
        return None
    for wanted in known:
        if len(wanted) != len(shape):
            raise LayoutError(
                "shape-mismatch", "a target has another number of axes", expected=str(wanted), got=str(shape)
            )
    return [wanted[axis] for wanted in known]
