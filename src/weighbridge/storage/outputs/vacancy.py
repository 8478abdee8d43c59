"""Whether something new can be written at a place, and how it comes to stand there: never over what is there."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

from weighbridge.base.errors import DestinationError
from weighbridge.base.file_names import FILE_SUFFIXES
from weighbridge.storage.outputs.adopting import adopt_all
from weighbridge.storage.outputs.claiming import partial_path, parts_path
from weighbridge.storage.outputs.file_writer import reporting_write_errors, sync_directory


def check_destination(
    destination: Path | str,
    sources: Iterable[Path | str] = (),
    needed_bytes: int = 0,
    *,
    as_file: bool = False,
) -> None:
    """Check, without changing anything, that a directory, or a file, can be written at `destination`.

    Args:
        destination: Where; nothing, or for a directory an empty one, may be there.
        sources: Files and directories that are read.
        needed_bytes: How much will be written.
        as_file: Whether it will be a file.

    Raises:
        DestinationError: `usage` for a directory that has the name of a file, `destination-unsafe`,
            `destination-exists`, `destination-no-room`, `write-failed`.
    """
    path = Path(destination)
    if not path.name or "\0" in str(path) or path.name in (".", ".."):
        raise DestinationError("destination-unsafe", "this is no name for a new directory", where=str(path))
    real = Path(os.path.realpath(path))
    for source in sources:
        for place in (real, partial_path(real), parts_path(real)):
            _check_apart(place, Path(os.path.realpath(source)), path)
    if path.name.endswith(FILE_SUFFIXES) and not as_file:
        raise _named_as_file(path)
    with reporting_write_errors(str(path)):
        check_absent(path, as_file=as_file)
        _check_room(real, path, needed_bytes)


def _named_as_file(path: Path) -> DestinationError:
    ending = next(ending for ending in FILE_SUFFIXES if path.name.endswith(ending))
    return DestinationError(
        "usage",
        f"a directory is made here, and this is the name of a {ending} file",
        where=str(path),
        expected="the name of a new directory, or that of a torch file, such as out.pt",
        hint="name a directory; with max_shard_size=None (--max-shard-size none) one model.safetensors is in it",
    )


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


def check_absent(path: Path, *, as_file: bool = False) -> None:
    """Refuse a place where something is, but for a new directory an empty one.

    Raises:
        DestinationError: `destination-exists`.
    """
    if not os.path.lexists(path):
        return
    is_directory = path.is_dir() and not path.is_symlink()
    is_empty = is_directory and not any(path.iterdir())
    if is_empty and not as_file:
        return
    got = "a link" if path.is_symlink() else "a file"
    if is_directory:
        got = "an empty directory" if is_empty else "a directory that is not empty"
    hint = "remove it, or choose another name; nothing is ever overwritten"
    what = "the destination is already there"
    raise DestinationError("destination-exists", what, where=str(path), got=got, hint=hint)


def _check_room(real: Path, path: Path, needed_bytes: int) -> None:
    nearest = next(folder for folder in (real, *real.parents) if folder.exists())
    if not nearest.is_dir():
        what, hint = "the destination lies below a file", "choose a directory for it"
        raise DestinationError("write-failed", what, where=str(path), got=f"{nearest} is a file", hint=hint)
    status = os.statvfs(nearest)
    free = status.f_bavail * status.f_frsize
    if free < needed_bytes:
        expected, got = f"{needed_bytes:,} bytes", f"{free:,} bytes free"
        hint = f"free {needed_bytes - free:,} bytes, or write to another disk"
        raise DestinationError(
            "destination-no-room", "there is too little room", where=str(path), expected=expected, got=got, hint=hint
        )


def publish_directory(staging: Path, target: Path, *, sync: bool) -> None:
    """Give a finished directory its name, which nothing but an empty one may have.

    Raises:
        DestinationError: `destination-exists`, `write-failed`.
    """
    try:
        adopt_all(staging, target)
        staging.rename(target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise _made_meanwhile(target) from error
        with reporting_write_errors(str(target)):
            raise
    if sync:
        sync_directory(target.parent)


def publish_file(staging: Path, target: Path, *, sync: bool) -> None:
    """Bring a finished file out of its hidden directory, which is removed; it takes the place of nothing.

    Args:
        staging: The directory; it holds the file alone, under the name of the target.
        target: Where the file is to be.
        sync: Force the change of names to the disk.

    Raises:
        DestinationError: `destination-exists`, `write-failed`.
    """
    made = staging / target.name
    with reporting_write_errors(str(target)):
        try:
            os.link(made, target)
            made.unlink()
        except FileExistsError as error:
            raise _made_meanwhile(target) from error
        except OSError:  # a file system without links
            check_absent(target, as_file=True)
            made.rename(target)
        staging.rmdir()
    if sync:
        sync_directory(target.parent)


def _made_meanwhile(target: Path) -> DestinationError:
    return DestinationError(
        "destination-exists", "the destination was made by somebody else meanwhile", where=str(target)
    )
