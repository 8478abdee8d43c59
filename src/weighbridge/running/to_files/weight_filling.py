"""Fill a new directory that nobody sees yet: weights first, then what lies beside them, the receipt last."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from weighbridge.base.file_sets import FileImage
from weighbridge.base.workers import Counter
from weighbridge.planning.plan import Plan
from weighbridge.running.filling import fill_files
from weighbridge.running.receipt import add_digests
from weighbridge.running.tensor_digests import Digests
from weighbridge.running.to_files.file_decisions import Output, WriteOptions
from weighbridge.storage import IndexText, OutputDirectory, Sink, copy_extras

if TYPE_CHECKING:
    from weighbridge.storage.protocol import Checkpoint


def fill_weights(
    output: OutputDirectory,
    images: Collection[FileImage],
    twins: Mapping[str, Path],
    plan: Plan,
    checkpoint: Checkpoint,
    options: WriteOptions,
) -> dict[str, Path]:
    """Fill weight files, but for those that can become links to files of the source.

    Args:
        output: The directory.
        images: The files.
        twins: Files of the source that come out as they were, by the new file's name.
        plan: The plan.
        checkpoint: What it reads.
        options: How to write.

    Returns:
        The files of the source that will be linked to, by the new file's name.

    Raises:
        PlanError, CheckpointError, DestinationError: As `directory_writing.write`.
    """
    same = {image.name: twins[image.name] for image in images if image.name in twins}
    linked = {name: path for name, path in same.items() if output.link(name, path)}
    own = [image for image in images if image.name not in linked]
    counter = Counter(sum(image.size_bytes - len(image.head) for image in images), options.progress)
    fill_files(plan, checkpoint, own, output.create, budget_bytes=options.budget_bytes, counter=counter)
    counter.add(sum(image.size_bytes - len(image.head) for image in images if image.name in linked))
    return linked


class Completed(Protocol):
    """What is completed: a hidden directory, or a folder of a store."""

    def create(self, image: FileImage) -> Sink:
        """Create a file from its image; the caller fills it in and closes it."""

    def add_index(self, index: IndexText) -> None:
        """Put the shard index there."""

    def add_receipt(self, receipt: bytes) -> None:
        """Put the receipt there, as the last file."""


def complete(output: Completed, made: Output, checkpoint: Checkpoint, digests: Callable[[], Digests] | None) -> None:
    """Put beside the weights what belongs there: other files, the index, the receipt.

    Args:
        output: The directory, or the folder; its weights are there.
        made: What is written.
        checkpoint: What was read.
        digests: Gives the digests of the output; None where they are not asked for.

    Raises:
        CheckpointError: `source-changed` and the codes of reading.
        DestinationError: The codes of writing.
    """
    copy_extras(made.extras, output.create)
    checkpoint.check_unchanged()
    if made.files.shard_index is not None:
        output.add_index(made.files.shard_index)
    receipt = made.receipt if digests is None else add_digests(made.receipt, digests())
    if receipt:
        output.add_receipt(receipt)
