"""Find the blocks that stand in another order along an axis, from a hash of what stands at each of its places."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

from weighbridge.operations.reordering import Reorder

if TYPE_CHECKING:
    import torch

MAX_BLOCKS: Final = 16
"""The most blocks that are called an order of blocks; in stripes, there are so many in each."""

_MAX_RUNS: Final = 1 << 14
"""The most runs that are looked through for stripes."""


def find_block_order(source: torch.Tensor, target: torch.Tensor, axis: int) -> Reorder | None:
    """Find the operation that takes few blocks of one axis to other places.

    Args:
        source: For each place on the axis, a hash of what stands there.
        target: The same of what the operation is to give.
        axis: The axis, which the operation names.

    Returns:
        The operation; None where there is none, and where equal hashes or too many blocks leave it open.

    Examples:
        >>> import torch
        >>> find_block_order(torch.tensor([1, 2, 3, 4]), torch.tensor([3, 4, 1, 2]), 0)
        Reorder(dim=0, order=(1, 0), sizes=None, source_stripes=None, target_stripes=None)
        >>> find_block_order(torch.tensor([1, 2, 3, 4, 5]), torch.tensor([4, 5, 3, 1, 2]), 1).sizes
        (2, 1, 2)
    """
    origins = _origins(source, target)
    if origins is None:
        return None
    breaks = (origins[1:] != origins[:-1] + 1).nonzero().flatten() + 1
    if not 1 <= len(breaks) < min(_MAX_RUNS, max(2, (len(origins) + 1) // 2)):
        return None
    starts = [0, *breaks.tolist(), len(origins)]
    lengths = [stop - start for start, stop in pairwise(starts)]
    firsts = [int(origins[start]) for start in starts[:-1]]
    lying = sorted(range(len(firsts)), key=firsts.__getitem__)
    order = tuple(sorted(range(len(lying)), key=lying.__getitem__))
    return _name(axis, order, tuple(lengths[run] for run in lying))


def _origins(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor | None:
    """Return for each place of the target the one of the source that it comes from, if there is only one."""
    import torch

    if source.shape != target.shape or len(source) < 2:
        return None
    ordered, places = source.sort()
    found = torch.searchsorted(ordered, target).clamp(max=len(ordered) - 1)
    same = bool((ordered[1:] != ordered[:-1]).all()) and ordered[found].equal(target)
    return places[found] if same and len(torch.unique(found)) == len(found) else None


def _name(axis: int, order: tuple[int, ...], sizes: tuple[int, ...]) -> Reorder | None:
    if len(order) <= 3:
        return Reorder(axis, order, _unless_equal(sizes))
    whole = Reorder(axis, order, _unless_equal(sizes))
    striped = _gathered(axis, order, sizes)
    if striped is None:
        back = whole.inverse()
        dealt = _gathered(axis, back.order, tuple(sizes[part] for part in order))
        striped = None if dealt is None else dealt.inverse()
    return striped or (whole if len(order) <= MAX_BLOCKS else None)


def _gathered(axis: int, order: tuple[int, ...], sizes: tuple[int, ...]) -> Reorder | None:
    """Return the operation that gathers parts from stripes, if blocks go that way; with the fewest parts."""
    for parts in range(2, min(MAX_BLOCKS, len(order) // 2) + 1):
        stripes = len(order) // parts
        if len(order) % parts or sizes != sizes[:parts] * stripes:
            continue
        firsts = order[::stripes]
        if all(part < parts for part in firsts) and order == tuple(
            part + stripe * parts for part in firsts for stripe in range(stripes)
        ):
            return Reorder(axis, firsts, _unless_equal(tuple(size * stripes for size in sizes[:parts])), stripes)
    return None


def _unless_equal(sizes: tuple[int, ...]) -> tuple[int, ...] | None:
    return sizes if len(set(sizes)) > 1 else None
