"""Read the values of a JSON form strictly: each reader gives back a value of its type, or says what it found instead.

A form may come from anywhere. A boolean is no number here, a text is no list, and nothing is inflated without a limit.
"""

from __future__ import annotations

import base64
import zlib
from typing import Any, Final, NoReturn

from weighbridge.base.errors import PlanError
from weighbridge.base.forms.inflating import ZLIB, inflate_bounded

MAX_NUMBER: Final = 2**63
"""Bound of all numbers in a form: sizes, offsets and element counts fit 63 bits."""


def number(value: object) -> int:
    """Return a whole number in [0, 2**63).

    Raises:
        PlanError: `plan-format`.

    Examples:
        >>> number(7)
        7
    """
    if type(value) is not int or not 0 <= value < MAX_NUMBER:
        _refuse("a whole number from 0", value)
    return value


def truth(value: object) -> bool:
    """Return a truth value.

    Raises:
        PlanError: `plan-format`.
    """
    if type(value) is not bool:
        _refuse("true or false", value)
    return value


def text(value: object) -> str:
    """Return a text.

    Raises:
        PlanError: `plan-format`.
    """
    if type(value) is not str:
        _refuse("a text", value)
    return value


def items(value: object, count: int | None = None) -> list[Any]:
    """Return a list, of `count` items if that is given; a tuple counts as a list.

    Raises:
        PlanError: `plan-format`.
    """
    if not isinstance(value, list | tuple) or count not in (None, len(value)):
        _refuse("a list" if count is None else f"a list of {count}", value)
    return list(value)


def texts(value: object) -> tuple[str, ...]:
    """Return a list of texts.

    Raises:
        PlanError: `plan-format`.
    """
    return tuple([text(item) for item in items(value)])


def numbers(value: object) -> tuple[int, ...]:
    """Return a list of whole numbers.

    Raises:
        PlanError: `plan-format`.
    """
    return tuple([number(item) for item in items(value)])


def table(value: object) -> dict[str, Any]:
    """Return an object whose names are texts.

    Raises:
        PlanError: `plan-format`.
    """
    if type(value) is not dict or not all(type(name) is str for name in value):
        _refuse("an object", value)
    return value


def deflate(raw: bytes) -> str:
    """Write bytes as a text: deflated (RFC 1950), in base64 (RFC 4648)."""
    return base64.b64encode(zlib.compress(raw, 6)).decode()


def inflate(value: object, limit_bytes: int) -> bytes:
    """Read bytes that `deflate` wrote; stop when there are too many of them, as `inflate_bounded` does.

    Raises:
        PlanError: `plan-format`.

    Examples:
        >>> inflate(deflate(b"head"), 4)
        b'head'
    """
    written = text(value)
    try:
        return inflate_bounded(base64.b64decode(written, validate=True), limit_bytes, ZLIB)
    except ValueError as problem:
        raise PlanError("plan-format", "a text does not hold deflated bytes", got=str(problem)) from None


def _refuse(expected: str, value: object) -> NoReturn:
    # A long list or number is not worth spelling out; its text could be larger than all else.
    kind = type(value).__name__
    got = repr(value) if isinstance(value, str | float | bool) or value is None else kind
    if type(value) is int:
        got = str(value) if abs(value) < MAX_NUMBER**2 else "a number of very many digits"
    raise PlanError("plan-format", "a value is not what its place asks for", expected=expected, got=got[:120])
