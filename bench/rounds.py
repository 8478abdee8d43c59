"""Let the sides of a comparison take turns, each run in a process of its own, and make figures of the runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, NamedTuple

from bench.checkpoints import discard, write_checkpoint
from bench.clock import warm
from bench.inventories import DeepSeek, Dense, Moe, Sizes, Small, header_of
from bench.measure import Comparison, Figure, Run, RunFailedError, beside, run_python

ROUNDS: Final = 5
SHARD_BYTES: Final = 10**9
TOUCH_EXTRA_BYTES: Final = 2 * 10**9

Check = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Bench:
    """What the rows share.

    Args:
        work: Directory for checkpoints and outputs.
        say: Called with a line before something that takes time.
        moe: Sizes of the checkpoint that is converted and loaded.
        dense: Sizes of the model that is loaded without a conversion.
        deepseek: Sizes of the model that is planned.
        small: Numbers of small tensors.
        huge_rows: Rows of the huge matrix; it has their square in bytes.
        layers_factor: How many times as large the large checkpoint is.
        touch_extra_bytes: Memory to touch before each clock, beyond what the run needs.
        shard_bytes: Most bytes of tensors in one file.
        warm_ups: Rounds that do not count, before those that do.
        start: Runs this interpreter with arguments, and measures it.
        runs: Every measured process, in order; warm-ups included.
    """

    work: Path
    say: Callable[[str], None] = print
    moe: Moe = field(default_factory=Moe)
    dense: Dense = field(default_factory=Dense)
    deepseek: DeepSeek = field(default_factory=DeepSeek)
    small: Small = field(default_factory=Small)
    huge_rows: int = 2**16
    layers_factor: int = 4
    touch_extra_bytes: int = TOUCH_EXTRA_BYTES
    shard_bytes: int = SHARD_BYTES
    warm_ups: int = 1
    start: Callable[..., Run] = run_python
    runs: list[Run] = field(default_factory=list)

    def python(self, *arguments: str | Path) -> Run:
        """Run this interpreter and keep the record."""
        self.runs.append(self.start(*arguments))
        return self.runs[-1]

    def check(self, action: str, *arguments: str | Path) -> None:
        """Run a check of `bench.child`, which fails if results differ."""
        self.python("-m", "bench.child", action, *arguments)

    def timed(self, action: str, needed_bytes: int, *arguments: str | Path) -> Run:
        """Run an action of `bench.child` that keeps a clock.

        Args:
            action: Its name; or that of a module of its own, such as `bench.first`.
            needed_bytes: Memory that it will use; pages of files that it writes are memory, too.
            arguments: Its other arguments.
        """
        touch_bytes = needed_bytes + self.touch_extra_bytes
        module = (action,) if action.startswith("bench.") else ("bench.child", action)
        return self.python("-m", *module, str(touch_bytes), *arguments)

    def need_room(self, size_bytes: int) -> None:
        """Refuse to start where the disk has no room for what a row writes.

        Raises:
            RunFailedError: With both sizes.
        """
        free = shutil.disk_usage(self.work).free
        if free < size_bytes:
            text = (
                f"{self.work} has {free / 1e9:.1f} GB free, {size_bytes / 1e9:.1f} GB are needed; --work names another"
            )
            raise RunFailedError(text)

    def clear(self) -> None:
        """Remove what a row left, but for the checkpoint that several rows read."""
        for path in self.work.iterdir():
            if path.name != "moe":
                discard(path)

    def checkpoint(self, name: str, sizes: Sizes, *, room: float = 3) -> Path:
        """Write a checkpoint under a name, unless an earlier row did.

        Args:
            name: Its directory.
            sizes: The model's sizes.
            room: Free disk that the row needs, its outputs included, as a multiple of the checkpoint.
        """
        place, size_bytes = self.work / name, header_of(sizes).size_bytes
        self.need_room(int(size_bytes * (room - place.exists())))
        if not place.exists():
            self.say(f"writing a checkpoint of {size_bytes / 1e9:.1f} GB")
            write_checkpoint(place, sizes, self.shard_bytes)
            os.sync()
        return place


class Side(NamedTuple):
    """One side of a comparison.

    Args:
        name: What it is called in the table.
        action: Action of `bench.child`.
        arguments: Its arguments, after the bytes to touch.
        needed_bytes: Memory that it will use.
        reads: What it reads: in the page cache when it starts.
        output: What it writes, removed after each run.
        check: Looks at the output of the first round.
    """

    name: str
    action: str
    arguments: tuple[str | Path, ...]
    needed_bytes: int
    reads: Path | None = None
    output: Path | None = None
    check: Check | None = None


def take_turns(bench: Bench, sides: Iterable[Side], rounds: int = ROUNDS) -> dict[str, list[Run]]:
    """Run each side once in every round, beginning with another side each time; a warm-up round does not count.

    What a side wrote is looked at in the first round. Before each run earlier writes are finished, and the files it
    reads are in the page cache.
    """
    waiting = list(sides)
    runs: dict[str, list[Run]] = {side.name: [] for side in waiting}
    for number in range(bench.warm_ups + rounds):
        for side in waiting:
            run = _run_side(bench, side, is_first=number == 0)
            if number >= bench.warm_ups:
                runs[side.name].append(run)
        waiting.append(waiting.pop(0))
    return runs


def take_once(bench: Bench, side: Side) -> Run:
    """Run a side once, look at its output, and let the run count: for figures that do not depend on a warm-up."""
    return _run_side(bench, side, is_first=True)


def _run_side(bench: Bench, side: Side, *, is_first: bool) -> Run:
    os.sync()
    warm([] if side.reads is None else [side.reads])
    run = bench.timed(side.action, side.needed_bytes, *side.arguments)
    if is_first and side.check is not None:
        side.check()
    if side.output is not None:
        discard(side.output)
    return run


def times(name: str, runs: Iterable[Run], *, part: int = 0, is_ours: bool = False) -> Figure:
    """Make the figure of a side's seconds.

    Args:
        name: Its name in the table.
        runs: The runs that count.
        part: Which of the parts of the work to take, from the start to its end.
        is_ours: Whether weighbridge did the work.
    """
    return Figure(name, "s", tuple(run.seconds[part] for run in runs), is_ours=is_ours)


def against(figure: Figure, *others: tuple[Figure, float | None]) -> Figure:
    """Put a figure beside others, each with the limit of the ratio, if there is one."""
    comparisons: tuple[Comparison, ...] = tuple(beside(figure.values, other, limit) for other, limit in others)
    return replace(figure, comparisons=comparisons)


def memory(
    name: str,
    runs: Iterable[Run],
    *,
    limit_mb: float | None = None,
    extra_mb: float | None = None,
    is_ours: bool = False,
) -> list[Figure]:
    """Make the figures of a side's anonymous memory: its peak, and that above what was there before the clock.

    Args:
        name: Name of the side.
        runs: The runs that count.
        limit_mb: What the peak may be at most.
        extra_mb: What the part above the start may be at most.
        is_ours: Whether weighbridge did the work.
    """
    listed = list(runs)
    peaks = tuple(run.peak_anonymous_bytes / 1e6 for run in listed if run.peak_anonymous_bytes is not None)
    extras = tuple(run.extra_bytes / 1e6 for run in listed if run.extra_bytes is not None)
    if not peaks or not extras:
        return []
    return [
        Figure(f"{name}: peak memory", "MB", peaks, limit_mb, is_ours=is_ours),
        Figure(f"{name}: memory added", "MB", extras, extra_mb, is_ours=is_ours),
    ]


def agree(wrong: Iterable[str], what: str) -> None:
    """Fail the row if anything is wrong.

    Raises:
        RunFailedError: With the number of wrong things and the first of them.
    """
    listed = list(wrong)
    if listed:
        raise RunFailedError(f"{len(listed)} {what}, such as {listed[0]}")
