"""Write a plan's targets as safetensors files into a new directory that appears whole or not at all."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from weighbridge.planning.plan import Plan
from weighbridge.running.changed_files import FileChange
from weighbridge.running.tensor_digests import digest_written
from weighbridge.running.to_files.file_decisions import WriteOptions, can_share, decide, places_of, work_of
from weighbridge.running.to_files.part_writing import write_part
from weighbridge.running.to_files.weight_filling import complete, fill_weights
from weighbridge.storage import staged_directory
from weighbridge.storage.places.directory import Extra

if TYPE_CHECKING:
    from weighbridge.storage.protocol import Checkpoint

_LOG: Final = logging.getLogger(__name__)


def write(
    plan: Plan,
    checkpoint: Checkpoint,
    destination: str | Path,
    options: WriteOptions,
    origin: Checkpoint | None = None,
    beside: Sequence[Extra] = (),
    changes: Sequence[FileChange] = (),
) -> Path:
    """Write a plan's targets.

    The inverse of a plan that was made from safetensors files writes these very files again: names, header text, order
    and index. Other plans write new files under the hub's names, and a receipt that records the plan. Files beside
    the weights are carried along.

    With `resume`, a run that is stopped or fails leaves its unfinished output hidden beside the destination, and goes
    on with the one that an earlier run of the same plan and source left there. Every byte of it is compared, so that
    the result does not depend on what was there.

    Args:
        plan: The plan.
        checkpoint: What it reads.
        destination: Directory to make; it must not exist, or be empty.
        options: How to write.
        origin: Where the files beside the weights are; None for the checkpoint itself.
        beside: More files to put beside the weights, each in the place of one of its name.
        changes: Files to write anew beside the weights, as `beside`, or to leave out; the receipt holds what they were.

    Returns:
        The directory.

    Raises:
        PlanError: `budget-too-small`; `plan-failed`, with a `tie-differs` for tied targets that would differ, a
            `sources-differ` for sources that must be equal, a `padding-differs` for what is cut off and holds something
            else than was declared.
        CheckpointError: `source-changed` and the codes of reading.
        DestinationError: `destination-exists`, `destination-unsafe`, `destination-no-room`, `destination-busy`,
            `destination-unfinished`, `resume-mismatch`, `write-failed`. Nothing is left behind but by `resume`.
            `usage` for digests where there will be no receipt.
    """
    if options.name is not None:
        plan = replace(plan, target_files=None)
    made = decide(plan, checkpoint, options, origin or checkpoint, beside, changes)
    if options.part_number is not None:
        return write_part(plan, checkpoint, destination, options, made, places_of(checkpoint, origin))
    count = len(made.files.images)
    _LOG.info("writing %s: %s bytes in %d file%s", destination, f"{made.size_bytes:,}", count, "s" * (count != 1))
    share = options.link != "never" and can_share(checkpoint, Path(destination), options.link)
    with staged_directory(
        destination,
        sources=places_of(checkpoint, origin),
        needed_bytes=made.needed_bytes(shares=share),
        work=work_of(plan, checkpoint, made),
        resume=options.resume,
        sync=options.sync,
        share=share,
        direct=checkpoint.is_past_cache,
    ) as output:
        linked = fill_weights(output, made.files.images, made.twins, plan, checkpoint, options)
        digests = partial(digest_written, output.path, *made.files, linked)
        complete(output, made, checkpoint, digests if options.digests else None)
    _LOG.info("wrote %s", destination)
    return Path(destination).absolute()
