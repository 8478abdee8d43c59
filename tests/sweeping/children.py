"""Run a function on one thing after the other, each in a child process with a time and a memory limit.

What is imported before stands ready in every child. One that hangs, crashes or swells is an outcome, and the next one
runs all the same.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import select
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

SECONDS: Final = 120.0
MEMORY_BYTES: Final = 16 * 2**30
"""Address space, most of which is never touched."""


@dataclass(slots=True)
class Child:
    """A child that works on one thing, and what it has said so far."""

    item: Any
    pid: int
    pipe: int
    stop: float
    said: bytes = b""


def run_each(
    items: Iterable[Any], work: Callable[[Any], Any], *, jobs: int = 1, seconds: float = SECONDS
) -> Iterator[tuple[Any, Any]]:
    """Yield each thing with what the function gives for it, or with a text that says how the child ended.

    Args:
        items: The things.
        work: Gives what can be written as JSON.
        jobs: How many children run at a time.
        seconds: How long each may take.
    """
    running: list[Child] = []
    try:
        for item in items:
            running.append(_start(item, work, seconds))
            while len(running) >= jobs:
                yield from _wait(running)
        while running:
            yield from _wait(running)
    finally:
        for child in running:
            _end(child, kill=True)


def _start(item: Any, work: Callable[[Any], Any], seconds: float) -> Child:
    gc.freeze()  # a child that collects must not touch, and so copy, what it shares
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(read)
        _run_child(item, work, write)
    os.close(write)
    return Child(item, pid, read, time.monotonic() + seconds)


def _run_child(item: Any, work: Callable[[Any], Any], write: int) -> None:
    """Work, say what came of it, and never return."""
    status = 1
    try:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
        text = json.dumps(work(item)).encode()
        with os.fdopen(write, "wb") as pipe:
            pipe.write(text)
        status = 0
    except MemoryError:
        status = 9
    finally:
        os._exit(status)


def _wait(running: list[Child]) -> Iterator[tuple[Any, Any]]:
    """Wait for the children to say something, or for the first to have taken too long; yield those that are done."""
    left = min(child.stop for child in running) - time.monotonic()
    ready, _, _ = select.select([child.pipe for child in running], [], [], max(left, 0))
    for child in list(running):
        heard = os.read(child.pipe, 1 << 16) if child.pipe in ready else None
        child.said += heard or b""
        if heard == b"" or time.monotonic() > child.stop:
            running.remove(child)
            yield child.item, _outcome(child, is_late=heard != b"")


def _outcome(child: Child, *, is_late: bool) -> Any:
    status = _end(child, kill=is_late)
    if is_late:
        return "hang"
    if os.WIFSIGNALED(status):
        return f"signal {os.WTERMSIG(status)}"
    code = os.WEXITSTATUS(status)
    return json.loads(child.said) if not code else "memory" if code == 9 else f"status {code}"


def _end(child: Child, *, kill: bool) -> int:
    """Let a child end, or end it, and return its status."""
    os.close(child.pipe)
    if kill:
        os.kill(child.pid, signal.SIGKILL)
    return os.waitpid(child.pid, 0)[1]
