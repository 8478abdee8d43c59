"""Find what exchanges places within an axis, or within parts of it, from a hash of what stands at each place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from weighbridge.operations.chosen_parts import On
from weighbridge.operations.groupings import Concatenate, Split
from weighbridge.operations.movements import Interleave, PermuteForRope, Rearrange
from weighbridge.operations.ops import Operation

if TYPE_CHECKING:
    import torch

Swap = Interleave | PermuteForRope | Rearrange
"""An operation that exchanges two factors of an axis."""

_FIRST: Final = 64
"""Number of places that are compared before all are."""

_STAYING: Final = 2
"""Most places between two that change, where what stays between them is part of it: the ends of two heads stay."""

_MOST_PARTS: Final = 16
"""The most parts of an axis that are said to change."""


def find_swaps(source: torch.Tensor, target: torch.Tensor, axis: int, axis_count: int) -> Iterator[Swap]:
    """Yield operations that exchange two factors of an axis, and so turn one list of hashes into the other.

    Args:
        source: For each place on the axis, a hash of what stands there.
        target: The same of what the operation is to give.
        axis: The axis, which the operation names.
        axis_count: Number of axes of the tensor.

    Examples:
        >>> import torch
        >>> list(find_swaps(torch.tensor([1, 2, 3, 4, 5, 6]), torch.tensor([1, 3, 5, 2, 4, 6]), 0, 2))
        [Interleave(dim=0, inverse=False)]
    """
    for parts in _partings(len(source)):
        if _exchanges(source, target, parts):
            yield swap_parts(parts, axis, axis_count)


def find_part_swaps(
    source: torch.Tensor, target: torch.Tensor, axis: int, axis_count: int
) -> tuple[Operation, ...] | None:
    """Find the chain that exchanges places within parts of an axis alone: rotary rows among others.

    Args:
        source: As for `find_swaps`.
        target: As for `find_swaps`.
        axis: The axis.
        axis_count: Number of axes of the tensor.

    Returns:
        The chain; None where nothing of that kind, or an exchange within the whole axis, leads from one to the other.

    Examples:
        >>> import torch
        >>> rows = torch.arange(10)
        >>> find_part_swaps(rows, rows[[0, 2, 1, 3, 4, 6, 5, 7, 8, 9]], 0, 2)[1]
        On(parts=(0,), apply=PermuteForRope(subconfig_key=None, permute_layer_names=None, inverse=False, num_heads=2))
    """
    regions = _regions(source, target)
    if not regions or len(regions) > _MOST_PARTS or regions == [(0, len(source))]:
        return None
    bounds = sorted({0, len(source), *(bound for region in regions for bound in region)})
    chosen: dict[Swap, list[int]] = {}
    for start, stop in regions:
        found = next(find_swaps(source[start:stop], target[start:stop], axis, axis_count), None)
        if found is None:
            return None
        chosen.setdefault(found, []).append(bounds.index(start))
    sizes = tuple(stop - start for start, stop in pairwise(bounds))
    swaps = (On(tuple(parts), operation) for operation, parts in chosen.items())
    return (Split(axis, sizes), *swaps, Concatenate(axis))


def find_head_swaps(
    source: torch.Tensor, target: torch.Tensor, axis: int, axis_count: int
) -> tuple[Operation, ...] | None:
    """Find the chain that exchanges places within a part of each head: the rotary rows of a partial rotation.

    Args:
        source: As for `find_swaps`.
        target: As for `find_swaps`.
        axis: The axis.
        axis_count: Number of axes of the tensor.

    Returns:
        The chain for the most heads, which first makes them an axis of their own; None where there is none.

    Examples:
        >>> import torch
        >>> rows = torch.arange(12).reshape(2, 6)
        >>> find_head_swaps(rows.flatten(), rows[:, [0, 2, 1, 3, 4, 5]].flatten(), 0, 2)[1:3]
        (Split(dim=1, sizes=(4, 2)), On(parts=(0,), apply=Interleave(dim=1, inverse=False)))
    """
    if source.shape != target.shape or not len(source):
        return None
    for size in divisors(len(source))[:-1]:
        one, two = (side.reshape(-1, size) for side in (source, target))
        chain = find_part_swaps(one[0], two[0], axis + 1, axis_count + 1)
        if chain is None or not _is_everywhere(one, two):
            continue
        leading = " ".join("xyzuvw"[:axis])
        joined, apart = (f"{leading} {heads} ...".strip() for heads in ("(a b)", "a b"))
        heads = len(source) // size
        before, after = Rearrange(f"{joined} -> {apart}", a=heads), Rearrange(f"{apart} -> {joined}", a=heads)
        return (before, *chain, after)
    return None


def _is_everywhere(source: torch.Tensor, target: torch.Tensor) -> bool:
    """Tell whether each row of hashes goes through what the first one does."""
    ordered, places = source[0].sort()
    origins = places[(ordered[:, None] == target[0]).int().argmax(0)]
    return source[:, origins].equal(target)


def _regions(source: torch.Tensor, target: torch.Tensor) -> list[tuple[int, int]]:
    """Return the intervals in which places change, with the first place and the last one, which stay."""
    if source.shape != target.shape or not source.sort().values.equal(target.sort().values):
        return []
    changed: list[int] = (source != target).nonzero().flatten().tolist()
    if not changed:
        return []
    ends = [place for place, after in pairwise(changed) if after - place > _STAYING + 1]
    starts = [after for place, after in pairwise(changed) if after - place > _STAYING + 1]
    pairs = zip([changed[0], *starts], [*ends, changed[-1]], strict=True)
    return [(max(0, first - 1), min(len(source), last + 2)) for first, last in pairs]


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


def swap_parts(parts: Parts, axis: int, axis_count: int) -> Swap:
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
