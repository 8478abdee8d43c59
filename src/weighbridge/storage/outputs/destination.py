"""A new directory, or a single new file, that appears whole or not at all.

Everything is written to a hidden directory beside the destination, and forced to the disk. Until all of it is there,
the first bytes of every weight file are zero, so that nothing in the hidden directory opens as a checkpoint. They are
written at last, and the very last act is one rename: even a loss of power leaves nothing that loads unless it is
complete. An empty directory in the destination's place gives the new one its owner, group, mode and attributes.

Whatever goes wrong, an interrupt included, the hidden directory and the parents that were made for it are removed
again. A run that may be resumed leaves it for the next one, unless its bytes can be of no more use. A process that is
killed leaves it in either case.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from weighbridge.base.errors import CheckpointError, DestinationError, PlanError, WeighbridgeError
from weighbridge.base.file_names import RECEIPT_NAME, RECORD_NAME, check_new_name
from weighbridge.base.file_sets import FileImage
from weighbridge.storage.outputs.adopting import adopt_access
from weighbridge.storage.outputs.claiming import Claim, claiming, partial_path, parts_path, refuse_left
from weighbridge.storage.outputs.file_writer import (
    SEAL_BYTES,
    FileWriter,
    reporting_write_errors,
    seal,
    sync_directory,
    sync_file,
    unseal,
    write_file,
)
from weighbridge.storage.outputs.mending import MendingWriter
from weighbridge.storage.outputs.output_names import check_apart
from weighbridge.storage.outputs.sinks import DEFAULT_OPTIONS, FileOptions, Sink
from weighbridge.storage.outputs.unfinished import (
    PROBE_SUFFIX,
    Work,
    allocated_bytes,
    check_left,
    is_worthless,
    start_anew,
)
from weighbridge.storage.outputs.vacancy import check_absent, check_destination, publish_directory, publish_file
from weighbridge.storage.places.directory import Extra
from weighbridge.storage.places.regular_files import open_regular
from weighbridge.storage.places.stamps import FileStamp, check_stamp, link_file
from weighbridge.storage.protocol import Extent, IndexText
from weighbridge.storage.remote.remote_files import RemoteFile

_LOG: Final = logging.getLogger(__name__)

_CURABLE: Final = {"read-failed", "checkpoint-not-found", "budget-too-small"}
"""Problems with a source or a plan that can pass without a change of either."""


class OutputDirectory:
    """A destination that is being written.

    Args:
        path: The hidden directory.
        destination: Where it will stand.
        left: Names of the files that an earlier run left there.
        options: How the files are written, and whether everything is forced to the disk before the directory appears.
    """

    def __init__(
        self, path: Path, destination: Path, left: Iterable[str] = (), options: FileOptions = DEFAULT_OPTIONS
    ) -> None:
        self.path = path
        self.destination = destination
        self.sync = options.sync
        self._options = options._replace(held_bytes=SEAL_BYTES)
        self._left = set(left)
        self._links: dict[str, tuple[Path, FileStamp]] = {}
        self._last: dict[str, bytes] = {}
        self._seals: dict[str, bytes] = {}
        self._menders: list[MendingWriter] = []

    def start(self, work: Work) -> None:
        """Write down what is going to be written; weight files that are there already stop being readable.

        Raises:
            DestinationError: `destination-no-room`, `write-failed` also for two names that would be one file.
        """
        for name in self._left.intersection(image.name for image in work.images):
            unseal(self.path / name)
        if not self._left and not (self.path / RECORD_NAME).exists():
            write_file(self.path / RECORD_NAME, work.record())
            sync_directory(self.path)
        check_apart(work.names, self.path / RECORD_NAME, str(self.destination))

    def create(self, image: FileImage) -> Sink:
        """Create a file from its image, or open what an earlier run left of it; the caller fills it in and closes it.

        Raises:
            CheckpointError: `path-unsafe`.
            DestinationError: `destination-no-room`, `write-failed`.
        """
        check_new_name(image.name, str(self.destination))
        if image.head:
            self._seals[image.name] = image.head[:SEAL_BYTES]
        return self._open(image.name, image.head, image.size_bytes)

    def _open(self, name: str, head: bytes, size_bytes: int) -> Sink:
        path = self.path / name
        if name not in self._left:
            with reporting_write_errors(str(path)):
                path.parent.mkdir(parents=True, exist_ok=True)
            return FileWriter(path, head, size_bytes, self._options)
        self._left.remove(name)
        self._menders.append(MendingWriter(path, head, size_bytes, self._options))
        return self._menders[-1]

    def link(self, name: str, source: Path) -> bool:
        """Give a file of the source a further name here, as the last thing before the directory appears.

        Returns:
            Whether that will be done. If not, the file is to be made like any other: it lies on another disk, the file
            system has no links, or an earlier run has begun to write it.

        Raises:
            CheckpointError: `path-unsafe`, `checkpoint-not-found`, `read-failed`.
            DestinationError: `destination-no-room`, `write-failed`.
        """
        check_new_name(name, str(self.destination))
        path = self.path / name
        with reporting_write_errors(str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
        probe = path.with_name(path.name + PROBE_SUFFIX)
        if name in self._left:
            return False
        try:
            link_file(source, probe)
            probe.unlink()
        except OSError as problem:
            _LOG.warning("%s is copied, not linked: %s", name, problem.strerror or problem)
            return False
        self._links[name] = source, _stamp(source)
        return True

    def take(self, images: Iterable[FileImage]) -> None:
        """Take weight files that other processes have filled: they become readable when all files do.

        Raises:
            DestinationError: `write-failed`.
        """
        for image in images:
            unseal(self.path / image.name)
            self._left.discard(image.name)
            self._seals[image.name] = image.head[:SEAL_BYTES]

    def add_index(self, index: IndexText) -> None:
        """Keep the index, to be written after all other files but the receipt.

        Raises:
            CheckpointError: `path-unsafe`.
        """
        check_new_name(index.name, str(self.destination))
        self._last[index.name] = index.text

    def add_receipt(self, content: bytes) -> None:
        """Keep the receipt, to be written as the last file."""
        self._last[RECEIPT_NAME] = content

    def finish(self) -> None:
        """Write index and receipt, force all directories to the disk, and make the weight files readable.

        Raises:
            DestinationError: `destination-no-room`, `write-failed`.
        """
        for name in sorted(self._last, key=lambda name: name == RECEIPT_NAME):
            with self._open(name, b"", len(self._last[name])) as writer:
                writer.write(0, self._last[name])
        with reporting_write_errors(str(self.path)):
            for name in (*self._left, RECORD_NAME):
                (self.path / name).unlink(missing_ok=True)
        for folder, _, _ in os.walk(self.path, topdown=False) if self.sync else ():
            sync_directory(Path(folder))
        for name, first_bytes in self._seals.items():
            seal(self.path / name, first_bytes, sync=self.sync)
        self._make_links()
        if self._menders:
            kept = sum(mender.kept_bytes for mender in self._menders)
            logging.getLogger("weighbridge").info("resumed: %s bytes were there already", f"{kept:,}")

    def _make_links(self) -> None:
        """Make the links: as they open at once, nothing may be missing beside them."""
        for name, (source, stamp) in self._links.items():
            path = self.path / name
            with reporting_write_errors(str(path)):
                link_file(source, path)
            check_stamp(source, _stamp(path, is_resolved=False), stamp)
            if self.sync:
                sync_file(path)
                sync_directory(path.parent)


@contextmanager
def staged_directory(
    destination: Path | str,
    *,
    sources: Iterable[Path | str] = (),
    needed_bytes: int = 0,
    work: Work | None = None,
    resume: bool = False,
    sync: bool = True,
    share: bool = False,
    direct: bool = False,
    as_file: bool = False,
) -> Iterator[OutputDirectory]:
    """Write a directory that appears at `destination` when the block ends without an exception.

    Args:
        destination: Where; nothing, or an empty directory, may be there.
        sources: Files and directories that are read; the destination must not touch them.
        needed_bytes: How much will be written.
        work: What will be written, as far as that decides whether an unfinished output is of this run.
        resume: Go on with what a run of the same work left unfinished, and leave what this one does not finish.
        sync: Force everything to the disk before the directory appears.
        share: Share blocks with the files that ranges are copied from.
        direct: Read these files past the page cache.
        as_file: Let nothing appear but the one file in the directory that has the name of the destination.

    Yields:
        The directory to write to.

    Raises:
        DestinationError: `destination-unsafe`, `destination-exists`, `destination-no-room`, `destination-busy`,
            `destination-unfinished`, `resume-mismatch`, `write-failed`.
    """
    target = Path(destination)
    hidden = partial_path(target.absolute())
    check_destination(target, sources, needed_bytes - allocated_bytes(hidden), as_file=as_file)
    target = target.absolute()
    made: list[Path] = []
    try:
        with reporting_write_errors(str(target)):
            make_parents(target.parent, made)
            refuse_parts(target)
        with claiming(hidden) as claim:
            left = _look_into(claim, work or Work(), resume)
            with _removing_failed(claim, resume):
                check_absent(target, as_file=as_file)
                with reporting_write_errors(str(hidden)):
                    adopt_access(hidden, target)
                output = OutputDirectory(hidden, target, left, FileOptions(sync=sync, share=share, direct=direct))
                output.start(work or Work())
                with reporting_write_errors(str(target)):
                    yield output
                output.finish()
                publish = publish_file if as_file else publish_directory
                publish(hidden, target, sync=sync)
    except BaseException:
        for folder in reversed(made):
            with suppress(OSError):
                folder.rmdir()
        raise


def _look_into(claim: Claim, work: Work, resume: bool) -> set[str]:
    """Return the names of the files that an earlier run left, if this run may go on with them."""
    if not claim.was_there:
        return set()
    if not resume or not claim.is_locked:
        raise refuse_left(claim)
    left = check_left(claim.path, work)
    if not work.run:
        return left
    start_anew(claim.path, left)
    return set()


@contextmanager
def _removing_failed(claim: Claim, resume: bool) -> Iterator[None]:
    """Remove the hidden directory on any exception, or keep it and say so where its bytes can be of use."""
    try:
        yield
    except BaseException as problem:
        if not claim.path.exists() or not claim.is_own:
            raise  # it is the destination by now, or still that of the process that this one was forked from
        if not resume or _is_final(problem) or is_worthless(claim.path):
            shutil.rmtree(claim.path, ignore_errors=True)
            raise
        hint = f"go on with --resume (resume=True); what is written is kept in {claim.path}"
        if isinstance(problem, WeighbridgeError):
            raise problem.with_context(hint=hint) from problem
        problem.add_note(hint)
        raise


def _is_final(problem: BaseException) -> bool:
    """Tell whether what is written can be of no more use: the source is another one now, or the plan does not hold."""
    return isinstance(problem, CheckpointError | PlanError) and problem.code not in _CURABLE


def refuse_parts(target: Path) -> None:
    """Refuse a destination that several processes are filling together, or have left unfinished.

    Raises:
        DestinationError: `destination-unfinished`.
    """
    hidden = parts_path(target)
    if any(hidden.glob("*.json")):
        raise DestinationError(
            "destination-unfinished",
            "processes that share this output are writing it, or were stopped before its end",
            where=str(hidden),
            hint="run the parts that are missing (--part), or remove this directory to start anew",
        )


def make_parents(parent: Path, made: list[Path]) -> None:
    """Make the missing parents, outermost first, and list each one that was made."""
    for folder in (*reversed(parent.parents), parent):
        with suppress(FileExistsError):
            folder.mkdir()
            made.append(folder)


def copy_extras(extras: Iterable[Extra], create: Callable[[FileImage], Sink]) -> None:
    """Copy the files beside the weights; links arrive as files, with the ordinary mode of a new file.

    Args:
        extras: The files.
        create: Makes each file, as `OutputDirectory.create` does.

    Raises:
        DestinationError: `destination-no-room`, `write-failed`.
        CheckpointError: `checkpoint-not-found`, `read-failed`, `source-changed`.
    """
    for extra in extras:
        if extra.content is not None:
            with create(FileImage(extra.name, len(extra.content), b"", ())) as writer:
                writer.write(0, memoryview(extra.content))
            continue
        if isinstance(extra.path, RemoteFile):
            with create(FileImage(extra.name, extra.path.size_bytes, b"", ())) as writer:
                writer.copy_range(Extent(extra.path, 0, extra.path.size_bytes), 0)
            continue
        stamp = _stamp(extra.path)
        with create(FileImage(extra.name, stamp.size_bytes, b"", ())) as writer:
            writer.copy_range(Extent(extra.path, 0, stamp.size_bytes), 0)
        check_stamp(extra.path, _stamp(extra.path), stamp)


def _stamp(path: Path, *, is_resolved: bool = True) -> FileStamp:
    descriptor, stamp = open_regular(path, is_resolved=is_resolved)
    os.close(descriptor)
    return stamp
