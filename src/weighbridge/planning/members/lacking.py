"""Say what a group of tensors lacks, and what to do for it."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from weighbridge.base.errors import PlanError
from weighbridge.base.keys import nearest
from weighbridge.base.specs import Header
from weighbridge.planning.members.group_keys import Extent, Gap, Group, count_gaps, name_of, spell_gaps
from weighbridge.planning.problems import MOST_SEARCHES
from weighbridge.planning.tracing import Rule, Rules

_DIGITS: Final = re.compile(r"\d+")


class Fault(NamedTuple):
    """A lane of a group that lacks members: its number, and what is missing."""

    lane: int
    missing: list[Gap]


@dataclass(slots=True)
class Lacking:
    """Describe groups that lack members.

    Args:
        rules: The mapping's rules.
        source: Specs of the sources.
        groups: All groups of the mapping.
        may_be_partial: Whether a load could be declared partial.
    """

    rules: Rules
    source: Header
    groups: Sequence[Group]
    may_be_partial: bool
    _elsewhere: dict[Any, str] = field(default_factory=dict)
    _by_layer: dict[str, list[str]] = field(default_factory=dict)
    _nearest: dict[str, list[str]] = field(default_factory=dict)

    def describe(self, group: Group, faults: Sequence[Fault], extents: Sequence[Extent]) -> PlanError:
        """Return the error for one group."""
        rule = self.rules.rules[group.rule]
        got = []
        for lane, missing in faults:
            text, present = rule.pairs[lane][0].text, len(group.lanes[lane])
            index = f"  missing: {spell_gaps(missing, rule.merges)}" if rule.merges else "  missing"
            got.append(f"{present} of {present + count_gaps(missing)}  {text}{index}")
            near = [] if present else self._near(_wanted_key(rule, group, text))
            got += [f"    nearest keys: {', '.join(near)}"] if near else []
        return PlanError(
            "group-incomplete",
            "a group of tensors lacks members",
            where=name_of(self.rules, group),
            expected=_expected([extent.total for extent in extents], [source.text for source, _ in rule.pairs]),
            got="\n".join(got),
            because=self.rules.mapping.rule_name(group.rule),
            hint=self._how_to_complete(group, faults),
        )

    def _how_to_complete(self, group: Group, faults: Sequence[Fault]) -> str:
        """Say what to do for a group that lacks members; what nothing of its kind has may be absent by design."""
        partial = "; or declare the load partial" if self.may_be_partial else ""
        lanes = tuple(fault.lane for fault in faults)
        look = group.rule, _kind_of(group), lanes
        if look not in self._elsewhere:
            self._elsewhere[look] = self._find_elsewhere(*look)
        if not self._elsewhere[look]:
            return f"check the pattern, and that all shards of the checkpoint are present{partial}"
        return (
            f"its pattern fits others, such as {self._elsewhere[look]}, and none of this kind: if there are none,\n"
            f"narrow the rule to the tensors that have all parts; else check that all shards are present{partial}"
        )

    def _find_elsewhere(self, rule: int, kind: tuple[str, ...], lanes: tuple[int, ...]) -> str:
        """Return a key that some patterns of a rule match, if they match others and none of the groups of one kind."""
        having = [group for group in self.groups if group.rule == rule and any(group.lanes[lane] for lane in lanes)]
        if any(_kind_of(group) == kind for group in having):
            return ""
        return min((key for group in having for lane in lanes for key in group.lanes[lane].values()), default="")

    def _near(self, wanted: str) -> list[str]:
        """Find the nearest keys for the first of the wanted ones, among those of its layer where it has one."""
        if not self._by_layer:
            for key in self.source:
                self._by_layer.setdefault(_first_index(key), []).append(key)
        if wanted not in self._nearest and len(self._nearest) < MOST_SEARCHES:
            self._nearest[wanted] = nearest(wanted, self._of_layer(wanted))
        return self._nearest.get(wanted, [])

    def _of_layer(self, wanted: str) -> Collection[str]:
        layer = _first_index(wanted)
        return (self._by_layer.get(layer) if layer else None) or self.source


def _wanted_key(rule: Rule, group: Group, text: str) -> str:
    """Guess the key that a pattern should have matched, from one that another pattern of the group did."""
    for lane, present in enumerate(group.lanes):
        other = rule.pairs[lane][0].text
        for key in present.values():
            if other in key:
                return key.replace(other, text)
    return text


def _expected(counts: Sequence[int], patterns: Sequence[str]) -> str:
    words = [f"{count} source{'s' * (count != 1)} for" for count in counts]
    if len(set(counts)) == 1:
        return f"{words[0]} each of {', '.join(patterns)}"
    return ", ".join(f"{word} {pattern}" for word, pattern in zip(words, patterns, strict=True))


def _kind_of(group: Group) -> tuple[str, ...]:
    """Return the names that a group makes, their numbers apart: those of all layers are of one kind."""
    return tuple(_DIGITS.sub("#", output) for output in group.outputs)


def _first_index(key: str) -> str:
    return next((part for part in key.split(".") if part.isdigit()), "")
