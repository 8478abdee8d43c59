"""A process that runs conversions and loads in children of its own, to be killed from outside.

Run as a script it reads orders, one JSON object per line, and forks for each: a child starts within milliseconds, and
is a process like any other to whoever kills it. What a child says goes to the script's own output, one line each:

    pid NUMBER               first
    at NUMBER DONE TOTAL     each time something was done; it waits for a line of input after the number it pauses at
    events NUMBER            how often it touched the destination or its hidden directory, if that was asked for
    done | error CODE        last, unless it is killed
    end STATUS               from the script, when the child has ended

`Nursery` is the other side of it, for the tests.
"""

from __future__ import annotations

import errno
import gc
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from safetensors.torch import save_file

import weighbridge as wb

SOURCE: Final = Path(__file__).parents[1] / "src"

FUSED: Final = wb.Mapping(
    [
        wb.WeightRenaming("^old", "model"),
        wb.WeightConverter(
            ["experts.*.gate.weight", "experts.*.up.weight"],
            "experts.gate_up",
            [wb.MergeModulelist(dim=0), wb.Concatenate(dim=1)],
        ),
    ],
    name="fused",
)
ANOTHER: Final = wb.Mapping([wb.WeightRenaming("^old", "model"), *FUSED.transforms[1:]], name="another")
TRANSPOSED: Final = wb.Mapping(
    [wb.WeightConverter("gate.weight", "gate.weight", [wb.Transpose(0, 1)])], name="transposed"
)
ASSUMING: Final = wb.Mapping(
    [
        wb.WeightConverter("embed", "embed", [wb.Pad(0, multiple_of=256, value=1.5, source_size=901)]),
        wb.WeightConverter(["q", "v"], "qkv", [wb.InsertConstant(1, (300, 256)), wb.Concatenate(0, chunks=3)]),
        wb.WeightConverter("head", "head", [wb.Trim(0, 700, value="-inf", source_size=900)]),
        wb.WeightConverter("two", ["one.a", "one.b"], [wb.Chunk(0, chunks=3), wb.RemoveConstant(2, (200, 256), 3)]),
        wb.WeightConverter("table", "layers.*.table", [wb.Repeat(3)]),
        wb.WeightConverter("ranks.*.k", "k", [wb.MergeEqual(2)]),
    ],
    name="assuming",
)
"""What is filled in, left out, shared and held to be equal: each of it in both directions, as its inverse has it."""

MAPPINGS: Final = {mapping.name: mapping for mapping in (FUSED, ANOTHER, TRANSPOSED, ASSUMING)}

TOUCHING: Final = (
    "open",
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.scandir",
    "os.listdir",
    "shutil.rmtree",
)
"""Audit events by which a process reaches for a path."""


# In the script


def say(line: str) -> None:
    os.write(1, line.encode() + b"\n")


def hear() -> str:
    """Read one line, and not a byte more: the next one may be for another process."""
    line = bytearray()
    while (byte := os.read(0, 1)) != b"\n":
        if not byte:
            os._exit(0)  # whoever speaks is gone: nobody is left to wait for
        line += byte
    return line.decode()


class Steps:
    """Counts what a child has done, says it, and pauses where it was told to.

    Args:
        pauses: After which steps to wait; -1 for all.
        word: The line to wait for; one that was meant for a child which was killed meanwhile is another.
    """

    def __init__(self, pauses: list[int], word: str) -> None:
        self.pauses = pauses
        self.word = word
        self.number = 0

    def __call__(self, done: int, total: int) -> None:
        self.number += 1
        say(f"at {self.number} {done} {total}")
        if self.number in self.pauses or -1 in self.pauses:
            while hear() != self.word:
                pass


def fill_disk(path: Path) -> None:
    """Write a file until there is no room for more of it."""
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError as problem:
            if problem.errno != errno.ENOSPC:
                raise


def watch_touches(place: str, kill_at: int) -> Callable[[], int]:
    """Count how often a path that holds `place` is reached for; end by SIGKILL just before one of those times."""
    touches = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal touches
        if event in TOUCHING and place in str(arguments[0]):
            touches += 1
            if touches == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return lambda: touches


def run(order: dict[str, Any], steps: Steps) -> None:
    """Do what is ordered."""
    source, kind = order["source"], order["kind"]
    if kind == "convert":
        wb.convert(source, order["out"], MAPPINGS[order["mapping"]], progress=steps, **order["options"])
    elif kind == "revert":
        wb.revert(source, order["out"], progress=steps, **order["options"])
    elif kind == "stream":
        for number, _ in enumerate(wb.plan(source, MAPPINGS[order["mapping"]]).stream(), 1):
            steps(number, 0)
    else:
        load_model(source, steps)


def load_model(source: str, steps: Steps) -> None:
    """Load a fused checkpoint into a model of its own shapes."""
    model = torch.nn.Module()
    for key, spec in wb.plan(source, FUSED).target.items():
        *path, name = key.split(".")
        place = model
        for part in path:
            if part not in place._modules:
                place.add_module(part, torch.nn.Module())
            place = place._modules[part]
        dtype = torch.bfloat16 if spec.dtype == "BF16" else torch.float32
        place.register_parameter(name, torch.nn.Parameter(torch.empty(spec.shape, dtype=dtype)))
    steps(0, 1)
    wb.load(model, source, FUSED)
    steps(1, 1)


def live(order: dict[str, Any]) -> None:
    """Be the child of one order."""
    say(f"pid {os.getpid()}")
    if "limit_bytes" in order:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["limit_bytes"], order["limit_bytes"]))
    touches = watch_touches(Path(order.get("out", "none")).name, order.get("kill_at", 0))
    try:
        run(order, Steps(order.get("pauses", []), order["word"]))
    except wb.WeighbridgeError as problem:
        say(f"error {problem.code}")
    else:
        say(f"events {touches()}")
        say("done")


def warm_up() -> None:
    """Convert a little, there and back, so that no child has to import what that needs."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "source").mkdir()
        experts = itertools.product(range(2), ("gate", "up"))
        long_runs = {f"experts.{i}.{part}.weight": torch.zeros(520, 256) for i, part in experts}
        save_file(long_runs, place / "source" / "model.safetensors")
        wb.convert(place / "source", place / "fused", FUSED)
        wb.convert(place / "source", place / "part", FUSED, part=(0, 1))
        wb.convert(place / "source", place / "distributed", FUSED, to="dcp")
        wb.revert(place / "fused", place / "back")


def serve() -> None:
    """Fork a child for each order, and say how it ended."""
    torch.set_num_threads(1)  # a fork would lose any thread beside this one
    warm_up()
    gc.freeze()  # no child looks through all that for garbage
    while True:
        line = hear()
        if not line.startswith("{"):  # what a child that was killed has left of a line, be it the mere end of it
            continue
        child = os.fork()
        if child == 0:
            try:
                live(json.loads(line))
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        say(f"end {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}")


# In the tests


class Ended(NamedTuple):
    """How a child ended: its status, its last steps, the code of its error, how often it touched the destination."""

    status: int
    steps: int
    code: str
    touches: int

    @property
    def was_killed(self) -> bool:
        return self.status == -signal.SIGKILL


class Child:
    """A child that is at work."""

    def __init__(self, nursery: Nursery, pid: int, word: str) -> None:
        self.nursery = nursery
        self.pid = pid
        self.word = word
        self.steps = 0
        self.code = ""
        self.touches = 0
        self.ended: Ended | None = None

    def reach(self, number: int) -> bool:
        """Wait until it has said that it did step `number`; false if it ends before that."""
        while self.steps < number and self.ended is None:
            self._listen()
        return self.steps >= number

    def go_on(self) -> None:
        self.nursery.send(self.word)

    def kill(self) -> Ended:
        with suppress(ProcessLookupError):  # it may have come to its end meanwhile
            os.kill(self.pid, signal.SIGKILL)
        return self.end()

    def end(self) -> Ended:
        """Wait for the end."""
        while self.ended is None:
            self._listen()
        return self.ended

    def _listen(self) -> None:
        word, *rest = self.nursery.receive().split()
        if word == "at":
            self.steps = int(rest[0])
        elif word == "error":
            self.code = rest[0]
        elif word == "events":
            self.touches = int(rest[0])
        elif word == "end":
            self.ended = Ended(int(rest[0]), self.steps, self.code, self.touches)


class Nursery:
    """The script, and the children that it has."""

    def __init__(self) -> None:
        self.born = 0
        search = os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": search},
            text=True,
        )

    def send(self, line: str) -> None:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def receive(self) -> str:
        line = self.process.stdout.readline()
        assert line, "the script has ended"
        return line

    @contextmanager
    def child(self, kind: str, source: Path, out: Path | None = None, **order: Any) -> Iterator[Child]:
        """Start a child; one that is not ended by then is killed at the end of the block."""
        self.born += 1
        word = f"go on, {self.born}"
        order = {"kind": kind, "source": str(source), "mapping": "fused", "options": {}, "word": word, **order}
        self.send(json.dumps(order if out is None else {**order, "out": str(out)}))
        child = Child(self, int(self.receive().removeprefix("pid ")), word)
        try:
            yield child
        finally:
            if child.ended is None:
                child.kill()

    def run(self, kind: str, source: Path, out: Path | None = None, **order: Any) -> Ended:
        """Start a child and wait for its end."""
        with self.child(kind, source, out, **order) as child:
            return child.end()


@cache
def nursery(number: int = 0) -> Nursery:
    """Start the nursery of this number, once for all tests of a process; it ends when that does, as its input ends."""
    return Nursery()


if __name__ == "__main__":
    serve()
