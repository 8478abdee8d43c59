"""Operations that join tensors or take them apart: stack and unbind, concatenate and cut.

The names and arguments are those of the `transformers` library where it has the operation. Nothing is ever cut into
parts of unequal size unless the sizes are known, from an argument or from the shapes of the targets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final

from weighbridge.algebra.layout import Layout, checked_axis, concat, stack
from weighbridge.base.errors import LayoutError
from weighbridge.base.keys import counted
from weighbridge.base.specs import Shape
from weighbridge.operations.configuration import read_config, read_size
from weighbridge.operations.values import (
    Arguments,
    Context,
    Lane,
    Size,
    Value,
    arity_error,
    common_dtype,
    single,
)

MAX_PARTS: Final = 1 << 16
"""The most tensors that one may be cut into. How many it is comes from a shape, which may be any number."""


def check_parts(count: int) -> None:
    """Refuse more parts than one tensor may fall into, as `layout-fragmented`."""
    if count > MAX_PARTS:
        raise LayoutError(
            "layout-fragmented",
            "a tensor would fall into too many parts",
            expected=f"at most {MAX_PARTS:,}",
            got=f"{count:,}",
            hint="compare the axis that is divided, and the number of parts, with the tensor's shape",
        )


def _combine(values: Sequence[Value], axis: int, join: Callable[[Sequence[Layout], int], Layout]) -> Value:
    dtype = common_dtype(values)
    layout = join([value.layout for value in values], axis)
    return Value(layout, dtype, any(value.is_rounded for value in values))


def _split_value(value: Value, axis: int, sizes: Sequence[int]) -> tuple[Value, ...]:
    return tuple(Value(layout, value.dtype, value.is_rounded) for layout in value.layout.split(axis, sizes))


def _unbind(value: Value, axis: int) -> tuple[Value, ...]:
    axis = checked_axis(axis, len(value.shape))
    rest = (*value.shape[:axis], *value.shape[axis + 1 :])
    check_parts(value.shape[axis])
    parts = value.layout.split(axis, [1] * value.shape[axis])
    return tuple(Value(part.reshape(rest), value.dtype, value.is_rounded) for part in parts)


def _equal_sizes(size: int, parts: int) -> list[int]:
    if parts < 1 or size % parts:
        what = f"a size of {size} does not divide into {parts} equal parts"
        raise LayoutError("split-unequal", what, hint="give the sizes of the parts: Split(dim, sizes)")
    check_parts(parts)
    return [size // parts] * parts


def _into_parts(lane: Lane, parts: Sequence[Value]) -> tuple[Lane, ...]:
    """Make lanes of parts that are joined again."""
    return tuple(Lane(lane.name, (part,)) for part in parts)


def _check_count(chunks: int | None, *others: object) -> None:
    """Check a number of parts, which is the only thing that may be said of them."""
    if chunks is not None and (chunks < 1 or any(other is not None for other in others)):
        what = "a number of equal parts is no such number" if chunks < 1 else "the parts are said in two ways"
        raise LayoutError("operation-argument", what, expected="chunks above 0, and nothing else", got=str(chunks))


def into_targets(parts: Sequence[Value], counts: Sequence[int], context: Context) -> tuple[Lane, ...]:
    """Deal parts out to the targets, in order."""
    bounds = pairwise((0, *accumulate(counts)))
    return tuple(
        Lane(target, tuple(parts[start:stop]), context.is_indexed(number))
        for number, (target, (start, stop)) in enumerate(zip(context.targets, bounds, strict=True))
    )


def _agree(said: Sequence[Size], sizes: Sequence[int]) -> bool:
    """Tell whether sizes are those that were said; a name stands for any, as the tensors themselves say it."""
    pairs = zip(said, sizes, strict=False)
    return len(said) == len(sizes) and all(isinstance(one, str) or one == size for one, size in pairs)


def target_counts(context: Context) -> list[int]:
    """Return how many tensors each target takes.

    Raises:
        LayoutError: `operation-argument` where that is not known, `operation-arity` where there are no targets.
    """
    counts = []
    for number, target in enumerate(context.targets):
        count = context.count(number)
        if count is None:
            raise LayoutError("operation-argument", f"it is not known how many tensors {target!r} stands for")
        counts.append(count)
    if counts == [1] and context.has_star(0) and not context.indexed:
        raise LayoutError("operation-argument", f"it is not known how many tensors {context.targets[0]!r} stands for")
    if not counts:
        raise LayoutError("operation-arity", "there are no targets to cut a tensor for")
    return counts


def _target_sizes(context: Context, counts: Sequence[int], shape: Shape, axis: int) -> list[int] | None:
    """Return the size of each part on an axis as the targets' shapes have it, or None where one is unknown."""
    shapes = [context.shape(number, index) for number, count in enumerate(counts) for index in range(count)]
    known = [wanted for wanted in shapes if wanted is not None]
    if not known or len(known) < len(shapes):
        return None
    for wanted in known:
        if len(wanted) != len(shape):
            raise LayoutError(
                "shape-mismatch", "a target has another number of axes", expected=str(wanted), got=str(shape)
            )
    return [wanted[axis] for wanted in known]


@dataclass(frozen=True, slots=True)
class MergeModulelist(Arguments):
    """Stack the tensors of each indexed pattern along a new axis, in the order of the index.

    Examples:
        >>> layers = tuple(Value(Layout.of(i, (2, 3)), "F32") for i in range(4))
        >>> lanes = MergeModulelist().lower((Lane("experts.*.w", layers, indexed=True),), Context())
        >>> print(lanes[0])
        experts.*.w: F32 [4, 2, 3]
    """

    dim: int = 0

    def lower(self, lanes: tuple[Lane, ...], context: Context) -> tuple[Lane, ...]:
        """Stack each lane's values."""
        if not lanes or not all(lane.indexed for lane in lanes):
            raise arity_error("patterns with an index", lanes)
        return tuple(Lane(lane.name, (_combine(lane.values, self.dim, stack),)) for lane in lanes)

    def inverse(self) -> SplitModulelist:
        """Return the operation that takes the stacks apart."""
        return SplitModulelist(self.dim)


@dataclass(frozen=True, slots=True)
class SplitModulelist(Arguments):
    """Take each tensor apart along an axis, which vanishes: one tensor for each index."""

    dim: int = 0

    def lower(self, lanes: tuple[Lane, ...], context: Context) -> tuple[Lane, ...]:
        """Unbind each lane's value."""
        if not lanes or any(lane.indexed or len(lane.values) != 1 for lane in lanes):
            raise arity_error("one tensor for each pattern", lanes)
        return tuple(Lane(lane.name, _unbind(lane.values[0], self.dim), indexed=True) for lane in lanes)

    def inverse(self) -> MergeModulelist:
        """Return the operation that stacks the tensors."""
        return MergeModulelist(self.dim)


@dataclass(frozen=True, slots=True)
class Concatenate(Arguments):
    """Join all tensors along an axis: pattern by pattern, and by the index within a pattern.

    Args:
        dim: The axis.
        num_shards_attribute: Name of the configuration's value for the number of parts; for the inverse alone.
        sizes: Sizes of the parts on the axis, as for `Split`; for the inverse, which has them from its targets, or from
            the cut before, if they are left out. Numbers must be the sizes that there are.
        chunks: Number of parts, which must be equal; for the inverse, in the place of `sizes`.
    """

    dim: int = 0
    num_shards_attribute: str | None = None
    sizes: tuple[Size, ...] | None = None
    chunks: int | None = None
    added = ("chunks",)

    def __post_init__(self) -> None:
        Arguments.__post_init__(self)
        _check_count(self.chunks, self.num_shards_attribute, self.sizes)

    def lower(self, lanes: tuple[Lane, ...], context: Context) -> tuple[Lane, ...]:
        """Join the values of all lanes."""
        values = [value for lane in lanes for value in lane.values]
        whole = _combine(values, self.dim, concat)
        axis = checked_axis(self.dim, len(whole.shape))
        sizes = tuple(value.shape[axis] for value in values)
        if self.sizes is not None and not _agree(self.sizes, sizes):
            raise LayoutError("shape-mismatch", "the parts have other sizes", expected=str(self.sizes), got=str(sizes))
        if self.chunks is not None and (len(sizes) != self.chunks or len(set(sizes)) > 1):
            expected = counted(self.chunks, "equal part")
            raise LayoutError("shape-mismatch", "the parts have other sizes", expected=expected, got=str(sizes))
        name = context.targets[0] if len(context.targets) == 1 else lanes[0].name
        return (Lane(name, (whole,)),)

    def inverse(self) -> Chunk | Split:
        """Return the operation that cuts the parts."""
        if self.sizes is not None:
            return Split(self.dim, self.sizes)
        return Chunk(self.dim, self.num_shards_attribute, self.chunks)


@dataclass(frozen=True, slots=True)
class Chunk(Arguments):
    """Cut a tensor along an axis, one part for each target; or into parts that a later `Concatenate` joins.

    The parts have the sizes of the targets where their shapes are known, and are equal otherwise.

    Args:
        dim: The axis.
        num_shards_attribute: Name of the configuration's value for the number of parts of the only, indexed target.
        chunks: Number of parts, which are equal. It is needed where a later operation joins them.
    """

    dim: int = 0
    num_shards_attribute: str | None = None
    chunks: int | None = None
    added = ("chunks",)

    def __post_init__(self) -> None:
        Arguments.__post_init__(self)
        _check_count(self.chunks, self.num_shards_attribute)

    def lower(self, lanes: tuple[Lane, ...], context: Context) -> tuple[Lane, ...]:
        """Cut the only value."""
        lane, value = single(lanes)
        axis = checked_axis(self.dim, len(value.shape))
        if self.num_shards_attribute is not None:
            return (Lane(self._only_target(context, lane), self._shards(value, axis, context), indexed=True),)
        if self.chunks is not None:
            return self._equal_parts(lane, axis, self.chunks, context)
        counts = target_counts(context)
        sizes = _target_sizes(context, counts, value.shape, axis) or _equal_sizes(value.shape[axis], sum(counts))
        return into_targets(_split_value(value, axis, sizes), counts, context)

    def _equal_parts(self, lane: Lane, axis: int, chunks: int, context: Context) -> tuple[Lane, ...]:
        (value,) = lane.values
        parts = _split_value(value, axis, _equal_sizes(value.shape[axis], chunks))
        if not context.targets:
            return _into_parts(lane, parts)
        counts = [chunks] if len(context.targets) == 1 and context.is_indexed(0) else target_counts(context)
        if sum(counts) != chunks:
            expected, got = counted(sum(counts), "part"), str(chunks)
            what = "there is not one part for each target"
            raise LayoutError("operation-arity", what, expected=expected, got=got)
        return into_targets(parts, counts, context)

    def _only_target(self, context: Context, lane: Lane) -> str:
        if len(context.targets) > 1:
            raise LayoutError("operation-arity", "shards have one indexed target", got=", ".join(context.targets))
        return context.targets[0] if context.targets else lane.name

    def _shards(self, value: Value, axis: int, context: Context) -> tuple[Value, ...]:
        count = read_config(context.config, self.num_shards_attribute or "", default_to_text=True)
        check_parts(count)
        known = _target_sizes(context, [count], value.shape, axis) if context.targets else None
        return _split_value(value, axis, known or _equal_sizes(value.shape[axis], count))

    def inverse(self) -> Concatenate:
        """Return the operation that joins the parts."""
        return Concatenate(self.dim, self.num_shards_attribute, chunks=self.chunks)


@dataclass(frozen=True, slots=True)
class Split(Arguments):
    """Cut a tensor along an axis into parts of given sizes, one for each target; or such that are joined again.

    Args:
        dim: The axis.
        sizes: Sizes of the parts on the axis: numbers, or names of the configuration's values, whose product a size is
            (``"num_heads*head_dim"``). Names are read where the targets do not say it; if there are no sizes, the
            targets must, and where a later `Concatenate` joins the parts, there are none that could.
    """

    dim: int = 0
    sizes: tuple[Size, ...] | None = None

    def lower(self, lanes: tuple[Lane, ...], context: Context) -> tuple[Lane, ...]:
        """Cut the only value."""
        lane, value = single(lanes)
        axis = checked_axis(self.dim, len(value.shape))
        if not context.targets and self.sizes is not None:
            sizes = [read_size(context.config, size) for size in self.sizes]
            return _into_parts(lane, _split_value(value, axis, sizes))
        only_indexed = len(context.targets) == 1 and context.is_indexed(0)
        counts = [len(self.sizes)] if only_indexed and self.sizes is not None else target_counts(context)
        found = self._sizes(context, counts, value.shape, axis)
        if found is None:
            raise LayoutError(
                "operation-argument", "the sizes of the parts are not known", hint="give the sizes of the parts"
            )
        if len(found) != sum(counts):
            expected, got = counted(sum(counts), "size"), f"{len(found)}: {', '.join(map(str, found))}"
            raise LayoutError("operation-arity", "there is not one size for each target", expected=expected, got=got)
        return into_targets(_split_value(value, axis, found), counts, context)

    def _sizes(self, context: Context, counts: Sequence[int], shape: Shape, axis: int) -> list[int] | None:
        if self.sizes is not None and all(isinstance(size, int) for size in self.sizes):
            return [size for size in self.sizes if isinstance(size, int)]
        found = _target_sizes(context, counts, shape, axis)
        if found is None and self.sizes is not None:
            found = [read_size(context.config, size) for size in self.sizes]
        return found

    def inverse(self) -> Concatenate:
        """Return the operation that joins the parts."""
        return Concatenate(self.dim, sizes=self.sizes)


@dataclass(frozen=True, slots=True)
class ErnieFuseAndSplitTextVisionExperts(Arguments):
    """Divide each indexed pattern's tensors among the targets; for each target stack each share, and join the stacks.

    With patterns gate and up and targets text and vision, text gets the first half of gate's and of up's experts.

    Args:
        stack_dim: The new axis of a stack.
        concat_dim: The axis of the stacks along which they are joined.
    """

    stack_dim: int = 0
    concat_dim: int = 1

    def lower(self, lanes: tuple[Lane, ...], context: Context) -> tuple[Lane, ...]:
        """Stack and join each target's shares."""
        if not lanes or not context.targets or not all(lane.indexed for lane in lanes):
            raise arity_error("patterns with an index, and targets", lanes)
        parts = len(context.targets)
        shares = [_equal_sizes(len(lane.values), parts)[0] for lane in lanes]
        fused = []
        for number, target in enumerate(context.targets):
            stacks = [
                _combine(lane.values[number * share : (number + 1) * share], self.stack_dim, stack)
                for lane, share in zip(lanes, shares, strict=True)
            ]
            fused.append(Lane(target, (_combine(stacks, self.concat_dim, concat),)))
        return tuple(fused)

    def inverse(self) -> ErnieSplitAndDecoupleTextVisionExperts:
        """Return the operation that takes the fused tensors apart."""
        return ErnieSplitAndDecoupleTextVisionExperts(self.stack_dim, self.concat_dim)


@dataclass(frozen=True, slots=True)
class ErnieSplitAndDecoupleTextVisionExperts(Arguments):
    """Cut each tensor into a part for each indexed target; take the parts apart, and append them in order.

    The parts have the sizes of the targets where their shapes are known, and are equal otherwise.

    Args:
        stack_dim: The axis that vanishes.
        concat_dim: The axis that is cut.
    """

    stack_dim: int = 0
    concat_dim: int = 1

    def lower(self, lanes: tuple[Lane, ...], context: Context) -> tuple[Lane, ...]:
        """Cut and unbind each lane's value."""
        if not lanes or not context.targets or any(lane.indexed or len(lane.values) != 1 for lane in lanes):
            raise arity_error("one tensor for each pattern, and targets", lanes)
        values = [lane.values[0] for lane in lanes]
        counts = [value.shape[checked_axis(self.stack_dim, len(value.shape))] for value in values]
        starts = accumulate(counts[:-1], initial=0)
        parts = [self._split_for_targets(value, start, context) for value, start in zip(values, starts, strict=True)]
        return tuple(
            Lane(
                target, tuple(value for part in parts for value in _unbind(part[number], self.stack_dim)), indexed=True
            )
            for number, target in enumerate(context.targets)
        )

    def _split_for_targets(self, value: Value, start: int, context: Context) -> tuple[Value, ...]:
        axis = checked_axis(self.concat_dim, len(value.shape))
        stacked = checked_axis(self.stack_dim, len(value.shape))
        wanted = [context.shape(number, start) for number in range(len(context.targets))]
        # The targets lack the axis that vanishes; put it back to find the others at their places.
        known = [(*shape[:stacked], 1, *shape[stacked:]) for shape in wanted if shape is not None]
        if len(known) == len(wanted) and all(len(shape) == len(value.shape) for shape in known):
            return _split_value(value, axis, [shape[axis] for shape in known])
        return _split_value(value, axis, _equal_sizes(value.shape[axis], len(wanted)))

    def inverse(self) -> ErnieFuseAndSplitTextVisionExperts:
        """Return the operation that fuses the tensors."""
        return ErnieFuseAndSplitTextVisionExperts(self.stack_dim, self.concat_dim)
