"""A new directory that appears whole or not at all.

Everything is written to a hidden directory beside the destination, and forced to the disk. The last act is one rename.
The index is written after all shards and the receipt after that, so that even a crash between rename and power loss
leaves nothing that loads and is not complete. Whatever goes wrong, an interrupt included, the hidden directory and
the parents that were made for it are removed again.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from weighbridge.errors import DestinationError
from weighbridge.files import FileImage
from weighbridge.storage.file_writer import FileWriter, reporting_write_errors, sync_directory, write_file
from weighbridge.storage.paths import check_new_name
from weighbridge.storage.protocol import RECEIPT_NAME, Extent, Extra, IndexText
from weighbridge.storage.regular_files import open_regular


class OutputDirectory:
    """A destination that is being written.

    Args:
        path: The hidden directory.
        destination: Where it will stand.
    """

    def __init__(self, path: Path, destination: Path) -> None:
        self.path = path
        self.destination = destination
        self._last: dict[str, bytes] = {}

    def create(self, image: FileImage) -> FileWriter:
        """Create a weight file from its image; the caller fills in the tensors and closes it.

        Raises:
            CheckpointError: `path-unsafe`.
            DestinationError: `destination-no-room`, `write-failed`.
        """
        return FileWriter.of_image(self.path, image)

    def add_index(self, index: IndexText) -> None:
        """Keep the index, to be written after all other files but the receipt.

        Raises:
            CheckpointError: `path-unsafe`.
        """
        check_new_name(index.name, str(self.destination))
        self._last[index.name] = index.text

    def add_receipt(self, content: bytes) -> None:
        """Keep the receipt, to be written as the very last file."""
        self._last[RECEIPT_NAME] = content

    def finish(self) -> None:
        """Write index and receipt, and force all directories to the disk.

        Raises:
            DestinationError: `destination-no-room`, `write-failed`.
        """
        for name in sorted(self._last, key=lambda name: name == RECEIPT_NAME):
            with reporting_write_errors(str(self.path / name)):
                (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            write_file(self.path / name, self._last[name])
        for folder, _, _ in os.walk(self.path, topdown=False):
            sync_directory(Path(folder))


@contextmanager
def staged_directory(
    destination: Path | str, *, sources: Iterable[Path | str] = (), needed_bytes: int = 0
) -> Iterator[OutputDirectory]:
    """Write a directory that appears at `destination` when the block ends without an exception.

    Args:
        destination: Where; nothing, or an empty directory, may be there.
        sources: Files and directories that are read; the destination must not touch them.
        needed_bytes: How much will be written.

    Yields:
        The directory to write to.

    Raises:
        DestinationError: `destination-unsafe`, `destination-exists`, `destination-no-room`, `write-failed`.
    """
    target = Path(destination)
    check_destination(target, sources, needed_bytes)
    target = target.absolute()
    made: list[Path] = []
    staging = target.parent / f".{target.name[:200]}.weighbridge-{secrets.token_hex(6)}"
    try:
        with reporting_write_errors(str(target)):
            _make_parents(target.parent, made)
            staging.mkdir()
        output = OutputDirectory(staging, target)
        with reporting_write_errors(str(target)):
            yield output
        output.finish()
        _publish(staging, target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        for folder in reversed(made):
            with suppress(OSError):
                folder.rmdir()
        raise


def check_destination(destination: Path | str, sources: Iterable[Path | str] = (), needed_bytes: int = 0) -> None:
    """Check, without changing anything, that a directory can be written at `destination`.

    Args:
        destination: Where; nothing, or an empty directory, may be there.
        sources: Files and directories that are read.
        needed_bytes: How much will be written.

    Raises:
        DestinationError: `destination-unsafe`, `destination-exists`, `destination-no-room`, `write-failed`.
    """
    path = Path(destination)
    if not path.name or "\0" in str(path) or path.name in (".", ".."):
        raise DestinationError("destination-unsafe", "this is no name for a new directory", where=str(path))
    real = Path(os.path.realpath(path))
    for source in sources:
        _check_apart(real, Path(os.path.realpath(source)), path)
    with reporting_write_errors(str(path)):
        _check_absent(path)
        _check_room(real, path, needed_bytes)


def _check_apart(real: Path, source: Path, where: Path) -> None:
    """Refuse a destination that is a source, lies in one, or would hold one."""
    same = real == source or (real.exists() and source.exists() and real.samefile(source))
    relations = {
        "is the source": same,
        "lies inside the source": source.is_dir() and real.is_relative_to(source),
        "holds the source": source.is_relative_to(real),
    }
    for what, applies in relations.items():
        if applies:
            hint = "choose a directory beside the source"
            raise DestinationError(
                "destination-unsafe", f"the destination {what}", where=str(where), got=str(source), hint=hint
            )


def _check_absent(path: Path) -> None:
    if not os.path.lexists(path):
        return
    got = "a link" if path.is_symlink() else "a directory that is not empty" if path.is_dir() else "a file"
    if got.startswith("a directory") and not any(path.iterdir()):
        return
    hint = "remove it, or choose another name; nothing is ever overwritten"
    what = "the destination is already there"
    raise DestinationError("destination-exists", what, where=str(path), got=got, hint=hint)


def _check_room(real: Path, path: Path, needed_bytes: int) -> None:
    nearest = next(folder for folder in (real, *real.parents) if folder.exists())
    status = os.statvfs(nearest)
    free = status.f_bavail * status.f_frsize
    if free < needed_bytes:
        expected, got = f"{needed_bytes:,} bytes", f"{free:,} bytes free"
        raise DestinationError(
            "destination-no-room", "there is too little room", where=str(path), expected=expected, got=got
        )


def _make_parents(parent: Path, made: list[Path]) -> None:
    """Make the missing parents, outermost first, and list each one that was made."""
    for folder in (*reversed(parent.parents), parent):
        with suppress(FileExistsError):
            folder.mkdir()
            made.append(folder)


def _publish(staging: Path, target: Path) -> None:
    try:
        staging.rename(target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            what = "the destination was made by somebody else meanwhile"
            raise DestinationError("destination-exists", what, where=str(target)) from error
        with reporting_write_errors(str(target)):
            raise
    sync_directory(target.parent)


def copy_extras(extras: Iterable[Extra], directory: Path) -> None:
    """Copy the files beside the weights; links arrive as files, with the ordinary mode of a new file.

    Raises:
        DestinationError: `destination-no-room`, `write-failed`.
        CheckpointError: `checkpoint-not-found`, `read-failed`, `source-changed`.
    """
    for extra in extras:
        descriptor, stamp = open_regular(extra.path)
        os.close(descriptor)
        image = FileImage(extra.name, stamp.size_bytes, b"", ())
        with FileWriter.of_image(directory, image) as writer:
            writer.copy_range(Extent(extra.path, 0, stamp.size_bytes), 0)
