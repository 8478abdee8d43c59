"""Decide what becomes of tensors that only one side has: a named rule where that is certain, an open question else."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from weighbridge.base.keys import collapse_by_name
from weighbridge.base.specs import DTYPES, Header
from weighbridge.mappings.exception_rules import Carry, Drop, Initialise
from weighbridge.studies.inference.rules import shortest_patterns

if TYPE_CHECKING:
    from weighbridge.studies.inference.by_value.evidence import Evidence


_COPY: Final = "a copy of a tensor that has its place"
_ALONE: Final = "the other layout has no such tensor"
_OTHER: Final = "not explained: kept from ending in a tensor of other values"


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What only one side has.

    Args:
        drop: Rules for sources that the target does not need.
        carry: Rules for open sources that would end in a tensor of other values.
        initialise: Rules for targets that the source does not have.
        open_sources: Sources that may belong to an open target.
        open_targets: Targets that may be made from an open source.
        notes: What the rules stand for, one sentence each.
    """

    drop: tuple[Drop, ...]
    carry: tuple[Carry, ...]
    initialise: tuple[Initialise, ...]
    open_sources: tuple[str, ...]
    open_targets: tuple[str, ...]
    notes: tuple[str, ...]


def settle_leftovers(evidence: Evidence, strays: Collection[str]) -> Leftovers:
    """Account for what no finding does.

    A tensor has no partner for certain where it is a copy of one that has, or where nothing is open on the other side
    that its values could be of. All others are open questions.

    Args:
        evidence: What was found.
        strays: Open sources that have to be kept from the rules.
    """
    copies, twins, tied = _copied_sources(evidence), _copied_targets(evidence), _tied(evidence)
    sources_left = [key for key in evidence.open_sources if key not in copies]
    targets_left = [key for key in evidence.open_targets if key not in twins and key not in tied]
    open_sources = _related(sources_left, evidence.source.header, targets_left, evidence.target.header)
    open_targets = _related(targets_left, evidence.target.header, sources_left, evidence.source.header)
    alone = [key for key in sources_left if key not in set(open_sources)]
    new = [key for key in targets_left if key not in set(open_targets)]
    spare = {key: twin for key, twin in twins.items() if key not in tied}
    sources, targets = evidence.source.header, evidence.target.header
    drop = [Drop(p, why) for why, keys in ((_COPY, copies), (_ALONE, alone)) for p in _patterns(keys, sources)]
    initialise = [Initialise(p, why) for why, keys in ((_COPY, spare), (_ALONE, new)) for p in _patterns(keys, targets)]
    notes = [
        *_notes(copies, "source", "is dropped", "are dropped"),
        *_notes(dict.fromkeys(alone, ""), "source", "is dropped", "are dropped"),
        *_notes(spare, "target", "is not filled; tie it", "are not filled; tie them"),
        *_notes(dict.fromkeys(new, ""), "target", "is not filled", "are not filled"),
    ]
    against = [key for key in open_sources if key in strays]
    drop += [Drop(p, _OTHER) for p in _patterns((key for key in against if key in targets), sources)]
    carry = [Carry(p, _OTHER) for p in _patterns((key for key in against if key not in targets), sources)]
    return Leftovers(
        tuple(drop), tuple(carry), tuple(initialise), tuple(open_sources), tuple(open_targets), tuple(notes)
    )


def _copied_sources(evidence: Evidence) -> dict[str, str]:
    """Find open sources whose values another source holds that has its place."""
    placed = {
        (evidence.source.header[key].shape, digest): key
        for key in sorted(evidence.source.header, reverse=True)
        if key not in evidence.open_sources and key not in evidence.weak
        for digest in evidence.looks[key].values()
    }
    found: dict[str, str] = {}
    for key in evidence.open_sources:
        twins = (placed.get((evidence.source.header[key].shape, d)) for d in evidence.looks[key].values())
        twin = next((other for other in twins if other is not None), None)
        if twin is not None:
            found[key] = twin
    return found


def _copied_targets(evidence: Evidence) -> dict[str, str]:
    """Find open targets whose values another target holds that is filled."""
    placed: dict[object, str] = {}
    for fact in evidence.facts:
        if evidence.weak.isdisjoint(fact.source_keys):
            placed |= {evidence.target_looks[key]: key for key in fact.target_keys}
    return {
        key: placed[evidence.target_looks[key]] for key in evidence.open_targets if evidence.target_looks[key] in placed
    }


def _tied(evidence: Evidence) -> set[str]:
    """Find open targets that share their storage with a filled one."""
    ties = evidence.target.header.ties
    filled = {ties.get(key, key) for fact in evidence.facts for key in fact.target_keys}
    return {key for key in evidence.open_targets if ties.get(key, key) in filled and _has_tie(key, evidence)}


def _has_tie(key: str, evidence: Evidence) -> bool:
    ties = evidence.target.header.ties
    return key in ties or key in ties.values()


def _related(keys: Sequence[str], header: Header, others: Sequence[str], other_header: Header) -> list[str]:
    """Return the keys that may hold values of one of the others: of the same kind of dtype, and not all too small."""
    kinds = {DTYPES[other_header[key].dtype].kind for key in others}
    return [key for key in keys if DTYPES[header[key].dtype].kind in kinds]


def _patterns(keys: Iterable[str], header: Header) -> list[str]:
    """Write patterns that find these keys of a header and no others."""
    return shortest_patterns(keys, header)


def _notes(twins: dict[str, str], side: str, one: str, several: str) -> list[str]:
    """Say in a sentence what becomes of tensors, each with the one that it is a copy of, if any."""
    if not twins:
        return []
    key, twin = next(iter(twins.items()))
    shown = f"{key} of {twin}" if twin else ", ".join(collapse_by_name(twins)[:3])
    reason = f"{_COPY} ({shown}{', …' if len(twins) > 1 else ''})" if twin else f"{_ALONE} ({shown})"
    return [f"{len(twins):,} {side}{'s' * (len(twins) != 1)} {one if len(twins) == 1 else several}: {reason}"]
