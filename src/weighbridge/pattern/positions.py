"""Match a source against a key in a time that grows with both, whatever captures and parts the source has.

A regular expression tries one way after the other, and may try as many as the key's length to the power of the number
of captures. Here a set of positions is one whole number, bit by bit. From the source's end to its beginning, the
positions are found from which the rest can match; then the way is walked once, and each part takes the most that leads
on: the very match that the regular expression would find first.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from math import prod
from typing import Final, NamedTuple

from weighbridge.base.keys import RESERVED
from weighbridge.base.specs import MAX_KEY_CHARACTERS
from weighbridge.pattern.compile import class_regex, index_regex
from weighbridge.pattern.indices import PLAIN, Reading
from weighbridge.pattern.syntax import (
    Capture,
    Chars,
    Choice,
    Edge,
    Guard,
    Maybe,
    Node,
    Nodes,
    Reference,
    Text,
    bodies,
    walk,
    width,
)

Places = int
"""A set of positions in a key, from 0 to its length: bit `p` stands for position `p`."""

_RESERVED_RUN: Final = Chars(f"[{RESERVED}]", "+")


class Looseness(NamedTuple):
    """What decides how many ways a regular expression may have to try.

    Args:
        whole: Number of parts that repeat over anything, the beginning of the match included.
        segments: Number of parts that repeat within a segment.
        ways: In how many ways the parts that do not repeat can match.
        refers: Whether the source compares a part with an earlier one.
    """

    whole: int
    segments: int
    ways: int
    refers: bool

    @property
    def quick_length(self) -> int:
        """The length up to which every key has at most `QUICK` ways."""
        repeats = self.whole + self.segments
        return int((QUICK / self.ways) ** (1 / repeats)) - 1 if repeats else MAX_KEY_CHARACTERS

    def bound(self, key: str) -> int:
        """Return the most ways that may have to be tried on a key."""
        longest = max(map(len, key.split("."))) + 1
        return int((len(key) + 1) ** self.whole * longest**self.segments * self.ways)


QUICK: Final = 250_000
"""So many ways are tried in a few milliseconds; it is the most that a regular expression is given."""

MOST: Final = 20_000_000
"""So many ways take a part of a second: the most for a source that nothing but a regular expression can match."""


def looseness(nodes: Nodes) -> Looseness:
    """Say how loose a source is, with its boundaries."""
    found = list(walk(nodes))
    repeats = [node for node in found if isinstance(node, Chars) and node.repeat in ("+", "*")]
    inside = sum(_stays_in_segment(node.members) for node in repeats)
    ways = prod(_ways(node) for node in found)
    starts = 0 if nodes and nodes[0] == Edge(at_end=False) else 1
    return Looseness(len(repeats) - inside + starts, inside, ways, any(isinstance(node, Reference) for node in found))


def _stays_in_segment(members: str) -> bool:
    return members in ("[^.]", r"\d", r"\w") or re.fullmatch(members, ".") is None


def _ways(node: Node) -> int:
    match node:
        case Choice(branches):
            return max(1, len(branches))
        case Maybe() | Chars(repeat="?"):
            return 2
        case _:
            return 1


def find(nodes: Nodes, key: str, reading: Reading) -> tuple[int, int, dict[str, str]] | None:
    """Find what the regular expression of a source would find.

    Args:
        nodes: The source, with its boundaries and without references.
        key: The key.
        reading: What counts as an index.

    Returns:
        Start and stop of the leftmost match, and the text of each capture.

    Examples:
        >>> from weighbridge.pattern.parse import parse
        >>> find(parse("{a:**}.b"), "x.y.b.z", Reading())
        (0, 5, {'a': 'x.y'})
    """
    line = _Line(key, reading)
    ahead = line.before(nodes, line.everywhere)
    if not ahead[0]:
        return None
    start = _lowest(ahead[0])
    captures: dict[str, str] = {}
    return start, line.follow(nodes, ahead, start, captures), captures


def _lowest(places: Places) -> int:
    return (places & -places).bit_length() - 1


def _interval(start: int, stop: int) -> Places:
    return ((1 << (stop - start)) - 1) << start if stop > start else 0


class _Line:
    """A key, and where the classes of characters run in it."""

    def __init__(self, key: str, reading: Reading) -> None:
        self.key = key
        self.reading = reading
        self.everywhere: Places = (1 << (len(key) + 1)) - 1
        self._runs: dict[str, list[tuple[int, int]]] = {}
        self._indices: dict[Capture, dict[int, int]] = {}

    # ---- what is in the key ----

    def runs(self, members: str) -> list[tuple[int, int]]:
        """Return the longest runs of characters of a class, each with its start and stop."""
        if members not in self._runs:
            found = re.finditer(f"{class_regex(members, self.reading)}+", self.key, re.DOTALL)
            self._runs[members] = [match.span() for match in found]
        return self._runs[members]

    def end_of_run(self, members: str, place: int) -> int:
        """Return where the run ends that a position lies in; the position itself where there is none."""
        runs = self.runs(members)
        number = bisect_right(runs, (place, len(self.key) + 1)) - 1
        return max(place, runs[number][1]) if number >= 0 else place

    def indices(self, capture: Capture) -> dict[int, int]:
        """Return where digits stop that an index with a form may have been written as, by where they start."""
        if capture not in self._indices:
            digits = index_regex(capture, self.reading._replace(templates=False))
            self._indices[capture] = dict(match.span() for match in re.finditer(digits, self.key))
        return self._indices[capture]

    def _is_placeholder(self, capture: Capture) -> bool:
        return self.reading.templates and capture.form.is_offset and not capture.words

    def _starts_of(self, text: str) -> Places:
        found, at = 0, self.key.find(text)
        while at >= 0:
            found |= 1 << at
            at = self.key.find(text, at + 1)
        return found

    # ---- from where the rest can match ----

    def before(self, nodes: Nodes, after: Places) -> list[Places]:
        """Return, for each part of a sequence and for its end, from where it can match up to one of some positions."""
        found = [after]
        for node in reversed(nodes):
            after = self._before(node, after)
            found.append(after)
        return found[::-1]

    def _before(self, node: Node, after: Places) -> Places:
        match node:
            case Text(text):
                return self._starts_of(text) & (after >> len(text))
            case Chars():
                return self._before_chars(node, after)
            case Maybe(body):
                return after | self.before(body, after)[0]
            case Capture(form=form) if form != PLAIN:
                ends = ((start, stop) for start, stop in self.indices(node).items() if after >> stop & 1)
                digits = sum(1 << start for start, _ in ends)
                return digits | (self._before_chars(_RESERVED_RUN, after) if self._is_placeholder(node) else 0)
            case Edge(at_end):
                return after & (1 << len(self.key) if at_end else 1)
            case Guard():
                held = self._held(node)
                return after & (self.everywhere & ~held if node.negative else held)
            case _:
                return self._before_any(bodies(node), after)

    def _before_any(self, branches: Sequence[Nodes], after: Places) -> Places:
        found = 0
        for branch in branches:
            found |= self.before(branch, after)[0]
        return found

    def _before_chars(self, node: Chars, after: Places) -> Places:
        found = after if node.repeat in ("?", "*") else 0
        for start, stop in self.runs(node.members):
            reached = after >> (start + 1) & _interval(0, stop - start)
            if node.repeat in ("+", "*"):  # from each position before the last one that leads on
                found |= _interval(start, start + reached.bit_length())
            else:
                found |= reached << start
        return found

    def _held(self, guard: Guard) -> Places:
        """Return where the text that a guard looks for is."""
        if guard.ahead:
            return self.before(guard.body, self.everywhere)[0]
        lone = guard.body[0] if len(guard.body) == 1 else None
        found = 0
        for branch in lone.branches if isinstance(lone, Choice) else (guard.body,):
            found |= self.before(branch, self.everywhere)[0] << (width(branch) or 0)
        return found & self.everywhere

    # ---- the way itself ----

    def follow(self, nodes: Nodes, ahead: list[Places], place: int, captures: dict[str, str]) -> int:
        """Walk through a sequence from a position of `ahead[0]`; return where it ends."""
        for node, after in zip(nodes, ahead[1:], strict=True):
            stop = self._step(node, after, place, captures)
            if isinstance(node, Capture):
                captures[node.name] = self.key[place:stop]
            place = stop
        return place

    def _step(self, node: Node, after: Places, place: int, captures: dict[str, str]) -> int:
        match node:
            case Text(text):
                return place + len(text)
            case Chars():
                return self._last(node, after, place)
            case Capture(form=form) if form != PLAIN:
                found = self.indices(node).get(place)
                return self._last(_RESERVED_RUN, after, place) if found is None else found
            case Choice() | Maybe() | Capture():
                for branch in bodies(node):
                    ahead = self.before(branch, after)
                    if ahead[0] >> place & 1:
                        return self.follow(branch, ahead, place, captures)
        return place

    def _last(self, node: Chars, after: Places, place: int) -> int:
        """Return how far a class takes the way: as far as possible, where that leads on."""
        stop = self.end_of_run(node.members, place)
        if node.repeat not in ("+", "*"):
            stop = min(stop, place + 1)
        return place + (after >> (place + 1) & _interval(0, stop - place)).bit_length()
