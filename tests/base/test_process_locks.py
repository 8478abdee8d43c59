"""A lock that another thread holds when a process forks is free in the new process."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

from weighbridge.base.process import collecting
from weighbridge.base.process.process_locks import ProcessLock
from weighbridge.storage.places import huge_pages

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
SECONDS = 20


def ends_when_forked(work: Callable[[], object]) -> bool:
    """Call `work` in a forked process, and tell whether it came back."""
    child = os.fork()
    if not child:
        work()
        os._exit(0)
    for _ in range(100 * SECONDS):
        if os.waitpid(child, os.WNOHANG)[0]:
            return True
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


@needs_fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("lock", "work"),
    [
        (collecting._collector._lock, lambda: collecting.without_collection().__enter__()),
        (huge_pages._process.lock, lambda: huge_pages.advise_huge(0, 0)),
    ],
)
def test_a_lock_that_another_thread_holds_is_free_in_a_fork(
    lock: ProcessLock, work: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(huge_pages.VARIABLE, "auto")
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        assert ends_when_forked(work)
        assert lock.is_held
    finally:
        done.set()
        thread.join()


def test_one_thread_holds_it_at_a_time() -> None:
    lock, counted = ProcessLock(), [0]

    def count() -> None:
        for _ in range(200):
            with lock:
                now = counted[0]
                time.sleep(0)
                counted[0] = now + 1

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted == [800]
