"""A checkpoint that counts what is read of it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Any

from weighbridge.storage.places.scatter import Span


class Counting:
    """A checkpoint in files that counts the bytes which it is asked for; in all else it is the one inside.

    What `FileReader` asks for stands here itself: since Python 3.12 a protocol does not see what is only handed on.
    """

    def __init__(self, inner: Any) -> None:
        self.inner, self.count = inner, 0
        self.lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def add(self, size_bytes: int) -> None:
        with self.lock:
            self.count += size_bytes

    def read(self, key: str, start_byte: int, buffer: memoryview) -> None:
        self.add(len(buffer))
        self.inner.read(key, start_byte, buffer)

    def collect(self, key: str, places: Iterable[tuple[int, int]], buffer: memoryview) -> None:
        places = list(places)
        self.add(sum(size_bytes for _, size_bytes in places))
        self.inner.collect(key, places, buffer)

    def scatter(self, key: str, start_byte: int, spans: Sequence[Span]) -> None:
        self.add(sum(span.size_bytes for span in spans))
        self.inner.scatter(key, start_byte, spans)

    def mapped(self) -> Any:
        return self.inner.mapped()
