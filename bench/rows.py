"""The rows by name, and those that need no files: a plan, an import.

Each row is a function that runs its processes and returns its figures. Things that are compared take turns, so that
what else the machine does meets all of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from bench.inventories import DeepSeek, deepseek
from bench.measure import Figure, Run, RunFailedError, beside
from bench.rounds import ROUNDS, Bench
from bench.rows_devices import measure_cuda
from bench.rows_distributed import measure_dcp_in, measure_dcp_out
from bench.rows_files import measure_convert, measure_convert_large, measure_parts, measure_revert, measure_save
from bench.rows_first import measure_first, measure_inspect
from bench.rows_load import measure_huge, measure_load_dense, measure_load_moe, measure_small, measure_transposed
from bench.rows_quantised import measure_dequantise
from bench.rows_ranks import measure_rank_bytes, measure_rank_load, measure_rank_save
from bench.rows_remote import measure_remote

PLAN_S: Final = 1.5
PLAN_RATIO: Final = 0.5
PLAN_GROWTH: Final = 2.5
PLAN_BYTES: Final = 5 * 10**8
"""More memory than twice the keys take."""
GROUPS_S: Final = 1.0
"""For weights of FP8 whose scales go along."""
CUT_PROCESSES: Final = 64
CUT_S: Final = 0.3
IMPORT_MS: Final = 150.0

PARTS: Final = (("first", slice(0, 1)), ("again", slice(1, None)))
"""The first run in a process, and those after it."""


def measure_plan(bench: Bench, rounds: int = ROUNDS, warm: int = 2) -> list[Figure]:
    """Time `weighbridge.plan` on an opened header, first in its process and again in the same one.

    Beside it is what transformers does with the same keys before it reads anything: renaming and grouping.
    """
    once, twice = bench.deepseek, double(bench.deepseek)
    keys = {sizes: f"{len(deepseek(sizes)):,} keys" for sizes in (once, twice)}
    cases = [(sizes, way) for way in ("names", "target") for sizes in (once, twice)]
    cases.append((once, "groups"))
    bench.say(f"plan: {keys[once]} and {keys[twice]}, with and without a target, {rounds} processes each")
    _plan_seconds(bench, once, "target", 1)
    seconds: dict[tuple[DeepSeek, str], list[list[float]]] = {case: [] for case in cases}
    grouped: list[list[float]] = []
    for _ in range(rounds):
        for sizes, way in cases:
            seconds[sizes, way].append(_plan_seconds(bench, sizes, way, 1 + warm))
        grouped.append(bench.timed("group", PLAN_BYTES, json.dumps(once), str(1 + warm)).seconds)
    peers = {
        when: Figure(f"group {keys[once]} by transformers, {when}", "s", _chosen(grouped, part), is_ours=False)
        for when, part in PARTS
    }
    figures = list(peers.values())
    for way, ending in (("names", ""), ("target", ", target")):
        for when, part in PARTS:
            small, large = (_chosen(seconds[sizes, way], part) for sizes in (once, twice))
            compared = (beside(small, peers[when], PLAN_RATIO),)
            figure = Figure(f"plan {keys[once]}{ending}, {when}", "s", small, PLAN_S, compared)
            growth = (beside(large, figure, PLAN_GROWTH),)
            figures += [figure, Figure(f"plan {keys[twice]}{ending}, {when}", "s", large, None, growth)]
    groups = [(when, _chosen(seconds[once, "groups"], part)) for when, part in PARTS]
    return [*figures, *(Figure(f"plan {keys[once]} as groups, {when}", "s", spent, GROUPS_S) for when, spent in groups)]


def _chosen(runs: list[list[float]], part: slice) -> tuple[float, ...]:
    return tuple(value for run in runs for value in run[part])


def double(sizes: DeepSeek) -> DeepSeek:
    """Return sizes with twice the layers of each kind, so that the keys double but for the three outside of layers."""
    return sizes._replace(layers=2 * sizes.layers, dense_layers=2 * sizes.dense_layers)


def _plan_seconds(bench: Bench, sizes: DeepSeek, way: str, repeats: int) -> list[float]:
    run: Run = bench.timed("plan", PLAN_BYTES, json.dumps(sizes), way, str(repeats))
    return run.seconds


def measure_cut(bench: Bench, rounds: int = ROUNDS) -> list[Figure]:
    """Time the cut of a plan to what one of 64 processes holds, after planning, once in each process."""
    keys = len(deepseek(bench.deepseek))
    bench.say(f"cut: {keys:,} keys to one of {CUT_PROCESSES} processes, {rounds} processes")
    words = json.dumps(bench.deepseek), str(CUT_PROCESSES), "1"
    runs = [bench.timed("cut", PLAN_BYTES, *words).seconds for _ in range(rounds)]
    return [Figure(f"cut {keys:,} keys to one of {CUT_PROCESSES}", "s", _chosen(runs, slice(None)), CUT_S)]


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
        Figure("interpreter alone", "ms", tuple(bare), is_ours=False),
        Figure("import weighbridge (less that)", "ms", spent, IMPORT_MS),
    ]


ROWS: Final[Mapping[str, Callable[[Bench], list[Figure]]]] = MappingProxyType(
    {
        "load-moe": measure_load_moe,
        "first": measure_first,
        "convert": measure_convert,
        "parts": measure_parts,
        "revert": measure_revert,
        "save": measure_save,
        "transposed": measure_transposed,
        "convert-large": measure_convert_large,
        "load-dense": measure_load_dense,
        "small": measure_small,
        "huge": measure_huge,
        "dequantise": measure_dequantise,
        "dcp-in": measure_dcp_in,
        "dcp-out": measure_dcp_out,
        "rank-load": measure_rank_load,
        "rank-bytes": measure_rank_bytes,
        "rank-save": measure_rank_save,
        "remote": measure_remote,
        "plan": measure_plan,
        "cut": measure_cut,
        "import": measure_import,
        "inspect": measure_inspect,
        "cuda": measure_cuda,
    }
)
"""The rows by name, in the order they run."""

OPT_IN: Final = ("convert-large", "dequantise", "remote", "cuda")
"""Rows that run only if they are named."""

DEFAULT_ROWS: Final = tuple(name for name in ROWS if name not in OPT_IN)
"""Rows that run unless others are named."""
