"""Find out from the contents of two checkpoints which tensors of the one make which tensors of the other.

Three kinds of evidence, the strongest first: equal bytes; equal sums of element hashes, for what was re-ordered, joined
or divided; and names, where values say nothing because several tensors hold the same ones. What values tell is taken
first, then what follows by the rules that this gives; the rest is chosen, and each choice is written down.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Final

from weighbridge.base.keys import natural_key
from weighbridge.base.specs import DTYPES
from weighbridge.operations.ops import invert
from weighbridge.studies.inference.by_value.choices import Choice
from weighbridge.studies.inference.by_value.equal_kin import Look
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
from weighbridge.studies.inference.by_value.symmetry import may_be_symmetric, rival_movements
from weighbridge.studies.inference.by_value.tiling import Parts, Pick, Tiling, find_tiling, only_one
from weighbridge.studies.inference.by_value.told import Told
from weighbridge.studies.inference.likeness import order_of_parts, pair_by_name
from weighbridge.studies.inference.tensor_facts import Fact

if TYPE_CHECKING:
    import torch

    from weighbridge.storage.protocol import Checkpoint

BY_NAMES: Final = "the likeness of the names"
BY_INDICES: Final = "the order of the indices and names of the parts"

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
        told: The findings that values alone have told.
        followed: Targets that the rules of these have led to.
        choices: For a target whose finding is one of several that would give the same values, the others.
        tried: For a target without a finding, what came near.
    """

    source: Checkpoint
    target: Checkpoint
    facts: list[Fact] = field(default_factory=list)
    open_sources: dict[str, None] = field(default_factory=dict)
    open_targets: dict[str, None] = field(default_factory=dict)
    told: Told = field(default_factory=Told)
    followed: set[str] = field(default_factory=set)
    choices: dict[str, Choice] = field(default_factory=dict)
    tried: dict[str, str] = field(default_factory=dict)
    looks: dict[str, dict[str, bytes]] = field(default_factory=dict)
    target_looks: dict[str, Look] = field(default_factory=dict)
    weak: set[str] = field(default_factory=set)
    movements: list[Operations] = field(default_factory=list)
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

    def looks_of(self, key: str, *, is_cast: bool) -> list[Look]:
        """List what a source looks like, in its own dtype or in others."""
        spec = self.source.header[key]
        return [
            (dtype, spec.shape, digest) for dtype, digest in self.looks[key].items() if (dtype != spec.dtype) == is_cast
        ]

    def equal_pairs(self, *, is_cast: bool) -> list[tuple[list[str], list[str]]]:
        """List open sources and targets that hold the same values, in one dtype or cast."""
        sources: defaultdict[Look, list[str]] = defaultdict(list)
        for key in self.open_sources:
            for look in self.looks_of(key, is_cast=is_cast):
                sources[look].append(key)
        targets: defaultdict[Look, list[str]] = defaultdict(list)
        for key in self.open_targets:
            targets[self.target_looks[key]].append(key)
        return [(sources[look], targets[look]) for look in targets if look in sources]

    def match_unique(self) -> None:
        """Take over what holds the same values as just one tensor of the other side, if those values say all."""
        for is_cast in (False, True):
            for sources, targets in self.equal_pairs(is_cast=is_cast):
                alone = len(sources) == len(targets) == 1 and sources[0] not in self.weak
                if alone and not may_be_symmetric(read_as(self.target, targets[0], self._dtype(targets[0]))):
                    self.add(Fact.rename(sources[0], targets[0]))

    def _dtype(self, target: str) -> str:
        return self.target.header[target].dtype

    # ---- equal elements ----

    def match_moved(self, *, told: bool = True) -> None:
        """Find tensors with the same elements in another order or shape.

        Args:
            told: Whether to take over only what the values tell.
        """
        targets: defaultdict[tuple[str, int, int], list[str]] = defaultdict(list)
        for key in self.telling_targets():
            spec = self.target.header[key]
            targets[spec.dtype, spec.numel, self.total(key, spec.dtype, is_target=True)].append(key)
        sources: defaultdict[tuple[str, int, int], list[str]] = defaultdict(list)
        for dtype in {dtype for dtype, _, _ in targets}:
            for key in self.telling_sources(dtype):
                sources[dtype, self.source.header[key].numel, self.total(key, dtype)].append(key)
        for look, keys in targets.items():
            alike = sources.get(look, [])
            if not told or len(alike) == len(keys) == 1:
                for pair in pair_by_name(alike, keys, {}):
                    others = Choice(_without(alike, pair.source), _without(keys, pair.target), (), BY_NAMES)
                    self._fit(pair.source, pair.target, others, told=told)

    def _fit(self, source: str, target: str, others: Choice, *, told: bool) -> None:
        values = read_as(self.source, source, self._dtype(target)), read_as(self.target, target, self._dtype(target))
        found = fit_movement(*values, known=self.movements)
        if found is None:
            self.tried[target] = f"{source} holds the same values, in an order that no known operation gives"
            return
        rivals = rival_movements(*values, found, self.movements) if may_be_symmetric(values[0]) else []
        others = others._replace(operations=tuple(map(operations_text, rivals)))
        if told and others.is_open:
            return
        if self.add(replace_operations(Fact.rename(source, target), found), others):
            self._remember(found)

    def _remember(self, operations: Operations) -> None:
        if operations:
            others = [known for known in self.movements if known != operations]
            self.movements = [operations, *others][:_REMEMBERED]

    def match_joined(self, *, told: bool = True, has_gap: bool = False) -> None:
        """Find tensors that were joined from several, and those that were divided among several.

        Args:
            told: Whether to take over only what the values tell; else equal parts are put in the order of their names.
            has_gap: Whether to find those with one part that no tensor has, and that holds one value.
        """
        for dtype in sorted({self.target.header[key].dtype for key in self.open_targets}):
            for is_target in (True, False):
                parts = self._parts(dtype, of_target=not is_target, is_telling_all=has_gap)
                wholes = self.telling_targets(dtype) if is_target else self.telling_sources(dtype)
                for key in wholes if parts else ():
                    self._join(key, dtype, is_target=is_target, parts=parts, told=told, has_gap=has_gap)

    def _join(
        self,
        key: str,
        dtype: str,
        *,
        is_target: bool,
        parts: Parts,
        told: bool,
        has_gap: bool,
    ) -> None:
        whole, other = (self.target, self.source) if is_target else (self.source, self.target)
        if not any(numel < whole.header[key].numel for numel, _ in parts):
            return
        pick = only_one if told else partial(_first_part, key, self.open_sources if is_target else self.open_targets)

        def read(part: str) -> torch.Tensor:
            return read_as(other, part, dtype)

        joined = None
        for tiling, values, is_folded in self._tilings(key, dtype, parts, pick, is_target=is_target, has_gap=has_gap):
            joined = state_join(tiling, key, values, read, self.movements, is_folded=is_folded)
            if joined is not None:
                break
            tried = f"{', '.join(tiling.keys[:3])} hold its values, in an order that no known operation gives"
            self.tried |= {key: tried} if is_target else {}
        if joined is None:
            return
        looks = {(other.header[k].numel, self.total(k, dtype, is_target=not is_target)) for k in tiling.keys}
        alike = tuple(k for look in sorted(looks) if len(parts[look]) > 1 for k in parts[look])
        rivals = tuple(map(operations_text, joined.rivals))
        others = Choice(alike if is_target else (), () if is_target else alike, rivals, BY_INDICES)
        if not (told and others.is_open):
            self.add(joined.fact if is_target else turned(joined.fact), others)

    def _tilings(
        self, key: str, dtype: str, parts: Parts, pick: Pick, *, is_target: bool, has_gap: bool
    ) -> Iterator[tuple[Tiling, torch.Tensor, bool]]:
        """Yield divisions of a tensor with its values; where parts lack its first two axes, first with these as one."""
        whole, other = (self.target, self.source) if is_target else (self.source, self.target)
        shape = whole.header[key].shape
        tiling = find_tiling(self._sums_of(key, dtype, is_target=is_target), parts, pick, has_gap=has_gap)
        lacks_both = tiling is None or len(other.header[tiling.keys[0]].shape) == len(shape) - 2
        is_grid = len(shape) > 2 and min(shape) > 1 and any(numel <= prod(shape[2:]) for numel, _ in parts)
        if lacks_both and is_grid and not has_gap:
            folded = read_as(whole, key, dtype).flatten(0, 1)
            grid = find_tiling(sum_hashes(folded), parts, pick)
            if grid is not None:
                yield grid, folded, True
        if tiling is not None and not (has_gap and self._is_a_part(key, tiling.keys, dtype, is_target=is_target)):
            yield tiling, read_as(whole, key, dtype), False

    def _is_a_part(self, whole: str, parts: Sequence[str], dtype: str, *, is_target: bool) -> bool:
        """Tell whether what some parts leave of a tensor is an open tensor of the other side after all."""
        own, other = (self.target, self.source) if is_target else (self.source, self.target)
        numel = own.header[whole].numel - sum(other.header[part].numel for part in parts)
        totals = (self.total(part, dtype, is_target=not is_target) for part in parts)
        rest = (self.total(whole, dtype, is_target=is_target) - sum(totals)) % 2**64
        alike = [
            key
            for key in (self.open_sources if is_target else self.open_targets)
            if key not in parts and other.header[key].numel == numel and cast_dtype(other.header[key].dtype, dtype)
        ]
        return any(self.total(key, dtype, is_target=not is_target) % 2**64 == rest for key in alike)

    def _parts(self, dtype: str, *, of_target: bool, is_telling_all: bool) -> dict[tuple[int, int], list[str]]:
        """Return what may be a part: open tensors of one side by number of elements and total."""
        parts: defaultdict[tuple[int, int], list[str]] = defaultdict(list)
        keys = self.telling_targets(dtype) if of_target else self.telling_sources(dtype)
        for key in keys:
            if of_target and is_telling_all and not is_telling(self.target, key):
                continue
            header = self.target.header if of_target else self.source.header
            parts[header[key].numel, self.total(key, dtype, is_target=of_target)].append(key)
        return parts

    def telling_targets(self, dtype: str | None = None) -> list[str]:
        """List the open targets, of one dtype or of any, whose values can be compared with others."""
        specs = self.target.header.specs
        return [
            key
            for key in self.open_targets
            if dtype in (None, specs[key].dtype) and DTYPES[specs[key].dtype].kind != "packed" and specs[key].numel > 1
        ]

    def telling_sources(self, dtype: str) -> list[str]:
        """List the open sources that can be compared in a dtype, and whose values tell them from others."""
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

    def total(self, key: str, dtype: str, *, is_target: bool = False) -> int:
        """Return the sum over a tensor's elements; of sources, that alone is kept."""
        look = is_target, key, dtype
        if look not in self._totals:
            self._totals[look] = self._sums_of(key, dtype, is_target=is_target).total
        return self._totals[look]

    # ---- bookkeeping ----

    def _is_open(self, sources: Iterable[str], targets: Iterable[str]) -> bool:
        return all(key in self.open_sources for key in sources) and all(key in self.open_targets for key in targets)

    def add(self, fact: Fact, others: Choice | None = None) -> bool:
        """Take a finding over, unless one of its tensors is accounted for already.

        Args:
            fact: The finding.
            others: What would give the same values.
        """
        if not self._is_open(fact.source_keys, fact.target_keys):
            return False
        self.facts.append(fact)
        if others is not None and others.is_open:
            self.choices |= dict.fromkeys(fact.target_keys, others)
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
            for key in fact.target_keys:
                self.choices.pop(key, None)
        self.facts = kept


def replace_operations(fact: Fact, operations: Operations) -> Fact:
    """Return a finding with operations in place of its own."""
    return Fact(fact.sources, fact.targets, operations)


def turned(fact: Fact) -> Fact:
    """Return a finding the other way round."""
    return Fact(fact.targets, fact.sources, invert(fact.operations))


def operations_text(operations: Operations) -> str:
    """Write operations as text."""
    return ", ".join(map(str, operations)) or "no operation"


def _without(keys: Sequence[str], key: str) -> tuple[str, ...]:
    return tuple(other for other in keys if other != key)


def _first_part(whole: str, free: Collection[str], keys: Sequence[str]) -> str | None:
    """Choose the next part of a tensor among equal ones, by the names."""
    return min((key for key in keys if key in free), key=lambda key: order_of_parts(whole, key), default=None)
