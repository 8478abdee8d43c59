"""Follow single keys through a mapping's rules, place by place: what matched, where, and what was written there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from weighbridge.base.errors import WeighbridgeError
from weighbridge.mappings.transforms import strip_scope
from weighbridge.planning.tracing import Rule, Rules, find_hit, is_same_use, last_stars, write_name

Span = tuple[int, int]
"""Half-open interval [start, stop) of a name's characters."""


class Firing(NamedTuple):
    """One pattern of a rule that matched a name.

    Args:
        rule: The rule.
        lane: Number of the pattern in it.
        before: The name that was matched, whole.
        start: Where the match starts in it.
        stop: Where it stops.
        after: The name that was written; of a converter, its first one.
        end: Where the written text stops in it; it starts where the match did.
    """

    rule: Rule
    lane: int
    before: str
    start: int
    stop: int
    after: str
    end: int

    @property
    def written(self) -> Span:
        """The part of `after` that was written."""
        return self.start, self.end


class Walk(NamedTuple):
    """A key's way through the rules.

    Args:
        key: The key.
        firings: What fired, in order; after a converter, on the first name that it wrote.
        clash: What claims one name together; empty if nothing does.
        converted: Number of `firings` up to and with the converter; 0 if none fired.
    """

    key: str
    firings: tuple[Firing, ...]
    clash: tuple[Firing, ...] = ()
    converted: int = 0


def firings(rule: Rule, name: str) -> list[Firing]:
    """List what a rule would do to a name: once for each of its patterns that match, and each target of a converter."""
    inner = strip_scope(rule.scope, name)
    if inner is None:
        return []
    offset = len(name) - len(inner)
    found = []
    for lane, (source, target) in enumerate(rule.pairs):
        match = source.match(inner, literal=True)
        if match is None:
            continue
        for written in rule.targets or (target,):
            captures = match.captures | dict.fromkeys(last_stars(written, rule.splits), "0")
            after = write_name(rule, written, match, captures, inner)
            if after is not None:
                end = len(after) - (len(inner) - match.stop)
                found.append(Firing(rule, lane, name, offset + match.start, offset + match.stop, after, end))
    return found


def follow_key(rules: Rules, key: str, start: int = 0) -> Iterator[Walk]:
    """Follow a key; one walk for each name that a converter writes.

    Args:
        rules: The mapping's rules.
        key: The key.
        start: Number of the first rule.
    """
    name = key
    done: list[Firing] = []
    for rule in rules.rules[start:]:
        fired = firings(rule, name)
        clash = _clash(rules, rule, name, fired)
        if clash:
            yield Walk(key, tuple(done), clash)
            return
        if fired and rule.converts:
            for firing in fired:
                yield _walk_on(rules, key, [*done, firing])
            return
        if fired:
            done.append(fired[0])
            name = fired[0].after
    yield Walk(key, tuple(done))


def _clash(rules: Rules, rule: Rule, name: str, fired: list[Firing]) -> tuple[Firing, ...]:
    if len({firing.lane for firing in fired}) > 1:
        return tuple(fired)
    if not fired or not rule.converts:
        return ()
    others = [other for other in rules.rules[rule.number + 1 :] if other.converts]
    claims = [claim for other in others for claim in firings(other, name)[:1] if not _is_same(rules, rule, other, name)]
    return (fired[0], *claims) if claims else ()


def _is_same(rules: Rules, one: Rule, other: Rule, name: str) -> bool:
    """Tell whether two converters do the same with a name, so that it does not matter which of them fires."""
    try:
        hits = [find_hit(rules, rule, name) for rule in (one, other)]
    except WeighbridgeError:
        return False
    return hits[0] is not None and hits[1] is not None and is_same_use(rules, hits[0], hits[1])


def _walk_on(rules: Rules, key: str, done: list[Firing]) -> Walk:
    """Run the renames behind a converter over one name that it wrote."""
    converted = len(done)
    name = done[-1].after
    for rule in rules.rules[done[-1].rule.number + 1 :]:
        fired = [] if rule.converts else firings(rule, name)
        if len(fired) > 1:
            return Walk(key, tuple(done), tuple(fired), converted)
        if fired:
            done.append(fired[0])
            name = fired[0].after
    return Walk(key, tuple(done), (), converted)


def apply(rules: Rules, name: str, stop: int) -> str:
    """Run the renames before rule `stop` over a name, the first match of each."""
    for rule in rules.rules[:stop]:
        fired = [] if rule.converts else firings(rule, name)
        name = fired[0].after if fired else name
    return name


def overlaps(one: Span, other: Span) -> bool:
    """Tell whether two parts of one name share a character; an empty part counts if it lies in the other one."""
    if one[0] == one[1] or other[0] == other[1]:
        return max(one[0], other[0]) <= min(one[1], other[1])
    return one[0] < other[1] and other[0] < one[1]


def changed(span: Span, firing: Firing) -> Span:
    """Say where a part of a name lies after a rule fired; what was written in it belongs to it."""
    longer = firing.end - firing.stop
    start, stop = span
    if overlaps(span, (firing.start, firing.stop)):
        return min(start, firing.start), max(stop, firing.stop) + longer
    return (start + longer, stop + longer) if firing.stop <= start else span
