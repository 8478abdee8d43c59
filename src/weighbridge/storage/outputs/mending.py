"""Fill a file that an earlier run left unfinished: compare each piece with what is there, and write what differs.

Nothing about the earlier run is trusted. Every byte that belongs into the file is compared or written, so the file ends
up right whatever it held: zeros, torn pages, another length. A file that was finished costs reading, not writing.
"""

from __future__ import annotations

import os
from pathlib import Path
from threading import Lock
from typing import Final

from weighbridge.storage.outputs.file_writer import FileWriter, reporting_write_errors
from weighbridge.storage.outputs.sinks import DEFAULT_OPTIONS, FileOptions, Sink, left_of, read_pieces
from weighbridge.storage.places.regular_files import OpenFiles, fill_from
from weighbridge.storage.protocol import Extent

MEND_BYTES: Final = 2**18
"""How much is compared at a time, by each thread; it is also the unit of what is written again."""


class MendingWriter(Sink):
    """A file that is there already and is being made right.

    Args:
        path: The file.
        head: Its first bytes; they are written, not compared.
        size_bytes: Size that the file must have; it is cut or lengthened to that.
        options: How it is written; blocks that are shared are not compared.

    Raises:
        DestinationError: `destination-no-room`, `write-failed`.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a"
        >>> path.write_bytes(b"headaXc")
        7
        >>> with MendingWriter(path, b"head", 7) as writer:
        ...     writer.write(4, b"a")
        ...     writer.write(5, b"bc")
        >>> path.read_bytes(), writer.kept_bytes
        (b'headabc', 1)
    """

    def __init__(self, path: Path, head: bytes, size_bytes: int, options: FileOptions = DEFAULT_OPTIONS) -> None:
        self.path = path
        self.kept_bytes = 0
        self._lock = Lock()
        self._sources = OpenFiles({}, direct=options.direct, is_passing=True)
        self._writer = FileWriter(path, head, size_bytes, options, is_there=True)
        try:
            with reporting_write_errors(str(path)):
                self._there = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except BaseException:
            self._writer.abandon()
            raise

    def write(self, offset: int, buffer: bytes | bytearray | memoryview) -> None:
        """Make the file hold all of a buffer at `offset`; what it holds already is not written again.

        Raises:
            DestinationError: `destination-no-room`, `write-failed`.
        """
        with memoryview(buffer) as any_view, any_view.cast("B") as view:
            found = bytearray(min(MEND_BYTES, len(view)))
            for start in range(0, len(view), MEND_BYTES):
                self._mend(offset + start, view[start : start + MEND_BYTES], found)

    def copy_range(self, extent: Extent, offset: int) -> None:
        """Make the file hold bytes of another file at `offset`.

        Raises:
            DestinationError: `destination-no-room`, `write-failed`.
            CheckpointError: `source-changed` if the source is shorter than the extent, `read-failed`.
        """
        for start, stop in left_of(extent, self._writer.share_range(extent, offset)):
            part = Extent(extent.path, extent.offset + start, stop - start)
            found = bytearray(min(MEND_BYTES, part.size_bytes))
            for position, piece in read_pieces(self._sources, part, 0, MEND_BYTES):
                self._mend(offset + start + position, piece, found)

    def _mend(self, offset: int, piece: memoryview, found: bytearray) -> None:
        if not self._holds(offset, piece, found):
            self._writer.write(offset, piece)
            return
        with self._lock:
            self.kept_bytes += len(piece)

    def _holds(self, offset: int, piece: memoryview, found: bytearray) -> bool:
        """Tell whether the file holds a piece; what is there is read into `found`, if that is of the piece's size."""
        if offset < 0:
            return False
        # A bytearray on the left compares by memcmp; two memory views would compare one number at a time.
        room = found if len(piece) == len(found) else bytearray(len(piece))
        try:
            return fill_from(self._there, memoryview(room), offset) == len(piece) and room == piece
        except OSError:
            return False  # what cannot be read is written again

    def close(self) -> None:
        """Force the bytes to the disk and close the file.

        Raises:
            DestinationError: `destination-no-room`, `write-failed`.
        """
        self._let_go()
        self._writer.close()

    def abandon(self) -> None:
        """Close the file as it is; whoever owns the directory removes it."""
        self._let_go()
        self._writer.abandon()

    def _let_go(self) -> None:
        descriptor, self._there = self._there, -1
        self._sources.close()
        if descriptor >= 0:
            os.close(descriptor)
