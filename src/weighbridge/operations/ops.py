"""Operations as values: the closed union of them, and their JSON form.

An operation is a frozen value with two methods: `lower(lanes, context)` gives the lanes it makes, whose layouts hold
both shapes and copies, and `inverse()` gives the operation that undoes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any, Final, get_args

from weighbridge.base.errors import LayoutError, WeighbridgeError
from weighbridge.operations.casting import Cast
from weighbridge.operations.chains import say_sizes
from weighbridge.operations.chosen_parts import On, Single
from weighbridge.operations.declaring.padding import InsertConstant, Pad, RemoveConstant, Trim
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
from weighbridge.operations.values import brief

Operation = (
    Cast
    | Chunk
    | Concatenate
    | Conv3dToLinear
    | ErnieFuseAndSplitTextVisionExperts
    | ErnieSplitAndDecoupleTextVisionExperts
    | InsertConstant
    | Interleave
    | LinearToConv3d
    | MergeEqual
    | MergeModulelist
    | On
    | Pad
    | Permute
    | PermuteForRope
    | Rearrange
    | RemoveConstant
    | Reorder
    | Repeat
    | Reshape
    | Split
    | SplitModulelist
    | Transpose
    | Trim
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
