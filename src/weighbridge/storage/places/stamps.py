"""What a file was when it was opened, as far as its status tells, and whether it still is that."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from weighbridge.base.errors import CheckpointError


class FileStamp(NamedTuple):
    """What tells a file from another one, and from itself after a change.

    Args:
        device: Number of the file system.
        inode: Number of the file.
        size_bytes: Its size.
        mtime_ns: When its contents were last changed, or are said to have been.
        ctime_ns: When anything of it was last changed; nobody can set this.
        names: How many names it has.
    """

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    names: int


def stamp_of(status: os.stat_result) -> FileStamp:
    """Take the stamp from a file's status."""
    contents = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
    return FileStamp(*contents, status.st_ctime_ns, status.st_nlink)


def check_stamp(path: Path, found: FileStamp, opened: FileStamp) -> None:
    """Compare two stamps of one path.

    Raises:
        CheckpointError: `source-changed`.
    """
    if found.size_bytes != opened.size_bytes:
        raise changed(path, f"it had {opened.size_bytes:,} bytes and has {found.size_bytes:,}")
    if found[:4] != opened[:4]:
        raise changed(path, "it was written to or replaced")
    # A further name explains the time, and is no new content; so is one that this process has given, and taken again.
    is_explained = found.names != opened.names or found[:2] in _linked
    if found.ctime_ns != opened.ctime_ns and not is_explained:
        raise changed(path, "it was changed, though its time of modification is what it was")


_linked: set[tuple[int, ...]] = set()


def link_file(source: Path, name: Path) -> None:
    """Give a file a further name, which its stamp is not to be held against.

    Raises:
        OSError: As the system says.
    """
    status = source.stat()
    _linked.add((status.st_dev, status.st_ino))
    os.link(source, name)


def changed(path: Path, got: str) -> CheckpointError:
    """Return the error for a file that is not what was opened."""
    hint = "open the checkpoint again, and plan again"
    return CheckpointError("source-changed", "the file is not what was opened", where=str(path), got=got, hint=hint)
