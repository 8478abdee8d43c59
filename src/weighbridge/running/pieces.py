"""Runs of bytes that move from files as they are: sorted, joined where they follow each other, cut where long."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from weighbridge.algebra.copies import Copy
from weighbridge.algebra.stitching import stitched
from weighbridge.base.specs import DTYPES
from weighbridge.planning.program import Output
from weighbridge.planning.steps import Step
from weighbridge.running.strided import is_run
from weighbridge.storage.remote.remote_files import Location

if TYPE_CHECKING:
    from weighbridge.storage.protocol import Checkpoint

Goal = TypeVar("Goal")


class Run(NamedTuple):
    """One run of bytes: a source's slot, where it begins in source and target, and its length."""

    slot: int
    source_start: int
    target_start: int
    size_bytes: int


class Parts(NamedTuple):
    """An output's copies: those that are runs of bytes of a file, those that are stitched, and the others."""

    runs: tuple[Run, ...]
    stitched: tuple[tuple[Copy, ...], ...]
    others: tuple[Copy, ...]


class Piece(NamedTuple, Generic[Goal]):
    """Consecutive bytes of a file, whose they are there, and where they go."""

    path: Location
    offset: int
    size_bytes: int
    key: str
    start_byte: int
    goal: Goal


def split_copies(output: Output, step: Step, *, in_files: bool, stitch_bytes: int) -> Parts:
    """Sort an output's copies; a dtype below a byte is moved whole.

    Args:
        output: What is to be made, without temporaries.
        step: The step that makes it.
        in_files: Whether its sources lie in files.
        stitch_bytes: The most that is stitched at once.
    """
    if not in_files:
        return Parts((), (), output.layout.copies)
    if DTYPES[output.dtype].kind == "packed" and output.layout.copies:
        return Parts((Run(0, 0, 0, output.spec.size_bytes),), (), ())
    runs: list[Run] = []
    others: list[Copy] = []
    itemsize = DTYPES[output.dtype].itemsize
    declared: list[Copy] = []
    for copy in output.layout.copies:
        if copy.source >= len(step.sources):
            declared.append(copy)
            continue
        same = step.program.sources[copy.source].dtype == output.dtype
        if same and is_run(copy):
            starts = copy.source_start * itemsize, copy.target_start * itemsize
            runs.append(Run(copy.source, *starts, copy.numel * itemsize))
        else:
            others.append(copy)
    alike = [copy for copy in others if step.program.sources[copy.source].dtype == output.dtype]
    cast = [copy for copy in others if step.program.sources[copy.source].dtype != output.dtype]
    groups, left = stitched(alike, stitch_bytes // itemsize)
    return Parts(tuple(runs), tuple(groups), (*left, *cast, *declared))


def cut_runs(
    runs: Iterable[Run], step: Step, checkpoint: Checkpoint, most_bytes: int, goal: Callable[[int], Goal]
) -> Iterator[Piece[Goal]]:
    """Yield the pieces of runs.

    Args:
        runs: The runs of one output.
        step: The step that makes it.
        checkpoint: What it reads; all of it lies in files.
        most_bytes: Size of the largest piece.
        goal: Makes a piece's goal of where it begins in the target, in bytes.
    """
    for slot, source_start, target_start, size_bytes in runs:
        key = step.sources[slot]
        extent = checkpoint.extent(key)
        assert extent is not None
        if size_bytes <= most_bytes:
            yield Piece(extent.path, extent.offset + source_start, size_bytes, key, source_start, goal(target_start))
            continue
        for done in range(0, size_bytes, most_bytes):
            size, start = min(most_bytes, size_bytes - done), source_start + done
            yield Piece(extent.path, extent.offset + start, size, key, start, goal(target_start + done))


def batch_pieces(pieces: list[Piece[Goal]], most_bytes: int, most_pieces: int) -> Iterator[list[Piece[Goal]]]:
    """Sort pieces as they lie in their files, and yield batches of such that follow each other.

    Args:
        pieces: The pieces; sorted in place.
        most_bytes: The most that a batch holds, unless it is a single piece.
        most_pieces: The most pieces of a batch.

    Examples:
        >>> from pathlib import Path
        >>> lying = ((8, 4), (0, 4), (4, 4), (16, 2))
        >>> pieces = [Piece(Path("a"), offset, size, "k", offset, None) for offset, size in lying]
        >>> [[piece.offset for piece in batch] for batch in batch_pieces(pieces, 8, 10)]
        [[0, 4], [8], [16]]
    """
    pieces.sort(key=lambda piece: (str(piece.path), piece.offset))
    batch: list[Piece[Goal]] = []
    size_bytes = stop = 0
    for piece in pieces:
        path, offset, length = piece[:3]
        if batch and not (
            offset == stop
            and (path is batch[0].path or path == batch[0].path)
            and size_bytes + length <= most_bytes
            and len(batch) < most_pieces
        ):
            yield batch
            batch, size_bytes = [], 0
        batch.append(piece)
        size_bytes += length
        stop = offset + length
    if batch:
        yield batch
