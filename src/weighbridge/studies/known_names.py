"""The names that are known of each model type's tensors, as published and at runtime: a table of data, read once."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import product
from typing import Final, NamedTuple

from weighbridge.mappings.families.signatures import SIGNATURES

PUBLISHED: Final = "published"
RUNTIME: Final = "runtime"
BOTH: Final = "published and runtime"

_SET: Final = re.compile(r"\{([^}]*)\}")


class Layout(NamedTuple):
    """What is known of one layout of a model type.

    Args:
        model_type: The type.
        name: `PUBLISHED`, `RUNTIME` or, where they do not differ, `BOTH`.
        prefix: Prefix of its head models' names, which `common` and `other` lack.
        common: Names that all its checkpoints have, without indices.
        other: Names that some have.
    """

    model_type: str
    name: str
    prefix: str
    common: frozenset[str]
    other: frozenset[str]


@cache
def known_layouts() -> tuple[Layout, ...]:
    """Read the table of names."""
    found: list[Layout] = []
    for entry in re.split(r"^(?=\w)", SIGNATURES, flags=re.MULTILINE)[1:]:
        title, *lines = entry.splitlines()
        model_type, _, prefix = title.partition(" ")
        names = {mark: frozenset(_words(line[2:] for line in lines if line[0] == mark)) for mark in "+?=~"}
        differs = bool(names["="] or names["~"])
        found.append(Layout(model_type, PUBLISHED if differs else BOTH, prefix, names["+"], names["?"]))
        if differs:
            found.append(Layout(model_type, RUNTIME, prefix, names["="], names["~"]))
    return tuple(found)


@cache
def known_types() -> frozenset[str]:
    """Return the model types of the table."""
    return frozenset(layout.model_type for layout in known_layouts())


def _words(lines: Iterable[str]) -> Iterator[str]:
    """Write out the names that a line of the table stands for."""
    for line in lines:
        for word in line.split():
            parts = _SET.split(word)
            sets = [part.split(",") if at % 2 else [part] for at, part in enumerate(parts)]
            yield from map("".join, product(*sets))


@cache
def count_holders() -> tuple[int, dict[str, int]]:
    """Count the types of the table, and those that have each name."""
    by_type: dict[str, set[str]] = {}
    for layout in known_layouts():
        by_type.setdefault(layout.model_type, set()).update(layout.common, layout.other)
    return len(by_type), Counter(name for names in by_type.values() for name in names)
