"""Operations as values: the closed union of them, and their JSON form.

An operation is a frozen value with two methods: `lower(lanes, context)` gives the lanes it makes, whose layouts hold
both shapes and copies, and `inverse()` gives the operation that undoes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final, get_args

from weighbridge.base.errors import LayoutError, WeighbridgeError
from weighbridge.base.specs import dtype_named, widens_exactly
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
    Permute,
    PermuteForRope,
    Rearrange,
    Reshape,
    Transpose,
)
from weighbridge.operations.reordering import Reorder
from weighbridge.operations.replicas import MergeEqual, Repeat
from weighbridge.operations.values import Arguments, Context, Lane, Value


@dataclass(frozen=True, slots=True)
class Cast(Arguments):
    """Give each tensor another dtype; the copies convert what they move.

    Args:
        dtype: The new dtype: a safetensors code or a torch name.
        source_dtype: The dtype before, needed for the inverse alone.

    Examples:
        >>> Cast("float32", "bfloat16").inverse()
        Cast(dtype='BF16', source_dtype='F32')
    """

    dtype: str
    source_dtype: str | None = None

    def __post_init__(self) -> None:
        Arguments.__post_init__(self)
        for name in ("dtype", "source_dtype"):
            given = getattr(self, name)
            if given is not None:
                object.__setattr__(self, name, _code(given))

    def lower(self, lanes: tuple[Lane, ...], context: Context) -> tuple[Lane, ...]:
        """Change each value's dtype."""
        return tuple(replace(lane, values=tuple(map(self._cast, lane.values))) for lane in lanes)

    def _cast(self, value: Value) -> Value:
        if self.source_dtype not in (None, value.dtype):
            raise LayoutError(
                "dtype-mismatch", "the tensor has another dtype", expected=str(self.source_dtype), got=value.dtype
            )
        if value.dtype == self.dtype:
            return value
        if value.is_rounded:
            raise LayoutError("operation-argument", "a second cast would lose the first one's rounding; use lower()")
        return Value(value.layout, self.dtype, is_rounded=not widens_exactly(value.dtype, self.dtype))

    def inverse(self) -> Cast:
        """Return the cast back to `source_dtype`.

        Raises:
            LayoutError: `operation-one-way`.
        """
        if self.source_dtype is None:
            raise LayoutError(
                "operation-one-way", "a cast does not know what it came from", hint="give it a source_dtype"
            )
        return Cast(self.source_dtype, self.dtype)


def _code(name: str) -> str:
    try:
        return dtype_named(name).code
    except WeighbridgeError as error:
        raise LayoutError("operation-argument", "this is no dtype", expected=error.expected, got=repr(name)) from None


Operation = (
    Cast
    | Chunk
    | Concatenate
    | Conv3dToLinear
    | ErnieFuseAndSplitTextVisionExperts
    | ErnieSplitAndDecoupleTextVisionExperts
    | Interleave
    | LinearToConv3d
    | MergeEqual
    | MergeModulelist
    | Permute
    | PermuteForRope
    | Rearrange
    | Reorder
    | Repeat
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
        Chunk(dim=1, num_shards_attribute=None)
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
        if cls is Rearrange:
            return make(arguments.pop("pattern"), **arguments.pop("lengths", {}), **arguments)
        return make(**arguments)
    except (TypeError, KeyError):
        expected = ", ".join(field.name.removeprefix("is_") for field in fields(cls))
        raise LayoutError("operation-argument", f"{cls.__name__} takes other arguments", expected=expected) from None


def invert(operations: Iterable[Operation]) -> tuple[Operation, ...]:
    """Return the operations that undo a list of them.

    Raises:
        LayoutError: `operation-one-way`.

    Examples:
        >>> invert([MergeModulelist(0), Concatenate(1)])
        (Chunk(dim=1, num_shards_attribute=None), SplitModulelist(dim=0))
    """
    inverses: list[Operation] = []
    for operation in operations:
        try:
            inverses.append(operation.inverse())
        except WeighbridgeError as error:
            raise error.with_context(because=repr(operation)) from None
    return tuple(reversed(inverses))
