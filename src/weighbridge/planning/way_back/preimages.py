"""All names that a mapping would turn into one name: a way back is unique only if there is no more than one.

A name that stays as it is counts, too: `0.weight` may have been called `0.gamma`, or may have had its name already.
Likeliest is what the rules lead back to, where a rule moves one place of the tree to another (`^language_model` to
`model.language_model`), or speaks of one whole name. Such a rival is told apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, NamedTuple

from weighbridge.base.errors import WeighbridgeError
from weighbridge.mappings.mapping import Mapping
from weighbridge.mappings.transforms import PrefixChange, Transform, WeightRenaming
from weighbridge.pattern import Match
from weighbridge.planning.names.wanting import Wanted
from weighbridge.planning.tracing import (
    Rule,
    Rules,
    finish_names,
    last_stars,
    match_rule,
    number_name,
    prepare,
    trace_key,
    write_name,
)
from weighbridge.planning.way_back.origins import invert_rules

MOST_NAMES: Final = 64
"""How many combinations of rules are followed back from one name."""


class Preimages(NamedTuple):
    """The names that a mapping turns into one.

    Args:
        names: All of them.
        likely: Those that are left if every rule that moves a place of the tree, or speaks of one whole name, has moved
            what it can.
        is_cut: Whether more were possible than were followed.
    """

    names: frozenset[str]
    likely: frozenset[str]
    is_cut: bool


class Part(NamedTuple):
    """One of the sources that a converter joins: the pattern that it matches, and the indices that are used up.

    A converter that joins fewer of them means its first one.
    """

    lane: int = 0
    place: tuple[str, ...] = ()


FIRST_PART: Final = Part()


def part_of(rules: Rules, name: str) -> Part:
    """Return which part of a tensor comes of a name.

    Examples:
        >>> from weighbridge.mappings.transforms import WeightConverter
        >>> from weighbridge.operations.groupings import Concatenate
        >>> part_of(prepare(Mapping([WeightConverter(["q", "k"], "qk", [Concatenate(0)])])), "layers.3.k")
        Part(lane=1, place=())
    """
    try:
        hit = trace_key(rules, name).hit
    except WeighbridgeError:
        hit = None
    return FIRST_PART if hit is None else Part(hit.lane, hit.place)


def find_preimages(
    mapping: Mapping, keys: Iterable[str], wanted: Wanted | None = None, part: Part = FIRST_PART
) -> dict[str, Preimages]:
    """Find for each key all the names that a mapping would make it of, its own included.

    Args:
        mapping: The mapping.
        keys: Names of targets.
        wanted: What rules that are `if_wanted` give way to.
        part: Which of several sources that are joined is meant.

    Returns:
        By key.

    Examples:
        >>> mapping = Mapping([WeightRenaming("ln_post", "layer_norm"), WeightRenaming("ln", "layer_norm")])
        >>> sorted(find_preimages(mapping, ["enc.layer_norm"])["enc.layer_norm"].names)
        ['enc.layer_norm', 'enc.ln', 'enc.ln_post']
    """
    way = invert_rules(mapping)
    forward, back = prepare(mapping, wanted), prepare(way.mapping)
    moves = frozenset(place for place, number in enumerate(way.numbers) if is_move(mapping.transforms[number]))
    return {key: _verified(forward, back, moves, key, part) for key in keys}


def is_move(transform: Transform) -> bool:
    """Tell whether a rule moves a place of the tree to another one: everything from the start of the key, to a name.

    Examples:
        >>> [is_move(WeightRenaming(text, "model.vlm")) for text in ("^old", "old")]
        [True, False]
        >>> is_move(PrefixChange(prefix_to_remove="model"))
        False
    """
    if isinstance(transform, PrefixChange):
        return bool(transform.prefix_to_add)
    if not isinstance(transform, WeightRenaming):
        return False
    (target,) = transform.target_patterns
    return target != "^" and all(text.startswith("^") for text in transform.source_patterns)


def _verified(forward: Rules, back: Rules, moves: frozenset[int], key: str, part: Part) -> Preimages:
    ways = _followed(back, moves, key, part)
    followed = list(islice(ways, MOST_NAMES))
    names = frozenset(name for name in {name for name, _ in followed} if _leads(forward, name, key))
    return Preimages(names, names & {name for name, is_likely in followed if is_likely}, next(ways, None) is not None)


def _followed(back: Rules, moves: frozenset[int], key: str, part: Part) -> Iterator[tuple[str, bool]]:
    """Yield what comes of a name if each rule that can be run back on it is, or is not, and whether it is likely."""
    open_names: list[tuple[str, int, bool, bool]] = [(key, 0, False, True)]
    while open_names:
        name, place, has_converted, is_likely = open_names.pop()
        if place == len(back.rules):
            yield name, is_likely
            continue
        rule = back.rules[place]
        found = [] if rule.converts and has_converted else list(_before(back, rule, name, part))
        stays = not any(place in moves or earlier.is_told for earlier in found)
        open_names.append((name, place + 1, has_converted, is_likely and stays))
        converted = has_converted or rule.converts
        open_names += [(earlier.name, place + 1, converted, is_likely) for earlier in found]


class _Earlier(NamedTuple):
    """What an inverted rule makes of a name, and whether the rule speaks of this name alone, up to its indices."""

    name: str
    is_told: bool


def _before(back: Rules, rule: Rule, name: str, part: Part) -> Iterator[_Earlier]:
    """Run one inverted rule over a name, wherever it matches; of several names that it writes, yield that of the part.

    Forwards a rule runs where it matches first, which may be behind, or before, the place where it does so backwards.
    """
    try:
        matched = match_rule(back, rule, name)
    except WeighbridgeError:
        return
    if matched is None:
        return
    lane, first, inner = matched
    for match in (first, *rule.pairs[lane][0].later_matches(inner, first)):
        earlier = _written(rule, lane, match, inner, part)
        if earlier is not None:
            yield earlier


def _written(rule: Rule, lane: int, match: Match, inner: str, part: Part) -> _Earlier | None:
    own = part.lane if part.lane < len(rule.targets) else 0
    target = rule.targets[own] if rule.converts else rule.pairs[lane][1]
    stars = last_stars(target, rule.splits)
    free = dict(zip(stars, part.place, strict=True)) if len(part.place) == len(stars) else dict.fromkeys(stars, "0")
    written = write_name(rule, target, match, {**match.captures, **free}, inner)
    is_whole = (match.start, match.stop) == (0, len(inner))
    is_told = is_whole and all(map(str.isdigit, match.captures.values()))
    return None if written is None else _Earlier(written, is_told)


def _leads(forward: Rules, name: str, key: str) -> bool:
    """Tell whether a mapping turns a name into a key."""
    try:
        trace = trace_key(forward, name)
        if trace.hit is None:
            return trace.name == key
        names = [number_name(output, ()) for output in trace.hit.outputs]
        return any(last == key for last, _ in finish_names(forward, names, trace.hit.rule, []).values())
    except WeighbridgeError:
        return False
