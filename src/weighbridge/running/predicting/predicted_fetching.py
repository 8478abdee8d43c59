"""Predict how many bytes a run brings from elsewhere, and by how many requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple, NoReturn

from weighbridge.algebra.copies import Copy
from weighbridge.base.file_sets import FileImage
from weighbridge.base.keys import counted
from weighbridge.base.specs import DTYPES
from weighbridge.base.workers import Counter
from weighbridge.planning.plan import Plan
from weighbridge.planning.program import Output
from weighbridge.planning.steps import Step
from weighbridge.running.execute import section_reads
from weighbridge.running.filling import Filling
from weighbridge.running.gather import STITCH_BYTES, shares
from weighbridge.running.pieces import Piece, batch_pieces, cut_runs, split_copies
from weighbridge.running.to_files.file_decisions import WriteOptions, lay_out
from weighbridge.running.to_files.file_parts import Move, Together
from weighbridge.storage.places.scatter import MAX_SPANS
from weighbridge.storage.protocol import Checkpoint, FileReader, PartMaker, pace_of
from weighbridge.storage.remote.pace import RANGE_BYTES
from weighbridge.storage.remote.remote_files import Location, RemoteFile, close_together


class Fetch(NamedTuple):
    """What is brought from elsewhere.

    Args:
        size_bytes: How many bytes.
        requests: By how many requests, if none has to be made again; a few more where a run goes on in groups.
    """

    size_bytes: int
    requests: int


def predict_fetch(plan: Plan, checkpoint: Checkpoint) -> Fetch | None:
    """Predict what loading brings from elsewhere; None where nothing lies there, or it is not read as it lies.

    Args:
        plan: The plan.
        checkpoint: What it reads. What the hub's cache has is not counted.
    """
    pace = pace_of(checkpoint)
    if pace is None or not isinstance(checkpoint, FileReader):
        return None
    pieces: list[Piece[int]] = []
    found: list[Fetch] = []
    for step in plan.steps:
        if step.program.temporaries:
            found += _whole_sources(step, checkpoint, pace.range_bytes)
            continue
        for number in step.writes.values():
            output = step.program.targets[number]
            split = split_copies(output, step, in_files=True, stitch_bytes=STITCH_BYTES)
            pieces += cut_runs(split.runs, step, checkpoint, pace.range_bytes, int)
            for copy in (*split.others, *(copy for group in split.stitched for copy in group)):
                found += _of_copy(copy, output, step, checkpoint)
    distant = [
        piece
        for piece in pieces
        if isinstance(piece.path, RemoteFile) and not piece.path.has(piece.offset, piece.size_bytes)
    ]
    for batch in batch_pieces(distant, pace.range_bytes, MAX_SPANS):
        found.append(Fetch(sum([piece.size_bytes for piece in batch]), 1))
    return Fetch(sum([each.size_bytes for each in found]), sum([each.requests for each in found]))


def _whole_sources(step: Step, checkpoint: Checkpoint, range_bytes: int) -> Iterator[Fetch]:
    for key in step.sources:
        if _is_elsewhere(key, checkpoint):
            size_bytes = checkpoint.header[key].size_bytes
            yield Fetch(size_bytes, -(-size_bytes // range_bytes))


def _is_elsewhere(key: str, checkpoint: Checkpoint) -> bool:
    extent = checkpoint.extent(key)
    return extent is not None and isinstance(extent.path, RemoteFile)


def _of_copy(copy: Copy, output: Output, step: Step, checkpoint: Checkpoint) -> Iterator[Fetch]:
    if copy.source >= len(step.sources) or not _is_elsewhere(step.sources[copy.source], checkpoint):
        return
    itemsize = DTYPES[step.program.dtype(copy.source)].itemsize
    for part in shares(copy, step, DTYPES[output.dtype].itemsize):
        for _, places in section_reads(part, itemsize):
            for group in close_together(places):
                yield Fetch(sum(group[-1]) - group[0][0], 1)


def predict_conversion(
    plan: Plan, checkpoint: Checkpoint, images: Sequence[FileImage], budget_bytes: int, *, in_order: bool = False
) -> Fetch | None:
    """Predict what writing files brings from elsewhere, with what lies beside the weights; None where nothing is there.

    Args:
        plan: The plan.
        checkpoint: What it reads.
        images: The files.
        budget_bytes: As for `filling.fill_files`.
        in_order: As there.
    """
    if pace_of(checkpoint) is None or _is_computed(checkpoint) or not plan.step_of_target.keys() >= _made(plan, images):
        return None
    filling = Filling(plan, checkpoint, _no_sink, budget_bytes, Counter(0, None), in_order=in_order)
    found: list[Fetch] = []
    for part in chain.from_iterable(map(filling.parts, images)):
        if isinstance(part, Move):
            found += _of_place(part.path, part.offset, part.size_bytes)
        elif isinstance(part, Together):
            found += _of_place(part.path, part.moves[0].offset, part.size_bytes)
        else:
            found += (each for key, places in part.reads() for each in _of_places(key, places, checkpoint))
    for extra in checkpoint.extras:
        found += _of_place(extra.path, 0, extra.size_bytes) if extra.content is None else ()
    return Fetch(sum([each.size_bytes for each in found]), sum([each.requests for each in found]))


def _is_computed(checkpoint: Checkpoint) -> bool:
    return isinstance(checkpoint, PartMaker) and any(map(checkpoint.is_made, checkpoint.header))


def _made(plan: Plan, images: Sequence[FileImage]) -> set[str]:
    """Return the targets that are made for some files; of those that are tied, the one that the others are."""
    twins = {fated.key: fated.by for fated in plan.tied_targets}
    return {twins.get(key, key) for image in images for key, *_ in image.tensors}


def _no_sink(image: FileImage) -> NoReturn:
    raise AssertionError(f"{image.name} is not written")


def _of_places(key: str, places: list[tuple[int, int]], checkpoint: Checkpoint) -> Iterator[Fetch]:
    """Yield what one call brings that reads several places of a tensor."""
    extent = checkpoint.extent(key)
    if extent is not None:
        for group in close_together(places):
            first = group[0][0]
            yield from _of_place(extent.path, extent.offset + first, sum(group[-1]) - first)


def _of_place(path: Location, offset: int, size_bytes: int) -> Iterator[Fetch]:
    """Yield what is brought of consecutive bytes of a file."""
    if isinstance(path, RemoteFile) and size_bytes and not path.has(offset, size_bytes):
        yield Fetch(size_bytes, -(-size_bytes // RANGE_BYTES))


def fetching_remarks(plan: Plan, checkpoint: Checkpoint) -> tuple[str, ...]:
    """Say what loading, and what converting, brings from elsewhere; nothing where nothing lies there."""
    if pace_of(checkpoint) is None:
        return ()
    files = lay_out(plan, WriteOptions().max_shard_size)
    fetches = {
        "loading": predict_fetch(plan, checkpoint),
        "converting": predict_conversion(plan, checkpoint, files.images, WriteOptions().budget_bytes),
    }
    return tuple(
        f"{doing} it brings {fetch.size_bytes:,} bytes from elsewhere, by about {counted(fetch.requests, 'request')}"
        for doing, fetch in fetches.items()
        if fetch is not None
    )
