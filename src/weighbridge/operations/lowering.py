"""Lower a list of operations to layouts: in rounds, with temporaries where a value had to be made first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Final

from weighbridge.algebra.copies import runs
from weighbridge.algebra.layout import MAX_COPIES, Layout, is_fragmented
from weighbridge.base.errors import LayoutError, WeighbridgeError
from weighbridge.base.forms.elements import Constant
from weighbridge.base.specs import MAX_AXES, Shape
from weighbridge.operations.casting import Cast
from weighbridge.operations.chosen_parts import On
from weighbridge.operations.declaring.padding import InsertConstant, Pad, RemoveConstant, Trim
from weighbridge.operations.groupings import Chunk, MergeModulelist, Split, SplitModulelist
from weighbridge.operations.movements import Moving
from weighbridge.operations.nesting import Cell, divide, gather, needed_indices, regroup, takes_list
from weighbridge.operations.ops import Operation
from weighbridge.operations.parts import check_parts
from weighbridge.operations.replicas import MergeEqual, Repeat
from weighbridge.operations.values import Context, Declared, Lane, Place, Value, arity_error


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
        temporaries: What must be written first, in order; their slot numbers follow those of the constants.
        again: What the other rounds make, where a `MergeEqual` runs: it must be the same.
        repeats: How often the sources are read, each time under slot numbers of their own: those of source `k` are `k`,
            `k + sources`, and so on; more than once where a `Repeat` runs.
        constants: What comes from no source; their slot numbers follow those of all reads of the sources.
        cuts: What goes to no target, each with the bytes that all its elements must have.
    """

    lanes: tuple[Lane, ...]
    temporaries: tuple[Temporary, ...] = ()
    again: tuple[tuple[Lane, ...], ...] = ()
    repeats: int = 1
    constants: tuple[Constant, ...] = ()
    cuts: tuple[tuple[Value, bytes], ...] = ()


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
        >>> from weighbridge.operations.movements import Transpose
        >>> experts = tuple(Value(Layout.of(i, (2, 3)), "BF16") for i in range(4))
        >>> lowered = lower([MergeModulelist(0), Transpose(1, 2)], [Lane("experts.*.w", experts, indexed=True)])
        >>> print(*lowered.lanes, len(lowered.lanes[0].values[0].layout.copies))
        experts.*.w: BF16 [4, 3, 2] 4
    """
    context = replace(context or Context(), declared=Declared())
    seen = [_seen(context, operations[number + 1 :]) for number in range(len(operations))]
    needs = needed_indices(operations, len(context.targets), context.made)[1:]
    repeats = _count_repeats(operations, seen)
    count = _count_sources(lanes) if sources is None else sources
    bench = _Bench(count * repeats, cap, [])
    readings = [tuple(lanes), *(_read_anew(lanes, count * number) for number in range(1, repeats))]
    rounds = [divide(each) for each in readings]
    for number, (operation, known, needed) in enumerate(zip(operations, seen, needs, strict=True)):
        later, depth = operations[number + 1 :], rounds[0][0].depth
        known = replace(known, takes_list=takes_list(later, context.made > 0, depth, needed))
        grouped = [regroup(operation, cells, needed) for cells in rounds]
        rounds = _run(operation, [bench.settle_all(cells, operation) for cells in grouped], known, bench)
    made = [gather(cells) for cells in rounds]
    _check_axes(made[0])
    first, *again = (_named(each, context) for each in made)
    lowered = Lowered(first, tuple(bench.temporaries), tuple(again), repeats)
    declared = context.declared
    return _with_declared(lowered, declared, count * repeats) if declared.made or declared.cut else lowered


def _with_declared(lowered: Lowered, declared: Declared, sources: int) -> Lowered:
    """Return what operations came down to with what they declared, under slot numbers between sources and temporaries.

    Args:
        lowered: All but that, the temporaries numbered behind the sources.
        declared: What they declared.
        sources: The number of slots that sources have.
    """

    def layout(found: Layout) -> Layout:
        return declared.renumbered(found, sources)

    def value(found: Value) -> Value:
        return replace(found, layout=layout(found.layout))

    def lanes(found: tuple[Lane, ...]) -> tuple[Lane, ...]:
        return tuple(replace(lane, values=tuple(map(value, lane.values))) for lane in found)

    return Lowered(
        lanes(lowered.lanes),
        tuple(replace(temporary, layout=layout(temporary.layout)) for temporary in lowered.temporaries),
        tuple(map(lanes, lowered.again)),
        lowered.repeats,
        tuple(declared.made),
        tuple((value(cut), element) for cut, element in declared.cut),
    )


def _count_repeats(operations: Sequence[Operation], seen: Sequence[Context]) -> int:
    """Return how many rounds there are at the start: as many as all `Repeat` together put side by side."""
    pairs = zip(operations, seen, strict=True)
    repeats = prod(operation.count(known) for operation, known in pairs if isinstance(operation, Repeat))
    check_parts(repeats)
    return repeats


def _read_anew(lanes: Iterable[Lane], shift: int) -> tuple[Lane, ...]:
    """Return lanes that read the same sources under other slot numbers."""

    def moved(value: Value) -> Value:
        copies = tuple(copy._replace(source=copy.source + shift) for copy in value.layout.copies)
        return replace(value, layout=replace(value.layout, copies=copies))

    return tuple(replace(lane, values=tuple(map(moved, lane.values))) for lane in lanes)


def _run(operation: Operation, rounds: list[list[Cell]], context: Context, bench: _Bench) -> list[list[Cell]]:
    """Run one operation in each round; those of equal tensors join rounds, or make more of them."""
    if not isinstance(operation, Repeat | MergeEqual):
        return [
            [
                cell._replace(lanes=_apply(operation, cell.lanes, context.within(cell.outer), bench))
                for cell in cells
            ]
            for cells in rounds
        ]  # fmt: skip
    try:
        if isinstance(operation, MergeEqual):
            return [round_ for cells in rounds for round_ in _part(operation, cells, context)]
        times = operation.count(context)
        return [_join(operation, rounds[at : at + times], context) for at in range(0, len(rounds), times)]
    except LayoutError as error:
        raise _explained(error, operation, rounds[0][0].lanes) from None


def _part(operation: MergeEqual, cells: list[Cell], context: Context) -> list[list[Cell]]:
    """Return for each of the tensors that must be equal the cells that go on with that one."""
    parts = [operation.part(cell.lanes, context) for cell in cells]
    if len(set(map(len, parts))) > 1:
        raise arity_error("as many equal ones everywhere", [lane for cell in cells for lane in cell.lanes])
    return [
        [cell._replace(lanes=lanes) for cell, lanes in zip(cells, alike, strict=True)]
        for alike in zip(*parts, strict=True)
    ]


def _join(operation: Repeat, rounds: Sequence[list[Cell]], context: Context) -> list[Cell]:
    """Put what several rounds give side by side, cell by cell."""
    return [
        same[0]._replace(lanes=operation.join([cell.lanes for cell in same], context))
        for same in zip(*rounds, strict=True)
    ]


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
    declared = context.declared
    before = len(declared.made), len(declared.cut)
    try:
        try:
            return operation.lower(lanes, context)
        except LayoutError as error:
            if error.code != "layout-fragmented":
                raise
            declared.forget(*before)
            return operation.lower(bench.write_out(lanes, _is_made), context)
    except LayoutError as error:
        raise _explained(error, operation, lanes) from None


def _explained(error: LayoutError, operation: Operation, lanes: Iterable[Lane]) -> WeighbridgeError:
    because = f"{operation!r} on {'; '.join(map(str, lanes))}"
    return error.with_context(because=because, hint=HINTS.get(error.code, ""))


@dataclass(slots=True)
class _Bench:
    """The temporaries made so far, and the number of sources that stand before them."""

    sources: int
    cap: int
    temporaries: list[Temporary]

    def settle_all(self, cells: list[Cell], operation: Operation) -> list[Cell]:
        """Write out what the next operation could not take as it is, in each cell."""
        return [cell._replace(lanes=self.settle(cell.lanes, operation)) for cell in cells]

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
    if isinstance(operation, Moving | On | Pad | Trim):
        known = context.target_shapes
        shapes = known and tuple(
            tuple(_shape_before(_at(operation, number), shape, target, context.config) for shape in group)
            for number, (target, group) in enumerate(zip(context.targets, known, strict=False))
        )
        return replace(context, target_shapes=shapes)
    if isinstance(operation, SplitModulelist):
        return _before_taking_apart(operation.dim, context)
    if isinstance(operation, MergeModulelist):
        levels = context.made + 1
        indexed = (True,) * len(context.targets)
        return replace(context, target_shapes=None, indexed=indexed, counts=(), levels=levels, places=())
    if isinstance(operation, InsertConstant | RemoveConstant) and not any(context.indexed):
        return operation.targets_before(context)
    if isinstance(operation, Repeat) and operation.times is not None:
        return _before_repeat(operation.times, context)
    if isinstance(operation, MergeEqual) and operation.times is not None and not any(context.indexed):
        return _before_merge(operation.times, context)
    return context.of_single(1 if isinstance(operation, Chunk | Split) else 0)  # a cut takes a single tensor


def _before_taking_apart(dim: int, context: Context) -> Context:
    """Return the context before each tensor is taken apart: it lacks the innermost of the indices."""
    groups = context.target_shapes
    if context.levels == 1:
        stacked = groups and tuple((_stacked(group, dim),) for group in groups)
        return replace(context, target_shapes=stacked, indexed=(), counts=())
    shapes: list[tuple[Shape | None, ...]] = []
    places: list[tuple[Place, ...]] = []
    for known, group in zip(context.places, groups or (), strict=False):
        inner: dict[Place, list[Shape | None]] = {}
        for place, shape in zip(known, group, strict=True):
            inner.setdefault(place[:-1], []).append(shape)
        shapes.append(tuple(_stacked(each, dim) for each in inner.values()))
        places.append(tuple(inner))
    levels = context.levels - 1
    outer = tuple(places) if levels > 1 else ()
    return replace(context, target_shapes=groups and tuple(shapes), counts=(), levels=levels, places=outer)


def _before_repeat(times: int, context: Context) -> Context:
    """Return the context before each tensor is repeated: one of its targets, or one of its indices, stands for all."""
    shapes = context.target_shapes
    if context.levels > 1:
        return replace(context, target_shapes=None, counts=(), places=())
    if any(map(context.is_indexed, range(len(context.targets)))):
        counts = tuple(count and count // times for count in context.counts)
        return replace(context, target_shapes=shapes and tuple(each[::times] for each in shapes), counts=counts)
    return replace(
        context,
        targets=context.targets[::times],
        target_shapes=shapes and shapes[::times],
        indexed=context.indexed[::times],
        counts=context.counts[::times],
    )


def _before_merge(times: int, context: Context) -> Context:
    """Return the context before equal tensors become one: each target stands there as often."""
    shapes = context.target_shapes
    return replace(
        context,
        targets=tuple(target for target in context.targets for _ in range(times)),
        target_shapes=shapes and tuple(each for each in shapes for _ in range(times)),
        indexed=tuple(each for each in context.indexed for _ in range(times)),
        counts=tuple(count for count in context.counts for _ in range(times)),
    )


def _at(operation: Moving | On | Pad | Trim, number: int) -> Moving | Pad | Trim | None:
    """Return what is done to the elements of a target's tensors; None where nothing changes their shape."""
    chosen = operation.at(number) if isinstance(operation, On) else operation
    return None if isinstance(chosen, Cast) else chosen


def _shape_before(
    operation: Moving | Pad | Trim | None, shape: Shape | None, target: str, config: object
) -> Shape | None:
    """Return the shape that an operation turns into `shape`, or None where that cannot be known."""
    if shape is None or operation is None:
        return shape
    try:
        if isinstance(operation, Pad | Trim):
            return operation.shape_before(shape, config)
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
