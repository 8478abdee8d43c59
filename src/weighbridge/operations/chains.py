"""Chains: operations that cut a tensor, do something to its parts, and join them again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

from weighbridge.base.errors import LayoutError
from weighbridge.operations.casting import Cast
from weighbridge.operations.chosen_parts import On
from weighbridge.operations.groupings import Chunk, Concatenate, Split
from weighbridge.operations.movements import Interleave, PermuteForRope
from weighbridge.operations.reordering import Reorder

_KEEPING: Final = (Cast, Interleave, PermuteForRope, Reorder)
"""Operations that leave the shape of a tensor as it is."""


def is_joined(later: Iterable[object]) -> bool:
    """Tell whether what is cut now is joined again by one of the operations that come after it."""
    return any(isinstance(operation, Concatenate) for operation in later)


def count_parts(cut: Chunk | Split) -> int | None:
    """Return how many lanes of parts a cut makes that is joined again; None where it does not say so.

    Examples:
        >>> count_parts(Split(0, (8, 2, 2))), count_parts(Chunk(0, chunks=2)), count_parts(Chunk(0))
        (3, 2, None)
    """
    if isinstance(cut, Split):
        return len(cut.sizes) if isinstance(cut.sizes, tuple) else None
    return cut.chunks if cut.num_shards_attribute is None else 1


def say_sizes(operations: Iterable[Any]) -> list[Any]:
    """Write at each join of a chain what the cut before it says of the parts, so that the join can be undone.

    Raises:
        LayoutError: `operation-one-way` where the parts may have other sizes by then, and the join does not say them.

    Examples:
        >>> say_sizes([Split(0, (8, 2, 2)), On([0], PermuteForRope(num_heads=2)), Concatenate(0)])[-1]
        Concatenate(dim=0, num_shards_attribute=None, sizes=(8, 2, 2), chunks=None)
    """
    said: list[Any] = []
    cut: Chunk | Split | None = None
    is_whole = False
    for operation in operations:
        if isinstance(operation, Concatenate):
            said.append(operation if cut is None else _told(operation, cut, is_whole))
            cut = None
            continue
        if isinstance(operation, Chunk | Split):
            cut, is_whole = operation, True
        else:
            is_whole = is_whole and _keeps_shape(operation)
        said.append(operation)
    return said


def _told(join: Concatenate, cut: Chunk | Split, is_whole: bool) -> Concatenate:
    if any(given is not None for given in (join.sizes, join.chunks, join.num_shards_attribute)):
        return join
    if not is_whole or cut.dim != join.dim:
        raise LayoutError(
            "operation-one-way",
            "the sizes of the parts that are joined are not known on the way back",
            because=repr(join),
            hint=f"say them: Concatenate({join.dim}, sizes=...)",
        )
    if isinstance(cut, Split):
        return replace(join, sizes=cut.sizes)
    return replace(join, num_shards_attribute=cut.num_shards_attribute, chunks=cut.chunks)


def _keeps_shape(operation: object) -> bool:
    return isinstance(operation.apply if isinstance(operation, On) else operation, _KEEPING)
