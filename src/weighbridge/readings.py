"""The layouts that a checkpoint could be in: mapped, already the target's, with or without the base model's prefix.

Whether keys carry a prefix cannot be known key by key. Here each possibility is one candidate mapping for the whole key
set; planning keeps the only one that fits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Final

from weighbridge.mapping import Mapping
from weighbridge.specs import Header
from weighbridge.transforms import PrefixChange


@dataclass(frozen=True, slots=True)
class Reading:
    """One way to read a checkpoint's layout.

    Args:
        name: What reports call it.
        mapping: The mapping to run under this reading.
        is_mapped: Whether the caller's mapping is part of it.
    """

    name: str
    mapping: Mapping
    is_mapped: bool


def possible_readings(mapping: Mapping, source: Header, target: Header | None, mode: str) -> list[Reading]:
    """List the readings to compile, the mapped one first; those that cannot fit by their names alone are left out.

    Without a target there is nothing to compare with, and the mapped reading is the only one.
    """
    mapped = Reading("mapped", mapping, is_mapped=True)
    plain = Reading("as is", replace(mapping, transforms=(), forward=None), is_mapped=False)
    if target is None or mode == "mapped":
        first = [mapped]
    elif mode == "as is":
        first = [plain]
    else:
        first = [mapped, *([plain] if mapping.transforms and _shares_names(source, target) else [])]
    return [*first, *(_prefixed(first, mapping.base_prefix, source) if target is not None else ())]


def _shares_names(source: Header, target: Header) -> bool:
    return not target.specs.keys().isdisjoint(source.specs)


def _prefixed(readings: list[Reading], prefix: str, source: Header) -> Iterator[Reading]:
    """Yield each reading with the base prefix added, and with it removed, where either would change a key."""
    if not prefix:
        return
    having = sum(key.startswith(prefix + ".") for key in source)
    changes = []
    if having < len(source):
        changes.append((f"with {prefix}. added", PrefixChange(prefix_to_add=prefix)))
    if having:
        changes.append((f"with {prefix}. removed", PrefixChange(prefix_to_remove=prefix)))
    for reading in readings:
        for words, change in changes:
            transforms = (change, *reading.mapping.transforms)
            mapping = replace(reading.mapping, transforms=transforms, forward=None)
            yield Reading(f"{reading.name}, {words}", mapping, reading.is_mapped)


MOST_PATHS: Final = 16
"""How many paths of either side are tried, the largest sub-trees first."""


def nested_readings(mapping: Mapping, source: Header, target: Header) -> Iterator[Reading]:
    """Yield the mapped reading under every path of a sub-model: of the target, put in front, or of the source, removed.

    A checkpoint may be that of one part of the model, or of a model that holds this one. These are only tried where
    no nearer reading fits.
    """
    added = ((f"with {path}. added", PrefixChange(prefix_to_add=path)) for path in _paths(target))
    removed = ((f"with {path}. removed", PrefixChange(prefix_to_remove=path)) for path in _paths(source))
    for words, change in (*added, *removed):
        if change not in mapping.transforms:
            changed = replace(mapping, transforms=(change, *mapping.transforms), forward=None)
            yield Reading(f"mapped, {words}", changed, is_mapped=True)


def _paths(header: Header) -> list[str]:
    """List the paths of sub-models, those with most tensors first: up to the first index in a key, three deep."""
    counts: Counter[str] = Counter()
    for key in header:
        parts = list(takewhile(lambda part: not part.isdigit(), key.split(".")[:-1]))
        counts.update(".".join(parts[:depth]) for depth in range(1, min(len(parts), 3) + 1))
    ranked = sorted((-count, path) for path, count in counts.items())
    return [path for _, path in ranked[:MOST_PATHS]]
