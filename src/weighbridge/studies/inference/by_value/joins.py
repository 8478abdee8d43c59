"""Turn a division of a tensor into the operations that make the whole from its parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

from weighbridge.base.forms.elements import Element
from weighbridge.base.specs import Shape
from weighbridge.operations.declaring.padding import InsertConstant
from weighbridge.operations.groupings import Concatenate, MergeModulelist, Split
from weighbridge.operations.movements import PermuteForRope, Rearrange, Reshape
from weighbridge.studies.axis_swaps import axis_rearrange
from weighbridge.studies.inference.by_value.fingerprints import only_value
from weighbridge.studies.inference.by_value.movement_search import Operations, fit_movement
from weighbridge.studies.inference.by_value.symmetry import may_be_symmetric, rival_movements
from weighbridge.studies.inference.by_value.tiling import Tiling
from weighbridge.studies.inference.tensor_facts import Fact, Lane, lanes_of, starred

if TYPE_CHECKING:
    import torch

Read = Callable[[str], "torch.Tensor"]
"""Gives a part by its key, in the dtype of the whole."""


class Joined(NamedTuple):
    """How a tensor is made from its parts, and whether the parts could be turned in another way first.

    Args:
        fact: The finding.
        rivals: Operations on single parts that would give the same whole.
    """

    fact: Fact
    rivals: tuple[Operations, ...]


def state_join(
    tiling: Tiling, key: str, whole: torch.Tensor, read: Read, known: Sequence[Operations], *, is_folded: bool = False
) -> Joined | None:
    """State how a tensor is made from its parts.

    Args:
        tiling: The parts, and where they lie.
        key: Key of the whole.
        whole: Its values.
        read: Gives a part's values.
        known: Operations on single tensors that were found elsewhere.
        is_folded: Whether the whole has its first two axes as one here, so that each stands for an index of the parts.

    Returns:
        The finding; None where the parts need operations that no rule can give to them.
    """
    lanes = _lanes(tiling, whole, read, is_folded)
    value = _value_between(tiling, whole)
    if lanes is None or (tiling.gap is not None and value is None):
        return None
    moves: list[Operations] = []
    rivals: list[Operations] = []
    is_stack = tiling.stacked
    for lane in lanes:
        part, piece = _telling_part(tiling, lane, whole, read)
        if not tiling.stacked and part.dim() == piece.dim() - 1 and piece.shape[tiling.axis] == 1:
            piece, is_stack = piece.squeeze(tiling.axis), True
        found = fit_movement(part, piece, (*dict.fromkeys(moves), *known))
        if found is None:
            return None
        moves.append(found)
        rivals += rival_movements(part, piece, found, known) if may_be_symmetric(part) else []
    single = _common_moves(lanes, moves)
    if single is None:
        return None
    if value is not None:
        joining = _with_constant(tiling, whole, value)
    else:
        joining = _state_operations(tiling, lanes, whole, is_stack)
        if len(lanes[0].stars) == 2:
            joining = (*joining, MergeModulelist(0) if is_folded else _counted(0, lanes[0].heights))
    fact = Fact(lanes, (Lane((key,)),), (*single, *joining))
    return Joined(fact, tuple(dict.fromkeys(rivals)))


def _telling_part(tiling: Tiling, lane: Lane, whole: torch.Tensor, read: Read) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a part of a lane, the first that could not be turned unseen if there is one, and its piece."""
    first = read(lane.keys[0])
    if not may_be_symmetric(first):
        return first, _piece(tiling, whole, lane.keys[0])
    others = (key for key in lane.keys[1:] if not may_be_symmetric(read(key)))
    key = next(others, lane.keys[0])
    return read(key), _piece(tiling, whole, key)


def _lanes(tiling: Tiling, whole: torch.Tensor, read: Read, is_folded: bool) -> tuple[Lane, ...] | None:
    if tiling.gap is not None:
        return tuple(Lane((key,)) for key in tiling.keys)
    if not tiling.stacked:
        grid = starred([tiling.keys]) if _is_flat_stack(tiling, whole, read) else None
        is_grid = grid is not None and len(grid[0].stars) == 2
        return grid if is_grid else None if is_folded else lanes_of(tiling.keys)
    count = len(tiling.rows)
    lanes = starred([tiling.keys[start : start + count] for start in range(0, len(tiling.keys), count)])
    is_sayable = lanes is not None and all((len(lane.stars) == 2) == is_folded for lane in lanes)
    return lanes if is_sayable else None


def _is_flat_stack(tiling: Tiling, whole: torch.Tensor, read: Read) -> bool:
    """Tell whether each slice along the first axis is a part of its own."""
    slices = tiling.axis == 0 and tiling.groups == 1 and all(tile.length == 1 for tile in tiling.rows[0])
    return slices and read(tiling.keys[0]).dim() == whole.dim() - 1


def _value_between(tiling: Tiling, whole: torch.Tensor) -> Element | None:
    """Return the one value of the part that is no tensor's; None where all are, or where it has several."""
    return None if tiling.gap is None else only_value(_piece(tiling, whole, None))


def _piece(tiling: Tiling, whole: torch.Tensor, key: str | None) -> torch.Tensor:
    """Cut one part's elements out of the whole; for no key, those of the part that is no tensor's."""
    row = next(number for number, tiles in enumerate(tiling.rows) if any(tile.key == key for tile in tiles))
    view, axis = (whole[row], tiling.axis - 1) if tiling.stacked else (whole, tiling.axis)
    at = sum(tile.length for tile in takewhile(lambda tile: tile.key != key, tiling.rows[row]))
    length = next(tile.length for tile in tiling.rows[row] if tile.key == key)
    shape = tuple(view.shape)
    grouped = view.reshape(*shape[:axis], tiling.groups, -1, *shape[axis + 1 :])
    cut = grouped.narrow(axis + 1, at, length)
    return cut.reshape(*shape[:axis], -1, *shape[axis + 1 :]).contiguous()


def _common_moves(lanes: Sequence[Lane], moves: Sequence[Operations]) -> Operations | None:
    """Return the operations that give every lane what it needs; rotary ones can be told apart by the names."""
    if len(set(moves)) == 1:
        return moves[0]
    rotary: dict[PermuteForRope, list[str]] = {}
    words = _telling_words(lanes)
    for word, operations in zip(words, moves, strict=True):
        for operation in operations:
            if not isinstance(operation, PermuteForRope) or len(operations) > 1 or not word:
                return None
            rotary.setdefault(operation, []).append(word)
    return tuple(replace_names(operation, names) for operation, names in rotary.items())


def replace_names(operation: PermuteForRope, names: Sequence[str]) -> PermuteForRope:
    """Return the operation for the patterns alone that contain one of the names."""
    return PermuteForRope(operation.subconfig_key, tuple(names), operation.is_inverse, operation.num_heads)


def _telling_words(lanes: Sequence[Lane]) -> list[str]:
    """Return for each lane a segment of its name that is part of no other lane's."""
    names = [lane.name for lane in lanes]
    return [
        next((s for s in name.split(".") if not any(s in other for other in names if other != name)), "")
        for name in names
    ]


def _state_operations(tiling: Tiling, lanes: Sequence[Lane], whole: torch.Tensor, is_stack: bool) -> Operations:
    axis, lengths = tiling.axis, [tile.length for tile in tiling.rows[0]]
    if not lanes[0].stars and is_stack:
        shape = tuple(whole.shape)
        rest = (*shape[:axis], *shape[axis + 1 :])
        return (Reshape((*rest[:axis], 1, *rest[axis:]), source_shape=rest), Concatenate(axis))
    stacking: Operations = (MergeModulelist(0 if tiling.stacked else axis),) if is_stack else ()
    if is_stack and len(lanes) == 1:
        return stacking
    per_lane = tuple(lengths) if not lanes[0].stars or tiling.stacked else None
    if tiling.groups == 1:
        return (*stacking, _concatenate(axis, per_lane))
    if len(set(lengths)) == 1:
        return (*stacking, Concatenate(axis), _interleaved(axis, len(lengths), lengths[0], tiling.groups))
    if tiling.stacked:
        return (*stacking, Concatenate(axis))  # does not hold, and is found out when it is run
    return (*_unfolded(axis, tiling.groups), _concatenate(axis + 1, per_lane), *_folded(axis, tiling.groups))


def _with_constant(tiling: Tiling, whole: torch.Tensor, value: Element) -> Operations:
    lengths = tuple(tile.length for tile in tiling.rows[0])
    assert tiling.gap is not None
    put = InsertConstant(tiling.gap, tuple(_piece(tiling, whole, None).shape), value)
    return put, _counted(tiling.axis, lengths)


def _counted(axis: int, lengths: Shape) -> Concatenate:
    """Say how many parts there are, or their sizes, where the way back could not count them."""
    return Concatenate(axis, chunks=len(lengths)) if len(set(lengths)) == 1 else Concatenate(axis, sizes=lengths)


def _concatenate(axis: int, sizes: Shape | None) -> Concatenate:
    """Name the sizes where the way back could not know them."""
    return Concatenate(axis, sizes=sizes if sizes is not None and len(set(sizes)) > 1 else None)


def _interleaved(axis: int, count: int, length: int, groups: int) -> Rearrange:
    if length == 1:
        return axis_rearrange(axis, "pg", "gp", {"p": count})
    return axis_rearrange(axis, "pgd", "gpd", {"p": count, "d": length})


def _unfolded(axis: int, groups: int) -> Operations:
    leading = "".join(f"{name} " for name in "xyzuvw"[:axis])
    return (Rearrange(f"{leading}(g n) ... -> {leading}g n ...", g=groups),)


def _folded(axis: int, groups: int) -> Operations:
    return tuple(operation.inverse() for operation in _unfolded(axis, groups))


def without_sizes(operations: Operations) -> Operations:
    """Return operations that leave the sizes of unequal parts to the target; what is cut and joined again has none."""
    if any(isinstance(operation, Split) for operation in operations[:-1]):
        return operations
    return tuple(replace(operation, sizes=None) if isinstance(operation, Concatenate | Split) else operation
                 for operation in operations)  # fmt: skip
