"""How many tensors run through a converter's operations, before any shape is known.

A lane is what one pattern of a converter stands for: a single tensor, or one tensor for each index of its last `*`.
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
from weighbridge.operations.groupings import (
    Chunk,
    Concatenate,
    ErnieFuseAndSplitTextVisionExperts,
    ErnieSplitAndDecoupleTextVisionExperts,
    MergeModulelist,
    Split,
    SplitModulelist,
)
from weighbridge.operations.lowering import takes_list
from weighbridge.operations.movements import Moving
from weighbridge.operations.ops import Operation
from weighbridge.operations.replicas import MergeEqual, Repeat
from weighbridge.pattern import Pattern

_MERGING = MergeModulelist, ErnieFuseAndSplitTextVisionExperts
_SPLITTING = SplitModulelist, ErnieSplitAndDecoupleTextVisionExperts
_PARTING = *_SPLITTING, Chunk, Split, Repeat
_JOINING = *_MERGING, Concatenate, MergeEqual


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
    def merges(self) -> bool:
        """Whether the operations use up the index of the sources' last `*`."""
        is_equal = len(self.sources) == 1  # of one pattern there are several only by an index
        return self._surplus > 0 or _first_is(
            self.operations, (*_MERGING, *([MergeEqual] if is_equal else [])), _PARTING
        )

    @cached_property
    def splits(self) -> bool:
        """Whether the operations make the index of the targets' last `*`."""
        is_equal = len(self.targets) == 1
        back = self.operations[::-1]
        return self._surplus < 0 or _first_is(back, (*_SPLITTING, *([Repeat] if is_equal else [])), _JOINING)

    @property
    def keeps_lanes(self) -> bool:
        """Whether each source pattern becomes one target pattern, so that no lane's length depends on another's."""
        ernie = ErnieFuseAndSplitTextVisionExperts, ErnieSplitAndDecoupleTextVisionExperts
        regrouping = Concatenate, Chunk, Split, Repeat, MergeEqual, *ernie
        return len(self.sources) == len(self.targets) and not self._has(*regrouping)

    def check(self) -> None:
        """Follow the lanes through the operations and compare them with the targets.

        Raises:
            MappingError: `mapping-invalid`; `operation-arity` for a chain whose parts are not counted, or not there.
        """
        try:
            if self.merges and not count_stars(self.sources):
                raise MappingError("mapping-invalid", "an operation merges an index that the sources do not have")
            *_, (lanes, indexed) = self._follow()
            self._compare(lanes, indexed)
        except MappingError as problem:
            raise problem.with_context(
                got=f"{', '.join(self.sources)} -> {', '.join(self.targets)}",
                because=", ".join(map(repr, self.operations)),
                hint="compare what the operations take and give with the patterns of the two sides",
            ) from None

    def count_lanes(self) -> list[int]:
        """Return for each operation how many lanes it is given."""
        return [lanes for lanes, _ in self._follow()][:-1]

    def _follow(self) -> Iterator[tuple[int, bool]]:
        """Yield how many lanes there are at first and after each operation, and whether they are indexed."""
        lanes, indexed = len(self.sources), self.merges
        yield lanes, indexed
        for number, operation in enumerate(self.operations):
            later = self.operations[number + 1 :]
            if isinstance(operation, Repeat | MergeEqual):
                lanes, indexed = self._after_equal(operation, later, lanes, indexed)
            else:
                lanes, indexed = self._after(operation, later, lanes, indexed)
            yield lanes, indexed

    @cached_property
    def _surplus(self) -> int:
        return count_stars(self.sources) - count_stars(self.targets)

    def _has(self, *kinds: type[Any]) -> bool:
        return any(isinstance(operation, kinds) for operation in self.operations)

    def _after(self, operation: Operation, later: Sequence[Operation], lanes: int, indexed: bool) -> tuple[int, bool]:
        """Return how many lanes there are after one operation, and whether they are indexed.

        What is cut inside a chain is joined again, so that the operation itself says how many parts there are.
        """
        name = type(operation).__name__
        match operation:
            case MergeModulelist() | ErnieFuseAndSplitTextVisionExperts() if not indexed:
                raise MappingError("mapping-invalid", f"{name} needs sources with an index `*`")
            case MergeModulelist():
                return lanes, False
            case SplitModulelist():
                return lanes, True
            case Concatenate():
                return 1, False
            case Chunk() | Split() if indexed:
                given = "one" if lanes == 1 else f"{lanes}"
                raise MappingError("mapping-invalid", f"{name} divides one tensor, not {given} for each index")
            case Chunk() | Split() if lanes != 1:
                raise MappingError("mapping-invalid", f"{name} divides one tensor, not {lanes}")
            case Chunk() | Split() if is_joined(later):
                return _counted_parts(operation), False
            case On(parts) if parts[-1] >= lanes:
                what, got = "an operation is for a part that is not there", counted(lanes, "tensor")
                raise MappingError("operation-arity", what, expected=f"{parts[-1] + 1} tensors or more", got=got)
            case Chunk() if self._chunk_makes_index:
                return 1, True
            case Chunk() | Split():
                return self._parts_before(later), False
            case ErnieFuseAndSplitTextVisionExperts():
                return len(self.targets), False
            case ErnieSplitAndDecoupleTextVisionExperts():
                return len(self.targets), True
        return lanes, indexed

    def _after_equal(
        self, operation: Repeat | MergeEqual, later: Sequence[Operation], lanes: int, indexed: bool
    ) -> tuple[int, bool]:
        """Return the same for an operation of equal tensors, which looks at what comes after it."""
        name, times = type(operation).__name__, operation.times
        is_list = takes_list(later, self.splits)
        match operation:
            case Repeat() if times is not None:
                return (lanes, True) if indexed or is_list else (lanes * times, False)
            case Repeat() if indexed or lanes != 1:
                raise MappingError("mapping-invalid", f"{name} without a number repeats one tensor, for each target")
            case Repeat() if not all(isinstance(each, Moving | On | Cast) for each in later):
                raise MappingError("mapping-invalid", f"{name} needs a number where another operation regroups tensors")
            case Repeat() if len(self.targets) == 1 and not self.splits:
                raise MappingError("mapping-invalid", f"{name} makes several equal tensors, and there is one target")
            case Repeat():
                return len(self.targets), self.splits
            case MergeEqual() if lanes == 1 and not indexed:
                raise MappingError(
                    "mapping-invalid", f"{name} makes one tensor of several equal ones, and there is one"
                )
            case MergeEqual() if times is None:
                return 1, False
            case MergeEqual() if indexed:
                return lanes, is_list
        assert times is not None
        if lanes % times:
            raise MappingError("mapping-invalid", f"{name}(times={times}) does not divide {lanes} tensors")
        return lanes // times, False

    def _parts_before(self, later: Sequence[Operation]) -> int:
        """Return how many parts a tensor is cut into for the targets, before parts are repeated or merged."""
        parts = len(self.targets)
        for operation in reversed(later):
            if isinstance(operation, Repeat):
                parts = max(1, parts // (operation.times or parts))
            elif isinstance(operation, MergeEqual):
                parts *= operation.times or 1
        return parts

    @cached_property
    def _chunk_makes_index(self) -> bool:
        """Whether a `Chunk` among the operations is the one that makes the targets' index."""
        return len(self.targets) == 1 and self.splits and not self._has(SplitModulelist)

    def _compare(self, lanes: int, indexed: bool) -> None:
        wanted = len(self.targets)
        if lanes != wanted:
            tensors = "one tensor" if lanes == 1 else f"{lanes} tensors"
            what = f"the operations give {tensors} for {wanted} target patterns"
        elif indexed and not self.splits:
            what = "the operations leave one tensor for each index, and the targets have none"
        elif self.splits and not indexed:
            what = "the targets have an index `*` that no operation makes"
        elif self.splits and not count_stars(self.targets):
            what = "an operation makes an index that the targets do not have"
        elif self._surplus != self.merges - self.splits:
            what = "an index `*` that the operations use up still stands in the targets"
        else:
            return
        raise MappingError("mapping-invalid", what)


def _first_is(operations: Iterable[Operation], wanted: tuple[type[Any], ...], others: tuple[type[Any], ...]) -> bool:
    """Tell whether of two groups of operations the first one comes first."""
    found = next((operation for operation in operations if isinstance(operation, (*wanted, *others))), None)
    return isinstance(found, wanted)


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
