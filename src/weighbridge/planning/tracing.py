"""Run a mapping's rules over names alone: which rule fires on which key, and what the key becomes.

Keys that differ only in their indices behave alike, so the rules run once for each family of keys. A rule whose
pattern depends on the digits of an index turns that off, and then they run once for each key.

A rule that is `if_wanted` is left alone where a target is known that lacks what the rule leads to, and has what comes
without it. That is decided for a family as a whole where all its members agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from weighbridge.base.errors import PlanError, WeighbridgeError
from weighbridge.base.json_text import shorten
from weighbridge.base.keys import INDEX_DIGITS, Member, collapse, expand, is_sound
from weighbridge.base.specs import MAX_KEY_CHARACTERS, Header
from weighbridge.mappings.mapping import Mapping
from weighbridge.mappings.transforms import WeightConverter, strip_scope
from weighbridge.pattern import Match, Pattern
from weighbridge.planning.names.prepared import (
    Hit as Hit,
    Rule as Rule,
    Rules as Rules,
    Trace as Trace,
    Traced as Traced,
    last_stars as last_stars,
    prepare as prepare,
)
from weighbridge.planning.names.wanting import (
    FREE as FREE,
    Wanted,
    choose_outcome,
    number_name as number_name,
    silences,
)

_SHIFTED: Final = frozenset(map(chr, range(0xE800, 0xF000)))
"""Marks of an index with an offset, in a template: its members may behave differently at the ends of a range."""


def trace_keys(
    rules: Rules, keys: Iterable[str], problems: list[WeighbridgeError], start: int = 0, converters: bool = True
) -> Iterator[Traced]:
    """Trace many keys, family by family.

    Args:
        rules: The mapping's rules.
        keys: Names to trace; the result does not depend on their order.
        problems: Overlapping rules are added to it.
        start: Number of the first rule to run.
        converters: Whether converters may fire.
    """
    if all(rule.converts and not converters for rule in rules.rules[start:]):
        yield from (Traced(Trace(key, (), None), [(key, ())]) for key in keys)
        return
    found = rules.families(keys)
    alone = list(found.literal)
    for name, members in found.templates.items():
        try:
            yield from _trace_alike(rules, name, members, start, converters, literal=False)
        except _FragileError:
            alone += [key for key, _ in members]
        except WeighbridgeError as problem:
            problems.append(problem.with_context(where=collapse(key for key, _ in members)[0]))
    for key in alone:
        try:
            yield from _trace_alike(rules, key, [(key, ())], start, converters, literal=True)
        except WeighbridgeError as problem:
            problems.append(problem.with_context(where=key))


def _trace_alike(
    rules: Rules, name: str, members: list[Member], start: int, converters: bool, *, literal: bool
) -> list[Traced]:
    """Trace a template, or one name; a list of one, unless rules give way for some of the members only.

    Raises:
        PlanError: As `trace_name`; `layout-ambiguous` where rules could give way in two ways.
        _FragileError: The members behave differently after all, so that each must be traced alone.
    """
    first = trace_name(rules, name, start, converters=converters, literal=literal)
    yielding = [number for number in first.fired if rules.rules[number].if_wanted]
    if rules.wanted is None or not yielding:
        return [Traced(first, members)]
    traces, reached = [first], [last_names(rules, Traced(first, members))]
    named = zip(members, reached[0], strict=True)
    if all(choose_outcome([names], rules.wanted, _renamed_key(first, member[0])) for member, names in named):
        return [Traced(first, members)]
    for silent in silences(yielding):
        trace = trace_name(rules, name, start, converters=converters, literal=literal, silent=silent)
        traces.append(trace._replace(spared=silent))
        reached.append(last_names(rules, Traced(traces[-1], members)))
    found: dict[int, list[Member]] = {}
    for member, names in zip(members, zip(*reached, strict=True), strict=True):
        found.setdefault(_chosen(rules, member[0], traces, names), []).append(member)
    return [Traced(traces[number], alike) for number, alike in found.items()]


def trace_key(rules: Rules, key: str) -> Trace:
    """Trace one key, with the rules that give way on it left alone.

    Raises:
        PlanError: As `trace_name`; `layout-ambiguous`.
    """
    return _trace_alike(rules, key, [(key, ())], 0, converters=True, literal=True)[0].trace


def _renamed_key(trace: Trace, key: str) -> str:
    """Return the key whose tensor keeps its shape on the way; empty where a converter makes another tensor of it."""
    return "" if trace.hit is not None else key


def _chosen(rules: Rules, key: str, traces: list[Trace], names: tuple[tuple[str, ...], ...]) -> int:
    """Return the number of the trace that one key takes."""
    assert rules.wanted is not None
    fitting = choose_outcome(names, rules.wanted, _renamed_key(traces[0], key))
    if len(fitting) < 2:
        return next(iter(fitting), 0)
    because = "\n".join(rules.mapping.rule_name(number) for number in traces[0].fired)
    what, got = "rules could give way to the target in two ways", "\n".join(", ".join(names[i]) for i in fitting)
    raise PlanError("layout-ambiguous", what, where=key, got=got, because=because, hint="narrow one of the rules")


def last_names(rules: Rules, traced: Traced) -> list[tuple[str, ...]]:
    """Return the last names that a trace leads each member to."""
    trace, members = traced
    if trace.hit is None:
        return [(spell(trace.name, indices),) if trace.fired else (key,) for key, indices in members]
    written = [tuple(spell(output, indices) for output in trace.hit.outputs) for _, indices in members]
    done = finish_names(rules, dict.fromkeys(name for names in written for name in names), trace.hit.rule, [])
    return [tuple(done[name][0] for name in names if name in done) for names in written]


class _FragileError(Exception):
    """A rewritten template no longer stands for all of its keys."""


def _check_template(*names: str) -> None:
    """Refuse a template whose indices were moved, or touch other digits: later rules could tell its keys apart."""
    if not all(name.isascii() or (_SHIFTED.isdisjoint(name) and is_sound(name)) for name in names):
        raise _FragileError


def trace_name(
    rules: Rules,
    name: str,
    start: int = 0,
    *,
    converters: bool = True,
    literal: bool = True,
    silent: frozenset[int] = frozenset(),
) -> Trace:
    """Run the rules, but for those that are `silent`, over one name, or over the template of a family.

    Raises:
        PlanError: `rule-overlap`, `index-out-of-range`, `name-too-long`.
    """
    fired: list[int] = []
    for rule in rules.rules[start:]:
        if rule.number in silent or (rule.converts and not converters):
            continue
        matched = match_rule(rules, rule, name, literal=literal)
        if matched is None:
            continue
        lane, match, inner = matched
        if rule.converts:
            hit = _hit(rules, rule, lane, match, inner)
            _refuse_second(rules, hit, name, literal)
            if not literal:
                _check_template(*hit.outputs, *hit.place, *hit.read_by)
            return Trace(name, (*fired, rule.number), hit)
        written = require_name(rules, rule, rule.pairs[lane][1], match, match.captures, inner)
        if not literal:
            _check_template(written)
        fired.append(rule.number)
        name = written
    return Trace(name, tuple(fired), None)


def match_rule(rules: Rules, rule: Rule, name: str, *, literal: bool = True) -> tuple[int, Match, str] | None:
    """Find the one pattern of a rule that matches a name; also return the name without the rule's scope.

    Raises:
        PlanError: `rule-overlap` when two patterns of the rule match; `index-out-of-range` where one would match, but
            for an index that it cannot move.
    """
    inner = strip_scope(rule.scope, name)
    if inner is None:
        return None
    found = [
        (lane, m)
        for lane, (source, _) in enumerate(rule.pairs)
        if (m := source.match(inner, literal=literal)) is not None
    ]
    if rule.shifts:
        _refuse_padded(rules, rule, inner, dict(found))
    if not found:
        return None
    if len(found) > 1:
        claims = " and ".join(rule.pairs[lane][0].text for lane, _ in found)
        raise PlanError(
            "rule-overlap",
            "two patterns of one rule claim this key",
            got=claims,
            because=rules.mapping.rule_name(rule.number),
            hint="make one of the two patterns narrower",
        )
    return *found[0], inner


def _refuse_padded(rules: Rules, rule: Rule, inner: str, found: dict[int, Match]) -> None:
    """Refuse a name that a pattern would match but for the leading zeros of an index, which it cannot move."""
    for lane, (source, _) in enumerate(rule.pairs):
        fault = source.near_fault(inner, found.get(lane))
        if fault:
            raise _cannot_move(rules, rule, fault)


def _refuse_second(rules: Rules, first: Hit, name: str, literal: bool) -> None:
    """Refuse a name that two converters claim, unless the second is one that gives way."""
    for rule in rules.rules[first.rule + 1 :]:
        is_rival = rule.converts and not rule.if_wanted
        second = find_hit(rules, rule, name, literal=literal) if is_rival else None
        if second is not None and not is_same_use(rules, first, second):
            both = f"{rules.mapping.rule_name(first.rule)}\n{rules.mapping.rule_name(rule.number)}"
            hint = "make one of the two patterns narrower, or give one a scope"
            raise PlanError("rule-overlap", "two converters claim this key", because=both, hint=hint)


def find_hit(rules: Rules, rule: Rule, name: str, *, literal: bool = True) -> Hit | None:
    """Return what a converter would do with a name; None where none of its patterns matches.

    Raises:
        PlanError: As `match_rule`, and as `require_name`.
    """
    matched = match_rule(rules, rule, name, literal=literal)
    return None if matched is None else _hit(rules, rule, *matched)


def is_same_use(rules: Rules, one: Hit, other: Hit) -> bool:
    """Tell whether two converters do the same with a name: then it does not matter which of them fires.

    A converter may stand in a mapping twice, as that of a model and as that of a model inside it.
    """
    converters = [rules.mapping.transforms[hit.rule] for hit in (one, other)]
    uses = [(len(rule.source_patterns), rule.operations) for rule in converters if isinstance(rule, WeightConverter)]
    return uses[0] == uses[1] and one._replace(rule=0) == other._replace(rule=0)


def _hit(rules: Rules, rule: Rule, lane: int, match: Match, inner: str) -> Hit:
    if rule.splits and FREE in inner:
        raise PlanError("source-unplaced", "a key with the character U+F000 cannot be numbered")
    captures = dict(match.captures)
    place = tuple([captures.pop(star) for star in last_stars(rule.pairs[lane][0], rule.merges)])
    for index in place:
        if len(index.lstrip("0")) > INDEX_DIGITS:
            raise _cannot_move(rules, rule, f"{shorten(index, 40)}, for *, has more than {INDEX_DIGITS} digits")
    outputs = []
    for target in rule.targets:
        free = dict.fromkeys(last_stars(target, rule.splits), FREE)
        outputs.append(require_name(rules, rule, target, match, {**captures, **free}, inner))
    return Hit(rule.number, lane, place, tuple(outputs), tuple(match.captures[name] for name in rule.read_by))


def _cannot_move(rules: Rules, rule: Rule, fault: str) -> PlanError:
    digits = fault[1:].partition("'")[0]
    guard = r"(?!0\d)" if "leading zeros" in fault else rf"(?!{digits}(?!\d))" if digits.isdigit() else r"(?!0\.)"
    hint = f"guard the pattern against such an index, as in {guard}{{i:int}}, and give the key a rule of its own"
    because = rules.mapping.rule_name(rule.number)
    what = "a rule cannot count or move an index of this key"
    return PlanError("index-out-of-range", what, got=fault, because=because, hint=hint)


def require_name(rules: Rules, rule: Rule, target: Pattern, match: Match, captures: dict[str, str], inner: str) -> str:
    """Return what `write_name` does.

    Raises:
        PlanError: `index-out-of-range`, `name-too-long`.
    """
    written = write_name(rule, target, match, captures, inner)
    if written is None:
        raise _cannot_move(rules, rule, target.fault(captures))
    if len(written) > MAX_KEY_CHARACTERS:
        # A rule may write a capture twice, the next one as well: each doubles what is there.
        because, expected = rules.mapping.rule_name(rule.number), f"at most {MAX_KEY_CHARACTERS:,} characters"
        what, got = "a rule would write a name that is too long to be handled", f"{len(written):,}"
        raise PlanError("name-too-long", what, expected=expected, got=got, because=because)
    return written


def write_name(rule: Rule, target: Pattern, match: Match, captures: dict[str, str], inner: str) -> str | None:
    """Put the filled target pattern where the match was, and the scope back in front.

    Returns:
        The name; None where an offset cannot move an index, as `Pattern.fault` says.
    """
    filled = target.fill(captures)
    if filled is None:
        return None
    written = inner[: match.start] + filled + inner[match.stop :]
    return f"{rule.scope}.{written}" if rule.scope else written


def finish_names(
    rules: Rules, names: Iterable[str], converter: int, problems: list[WeighbridgeError]
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Run the renames behind a converter, whose number is given, over names that it wrote.

    Returns:
        For each name its last form and the numbers of the rules that fired.
    """
    done: dict[str, tuple[str, tuple[int, ...]]] = {}
    for trace, members in trace_keys(rules, names, problems, converter, converters=False):
        for name, indices in members:
            done[name] = (spell(trace.name, indices), trace.fired)
    return done


def spell(template: str, indices: tuple[int, ...]) -> str:
    """Put a member's indices into a traced template; a name that stands for itself has none."""
    if not indices:
        return template
    name = expand(template, indices)
    assert name is not None, "templates with offsets are traced key by key"
    return name


def trace_ends(rules: Rules, keys: list[str]) -> Iterator[tuple[str, tuple[str, ...], Trace]]:
    """Yield each key with its last names, and what became of it; one that no rule can be run on is left out."""
    for traced in trace_keys(rules, keys, []):
        for (key, _), names in zip(traced.members, last_names(rules, traced), strict=True):
            yield key, names, traced.trace


def landing(mapping: Mapping, keys: list[str], target: Header) -> set[str]:
    """Return the keys that a mapping gives the name of a target."""
    wanted = Wanted(target)
    rules = prepare(mapping, wanted)
    return {key for key, names, _ in trace_ends(rules, keys) if any(map(wanted.has, names))}
