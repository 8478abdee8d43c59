"""What identifies the files of a checkpoint, here and elsewhere, and whether they still are what was opened."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TypeAlias

from weighbridge.base.errors import CheckpointError
from weighbridge.base.hashes import sha256_of
from weighbridge.base.workers import run_all
from weighbridge.storage.places.regular_files import SourceFile, open_regular, read_prefix
from weighbridge.storage.places.stamps import changed, check_stamp
from weighbridge.storage.remote.remote_files import RemoteSource

FileFingerprint = dict[str, str | int]
"""What identifies one opened file: `name`, `size_bytes`, `mtime_ns` and `head_sha256`. A JSON object.

A file that lies elsewhere has a `version` in the place of the time: a commit, or an ETag.
"""

AnySource: TypeAlias = SourceFile | RemoteSource
"""One file of a checkpoint, here or elsewhere."""


def fingerprint_files(files: Iterable[AnySource]) -> list[FileFingerprint]:
    """Describe opened files as JSON objects."""
    return [
        {
            "name": file.name,
            "size_bytes": file.size_bytes,
            **({"version": file.path.version} if isinstance(file, RemoteSource) else {"mtime_ns": file.stamp.mtime_ns}),
            "head_sha256": sha256_of(file.head),
        }
        for file in files
    ]


def check_files_unchanged(files: Iterable[AnySource]) -> None:
    """Compare files with what was opened: stamp and head, or for those elsewhere size and ETag.

    Raises:
        CheckpointError: `source-changed`; `remote-denied` and `read-failed` for files elsewhere.
    """
    elsewhere = [file.path for file in files if isinstance(file, RemoteSource)]
    for file in files:
        if isinstance(file, SourceFile):
            _check_unchanged(file)
    if elsewhere:
        run_all([file.check_unchanged for file in elsewhere], min(len(elsewhere), elsewhere[0].client.pace.in_flight))


def _check_unchanged(file: SourceFile) -> None:
    try:
        descriptor, stamp = open_regular(file.path)
    except CheckpointError as error:
        raise changed(file.path, "it can be opened no more") from error
    try:
        check_stamp(file.path, stamp, file.stamp)
        if read_prefix(descriptor, len(file.head)) != file.head:
            raise changed(file.path, "its header is another one")
    finally:
        os.close(descriptor)
