"""A mapping's rules, ready to run over names, and what comes of a name when they are run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from weighbridge.base.keys import Families, families
from weighbridge.mappings.mapping import Mapping
from weighbridge.mappings.transforms import Transform, WeightConverter, pairs
from weighbridge.operations.configuration import index_names
from weighbridge.operations.values import Size
from weighbridge.pattern import Pattern
from weighbridge.pattern.indices import PLAIN
from weighbridge.planning.names.wanting import Wanted


@dataclass(frozen=True, slots=True)
class Rule:
    """One transform of a mapping, ready to run.

    Args:
        number: Position in the mapping, from 0.
        scope: Path of the sub-module whose keys the rule sees.
        pairs: For a rename, each source pattern with its target pattern.
        targets: For a converter, all its target patterns; empty for a rename.
        merges: How many of its sources' last `*` have an index that the converter uses up.
        splits: How many of its targets' last `*` have an index that the converter makes.
        heights: Of two indices that are used up, how many of the second one there are for each of the first, where that
            is declared; the name of a list in the configuration, or numbers.
        read_by: Captures of its patterns that operations read lists of the configuration by.
        shifts: Whether a source pattern has an index in a form of its own, such as one with an offset.
        if_wanted: Whether the rule is left alone where the target lacks what it leads to.
    """

    number: int
    scope: str
    pairs: tuple[tuple[Pattern, Pattern], ...]
    targets: tuple[Pattern, ...] = ()
    merges: int = 0
    splits: int = 0
    heights: tuple[Size, ...] | str | None = None
    read_by: tuple[str, ...] = ()
    shifts: bool = False
    if_wanted: bool = False

    @property
    def converts(self) -> bool:
        """Whether this is a converter."""
        return bool(self.targets)


@dataclass(frozen=True, slots=True)
class Rules:
    """A mapping's rules, and what must be known of them to collapse keys to families.

    Args:
        mapping: The mapping.
        rules: Its rules.
        keep: Indices that a pattern names.
        collapsible: Whether keys may be collapsed at all.
        wanted: What rules give way to that are `if_wanted`; None to run them as they are written.
    """

    mapping: Mapping
    rules: tuple[Rule, ...]
    keep: frozenset[str]
    collapsible: bool
    wanted: Wanted | None = None

    def families(self, keys: Iterable[str]) -> Families:
        """Group keys that behave alike under these rules."""
        return families(keys, self.keep) if self.collapsible else Families({}, list(keys))

    def first_of_each(self, keys: Iterable[str]) -> dict[str, int]:
        """Return the first of the keys of each family, and how many there are."""
        found = self.families(keys)
        firsts = {members[0][0]: len(members) for members in found.templates.values()}
        return firsts | dict.fromkeys(found.literal, 1)


class Hit(NamedTuple):
    """A converter that fired: its number, the lane that matched, the merged indices' texts, and the names it writes.

    `read_by` has the texts of what is captured that operations read lists of the configuration by.
    """

    rule: int
    lane: int
    place: tuple[str, ...]
    outputs: tuple[str, ...]
    read_by: tuple[str, ...] = ()


class Trace(NamedTuple):
    """What became of one name: its last form before a converter, the rules that fired, and the converter.

    `spared` has the numbers of the rules that were left alone, as the target lacks what they lead to.
    """

    name: str
    fired: tuple[int, ...]
    hit: Hit | None
    spared: frozenset[int] = frozenset()


def last_stars(pattern: Pattern, count: int) -> tuple[str, ...]:
    """Return the names of a pattern's last `*`, the outermost first.

    Examples:
        >>> last_stars(Pattern.parse("layers.*.experts.*.w"), 2), last_stars(Pattern.parse("layers.*.experts.*.w"), 1)
        (('*1', '*2'), ('*2',))
    """
    return tuple(f"*{number}" for number in range(pattern.stars - count + 1, pattern.stars + 1))


class Traced(NamedTuple):
    """A family's trace with the keys that it stands for, each with its indices."""

    trace: Trace
    members: list[tuple[str, tuple[int, ...]]]


def prepare(mapping: Mapping, wanted: Wanted | None = None) -> Rules:
    """Parse and sort out a mapping's rules.

    Args:
        mapping: The mapping.
        wanted: What is to be reached, for the rules that are `if_wanted`; None to run them as they are written.
    """
    rules = tuple(_rule(number, transform) for number, transform in enumerate(mapping))
    patterns = [pattern for rule in rules for pair in rule.pairs for pattern in (*pair, *rule.targets)]
    scopes = {part for rule in rules for part in rule.scope.split(".") if part.isdigit()}
    keep = frozenset().union(scopes, *(pattern.literal_indices for pattern in patterns))
    collapsible = all(source.collapsible for rule in rules for source, _ in rule.pairs)
    collapsible = collapsible and all(pattern.fills_templates for pattern in patterns)
    return Rules(mapping, rules, keep, collapsible, wanted)


def _rule(number: int, transform: Transform) -> Rule:
    sides = pairs(transform)
    shifts = any(capture.form != PLAIN for source, _ in sides for capture in source.captures)
    if not isinstance(transform, WeightConverter):
        return Rule(number, transform.scope, sides, shifts=shifts, if_wanted=transform.if_wanted)
    arity = transform.arity
    targets = tuple(Pattern.parse(text) for text in transform.target_patterns)
    indices = arity.merges, arity.splits, arity.heights, index_names(transform.operations)
    return Rule(number, transform.scope, sides, targets, *indices, shifts, transform.if_wanted)
