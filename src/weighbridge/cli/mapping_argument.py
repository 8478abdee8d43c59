"""Read the argument MAPPING: a registered name, a mapping file, a Python file, or a mapping's JSON form."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from weighbridge.base.errors import MappingError, WeighbridgeError
from weighbridge.base.hashes import sha256_of
from weighbridge.base.nearby import close_names
from weighbridge.mappings.finding import find_named
from weighbridge.mappings.mapping import Mapping, as_mapping
from weighbridge.mappings.mapping_files import is_mapping_file, load_mapping as load_file
from weighbridge.mappings.mapping_files.documents import read_bytes


def load_argument(text: str) -> Mapping:
    """Find the mapping that an argument names.

    Args:
        text: A registered name; ``path.yaml``, a mapping file; ``path.py:NAME``, where NAME is a `Mapping`, a list of
            transforms, or a function without arguments that returns one of them; ``path.py``, if it holds just one
            `Mapping`; or ``path.json``, a mapping's JSON form.

    Returns:
        The mapping; one without a name is called NAME.

    Raises:
        RegistryError: `mapping-not-found`.
        MappingError: `mapping-file`, with the line of the file that is the cause; `mapping-invalid`.
        WeighbridgeError: As `weighbridge.load_mapping`.

    Examples:
        >>> load_argument("maps/fused.py:MAPPING")
        Traceback (most recent call last):
        ...
        weighbridge.MappingError: mapping-file: this file cannot be read @ maps/fused.py
          got       no maps in .
    """
    path, colon, name = text.rpartition(":")
    if colon and path.endswith(".py"):
        return _from_python(Path(path), name)
    if text.endswith(".py"):
        return _from_python(Path(text), "")
    if is_mapping_file(text):
        return load_file(text)
    return find_named(text)


MAX_PYTHON_BYTES: Final = 2**24


def _from_python(path: Path, name: str) -> Mapping:
    source = read_bytes(path, MAX_PYTHON_BYTES)
    with _running(path):
        module = _execute(path, source)
        if not name:
            return _only_mapping(module, path)
        if not hasattr(module, name):
            raise _no_such_name(module, path, name)
        value = getattr(module, name)
        return _named(value() if callable(value) else value, path, name)


@contextmanager
def _running(path: Path) -> Iterator[None]:
    """Run code of a mapping file: its neighbours can be imported, its prints go to stderr, its errors name its line."""
    folder = str(path.expanduser().resolve().parent)
    sys.path.insert(0, folder)
    try:
        with redirect_stdout(sys.stderr):
            yield
    except WeighbridgeError as problem:
        line = _line_of(problem, path)
        raise (problem.with_context(because=f"line {line} of {path}") if line else problem) from None
    except (Exception, SystemExit) as problem:
        line = _line_of(problem, path)
        raise MappingError(
            "mapping-file",
            "running this file failed",
            where=f"{path}:{line}" if line else str(path),
            got=traceback.format_exception_only(problem)[-1].strip(),
        ) from None
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def _execute(path: Path, source: bytes) -> ModuleType:
    """Run a file as a module of a private name; nothing is written beside it."""
    module = ModuleType(f"_weighbridge_mapping_{sha256_of(str(path.resolve()).encode())[:12]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
    return module


def _line_of(problem: BaseException, path: Path) -> int:
    """Return the last line of the file that the problem came through, or 0."""
    if isinstance(problem, SyntaxError) and problem.filename == str(path):
        return problem.lineno or 0
    lines = [frame.lineno for frame in traceback.extract_tb(problem.__traceback__) if frame.filename == str(path)]
    return (lines[-1] if lines else None) or 0


def _named(value: Any, path: Path, name: str) -> Mapping:
    if not isinstance(value, Mapping | list | tuple):
        expected = "a Mapping, a list of transforms, or a function that returns one"
        where = f"{path}:{name}"
        raise MappingError("mapping-file", "this is no mapping", where=where, expected=expected, got=_brief(value))
    try:
        mapping = as_mapping(value)
    except WeighbridgeError as problem:
        raise problem.with_context(where=f"{path}:{name}") from None
    return mapping if mapping.name else replace(mapping, name=name)


def _brief(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__}: {text[:80]}{'…' if len(text) > 80 else ''}"


def _only_mapping(module: ModuleType, path: Path) -> Mapping:
    held = _mappings(module)
    if len(held) != 1:
        got = ", ".join(held) or "none"
        hint = f"name it: {path}:NAME"
        what = "this file does not hold just one mapping"
        raise MappingError("mapping-file", what, where=str(path), expected="one Mapping", got=got, hint=hint)
    ((name, mapping),) = held.items()
    return _named(mapping, path, name)


def _no_such_name(module: ModuleType, path: Path, name: str) -> MappingError:
    public = [other for other in vars(module) if not other.startswith("_")]
    near = list(_mappings(module)) or close_names(name, public, 3)
    got = "it holds " + ", ".join(near) if near else "it holds no mapping"
    return MappingError("mapping-file", "this name is not in the file", where=f"{path}:{name}", got=got)


def _mappings(module: ModuleType) -> dict[str, Mapping]:
    return {name: value for name, value in vars(module).items() if isinstance(value, Mapping)}
