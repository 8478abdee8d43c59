"""Inflate bytes up to a limit that follows from their own size, so that a small file never becomes a large one."""

from __future__ import annotations

import zlib
from typing import Final

MOST_TIMES: Final = 200
"""How many times larger than it was a text may become: names and numbers of tensors compress to a thirtieth."""

ALWAYS_BYTES: Final = 4 * 2**20
"""What is small enough in any case."""

ZLIB: Final = zlib.MAX_WBITS
"""A stream of RFC 1950."""

GZIP: Final = zlib.MAX_WBITS | 16
"""Members of RFC 1952, one after the other."""


def inflate_bounded(packed: bytes, limit_bytes: int, kind: int) -> bytes:
    """Inflate a whole text.

    Args:
        packed: The deflated bytes; nothing may stand behind them.
        limit_bytes: The most bytes to return, whatever the size of `packed`.
        kind: `ZLIB` or `GZIP`.

    Raises:
        ValueError: The bytes are damaged, end too early, go on, or become too many.

    Examples:
        >>> inflate_bounded(zlib.compress(b"head"), 4, ZLIB)
        b'head'
        >>> inflate_bounded(zlib.compress(bytes(10**8)), 10**9, ZLIB)
        Traceback (most recent call last):
        ...
        ValueError: it becomes more than 19,441,800 bytes
    """
    limit = min(limit_bytes, max(ALWAYS_BYTES, MOST_TIMES * len(packed)))
    pieces: list[bytes] = []
    total, rest = 0, packed
    while rest or not pieces:
        stream = zlib.decompressobj(kind)
        try:
            pieces.append(stream.decompress(rest, limit - total + 1))
        except zlib.error as problem:
            raise ValueError(str(problem)) from None
        total += len(pieces[-1])
        if total > limit:
            raise ValueError(f"it becomes more than {limit:,} bytes")
        if not stream.eof:
            raise ValueError("it ends too early")
        rest = stream.unused_data
        if rest and kind != GZIP:
            raise ValueError("something stands behind it")
    return b"".join(pieces)
