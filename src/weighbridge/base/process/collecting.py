"""Keep the garbage collector out of work that makes very many small values, and no longer than that."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from weighbridge.base.process.process_locks import ProcessLock


class _Collector:
    """The process's one collector, and how many blocks want it off, or on again for a while."""

    def __init__(self) -> None:
        self.off = 0
        self.on = 0
        self._was_enabled = False
        self._lock = ProcessLock()

    def change(self, *, off: int = 0, on: int = 0) -> None:
        """Count a block that begins or ends, and turn the collector off or on accordingly."""
        with self._lock:
            if not self.off:
                self._was_enabled = gc.isenabled()
            self.off += off
            self.on += on
            if self.off and not self.on:
                gc.disable()
            elif self._was_enabled:
                gc.enable()


_collector = _Collector()


@contextmanager
def without_collection() -> Iterator[None]:
    """Keep the garbage collector from running while many small values are made; also a decorator.

    Each of its passes walks through all that has been made so far, so that twice the keys would take more than twice
    the time; headers and plans have no cycles to be found. The collector is off for all threads of the process, so what
    takes long inside such a block, such as the moving of bytes, runs in one of `with_collection`.
    """
    _collector.change(off=1)
    try:
        yield
    finally:
        _collector.change(off=-1)


@contextmanager
def with_collection() -> Iterator[None]:
    """Let the collector run during a long part of a block of `without_collection`, in whichever thread that is."""
    _collector.change(on=1)
    try:
        yield
    finally:
        _collector.change(on=-1)
