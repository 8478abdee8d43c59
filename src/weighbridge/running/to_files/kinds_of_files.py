"""Write a plan's targets as files of the kind that is asked for, or that the destination's name is of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weighbridge.base.errors import DestinationError
from weighbridge.base.file_names import names_torch_file
from weighbridge.base.forms.named_options import read_named
from weighbridge.mappings.lora.named_dialects import weights_stem
from weighbridge.planning.plan import Plan
from weighbridge.running.by_ranks.rank_writing import held_source, write_by_ranks
from weighbridge.running.to_files.dcp_writing import write_dcp
from weighbridge.running.to_files.directory_writing import write
from weighbridge.running.to_files.file_decisions import DCP, WriteOptions
from weighbridge.running.to_files.store_writing import write_to_store
from weighbridge.running.to_files.torch_writing import write_torch_file
from weighbridge.storage.remote.addresses import is_elsewhere

if TYPE_CHECKING:
    from weighbridge.running.changed_files import FileChange
    from weighbridge.storage.places.directory import Extra
    from weighbridge.storage.protocol import Checkpoint


def read_write_options(plan: Plan, destination: str | Path, given: Mapping[str, Any]) -> WriteOptions:
    """Read options by their names; an adapter's files have the names that its library looks for.

    Raises:
        WeighbridgeError: `usage`.
        DestinationError: `usage`.
    """
    chosen = read_named(WriteOptions, dict(given))
    if chosen.to == DCP and names_torch_file(destination):
        what, got = "a distributed checkpoint is a directory", f"the name of a torch file, {Path(destination).name}"
        raise DestinationError("usage", what, got=got, hint="leave out to= (--to), or choose another name")
    is_plain = not names_torch_file(destination) and chosen.to != DCP
    if plan.is_of_adapter and plan.target_files is None and chosen.name is None and is_plain:
        return read_named(WriteOptions, {**given, "name": weights_stem(plan.target), "max_shard_size": None})
    return chosen


def write_plan(
    plan: Plan,
    checkpoint: Checkpoint,
    destination: str | Path,
    options: WriteOptions,
    origin: Checkpoint | None,
    beside: Sequence[Extra],
    changes: Sequence[FileChange],
) -> Path | Any:
    """Write a plan's targets, here or into a store; arguments as for `directory_writing.write`.

    Raises:
        As `directory_writing.write`, `torch_writing.write_torch_file`, `dcp_writing.write_dcp`,
        `store_writing.write_to_store` and `rank_writing.write_by_ranks`.
    """
    held = held_source(checkpoint)
    if held is not None:
        _refuse_other_kinds(destination, options)
        return write_by_ranks(plan, checkpoint, held, destination, options, origin, beside, changes)
    if is_elsewhere(destination):
        return write_to_store(plan, checkpoint, str(destination), options, origin, beside, changes)
    if names_torch_file(destination):
        needs = plan.is_of_adapter or plan.refined
        needed = (*beside, *(change.extra for change in changes if needs and change.after))
        return write_torch_file(plan, checkpoint, destination, options, origin, needed)
    write_files = write_dcp if options.to == DCP else write
    return write_files(plan, checkpoint, destination, options, origin, beside, changes)


def _refuse_other_kinds(destination: str | Path, options: WriteOptions) -> None:
    """Refuse to let ranks write anything but a directory of safetensors files together.

    Raises:
        DestinationError: `usage`.
    """
    if is_elsewhere(destination) or names_torch_file(destination) or options.to == DCP:
        raise DestinationError(
            "usage",
            "ranks that hold a model together write a directory of safetensors files on a disk",
            got=str(destination) if options.to != DCP else f"to={DCP!r}",
            hint="save such a directory, and convert that",
        )
