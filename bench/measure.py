"""Measure processes from outside, and put the numbers together.

Each measured process is a fresh one. Its memory is read from the kernel's account of it every few milliseconds, its
wall time is taken around it. A child that keeps a clock of its own (`bench.clock`) says when that starts and stops, and
prints the seconds; its memory counts only in between.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from bench.clock import CLOCK_VARIABLE, anonymous_bytes

ROOT: Final = Path(__file__).parents[1]
SAMPLE_EVERY_S: Final = 0.005
MAX_RUN_S: Final = 600


class Run(NamedTuple):
    """One finished process.

    `peak_anonymous_bytes` is the most of resident memory without a file behind it (anonymous and shared) that a sample
    saw, from the start of the child's clock to its stop if it keeps one; None where the system does not tell.
    `baseline_bytes` is the same memory at the start of the clock. `peak_resident_bytes` is the kernel's own peak over
    the whole life of the process, pages of mapped files included.
    """

    command: tuple[str, ...]
    wall_s: float
    cpu_s: float
    peak_anonymous_bytes: int | None
    baseline_bytes: int | None
    peak_resident_bytes: int
    samples: int
    output: str

    @property
    def seconds(self) -> list[float]:
        """What a child with a clock printed last: seconds from the start to the end of each part of its work."""
        found: list[float] = json.loads(self.output.splitlines()[-1])
        return found

    @property
    def extra_bytes(self) -> int | None:
        """The peak above what was there when the clock started."""
        if self.peak_anonymous_bytes is None or self.baseline_bytes is None:
            return None
        return self.peak_anonymous_bytes - self.baseline_bytes


class RunFailedError(Exception):
    """A measured process failed, ran too long, or gave a wrong result."""


class Comparison(NamedTuple):
    """A figure's value over another figure's value, in each round.

    `limit` is what the median ratio may be at most; None to state the ratio without judging it.
    """

    other: str
    ratios: tuple[float, ...]
    limit: float | None = None

    @property
    def ratio(self) -> float:
        """The middle ratio."""
        return statistics.median(self.ratios)

    @property
    def is_within(self) -> bool:
        """Whether the ratio keeps its limit."""
        return self.limit is None or self.ratio <= self.limit


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number with all of its runs.

    Args:
        name: What was measured.
        unit: Unit of the values, ``"s"``, ``"ms"`` or ``"MB"`` (10**6 bytes).
        values: One for each run, in order.
        limit: What it may be at most; the median is held against it, or the largest value for memory.
        comparisons: The same rounds beside other figures.
        is_ours: Whether weighbridge did the work; others are there to be compared with.
        row: Name of the row that it belongs to.
    """

    name: str
    unit: str
    values: tuple[float, ...]
    limit: float | None = None
    comparisons: tuple[Comparison, ...] = field(default=())
    is_ours: bool = True
    row: str = ""

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    @property
    def is_within_limit(self) -> bool:
        """Whether the value itself keeps its limit."""
        judged = max(self.values) if self.unit == "MB" else self.median
        return self.limit is None or judged <= self.limit

    @property
    def is_within(self) -> bool:
        """Whether the figure keeps all of its limits."""
        return self.is_within_limit and all(comparison.is_within for comparison in self.comparisons)


def divide(values: Sequence[float], others: Sequence[float]) -> tuple[float, ...]:
    """Return the ratio of each round."""
    return tuple(value / other for value, other in zip(values, others, strict=True))


def beside(values: Sequence[float], other: Figure, limit: float | None = None) -> Comparison:
    """Compare values with those of another figure, round by round."""
    return Comparison(other.name, divide(values, other.values), limit)


def run_process(command: Sequence[str | Path], *, max_run_s: float = MAX_RUN_S) -> Run:
    """Run a command to its end and measure it from outside.

    Whatever it started is ended with it, also when this process is interrupted.

    Args:
        command: Program and arguments; it runs in the project's directory.
        max_run_s: Time after which the process is killed, in seconds.

    Raises:
        RunFailedError: With the end of the output, if the exit status is not 0.
    """
    words = tuple(str(word) for word in command)
    hearing, speaking = os.pipe()
    with tempfile.TemporaryFile() as output, os.fdopen(hearing, "rb", buffering=0) as marks:
        start = time.perf_counter()
        try:
            process = subprocess.Popen(
                words,
                cwd=ROOT,
                env=child_environment() | {CLOCK_VARIABLE: str(speaking)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(speaking,),
                start_new_session=True,
            )
        finally:
            os.close(speaking)
        watch = _Watch(process.pid, marks.fileno(), start + max_run_s)
        try:
            _, status, usage = os.wait4(process.pid, 0)
            wall_s = time.perf_counter() - start
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            watch.stop()
            if process.returncode is None:
                _end(process.pid)
                process.wait()
        output.seek(0)
        text = output.read().decode(errors="replace")
    if process.returncode != 0:
        raise RunFailedError(f"{' '.join(words)}: exit status {process.returncode}\n{text[-2000:].rstrip()}")
    kernel_unit = 1 if sys.platform == "darwin" else 1024
    return Run(
        words,
        wall_s,
        usage.ru_utime + usage.ru_stime,
        watch.peak_bytes,
        watch.baseline_bytes,
        usage.ru_maxrss * kernel_unit,
        watch.samples,
        text,
    )


def _end(group: int) -> None:
    """Kill a process and all that it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def run_python(*arguments: str | Path) -> Run:
    """Run this interpreter with arguments and measure it."""
    return run_process([sys.executable, *arguments])


def child_environment() -> dict[str, str]:
    """Return the environment of measured processes.

    It is this one, with bytecode caches as an installed package has them, and without looking for anything on a hub.
    """
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"HF_HUB_OFFLINE": "1"}


class _Watch:
    """A thread that samples a process's memory until it is stopped, and ends the process at a deadline.

    A `start` on the pipe forgets what was sampled before it, a `stop` ends the counting; each comes with the memory of
    its moment. A sample that a mark may have overtaken does not count.
    """

    def __init__(self, pid: int, marks: int, deadline: float) -> None:
        self.pid = pid
        self.marks = marks
        self.deadline = deadline
        self.peak_bytes: int | None = None
        self.baseline_bytes: int | None = None
        self.samples = 0
        self._heard = b""
        self._is_over = False
        self._stopped = threading.Event()
        os.set_blocking(marks, False)
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._stopped.wait(SAMPLE_EVERY_S if self.samples else 0):
            if time.perf_counter() > self.deadline:
                _end(self.pid)
                return
            self._listen()
            now = None if self._is_over else anonymous_bytes(self.pid)
            if now is not None and not self._listen():
                self.peak_bytes = max(now, self.peak_bytes or 0)
                self.samples += 1
            elif now is None:
                self._stopped.wait(SAMPLE_EVERY_S)

    def _listen(self) -> bool:
        """Act on the marks that came; tell whether there was one."""
        with suppress(BlockingIOError):
            self._heard += os.read(self.marks, 4096) or b""
        *lines, self._heard = self._heard.split(b"\n")
        for line in lines:
            mark, _, size = line.partition(b" ")
            now = int(size)
            if mark == b"start":
                self.baseline_bytes = self.peak_bytes = now
                self.samples = 0
            else:
                self.peak_bytes = max(now, self.peak_bytes or 0)
                self._is_over = True
        return bool(lines)

    def stop(self) -> None:
        """Stop sampling, after what was said last."""
        self._stopped.set()
        self._thread.join()
        self._listen()
