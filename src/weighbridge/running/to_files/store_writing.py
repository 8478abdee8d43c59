"""Write a plan's targets into a folder of an object store; nothing of it lies on this disk."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from weighbridge.base.errors import DestinationError
from weighbridge.base.workers import Counter
from weighbridge.planning.plan import Plan
from weighbridge.running.changed_files import FileChange
from weighbridge.running.filling import fill_files
from weighbridge.running.to_files.file_decisions import SAFETENSORS, WriteOptions, decide, work_of
from weighbridge.running.to_files.weight_filling import complete
from weighbridge.storage.outputs.store_folder import read_destination, staged_folder
from weighbridge.storage.places.directory import Extra

if TYPE_CHECKING:
    from weighbridge.storage.protocol import Checkpoint

_LOG: Final = logging.getLogger(__name__)


def write_to_store(
    plan: Plan,
    checkpoint: Checkpoint,
    destination: str,
    options: WriteOptions,
    origin: Checkpoint | None,
    beside: Sequence[Extra],
    changes: Sequence[FileChange],
) -> str:
    """Write a plan's targets as objects: weights, other files, index, receipt; last goes the record that hid them.

    The objects hold the bytes that `directory_writing.write` puts into files. With `resume`, a run that is stopped
    leaves its objects, and one that goes on puts those that are missing.

    Args:
        plan: The plan.
        checkpoint: What it reads.
        destination: Address of the folder to make.
        options: How to write.
        origin: Where the files beside the weights are; None for the checkpoint itself.
        beside: More files to put beside the weights.
        changes: Files to write anew beside the weights.

    Returns:
        The address.

    Raises:
        PlanError, CheckpointError: As `directory_writing.write`.
        DestinationError: `destination-exists`, `destination-unfinished`, `destination-busy`, `destination-unsafe`,
            `resume-mismatch`, `remote-denied`, `write-failed`; `usage` for options of files on a disk.
    """
    _refuse_of_disks(options)
    address = read_destination(destination, [each.where for each in (checkpoint, origin or checkpoint)])
    if options.name is not None:
        plan = replace(plan, target_files=None)
    made = decide(plan, checkpoint, options, origin or checkpoint, beside, changes)
    work = work_of(plan, checkpoint, made)
    _LOG.info("writing %s: %s bytes in %d files", address.text, f"{made.size_bytes:,}", len(made.files.images))
    with staged_folder(address, work, resume=options.resume) as folder:
        left = [image for image in made.files.images if not folder.is_done(image)]
        counter = Counter(made.size_bytes - sum(len(image.head) for image in made.files.images), options.progress)
        counter.add(sum(image.size_bytes - len(image.head) for image in made.files.images if folder.is_done(image)))
        fill_files(
            plan, checkpoint, left, folder.create, budget_bytes=options.budget_bytes, counter=counter, in_order=True
        )
        complete(folder, made, checkpoint, None)
    _LOG.info("wrote %s", address.text)
    return address.text


def _refuse_of_disks(options: WriteOptions) -> None:
    """Refuse what has a meaning for files on a disk alone."""
    asked = {
        "digests": options.digests,
        "link": options.link != "never",
        "to": options.to != SAFETENSORS,
        "part": options.part is not None,
    }
    wrong = [name for name, is_asked in asked.items() if is_asked]
    if wrong:
        what, hint = "this is done with files on a disk, not with objects of a store", "leave it out"
        raise DestinationError("usage", what, got=", ".join(f"{name}= (--{name})" for name in wrong), hint=hint)
