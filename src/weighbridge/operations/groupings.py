"""Operations that join tensors or take them apart: stack and unbind, concatenate and cut.

The names and arguments are those of the `transformers` library where it has the operation. Nothing is ever cut into
parts of unequal size unless the sizes are known, from an argument or from the shapes of the targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from weighbridge.algebra.layout import checked_axis, concat, stack
from weighbridge.base.errors import LayoutError
from weighbridge.base.keys import counted
from weighbridge.base.specs import Shape
from weighbridge.operations.configuration import read_config, read_sizes
from weighbridge.operations.parts import (
    check_parts,
    combine,
    equal_sizes,
    into_parts,
    into_targets,
    split_value,
    target_counts,
    target_sizes,
    unbind,
)
from weighbridge.operations.values import Arguments, Context, Lane, Size, Value, agree, arity_error, single


def _check_count(chunks: int | None, *others: object) -> None:
    """Check a number of parts, which is the only thing that may be said of them."""
    if chunks is not None and (chunks < 1 or any(other is not None for other in others)):
        what = "a number of equal parts is no such number" if chunks < 1 else "the parts are said in two ways"
        raise LayoutError("operation-argument", what, expected="chunks above 0, and nothing else", got=str(chunks))


def is_told(sizes: tuple[Size, ...] | str | None) -> bool:
    """Tell whether sizes are numbers, or those of a list in the configuration: what has other ones is refused.

    Examples:
        >>> is_told((4, 2)), is_told("experts_of_layers"), is_told((4, "experts")), is_told(None)
        (True, True, False, False)
    """
    return isinstance(sizes, str) or (sizes is not None and all(isinstance(size, int) for size in sizes))


@dataclass(frozen=True, slots=True)
class MergeModulelist(Arguments):
    """Stack the tensors of each indexed pattern along a new axis, in the order of the index.

    Of several indices it is the last one: a second one stacks the stacks, by the index before it.

    Examples:
        >>> from weighbridge.algebra.layout import Layout
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
        return tuple(Lane(lane.name, (combine(lane.values, self.dim, stack),)) for lane in lanes)

    def inverse(self) -> SplitModulelist:
        """Return the operation that takes the stacks apart."""
        return SplitModulelist(self.dim)


@dataclass(frozen=True, slots=True)
class SplitModulelist(Arguments):
    """Take each tensor apart along an axis, which vanishes: one tensor for each index.

    A second one takes each of these apart, and makes the index behind it.
    """

    dim: int = 0

    def lower(self, lanes: tuple[Lane, ...], context: Context) -> tuple[Lane, ...]:
        """Unbind each lane's value."""
        if not lanes or any(lane.indexed or len(lane.values) != 1 for lane in lanes):
            raise arity_error("one tensor for each pattern", lanes)
        return tuple(Lane(lane.name, unbind(lane.values[0], self.dim), indexed=True) for lane in lanes)

    def inverse(self) -> MergeModulelist:
        """Return the operation that stacks the tensors."""
        return MergeModulelist(self.dim)


@dataclass(frozen=True, slots=True)
class Concatenate(Arguments):
    """Join all tensors along an axis: pattern by pattern, and by the index within a pattern.

    What a later operation uses up is kept: those of each such index are joined by themselves.

    Args:
        dim: The axis.
        num_shards_attribute: Name of the configuration's value for the number of parts; for the inverse alone.
        sizes: Sizes of the parts on the axis, as for `Split`; for the inverse, which has them from its targets, or from
            the cut before, if they are left out. Numbers, and those of a list, must be the sizes that there are; then
            stacks that are joined may be of unequal numbers of tensors.
        chunks: Number of parts, which must be equal; for the inverse, in the place of `sizes`.
    """

    dim: int = 0
    num_shards_attribute: str | None = None
    sizes: tuple[Size, ...] | str | None = None
    chunks: int | None = None
    added = ("chunks",)

    def __post_init__(self) -> None:
        Arguments.__post_init__(self)
        _check_count(self.chunks, self.num_shards_attribute, self.sizes)

    def lower(self, lanes: tuple[Lane, ...], context: Context) -> tuple[Lane, ...]:
        """Join the values of all lanes."""
        values = [value for lane in lanes for value in lane.values]
        whole = combine(values, self.dim, concat)
        axis = checked_axis(self.dim, len(whole.shape))
        sizes = tuple(value.shape[axis] for value in values)
        said = read_sizes(context.config, self.sizes) if isinstance(self.sizes, str) else self.sizes
        if said is not None and not agree(said, sizes):
            raise LayoutError("shape-mismatch", "the parts have other sizes", expected=str(tuple(said)), got=str(sizes))
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
        sizes = target_sizes(context, counts, value.shape, axis) or equal_sizes(value.shape[axis], sum(counts))
        return into_targets(split_value(value, axis, sizes), counts, context)

    def _equal_parts(self, lane: Lane, axis: int, chunks: int, context: Context) -> tuple[Lane, ...]:
        (value,) = lane.values
        parts = split_value(value, axis, equal_sizes(value.shape[axis], chunks))
        if not context.targets:
            return into_parts(lane, parts)
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
        known = target_sizes(context, [count], value.shape, axis) if context.targets else None
        return split_value(value, axis, known or equal_sizes(value.shape[axis], count))

    def inverse(self) -> Concatenate:
        """Return the operation that joins the parts."""
        return Concatenate(self.dim, self.num_shards_attribute, chunks=self.chunks)


@dataclass(frozen=True, slots=True)
class Split(Arguments):
    """Cut a tensor along an axis into parts of given sizes, one for each target; or such that are joined again.

    Args:
        dim: The axis.
        sizes: Sizes of the parts on the axis: numbers, or names of the configuration's values, whose product a size is
            (``"num_heads*head_dim"``); ``heads[layer]`` is the entry of a list at what ``{layer:int}`` captures. Names
            are read where the targets do not say it; if there are no sizes, the targets must, and where a later
            `Concatenate` joins the parts, there are none that could. One name in the place of all sizes is that of a
            list in the configuration.
    """

    dim: int = 0
    sizes: tuple[Size, ...] | str | None = None

    def lower(self, lanes: tuple[Lane, ...], context: Context) -> tuple[Lane, ...]:
        """Cut the only value."""
        lane, value = single(lanes)
        axis = checked_axis(self.dim, len(value.shape))
        if not context.targets and self.sizes is not None:
            sizes = read_sizes(context.config, self.sizes)
            return into_parts(lane, split_value(value, axis, sizes))
        only_indexed = len(context.targets) == 1 and context.is_indexed(0)
        counts = self._counts(context) if only_indexed and self.sizes is not None else target_counts(context)
        found = self._sizes(context, counts, value.shape, axis)
        if found is None:
            raise LayoutError(
                "operation-argument", "the sizes of the parts are not known", hint="give the sizes of the parts"
            )
        if len(found) != sum(counts):
            expected, got = counted(sum(counts), "size"), f"{len(found)}: {', '.join(map(str, found))}"
            raise LayoutError("operation-arity", "there is not one size for each target", expected=expected, got=got)
        return into_targets(split_value(value, axis, found), counts, context)

    def _counts(self, context: Context) -> list[int]:
        """Return how many parts there are for the only target."""
        assert self.sizes is not None
        return [len(read_sizes(context.config, self.sizes) if isinstance(self.sizes, str) else self.sizes)]

    def _sizes(self, context: Context, counts: Sequence[int], shape: Shape, axis: int) -> list[int] | None:
        if self.sizes is not None and is_told(self.sizes):
            return read_sizes(context.config, self.sizes)
        found = target_sizes(context, counts, shape, axis)
        if found is None and self.sizes is not None:
            found = read_sizes(context.config, self.sizes)
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
        shares = [equal_sizes(len(lane.values), parts)[0] for lane in lanes]
        fused = []
        for number, target in enumerate(context.targets):
            stacks = [
                combine(lane.values[number * share : (number + 1) * share], self.stack_dim, stack)
                for lane, share in zip(lanes, shares, strict=True)
            ]
            fused.append(Lane(target, (combine(stacks, self.concat_dim, concat),)))
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
            Lane(target, tuple(value for part in parts for value in unbind(part[number], self.stack_dim)), indexed=True)
            for number, target in enumerate(context.targets)
        )

    def _split_for_targets(self, value: Value, start: int, context: Context) -> tuple[Value, ...]:
        axis = checked_axis(self.concat_dim, len(value.shape))
        stacked = checked_axis(self.stack_dim, len(value.shape))
        wanted = [context.shape(number, start) for number in range(len(context.targets))]
        # The targets lack the axis that vanishes; put it back to find the others at their places.
        known = [(*shape[:stacked], 1, *shape[stacked:]) for shape in wanted if shape is not None]
        if len(known) == len(wanted) and all(len(shape) == len(value.shape) for shape in known):
            return split_value(value, axis, [shape[axis] for shape in known])
        return split_value(value, axis, equal_sizes(value.shape[axis], len(wanted)))

    def inverse(self) -> ErnieFuseAndSplitTextVisionExperts:
        """Return the operation that fuses the tensors."""
        return ErnieFuseAndSplitTextVisionExperts(self.stack_dim, self.concat_dim)
