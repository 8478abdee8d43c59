"""Write a plan's targets as one torch file that appears whole or not at all."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from weighbridge.base.errors import DestinationError
from weighbridge.base.json_text import join_keys
from weighbridge.base.workers import Counter
from weighbridge.planning.plan import Plan
from weighbridge.running.budgets import check_budget
from weighbridge.running.filling import fill_files
from weighbridge.running.receipt import add_digests, receipt_text
from weighbridge.running.tensor_digests import NO_DIGEST, Digests, digest_written
from weighbridge.running.ties import check_values, shared_targets
from weighbridge.running.to_files.file_decisions import WriteOptions, places_of
from weighbridge.storage import Work, staged_directory
from weighbridge.storage.outputs.checksums import Checksums
from weighbridge.storage.outputs.torch_image import lay_out_torch
from weighbridge.storage.places.directory import Extra

if TYPE_CHECKING:
    from weighbridge.storage.protocol import Checkpoint

_LOG: Final = logging.getLogger(__name__)


def write_torch_file(
    plan: Plan,
    checkpoint: Checkpoint,
    destination: str | Path,
    options: WriteOptions,
    origin: Checkpoint | None = None,
    beside: Sequence[Extra] = (),
) -> Path:
    """Write a plan's targets into one torch file, a plain dict of tensors, as `torch.load(weights_only=True)` reads it.

    The keys stand in order. Tensors that are known to be one share a storage. The receipt lies in the file itself,
    beside the tensors, and torch passes over it. A header's metadata and files beside the weights have no place there:
    a warning names the files.

    Args:
        plan: The plan; files that it would restore are not restored.
        checkpoint: What it reads.
        destination: The file to make.
        options: How to write; `max_shard_size` has no part in it.
        origin: Where the files beside the weights are; None for the checkpoint itself.
        beside: Files that must stand beside the weights.

    Returns:
        The file.

    Raises:
        PlanError, CheckpointError, DestinationError: As `directory_writing.write`; `dtype-unknown` for a dtype that
            torch lacks; `usage` for a name or a link, and where files must stand beside the weights.
    """
    _refuse_strange(options, beside)
    plan, path = replace(plan, target_files=None), Path(destination)
    check_budget(plan, checkpoint, options.budget_bytes)
    check_values(plan, checkpoint)
    ties, receipt = shared_targets(plan, checkpoint), receipt_text(plan, checkpoint)
    unknown = Digests(dict.fromkeys(plan.target, NO_DIGEST), {})
    size_bytes = len(add_digests(receipt, unknown) if options.digests else receipt)
    made = lay_out_torch(path.name, dict(sorted(plan.target.items())), ties, size_bytes)
    _LOG.info("writing %s: %s bytes", destination, f"{made.image.size_bytes:,}")
    with staged_directory(
        path,
        sources=places_of(checkpoint, origin),
        needed_bytes=made.image.size_bytes,
        work=Work(plan.hash, checkpoint.fingerprint(), [made.image]),
        resume=options.resume,
        sync=options.sync,
        direct=checkpoint.is_past_cache,
        as_file=True,
    ) as output:
        counter = Counter(plan.target.size_bytes, options.progress)
        known = Checksums(output.create, direct=checkpoint.is_past_cache)
        fill_files(plan, checkpoint, [made.image], known.create, budget_bytes=options.budget_bytes, counter=counter)
        counter.add(sum(plan.target[key].size_bytes for key in ties))
        checkpoint.check_unchanged()
        if options.digests:
            found = digest_written(output.path, [made.image], None).tensors
            tensors = {key: found[ties.get(key, key)] for key in sorted(plan.target)}
            receipt = add_digests(receipt, Digests(tensors, {}))
        made.complete(output.path / path.name, receipt, known, sync=options.sync)
    _say_left(origin or checkpoint)
    _LOG.info("wrote %s", destination)
    return path.absolute()


def _refuse_strange(options: WriteOptions, beside: Sequence[Extra]) -> None:
    """Refuse what one file has no place for.

    Raises:
        DestinationError: `usage`.
    """
    strange = {
        "one torch file cannot be written in parts": f"part={options.part!r}" if options.part is not None else "",
        "a torch file has its own name": f"name={options.name!r}" if options.name is not None else "",
        "a torch file shares no blocks with its source": f"link={options.link!r}" if options.link != "never" else "",
        "a torch file has no place for the files beside the weights": join_keys([extra.name for extra in beside]),
    }
    for what, got in strange.items():
        if got:
            hint = "leave it out, or write into a directory, whose name does not end like a torch file's"
            raise DestinationError("usage", what, got=got, hint=hint)


def _say_left(origin: Checkpoint) -> None:
    names = [extra.name for extra in origin.extras]
    if names:
        _LOG.warning("left out, as one file has no place for them: %s", join_keys(names))
