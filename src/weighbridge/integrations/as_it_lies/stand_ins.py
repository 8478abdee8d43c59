"""Let a function of ours stand where one of transformers' own stands, as long as some load needs it there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from weighbridge.base.process.process_locks import ProcessLock
from weighbridge.mappings.library_parts import library_module, library_name


class StandIn:
    """What stands in the place of one function of the library; there is one of these for each such function.

    Args:
        module: The module of the library.
        name: What the function is called there.
        function: Called with what stood there before, and then with what the library gives.
    """

    def __init__(self, module: str, name: str, function: Callable[..., Any]) -> None:
        self._module, self._name, self._function = module, name, function
        self._lock = ProcessLock()
        self._users = 0
        self._installed: partial[Any] | None = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Stand there, also for other threads: the function itself looks whose call it is.

        Raises:
            RegistryError: `integration-version`.
        """
        module = library_module(self._module)
        self._install(module)
        try:
            yield
        finally:
            self._remove(module)

    def _install(self, module: Any) -> None:
        with self._lock:
            if self._users == 0:
                self._installed = partial(self._function, library_name(module, self._name))
                setattr(module, self._name, self._installed)
            self._users += 1

    def _remove(self, module: Any) -> None:
        """Put back what stood there; what somebody else has put in front since stays, and ours behind it."""
        with self._lock:
            self._users -= 1
            ours = self._installed
            if self._users or ours is None:
                return
            self._installed, before = None, ours.args[0]
            if getattr(module, self._name, None) is ours:
                setattr(module, self._name, before)
