"""Two ranks that save a model together, of which one is killed, and two that save it again.

    python tests/killed_ranks.py FOLDER POINTS

kills each rank at so many points, which are spread over all that it does: each time that it reaches for the output, and
each time that it has written a piece. Forks of one process that has imported torch, some at a time; what became of each
case is printed as a line of JSON. No process of a group is asked for anything but by its store, so the group is a fake.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
import torch.distributed as dist
from interrupted import TOUCHING
from spread_models import RULES, spread, warm_up

import weighbridge as wb

RANKS: Final = 2
TIMEOUT_S: Final = 2.0
"""How long a rank waits for one that is killed."""
AT_ONCE: Final = 6
AGAIN: Final = "again"
CONTEXT: Final = multiprocessing.get_context("fork")


class Watch:
    """Counts what a rank does to the output, and ends it by SIGKILL just before one of these times."""

    def __init__(self, place: str, kill_at: int) -> None:
        self.place = place
        self.kill_at = kill_at
        self.count = 0
        sys.addaudithook(self.hear)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in TOUCHING and self.place in str(arguments[0]):
            self()

    def __call__(self, *_: object) -> None:
        self.count += 1
        if self.count == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


def save(rank: int, folder: Path, attempt: str, kill_at: int, timeout_s: float, said: Any) -> None:
    """Load a model's part, save it, and say what that has come to, and how often the output was reached for."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / attempt), RANKS)
    dist.init_process_group("fake", store=store, rank=rank, world_size=RANKS)
    model = spread("rows", RANKS, "meta")
    wb.load(model, folder.parent / "published", RULES)
    watch, code = Watch("delivered", kill_at), ""
    try:
        is_again = attempt == AGAIN
        wb.save(model, folder / "delivered", timeout=timeout_s, resume=is_again, progress=watch)
    except wb.WeighbridgeError as problem:
        code = problem.code
    said.send([code, watch.count])
    os._exit(0)


class Pair(NamedTuple):
    """Two ranks that run."""

    processes: list[Any]
    ends: list[Any]

    @staticmethod
    def start(folder: Path, attempt: str, victim: int = -1, kill_at: int = 0) -> Pair:
        pipes = [CONTEXT.Pipe(duplex=False) for _ in range(RANKS)]
        timeout_s = 120.0 if victim < 0 else TIMEOUT_S
        processes = []
        for rank, (_, said) in enumerate(pipes):
            at = kill_at if rank == victim else 0
            processes.append(CONTEXT.Process(target=save, args=(rank, folder, attempt, at, timeout_s, said)))
            processes[-1].start()
            said.close()
        return Pair(processes, [heard for heard, _ in pipes])

    def wait(self) -> list[Any]:
        """What each rank has said; None for one that was killed before."""
        found = []
        for process, heard in zip(self.processes, self.ends, strict=True):
            try:
                found.append(heard.recv())
            except EOFError:
                found.append(None)
            process.join()
        return found


def cases(folder: Path, points: int) -> Iterator[dict[str, Any]]:
    first = folder / "counted"
    first.mkdir()
    touches = [count for _, count in Pair.start(first, "store").wait()]
    for victim in range(RANKS):
        for point in range(points):
            name = f"rank {victim} at {point} of {points}"
            (folder / name).mkdir()
            yield {"name": name, "victim": victim, "kill_at": 1 + (touches[victim] - 1) * point // (points - 1)}


def in_groups(listed: list[Any], start: Callable[[Any], Pair]) -> Iterator[tuple[Any, list[Any]]]:
    """Run some pairs at a time, and yield what each case has come to."""
    for first in range(0, len(listed), AT_ONCE):
        group = listed[first : first + AT_ONCE]
        running = [start(case) for case in group]
        yield from zip(group, [pair.wait() for pair in running], strict=True)


def main(folder: Path, points: int) -> None:
    warm_up(folder)
    listed = list(cases(folder, points))
    killed = in_groups(listed, lambda case: Pair.start(folder / case["name"], "store", case["victim"], case["kill_at"]))
    for case, ended in killed:
        left = [path for path in (folder / case["name"]).rglob("*") if path.is_file() and "store" not in path.name]
        case |= {"ended": ended, "left": [str(path.relative_to(folder)) for path in left]}
        case["heads"] = [path.read_bytes()[:8].hex() for path in left if path.suffix == ".safetensors"]
    again = [case for case in listed if not (folder / case["name"] / "delivered").exists()]
    for case, ended in in_groups(again, lambda case: Pair.start(folder / case["name"], AGAIN)):
        case["again"] = ended
    for case in listed:
        print(json.dumps(case), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
