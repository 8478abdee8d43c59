"""What entries of a configuration mean among the modules that there are, found in one pass over these."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

from weighbridge.base.errors import PatternError
from weighbridge.mappings.schemes.dialects import Dialect
from weighbridge.pattern.expressions import Expression, Steps

_OWN_GROUPS: Final = re.compile(r"\\\d|\(\?(?!:|=|!|<=|<!)")
"""What an expression cannot be joined with others for: groups that it names or counts, and flags of its own."""


class UnreadableError(Exception):
    """An entry is no regular expression, and its dialect has it for one."""

    def __init__(self, entry: str, cause: str) -> None:
        super().__init__(entry, cause)
        self.entry, self.cause = entry, cause


@dataclass(frozen=True)
class Meanings:
    """Which entries mean a module, for each module that any of them means, the one that decides first.

    Args:
        of_module: The numbers of these entries.
    """

    of_module: Mapping[str, tuple[int, ...]]

    @cached_property
    def modules_of(self) -> Mapping[int, list[str]]:
        """The modules that each entry means."""
        found: dict[int, list[str]] = {}
        for module, numbers in self.of_module.items():
            for number in numbers:
                found.setdefault(number, []).append(module)
        return found

    def with_more(self, of_module: Mapping[str, tuple[int, ...]]) -> Meanings:
        """Return these, and what entries mean among further modules."""
        return Meanings({**self.of_module, **of_module})

    def deciding(self, module: str, among: frozenset[int] | None = None) -> int | None:
        """Return the entry that decides on a module; None if none of them means it.

        Args:
            module: The module.
            among: The entries that there are; None for all.
        """
        found = self.of_module.get(module, ())
        return next((number for number in found if among is None or number in among), None)


def find_meanings(entries: Sequence[str], dialect: Dialect, modules: Iterable[str]) -> Meanings:
    """Evaluate entries over modules.

    Args:
        entries: The entries.
        dialect: How they name modules.
        modules: Names of modules.

    Raises:
        UnreadableError: An entry is no expression.

    Examples:
        >>> from weighbridge.mappings.schemes.dialects import COMPRESSED_TENSORS
        >>> find_meanings(["re:.*q", "a.k"], COMPRESSED_TENSORS, ["a.q", "a.k", "a.v"]).of_module
        {'a.q': (0,), 'a.k': (1,)}
    """
    means = _meaning(entries, dialect)
    ranks = [dialect.rank(entry) for entry in entries]
    found = {module: sorted((ranks[each.number], *each) for each in means(module)) for module in modules}
    return Meanings({module: tuple(number for *_, number in each) for module, each in found.items() if each})


class _Meant(NamedTuple):
    """That an entry means a module: by its weight's name, or only by its own, which comes second."""

    is_second: bool
    number: int


def _meaning(entries: Sequence[str], dialect: Dialect) -> Callable[[str], list[_Meant]]:
    """Return what tells the entries that mean a module; most modules are meant by none, which is seen at once."""
    named: dict[str, list[_Meant]] = {}
    expressions: list[tuple[int, Expression, bool]] = []
    endings: list[tuple[int, str]] = []
    plain, steps = _Plain(), Steps()
    for number, entry in enumerate(entries):
        reading = dialect.read(entry)
        if reading.name is not None:
            named.setdefault(reading.name, []).append(_Meant(False, number))
        if reading.start is not None:
            expressions.append((number, _read(reading.start, entry, steps), reading.is_of_weight))
        if reading.plain is not None:
            plain.add(number, reading.plain)
        if reading.ending is not None:
            endings.append((number, reading.ending))
    any_start, ends = _any_of(expressions, steps), tuple(ending for _, ending in endings)

    def means(module: str) -> list[_Meant]:
        found = dict.fromkeys(named.get(module, ()))
        if expressions and any_start(module):
            found |= dict.fromkeys(each for expression in expressions if (each := _matched(*expression, module)))
        found |= dict.fromkeys(plain.meaning(module))
        if endings and module.endswith(ends):
            found |= {_Meant(False, number): None for number, ending in endings if module.endswith(ending)}
        return list(found)

    return means


class _Plain:
    """Entries that are the beginning of a name: there are many of them, each for one module or few.

    What they are held against is the name up to the end of a segment, of their length, that ends in what stands behind
    their last dot.
    """

    def __init__(self) -> None:
        self.entries: dict[int, dict[str, list[tuple[int, re.Pattern[str]]]]] = {}

    def add(self, number: int, text: str) -> None:
        """Add an entry."""
        ending = text.rpartition(".")[2]
        start = re.compile(".".join(map(re.escape, text.split("."))))
        self.entries.setdefault(len(text), {}).setdefault(ending, []).append((number, start))

    def meaning(self, module: str) -> Iterator[_Meant]:
        """Yield the entries that mean a module."""
        stop = module.find(".") if self.entries else -2
        while stop != -2:
            end = len(module) if stop == -1 else stop
            for ending, alike in self.entries.get(end, {}).items():
                if module.endswith(ending, 0, end):
                    yield from (_Meant(False, number) for number, start in alike if start.match(module))
            stop = -2 if stop == -1 else module.find(".", stop + 1)


def _read(text: str, entry: str, steps: Steps) -> Expression:
    try:
        return Expression(text, steps)
    except PatternError as problem:
        raise UnreadableError(entry, problem.got) from None


def _matched(number: int, start: Expression, is_of_weight: bool, module: str) -> _Meant | None:
    if is_of_weight and start.starts(f"{module}.weight"):
        return _Meant(False, number)
    return _Meant(is_of_weight, number) if start.starts(module) else None


def _any_of(expressions: Sequence[tuple[int, Expression, bool]], steps: Steps) -> Callable[[str], bool]:
    """Return what tells whether any expression matches, at the price of one."""
    texts = [start.text for _, start, _ in expressions]
    if any(_OWN_GROUPS.search(text) for text in texts) or any(of_weight for *_, of_weight in expressions):
        return lambda module: True
    return Expression("|".join(f"(?:{text})" for text in texts), steps).starts
