"""Run a mapping backwards over names alone: what a target's name would have come from, were it there."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from weighbridge.base.errors import WeighbridgeError
from weighbridge.mappings.mapping import Mapping
from weighbridge.mappings.transforms import Transform
from weighbridge.planning.names.wanting import Wanted
from weighbridge.planning.tracing import (
    Hit,
    Rules,
    Trace,
    finish_names,
    match_rule,
    number_name,
    prepare,
    trace_keys,
    trace_name,
    write_name,
)


class Origin(NamedTuple):
    """The names that a mapping would make a target of, and the numbers of the rules that would do it."""

    sources: tuple[str, ...]
    rules: tuple[int, ...]

    def __str__(self) -> str:
        numbers = [str(number + 1) for number in self.rules]
        rules = f"rules {', '.join(numbers[:-1])} and {numbers[-1]}" if len(numbers) > 1 else f"rule {numbers[0]}"
        return f"{', '.join(self.sources)}, of which {rules} would make it"


class WayBack(NamedTuple):
    """The rules of a mapping that have an inverse, inverted and in reverse order, and the number of each."""

    mapping: Mapping
    numbers: tuple[int, ...]


def find_origins(mapping: Mapping, keys: Iterable[str]) -> dict[str, Origin]:
    """Find the names that a mapping would turn into the given ones.

    The rules are inverted, but for those that cannot be, and run over each name; what comes of it counts only if the
    mapping turns it into that name.

    Args:
        mapping: The mapping.
        keys: Names of targets.

    Returns:
        The origin of each name that a rule would make. An index that is used up on the way is given as 0.

    Examples:
        >>> from weighbridge.mappings.transforms import WeightRenaming
        >>> mapping = Mapping([WeightRenaming("^blocks", "layers"), WeightRenaming("ln.scale", "norm.weight")])
        >>> print(find_origins(mapping, ["layers.3.norm.weight", "lm_head"])["layers.3.norm.weight"])
        blocks.3.ln.scale, of which rules 1 and 2 would make it
    """
    forward, back = prepare(mapping), prepare(invert_rules(mapping).mapping)
    found = {key: _origin(forward, back, key) for key in keys}
    return {key: origin for key, origin in found.items() if origin is not None}


def find_rivals(mapping: Mapping, keys: Iterable[str]) -> dict[str, tuple[Origin, Origin]]:
    """Find the names that a mapping's inverse leads back by a general rule, though a special one has made them too.

    Of two rules that write a name, the special one is that which writes the longer part of it.

    Args:
        mapping: The mapping.
        keys: Names of targets.

    Returns:
        For each such name the origin that the inverse gives, and that by the special rule.

    Examples:
        >>> from weighbridge.mappings.transforms import WeightRenaming
        >>> mapping = Mapping([WeightRenaming("^stem.kernel", "conv.weight"), WeightRenaming("w$", "weight")])
        >>> for origin in find_rivals(mapping, ["conv.weight"])["conv.weight"]:
        ...     print(origin)
        conv.w, of which rule 2 would make it
        stem.kernel, of which rule 1 would make it
    """
    forward, back = prepare(mapping), prepare(invert_rules(mapping).mapping)
    pairs = ((key, _rivals(forward, back, key)) for key in keys)
    return {key: pair for key, pair in pairs if pair is not None}


def _rivals(forward: Rules, back: Rules, key: str) -> tuple[Origin, Origin] | None:
    chosen = _origin(forward, back, key)
    if chosen is None:
        return None
    for number in trace_name(back, key).fired:
        if back.rules[number].converts:
            continue
        others = _without(back, number)
        rival = _origin(forward, others, key)
        if rival is None or not set(chosen.rules) - set(rival.rules) or not set(rival.rules) - set(chosen.rules):
            continue
        ours, theirs = _written_lengths(back, key), _written_lengths(others, key)
        if any(theirs[rule] > ours[number] for rule in theirs.keys() - ours.keys()):
            return chosen, rival
    return None


def _written_lengths(back: Rules, key: str) -> dict[int, int]:
    """Return for each rename that takes a name back how many of its characters the rename has written."""
    lengths: dict[int, int] = {}
    for rule in back.rules:
        matched = match_rule(back, rule, key)
        if matched is None:
            continue
        lane, match, inner = matched
        earlier = None if rule.converts else write_name(rule, rule.pairs[lane][1], match, match.captures, inner)
        if earlier is None:
            break
        lengths[rule.number] = match.stop - match.start
        key = earlier
    return lengths


def _without(rules: Rules, number: int) -> Rules:
    """Silence one rename; the numbers of the others stay."""
    kept = tuple(replace(rule, pairs=()) if rule.number == number else rule for rule in rules.rules)
    return replace(rules, rules=kept)


def unstable_names(mapping: Mapping, keys: Iterable[str], wanted: Wanted | None = None) -> list[str]:
    """Return the names that a mapping changes: a tensor stored under one of them does not come back under it.

    Args:
        mapping: The mapping.
        keys: Names of tensors.
        wanted: What rules that are `if_wanted` give way to.

    Examples:
        >>> from weighbridge.mappings.transforms import WeightRenaming
        >>> unstable_names(Mapping([WeightRenaming("^head", "classifier")]), ["head.weight", "classifier.weight"])
        ['head.weight']
    """
    found = trace_keys(prepare(mapping, wanted), keys, [])
    return [key for trace, members in found if trace.fired for key, _ in members]


@lru_cache(maxsize=16)
def invert_rules(mapping: Mapping) -> WayBack:
    """Invert the rules of a mapping that have an inverse; those that only old files need are left out."""
    inverted: dict[Transform, int] = {}
    for number, transform in reversed(list(enumerate(mapping.transforms))):
        if transform in mapping.legacy:
            continue
        with suppress(WeighbridgeError):
            inverted.setdefault(transform.inverse(), number)
    return WayBack(Mapping(inverted, name=mapping.name), tuple(inverted.values()))


def _origin(forward: Rules, back: Rules, key: str) -> Origin | None:
    try:
        trace = trace_name(back, key)
        sources = tuple(name for name, _ in _ends(back, trace, ()))
        if not sources:
            return None
        there = trace_name(forward, sources[0])
        ends = dict(_ends(forward, there, trace.hit.place if trace.hit is not None else ()))
    except WeighbridgeError:
        return None
    rules = (*there.fired, *ends.get(key, ()))
    return Origin(sources, rules) if key in ends and rules else None


def _ends(rules: Rules, trace: Trace, place: tuple[str, ...]) -> list[tuple[str, tuple[int, ...]]]:
    """Return the last forms of a traced name, each with the rules that fired behind a converter."""
    hit: Hit | None = trace.hit
    if hit is None:
        return [(trace.name, ())]
    names = [number_name(name, place) for name in hit.outputs]
    done = finish_names(rules, names, hit.rule, [])
    return [done[name] for name in names if name in done]
