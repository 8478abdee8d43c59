"""Find replicas: equal tensors of one side that become one of the other side, or are made of one.

Where one side has a tensor several times and the other side has it once, or in another form, the first of the equal
ones stands for all of them while values are matched. What is found of it is then said of all, by `Repeat` or
`MergeEqual`; of what nothing is found, every one is open again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from weighbridge.base.specs import DTYPES
from weighbridge.operations.replicas import Repeat
from weighbridge.studies.inference.by_value.equal_kin import Look
from weighbridge.studies.inference.by_value.evidence import turned
from weighbridge.studies.inference.by_value.fingerprints import cast_dtype, is_telling
from weighbridge.studies.inference.tensor_facts import Fact, Lane, lanes_of

if TYPE_CHECKING:
    from weighbridge.base.specs import Header, TensorSpec
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
    """Close all replicas but the first of each class.

    What has as many on the other side is no replica, nor what others of its own side, or several of the other one, hold
    the elements of in any order: one of them could be made of it by a movement.
    """
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
    sources, targets = _chosen(sources, partners, origins), _chosen(targets, origins, partners)
    found = Replicas(
        {key: alike for key, alike in sources.items() if _is_apart(evidence, alike, of_target=False)},
        {key: alike for key, alike in targets.items() if _is_apart(evidence, alike, of_target=True)},
    )
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


def _is_apart(evidence: Evidence, alike: Collection[str], *, of_target: bool) -> bool:
    """Tell whether nothing but the replicas holds their elements, and one tensor of the other side at the most."""
    first = next(iter(alike))
    header = (evidence.target if of_target else evidence.source).header
    spec = header[first]
    if DTYPES[spec.dtype].kind == "packed":
        return False
    own = [key for key in _near(evidence, spec, of_target=of_target) if header[key].dtype == spec.dtype]
    strange = (key for key in own if key not in alike)
    if any(_holds_alike(evidence, (key, first), (of_target, of_target), spec.dtype) for key in strange):
        return False
    held = 0
    for key in _near(evidence, spec, of_target=not of_target):
        dtype = (evidence.source if of_target else evidence.target).header[key].dtype
        shared = _shared_dtype(dtype, spec.dtype, is_target=not of_target)
        held += shared is not None and _holds_alike(evidence, (key, first), (not of_target, of_target), shared)
    return held <= 1


def _near(evidence: Evidence, spec: TensorSpec, *, of_target: bool) -> Iterator[str]:
    """Yield the open tensors of one side that have as many elements as a spec says."""
    header = (evidence.target if of_target else evidence.source).header
    still_open = evidence.open_targets if of_target else evidence.open_sources
    yield from (key for key in still_open if header[key].numel == spec.numel)


def _holds_alike(evidence: Evidence, keys: tuple[str, str], are_targets: tuple[bool, bool], dtype: str) -> bool:
    """Tell whether two tensors hold the same elements in a dtype, in whichever order."""
    one, other = (evidence.total(key, dtype, is_target=is_target)
                  for key, is_target in zip(keys, are_targets, strict=True))  # fmt: skip
    return one == other


def _shared_dtype(other: str, own: str, *, is_target: bool) -> str | None:
    """Return the dtype in which a tensor of the other side can be compared: the target's; None where there is none."""
    source, target = (own, other) if is_target else (other, own)
    return target if cast_dtype(source, target) and DTYPES[target].kind != "packed" else None


def say_of_all(evidence: Evidence, replicas: Replicas) -> None:
    """Say of all replicas what was found of the first, and open those again of which nothing was found.

    Nothing is said of replicas where something is open on the other side that one of them could be, moved or as a part.
    """
    doubted = {
        *_could_be_others(replicas.sources, evidence.source.header, evidence.open_targets, evidence.target.header),
        *_could_be_others(replicas.targets, evidence.target.header, evidence.open_sources, evidence.source.header),
    }
    known = Replicas(
        *({key: alike for key, alike in classes.items() if key not in doubted}
          for classes in (replicas.sources, replicas.targets))
    )  # fmt: skip
    evidence.withdraw({key for fact in evidence.facts if _is_of(fact, doubted) for key in fact.target_keys})
    said: set[str] = set()
    for number, fact in enumerate(evidence.facts):
        repeated = _repeated(fact, known.targets)
        is_merged = any(key in known.sources for key in fact.source_keys)
        whole = turned(_repeated(turned(repeated), known.sources)) if is_merged else repeated
        evidence.facts[number] = whole
        said.update(whole.source_keys, whole.target_keys)
    for classes, still_open in ((replicas.sources, evidence.open_sources), (replicas.targets, evidence.open_targets)):
        for alike in classes.values():
            still_open |= dict.fromkeys(key for key in alike[1:] if key not in said)


def _could_be_others(classes: Classes, header: Header, others: Iterable[str], other_header: Header) -> set[str]:
    """Return the classes of which a tensor could lie in something open of the other side, or the other way round."""
    sizes = {other_header[key].numel for key in others if other_header[key].numel > 1}
    numels = {key: header[key].numel for key in classes}
    return {key for key, numel in numels.items() if any(not size % numel or not numel % size for size in sizes)}


def _is_of(fact: Fact, keys: Collection[str]) -> bool:
    return any(key in keys for key in (*fact.source_keys, *fact.target_keys))


def _repeated(fact: Fact, classes: Classes) -> Fact:
    """Let a finding make all replicas of its targets, if each of them has as many; else it is left as it is."""
    made = [classes.get(key, (key,)) for key in fact.target_keys]
    times = len(made[0])
    if times == 1 or any(len(alike) != times for alike in made):
        return fact
    keys = [key for alike in made for key in alike]
    if len(made) == 1:
        lanes = lanes_of(keys)
        count = times if lanes[0].stars else None
        return Fact(fact.sources, lanes, (*fact.operations, Repeat(count)))
    if any(lane.stars for lane in fact.targets):
        return fact  # an index of its own and one of replicas are two, and a rule makes one
    return Fact(fact.sources, tuple(Lane((key,)) for key in keys), (*fact.operations, Repeat(times)))
