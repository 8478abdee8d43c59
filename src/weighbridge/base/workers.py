"""Run many small pieces of work in several threads; all that is heavy in them lets other threads run."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from typing import Final

from weighbridge.base.process.collecting import with_collection

Task = Callable[[], None]

MAX_WORKERS: Final = 8
"""More threads than this do not read or copy faster than memory and disk allow."""


def count_workers(most: int = MAX_WORKERS) -> int:
    """Return how many threads to use: one for each core that this process may run on, within limits."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, most, MAX_WORKERS))


def run_all(tasks: Iterable[Task], workers: int) -> None:
    """Run tasks, begun in their order, as many at a time as there are workers; the calling thread is one of them.

    The first exception stops all that has not begun, and is raised when the others have ended; so is an interrupt. The
    garbage collector runs meanwhile, even where the caller keeps it off.

    Args:
        tasks: The tasks; drawn one at a time, never by two threads at once.
        workers: How many threads take part, at least 1.

    Examples:
        >>> done: list[int] = []
        >>> run_all([lambda: done.append(1), lambda: done.append(2)], 1)
        >>> done
        [1, 2]
    """
    with with_collection():
        _run_crew(_Crew(tasks), workers)


def call_after_run(release: Task) -> bool:
    """Have something called once when the tasks have ended that the current one is among; False outside of any task.

    Args:
        release: What to call, such as a method that lets go of what the tasks share.
    """
    crew: _Crew | None = getattr(_here, "crew", None)
    if crew is not None:
        crew.releases[release] = None
    return crew is not None


_here = threading.local()


def _run_crew(crew: _Crew, workers: int) -> None:
    threads = [threading.Thread(target=crew.work, name="weighbridge", daemon=True) for _ in range(workers - 1)]
    try:
        for thread in threads:
            thread.start()
        crew.work()
    except BaseException as problem:
        crew.stop(problem)
    _wait_for_all(threads, crew)
    for release in crew.releases:
        release()
    if crew.problem is not None:
        raise crew.problem


def _wait_for_all(threads: list[threading.Thread], crew: _Crew) -> None:
    """Wait for all threads, interrupts or not: what they write to must not be given up before they have ended."""
    while True:
        try:
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
            return
        except BaseException as problem:
            crew.stop(problem)


class _Crew:
    """Threads that share one queue of tasks."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self.problem: BaseException | None = None
        self.releases: dict[Task, None] = {}
        self._tasks = iter(tasks)
        self._lock = threading.Lock()

    def work(self) -> None:
        """Run tasks until there is none, or one has failed; the first problem is kept."""
        before, _here.crew = getattr(_here, "crew", None), self
        try:
            self._work()
        finally:
            _here.crew = before

    def _work(self) -> None:
        while self.problem is None:
            try:
                with self._lock:
                    task = next(self._tasks, None)
                if task is None:
                    return
                task()
            except BaseException as problem:
                self.stop(problem)

    def stop(self, problem: BaseException) -> None:
        """Let no further task begin. No lock is taken: an interrupt may have come while this thread held it."""
        self.problem = self.problem or problem


Progress = Callable[[int, int], None]
"""Called with the bytes done so far and the bytes in all."""


class Counter:
    """Count bytes that several threads have done, and tell whoever wants to know, one thread at a time.

    Args:
        total_bytes: The bytes in all.
        progress: Who wants to know.

    Examples:
        >>> counter = Counter(7, print)
        >>> counter.add(3)
        3 7
    """

    def __init__(self, total_bytes: int, progress: Progress | None) -> None:
        self.total_bytes = total_bytes
        self.done_bytes = 0
        self.progress = progress
        self._lock = threading.Lock()

    def add(self, size_bytes: int) -> None:
        """Add bytes that are done."""
        if self.progress is None or size_bytes == 0:
            return
        with self._lock:
            self.done_bytes += size_bytes
            self.progress(self.done_bytes, self.total_bytes)
