"""Choose keys by a selection: keys as they stand, and patterns with ranges, lists and `**`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Final, TypeVar

from weighbridge.base.errors import PatternError, PlanError, WeighbridgeError
from weighbridge.base.keys import nearest
from weighbridge.mappings.exception_rules import KeyRule
from weighbridge.pattern import Pattern

MAX_NUMBERS: Final = 4096
"""How many indices the ranges of one set in braces may stand for."""

Rule = TypeVar("Rule", bound=KeyRule)

_PIECE: Final = re.compile(r"\\.|\{([^{}]*)\}|(?<![^.^])\*\*(?![^.$])")
_INDEX: Final = re.compile(r"(?<![^.^])\*(?![^.$])")
_NUMBERS: Final = re.compile(r"[0-9]+(?:\.\.[0-9]+)?(?:,[0-9]+(?:\.\.[0-9]+)?)*")


def select(only: str | Iterable[str], keys: Collection[str]) -> set[str]:
    """Return the keys that a selection names.

    Args:
        only: A text or several. Each is one of the keys, or a pattern in the key language, in which `{0..3}` and
            `{0,2,5..7}` also stand for each of these indices, `{down,up}` for each of these words, and `**` for one
            segment or more: whatever `collapse` prints can be given.
        keys: The keys to choose from.

    Raises:
        PatternError: `pattern-syntax`.
        PlanError: `rule-unused` for a text that names none of the keys.

    Examples:
        >>> sorted(select("layers.{0,2..9}.**", ["layers.0.up", "layers.1.up", "layers.2.up", "norm"]))
        ['layers.0.up', 'layers.2.up']
    """
    found: set[str] = set()
    for text in [only] if isinstance(only, str) else list(only):
        named = {text} if text in keys else _matching(text, keys)
        if not named:
            near = ", ".join(nearest(text, keys))
            got = f"nearest: {near}" if near else ""
            raise PlanError(
                "rule-unused", "this selection names no target", where=text, got=got, hint=_hint(text, keys)
            )
        found |= named
    return found


def _hint(text: str, keys: Iterable[str]) -> str:
    """Say what to write where an index was perhaps meant to be any name."""
    wider = _INDEX.sub("**", text)
    return f"a lone * is an index, and ** any names: {wider}" if wider != text and _matching(wider, keys) else ""


def _matching(text: str, keys: Iterable[str]) -> set[str]:
    pattern = Pattern.parse(selection_pattern(text))
    return {key for key in keys if pattern.match(key, literal=True) is not None}


def selected_rules(kind: type[Rule], texts: Iterable[str]) -> list[str | Rule]:
    """Read declared exceptions that may be written as a selection is, where the key language says no such thing.

    Args:
        kind: What each of them becomes that is written so; it keeps the name that was given.
        texts: Key patterns, or selections.

    Raises:
        PatternError: `pattern-syntax` for what is neither.

    Examples:
        >>> from weighbridge.mappings.exception_rules import Drop
        >>> selected_rules(Drop, ["head.*", "**.bias"])
        ['head.*', Drop(pattern='{only1:**}.bias', why='"**.bias"', scope='')]
    """
    rules: list[str | Rule] = []
    for text in texts:
        try:
            Pattern.parse(text)
            rules.append(text)
        except PatternError as problem:
            try:
                rules.append(kind(selection_pattern(text), why=f'"{text}"'))
            except PatternError:
                raise problem from None
    return rules


@lru_cache(maxsize=64)
def selection_pattern(text: str) -> str:
    """Translate ranges, lists and `**` of a selection into the captures that the key language has for them.

    Raises:
        PatternError: `pattern-syntax`.

    Examples:
        >>> selection_pattern("layers.{0..1}.**")
        'layers.{only1:0|1}.{only2:**}'
    """
    number = 0

    def spell(piece: re.Match[str]) -> str:
        nonlocal number
        inside = piece[1]
        if piece[0].startswith("\\") or (inside is not None and not ("," in inside or _NUMBERS.fullmatch(inside))):
            return piece[0]
        number += 1
        if inside is None:
            return f"{{only{number}:**}}"
        listed = _listed(inside, text)
        return f"{{only{number}:{'|'.join(listed)}}}" if len(listed) > 1 else listed[0]

    spelled = _PIECE.sub(spell, text)
    try:
        Pattern.parse(spelled)
    except WeighbridgeError as problem:
        raise problem.with_context(because=f"the selection {text}") from None
    return spelled


def _listed(inside: str, text: str) -> list[str]:
    """Return the texts that a list in braces stands for; a range counts up."""
    listed: list[str] = []
    for item in inside.split(","):
        first, dots, last = item.partition("..")
        if not dots:
            listed.append(item)
            continue
        if not (first.isdecimal() and last.isdecimal() and 0 <= int(last) - int(first) < MAX_NUMBERS):
            expected = f"two numbers, the smaller one first, and at most {MAX_NUMBERS:,} in all"
            what = "this is no range of indices"
            raise PatternError("pattern-syntax", what, where=text, expected=expected, got=item)
        listed += map(str, range(int(first), int(last) + 1))
    return listed
