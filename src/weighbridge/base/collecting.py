"""Keep the garbage collector out of work that makes very many small values."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collection() -> Iterator[None]:
    """Keep the garbage collector from running while many small values are made; also a decorator.

    Each of its passes walks through all that has been made so far, so that twice the keys would take more than twice
    the time; headers and plans have no cycles to be found. Another thread that does the same at the same time leaves
    the collector on.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
