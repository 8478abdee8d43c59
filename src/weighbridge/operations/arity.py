"""How many tensors run through a converter's operations, before any shape is known.

A lane is what one pattern of a converter stands for: a single tensor, or one tensor for each index of its last `*`.
Following the lanes from the sources to the targets shows at construction that operations and patterns fit together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from weighbridge.base.errors import MappingError
from weighbridge.operations.groupings import (
    Chunk,
    Concatenate,
    ErnieFuseAndSplitTextVisionExperts,
    ErnieSplitAndDecoupleTextVisionExperts,
    MergeModulelist,
    Split,
    SplitModulelist,
)
from weighbridge.operations.ops import Operation
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
    def merges(self) -> bool:
        """Whether the operations use up the index of the sources' last `*`."""
        return self._has(MergeModulelist, ErnieFuseAndSplitTextVisionExperts) or self._surplus > 0

    @cached_property
    def splits(self) -> bool:
        """Whether the operations make the index of the targets' last `*`."""
        return self._has(SplitModulelist, ErnieSplitAndDecoupleTextVisionExperts) or self._surplus < 0

    @property
    def keeps_lanes(self) -> bool:
        """Whether each source pattern becomes one target pattern, so that no lane's length depends on another's."""
        ernie = ErnieFuseAndSplitTextVisionExperts, ErnieSplitAndDecoupleTextVisionExperts
        return len(self.sources) == len(self.targets) and not self._has(Concatenate, Chunk, Split, *ernie)

    def check(self) -> None:
        """Follow the lanes through the operations and compare them with the targets.

        Raises:
            MappingError: `mapping-invalid`.
        """
        try:
            lanes, indexed = len(self.sources), self.merges
            if self.merges and not count_stars(self.sources):
                raise MappingError("mapping-invalid", "an operation merges an index that the sources do not have")
            for operation in self.operations:
                lanes, indexed = self._after(operation, lanes, indexed)
            self._compare(lanes, indexed)
        except MappingError as problem:
            raise problem.with_context(
                got=f"{', '.join(self.sources)} -> {', '.join(self.targets)}",
                because=", ".join(map(repr, self.operations)),
                hint="compare what the operations take and give with the patterns of the two sides",
            ) from None

    @cached_property
    def _surplus(self) -> int:
        return count_stars(self.sources) - count_stars(self.targets)

    def _has(self, *kinds: type[Any]) -> bool:
        return any(isinstance(operation, kinds) for operation in self.operations)

    def _after(self, operation: Operation, lanes: int, indexed: bool) -> tuple[int, bool]:
        """Return how many lanes there are after one operation, and whether they are indexed."""
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
            case Chunk() if self._chunk_makes_index:
                return 1, True
            case Chunk() | Split() | ErnieFuseAndSplitTextVisionExperts():
                return len(self.targets), False
            case ErnieSplitAndDecoupleTextVisionExperts():
                return len(self.targets), True
        return lanes, indexed

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


def count_stars(patterns: Iterable[str]) -> int:
    """Count the `*` of each pattern of one side.

    Raises:
        MappingError: `mapping-invalid` when the patterns do not have the same number.
    """
    counts = {Pattern.parse(text).stars for text in patterns}
    if len(counts) != 1:
        raise MappingError("mapping-invalid", "patterns of one side need as many `*` each", got=repr(tuple(patterns)))
    return counts.pop()
