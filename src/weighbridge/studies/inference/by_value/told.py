"""What values alone have told, as signs for what they have not: which modules, layers and movements belong together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from weighbridge.studies.inference.by_value.movement_search import Operations
from weighbridge.studies.inference.tensor_facts import Fact, is_index, mask

Pair = tuple[str, str]
"""A name of the one side, and one of the other."""


def module_of(key: str) -> str:
    """Return the name of a tensor's module, its indices left open.

    Examples:
        >>> module_of("layers.3.norm.weight")
        'layers.#.norm'
    """
    return mask(key).rpartition(".")[0]


def block_of(key: str) -> str:
    """Return the name of the module that a tensor's module is in."""
    return module_of(key).rpartition(".")[0]


def starts_of(key: str) -> Iterator[tuple[str, int]]:
    """Yield a key's beginnings that end in an index, the indices left open, each with that index.

    Examples:
        >>> list(starts_of("h.1.experts.2.w"))
        [('h.#', 1), ('h.#.experts.#', 2)]
    """
    segments = key.split(".")
    for place, segment in enumerate(segments):
        if is_index(segment):
            yield mask(".".join(segments[: place + 1])), int(segment)


@dataclass(frozen=True)
class Told:
    """Findings that values alone have told.

    Args:
        facts: The findings.
    """

    facts: Sequence[Fact] = ()

    @cached_property
    def targets(self) -> frozenset[str]:
        """Their targets."""
        return frozenset(key for fact in self.facts for key in fact.target_keys)

    @cached_property
    def single(self) -> list[tuple[str, str, Operations]]:
        """Source, target and operations of those that are about one tensor each."""
        return [
            (fact.source_keys[0], fact.target_keys[0], fact.operations)
            for fact in self.facts
            if len(fact.source_keys) == len(fact.target_keys) == 1
        ]

    @cached_property
    def renamed_kinds(self) -> frozenset[Pair]:
        """Names, without indices, of tensors that are renamed and nothing else."""
        return frozenset((mask(one), mask(two)) for one, two, operations in self.single if not operations)

    @cached_property
    def counts(self) -> Counter[Pair]:
        """How many tensors of each kind there are, by its names on both sides without indices."""
        return Counter((mask(one), mask(two)) for one, two, _ in self.single)

    @cached_property
    def modules(self) -> dict[str, set[str]]:
        """For each module of the sources, those of the targets that hold its tensors."""
        found: defaultdict[str, set[str]] = defaultdict(set)
        for one, two, _ in self.single:
            found[module_of(one)].add(module_of(two))
        return dict(found)

    @cached_property
    def _movements(self) -> dict[Pair, dict[Operations, None]]:
        """What is done to the tensors of a module, and of a block, by its names on both sides."""
        found: defaultdict[Pair, dict[Operations, None]] = defaultdict(dict)
        for one, two, operations in self.single:
            found[module_of(one), module_of(two)][operations] = None
            found[f"{block_of(one)}.", f"{block_of(two)}."][operations] = None
        return dict(found)

    def movements_near(self, source: str, target: str) -> list[Operations]:
        """List what is done to the other tensors of two tensors' module; for one without others, of its block."""
        own = self._movements.get((module_of(source), module_of(target)), {})
        return list(own or self._movements.get((f"{block_of(source)}.", f"{block_of(target)}."), {}))

    @cached_property
    def layers(self) -> dict[Pair, set[int]]:
        """For beginnings of names that end in an index, on both sides, the indices that are the same in both."""
        found: defaultdict[Pair, set[int]] = defaultdict(set)
        for fact in self.facts:
            for one, two in zip(starts_of(fact.source_keys[0]), starts_of(fact.target_keys[0]), strict=False):
                if one[1] == two[1]:
                    found[one[0], two[0]].add(one[1])
        return dict(found)
