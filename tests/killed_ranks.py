"""Two ranks that load and save a model together, of which one is killed, and two that do it again.

    python tests/killed_ranks.py FOLDER

kills each rank at points that are spread over all that it does, in each of the ways of `WAYS`: each time that it
reaches for the output, or for what it loads, and each time that it has written a piece. Forks of one process that has
imported torch, some at a time; what became of each case is printed as a line of JSON. No process of a group is asked
for anything but by its store, so the group is a fake.
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
from stage_models import HALVES, load, net

import weighbridge as wb

RANKS: Final = 2
TIMEOUT_S: Final = 3.0
"""How long a rank waits for one that is killed."""
AT_ONCE: Final = 8
AGAIN: Final = "again"
CONTEXT: Final = multiprocessing.get_context("fork")


class Way(NamedTuple):
    """What the ranks do.

    Args:
        points: At how many points each of them is killed.
        watched: What path has to be reached for at such a point.
        stages: Whether each has a stage of the model, and not rows of it.
        options: How they save.
        ranks: How many of them there are.
    """

    points: int
    watched: str
    stages: bool = False
    options: dict[str, Any] = {}  # noqa: RUF012
    ranks: int = RANKS


WAYS: Final = {
    "as loaded": Way(8, "delivered"),
    "named": Way(8, "delivered", options={"name": "weights", "max_shard_size": 1500, "digests": True}),
    "stages": Way(4, "delivered", stages=True),
    "loading": Way(3, "published"),
    "distributed": Way(4, "delivered", options={"to": "dcp"}, ranks=1),
}
"""Each way to make an output; the last one is a conversion by one process."""


class Watch:
    """Counts what a rank does to some path, and ends it by SIGKILL just before one of these times, which it says."""

    def __init__(self, place: str, kill_at: int, said: Any) -> None:
        self.place = place
        self.kill_at = kill_at
        self.said = said
        self.count = 0
        sys.addaudithook(self.hear)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in TOUCHING and self.place in str(arguments[0]):
            self.reach(f"{event} {arguments[0]}")

    def reach(self, where: str) -> None:
        self.count += 1
        if self.count == self.kill_at:
            self.said.send(where)
            os.kill(os.getpid(), signal.SIGKILL)

    def __call__(self, *_: object) -> None:
        self.reach("a piece")


def act(way: Way, rank: int, folder: Path, timeout_s: float, options: dict[str, Any]) -> None:
    """Load a model's part, and save it; or convert a checkpoint."""
    published, out = folder.parent / "published", folder / "delivered"
    if way.ranks == 1:
        wb.convert(published, out, RULES, **options)
        return
    if way.stages:
        model = load(net("meta", HALVES[rank]), folder.parent)
    else:
        model = spread("rows", RANKS, "meta")
        wb.load(model, published, RULES)
    wb.save(model, out, timeout=timeout_s, stages=way.stages, **options)


def run(name: str, rank: int, folder: Path, attempt: str, kill_at: int, timeout_s: float, said: Any) -> None:
    """Do what a way is, and say what that has come to, and how often the path was reached for."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    way = WAYS[name]
    store = dist.FileStore(str(folder / attempt), RANKS)
    dist.init_process_group("fake", store=store, rank=rank, world_size=RANKS)
    watch, code = Watch(way.watched, kill_at, said), ""
    try:
        act(way, rank, folder, timeout_s, {**way.options, "resume": attempt == AGAIN, "progress": watch})
    except wb.WeighbridgeError as problem:
        code = problem.code
    said.send([code, watch.count])
    os._exit(0)


class Pair(NamedTuple):
    """Ranks that run."""

    processes: list[Any]
    ends: list[Any]

    @staticmethod
    def start(name: str, folder: Path, attempt: str, victim: int = -1, kill_at: int = 0) -> Pair:
        pipes = [CONTEXT.Pipe(duplex=False) for _ in range(WAYS[name].ranks)]
        timeout_s = 120.0 if victim < 0 else TIMEOUT_S
        processes = []
        for rank, (_, said) in enumerate(pipes):
            at = kill_at if rank == victim else 0
            processes.append(CONTEXT.Process(target=run, args=(name, rank, folder, attempt, at, timeout_s, said)))
            processes[-1].start()
            said.close()
        return Pair(processes, [heard for heard, _ in pipes])

    def wait(self) -> list[Any]:
        """What each rank has said; of one that was killed, before what."""
        found = [heard.recv() for heard in self.ends]
        for process in self.processes:
            process.join()
        return found


def cases(folder: Path) -> Iterator[dict[str, Any]]:
    for name, way in WAYS.items():
        first = folder / f"{name}, whole"
        first.mkdir()
        touches = [count for _, count in Pair.start(name, first, "store").wait()]
        for victim in range(way.ranks):
            for point in range(way.points):
                kill_at = 1 + (touches[victim] - 1) * point // (way.points - 1)
                case = f"{name}, rank {victim} at {point} of {way.points}"
                (folder / case).mkdir()
                yield {"name": case, "way": name, "victim": victim, "kill_at": kill_at}


def in_groups(listed: list[Any], start: Callable[[Any], Pair]) -> Iterator[tuple[Any, list[Any]]]:
    """Run some pairs at a time, and yield what each case has come to."""
    for first in range(0, len(listed), AT_ONCE):
        group = listed[first : first + AT_ONCE]
        running = [start(case) for case in group]
        yield from zip(group, [pair.wait() for pair in running], strict=True)


def main(folder: Path) -> None:
    warm_up(folder)
    listed = list(cases(folder))
    killed = in_groups(
        listed,
        lambda case: Pair.start(case["way"], folder / case["name"], "store", case["victim"], case["kill_at"]),
    )
    for case, ended in killed:
        left = [path for path in (folder / case["name"]).rglob("*") if path.is_file() and path.name != "store"]
        case |= {"ended": ended, "left": [str(path.relative_to(folder)) for path in left]}
        case["heads"] = [path.read_bytes()[:8].hex() for path in left if path.suffix == ".safetensors"]
    again = [case for case in listed if not (folder / case["name"] / "delivered").exists()]
    for case, ended in in_groups(again, lambda case: Pair.start(case["way"], folder / case["name"], AGAIN)):
        case["again"] = ended
    for case in listed:
        print(json.dumps(case), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
