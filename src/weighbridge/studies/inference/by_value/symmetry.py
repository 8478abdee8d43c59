"""Find out whether another order of a tensor's elements would look the same, so that values cannot tell the order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import permutations
from typing import TYPE_CHECKING, Final

from weighbridge.studies.inference.by_value.fingerprints import bits_of
from weighbridge.studies.inference.by_value.movement_search import Operations, fitting_movements, moved

if TYPE_CHECKING:
    import torch

_SAMPLED: Final = 16
"""Number of elements of a slice by which slices are compared before all are."""

_MOST_DISTINCT: Final = 0.75
"""Greatest part of slices that may have no twin: an exchange of parts moves at least half of them."""

_ODD: Final = -7046029254386353131


def may_be_symmetric(tensor: torch.Tensor) -> bool:
    """Tell whether another order of a matrix's axes, rows or columns could leave it as it is.

    This is quick, and says yes where it is not sure. A vector is not looked at: the order of its elements is that of an
    axis of the matrices beside it.

    Examples:
        >>> import torch
        >>> may_be_symmetric(torch.eye(3)), may_be_symmetric(torch.arange(9.0).view(3, 3))
        (True, False)
    """
    dense = bits_of(tensor.contiguous()).squeeze()
    if dense.dim() < 2 or not dense.numel():
        return False
    return any(_repeats(dense, axis) for axis in range(dense.dim())) or any(_turned_alike(dense))


def _turned_alike(dense: torch.Tensor) -> Iterator[bool]:
    """Yield for each order of axes that keeps the shape whether it keeps the elements."""
    axes = range(dense.dim())
    for order in permutations(axes) if len(axes) <= 5 else ():
        turned = dense.permute(order)
        if order != tuple(axes) and turned.shape == dense.shape:
            yield turned[0].equal(dense[0]) and turned.equal(dense)


def _repeats(dense: torch.Tensor, axis: int) -> bool:
    """Tell by a few elements of each slice along an axis whether many slices may be like others."""
    import torch

    first = dense.movedim(axis, 0)
    each = _SAMPLED if first.dim() == 2 else 4
    sample = first[(slice(None), *(slice(each),) * (first.dim() - 1))].reshape(len(first), -1).to(torch.int64)
    mixed = sample[:, 0].clone()
    for column in sample.T[1:]:
        mixed = (mixed * _ODD) ^ column
    return len(torch.unique(mixed)) <= _MOST_DISTINCT * len(mixed)


def rival_movements(
    source: torch.Tensor, target: torch.Tensor, chosen: Operations, known: Iterable[Operations] = ()
) -> list[Operations]:
    """List operations that give the same target here, and would give another one from other values.

    Args:
        source: A tensor.
        target: What the chosen operations make of it.
        chosen: The operations that were chosen; none for a rename.
        known: Operations that related other tensors.

    Examples:
        >>> import torch
        >>> rival_movements(torch.eye(3), torch.eye(3), ())[0]
        (Transpose(dim0=0, dim1=1, check_dims=False),)
    """
    import torch

    numbers = torch.arange(source.numel()).reshape(source.shape)
    orders = [moved(numbers, chosen)]
    rivals: list[Operations] = []
    for operations in fitting_movements(source, target, known):
        order = moved(numbers, operations)
        if order is not None and not any(order.equal(other) for other in orders if other is not None):
            orders.append(order)
            rivals.append(operations)
    return rivals
