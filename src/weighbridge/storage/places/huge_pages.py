"""Huge pages for fresh memory: whether to ask for them is measured, as no rule holds everywhere.

The first touch of a page costs a fault and the zeroing of it, and a huge page costs one fault for 512 small ones. On a
virtual machine a fresh page may be fresh for its host as well, which then has to find two megabytes in one piece: that
can take longer than all that is saved. So the first process that wants much memory touches some of it both ways.

`WEIGHBRIDGE_HUGE_PAGES` decides without measuring: ``on``, ``off``, or ``auto``.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Final

from weighbridge.base.errors import WeighbridgeError
from weighbridge.base.process.context_values import set_to
from weighbridge.base.process.process_locks import ProcessLock

_LOG: Final = logging.getLogger(__name__)

VARIABLE: Final = "WEIGHBRIDGE_HUGE_PAGES"
CHOICES: Final = ("auto", "on", "off")

MUCH_BYTES: Final = 128 * 2**20
"""How much memory a process asks for before it is worth measuring; until then it asks for no huge pages."""

TRIED_BYTES: Final = 4 * 2**20
TRIES: Final = 3

GAIN: Final = 0.8
"""Huge pages are used if they take at most this part of the time that small ones take."""

GAIN_AMONG_SEVERAL: Final = 0.5
"""The same where several processes of one run share the machine, and all want huge pages at once."""

_PAGE_BYTES: Final = 2 * 2**20
_MADV_HUGEPAGE: Final = 14
_POLICY: Final = Path("/sys/kernel/mm/transparent_hugepage/enabled")


class _Process:
    """What this process has found out."""

    def __init__(self) -> None:
        self.lock = ProcessLock()
        self.asked_bytes = 0
        self.is_faster: bool | None = None


_process = _Process()
_chosen: ContextVar[str] = ContextVar("weighbridge_huge_pages", default="")


@contextmanager
def decided(choice: str | None) -> Iterator[None]:
    """Decide for the memory that is asked for in this block, by this thread; None leaves it to the variable.

    Raises:
        WeighbridgeError: `usage` for what is none of `CHOICES`.
    """
    _check(choice or "auto", "huge_pages=")
    with set_to(_chosen, choice or ""):
        yield


def _check(choice: str, where: str) -> None:
    if choice not in CHOICES:
        what = "there is no such choice about huge pages"
        raise WeighbridgeError("usage", what, where=where, expected=", ".join(CHOICES), got=repr(choice)[:80])


def advise_huge(address: int, size_bytes: int) -> None:
    """Ask the kernel to back fresh memory with huge pages, where that was found to be faster; else do nothing.

    Args:
        address: Where the memory begins.
        size_bytes: Its length; only whole huge pages within it are asked for.

    Raises:
        WeighbridgeError: `usage` for a variable that is none of `CHOICES`.
    """
    if _is_wanted(size_bytes):
        _advise(address, size_bytes)


def _is_wanted(size_bytes: int) -> bool:
    choice = _chosen.get()
    if not choice:
        choice = os.environ.get(VARIABLE, "") or "auto"
        _check(choice, VARIABLE)
    if choice != "auto":
        return choice == "on"
    with _process.lock:
        _process.asked_bytes += size_bytes
        if _process.is_faster is None and _process.asked_bytes >= MUCH_BYTES:
            _process.is_faster = _find_out()
        return bool(_process.is_faster)


def _find_out() -> bool:
    """Measure both ways, where the kernel leaves the choice to us."""
    if _madvise is None or "[madvise]" not in _policy():
        return False
    seconds = measure()
    processes = _count_processes()
    is_faster = is_worth_it(*seconds, processes=processes)
    _LOG.info(
        "huge pages %s: %d MiB took %.1f ms with them and %.1f ms without%s; %s=on or off decides otherwise",
        "on" if is_faster else "off",
        TRIES * TRIED_BYTES // 2**20,
        1000 * seconds[0],
        1000 * seconds[1],
        f", and {processes} processes share this machine" if processes > 1 else "",
        VARIABLE,
    )
    return is_faster


def _policy() -> str:
    try:
        return _POLICY.read_text()
    except OSError:
        return ""


def _count_processes() -> int:
    """Return how many processes of one run there are on this machine, as launchers of torch say it."""
    said = os.environ.get("LOCAL_WORLD_SIZE", "")
    return int(said) if said.isdecimal() and len(said) < 8 else 1


def is_worth_it(huge_s: float, small_s: float, *, processes: int = 1) -> bool:
    """Tell whether huge pages are to be used, by how long the same memory took with them and without.

    Examples:
        >>> is_worth_it(0.5, 1.0), is_worth_it(0.7, 1.0, processes=2), is_worth_it(1.0, 1.0)
        (True, False, False)
    """
    return huge_s <= small_s * (GAIN if processes == 1 else GAIN_AMONG_SEVERAL)


def measure() -> tuple[float, float]:
    """Touch fresh memory with huge pages and without, in turn, and return the seconds of either.

    All of it is held to the end: what is given back is no longer fresh when it comes again.
    """
    size_bytes = TRIED_BYTES + _PAGE_BYTES  # whole huge pages lie somewhere within
    held = [mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in range(2 * TRIES)]
    seconds = [0.0, 0.0]
    try:
        for number, memory in enumerate(held):
            address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
            start = -(-address // _PAGE_BYTES) * _PAGE_BYTES
            before = time.thread_time()  # others on a busy machine have no part in it
            if number % 2 == 0:
                _advise(start, TRIED_BYTES)
            ctypes.memset(start, 0, TRIED_BYTES)
            seconds[number % 2] += time.thread_time() - before
    finally:
        for memory in held:
            memory.close()
    return seconds[0], seconds[1]


def _advise(address: int, size_bytes: int) -> None:
    start = -(-address // _PAGE_BYTES) * _PAGE_BYTES
    stop = (address + size_bytes) // _PAGE_BYTES * _PAGE_BYTES
    if stop > start and _madvise is not None:
        # Advice that is refused changes nothing but speed.
        _madvise(start, stop - start, _MADV_HUGEPAGE)


def _find_madvise() -> ctypes._FuncPointer | None:
    if sys.platform != "linux":
        return None
    function = ctypes.CDLL(None).madvise
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    function.restype = ctypes.c_int
    return function


_madvise = _find_madvise()
