"""What an unfinished output says of itself, and whether a run may go on with it.

    weighbridge-partial.json
      {"format": "weighbridge-partial", "version": 1, "plan_hash": SHA-256,
       "source": [{"name", "size_bytes", "mtime_ns", "head_sha256"}],
       "files": [{"name", "size_bytes", "head_sha256"}], "others": [name],
     "run": what tells it from others, where several processes write it}

It is the first file in the hidden directory, and it is gone before the directory becomes the destination. It only tells
what is foreign: whether the bytes in the files are right is found out by comparing them, each one.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from weighbridge.base.errors import CheckpointError, DestinationError
from weighbridge.base.file_names import RECORD_NAME
from weighbridge.base.file_sets import FileImage
from weighbridge.base.hashes import sha256_of
from weighbridge.base.json_text import JsonError, join_keys, parse_json
from weighbridge.storage.outputs.file_writer import SEAL_BYTES, reporting_write_errors
from weighbridge.storage.places.file_fingerprints import FileFingerprint
from weighbridge.storage.places.regular_files import open_regular, read_prefix, read_small_file

PROBE_SUFFIX: Final = ".link"
"""Ends the name of a link that is made to find out whether one can be made; nothing opens a file of such a name."""
RECORD_FORMAT: Final = "weighbridge-partial"
RECORD_VERSION: Final = 1
_MAX_RECORD_BYTES: Final = 100_000_000


class Work(NamedTuple):
    """What a run is about to write.

    Args:
        plan_hash: The plan's.
        source: Fingerprints of the files that are read; empty for a source that is not in files.
        images: The weight files.
        others: Names of all other files.
        links: Files that come out as files of the source are, and may become further names of these; by name.
        run: What tells this run from any other, where several processes write it: none goes on with another's files.
    """

    plan_hash: str = ""
    source: Sequence[FileFingerprint] = ()
    images: Sequence[FileImage] = ()
    others: Sequence[str] = ()
    links: Mapping[str, Path] = MappingProxyType({})
    run: str = ""

    @property
    def names(self) -> set[str]:
        """Names of all files."""
        return {*self.others, *(image.name for image in self.images)}

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, the record."""
        files = [
            {"name": image.name, "size_bytes": image.size_bytes, "head_sha256": sha256_of(image.head)}
            for image in self.images
        ]
        return {
            "format": RECORD_FORMAT,
            "version": RECORD_VERSION,
            "plan_hash": self.plan_hash,
            "source": list(self.source),
            "files": files,
            "others": sorted(self.others),
            **({"run": self.run} if self.run else {}),
        }

    def record(self) -> bytes:
        """Return the record's text."""
        return json.dumps(self.to_dict()).encode() + b"\n"


def is_worthless(directory: Path) -> bool:
    """Tell whether a left directory holds nothing but a record, whole or not."""
    with reporting_write_errors(str(directory)):
        entries = list(directory.iterdir())
        return all(path.name == RECORD_NAME and path.is_file() and not path.is_symlink() for path in entries)


def list_left(directory: Path) -> set[str]:
    """List what an earlier run left, by relative name; the names of directories end with a slash.

    Raises:
        DestinationError: `resume-mismatch` for anything that no run would have made: links, pipes, files that are also
            elsewhere, or a directory of another user. `write-failed`.
    """
    names = set()
    with reporting_write_errors(str(directory)):
        check_owner(directory)
        for folder, folders, files in os.walk(directory, onerror=_raise):
            for path in (Path(folder, name) for name in (*folders, *files)):
                status = path.lstat()
                is_folder = stat.S_ISDIR(status.st_mode)
                if not is_folder:
                    _check_ordinary(path, status)
                names.add(path.relative_to(directory).as_posix() + "/" * is_folder)
    return names


def check_owner(directory: Path) -> None:
    """Refuse a directory of another user, and a link to one.

    Raises:
        DestinationError: `resume-mismatch`, `write-failed`.
    """
    with reporting_write_errors(str(directory)):
        status = directory.lstat()
    if status.st_uid != os.geteuid() or not stat.S_ISDIR(status.st_mode):
        raise mismatch(directory, "a directory of the same user", "one of another user, or none")


def _check_ordinary(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        got = "a link" if stat.S_ISLNK(status.st_mode) else "a file of another kind, or with two names"
        raise mismatch(path, "ordinary files alone", got)


def choose_left(directory: Path, names: Iterable[str]) -> set[str]:
    """Choose the names of files that an earlier run left, while other processes may be making others beside them.

    Raises:
        DestinationError: `resume-mismatch` for what no run would have made, `write-failed`.
    """
    left = set()
    with reporting_write_errors(str(directory)):
        for name in names:
            with suppress(FileNotFoundError):
                _check_ordinary(directory / name, (directory / name).lstat())
                left.add(name)
    return left


def _raise(error: OSError) -> None:
    raise error


def check_left(directory: Path, work: Work) -> set[str]:
    """Check that what an earlier run left is of the same plan, source and layout.

    A directory without a record is one that was all but finished: it must hold every file, each of the right size.

    Args:
        directory: The hidden directory, held by this run.
        work: What is to be written.

    Returns:
        The names of the files that are there, the record aside.

    Raises:
        DestinationError: `resume-mismatch`, `write-failed`.
    """
    names = list_known(directory, work)
    files = names - {RECORD_NAME}
    if RECORD_NAME in names:
        _check_record(directory, _read_record(directory / RECORD_NAME), work)
    else:
        _check_whole(directory, files, work)
    return files


def is_of_run(directory: Path, run: str) -> bool:
    """Tell whether a directory is the one that another process of a run has made for it.

    Raises:
        DestinationError: `resume-mismatch` for a record that cannot be read.
    """
    record = directory / RECORD_NAME
    return record.exists() and _read_record(record).get("run") == run


def start_anew(directory: Path, names: Iterable[str]) -> None:
    """Remove the files that an earlier run left: a process of it may still be writing to them.

    Args:
        directory: The hidden directory, held by this run.
        names: The files.

    Raises:
        DestinationError: `write-failed`.
    """
    with reporting_write_errors(str(directory)):
        for name in (*names, RECORD_NAME):
            (directory / name).unlink(missing_ok=True)


def list_known(directory: Path, work: Work) -> set[str]:
    """List the files that an earlier run left, of which none may be foreign; links that it made are removed.

    Raises:
        DestinationError: `resume-mismatch`, `write-failed`.
    """
    _remove_links(directory, work.links)
    names = list_left(directory)
    folders = {f"{folder.as_posix()}/" for name in work.names for folder in Path(name).parents}
    strange = names - folders - work.names - {RECORD_NAME}
    if strange:
        raise mismatch(directory, "the files of this output alone", join_keys(strange))
    return names - folders


def _remove_links(directory: Path, links: Mapping[str, Path]) -> None:
    """Remove names that an earlier run gave to files of the source: those must never be opened for writing."""
    with reporting_write_errors(str(directory)):
        for name, source in [*links.items(), *((name + PROBE_SUFFIX, source) for name, source in links.items())]:
            path = directory / name
            if os.path.lexists(path) and os.path.samestat(path.lstat(), source.stat()):
                path.unlink()


def _check_record(directory: Path, record: dict[str, Any], work: Work) -> None:
    parts = {
        "plan_hash": ("the same plan", "another plan"),
        "source": ("the same source, unchanged", "another source, or it has changed since"),
        "files": ("the same files", "another layout of the files"),
        "others": ("the same files", "other files beside the weights"),
    }
    # Both sides as JSON has them: a record knows no tuples.
    wanted = json.loads(work.record())
    for part, (expected, got) in parts.items():
        if record.get(part) != wanted[part]:
            raise mismatch(directory, expected, got)


def _read_record(path: Path) -> dict[str, Any]:
    try:
        raw, _ = read_small_file(path, _MAX_RECORD_BYTES)
        record = parse_json(raw)
        if type(record) is not dict or (record.get("format"), record.get("version")) != (RECORD_FORMAT, RECORD_VERSION):
            raise JsonError("it is no record of a known version")
    except (JsonError, CheckpointError) as problem:
        got = problem.got if isinstance(problem, CheckpointError) else str(problem)
        raise mismatch(path, "the record of the run that was stopped", f"damaged: {got}") from None
    return record


def _check_whole(directory: Path, names: set[str], work: Work) -> None:
    """Check a directory without a record: that it lacks nothing, and that its files are laid out as they must be."""
    images = [image for image in work.images if image.name in names]
    whole = names | work.links.keys() == work.names and all(is_laid_out(directory / i.name, i) for i in images)
    if not whole:
        raise mismatch(directory, "the record of the run that was stopped", f"no {RECORD_NAME}")


def is_laid_out(path: Path, image: FileImage) -> bool:
    """Tell whether a file has the size and the head of its image, the bytes that are sealed left aside.

    Raises:
        CheckpointError: `checkpoint-not-found`, `read-failed`.
    """
    descriptor, stamp = open_regular(path)
    try:
        head = read_prefix(descriptor, len(image.head)) if stamp.size_bytes == image.size_bytes else b""
    finally:
        os.close(descriptor)
    return len(head) == len(image.head) and head[SEAL_BYTES:] == image.head[SEAL_BYTES:]


def allocated_bytes(directory: Path) -> int:
    """Return how much of the disk a left directory takes already; 0 where there is none."""
    return sum(_allocated(Path(folder) / name) for folder, _, names in os.walk(directory) for name in names)


def _allocated(path: Path) -> int:
    try:
        return path.lstat().st_blocks * 512
    except FileNotFoundError:  # its owner is just removing it
        return 0


def mismatch(path: Path, expected: str, got: str) -> DestinationError:
    """Return the error for what lies in an unfinished output and is not of this run."""
    return DestinationError(
        "resume-mismatch",
        "the unfinished output is not of this run",
        where=str(path),
        expected=expected,
        got=got,
        hint="repeat what was stopped with the same arguments, or remove the directory to start anew",
    )
