"""Every value of a JSON form, by its path, and a form with another value at one."""

from __future__ import annotations

from typing import Any


def places_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List the paths of all values in a form."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for name, item in inner for found in places_of(item, (*path, name)))]


def replaced(form: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return a copy of a form with another value at a path."""
    if not path:
        return value
    copy = form.copy()
    copy[path[0]] = replaced(form[path[0]], path[1:], value)
    return copy
