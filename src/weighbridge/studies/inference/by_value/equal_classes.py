"""Find replicas: equal tensors of one side that become one of the other side, or are made of one.

Where one side has a tensor several times and the other side has it once, or in another form, the first of the equal
ones stands for all of them while values are matched. What is found of it is then said of all, by `Repeat` or
`MergeEqual`; of what nothing is found, every one is open again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from weighbridge.operations.replicas import Repeat
from weighbridge.studies.inference.by_value.equal_kin import Look
from weighbridge.studies.inference.by_value.evidence import turned
from weighbridge.studies.inference.by_value.fingerprints import is_telling
from weighbridge.studies.inference.tensor_facts import Fact, Lane, lanes_of

if TYPE_CHECKING:
    from weighbridge.studies.inference.by_value.evidence import Evidence

Classes = dict[str, tuple[str, ...]]
"""Equal tensors by the first of them, which is one of them."""


@dataclass(frozen=True, slots=True)
class Replicas:
    """Equal tensors of both sides, of which the first stands for all.

    Args:
        sources: Those of the source.
        targets: Those of the target.
    """

    sources: Classes
    targets: Classes


def set_aside(evidence: Evidence) -> Replicas:
    """Close all replicas but the first of each class; what has as many on the other side is no replica."""
    ties = evidence.target.header.ties
    own = {key: _own_look(evidence, key) for key in evidence.open_sources}
    made = Counter(look for key in own for cast in (False, True) for look in evidence.looks_of(key, is_cast=cast))
    wanted = Counter(evidence.target_looks[key] for key in evidence.open_targets)
    sources = _classes((key, look) for key, look in own.items() if key not in evidence.weak)
    apart = (key for key in evidence.open_targets if key not in ties and key not in ties.values())
    targets = _classes((key, evidence.target_looks[key]) for key in apart)
    targets = {key: alike for key, alike in targets.items() if is_telling(evidence.target, key)}
    partners = {key: sum(wanted[look] for look in _looks(evidence, key)) for key in sources}
    origins = {key: made[evidence.target_looks[key]] for key in targets}
    found = Replicas(_chosen(sources, partners, origins), _chosen(targets, origins, partners))
    for classes, still_open in ((found.sources, evidence.open_sources), (found.targets, evidence.open_targets)):
        for alike in classes.values():
            for key in alike[1:]:
                del still_open[key]
    return found


def _own_look(evidence: Evidence, key: str) -> Look:
    return evidence.looks_of(key, is_cast=False)[0]


def _looks(evidence: Evidence, key: str) -> list[Look]:
    return [look for cast in (False, True) for look in evidence.looks_of(key, is_cast=cast)]


def _classes(looks: Iterable[tuple[str, Look]]) -> Classes:
    alike: defaultdict[Look, list[str]] = defaultdict(list)
    for key, look in looks:
        alike[look].append(key)
    return {keys[0]: tuple(keys) for keys in alike.values() if len(keys) > 1}


def _chosen(classes: Classes, others: dict[str, int], across: dict[str, int]) -> Classes:
    """Keep the classes that one tensor of the other side stands for, or none, where that side has no such class."""
    is_alone = 0 not in across.values()
    return {key: alike for key, alike in classes.items() if others[key] == 1 or (others[key] == 0 and is_alone)}


def say_of_all(evidence: Evidence, replicas: Replicas) -> None:
    """Say of all replicas what was found of the first, and open those again of which nothing was found."""
    said: set[str] = set()
    for number, fact in enumerate(evidence.facts):
        repeated = _repeated(fact, replicas.targets)
        merged = _repeated(turned(repeated), replicas.sources) if _names(fact.source_keys, replicas.sources) else None
        evidence.facts[number] = whole = turned(merged) if merged is not None else repeated
        said.update(whole.source_keys, whole.target_keys)
    for classes, still_open in ((replicas.sources, evidence.open_sources), (replicas.targets, evidence.open_targets)):
        for alike in classes.values():
            still_open |= dict.fromkeys(key for key in alike if key not in said)


def _names(keys: Collection[str], classes: Classes) -> bool:
    return any(key in classes for key in keys)


def _repeated(fact: Fact, classes: Classes) -> Fact:
    """Let a finding make all replicas of its targets, if each of them has as many; else it is left as it is."""
    made = [classes.get(key, (key,)) for key in fact.target_keys]
    times = len(made[0])
    if times == 1 or any(len(alike) != times for alike in made):
        return fact
    keys = [key for alike in made for key in alike]
    if len(made) == 1:
        lanes = lanes_of(keys)
        count = times if lanes[0].star is not None else None
        return Fact(fact.sources, lanes, (*fact.operations, Repeat(count)))
    if any(lane.star is not None for lane in fact.targets):
        return fact  # an index of its own and one of replicas are two, and a rule makes one
    return Fact(fact.sources, tuple(Lane((key,)) for key in keys), (*fact.operations, Repeat(times)))
