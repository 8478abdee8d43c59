"""What is asked of the installed transformers library by name, and which of its versions are understood."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any, Final

from weighbridge.base.errors import RegistryError

OLDEST: Final = "5.16"
"""The first version of transformers whose loading is the one that this was written for."""

UNDERSTOOD: Final = "5.24"
"""The newest version of transformers whose table and loading this was written for and is tested with."""


def library_module(name: str) -> Any:
    """Import a module of the library.

    Raises:
        RegistryError: `integration-version`.
    """
    try:
        _refuse_older(import_module("transformers").__version__)
        return import_module(f"transformers.{name}")
    except ImportError as problem:
        raise _unsuited(f"transformers.{name} cannot be imported: {problem}") from problem


def _refuse_older(version: str) -> None:
    numbers = re.findall(r"\d+", version)
    if [int(number) for number in numbers[:2]] < [int(number) for number in OLDEST.split(".")]:
        raise _unsuited(version)


def library_name(module: Any, name: str) -> Any:
    """Return what a module of the library, or a class of it, has under a name.

    Raises:
        RegistryError: `integration-version`.
    """
    found = getattr(module, name, None)
    if found is None:
        raise _unsuited(f"{getattr(module, '__name__', module)} has no {name}")
    return found


def _unsuited(got: str) -> RegistryError:
    """Make the error for a version whose code is another one."""
    return RegistryError(
        "integration-version",
        "this transformers is not one that weighbridge understands",
        expected=f"transformers {OLDEST} to {UNDERSTOOD}",
        got=got,
        hint=f"install transformers {UNDERSTOOD}",
    )
