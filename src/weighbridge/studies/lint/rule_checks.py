"""The checks, each from what was followed to findings. A finding's key is the first one that shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Final

from weighbridge.mappings.mapping import Mapping
from weighbridge.mappings.one_way import one_way_reason
from weighbridge.mappings.transforms import PrefixChange, Transform, WeightConverter, describe
from weighbridge.planning.tracing import Rule, Rules
from weighbridge.studies.lint.findings import Finding, Severity
from weighbridge.studies.lint.settling import Collision
from weighbridge.studies.lint.walking import Firing, Span, Walk, changed, firings, overlaps

_BLANK: Final = "\uf8ff"
"""Stands for a character that was matched already; no pattern names it."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The mapping that is checked.

    Args:
        rules: Its rules.
        inverses: The inverse of each rename that has one, by number.
        legacy: Numbers of the rules that a derived inverse leaves out on purpose.
        real: Whether the keys are a checkpoint's own.
    """

    rules: Rules
    inverses: dict[int, Rule]
    legacy: frozenset[int]
    real: bool

    @property
    def mapping(self) -> Mapping:
        """The mapping itself."""
        return self.rules.mapping

    @property
    def when_real(self) -> Severity:
        """How bad it is what real keys do, and keys that were made up might never do."""
        return "error" if self.real else "warning"

    def find(
        self,
        code: str,
        severity: Severity,
        rules: Iterable[int],
        words: str,
        *,
        key: str = "",
        got: str = "",
        hint: str = "",
    ) -> Finding:
        """Make a finding about rules by their numbers, from 0."""
        numbers = tuple(dict.fromkeys(rules))
        because = tuple(f"rule {number + 1}: {describe(self.mapping.transforms[number])}" for number in numbers)
        return Finding(code, severity, tuple(number + 1 for number in numbers), words, key, got, because, hint)


def check_one_way(subject: Subject) -> Iterator[Finding]:
    """Find rules without an inverse, and rules that have the same one; those for old files alone need none."""
    first: dict[Transform, int] = {}
    for number, transform in enumerate(subject.mapping):
        if number in subject.legacy:
            continue
        reason = one_way_reason(transform)
        if reason:
            yield _one_way(subject, [number], f"this rule has no inverse: {reason}")
            continue
        owner = first.setdefault(transform.inverse(), number)
        if owner != number:
            yield _one_way(subject, [owner, number], "these rules have the same inverse, which cannot stand twice")


def _one_way(subject: Subject, rules: list[int], words: str) -> Finding:
    hint = "a model that came through a plan goes back by it all the same; any other one cannot be saved"
    return subject.find("one-way", "warning", rules, words, hint=hint)


def check_overlap(subject: Subject, walked: Walk) -> Iterator[Finding]:
    """Find a key that two patterns of one rule, or two converters, claim."""
    if not walked.clash:
        return
    numbers = [firing.rule.number for firing in walked.clash]
    alone = len(set(numbers)) == 1
    patterns = dict.fromkeys(firing.rule.pairs[firing.lane][0].text for firing in walked.clash)
    yield subject.find(
        "overlap",
        "error",
        numbers,
        "two patterns of one rule claim this key" if alone else "two converters claim this key",
        key=walked.key,
        got=" and ".join(patterns),
        hint="anchor the patterns, or write the segment before them, so that only one fits",
    )


def check_places(subject: Subject, walked: Walk) -> Iterator[Finding]:
    """Find a pattern that also matches behind the place where it was replaced."""
    for firing in walked.firings:
        source = firing.rule.pairs[firing.lane][0]
        again = None if source.is_anchored else _match_behind(firing)
        if again is not None:
            yield subject.find(
                "places",
                "warning",
                [firing.rule.number],
                f"{source.text} matches this name twice, and only the first place is rewritten",
                key=walked.key,
                got=f"{firing.before}\n{_marked(firing.before, (firing.start, firing.stop), again)}",
                hint="anchor the pattern with ^ or $, or write a neighbouring segment",
            )


def _match_behind(firing: Firing) -> tuple[int, int] | None:
    """Match a pattern once more, with what it matched made unreadable."""
    hidden = "".join(c if c == "." else _BLANK for c in firing.before[firing.start : firing.stop])
    name = firing.before[: firing.start] + hidden + firing.before[firing.stop :]
    scope = len(firing.rule.scope) + 1 if firing.rule.scope else 0
    match = firing.rule.pairs[firing.lane][0].match(name[scope:], literal=True)
    if match is None or scope + match.start < firing.stop or match.start == match.stop:
        return None
    return scope + match.start, scope + match.stop


def _marked(name: str, *spans: tuple[int, int]) -> str:
    """Underline parts of a name."""
    under = [" "] * len(name)
    for start, stop in spans:
        under[start:stop] = "~" * (stop - start)
    return "".join(under).rstrip()


def check_repeats(subject: Subject, walked: Walk) -> Iterator[Finding]:
    """Find a rename that matches what it wrote itself, or whose inverse matches what it replaced."""
    for firing in walked.firings:
        if firing.rule.converts:
            continue
        again = _fires_on(firing.rule, firing.lane, firing.after, firing.written)
        if again is not None and again.after != firing.after:
            yield _repeat(subject, walked.key, firing, again, "this rule matches what it wrote itself")
        inverse = subject.inverses.get(firing.rule.number) if firing.rule.number not in subject.legacy else None
        back = _fires_on(inverse, firing.lane, firing.before, (firing.start, firing.stop)) if inverse else None
        if back is not None and back.after != firing.before:
            yield _repeat(subject, walked.key, firing, back, "the inverse of this rule matches an original name")


def _fires_on(rule: Rule, lane: int, name: str, span: tuple[int, int]) -> Firing | None:
    found = (firing for firing in firings(rule, name) if firing.lane == lane)
    return next((firing for firing in found if overlaps((firing.start, firing.stop), span)), None)


def _repeat(subject: Subject, key: str, firing: Firing, again: Firing, words: str) -> Finding:
    hint = "anchor the pattern, or write a neighbouring segment on both sides"
    got = f"{again.before} -> {again.after}"
    return subject.find("repeats", "warning", [firing.rule.number], words, key=key, got=got, hint=hint)


def check_order(subject: Subject, walked: Walk) -> Iterator[Finding]:
    """Find a rename that matches what an earlier one of its scope wrote; a change of prefix is there to be first."""
    transforms = subject.mapping.transforms
    renames = [firing for firing in walked.firings if not firing.rule.converts]
    for at, first in enumerate(renames):
        for second in renames[at + 1 :]:
            is_prefix = isinstance(transforms[first.rule.number], PrefixChange)
            if second.rule.scope == first.rule.scope and not is_prefix:
                yield from _check_pair(subject, walked.key, first, second)


def _check_pair(subject: Subject, key: str, first: Firing, second: Firing) -> Iterator[Finding]:
    then = _rename(second.rule, first.after)
    exchanged = _rename(first.rule, _rename(second.rule, first.before))
    if then in (first.after, exchanged):
        return
    numbers = [first.rule.number, second.rule.number]
    words = f"rule {numbers[1] + 1} matches what rule {numbers[0] + 1} wrote, so that their order decides"
    got = f"{first.before} -> {then}\n{first.before} -> {exchanged}, the other way round"
    hint = "write the later rule with the original name, or both as one GroupWeightRename"
    yield subject.find("order", "warning", numbers, words, key=key, got=got, hint=hint)


def _rename(rule: Rule, name: str) -> str:
    fired = firings(rule, name)
    return fired[0].after if fired else name


def check_after_converter(subject: Subject, walked: Walk) -> Iterator[Finding]:
    """Find a rename that changes what a converter of its scope wrote."""
    if not walked.converted:
        return
    converter = walked.firings[walked.converted - 1]
    span = converter.written
    for firing in walked.firings[walked.converted :]:
        if firing.rule.scope == converter.rule.scope and overlaps(span, (firing.start, firing.stop)):
            numbers = [converter.rule.number, firing.rule.number]
            words = f"rule {numbers[1] + 1} changes the name that the converter rule {numbers[0] + 1} gave"
            hint = "write the last name into the converter's target, or put the rename before the converter"
            got = f"{firing.before} -> {firing.after}"
            yield subject.find("after-converter", "warning", numbers, words, key=walked.key, got=got, hint=hint)
        span = changed(span, firing)


def check_second_converter(subject: Subject, walked: Walk) -> Iterator[Finding]:
    """Find a converter that matches what another one wrote: it would never see it, as one converter runs on a key."""
    for rules, name, span in _names_since_converter(subject, walked):
        wrote = walked.firings[walked.converted - 1].rule.number
        for rule in rules:
            found = firings(rule, name) if rule.converts and rule.number != wrote else []
            if any(overlaps(span, (firing.start, firing.stop)) for firing in found):
                numbers = sorted((wrote, rule.number))
                words = f"rule {rule.number + 1} never sees what the converter rule {wrote + 1} wrote"
                hint = "one converter runs on a tensor: list the operations of both in one, or convert twice"
                yield subject.find("second-converter", "warning", numbers, words, key=walked.key, got=name, hint=hint)


def _names_since_converter(subject: Subject, walked: Walk) -> Iterator[tuple[Sequence[Rule], str, Span]]:
    """Yield each name since a converter wrote one, with the rules whose turn it is then, and the part that was written.

    To the last name the rules before the converter are counted as well: whoever lists them so meant them to chain.
    """
    if not walked.converted:
        return
    rules = subject.rules.rules
    converter = walked.firings[walked.converted - 1]
    span, name, number = converter.written, converter.after, converter.rule.number
    for firing in walked.firings[walked.converted :]:
        yield rules[number : firing.rule.number], name, span
        span, name, number = changed(span, firing), firing.after, firing.rule.number
    yield (*rules[: converter.rule.number], *rules[number:]), name, span


WALK_CHECKS: Final[tuple[Callable[[Subject, Walk], Iterator[Finding]], ...]] = (
    check_overlap,
    check_places,
    check_repeats,
    check_order,
    check_after_converter,
    check_second_converter,
)
"""The checks that look at one key's way at a time."""


def check_collisions(subject: Subject, found: Iterable[Collision]) -> Iterator[Finding]:
    """Turn keys that end under one name into findings."""
    for name, first, second in found:
        keys = sorted({first.key, second.key})
        words = "two keys end under one name" if len(keys) == 2 else "a converter writes one name twice"
        yield subject.find(
            "collide",
            subject.when_real,
            sorted({*first.fired, *second.fired}),
            words if subject.real else words.replace(" end", " would end"),
            key=keys[0],
            got="\n".join(f"{key} -> {name}" for key in keys),
            hint="narrow one of the rules, or drop one of the keys; several at once are one GroupWeightRename",
        )


@dataclass(frozen=True, slots=True)
class Trip:
    """A name that was sent one way and did not come back the other way.

    Args:
        start: The name.
        middle: What it became.
        ends: What that became on the way back; empty where two rules claim it.
        fired: Numbers of the rules that fired.
    """

    start: str
    middle: str
    ends: tuple[str, ...]
    fired: tuple[int, ...]


def report_round_trip(subject: Subject, trip: Trip, *, from_target: bool) -> Finding:
    """Turn a name that does not come back into a finding; `from_target` says that it is one of the target's."""
    words = "this key does not come back to itself"
    if from_target:
        words = "the inverse gives this target a key that the mapping does not bring back"
    ends = ", ".join(trip.ends) or "an error: two rules claim it"
    if trip.start in trip.ends:
        ends += ", but not through the same converter"
    return subject.find(
        "round-trip",
        "error" if from_target else subject.when_real,
        sorted(set(trip.fired)),
        words,
        key=trip.start,
        got=f"{trip.start} -> {trip.middle} -> {ends}",
        hint="anchor the rules, or write a segment beside them that only their own names have",
    )


def check_never(
    subject: Subject, fired: Iterable[tuple[int, int]], tried: dict[tuple[int, int], str]
) -> Iterator[Finding]:
    """Find rules, and patterns of rules, that fired on none of the keys which were made for them.

    Args:
        subject: The mapping.
        fired: The number of each rule that fired, with that of its pattern.
        tried: For each of these, a key that the pattern matches.
    """
    seen = set(fired)
    for number, rule in enumerate(subject.rules.rules):
        lanes = [lane for lane in range(len(rule.pairs)) if (number, lane) in tried]
        dead = [lane for lane in lanes if (number, lane) not in seen]
        if not dead:
            continue
        what = "this rule" if len(dead) == len(rule.pairs) else ", ".join(rule.pairs[lane][0].text for lane in dead)
        yield subject.find(
            "never",
            "error",
            [number],
            f"{what} never matches: the rules before it rewrite all that it could",
            key=tried[number, dead[0]],
            hint="put it before them, or write it with the names that they give",
        )


def check_unused(
    subject: Subject, fired: set[int], lanes: set[tuple[int, int]], stopped: Set[int] = frozenset()
) -> Iterator[Finding]:
    """Find rules that fire on no key of a header, and patterns of a converter that match none.

    Args:
        subject: The mapping.
        fired: Numbers of the rules that fired.
        lanes: Rule and pattern, by number, of everything that matched a real key.
        stopped: Numbers of the rules that matched a key, and could not write its name; of these, nothing is said.
    """
    for number, transform in enumerate(subject.mapping):
        if number in stopped:
            continue
        what = "converter" if isinstance(transform, WeightConverter) else "rename"
        if number not in fired:
            yield subject.find("never", "warning", [number], f"this {what} matches no key of the header")
        elif isinstance(transform, WeightConverter):
            for lane, text in enumerate(transform.source_patterns):
                if (number, lane) not in lanes:
                    yield subject.find("never", "warning", [number], f"{text} matches no key of the header")
