"""Give a variable of this thread's context a value for as long as a block runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

Value = TypeVar("Value")


@contextmanager
def set_to(variable: ContextVar[Value], value: Value) -> Iterator[None]:
    """Set a variable, and in the end set it back to what it was.

    Args:
        variable: The variable; other threads have values of their own.
        value: Its value in the block.

    Examples:
        >>> shown = ContextVar("shown", default="nothing")
        >>> with set_to(shown, "this"):
        ...     shown.get()
        'this'
        >>> shown.get()
        'nothing'
    """
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
