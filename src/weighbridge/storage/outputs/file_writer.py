"""Write one new file from pieces: any order, any number of threads, every piece in full.

All writes are positional (`pwrite`). The file's whole size is set aside when it is created, so that a full disk is
known before the first tensor is read. Bytes that move unchanged from file to file are copied by the kernel, if it can.

A file can be written with its first bytes held back: a safetensors file whose eight length bytes are zero is refused by
every reader. `seal` puts them in when all that belongs to the output is on the disk.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from weighbridge.base.errors import DestinationError
from weighbridge.base.file_names import check_new_name
from weighbridge.base.file_sets import FileImage
from weighbridge.base.process.machines import check_byte_order
from weighbridge.storage.formats.safetensors_header import LENGTH_BYTES
from weighbridge.storage.outputs.sinks import DEFAULT_OPTIONS, FileOptions, Sink, left_of, read_pieces
from weighbridge.storage.places.kernel import BLOCK_BYTES, can_share_blocks, share_blocks, start_writing
from weighbridge.storage.places.regular_files import OpenFiles
from weighbridge.storage.protocol import Extent
from weighbridge.storage.remote.remote_files import RemoteFile

SEAL_BYTES: Final = LENGTH_BYTES
"""How many of a file's first bytes are held back until it is sealed."""

COPY_BUFFER_BYTES: Final = 2**18
DIRECT_BUFFER_BYTES: Final = 4 * 2**20
"""As much as direct reads move at once."""
HURRY_BYTES: Final = 64 * 2**20
"""So much is written before the disk is asked to begin with it."""
_KERNEL_COPY_BYTES: Final = 2**30
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def reporting_write_errors(where: str) -> Iterator[None]:
    """Turn an OSError of the enclosed block into a DestinationError.

    Raises:
        DestinationError: `destination-no-room` for a full disk or quota, otherwise `write-failed`.
    """
    try:
        yield
    except OSError as error:
        code = "destination-no-room" if error.errno in _NO_ROOM else "write-failed"
        got = error.strerror or str(error)
        raise DestinationError(code, "the file cannot be written", where=where, got=got) from error


class FileWriter(Sink):
    """A new file.

    Args:
        path: Where; nothing may be there yet.
        head: The first bytes.
        size_bytes: Size of the whole file, head included.
        options: How it is written.
        is_there: Write over the file that is there; what it holds elsewhere is left as it is.
        is_shared: Write into a file that others are filling, too: its size and its head are left as they are.

    Raises:
        DestinationError: `destination-no-room`, `write-failed`.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a"
        >>> with FileWriter(path, b"head", 7) as writer:
        ...     writer.write(4, b"abc")
        >>> path.read_bytes()
        b'headabc'
    """

    def __init__(
        self,
        path: Path,
        head: bytes,
        size_bytes: int,
        options: FileOptions = DEFAULT_OPTIONS,
        *,
        is_there: bool = False,
        is_shared: bool = False,
    ) -> None:
        check_byte_order()
        self.path = path
        self.size_bytes = size_bytes
        self.options = options
        self._fresh_bytes = 0
        self._shares_blocks: bool | None = None
        self._sources = OpenFiles({}, direct=options.direct, is_passing=True)
        how = os.O_NOFOLLOW if is_there or is_shared else os.O_CREAT | os.O_EXCL
        with reporting_write_errors(str(path)):
            self._descriptor = os.open(path, os.O_WRONLY | how | os.O_CLOEXEC, 0o666)
        if is_shared:
            return
        try:
            with reporting_write_errors(str(path)):
                if is_there or options.share:
                    os.ftruncate(self._descriptor, size_bytes)
                if not options.share:
                    _set_size(self._descriptor, size_bytes)
            self.write(0, bytes(len(head[: options.held_bytes])) + head[options.held_bytes :])
        except BaseException:
            self.abandon()
            raise

    @classmethod
    def of_image(cls, directory: Path, image: FileImage) -> FileWriter:
        """Create the file of an image, without its tensors' bytes.

        Raises:
            CheckpointError: `path-unsafe`.
            DestinationError: `destination-no-room`, `write-failed`.
        """
        check_new_name(image.name, str(directory))
        path = directory / image.name
        with reporting_write_errors(str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
        return cls(path, image.head, image.size_bytes)

    def write(self, offset: int, buffer: bytes | bytearray | memoryview) -> None:
        """Write all of a buffer at `offset` from the start of the file.

        Raises:
            DestinationError: `destination-no-room`, `write-failed`.
        """
        with memoryview(buffer) as any_view, any_view.cast("B") as view, reporting_write_errors(str(self.path)):
            size_bytes = len(view)
            self._write(offset, view)
        self._hurry(size_bytes)

    def spread(self, places: Iterable[tuple[int, int]], buffer: memoryview) -> None:
        """Write a buffer's bytes to several places; for thousands of small ones, with little work for each.

        Raises:
            DestinationError: `destination-no-room`, `write-failed`.
        """
        done = 0
        with reporting_write_errors(str(self.path)):
            for offset, size_bytes in places:
                self._write(offset, buffer[done : done + size_bytes])
                done += size_bytes
        self._fresh_bytes += done

    def hurry(self) -> None:
        """Have the disk begin with what was written, instead of leaving it all to the end; nothing waits here."""
        if self.options.sync and self._fresh_bytes >= HURRY_BYTES:
            self._fresh_bytes = 0
            start_writing(self._descriptor)

    def _write(self, offset: int, view: memoryview) -> None:
        self._check_inside(offset, len(view))
        while view:
            done = os.pwrite(self._descriptor, view, offset)
            view, offset = view[done:], offset + done

    def copy_range(self, extent: Extent, offset: int) -> None:
        """Copy bytes of another file to `offset`.

        Where the file system lets two files share blocks, the kernel does it, and no byte need move. Elsewhere a buffer
        of `COPY_BUFFER_BYTES`, which stays in a core's cache, is faster than the kernel's own copy from page to page.

        Raises:
            DestinationError: `destination-no-room`, `write-failed`.
            CheckpointError: `source-changed` if the source is shorter than the extent, `read-failed`.
        """
        with reporting_write_errors(str(self.path)):
            self._check_inside(offset, extent.size_bytes)
        for start, stop in left_of(extent, self.share_range(extent, offset)):
            self._copy(Extent(extent.path, extent.offset + start, stop - start), offset + start)

    def share_range(self, extent: Extent, offset: int) -> tuple[int, int]:
        """Share the whole blocks of an extent that goes to `offset`, if the file is to share blocks, and it can.

        Returns:
            The bytes of the extent, [start, stop), that are there now; start and stop are equal if there are none.

        Raises:
            CheckpointError: `checkpoint-not-found`, `read-failed`.
        """
        if isinstance(extent.path, RemoteFile):
            return 0, 0
        start, stop = -offset % BLOCK_BYTES, extent.size_bytes - (offset + extent.size_bytes) % BLOCK_BYTES
        if not self.options.share or stop <= start or (extent.offset - offset) % BLOCK_BYTES:
            return 0, 0
        number = self._sources.hold(extent.path).number
        done = share_blocks(number, self._descriptor, extent.offset + start, offset + start, stop - start)
        return (start, stop) if done else (0, 0)

    def _copy(self, extent: Extent, offset: int) -> None:
        done = self._copy_in_kernel(extent, offset)
        if done < extent.size_bytes:
            piece_bytes = DIRECT_BUFFER_BYTES if self.options.direct else COPY_BUFFER_BYTES
            for position, piece in read_pieces(self._sources, extent, done, piece_bytes):
                self.write(offset + position, piece)

    def _copy_in_kernel(self, extent: Extent, offset: int) -> int:
        """Copy as much as the kernel can between these two files; return how many bytes that was."""
        if extent.size_bytes < 2 * BLOCK_BYTES or self._shares_blocks is False or not hasattr(os, "copy_file_range"):
            return 0
        if isinstance(extent.path, RemoteFile):
            return 0
        source = self._sources.hold(extent.path)
        if self._shares_blocks is None:
            self._shares_blocks = can_share_blocks(source.number, self._descriptor, offset)
            if not self._shares_blocks:
                return 0
        done = 0
        while done < extent.size_bytes:
            size_bytes = min(extent.size_bytes - done, _KERNEL_COPY_BYTES)
            try:
                count = os.copy_file_range(
                    source.number, self._descriptor, size_bytes, extent.offset + done, offset + done
                )
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    break  # it cannot do this, or one of the files fails: the buffer finds out which
                with reporting_write_errors(str(self.path)):
                    raise
            # Some file systems answer 0 instead of an error; the buffer finds out whether the source ends here.
            if count == 0:
                break
            done += count
        self._hurry(done)
        return done

    def _hurry(self, size_bytes: int) -> None:
        self._fresh_bytes += size_bytes  # a count that two threads spoil costs nothing but a late beginning
        self.hurry()

    def _check_inside(self, offset: int, length_bytes: int) -> None:
        if offset < 0 or offset + length_bytes > self.size_bytes:
            raise OSError(errno.EFAULT, f"bytes [{offset}, {offset + length_bytes}) lie outside the file")

    def close(self) -> None:
        """Force the bytes to the disk, if that is wanted, and close the file.

        Raises:
            DestinationError: `destination-no-room`, `write-failed`.
        """
        if self._descriptor < 0:
            return
        try:
            with reporting_write_errors(str(self.path)):
                if self.options.sync:
                    os.fsync(self._descriptor)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close the file as it is; whoever owns the directory removes it."""
        descriptor, self._descriptor = self._descriptor, -1
        self._sources.close()
        if descriptor >= 0:
            os.close(descriptor)


def _set_size(descriptor: int, size_bytes: int) -> None:
    """Set a file's size, with its blocks where the file system can do that."""
    if size_bytes == 0:
        return
    try:
        os.posix_fallocate(descriptor, 0, size_bytes)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise
        os.ftruncate(descriptor, size_bytes)
    except AttributeError:
        os.ftruncate(descriptor, size_bytes)


def write_file(path: Path, content: bytes) -> None:
    """Write a small new file and force it to the disk.

    Raises:
        DestinationError: `destination-no-room`, `write-failed`.
    """
    with FileWriter(path, content, len(content)):
        pass


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    """Open what is there, for the enclosed block, whose errors are those of writing."""
    with reporting_write_errors(str(path)):
        descriptor = os.open(path, flags | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def seal(path: Path, first_bytes: bytes, *, sync: bool = True) -> None:
    """Write the first bytes of a finished file, and force them to the disk, if that is wanted.

    Raises:
        DestinationError: `destination-no-room`, `write-failed`.
    """
    with _opened(path, os.O_WRONLY | os.O_NOFOLLOW) as descriptor:
        os.pwrite(descriptor, first_bytes, 0)
        if sync:
            os.fsync(descriptor)


def unseal(path: Path) -> None:
    """Set the bytes that `seal` writes to zero again; a file that is shorter is left as it is.

    Raises:
        DestinationError: `write-failed`.
    """
    with _opened(path, os.O_WRONLY | os.O_NOFOLLOW) as descriptor:
        os.pwrite(descriptor, bytes(min(SEAL_BYTES, os.fstat(descriptor).st_size)), 0)


def sync_file(path: Path) -> None:
    """Force the bytes of a file that is there to the disk.

    Raises:
        DestinationError: `write-failed`.
    """
    with _opened(path, os.O_RDONLY | os.O_NOFOLLOW) as descriptor:
        os.fsync(descriptor)


def sync_directory(path: Path) -> None:
    """Force a directory's entries to the disk, where its file system knows that.

    Raises:
        DestinationError: `write-failed`.
    """
    with _opened(path, os.O_RDONLY | os.O_DIRECTORY) as descriptor, suppress(OSError):
        os.fsync(descriptor)
