"""A file that several workers fill: whoever writes the last piece of it closes it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weighbridge.storage.outputs.sinks import Sink


class FilledFile:
    """A file that is being filled: it is closed by whoever writes its last piece."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.is_open = True
        self._left = 1
        self._lock = threading.Lock()

    def expect(self) -> None:
        """Count one more piece."""
        with self._lock:
            self._left += 1

    def finish(self) -> None:
        """Count a piece as written, or the list of pieces as ended; close the file if that was the last."""
        with self._lock:
            self._left -= 1
            is_last = self._left == 0
        if is_last:
            self.sink.close()
            self.is_open = False
