"""Open, identify and read regular files, and nothing else that goes by a path.

A file is identified by its stamp: device, inode, size, and the times of its last changes. Descriptors are opened when
they are needed, checked against the stamp, and closed when the workers that read have ended: at most `OpenFiles.limit`
are held meanwhile, and none by a plan or a model that merely lives on. All reads are positional (`preadv`): safe from
any number of threads, and a file that was cut short is an error, where a memory map would end the process.
"""

from __future__ import annotations

import errno
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Final, NamedTuple

from weighbridge.base.errors import CheckpointError
from weighbridge.base.plain_files import OddFileError, open_plain
from weighbridge.base.workers import call_after_run
from weighbridge.storage.places.stamps import FileStamp, changed, check_stamp, stamp_of
from weighbridge.storage.remote.remote_files import Location, RemoteFile

if TYPE_CHECKING:
    from weighbridge.storage.places.scatter import Span

_LOG: Final = logging.getLogger(__name__)

SMALL_BYTES: Final = 2**24
"""Limit for a file of settings, such as a configuration."""

HEAD_SAMPLE_BYTES: Final = 65536
"""How much of a file that has no header of its own counts as its head."""


class SourceFile(NamedTuple):
    """One file of a checkpoint as it was when it was opened.

    Args:
        name: Path relative to the checkpoint's directory, with `/`.
        path: The file itself, with links resolved.
        stamp: Its stamp.
        head: Its first bytes: the safetensors header, a whole index, or the first `HEAD_SAMPLE_BYTES`.
    """

    name: str
    path: Path
    stamp: FileStamp
    head: bytes

    @property
    def size_bytes(self) -> int:
        """Its size."""
        return self.stamp.size_bytes


@contextmanager
def reporting_read_errors(where: str) -> Iterator[None]:
    """Turn an OSError of the enclosed block into a CheckpointError.

    Raises:
        CheckpointError: `checkpoint-not-found` if there is no such file, otherwise `read-failed`.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError("checkpoint-not-found", "there is no such file", where=where) from error
    except OSError as error:
        got = error.strerror or str(error)
        raise CheckpointError("read-failed", "the file cannot be read", where=where, got=got) from error


def open_regular(path: Path, *, is_resolved: bool = False) -> tuple[int, FileStamp]:
    """Open a regular file for reading, without ever waiting for a pipe's other end or touching a device.

    Args:
        path: The file.
        is_resolved: Whether the path has its links resolved already: one that was put into it meanwhile is refused.

    Returns:
        The descriptor, which the caller closes, and the file's stamp.

    Raises:
        CheckpointError: `checkpoint-not-found`, `read-failed`, `source-changed`.
    """
    descriptor, stamp = _open_regular(path)
    if is_resolved and not _leads_to(path, stamp):
        os.close(descriptor)
        raise changed(path, "a link was put into its path")
    return descriptor, stamp


def _leads_to(path: Path, stamp: FileStamp) -> bool:
    """Say whether a path without links still is one, and names the file that was opened by it."""
    try:
        status = os.lstat(path)
        return os.path.realpath(path) == str(path) and (status.st_dev, status.st_ino) == stamp[:2]
    except OSError:
        return False


def _open_regular(path: Path) -> tuple[int, FileStamp]:
    with reporting_read_errors(str(path)):
        try:
            descriptor, status = open_plain(path)
        except OddFileError as problem:
            what = "this is not a regular file"
            hint = "" if problem.kind == "a directory" else "write what it gives into a file, and open that"
            raise CheckpointError("read-failed", what, where=str(path), got=problem.kind, hint=hint) from None
        return descriptor, stamp_of(status)


def fill_from(descriptor: int, buffer: memoryview, offset: int) -> int:
    """Fill a buffer from a file's bytes at `offset`; return how many bytes there were, at most the buffer's size."""
    done = 0
    with buffer.cast("B") as view:
        while done < len(view):
            count = os.preadv(descriptor, [view[done:]], offset + done)
            if count == 0:
                break
            done += count
    return done


def read_prefix(descriptor: int, size_bytes: int) -> bytes:
    """Read a file's first bytes: `size_bytes` of them, or as many as there are."""
    buffer = bytearray(size_bytes)
    with memoryview(buffer) as view:
        count = fill_from(descriptor, view, 0)
    return bytes(buffer[:count])


def read_small_file(
    path: Path, limit_bytes: int = SMALL_BYTES, *, is_resolved: bool = False
) -> tuple[bytes, FileStamp]:
    """Read a whole regular file that must not be larger than `limit_bytes`; for the others see `open_regular`.

    Raises:
        CheckpointError: `checkpoint-not-found`, `read-failed`, `source-changed`.
    """
    descriptor, stamp = open_regular(path, is_resolved=is_resolved)
    try:
        with reporting_read_errors(str(path)):
            if stamp.size_bytes > limit_bytes:
                expected, got = f"at most {limit_bytes:,} bytes", f"{stamp.size_bytes:,} bytes"
                raise CheckpointError(
                    "read-failed", "this file is too large to be read", where=str(path), expected=expected, got=got
                )
            return read_prefix(descriptor, stamp.size_bytes), stamp
    finally:
        os.close(descriptor)


def read_settings(location: Location) -> bytes:
    """Read a file of settings, here or elsewhere; one that lies here has its links resolved already.

    Raises:
        CheckpointError: As `read_small_file`, and for one elsewhere as `RemoteFile.read_all`.
    """
    if isinstance(location, RemoteFile):
        return location.read_all(SMALL_BYTES)
    return read_small_file(location, is_resolved=True)[0]


def sample_file(name: str, path: Path) -> SourceFile:
    """Stamp a file and keep its first `HEAD_SAMPLE_BYTES`.

    Raises:
        CheckpointError: `checkpoint-not-found`, `read-failed`, `source-changed`.
    """
    descriptor, stamp = open_regular(path, is_resolved=True)
    try:
        with reporting_read_errors(str(path)):
            return SourceFile(name, path, stamp, read_prefix(descriptor, min(stamp.size_bytes, HEAD_SAMPLE_BYTES)))
    finally:
        os.close(descriptor)


class _Descriptor:
    """A descriptor that is closed when nobody holds it any more; a reader may outlive its place in the cache."""

    __slots__ = ("is_direct", "number", "stamp")

    def __init__(self, number: int, stamp: FileStamp) -> None:
        self.number = number
        self.stamp = stamp
        self.is_direct = False

    def __del__(self) -> None:
        os.close(self.number)


class OpenFiles:
    """Read files by path, holding at most `limit` descriptors open; one that lies elsewhere is asked for its ranges.

    Args:
        stamps: What each file must still be when it is opened; a path that is not listed may be anything.
        limit: The most descriptors to hold.
        direct: Read past the page cache, where the file system can do that.
        is_passing: Whether this lives no longer than the work that it is made for. Otherwise a descriptor is held only
            while workers run, and those are closed when they have ended.
    """

    def __init__(
        self,
        stamps: Mapping[Path, FileStamp],
        limit: int = 32,
        *,
        direct: bool = False,
        is_passing: bool = False,
    ) -> None:
        self.limit = limit
        self.direct = direct
        self.is_passing = is_passing
        self._stamps = stamps
        self._held: OrderedDict[Path, _Descriptor] = OrderedDict()
        self._lock = Lock()

    def hold(self, path: Path) -> _Descriptor:
        """Return the open descriptor of a file; it stays open as long as the caller holds it.

        Raises:
            CheckpointError: `source-changed`, `checkpoint-not-found`, `read-failed`.
        """
        with self._lock:
            if path in self._held:
                self._held.move_to_end(path)
                return self._held[path]
            number, stamp = open_regular(path)
            held = _Descriptor(number, stamp)
            check_stamp(path, stamp, self._stamps.get(path, stamp))
            if self.direct:
                self._try_direct(held, path)
            if self.is_passing or call_after_run(self.close):
                self._held[path] = held
            while len(self._held) > self.limit:
                self._held.popitem(last=False)
            return held

    def hold_unchanged(self, path: Path) -> _Descriptor:
        """Return the open descriptor of a file that is, at this moment, what it was when it was opened.

        Raises:
            CheckpointError: `source-changed`, `checkpoint-not-found`, `read-failed`.
        """
        held = self.hold(path)
        check_stamp(path, stamp_of(os.fstat(held.number)), held.stamp)
        return held

    def read(self, path: Location, offset: int, buffer: memoryview) -> None:
        """Fill the whole buffer from the file's bytes at `offset`.

        Raises:
            CheckpointError: `source-changed`, `file-truncated`, `checkpoint-not-found`, `read-failed`; and as
                `RemoteFile.pieces` for a file elsewhere.
        """
        if isinstance(path, RemoteFile):
            path.read(offset, buffer)
            return
        self._check_count(path, offset, buffer.nbytes, self.fill(path, offset, buffer))

    def fill(self, path: Path, offset: int, buffer: memoryview) -> int:
        """Fill a buffer from the file's bytes at `offset`; return how many there were, at most the buffer's size.

        Raises:
            CheckpointError: `source-changed`, `checkpoint-not-found`, `read-failed`.
        """

        def past_the_cache(number: int) -> int:
            from weighbridge.storage.places.direct import fill_direct

            return fill_direct(number, buffer, offset)

        return self._read(path, lambda number: fill_from(number, buffer, offset), past_the_cache)

    def _read(self, path: Path, plainly: Callable[[int], int], past_the_cache: Callable[[int], int]) -> int:
        """Read a file in the way that it is open for; a way takes its descriptor and returns the bytes read."""
        held = self.hold(path)
        with reporting_read_errors(str(path)):
            if held.is_direct:
                try:
                    return past_the_cache(held.number)
                except OSError as problem:
                    self._give_up_direct(held, path, problem)
            return plainly(held.number)

    def _try_direct(self, held: _Descriptor, path: Path) -> None:
        from weighbridge.storage.places.direct import set_direct

        held.is_direct = set_direct(held.number, on=True)
        if not held.is_direct:
            _LOG.warning("read through the page cache, as this file system does nothing else: %s", path)

    def _give_up_direct(self, held: _Descriptor, path: Path, problem: OSError) -> None:
        """Go on through the page cache where the file system wants another alignment; what else fails is raised."""
        from weighbridge.storage.places.direct import set_direct

        if problem.errno != errno.EINVAL:
            raise problem
        set_direct(held.number, on=False)
        held.is_direct = False
        _LOG.warning("read through the page cache, as direct reads are refused: %s", path)

    def collect(self, path: Location, places: Iterable[tuple[int, int]], buffer: memoryview) -> None:
        """Fill a buffer from several places of a file, one after the other.

        Args:
            path: The file.
            places: Offset and size of each, in bytes; together they fill the buffer.
            buffer: What is filled.

        Raises:
            CheckpointError: As `read`.
        """
        if isinstance(path, RemoteFile):
            path.collect(list(places), buffer)
            return
        held, done = self.hold(path), 0
        with reporting_read_errors(str(path)):
            for offset, size_bytes in places:
                part = buffer[done : done + size_bytes]
                count = 0 if held.is_direct else os.preadv(held.number, [part], offset)
                if count < size_bytes:
                    self.read(path, offset + count, part[count:])
                done += size_bytes

    def scatter(self, path: Location, offset: int, spans: Sequence[Span]) -> None:
        """Fill pieces of memory, one after the other, from the file's bytes at `offset`.

        Raises:
            CheckpointError: As `read`.
        """
        from weighbridge.storage.places.scatter import scatter, scatter_pieces

        if isinstance(path, RemoteFile):
            scatter_pieces(path.pieces(offset, sum([span.size_bytes for span in spans])), spans)
            return

        def past_the_cache(number: int) -> int:
            from weighbridge.storage.places.direct import scatter_direct

            return scatter_direct(number, offset, spans)

        count = self._read(path, lambda number: scatter(number, offset, spans), past_the_cache)
        self._check_count(path, offset, sum([span.size_bytes for span in spans]), count)

    def _check_count(self, path: Path, offset: int, wanted: int, count: int) -> None:
        if count == wanted:
            return
        self.hold_unchanged(path)
        expected, got = f"{wanted:,} bytes from byte {offset:,} on", f"{count:,} bytes"
        raise CheckpointError("file-truncated", "the file ends too early", where=str(path), expected=expected, got=got)

    def close(self) -> None:
        """Let go of all descriptors; the next read opens what it needs."""
        with self._lock:
            self._held.clear()
