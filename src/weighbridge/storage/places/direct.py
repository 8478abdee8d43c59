"""Read files past the page cache, so that a large file neither fills it nor drives out what others keep there.

The kernel then moves bytes straight from the disk into the caller's memory (`O_DIRECT`, open(2)). It asks that offset,
length and memory are multiples of the disk's block, so whole blocks are read into an aligned buffer, one for each
thread, and what is wanted is copied out of it. The last read of a file comes short where the file ends.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import threading
from collections.abc import Iterator, Sequence
from typing import Final

from weighbridge.storage.places.scatter import Span

ALIGNMENT: Final = 4096
"""A multiple of the block of every disk in use."""

BOUNCE_BYTES: Final = 4 * 2**20
"""Size of each thread's buffer: large enough that the disk does not wait for us."""

_kept = threading.local()


def set_direct(descriptor: int, *, on: bool) -> bool:
    """Turn direct reads of an open file on or off; tell whether the system does that for this file."""
    flag = getattr(os, "O_DIRECT", 0)
    try:
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | flag if on else flags & ~flag)
    except OSError:
        return False
    return bool(flag)


def _bounce() -> mmap.mmap:
    """Return this thread's buffer, in this process: it is shared memory, which a forked child must not write to."""
    found: tuple[int, mmap.mmap] | None = getattr(_kept, "buffer", None)
    if found is None or found[0] != os.getpid() or len(found[1]) != BOUNCE_BYTES:
        found = _kept.buffer = os.getpid(), mmap.mmap(-1, BOUNCE_BYTES)
    return found[1]


def read_blocks(descriptor: int, offset: int, size_bytes: int) -> Iterator[memoryview]:
    """Read an interval of a file whose reads are direct.

    Args:
        descriptor: The file.
        offset: Where the interval begins, in bytes.
        size_bytes: Its length.

    Yields:
        Its bytes, piece by piece in one buffer, which the next piece overwrites; fewer where the file ends.

    Raises:
        OSError: As the system says; EINVAL where it wants another alignment.
    """
    position, stop = offset - offset % ALIGNMENT, offset + size_bytes
    with memoryview(_bounce()) as room:
        while position < stop:
            wanted = min(BOUNCE_BYTES, -(-(stop - position) // ALIGNMENT) * ALIGNMENT)
            count = os.preadv(descriptor, [room[:wanted]], position)
            piece = room[max(offset - position, 0) : min(count, stop - position)]
            if len(piece):
                yield piece
            position += count
            if count == 0 or count % ALIGNMENT:
                return


def fill_direct(descriptor: int, buffer: memoryview, offset: int) -> int:
    """Fill a buffer from a file whose reads are direct; return how many bytes there were, at most the buffer's size.

    Raises:
        OSError: As `read_blocks`.
    """
    done = 0
    with buffer.cast("B") as view:
        for piece in read_blocks(descriptor, offset, len(view)):
            view[done : done + len(piece)] = piece
            done += len(piece)
    return done


def scatter_direct(descriptor: int, offset: int, spans: Sequence[Span]) -> int:
    """Fill pieces of memory with consecutive bytes of a file whose reads are direct; otherwise as `scatter.scatter`.

    Raises:
        OSError: As `read_blocks`.
    """
    total = number = filled = 0
    for piece in read_blocks(descriptor, offset, sum([span.size_bytes for span in spans])):
        origin = ctypes.addressof(ctypes.c_char.from_buffer(piece))
        done = 0
        while done < len(piece):
            address, size_bytes = spans[number]
            count = min(size_bytes - filled, len(piece) - done)
            ctypes.memmove(address + filled, origin + done, count)
            done, filled = done + count, filled + count
            if filled == size_bytes:
                number, filled = number + 1, 0
        total += done
    return total
