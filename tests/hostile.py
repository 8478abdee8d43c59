"""Run hostile inputs, each in a child process with 1 GB of address space and 10 seconds of its own.

A process that has imported weighbridge, and torch only where the input needs it, makes a child for each input, so that
a crash, a hang or a swollen memory ends that child alone.

    python tests/hostile.py                     serve: a line `KIND<tab>SEED<tab>CHANGES` in, a verdict as JSON out
    python tests/hostile.py "key names" 17      run one input here, without limits, to look at it
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from hostile_changes import Chance
from hostile_inputs import ATTACKS

import weighbridge as wb

MEMORY_BYTES = 10**9
SECONDS = 10
WAITED_SECONDS = 60
"""How long a child may take on a clock, for one that waits and does nothing: a busy machine makes nothing a hang."""


def serve(with_torch: bool) -> None:
    """Answer one line after the other."""
    if with_torch:
        import torch

        torch.set_num_threads(1)
    warm()
    for line in sys.stdin:
        kind, seed, changes = line.rstrip("\n").split("\t")
        print(json.dumps(judge(kind, int(seed), int(changes))), flush=True)


def warm() -> None:
    """Run a good input of each kind, so that every child has what is imported on the way; of those without threads."""
    for kind in (kind for kind, attack in ATTACKS.items() if not attack.with_torch):
        with tempfile.TemporaryDirectory() as folder:
            outcome(prepare(kind, 0, 0, Path(folder))[1])


def judge(kind: str, seed: int, changes: int) -> dict[str, Any]:
    """Run one input in a child, and say what became of it."""
    with tempfile.TemporaryFile("w+", errors="backslashreplace") as report:
        folder = Path(tempfile.mkdtemp(prefix="hostile-"))
        child = os.fork()
        if not child:
            _run_child(kind, seed, changes, folder, report)
        status, usage = _wait(child)
        subprocess.run(["rm", "-rf", folder], check=True)  # of what is nested too deep for Python
        report.seek(0)
        verdict = _read(report.read(), status)
    seconds = usage.ru_utime + usage.ru_stime  # of its own: a busy machine makes nothing slow
    return {**verdict, "seconds": round(seconds, 2), "peak_mb": usage.ru_maxrss // 1024}


def _wait(child: int) -> tuple[int, Any]:
    """Wait for a child; one that does not end by itself is ended."""
    stop = time.monotonic() + WAITED_SECONDS + 3
    while time.monotonic() < stop:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        if pid:
            return status, usage
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    return status, usage


def _run_child(kind: str, seed: int, changes: int, folder: Path, report: Any) -> None:
    """Make the input, set the limits, run, and write a verdict; never returns."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    verdict: dict[str, str] = {}
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    try:
        said, run = prepare(kind, seed, changes, folder)
        report.write(json.dumps({"input": said}) + "\n")
        report.flush()
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, hard))
        faulthandler.register(signal.SIGPROF, file=report.fileno(), chain=True)  # then it ends the child
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        faulthandler.dump_traceback_later(WAITED_SECONDS, exit=True, file=report.fileno())
        verdict = outcome(run)
    except BaseException as broken:
        verdict = {"verdict": "the fuzzer is wrong", "said": "".join(traceback.format_exception(broken))[-1500:]}
    signal.setitimer(signal.ITIMER_PROF, 0)
    faulthandler.cancel_dump_traceback_later()
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    report.write(json.dumps(verdict) + "\n")
    report.flush()
    os._exit(0)


def prepare(kind: str, seed: int, changes: int, folder: Path) -> tuple[str, Any]:
    """Make an input in a folder."""
    chance = Chance(f"{kind} {seed}")
    chance.most_changes = changes
    return ATTACKS[kind].make(chance, folder)


def outcome(run: Any) -> dict[str, str]:
    """Run something, and sort out how it ends."""
    try:
        run()
    except wb.WeighbridgeError as refused:
        return {"verdict": "refused", "code": refused.code, "said": str(refused)[:300]}
    except MemoryError as full:
        return {"verdict": "memory", "where": _place(full), "said": ""}
    except BaseException as crashed:
        text = repr(crashed)[:300]
        return {"verdict": f"raw {type(crashed).__name__}", "where": _place(crashed), "said": text}
    return {"verdict": "fine"}


def _place(error: BaseException) -> str:
    """The innermost line of weighbridge that an error passed through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/weighbridge/" in frame.filename]
    if not frames:
        return ""
    return f"{frames[-1].filename.split('/weighbridge/')[-1]}:{frames[-1].lineno}"


def _read(text: str, status: int) -> dict[str, Any]:
    lines = text.splitlines()
    verdict: dict[str, Any] = json.loads(lines[0]) if lines and lines[0].startswith("{") else {}
    if len(lines) > 1 and lines[1].startswith("{"):
        return {**verdict, **json.loads(lines[1])}
    if "verdict" in verdict:
        return verdict
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) not in (signal.SIGKILL, signal.SIGPROF):
        return {**verdict, "verdict": f"signal {os.WTERMSIG(status)}", "said": "\n".join(lines[1:8])}
    frames = [line for line in lines if "/weighbridge/" in line]
    where = frames[0].split("/weighbridge/")[-1].replace('", line ', ":").split(" ")[0] if frames else ""
    return {**verdict, "verdict": "hang", "where": where, "said": "\n".join(lines[1:12])}


if __name__ == "__main__":
    if len(sys.argv) > 2:
        place = Path(tempfile.mkdtemp(prefix="hostile-"))
        described, action = prepare(sys.argv[1], int(sys.argv[2]), int([*sys.argv, "1000"][3]), place)
        print(described)
        print(place)
        action()
    else:
        serve(with_torch="--torch" in sys.argv)
