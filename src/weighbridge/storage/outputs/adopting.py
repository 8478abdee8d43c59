"""Give a new directory what the empty one has whose place it takes: whoever made that one meant it to be so."""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path


def adopt_access(made: Path, empty: Path) -> None:
    """Let a directory that is being filled be open to those alone to whom the empty one is, and pass its group on.

    Args:
        made: The directory that is being filled; its owner may always enter it.
        empty: The empty one, if there is one.

    Raises:
        OSError: As the system says.
    """
    status = _status(empty)
    if status is None:
        return
    with suppress(PermissionError):  # nobody but root gives to a group that is not their own
        os.chown(made, -1, status.st_gid)
    made.chmod(stat.S_IMODE(status.st_mode) | stat.S_IRWXU)


def adopt_all(made: Path, empty: Path) -> None:
    """Give a finished directory the owner, the group, the mode and the attributes of the empty one.

    Raises:
        OSError: As the system says.
    """
    status = _status(empty)
    if status is None:
        return
    with suppress(PermissionError):
        os.chown(made, status.st_uid, status.st_gid)
    shutil.copystat(empty, made)


def _status(empty: Path) -> os.stat_result | None:
    with suppress(FileNotFoundError):
        status = empty.lstat()
        return status if stat.S_ISDIR(status.st_mode) else None
    return None
