"""Sum up the bytes of new archives while they are at hand, so that no byte is read again for a checksum.

An archive has a checksum of each member (CRC-32, PKWARE's APPNOTE.TXT, 4.4.7). Several threads fill a member in pieces,
in no order. The checksum of two pieces in a row follows from those of the pieces: that of the first is taken on by as
many zero bits as the second has, which multiplies a polynomial over two elements by a power of x, and both are added.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Final

from weighbridge.base.batches import WINDOW_BYTES, windows_of
from weighbridge.base.file_sets import FileImage
from weighbridge.storage.outputs.file_writer import COPY_BUFFER_BYTES, DIRECT_BUFFER_BYTES
from weighbridge.storage.outputs.sinks import Sink, read_pieces
from weighbridge.storage.places.regular_files import OpenFiles
from weighbridge.storage.protocol import Extent

_POLYNOMIAL: Final = 0xEDB88320
"""What remainders are taken by; as in every number here, the highest bit is the coefficient of 1."""
_ONE: Final = 1 << 31


def combine(first: int, second: int, second_bytes: int) -> int:
    """Return the checksum of two pieces of bytes, one after the other.

    Args:
        first: The checksum of the first.
        second: The checksum of the second.
        second_bytes: Length of the second.

    Examples:
        >>> combine(zlib.crc32(b"weigh"), zlib.crc32(b"bridge"), 6) == zlib.crc32(b"weighbridge")
        True
    """
    return _product(_power(8 * second_bytes), first) ^ second


def _product(first: int, second: int) -> int:
    """Multiply two polynomials, and take the remainder."""
    found = 0
    for place in range(31, -1, -1):
        if first >> place & 1:
            found ^= second
        second = second >> 1 ^ (_POLYNOMIAL if second & 1 else 0)
    return found


@cache
def _square(number: int) -> int:
    """Return x squared `number` times."""
    return _product(_square(number - 1), _square(number - 1)) if number else _ONE >> 1


@cache
def _power(exponent: int) -> int:
    found = _ONE
    for number in range(exponent.bit_length()):
        if exponent >> number & 1:
            found = _product(_square(number), found)
    return found


class Checksums:
    """What is known of the checksums of some new files.

    Args:
        create: Makes a file of an image.
        direct: Read the files that ranges are copied from past the page cache.
    """

    def __init__(self, create: Callable[[FileImage], Sink], *, direct: bool = False) -> None:
        self._create = create
        self._direct = direct
        self._pieces: dict[str, dict[int, tuple[int, int]]] = {}

    def create(self, image: FileImage) -> Sink:
        """Create a file whose bytes are summed up as they come."""
        pieces = self._pieces.setdefault(image.name, {})
        return _SummingSink(self._create(image), pieces, direct=self._direct)

    def of(self, files: OpenFiles, path: Path, name: str, offset: int, size_bytes: int) -> int:
        """Return the checksum of bytes of a file that is filled; what was not summed up as it came is read.

        Args:
            files: Opens the file.
            path: The file.
            name: Its name in its image.
            offset: Where the bytes begin.
            size_bytes: How many they are.

        Raises:
            CheckpointError: `read-failed`, `file-truncated`, `source-changed`.
        """
        pieces, checksum, position = self._pieces.get(name, {}), 0, offset
        while position < offset + size_bytes:
            length, own = pieces.get(position, (0, 0))
            if not 0 < length <= offset + size_bytes - position:
                return _read(files, path, offset, size_bytes)
            checksum, position = combine(checksum, own, length), position + length
        return checksum


def _read(files: OpenFiles, path: Path, offset: int, size_bytes: int) -> int:
    checksum, buffer = 0, memoryview(bytearray(min(WINDOW_BYTES, size_bytes)))
    for start, stop in windows_of(size_bytes):
        window = buffer[: stop - start]
        files.read(path, offset + start, window)
        checksum = zlib.crc32(window, checksum)
    return checksum


class _SummingSink(Sink):
    """A file whose pieces are summed up; those of `spread` are too many and too short to be kept each."""

    def __init__(self, inner: Sink, pieces: dict[int, tuple[int, int]], *, direct: bool) -> None:
        self._inner = inner
        self._pieces = pieces
        self._sources = OpenFiles({}, direct=direct, is_passing=True)
        self._piece_bytes = DIRECT_BUFFER_BYTES if direct else COPY_BUFFER_BYTES

    def write(self, offset: int, buffer: bytes | bytearray | memoryview) -> None:
        self._inner.write(offset, buffer)
        with memoryview(buffer) as view:
            self._pieces[offset] = view.nbytes, zlib.crc32(view)

    def spread(self, places: Iterable[tuple[int, int]], buffer: memoryview) -> None:
        self._inner.spread(places, buffer)

    def hurry(self) -> None:
        self._inner.hurry()

    def copy_range(self, extent: Extent, offset: int) -> None:
        """Copy through a buffer: members begin where no file system shares blocks with a source."""
        checksum = 0
        for position, piece in read_pieces(self._sources, extent, 0, self._piece_bytes):
            self._inner.write(offset + position, piece)
            checksum = zlib.crc32(piece, checksum)
        self._pieces[offset] = extent.size_bytes, checksum

    def close(self) -> None:
        self._sources.close()
        self._inner.close()

    def abandon(self) -> None:
        self._sources.close()
        self._inner.abandon()
