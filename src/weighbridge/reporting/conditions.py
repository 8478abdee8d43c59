"""Write the conditions of a plan: which sources must be equal, and what must be cut off; like ones together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from weighbridge.base.keys import by_name, collapse
from weighbridge.planning.steps import Condition


def condition_lines(conditions: Iterable[Condition]) -> list[str]:
    """Write conditions in few lines, those of targets that differ in their indices together.

    Examples:
        >>> condition_lines([Condition("g", (("layers.0.g",), ("layers.1.g",)))])
        ['layers.{0,1}.g -> g']
        >>> condition_lines([Condition("k", (("r.0.k", "r.2.k"), ("r.1.k", "r.3.k")))])
        ['r.{0,2}.k = r.{1,3}.k -> k']
        >>> condition_lines([Condition("mlp.up", (("experts.up",),) * 8)])
        ['8 parts of experts.up -> mlp.up']
        >>> condition_lines([Condition("w", (("w",),), "[10:16, :]", "0")])
        ['w[10:16, :] = 0, cut off']
    """
    conditions = list(conditions)
    return [
        *_equal_lines(condition for condition in conditions if not condition.part),
        *_cut_lines(condition for condition in conditions if condition.part),
    ]


def _cut_lines(conditions: Iterable[Condition]) -> Iterator[str]:
    groups: dict[tuple[str, str], list[str]] = {}
    for condition in conditions:
        groups.setdefault((condition.part, condition.value), []).extend(condition.ways[0])
    for (part, value), repeated in groups.items():
        keys = dict.fromkeys(repeated)
        named = [f"{key}{part}" if part.startswith("[") else f"{part} of {key}" for key in collapse(keys)]
        yield f"{', '.join(named)} = {value}, cut off"


def _equal_lines(conditions: Iterable[Condition]) -> list[str]:
    found = {condition.target: condition for condition in conditions}
    groups: dict[tuple[tuple[str, ...], int], list[Condition]] = {}
    for targets in by_name(found).values():
        for target in targets:
            names = tuple(name for way in found[target].ways for name in by_name(way))
            groups.setdefault((tuple(dict.fromkeys(names)), len(found[target].ways)), []).append(found[target])
    return [f"{_equal(alike)} -> {', '.join(collapse(each.target for each in alike))}" for alike in groups.values()]


def _equal(alike: Sequence[Condition]) -> str:
    """Write what must be equal for some targets that are made alike."""
    ways = [[key for condition in alike for key in condition.ways[number]] for number in range(len(alike[0].ways))]
    if all(way == ways[0] for way in ways):
        return f"{len(ways)} parts of {', '.join(collapse(ways[0]))}"
    if all(len(way) == 1 for condition in alike for way in condition.ways):
        return ", ".join(collapse(key for way in ways for key in way))
    return " = ".join(", ".join(collapse(way)) for way in ways)
