"""What the files of an output are written through, and what its two kinds have in common.

A `FileWriter` makes a new file, a `MendingWriter` makes one right that an earlier run left.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Final, NamedTuple, Self

from weighbridge.base.errors import CheckpointError
from weighbridge.storage.places.regular_files import OpenFiles
from weighbridge.storage.protocol import Extent
from weighbridge.storage.remote.remote_files import RemoteFile


class FileOptions(NamedTuple):
    """How single files are written.

    Args:
        held_bytes: How many bytes of a file's head stay zero, for `seal` to write.
        sync: Have the disk take the bytes while they come, and wait for it when a file is closed.
        share: Share blocks with the files that ranges are copied from. No room is set aside then.
        direct: Read these files past the page cache.
    """

    held_bytes: int = 0
    sync: bool = True
    share: bool = False
    direct: bool = False


PART_PIECE_BYTES: Final = 2**20
"""How much of a file is read at a time where it goes into parts of an upload."""

DEFAULT_OPTIONS: Final = FileOptions()
"""A whole file, on the disk when it is closed, through the page cache."""


class Sink(ABC):
    """A file of a fixed size that is being filled; use it as a context manager, or close it.

    `write` and `copy_range` may be called from any number of threads at once, as long as their places do not overlap.
    """

    @abstractmethod
    def write(self, offset: int, buffer: bytes | bytearray | memoryview) -> None:
        """Have the file hold all of a buffer at `offset` from its start.

        Raises:
            DestinationError: `destination-no-room`, `write-failed`.
        """

    def spread(self, places: Iterable[tuple[int, int]], buffer: memoryview) -> None:
        """Have the file hold a buffer's bytes at several places, one after the other.

        Args:
            places: Offset and size of each, in bytes; together they take the whole buffer.
            buffer: What is written, of one byte an item.

        Raises:
            DestinationError: `destination-no-room`, `write-failed`.
        """
        done = 0
        for offset, size_bytes in places:
            self.write(offset, buffer[done : done + size_bytes])
            done += size_bytes

    def hurry(self) -> None:  # noqa: B027 - most have nothing to do
        """Let the disk begin with what was written by `spread`, once what lies side by side is there."""

    @abstractmethod
    def copy_range(self, extent: Extent, offset: int) -> None:
        """Have the file hold bytes of another file at `offset`.

        Raises:
            DestinationError: `destination-no-room`, `write-failed`.
            CheckpointError: `source-changed` if the source is shorter than the extent, `read-failed`.
        """

    @abstractmethod
    def close(self) -> None:
        """Force the bytes to the disk, if that is wanted, and close the file.

        Raises:
            DestinationError: `destination-no-room`, `write-failed`.
        """

    @abstractmethod
    def abandon(self) -> None:
        """Close the file as it is; whoever owns the directory removes it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()


def read_pieces(
    sources: OpenFiles, extent: Extent, done_bytes: int, piece_bytes: int
) -> Iterator[tuple[int, memoryview]]:
    """Read what is left of an extent, piece by piece in one buffer; one elsewhere comes in pieces of its own size.

    Args:
        sources: Opens the file.
        extent: What to read.
        done_bytes: How many of its bytes are not wanted any more.
        piece_bytes: Size of the buffer.

    Yields:
        Each piece's position in the extent, and its bytes, which are overwritten by the next piece.

    Raises:
        CheckpointError: `source-changed` if the file is shorter than the extent, `checkpoint-not-found`, `read-failed`.
    """
    if isinstance(extent.path, RemoteFile):
        for piece in extent.path.pieces(extent.offset + done_bytes, extent.size_bytes - done_bytes):
            yield done_bytes, piece
            done_bytes += len(piece)
        return
    buffer = memoryview(bytearray(min(piece_bytes, extent.size_bytes - done_bytes)))
    while done_bytes < extent.size_bytes:
        piece = buffer[: extent.size_bytes - done_bytes]
        count = sources.fill(extent.path, extent.offset + done_bytes, piece)
        if count < len(piece):
            got = f"it ends {extent.size_bytes - done_bytes - count:,} bytes too early"
            raise CheckpointError("source-changed", "the file is not what was opened", where=str(extent.path), got=got)
        yield done_bytes, piece
        done_bytes += count


def left_of(extent: Extent, done: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Yield what is left of an extent, as bytes [start, stop) of it, when those of `done` are there.

    Examples:
        >>> from pathlib import Path
        >>> list(left_of(Extent(Path("a"), 0, 10), (3, 8))), list(left_of(Extent(Path("a"), 0, 10), (0, 0)))
        ([(0, 3), (8, 10)], [(0, 10)])
    """
    for start, stop in ((0, done[0]), (done[1], extent.size_bytes)):
        if start < stop:
            yield start, stop
