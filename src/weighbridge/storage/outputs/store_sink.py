"""A file of an object store while it is being filled: parts of an upload are windows of a file that does not exist yet.

Nothing lies on a disk here. Parts are filled in any order, a few at a time, and sent in the order of the file; the
object appears when all are there, or never.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from weighbridge.base.errors import DestinationError
from weighbridge.storage.outputs.sinks import PART_PIECE_BYTES, Sink, read_pieces
from weighbridge.storage.places.regular_files import OpenFiles
from weighbridge.storage.protocol import Extent

PART_BYTES: Final = 8 * 2**20
"""Size of a part, but for files that would have too many."""

MOST_PARTS: Final = 9_000
"""Stores take 10,000 parts of one object."""

LIVE_PARTS: Final = 4
"""How many parts of a file are filled at a time; writers of later ones wait."""

Put = Callable[[Iterator[memoryview], int], None]
"""Sends what comes, in parts of a size, as one object; raises where that fails, and leaves nothing then."""


class AbandonedError(Exception):
    """The upload is to end without an object."""


class _Part:
    """A part that is being filled."""

    __slots__ = ("buffer", "left")

    def __init__(self, size_bytes: int) -> None:
        self.buffer = bytearray(size_bytes)
        self.left = size_bytes


class StoreSink(Sink):
    """A file of a fixed size that becomes an object of a store.

    What is written must come about in the order of the file, give or take `LIVE_PARTS` parts.

    Args:
        where: Its address, for messages.
        put: Sends it.
        head: The first bytes.
        size_bytes: Size of the whole file, head included.
    """

    def __init__(self, where: str, put: Put, head: bytes, size_bytes: int) -> None:
        self.where = where
        self.size_bytes = size_bytes
        self.part_bytes = max(PART_BYTES, -(-size_bytes // MOST_PARTS))
        self._put = put
        self._parts: dict[int, _Part] = {}
        self._first = 0
        self._is_abandoned = False
        self._problem: BaseException | None = None
        self._changed = threading.Condition()
        self._sources = OpenFiles({}, is_passing=True)
        self._thread = threading.Thread(target=self._send, name="weighbridge upload", daemon=True)
        self._thread.start()
        self.write(0, head)

    def write(self, offset: int, buffer: bytes | bytearray | memoryview) -> None:
        """Put all of a buffer at `offset`; wait as long as that is too far ahead of what was sent.

        Raises:
            DestinationError: The codes of sending; `write-failed`.
        """
        with memoryview(buffer) as any_view, any_view.cast("B") as view:
            done = 0
            while done < len(view):
                number, start = divmod(offset + done, self.part_bytes)
                part = self._part(number)
                count = min(len(view) - done, len(part.buffer) - start)
                part.buffer[start : start + count] = view[done : done + count]
                self._fill(part, count)
                done += count

    def _part(self, number: int) -> _Part:
        with self._changed:
            self._changed.wait_for(lambda: self._problem or number < self._first + LIVE_PARTS)
            if self._problem is not None:
                raise self._problem
            if number not in self._parts:
                size_bytes = min(self.part_bytes, self.size_bytes - number * self.part_bytes)
                self._parts[number] = _Part(size_bytes)
            return self._parts[number]

    def _fill(self, part: _Part, count: int) -> None:
        with self._changed:
            part.left -= count
            if part.left == 0:
                self._changed.notify_all()

    def copy_range(self, extent: Extent, offset: int) -> None:
        """Put bytes of another file, here or elsewhere, at `offset`.

        Raises:
            DestinationError: The codes of sending.
            CheckpointError: `source-changed`, and the codes of reading.
        """
        for position, piece in read_pieces(self._sources, extent, 0, PART_PIECE_BYTES):
            self.write(offset + position, piece)

    def close(self) -> None:
        """Wait until the object is there.

        Raises:
            DestinationError: The codes of sending.
        """
        self._thread.join()
        self._sources.close()
        if self._problem is not None:
            raise self._problem

    def abandon(self) -> None:
        """End the upload without an object."""
        with self._changed:
            self._is_abandoned = True
            self._problem = self._problem or DestinationError("write-failed", "this was given up", where=self.where)
            self._changed.notify_all()
        self._thread.join()
        self._sources.close()

    def _send(self) -> None:
        try:
            self._put(self._filled(), self.part_bytes)
        except BaseException as problem:
            with self._changed:
                self._problem = self._problem or problem
                self._changed.notify_all()

    def _filled(self) -> Iterator[memoryview]:
        """Yield the parts, in order, each when it is full."""
        for number in range(-(-self.size_bytes // self.part_bytes)):
            with self._changed:
                self._changed.wait_for(partial(self._is_due, number))
                if self._is_abandoned:
                    raise AbandonedError
                part = self._parts.pop(number)
                self._first = number + 1
                self._changed.notify_all()
            yield memoryview(part.buffer)

    def _is_due(self, number: int) -> bool:
        part = self._parts.get(number)
        return self._is_abandoned or (part is not None and part.left == 0)
