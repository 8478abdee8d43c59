"""Count the outcomes of a sweep, and set each difference beside its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from sweeping.checks import CHECKS
from sweeping.outcomes import NONE, OK, SKIPPED


def kind_of(outcome: Any) -> str:
    """Return an outcome in a word."""
    return outcome if isinstance(outcome, str) else outcome["code"]


def count(lines: Iterable[Any]) -> dict[str, Counter[str]]:
    """Count the outcomes of each check; of a class that cannot be built there is one."""
    found: dict[str, Counter[str]] = {name: Counter() for name in ("built", *CHECKS)}
    for line in lines:
        for name, counts in found.items():
            if name in line:
                counts[OK if line[name] == OK else "no" if name == "built" else kind_of(line[name])] += 1
    return found


def table(lines: Iterable[Any]) -> Iterator[str]:
    """Yield a line for each check: how many are well, of how many, and what becomes of the others."""
    for name, counts in count(lines).items():
        asked = sum(number for kind, number in counts.items() if kind not in (NONE, SKIPPED))
        others = ", ".join(f"{number} {kind}" for kind, number in counts.most_common() if kind not in (OK, NONE))
        yield f"{name:<9} {counts[OK]:>5} of {asked:>5}  {others}".rstrip()
