"""Write a plan's targets from what several ranks hold: each writes its own bytes into files that are made once.

The first rank makes the hidden directory and its files, and gives the directory its name in the end. Before it does the
one, all have said what they would write, and it is the same; before it does the other, all have written their own and
forced it to the disk. If a rank fails or does not come, the hidden directory is removed, and its error is that of all.
"""

from __future__ import annotations

import logging
import platform
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from weighbridge._version import __version__
from weighbridge.algebra.held_parts import Part
from weighbridge.base.batches import run_in_batches
from weighbridge.base.errors import DestinationError
from weighbridge.base.file_sets import FileImage
from weighbridge.base.hashes import sha256_of
from weighbridge.base.specs import Header
from weighbridge.base.workers import Counter, count_workers
from weighbridge.planning.plan import Plan
from weighbridge.planning.portions.cutting import cut, written_steps
from weighbridge.planning.steps import Step
from weighbridge.running.budgets import SMALLEST_WINDOW_BYTES
from weighbridge.running.by_ranks.agreement import check_alike, check_held_alike
from weighbridge.running.by_ranks.exchange import Exchange
from weighbridge.running.by_ranks.file_pages import has_its_room, map_pages
from weighbridge.running.by_ranks.held_source import HeldSource
from weighbridge.running.by_ranks.piece_filling import Filling, fill_pieces, written_bytes
from weighbridge.running.by_ranks.writers import Axes, deal_writing
from weighbridge.running.changed_files import FileChange
from weighbridge.running.sources import LayeredCheckpoint
from weighbridge.running.tensor_digests import Digests, digest_files, digest_tensor, digest_written
from weighbridge.running.ties import check_values
from weighbridge.running.to_files.file_decisions import Output, WriteOptions, decide_output, places_of, work_of
from weighbridge.running.to_files.part_writing import deal_out
from weighbridge.running.to_files.weight_filling import complete
from weighbridge.storage import FileOptions, OutputDirectory, staged_directory
from weighbridge.storage.outputs.claiming import partial_path
from weighbridge.storage.outputs.file_writer import FileWriter
from weighbridge.storage.outputs.unfinished import is_laid_out, is_of_run
from weighbridge.storage.places.directory import Extra
from weighbridge.storage.places.regular_files import read_settings

if TYPE_CHECKING:
    from weighbridge.storage.protocol import Checkpoint

_LOG: Final = logging.getLogger(__name__)

_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
"""What two processes read alike if one machine runs them, and only then."""


def held_source(checkpoint: Checkpoint) -> HeldSource | None:
    """Return the source of which this rank holds parts; None for any that a process has by itself."""
    found = checkpoint.front if isinstance(checkpoint, LayeredCheckpoint) else checkpoint
    return found if isinstance(found, HeldSource) else None


def write_by_ranks(
    plan: Plan,
    checkpoint: Checkpoint,
    held: HeldSource,
    destination: str | Path,
    options: WriteOptions,
    origin: Checkpoint | None,
    beside: Sequence[Extra],
    changes: Sequence[FileChange],
) -> Path:
    """Write a plan's targets; every rank calls it.

    Args:
        plan: The plan.
        checkpoint: What it reads.
        held: The part of that which the ranks hold together.
        destination: Directory to make.
        options: How to write.
        origin: As for `directory_writing.write`.
        beside: As there.
        changes: As there.

    Returns:
        The directory, which is there.

    Raises:
        PlanError, CheckpointError, DestinationError: As `directory_writing.write`, on every rank; `ranks-disagree`,
            before anything is written; `rank-missing`.
    """
    _refuse_strange(options)
    plan = plan if options.name is None else replace(plan, target_files=None)
    made = decide_output(plan, checkpoint, options, origin or checkpoint, beside, changes)
    anew = frozenset([*(extra.name for extra in beside), *(change.name for change in changes)])
    run = _Run(plan, checkpoint, held, Path(destination).absolute(), options, made, anew)
    share = run.agree()
    if held.exchange.is_first:
        run.lead(share, places_of(checkpoint, origin))
    else:
        run.follow(share)
    _LOG.info("wrote %s", destination)
    return run.target


def _refuse_strange(options: WriteOptions) -> None:
    """Refuse what is not meant for ranks that hold one model together.

    Raises:
        DestinationError: `usage`.
    """
    what, got = "", ""
    if options.part is not None:
        what, got = "ranks that hold a model together write its parts of themselves", f"part={options.part!r}"
    elif options.link != "never":
        what, got = "a model in memory shares no blocks with its source", f"link={options.link!r}"
    if what:
        raise DestinationError("usage", what, got=got, hint="leave it out")


class _Share(NamedTuple):
    """What one rank does of a run.

    Args:
        steps: The plan's steps, cut to what it writes.
        neighbours: How many of the ranks run on its machine, itself included.
    """

    steps: Sequence[Step]
    neighbours: int


class _Run(NamedTuple):
    """One save, as one of the ranks has it; `anew` names the files beside the weights that each rank makes itself."""

    plan: Plan
    checkpoint: Checkpoint
    held: HeldSource
    target: Path
    options: WriteOptions
    made: Output
    anew: frozenset[str]

    @property
    def exchange(self) -> Exchange:
        return self.held.exchange

    # ---- before anything is written ----

    def agree(self) -> _Share:
        """Check what this rank holds, compare with the others what is to be written, and learn what is its own."""
        self.held.check_there()
        parts = self._parts()
        specs = Header({key: self.plan.source[key] for key in sorted(parts)})
        absent = {key for key in parts if self.held.has_no_part(key)}
        own = {key: part for key, part in parts.items() if key not in absent}
        # What is tied has been found to be its twin, which is read in its place.
        parts |= {fated.key: parts[fated.by] for fated in self.plan.tied_sources}
        check_values(self._cut(parts, absent), self.checkpoint)
        decide = partial(_decide, specs, str(self.target), in_stages=self.held.in_stages)
        answer = self.exchange.agree("what is written", self._said(own), decide)
        silent = {key for number, key in enumerate(specs) if number in set(answer["silent"])}
        steps = written_steps(self.plan, parts, own.keys() - silent, declares=self.exchange.is_first)
        return _Share(steps, answer["neighbours"])

    def _parts(self) -> dict[str, Part]:
        """Return what this rank holds of all that is read: all of what lies in files, and nothing of other stages."""
        return {key: self._part(key) for step in self.plan.steps for key in step.sources}

    def _part(self, key: str) -> Part:
        shape = self.plan.source[key].shape
        return Part.empty(shape) if self.held.has_no_part(key) else self.held.parts.get(key, Part.whole(shape))

    def _cut(self, parts: Mapping[str, Part], absent: Collection[str]) -> Plan:
        """Cut the plan to what is here; a scalar of another stage, which has no smaller part, is not read."""
        made = cut(self.plan, source=parts)
        if all(self.plan.source[key].shape for key in absent):
            return made
        return replace(made, steps=written_steps(self.plan, parts, parts.keys() - absent, declares=True))

    def _said(self, parts: Mapping[str, Part]) -> dict[str, Any]:
        form = work_of(self.plan, self.checkpoint, self.made).to_dict()
        others = sorted(
            [extra.name, _digest(extra) if extra.name in self.anew else extra.size_bytes] for extra in self.made.extras
        )
        return {
            "destination": str(self.target),
            "weighbridge": __version__,
            "mapping": self.plan.mapping.name,
            "plan_hash": self.plan.hash,
            "files": form["files"],
            "others": others,
            "receipt_sha256": sha256_of(self.made.receipt),
            "digests": self.options.digests,
            "resume": self.options.resume,
            "sync": self.options.sync,
            "parts": {key: part.axes for key, part in parts.items()},
            "copies": self._digests(sorted(self.held.copied & parts.keys())),
            "machine": _BOOT.read_text() if _BOOT.exists() else platform.node(),
        }

    def _digests(self, keys: list[str]) -> dict[str, str]:
        """Return the digests of what other ranks may hold as well."""
        if self.exchange.ranks == 1:
            return {}
        local = self.held.local
        found = run_in_batches(partial(digest_tensor, local), keys, lambda key: local.header[key].size_bytes)
        return dict(zip(keys, found, strict=True))

    # ---- writing ----

    def lead(self, share: _Share, sources: Sequence[str]) -> None:
        """Make the files, write what is this rank's own, wait for the others, and publish what all have written."""
        work = work_of(self.plan, self.checkpoint, self.made)._replace(run=secrets.token_hex(16))
        with (
            staged_directory(
                self.target,
                sources=sources,
                needed_bytes=self.made.needed_bytes(shares=False),
                work=work,
                resume=self.options.resume,
                sync=self.options.sync,
            ) as output,
            # What is removed now the others would miss, and not know why.
            self.exchange.failing_first(),
        ):
            for image in self.made.files.images:
                output.create(image).abandon()
            paths = [output.path / image.name for image in self.made.files.images]
            maps = share.neighbours == self.exchange.ranks and all(map(has_its_room, paths))
            self.exchange.tell({"run": work.run, "maps": maps})
            self._fill(output.path, share, maps=maps)
            digests = self._end(output.path)
            _check_whole(output, self.made.files.images)
            complete(output, self.made, self.checkpoint, digests)
        self.exchange.tell("it is there")

    def follow(self, share: _Share) -> None:
        """Write what is this rank's own into the files that the first one has made, and wait until all is there."""
        begun = self.exchange.hear("the files to be made")
        hidden = partial_path(self.target)
        with self.exchange.heeding():
            self._check_seen(hidden, begun["run"])
            self._fill(hidden, share, maps=begun["maps"])
        self._end(hidden)
        self.exchange.hear("the output to be published")

    def _check_seen(self, hidden: Path, run: str) -> None:
        if not is_of_run(hidden, run):
            raise DestinationError(
                "ranks-disagree",
                f"rank {self.exchange.rank} does not see the directory that rank 0 has made",
                where=str(hidden),
                hint="name a destination on a file system that all ranks share",
            )

    def _fill(self, hidden: Path, share: _Share, *, maps: bool) -> None:
        def open_file(image: FileImage, shares_pages: bool) -> FileWriter:
            how = FileOptions(sync=self.options.sync and not shares_pages)
            return FileWriter(hidden / image.name, b"", image.size_bytes, how, is_shared=True)

        budget_bytes = self.options.budget_bytes
        workers = min(count_workers() // share.neighbours + 1, max(1, budget_bytes // SMALLEST_WINDOW_BYTES))
        images = self.made.files.images
        filling = Filling(
            open_file,
            (lambda image: map_pages(hidden / image.name)) if maps else None,
            self.exchange.rank * len(images) // self.exchange.ranks,
            workers,
            budget_bytes // workers,
        )
        counter = Counter(written_bytes(self.plan, share.steps), self.options.progress)
        fill_pieces(self.plan, share.steps, self.checkpoint, images, filling, counter)
        self.checkpoint.check_unchanged()

    def _end(self, hidden: Path) -> Callable[[], Digests] | None:
        """Wait until all ranks have written; return what gives the digests, on the first rank, if they are wanted."""
        ranks = self.exchange.ranks
        self.exchange.agree("the writing", None, lambda said: said)
        if not self.options.digests:
            return None
        own = deal_out(self.made.files.images, ranks)[self.exchange.rank]
        tensors = dict(digest_written(hidden, own, None).tensors)
        found = self.exchange.agree("the digests", tensors, lambda said: [said, *[None] * (ranks - 1)])
        return partial(_join, found, self.made)


def _decide(specs: Header, where: str, said: Sequence[Mapping[str, Any]], *, in_stages: bool) -> list[Any]:
    """Compare what all ranks say, on the first one, and say to each what it does not write of what it holds."""
    check_alike(said, where)
    held = [{key: _read_axes(axes) for key, axes in each["parts"].items()} for each in said]
    check_held_alike(held, [each["copies"] for each in said], in_stages=in_stages)
    writes = deal_writing(specs, held)
    machines = [each["machine"] for each in said]
    return [
        {
            "silent": [number for number, key in enumerate(specs) if key not in keys],
            "neighbours": machines.count(machine),
        }
        for keys, machine in zip(writes, machines, strict=True)
    ]


def _digest(extra: Extra) -> str:
    return sha256_of(read_settings(extra.path) if extra.content is None else extra.content)


def _read_axes(form: Any) -> Axes:
    return tuple(tuple((start, stop) for start, stop in intervals) for intervals in form)


def _check_whole(output: OutputDirectory, images: Sequence[FileImage]) -> None:
    """Check that the files are still those that were made.

    Raises:
        DestinationError: `write-failed`.
    """
    for image in images:
        if not is_laid_out(output.path / image.name, image):
            what = "this file is not the one that was made for all ranks"
            raise DestinationError("write-failed", what, where=str(output.path / image.name))


def _join(found: Sequence[Mapping[str, str]], made: Output) -> Digests:
    tensors = {key: digest for each in found for key, digest in each.items()}
    return Digests(dict(sorted(tensors.items())), digest_files(*made.files))
