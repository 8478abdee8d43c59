"""Read one interval of a file into many places of memory, by one call of the kernel for a thousand of them.

Python's own `os.preadv` takes buffer objects, and to make one for each of fifty thousand small tensors takes longer
than to read them. So the system's `preadv` is called with addresses. Whoever gives an address keeps its memory alive.
"""

from __future__ import annotations

import ctypes
import errno
import os
from array import array
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Final, NamedTuple

MAX_SPANS: Final = 1024
"""How many places one call takes: IOV_MAX of Linux and macOS."""

_UNIT: Final = ctypes.sizeof(ctypes.c_size_t)


class Span(NamedTuple):
    """A piece of memory: the address of its first byte, and its length in bytes."""

    address: int
    size_bytes: int


def _find_preadv() -> ctypes._FuncPointer:
    library = ctypes.CDLL(None, use_errno=True)
    # The name with 64-bit offsets, where the C library has one for them.
    function = getattr(library, "preadv64", None) or library.preadv
    function.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64]
    function.restype = ctypes.c_ssize_t
    return function


_preadv = _find_preadv()


def scatter(descriptor: int, offset: int, spans: Sequence[Span]) -> int:
    """Fill pieces of memory with consecutive bytes of a file.

    Args:
        descriptor: The file.
        offset: Where to begin in it, in bytes.
        spans: The pieces, in the order of their bytes in the file.

    Returns:
        How many bytes there were: all that was asked for, or fewer where the file ends.

    Raises:
        OSError: As the system says.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryFile() as file:
        ...     _ = file.write(b"abcdefg"), file.flush()
        ...     one, two = ctypes.create_string_buffer(2), ctypes.create_string_buffer(3)
        ...     spans = [Span(ctypes.addressof(one), 2), Span(ctypes.addressof(two), 3)]
        ...     scatter(file.fileno(), 1, spans), one.raw, two.raw
        (5, b'bc', b'def')
    """
    done = 0
    for first in range(0, len(spans), MAX_SPANS):
        group = spans[first : first + MAX_SPANS]
        wanted = sum([span.size_bytes for span in group])
        got = _fill_group(descriptor, offset + done, group, wanted)
        done += got
        if got < wanted:
            break
    return done


def scatter_pieces(pieces: Iterable[memoryview], spans: Sequence[Span]) -> None:
    """Fill pieces of memory with bytes that come in pieces of other sizes.

    Args:
        pieces: The bytes, in order; as many as the spans take together.
        spans: The pieces of memory.

    Examples:
        >>> one, two = ctypes.create_string_buffer(2), ctypes.create_string_buffer(3)
        >>> spans = [Span(ctypes.addressof(one), 2), Span(ctypes.addressof(two), 3)]
        >>> scatter_pieces([memoryview(b"abc"), memoryview(b"de")], spans)
        >>> one.raw, two.raw
        (b'ab', b'cde')
    """
    left = (span for span in spans if span.size_bytes)
    room = memoryview(b"")
    for piece in pieces:
        while piece:
            room = room or _memory(next(left))
            count = min(len(room), len(piece))
            room[:count] = piece[:count]
            room, piece = room[count:], piece[count:]


def _memory(span: Span) -> memoryview:
    return memoryview((ctypes.c_char * span.size_bytes).from_address(span.address)).cast("B")


def _fill_group(descriptor: int, offset: int, group: Sequence[Span], wanted: int) -> int:
    done = 0
    while done < wanted:
        count = _call(descriptor, offset + done, _rest(group, done) if done else group)
        if count == 0:
            break
        done += count
    return done


def _call(descriptor: int, offset: int, group: Sequence[Span]) -> int:
    vector = array("Q" if _UNIT == 8 else "L", chain.from_iterable(group))
    while True:
        count = _preadv(descriptor, vector.buffer_info()[0], len(group), offset)
        if count >= 0:
            return int(count)
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def _rest(group: Sequence[Span], done: int) -> list[Span]:
    """Return what is left of pieces whose first `done` bytes are filled."""
    left = []
    for address, size_bytes in group:
        if done < size_bytes:
            left.append(Span(address + done, size_bytes - done))
        done = max(0, done - size_bytes)
    return left
