"""What was found out about single tensors: which of one checkpoint make which of the other, and by what operations."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from weighbridge.operations.ops import Operation

_INDEX: Final = re.compile("0|[1-9][0-9]{0,8}")

STAR: Final = "*"
"""Stands in a lane's name for the index that operations merge or make."""


class Lane(NamedTuple):
    """Tensors that one pattern of a rule stands for: one, or one for each index at one or two places of the key.

    Args:
        keys: The keys, in the order of the indices, the first of which is the outer one.
        stars: Positions of the indices among the key's segments; none for a single tensor.
    """

    keys: tuple[str, ...]
    stars: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """The key, with `*` in the place of each index."""
        segments = self.keys[0].split(".")
        for star in self.stars:
            segments[star] = STAR
        return ".".join(segments)

    @property
    def heights(self) -> tuple[int, ...]:
        """How many keys there are for each outer index of two."""
        return tuple(Counter(key.split(".")[self.stars[0]] for key in self.keys).values())


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
    runs = _runs(keys)
    if len({len(run) for run in runs}) != 1 or len(runs[0]) == 1:
        return tuple(Lane((key,)) for key in keys)
    return tuple(map(_run_lane, runs))


def _runs(keys: Sequence[str]) -> list[list[str]]:
    runs: list[list[str]] = []
    for key in keys:
        if runs and (place := _next_place(runs[-1], key)) is not None and _starts_at_zero(runs[-1][0], place):
            runs[-1].append(key)
        else:
            runs.append([key])
    return runs


def _run_lane(run: Sequence[str]) -> Lane:
    place = _only_difference(run[0], run[1]) if len(run) > 1 else None
    return Lane(tuple(run), () if place is None else (place,))


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
        (Lane(keys=('e.0.gate', 'e.1.gate'), stars=(1,)),)
        >>> starred([["l.0.e.0.w", "l.0.e.1.w", "l.1.e.0.w", "l.1.e.1.w"]])[0].name
        'l.*.e.*.w'
        >>> starred([["a", "b"]]) is None
        True
    """
    lanes = [_one_lane(run) for run in keys]
    found = tuple(lane for lane in lanes if lane is not None)
    return found if len(found) == len(lanes) else None


def _one_lane(keys: Sequence[str]) -> Lane | None:
    """Make a lane of keys in the order of one index, or of an outer and an inner one, of which there may be fewer."""
    inner = [_run_lane(run) for run in _runs(keys)]
    if len(inner) == 1:
        return inner[0]
    outer = _runs([lane.name for lane in inner])
    stars = (*_run_lane(outer[0]).stars, *inner[0].stars)
    is_grid = len(outer) == 1 and all(lane.stars == stars[1:] for lane in inner) and list(stars) == sorted(stars)
    return Lane(tuple(keys), stars) if is_grid and len(stars) == 2 else None
