"""Random mappings with what they must do: a second, naive implementation of the rules, in plain Python and numpy.

Nothing here uses weighbridge's patterns, plans or layouts. A rule is a list of whole segments, in which `*` stands for
an index; a key is run through the rules one at a time by looking for a sublist. A tensor is an array of raw bits.

    rules, tensors = draw_layout(chance)       a layout that its rules fit, with distinct values everywhere
    expected = evaluate(rules, tensors)        what must come out, and what must be complained about
    mapping(rules)                             the same rules for weighbridge, in one of several spellings
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st

import weighbridge as wb

WIDTHS = {"U8": 1, "BF16": 2, "F16": 2, "I16": 2, "F32": 4, "I32": 4, "F64": 8, "I64": 8}
"""Bytes of an element, by dtype code."""

TORCH = {
    "U8": torch.uint8,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I16": torch.int16,
    "F32": torch.float32,
    "I32": torch.int32,
    "F64": torch.float64,
    "I64": torch.int64,
}


class Bits(NamedTuple):
    """A tensor as raw bits: a dtype code, and an array of unsigned integers of that width."""

    dtype: str
    array: np.ndarray

    def __repr__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def spec(self) -> wb.TensorSpec:
        return wb.TensorSpec(self.dtype, self.shape)

    def tobytes(self) -> bytes:
        return self.array.astype(self.array.dtype.newbyteorder("<")).tobytes()

    def tensor(self) -> torch.Tensor:
        if not self.array.size:
            return torch.empty(self.shape, dtype=TORCH[self.dtype])
        return torch.frombuffer(bytearray(self.tobytes()), dtype=TORCH[self.dtype]).reshape(self.shape)


Tensors = dict[str, Bits]


def tensors_of(values: Mapping[str, Bits]) -> dict[str, torch.Tensor]:
    """Turn bits into torch tensors, each with memory of its own."""
    return {key: bits.tensor() for key, bits in values.items()}


def header_of(values: Mapping[str, Bits]) -> wb.Header:
    return wb.Header({key: bits.spec for key, bits in values.items()})


def raw(tensor: torch.Tensor) -> bytes:
    """Return a tensor's row-major bytes."""
    dense = tensor.detach().clone(memory_format=torch.contiguous_format)  # one element may have any stride until then
    return dense.reshape(-1).view(torch.uint8).numpy().tobytes()


def same(found: Mapping[str, torch.Tensor], wanted: Mapping[str, Bits]) -> None:
    """Assert that tensors are bit for bit, shape for shape and dtype for dtype what they should be."""
    assert sorted(found) == sorted(wanted)
    for key, bits in wanted.items():
        assert found[key].dtype == TORCH[bits.dtype], key
        assert tuple(found[key].shape) == bits.shape, key
        assert raw(found[key]) == bits.tobytes(), key


# ---- rules, as a second implementation sees them ----

Segments = tuple[str, ...]
Place = tuple[int, ...]


class Form(NamedTuple):
    """What a rename makes of an index, and how that is written for weighbridge."""

    write: Callable[[int], str]
    text: str


FORMS = {
    "*+1": Form(lambda index: str(index + 1), "{NAME+1}"),
    "*+10": Form(lambda index: str(index + 10), "{NAME+10}"),
    "*:02": Form(lambda index: f"{index:02}", "{NAME:02}"),
    "*/2": Form(lambda index: f"{index // 2}.{index % 2}", "{NAME//2}.{NAME%2}"),
}
"""By the segment of a target that stands for it."""


@dataclass(frozen=True)
class Rule:
    """One transform.

    kind      rename, group, add, remove or convert
    sources   whole segments of each source pattern; `*` is an index
    targets   the same for the targets, where `FORMS` has more; `add` and `remove` have their prefix in `sources`
    steps     a converter's operations, each a name with its arguments
    anchored  whether the sources only match at the start of the (scoped) key
    spelling  how the pattern is written for weighbridge; no meaning here
    """

    kind: str
    sources: tuple[Segments, ...]
    targets: tuple[Segments, ...] = ()
    steps: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    scope: str = ""
    anchored: bool = False
    spelling: str = "plain"

    @property
    def merges(self) -> int:
        return max(0, self.sources[0].count("*") - self.targets[0].count("*"))

    @property
    def splits(self) -> int:
        return max(0, self.targets[0].count("*") - self.sources[0].count("*"))


def transform(rule: Rule) -> Any:
    """Write a rule for weighbridge."""
    if rule.kind in ("add", "remove"):
        return wb.PrefixChange(**{f"prefix_to_{rule.kind}": ".".join(rule.sources[0])}, scope=rule.scope)
    sources = [_spell(pattern, rule, is_source=True) for pattern in rule.sources]
    targets = [_spell(pattern, rule, is_source=False) for pattern in rule.targets]
    if rule.kind == "rename":
        return wb.WeightRenaming(sources if len(sources) > 1 else sources[0], targets[0], scope=rule.scope)
    if rule.kind == "group":
        return wb.GroupWeightRename(sources, targets, scope=rule.scope)
    operations = [_operation(*step) for step in rule.steps]
    return wb.WeightConverter(sources, targets, operations, scope=rule.scope)


def _operation(name: str, arguments: tuple[Any, ...]) -> Any:
    if name == "On":
        parts, step = arguments
        return wb.On(parts, _operation(*step))
    return getattr(wb, name)(*arguments)


def _spell(pattern: Segments, rule: Rule, *, is_source: bool) -> str:
    dot = r"\." if rule.spelling == "escaped" and is_source else "."
    if any(segment in FORMS for target in rule.targets for segment in target):
        names = (f"i{number}" for number in itertools.count())
        plain = "{NAME:int}" if is_source else "{NAME}"
        pattern = tuple(FORMS[segment].text.replace("NAME", next(names)) if segment in FORMS
                        else plain.replace("NAME", next(names)) if segment == "*" else segment
                        for segment in pattern)  # fmt: skip
    return ("^" if rule.anchored and is_source else "") + dot.join(pattern)


def mapping(rules: Iterable[Rule], name: str = "drawn", **declared: Any) -> wb.Mapping:
    return wb.Mapping([transform(rule) for rule in rules], name=name, **declared)


# ---- the naive interpreter ----


class Found(NamedTuple):
    """Where a pattern matched: a half-open range of segments, and the indices its stars stand for."""

    start: int
    stop: int
    indices: tuple[str, ...]


def find(pattern: Segments, segments: Sequence[str], *, anchored: bool) -> Found | None:
    """Find a list of segments in another one, leftmost."""
    starts = (0,) if anchored else range(len(segments) - len(pattern) + 1)
    for start in starts:
        window = segments[start : start + len(pattern)]
        if len(window) == len(pattern) and all(map(_fits, pattern, window)):
            indices = tuple(text for wanted, text in zip(pattern, window, strict=True) if wanted == "*")
            return Found(start, start + len(pattern), indices)
    return None


def _fits(wanted: str, segment: str) -> bool:
    return segment.isdigit() if wanted == "*" else wanted == segment


def below(scope: str, key: str) -> list[str] | None:
    """Return a key's segments below a scope; None for a key that is not below it."""
    mount = scope.split(".") if scope else []
    segments = key.split(".")
    return segments[len(mount) :] if segments[: len(mount)] == mount and len(segments) > len(mount) else None


def _above(scope: str, segments: Iterable[str]) -> str:
    return ".".join([*([scope] if scope else []), *segments])


def claims(rule: Rule, key: str) -> list[tuple[int, Found]]:
    """List the patterns of a rule that match a key."""
    inner = below(rule.scope, key)
    if inner is None:
        return []
    found = ((lane, find(pattern, inner, anchored=rule.anchored)) for lane, pattern in enumerate(rule.sources))
    return [(lane, where) for lane, where in found if where is not None]


class OverlapError(Exception):
    """Two patterns claim one key."""


class NoNumberError(Exception):
    """A number with a zero in front is none that a form is for."""


def rename(rule: Rule, key: str) -> str:
    """Run one rename over one key."""
    if rule.kind in ("add", "remove"):
        return _change_prefix(rule, key)
    found = claims(rule, key)
    if len(found) > 1:
        raise OverlapError
    if not found:
        return key
    lane, where = found[0]
    target = rule.targets[lane if rule.kind == "group" else 0]
    return write(rule, key, target, where, where.indices)


def _change_prefix(rule: Rule, key: str) -> str:
    inner = below(rule.scope, key)
    prefix = list(rule.sources[0])
    if inner is None:
        return key
    has = inner[: len(prefix)] == prefix and len(inner) > len(prefix)
    if rule.kind == "add":
        return key if has else _above(rule.scope, [*prefix, *inner])
    return _above(rule.scope, inner[len(prefix) :]) if has else key


def write(rule: Rule, key: str, target: Segments, where: Found, indices: Sequence[str]) -> str:
    """Put a target's segments where the match was; its stars take the indices in turn."""
    inner = below(rule.scope, key)
    assert inner is not None
    turn = iter(indices)
    filled = [
        next(turn) if segment == "*" else _formed(FORMS[segment], next(turn)) if segment in FORMS else segment
        for segment in target
    ]
    return _above(rule.scope, [*inner[: where.start], *filled, *inner[where.stop :]])


def _formed(form: Form, index: str) -> str:
    if index != str(int(index)):
        raise NoNumberError
    return form.write(int(index))


@dataclass
class Use:
    """One use of a converter: for each lane, indices to source key; and the names it writes, `*` still open."""

    rule: int
    outputs: tuple[str, ...]
    lanes: list[dict[Place, str]]


@dataclass
class Expected:
    """What must come out of a mapping."""

    targets: Tensors = field(default_factory=dict)
    provenance: dict[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict)
    problems: set[tuple[str, str]] = field(default_factory=set)
    written: list[tuple[str, Bits]] = field(default_factory=list)
    touched: set[str] = field(default_factory=set)


def evaluate(rules: Sequence[Rule], tensors: Mapping[str, Bits]) -> Expected:
    """Run the rules over the keys, one key and one rule at a time, and the operations over numpy arrays."""
    expected = Expected()
    made: list[tuple[tuple[str, ...], list[tuple[str, Bits]]]] = []
    uses: dict[tuple[int, tuple[str, ...]], Use] = {}
    for key, bits in tensors.items():
        try:
            name, hit = _walk(rules, key)
        except (OverlapError, NoNumberError) as problem:
            code = "rule-overlap" if isinstance(problem, OverlapError) else "index-out-of-range"
            expected.problems.add((code, key))
            continue
        if hit is None:
            made.append(((key,), [(name, bits)]))
            expected.touched |= {key} if name != key else set()
        else:
            _collect(rules, uses, hit, name, key, expected)
    for use in uses.values():
        made += _convert(rules, use, tensors, expected)
    for sources, outputs in made:
        expected.provenance[sources] = tuple(name for name, _ in outputs)
        for name, bits in outputs:
            if name in expected.targets:
                expected.problems.add(("target-collision", name))
            expected.targets[name] = bits
            expected.written.append((name, bits))
    return expected


def _walk(rules: Sequence[Rule], key: str) -> tuple[str, int | None]:
    """Run a key up to the first converter that claims it."""
    name = key
    for number, rule in enumerate(rules):
        if rule.kind != "convert":
            name = rename(rule, name)
            continue
        count = len(claims(rule, name))
        others = [r for r in rules[number + 1 :] if r.kind == "convert" and claims(r, name)]
        if count > 1 or (count and any(_use_of(r, name) != _use_of(rule, name) for r in others)):
            raise OverlapError
        if count:
            return name, number
    return name, None


def _use_of(rule: Rule, name: str) -> tuple[Any, ...]:
    """Return what a converter does with a name: two that do the same are one."""
    found = claims(rule, name)
    if len(found) > 1:
        raise OverlapError
    ((lane, where),) = found
    place, free = _divide(rule, where.indices)
    outputs = tuple(write(rule, name, target, where, free) for target in rule.targets)
    return lane, place, outputs, len(rule.sources), rule.steps


def _divide(rule: Rule, indices: Sequence[str]) -> tuple[Place, list[str]]:
    """Divide the indices that a pattern matched into those that are used up, and those that the targets have."""
    kept = len(indices) - rule.merges
    return tuple(map(int, indices[kept:])), [*indices[:kept], *["*"] * rule.splits]


def _collect(rules: Sequence[Rule], uses: dict[Any, Use], number: int, name: str, key: str, expected: Expected) -> None:
    rule = rules[number]
    ((lane, where),) = claims(rule, name)
    place, free = _divide(rule, where.indices)
    outputs = tuple(write(rule, name, target, where, free) for target in rule.targets)
    use = uses.setdefault((number, outputs), Use(number, outputs, [{} for _ in rule.sources]))
    if place in use.lanes[lane]:
        expected.problems.add(("group-duplicate", _name_of(rules, use)))
    use.lanes[lane][place] = key


def _convert(
    rules: Sequence[Rule], use: Use, tensors: Mapping[str, Bits], expected: Expected
) -> Iterator[tuple[tuple[str, ...], list[tuple[str, Bits]]]]:
    rule = rules[use.rule]
    whole = _all_places(rule, {place for lane in use.lanes for place in lane})
    if any(set(lane) != whole for lane in use.lanes):
        expected.problems.add(("group-incomplete", _name_of(rules, use)))
        return
    sources = tuple(lane[place] for lane in use.lanes for place in sorted(lane))
    dtype = tensors[sources[0]].dtype
    arrays = [{place: tensors[key].array for place, key in lane.items()} for lane in use.lanes]
    values = _run_steps(rule, arrays, dtype)
    if values is None:
        expected.problems.add(("operation-arity", _name_of(rules, use)))
        return
    written = []
    for output, lane in zip(use.outputs, values, strict=True):
        for place, array in lane.items():
            name = _number(output, place)
            try:
                final = _finish(rules[use.rule + 1 :], name)
            except OverlapError:
                expected.problems.add(("rule-overlap", name))
                return
            written.append((final, Bits(dtype, np.ascontiguousarray(array))))
    expected.touched |= set(sources)
    yield sources, written


def _all_places(rule: Rule, present: set[Place]) -> set[Place]:
    """Return the indices that there have to be, up to the highest; where sizes are said, as many as there are."""
    stops = [max(place[level] for place in present) + 1 for level in range(rule.merges)]
    if rule.merges == 2 and [name for name, _ in rule.steps] == ["MergeModulelist", "Concatenate"]:
        return {(outer, index) for outer, stop in enumerate(rule.steps[1][1][2]) for index in range(stop)}
    return set(itertools.product(*map(range, stops)))


def _run_steps(rule: Rule, lanes: list[dict[Place, np.ndarray]], dtype: str) -> list[dict[Place, np.ndarray]] | None:
    """Run a converter's operations: some on the tensors of each outer index by itself, before the others or behind."""
    names = [name for name, _ in rule.steps]
    if rule.merges == 2 or names[:2] == ["Concatenate", "MergeModulelist"]:
        at = max(number for number, name in enumerate(names) if name in ("MergeModulelist", "Concatenate"))
        outers = sorted({place[0] for place in lanes[0]})
        inner = [
            _run_flat(rule, rule.steps[:at], dtype, [_sorted_values(lane, outer) for lane in lanes]) for outer in outers
        ]
        values = _run_flat(
            rule, rule.steps[at:], dtype, [[each[0] for each in same] for same in zip(*inner, strict=True)]
        )
        return [{(): lane[0]} for lane in values]
    if rule.splits == 2:
        ((outer,),) = (_run_flat(rule, rule.steps[:1], dtype, [list(lane.values())]) for lane in lanes)
        inner = [_run_flat(rule, rule.steps[1:], dtype, [[each]]) for each in outer]
        return [{(a, b): array for a, own in enumerate(inner) for b, array in enumerate(own[number])}
                for number in range(len(rule.targets))]  # fmt: skip
    values = _run_flat(rule, rule.steps, dtype, [[lane[place] for place in sorted(lane)] for lane in lanes])
    return values and [
        {(number,) if rule.splits else (): array for number, array in enumerate(lane)} for lane in values
    ]


def _sorted_values(lane: dict[Place, np.ndarray], outer: int) -> list[np.ndarray]:
    return [lane[place] for place in sorted(lane) if place[0] == outer]


def _run_flat(rule: Rule, steps: Iterable[tuple[str, tuple[Any, ...]]], dtype: str, values: Lanes) -> Any:
    for name, arguments in steps:
        if name == "MergeEqual" and arguments and len(values[0]) % arguments[0]:
            return None
        if name in DECLARED:
            values = DECLARED[name](values, dtype, *arguments)
        else:
            values = OPERATIONS[name](values, *arguments, targets=len(rule.targets))
    return values


def _number(output: str, place: Place) -> str:
    for index in place:
        output = output.replace("*", str(index), 1)
    return output


def _name_of(rules: Sequence[Rule], use: Use) -> str:
    """Name a use of a converter by its first target, under its last name where it has one."""
    first = use.outputs[0]
    return first if rules[use.rule].splits else _finish(rules[use.rule + 1 :], first)


def _finish(later: Iterable[Rule], name: str) -> str:
    """Run the renames that come after a converter over a name that it wrote."""
    for rule in later:
        name = rename(rule, name) if rule.kind != "convert" else name
    return name


Lanes = list[list[np.ndarray]]


def _cut(lanes: Lanes, dim: int, sizes: Sequence[int]) -> Lanes:
    ((whole,),) = lanes
    return [[part] for part in np.split(whole, np.cumsum(sizes)[:-1], axis=dim)]


def _reordered(whole: Any, dim: int, order: Sequence[int], sizes: Sequence[int]) -> Any:
    starts = np.cumsum([0, *sizes])
    rows = np.concatenate([np.arange(starts[part], starts[part] + sizes[part]) for part in order])
    return np.take(whole, rows, axis=dim)


OPERATIONS: dict[str, Callable[..., Lanes]] = {
    "MergeModulelist": lambda lanes, dim=0, targets=1: [[np.stack(lane, axis=dim)] for lane in lanes],
    "SplitModulelist": lambda lanes, dim=0, targets=1: [list(np.moveaxis(lane[0], dim, 0)) for lane in lanes],
    "Concatenate": lambda lanes, dim=0, shards=None, sizes=None, targets=1: [
        [np.concatenate([a for lane in lanes for a in lane], axis=dim)]
    ],
    "Chunk": lambda lanes, dim=0, targets=1: _cut(lanes, dim, [lanes[0][0].shape[dim] // targets] * targets),
    "Split": lambda lanes, dim=0, sizes=(), targets=1: _cut(lanes, dim, sizes),
    "Transpose": lambda lanes, a=0, b=1, targets=1: [[np.swapaxes(x, a, b) for x in lane] for lane in lanes],
    "Reorder": lambda lanes, dim, order, sizes, targets=1: [
        [_reordered(x, dim, order, sizes) for x in lane] for lane in lanes
    ],
    "Repeat": lambda lanes, times=0, targets=1: (
        [[x for x in lane for _ in range(times)] for lane in lanes] if times else [lanes[0]] * targets
    ),
    "MergeEqual": lambda lanes, times=0, targets=1: [lane[::times] for lane in lanes] if times else [lanes[0][:1]],
    "On": lambda lanes, parts, step, targets=1: [
        OPERATIONS[step[0]]([lane], *step[1])[0] if number in parts else lane for number, lane in enumerate(lanes)
    ],
    "Permute": lambda lanes, dims=(), targets=1: [[np.transpose(x, dims) for x in lane] for lane in lanes],
}
"""What each operation does to the arrays of each pattern."""


def _element(value: float, dtype: str) -> Any:
    """Return the bits of a number, as numpy has them; half of a float's for BF16."""
    if dtype[0] != "F" and dtype != "BF16":
        return np.array(value).astype(f"int{8 * WIDTHS[dtype]}").view(f"uint{8 * WIDTHS[dtype]}")
    if dtype == "BF16":
        return (np.float32(value).view(np.uint32) >> 16).astype(np.uint16)
    return np.array(value, f"float{8 * WIDTHS[dtype]}").view(f"uint{8 * WIDTHS[dtype]}")


def _pad(lanes: Lanes, dtype: str, dim: int, size: int | None, step: int | None, value: float, before: int) -> Lanes:
    def longer(x: Any) -> Any:
        assert x.shape[dim] == before
        rows = list(x.shape)
        rows[dim] = (size if step is None else -(-before // step) * step) - before
        return np.concatenate([x, np.full(rows, _element(value, dtype))], axis=dim)

    return [[longer(x) for x in lane] for lane in lanes]


DECLARED: dict[str, Callable[..., Lanes]] = {
    "Pad": _pad,
    "Trim": lambda lanes, dtype, dim, size, *_: [
        [x[(slice(None),) * dim + (slice(size),)] for x in lane] for lane in lanes
    ],
    "InsertConstant": lambda lanes, dtype, part, shape, value: [
        *lanes[:part], [np.full(shape, _element(value, dtype))], *lanes[part:]
    ],
    "RemoveConstant": lambda lanes, dtype, part, shape, value: [*lanes[:part], *lanes[part + 1 :]],
}  # fmt: skip
"""What operations with a declared value do; what is cut off is taken to hold it."""


# ---- random layouts ----


@dataclass
class Layout:
    """A drawn layout: the rules in order, and the tensors that they fit."""

    rules: list[Rule]
    tensors: Tensors

    @property
    def mapping(self) -> wb.Mapping:
        return mapping(self.rules)

    @property
    def expected(self) -> Expected:
        return evaluate(self.rules, self.tensors)


TOWERS = (
    ("model",),
    ("old_prefix",),
    ("model", "model_b"),
    ("modelling", "model"),
    ("model_b", "tower.text"),
    ("vision_tower", "language_model.model"),
)
"""Prefixes that stand beside each other; some begin with the text of another."""

MOVED = {
    "old_prefix": "model.vlm",
    "model": "core",
    "model_b": "model_b.inner",
    "tower.text": "text",
    "language_model.model": "model.language_model",
}
"""New places for some of these prefixes."""


class Block(NamedTuple):
    """A module with a converter: its source leaves, its target leaves, its operations, and shapes by leaf."""

    module: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    steps: tuple[tuple[str, tuple[Any, ...]], ...]
    shapes: tuple[tuple[int, ...], ...]
    experts: int | tuple[int, ...] = 0
    """How many there are of an index; of two, how many of the second one for each of the first."""

    equal: int = 0
    """How many that follow each other hold the same: tensors by leaf or index, or slices of the only one."""
    rest: tuple[int, int, int, float] | None = None
    """An axis, an interval of it, and the value that all of that holds."""


TRIMMED_BLOCKS = "trim", "remove constant"
"""Kinds of blocks of which something is cut off that holds a declared value."""

EQUAL_BLOCKS = "same", "same by index", "same slices"
"""Kinds of blocks whose sources, or parts of them, hold the same."""

BLOCKS = (
    *("fuse", "cut", "chunk", "stack", "stack pair", "unstack", "turn", "permute", "blocks", "chain", "turned", "many"),
    *("grid", "grid pair", "ragged", "pairs", "ungrid", "ungrid pair"),
    *("share", "share by index", "share stacked", *EQUAL_BLOCKS),
    *("pad", "pad to a multiple", "insert constant", *TRIMMED_BLOCKS),
)
"""Kinds of blocks."""


class _Draw:
    """Builds one layout from a source of chance."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.counter = chance.choice((1, 0x3F800001, 0x7F800001))  # small integers, ordinary floats, NaNs
        self.tensors: Tensors = {}
        self.layer: Segments = ("*",)

    def bits(self, shape: tuple[int, ...], dtype: str) -> Bits:
        """Make a tensor with values that no other one has (as far as its width allows)."""
        width = WIDTHS[dtype]
        count = int(np.prod(shape, dtype=int))
        values = (np.arange(self.counter, self.counter + count, dtype=np.uint64)) % np.uint64(
            256**width - 1 if width < 8 else 2**63
        )
        self.counter += count
        return Bits(dtype, values.astype(f"uint{8 * width}").reshape(shape))

    def dims(self, count: int) -> list[int]:
        return self.chance.sample((1, 2, 3, 4, 5), count)

    def block(self, kinds: Sequence[str] = BLOCKS) -> Block:
        a, b, c = self.dims(3)
        chance = self.chance
        match chance.choice(kinds):
            case "fuse":
                shapes = ((a, b), (c, b), (c, b))
                return Block(
                    "attn", ("q.weight", "k.weight", "v.weight"), ("qkv.weight",), (("Concatenate", (0,)),), shapes
                )
            case "cut":
                steps = (("Split", (1, (a, c, b))),)
                return Block("attn", ("qkv.weight",), ("q.weight", "k.weight", "v.weight"), steps, ((2, a + b + c),))
            case "chunk":
                return Block(
                    "mlp", ("gate_up.weight",), ("gate.weight", "up.weight"), (("Chunk", (0,)),), ((2 * a, b),)
                )
            case "stack":
                steps = (("MergeModulelist", (chance.choice((0, 1)),)),)
                return Block("experts", ("*.down.weight",), ("down",), steps, ((a, b),), chance.choice((1, 2, 3)))
            case "stack pair":
                steps = (("MergeModulelist", (0,)), ("Concatenate", (1,)))
                return Block("experts", ("*.w1.weight", "*.w3.weight"), ("gate_up",), steps, ((a, b), (c, b)), 2)
            case "unstack":
                return Block("experts", ("down",), ("*.down.weight",), (("SplitModulelist", (0,)),), ((2, a, b),))
            case "turn":
                return Block("proj", ("kernel",), ("weight",), (("Transpose", (0, 1)),), ((a, b),))
            case "permute":
                return Block("conv", ("filter",), ("weight",), (("Permute", ((2, 0, 1),)),), ((a, b, c),))
            case "blocks":
                order = tuple(chance.sample(range(3), 3))
                steps = (("Reorder", (0, order, (a, b, c))),)
                return Block("mixer", ("kqv.weight",), ("qkv.weight",), steps, ((a + b + c, 2),))
            case "grid":
                steps = (("MergeModulelist", (0,)), ("MergeModulelist", (chance.choice((0, 1)),)))
                sizes = chance.choice(((2, 2), (3, 3), (4,), (1, 1, 1)))
                return Block("grid", ("*.cells.*.w.weight",), ("cells",), steps, ((a, b),), sizes)
            case "grid pair":
                steps = (
                    ("MergeModulelist", (0,)),
                    ("Concatenate", (1,)),
                    ("MergeModulelist", (chance.choice((0, 1)),)),
                )
                return Block("grid", ("*.cells.*.w1", "*.cells.*.w3"), ("w13",), steps, ((a, b), (c, b)), (2, 2, 2))
            case "ragged":
                sizes = chance.choice(((1, 3, 2), (2, 1), (2, 2), (3,)))
                steps = (("MergeModulelist", (0,)), ("Concatenate", (0, None, sizes)))
                return Block("ragged", ("*.cells.*.w.weight",), ("cells",), steps, ((a, b),), sizes)
            case "pairs":
                steps = (("Concatenate", (0,)), ("MergeModulelist", (0,)))
                return Block("pairs", ("*.gate", "*.up"), ("gate_up",), steps, ((a, b), (c, b)), 3)
            case "ungrid":
                steps = (("SplitModulelist", (0,)), ("SplitModulelist", (1,)))
                return Block("cells", ("all",), ("*.cells.*.part",), steps, ((2, a, 3, b),))
            case "ungrid pair":
                steps = (("SplitModulelist", (1,)), ("Chunk", (1,)), ("SplitModulelist", (0,)))
                return Block("cells", ("all",), ("*.cells.*.gate", "*.cells.*.up"), steps, ((2, 3, 2 * a, b),))
            case "share":
                steps, leaves = (("Repeat", ()),), ("table.weight", "untied.weight", "third.weight")
                return Block("head", leaves[:1], leaves[: chance.choice((2, 3))], steps, ((a, b),))
            case "share by index":
                steps = (("SplitModulelist", (0,)), ("Repeat", (2,)))
                return Block("heads", ("key",), ("*.key.weight",), steps, ((3, a, b),))
            case "share stacked":
                steps = (("Transpose", (0, 1)), ("Repeat", (3,)), ("MergeModulelist", (0,)))
                return Block("dense", ("up",), ("copies",), steps, ((a, b),))
            case "same":
                steps = (("MergeEqual", ()), ("Transpose", (0, 1)))
                return Block("twins", ("one", "other"), ("weight",), steps, ((a, b), (a, b)), equal=2)
            case "same by index":
                steps = (("MergeEqual", (2,)), ("MergeModulelist", (0,)))
                return Block("replicas", ("*.key.weight",), ("keys",), steps, ((a, b),), 6, equal=2)
            case "same slices":
                steps = (("SplitModulelist", (0,)), ("MergeEqual", (3,)))
                return Block("slices", ("copies",), ("up",), steps, ((3, a, b),), equal=3)
            case "chain":
                turned = ("Reorder", (1, (1, 0), (1, b)))
                steps = (
                    ("Split", (0, (a, b, c))),
                    ("On", (chance.choice(((1,), (0, 2))), turned)),
                    ("Concatenate", (0,)),
                )
                return Block("mixer", ("whole.weight",), ("parts.weight",), steps, ((a + b + c, 1 + b),))
            case "pad":
                steps = (("Pad", (0, a + c, None, -2, a)),)
                return Block("vocabulary", ("embed.weight",), ("table.weight",), steps, ((a, b),))
            case "pad to a multiple":
                steps = (("Transpose", (0, 1)), ("Pad", (1, None, 4, 1, a)))
                return Block("vocabulary", ("head.weight",), ("head.turned",), steps, ((a, b),))
            case "trim":
                steps = (("Trim", (1, b, None, 3, b + c)),)
                return Block("vocabulary", ("padded",), ("exact",), steps, ((a, b + c),), rest=(1, b, b + c, 3))
            case "insert constant":
                steps = (("InsertConstant", (1, (c,), 0)), ("Concatenate", (0, None, (a, c, b))))
                return Block("attn", ("q.bias", "v.bias"), ("qkv.bias",), steps, ((a,), (b,)))
            case "remove constant":
                steps = (("Split", (0, (a, c, b))), ("RemoveConstant", (1, (c, 2), -1)))
                shapes, rest = ((a + b + c, 2),), (0, a, a + c, -1)
                return Block("attn", ("qkv.table",), ("q.table", "v.table"), steps, shapes, rest=rest)
            case "turned":
                steps = (("On", ((1,), ("Transpose", (0, 1)))), ("Concatenate", (0, None, (a, c))))
                return Block("mixer", ("up.weight", "down.weight"), ("both.weight",), steps, ((a, b), (b, c)))
        steps = (("MergeModulelist", (0,)),)
        return Block("experts", ("*.b.bias",), ("bias",), steps, ((1,),), 11)

    def layout(self, features: int, kinds: Sequence[str] = BLOCKS) -> Layout:
        towers = list(self.chance.choice(TOWERS))
        blocks: dict[str, Block] = {}
        for _ in range(max(1, features)):
            block = self.block(kinds)
            blocks.setdefault(block.module, block)
        for tower in towers:
            for layer in range(self.chance.choice((1, 1, 1, 2))):
                for block in blocks.values():
                    self.fill(f"{tower}.layers.{layer}.{block.module}", block)
            self.extras(tower)
        self.tensors["lm_head.weight"] = self.bits((2, 3), "F32")
        return self.order(towers, list(blocks.values()), features)

    def fill(self, path: str, block: Block) -> None:
        dtype = self.chance.choice(("F32", "F32", "BF16", "I64", "I16"))
        made: list[Bits] = []
        for leaf, shape in zip(block.sources, block.shapes, strict=True):
            for place in _places_of(block.experts):
                key = f"{path}.{_number(leaf, place)}"
                is_first = not block.equal or len(made) % block.equal == 0
                made.append(self.bits(shape, dtype) if is_first else made[-1])
                self.tensors[key] = made[-1]
        if block.rest is not None:
            axis, start, stop, value = block.rest
            made[-1].array[(slice(None),) * axis + (slice(start, stop),)] = _element(value, dtype)
        if block.equal and len(made) == 1:
            self.tensors[key] = Bits(dtype, np.stack([made[0].array[0]] * block.equal))

    def extras(self, tower: str) -> None:
        """Add what no converter touches: norms, and names that look like others."""
        names = (
            "norm.gamma",
            "norm0.w",
            "norm1.w",
            "layers.0.attn.q_norm.weight",
            "layers.0.attn_b.q",
            "mtp.fc",
            "scale",
        )
        for name in self.chance.sample(names, self.chance.randint(0, 2)):
            shape = self.chance.choice(((3,), (2, 1), (), (0, 2)))
            self.tensors[f"{tower}.{name}"] = self.bits(shape, self.chance.choice(tuple(WIDTHS)))

    def order(self, towers: list[str], blocks: list[Block], features: int) -> Layout:
        """Put renames and converters into one random list; write each with the names of its moment."""
        pending: list[tuple[str, Any]] = [("convert", block) for block in blocks]
        pending += [("move", tower) for tower in towers if tower in MOVED and self.chance.random() < 0.5]
        choices = ("list", "module", "gamma", "norms", "leaf", "prefix", "unused", "number")
        pending += [("rename", self.chance.choice(choices)) for _ in range(self.chance.randint(0, features + 1))]
        self.chance.shuffle(pending)
        places = {tower: tower for tower in towers}
        modules = {block.module: block.module for block in blocks}
        lists, leaves, inner = "layers", {}, dict[str, str]()
        rules: list[Rule] = []
        for kind, what in pending:
            if kind == "convert":
                rules += self.converters(what, modules[what.module], leaves, lists, places, inner)
            elif kind == "move":
                rules.append(Rule("rename", (tuple(what.split(".")),), (tuple(MOVED[what].split(".")),), anchored=True))
                places[what] = MOVED[what]
            elif what == "list" and lists == "layers":
                lists = "blocks"
                rules.append(Rule("rename", (("layers",),), (("blocks",),)))
            elif what == "module":
                module = self.chance.choice(list(modules))
                if modules[module] == module:
                    modules[module] = f"self_{module}"
                    rules.append(Rule("rename", ((module,),), ((f"self_{module}",),), spelling=self.spelling()))
            elif what == "gamma" and not any(("norm", "gamma") in rule.sources for rule in rules):
                rules.append(Rule("rename", (("norm", "gamma"),), (("norm", "weight"),), spelling=self.spelling()))
            elif what == "number" and not any(FORMS.keys() & set(target) for rule in rules for target in rule.targets):
                form = self.chance.choice(list(FORMS))
                rules.append(Rule("rename", ((lists, "*"),), ((lists, form),)))
                self.layer = ("*", "*") if form == "*/2" else ("*",)
            elif what == "norms":
                rules.append(Rule("group", (("norm0",), ("norm1",)), (("norm1",), ("norm2",))))
            elif what == "leaf":
                self.rename_leaf(blocks, leaves, rules)
            elif what == "prefix":
                self.change_prefix(places, inner, rules)
            else:
                rules.append(Rule("rename", (("absent",),), (("present",),)))
        return Layout(list(dict.fromkeys(rules)), self.tensors)

    def spelling(self) -> str:
        return self.chance.choice(("plain", "escaped"))

    def rename_leaf(self, blocks: list[Block], leaves: dict[str, str], rules: list[Rule]) -> None:
        block = self.chance.choice(blocks)
        leaf = self.chance.choice(block.sources).split(".")
        word = next(part for part in leaf if part != "*")
        if word not in leaves and word != "weight":
            leaves[word] = f"{word}_new"
            rules.append(Rule("rename", ((word,),), ((f"{word}_new",),)))

    def change_prefix(self, places: dict[str, str], inner: dict[str, str], rules: list[Rule]) -> None:
        tower = self.chance.choice(list(places))
        under = [place for place in places.values() if place.startswith(places[tower] + ".")]
        if tower not in inner and not under:
            inner[tower] = "sub"
            rules.append(Rule("add", (("sub",),), scope=places[tower]))

    def converters(
        self,
        block: Block,
        module: str,
        leaves: dict[str, str],
        lists: str,
        places: dict[str, str],
        inner: dict[str, str],
    ) -> list[Rule]:
        """Write a block's converter: once for all towers, or scoped to some of them."""
        now = [self.path(module, leaf, leaves) for leaf in block.sources]
        new = [self.path(module, leaf, {}) for leaf in block.targets]
        if self.chance.random() < 0.3:  # the layer's index as a capture of its own, which comes out again
            now, new = ([(lists, *self.layer, *path) for path in paths] for paths in (now, new))
        rule = Rule("convert", tuple(now), tuple(new), block.steps, spelling=self.spelling())
        if self.chance.random() < 0.4:
            return [rule]
        chosen = self.chance.sample(sorted(places), self.chance.randint(1, len(places)))
        nested = {place for place in places.values() for other in places.values() if place.startswith(other + ".")}
        if nested:
            return [rule]
        return [
            Rule("convert", rule.sources, rule.targets, rule.steps, places[tower], spelling=rule.spelling)
            for tower in chosen
        ]

    def path(self, module: str, leaf: str, leaves: dict[str, str]) -> Segments:
        return (module, *(leaves.get(part, part) for part in leaf.split(".")))


def _places_of(experts: int | tuple[int, ...]) -> list[Place]:
    if isinstance(experts, tuple):
        return [(outer, inner) for outer, count in enumerate(experts) for inner in range(count)]
    return [(index,) for index in range(experts or 1)]


def draw_layout(seed: int, features: int = 3) -> Layout:
    """Draw a layout whose rules fit it; the same seed gives the same one."""
    return _Draw(random.Random(seed)).layout(features)


def draw_equal_layout(seed: int, features: int = 1) -> Layout:
    """Draw a layout in which sources must be equal, and are."""
    return _Draw(random.Random(seed)).layout(features, EQUAL_BLOCKS)


def draw_trimmed_layout(seed: int, features: int = 1) -> Layout:
    """Draw a layout of which something is cut off, and holds what is declared."""
    return _Draw(random.Random(seed)).layout(features, TRIMMED_BLOCKS)


@st.composite
def layouts(draw: st.DrawFn, features: int = 3) -> Layout:
    """Layouts with their rules; a smaller example has fewer features."""
    return draw_layout(draw(st.integers(0, 2**32 - 1)), draw(st.integers(0, features)))


# ---- random rules over a few words, which need not fit anything ----

WORDS = ("a", "b", "c", "ab")


def draw_rules(chance: random.Random, count: int, scopes: Sequence[str] = ("", "", "", "a", "a.b")) -> list[Rule]:
    """Draw rules that run into each other, in an order that matters."""
    rules: dict[Any, Rule] = {}
    for _ in range(count):
        kind = chance.choice(("rename", "rename", "rename", "group", "add", "remove", "convert", "convert"))
        scope = chance.choice(scopes)
        sources = tuple(_words(chance) for _ in range(2 if kind == "group" else 1))
        if len(set(sources)) < len(sources):
            continue
        targets = tuple(_words(chance) for _ in sources)
        if kind in ("add", "remove"):
            rule = Rule(kind, (sources[0][:1],), scope=scope)
        elif kind == "convert":
            rule = Rule(kind, sources, targets, (("Transpose", (0, 1)),), scope)
        else:
            rule = Rule(kind, sources, targets, scope=scope, anchored=chance.random() < 0.3)
        rules[rule] = rule
    return list(rules)


def _words(chance: random.Random) -> Segments:
    return tuple(chance.choice(WORDS) for _ in range(chance.choice((1, 1, 2))))


def draw_keys(chance: random.Random, count: int) -> Tensors:
    """Draw keys over the same words, with indices between them."""
    keys = dict.fromkeys(
        ".".join(chance.choice((*WORDS, *WORDS, "0", "12")) for _ in range(chance.randint(1, 3))) for _ in range(count)
    )
    return {
        key: Bits("I64", np.arange(6, dtype=np.uint64).reshape(2, 3) + np.uint64(10 * n)) for n, key in enumerate(keys)
    }


# ---- what a plan complains about ----


def spread(line: str) -> list[str]:
    """Write out the keys that a collapsed line such as `layers.{0..2,5}.{down,up}` stands for."""
    sets = []
    for at, part in enumerate(re.split(r"\{([^}]*)\}", line)):
        sets.append(list(_choices(part)) if at % 2 else [part])
    return ["".join(words) for words in itertools.product(*sets)]


def _choices(text: str) -> Iterator[str]:
    for word in text.split(","):
        first, _, last = word.partition("..")
        yield from map(str, range(int(first), int(last) + 1)) if last else [word]


def faults(error: wb.PlanError) -> set[tuple[str, str]]:
    """List each problem of a failed plan as its code and a single key."""
    return {(problem.code, key) for problem in error.problems for key in spread(problem.where)}


# ---- files by hand ----


def write_checkpoint(directory: Path, values: Mapping[str, Bits], chance: random.Random, shards: int = 1) -> None:
    """Write safetensors files byte by byte, in orders, paddings and texts that no library would choose."""
    directory.mkdir()
    keys = list(values)
    chance.shuffle(keys)
    if shards == 1:
        write_safetensors(directory / "model.safetensors", {key: values[key] for key in keys}, chance)
    else:
        _write_shards(directory, values, keys, chance, shards)
    if chance.random() < 0.3:
        (directory / "config.json").write_bytes(b'{"model_type" : "drawn"}\n')


def _write_shards(
    directory: Path, values: Mapping[str, Bits], keys: list[str], chance: random.Random, shards: int
) -> None:
    count = min(shards, len(keys))
    cuts = sorted(chance.sample(range(1, len(keys)), count - 1))
    weight_map = {}
    for number, (start, stop) in enumerate(itertools.pairwise((0, *cuts, len(keys))), 1):
        name = f"model-{number:05d}-of-{count:05d}.safetensors"
        write_safetensors(directory / name, {key: values[key] for key in keys[start:stop]}, chance)
        weight_map |= dict.fromkeys(keys[start:stop], name)
    entries = list(weight_map.items())
    chance.shuffle(entries)
    index: dict[str, Any] = {"metadata": {"total_size": sum(len(bits.tobytes()) for bits in values.values())}}
    index = index | {"weight_map": dict(entries)} if chance.random() < 0.5 else {"weight_map": dict(entries)} | index
    text = json.dumps(index, indent=chance.choice((None, 1, 2, 4, "\t"))) + chance.choice(("", "\n"))
    (directory / "model.safetensors.index.json").write_text(text)


def write_safetensors(path: Path, values: Mapping[str, Bits], chance: random.Random) -> None:
    """Write one file: data in the order of `values`, header entries in another one, any padding."""
    entries: list[tuple[str, Any]] = []
    offset = 0
    for key, bits in values.items():
        stop = offset + len(bits.tobytes())
        fields = [("dtype", bits.dtype), ("shape", list(bits.shape)), ("data_offsets", [offset, stop])]
        chance.shuffle(fields)
        entries.append((key, dict(fields)))
        offset = stop
    chance.shuffle(entries)
    if chance.random() < 0.7:
        metadata = chance.choice(({"format": "pt"}, {"b": "2", "a": "\u00e9"}, {}))
        entries.insert(chance.randint(0, len(entries)), ("__metadata__", metadata))
    separators = chance.choice(((",", ":"), (", ", ": ")))
    head = json.dumps(dict(entries), separators=separators, ensure_ascii=chance.random() < 0.5).encode()
    head += b" " * chance.choice((0, 0, 1, 3, 8))
    path.write_bytes(len(head).to_bytes(8, "little") + head + b"".join(bits.tobytes() for bits in values.values()))


def files_of(directory: Path) -> dict[str, bytes]:
    """Return the content of every file below a directory, but the receipt."""
    found = {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    found.pop("weighbridge.json", None)
    return found
