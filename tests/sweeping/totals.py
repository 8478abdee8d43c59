"""Count the outcomes of a sweep, and find those that differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from sweeping.checks import CHECKS
from sweeping.outcomes import NONE, NOT_COMPARED, OK, SKIPPED

NOT_ASKED: Final = (NONE, SKIPPED, NOT_COMPARED)
"""Outcomes that say that there was nothing to check."""

Line = Mapping[str, Any]


def kind_of(outcome: Any) -> str:
    """Return an outcome in a word."""
    return outcome if isinstance(outcome, str) else str(outcome["code"])


def count(lines: Iterable[Line]) -> dict[str, Counter[str]]:
    """Count the outcomes of each check; of a class that cannot be built there is none."""
    found: dict[str, Counter[str]] = {name: Counter() for name in ("built", *CHECKS)}
    for line in lines:
        found["built"][OK if line["built"] == OK else "not built"] += 1
        for name in CHECKS:
            if name in line:
                found[name][kind_of(line[name])] += 1
    return found


def asked(counts: Counter[str]) -> int:
    """Return how many classes a check said something of."""
    return sum(number for kind, number in counts.items() if kind not in NOT_ASKED)


def table(lines: Iterable[Line]) -> Iterator[str]:
    """Yield a line for each check: how many are well, of how many, and what becomes of the others."""
    for name, counts in count(lines).items():
        others = ", ".join(f"{number} {kind}" for kind, number in counts.most_common() if kind not in (OK, NONE))
        yield f"{name:<9} {counts[OK]:>5} of {asked(counts):>5}  {others}".rstrip()


def differing(lines: Iterable[Line]) -> Iterator[tuple[Line, str]]:
    """Yield each class with each check that found something."""
    for line in lines:
        for name in CHECKS:
            if name in line and kind_of(line[name]) not in (OK, *NOT_ASKED):
                yield line, name
