"""Count what goes over the network, so that it can be told and compared with what was predicted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Traffic:
    """Requests and bytes so far, from any number of threads.

    Examples:
        >>> traffic = Traffic()
        >>> traffic.add_request()
        >>> traffic.add_bytes(5)
        >>> traffic.requests, traffic.read_bytes
        (1, 5)
    """

    def __init__(self) -> None:
        self.requests = 0
        self.read_bytes = 0
        self.written_bytes = 0
        self.repeated = 0
        self._lock = threading.Lock()

    def add_request(self, *, is_repeated: bool = False) -> None:
        """Count one request, and whether it was made again."""
        with self._lock:
            self.requests += 1
            self.repeated += is_repeated

    def add_bytes(self, size_bytes: int, *, written: bool = False) -> None:
        """Count bytes that have arrived, or were written."""
        with self._lock:
            if written:
                self.written_bytes += size_bytes
            else:
                self.read_bytes += size_bytes


_watching: list[Traffic] = []
"""Who wants to know of all traffic of this process."""


@contextmanager
def watched_traffic() -> Iterator[Traffic]:
    """Count all requests and bytes of this process while the block runs."""
    traffic = Traffic()
    _watching.append(traffic)
    try:
        yield traffic
    finally:
        _watching.remove(traffic)


def count_request(*, is_repeated: bool = False) -> None:
    """Count a request for everybody who watches."""
    for traffic in tuple(_watching):
        traffic.add_request(is_repeated=is_repeated)


def count_bytes(size_bytes: int, *, written: bool = False) -> None:
    """Count bytes for everybody who watches."""
    for traffic in tuple(_watching):
        traffic.add_bytes(size_bytes, written=written)
