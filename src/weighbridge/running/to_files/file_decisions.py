"""What a plan's files will be, decided before the first of them is made: their names, sizes and heads, the receipt."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from weighbridge.base.errors import DestinationError
from weighbridge.base.file_names import RECEIPT_NAME, SAFETENSORS_SUFFIX
from weighbridge.base.file_sets import FileImage
from weighbridge.base.process.part_numbers import PartNumber, read_part
from weighbridge.base.workers import Progress
from weighbridge.planning.plan import DEFAULT_BUDGET_BYTES, Plan
from weighbridge.running.budgets import check_budget
from weighbridge.running.changed_files import FileChange
from weighbridge.running.receipt import check_receipt_follows, receipt_text
from weighbridge.running.sources import LayeredCheckpoint
from weighbridge.running.ties import check_values
from weighbridge.running.to_files.alongside import check_link, find_twins, lay_out_alongside
from weighbridge.storage import IndexText, Work, build_image, parse_size, plan_shards
from weighbridge.storage.formats.safetensors_write import WEIGHTS_NAME
from weighbridge.storage.outputs.output_names import check_stem
from weighbridge.storage.places.directory import Extra
from weighbridge.storage.places.kernel import BLOCK_BYTES, shares_with
from weighbridge.storage.remote.addresses import is_elsewhere
from weighbridge.storage.remote.remote_files import RemoteFile

if TYPE_CHECKING:
    from weighbridge.storage.protocol import Checkpoint

_LOG: Final = logging.getLogger(__name__)


class Files(NamedTuple):
    """The files to write, and their index."""

    images: tuple[FileImage, ...]
    shard_index: IndexText | None


SAFETENSORS: Final = "safetensors"
DCP: Final = "dcp"
KINDS: Final = (SAFETENSORS, DCP)
"""What a directory of weights may hold."""


def _check_kind(kind: str, under: str) -> None:
    if kind not in KINDS:
        expected = ", ".join(KINDS)
        raise DestinationError("usage", "there is no such kind of files", expected=expected, got=repr(kind)[:80])
    if under and (kind != DCP or not all(under.split("."))):
        what, expected = "the tensors cannot be put under this name", f"names with dots between them, and to={DCP!r}"
        raise DestinationError("usage", what, expected=expected, got=f"{under!r:.80} of {kind} files")


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOptions:
    """How files are written.

    Args:
        name: Name of new weight files without its ending, such as ``"adapter_model"``, from which the names of shards
            and index are made; None for ``"model"``. Files that would be restored as they were are new ones with it.
        max_shard_size: Largest size of a new shard, in bytes or as text such as ``"5GB"``; None for a single file.
        memory_budget: Size of the buffers that are held at a time, in bytes or as text such as ``"200MB"``.
        digests: Record in the receipt the SHA-256 of every tensor, read back from the new files; see `verify`.
        resume: Go on with an unfinished output, and leave one if this run does not end.
        sync: Wait until the disk holds everything before the directory appears. Without it the output is as safe as a
            copy by `cp`: a power failure soon afterwards may leave it there with parts missing.
        link: What new files may have in common with those of a safetensors source. ``"share"`` lays them out as the
            source's files (`max_shard_size` is not looked at) and lets them share the disk's blocks with these, where
            the file system can do that. ``"hard"`` does the same, and a file that comes out as it was becomes a further
            name of the source's: whoever changes the one in place changes the other.
        to: What a directory is to hold: ``"safetensors"`` files, or a distributed checkpoint of torch's, ``"dcp"``.
        under: For the latter, the dict that the tensors are to be in, such as ``"model"``, which stands before their
            names.
        part: Write one part of the output, as one of several processes that share it: number and count, such as
            ``(3, 16)`` with numbers from 0, the same as text, or ``"auto"`` for what torchrun, Slurm or MPI say.
        progress: Called after each piece with the bytes written so far and the bytes in all.

    Raises:
        DestinationError: `usage` for a size, a link or a kind of files that there is not, and a name that no file can
            have.
        WeighbridgeError: `usage` for a part that there is not.
    """

    name: str | None = None
    max_shard_size: int | str | None = "5GB"
    memory_budget: int | str = DEFAULT_BUDGET_BYTES
    digests: bool = False
    resume: bool = False
    sync: bool = True
    link: str = "never"
    to: str = SAFETENSORS
    under: str = ""
    part: tuple[int, int] | str | None = None
    progress: Progress | None = None

    def __post_init__(self) -> None:
        check_link(self.link)
        _check_kind(self.to, self.under)
        if self.name is not None:
            check_stem(self.name)
        parse_size(self.memory_budget)
        if self.part is not None:
            read_part(self.part)

    @property
    def part_number(self) -> PartNumber | None:
        """Which part of the output is to be written; None for all of it."""
        return None if self.part is None else read_part(self.part)

    @property
    def budget_bytes(self) -> int:
        """The budget of the buffers in bytes."""
        return parse_size(self.memory_budget)

    @property
    def weights_name(self) -> str:
        """Name of a single file of weights."""
        return WEIGHTS_NAME if self.name is None else self.name + SAFETENSORS_SUFFIX


class Output(NamedTuple):
    """What a run writes, decided before it begins.

    Args:
        files: The weights.
        extras: Files beside them.
        receipt: The receipt's bytes; empty where files are restored as they were.
        twins: Files of the source that come out as they were, by the new file's name.
    """

    files: Files
    extras: tuple[Extra, ...]
    receipt: bytes
    twins: Mapping[str, Path]

    @property
    def size_bytes(self) -> int:
        """Size of the weights' files."""
        return sum(image.size_bytes for image in self.files.images)

    def needed_bytes(self, *, shares: bool) -> int:
        """Room on the disk that is needed; how much of it shared blocks save is known when they are shared."""
        images = () if shares else self.files.images
        weights = sum(image.size_bytes for image in images if image.name not in self.twins)
        return len(self.receipt) + weights + sum(extra.size_bytes for extra in self.extras)


def places_of(checkpoint: Checkpoint, origin: Checkpoint | None) -> list[str]:
    """List the places that are read: that of a checkpoint, and where its weights came from, if they are there."""
    found = (each.where for each in (checkpoint, origin or checkpoint))
    return [where for where in found if not is_elsewhere(where) and Path(where).exists()]


def decide(
    plan: Plan,
    checkpoint: Checkpoint,
    options: WriteOptions,
    origin: Checkpoint,
    beside: Sequence[Extra],
    changes: Sequence[FileChange],
) -> Output:
    """Check what a plan takes for granted, and decide what is written.

    Args:
        plan: The plan.
        checkpoint: What it reads.
        options: How to write.
        origin: Where the files beside the weights are.
        beside: More files to put beside the weights.
        changes: Files to write anew beside the weights.

    Raises:
        PlanError, CheckpointError, DestinationError: As `directory_writing.write`; nothing is written.
    """
    check_budget(plan, checkpoint, options.budget_bytes)
    check_values(plan, checkpoint)
    return decide_output(plan, checkpoint, options, origin, beside, changes)


def decide_output(
    plan: Plan,
    checkpoint: Checkpoint,
    options: WriteOptions,
    origin: Checkpoint,
    beside: Sequence[Extra],
    changes: Sequence[FileChange],
) -> Output:
    """Decide what is written; arguments as for `decide`. No values are looked at.

    Raises:
        DestinationError: `usage` for digests where there will be no receipt.
        CheckpointError: `header-invalid`, `header-too-large`.
    """
    if options.digests:
        check_receipt_follows(plan)
    files = lay_out(plan, options.max_shard_size, options.link, options.weights_name)
    # What is read back beside a model needs the rules that carried it, in files restored as they were, too.
    is_restored = plan.target_files is not None and not isinstance(checkpoint, LayeredCheckpoint)
    receipt = b"" if is_restored else receipt_text(plan, checkpoint, changes)
    extras = extras_for(origin, checkpoint, beside, changes)
    twins = find_twins(plan, files.images, checkpoint) if options.link == "hard" else {}
    return Output(files, extras, receipt, twins)


def work_of(plan: Plan, checkpoint: Checkpoint, made: Output) -> Work:
    """Say what a run will write, so that another one can tell whether it may go on with it."""
    index = [made.files.shard_index.name] if made.files.shard_index is not None else []
    receipt = [RECEIPT_NAME] if made.receipt else []
    others = [extra.name for extra in made.extras] + index + receipt
    return Work(plan.hash, checkpoint.fingerprint(), made.files.images, others)._replace(links=made.twins)


def can_share(checkpoint: Checkpoint, destination: Path, link: str) -> bool:
    """Tell whether new files at the destination can share blocks with the source's, and say so if they cannot."""
    folder = next((parent for parent in destination.absolute().parents if parent.is_dir()), None)
    if folder is None:
        return False
    paths = {extent.path for key in checkpoint.header if (extent := checkpoint.extent(key)) is not None}
    # What is smaller than a block has none to share.
    if any(isinstance(path, RemoteFile) for path in paths):
        return False
    large = [path for path in paths if isinstance(path, Path) and path.stat().st_size >= BLOCK_BYTES]
    found = bool(large) and all(shares_with(path, folder) for path in large)
    if large and not found:
        level = logging.WARNING if link == "share" else logging.INFO
        _LOG.log(level, "%s and %s share no blocks of a disk: bytes are copied", checkpoint.where, folder)
    return found


def extras_for(
    origin: Checkpoint, checkpoint: Checkpoint, beside: Sequence[Extra], changes: Sequence[FileChange]
) -> tuple[Extra, ...]:
    """Return the files to put beside new weights, each in the place of an earlier one of its name.

    Args:
        origin: What has the files to carry along.
        checkpoint: What is read.
        beside: More files.
        changes: Files that are written anew.
    """
    carried = _carried(origin, is_read=origin is checkpoint)
    gone = {change.name for change in changes if not change.after}
    anew = (change.extra for change in changes)
    named = {extra.name: extra for extra in (*carried, *beside, *anew) if extra.name not in gone}
    return tuple(named.values())


def _carried(origin: Checkpoint, *, is_read: bool) -> tuple[Extra, ...]:
    """Return the files to carry along; those beside a model's original weights that are gone by now are left out."""
    there = tuple(
        extra for extra in origin.extras if is_read or isinstance(extra.path, RemoteFile) or extra.path.is_file()
    )
    gone = [extra.name for extra in origin.extras if extra not in there]
    if gone:
        _LOG.warning("not there any more, so not written: %s", ", ".join(gone))
    return there


def lay_out(
    plan: Plan, max_shard_size: int | str | None, link: str = "never", weights_name: str = WEIGHTS_NAME
) -> Files:
    """Decide which files hold which tensors, and where: as recorded, as in the source's files, or by size.

    Raises:
        CheckpointError: `header-invalid`, `header-too-large`.
        DestinationError: `usage` for a size that cannot be read.
    """
    recorded = plan.target_files
    if recorded is not None:
        index = IndexText(recorded.index_name, recorded.index_text) if recorded.index_name else None
        return Files(recorded.images, index)
    if link != "never" and plan.source_files is not None:
        made, spread = lay_out_alongside(plan, plan.source_files, weights_name)
        return Files(tuple(made), spread.index)
    specs = dict(sorted(plan.target.specs.items()))
    shards = plan_shards(specs, max_shard_size, weights_name)
    metadata = dict(plan.metadata) or {"format": "pt"}
    shares = {name: {key: specs[key] for key in keys} for name, keys in shards.files.items()}
    return Files(tuple(build_image(name, share, metadata) for name, share in shares.items()), shards.index)
