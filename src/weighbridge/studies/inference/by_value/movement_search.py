"""Find the operations that turn one tensor into another one with the same elements."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, permutations
from math import prod
from typing import TYPE_CHECKING

from weighbridge.algebra.layout import checked_axis
from weighbridge.base.errors import LayoutError
from weighbridge.base.specs import Shape
from weighbridge.operations.chosen_parts import On
from weighbridge.operations.groupings import Concatenate, Split
from weighbridge.operations.movements import (
    Conv3dToLinear,
    LinearToConv3d,
    Moving,
    Permute,
    Reshape,
    Transpose,
)
from weighbridge.operations.ops import Operation
from weighbridge.operations.rearrange import Reordering
from weighbridge.studies.axis_swaps import find_head_swaps, find_part_swaps, find_swaps
from weighbridge.studies.block_orders import find_block_order
from weighbridge.studies.inference.by_value.fingerprints import bits_of, sum_hashes

if TYPE_CHECKING:
    import torch

Operations = tuple[Operation, ...]


def fit_movement(source: torch.Tensor, target: torch.Tensor, known: Iterable[Operations] = ()) -> Operations | None:
    """Find operations that give `target` from `source`.

    Args:
        source: A tensor.
        target: One with the same number of elements.
        known: Operations that related other tensors; tried first.

    Returns:
        The operations, none for equal tensors; None where nothing fits.

    Examples:
        >>> import torch
        >>> weight = torch.arange(6.0).reshape(2, 3)
        >>> fit_movement(weight, weight.T.contiguous())
        (Transpose(dim0=0, dim1=1, check_dims=False),)
    """
    return next(fitting_movements(source, target, known), None)


def fitting_movements(
    source: torch.Tensor, target: torch.Tensor, known: Iterable[Operations] = ()
) -> Iterator[Operations]:
    """Yield all operations that give `target` from `source`, as `fit_movement` looks for them."""
    one, two = bits_of(source), bits_of(target)
    if one.numel() == two.numel():
        tried = chain(known, [()], _shape_changes(tuple(one.shape), tuple(two.shape)), _axis_swaps(one, two))
        yield from (operations for operations in tried if is_moved(one, two, operations))


def is_moved(source: torch.Tensor, target: torch.Tensor, operations: Operations) -> bool:
    """Tell whether operations on single tensors give `target` from `source`."""
    found = moved(source, operations)
    return found is not None and found.shape == target.shape and found.equal(target)


def moved(tensor: torch.Tensor, operations: Operations) -> torch.Tensor | None:
    """Return what operations make of a single tensor; None where they are not for it."""
    parts: list[torch.Tensor] | None = [tensor]
    try:
        for operation in operations:
            parts = _done(operation, parts) if parts is not None else None
    except LayoutError:
        return None
    return parts[0] if parts is not None and len(parts) == 1 else None


def _done(operation: Operation, parts: list[torch.Tensor]) -> list[torch.Tensor] | None:
    """Return what an operation makes of the parts of a tensor; None where it is of another kind."""
    import torch

    match operation:
        case Split(dim, sizes) if sizes is not None and len(parts) == 1:
            axis, numbers = checked_axis(dim, parts[0].dim()), [size for size in sizes if isinstance(size, int)]
            fits = len(numbers) == len(sizes) and sum(numbers) == parts[0].shape[axis]
            return list(torch.split(parts[0], numbers, axis)) if fits else None
        case Concatenate(dim) if len(parts) > 1:
            return [torch.cat(parts, checked_axis(dim, parts[0].dim()))]
        case On(numbers, Moving() as inner) if numbers[-1] < len(parts):
            return [_moved(part, inner) if number in numbers else part for number, part in enumerate(parts)]
        case Moving():
            return [_moved(part, operation) for part in parts]
    return None


def _moved(tensor: torch.Tensor, operation: Moving) -> torch.Tensor:
    import torch

    change = operation.movement(tuple(tensor.shape), "", None, None)
    if isinstance(change, Reordering):
        return tensor.index_select(change.axis, torch.tensor(change.places(), dtype=torch.int64))
    return tensor.reshape(change.split).permute(change.axes).reshape(change.joined)


def _shape_changes(source: Shape, target: Shape) -> Iterator[Operations]:
    """Yield what reorders or joins whole axes, and leads from one shape to the other."""
    if source != target and prod(source) == prod(target):
        yield (_reshape(source, target),)
    for axes in permutations(range(len(source))) if 2 <= len(source) <= 5 else ():
        if tuple(source[axis] for axis in axes) == target and list(axes) != sorted(axes):
            yield (_permute(axes),)


def _reshape(source: Shape, target: Shape) -> Operation:
    if len(source) == 5 and len(target) == 2 and source[0] == target[0]:
        return Conv3dToLinear(source[1], (source[2], source[3], source[4]))
    if len(target) == 5 and len(source) == 2 and source[0] == target[0]:
        return LinearToConv3d(target[1], (target[2], target[3], target[4]))
    return Reshape(target, source_shape=source)


def _permute(axes: Sequence[int]) -> Operation:
    moved = [place for place, axis in enumerate(axes) if place != axis]
    return Transpose(moved[0], moved[1]) if len(moved) == 2 else Permute(tuple(axes))


def _axis_swaps(source: torch.Tensor, target: torch.Tensor) -> Iterator[Operations]:
    """Yield reorderings within one axis that turn the one tensor's slices into the other one's."""
    if source.shape != target.shape or not source.numel():
        return
    one, two = sum_hashes(source), sum_hashes(target)
    for axis, sums in one.axes.items():
        yield from ((swap,) for swap in find_swaps(sums, two.axes[axis], axis, len(one.shape)))
    heads = (find_head_swaps(sums, two.axes[axis], axis, len(one.shape)) for axis, sums in one.axes.items())
    yield from (chain for chain in heads if chain is not None)
    for axis, sums in one.axes.items():
        found = find_block_order(sums, two.axes[axis], axis)
        if found is not None:
            yield (found,)
    parts = (find_part_swaps(sums, two.axes[axis], axis, len(one.shape)) for axis, sums in one.axes.items())
    yield from (chain for chain in parts if chain is not None)
