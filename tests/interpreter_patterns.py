r"""The documented pattern language, spelled as expressions of Python's own `re`: nothing of weighbridge is used.

`docs/patterns.md` is what this follows. It understands less than that page allows: a pattern whose alternatives do not
all begin, or all end, in the same way is `UnclearError`, so that what is left has one plain meaning.

    spell(r"h.(\d+).ln_(1|2)").find("model.h.11.ln_2.weight")      where it matched, and what its captures hold
    fill(r"layers.\1.norm\2", {"1": "11", "2": "2"})               what a target stands for
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

TOKEN = re.compile(
    r"""
      \{(?P<name>\w+)(?:(?P<offset>[+-][0-9]+)|(?P<half>//|%)(?P<by>[0-9]+))?(?::(?P<kind>[^{}]*))?\}
    | (?P<guard>\(\?(?:<?[=!]))
    | (?P<plain>\(\?:)
    | (?P<open>\()
    | (?P<close>\)\??)
    | (?P<bar>\|)
    | (?P<any>(?:\\[dw]|\[\^?(?:\\.|[^\]\\])+\])[+*?]?|\.[+?])
    | \\(?P<number>[1-9])
    | \\(?P<escaped>[^A-Za-z0-9])
    | (?P<star>\*)
    | (?P<start>\^)
    | (?P<end>\$)
    | (?P<text>.)
    """,
    re.VERBOSE | re.DOTALL,
)
KINDS = {"int": "[0-9]+", "**": ".+"}


class UnclearError(Exception):
    """This reader does not know what the pattern means."""


class Found(NamedTuple):
    """Where a pattern matched, half-open, and what its captures hold: `name`, `1` for the first group, `*1` for the
    first star.
    """

    start: int
    stop: int
    captures: dict[str, str]


class Part(NamedTuple):
    """What a group's digits add to the index that it belongs to: the digits times a factor, less an offset."""

    factor: int = 0
    offset: int = 0


WHOLE = Part()
"""A group whose text is the capture's as it stands."""


@dataclass(frozen=True)
class Spelled:
    """A source pattern: its expression, and for each group of it the capture that it is, and what it says of that.

    The loose expression takes any digits for an index that is written in a form of its own.
    """

    regex: re.Pattern[str]
    captures: tuple[tuple[str, Part], ...]
    loose: re.Pattern[str]

    def find(self, key: str) -> Found | None:
        """Find the leftmost match in a key."""
        match = self.regex.search(key)
        if match is None:
            return None
        held: dict[str, str] = {}
        numbers: dict[str, int] = {}
        for (name, part), text in zip(self.captures, match.groups(), strict=True):
            if part == WHOLE:
                held[name] = text
            else:
                numbers[name] = numbers.get(name, 0) + int(text) * part.factor - part.offset
        return Found(match.start(), match.end(), held | {name: str(number) for name, number in numbers.items()})

    def is_near(self, key: str) -> bool:
        """Tell whether the pattern would match a key, or match further ahead, if it took any digits for an index."""
        near, match = self.loose.search(key), self.regex.search(key)
        return near is not None and (match is None or near.start() < match.start())

    @property
    def stars(self) -> int:
        return sum(name.startswith("*") for name, _ in self.captures)


def tokens(text: str) -> Iterator[tuple[str, re.Match[str]]]:
    """Yield the parts of a pattern, each with its kind."""
    at = 0
    while at < len(text):
        token = TOKEN.match(text, at)
        assert token is not None
        kind = "name" if token["name"] else token.lastgroup
        dotted = text[at] == "." and text.startswith("*", at + 1) and text[at + 2 : at + 3] not in ("", ".", "$", "\\")
        if dotted:
            raise UnclearError(text)
        yield kind or "text", token
        at = token.end()


@lru_cache(maxsize=4096)
def spell(text: str) -> Spelled:
    """Turn a source pattern into an expression."""
    readers = _Reader(text), _Reader(text, any_digits=True)
    exact, loose = (re.compile(reader.expression(), re.DOTALL) for reader in readers)
    return Spelled(exact, tuple(readers[0].captures), loose)


class _Reader:
    """Turns one part after the other into a piece of an expression."""

    def __init__(self, text: str, *, any_digits: bool = False) -> None:
        self.text = text
        self.any_digits = any_digits
        self.captures: list[tuple[str, Part]] = []
        self.numbers: dict[str, int] = {}
        self.stack: list[str] = []
        self.edges: list[str] = []
        self.groups = self.stars = 0

    def expression(self) -> str:
        body = "".join(self.part(kind, token) for kind, token in tokens(self.text))
        before = "" if self.is_open(0) else r"(?<![^.])"
        after = "" if self.is_open(-1) else r"(?![^.])"
        return f"{before}(?:{body}){after}"

    @property
    def guarded(self) -> bool:
        return "guard" in self.stack

    def part(self, kind: str, token: re.Match[str]) -> str:
        if kind != "guard" and not self.guarded:
            self.note(kind, token)
        return getattr(self, f"_{kind}")(token)

    def note(self, kind: str, token: re.Match[str]) -> None:
        """Remember what a pattern could show at its ends: `open` for a dot or an underscore, else `closed`."""
        if kind in ("text", "escaped"):
            self.edges.append("open" if token[kind] in "._" else "closed")
        elif kind in ("start", "end"):
            self.edges.append("open")
        elif kind in ("plain", "open"):
            self.edges.append("(")
        elif kind in ("close", "bar"):
            self.edges.append(token[0])
        else:
            self.edges.append("optional" if kind == "any" and token[0][-1] in "?*" else "closed")

    def is_open(self, end: int) -> bool:
        """Tell whether the pattern begins (0) or ends (-1) inside a segment, or at the key's own edge."""
        signs = _signs(self.edges if end == 0 else _mirrored(self.edges))
        if len(signs) > 1 or "optional" in signs:
            raise UnclearError(self.text)
        return signs == {"open"}

    def capture(self, name: str, body: str, part: Part = WHOLE, group: str = "") -> str:
        if self.guarded:
            return f"(?:{body})"
        self.captures.append((name, part))
        self.numbers[group or name] = len(self.captures)
        return f"({body})"

    def _name(self, token: re.Match[str]) -> str:
        name, offset, kind = token["name"], int(token["offset"] or 0), token["kind"] or "[^.]+"
        group = name + (token["half"] or "")
        if group in self.numbers:
            return rf"(?:\{self.numbers[group]})"
        if not _is_number(token):
            return self.capture(name, KINDS.get(kind, kind))
        by = int(token["by"] or 1)
        part = Part(by if token["half"] == "//" else 1, offset)
        if "|" in kind:
            body = "|".join(str(int(word) + offset) for word in kind.split("|") if int(word) + offset >= 0) or "(?!)"
        elif self.any_digits:
            small = "|".join(map(str, range(offset)))
            body = f"(?!0*(?:{small})(?![0-9]))[0-9]+" if small else "[0-9]+"
        else:
            if len(_digits(token)) > 1 or _digits(token) > "3":
                raise UnclearError(self.text)
            # every number that can stand here is named or, beyond those, has no leading zero
            first = by if token["half"] == "%" else 1000
            named = (format(number, "0" + _digits(token)) for number in range(max(offset, 0), first))
            body = "|".join(
                [*sorted(named, key=len, reverse=True), *([] if token["half"] == "%" else ["[1-9][0-9]{3,}"])]
            )
        return f"(?<![0-9]){self.capture(name, body, part, group)}(?![0-9])"

    def _guard(self, token: re.Match[str]) -> str:
        self.stack.append("guard")
        return token[0]

    def _plain(self, token: re.Match[str]) -> str:
        self.stack.append("plain")
        return "(?:"

    def _open(self, token: re.Match[str]) -> str:
        self.stack.append("open")
        if self.guarded:
            return "(?:"
        self.groups += 1
        self.captures.append((str(self.groups), WHOLE))
        self.numbers[str(self.groups)] = len(self.captures)
        return "("

    def _close(self, token: re.Match[str]) -> str:
        self.stack.pop()
        return token[0]

    def _bar(self, token: re.Match[str]) -> str:
        return "|"

    def _any(self, token: re.Match[str]) -> str:
        return token[0].replace(r"\d", "[0-9]") if token[0].startswith("\\") else token[0].replace(r"\d", "0-9")

    def _number(self, token: re.Match[str]) -> str:
        return rf"(?:\{self.numbers[token['number']]})"

    def _escaped(self, token: re.Match[str]) -> str:
        return re.escape(token["escaped"])

    def _star(self, token: re.Match[str]) -> str:
        if self.guarded:
            return "[0-9]+"
        self.stars += 1
        return self.capture(f"*{self.stars}", "[0-9]+")

    def _start(self, token: re.Match[str]) -> str:
        return r"\A"

    def _end(self, token: re.Match[str]) -> str:
        return r"\Z"

    def _text(self, token: re.Match[str]) -> str:
        return re.escape(token["text"])


def _is_number(token: re.Match[str]) -> bool:
    """Tell whether a name in braces is written in a form of its own."""
    return bool(token["offset"] or token["half"] or _digits(token) != "1")


def _digits(token: re.Match[str]) -> str:
    kind = token["kind"] or ""
    return kind.removeprefix("0") if re.fullmatch("0[1-9][0-9]?", kind) else "1"


def _mirrored(edges: list[str]) -> list[str]:
    turned = {"(": ")", ")": "(", ")?": "(?"}
    return [turned.get(edge, edge) for edge in reversed(edges)]


def _signs(edges: list[str]) -> set[str]:
    """Collect what the alternatives of a pattern show at their beginning."""
    depth, branches = 0, [[]]
    for edge in edges:
        depth += edge in ("(", "(?")
        depth -= edge in (")", ")?")
        if edge == "|" and not depth:
            branches.append([])
        else:
            branches[-1].append(edge)
    return {sign for branch in branches for sign in _first_signs(branch)}


def _first_signs(branch: list[str]) -> set[str]:
    if not branch or branch[0] == "(?":
        return {"optional"}
    if branch[0] != "(":
        return {branch[0]}
    depth = 0
    for at, edge in enumerate(branch):
        depth += edge in ("(", "(?")
        depth -= edge in (")", ")?")
        if not depth:
            return {"optional"} if edge == ")?" else _signs(branch[1:at])
    raise UnclearError(str(branch))


def count_stars(text: str) -> int:
    """Count the indices of a pattern of either side."""
    return sum(kind == "star" for kind, _ in tokens(text))


def fill(text: str, captures: dict[str, str]) -> str | None:
    """Write what a target stands for; None where an offset makes an index negative."""
    parts, stars, depth = [], 0, 0
    for kind, token in tokens(text):
        depth += (kind == "guard") - (kind == "close")
        if depth or kind in ("start", "end", "close"):
            continue
        if kind == "star":
            stars += 1
            parts.append(captures[f"*{stars}"])
        elif kind in ("name", "number"):
            held = captures[token[kind]]
            if kind == "number" or not _is_number(token):
                parts.append(held)
                continue
            number = int(held) + int(token["offset"] or 0)
            if number < 0 or held != str(int(held)):
                return None
            halves = divmod(number, int(token["by"] or 1))
            parts.append(format(halves[token["half"] == "%"], "0" + _digits(token)))
        elif kind in ("text", "escaped"):
            parts.append(token[kind])
        else:
            raise UnclearError(text)
    return "".join(parts)
