"""What the kernel can do for files beyond reading and writing, asked for in ways that fail without harm."""

from __future__ import annotations

import os
import struct
import sys
from functools import cache
from typing import Any, Final

BLOCK_BYTES: Final = 4096
"""File systems share blocks of this size, or of a part of it."""

_FICLONERANGE: Final = 0x4020940D
_WRITE: Final = 2


def can_share_blocks(source: int, target: int, offset: int) -> bool:
    """Find out whether two files can share blocks, by letting them share one that is about to be written anyway.

    Args:
        source: Descriptor of a file that is open for reading.
        target: Descriptor of a file that is open for writing.
        offset: Where at least two blocks of the target will be written next.
    """
    if sys.platform != "linux" or os.fstat(source).st_size < BLOCK_BYTES:
        return False
    import fcntl

    place = -(-offset // BLOCK_BYTES) * BLOCK_BYTES
    try:
        # struct file_clone_range of linux/fs.h: descriptor, offset and length of the source, offset of the target.
        fcntl.ioctl(target, _FICLONERANGE, struct.pack("=qQQQ", source, 0, BLOCK_BYTES, place))
    except OSError:
        return False
    return True


def start_writing(descriptor: int) -> None:
    """Let the kernel begin to write a file's changed pages to the disk, without waiting for it, if it can do that."""
    function = _sync_file_range()
    if function is not None:
        function(descriptor, 0, 0, _WRITE)


@cache
def _sync_file_range() -> Any:
    if sys.platform != "linux":
        return None
    import ctypes

    function = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if function is not None:
        function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return function
