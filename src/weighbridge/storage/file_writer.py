"""Write one new file from pieces: any order, any number of threads, every piece in full.

All writes are positional (`pwrite`). The file's whole size is set aside when it is created, so that a full disk is
known before the first tensor is read. Bytes that move unchanged from file to file are copied by the kernel, if it can.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from weighbridge.errors import CheckpointError, DestinationError
from weighbridge.files import FileImage
from weighbridge.storage.paths import check_new_name
from weighbridge.storage.protocol import Extent
from weighbridge.storage.regular_files import OpenFiles, fill_from, reporting_read_errors

COPY_BUFFER_BYTES: Final = 8 * 2**20
_KERNEL_COPY_BYTES: Final = 2**30
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_UNSUPPORTED: Final = (
    *(errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.ETXTBSY, errno.EPERM),
    *(errno.EOVERFLOW, errno.ENODEV),
)


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


class FileWriter:
    """A new file of a fixed size that is being filled; use it as a context manager, or close it.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a"
        >>> with FileWriter(path, b"head", 7) as writer:
        ...     writer.write(4, b"abc")
        >>> path.read_bytes()
        b'headabc'
    """

    def __init__(self, path: Path, head: bytes, size_bytes: int) -> None:
        """Create the file, set its size aside and write its head.

        Args:
            path: Where; nothing may be there yet.
            head: The first bytes.
            size_bytes: Size of the whole file, head included.

        Raises:
            DestinationError: `destination-no-room`, `write-failed`.
        """
        self.path = path
        self.size_bytes = size_bytes
        self._sources = OpenFiles({})
        with reporting_write_errors(str(path)):
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            with reporting_write_errors(str(path)):
                _set_size(self._descriptor, size_bytes)
            self.write(0, head)
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
            self._check_inside(offset, len(view))
            done = 0
            while done < len(view):
                done += os.pwrite(self._descriptor, view[done:], offset + done)

    def copy_range(self, extent: Extent, offset: int) -> None:
        """Copy bytes of another file to `offset`, through the kernel or a buffer of `COPY_BUFFER_BYTES`.

        Raises:
            DestinationError: `destination-no-room`, `write-failed`.
            CheckpointError: `source-changed` if the source is shorter than the extent, `read-failed`.
        """
        with reporting_write_errors(str(self.path)):
            self._check_inside(offset, extent.size_bytes)
        source = self._sources.hold(extent.path).number
        done = self._copy_in_kernel(source, extent, offset)
        buffer = memoryview(bytearray(min(COPY_BUFFER_BYTES, extent.size_bytes - done)))
        while done < extent.size_bytes:
            piece = buffer[: extent.size_bytes - done]
            with reporting_read_errors(str(extent.path)):
                count = fill_from(source, piece, extent.offset + done)
            if count < len(piece):
                got = f"it ends {extent.size_bytes - done - count:,} bytes too early"
                raise CheckpointError(
                    "source-changed", "the file is not what was opened", where=str(extent.path), got=got
                )
            self.write(offset + done, piece)
            done += count

    def _copy_in_kernel(self, source: int, extent: Extent, offset: int) -> int:
        """Copy as much as the kernel can between these two files; return how many bytes that was."""
        if not hasattr(os, "copy_file_range"):
            return 0
        done = 0
        while done < extent.size_bytes:
            size_bytes = min(extent.size_bytes - done, _KERNEL_COPY_BYTES)
            try:
                count = os.copy_file_range(source, self._descriptor, size_bytes, extent.offset + done, offset + done)
            except OSError as error:
                if error.errno in _UNSUPPORTED:
                    break
                with reporting_write_errors(str(self.path)):
                    raise
            # Some file systems answer 0 instead of an error; the buffer finds out whether the source ends here.
            if count == 0:
                break
            done += count
        return done

    def _check_inside(self, offset: int, length_bytes: int) -> None:
        if offset < 0 or offset + length_bytes > self.size_bytes:
            raise OSError(errno.EFAULT, f"bytes [{offset}, {offset + length_bytes}) lie outside the file")

    def close(self) -> None:
        """Force the bytes to the disk and close the file.

        Raises:
            DestinationError: `destination-no-room`, `write-failed`.
        """
        if self._descriptor < 0:
            return
        try:
            with reporting_write_errors(str(self.path)):
                os.fsync(self._descriptor)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close the file as it is; whoever owns the directory removes it."""
        descriptor, self._descriptor = self._descriptor, -1
        self._sources.close()
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()


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


def sync_directory(path: Path) -> None:
    """Force a directory's entries to the disk, where its file system knows that.

    Raises:
        DestinationError: `write-failed`.
    """
    with reporting_write_errors(str(path)):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with suppress(OSError):
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
