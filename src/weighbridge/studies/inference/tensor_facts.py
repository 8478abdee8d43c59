"""What was found out about single tensors: which of one checkpoint make which of the other, and by what operations."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from weighbridge.operations.ops import Operation

_INDEX: Final = re.compile("0|[1-9][0-9]{0,8}")

STAR: Final = "*"
"""Stands in a lane's name for the index that operations merge or make."""


class Lane(NamedTuple):
    """Tensors that one pattern of a rule stands for: one, or one for each index at one place of the key.

    Args:
        keys: The keys, in the order of the index.
        star: Position of the index among the key's segments; None for a single tensor.
    """

    keys: tuple[str, ...]
    star: int | None = None

    @property
    def name(self) -> str:
        """The key, with `*` in the place of the index."""
        segments = self.keys[0].split(".")
        if self.star is not None:
            segments[self.star] = STAR
        return ".".join(segments)


@dataclass(frozen=True, slots=True)
class Fact:
    """One finding: these sources give these targets by these operations; without operations it is a rename.

    Args:
        sources: Lanes of the one checkpoint.
        targets: Lanes of the other.
        operations: What is done, first to last.
    """

    sources: tuple[Lane, ...]
    targets: tuple[Lane, ...]
    operations: tuple[Operation, ...] = ()

    @staticmethod
    def rename(source: str, target: str) -> Fact:
        """Say that one tensor has another name, or the same."""
        return Fact((Lane((source,)),), (Lane((target,)),))

    @property
    def source_keys(self) -> tuple[str, ...]:
        """All keys of the sources, lane by lane."""
        return tuple(key for lane in self.sources for key in lane.keys)

    @property
    def target_keys(self) -> tuple[str, ...]:
        """All keys of the targets, lane by lane."""
        return tuple(key for lane in self.targets for key in lane.keys)


def is_index(segment: str) -> bool:
    """Tell whether a segment of a key is an index.

    Examples:
        >>> is_index("12"), is_index("007"), is_index("w1")
        (True, False, False)
    """
    return _INDEX.fullmatch(segment) is not None


def indices_of(key: str) -> tuple[int, ...]:
    """Return the indices of a key, from the left.

    Examples:
        >>> indices_of("layers.3.experts.12.w1")
        (3, 12)
    """
    return tuple(int(segment) for segment in key.split(".") if is_index(segment))


def mask(key: str) -> str:
    """Return a key with its indices left open: equal for the keys of one family.

    Examples:
        >>> mask("layers.3.experts.12.w1")
        'layers.#.experts.#.w1'
    """
    return ".".join("#" if is_index(segment) else segment for segment in key.split("."))


def lanes_of(keys: Sequence[str]) -> tuple[Lane, ...]:
    """Sort keys that are joined in this order into lanes: runs of an index from 0, of equal length, or single keys.

    Examples:
        >>> [lane.name for lane in lanes_of(["e.0.gate", "e.1.gate", "e.0.up", "e.1.up"])]
        ['e.*.gate', 'e.*.up']
        >>> [lane.name for lane in lanes_of(["attn.q", "attn.k"])]
        ['attn.q', 'attn.k']
    """
    runs: list[list[str]] = []
    for key in keys:
        if runs and (place := _next_place(runs[-1], key)) is not None and _starts_at_zero(runs[-1][0], place):
            runs[-1].append(key)
        else:
            runs.append([key])
    if len({len(run) for run in runs}) != 1 or len(runs[0]) == 1:
        return tuple(Lane((key,)) for key in keys)
    return tuple(Lane(tuple(run), _only_difference(run[0], run[1])) for run in runs)


def _next_place(run: Sequence[str], key: str) -> int | None:
    """Return the place of the index by which a key follows a run; None where it does not."""
    place = _only_difference(run[-1], key)
    if place is None or (len(run) > 1 and _only_difference(run[0], run[1]) != place):
        return None
    last, this = run[-1].split(".")[place], key.split(".")[place]
    return place if is_index(last) and is_index(this) and int(this) == int(last) + 1 else None


def _starts_at_zero(key: str, place: int) -> bool:
    return key.split(".")[place] == "0"


def _only_difference(first: str, second: str) -> int | None:
    """Return the position of the one segment in which two keys differ."""
    one, two = first.split("."), second.split(".")
    places = [place for place, pair in enumerate(zip(one, two, strict=False)) if pair[0] != pair[1]]
    return places[0] if len(one) == len(two) and len(places) == 1 else None


def starred(keys: Iterable[Sequence[str]]) -> tuple[Lane, ...] | None:
    """Make a lane of each run of keys that is known to be one; None where the keys do not say so.

    Examples:
        >>> starred([["e.0.gate", "e.1.gate"]])
        (Lane(keys=('e.0.gate', 'e.1.gate'), star=1),)
        >>> starred([["a", "b"]]) is None
        True
    """
    lanes: list[Lane] = []
    for run in keys:
        found = lanes_of(run)
        if len(found) != 1:
            return None
        lanes += found
    return tuple(lanes)
