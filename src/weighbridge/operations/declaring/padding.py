"""Declared values beside those of tensors: rows that are put in or cut off, and whole parts.

What is put in comes from no tensor. What is cut off goes to none, and must hold exactly what is declared, which is
compared bit for bit before anything is written. So each is the other's inverse, and every element of a target is
written once all the same: from a source, or from a declared value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NoReturn

from weighbridge.algebra.layout import checked_axis, concat
from weighbridge.base.errors import LayoutError, WeighbridgeError
from weighbridge.base.forms.elements import ANY, OWN, Element, plain_element
from weighbridge.base.specs import Shape, TensorSpec
from weighbridge.operations.configuration import read_size
from weighbridge.operations.values import Arguments, Context, Lane, Size, Value, agree, arity_error, brief, common_dtype

Lanes = tuple[Lane, ...]


def _check_numbers(operation: Arguments, *sizes: Size | None, least: int) -> None:
    for size in sizes:
        if isinstance(size, int) and size < least:
            what = f"{type(operation).__name__} has a size that no axis has"
            raise LayoutError("operation-argument", what, expected=f"{least} or more", got=brief(size))


def _refuse_two_ways(operation: Arguments, *given: object) -> None:
    if None not in given:
        what = f"{type(operation).__name__} has one size in two ways"
        raise LayoutError("operation-argument", what, expected="one of the two", got=str(operation))


def _check_sizes(operation: Pad | Trim, made: Size | None) -> None:
    """Check the sizes of an operation, of which the one that it makes, or is made from, is said in one way."""
    _check_numbers(operation, operation.size, operation.source_size, least=0)
    _check_numbers(operation, operation.multiple_of, least=1)
    _refuse_two_ways(operation, made, operation.multiple_of)


def _refuse_open(operation: Arguments, value: Element, wrong: str, right: str) -> None:
    if value == wrong:
        what = f"{type(operation).__name__} does not take this value"
        raise LayoutError("operation-argument", what, expected=f"a value, or {right!r}", got=repr(value))


def _refuse_way_back(value: Element) -> None:
    if value in (OWN, ANY):
        raise LayoutError(
            "operation-one-way",
            "nobody says what stands in the rows that are put in, or cut off",
            hint="cut off whatever they hold by a rule of its own, a Trim of any value, or by lossy=True",
        )


def _multiple(size: int, step: Size, config: object) -> int:
    number = read_size(config, step)
    return -(-size // number) * number


def _resized(shape: Shape, axis: int, size: int) -> Shape:
    return (*shape[:axis], size, *shape[axis + 1 :])


def _each(lanes: Lanes, context: Context, change: Callable[[Value, Shape | None], Value]) -> Lanes:
    """Change each value of each lane, which is told the shape that its target must have."""
    alike = len(lanes) == len(context.targets)
    return tuple(
        replace(
            lane,
            values=tuple(
                change(value, context.shape(number, index) if alike else None)
                for index, value in enumerate(lane.values)
            ),
        )
        for number, lane in enumerate(lanes)
    )


def _wanted_size(operation: Pad | Trim, shape: Shape, axis: int, wanted: Shape | None, config: object) -> int:
    """Return the size that an axis is to have: a number that is said, that of the target, or one by its name."""
    if isinstance(operation.size, int):
        return operation.size
    if wanted is not None and len(wanted) == len(shape):
        return wanted[axis]
    if operation.size is None:
        name = type(operation).__name__
        hint = f"say it: {name}({operation.dim}, size=...), by a number or a name of the configuration"
        raise LayoutError("operation-argument", "nothing says the size that an axis is to have", hint=hint)
    return read_size(config, operation.size)


def _said(size: Size | None, config: object) -> int | None:
    """Return a size that is said, as far as the configuration has what it names."""
    try:
        return None if size is None else read_size(config, size)
    except WeighbridgeError:
        return None


def _refuse_size(what: str, expected: str, there: int, shape: Shape) -> NoReturn:
    raise LayoutError("shape-mismatch", what, expected=expected, got=f"{there}, of {list(shape)}")


@dataclass(frozen=True, slots=True)
class Pad(Arguments):
    """Make an axis of each tensor longer, with a declared value in what is new: a vocabulary to a multiple, say.

    Args:
        dim: The axis. What is new stands at its end.
        size: Its new size: a number, or names of the configuration's values, whose product it is. Where neither this
            nor the next one is given, the target says it; a name is read where the target does not.
        multiple_of: Of what it is to be a multiple, in the place of `size`: the least one that holds all that is there.
        value: What stands in the new elements, in the tensors' own dtype: a number, or an element's bits as
            ``bits:0x7fc1``. It is never rounded. ``"own"`` leaves them as the model has them that is loaded into.
        source_size: The size before, needed for the inverse alone. Where it is known, it must be that of the tensor.

    Examples:
        >>> print(Pad(0, multiple_of=64, source_size="vocab_size").inverse())
        Trim(size='vocab_size', multiple_of=64)
    """

    dim: int = 0
    size: Size | None = None
    multiple_of: Size | None = None
    value: Element = 0
    source_size: Size | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", plain_element(self.value))
        Arguments.__post_init__(self)
        _refuse_open(self, self.value, ANY, OWN)
        _check_sizes(self, self.size)

    def lower(self, lanes: Lanes, context: Context) -> Lanes:
        """Join each value with a constant."""
        return _each(lanes, context, lambda value, wanted: self._padded(value, wanted, context))

    def _padded(self, value: Value, wanted: Shape | None, context: Context) -> Value:
        axis = checked_axis(self.dim, len(value.shape))
        there = value.shape[axis]
        before = _said(self.source_size, context.config)
        if before not in (None, there):
            _refuse_size("this is not the size to start from", str(before), there, value.shape)
        if self.multiple_of is not None:
            size = _multiple(there, self.multiple_of, context.config)
        else:
            size = _wanted_size(self, value.shape, axis, wanted, context.config)
        if size < there:
            _refuse_size(f"axis {axis} is longer than it is to be", f"{size} at most", there, value.shape)
        if size == there:
            return value
        spec = TensorSpec(value.dtype, _resized(value.shape, axis, size - there))
        rows = context.declared.make(spec, self.value)
        return replace(value, layout=concat([value.layout, rows.layout], axis))

    def shape_before(self, shape: Shape, config: object) -> Shape | None:
        """Return the shape that becomes another one, as far as it is said."""
        before = _said(self.source_size, config)
        return None if before is None else _resized(shape, checked_axis(self.dim, len(shape)), before)

    def inverse(self) -> Trim:
        """Return the operation that cuts off what was put in.

        Raises:
            LayoutError: `operation-one-way` for rows of the model's own.
        """
        _refuse_way_back(self.value)
        return Trim(self.dim, self.source_size, self.multiple_of, self.value, self.size)


@dataclass(frozen=True, slots=True)
class Trim(Arguments):
    """Cut off the end of an axis of each tensor, which must hold a declared value; else nothing is written.

    Args:
        dim: The axis.
        size: Its new size, as for `Pad`. Where it is not given, the target says it.
        multiple_of: Of what the size before is the least multiple that holds the new one.
        value: What must stand in all that is cut off, bit for bit, in the tensors' own dtype; as for `Pad`. ``"any"``
            cuts it off whatever it holds, which is lossy.
        source_size: The size before, in the place of `multiple_of`. Where it is known, it must be that of the tensor.

    Examples:
        >>> Trim(0, 50257, multiple_of=64).inverse()
        Pad(dim=0, size=None, multiple_of=64, value=0, source_size=50257)
    """

    dim: int = 0
    size: Size | None = None
    multiple_of: Size | None = None
    value: Element = 0
    source_size: Size | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", plain_element(self.value))
        Arguments.__post_init__(self)
        _refuse_open(self, self.value, OWN, ANY)
        _check_sizes(self, self.source_size)

    def lower(self, lanes: Lanes, context: Context) -> Lanes:
        """Cut each value, and note what its end must hold."""
        return _each(lanes, context, lambda value, wanted: self._trimmed(value, wanted, context))

    def _trimmed(self, value: Value, wanted: Shape | None, context: Context) -> Value:
        axis = checked_axis(self.dim, len(value.shape))
        there = value.shape[axis]
        size = _wanted_size(self, value.shape, axis, wanted, context.config)
        before = self._size_before(size, context.config)
        if before not in (None, there):
            _refuse_size("this is not the size to start from", str(before), there, value.shape)
        if size > there:
            _refuse_size(f"axis {axis} is shorter than it is to be", f"{size} or more", there, value.shape)
        if size == there:
            return value
        kept, rest = value.layout.split(axis, (size, there - size))
        context.declared.cut_off(replace(value, layout=rest), self.value)
        return replace(value, layout=kept)

    def _size_before(self, size: int, config: object) -> int | None:
        if self.multiple_of is not None:
            return _multiple(size, self.multiple_of, config)
        return _said(self.source_size, config)

    def shape_before(self, shape: Shape, config: object) -> Shape | None:
        """Return the shape that becomes another one, as far as it is said."""
        axis = checked_axis(self.dim, len(shape))
        before = self._size_before(shape[axis], config)
        return None if before is None else _resized(shape, axis, before)

    def inverse(self) -> Pad:
        """Return the operation that puts the rows in again.

        Raises:
            LayoutError: `operation-one-way` where they may have held anything.
        """
        _refuse_way_back(self.value)
        return Pad(self.dim, self.source_size, self.multiple_of, self.value, self.size)


def _without_target(context: Context, part: int) -> Context:
    if part >= len(context.targets):
        return context
    shapes, indexed, counts = context.target_shapes, context.indexed, context.counts
    return replace(
        context,
        targets=(*context.targets[:part], *context.targets[part + 1 :]),
        target_shapes=shapes and (*shapes[:part], *shapes[part + 1 :]),
        indexed=indexed and (*indexed[:part], *indexed[part + 1 :]),
        counts=counts and (*counts[:part], *counts[part + 1 :]),
    )


def _with_target(context: Context, part: int, shape: Shape | None) -> Context:
    if not context.targets or part > len(context.targets):
        return context
    shapes, indexed, counts = context.target_shapes, context.indexed, context.counts
    return replace(
        context,
        targets=(*context.targets[:part], f"part {part}", *context.targets[part:]),
        target_shapes=shapes and (*shapes[:part], (shape,), *shapes[part:]),
        indexed=indexed and (*indexed[:part], False, *indexed[part:]),
        counts=counts and (*counts[:part], 1, *counts[part:]),
    )


@dataclass(frozen=True, slots=True)
class InsertConstant(Arguments):
    """Put a tensor of one declared value among the others: zeros for a bias that is not there, before a `Concatenate`.

    It has the dtype of the others.

    Args:
        part: Its number among all tensors, from 0, once it is there.
        shape: Its shape: numbers, or names of the configuration's values, whose product a size is.
        value: What stands in all its elements; as for `Pad`.

    Examples:
        >>> print(InsertConstant(1, ("d_model",)).inverse())
        RemoveConstant(part=1, shape=['d_model'])
    """

    part: int
    shape: tuple[Size, ...]
    value: Element = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", plain_element(self.value))
        Arguments.__post_init__(self)
        _refuse_open(self, self.value, ANY, OWN)
        _check_numbers(self, self.part, *self.shape, least=0)

    def lower(self, lanes: Lanes, context: Context) -> Lanes:
        """Put a constant in its place."""
        if self.part > len(lanes) or any(lane.indexed for lane in lanes):
            raise arity_error(f"{self.part} tensors or more, none of them for each index", lanes)
        dtype = common_dtype([value for lane in lanes for value in lane.values])
        shape = tuple(read_size(context.config, size) for size in self.shape)
        made = Lane(f"part {self.part}", (context.declared.make(TensorSpec(dtype, shape), self.value),))
        return (*lanes[: self.part], made, *lanes[self.part :])

    def targets_before(self, context: Context) -> Context:
        """Return the context before it: with one target less."""
        return _without_target(context, self.part)

    def inverse(self) -> RemoveConstant:
        """Return the operation that takes the tensor out again.

        Raises:
            LayoutError: `operation-one-way` for a part of the model's own.
        """
        _refuse_way_back(self.value)
        return RemoveConstant(self.part, self.shape, self.value)


@dataclass(frozen=True, slots=True)
class RemoveConstant(Arguments):
    """Leave out one of the tensors, all of whose elements must be a declared value; else nothing is written.

    Args:
        part: Its number among the tensors, from 0.
        shape: Its shape, as for `InsertConstant`. A name stands for any size, as the tensor itself says it.
        value: What must stand in all its elements, bit for bit; as for `Pad`.
    """

    part: int
    shape: tuple[Size, ...]
    value: Element = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", plain_element(self.value))
        Arguments.__post_init__(self)
        _refuse_open(self, self.value, OWN, ANY)
        _check_numbers(self, self.part, *self.shape, least=0)

    def lower(self, lanes: Lanes, context: Context) -> Lanes:
        """Leave out a tensor, and note what it must hold."""
        if self.part >= len(lanes) or len(lanes) < 2 or any(lane.indexed for lane in lanes):
            raise arity_error(f"{max(self.part + 1, 2)} tensors or more, none of them for each index", lanes)
        for value in lanes[self.part].values:
            if not agree(self.shape, value.shape):
                what = "the tensor that is left out has another shape"
                raise LayoutError("shape-mismatch", what, expected=str(list(self.shape)), got=str(list(value.shape)))
            context.declared.cut_off(value, self.value)
        return (*lanes[: self.part], *lanes[self.part + 1 :])

    def targets_before(self, context: Context) -> Context:
        """Return the context before it: with one target more, of the shape of what is left out, if that is known."""
        known = [_said(size, context.config) for size in self.shape]
        shape = tuple(size for size in known if size is not None)
        return _with_target(context, self.part, shape if len(shape) == len(known) else None)

    def inverse(self) -> InsertConstant:
        """Return the operation that puts the tensor in again.

        Raises:
            LayoutError: `operation-one-way` where it may have held anything.
        """
        _refuse_way_back(self.value)
        return InsertConstant(self.part, self.shape, self.value)
