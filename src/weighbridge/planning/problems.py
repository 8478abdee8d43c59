"""Say what is missing and what is left over, with the names that could be meant.

Problems that differ in indices only are put together: a report has a block for each kind, not for each layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping as MappingOf, Sequence
from functools import cached_property
from typing import Final

from weighbridge.base.errors import PlanError, WeighbridgeError
from weighbridge.base.keys import NearKeys, collapse_by_name, natural_key
from weighbridge.base.specs import Header, Shape
from weighbridge.mappings.transforms import WeightConverter
from weighbridge.planning.plan import Plan
from weighbridge.planning.way_back.origins import Origin

SHOWN_SIZES: Final = 3

MOST_SEARCHES: Final = 24
"""For how many keys of a report the nearest names are sought: more than are printed."""

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
        made: For some of these, what the rules make of them.
    """

    def __init__(self, header: Header, keys: Sequence[str] = (), made: MappingOf[str, str] | None = None) -> None:
        self.header = header
        self.made = made or {}
        self._open: dict[Shape, list[str]] = {}
        for key in keys:
            self._open.setdefault(header[key].shape, []).append(key)
        self._near_open: dict[Shape, NearKeys] = {}
        self._searches = 0

    @cached_property
    def _near_all(self) -> NearKeys:
        return NearKeys(self.header)

    def like(self, key: str, count: int = 3) -> list[str]:
        """Name what is most like a key; nothing once `MOST_SEARCHES` were made: nobody reads so many."""
        self._searches += 1
        return self._near_all.find(key, count) if self._searches <= MOST_SEARCHES else []

    def near(self, key: str, others: OpenSide) -> list[str]:
        """Name what a key of the other side could belong to: first of all, what is open and has its shape."""
        if self._searches >= MOST_SEARCHES:
            return []
        shape = others.header[key].shape
        if shape not in self._near_open:
            self._near_open[shape] = NearKeys(self._open.get(shape, []))
        return list(dict.fromkeys([*self._near_open[shape].find(key, 2, least=0), *self.like(key)]))[:3]


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

    Examples:
        >>> from weighbridge.base.specs import TensorSpec
        >>> header = Header({f"{name}.bias": TensorSpec("F32", (2,)) for name in ("head", "old_head")})
        >>> side = OpenSide(header, ["old_head.bias"])
        >>> print(missing_target("head.bias", None, side, side).got)
        the source head.bias, which this reading calls otherwise, or drops
        nearest sources: old_head.bias
    """
    key = first_of(line)
    expected, likes = "", sources.near(key, targets)
    if origin is not None and origin.sources[0] not in sources.header:
        expected = str(origin)
        likes = list(dict.fromkeys([*sources.like(origin.sources[0], 2), *likes]))[:3]
    taken = sources.made.get(key, "which this reading calls otherwise, or drops")
    here = f"the source {key}, {taken}" if key in sources.header else ""
    got = _with_nearest(here, key, "sources", likes)
    return PlanError("target-missing", "nothing fills this target", where=line, expected=expected, got=got)


def uneven_groups(plan: Plan) -> Iterator[str]:
    """Say of each converter that joins tensors by an index where its groups differ in size.

    A group whose last members are missing is a whole group of another size: only a target can tell.

    Args:
        plan: A plan without a target.
    """
    sizes: dict[int, dict[int, list[str]]] = {}
    for step in plan.steps:
        for number in step.rules:
            transform = plan.mapping.transforms[number]
            if isinstance(transform, WeightConverter) and transform.arity.merges:
                sizes.setdefault(number, {}).setdefault(len(step.sources), []).append(step.targets[0])
    for number, groups in sorted(sizes.items()):
        if len(groups) > 1:
            common, *others = sorted(groups.items(), key=lambda group: (-len(group[1]), -group[0]))
            said = [f"{count:,} into {_some(names)}" for count, names in others[:SHOWN_SIZES]]
            said += [f"{len(others) - SHOWN_SIZES} more sizes"] if len(others) > SHOWN_SIZES else []
            yield (
                f"rule {number + 1} joins {common[0]:,} tensors into {_some(common[1])}, but {', '.join(said)}: "
                "if the last ones are missing there, only a target would tell"
            )


def _some(names: list[str]) -> str:
    lines = collapse_by_name(names)
    return lines[0] + (f" and {len(lines) - 1} more" if len(lines) > 1 else "")


NO_SUCH_TARGET: Final = "the target has no tensor of this name"


def no_such_target(key: str, sources: Sequence[str], because: str) -> PlanError:
    """Say that rules write a name that the target does not have; `with_likes` adds those that it has."""
    got = f"written from {', '.join(sources)}"
    return PlanError("source-unplaced", NO_SUCH_TARGET, where=key, got=got, because=because)


def target_collision(key: str, claims: Iterable[tuple[Sequence[str], str]]) -> PlanError:
    """Say that two sources land on one target.

    Args:
        key: The target.
        claims: For each of the two what it is made of, and the rules that say so.
    """
    lines = sorted(f"{', '.join(sources[:2])}\n  {rules}".rstrip() for sources, rules in claims)
    return PlanError(
        "target-collision",
        "two sources land on one target",
        where=key,
        got="\n".join(lines),
        hint="narrow one of the rules, or declare which source to drop, or say by MergeEqual that they are equal",
    )


def with_likes(fault: WeighbridgeError, targets: OpenSide) -> WeighbridgeError:
    """Add the nearest names to an error of `no_such_target`; return any other one as it is."""
    likes = targets.like(fault.where) if fault.what == NO_SUCH_TARGET else []
    return type(fault)(**{**fault.to_dict(), "got": f"{fault.got}\nnearest: {', '.join(likes)}"}) if likes else fault


def unplaced_source(line: str, sources: OpenSide, targets: OpenSide) -> PlanError:
    """Say that some sources have no place, and name the targets that could be theirs.

    Args:
        line: The sources, as a line of `collapse`.
        sources: The checkpoint's side.
        targets: The target's side.
    """
    key = first_of(line)
    likes = targets.near(key, sources)
    here = f"the target {key}, but this reading calls the source otherwise" if key in likes else ""
    here = f"the source {key}, {sources.made[key]}" if key in sources.made else here
    got = _with_nearest(here, key, "targets", likes)
    return PlanError("source-unplaced", "a source has no place in the target", where=line, got=got)


def _with_nearest(here: str, key: str, side: str, likes: Iterable[str]) -> str:
    """Add the nearest names to what is said of a tensor's own; its own is no near one."""
    others = ", ".join(name for name in likes if name != key)
    return "\n".join(line for line in (here, f"nearest {side}: {others}" if others else "") if line)
