"""Predict how many bytes a run brings from elsewhere, and by how many requests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from weighbridge.algebra.copies import Copy
from weighbridge.base.specs import DTYPES
from weighbridge.planning.plan import Plan
from weighbridge.planning.program import Output
from weighbridge.planning.steps import Step
from weighbridge.running.execute import section_reads
from weighbridge.running.gather import STITCH_BYTES, shares
from weighbridge.running.pieces import Piece, batch_pieces, cut_runs, split_copies
from weighbridge.storage.places.scatter import MAX_SPANS
from weighbridge.storage.protocol import Checkpoint, FileReader, pace_of
from weighbridge.storage.remote.remote_files import RemoteFile, close_together


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
    distant = [piece for piece in pieces if isinstance(piece.path, RemoteFile)]
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


def fetching_remark(plan: Plan, checkpoint: Checkpoint) -> tuple[str, ...]:
    """Say what loading brings from elsewhere; nothing where nothing lies there."""
    fetch = predict_fetch(plan, checkpoint)
    if fetch is None:
        return ()
    return (f"loading it brings {fetch.size_bytes:,} bytes from elsewhere, by about {fetch.requests:,} requests",)
