"""Locks for what a whole process shares, which a process forked from it finds free."""

from __future__ import annotations

import os
from threading import Lock


class ProcessLock:
    """A lock that is free in a forked process, where nobody is left who could let go of it.

    `fork` copies the memory as it is, the locks that other threads hold included, but none of those threads. There is
    one for each module that needs it, and none is ever thrown away.

    Examples:
        >>> lock = ProcessLock()
        >>> with lock:
        ...     lock.is_held
        True
    """

    def __init__(self) -> None:
        self._renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = Lock()

    @property
    def is_held(self) -> bool:
        """Whether some thread holds it."""
        return self._lock.locked()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
