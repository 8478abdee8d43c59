"""Several checkpoints read as one: each of them under a prefix of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from weighbridge.base.errors import CheckpointError
from weighbridge.base.specs import Header, TensorSpec, check_keys
from weighbridge.storage.lookup import not_found
from weighbridge.storage.protocol import InNoFile, PartMaker, fullest_pace, read_places

if TYPE_CHECKING:
    import torch

    from weighbridge.storage.places.directory import Extra
    from weighbridge.storage.places.file_fingerprints import FileFingerprint
    from weighbridge.storage.protocol import Checkpoint, Extent
    from weighbridge.storage.remote.pace import Pace


class Part(NamedTuple):
    """One of the checkpoints.

    Args:
        name: What it is called among the others: its path from where all of them are.
        prefix: What stands before its keys.
        checkpoint: The checkpoint.
    """

    name: str
    prefix: str
    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True, eq=False)
class JoinedCheckpoint(InNoFile):
    """Checkpoints that are read as one.

    Args:
        where: What to call them together.
        header: Specs and ties of all tensors, by their keys with prefixes.
        parts: The checkpoints.
        owners: The checkpoint that holds a tensor, and the key that it has there.
        extras: Files beside them.
        notes: What was found, and left aside.
        asked: Names of the configuration that said which files there are.
    """

    where: str
    header: Header
    parts: tuple[Part, ...]
    owners: Mapping[str, tuple[Checkpoint, str]]
    extras: tuple[Extra, ...] = ()
    notes: tuple[str, ...] = ()
    asked: frozenset[str] = frozenset()

    @property
    def is_serial(self) -> bool:
        """Whether one of them makes its tensors when they are asked for."""
        return any(part.checkpoint.is_serial for part in self.parts)

    @property
    def is_past_cache(self) -> bool:
        """Whether the files of one of them are read past the page cache."""
        return any(part.checkpoint.is_past_cache for part in self.parts)

    @property
    def pace(self) -> Pace | None:
        """How those that lie elsewhere are best read; None where none does."""
        return fullest_pace(part.checkpoint for part in self.parts)

    def fingerprint(self) -> list[FileFingerprint]:
        """Describe the files of all."""
        return [
            {**file, "name": part.name if len(files) == 1 else f"{part.name}/{file['name']}"}
            for part in self.parts
            for files in [part.checkpoint.fingerprint()]
            for file in files
        ]

    def check_unchanged(self) -> None:
        """Compare the files of all with what was opened.

        Raises:
            CheckpointError: `source-changed`.
        """
        for part in self.parts:
            part.checkpoint.check_unchanged()

    def _of(self, key: str) -> tuple[Checkpoint, str]:
        try:
            return self.owners[key]
        except KeyError:
            raise not_found(key, self.header, self.where) from None

    def extent(self, key: str) -> Extent | None:
        """Locate a tensor's bytes in the file that holds it."""
        checkpoint, own = self._of(key)
        return checkpoint.extent(own)

    def is_made(self, key: str) -> bool:
        """Tell whether the one that holds a tensor makes it part by part, as it is read."""
        checkpoint, own = self._of(key)
        return isinstance(checkpoint, PartMaker) and checkpoint.is_made(own)

    def tensor(self, key: str) -> torch.Tensor:
        """Give out a tensor of one of them."""
        checkpoint, own = self._of(key)
        return checkpoint.tensor(own)

    def read(self, key: str, start_byte: int, buffer: memoryview) -> None:
        """Fill the whole buffer with a tensor's bytes."""
        checkpoint, own = self._of(key)
        checkpoint.read(own, start_byte, buffer)

    def collect(self, key: str, places: Iterable[tuple[int, int]], buffer: memoryview) -> None:
        """Fill the whole buffer from several places of a tensor."""
        checkpoint, own = self._of(key)
        read_places(checkpoint, own, places, buffer)

    def held(self, key: str) -> torch.Tensor | None:
        """Return a tensor that one of them holds in memory."""
        checkpoint, own = self._of(key)
        return checkpoint.held(own)

    def held_tensors(self) -> Iterable[torch.Tensor]:
        """Return the tensors in memory that they read from."""
        return chain.from_iterable(part.checkpoint.held_tensors() for part in self.parts)


def join_checkpoints(
    where: str, parts: Sequence[Part], extras: tuple[Extra, ...] = (), notes: tuple[str, ...] = ()
) -> JoinedCheckpoint:
    """Read checkpoints as one.

    Args:
        where: What to call them together.
        parts: The checkpoints, in the order in which their tensors are to stand.
        extras: Files beside them.
        notes: What is to be said of them all.

    Raises:
        CheckpointError: `checkpoint-ambiguous` where two of them give one key, `name-too-long`.

    Examples:
        >>> from weighbridge.base.specs import TensorSpec
        >>> from weighbridge.storage import open_checkpoint
        >>> halves = [open_checkpoint(Header({"w": TensorSpec("F32", (rows, 3))})) for rows in (2, 4)]
        >>> joined = join_checkpoints("both", [Part(f"{n}.pt", f"{n}.", half) for n, half in enumerate(halves)])
        >>> print(joined.header["1.w"])
        F32 [4, 3]
    """
    specs: dict[str, TensorSpec] = {}
    owners: dict[str, tuple[Checkpoint, str]] = {}
    named: dict[str, str] = {}
    ties: dict[str, str] = {}
    for part in parts:
        for own, spec in part.checkpoint.header.items():
            key = part.prefix + own
            if key in specs:
                raise _same_key(where, key, named[key], part.name)
            specs[key], owners[key], named[key] = spec, (part.checkpoint, own), part.name
        ties |= {part.prefix + key: part.prefix + twin for key, twin in part.checkpoint.header.ties.items()}
    check_keys(specs, where)
    said = (*notes, *(f"{part.name}: {note}" for part in parts for note in part.checkpoint.notes))
    return JoinedCheckpoint(where, Header(specs, ties=ties), tuple(parts), owners, extras, said)


def _same_key(where: str, key: str, first: str, second: str) -> CheckpointError:
    return CheckpointError(
        "checkpoint-ambiguous",
        "two files give the same key",
        where=where,
        got=f"{first} and {second} both give {key}",
        hint="give each a prefix of its own, such as the number in its name",
    )
