"""Look for what is wrong for as long as one likes: `make fuzz SECONDS=600 SEED=1`.

Two halves take turns. One draws mappings, checkpoints and targets, and holds weighbridge to the interpreter
(`judging.py`); the other makes hostile inputs, each in a child process with limits (`hostile.py`). It is one process
and one child at a time. Each kind of find is shown once, as small as it gets, with what repeats it; then it is counted.
The status is 1 if anything was found.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SLOW_SECONDS = 3.0
"""An input that takes longer than this, below the limit, is a find of its own kind."""


class Finds:
    """What was found, by kind: the first of each is shown."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.tried: Counter[str] = Counter()

    def add(self, kind: str, text: str) -> None:
        self.counts[kind] += 1
        if self.counts[kind] == 1:
            print(f"\n--- {kind}\n{text}", flush=True)

    def is_new(self, kind: str) -> bool:
        return not self.counts[kind]

    def summary(self) -> str:
        lines = [f"{count:8,}  {name}" for name, count in sorted(self.tried.items())]
        found = [f"{count:8,}  {kind}" for kind, count in self.counts.most_common()]
        return "\n".join(["", "tried", *lines, "found" if found else "found nothing", *found])


# ---- mappings ----


def try_mappings(seeds: Iterator[int], names: list[str], finds: Finds) -> Iterator[None]:
    """Run every check on one drawn case after the other; yield after each."""
    from drawn_mappings import draw
    from finds import show, shrink
    from judging import CHECKS

    for seed in seeds:
        drawn = draw(seed)
        for name in names:
            finds.tried[name] += 1
            find = CHECKS[name](drawn, seed)
            if find is not None:
                kind = f"{name}: {find.kind}"
                text = ""
                if finds.is_new(kind):
                    small, seen = shrink(CHECKS[name], drawn, seed)
                    text = f"{seen.said}\n{show(small)}again     draw({seed})"
                finds.add(kind, text)
        yield


# ---- hostile inputs ----


class Server:
    """A process that runs hostile inputs in children of its own."""

    def __init__(self, *options: str) -> None:
        command = [sys.executable, str(HERE / "hostile.py"), *options]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, kind: str, seed: int, changes: int = 1000) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{kind}\t{seed}\t{changes}\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def stop(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        self.process.wait()


def try_inputs(seeds: Iterator[int], names: list[str], finds: Finds) -> Iterator[None]:
    """Run one input of each kind after the other; yield after each."""
    from hostile_inputs import ATTACKS

    servers = {False: Server(), True: Server("--torch")}
    try:
        for seed in seeds:
            for name in names:
                finds.tried[name] += 1
                server = servers[ATTACKS[name].with_torch]
                kind = kind_of(name, server.ask(name, seed))
                if kind:
                    finds.add(kind, _smallest(server, name, seed, kind) if finds.is_new(kind) else "")
                yield
    finally:
        for server in servers.values():
            server.stop()


def kind_of(name: str, verdict: dict[str, Any]) -> str:
    """Return what kind of find a verdict is; empty for none."""
    if verdict["verdict"] in ("fine", "refused"):
        return f"{name}: slow, over {SLOW_SECONDS:.0f} s" if verdict["seconds"] > SLOW_SECONDS else ""
    return f"{name}: {verdict['verdict']} at {verdict.get('where') or 'no line of weighbridge'}"


def _smallest(server: Server, name: str, seed: int, kind: str) -> str:
    """Describe an input with as few changes as still give a find of this kind."""
    for changes in (1, 2, 3, 4, 1000):
        verdict = server.ask(name, seed, changes)
        if kind_of(name, verdict) == kind:
            break
    lines = [f"input     {verdict.get('input', '')[:700]}", f"said      {verdict.get('said', '')[:500]}"]
    lines.append(f"took      {verdict['seconds']} s, {verdict['peak_mb']} MB")
    return "\n".join([*lines, f'again     python tests/hostile.py "{name}" {seed} {changes}'])


# ---- the command ----


def main() -> int:
    """Fuzz for the time that is given."""
    sys.path.insert(0, str(HERE))
    from hostile_inputs import ATTACKS
    from judging import CHECKS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0, help="where the numbers of the cases begin")
    parser.add_argument("--only", default="", help=f"names with commas between: {', '.join([*CHECKS, *ATTACKS])}")
    chosen = parser.parse_args()
    only = [name.strip() for name in chosen.only.split(",") if name.strip()]
    unknown = [name for name in only if name not in CHECKS and name not in ATTACKS]
    if unknown:
        parser.error(f"there is no {unknown[0]!r}")
    logging.getLogger("weighbridge").setLevel(logging.ERROR)  # warnings are of what is drawn
    finds, stop = Finds(), time.monotonic() + chosen.seconds
    checks, attacks = ([name for name in names if not only or name in only] for names in (CHECKS, ATTACKS))
    halves = [try_mappings(_numbers(chosen.seed), checks, finds)] if checks else []
    halves += [try_inputs(_numbers(chosen.seed), attacks, finds)] if attacks else []
    try:
        while time.monotonic() < stop:
            for half in halves:
                next(half)
    finally:
        for half in halves:
            half.close()
    print(finds.summary())
    return 1 if finds.counts else 0


def _numbers(seed: int) -> Iterator[int]:
    number = seed * 1_000_000
    while True:
        yield number
        number += 1


if __name__ == "__main__":
    sys.exit(main())
