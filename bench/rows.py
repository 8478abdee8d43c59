"""What is measured: each row is a function that runs its processes and returns its figures.

Two things that are compared take turns, so that what else the machine does meets both.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from bench.checkpoints import discard, file_hashes, write_checkpoint, wrong_tensors
from bench.inventories import DeepSeek, Moe, deepseek
from bench.measure import Figure, Run, RunFailedError, divide, run_process, run_python

PLAN_S: Final = 3.0
PLAN_GROWTH: Final = 2.2
IMPORT_MS: Final = 150.0
INSPECT_S: Final = 0.5
CONVERT_MB: Final = 500.0

SHARD_BYTES: Final = 10**9
SPARSE: Final = Moe(expert_intermediate=608)
"""Sizes of 4.0 GB, of which only the headers are on the disk."""
COMMAND: Final = "from weighbridge.cli import main; raise SystemExit(main())"
"""What the installed `weighbridge` script does."""
COPY: Final = 'cp -r "$0" "$1"'


@dataclass(frozen=True, slots=True)
class Bench:
    """What the rows share.

    Args:
        work: Directory for checkpoints and outputs.
        say: Called with a line before something that takes time.
        moe: Sizes of the checkpoint that is converted and loaded.
        deepseek: Sizes of the model that is planned.
        runs: Every measured process, in order; warm-ups included.
    """

    work: Path
    say: Callable[[str], None] = print
    moe: Moe = field(default_factory=Moe)
    deepseek: DeepSeek = field(default_factory=DeepSeek)
    runs: list[Run] = field(default_factory=list)

    def python(self, *arguments: str | Path) -> Run:
        """Run this interpreter and keep the record."""
        return self.keep(run_python(*arguments))

    def child(self, action: str, *arguments: str | Path) -> Run:
        """Run an action of `bench.child` and keep the record."""
        return self.python("-m", "bench.child", action, *arguments)

    def keep(self, run: Run) -> Run:
        """Keep the record of a run."""
        self.runs.append(run)
        return run


def measure_plan(bench: Bench, rounds: int = 5, warm: int = 2) -> list[Figure]:
    """Time `weighbridge.plan` on an opened header: first in its process, and again in the same one."""
    once, twice = bench.deepseek, double(bench.deepseek)
    keys = {sizes: f"{len(deepseek(sizes)):,} keys" for sizes in (once, twice)}
    cases = [(sizes, has_target) for has_target in (0, 1) for sizes in (once, twice)]
    bench.say(f"plan: {keys[once]} and {keys[twice]}, with and without a target, {rounds} processes each")
    _plan_seconds(bench, once, 1, 1)
    seconds: dict[tuple[DeepSeek, int], list[list[float]]] = {case: [] for case in cases}
    for _ in range(rounds):
        for sizes, has_target in cases:
            seconds[sizes, has_target].append(_plan_seconds(bench, sizes, has_target, 1 + warm))
    figures = []
    for has_target, ending in ((0, ""), (1, ", target")):
        for when, chosen in (("first", slice(0, 1)), ("again", slice(1, None))):
            small, large = (
                tuple(value for run in seconds[sizes, has_target] for value in run[chosen]) for sizes in (once, twice)
            )
            name = f"plan {keys[once]}{ending}, {when}"
            figures.append(Figure(name, "s", small, PLAN_S))
            large_name = f"plan {keys[twice]}{ending}, {when}"
            growth = divide(large, small)
            figures.append(Figure(large_name, "s", large, beside=name, ratios=growth, ratio_limit=PLAN_GROWTH))
    return figures


def double(sizes: DeepSeek) -> DeepSeek:
    """Return sizes with twice the layers of each kind, so that the keys double but for the three outside of layers."""
    return sizes._replace(layers=2 * sizes.layers, dense_layers=2 * sizes.dense_layers)


def _plan_seconds(bench: Bench, sizes: DeepSeek, has_target: int, repeats: int) -> list[float]:
    run = bench.child("plan", json.dumps(sizes), str(has_target), str(repeats))
    return _seconds(run)


def _seconds(run: Run) -> list[float]:
    """Read what a child printed last."""
    found: list[float] = json.loads(run.output.splitlines()[-1])
    return found


def measure_import(bench: Bench, rounds: int = 11) -> list[Figure]:
    """Time `import weighbridge`: a whole interpreter with it, less one without."""
    bench.say(f"import: {rounds} interpreters with it and without, in turn")
    heavy = bench.python("-c", "import sys, weighbridge; print('torch' in sys.modules)")
    if heavy.output.strip() != "False":
        raise RunFailedError(f"import weighbridge loads torch: {heavy.output}")
    bare, full = [], []
    for _ in range(rounds):
        bare.append(1000 * bench.python("-c", "pass").wall_s)
        full.append(1000 * bench.python("-c", "import weighbridge").wall_s)
    spent = tuple(one - other for one, other in zip(full, bare, strict=True))
    return [
        Figure("interpreter alone", "ms", tuple(bare)),
        Figure("import weighbridge (less that)", "ms", spent, IMPORT_MS),
    ]


def measure_inspect(bench: Bench, rounds: int = 11) -> list[Figure]:
    """Time `weighbridge inspect` as a whole process, on files of 4 GB that hold their headers alone."""
    place = bench.work / "sparse"
    write_checkpoint(place, SPARSE, SHARD_BYTES, sparse=True)
    bench.say(f"inspect: 4.0 GB in {len(list(place.glob('*.safetensors')))} shards, {rounds} processes")
    bench.python("-c", COMMAND, "inspect", place)
    walls = tuple(bench.python("-c", COMMAND, "inspect", place).wall_s for _ in range(rounds))
    return [Figure("weighbridge inspect, 4.0 GB", "s", walls, INSPECT_S)]


def measure_convert(bench: Bench, rounds: int = 3) -> list[Figure]:
    """Convert a checkpoint, go back, and copy it, in turn; every file that comes back is compared by its SHA-256.

    Each measured run comes right after an output of the same size was removed. On a virtual machine, pages that the
    guest touches for the first time cost several times what pages cost that it just gave up.
    """
    source, fused, back, copy = (bench.work / name for name in ("moe", "fused", "back", "copy"))
    expected = _moe_checkpoint(bench, source)
    bench.say(f"convert: there, back, and `cp -r`, in turn, {rounds} rounds after a warm-up")
    runs: dict[str, list[Run]] = {"convert": [], "revert": [], "copy": [], "synced": []}
    for number in range(rounds + 1):
        taken = {}
        for name, script in (("copy", COPY), ("synced", COPY + " && sync")):
            _warm(source)
            taken[name] = bench.keep(run_process(["sh", "-c", script, source, copy]))
            discard(copy)
        _warm(source)
        taken["convert"] = bench.child("convert", source, fused)
        if number == 0:
            _check(wrong_tensors(source, fused, bench.moe.experts), "converted wrongly")
        run_process(["sh", "-c", COPY, source, copy])
        discard(copy)
        _warm(fused)
        taken["revert"] = bench.child("revert", fused, back)
        found = file_hashes(back)
        _check((name for name in expected if found.get(name) != expected[name]), "not the same after going back")
        discard(back)
        discard(fused)
        for name, run in taken.items() if number else ():
            runs[name].append(run)
    return _convert_figures(runs)


def _warm(directory: Path) -> None:
    """Let earlier writes finish and read the files once, so that each run starts with what it reads in memory."""
    os.sync()
    buffer = bytearray(2**20)
    for path in directory.iterdir():
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def _convert_figures(runs: Mapping[str, list[Run]]) -> list[Figure]:
    walls = {name: tuple(run.wall_s for run in taken) for name, taken in runs.items()}
    figures = [Figure("cp -r", "s", walls["copy"])]
    figures.append(_beside("cp -r, then sync", walls["synced"], figures[0]))
    for name in ("convert", "revert"):
        figures.append(_beside(name, walls[name], figures[0]))
        peaks = tuple(run.peak_anonymous_bytes / 1e6 for run in runs[name] if run.peak_anonymous_bytes is not None)
        if peaks:
            figures.append(Figure(f"{name}, peak anonymous memory", "MB", peaks, CONVERT_MB))
    return figures


def _beside(name: str, values: Iterable[float], other: Figure) -> Figure:
    listed = tuple(values)
    return Figure(name, "s", listed, beside=other.name, ratios=divide(listed, other.values))


def measure_load(bench: Bench, rounds: int = 3) -> list[Figure]:
    """Load a checkpoint into a model of transformers, and by transformers itself, in turn; imports are not counted."""
    source = bench.work / "moe"
    _moe_checkpoint(bench, source)
    bench.say(f"load: into a meta model, and by from_pretrained, in turn, {rounds} rounds after a comparison of values")
    bench.child("compare", source)
    theirs, ours = [], []
    for _ in range(rounds):
        theirs += _seconds(bench.child("from_pretrained", source))
        ours += _seconds(bench.child("load", source))
    other = Figure("from_pretrained of transformers", "s", tuple(theirs))
    return [other, _beside("load into a meta model", ours, other)]


def _moe_checkpoint(bench: Bench, place: Path) -> dict[str, str]:
    """Write the checkpoint that is converted and loaded, unless an earlier row did; return its files' hashes."""
    if not place.exists():
        needed = 4 * 10**9 * 3
        free = shutil.disk_usage(bench.work).free
        if bench.moe == Moe() and free < needed:
            raise RunFailedError(f"{bench.work} has {free / 1e9:.1f} GB free, {needed / 1e9:.0f} are needed: --work")
        bench.say("writing a checkpoint of 3.4 GB")
        write_checkpoint(place, bench.moe, SHARD_BYTES)
        os.sync()
    return file_hashes(place)


def _check(wrong: Iterable[str], what: str) -> None:
    listed = list(wrong)
    if listed:
        raise RunFailedError(f"{len(listed)} {what}, such as {listed[0]}")


ROWS: Final[Mapping[str, Callable[[Bench], list[Figure]]]] = MappingProxyType(
    {
        "plan": measure_plan,
        "import": measure_import,
        "inspect": measure_inspect,
        "convert": measure_convert,
        "load": measure_load,
    }
)
"""The rows by name, in the order they run."""

DEFAULT_ROWS: Final = ("plan", "import", "inspect", "convert")
"""Rows that run unless others are named: all that keep within a few minutes."""
