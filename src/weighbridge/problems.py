"""Put problems together that differ in indices only: a report has a block for each kind, not for each layer."""

from __future__ import annotations

import re
from collections.abc import Iterable

from weighbridge.errors import WeighbridgeError
from weighbridge.keys import collapse_by_name, natural_key

_NUMBER = re.compile(r"\d+")


def merge_alike(problems: Iterable[WeighbridgeError]) -> list[WeighbridgeError]:
    """Merge problems of one code that say the same of tensors whose names differ in indices only.

    Args:
        problems: Single problems.

    Returns:
        One problem of each kind, in the order of the first of its kind; its place names all tensors, and its text is
        that of the first one in natural order.

    Examples:
        >>> from weighbridge.errors import PlanError
        >>> found = [PlanError("target-missing", "nothing fills this", where=f"h.{i}.w") for i in range(3)]
        >>> [problem.where for problem in merge_alike(found)]
        ['h.{0..2}.w']
    """
    kinds: dict[tuple[str, ...], list[WeighbridgeError]] = {}
    for problem in problems:
        form = {name: text if name == "because" else _NUMBER.sub("#", text) for name, text in problem.to_dict().items()}
        kinds.setdefault(tuple(form.values()), []).append(problem)
    return [_merged(alike) for alike in kinds.values()]


def _merged(alike: list[WeighbridgeError]) -> WeighbridgeError:
    if len(alike) == 1:
        return alike[0]
    alike = sorted(alike, key=lambda problem: natural_key(problem.where))
    first = alike[0]
    where = ", ".join(collapse_by_name(problem.where for problem in alike))
    got = f"{first.got}\n… and {len(alike) - 1} more like {first.where}" if first.got else first.got
    return type(first)(**{**first.to_dict(), "where": where, "got": got})
