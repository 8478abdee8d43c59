"""Find out from the contents of two checkpoints which tensors of the one make which tensors of the other.

Three kinds of evidence, the strongest first: equal bytes; equal sums of element hashes, for what was re-ordered, joined
or divided; and names, where values say nothing because several tensors hold the same ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from weighbridge.base.keys import natural_key
from weighbridge.base.specs import DTYPES, Shape
from weighbridge.operations.ops import invert
from weighbridge.studies.inference.by_value.fingerprints import (
    Sums,
    cast_dtype,
    digest_as,
    is_telling,
    read_as,
    sum_hashes,
)
from weighbridge.studies.inference.by_value.joins import state_join
from weighbridge.studies.inference.by_value.movement_search import Operations, fit_movement
from weighbridge.studies.inference.by_value.tiling import find_tiling
from weighbridge.studies.inference.likeness import pair_by_name
from weighbridge.studies.inference.tensor_facts import Fact

if TYPE_CHECKING:
    import torch

    from weighbridge.storage.protocol import Checkpoint

Look = tuple[str, Shape, bytes]
"""Dtype, shape and digest of a tensor."""

_KEPT_SUMS = 2**23
"""Number of sums over slices of targets that are kept, in all."""

_REMEMBERED = 8
"""Number of movements that are tried first on the next tensor."""


@dataclass(slots=True)
class Evidence:
    """What is known so far of two checkpoints.

    Args:
        source: The one that a mapping is to read.
        target: The one that it is to give.
        facts: Findings so far.
        open_sources: Keys of the source that no finding accounts for.
        open_targets: Keys of the target that no finding accounts for.
        guessed: Targets whose source the values left open and the names did not make plain, each with that source.
        tried: For a target without a finding, what came near.
    """

    source: Checkpoint
    target: Checkpoint
    facts: list[Fact] = field(default_factory=list)
    open_sources: dict[str, None] = field(default_factory=dict)
    open_targets: dict[str, None] = field(default_factory=dict)
    guessed: dict[str, str] = field(default_factory=dict)
    tried: dict[str, str] = field(default_factory=dict)
    looks: dict[str, dict[str, bytes]] = field(default_factory=dict)
    target_looks: dict[str, Look] = field(default_factory=dict)
    weak: set[str] = field(default_factory=set)
    _movements: list[Operations] = field(default_factory=list)
    _sums: dict[str, Sums] = field(default_factory=dict)
    _totals: dict[tuple[bool, str, str], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.open_sources = dict.fromkeys(sorted(self.source.header, key=natural_key))
        self.open_targets = dict.fromkeys(sorted(self.target.header, key=natural_key))

    # ---- equal bytes ----

    def read_all(self) -> None:
        """Hash every tensor of both sides once; those of the source also in the dtypes that the target has."""
        wanted: defaultdict[int, set[str]] = defaultdict(set)
        for key, spec in self.target.header.items():
            self.target_looks[key] = spec.dtype, spec.shape, digest_as(self.target, key, [spec.dtype])[spec.dtype]
            wanted[spec.numel].add(spec.dtype)
        for key, spec in self.source.header.items():
            dtypes = {spec.dtype} | {dtype for dtype in wanted[spec.numel] if cast_dtype(spec.dtype, dtype)}
            self.looks[key] = digest_as(self.source, key, sorted(dtypes))
            if not is_telling(self.source, key):
                self.weak.add(key)

    def equal_pairs(self) -> Iterator[tuple[list[str], list[str]]]:
        """Yield open sources and targets that hold the same values; those of one dtype first, then cast ones."""
        for is_cast in (False, True):
            sources: defaultdict[Look, list[str]] = defaultdict(list)
            for key in self.open_sources:
                spec = self.source.header[key]
                for dtype, digest in self.looks[key].items():
                    if (dtype != spec.dtype) == is_cast:
                        sources[dtype, spec.shape, digest].append(key)
            targets: defaultdict[Look, list[str]] = defaultdict(list)
            for key in self.open_targets:
                targets[self.target_looks[key]].append(key)
            yield from ((sources[look], targets[look]) for look in targets if look in sources)

    def match_unique(self) -> None:
        """Take over what holds the same values as just one tensor of the other side, if those values say anything."""
        for sources, targets in list(self.equal_pairs()):
            if len(sources) == len(targets) == 1 and sources[0] not in self.weak and self._is_open(sources, targets):
                self.add(Fact.rename(sources[0], targets[0]))

    def match_by_name(self, names: dict[str, str]) -> None:
        """Put equal tensors together by their names.

        Args:
            names: What a source is called by the rules that are known so far.
        """
        for sources, targets in list(self.equal_pairs()):
            sources = [key for key in sources if key in self.open_sources]
            targets = [key for key in targets if key in self.open_targets]
            known = [(key, names[key]) for key in sources if names.get(key) in set(targets)]
            for one, two in known:
                if self._is_open([one], [two]):
                    self.add(Fact.rename(one, two))
            left = [key for key in sources if key in self.open_sources]
            free = [key for key in targets if key in self.open_targets]
            for pair in pair_by_name(left, free, names):
                self.add(Fact.rename(pair.source, pair.target))
                if not pair.is_plain:
                    self.guessed[pair.target] = pair.source

    # ---- equal elements ----

    def match_moved(self) -> None:
        """Find tensors with the same elements in another order or shape."""
        targets: defaultdict[tuple[str, int, int], list[str]] = defaultdict(list)
        for key in self._telling_targets():
            spec = self.target.header[key]
            targets[spec.dtype, spec.numel, self._total(key, spec.dtype, is_target=True)].append(key)
        sources: defaultdict[tuple[str, int, int], list[str]] = defaultdict(list)
        for dtype in {dtype for dtype, _, _ in targets}:
            for key in self._telling_sources(dtype):
                sources[dtype, self.source.header[key].numel, self._total(key, dtype)].append(key)
        for look, keys in targets.items():
            for pair in pair_by_name(sources.get(look, ()), keys, {}):
                self._fit(pair.source, pair.target, look[0])

    def _fit(self, source: str, target: str, dtype: str) -> None:
        values = read_as(self.source, source, dtype), read_as(self.target, target, dtype)
        found = fit_movement(*values, known=self._movements)
        if found is None:
            self.tried[target] = f"{source} holds the same values, in an order that no known operation gives"
            return
        self.add(replace_operations(Fact.rename(source, target), found))
        self._remember(found)

    def _remember(self, operations: Operations) -> None:
        if operations:
            others = [known for known in self._movements if known != operations]
            self._movements = [operations, *others][:_REMEMBERED]

    def match_joined(self) -> None:
        """Find tensors that were joined from several, and those that were divided among several."""
        for dtype in sorted({self.target.header[key].dtype for key in self.open_targets}):
            parts = self._parts(dtype, of_target=False)
            for key in self._telling_targets(dtype):
                fact = self._explain(key, dtype, is_target=True, parts=parts)
                if fact is not None:
                    self.add(fact)
            parts = self._parts(dtype, of_target=True)
            for key in self._telling_sources(dtype) if parts else ():
                fact = self._explain(key, dtype, is_target=False, parts=parts)
                if fact is not None:
                    self.add(Fact(fact.targets, fact.sources, invert(fact.operations)))

    def _explain(
        self, key: str, dtype: str, *, is_target: bool, parts: dict[tuple[int, int], list[str]]
    ) -> Fact | None:
        whole, other = (self.target, self.source) if is_target else (self.source, self.target)
        if not any(numel < whole.header[key].numel for numel, _ in parts):
            return None
        tiling = find_tiling(self._sums_of(key, dtype, is_target=is_target), parts)
        if tiling is None:
            return None

        def read(part: str) -> torch.Tensor:
            return read_as(other, part, dtype)

        fact = state_join(tiling, key, read_as(whole, key, dtype), read, self._movements)
        if fact is None and is_target:
            self.tried[key] = f"{', '.join(tiling.keys[:3])} hold its values, in an order that no known operation gives"
        return fact

    def _parts(self, dtype: str, *, of_target: bool) -> dict[tuple[int, int], list[str]]:
        """Return what may be a part: open tensors of one side by number of elements and total."""
        parts: defaultdict[tuple[int, int], list[str]] = defaultdict(list)
        keys = self._telling_targets(dtype) if of_target else self._telling_sources(dtype)
        for key in keys:
            header = self.target.header if of_target else self.source.header
            parts[header[key].numel, self._total(key, dtype, is_target=of_target)].append(key)
        return parts

    def _telling_targets(self, dtype: str | None = None) -> list[str]:
        specs = self.target.header.specs
        return [
            key
            for key in self.open_targets
            if dtype in (None, specs[key].dtype) and DTYPES[specs[key].dtype].kind != "packed" and specs[key].numel > 1
        ]

    def _telling_sources(self, dtype: str) -> list[str]:
        specs = self.source.header.specs
        return [key for key in self.open_sources if key not in self.weak and cast_dtype(specs[key].dtype, dtype)
                and DTYPES[specs[key].dtype].kind != "packed"]  # fmt: skip

    def _sums_of(self, key: str, dtype: str, *, is_target: bool) -> Sums:
        """Compute a tensor's sums; those of targets are kept, as far as they are small."""
        if is_target and key in self._sums:
            return self._sums[key]
        found = sum_hashes(read_as(self.target if is_target else self.source, key, dtype))
        if is_target and found.size + sum(kept.size for kept in self._sums.values()) <= _KEPT_SUMS:
            self._sums[key] = found
        return found

    def _total(self, key: str, dtype: str, *, is_target: bool = False) -> int:
        """Return the sum over a tensor's elements; of sources, that alone is kept."""
        look = is_target, key, dtype
        if look not in self._totals:
            self._totals[look] = self._sums_of(key, dtype, is_target=is_target).total
        return self._totals[look]

    # ---- bookkeeping ----

    def _is_open(self, sources: Iterable[str], targets: Iterable[str]) -> bool:
        return all(key in self.open_sources for key in sources) and all(key in self.open_targets for key in targets)

    def add(self, fact: Fact) -> bool:
        """Take a finding over, unless one of its tensors is accounted for already."""
        if not self._is_open(fact.source_keys, fact.target_keys):
            return False
        self.facts.append(fact)
        for key in fact.source_keys:
            del self.open_sources[key]
        for key in fact.target_keys:
            del self.open_targets[key]
        return True

    def withdraw(self, wrong: Collection[str]) -> None:
        """Give up the findings that were to give some targets and gave others."""
        kept: list[Fact] = []
        for fact in self.facts:
            if not any(key in wrong for key in fact.target_keys):
                kept.append(fact)
                continue
            self.open_sources |= dict.fromkeys(fact.source_keys)
            self.open_targets |= dict.fromkeys(fact.target_keys)
            self.tried |= dict.fromkeys(fact.target_keys, "a relation was found, but no rule that holds when it is run")
        self.facts = kept


def replace_operations(fact: Fact, operations: Operations) -> Fact:
    """Return a finding with operations in place of its own."""
    return Fact(fact.sources, fact.targets, operations)
