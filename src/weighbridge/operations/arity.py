"""How many tensors run through a converter's operations, before any shape is known.

A lane is what one pattern of a converter stands for: a single tensor, or one tensor for each index of its last `*`, of
which the operations may use up several.
Following the lanes from the sources to the targets shows at construction that operations and patterns fit together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from weighbridge.base.errors import MappingError
from weighbridge.base.keys import counted
from weighbridge.operations.casting import Cast
from weighbridge.operations.chains import count_parts, is_joined
from weighbridge.operations.chosen_parts import On
from weighbridge.operations.configuration import index_names
from weighbridge.operations.declaring.padding import InsertConstant, Pad, RemoveConstant, Trim
from weighbridge.operations.groupings import (
    Chunk,
    Concatenate,
    ErnieFuseAndSplitTextVisionExperts,
    ErnieSplitAndDecoupleTextVisionExperts,
    MergeModulelist,
    Split,
    SplitModulelist,
    is_told,
)
from weighbridge.operations.movements import Moving
from weighbridge.operations.nesting import KEEPING, count_made, count_used, needed_indices, takes_list
from weighbridge.operations.ops import Operation
from weighbridge.operations.replicas import MergeEqual, Repeat
from weighbridge.operations.values import Size
from weighbridge.pattern import Pattern


@dataclass(frozen=True)
class Arity:
    """The patterns and operations of a converter, and what they say about indices.

    Args:
        sources: Source patterns.
        targets: Target patterns.
        operations: The operations, first to last.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    operations: tuple[Operation, ...]

    @cached_property
    def merges(self) -> int:
        """How many of the sources' last `*` have an index that the operations use up."""
        return max(self._surplus, count_used(self.operations, len(self.sources) == 1))

    @cached_property
    def splits(self) -> int:
        """How many of the targets' last `*` have an index that the operations make."""
        return max(-self._surplus, count_made(self.operations, len(self.targets) == 1))

    @property
    def keeps_lanes(self) -> bool:
        """Whether each source pattern becomes one target pattern, so that no lane's length depends on another's."""
        ernie = ErnieFuseAndSplitTextVisionExperts, ErnieSplitAndDecoupleTextVisionExperts
        regrouping = Concatenate, Chunk, Split, Repeat, MergeEqual, InsertConstant, RemoveConstant, *ernie
        return len(self.sources) == len(self.targets) and not self._has(*regrouping)

    @property
    def heights(self) -> tuple[Size, ...] | str | None:
        """Of two merged indices, how many of the second there are for each of the first; None where it is one number.

        So it is said where stacks are joined along the axis that they were stacked on, by the sizes of all parts.
        """
        operations = [each for each in self.operations if not isinstance(each, On | Cast)]
        at = next((at for at, each in enumerate(operations) if not isinstance(each, Moving)), 0)
        match operations[at : at + 2]:
            case [MergeModulelist(dim), Concatenate(axis, _, sizes)] if self.merges == 2 and dim == axis:
                return sizes if len(self.sources) == 1 and is_told(sizes) else None
        return None

    def check(self) -> None:
        """Follow the lanes through the operations and compare them with the targets.

        Raises:
            MappingError: `mapping-invalid`; `operation-arity` for a chain whose parts are not counted, or not there.
        """
        try:
            if self.merges > count_stars(self.sources):
                raise MappingError("mapping-invalid", "an operation merges an index that the sources do not have")
            self._check_captures()
            *_, (lanes, indices) = self._follow()
            self._compare(lanes, indices)
        except MappingError as problem:
            raise problem.with_context(
                got=f"{', '.join(self.sources)} -> {', '.join(self.targets)}",
                because=", ".join(map(repr, self.operations)),
                hint="compare what the operations take and give with the patterns of the two sides",
            ) from None

    def _check_captures(self) -> None:
        """Refuse operations that read a list of the configuration by what the patterns do not capture as an index."""
        sides = [[Pattern.parse(text) for text in side] for side in (self.sources, self.targets)]
        for name in index_names(self.operations):
            captured = ({each.name for each in pattern.captures if each.kind == "int"} for pattern in sides[0])
            if not all(name in names for names in captured) or not all(name in each.mentions for each in sides[1]):
                what = f"an operation reads a list by [{name}], and no index of this name is in each of the patterns"
                expected = f"{{{name}:int}} in each source, {{{name}}} in each target"
                raise MappingError("mapping-invalid", what, expected=expected)

    def count_lanes(self) -> list[int]:
        """Return for each operation how many lanes it is given."""
        return [lanes for lanes, _ in self._follow()][:-1]

    def count_indices(self) -> list[int]:
        """Return how many indices the tensors have at first, and after each operation."""
        return [indices for _, indices in self._follow()]

    def _follow(self) -> Iterator[tuple[int, int]]:
        """Yield how many lanes there are at first and after each operation, and how many indices a lane has."""
        lanes, indices = len(self.sources), self.merges
        needs = needed_indices(self.operations, len(self.targets), self.splits)
        yield lanes, indices
        for number, operation in enumerate(self.operations):
            later, needed = self.operations[number + 1 :], needs[number + 1 :]
            if isinstance(operation, Repeat | MergeEqual):
                _refuse_lists(operation, later, indices, needed)
                lanes, indices = self._after_equal(operation, later, lanes, indices, needed[0])
            else:
                lanes, indices = self._after(operation, later, lanes, indices, needed[0])
            yield lanes, indices

    @cached_property
    def _surplus(self) -> int:
        return count_stars(self.sources) - count_stars(self.targets)

    def _has(self, *kinds: type[Any]) -> bool:
        return any(isinstance(operation, kinds) for operation in self.operations)

    def _after(
        self, operation: Operation, later: Sequence[Operation], lanes: int, indices: int, needed: int
    ) -> tuple[int, int]:
        """Return how many lanes there are after one operation, and how many indices a lane has; `needed` is the least.

        What is cut inside a chain is joined again, so that the operation itself says how many parts there are.
        """
        name = type(operation).__name__
        match operation:
            case MergeModulelist() | ErnieFuseAndSplitTextVisionExperts() if not indices:
                raise MappingError("mapping-invalid", f"{name} needs sources with an index `*`")
            case MergeModulelist():
                return lanes, indices - 1
            case SplitModulelist():
                return lanes, indices + 1
            case Concatenate():
                if indices <= needed:
                    _check_said(operation, lanes)
                return 1, min(indices, needed)
            case Chunk() | Split() if indices > needed:
                given = "one" if lanes == 1 else f"{lanes}"
                raise MappingError("mapping-invalid", f"{name} divides one tensor, not {given} for each index")
            case Chunk() | Split() if lanes != 1:
                raise MappingError("mapping-invalid", f"{name} divides one tensor, not {lanes}")
            case Chunk() | Split() if is_joined(later):
                return _counted_parts(operation), indices
            case On(parts) if parts[-1] >= lanes:
                what, got = "an operation is for a part that is not there", counted(lanes, "tensor")
                raise MappingError("operation-arity", what, expected=f"{parts[-1] + 1} tensors or more", got=got)
            case InsertConstant() | RemoveConstant():
                return _after_constant(operation, lanes, indices), 0
            case Chunk() | Split() if indices < needed and len(self.targets) == 1:
                return 1, indices + 1
            case Chunk() | Split():
                return self._parts_before(later), indices
            case ErnieFuseAndSplitTextVisionExperts():
                return len(self.targets), indices - 1
            case ErnieSplitAndDecoupleTextVisionExperts():
                return len(self.targets), indices + 1
        return lanes, indices

    def _after_equal(
        self, operation: Repeat | MergeEqual, later: Sequence[Operation], lanes: int, indices: int, needed: int
    ) -> tuple[int, int]:
        """Return the same for an operation of equal tensors, which looks at what comes after it."""
        name, times = type(operation).__name__, operation.times
        is_list = takes_list(later, bool(self.splits), indices, needed)
        match operation:
            case Repeat(int()) if indices:
                return lanes, indices + (needed > indices)
            case Repeat() if times is not None:
                return (lanes, 1) if is_list else (lanes * times, 0)
            case Repeat() if indices or lanes != 1:
                raise MappingError("mapping-invalid", f"{name} without a number repeats one tensor, for each target")
            case Repeat() if not all(isinstance(each, Moving | On | Cast | Pad | Trim) for each in later):
                raise MappingError("mapping-invalid", f"{name} needs a number where another operation regroups tensors")
            case Repeat() if len(self.targets) == 1 and not self.splits:
                raise MappingError("mapping-invalid", f"{name} makes several equal tensors, and there is one target")
            case Repeat():
                return len(self.targets), min(1, self.splits)
            case MergeEqual() if lanes == 1 and indices == (0 if times is not None else min(indices, needed)):
                raise MappingError(
                    "mapping-invalid", f"{name} makes one tensor of several equal ones, and there is one"
                )
            case MergeEqual() if times is None:
                return 1, min(indices, needed)
            case MergeEqual() if indices:
                return lanes, indices if is_list else indices - 1
        assert times is not None
        if lanes % times:
            raise MappingError("mapping-invalid", f"{name}(times={times}) does not divide {lanes} tensors")
        return lanes // times, 0

    def _parts_before(self, later: Sequence[Operation]) -> int:
        """Return how many parts a tensor is cut into for the targets, before parts are repeated or merged."""
        parts = len(self.targets)
        for operation in reversed(later):
            if isinstance(operation, Repeat):
                parts = max(1, parts // (operation.times or parts))
            elif isinstance(operation, MergeEqual):
                parts *= operation.times or 1
            elif isinstance(operation, InsertConstant | RemoveConstant):
                parts += 1 if isinstance(operation, RemoveConstant) else -1
            elif isinstance(operation, Chunk | Split):
                parts = 1
        return parts

    def _compare(self, lanes: int, indices: int) -> None:
        wanted = len(self.targets)
        if lanes != wanted:
            tensors = "one tensor" if lanes == 1 else f"{lanes} tensors"
            what = f"the operations give {tensors} for {wanted} target patterns"
        elif indices > self.splits:
            none = "fewer" if self.splits else "none"
            what = f"the operations leave one tensor for each index, and the targets have {none}"
        elif self.splits > indices:
            what = "the targets have an index `*` that no operation makes"
        elif self.splits > count_stars(self.targets):
            what = "an operation makes an index that the targets do not have"
        elif self._surplus != self.merges - self.splits:
            what = "an index `*` that the operations use up still stands in the targets"
        else:
            return
        raise MappingError("mapping-invalid", what)


def _refuse_lists(operation: Repeat | MergeEqual, later: Sequence[Operation], indices: int, needed: list[int]) -> None:
    """Refuse to make a list longer or shorter whose tensors a `Concatenate` then joins for each index by itself."""
    follows = next((place for place, each in enumerate(later) if not isinstance(each, KEEPING)), None)
    if operation.times is None or not indices or follows is None:
        return
    if isinstance(later[follows], Concatenate) and needed[follows + 1] >= indices:
        name = type(operation).__name__
        what = f"{name} is for the tensors of an index, and Concatenate joins those of each index by themselves"
        raise MappingError("mapping-invalid", what)


def _after_constant(operation: InsertConstant | RemoveConstant, lanes: int, indices: int) -> int:
    """Return how many tensors there are once a constant is put among them, or left out."""
    name, part = type(operation).__name__, operation.part
    if indices:
        raise MappingError("mapping-invalid", f"{name} counts single tensors, not those of an index")
    added = 1 if isinstance(operation, InsertConstant) else -1
    if part >= lanes + (added > 0) or lanes + added < 1:
        what, got = f"{name} has a part that is not there", counted(lanes, "tensor")
        raise MappingError("operation-arity", what, expected=f"{max(part, 1) + (added < 0)} tensors or more", got=got)
    return lanes + added


def _check_said(join: Concatenate, lanes: int) -> None:
    """Refuse a join that says how many parts there are, and is given another number of them."""
    said = len(join.sizes) if isinstance(join.sizes, tuple) else join.chunks
    if said not in (None, lanes):
        what, got = "Concatenate says another number of parts than it joins", counted(lanes, "tensor")
        raise MappingError("operation-arity", what, expected=counted(said, "tensor"), got=got)


def _counted_parts(cut: Chunk | Split) -> int:
    count = count_parts(cut)
    if count is None:
        hint = "say it: Split(dim, sizes), or Chunk(dim, chunks=...) for equal ones"
        what = f"{type(cut).__name__} does not say how many parts there are to join"
        raise MappingError("operation-arity", what, hint=hint)
    return count


def count_stars(patterns: Iterable[str]) -> int:
    """Count the `*` of each pattern of one side.

    Raises:
        MappingError: `mapping-invalid` when the patterns do not have the same number.
    """
    counts = {Pattern.parse(text).stars for text in patterns}
    if len(counts) != 1:
        raise MappingError("mapping-invalid", "patterns of one side need as many `*` each", got=repr(tuple(patterns)))
    return counts.pop()
