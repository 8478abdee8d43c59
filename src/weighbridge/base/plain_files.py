"""Open and read regular files, and nothing else that goes by a path: never wait for a pipe, never touch a device."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

_KINDS: Final = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


class OddFileError(OSError):
    """Say that something is no regular file, and what it is."""

    def __init__(self, kind: str) -> None:
        super().__init__(errno.EINVAL, f"it is {kind}, and no regular file")
        self.kind = kind


def open_plain(path: Path) -> tuple[int, os.stat_result]:
    """Open a regular file for reading.

    Returns:
        The descriptor, which the caller closes, and the file's status.

    Raises:
        OSError: As the system says; an `OddFileError` for what is no regular file.
    """
    _check_plain(path.stat())  # to open a device may already do something
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        _check_plain(status)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, status


def _check_plain(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OddFileError(_KINDS.get(stat.S_IFMT(status.st_mode), "a device"))


def read_plain(path: Path, limit_bytes: int) -> bytes:
    """Read a whole regular file that must not be larger than `limit_bytes`.

    Raises:
        OSError: As `open_plain`, and EFBIG for a file that is larger.

    Examples:
        >>> read_plain(Path("/dev/zero"), 10)
        Traceback (most recent call last):
        ...
        weighbridge.base.plain_files.OddFileError: [Errno 22] it is a device, and no regular file
    """
    descriptor, _ = open_plain(path)
    try:
        pieces: list[bytes] = []
        left = limit_bytes + 1
        while left > 0:
            piece = os.read(descriptor, min(left, 2**20))
            if not piece:
                return b"".join(pieces)
            pieces.append(piece)
            left -= len(piece)
    finally:
        os.close(descriptor)
    raise OSError(errno.EFBIG, f"it is larger than {limit_bytes:,} bytes")
