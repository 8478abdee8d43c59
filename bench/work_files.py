"""What measured processes do with files: copies, bare reads and writes, and conversions from file to file."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import weighbridge as wb
from bench.checkpoints import write_file
from bench.clock import run_timed, touch, warm
from bench.inventories import moe_mapping
from bench.quantised import values_of

SHARD_SIZE: Final = "1GB"
PIECE_BYTES: Final = 2**24
READERS: Final = 2


Step = Callable[[Path, Path], Path]
"""What makes a checkpoint of another one."""


def rename(source: Path, destination: Path, **options: Any) -> Path:
    """Convert what `import_all` begins with."""
    return wb.convert(source, destination, [wb.WeightRenaming("^a", "b")], **options)


def import_all(*steps: Step) -> None:
    """Do the same with four bytes, so that what is imported on the way is there before a clock starts.

    Args:
        steps: What is done; each reads what the one before has made, and the first one a safetensors file.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "0")
        write_file(place / "model.safetensors", wb.Header({"a.weight": wb.TensorSpec("U8", (4,))}))
        for number, step in enumerate(steps, 1):
            place = step(place, Path(folder, str(number)))


def convert(touch_bytes: int, source: str, destination: str) -> None:
    import_all(rename)

    def work() -> Path:
        return wb.convert(source, destination, moe_mapping(), max_shard_size=SHARD_SIZE)

    run_timed(work, touch_bytes=touch_bytes, reads=[Path(source)])


def convert_in_processes(touch_bytes: int, source: str, destination: str, count: str) -> None:
    """Convert in so many processes that share the output, or in one alone, and print their processor seconds."""

    def work(part: tuple[int, int] | None) -> None:
        wb.convert(source, destination, moe_mapping(), max_shard_size=SHARD_SIZE, part=part)

    import_all(rename, partial(wb.convert, part=(0, 1)))
    touch(touch_bytes)
    warm([Path(source)])
    parts = [(number, int(count)) for number in range(int(count))] if int(count) > 1 else [None]
    running = [_fork(partial(work, part)) for part in parts]
    ended = [os.wait4(pid, 0) for pid in running]
    if any(status for _, status, _ in ended):
        raise SystemExit("a process failed")
    print(json.dumps([sum(usage.ru_utime + usage.ru_stime for _, _, usage in ended)]), flush=True)


def _fork(work: Callable[[], None]) -> int:
    """Do some work in a process of its own, which has imported already what this one has."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def revert(touch_bytes: int, source: str, destination: str) -> None:
    import_all(rename, wb.revert)
    run_timed(lambda: wb.revert(source, destination), touch_bytes=touch_bytes, reads=[Path(source)])


def convert_huge(touch_bytes: int, source: str, destination: str, kind: str, budget_bytes: str) -> None:
    """Convert one matrix under a new name, as it is or transposed, within a memory budget."""
    import torch  # noqa: F401 - what the transposition computes with is set-up

    rules: dict[str, wb.WeightRenaming | wb.WeightConverter] = {
        "renamed": wb.WeightRenaming("weight", "renamed"),
        "transposed": wb.WeightConverter("weight", "transposed", [wb.Transpose(0, 1)]),
    }

    def work() -> Path:
        return wb.convert(source, destination, [rules[kind]], max_shard_size=None, memory_budget=int(budget_bytes))

    run_timed(work, touch_bytes=touch_bytes, reads=[Path(source)])


def dequantise(touch_bytes: int, source: str, destination: str, budget_mb: str) -> None:
    """Convert a quantised checkpoint to BF16 within a memory budget."""
    import torch  # noqa: F401 - as above

    def work() -> Path:
        return wb.convert(
            source, destination, dtype="bfloat16", sync=False, max_shard_size=SHARD_SIZE, memory_budget=f"{budget_mb}MB"
        )

    run_timed(work, touch_bytes=touch_bytes, reads=[Path(source)])


def dequantise_plainly(touch_bytes: int, source: str, destination: str) -> None:
    """Do the same file by file, with the safetensors library and torch."""
    from safetensors.torch import load_file, save_file

    def work() -> None:
        Path(destination).mkdir()
        for path in _files(source):
            save_file(dict(values_of(load_file(path))), Path(destination) / path.name, metadata={"format": "pt"})

    run_timed(work, touch_bytes=touch_bytes, reads=[Path(source)])


def copy(touch_bytes: int, source: str, destination: str, sync: str) -> None:
    """Copy a directory by `cp -r`, then `sync` if asked for."""
    script = 'cp -r "$0" "$1"' + (" && sync" if sync == "1" else "")

    def work() -> None:
        subprocess.run(["sh", "-c", script, source, destination], check=True)

    run_timed(work, touch_bytes=touch_bytes, reads=[Path(source)])


def read(touch_bytes: int, source: str) -> None:
    """Read the checkpoint's files into memory with two threads, and do nothing else: one copy of each byte."""
    run_timed(lambda: _read_files(_files(source)), touch_bytes=touch_bytes, reads=_files(source))


def write(touch_bytes: int, source: str, destination: str, forced: str) -> None:
    """Write the bytes of a checkpoint's files, which are in memory, in a plain loop; force them to the disk if asked.

    Forced or not, the files have the names and sizes that they have in the source.
    """
    held = _read_files(_files(source))

    def work() -> None:
        Path(destination).mkdir()
        for path, memory in held.items():
            _write_file(Path(destination) / path.name, memory, is_forced=forced == "1")

    run_timed(work, touch_bytes=touch_bytes)


def _files(source: str) -> list[Path]:
    return sorted(Path(source).glob("*.safetensors"))


def _read_files(paths: list[Path]) -> dict[Path, mmap.mmap]:
    """Read files in pieces into fresh anonymous memory."""
    held = {path: mmap.mmap(-1, path.stat().st_size) for path in paths}
    descriptors = {path: os.open(path, os.O_RDONLY) for path in paths}
    pieces = _pieces(held)
    lock = threading.Lock()

    def read_pieces() -> None:
        while True:
            with lock:
                path, start, stop = next(pieces, (None, 0, 0))
            if path is None:
                return
            view = memoryview(held[path])
            while start < stop:
                start += os.preadv(descriptors[path], [view[start:stop]], start)

    threads = [threading.Thread(target=read_pieces) for _ in range(READERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for descriptor in descriptors.values():
        os.close(descriptor)
    return held


def _pieces(held: dict[Path, mmap.mmap]) -> Iterator[tuple[Path, int, int]]:
    for path, memory in held.items():
        for start in range(0, len(memory), PIECE_BYTES):
            yield path, start, min(start + PIECE_BYTES, len(memory))


def _write_file(path: Path, memory: mmap.mmap, *, is_forced: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    view = memoryview(memory)
    position = 0
    while position < len(memory):
        position += os.write(descriptor, view[position : position + PIECE_BYTES])
    if is_forced:
        os.fsync(descriptor)
    os.close(descriptor)
