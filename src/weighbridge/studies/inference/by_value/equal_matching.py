"""Match tensors whose values do not tell them apart, and write down what else would have fitted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping as MappingOf, Sequence
from itertools import permutations
from typing import TYPE_CHECKING, Final

from weighbridge.base.specs import Header
from weighbridge.studies.inference.by_value.choices import ANY_ORDER, BY_PLAINNESS, Choice
from weighbridge.studies.inference.by_value.equal_kin import (
    MOST_KINDS,
    Equals,
    Kin,
    Paired,
    Signs,
    equal_kinds,
    indices_told,
    is_named,
    pair_kinds,
)
from weighbridge.studies.inference.by_value.evidence import BY_NAMES, operations_text
from weighbridge.studies.inference.by_value.fingerprints import bit_total, read_as
from weighbridge.studies.inference.by_value.movement_search import Operations, fit_movement, moved
from weighbridge.studies.inference.by_value.surroundings import Surroundings
from weighbridge.studies.inference.by_value.symmetry import may_be_symmetric, rival_movements
from weighbridge.studies.inference.by_value.told import module_of
from weighbridge.studies.inference.likeness import pair_by_name
from weighbridge.studies.inference.tensor_facts import Fact, mask

if TYPE_CHECKING:
    from weighbridge.studies.inference.by_value.evidence import Evidence

BY_RULES: Final = "the rules of others, or a name that stays"
BY_INDEX: Final = "the indices in its name"


def match_equals(evidence: Evidence, names: MappingOf[str, str]) -> None:
    """Put tensors together that hold the same values as others: by kinds, then one by one.

    Args:
        evidence: What is known; findings and choices are added to it.
        names: What a source is called by the rules that are known so far.
    """
    sources, targets = list(evidence.source.header), list(evidence.target.header)
    signs = Signs(evidence.told, names, Surroundings(sources, targets, evidence.told.facts), set())
    for is_cast in (False, True):
        for equals in _equals(evidence, is_cast=is_cast):
            for paired in pair_kinds(equals, signs):
                _take(evidence, paired, equals, signs)
        _match_singly(evidence, signs, is_cast=is_cast)


def _equals(evidence: Evidence, *, is_cast: bool) -> list[Equals]:
    found = equal_kinds(
        evidence.open_sources,
        evidence.open_targets,
        lambda key: evidence.looks_of(key, is_cast=is_cast),
        evidence.target_looks.__getitem__,
    )
    few = (equals for equals in found if max(map(len, equals)) <= MOST_KINDS)
    return sorted(few, key=lambda equals: max(map(len, equals)))


def _take(evidence: Evidence, paired: Paired, equals: Equals, signs: Signs) -> None:
    """Take a pair of kinds over, with what else would have given the same values."""
    is_plain = is_named(paired, equals, signs)
    sources = [] if is_plain else _apart(paired.source, equals.sources, evidence.source.header)
    targets = [] if is_plain else _apart(paired.target, equals.targets, evidence.target.header)
    pairs = [(key, paired.target.keys[indices]) for indices, key in paired.source.keys.items()]
    operations = rival_operations(evidence, pairs)
    shuffled = not (is_plain or indices_told(paired, signs.told))
    for number, (indices, (source, target)) in enumerate(zip(paired.source.keys, pairs, strict=True)):
        beside = [pairs[(number + 1) % len(pairs)][0]] if shuffled else []
        others = Choice(
            (*(kin.keys[indices] for kin in sources), *beside),
            tuple(kin.keys[indices] for kin in targets),
            operations,
            BY_INDEX if shuffled and not (sources or targets) else paired.by,
        )
        evidence.add(Fact.rename(source, target), others)
    signs.modules.add((module_of(paired.source.first), module_of(paired.target.first)))


def _apart(kin: Kin, others: Sequence[Kin], header: Header) -> list[Kin]:
    """Return the other kinds, but for those that share the storage of this one."""
    own = header.ties.get(kin.first, kin.first)
    return [other for other in others if other is not kin and header.ties.get(other.first, other.first) != own]


def _match_singly(evidence: Evidence, signs: Signs, *, is_cast: bool) -> None:
    """Match what is left tensor by tensor, by the likeness of names and by what stands beside."""
    for sources, targets in evidence.equal_pairs(is_cast=is_cast):
        ones = [key for key in sources if key in evidence.open_sources]
        twos = [key for key in targets if key in evidence.open_targets]
        for pair in pair_by_name(ones, twos, signs.names, signs.around.touch):
            others = Choice(
                tuple(key for key in ones if key != pair.source),
                tuple(key for key in twos if key != pair.target),
                rival_operations(evidence, [(pair.source, pair.target)]),
                BY_NAMES,
            )
            evidence.add(Fact.rename(pair.source, pair.target), others)


# What operations could have been


def doubt_followed(evidence: Evidence, followed: Iterable[Fact]) -> None:
    """Write down for tensors that followed the renames of others what operations their values would allow.

    Args:
        evidence: What is known; choices are added to it.
        followed: Findings that rules led to, which their own values do not tell.
    """
    alike: defaultdict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for fact in followed:
        if not fact.operations:
            pair = fact.source_keys[0], fact.target_keys[0]
            alike[mask(pair[0]), mask(pair[1])].append(pair)
    for pairs in alike.values():
        operations = rival_operations(evidence, pairs)
        if operations:
            evidence.choices |= dict.fromkeys((two for _, two in pairs), Choice((), (), operations, BY_RULES))


def doubt_twins(evidence: Evidence) -> None:
    """Write down for what values tell which other pair of tensors could change places with it, each reordered.

    A matrix beside its own transpose is such a pair: either could be renamed, and either transposed.

    Args:
        evidence: What is known; choices are added to it.
    """
    alike: defaultdict[object, list[tuple[str, str]]] = defaultdict(list)
    for source, target, _ in evidence.told.single:
        spec = evidence.source.header[source]
        alone = evidence.told.counts[mask(source), mask(target)] == 1
        if alone and spec.dtype == evidence.target.header[target].dtype and sum(size > 1 for size in spec.shape) > 1:
            alike[spec.dtype, spec.numel, bit_total(evidence.source, source)].append((source, target))
    for pairs in alike.values():
        for (one, its_own), (two, other) in permutations(pairs, 2):
            found = _movement(evidence, two, its_own)
            if found is not None and _movement(evidence, one, other) is not None:
                evidence.choices[its_own] = Choice((), (), (f"{operations_text(found)} of {two}",), BY_PLAINNESS)


def _movement(evidence: Evidence, source: str, target: str) -> Operations | None:
    one = read_as(evidence.source, source, evidence.source.header[source].dtype)
    two = read_as(evidence.target, target, evidence.target.header[target].dtype)
    return fit_movement(one, two, evidence.movements)


def rival_operations(evidence: Evidence, pairs: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """List operations that would give the same as renames of one kind do, in each of them.

    Args:
        evidence: What is known.
        pairs: A source and a target each.
    """
    source, target = pairs[0]
    if (mask(source), mask(target)) in evidence.told.renamed_kinds:
        return ()
    shape = evidence.target.header[target].shape
    if sum(size > 1 for size in shape) > 1:
        if all(key in evidence.weak for key, _ in pairs):
            return (ANY_ORDER,)
        return _common_movements(evidence, [two for one, two in pairs if one not in evidence.weak])
    return tuple(map(operations_text, _movements_near(evidence, source, target))) if source in evidence.weak else ()


def _common_movements(evidence: Evidence, targets: Iterable[str]) -> tuple[str, ...]:
    """List movements that leave each of some tensors as it is."""
    common: dict[str, None] | None = None
    for key in targets:
        tensor = read_as(evidence.target, key, evidence.target.header[key].dtype)
        rivals = rival_movements(tensor, tensor, (), evidence.movements) if may_be_symmetric(tensor) else []
        found = dict.fromkeys(map(operations_text, rivals))
        common = found if common is None else {text: None for text in common if text in found}
        if not common:
            return ()
    return tuple(common or ())


def _movements_near(evidence: Evidence, source: str, target: str) -> list[Operations]:
    """List movements of the module, or of those beside it, that a vector of one value could have gone through too."""
    import torch

    spec = evidence.target.header[target]
    numbers = torch.arange(spec.numel).reshape(spec.shape)
    made = ((operations, moved(numbers, operations)) for operations in evidence.told.movements_near(source, target))
    return [ops for ops, order in made if order is not None and order.shape == spec.shape and not order.equal(numbers)]
