"""Take options by their names into a record, so that a misspelt one is an error with the nearest name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from weighbridge.base.errors import WeighbridgeError
from weighbridge.base.nearby import close_names

Record = TypeVar("Record")


def read_named(kind: type[Record], given: Mapping[str, Any]) -> Record:
    """Make a record of options from their values by name.

    Args:
        kind: The record's class, a dataclass.
        given: Values by name.

    Raises:
        WeighbridgeError: `usage` for a name that is none.

    Examples:
        >>> from dataclasses import make_dataclass
        >>> read_named(make_dataclass("Sizes", ["width", "height"]), {"width": 2, "heigth": 3})
        Traceback (most recent call last):
        ...
        weighbridge.WeighbridgeError: usage: there is no such option @ heigth
          expected  width, height
          got       nearest: height
    """
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    strange = next((name for name in given if name not in names), None)
    if strange is not None:
        near = close_names(strange, names)
        got = f"nearest: {near[0]}" if near else ""
        raise WeighbridgeError("usage", "there is no such option", where=strange, expected=", ".join(names), got=got)
    return kind(**given)
