"""Sort the keys that a converter matched into groups, by the indices in the key, and find what a group lacks.

The order in which keys arrive means nothing: an index that is missing, or there twice, is an error that names it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping as MappingOf, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

from weighbridge.base.errors import PlanError, WeighbridgeError
from weighbridge.base.keys import index_of
from weighbridge.base.spelling import Range, gaps, ranges_of, spell_ranges
from weighbridge.operations.values import Place
from weighbridge.planning.tracing import FREE, Hit, Rules, Traced, finish_names, spell


@dataclass(slots=True)
class Group:
    """The sources of one use of a converter: for each lane, the key at each place.

    Args:
        rule: Number of the converter.
        outputs: Names that the converter writes; the indices that it makes are still free in them.
        lanes: For each source pattern, the merged indices to the key; a lane without an index has its one key at `()`.
        fired: Numbers of the rules that fired on the sources.
        read_by: What was captured that operations read lists of the configuration by.
    """

    rule: int
    outputs: tuple[str, ...]
    lanes: list[dict[Place, str]]
    fired: set[int] = field(default_factory=set)
    fault: bool = False
    read_by: tuple[int, ...] = ()

    @property
    def sources(self) -> tuple[str, ...]:
        """All keys, pattern by pattern, and by the indices within a pattern."""
        return tuple(lane[place] for lane in self.lanes for place in sorted(lane))


def collect_groups(
    rules: Rules, traced: Iterable[Traced], problems: list[WeighbridgeError]
) -> dict[tuple[int, tuple[str, ...]], Group]:
    """Sort the keys of all families that hit a converter into groups.

    Raises nothing; a key that claims a taken place is added to `problems` as `group-duplicate`.
    """
    groups: dict[tuple[int, tuple[str, ...]], Group] = {}
    for trace, members in traced:
        assert trace.hit is not None
        _collect_family(rules, trace.hit, trace.fired, members, groups, problems)
    return groups


def _collect_family(
    rules: Rules,
    hit: Hit,
    fired: tuple[int, ...],
    members: list[tuple[str, tuple[int, ...]]],
    groups: dict[tuple[int, tuple[str, ...]], Group],
    problems: list[WeighbridgeError],
) -> None:
    """Put one family's keys into their groups; keys that differ only in the merged indices share a lookup."""
    merged = merged_indices(hit)
    used = {slot for slot, _ in merged}
    outer_slots = [slot for slot in range(len(members[0][1])) if slot not in used]
    known: dict[tuple[int, ...], Group] = {}
    lane_count = len(rules.rules[hit.rule].pairs)
    for key, indices in members:
        outer = tuple([indices[slot] for slot in outer_slots])
        group = known.get(outer)
        if group is None:
            outputs = tuple(spell(output, indices) for output in hit.outputs)
            group = groups.setdefault((hit.rule, outputs), Group(hit.rule, outputs, [{} for _ in range(lane_count)]))
            group.fired.update(fired)
            group.read_by = tuple(int(spell(text, indices)) for text in hit.read_by)
            known[outer] = group
        place = tuple([number if slot is None else indices[slot] for slot, number in merged])
        lane = group.lanes[hit.lane]
        if place in lane:
            group.fault = True
            problems.append(_duplicate(rules, group, lane[place], key))
        lane[place] = key


def merged_indices(hit: Hit) -> list[tuple[int | None, int]]:
    """Return for each merged index its slot in the template, or None and the number that stands there."""
    slots = [(index_of(text), text) for text in hit.place]
    return [(slot, int(text) if slot is None else 0) for slot, text in slots]


def _duplicate(rules: Rules, group: Group, first: str, second: str) -> PlanError:
    return PlanError(
        "group-duplicate",
        "two sources claim one place in a group",
        where=name_of(rules, group),
        got="\n".join(sorted((first, second))),
        because=rules.mapping.rule_name(group.rule),
        hint="make the pattern narrower, or declare which source to drop",
    )


def name_of(rules: Rules, group: Group) -> str:
    """Name a group by its first target, under its last name; an index that the operations make is written `*`."""
    first = group.outputs[0]
    done = {} if FREE in first else finish_names(rules, [first], group.rule, [])
    return done[first][0] if first in done else first.replace(FREE, "*")


# What a group lacks


class Extent(NamedTuple):
    """The indices that a lane should have: each combination of those below the stops.

    Args:
        stops: For each merged index, the first one that is not there.
        heights: Of two indices, how many of the second one there are for each of the first, where they differ.
    """

    stops: tuple[int, ...]
    heights: tuple[int, ...] = ()

    @property
    def total(self) -> int:
        """How many tensors there should be."""
        return sum(self.heights) if self.heights else prod(self.stops)


Gap = tuple[tuple[Range, ...], ...]
"""Places that are missing: every combination of some ranges of each index, the outermost first."""


def extents_of(
    lanes: Sequence[Collection[Place]], levels: int, heights: tuple[int, ...] = (), is_apart: bool = False
) -> list[Extent]:
    """Return for each lane what it should have: the highest index of all lanes says it, or that of each by itself.

    Args:
        lanes: The places that there are.
        levels: How many indices are merged.
        heights: Of two indices, how many of the second one there are for each of the first, where that is declared.
        is_apart: Whether each lane has a length of its own.

    Examples:
        >>> extents_of([{(0, 0), (1, 2)}, {(0, 1)}], 2)[1].stops
        (2, 3)
    """
    if heights:
        return [Extent((len(heights), max(heights)), heights)] * len(lanes)
    if not is_apart:
        return [_extent(set[Place]().union(*lanes), levels)] * len(lanes)
    return [_extent(lane, levels) for lane in lanes]


def _extent(places: Collection[Place], levels: int) -> Extent:
    if levels == 1:
        return Extent((max(places, default=(0,))[0] + 1,))
    return Extent(tuple(max((place[level] for place in places), default=0) + 1 for level in range(levels)))


def find_gaps(present: Collection[Place], extent: Extent) -> list[Gap]:
    """Return the places that a lane lacks; as few of them as there are places, and one more.

    Examples:
        >>> find_gaps([(0, 0), (0, 1), (2, 1)], Extent((3, 2)))
        [(((1, 2),), ((0, 2),)), (((2, 3),), ((0, 1),))]
        >>> find_gaps([(0, 0)], Extent((2, 3), (1, 3))), find_gaps([], Extent(())), find_gaps([()], Extent(()))
        ([(((1, 2),), ((0, 3),))], [()], [])
    """
    if extent.heights:
        return _gaps_of_heights(present, extent.heights)
    if len(present) == extent.total:
        return []
    return _gaps_below(present, extent.stops) if extent.stops else [()]


def _gaps_of_heights(present: Iterable[Place], heights: Sequence[int]) -> list[Gap]:
    inside: list[list[int]] = [[] for _ in heights]
    for outer, inner in present:
        if outer < len(heights):
            inside[outer].append(inner)
    missing = [(gaps(there, height), outer) for outer, (there, height) in enumerate(zip(inside, heights, strict=True))]
    return _joined({outer: [(tuple(absent),)] for absent, outer in missing if absent})


def _gaps_below(present: Iterable[Place], stops: Sequence[int]) -> list[Gap]:
    first, *rest = stops
    if not rest:
        absent = gaps([place[0] for place in present], first)
        return [(tuple(absent),)] if absent else []
    inside: dict[int, list[Place]] = {}
    for first_index, *others in present:
        inside.setdefault(first_index, []).append(tuple(others))
    absent = gaps(inside, first)
    found: list[Gap] = [(tuple(absent), *(((0, stop),) for stop in rest))] if absent else []
    return found + _joined({index: _gaps_below(places, rest) for index, places in sorted(inside.items())})


def _joined(missing: MappingOf[int, list[Gap]]) -> list[Gap]:
    """Join what is missing at several outer indices alike."""
    alike: dict[Gap, list[int]] = {}
    for index, found in missing.items():
        for gap in found:
            alike.setdefault(gap, []).append(index)
    return [(tuple(ranges_of(indices)), *gap) for gap, indices in alike.items()]


def count_gaps(missing: Iterable[Gap]) -> int:
    """Return how many places are missing."""
    return sum(prod(sum(stop - start for start, stop in ranges) for ranges in gap) for gap in missing)


def spell_gaps(missing: Sequence[Gap], levels: int) -> str:
    """Write the places that are missing: the indices of each in order, with dots between.

    Examples:
        >>> spell_gaps(find_gaps([(0, 0), (0, 1), (2, 1)], Extent((3, 2))), 2)
        '1.{0,1}, 2.0'
        >>> spell_gaps(find_gaps([(0,), (4,)], Extent((6,))), 1)
        '1..3,5'
    """
    if levels == 1:
        return spell_ranges(missing[0][0]).strip("{}")
    return ", ".join(".".join(map(spell_ranges, gap)) for gap in missing)
