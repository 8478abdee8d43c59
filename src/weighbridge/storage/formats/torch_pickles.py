"""What `torch.save` writes for a tensor, and for all else that may stand beside tensors.

A tensor is a view of a storage, which lies outside of the pickle: `torch._utils._rebuild_tensor_v2` and its kin, called
with the storage, an offset, sizes and strides (torch/_tensor.py, `_reduce_ex_internal`; torch/_utils.py). None of them
is called here: their arguments say it all.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from weighbridge.base.errors import CheckpointError
from weighbridge.base.specs import Shape
from weighbridge.storage.formats.pickles import Global, Made, Outside


class Storage(NamedTuple):
    """A storage of a torch file.

    Args:
        key: What the file calls it.
        dtype: Name of its elements' dtype in torch.
        numel: Number of its elements.
        start: Where it begins in the storage of that name, in elements; old files have views of storages.
    """

    key: str
    dtype: str
    numel: int
    start: int = 0


class Stored(NamedTuple):
    """A tensor that lies in a torch file, as a view of a storage; one of the meta device lies in none.

    Args:
        storage: Where its elements lie; None for a meta tensor.
        dtype: Name of its dtype in torch.
        offset: Its first element, counted from the storage's start.
        shape: Sizes of its axes.
        strides: Strides of its axes, in elements.
        is_conj: Whether its elements are the conjugates of what lies there.
        is_neg: Whether they are the negatives.
    """

    storage: Storage | None
    dtype: str
    offset: int
    shape: Shape
    strides: Shape
    is_conj: bool = False
    is_neg: bool = False


class Strange(NamedTuple):
    """A tensor without dense memory in the file, by its kind."""

    what: str


UNSAFE_HINT: Final = "convert it with the program that wrote it, and only if you trust its origin"

_STORAGES: Final = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
    "QInt8Storage": "qint8",
    "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32",
    "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
}
"""The dtype of each class of storages."""

_CLASSES: Final = {dtype: name for name, dtype in _STORAGES.items() if name != "UntypedStorage"}


def storage_class(dtype: str) -> tuple[str, bool]:
    """Return the class of storages that torch writes elements of a dtype in, and whether it is the dtype's own.

    Examples:
        >>> storage_class("bfloat16"), storage_class("float8_e5m2")
        (('torch.BFloat16Storage', True), ('torch.storage.UntypedStorage', False))
    """
    own = _CLASSES.get(dtype)
    return (f"torch.{own}", True) if own else ("torch.storage.UntypedStorage", False)


_WRAPPING: Final = frozenset(
    {
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state",
        "torch._utils._rebuild_device_tensor_from_cpu_tensor",
        "torch.nn.parameter.Parameter",
        "torch.nn.parameter.Buffer",
    }
)
"""Calls whose first argument is the tensor itself."""

_TYPED: Final = frozenset({"torch._tensor._rebuild_from_type", "torch._tensor._rebuild_from_type_v2"})
"""Calls of a function, a class, and the function's arguments: a tensor with attributes, or of a class of its own."""

_DENSE: Final = frozenset(
    {"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3"}
)
_META: Final = "torch._utils._rebuild_meta_tensor_no_storage"
_OTHERS: Final = {
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_qtensor": "a quantised tensor",
    "torch._utils._rebuild_nested_tensor": "a nested tensor",
    "torch.nested._internal.nested_tensor._rebuild_njt": "a nested tensor",
    "torch._utils._rebuild_wrapper_subclass": "a tensor of a class without memory of its own",
    "torch._utils._rebuild_device_tensor_from_numpy": "a tensor of another device",
}
_NESTED_CALLS: Final = 8
"""How many calls around a tensor are looked into."""

_DICTS: Final = frozenset({"collections.OrderedDict", "collections.defaultdict", "builtins.dict", "__builtin__.dict"})


def read_tensor(value: object) -> Stored | Strange | None:
    """Return the tensor that a value of a torch pickle is, or describes already; None for anything else.

    Raises:
        CheckpointError: `pickle-invalid` for one that is not described as torch does it; without the place.
    """
    if isinstance(value, Stored):
        return value
    for _ in range(_NESTED_CALLS):
        if not isinstance(value, Made) or not isinstance(value.maker, Global):
            return None
        call = _name_of(value.maker).replace("torch.tensor.", "torch._tensor.")
        arguments = value.arguments if isinstance(value.arguments, tuple) else ()
        if call in _DENSE:
            return _read_dense(arguments)
        if call == _META:
            return _read_meta(arguments)
        if call in _TYPED and len(arguments) >= 3:
            if _name_of(arguments[0]) == "torch._utils._rebuild_wrapper_subclass":
                return Strange(f"a {_last(arguments[1])}")
            value = Made(arguments[0], arguments[2])
        elif call in _WRAPPING and arguments:
            value = arguments[0]
        else:
            return _read_other(call)
    return None


def _read_other(call: str) -> Strange | None:
    """Recognise torch's own tensors of other kinds by the name of what makes them."""
    if call in _OTHERS:
        return Strange(_OTHERS[call])
    is_tensor = call.startswith("torch.") and call.endswith(("Tensor", "Parameter", "Buffer"))
    return Strange(f"a {call.rpartition('.')[2]}") if is_tensor else None


def _name_of(value: object) -> str:
    """Return the name of a function or a class; nothing for other values, whose text could be endless."""
    return str(value) if isinstance(value, Global) else ""


def _last(name: object) -> str:
    return name.name if isinstance(name, Global) else "tensor of a class without memory of its own"


def _read_dense(arguments: tuple[Any, ...]) -> Stored:
    if len(arguments) < 4:
        raise _unsound()
    storage = read_storage(arguments[0])
    typed = arguments[6] if len(arguments) > 6 and isinstance(arguments[6], Global) else None
    flags = next((found for found in arguments[6:] if type(found) is dict), {})
    shape, strides = sizes_of(arguments[2]), sizes_of(arguments[3])
    if len(shape) != len(strides):
        raise _unsound()
    (offset,) = sizes_of((arguments[1],))
    dtype = storage.dtype if typed is None else typed.name
    return Stored(storage, dtype, offset, shape, strides, flags.get("conj") is True, flags.get("neg") is True)


def _read_meta(arguments: tuple[Any, ...]) -> Stored:
    if len(arguments) < 3 or not isinstance(arguments[0], Global):
        raise _unsound()
    return Stored(None, arguments[0].name, 0, sizes_of(arguments[1]), sizes_of(arguments[2]))


def read_storage(value: object) -> Storage:
    """Return the storage that a value outside of the pickle is.

    Raises:
        CheckpointError: `pickle-invalid`, `pickle-unsafe` for the code of a module; without the place.
    """
    name = value.name if isinstance(value, Outside) else None
    if type(name) is tuple and name[:1] == ("module",):
        raise CheckpointError("pickle-unsafe", "the pickle holds a module with its code", hint=UNSAFE_HINT)
    if type(name) is not tuple or len(name) < 5 or name[0] != "storage":
        raise _unsound()
    _, kind, key, _, numel, *view = name
    if not isinstance(kind, Global) or type(key) is not str:
        raise _unsound()
    # One of a class that nobody knows may belong to nothing that is asked for.
    dtype = _STORAGES.get(kind.name, kind.name)
    (numel,) = sizes_of((numel,))
    if view and type(view[0]) is tuple and len(view[0]) == 3:
        start, numel = sizes_of(view[0][1:])
        return Storage(key, dtype, numel, start)
    return Storage(key, dtype, numel)


def sizes_of(value: object) -> Shape:
    """Return sizes, offsets or strides, none of which may be negative or beyond 63 bits.

    Raises:
        CheckpointError: `pickle-invalid`, without the place.
    """
    if isinstance(value, Made) and _name_of(value.maker) == "torch.Size" and isinstance(value.arguments, tuple):
        value = value.arguments[0] if value.arguments else ()
    sizes = tuple(value) if isinstance(value, (tuple, list)) else (None,)
    if not all(type(size) is int and 0 <= size < 2**63 for size in sizes):
        raise _unsound()
    return sizes


def _unsound() -> CheckpointError:
    return CheckpointError("pickle-invalid", "a tensor is not described as torch does it")


def items_of(value: object) -> dict[Any, Any] | None:
    """Return the items of a dict, or of what a pickle fills like one; None for anything else."""
    if type(value) is dict:
        return value
    if not isinstance(value, Made):
        return None
    if _name_of(value.maker) not in _DICTS:
        return value.items or None
    return {**dict(_first_items(value.arguments)), **value.items}


def _first_items(arguments: object) -> Iterator[tuple[Any, Any]]:
    """Yield the items that a dict is made with, as old pickles do it: a list of pairs."""
    given = arguments[0] if type(arguments) is tuple and arguments else ()
    for pair in given if type(given) is list else ():
        if type(pair) in (list, tuple) and len(pair) == 2 and type(pair[0]) is str:
            yield pair[0], pair[1]


_GENERAL: Final = frozenset({"_reconstructor", "_reconstruct"})
"""Functions that make a value of the class that is their first argument."""


def describe(value: object) -> str:
    """Name the code that would make a value, which is not run; empty for plain ones, and for torch's sizes and devices.

    Examples:
        >>> describe(Made(Global("argparse", "Namespace"))), describe(Global("torch", "float16"))
        ('argparse.Namespace', '')
    """
    named = value.maker if isinstance(value, Made) else value
    if isinstance(value, Made) and isinstance(named, Global) and named.name in _GENERAL:
        named = next(iter(value.arguments), named) if isinstance(value.arguments, tuple) else named
    if isinstance(named, Global):
        return "" if named.module == "torch" or str(named) in _DICTS else str(named)[:80]
    return "unnamed code" if isinstance(value, Made) else ""


# What no checkpoint needs

_OPENERS: Final = frozenset({"_io.open", "_io.open_code", "_io.FileIO"})
"""What opens files, among what is harmless otherwise; Python's own `open` has this name from 3.13 on."""

_HARMLESS: Final = frozenset(
    {"argparse", "array", "collections", "dataclasses", "datetime", "decimal", "enum", "fractions", "ipaddress"}
    | {"itertools", "logging", "numbers", "pathlib", "random", "re", "threading", "time", "types", "typing", "uuid"}
    | {"_codecs", "_io", "_operator", "codecs", "copyreg", "copy_reg", "functools", "operator", "zoneinfo"}
)
"""Modules of Python's own whose values stand beside weights: settings, paths, times."""
_HARMLESS_BUILTINS: Final = frozenset(
    {"bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "long", "object", "range"}
    | {"set", "slice", "str", "tuple", "type", "unicode", "xrange", "getattr", "Ellipsis", "NotImplemented"}
)


def forbidden(names: Iterable[Global]) -> Global | None:
    """Return the first function or class that has no place beside weights: of Python's own library, and no value of it.

    Examples:
        >>> forbidden([Global("argparse", "Namespace"), Global("os", "system")])
        Global(module='os', name='system')
    """
    return next((name for name in names if _is_forbidden(name)), None)


def _is_forbidden(name: Global) -> bool:
    root = name.module.split(".")[0]
    if root in ("builtins", "__builtin__"):
        return name.name not in _HARMLESS_BUILTINS and not name.name.endswith(("Error", "Exception", "Warning"))
    if str(name) in _OPENERS:
        return True
    return root not in _HARMLESS and (root in sys.stdlib_module_names or root == "commands")
