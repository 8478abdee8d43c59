"""What all sources have in common whose files are opened once and stay as they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from weighbridge.base.file_sets import FileImage, FileSet
from weighbridge.base.specs import Header
from weighbridge.storage.places.directory import Extra
from weighbridge.storage.places.file_fingerprints import (
    AnySource,
    FileFingerprint,
    check_files_unchanged,
    fingerprint_files,
)
from weighbridge.storage.protocol import IndexText
from weighbridge.storage.remote.pace import Pace
from weighbridge.storage.remote.remote_files import RemoteSource

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """The part of a `Checkpoint` that does not depend on how its tensors are stored.

    Args:
        where: The path it was opened at, or what to call it.
        header: Specs, metadata and ties of all tensors.
        opened: The files that were opened, the index at their end; empty where there are none.
        images: Each safetensors file without its data, by name; empty for any other kind of source.
        index: The shard index, where there is one.
        extras: Files that belong to the model beside its weights.
        notes: What was left aside.
        is_past_cache: Whether the files are read past the page cache, and never mapped.
    """

    where: str
    header: Header
    opened: tuple[AnySource, ...] = ()
    images: tuple[FileImage, ...] = ()
    index: IndexText | None = None
    extras: tuple[Extra, ...] = ()
    notes: tuple[str, ...] = ()
    is_past_cache: bool = False

    @property
    def files(self) -> FileSet | None:
        """The images and the index as one value; None for anything but safetensors files."""
        return FileSet(self.images, *(self.index or ())) if self.images else None

    @property
    def is_serial(self) -> bool:
        """False: threads may read at once."""
        return False

    @property
    def pace(self) -> Pace | None:
        """How the files that lie elsewhere are best read; None where there are none."""
        return next((file.path.client.pace for file in self.opened if isinstance(file, RemoteSource)), None)

    def fingerprint(self) -> list[FileFingerprint]:
        """Describe the opened files; empty where there are none."""
        return fingerprint_files(self.opened)

    def check_unchanged(self) -> None:
        """Compare the files' stamps and heads with what was opened; tensors in memory are not looked at.

        Raises:
            CheckpointError: `source-changed`.
        """
        check_files_unchanged(self.opened)

    def held(self, key: str) -> torch.Tensor | None:
        """Return None: nothing is held in memory."""
        return None

    def held_tensors(self) -> Iterable[torch.Tensor]:
        """Return nothing: no tensor is held in memory."""
        return ()
