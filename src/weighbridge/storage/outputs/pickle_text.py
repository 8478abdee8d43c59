"""Write pickles: what `torch.save` writes for dense tensors, and values as `pickles` reads them.

The instructions are those of protocol 2, which every version of torch reads, by `torch.load(weights_only=True)` too.
None is left to Python's own pickler, so that the text depends on nothing but the tensors.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Final

from weighbridge.base.specs import Shape
from weighbridge.storage.formats.pickles import Global, Made
from weighbridge.storage.formats.torch_pickles import Stored, storage_class

_PROTOCOL: Final = b"\x80\x02"
_START: Final = _PROTOCOL + b"}("
_END: Final = b"u."
_NO_HOOKS: Final = b"ccollections\nOrderedDict\n)R"
"""Every tensor is written with hooks for its backward pass, of which there are none."""


def pickle_tensors(tensors: Iterable[tuple[str, Stored]]) -> bytes:
    """Write a dict of tensors.

    Args:
        tensors: The tensors by key, in the order of the dict; each lies in a storage.

    Examples:
        >>> import io
        >>> from weighbridge.storage.formats.pickles import Bounded, read_pickle
        >>> from weighbridge.storage.formats.torch_pickles import Storage, read_tensor
        >>> stored = Stored(Storage("0", "float32", 6), "float32", 0, (2, 3), (3, 1))
        >>> raw = pickle_tensors([("w", stored)])
        >>> read_tensor(read_pickle(Bounded(io.BytesIO(raw), len(raw))).value["w"]) == stored
        True
    """
    return b"".join((_START, *(_text(key) + _tensor(stored) for key, stored in tensors), _END))


def pickle_tensor(stored: Stored) -> bytes:
    """Write one tensor, which lies in a storage.

    Examples:
        >>> import io
        >>> from weighbridge.storage.formats.pickles import Bounded, read_pickle
        >>> from weighbridge.storage.formats.torch_pickles import Storage, read_tensor
        >>> stored = Stored(Storage("0", "float8_e5m2", 6), "float8_e5m2", 0, (2, 3), (3, 1))
        >>> raw = pickle_tensor(stored)
        >>> read_tensor(read_pickle(Bounded(io.BytesIO(raw), len(raw))).value).shape
        (2, 3)
    """
    return _PROTOCOL + _tensor(stored) + b"."


def pickle_value(value: object) -> bytes:
    """Write a value as `pickles.read_pickle` gives it: plain ones, lists, tuples and dicts, `Global`, and `Made`.

    A `Made` with a state is an object of a class, which is given its fields; any other is a call.

    Examples:
        >>> import pickle
        >>> pickle.loads(pickle_value({"a": [1, None, (True, 2**40)], "b": Global("os.path", "join")}))["a"]
        [1, None, (True, 1099511627776)]
    """
    return b"".join((_PROTOCOL, *_value(value, {}), b"."))


def _value(value: object, known: dict[object, int]) -> Iterator[bytes]:
    """Yield the instructions that push a value; texts and names are remembered, and written once."""
    if isinstance(value, Made):
        yield from _made(value, known)
    elif isinstance(value, str | Global):
        yield from _remembered(value, known)
    elif isinstance(value, dict):
        yield b"}("
        for pair in value.items():
            for part in pair:
                yield from _value(part, known)
        yield b"u"
    elif isinstance(value, tuple | list):
        yield b"(" if isinstance(value, tuple) else b"]("
        for part in value:
            yield from _value(part, known)
        yield b"t" if isinstance(value, tuple) else b"e"
    elif value is None or isinstance(value, bool):
        yield {None: b"N", True: b"\x88", False: b"\x89"}[value]
    else:
        assert isinstance(value, int)
        yield _int(value)


def _made(value: Made, known: dict[object, int]) -> Iterator[bytes]:
    yield from _value(value.maker, known)
    yield from _value(value.arguments, known)
    if value.state is None:
        yield b"R"
        return
    yield b"\x81"
    yield from _value(value.state, known)
    yield b"b"


def _remembered(value: str | Global, known: dict[object, int]) -> Iterator[bytes]:
    number = known.get(value)
    if number is not None:
        yield b"j" + struct.pack("<I", number)
        return
    known[value] = len(known)
    yield _text(value) if isinstance(value, str) else _global(str(value))
    yield b"r" + struct.pack("<I", known[value])


def _tensor(stored: Stored) -> bytes:
    """Write the call that rebuilds a tensor; one of a dtype without a class of storages lies in bytes, and names it."""
    assert stored.storage is not None
    kind, is_own = storage_class(stored.dtype)
    name = b"_rebuild_tensor_v2" if is_own else b"_rebuild_tensor_v3"
    storage = (
        _tuple(_text("storage"), _global(kind), _text(stored.storage.key), _text("cpu"), _int(stored.storage.numel))
        + b"Q"
    )
    rest = (_int(stored.offset), _ints(stored.shape), _ints(stored.strides), b"\x89", _NO_HOOKS)
    dtype = b"" if is_own else _global(f"torch.{stored.dtype}")
    return b"ctorch._utils\n" + name + b"\n" + _tuple(storage, *rest, dtype) + b"R"


def _tuple(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def _ints(sizes: Shape) -> bytes:
    return _tuple(*map(_int, sizes))


def _int(number: int) -> bytes:
    """Write a number that is not negative, in as many bytes as it takes."""
    if number < 2**31:
        return b"J" + struct.pack("<i", number)
    size_bytes = number.bit_length() // 8 + 1
    return b"\x8a" + bytes([size_bytes]) + number.to_bytes(size_bytes, "little")


def _text(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def _global(name: str) -> bytes:
    module, _, last = name.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def row_major_strides(shape: Shape) -> Shape:
    """Return the strides of a dense tensor, in elements, as torch counts them.

    Examples:
        >>> row_major_strides((2, 3, 5)), row_major_strides((4, 0, 3)), row_major_strides(())
        ((15, 5, 1), (3, 3, 1), ())
    """
    strides = [1]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * max(1, size))
    return tuple(reversed(strides)) if shape else ()
