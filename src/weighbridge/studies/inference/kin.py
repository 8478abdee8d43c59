"""Gather findings that differ only in their indices into one, in which variables stand for the indices.

A variable is written as a number that no real key has, so that a family's name is an ordinary key: patterns can be
matched against it, and what a rule makes of it can be compared with what it should be.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from weighbridge.base.keys import natural_key
from weighbridge.operations.ops import Operation
from weighbridge.studies.inference.by_value.joins import without_sizes
from weighbridge.studies.inference.tensor_facts import STAR, Fact, Lane, is_index

_BASE: Final = 100_000_000
_STEP: Final = 1000
_REACH: Final = 256
"""Largest offset of an index in a pattern."""


@dataclass(frozen=True, slots=True)
class Family:
    """Findings that one rule can state.

    Args:
        sources: Names of the source lanes, with variables for indices and `*` for the merged one.
        targets: Names of the target lanes.
        operations: What is done.
        facts: The findings.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    operations: tuple[Operation, ...]
    facts: tuple[Fact, ...]


def variable(number: int, offset: int = 0) -> str:
    """Write a variable, or the index so much after the one that it stands for.

    Examples:
        >>> read_variable(variable(3, -1)), read_variable("12")
        ((3, -1), None)
    """
    return str(_BASE + number * _STEP + offset)


def read_variable(segment: str) -> tuple[int, int] | None:
    """Read a variable and its offset; None for anything else."""
    if not is_index(segment) or int(segment) < _BASE - _REACH:
        return None
    number, offset = divmod(int(segment) - _BASE + _STEP // 2, _STEP)
    return number, offset - _STEP // 2


def find_families(facts: Iterable[Fact]) -> list[Family]:
    """Gather findings into families; where those of like names end differently, their indices are kept apart."""
    alike: defaultdict[str, list[Fact]] = defaultdict(list)
    for fact in sorted(facts, key=lambda fact: natural_key(fact.source_keys[0])):
        alike[_open(fact.sources[0]).replace(STAR, "#")].append(fact)
    families: list[Family] = []
    for members in alike.values():
        for kept, group in _separate(members):
            families += _unify(group, kept)
    return families


def _open(lane: Lane) -> str:
    return ".".join("#" if is_index(segment) else segment for segment in lane.name.split("."))


def _ints(lane: Lane) -> tuple[int, ...]:
    return tuple(int(segment) for segment in lane.name.split(".") if is_index(segment))


def _separate(members: list[Fact]) -> list[tuple[frozenset[int], list[Fact]]]:
    """Divide findings by what they lead to; also say which indices of the first source tell them apart."""
    by_end: defaultdict[object, list[Fact]] = defaultdict(list)
    plain = {fact: without_sizes(fact.operations) for fact in members}
    same_but_sizes = len(set(plain.values())) == 1 and len({fact.operations for fact in members}) > 1
    for fact in members:
        operations = plain[fact] if same_but_sizes else fact.operations
        sides = tuple(tuple(map(_open, side)) for side in (fact.sources, fact.targets))
        by_end[sides, operations].append(replace(fact, operations=operations))
    groups = list(by_end.values())
    if len(groups) == 1:
        return [(frozenset(), groups[0])]
    slots = range(min(len(_ints(fact.sources[0])) for fact in members))
    telling = [slot for slot in slots if _tells_apart(groups, slot)]
    kept = frozenset(telling[:1] or slots)
    divided: defaultdict[tuple[int, ...], list[Fact]] = defaultdict(list)
    for number, group in enumerate(groups):
        for fact in group:
            values = _ints(fact.sources[0])
            divided[(number, *(values[slot] for slot in sorted(kept)))].append(fact)
    return [(kept, group) for group in divided.values()]


def _tells_apart(groups: Sequence[Sequence[Fact]], slot: int) -> bool:
    values = [{_ints(fact.sources[0])[slot] for fact in group} for group in groups]
    return sum(map(len, values)) == len(set[int]().union(*values))


def _unify(facts: list[Fact], kept: frozenset[int]) -> list[Family]:
    """State like findings with variables; where one index does not follow from the others, divide them by it."""
    columns = [list(zip(*(_ints(fact.sources[0]) for fact in facts), strict=True))]
    kept |= _differing(facts[0].sources)
    names = _names(facts, columns[0], kept)
    if names is not None:
        sources, targets = names
        return [Family(sources, targets, facts[0].operations, tuple(facts))]
    free = [slot for slot in range(len(columns[0])) if slot not in kept]
    slot = min(free, key=lambda slot: len(set(columns[0][slot])))
    divided: defaultdict[int, list[Fact]] = defaultdict(list)
    for fact in facts:
        divided[_ints(fact.sources[0])[slot]].append(fact)
    return [family for group in divided.values() for family in _unify(group, kept | {slot})]


def _differing(lanes: Sequence[Lane]) -> frozenset[int]:
    """Find the indices that tell lanes of one name apart: these are no variables."""
    alike: defaultdict[str, list[tuple[int, ...]]] = defaultdict(list)
    for lane in lanes:
        alike[_open(lane)].append(_ints(lane))
    columns = (enumerate(zip(*values, strict=True)) for values in alike.values())
    return frozenset(slot for each in columns for slot, column in each if len(set(column)) > 1)


Column = tuple[int, ...]


def _names(
    facts: list[Fact], first: list[Column], kept: frozenset[int]
) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Write the lanes' names with variables; None where an index is no variable's."""
    spelled = {slot: str(column[0]) if slot in kept else variable(slot) for slot, column in enumerate(first)}
    targets = _lane_names(facts, "targets", first, spelled)
    if targets is None:
        return None
    used = {found[0] for name in targets for part in name.split(".") if (found := read_variable(part))}
    for slot, column in enumerate(first):
        if slot not in used and len(set(column)) == 1:
            spelled[slot] = str(column[0])  # nothing takes it over: a rule with it open could not be turned round
    sources = _lane_names(facts, "sources", first, spelled)
    return None if sources is None else (sources, targets)


def _lane_names(facts: list[Fact], side: str, first: list[Column], spelled: dict[int, str]) -> tuple[str, ...] | None:
    names = []
    for number, lane in enumerate(getattr(facts[0], side)):
        columns = list(zip(*(_ints(getattr(fact, side)[number]) for fact in facts), strict=True))
        literal = _differing(getattr(facts[0], side))
        places = iter(range(len(columns)))
        segments = []
        for segment in lane.name.split("."):
            place = next(places) if is_index(segment) else None
            free = [] if place in literal else first
            found = segment if place is None else _spell(columns[place], place, free, spelled)
            if found is None:
                return None
            segments.append(found)
        names.append(".".join(segments))
    return tuple(names)


def _spell(column: Column, place: int, first: list[Column], spelled: dict[int, str]) -> str | None:
    """Find what an index is: a variable, one with an offset, or always the same number."""
    same = [slot for slot, other in enumerate(first) if other == column]
    if same:
        return spelled[min(same, key=lambda slot: abs(slot - place))]
    for slot, other in enumerate(first):
        offset = column[0] - other[0]
        moved = all(one - two == offset for one, two in zip(column, other, strict=True))
        if moved and len(set(column)) > 1 and abs(offset) <= _REACH and read_variable(spelled[slot]):
            return variable(slot, offset)
    return str(column[0]) if len(set(column)) == 1 else None


def pattern_text(segments: Sequence[str], named: dict[int, str]) -> str:
    r"""Write segments with variables as a pattern.

    Args:
        segments: Segments of a name.
        named: The name of each variable; the empty one for an index written `*`.

    Examples:
        >>> pattern_text(["layers", variable(0, 1), "mlp+"], {0: "i"})
        'layers.{i+1}.mlp\\+'
    """
    return ".".join(_pattern_segment(segment, named) for segment in segments)


def _pattern_segment(segment: str, named: dict[int, str]) -> str:
    found = read_variable(segment)
    if found is None:
        return segment if segment == STAR else "".join("\\" * (c in "\\^$*+?()[]{}|") + c for c in segment)
    number, offset = found
    if not named[number]:
        return STAR
    return f"{{{named[number]}{offset:+d}}}" if offset else f"{{{named[number]}:int}}"


def name_variables(sources: Sequence[Sequence[str]], targets: Sequence[Sequence[str]]) -> dict[int, str] | None:
    """Choose how to write the variables of a rule: `*` where their order stays, names otherwise.

    Returns:
        A name for each variable of the sources; None where the targets have one that the sources lack.
    """
    found = [[read for segment in side if (read := read_variable(segment))] for side in (*sources, *targets)]
    known = list(dict.fromkeys(number for number, _ in found[0])) if found else []
    if any(number not in known for side in found for number, _ in side):
        return None
    has_star = any(STAR in side for side in (*sources, *targets))
    plain = not has_star and all(side == found[0] and not any(offset for _, offset in side) for side in found)
    return {number: "" if plain else "ijklmn"[place % 6] * (1 + place // 6) for place, number in enumerate(known)}
