"""Choose among the outcomes that rules which are `if_wanted` could have: the target alone decides.

As the rules are written, if the target has what comes of that. Else the one other outcome that the target has: with
some of these rules left alone. None of them, or several, and nothing is chosen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations
from typing import Final

from weighbridge.base.specs import Header

FREE: Final = "\uf000"
"""Stands in a converter's target name for each index that its operations make."""

MOST_TOGETHER: Final = 5
"""Of how many rules every selection is tried; of more, each alone and all of them."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The names that are to be reached, with what is known of the tensors that are to reach them.

    Args:
        target: Specs of the names to reach.
        source: Specs of the tensors: one whose shape is another than the target's does not reach it by a rename.
    """

    target: Header
    source: Header = field(default_factory=lambda: Header({}))

    def has(self, name: str, key: str = "") -> bool:
        """Tell whether a name is wanted, for the tensor of that key if it is given.

        Examples:
            >>> wanted = Wanted(Header({"experts.3.up": None}))
            >>> wanted.has("experts.3.up"), wanted.has(f"experts.{FREE}.up"), wanted.has("experts.up")
            (True, True, False)
        """
        if FREE in name:
            before, *between, after = name.split(FREE)
            found = (each for each in self.target if each.startswith(before) and each.endswith(after))
            return any(not between or _is_of(name).fullmatch(each) for each in found)
        own, spec = self.source.specs.get(key), self.target.specs.get(name)
        if own is None or name in self.target.loose:
            return name in self.target.specs
        return spec is not None and own.shape == spec.shape


@lru_cache(maxsize=256)
def _is_of(name: str) -> re.Pattern[str]:
    """Return what matches a name with any indices in the place of those that are free."""
    return re.compile("[0-9]+".join(map(re.escape, name.split(FREE))))


def number_name(name: str, place: Iterable[object]) -> str:
    """Put indices in the place of those that are free in a name, and 0 where there are none.

    Examples:
        >>> number_name(f"layers.{FREE}.experts.{FREE}.w", (3, 17)), number_name(f"experts.{FREE}.w", ())
        ('layers.3.experts.17.w', 'experts.0.w')
    """
    for index in place:
        name = name.replace(FREE, str(index), 1)
    return name.replace(FREE, "0")


def silences(rules: Sequence[int]) -> Iterator[frozenset[int]]:
    """Yield which rules could be left alone, the fewest first.

    Examples:
        >>> [sorted(silent) for silent in silences([3, 7])]
        [[3], [7], [3, 7]]
        >>> [len(silent) for silent in silences(range(MOST_TOGETHER + 1))]
        [1, 1, 1, 1, 1, 1, 6]
        >>> len(list(silences(range(MOST_TOGETHER)))) == 2**MOST_TOGETHER - 1
        True
    """
    sizes = [size for size, _ in enumerate(rules, 1)] if len(rules) <= MOST_TOGETHER else [1, len(rules)]
    return (frozenset(silent) for size in sizes for silent in combinations(rules, size))


def choose_outcome(names: Sequence[tuple[str, ...]], wanted: Wanted, key: str = "") -> list[int]:
    """Choose among the names that each outcome leads one key to.

    Args:
        names: For each outcome its last names; that of the rules as they are written comes first.
        wanted: What is to be reached.
        key: The key, if the outcomes rename its tensor and no more.

    Returns:
        The numbers of the outcomes that fit and differ; of those that agree, the first. The first outcome is alone.

    Examples:
        >>> wanted = Wanted(Header({"norm": None, "model.head": None}))
        >>> choose_outcome([("model.norm",), ("norm",)], wanted), choose_outcome([("model.head",), ("head",)], wanted)
        ([1], [0])
    """
    fitting: dict[tuple[str, ...], int] = {}
    for number, reached in enumerate(names):
        if reached and all(wanted.has(name, key) for name in reached):
            fitting.setdefault(reached, number)
            if number == 0:
                break
    return list(fitting.values())
