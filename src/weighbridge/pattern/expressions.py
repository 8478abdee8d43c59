"""Regular expressions that others wrote, as configurations hold them, against names, in a bounded time.

Python's own matcher tries one way after the other, and there can be more ways than it can ever try. How many there are
at most is told by the expression and the length of the name. Where they are few it is Python's own matcher that is
asked; else each part of the expression is asked once from each place in the name, for all places where it can end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from itertools import combinations, product
from math import inf
from typing import Any, Final, NamedTuple

from weighbridge.base.errors import PatternError
from weighbridge.base.json_text import shorten

# The tree of an expression is Python's own, of modules that have no public name; Hypothesis reads them, too.
_PARSER: Final[Any] = import_module("re._parser")
_OPS: Final[Any] = import_module("re._constants")

QUICK: Final = 1_000_000
"""How many steps Python's matcher may take for one name."""

MOST: Final = 100_000_000
"""How many steps may be taken for all expressions of a configuration, where it is not asked."""

_REPEATS: Final = (_OPS.MAX_REPEAT, _OPS.MIN_REPEAT)
_CHARACTERS: Final = (_OPS.LITERAL, _OPS.NOT_LITERAL, _OPS.ANY, _OPS.IN)
_CATEGORIES: Final[dict[Any, Callable[[str], bool]]] = {
    _OPS.CATEGORY_DIGIT: str.isdecimal,
    _OPS.CATEGORY_SPACE: str.isspace,
    _OPS.CATEGORY_WORD: lambda char: char.isalnum() or char == "_",
    _OPS.CATEGORY_NOT_DIGIT: lambda char: not char.isdecimal(),
    _OPS.CATEGORY_NOT_SPACE: lambda char: not char.isspace(),
    _OPS.CATEGORY_NOT_WORD: lambda char: not (char.isalnum() or char == "_"),
}
_ENDS: Final = (_OPS.AT_END, _OPS.AT_END_STRING)
_FOLLOWERS: Final = 64
"""How many items may begin what is behind a place, for it to be looked at."""

_PLACES: Final = {
    _OPS.AT_BEGINNING: re.compile("^"),
    _OPS.AT_BEGINNING_STRING: re.compile(r"\A"),
    _OPS.AT_BOUNDARY: re.compile(r"\b"),
    _OPS.AT_NON_BOUNDARY: re.compile(r"\B"),
    _OPS.AT_END: re.compile("$"),
    _OPS.AT_END_STRING: re.compile(r"\Z"),
}


@dataclass
class Steps:
    """How many steps are left for expressions that share them."""

    left: int = MOST

    def spend(self, steps: int) -> None:
        """Take some away.

        Raises:
            _CostlyError: None are left.
        """
        self.left -= steps
        if self.left < 0:
            raise _CostlyError


class Expression:
    r"""A regular expression that is asked whether a name, or its beginning, is one that it means.

    Args:
        text: The expression, as Python's `re` reads it.
        steps: What it shares with others.

    Raises:
        PatternError: `pattern-syntax` for what is none.

    Examples:
        >>> Expression(r".*\.(q|k)_proj").is_whole("layers.0.q_proj"), Expression("(a+)+$").starts("a" * 200 + "b")
        (True, False)
    """

    def __init__(self, text: str, steps: Steps | None = None) -> None:
        self.text = text
        self.steps = steps or Steps()
        try:
            self._python = re.compile(text)
        except (re.error, RecursionError, OverflowError) as problem:
            raise PatternError(
                "pattern-syntax", "this is no regular expression", where=shorten(text), got=str(problem)
            ) from None

    def starts(self, name: str) -> bool:
        """Tell whether a name begins with what the expression means.

        Raises:
            PatternError: `pattern-costly`.
        """
        return self._python.match(name) is not None if self._is_quick(name) else bool(self._ends(name))

    def is_whole(self, name: str) -> bool:
        """Tell whether the expression means a name as a whole.

        Raises:
            PatternError: `pattern-costly`.
        """
        if self._is_quick(name):
            return self._python.fullmatch(name) is not None
        return bool(self._ends(name) >> len(name) & 1)

    @cached_property
    def _tree(self) -> Any:
        return _PARSER.parse(self.text)

    @cached_property
    def _quick_length(self) -> int:
        """The length up to which names are quick, to a power of two."""
        lengths = (2**power for power in range(20, 3, -1))
        try:
            return next((length for length in lengths if _effort(self._tree, length).steps <= QUICK), 0)
        except RecursionError:
            return 0

    def _is_quick(self, name: str) -> bool:
        return len(name) <= self._quick_length

    def _ends(self, name: str) -> int:
        """Return the places where a match from the start can end, as bits."""
        try:
            if self._tree.state.flags & ~re.UNICODE:
                raise _CostlyError
            return _Places(name, self.steps).after_all(self._tree, 0)
        except (_CostlyError, RecursionError):
            raise PatternError(
                "pattern-costly",
                "matching this regular expression could take very long",
                where=shorten(name),
                got=shorten(self.text),
                hint="write it without repeats inside of repeats, or name the modules",
            ) from None


class _Effort(NamedTuple):
    """In how many ways a part can match from one place at most, and how many steps it takes to try them all."""

    ways: float
    steps: float


_Followers = tuple[Any, ...] | None
"""The items of which the first character behind a place is one, or its end; None where they are not known."""


def _effort(items: Any, length: int, behind: _Followers = None) -> _Effort:
    """Bound the effort of items one behind the other."""
    followers = [behind]
    for item in reversed(list(items)):
        followers.append(_first_of(followers[-1], *item))
    ways = steps = 1.0
    for item, following in zip(items, reversed(followers[:-1]), strict=True):
        part = _effort_of(length, following, *item)
        steps += ways * part.steps
        ways *= part.ways
    return _Effort(ways, steps)


def _effort_of(length: int, behind: _Followers, op: Any, given: Any) -> _Effort:
    if op in _REPEATS:
        return _effort_of_repeat(length, behind, *given)
    if op is _OPS.BRANCH:
        parts = [_effort(branch, length, behind) for branch in given[1]]
        ways = [part.ways for part in parts]
        return _Effort(max(ways) if _begin_apart(given[1]) else sum(ways), sum(part.steps for part in parts))
    if op is _OPS.SUBPATTERN:
        return _effort(given[3], length, behind)
    if op in (_OPS.ASSERT, _OPS.ASSERT_NOT):
        return _Effort(1, _effort(given[1], length).steps)
    if op is _OPS.ATOMIC_GROUP:
        return _Effort(1, _effort(given, length).steps)
    return _Effort(1, 1) if op in (*_CHARACTERS, _OPS.AT) else _Effort(inf, inf)


def _effort_of_repeat(length: int, behind: _Followers, least: int, most: int, body: Any) -> _Effort:
    again = behind if most == 1 else _both(_first(body), behind)
    inner, times = _effort(body, length, again), min(most, length) - min(least, length) + 1
    if most == 1:
        return _Effort(inner.ways + 1, inner.steps + 1)
    if inner.ways > 1:
        return _Effort(inf, inf)
    is_one = len(body) == 1 and body[0][0] in _CHARACTERS
    is_ended = is_one and behind is not None and all(_are_apart(item, body[0]) for item in behind)
    return _Effort(1 if is_ended else times, min(most, length) * inner.steps)


def _first(items: Any) -> _Followers:
    """Return what items that are not empty begin with."""
    return _first_of(None, *items[0]) if items else None


def _first_of(behind: _Followers, op: Any, given: Any) -> _Followers:
    """Return what an item, and what is behind it where it may be empty, begin with."""
    if op in _CHARACTERS or (op is _OPS.AT and given in _ENDS):
        return ((op, given),)
    if op is _OPS.SUBPATTERN:
        return _first(given[3])
    if op is _OPS.BRANCH:
        found: _Followers = ()
        for branch in given[1]:
            found = _both(found, _first(branch))
        return found
    if op in _REPEATS:
        return _first(given[2]) if given[0] else _both(_first(given[2]), behind)
    return None


def _both(one: _Followers, other: _Followers) -> _Followers:
    return None if one is None or other is None or len(one) + len(other) > _FOLLOWERS else one + other


def _begin_apart(branches: Any) -> bool:
    """Tell whether the first character decides between branches."""
    first = [_first(branch) for branch in branches[:_FOLLOWERS]]
    if len(branches) > _FOLLOWERS or None in first:
        return False
    pairs = combinations([each for each in first if each is not None], 2)
    return all(_are_apart(*pair) for one, other in pairs for pair in product(one, other))


def _are_apart(one: Any, other: Any) -> bool:
    """Tell whether no character is taken by two items, one of which stands for a single one, or for the end."""
    if one[0] is _OPS.AT or other[0] is _OPS.AT:
        op, given = other if one[0] is _OPS.AT else one
        return op in _CHARACTERS and not _takes("\n", op, given)
    if one[0] is not _OPS.LITERAL:
        one, other = other, one
    return one[0] is _OPS.LITERAL and not _takes(chr(one[1]), *other)


class _CostlyError(Exception):
    """What is left of the steps is too little, or a part cannot be asked for all its ends at once."""


class _Places:
    """Where parts of an expression can end in a name, each asked once from each place.

    Args:
        name: The name.
        steps: How many may be taken.
    """

    def __init__(self, name: str, steps: Steps) -> None:
        self.name, self.steps = name, steps
        self._known: dict[tuple[int, int], int] = {}

    def after_all(self, items: Any, start: int) -> int:
        """Return where items, one behind the other, can end that begin at a place."""
        reached = 1 << start
        for item in items:
            reached = self._from_each(item, reached)
        return reached

    def _from_each(self, item: Any, starts: int) -> int:
        found = 0
        for start in _bits(starts):
            known = self._known.get((id(item), start))
            if known is None:
                known = self._known[id(item), start] = self._after(start, *item)
            found |= known
        return found

    def _after(self, start: int, op: Any, given: Any) -> int:
        self.steps.spend(1)
        if op in _CHARACTERS:
            return 1 << start + 1 if start < len(self.name) and _takes(self.name[start], op, given) else 0
        if op in _REPEATS:
            return self._repeated(start, *given)
        if op is _OPS.FAILURE:  # what Python 3.13 and later make of an expression such as (?!)
            return 0
        if op is _OPS.SUBPATTERN and not (given[1] or given[2]):
            return self.after_all(given[3], start)
        if op is _OPS.BRANCH:
            found = 0
            for branch in given[1]:
                found |= self.after_all(branch, start)
            return found
        if op is _OPS.AT:
            return (_PLACES[given].match(self.name, start) is not None) << start
        if op in (_OPS.ASSERT, _OPS.ASSERT_NOT):
            return (self._is_there(start, *given) is (op is _OPS.ASSERT)) << start
        raise _CostlyError

    def _repeated(self, start: int, least: int, most: int, body: Any) -> int:
        """Return where a part can end that is there several times; after that many, none brings a new place."""
        if len(body) == 1 and body[0][0] in _CHARACTERS:
            return self._run(start, least, most, *body[0])
        reached = 1 << start
        found = reached if least == 0 else 0
        for times in range(1, most + 1):
            before, reached = reached, self._body_from(body, reached)
            if times < least and reached != before:
                continue
            if reached | found == found:
                break
            found |= reached
        return found

    def _body_from(self, body: Any, starts: int) -> int:
        found = 0
        for start in _bits(starts):
            self.steps.spend(1)
            known = self._known.get((id(body), start))
            if known is None:
                known = self._known[id(body), start] = self.after_all(body, start)
            found |= known
        return found

    def _run(self, start: int, least: int, most: int, op: Any, given: Any) -> int:
        end = start
        while end < len(self.name) and end - start < most and _takes(self.name[end], op, given):
            end += 1
        self.steps.spend(end - start)
        return (1 << end + 1) - (1 << start + least) if end >= start + least else 0

    def _is_there(self, start: int, direction: int, body: Any) -> bool:
        """Tell whether what is looked for ahead, or behind, is there."""
        if direction >= 0:
            return bool(self.after_all(body, start))
        width = body.getwidth()[0]
        return start >= width and bool(self.after_all(body, start - width) >> start & 1)


def _bits(places: int) -> Iterator[int]:
    while places:
        lowest = places & -places
        yield lowest.bit_length() - 1
        places ^= lowest


def _takes(char: str, op: Any, given: Any) -> bool:
    if op is _OPS.LITERAL:
        return bool(ord(char) == given)
    if op is _OPS.NOT_LITERAL:
        return bool(ord(char) != given)
    if op is _OPS.ANY:
        return char != "\n"
    if given[0][0] is _OPS.NEGATE:
        return not any(_is_among(char, *member) for member in given[1:])
    return any(_is_among(char, *member) for member in given)


def _is_among(char: str, op: Any, given: Any) -> bool:
    if op is _OPS.LITERAL:
        return bool(ord(char) == given)
    return bool(given[0] <= ord(char) <= given[1] if op is _OPS.RANGE else _CATEGORIES[given](char))
