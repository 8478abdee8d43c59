"""How many indices a converter's tensors have on their way from one operation to the next.

A pattern stands for one tensor, or for one at each index of the last of its `*`, as many as the operations use up. The
operations work from the last `*` to the first: `MergeModulelist` stacks over the innermost index that is left, for each
combination of the outer ones by itself. `Concatenate` joins all tensors, but keeps the outer indices that a later
operation needs. An inverse goes the other way: each operation that makes an index adds an inner one.

To run operations so, the tensors lie in cells: a cell holds the lanes that share some outer indices, and its lanes have
one index more, or none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from weighbridge.operations.casting import Cast
from weighbridge.operations.chains import is_joined
from weighbridge.operations.chosen_parts import On
from weighbridge.operations.declaring.padding import Pad, Trim
from weighbridge.operations.groupings import (
    Chunk,
    Concatenate,
    ErnieFuseAndSplitTextVisionExperts,
    ErnieSplitAndDecoupleTextVisionExperts,
    MergeModulelist,
    Split,
    SplitModulelist,
)
from weighbridge.operations.movements import Moving
from weighbridge.operations.replicas import MergeEqual, Repeat
from weighbridge.operations.values import Lane, Place, Value, arity_error

USING: Final = MergeModulelist, ErnieFuseAndSplitTextVisionExperts
"""Operations that use up an index."""

MAKING: Final = SplitModulelist, ErnieSplitAndDecoupleTextVisionExperts
"""Operations that make one."""

KEEPING: Final = Moving, On, Cast, Pad, Trim
"""Operations on each single tensor, which leave their numbers as they are."""

_PARTING: Final = *MAKING, Chunk, Split, Repeat
_JOINING: Final = *USING, Concatenate, MergeEqual


def count_used(operations: Sequence[Any], is_single: bool) -> int:
    """Return how many indices of the sources the operations use up for sure.

    Args:
        operations: The operations, first to last.
        is_single: Whether there is one source pattern: of that there are several equal tensors only by an index.

    Examples:
        >>> count_used([MergeModulelist(0), Concatenate(1), MergeModulelist(0)], False)
        2
    """
    only = is_single and _first_is(operations, MergeEqual, (*USING, *_PARTING))
    return max(_height(operations, USING, _PARTING), int(only))


def count_made(operations: Sequence[Any], is_single: bool) -> int:
    """Return how many indices of the targets the operations make for sure; see `count_used`."""
    back = operations[::-1]
    only = is_single and _first_is(back, Repeat, (*MAKING, *_JOINING))
    return max(_height(back, MAKING, _JOINING), int(only))


def _height(operations: Iterable[Any], up: tuple[type[Any], ...], down: tuple[type[Any], ...]) -> int:
    """Return the highest point of a walk that goes up and down with some kinds of operations."""
    height = highest = 0
    for operation in operations:
        height += isinstance(operation, up) - isinstance(operation, down)
        highest = max(highest, height)
    return highest


def _first_is(operations: Iterable[Any], wanted: type[Any], others: tuple[type[Any], ...]) -> bool:
    """Tell whether of two groups of operations the first one comes first."""
    found = next((operation for operation in operations if isinstance(operation, (wanted, *others))), None)
    return isinstance(found, wanted)


def needed_indices(operations: Sequence[Any], targets: int, made: int) -> list[int]:
    """Return how many indices tensors need before each operation, and after the last, for what is still to come.

    Args:
        operations: The operations, first to last.
        targets: Number of target patterns.
        made: How many indices the targets have that the operations make.

    Examples:
        >>> needed_indices([MergeModulelist(0), Concatenate(1), MergeModulelist(0)], 1, 0)
        [2, 1, 1, 0]
        >>> needed_indices([SplitModulelist(0), Chunk(1), SplitModulelist(0)], 2, 2)
        [0, 1, 1, 2]
    """
    cut_makes = targets == 1 and made > _height(operations[::-1], MAKING, USING)
    needs = [made]
    for place in reversed(range(len(operations))):
        operation, later = operations[place], operations[place + 1 :]
        makes = isinstance(operation, MAKING) or (isinstance(operation, Repeat) and operation.times is None)
        if isinstance(operation, Chunk | Split):
            makes = cut_makes and not is_joined(later)
        needs.append(max(0, needs[-1] + isinstance(operation, USING) - makes))
    return needs[::-1]


def takes_list(later: Iterable[Any], is_indexed: bool, indices: int, needed: int) -> bool:
    """Tell whether what comes after an operation takes its tensors as lists, one for each index.

    Args:
        later: The operations that follow.
        is_indexed: Whether the targets take one tensor for each index.
        indices: How many indices tensors have before the operation.
        needed: How many they need after it.

    Examples:
        >>> stack = MergeModulelist(0)
        >>> takes_list([Cast("F32"), stack], False, 1, 1), takes_list([stack], False, 2, 1), takes_list([], False, 1, 0)
        (True, False, False)
    """
    counting = (operation for operation in later if not isinstance(operation, (*KEEPING, Repeat)))
    follows = next(counting, None)
    if isinstance(follows, Concatenate | MergeEqual):
        return True
    return needed >= indices and (is_indexed if follows is None else isinstance(follows, USING))


class Cell(NamedTuple):
    """The lanes of some outer indices; of none, where there is only one cell."""

    outer: Place
    lanes: tuple[Lane, ...]

    @property
    def is_indexed(self) -> bool:
        """Whether the lanes have one more index."""
        return any(lane.indexed for lane in self.lanes)

    @property
    def depth(self) -> int:
        """How many indices a tensor has."""
        return len(self.outer) + self.is_indexed


def divide(lanes: Sequence[Lane]) -> list[Cell]:
    """Divide lanes into cells, one for each combination of all indices but the last.

    Raises:
        LayoutError: `operation-arity` where the lanes differ in these.

    Examples:
        >>> from weighbridge.algebra.layout import Layout
        >>> values = tuple(Value(Layout.of(i, (2, 3)), "F32") for i in range(3))
        >>> cells = divide([Lane("layers.*.experts.*", values, True, ((0, 0), (0, 1), (1, 0)))])
        >>> [(cell.outer, len(cell.lanes[0].values)) for cell in cells]
        [((0,), 2), ((1,), 1)]
    """
    if not any(lane.places for lane in lanes):
        return [Cell((), tuple(lanes))]
    found: dict[Place, list[list[Value]]] = {}
    for number, lane in enumerate(lanes):
        for place, value in lane.numbered:
            found.setdefault(place[:-1], [[] for _ in lanes])[number].append(value)
    if not all(all(inner) for inner in found.values()):
        raise arity_error("the same outer indices in each pattern", lanes)
    return [
        Cell(outer, tuple(Lane(lane.name, tuple(own), indexed=True) for lane, own in zip(lanes, inner, strict=True)))
        for outer, inner in sorted(found.items())
    ]


def gather(cells: list[Cell]) -> tuple[Lane, ...]:
    """Put all cells together again: each tensor with all its indices."""
    if not cells[0].outer:
        return cells[0].lanes
    lanes = []
    for number, lane in enumerate(cells[0].lanes):
        own = [(cell.outer + place, value) for cell in cells for place, value in cell.lanes[number].numbered]
        places = tuple(place for place, _ in own) if cells[0].depth > 1 else ()
        lanes.append(Lane(lane.name, tuple(value for _, value in own), indexed=True, places=places))
    return tuple(lanes)


def regroup(operation: object, cells: list[Cell], needed: int) -> list[Cell]:
    """Make the cells that an operation runs on.

    Args:
        operation: The operation.
        cells: What there is.
        needed: How many indices are needed after it.

    Raises:
        LayoutError: `operation-arity` where the tensors of one cell do not have the same indices.
    """
    depth = cells[0].depth
    match operation:
        case Concatenate() | MergeEqual(None):
            return _joined(cells, min(needed, depth))
        case Repeat() | Chunk() | Split() if cells[0].is_indexed and needed >= depth + isinstance(operation, Repeat):
            return _unfolded(cells)
        case MergeEqual() | Repeat() if depth >= needed and depth and not cells[0].is_indexed:
            return _folded(cells)
    if isinstance(operation, MAKING) and cells[0].is_indexed and needed > depth:
        return _unfolded(cells)
    if isinstance(operation, USING) and depth and not cells[0].is_indexed:
        return _folded(cells)
    return cells


def _joined(cells: list[Cell], kept: int) -> list[Cell]:
    """Make cells of as many outer indices as are kept, with lists of all tensors that each has."""
    if len(cells[0].outer) < kept:
        return _unfolded(cells)
    while len(cells[0].outer) > kept:
        cells = _folded(cells)
    return cells


def _folded(cells: list[Cell]) -> list[Cell]:
    """Make lists of the tensors of all cells that share all outer indices but the last."""
    alike: dict[Place, list[Cell]] = {}
    for cell in cells:
        alike.setdefault(cell.outer[:-1], []).append(cell)
    return [Cell(outer, tuple(map(_one_list, zip(*(cell.lanes for cell in same), strict=True))))
            for outer, same in alike.items()]  # fmt: skip


def _one_list(lanes: tuple[Lane, ...]) -> Lane:
    return Lane(lanes[0].name, tuple(value for lane in lanes for value in lane.values), indexed=True)


def _unfolded(cells: list[Cell]) -> list[Cell]:
    """Make a cell of each index of the lanes."""
    return [
        Cell((*cell.outer, index), tuple(Lane(lane.name, (lane.values[index],)) for lane in cell.lanes))
        for cell in cells
        for index in range(_count(cell.lanes))
    ]


def _count(lanes: Sequence[Lane]) -> int:
    counts = {len(lane.values) for lane in lanes}
    if len(counts) != 1 or 0 in counts:
        raise arity_error("as many tensors for each pattern, and one at least", lanes)
    return counts.pop()
