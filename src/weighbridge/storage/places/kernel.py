"""What the kernel can do for files beyond reading and writing, asked for in ways that fail without harm."""

from __future__ import annotations

import os
import struct
import sys
from functools import cache
from pathlib import Path
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
    if os.fstat(source).st_size < BLOCK_BYTES:
        return False
    return share_blocks(source, target, 0, -(-offset // BLOCK_BYTES) * BLOCK_BYTES, BLOCK_BYTES)


def share_blocks(source: int, target: int, source_offset: int, target_offset: int, size_bytes: int) -> bool:
    """Let a file share blocks of another one; each file keeps its bytes, whatever is written to the other one later.

    Args:
        source: Descriptor of a file that is open for reading.
        target: Descriptor of a file that is open for writing.
        source_offset: Where the blocks begin in the source; a multiple of the file system's blocks, like the others.
        target_offset: Where they begin in the target.
        size_bytes: Their size.

    Returns:
        Whether the file system did it; nothing has changed if not.
    """
    if sys.platform != "linux":
        return False
    import fcntl

    try:
        # struct file_clone_range of linux/fs.h: descriptor, offset and length of the source, offset of the target.
        fcntl.ioctl(target, _FICLONERANGE, struct.pack("=qQQQ", source, source_offset, size_bytes, target_offset))
    except OSError:
        return False
    return True


def shares_with(path: Path, directory: Path) -> bool:
    """Find out whether new files in a directory can share blocks with a file, by a file that never gets a name."""
    if sys.platform != "linux":
        return False
    try:
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            target = os.open(directory, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            try:
                return can_share_blocks(source, target, 0)
            finally:
                os.close(target)
        finally:
            os.close(source)
    except OSError:
        return False


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
