"""An interpreter of mappings that takes them at their word: key by key, rule by rule, operation by operation.

It shares nothing with what it is held against: patterns are spelled for Python's `re` (`interpreter_patterns`),
operations are run with torch (`interpreter_operations`), and nothing is planned. Only the values that say what is
meant, a `Mapping` with its transforms, are weighbridge's.

    made = interpret(mapping, {"norm.gamma": tensor})
    made.tensors     what the mapping makes
    made.problems    why it cannot be done, as codes; what is made then means nothing
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping as MappingOf, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from interpreter_operations import Lane, Place, RefusedError, Shape, nest, run_levels, unnest
from interpreter_patterns import Found, count_stars, fill, spell

import weighbridge as wb

Tensors = dict[str, torch.Tensor]
NAMED_OFFSET = re.compile(r"(\{\w+[+-])([a-z]\w*)")
FREE = "\0"
"""Stands for the index that a converter will make."""


class NamingError(Exception):
    """A rule has no name for a key: two patterns claim it, or an index of it is none that the rule could write."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass
class Made:
    """What a mapping makes of tensors.

    Args:
        tensors: What is made, by name.
        sources: For each name that is made the keys that it is made of.
        changed: Names whose elements a converter had in its hands, whatever it did.
        dropped: Keys that a rule drops.
        carried: Keys that a rule passes on as they are.
        vanished: Keys that became no tensor at all: an axis without indices was taken apart.
        failed: Names that a converter would have made, if something were not wrong with it.
        problems: Codes of what is wrong.
    """

    tensors: Tensors = field(default_factory=dict)
    sources: dict[str, tuple[str, ...]] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    dropped: set[str] = field(default_factory=set)
    carried: set[str] = field(default_factory=set)
    vanished: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    problems: set[str] = field(default_factory=set)

    @property
    def shapes(self) -> dict[str, Shape]:
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}

    def put(self, name: str, tensor: torch.Tensor, sources: tuple[str, ...]) -> None:
        if name in self.tensors:
            self.problems.add("target-collision")
        self.tensors[name], self.sources[name] = tensor, sources


def interpret(
    mapping: wb.Mapping, tensors: Tensors, wanted: MappingOf[str, Shape] | None = None, config: Any = None
) -> Made:
    """Apply a mapping's rules in list order.

    Args:
        mapping: The rules, and what is declared to be dropped or carried.
        tensors: What they are applied to.
        wanted: Shapes of the targets, where they are known; they only tell how large the parts of a tensor are.
        config: The model's configuration.
    """
    mapping = bind(mapping, config)
    made, uses = Made(), dict[tuple[int, tuple[str, ...]], Use]()
    for key, tensor in tensors.items():
        is_dropped, is_carried = (any(_names(rule, key) for rule in rules) for rules in (mapping.drop, mapping.carry))
        if is_dropped or is_carried:
            made.problems |= {"rule-overlap"} if is_dropped and is_carried else set()
            made.dropped |= {key} if is_dropped else set()
            if is_carried:
                made.carried.add(key)
                made.put(key, tensor, (key,))
            continue
        try:
            name, hit = _walk(mapping.transforms, key)
            if hit is None:
                made.put(name, tensor, (key,))
            else:
                _collect(mapping.transforms, uses, hit, name, key, made)
        except NamingError as wrong:
            made.problems.add(wrong.code)
    for use in uses.values():
        try:
            _convert(mapping.transforms, use, tensors, wanted or {}, config, made)
        except RefusedError as refused:
            made.problems.add(refused.code)
            made.failed |= {name for output in use.outputs if (name := _last_name(mapping.transforms, use, output))}
        except NamingError as wrong:
            made.problems.add(wrong.code)
    return made


def bind(mapping: wb.Mapping, config: Any) -> wb.Mapping:
    """Write the numbers of a configuration in the place of their names, in the texts of all patterns."""
    text = json.dumps(mapping.to_dict())
    bound = NAMED_OFFSET.sub(lambda found: f"{found[1]}{config[found[2]]}", text)
    return mapping if bound == text else wb.Mapping.from_dict(json.loads(bound))


def _names(rule: Any, key: str) -> bool:
    inner = below(rule.scope, key)
    return inner is not None and spell(rule.pattern).find(inner) is not None


# ---- names ----


def below(scope: str, key: str) -> str | None:
    """Return what of a key lies below a scope; None for a key that does not."""
    if not scope:
        return key
    return key[len(scope) + 1 :] if key.startswith(f"{scope}.") else None


class Claim(NamedTuple):
    """Which pattern of a rule matched, where, and the key without the rule's scope."""

    lane: int
    found: Found
    inner: str


def claim(rule: Any, key: str) -> Claim | None:
    """Find the one pattern of a rule that matches a key; an index alone is no reason for a pattern to leave a key."""
    inner = below(rule.scope, key)
    if inner is None:
        return None
    if any(spell(text).is_near(inner) for text in rule.source_patterns):
        raise NamingError("index-out-of-range")
    found = [
        Claim(lane, at, inner) for lane, text in enumerate(rule.source_patterns) if (at := spell(text).find(inner))
    ]
    if len(found) > 1:
        raise NamingError("rule-overlap")
    return found[0] if found else None


def write(rule: Any, target: str, at: Claim, captures: dict[str, str]) -> str:
    """Put what a target stands for where the match was."""
    filled = fill(target, captures)
    if filled is None:
        raise NamingError("index-out-of-range")
    inner = at.inner[: at.found.start] + filled + at.inner[at.found.stop :]
    return f"{rule.scope}.{inner}" if rule.scope else inner


def rename(rule: Any, key: str) -> str:
    """Run one rename over one key."""
    if isinstance(rule, wb.PrefixChange):
        return _change_prefix(rule, key)
    at = claim(rule, key)
    if at is None:
        return key
    target = rule.target_patterns[at.lane if isinstance(rule, wb.GroupWeightRename) else 0]
    return write(rule, target, at, at.found.captures)


def _change_prefix(rule: wb.PrefixChange, key: str) -> str:
    mount = ".".join(part for part in (rule.scope, rule.model_prefix) if part)
    inner = below(mount, key)
    if not inner:
        return key
    added, removed = rule.prefix_to_add, rule.prefix_to_remove
    if added is not None:
        inner = inner if (below(added, inner) is not None) else f"{added}.{inner}"
    elif below(removed, inner):
        inner = below(removed, inner) or ""
    return f"{mount}.{inner}" if mount else inner


def _converters(rules: Sequence[Any], start: int) -> Iterable[Any]:
    return (rule for rule in rules[start:] if isinstance(rule, wb.WeightConverter))


def _walk(rules: Sequence[Any], key: str) -> tuple[str, int | None]:
    """Run a key through the renames, up to the first converter that claims it."""
    for number, rule in enumerate(rules):
        if not isinstance(rule, wb.WeightConverter):
            key = rename(rule, key)
        elif claim(rule, key) is not None:
            if any(_use_of(rules, later, key) != _use_of(rules, rule, key) for later in _claimants(rules, number, key)):
                raise NamingError("rule-overlap")
            return key, number
    return key, None


def _claimants(rules: Sequence[Any], number: int, key: str) -> list[Any]:
    """Return the converters behind one that claim a key as well."""
    return [later for later in _converters(rules, number + 1) if claim(later, key) is not None]


def _use_of(rules: Sequence[Any], rule: Any, key: str) -> tuple[Any, ...]:
    """Return what a converter that claims a key would do with it, whichever converter that is."""
    one, made = dict[tuple[int, tuple[str, ...]], Use](), Made()
    _collect(rules, one, rules.index(rule), key, key, made)
    return tuple((use.outputs, use.lanes, rule.operations) for use in one.values()) or (rule,)


def _finish(rules: Sequence[Any], start: int, name: str) -> str:
    """Run the renames that come after a converter over a name that it wrote."""
    for rule in rules[start:]:
        name = name if isinstance(rule, wb.WeightConverter) else rename(rule, name)
    return name


def _last_name(rules: Sequence[Any], use: Use, name: str) -> str | None:
    """Return the name that a converter's output ends with; None where a later rule has none for it."""
    try:
        return _finish(rules, use.rule + 1, name)
    except NamingError:
        return None


# ---- converters ----


@dataclass
class Use:
    """One use of a converter: for each source pattern the key at some indices; and the names that it writes."""

    rule: int
    outputs: tuple[str, ...]
    lanes: list[dict[tuple[int, ...], str]]
    captures: dict[str, str] = field(default_factory=dict)


def _stars(patterns: Sequence[str]) -> int:
    return count_stars(patterns[0])


def merges(rule: wb.WeightConverter) -> int:
    """How many of the last indices of the sources are used up."""
    using = ["MergeModulelist", MERGING_ERNIE, *(["MergeEqual"] if len(rule.source_patterns) == 1 else [])]
    making = ["SplitModulelist", SPLITTING_ERNIE, "Chunk", "Split", "Repeat"]
    more = _stars(rule.source_patterns) - _stars(rule.target_patterns)
    return max(more, _count_first(rule.operations, using, making))


def splits(rule: wb.WeightConverter) -> int:
    """How many of the last indices of the targets are made."""
    making = ["SplitModulelist", SPLITTING_ERNIE, *(["Repeat"] if len(rule.target_patterns) == 1 else [])]
    using = ["MergeModulelist", MERGING_ERNIE, "Concatenate", "MergeEqual"]
    more = _stars(rule.target_patterns) - _stars(rule.source_patterns)
    return max(more, _count_first(rule.operations[::-1], making, using))


def _count_first(operations: Sequence[Any], one: Sequence[str], other: Sequence[str]) -> int:
    """Count the operations of one kind that come before all of another kind; one of equal tensors counts by itself."""
    names = [type(each).__name__ for each in operations if type(each).__name__ in (*one, *other)]
    first = list(itertools.takewhile(lambda name: name in one, names))
    return len([name for name in first if name not in ("MergeEqual", "Repeat")]) or min(1, len(first))


MERGING_ERNIE, SPLITTING_ERNIE = "ErnieFuseAndSplitTextVisionExperts", "ErnieSplitAndDecoupleTextVisionExperts"


def _collect(rules: Sequence[Any], uses: dict[Any, Use], number: int, name: str, key: str, made: Made) -> None:
    rule = rules[number]
    at = claim(rule, name)
    assert at is not None
    captures, sources, targets = dict(at.found.captures), _stars(rule.source_patterns), _stars(rule.target_patterns)
    place = tuple(int(captures.pop(f"*{sources - back}")) for back in reversed(range(merges(rule))))
    captures |= {f"*{targets - back}": FREE for back in range(splits(rule))}
    outputs = tuple(write(rule, target, at, captures) for target in rule.target_patterns)
    use = uses.setdefault(
        (number, outputs), Use(number, outputs, [{} for _ in rule.source_patterns], at.found.captures)
    )
    if place in use.lanes[at.lane]:
        made.problems.add("group-duplicate")
    use.lanes[at.lane][place] = key


def _convert(
    rules: Sequence[Any], use: Use, tensors: Tensors, wanted: MappingOf[str, Shape], config: Any, made: Made
) -> None:
    rule = rules[use.rule]
    merged, split = merges(rule), splits(rule)
    wanted_places = _full(rule, {place for lane in use.lanes for place in lane})
    if any(set(lane) != wanted_places for lane in use.lanes):
        made.problems.add("group-incomplete")
        return
    held = [{at: tensors[key] for at, key in lane.items()} for lane in use.lanes]
    lanes = [Lane(text, nest(lane, merged), merged > 0) for text, lane in zip(rule.source_patterns, held, strict=True)]
    keys = tuple(lane[at] for lane in use.lanes for at in sorted(lane))
    place = Place(rule.target_patterns, _wanted_shapes(rules, use, wanted), split > 0, _entries(config, use))
    done = run_levels(rule.operations, lanes, merged, split, place)
    if not any(lane.tensors for lane in done):
        made.vanished |= set(keys)
    for output, lane in zip(use.outputs, done, strict=True):
        if len(lane.tensors) != 1 and not split:
            raise RefusedError("operation-arity")
        for at, tensor in unnest(lane.tensors, max(1, split)):
            name = _finish(rules, use.rule + 1, _numbered(output, at))
            made.put(name, tensor, keys)
            made.changed.add(name)


def _entries(config: Any, use: Use) -> Any:
    """Put beside the lists of a configuration their entries, by what was captured: `heads[layer]`."""
    lists = {name: entries for name, entries in (config or {}).items() if isinstance(entries, list)}
    indices = {name: int(text) for name, text in use.captures.items() if text.isdecimal()}
    return config and config | {
        f"{name}[{by}]": entries[index]
        for name, entries in lists.items()
        for by, index in indices.items()
        if index < len(entries)
    }


def _numbered(output: str, place: tuple[int, ...]) -> str:
    for index in place:
        output = output.replace(FREE, str(index), 1)
    return output


def _full(rule: wb.WeightConverter, present: set[tuple[int, ...]]) -> set[tuple[int, ...]]:
    """Return the indices that there have to be: all up to the highest; too many of them are no set that is there."""
    levels = merges(rule)
    stops = [max(place[level] for place in present) + 1 for level in range(levels)]
    if math.prod(stops) > 10_000:
        return set()
    heights = _heights(rule)
    if heights is None:
        return set(itertools.product(*map(range, stops)))
    beyond = {(a, b) for a, b in present if a >= len(heights) or b >= heights[a]}  # for the join to refuse
    return beyond | {(outer, last) for outer, height in enumerate(heights) for last in range(height)}


def _heights(rule: wb.WeightConverter) -> tuple[int, ...] | None:
    """How many tensors each stack has, where stacks are joined along the axis of the stack, with sizes in numbers.

    Only the drawn ones are known here: a stack and a join, with nothing else.
    """
    if [type(each).__name__ for each in rule.operations] != ["MergeModulelist", "Concatenate"] or merges(rule) != 2:
        return None
    stack, join = rule.operations
    is_told = join.sizes is not None and all(isinstance(size, int) for size in join.sizes)
    return join.sizes if is_told and stack.dim == join.dim and len(rule.source_patterns) == 1 else None


def _wanted_shapes(rules: Sequence[Any], use: Use, wanted: MappingOf[str, Shape]) -> tuple[tuple[Any, ...], ...]:
    """Find the shapes that a converter's targets are to have; those of an index, as far as it is wanted."""
    shapes = [tuple(_wanted_lane(rules, use, wanted, output)) for output in use.outputs]
    lanes = [(wanted.get(_last_name(rules, use, output) or ""),) if FREE not in output else lane
             for output, lane in zip(use.outputs, shapes, strict=True)]  # fmt: skip
    return tuple(lanes) if any(shape is not None for lane in lanes for shape in lane) else ()


def _wanted_lane(rules: Sequence[Any], use: Use, wanted: MappingOf[str, Shape], output: str) -> Iterator[Any]:
    """Yield the shapes of a name with free indices, as far as they are wanted; of several indices in lists."""
    for index in range(1000 if FREE in output else 0):
        name = output.replace(FREE, str(index), 1)
        if FREE in name:
            found: Any = tuple(_wanted_lane(rules, use, wanted, name))
        else:
            found = wanted.get(_last_name(rules, use, name) or "")
        if found is None or (FREE in name and not found):
            return
        yield found
