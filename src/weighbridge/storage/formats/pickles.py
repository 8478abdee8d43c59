"""Read a pickle for what it says, and run none of it.

A pickle is a program: it names functions and classes, calls them, and sets what they made. Here its values are plain
ones, and whatever it would call becomes a `Made`, which says what would have been called with what. Nothing is looked
up by its name, nothing is called, so nothing that a pickle holds can do anything. The work and the memory are linear in
the pickle's size: nothing is walked, copied or hashed but plain values.

The instructions are those of Python's own `pickletools` (protocols 0 to 5), which also decodes their arguments, but for
those that a large pickle has most of.
"""

from __future__ import annotations

import pickletools
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import IO, Any, Final, NamedTuple

from weighbridge.base.errors import CheckpointError
from weighbridge.base.process.collecting import without_collection


class Global(NamedTuple):
    """A function or a class, by the name that a pickle has for it."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False)
class Made:
    """What a pickle would make by a call.

    Args:
        maker: What it would call: a `Global`, if it is a sound one.
        arguments: What it would call it with: a tuple, if it is a sound one.
        state: What it would set on the result.
        items: What it would put into the result as into a dict.
    """

    maker: object
    arguments: object = ()
    state: object = None
    items: dict[Any, Any] = field(default_factory=dict)


class Outside(NamedTuple):
    """A value that lies outside of the pickle, by whatever names it there."""

    name: object


class Pickled(NamedTuple):
    """What a pickle says.

    Args:
        value: Its value: plain ones, lists, tuples and dicts of them, `Made`, `Global` and `Outside`.
        globals: Every function and class that it names.
        outside: Every value outside of it that it names.
    """

    value: Any
    globals: tuple[Global, ...]
    outside: tuple[Outside, ...]


class Bounded:
    """A file whose reads never ask for more bytes than it has, whatever a pickle claims.

    Args:
        file: The file.
        size_bytes: Its size.
    """

    def __init__(self, file: IO[bytes], size_bytes: int) -> None:
        self._file = file
        self._size_bytes = size_bytes
        self.readline = file.readline
        self.read_few = file.read
        """Reads at most so many bytes, where that is a number of ours and none that a pickle claims."""

    def read(self, size_bytes: int) -> bytes:
        """Read at most so many bytes."""
        return self._file.read(min(size_bytes, self._size_bytes))


@without_collection()
def read_pickle(file: Bounded) -> Pickled:
    """Read one pickle, up to its end.

    Args:
        file: Stands where the pickle begins; afterwards, where it ends.

    Raises:
        CheckpointError: `pickle-invalid`, without the place.

    Examples:
        >>> import io, pickle
        >>> raw = pickle.dumps({"a": print})
        >>> read_pickle(Bounded(io.BytesIO(raw), len(raw))).value
        {'a': Global(module='builtins', name='print')}
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in names
            return _Machine().run(file)
    except CheckpointError:
        raise
    except LookupError:
        raise invalid("it takes more than there is") from None
    except (ValueError, TypeError, OverflowError, struct.error) as error:
        raise invalid(str(error).partition("\n")[0][:120]) from None


def invalid(got: str) -> CheckpointError:
    """Return the error for a pickle that is none."""
    return CheckpointError("pickle-invalid", "the pickle cannot be read", got=got)


_PLAIN: Final = (str, int, float, bool, bytes, type(None), Global, Made)


def _key(value: object) -> object:
    """Return a value as the key of a dict; what is not plain is told by its identity, as a hash would walk into it."""
    return value if isinstance(value, _PLAIN) else Made(Global("builtins", type(value).__name__), (value,))


class _Machine:
    """The stack, the marks on it, and the memo of one pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.globals: dict[Global, None] = {}
        self.outside: list[Outside] = []

    def run(self, file: Bounded) -> Pickled:
        """Follow the instructions up to the last one."""
        read, steps = file.read_few, _STEPS
        while True:
            code = read(1)
            if code == _STOP:
                return Pickled(self.stack.pop(), tuple(self.globals), tuple(self.outside))
            found = steps.get(code)
            if found is None:
                raise invalid("an unknown instruction" if code else "it has no end")
            follow, decode = found
            if decode is None:
                follow(self)
            else:
                follow(self, decode(file))

    def push(self, value: object) -> None:
        """Push a value."""
        self.stack.append(value)

    def get(self, number: int) -> None:
        """Push what is remembered under a number."""
        self.stack.append(self.memo[number])

    def put(self, number: int) -> None:
        """Remember the last value under a number."""
        self.memo[number] = self.stack[-1]

    def mark(self) -> None:
        """Remember this place of the stack."""
        self.marks.append(len(self.stack))

    def since_mark(self) -> list[Any]:
        """Take what was pushed since the last mark."""
        return self.take(len(self.stack) - self.marks.pop())

    def take(self, count: int) -> list[Any]:
        """Take the last values."""
        start = len(self.stack) - count
        if start < 0:
            raise invalid("it takes more than there is")
        found = self.stack[start:]
        del self.stack[start:]
        return found

    def drop(self) -> None:
        """Take the last value, or the mark that stands there."""
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.take(1)

    def memoize(self) -> None:
        """Remember the last value under the next number."""
        self.memo[len(self.memo)] = self.stack[-1]

    def name_global(self, module: object, name: object) -> None:
        """Push a function or a class."""
        if type(module) is not str or type(name) is not str:
            raise invalid("a name is no text")
        found = Global(module, name)
        self.globals[found] = None
        self.stack.append(found)

    def name_outside(self, name: object) -> None:
        """Push a value outside of the pickle."""
        self.outside.append(Outside(name))
        self.stack.append(self.outside[-1])

    def make(self, maker: object, arguments: object) -> None:
        """Push what a call would make."""
        self.stack.append(Made(maker, arguments))

    def make_named(self, names: str, arguments: list[Any]) -> None:
        """Push what a call would make, whose function is named in the instruction."""
        self.name_global(*names.split(" ", 1))
        self.make(self.stack.pop(), tuple(arguments))

    def build(self) -> None:
        """Give a made value its state; a plain one has none."""
        (state,) = self.take(1)
        if isinstance(self.stack[-1], Made):
            self.stack[-1].state = state

    def append(self, values: list[Any]) -> None:
        """Add values to the list, or to what was made and takes values, which stand under their numbers there."""
        target = self.stack[-1]
        if type(target) is list:
            target += values
        elif isinstance(target, Made):
            target.items.update(enumerate(values, len(target.items)))
        else:
            raise invalid("a value is added to something that holds none")

    def set_items(self, values: list[Any]) -> None:
        """Set items of the dict, or of what was made and takes items."""
        target = self.stack[-1]
        items = target.items if isinstance(target, Made) else target
        if type(items) is not dict:
            raise invalid("an item is set in something that has none")
        items.update((_key(name), value) for name, value in zip(values[::2], values[1::2], strict=True))

    def new_dict(self, values: list[Any]) -> None:
        """Push a dict of items."""
        self.stack.append({})
        self.set_items(values)


_VALUES: Final = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
    | {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
    | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
)
_GETS: Final = frozenset({"GET", "BINGET", "LONG_BINGET"})
_PUTS: Final = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_IGNORED: Final = frozenset({"PROTO", "FRAME"})
_NEW: Final[dict[str, Callable[[], object]]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": lambda: Made(Global("builtins", "set")),
}
_OTHERS: Final[dict[str, Callable[[_Machine], None]]] = {
    "MARK": _Machine.mark,
    "POP": _Machine.drop,
    "POP_MARK": lambda machine: machine.since_mark().clear(),
    "DUP": lambda machine: machine.stack.append(machine.stack[-1]),
    "MEMOIZE": _Machine.memoize,
    "TUPLE": lambda machine: machine.stack.append(tuple(machine.since_mark())),
    "TUPLE1": lambda machine: machine.stack.append(tuple(machine.take(1))),
    "TUPLE2": lambda machine: machine.stack.append(tuple(machine.take(2))),
    "TUPLE3": lambda machine: machine.stack.append(tuple(machine.take(3))),
    "LIST": lambda machine: machine.stack.append(machine.since_mark()),
    "FROZENSET": lambda machine: machine.make(Global("builtins", "frozenset"), (machine.since_mark(),)),
    "DICT": lambda machine: machine.new_dict(machine.since_mark()),
    "APPEND": lambda machine: machine.append(machine.take(1)),
    "APPENDS": lambda machine: machine.append(machine.since_mark()),
    "ADDITEMS": lambda machine: machine.append(machine.since_mark()),
    "SETITEM": lambda machine: machine.set_items(machine.take(2)),
    "SETITEMS": lambda machine: machine.set_items(machine.since_mark()),
    "STACK_GLOBAL": lambda machine: machine.name_global(*machine.take(2)),
    "REDUCE": lambda machine: machine.make(*machine.take(2)),
    "NEWOBJ": lambda machine: machine.make(*machine.take(2)),
    "NEWOBJ_EX": lambda machine: machine.make(*machine.take(3)[:2]),
    "OBJ": lambda machine: machine.make(*_headed(machine.since_mark())),
    "BUILD": _Machine.build,
    "BINPERSID": lambda machine: machine.name_outside(*machine.take(1)),
}
"""What each instruction without an argument does, but those that push a new value."""

_NAMED: Final[dict[str, Callable[[_Machine, str], None]]] = {
    "GLOBAL": lambda machine, names: machine.name_global(*names.split(" ", 1)),
    "INST": lambda machine, names: machine.make_named(names, machine.since_mark()),
    "PERSID": _Machine.name_outside,
}
"""What each instruction does that has a name as its argument."""


def _headed(values: list[Any]) -> tuple[object, object]:
    return values[0], tuple(values[1:])


# How instructions are followed


def _push_new(make: Callable[[], object], machine: _Machine) -> None:
    machine.push(make())


def _refuse(name: str, *_: object) -> None:
    raise invalid(f"the instruction {name}")


def _pass_over(*_: object) -> None:
    """Do nothing."""


def _choose_step(name: str) -> Callable[..., None]:
    if name in _NEW:
        return partial(_push_new, _NEW[name])
    for names, step in ((_VALUES, _Machine.push), (_GETS, _Machine.get), (_PUTS, _Machine.put), (_IGNORED, _pass_over)):
        if name in names:
            return step
    return _OTHERS.get(name) or _NAMED.get(name) or partial(_refuse, name)


def _read_uint1(file: Bounded) -> int:
    return file.read_few(1)[0]


def _read_uint2(file: Bounded) -> int:
    found: int = _UINT2.unpack(file.read_few(2))[0]
    return found


def _read_int4(file: Bounded) -> int:
    found: int = _INT4.unpack(file.read_few(4))[0]
    return found


def _read_uint4(file: Bounded) -> int:
    found: int = _UINT4.unpack(file.read_few(4))[0]
    return found


def _read_text1(file: Bounded) -> str:
    size_bytes = file.read_few(1)[0]
    raw = file.read_few(size_bytes)
    if len(raw) < size_bytes:
        raise invalid("it ends within a text")
    return raw.decode("utf-8", "surrogatepass")


_UINT2: Final = struct.Struct("<H")
_INT4: Final = struct.Struct("<i")
_UINT4: Final = struct.Struct("<I")
_DECODED: Final[dict[str, Callable[[Bounded], Any]]] = {
    "uint1": _read_uint1,
    "uint2": _read_uint2,
    "int4": _read_int4,
    "uint4": _read_uint4,
    "unicodestring1": _read_text1,
}
"""The arguments that nearly all instructions of a large pickle have; `pickletools` takes several times as long."""

_STOP: Final = b"."
_STEPS: Final[dict[bytes, tuple[Callable[..., None], Callable[[Any], Any] | None]]] = {
    code.code.encode("latin-1"): (
        _choose_step(code.name),
        None if code.arg is None else _DECODED.get(code.arg.name, code.arg.reader),
    )
    for code in pickletools.opcodes
}
"""What follows each instruction, and what decodes its argument, if it has one."""
