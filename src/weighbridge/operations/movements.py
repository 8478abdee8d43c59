"""Operations on each single tensor: they move its elements, and its dtype stays.

Each says what it does to a shape as a `Movement`; lowering, shape inference and the way back all come from that. The
names and arguments are those of the `transformers` library where it has the operation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from weighbridge.algebra.copies import solve_shape
from weighbridge.algebra.layout import checked_axis
from weighbridge.base.errors import LayoutError
from weighbridge.base.specs import Shape
from weighbridge.operations.configuration import has_config, read_config
from weighbridge.operations.rearrange import JOINED, Movement, Reordering, move, movement, parse, reverse, swap
from weighbridge.operations.values import MAX_WHOLE, Arguments, Context, Lane, brief


class Moving(Arguments):
    """What operations share that move the elements of each tensor by itself."""

    __slots__ = ()

    def movement(self, shape: Shape, name: str, wanted: Shape | None, config: object) -> Movement | Reordering:
        """Return the movement of one tensor.

        Args:
            shape: The tensor's shape.
            name: Text of the pattern that it comes from or goes to.
            wanted: Shape that its target must have, if known.
            config: The model's configuration.
        """
        raise NotImplementedError

    def inverse(self) -> Moving:
        """Return the operation that moves the elements back.

        Raises:
            LayoutError: `operation-one-way`.
        """
        raise NotImplementedError

    def lower(self, lanes: tuple[Lane, ...], context: Context) -> tuple[Lane, ...]:
        """Move each value of each lane."""
        moved = []
        for number, lane in enumerate(lanes):
            values = []
            for index, value in enumerate(lane.values):
                wanted = context.shape(number, index) if len(lanes) == len(context.targets) else None
                change = self.movement(value.shape, lane.name, wanted, context.config)
                values.append(replace(value, layout=move(value.layout, change)))
            moved.append(replace(lane, values=tuple(values)))
        return tuple(moved)


def _identity(shape: Shape, joined: Shape | None = None) -> Movement:
    return Movement(shape, tuple(range(len(shape))), shape if joined is None else joined)


def _swap_parts(shape: Shape, axis: int, parts: tuple[int, ...], order: tuple[int, ...]) -> Movement:
    """Split one axis into parts, reorder those, and join them to the same axis."""
    split = (*shape[:axis], *parts, *shape[axis + 1 :])
    after = range(axis + len(parts), len(split))
    return Movement(split, (*range(axis), *(axis + part for part in order), *after), shape)


def _shape_error(what: str, expected: str, shape: Shape) -> LayoutError:
    return LayoutError("shape-mismatch", what, expected=expected, got=f"[{', '.join(map(str, shape))}]")


@dataclass(frozen=True, slots=True)
class Transpose(Moving):
    """Exchange two axes.

    Args:
        dim0: First axis.
        dim1: Second axis.
        check_dims: Exchange them only where the target's shape asks for it. Where the shape fits both ways, as that of
            a square matrix does, it cannot be known, and that is an error.

    Examples:
        >>> Transpose(0, 1).movement((2, 3), "", None, None).axes
        (1, 0)
    """

    dim0: int = 0
    dim1: int = 1
    check_dims: bool = False

    def movement(self, shape: Shape, name: str, wanted: Shape | None, config: object) -> Movement:
        """Exchange two entries of the shape."""
        axes = list(range(len(shape)))
        first, second = checked_axis(self.dim0, len(shape)), checked_axis(self.dim1, len(shape))
        axes[first], axes[second] = second, first
        exchanged = Movement(shape, tuple(axes), tuple(shape[axis] for axis in axes))
        if not self.check_dims or self._is_wanted(shape, exchanged.joined, wanted):
            return exchanged
        return _identity(shape)

    def _is_wanted(self, shape: Shape, exchanged: Shape, wanted: Shape | None) -> bool:
        if wanted is None:
            raise LayoutError("operation-argument", "check_dims needs to know the target's shape, and it is not known")
        if wanted not in (shape, exchanged):
            raise _shape_error("no order of the axes fits the target", f"[{', '.join(map(str, wanted))}]", shape)
        if shape == exchanged:
            raise LayoutError(
                "layout-ambiguous",
                "the shape fits with the axes exchanged and without",
                expected="a shape that differs when its axes are exchanged",
                got=f"[{', '.join(map(str, shape))}]",
                hint="say which it is: Transpose without check_dims, or no Transpose",
            )
        return wanted == exchanged

    def inverse(self) -> Transpose:
        """Return the same exchange."""
        return Transpose(self.dim1, self.dim0, self.check_dims)


@dataclass(frozen=True, slots=True)
class Permute(Moving):
    """Reorder the axes: axis `i` of the result is axis `dims[i]`.

    Examples:
        >>> Permute((2, 0, 1)).inverse()
        Permute(dims=(1, 2, 0))
    """

    dims: tuple[int, ...]

    def __post_init__(self) -> None:
        Arguments.__post_init__(self)
        axes = [checked_axis(axis, len(self.dims)) for axis in self.dims]
        if len(set(axes)) != len(axes):
            raise LayoutError("operation-argument", "an axis is named twice", got=repr(self))

    def movement(self, shape: Shape, name: str, wanted: Shape | None, config: object) -> Movement:
        """Reorder the shape."""
        if len(shape) != len(self.dims):
            raise _shape_error("the tensor has another number of axes", f"{len(self.dims)} axes", shape)
        axes = tuple(axis % len(shape) for axis in self.dims)
        return Movement(shape, axes, tuple(shape[axis] for axis in axes))

    def inverse(self) -> Permute:
        """Return the permutation that restores the order."""
        axes = [axis % len(self.dims) for axis in self.dims]
        return Permute(tuple(sorted(range(len(axes)), key=axes.__getitem__)))


@dataclass(frozen=True, slots=True)
class Reshape(Moving):
    """Give each tensor another shape; the row-major order of its elements stays.

    Args:
        shape: The new shape; one size may be -1.
        source_shape: The shape before, needed for the inverse alone.
    """

    shape: tuple[int, ...]
    source_shape: tuple[int, ...] | None = None

    def movement(self, shape: Shape, name: str, wanted: Shape | None, config: object) -> Movement:
        """Replace the shape."""
        if self.source_shape is not None and solve_shape(self.source_shape, prod(shape)) != shape:
            raise _shape_error("this is not the shape to start from", str(list(self.source_shape)), shape)
        return _identity(shape, solve_shape(self.shape, prod(shape)))

    def inverse(self) -> Reshape:
        """Return the reshape to `source_shape`.

        Raises:
            LayoutError: `operation-one-way`.
        """
        if self.source_shape is None:
            raise LayoutError(
                "operation-one-way", "a reshape does not know where it came from", hint="give it a source_shape"
            )
        return Reshape(self.source_shape, self.shape)


class Directed(Moving):
    """What movements share that have a flag `inverse`, which is kept as `is_inverse` beside the method."""

    __slots__ = ()

    def __repr__(self) -> str:
        form = self.to_dict()
        name = form.pop("operation")
        return f"{name}({', '.join(f'{argument}={value!r}' for argument, value in form.items())})"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form of an operation: its name and its arguments."""
        return {name.removeprefix("is_"): value for name, value in Moving.to_dict(self).items()}


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Interleave(Directed):
    """Gather what alternates along an axis into two halves; with `inverse`, let two halves alternate.

    Examples:
        >>> Interleave(0).movement((6, 5), "", None, None)
        Movement(split=(3, 2, 5), axes=(1, 0, 2), joined=(6, 5))
    """

    dim: int
    is_inverse: bool

    def __init__(self, dim: int = 0, inverse: bool = False) -> None:
        object.__setattr__(self, "dim", dim)
        object.__setattr__(self, "is_inverse", inverse)
        self.__post_init__()

    def movement(self, shape: Shape, name: str, wanted: Shape | None, config: object) -> Movement:
        """Exchange pairs and places in a pair."""
        axis = checked_axis(self.dim, len(shape))
        if shape[axis] % 2:
            raise LayoutError("split-unequal", f"axis {axis} has no two halves", got=f"size {shape[axis]}")
        forward = _swap_parts(shape, axis, (shape[axis] // 2, 2), (1, 0))
        return reverse(forward, shape) if self.is_inverse else forward

    def inverse(self) -> Interleave:
        """Return the operation that restores the order."""
        return Interleave(self.dim, not self.is_inverse)


@dataclass(frozen=True, slots=True, init=False, repr=False)
class PermuteForRope(Directed):
    """Turn rotary projections from pairs of neighbours to two halves per head; with `inverse`, the other way.

    It applies to weights (2 axes) and biases (1 axis). The number of heads is `num_heads`, or else the configuration's
    `num_attention_heads`; without one there is an error, as one head is never a good guess.

    Args:
        subconfig_key: Name of the nested configuration that has the number of heads; where there is none of that name,
            the configuration is that of the sub-model itself.
        permute_layer_names: Apply it only where one of these is part of the pattern's text; None for everywhere.
        inverse: Go from two halves to pairs.
        num_heads: Number of heads, or the name of the configuration's value for it, such as `"num_key_value_heads"`.
    """

    subconfig_key: str | None
    permute_layer_names: tuple[str, ...] | None
    is_inverse: bool
    num_heads: int | str | None

    def __init__(
        self,
        subconfig_key: str | None = None,
        permute_layer_names: Sequence[str] | None = None,
        inverse: bool = False,
        num_heads: int | str | None = None,
    ) -> None:
        object.__setattr__(self, "subconfig_key", subconfig_key)
        object.__setattr__(self, "permute_layer_names", permute_layer_names)
        object.__setattr__(self, "is_inverse", inverse)
        object.__setattr__(self, "num_heads", num_heads)
        self.__post_init__()

    def movement(self, shape: Shape, name: str, wanted: Shape | None, config: object) -> Movement:
        """Exchange pairs and places in a pair, inside each head."""
        if self.permute_layer_names is not None and not any(part in name for part in self.permute_layer_names):
            return _identity(shape)
        if len(shape) not in (1, 2):
            raise _shape_error("only weights and biases have rotary halves", "1 or 2 axes", shape)
        heads = self._count_heads(config)
        if heads < 1 or shape[0] % (2 * heads):
            raise LayoutError(
                "split-unequal", f"the rows do not divide into {heads} heads of pairs", got=f"{shape[0]} rows"
            )
        forward = _swap_parts(shape, 0, (heads, shape[0] // heads // 2, 2), (0, 2, 1))
        return reverse(forward, shape) if self.is_inverse else forward

    def _count_heads(self, config: object) -> int:
        if isinstance(self.num_heads, int):
            return self.num_heads
        name = self.num_heads or "num_attention_heads"
        if self.subconfig_key is None or (not has_config(config, self.subconfig_key) and has_config(config, name)):
            return read_config(config, name)
        return read_config(config, f"{self.subconfig_key}.{name}")

    def inverse(self) -> PermuteForRope:
        """Return the operation that restores the order."""
        return PermuteForRope(self.subconfig_key, self.permute_layer_names, not self.is_inverse, self.num_heads)


@dataclass(frozen=True, slots=True)
class Conv3dToLinear(Moving):
    """Flatten the kernel of a 3-d convolution to the matrix of a linear layer."""

    in_channels: int
    kernel_size: tuple[int, int, int]

    def movement(self, shape: Shape, name: str, wanted: Shape | None, config: object) -> Movement:
        """Join all axes but the first."""
        kernel = (self.in_channels, *self.kernel_size)
        if shape[1:] != kernel or not shape:
            raise _shape_error("this is not the convolution's kernel", f"[out, {', '.join(map(str, kernel))}]", shape)
        return _identity(shape, (shape[0], prod(kernel)))

    def inverse(self) -> LinearToConv3d:
        """Return the operation that restores the kernel."""
        return LinearToConv3d(self.in_channels, self.kernel_size)


@dataclass(frozen=True, slots=True)
class LinearToConv3d(Moving):
    """Give the matrix of a linear layer the shape of a 3-d convolution's kernel."""

    in_channels: int
    kernel_size: tuple[int, int, int]

    def movement(self, shape: Shape, name: str, wanted: Shape | None, config: object) -> Movement:
        """Split the last axis."""
        kernel = (self.in_channels, *self.kernel_size)
        if len(shape) != 2 or shape[1] != prod(kernel):
            raise _shape_error("this is not the matrix of the convolution", f"[out, {prod(kernel)}]", shape)
        source = (shape[0], *kernel)
        return reverse(self.inverse().movement(source, name, None, config), source)

    def inverse(self) -> Conv3dToLinear:
        """Return the operation that flattens the kernel."""
        return Conv3dToLinear(self.in_channels, self.kernel_size)


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Rearrange(Moving):
    """Split, permute and join axes by a pattern of their names, `"(h two d) c -> (two h d) c"`.

    Args:
        pattern: The axes before and after; brackets hold the parts of one axis, `...` stands for any further axes,
            which a bracket on the right joins.
        lengths: Sizes of named axes, or names of the configuration's values for them (dots lead into nested ones). In
            each bracket on the left one size may be left out.

    Examples:
        >>> Rearrange("(h two d) c -> (two h d) c", two=2, h="num_attention_heads").inverse()
        Rearrange('(two h d) c -> (h two d) c', h='num_attention_heads', two=2)
    """

    pattern: str
    lengths: tuple[tuple[str, int | str], ...]

    def __init__(self, pattern: str, /, **lengths: int | str) -> None:
        if not isinstance(pattern, str):
            raise LayoutError("operation-argument", "a pattern is a text", got=repr(pattern))
        object.__setattr__(self, "pattern", pattern)
        object.__setattr__(self, "lengths", tuple(sorted(lengths.items())))
        names = {name for side in parse(pattern) for axis in side for name in axis}
        for name, length in self.lengths:
            named = isinstance(length, str) and bool(length)
            counted = isinstance(length, int) and not isinstance(length, bool) and 0 < length < MAX_WHOLE
            if name not in names or not (named or counted):
                raise LayoutError(
                    "operation-argument",
                    f"no axis has this length, or none the name {name!r}",
                    got=f"{name}={brief(length)}",
                )

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form of an operation: its name and its arguments."""
        return {"operation": "Rearrange", "pattern": self.pattern, "lengths": dict(self.lengths)}

    def __repr__(self) -> str:
        return f"Rearrange({', '.join([repr(self.pattern), *(f'{name}={size!r}' for name, size in self.lengths)])})"

    def movement(self, shape: Shape, name: str, wanted: Shape | None, config: object) -> Movement:
        """Solve the pattern for the shape."""
        return movement(self.pattern, shape, self._sizes(config))

    def _sizes(self, config: object) -> Mapping[str, int]:
        return {name: size if isinstance(size, int) else read_config(config, size) for name, size in self.lengths}

    def inverse(self) -> Rearrange:
        """Return the pattern read from right to left.

        Raises:
            LayoutError: `operation-one-way` when a bracket on the right has more than one size left out.
        """
        known = {name for name, _ in self.lengths}
        for axis in parse(self.pattern).target:
            unknown = [part for part in axis if part not in known]
            if JOINED in axis:
                raise LayoutError(
                    "operation-one-way",
                    "how many axes '...' stands for, and how long they are, cannot be found on the way back",
                    hint="name the axes that the bracket joins, in place of its '...'",
                )
            if len(unknown) > 1:
                raise LayoutError(
                    "operation-one-way",
                    f"the sizes of {' and '.join(unknown)} cannot be found on the way back",
                    hint=f"give a length for {unknown[0]!r}",
                )
        return Rearrange(swap(self.pattern), **dict(self.lengths))
