"""Measure whole processes from outside, and put the numbers together.

Each measured process is a fresh one. Its memory is read from the kernel's account of it every few milliseconds, its
wall time is taken around it. Nothing inside the process takes part, except where a child times one call of its own and
prints the seconds.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[1]
SAMPLE_EVERY_S: Final = 0.01
MAX_RUN_S: Final = 300
_ANONYMOUS: Final = re.compile(rb"^Rss(?:Anon|Shmem):\s+(\d+) kB$", re.MULTILINE)


class Run(NamedTuple):
    """One finished process.

    `peak_anonymous_bytes` is the most of resident memory without a file behind it (anonymous and shared) that a sample
    saw, None where the system does not tell; `peak_resident_bytes` is the kernel's own peak, pages of mapped files
    included.
    """

    command: tuple[str, ...]
    wall_s: float
    cpu_s: float
    peak_anonymous_bytes: int | None
    peak_resident_bytes: int
    samples: int
    output: str


class RunFailedError(Exception):
    """A measured process failed, ran too long, or gave a wrong result."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number with all of its runs.

    Args:
        name: What was measured.
        unit: Unit of the values, ``"s"``, ``"ms"`` or ``"MB"`` (10**6 bytes).
        values: One for each run, in order.
        limit: What it may be at most; the median is held against it, or the largest value for memory.
        beside: Name of the figure that it was alternated with, if any.
        ratios: Each run's value over the other figure's value in the same round.
        ratio_limit: What the median ratio may be at most.
    """

    name: str
    unit: str
    values: tuple[float, ...]
    limit: float | None = None
    beside: str = ""
    ratios: tuple[float, ...] = field(default=())
    ratio_limit: float | None = None

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    @property
    def ratio(self) -> float | None:
        """The middle ratio; None without another figure."""
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def is_within(self) -> bool:
        """Whether the figure keeps its limits."""
        judged = max(self.values) if self.unit == "MB" else self.median
        in_time = self.limit is None or judged <= self.limit
        return in_time and (self.ratio is None or self.ratio_limit is None or self.ratio <= self.ratio_limit)


def divide(values: Sequence[float], others: Sequence[float]) -> tuple[float, ...]:
    """Return the ratio of each round."""
    return tuple(value / other for value, other in zip(values, others, strict=True))


def run_process(command: Sequence[str | Path], *, max_run_s: float = MAX_RUN_S) -> Run:
    """Run a command to its end and measure it from outside.

    Args:
        command: Program and arguments; it runs in the project's directory.
        max_run_s: Time after which the process is killed, in seconds.

    Raises:
        RunFailedError: With the end of the output, if the exit status is not 0.
    """
    words = tuple(str(word) for word in command)
    with tempfile.TemporaryFile() as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            words, cwd=ROOT, env=child_environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        watch = _Watch(process.pid, start + max_run_s)
        try:
            _, status, usage = os.wait4(process.pid, 0)
            wall_s = time.perf_counter() - start
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            watch.stop()
            if process.returncode is None:
                process.kill()
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
        usage.ru_maxrss * kernel_unit,
        watch.samples,
        text,
    )


def run_python(*arguments: str | Path) -> Run:
    """Run this interpreter with arguments and measure it."""
    return run_process([sys.executable, *arguments])


def child_environment() -> dict[str, str]:
    """Return the environment of measured processes: this one, with bytecode caches as an installed package has them."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def anonymous_bytes(pid: int) -> int | None:
    """Return the resident memory of a process that no file stands behind; None if it is gone or the system is mute."""
    try:
        found = _ANONYMOUS.findall(Path(f"/proc/{pid}/status").read_bytes())
    except OSError:
        return None
    return sum(int(kib) for kib in found) * 1024 if found else None


class _Watch:
    """A thread that samples a process's memory until it is stopped, and ends the process at a deadline."""

    def __init__(self, pid: int, deadline: float) -> None:
        self.pid = pid
        self.deadline = deadline
        self.peak_bytes: int | None = None
        self.samples = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while True:
            now = anonymous_bytes(self.pid)
            if now is not None:
                self.peak_bytes = max(now, self.peak_bytes or 0)
                self.samples += 1
            if self._stopped.wait(SAMPLE_EVERY_S):
                return
            if time.perf_counter() > self.deadline:
                os.kill(self.pid, 9)
                return

    def stop(self) -> None:
        """Stop sampling."""
        self._stopped.set()
        self._thread.join()
