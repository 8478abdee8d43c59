"""Write a plan's targets as a directory of torch.distributed.checkpoint that appears whole or not at all.

Every target is cut into rows, and each part is filled like a tensor of its own: from where its elements lie to its
place in an item. So what is held is the budget, however large the tensors are.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from weighbridge.base.batches import run_in_batches
from weighbridge.base.errors import DestinationError
from weighbridge.base.file_names import RECEIPT_NAME
from weighbridge.base.workers import Counter
from weighbridge.planning.plan import Plan
from weighbridge.planning.program import Output, Program
from weighbridge.planning.steps import Step
from weighbridge.running.budgets import check_budget
from weighbridge.running.changed_files import FileChange
from weighbridge.running.filling import fill_files
from weighbridge.running.receipt import add_digests, receipt_text
from weighbridge.running.tensor_digests import Digests, digest_tensor
from weighbridge.running.ties import check_values, shared_targets
from weighbridge.running.to_files.file_decisions import WriteOptions, extras_for, places_of
from weighbridge.storage import IndexText, OutputDirectory, Work, copy_extras, parse_size, staged_directory
from weighbridge.storage.outputs.checksums import Checksums
from weighbridge.storage.places.directory import Extra
from weighbridge.storage.sharded.dcp_image import DcpImage, PlacedItem, lay_out_dcp
from weighbridge.storage.sharded.dcp_metadata_text import metadata_text
from weighbridge.storage.sharded.dcp_names import METADATA_NAME
from weighbridge.storage.sharded.dcp_objects import OBJECTS_NAME, restore_objects

if TYPE_CHECKING:
    from weighbridge.storage.protocol import Checkpoint

_LOG: Final = logging.getLogger(__name__)


def write_dcp(
    plan: Plan,
    checkpoint: Checkpoint,
    destination: str | Path,
    options: WriteOptions,
    origin: Checkpoint | None = None,
    beside: Sequence[Extra] = (),
    changes: Sequence[FileChange] = (),
) -> Path:
    """Write a plan's targets as a directory that `torch.distributed.checkpoint.load` reads on any number of ranks.

    Tensors that are known to be one lie in the same items. The receipt, and files beside the weights, lie beside.

    Args:
        plan: The plan; files that it would restore are not restored.
        checkpoint: What it reads.
        destination: Directory to make; it must not exist, or be empty.
        options: How to write; `under` names the dict that the tensors are to be in.
        origin: Where the files beside the weights are; None for the checkpoint itself.
        beside: More files to put beside the weights; see `directory_writing.write`.
        changes: Files to write anew beside the weights; see there.

    Returns:
        The directory.

    Raises:
        PlanError, CheckpointError, DestinationError: As `directory_writing.write`; `dtype-unknown` for a dtype that
            torch lacks; `usage` for a name or a link.
    """
    _refuse_strange(options)
    plan = replace(plan, target_files=None)
    check_budget(plan, checkpoint, options.budget_bytes)
    check_values(plan, checkpoint)
    made = _decide(plan, checkpoint, options, extras_for(origin or checkpoint, checkpoint, beside, changes), changes)
    size_bytes = sum(image.size_bytes for image in made.image.images) + len(made.metadata)
    _LOG.info("writing %s: %s bytes", destination, f"{size_bytes:,}")
    with staged_directory(
        destination,
        sources=places_of(checkpoint, origin),
        needed_bytes=size_bytes + len(made.receipt) + sum(extra.size_bytes for extra in made.extras),
        work=Work(plan.hash, checkpoint.fingerprint(), made.image.images, made.others),
        resume=options.resume,
        sync=options.sync,
        direct=checkpoint.is_past_cache,
    ) as output:
        _fill(output, made.image, plan, checkpoint, options)
        copy_extras(made.extras, output.create)
        checkpoint.check_unchanged()
        output.add_index(IndexText(METADATA_NAME, made.metadata))
        output.add_receipt(_with_digests(output, made, plan) if options.digests else made.receipt)
    _LOG.info("wrote %s", destination)
    return Path(destination).absolute()


class _Made(NamedTuple):
    """What a run writes, decided before it begins."""

    image: DcpImage
    metadata: bytes
    extras: tuple[Extra, ...]
    receipt: bytes
    ties: Mapping[str, str]

    @property
    def others(self) -> list[str]:
        """Names of all files but those of items."""
        return [*(extra.name for extra in self.extras), METADATA_NAME, RECEIPT_NAME]


def _decide(
    plan: Plan,
    checkpoint: Checkpoint,
    options: WriteOptions,
    extras: tuple[Extra, ...],
    changes: Sequence[FileChange],
) -> _Made:
    ties = shared_targets(plan, checkpoint)
    most = None if options.max_shard_size is None else parse_size(options.max_shard_size)
    image = lay_out_dcp(dict(sorted(plan.target.items())), ties, most)
    described = image.described.under(options.under)
    packed = next((extra for extra in extras if extra.name == OBJECTS_NAME), None)
    # Their names, and those that they speak of, are the ones that a way back leads to.
    if packed is not None and plan.is_back and not options.under:
        kept = restore_objects(packed)
        described = described._replace(objects=kept.objects)
        extras = (*(extra for extra in extras if extra is not packed), kept.file)
    return _Made(image, metadata_text(described), extras, receipt_text(plan, checkpoint, changes), ties)


def _refuse_strange(options: WriteOptions) -> None:
    """Refuse what such a directory has no place for.

    Raises:
        DestinationError: `usage`.
    """
    strange = {
        "the files of a distributed checkpoint have names of their own": f"name={options.name!r}" * bool(options.name),
        "a distributed checkpoint cannot be written in parts": f"part={options.part!r}" * (options.part is not None),
        "a distributed checkpoint shares no blocks with its source": f"link={options.link!r}"
        * (options.link != "never"),
    }
    for what, got in strange.items():
        if got:
            raise DestinationError("usage", what, got=got, hint="leave it out")


def _fill(output: OutputDirectory, made: DcpImage, plan: Plan, checkpoint: Checkpoint, options: WriteOptions) -> None:
    counter = Counter(plan.target.size_bytes, options.progress)
    steps = tuple(_by_rows(plan, made.chunks))
    parts = Plan(plan.mapping, steps)
    known = Checksums(output.create, direct=checkpoint.is_past_cache)
    fill_files(parts, checkpoint, made.images, known.create, budget_bytes=options.budget_bytes, counter=counter)
    counter.add(sum(spec.size_bytes for key, spec in plan.target.items() if key not in made.chunks))
    made.complete(output.path, known, sync=options.sync)


def _by_rows(plan: Plan, chunks: Mapping[str, Sequence[PlacedItem]]) -> Iterator[Step]:
    """Yield the steps that make the chunks: each target is cut into its rows, which have the names of the chunks."""
    for step in plan.steps:
        own = {number: chunks[key] for key, number in step.writes.items() if key in chunks}
        if own:
            rows = tuple((number, tuple(each.rows for each in placed)) for number, placed in own.items())
            names = tuple(each.name for placed in own.values() for each in placed)
            yield Step(step.sources, names, _cut(step.program, rows), step.fate, step.rules)


@lru_cache(maxsize=1024)
def _cut(program: Program, rows: tuple[tuple[int, tuple[int, ...]], ...]) -> Program:
    """Return a program with parts of its targets in their place.

    Args:
        program: The program.
        rows: The number of each target that is wanted, and how many rows each of its parts has.
    """
    targets: list[Output] = []
    for number, sizes in rows:
        whole = program.targets[number]
        layouts = whole.layout.split(0, sizes) if len(sizes) > 1 else [whole.layout]
        targets += [whole._replace(layout=layout) for layout in layouts]
    return Program(program.sources, program.temporaries, tuple(targets), program.overflows, program.constants)


def _with_digests(output: OutputDirectory, made: _Made, plan: Plan) -> bytes:
    written = made.image.checkpoint(output.path, plan.target)
    keys = list(written.header)
    found = run_in_batches(partial(digest_tensor, written), keys, lambda key: written.header[key].size_bytes)
    digests = dict(zip(keys, found, strict=True))
    tensors = {key: digests[made.ties.get(key, key)] for key in sorted(plan.target)}
    return add_digests(made.receipt, Digests(tensors, {}))
