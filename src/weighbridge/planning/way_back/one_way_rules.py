"""Rules without an inverse on the way back: they block what they may have made, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

from weighbridge.base.errors import WeighbridgeError
from weighbridge.base.keys import by_name
from weighbridge.mappings.mapping import Mapping
from weighbridge.mappings.one_way import one_way_reason
from weighbridge.mappings.transforms import Transform, WeightConverter, strip_scope
from weighbridge.pattern import Pattern, names_written
from weighbridge.planning.tracing import prepare, trace_name
from weighbridge.planning.way_back.origins import invert_rules, unstable_names


class Inverse(NamedTuple):
    """The inverse of a mapping for given names, and what is to be said of it."""

    mapping: Mapping
    notes: tuple[str, ...]


def inverse_for(mapping: Mapping, find_keys: Callable[[], Iterable[str]]) -> Inverse:
    """Return the inverse of a mapping for given names.

    A rule that has no inverse is passed over where it has made none of them. A rename may have made a name that the
    mapping leaves alone: then the name is read again as it is, and is kept; a note says so.

    Args:
        mapping: The mapping.
        find_keys: Gives the names that it gives; it is asked where a rule has no inverse.

    Raises:
        PatternError: `pattern-one-way`.
        LayoutError: `operation-one-way`.

    Examples:
        >>> from weighbridge.mappings.transforms import WeightRenaming
        >>> lost = WeightRenaming("layers.*.freq", "freq")
        >>> mapping = Mapping([lost, WeightRenaming("gamma", "weight")])
        >>> [rule.source_patterns for rule in inverse_for(mapping, lambda: ["norm.weight"]).mapping]
        [('weight',)]
    """
    lost = [rule for rule in mapping.transforms if rule not in mapping.legacy and one_way_reason(rule)]
    if mapping.forward is not None or not lost:
        return Inverse(mapping.inverse(), ())
    firsts = [alike[0] for alike in by_name(find_keys()).values()]
    notes = []
    for rule in lost:
        made = _made_by(mapping, rule, firsts)
        if made and (isinstance(rule, WeightConverter) or unstable_names(mapping, made)):
            rule.inverse()
        if made:
            number = mapping.transforms.index(rule) + 1
            notes.append(
                f"{made[0]} keeps its name: rule {number} makes it of others, too, and cannot be run backwards"
            )
    kept = replace(mapping, transforms=tuple(rule for rule in mapping.transforms if rule not in lost))
    return Inverse(replace(kept.inverse(), forward=mapping), tuple(notes))


def _made_by(mapping: Mapping, rule: Transform, keys: Iterable[str]) -> list[str]:
    """Return the names that a rule may have made: as they are, or as the later rules had them, run backwards."""
    later = replace(mapping, transforms=mapping.transforms[mapping.transforms.index(rule) + 1 :])
    back = prepare(invert_rules(later).mapping)
    patterns = _written(rule)
    found = []
    for key in keys:
        try:
            names = {key, trace_name(back, key, converters=False).name}
        except WeighbridgeError:
            names = {key}
        inner = [name for each in names if (name := strip_scope(rule.scope, each)) is not None]
        if any(pattern.match(name) is not None for pattern in patterns for name in inner):
            found.append(key)
    return found


def _written(rule: Transform) -> list[Pattern]:
    sources = [Pattern.parse(text) for text in rule.source_patterns]
    targets = [Pattern.parse(text) for text in rule.target_patterns]
    pairs = zip(sources, targets, strict=False) if len(sources) == len(targets) else ((sources[0], t) for t in targets)
    return [names_written(source, target) for source, target in pairs]
