"""Keys and shapes that a mapping's rules fit, found from the mapping alone.

The linter's made-up keys match one pattern each. A converter needs a whole group: a key for each of its patterns and
each index that it merges. These are spelled by the rule's inverse, and shapes are tried until the mapping can be
planned on the group. So everything that is returned has been planned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any, Final

from weighbridge.base.errors import WeighbridgeError
from weighbridge.base.specs import Header, Shape, TensorSpec
from weighbridge.mappings.mapping import Mapping
from weighbridge.mappings.one_way import one_way_reason
from weighbridge.mappings.transforms import Transform, WeightConverter, rename_key, strip_scope
from weighbridge.operations.chosen_parts import On
from weighbridge.operations.configuration import read_sizes
from weighbridge.operations.declaring.padding import InsertConstant, Pad, RemoveConstant, Trim
from weighbridge.operations.groupings import Concatenate, Split
from weighbridge.operations.movements import Conv3dToLinear, LinearToConv3d, PermuteForRope, Reshape
from weighbridge.operations.reordering import Reorder
from weighbridge.operations.replicas import MergeEqual
from weighbridge.operations.values import Place, Size
from weighbridge.planning.compiling import compile_plan
from weighbridge.planning.plan_options import Options
from weighbridge.planning.tracing import Rule, Rules, last_stars, prepare
from weighbridge.studies.lint.witnesses import Witness, witnesses

Group = tuple[tuple[str, Shape], ...]
"""Keys that belong together, each with a shape."""

PER_PATTERN: Final = 3
"""Most groups that are made for one pattern of a rule."""

COUNTS: Final = (2, 4, 3, 1)
"""Numbers of tensors that are merged, in the order in which they are tried."""

SHAPES: Final[tuple[Shape, ...]] = (
    (12, 24),
    (24,),
    (12, 24, 6),
    (24, 48),
    (12, 6, 4, 2),
    (12, 3, 2, 4, 6),
    (48,),
)
"""Shapes that are tried; their sizes divide by most numbers of parts."""


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes groups for the rules of one mapping.

    Args:
        rules: The rules.
        inverses: The inverse of each transform that has one, by its number.
        config: The model's configuration, for operations that read it.
    """

    rules: Rules
    inverses: dict[int, Transform]
    config: Any

    def groups(self) -> Iterator[tuple[int, Group]]:
        """Yield groups, each with the number of the rule that it was made for."""
        renames = {
            number: prepare(Mapping([inverse])).rules[0]
            for number, inverse in self.inverses.items()
            if not isinstance(inverse, WeightConverter)
        }
        made: Counter[tuple[int, int]] = Counter()
        for witness in witnesses(self.rules, renames):
            rule = self.rules.rules[witness.rule]
            if made[witness[:2]] < PER_PATTERN and not (rule.converts and witness.lane):
                group = self._fit(witness, rule)
                made[witness[:2]] += group is not None
                yield from [(witness.rule, group)] if group is not None else []

    def _fit(self, witness: Witness, rule: Rule) -> Group | None:
        """Find names and shapes with which the rule fires."""
        transform = self.rules.mapping.transforms[rule.number]
        for lanes in self._key_lanes(witness, rule):
            for shapes in _shapes(transform, len(lanes), self.config):
                group = tuple((key, shape) for lane, shape in zip(lanes, shapes, strict=True) for key in lane)
                if len(dict(group)) == len(group) and self._fires(group, transform):
                    return group
        return None

    def _fires(self, group: Group, transform: Transform) -> bool:
        plan = try_plan(self.rules.mapping, header_of(group, "F32"), self.config)
        return plan is not None and any(
            plan.mapping.transforms[number] == transform for step in plan.steps for number in step.rules
        )

    def _key_lanes(self, witness: Witness, rule: Rule) -> Iterator[list[list[str]]]:
        """Yield the keys of each pattern, by their names before all renames, and by those that the rule sees."""
        if not rule.converts:
            yield from [[[key]] for key in dict.fromkeys((witness.original, witness.key))]
            return
        back = self.inverses.get(rule.number)
        for places in self._places(rule):
            lanes = _spell_lanes(witness.key, rule, back, places)
            if lanes:
                original = [[self._take_back(key, rule.number) for key in lane] for lane in lanes]
                yield original
                yield from [lanes] if lanes != original else []

    def _places(self, rule: Rule) -> Iterator[list[Place]]:
        """Yield the indices to try for the tensors that are merged."""
        if rule.heights is not None:
            counts = _numbers(rule.heights, self.config)
            yield [(outer, inner) for outer, count in enumerate(counts) for inner in range(count)]
        for count in _counts(self.rules.mapping.transforms[rule.number]) if rule.merges else (1,):
            yield list(product(range(count), repeat=rule.merges))

    def _take_back(self, key: str, number: int) -> str:
        for earlier in range(number - 1, -1, -1):
            inverse = self.inverses.get(earlier)
            if inverse is not None and not isinstance(inverse, WeightConverter):
                key = rename_key(inverse, key) or key
        return key


def _counts(transform: Transform) -> list[int]:
    """Return the numbers of tensors to try: those that `MergeEqual` divides come first."""
    operations = transform.operations if isinstance(transform, WeightConverter) else ()
    times = prod(operation.times or 1 for operation in operations if isinstance(operation, MergeEqual))
    return list(dict.fromkeys([*(times * count for count in COUNTS), *COUNTS]))


def _spell_lanes(key: str, rule: Rule, back: Transform | None, places: Sequence[Place]) -> list[list[str]]:
    """Spell the keys of a converter's group around one of them; nothing where the converter has no inverse."""
    source = rule.pairs[0][0]
    inner = strip_scope(rule.scope, key)
    match = source.match(inner, literal=True) if inner is not None else None
    if match is None or inner is None:
        return []
    if len(rule.pairs) == 1 and not rule.merges:
        return [[key]]
    if not isinstance(back, WeightConverter):
        return []
    texts = prepare(Mapping([back])).rules[0].targets
    mount = f"{rule.scope}." if rule.scope else ""
    lanes = []
    for text in texts:
        stars = last_stars(text, rule.merges)
        free = [dict(zip(stars, map(str, place), strict=False)) for place in places]
        filled = [text.fill({**match.captures, **index}) for index in free]
        lanes.append([mount + inner[: match.start] + (part or "") + inner[match.stop :] for part in filled])
    return lanes


def _shapes(transform: Transform, lanes: int, config: Any) -> Iterator[tuple[Shape, ...]]:
    """Yield shapes to try for each pattern: those that the operations' arguments name, then common ones."""
    if not isinstance(transform, WeightConverter):
        yield ((3, 2),)
        return
    for operation in transform.operations:
        yield from _named_shapes(operation, lanes, config)
    yield from ((shape,) * lanes for shape in SHAPES)


def _named_shapes(operation: Any, lanes: int, config: Any) -> Iterator[tuple[Shape, ...]]:
    match operation:
        case Concatenate(dim, _, sizes) if sizes is not None and len(parts := _numbers(sizes, config)) == lanes:
            fitting = [shape for shape in SHAPES if parts and -len(shape) <= dim < len(shape)]
            yield from (tuple(_put(shape, dim, size) for size in parts) for shape in fitting)
        case Split(dim, sizes) if sizes is not None:
            whole = sum(_numbers(sizes, config))
            yield from ((_put(shape, dim, whole),) for shape in SHAPES if whole and -len(shape) <= dim < len(shape))
        case Reorder(dim, _, sizes) if sizes is not None:
            whole = sum(_numbers(sizes, config))
            fitting = [shape for shape in SHAPES if whole and -len(shape) <= dim < len(shape)]
            yield from ((_put(shape, dim, whole),) * lanes for shape in fitting)
        case Reshape(_, source_shape) if source_shape is not None:
            yield (tuple(size if size >= 0 else 6 for size in source_shape),) * lanes
        case Pad() | Trim() | InsertConstant() | RemoveConstant():
            yield from _declared_shapes(operation, lanes, config)
        case MergeEqual(int(times)):
            yield from (((count * times, 6),) * lanes for count in (1, 2))
        case Conv3dToLinear(channels, kernel):
            yield ((4, channels, *kernel),) * lanes
        case LinearToConv3d(channels, kernel):
            yield ((4, channels * prod(kernel)),) * lanes
        case On(_, apply):
            yield from _named_shapes(apply, lanes, config)
        case PermuteForRope() if isinstance(operation.num_heads, int):
            yield from (((4 * operation.num_heads, 6),) * lanes, ((4 * operation.num_heads,),) * lanes)


def _declared_shapes(operation: Any, lanes: int, config: Any) -> Iterator[tuple[Shape, ...]]:
    """Yield shapes whose axis has the size that is made longer or shorter, or that a declared part has beside it."""
    if isinstance(operation, InsertConstant | RemoveConstant):
        part = _numbers(operation.shape, config)
        counts = (1,) if isinstance(operation, InsertConstant) else (2, 3, 4)
        yield from (((part[0] * count, *part[1:]),) * lanes for count in counts if part)
        return
    near, far = _numbers(tuple(filter(None, (operation.size, operation.source_size))), config), operation.multiple_of
    sizes = [*near, *(size + (-size % step) for size in near for step in _numbers((far,) if far else (), config))]
    fitting = [shape for shape in SHAPES if -len(shape) <= operation.dim < len(shape)]
    yield from ((_put(shape, operation.dim, size),) * lanes for size in reversed(sizes) for shape in fitting)


def _numbers(sizes: tuple[Size, ...] | str, config: Any) -> list[int]:
    """Return sizes as numbers; nothing where the configuration does not have one that is named."""
    try:
        return read_sizes(config, sizes)
    except WeighbridgeError:
        return []


def _put(shape: Shape, dim: int, size: int) -> Shape:
    """Replace one size of a shape."""
    changed = list(shape)
    changed[dim] = size
    return tuple(changed)


def header_of(group: Group, dtype: str) -> Header:
    """Return the header of a group."""
    return Header({key: TensorSpec(dtype, shape) for key, shape in group})


def try_plan(mapping: Mapping, header: Header, config: Any) -> Any:
    """Return the plan of a mapping on a header, or None where there is none."""
    try:
        return compile_plan(header, mapping, options=Options(config=config))
    except WeighbridgeError:
        return None


def groups_of(mapping: Mapping, config: Any = None) -> tuple[tuple[int, Group], ...]:
    """Find groups of keys and shapes that a mapping's rules fit.

    Args:
        mapping: The mapping.
        config: The model's configuration, for operations that read it.

    Returns:
        Groups, each with the number of the rule that it was made for; a rule may have none.

    Examples:
        >>> from weighbridge.operations.groupings import Concatenate
        >>> groups_of(Mapping([WeightConverter(["a", "b"], "ab", [Concatenate(dim=0)])]))[0]
        (0, (('stem.0.a.weight', (12, 24)), ('stem.0.b.weight', (12, 24))))
    """
    rules = prepare(mapping)
    inverses = {
        number: transform.inverse() for number, transform in enumerate(mapping) if not one_way_reason(transform)
    }
    return tuple(Maker(rules, inverses, config).groups())
