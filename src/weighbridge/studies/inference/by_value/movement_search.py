"""Find the operations that turn one tensor into another one with the same elements."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, permutations
from math import prod
from typing import TYPE_CHECKING

from weighbridge.base.errors import LayoutError
from weighbridge.base.specs import Shape
from weighbridge.operations.movements import (
    Conv3dToLinear,
    Interleave,
    LinearToConv3d,
    Moving,
    Permute,
    PermuteForRope,
    Rearrange,
    Reshape,
    Transpose,
)
from weighbridge.operations.ops import Operation
from weighbridge.operations.rearrange import Movement, Reordering
from weighbridge.studies.block_orders import find_block_order
from weighbridge.studies.inference.by_value.fingerprints import bits_of, sum_hashes

if TYPE_CHECKING:
    import torch

Operations = tuple[Operation, ...]

_FIRST = 64
"""Number of places that are compared before all are."""


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
    try:
        for operation in operations:
            if not isinstance(operation, Moving):
                return None
            tensor = _moved(tensor, operation.movement(tuple(tensor.shape), "", None, None))
    except LayoutError:
        return None
    return tensor


def _moved(tensor: torch.Tensor, change: Movement | Reordering) -> torch.Tensor:
    import torch

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
        for parts in _partings(len(sums)):
            if _exchanges(sums, two.axes[axis], parts):
                yield (swap_parts(parts, axis, len(one.shape)),)
    for axis, sums in one.axes.items():
        found = find_block_order(sums, two.axes[axis], axis)
        if found is not None:
            yield (found,)


Parts = tuple[int, int, int, int]
"""Sizes that one axis divides into, outermost first; the second and the third change places."""


def _partings(size: int) -> Iterator[Parts]:
    for outer in divisors(size):
        for second in divisors(size // outer)[1:]:
            yield from ((outer, second, third, size // outer // second // third)
                        for third in divisors(size // outer // second)[1:])  # fmt: skip


def divisors(number: int) -> list[int]:
    """Return the divisors of a number, in order.

    Examples:
        >>> divisors(12)
        [1, 2, 3, 4, 6, 12]
    """
    small = [n for n in range(1, int(number**0.5) + 1) if number % n == 0]
    return small + [number // n for n in reversed(small) if n * n != number]


def _exchanges(source: torch.Tensor, target: torch.Tensor, parts: Parts) -> bool:
    """Tell whether the exchange of two parts turns one list of sums into the other; most fail at the first places."""
    import torch

    _, second, third, inner = parts
    places = torch.arange(min(_FIRST, len(source)))
    block, within = places // (second * third * inner), places % (second * third * inner)
    from_third, rest = within // (second * inner), within % (second * inner)
    origin = ((block * second + rest // inner) * third + from_third) * inner + rest % inner
    if not source[origin].equal(target[: len(places)]):
        return False
    return source.reshape(parts).transpose(1, 2).reshape(-1).equal(target)


def swap_parts(parts: Parts, axis: int, axis_count: int) -> Operation:
    """Return the operation that splits an axis in four, exchanges the second part and the third, and joins them.

    Examples:
        >>> swap_parts((8, 32, 2, 1), 0, 2)
        PermuteForRope(subconfig_key=None, permute_layer_names=None, inverse=False, num_heads=8)
        >>> swap_parts((1, 4, 3, 16), 0, 2)
        Rearrange('(a b c) ... -> (b a c) ...', b=3, c=16)
    """
    outer, second, third, inner = parts
    if inner == 1 and 2 in (second, third) and (outer == 1 or (axis == 0 and axis_count <= 2)):
        is_inverse = third != 2
        if outer == 1:
            return Interleave(axis, inverse=is_inverse)
        return PermuteForRope(num_heads=outer, inverse=is_inverse)
    sizes = [size for size, needed in zip(parts, (outer > 1, True, True, inner > 1), strict=True) if needed]
    names = "abcd"[: len(sizes)]
    first = int(outer > 1)
    after = [*names[:first], names[first + 1], names[first], *names[first + 2 :]]
    return axis_rearrange(axis, names, after, dict(zip(names[1:], sizes[1:], strict=True)))


def axis_rearrange(axis: int, before: Iterable[str], after: Iterable[str], lengths: dict[str, int]) -> Rearrange:
    """Return the operation that reorders the named parts of one axis.

    Examples:
        >>> axis_rearrange(1, "ab", "ba", {"b": 2})
        Rearrange('x (a b) ... -> x (b a) ...', b=2)
    """
    leading = " ".join("xyzuvw"[:axis])
    sides = (f"{leading} ({' '.join(names)}) ...".strip() for names in (before, after))
    return Rearrange(" -> ".join(sides), **lengths)
