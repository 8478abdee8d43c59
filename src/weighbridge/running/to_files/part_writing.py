"""Write one part of a plan's files, as one of several processes that share the output: each file is written by one.

All processes compile the same plan from the same headers, so each knows which files there will be, and which of them
are its own. What they say to each other is in `storage.outputs.part_staging`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from weighbridge._version import __version__
from weighbridge.base.errors import DestinationError
from weighbridge.base.file_sets import FileImage
from weighbridge.base.hashes import sha256_of
from weighbridge.base.keys import counted
from weighbridge.planning.plan import Plan
from weighbridge.running.receipt import holds_receipt
from weighbridge.running.tensor_digests import Digests, digest_files, digest_written
from weighbridge.running.to_files.file_decisions import Output, WriteOptions, can_share, work_of
from weighbridge.running.to_files.weight_filling import complete, fill_weights
from weighbridge.storage import FileOptions, Work
from weighbridge.storage.outputs.part_staging import Done, PartStaging

if TYPE_CHECKING:
    from weighbridge.storage.protocol import Checkpoint

_LOG: Final = logging.getLogger(__name__)


def deal_out(images: Iterable[FileImage], count: int) -> list[list[FileImage]]:
    """Deal out files, the largest first, each to the part that has the least so far; the same in every process.

    Args:
        images: The files, in any order.
        count: How many parts there are.

    Returns:
        The files of each part, by name.

    Examples:
        >>> files = [FileImage(name, size_bytes, b"", ()) for name, size_bytes in [("a", 3), ("b", 5), ("c", 4)]]
        >>> [[image.name for image in part] for part in deal_out(files, 2)]
        [['b'], ['a', 'c']]
    """
    parts: list[list[FileImage]] = [[] for _ in range(count)]
    sizes = [0] * count
    for image in sorted(images, key=lambda image: (-image.size_bytes, image.name)):
        least = sizes.index(min(sizes))
        sizes[least] += image.size_bytes
        parts[least].append(image)
    return [sorted(part, key=lambda image: image.name) for part in parts]


def write_part(
    plan: Plan,
    checkpoint: Checkpoint,
    destination: str | Path,
    options: WriteOptions,
    made: Output,
    places: Sequence[Path | str],
) -> Path:
    """Write the files of one part, and where all others are done, what belongs to no part; then the output appears.

    A part that is done already writes nothing, nor does one whose output is there, with this very receipt. One that was
    stopped goes on with its files, and compares every byte.

    Args:
        plan: The plan.
        checkpoint: What it reads, in files.
        destination: Directory to make.
        options: How to write; `resume` is always meant.
        made: What all parts together write.
        places: What is read: the destination must not touch it.

    Returns:
        The directory; it is there if this was the last part.

    Raises:
        PlanError, CheckpointError: As `directory_writing.write`.
        DestinationError: As that; `ranks-disagree` before anything is written; `usage` for a source in memory.
    """
    _check_in_files(checkpoint)
    part, work = options.part_number, work_of(plan, checkpoint, made)
    assert part is not None
    share = options.link != "never" and can_share(checkpoint, Path(destination), options.link)
    how = FileOptions(sync=options.sync, share=share, direct=checkpoint.is_past_cache)
    run = _agreement(plan, work, checkpoint, options, made)
    staging = PartStaging(Path(destination), part, {"parts": part.parts, **run}, work, how)
    if staging.was_published() or _stands_there(staging, options, made):
        _LOG.info("part %s: %s is there already", part, destination)
        return staging.target
    with staging.joining(places, made.needed_bytes(shares=share)) as is_done:
        own = deal_out(made.files.images, part.parts)[part.number]
        if is_done:
            _LOG.info("part %s of %s is done already", part, destination)
        else:
            size_bytes = sum(image.size_bytes for image in own)
            _LOG.info("part %s of %s: %s bytes in %s", part, destination, f"{size_bytes:,}", counted(len(own), "file"))
            staging.finish(_write_own(staging, own, plan, checkpoint, options, made))
        with staging.publishing() as rest:
            if rest is not None:
                output, parts = rest
                linked = {name for done in parts for name in done.linked}
                left = [image for image in made.files.images if image.name in linked]
                fill_weights(output, left, made.twins, plan, checkpoint, options)
                complete(output, made, checkpoint, (lambda: _join(parts, made)) if options.digests else None)
                _LOG.info("wrote %s", destination)
    return staging.target


def _check_in_files(checkpoint: Checkpoint) -> None:
    """Refuse tensors in memory: nobody can tell whether those of two processes are the same.

    Raises:
        DestinationError: `usage`.
    """
    if not checkpoint.fingerprint() or any(True for _ in checkpoint.held_tensors()):
        raise DestinationError(
            "usage",
            "only files can be converted in parts",
            where=checkpoint.where,
            got="a source that is in no file, so that nothing says whether it is the same in all processes",
            hint="leave out part, or save the tensors and convert the files",
        )


def _stands_there(staging: PartStaging, options: WriteOptions, made: Output) -> bool:
    """Tell whether the output is there already: a part that was done when it was killed is run again as well."""
    is_ours = bool(made.receipt) and holds_receipt(staging.target, made.receipt, with_digests=options.digests)
    return is_ours and staging.is_laid_out()


def _agreement(plan: Plan, work: Work, checkpoint: Checkpoint, options: WriteOptions, made: Output) -> dict[str, Any]:
    """Return what all parts must say alike."""
    form = work.to_dict()
    return {
        "weighbridge": __version__,
        "mapping": plan.mapping.name,
        "plan_hash": form["plan_hash"][:16],
        "where": checkpoint.where,
        "source": form["source"],
        "files": form["files"],
        "others": sorted([extra.name, extra.size_bytes] for extra in made.extras),
        "receipt_sha256": sha256_of(made.receipt),
        "digests": options.digests,
        "link": options.link,
        "sync": options.sync,
    }


def _write_own(
    staging: PartStaging,
    own: Sequence[FileImage],
    plan: Plan,
    checkpoint: Checkpoint,
    options: WriteOptions,
    made: Output,
) -> Done:
    output = staging.begin(own)
    linked = fill_weights(output, own, made.twins, plan, checkpoint, options)
    checkpoint.check_unchanged()
    digests = digest_written(output.path, own, None, linked).tensors if options.digests else {}
    return Done([(image.name, image.size_bytes) for image in own], sorted(linked), digests)


def _join(parts: Iterable[Done], made: Output) -> Digests:
    tensors = {key: digest for done in parts for key, digest in done.digests.items()}
    return Digests(dict(sorted(tensors.items())), digest_files(*made.files))
