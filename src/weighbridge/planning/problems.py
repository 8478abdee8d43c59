"""Say what is missing and what is left over, with the names that could be meant.

Problems that differ in indices only are put together: a report has a block for each kind, not for each layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from weighbridge.base.errors import PlanError, WeighbridgeError
from weighbridge.base.keys import collapse_by_name, natural_key, nearest
from weighbridge.base.specs import Header, Shape
from weighbridge.planning.way_back.origins import Origin

_NUMBER = re.compile(r"\d+")
_BRACES = re.compile(r"\\(.)|\{((?:\\.|[^,{}\\])*?)(?:\.\.|,)(?:\\.|[^{}\\])*\}")
_ESCAPED = re.compile(r"\\(.)")


def merge_alike(problems: Iterable[WeighbridgeError]) -> list[WeighbridgeError]:
    """Merge problems of one code that say the same of tensors whose names differ in indices only.

    Args:
        problems: Single problems.

    Returns:
        One problem of each kind, in the order of the first of its kind; its place names all tensors, and its text is
        that of the first one in natural order.

    Examples:
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


class OpenSide:
    """The tensors of one side, source or target, and those of them that have no partner on the other.

    Args:
        header: All specs of the side.
        keys: Those without a partner.
    """

    def __init__(self, header: Header, keys: Sequence[str]) -> None:
        self.header = header
        self.names = sorted(header)
        self._by_shape: dict[Shape, list[str]] = {}
        for key in keys:
            self._by_shape.setdefault(header[key].shape, []).append(key)

    def near(self, key: str, others: OpenSide) -> list[str]:
        """Name what a key of the other side could belong to: first of all, what is open and has its shape."""
        fitting = self._by_shape.get(others.header[key].shape, [])
        return list(dict.fromkeys([*nearest(key, fitting, 2, least=0), *nearest(key, self.names)]))[:3]


def first_of(line: str) -> str:
    r"""Return the first of the keys that a line of `collapse` stands for.

    Examples:
        >>> first_of("layers.{3..5,7}.up"), first_of(r"a\{b\}.{0,1}")
        ('layers.3.up', 'a{b}.0')
    """
    return _BRACES.sub(lambda found: found[1] or _ESCAPED.sub(r"\1", found[2]), line)


def missing_target(line: str, origin: Origin | None, sources: OpenSide, targets: OpenSide) -> PlanError:
    """Say that nothing fills some targets, what the rules would make them of, and what is like that.

    Args:
        line: The targets, as a line of `collapse`.
        origin: What the rules would make the first of them of, if any rule makes it.
        sources: The checkpoint's side.
        targets: The target's side.
    """
    expected, likes = "", sources.near(first_of(line), targets)
    if origin is not None and origin.sources[0] not in sources.header:
        expected = str(origin)
        likes = list(dict.fromkeys([*nearest(origin.sources[0], sources.names, 2), *likes]))[:3]
    got = f"nearest sources: {', '.join(likes)}" if likes else ""
    return PlanError("target-missing", "nothing fills this target", where=line, expected=expected, got=got)


def unplaced_source(line: str, likes: Sequence[str]) -> PlanError:
    """Say that some sources have no place, and name the targets that could be theirs."""
    got = f"nearest targets: {', '.join(likes)}" if likes else ""
    return PlanError("source-unplaced", "a source has no place in the target", where=line, got=got)
