"""Hold the one hidden directory that belongs to a destination, so that two runs never write into it at once.

Its name follows from the destination's. It is locked with `flock` on the directory itself: no lock file is left behind,
and the lock ends with the process, however that ends; a process that was forked from it meanwhile has no part in it. A
file system without locks still makes a directory for one
caller alone, so a new output is safe there; what is left over there cannot be told from what is being written.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from weighbridge.base.errors import DestinationError
from weighbridge.base.file_names import RECORD_NAME
from weighbridge.base.hashes import sha256_of
from weighbridge.storage.outputs.file_writer import reporting_write_errors
from weighbridge.storage.outputs.unfinished import is_worthless

_SUFFIX: Final = ".weighbridge-partial"
_PARTS_SUFFIX: Final = ".weighbridge-parts"
_NAME_BYTES: Final = 255 - len("." + _SUFFIX)
_NO_LOCKS: Final = (errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF, errno.EINVAL, errno.ENOSYS)
_ATTEMPTS: Final = 100


class Claim(NamedTuple):
    """A hidden directory that nobody else writes to.

    Args:
        path: The directory.
        was_there: Whether an earlier run left it.
        is_locked: Whether the file system has locks.
        process: Number of the process that holds it.
    """

    path: Path
    was_there: bool
    is_locked: bool
    process: int

    @property
    def is_own(self) -> bool:
        """Whether this process holds it, and is not one that was forked from that."""
        return self.process == os.getpid()


def partial_path(destination: Path) -> Path:
    """Name the hidden directory beside a destination; what is too long for a name is cut, and a hash added.

    Examples:
        >>> partial_path(Path("models/fused")).name
        '.fused.weighbridge-partial'
        >>> len(partial_path(Path("x" * 255)).name)
        255
    """
    return _beside(destination, _SUFFIX)


def parts_path(destination: Path) -> Path:
    """Name the hidden directory beside a destination that several processes fill together.

    Examples:
        >>> parts_path(Path("models/fused")).name
        '.fused.weighbridge-parts'
    """
    return _beside(destination, _PARTS_SUFFIX)


def _beside(destination: Path, suffix: str) -> Path:
    name = destination.name
    if len(os.fsencode(name)) > _NAME_BYTES:
        digest = sha256_of(os.fsencode(name))[:8]
        while len(os.fsencode(name)) > _NAME_BYTES - 9:
            name = name[:-1]
        name = f"{name}-{digest}"
    return destination.parent / f".{name}{suffix}"


@contextmanager
def claiming(path: Path) -> Iterator[Claim]:
    """Make the hidden directory, or take over the one that an earlier run left, and hold it during the block.

    A left directory that holds nothing but a record is made anew.

    Raises:
        DestinationError: `destination-busy`, `write-failed`.
    """
    for _ in range(_ATTEMPTS):
        was_there = _make(path)
        descriptor = _open(path)
        if descriptor is None:
            continue
        try:
            is_locked = _lock(descriptor, path)
            if not _is_at(descriptor, path) or (was_there and is_locked and _clear(path)):
                continue
            yield Claim(path, was_there, is_locked, os.getpid())
            return
        finally:
            _let_go(descriptor)
    raise _busy(path)


@contextmanager
def holding(path: Path) -> Iterator[None]:
    """Make a file that nobody else holds, with its directory, and hold it during the block; it is gone after that.

    One that a killed process has left is taken over. Where there are no locks, its being there is the lock.

    Raises:
        DestinationError: `destination-busy`, `write-failed`; `destination-unfinished` where a file system without locks
            has the file already.
    """
    for _ in range(_ATTEMPTS):
        descriptor, was_there = _open_lock(path)
        if descriptor is None:
            continue
        try:
            is_locked = _lock(descriptor, path)
            if not _is_at(descriptor, path):
                continue
            if was_there and not is_locked:
                raise refuse_left(Claim(path, was_there, is_locked, os.getpid()))
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return
        finally:
            _let_go(descriptor)
    raise _busy(path)


def _open_lock(path: Path) -> tuple[int | None, bool]:
    """Open a file to lock, and tell whether it was there; nothing if its directory is gone again."""
    with reporting_write_errors(str(path)), suppress(FileNotFoundError):
        path.parent.mkdir(exist_ok=True)
        try:
            descriptor, was_there = os.open(path, _LOCK_FILE | os.O_EXCL, 0o666), False
        except FileExistsError:
            descriptor, was_there = os.open(path, _LOCK_FILE, 0o666), True
        _held.add(descriptor)
        return descriptor, was_there
    return None, False


_LOCK_FILE: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
"""Opened for writing, as file systems of a network lock nothing else for one holder alone."""

_held: set[int] = set()
"""Descriptors of what this process holds."""


def _let_go(descriptor: int) -> None:
    """End the lock, whoever else has the descriptor by now, and close it; a forked process has lost it already."""
    if descriptor in _held:
        _held.remove(descriptor)
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _lose_all() -> None:
    """Close what a forked process has from the one that it comes from: the lock would last as long as both."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_lose_all)


def _make(path: Path) -> bool:
    """Make the directory; tell whether it was there."""
    with reporting_write_errors(str(path)):
        try:
            path.mkdir()
        except FileExistsError:
            return True
    return False


def _open(path: Path) -> int | None:
    """Open the directory; None if it is gone again."""
    with reporting_write_errors(str(path)):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
    _held.add(descriptor)
    return descriptor


def _lock(descriptor: int, path: Path) -> bool:
    with reporting_write_errors(str(path)):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _busy(path) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Tell whether the path still leads to what was opened: its last holder may have published or removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except OSError:
        return False


def _clear(path: Path) -> bool:
    """Remove a left directory in which nothing was written yet; tell whether that was so."""
    if not is_worthless(path):
        return False
    with reporting_write_errors(str(path)):
        (path / RECORD_NAME).unlink(missing_ok=True)
        path.rmdir()
    return True


def _busy(path: Path) -> DestinationError:
    hint = "wait until it is done, or choose another name"
    return DestinationError(
        "destination-busy", "another run is writing to this destination", where=str(path), hint=hint
    )


def refuse_left(claim: Claim) -> DestinationError:
    """Return the error for an unfinished output that this run does not go on with."""
    got, hint = "", "go on with --resume (resume=True), or remove this directory to start anew"
    if not claim.is_locked:
        got = "a file system without locks, on which it could be that of a run that goes on"
        hint = f"remove this {'directory' if claim.path.is_dir() else 'file'} to start anew, if no run is writing to it"
    return DestinationError(
        "destination-unfinished",
        "a run into this destination was stopped before its end",
        where=str(claim.path),
        got=got,
        hint=hint,
    )
