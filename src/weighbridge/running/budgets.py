"""Whether a plan's targets can be written within a budget of memory, and in which windows: known before it begins."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from weighbridge.algebra.copies import runs
from weighbridge.base.errors import PlanError
from weighbridge.base.keys import counted
from weighbridge.base.specs import DTYPES
from weighbridge.base.workers import count_workers
from weighbridge.planning.plan import Plan
from weighbridge.planning.program import Output
from weighbridge.planning.steps import Step
from weighbridge.running.execute import is_at_hand
from weighbridge.running.strided import is_run
from weighbridge.storage.protocol import pace_of, pieces_of

if TYPE_CHECKING:
    from weighbridge.storage.protocol import Checkpoint

_LOG: Final = logging.getLogger(__name__)

RUN_BYTES: Final = 512 * 1024
"""Runs of at least this many bytes are copied from file to file without a buffer of ours."""

DISTANT_RUN_BYTES: Final = 16 * 1024
"""From elsewhere, also shorter ones are moved as they are: those that follow each other there come by one request."""

WINDOW_BYTES: Final = 16 * 2**20
"""The largest window: larger ones are not faster, but cost memory."""

FEW_PIECES: Final = 16
"""A tensor in a file that lies in so many pieces is copied piece by piece, however short they are."""

PIECE_BYTES: Final = 64 * 1024
"""Of one that lies in more, a piece has at least so many bytes on average: each is a call."""

SHORT_RUN_BYTES: Final = 4096
"""Where runs are shorter than this, larger windows read each page of the source fewer times."""

SMALLEST_WINDOW_BYTES: Final = 64 * 1024
"""A worker that has less to work in than this is not worth having."""

LARGEST_ITEM_BYTES: Final = 16
"""A share of this size holds an element of any dtype."""

MANY_PIECES: Final = 10_000
"""A tensor that falls into more pieces is worth a larger budget."""


def share_out(budget_bytes: int, checkpoint: Checkpoint) -> tuple[int, int]:
    """Return how many workers there are, and how many bytes the windows of each may hold.

    Args:
        budget_bytes: The most that all windows may hold together.
        checkpoint: What is read: one that makes its tensors one at a time has one worker, and one that lies elsewhere
            as many as there are to be requests on their way.
    """
    pace = pace_of(checkpoint)
    # One more than there are cores: closing a file waits for the disk.
    wished = 1 if checkpoint.is_serial else count_workers() + 1 if pace is None else pace.in_flight
    workers = max(1, min(wished, budget_bytes // SMALLEST_WINDOW_BYTES))
    return workers, budget_bytes // workers


def window_numel(output: Output, share_bytes: int) -> int:
    """Return how many elements of a tensor are built at a time.

    Raises:
        PlanError: `budget-too-small`.
    """
    itemsize = DTYPES[output.dtype].itemsize
    most = share_bytes if _is_scattered(output) else min(WINDOW_BYTES, share_bytes)
    if most < itemsize:
        raise PlanError(
            "budget-too-small",
            "the budget does not hold one element",
            expected=f"at least {itemsize} bytes",
            got=f"{most} byte{'s' * (most != 1)}",
            hint="raise memory_budget= (--memory)",
        )
    return most // itemsize


def _is_scattered(output: Output) -> bool:
    itemsize = DTYPES[output.dtype].itemsize
    return any(runs(copy) * itemsize < SHORT_RUN_BYTES for copy in output.layout.copies)


def is_in_runs(output: Output, step: Step, checkpoint: Checkpoint) -> bool:
    """Tell whether a tensor's bytes lie ready in files or in memory, in runs that are worth a call, or are declared.

    It is one that is made without temporaries.
    """
    copies, sources = output.layout.copies, len(step.sources)
    least_bytes = RUN_BYTES if pace_of(checkpoint) is None else DISTANT_RUN_BYTES
    return all(
        is_run(copy)
        and step.program.dtype(copy.source) == output.dtype
        and (
            copy.source >= sources
            or (
                (len(copies) == 1 or copy.numel * DTYPES[output.dtype].itemsize >= least_bytes)
                and _is_ready(step.sources[copy.source], checkpoint)
            )
        )
        for copy in copies
    )


def _is_ready(key: str, checkpoint: Checkpoint) -> bool:
    size_bytes = checkpoint.header[key].size_bytes
    pieces = pieces_of(checkpoint, key, 0, size_bytes)
    if pieces is None:
        return is_at_hand(checkpoint, key)
    return len(pieces) <= max(FEW_PIECES, size_bytes // PIECE_BYTES)


def check_budget(plan: Plan, checkpoint: Checkpoint, budget_bytes: int) -> None:
    """Check, before anything is written, that every tensor can be built within a budget; say where that takes long.

    Args:
        plan: The plan.
        checkpoint: What it reads.
        budget_bytes: The most that all windows may hold together.

    Raises:
        PlanError: `budget-too-small`.
    """
    workers, share_bytes = share_out(budget_bytes, checkpoint)
    if share_bytes < LARGEST_ITEM_BYTES:
        for step in plan.steps:
            for output in step.program.targets:
                if _is_built(output, step, checkpoint):
                    window_numel(output, share_bytes)
    outputs = (output for program in plan.programs for output in program.targets)
    cut = [output for output in outputs if _pieces(output, share_bytes) > MANY_PIECES]
    if cut:
        _LOG.warning(
            "%s of tensors fall into more than %s small pieces within memory_budget=%s; %s is enough for whole ones",
            counted(len(cut), "kind"),
            f"{MANY_PIECES:,}",
            budget_bytes,
            max(output.spec.size_bytes for output in cut) * workers,
        )


def _is_built(output: Output, step: Step, checkpoint: Checkpoint) -> bool:
    """Tell whether a tensor is built in windows; one that is made when it is asked for comes ready."""
    if not output.spec.size_bytes or checkpoint.is_serial or DTYPES[output.dtype].kind == "packed":
        return False
    return bool(step.program.temporaries) or not is_in_runs(output, step, checkpoint)


def _pieces(output: Output, share_bytes: int) -> int:
    """Estimate how many pieces a tensor's copies fall into when it is built window by window."""
    size_bytes = output.spec.size_bytes
    if size_bytes <= share_bytes or DTYPES[output.dtype].kind == "packed" or not _is_scattered(output):
        return 0
    return -(-size_bytes // share_bytes) * len(output.layout.copies)
