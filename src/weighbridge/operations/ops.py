"""Operations as values: the closed union of them, their JSON form, and how a list of them is lowered to layouts.

An operation is a frozen value with two methods: `lower(lanes, context)` gives the lanes it makes, whose layouts hold
both shapes and copies, and `inverse()` gives the operation that undoes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, get_args

from weighbridge.algebra.copies import runs
from weighbridge.algebra.layout import MAX_COPIES, Layout, is_fragmented
from weighbridge.base.errors import LayoutError, WeighbridgeError
from weighbridge.base.specs import MAX_AXES, Shape
from weighbridge.operations.casting import Cast
from weighbridge.operations.chains import say_sizes
from weighbridge.operations.chosen_parts import On, Single
from weighbridge.operations.groupings import (
    Chunk,
    Concatenate,
    ErnieFuseAndSplitTextVisionExperts,
    ErnieSplitAndDecoupleTextVisionExperts,
    MergeModulelist,
    Split,
    SplitModulelist,
)
from weighbridge.operations.movements import (
    Conv3dToLinear,
    Interleave,
    LinearToConv3d,
    Moving,
    Permute,
    PermuteForRope,
    Rearrange,
    Reshape,
    Transpose,
)
from weighbridge.operations.reordering import Reorder
from weighbridge.operations.values import Context, Lane, Value, arity_error, brief

Operation = (
    Cast
    | Chunk
    | Concatenate
    | Conv3dToLinear
    | ErnieFuseAndSplitTextVisionExperts
    | ErnieSplitAndDecoupleTextVisionExperts
    | Interleave
    | LinearToConv3d
    | MergeModulelist
    | On
    | Permute
    | PermuteForRope
    | Rearrange
    | Reorder
    | Reshape
    | Split
    | SplitModulelist
    | Transpose
)
"""Any operation."""

OPERATIONS: Final[tuple[type[Operation], ...]] = get_args(Operation)
"""The class of every operation."""

# JSON


def operation_from_dict(form: Mapping[str, Any]) -> Operation:
    """Read an operation from its JSON form; arguments that are left out have their defaults.

    Raises:
        LayoutError: `operation-argument` for an unknown operation, and for unknown, missing or unfit arguments.

    Examples:
        >>> operation_from_dict({"operation": "Chunk", "dim": 1})
        Chunk(dim=1, num_shards_attribute=None, chunks=None)
    """
    arguments = {name: value for name, value in form.items() if name != "operation"}
    named = {cls.__name__: cls for cls in OPERATIONS}
    cls = named.get(str(form.get("operation")))
    if cls is None:
        raise LayoutError(
            "operation-argument",
            "there is no such operation",
            expected=", ".join(named),
            got=repr(form.get("operation")),
        )
    make: Callable[..., Operation] = cls
    try:
        if cls is On:
            arguments["apply"] = _single_from_dict(arguments["apply"])
        if cls is Rearrange:
            return make(arguments.pop("pattern"), **arguments.pop("lengths", {}), **arguments)
        return make(**arguments)
    except (TypeError, KeyError):
        expected = ", ".join(field.name.removeprefix("is_") for field in fields(cls))
        raise LayoutError("operation-argument", f"{cls.__name__} takes other arguments", expected=expected) from None


def _single_from_dict(form: object) -> Operation:
    names = [cls.__name__ for cls in OPERATIONS if issubclass(cls, Single)]
    if not isinstance(form, Mapping) or form.get("operation") not in names:
        what = "there is no such operation on single tensors"
        raise LayoutError("operation-argument", what, expected=", ".join(names), got=brief(form))
    return operation_from_dict(form)


def invert(operations: Iterable[Operation]) -> tuple[Operation, ...]:
    """Return the operations that undo a list of them.

    A part that is cut and joined again has the size on the way back that the cut gives it.

    Raises:
        LayoutError: `operation-one-way`.

    Examples:
        >>> invert([MergeModulelist(0), Concatenate(1)])
        (Chunk(dim=1, num_shards_attribute=None, chunks=None), SplitModulelist(dim=0))
    """
    inverses: list[Operation] = []
    for operation in say_sizes(operations):
        try:
            inverses.append(operation.inverse())
        except WeighbridgeError as error:
            raise error.with_context(because=repr(operation)) from None
    return tuple(reversed(inverses))


# Lowering


@dataclass(frozen=True, slots=True)
class Temporary:
    """A value that is written out before what reads it.

    Args:
        dtype: A code of `DTYPES`.
        layout: Its copies, from sources and from earlier temporaries.
    """

    dtype: str
    layout: Layout


@dataclass(frozen=True, slots=True)
class Lowered:
    """What a list of operations comes down to.

    Args:
        lanes: The values made, named after the targets.
        temporaries: What must be written first, in order; temporary `k` has the slot number `sources + k`.
    """

    lanes: tuple[Lane, ...]
    temporaries: tuple[Temporary, ...] = ()


def lower(
    operations: Sequence[Operation],
    lanes: Sequence[Lane],
    context: Context | None = None,
    *,
    sources: int | None = None,
    cap: int = MAX_COPIES,
) -> Lowered:
    """Lower a list of operations to layouts.

    Between two operations, a value in more copies than are worth running (`is_fragmented`) is written out as a
    temporary, and so is one that is cast again after a cast that may have rounded it.

    Args:
        operations: What is done, in order.
        lanes: What it is done to.
        context: Targets and configuration.
        sources: Number of sources; the number of values, or of slots in use, if it is left out.
        cap: Number of copies that a value may always have.

    Raises:
        LayoutError: The operation's error, with the operation and the shapes it was given.

    Examples:
        >>> experts = tuple(Value(Layout.of(i, (2, 3)), "BF16") for i in range(4))
        >>> lowered = lower([MergeModulelist(0), Transpose(1, 2)], [Lane("experts.*.w", experts, indexed=True)])
        >>> print(*lowered.lanes, len(lowered.lanes[0].values[0].layout.copies))
        experts.*.w: BF16 [4, 3, 2] 4
    """
    context = context or Context()
    bench = _Bench(_count_sources(lanes) if sources is None else sources, cap, [])
    current = tuple(lanes)
    for number, operation in enumerate(operations):
        current = bench.settle(current, operation)
        seen = _seen(context, operations[number + 1 :])
        current = _apply(operation, current, seen, bench)
    _check_axes(current)
    return Lowered(_named(current, context), tuple(bench.temporaries))


def _check_axes(lanes: Iterable[Lane]) -> None:
    """Refuse what could be written and not be read again."""
    most = max((len(value.shape) for lane in lanes for value in lane.values), default=0)
    if most > MAX_AXES:
        what = "a tensor would have too many axes"
        raise LayoutError("shape-mismatch", what, expected=f"at most {MAX_AXES}", got=f"{most:,}")


def _count_sources(lanes: Iterable[Lane]) -> int:
    values = [value for lane in lanes for value in lane.values]
    return max(len(values), 1 + max((copy.source for value in values for copy in value.layout.copies), default=-1))


def _named(lanes: tuple[Lane, ...], context: Context) -> tuple[Lane, ...]:
    """Name lanes after the targets."""
    if not context.targets:
        return lanes
    if len(lanes) != len(context.targets):
        raise arity_error(f"one pattern for each of {len(context.targets)} targets", lanes)
    return tuple(replace(lane, name=target) for lane, target in zip(lanes, context.targets, strict=True))


def _is_made(value: Value) -> bool:
    """Tell whether a value is more than one run of a source."""
    return any(runs(copy) < value.layout.numel for copy in value.layout.copies)


HINTS: Final = {
    "shape-mismatch": "correct the operation's axes, or the pattern that takes a tensor of another shape",
    "axis-out-of-range": "axes count from 0, or from the last one, which is -1",
    "operation-arity": "give as many sizes and targets as there are tensors",
}
"""What to try where an operation does not fit what it is given, if it says nothing better itself."""


def _apply(operation: Operation, lanes: tuple[Lane, ...], context: Context, bench: _Bench) -> tuple[Lane, ...]:
    """Apply one operation; where it would cut its input too finely, write the input out first."""
    try:
        try:
            return operation.lower(lanes, context)
        except LayoutError as error:
            if error.code != "layout-fragmented":
                raise
            return operation.lower(bench.write_out(lanes, _is_made), context)
    except LayoutError as error:
        because = f"{operation!r} on {'; '.join(map(str, lanes))}"
        raise error.with_context(because=because, hint=HINTS.get(error.code, "")) from None


@dataclass(slots=True)
class _Bench:
    """The temporaries made so far, and the number of sources that stand before them."""

    sources: int
    cap: int
    temporaries: list[Temporary]

    def settle(self, lanes: tuple[Lane, ...], operation: Operation) -> tuple[Lane, ...]:
        """Write out what the next operation could not take as it is."""
        cast = operation.apply if isinstance(operation, On) else operation

        def is_due(value: Value) -> bool:
            recast = isinstance(cast, Cast) and value.is_rounded and value.dtype != cast.dtype
            return recast or is_fragmented(value.layout, self.sources, self.cap)

        return self.write_out(lanes, is_due)

    def write_out(self, lanes: tuple[Lane, ...], is_due: Callable[[Value], bool]) -> tuple[Lane, ...]:
        """Replace values by temporaries that hold them."""
        if not any(is_due(value) for lane in lanes for value in lane.values):
            return lanes
        return tuple(
            replace(lane, values=tuple(self._hold(value) if is_due(value) else value for value in lane.values))
            for lane in lanes
        )

    def _hold(self, value: Value) -> Value:
        slot = self.sources + len(self.temporaries)
        self.temporaries.append(Temporary(value.dtype, value.layout))
        return Value(Layout.of(slot, value.shape), value.dtype)


# What an operation may know of the targets: less, the more comes after it.


def _seen(context: Context, later: Sequence[Operation]) -> Context:
    """Return the context as it is before the later operations have run."""
    for operation in reversed(later):
        context = _before(operation, context)
    return context


def _before(operation: Operation, context: Context) -> Context:
    """Return what the targets of a context are before one operation."""
    if isinstance(operation, Cast):
        return context
    if isinstance(operation, Moving | On):
        known = context.target_shapes
        shapes = known and tuple(
            tuple(_shape_before(_at(operation, number), shape, target, context.config) for shape in group)
            for number, (target, group) in enumerate(zip(context.targets, known, strict=False))
        )
        return replace(context, target_shapes=shapes)
    if isinstance(operation, SplitModulelist):
        groups = context.target_shapes
        stacked = groups and tuple((_stacked(group, operation.dim),) for group in groups)
        return replace(context, target_shapes=stacked, indexed=(), counts=())
    if isinstance(operation, MergeModulelist):
        return replace(context, target_shapes=None, indexed=(True,) * len(context.targets), counts=())
    return replace(context, targets=(), target_shapes=None, indexed=(), counts=())


def _at(operation: Moving | On, number: int) -> Moving | None:
    """Return what moves the elements of a target's tensors; None where nothing does."""
    chosen = operation.at(number) if isinstance(operation, On) else operation
    return chosen if isinstance(chosen, Moving) else None


def _shape_before(operation: Moving | None, shape: Shape | None, target: str, config: object) -> Shape | None:
    """Return the shape that an operation turns into `shape`, or None where that cannot be known."""
    if shape is None or operation is None:
        return shape
    try:
        return operation.inverse().movement(shape, target, None, config).joined
    except WeighbridgeError:
        return None


def _stacked(shapes: Sequence[Shape | None], dim: int) -> Shape | None:
    """Return the shape of a stack of tensors of one known shape."""
    first = shapes[0] if shapes else None
    if first is None or any(shape != first for shape in shapes) or not -len(first) - 1 <= dim <= len(first):
        return None
    axis = dim % (len(first) + 1)
    return (*first[:axis], len(shapes), *first[axis:])
