"""What every source of tensors has in common, whatever it is stored in.

A `Checkpoint` knows the header of what it holds without reading tensor data, can say whether its files are still what
they were, and gives out one tensor at a time: as a tensor, as bytes, or as the place of those bytes in a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from weighbridge.base.file_sets import FileImage, FileSet
from weighbridge.base.specs import Header
from weighbridge.storage.places.directory import Extra
from weighbridge.storage.places.file_fingerprints import FileFingerprint
from weighbridge.storage.remote.pace import Pace
from weighbridge.storage.remote.remote_files import Location

if TYPE_CHECKING:
    import torch

    from weighbridge.storage.places.scatter import Span


class Extent(NamedTuple):
    """Where a tensor's contiguous bytes lie.

    Args:
        path: The file, with links resolved; or one that lies elsewhere.
        offset: Position of the first byte, counted from the start of the file.
        size_bytes: Number of bytes.
    """

    path: Location
    offset: int
    size_bytes: int


class IndexText(NamedTuple):
    """A shard index: its file name and its bytes exactly as they stand."""

    name: str
    text: bytes


class Checkpoint(Protocol):
    """A source of tensors that has been opened: its header is known, its data is not yet read."""

    @property
    def where(self) -> str:
        """What to call this source in a message; the path it was opened at, if it has one."""

    @property
    def header(self) -> Header:
        """Specs of all tensors, metadata of the first file (by name), and ties of tensors that share their storage."""

    @property
    def images(self) -> tuple[FileImage, ...]:
        """One image for each safetensors file, by name; empty for any other kind of source."""

    @property
    def index(self) -> IndexText | None:
        """The shard index, where there is one."""

    @property
    def files(self) -> FileSet | None:
        """The images and the index as one value; None for anything but safetensors files."""

    @property
    def extras(self) -> tuple[Extra, ...]:
        """Files beside the weights that belong to the model: configuration, tokenizer, licence."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on what was found and left aside, one sentence each."""

    @property
    def is_serial(self) -> bool:
        """Whether tensors are made when they are asked for, so that threads would get into each other's way."""

    @property
    def is_past_cache(self) -> bool:
        """Whether its files are read past the page cache; what is copied from them should be, too."""

    def fingerprint(self) -> list[FileFingerprint]:
        """Describe the opened files; empty where there are none."""

    def check_unchanged(self) -> None:
        """Compare the files with what was opened.

        Raises:
            CheckpointError: `source-changed`.
        """

    def extent(self, key: str) -> Extent | None:
        """Locate a tensor's bytes, or return None where they do not lie in a file as one piece.

        Raises:
            CheckpointError: `tensor-not-found`.
        """

    def held(self, key: str) -> torch.Tensor | None:
        """Return a tensor that is held in memory, a meta one included, or None for what is yet to be read or made."""

    def held_tensors(self) -> Iterable[torch.Tensor]:
        """Return all tensors in memory that this source reads from, those of a source behind it included.

        What fills a model looks here for memory that is the model's own, and for devices that are still computing.
        """

    def tensor(self, key: str) -> torch.Tensor:
        """Give out a tensor without copying where that is possible; it is to be read, not to be written to.

        A dtype that torch lacks comes as its bytes: one axis of uint8.

        Raises:
            CheckpointError: `tensor-not-found`, `data-missing`, `source-changed`, `read-failed`.
        """

    def read(self, key: str, start_byte: int, buffer: memoryview) -> None:
        """Fill the whole buffer with the tensor's row-major bytes, from `start_byte` of the tensor on.

        Raises:
            CheckpointError: `tensor-not-found`, `tensor-bounds`, `data-missing`, `source-changed`, `file-truncated`,
                `read-failed`.
        """


class InNoFile:
    """The part of a `Checkpoint` that is made of others: no file has its keys in a header, and no index names them."""

    __slots__ = ()

    @property
    def images(self) -> tuple[()]:
        """Nothing."""
        return ()

    @property
    def index(self) -> None:
        """None."""

    @property
    def files(self) -> None:
        """None."""


@runtime_checkable
class Collector(Protocol):
    """What a checkpoint can do, beyond `Checkpoint`, that reads several places at once for less than one by one."""

    def collect(self, key: str, places: Iterable[tuple[int, int]], buffer: memoryview) -> None:
        """Fill the whole buffer from several places of a tensor, each a start and a size in bytes.

        Raises:
            CheckpointError: As `Checkpoint.read`.
        """


def read_places(checkpoint: Checkpoint, key: str, places: Iterable[tuple[int, int]], buffer: memoryview) -> None:
    """Fill the whole buffer from several places of a tensor, each a start and a size in bytes.

    Raises:
        CheckpointError: As `Checkpoint.read`.
    """
    if isinstance(checkpoint, Collector):
        checkpoint.collect(key, places, buffer)
    else:
        read_one_by_one(checkpoint, key, places, buffer)


def read_one_by_one(checkpoint: Checkpoint, key: str, places: Iterable[tuple[int, int]], buffer: memoryview) -> None:
    """Fill the whole buffer from several places of a tensor, by a call for each of them.

    Raises:
        CheckpointError: As `Checkpoint.read`.
    """
    done = 0
    for start, size_bytes in places:
        checkpoint.read(key, start, buffer[done : done + size_bytes])
        done += size_bytes


@runtime_checkable
class FileReader(Collector, Protocol):
    """What a checkpoint can do, beyond `Checkpoint`, whose tensors all lie in files as they are: each has an extent."""

    def scatter(self, key: str, start_byte: int, spans: Sequence[Span]) -> None:
        """Fill pieces of memory, one after the other, with the file's bytes from byte `start_byte` of a tensor on.

        They may go on into the tensors that follow in the file.

        Raises:
            CheckpointError: `tensor-not-found`, `source-changed`, `file-truncated`, `read-failed`.
        """

    def mapped(self) -> Mapped:
        """Return a view of the files for one run: memory that is shared with nobody else, and written to by copy."""


@runtime_checkable
class PartMaker(Protocol):
    """What a checkpoint can do, beyond `Checkpoint`, some of whose tensors are made while they are read."""

    def is_made(self, key: str) -> bool:
        """Tell whether a tensor is made part by part: `tensor` would hold all of it, `read` holds a part."""


@runtime_checkable
class Paced(Protocol):
    """What a checkpoint can say, beyond `Checkpoint`, that is best read at another pace than cores give."""

    @property
    def pace(self) -> Pace | None:
        """How many requests are to be on their way, and how long each; None for what lies on this disk."""


def pace_of(checkpoint: Checkpoint) -> Pace | None:
    """Return the pace that a checkpoint wants to be read at; None where cores and disks give it."""
    return checkpoint.pace if isinstance(checkpoint, Paced) else None


def fullest_pace(checkpoints: Iterable[Checkpoint]) -> Pace | None:
    """Return the pace of what is made of several checkpoints: that of the one which wants the most on its way at once.

    None where all of them lie on this disk.
    """
    paces = [pace for each in checkpoints if (pace := pace_of(each)) is not None]
    return max(paces, default=None)


@runtime_checkable
class PieceLister(Protocol):
    """What a checkpoint can do, beyond `Checkpoint`, some of whose tensors lie in files piece by piece."""

    def pieces(self, key: str, start_byte: int, size_bytes: int) -> Sequence[Extent] | None:
        """Locate bytes of a tensor, in their order; None where its pieces are not runs of its row-major bytes.

        Raises:
            CheckpointError: `tensor-not-found`.
        """


def pieces_of(checkpoint: Checkpoint, key: str, start_byte: int, size_bytes: int) -> Sequence[Extent] | None:
    """Locate bytes of a tensor in files, in their order; None where they lie in none as they are.

    Raises:
        CheckpointError: `tensor-not-found`.
    """
    extent = checkpoint.extent(key)
    if extent is not None:
        return [Extent(extent.path, extent.offset + start_byte, size_bytes)]
    return checkpoint.pieces(key, start_byte, size_bytes) if isinstance(checkpoint, PieceLister) else None


def is_read(checkpoint: Checkpoint, key: str) -> bool:
    """Tell whether a tensor is to be read part by part: from a file, or as it is made.

    Raises:
        CheckpointError: `tensor-not-found`.
    """
    if checkpoint.extent(key) is not None:
        return True
    return isinstance(checkpoint, PartMaker) and checkpoint.is_made(key)


class Mapped(Protocol):
    """Files that are mapped copy-on-write: nothing written to a tensor of it reaches a file, or another map."""

    def tensor(self, key: str) -> torch.Tensor | None:
        """Return a tensor that lies in the map, or None where the file does not align it.

        Raises:
            CheckpointError: `source-changed`, `read-failed`.
        """
