"""Compare names, where values alone do not say which tensor is which."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping as MappingOf, Sequence
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import product
from typing import Final, NamedTuple

from weighbridge.base.keys import natural_key
from weighbridge.studies.inference.tensor_facts import indices_of, mask

TRIADS: Final = (("q", "k", "v"), ("query", "key", "value"), ("gate", "up"), ("w1", "w3"), ("wi_0", "wi_1"))
"""Words for tensors that are often joined, in the order in which they are."""

_MOST_PAIRS: Final = 250_000
"""Number of pairs of names that are compared."""


class Pairing(NamedTuple):
    """Two names that were put together, and whether no other choice was as likely."""

    source: str
    target: str
    is_plain: bool


@lru_cache(maxsize=65536)
def mask_likeness(one: str, two: str) -> float:
    """Score how alike two names are without their indices, from 0 to 3: by words, by letters, and by their ends."""
    first, second = one.split("."), two.split(".")
    words = SequenceMatcher(None, first, second, autojunk=False).ratio()
    letters = SequenceMatcher(None, one, two, autojunk=False).ratio()
    return words + letters + (first[-1] == second[-1])


def likeness(one: str, two: str) -> float:
    """Score how alike two keys are: their words, their letters, their ends, and above all their indices.

    Examples:
        >>> likeness("layers.3.norm.weight", "h.3.ln.weight") > likeness("layers.3.norm.weight", "h.4.norm.weight")
        True
    """
    if one == two:
        return 10.0
    first, second = indices_of(one), indices_of(two)
    same = first == second
    shared = len(set(first) & set(second)) / max(len(first), len(second), 1)
    return mask_likeness(mask(one), mask(two)) + (4.0 if same else shared)


def order_of_parts(whole: str, part: str) -> tuple[object, ...]:
    """Return what parts of a tensor that hold equal values are put in order by.

    Their indices agree with those of the whole, parts of one kind stand together, and q, k, v are in this order.

    Examples:
        >>> sorted(["h.0.v", "h.0.k", "h.0.q"], key=lambda key: order_of_parts("h.0.qkv", key))
        ['h.0.q', 'h.0.k', 'h.0.v']
    """
    same = sum(one == two for one, two in zip(indices_of(whole), indices_of(part), strict=False))
    words = [word for segment in mask(part).split(".") for word in (segment, *segment.split("_"))]
    place = next((triad.index(word) for triad in TRIADS for word in words if word in triad), len(TRIADS))
    return -same, place, -mask_likeness(mask(part), mask(whole)), mask(part), natural_key(part)


def pair_by_name(
    sources: Iterable[str],
    targets: Iterable[str],
    names: MappingOf[str, str],
    more: Callable[[str, str], float] | None = None,
) -> list[Pairing]:
    """Put names together, the likeliest first, each once.

    Args:
        sources: Keys of the one side.
        targets: Keys of the other.
        names: What a source is called by the rules that are known so far.
        more: What else speaks for a pair; it counts as the likeness does.

    Returns:
        As many pairs as the shorter side has names.

    Examples:
        >>> pair_by_name(["a.0.norm", "a.1.norm"], ["b.0.norm", "b.1.norm"], {})[0]
        Pairing(source='a.0.norm', target='b.0.norm', is_plain=True)
    """
    ones, twos = sorted(sources), sorted(targets)
    scores = {
        (one, two): likeness(names.get(one, one), two) + (more(one, two) if more is not None else 0.0)
        for one, two in _candidates(ones, twos)
    }
    best: dict[str, list[float]] = {}
    for (one, two), score in scores.items():
        for name in (f"source {one}", f"target {two}"):
            best[name] = sorted([*best.get(name, ()), score], reverse=True)[:2]
    pairs: list[Pairing] = []
    taken: set[str] = set()
    for (one, two), score in sorted(scores.items(), key=lambda item: (-item[1], item[0])):
        sides = {f"source {one}", f"target {two}"}
        if taken.isdisjoint(sides):
            taken |= sides
            pairs.append(Pairing(one, two, all(best[side][1:] < [score] for side in sides)))
    return pairs


def _candidates(ones: Sequence[str], twos: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield what may be put together: every two names, or those of the same indices where that would be too many."""
    if len(ones) * len(twos) <= _MOST_PAIRS:
        yield from product(ones, twos)
        return
    by_indices: dict[tuple[int, ...], list[str]] = {}
    for two in twos:
        by_indices.setdefault(indices_of(two), []).append(two)
    yield from ((one, two) for one in ones for two in by_indices.get(indices_of(one), ()))
