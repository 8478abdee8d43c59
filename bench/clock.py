"""Time work inside a measured process, on memory that the host has already given to the machine.

On a virtual machine the first touch of fresh memory is paid by the host, and costs more than the work itself. So more
memory than the work needs is written and given back right before the clock starts. What watches the process from
outside is told when the clock starts and stops, by lines on a pipe, and counts memory in between only.
"""

from __future__ import annotations

import gc
import json
import mmap
import os
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

CLOCK_VARIABLE: Final = "WEIGHBRIDGE_BENCH_CLOCK"
"""Environment variable with the number of the pipe's descriptor."""
STRIDE_BYTES: Final = 2**21
READ_BYTES: Final = 2**20
MAX_SHARE: Final = 0.6
"""Most of the available memory that is touched."""
_ANONYMOUS: Final = re.compile(rb"^Rss(?:Anon|Shmem):\s+(\d+) kB$", re.MULTILINE)


def anonymous_bytes(pid: int | str) -> int | None:
    """Return the resident memory of a process that no file stands behind; None if it is gone or the system is mute."""
    try:
        found = _ANONYMOUS.findall(Path(f"/proc/{pid}/status").read_bytes())
    except OSError:
        return None
    return sum(int(kib) for kib in found) * 1024 if found else None


def run_timed(*parts: Callable[[], Any], touch_bytes: int, reads: Iterable[Path] = ()) -> None:
    """Touch memory, start the clock, do the work, and print the seconds from the start to the end of each part.

    Args:
        parts: The work, in order; what it returns is kept until the clock has stopped.
        touch_bytes: Memory to write and give back before; less where less is available.
        reads: Files or directories that the work reads, to be in the page cache even if the touching took its room.
    """
    gc.collect()
    if not touch(touch_bytes):
        warm(reads)
    seconds, results = [], []
    _tell("start")
    start = time.perf_counter()
    for part in parts:
        results.append(part())
        seconds.append(time.perf_counter() - start)
    _tell("stop")
    print(json.dumps(seconds), flush=True)


def _tell(mark: str) -> None:
    """Write a mark and the anonymous memory of this moment to the pipe, where somebody listens."""
    descriptor, now = os.environ.get(CLOCK_VARIABLE), anonymous_bytes("self")
    if descriptor is not None and now is not None:
        os.write(int(descriptor), f"{mark} {now}\n".encode())


def touch(size_bytes: int) -> bool:
    """Write to every page of fresh anonymous memory and give it back; tell whether there was free memory for all of it.

    Where there was not, pages of files may have made room.
    """
    facts = _memory_facts()
    wanted = min(size_bytes, int(MAX_SHARE * facts["MemAvailable"])) if facts else size_bytes
    if wanted <= 0:
        return True
    filling = b"\x5a" * STRIDE_BYTES
    # Private, as a process's own memory is, and in huge pages where the kernel has them: their blocks are given out
    # again whole or in small pages, while small pages that are given back warm no huge one.
    with mmap.mmap(-1, wanted, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        if hasattr(mmap, "MADV_HUGEPAGE"):
            memory.madvise(mmap.MADV_HUGEPAGE)
        for position in range(0, wanted - STRIDE_BYTES + 1, STRIDE_BYTES):
            memory[position : position + STRIDE_BYTES] = filling
    return not facts or wanted < facts["MemFree"]


def _memory_facts() -> dict[str, int]:
    """Return the sizes of `/proc/meminfo` in bytes; nothing where the system has none."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return {}
    return {name: 1024 * int(kib) for name, kib in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}


def warm(places: Iterable[Path]) -> None:
    """Read files, or all files of directories, once, so that they are in the page cache."""
    buffer = bytearray(READ_BYTES)
    for place in places:
        for path in sorted(place.iterdir()) if place.is_dir() else [place]:
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass
