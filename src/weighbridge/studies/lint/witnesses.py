"""Make keys that a mapping's patterns match, for a mapping that comes without a header.

Each pattern is spelled out as text: an integer as 0, 1 and 12, a choice as each of its branches. Around that stand a
module's path and a parameter's name, as far as the pattern lets them. Such a key is taken back through the renames
before its rule, where they wrote what the pattern matches: that is the name that a checkpoint would have.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple

from weighbridge.pattern import Pattern
from weighbridge.pattern.indices import PLAIN, Form
from weighbridge.pattern.syntax import Capture, Chars, Choice, Edge, Guard, Maybe, Node, Nodes, Reference, Text
from weighbridge.planning.tracing import Rule, Rules
from weighbridge.studies.lint.walking import Span, apply, changed, firings, overlaps

SPELLINGS_MAX: Final = 48
"""Most texts that are made for one pattern; they are spread evenly over all that there could be."""

INDICES: Final = ("0", "1", "12")
WORD: Final = "part"
PATH: Final = "part.3.more"
STEMS: Final = ("stem.0.", "", "stem.0", "stem")
TAILS: Final = (".weight", ".bias", "weight", "bias", "", "0.weight")
LEAVES: Final = frozenset({"weight", "bias", "scale", "gamma", "beta"})

_SAMPLES: Final = "a0_x-Z."


class Witness(NamedTuple):
    """A key that one pattern of a rule matches.

    Args:
        rule: Number of the rule.
        lane: Number of the pattern in it.
        key: The key as the rule sees it.
        original: The key that the renames before the rule turn into it; often the same.
    """

    rule: int
    lane: int
    key: str
    original: str


@dataclass(slots=True)
class _Choices:
    """Picks one of several possibilities at every fork, as the digits of one number say."""

    number: int = 0
    forks: int = 1
    bound: dict[str, str] = field(default_factory=dict)

    def pick(self, count: int) -> int:
        self.forks *= count
        self.number, chosen = divmod(self.number, count)
        return chosen


@lru_cache(maxsize=16384)
def spellings(pattern: Pattern) -> tuple[str, ...]:
    r"""Spell a pattern out as texts that it may match, its guards left to chance.

    Examples:
        >>> spellings(Pattern.parse(r"layers.{i:int}.(q|k)_proj"))[:3]
        ('layers.0.q_proj', 'layers.1.q_proj', 'layers.12.q_proj')
    """
    first = _Choices()
    _spell(pattern.nodes, first)
    count = min(first.forks, SPELLINGS_MAX)
    numbers = (step * first.forks // count for step in range(count))
    return tuple(dict.fromkeys(_spell(pattern.nodes, _Choices(number)) for number in numbers))


def _spell(nodes: Nodes, choices: _Choices) -> str:
    return "".join(_spell_node(node, choices) for node in nodes)


def _spell_node(node: Node, choices: _Choices) -> str:
    match node:
        case Text(text):
            return text
        case Chars(members, repeat):
            return _spell_chars(members, repeat, choices)
        case Choice(branches):
            return _spell(branches[choices.pick(len(branches))], choices)
        case Maybe(body):
            return _spell(body, choices) if choices.pick(2) == 0 else ""
        case Capture(name, body, form):
            index = _spell_index(form, choices) if node.kind == "int" else _spell(body, choices)
            choices.bound[name] = index
            return _write(form, index)
        case Reference(name, form):
            return _write(form, choices.bound.get(name, WORD))
        case Guard() | Edge():
            return ""


def _spell_index(form: Form, choices: _Choices) -> str:
    """Choose an index that is not negative with its offset."""
    return str(int(INDICES[choices.pick(len(INDICES))]) + max(-form.offset, 0))


def _write(form: Form, index: str) -> str:
    return index if form == PLAIN else form.write(index) or index


def _spell_chars(members: str, repeat: str, choices: _Choices) -> str:
    accepts = re.compile(members).fullmatch
    if repeat in ("?", "*") and choices.pick(2):
        return ""
    if repeat in ("+", "*"):
        if members == r"\d":
            return _spell_index(PLAIN, choices)
        for text in (PATH if members == "." else WORD, WORD):
            if all(map(accepts, text)):
                return text
    return next((sample for sample in _SAMPLES if accepts(sample)), "")


def witnesses(rules: Rules, inverses: dict[int, Rule]) -> Iterator[Witness]:
    """Make keys for every pattern of every rule.

    Args:
        rules: The mapping's rules.
        inverses: The inverse of each rename that has one, by its number.
    """
    for rule in rules.rules:
        for lane, (source, _) in enumerate(rule.pairs):
            for key, core in _keys_of(source, rule.scope):
                yield Witness(rule.number, lane, key, _take_back(rules, inverses, rule.number, key, core))


def _keys_of(source: Pattern, scope: str) -> Iterator[tuple[str, Span]]:
    """Yield keys that a source matches, with the part that the rule itself speaks of: its scope and its match."""
    ahead, behind = _looks(source.nodes, ahead=True), _looks(source.nodes, ahead=False)
    mount = f"{scope}." if scope else ""
    for text in spellings(source):
        for stem in _stems(source, text, behind):
            for inner in _tailed(source, stem + text, ahead):
                match = source.match(inner, literal=True)
                assert match is not None
                start = 0 if scope else match.start
                yield mount + inner, (start, len(mount) + match.stop)


def _looks(nodes: Nodes, *, ahead: bool) -> tuple[str, ...]:
    """Spell what a pattern's guards want to see on one side of it."""
    guards = [node for node in nodes if isinstance(node, Guard) and node.ahead == ahead and not node.negative]
    return tuple(_spell(guard.body, _Choices()) for guard in guards)


def _stems(source: Pattern, text: str, behind: tuple[str, ...]) -> list[str]:
    tails = [*TAILS, ""]
    candidates = [*(stem + look for look in behind for stem in STEMS), *STEMS]
    fitting = [stem for stem in candidates if any(_matches(source, stem + text + tail) for tail in tails)]
    return fitting[:2]


def _tailed(source: Pattern, text: str, ahead: tuple[str, ...]) -> list[str]:
    is_leaf = text.rpartition(".")[2] in LEAVES
    tails = ["", *TAILS] if is_leaf else list(TAILS)
    candidates = [*(text + look + tail for look in ahead for tail in tails), *(text + tail for tail in tails)]
    return [key for key in dict.fromkeys(candidates) if _matches(source, key)][: 1 if is_leaf else 2]


def _matches(source: Pattern, key: str) -> bool:
    if not key or key.startswith(".") or key.endswith(".") or ".." in key:
        return False
    match = source.match(key, literal=True)
    return match is not None


def _take_back(rules: Rules, inverses: dict[int, Rule], number: int, key: str, core: Span) -> str:
    """Take a key back through the renames before rule `number`; itself where that does not lead to it again."""
    name = key
    for earlier in range(number - 1, -1, -1):
        inverse = inverses.get(earlier)
        fired = firings(inverse, name) if inverse is not None else []
        if len(fired) != 1 or not overlaps((fired[0].start, fired[0].stop), core):
            continue
        name, core = fired[0].after, changed(core, fired[0])
    return name if apply(rules, name, number) == key else key
