"""Convert 3.4 GB from store to store, kill the run, go on with it, and say what it took: run by hand, once.

    python -m bench.store_to_store DIRECTORY

writes the checkpoint below the directory, where the server keeps its objects; the conversion itself runs in processes
whose temporary directory, and whose working directory, are watched: they may hold 300 MB, and hold nothing. All of the
process's anonymous memory, the interpreter's among it, must be within what the plan predicts for its buffers alone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import weighbridge as wb
from bench.checkpoints import write_checkpoint
from bench.inventories import Moe, header_of, moe_mapping
from bench.work_remote import PLACE, served
from weighbridge.reporting.costs import cost

SHARD_BYTES = 10**9
DISK_BYTES = 300 * 10**6
KILL_AFTER = 2
"""How many weight files are there when the run is killed."""

_CODE = """
import sys
import weighbridge as wb
from bench.inventories import moe_mapping
from bench.work_remote import PLACE

wb.convert(PLACE + "/model", PLACE + "/fused", moe_mapping(), max_shard_size="500MB", resume=True)
"""


def main(directory: str) -> None:
    """Write, convert, kill, go on, compare."""
    objects, sizes = Path(directory), Moe()
    if not (objects / "model").exists():
        write_checkpoint(objects / "model", sizes, SHARD_BYTES)
    with served(directory, "0"), tempfile.TemporaryDirectory() as own:
        first = _start(own)
        while len(list((objects / "fused").glob("*.safetensors"))) < KILL_AFTER:
            time.sleep(0.05)
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        there = sorted(path.name for path in (objects / "fused").iterdir())
        print(f"killed with {there}", flush=True)
        begun = time.monotonic()
        peak_bytes, disk_bytes = _watch(_start(own), Path(own))
        print(f"went on for {time.monotonic() - begun:.1f} s, {header_of(sizes).size_bytes / 1e9:.2f} GB in all")
        predicted_bytes = cost(wb.plan(objects / "model", moe_mapping())).buffer_bytes
        print(f"anonymous memory at most {peak_bytes / 1e6:.0f} MB, {predicted_bytes / 1e6:.0f} MB are predicted")
        print(f"disk at most {disk_bytes / 1e6:.0f} MB")
        assert peak_bytes <= predicted_bytes, "more memory than the plan predicts"
        assert disk_bytes <= DISK_BYTES, "more of the disk than is allowed"
        local = wb.convert(objects / "model", Path(directory).with_name("local"), moe_mapping(), max_shard_size="500MB")
        print(wb.verify(PLACE + "/fused", local))
        for path in sorted(Path(local).glob("model*")):
            assert path.read_bytes() == (objects / "fused" / path.name).read_bytes(), path.name
        print("all weights and the index are those of a local run, byte for byte")


def _start(own: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {"TMPDIR": own, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])}
    return subprocess.Popen([sys.executable, "-c", _CODE], env=environment, cwd=own)


def _watch(process: subprocess.Popen[bytes], own: Path) -> tuple[int, int]:
    """Return the most anonymous memory that a process had, and the most that lay in its directory."""
    from bench.clock import anonymous_bytes

    peak_bytes = disk_bytes = 0
    while process.poll() is None:
        peak_bytes = max(peak_bytes, anonymous_bytes(process.pid) or 0)
        disk_bytes = max(disk_bytes, sum(path.stat().st_size for path in own.rglob("*") if path.is_file()))
        time.sleep(0.05)
    assert process.returncode == 0
    return peak_bytes, disk_bytes


if __name__ == "__main__":
    main(*sys.argv[1:])
