"""Change the code a little, many times, and see whether the tests notice: `make mutants NUMBER=300 SEED=1`.

A sample of all small changes (`mutations.py`) to the modules below is run, each against the tests that concern its
module, with fewer examples than usual, up to the first failure. The source is changed in a copy, which a forked process
imports; torch and the test libraries are loaded once, before. At the end there is a table of what survived: each
survivor either comes to the same, or wants a test.

    python tests/mutants.py --number 300 --seed 1      a sample
    python tests/mutants.py --only planning/joining    of one module, or of several with commas between
    python tests/mutants.py --one planning/joining:57  one change, with what its tests print
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mutations import Mutation, mutate, mutations

ROOT = Path(__file__).parents[1]
EXAMPLES = 40
"""Examples of each property test, instead of its thousand."""

SLOW = {
    *("test_every_element_is_written_once_and_read_once", "test_the_way_back_gives_the_very_same_files"),
    *("test_shards_mean_nothing", "test_a_source_that_breaks_leaves_nothing_behind"),
    *("test_a_directory_goes_back_or_stays", "test_rules_and_exceptions_without_a_tensor_are_reported"),
    *("test_one_of_a_thing_is_not_called_several", "test_hint_of_a_failure_can_be_typed_as_it_is_printed"),
    "test_coverage_gives_up_on_tangled_copies",
}
"""Tests that write files, or start processes, for what quicker ones hold as well."""

LAWS = ("whole/test_interpreter.py", "whole/test_laws.py")
WAY_BACK = (
    "planning/test_origins.py",
    "planning/test_only_choice.py",
    "planning/test_planning.py",
    "models/test_save_tied.py",
)

TESTS: dict[str, tuple[str, ...]] = {
    "planning/joining": ("planning/test_planning.py", "planning/test_planning_bounds.py", *LAWS),
    "planning/tracing": (
        "planning/test_planning.py",
        "planning/test_planning_bounds.py",
        "mappings/test_transforms.py",
        *LAWS,
    ),
    "planning/readings": (
        "planning/test_readings.py",
        "planning/test_only_choice.py",
        "planning/test_planning.py",
        *LAWS,
    ),
    "planning/fitting": (
        "planning/test_planning.py",
        "planning/test_readings.py",
        "planning/test_casts.py",
        "planning/test_only_choice.py",
        "whole/test_problem_lists.py",
        "running/test_ties.py",
        *LAWS,
    ),
    "planning/drafts": (
        "planning/test_readings.py",
        "planning/test_only_choice.py",
        "whole/test_problem_lists.py",
        *LAWS,
    ),
    "planning/compiling": (
        "planning/test_only_choice.py",
        "planning/test_readings.py",
        "planning/test_casts.py",
        "planning/test_origins.py",
        "whole/test_problem_lists.py",
        "whole/test_interpreter.py",
    ),
    "planning/way_back/inverting": (*WAY_BACK, *LAWS),
    "planning/way_back/origins": (*WAY_BACK, "whole/test_interpreter.py"),
    "planning/way_back/preimages": (*WAY_BACK, "whole/test_interpreter.py"),
    "planning/way_back/target_steps": (*WAY_BACK, "whole/test_interpreter.py"),
    "running/gather": ("running/test_gather.py", "running/test_execute.py", "running/test_source_reads.py"),
    "algebra/copies": ("algebra/test_layout.py", "operations/test_ops.py"),
}
"""For each module the tests that a change to it should fail, the quick ones first."""


class Mutant(NamedTuple):
    """A change to a module."""

    module: str
    change: Mutation

    def __str__(self) -> str:
        return f"{self.module}:{self.change.number}"


class FewerExamples:
    """A plugin for pytest: property tests draw a few examples, always the same.

    What is expected to fail is left out: it says nothing of a change.
    """

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        from hypothesis import Phase, settings

        quick = [item for item in items if getattr(item, "originalname", "") not in SLOW]
        items[:] = [item for item in quick if item.get_closest_marker("xfail") is None]
        for item in items:
            function = getattr(item, "obj", None)
            function = getattr(function, "__func__", function)
            own = getattr(function, "_hypothesis_internal_use_settings", None)
            if own is not None:
                few = min(own.max_examples, EXAMPLES)
                function._hypothesis_internal_use_settings = settings(
                    own, max_examples=few, derandomize=True, database=None, phases=(Phase.explicit, Phase.generate)
                )


def source_of(module: str, base: Path = ROOT / "src") -> Path:
    return base / "weighbridge" / f"{module}.py"


def all_mutants(modules: list[str]) -> list[Mutant]:
    return [Mutant(module, change) for module in modules for change in mutations(source_of(module).read_text())]


# ---- running ----


@contextmanager
def changed(base: Path, mutant: Mutant) -> Iterator[None]:
    """Make a change in the copy, for a while."""
    original, path = source_of(mutant.module).read_text(), source_of(mutant.module, base)
    path.write_text(mutate(original, mutant.change.number))
    try:
        yield
    finally:
        path.write_text(original)


def run_tests(base: Path, module: str, seconds: float, *, loud: bool = False) -> tuple[str, float]:
    """Run a module's tests on the copy of the source: `passed`, `failed` or `timeout`, and the time it took."""
    began = time.monotonic()
    child = os.fork()
    if not child:
        _run_here(base, module, loud)
    while time.monotonic() - began < seconds:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            passed = os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
            return "passed" if passed else "failed", time.monotonic() - began
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "timeout", seconds


def _run_here(base: Path, module: str, loud: bool) -> None:
    """Run the tests in this process, which ends with them."""
    import pytest

    os.setpgid(0, 0)
    sys.path.insert(0, str(base))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(base), os.environ.get("PYTHONPATH", "")])
    sys.dont_write_bytecode = True
    os.chdir(ROOT)
    if not loud:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of what was loaded before
    status = 3
    try:
        status = int(pytest.main([*options, *(f"tests/{name}" for name in TESTS[module])], plugins=[FewerExamples()]))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def preload() -> None:
    """Import what is slow and is not tested, once for all children."""
    import hypothesis.internal.conjecture.engine
    import hypothesis.strategies
    import numpy
    import pydantic
    import pytest
    import safetensors.torch
    import torch
    import yaml

    assert all((hypothesis, numpy, pydantic, pytest, safetensors, torch, yaml))
    loaded = [name for name in sys.modules if name.startswith("weighbridge")]
    assert not loaded, f"the copy would not be imported: {loaded[:3]} are already"


# ---- the command ----


def sample(modules: list[str], number: int, seed: int) -> list[Mutant]:
    """Draw changes from all modules; a larger number has those of a smaller one."""
    found = all_mutants(modules)
    random.Random(seed).shuffle(found)
    return found[:number]


def run_sample(base: Path, chosen: list[Mutant]) -> list[Mutant]:
    """Run each mutant, and print a line for each; return what survived."""
    baseline = {module: _baseline(base, module) for module in sorted({mutant.module for mutant in chosen})}
    survivors: list[Mutant] = []
    ends: Counter[tuple[str, str]] = Counter()
    for count, mutant in enumerate(chosen, 1):
        with changed(base, mutant):
            end, took = run_tests(base, mutant.module, max(20.0, 4 * baseline[mutant.module]))
        ends[mutant.module, end] += 1
        survivors += [mutant] if end == "passed" else []
        word = {"passed": "SURVIVED", "failed": "killed", "timeout": "killed by time"}[end]
        print(f"{count:4}  {word:14} {took:5.1f} s  {mutant}  {mutant.change.kind}", flush=True)
    print(summary(ends, survivors))
    return survivors


def _baseline(base: Path, module: str) -> float:
    """Run the tests on the source as it is: they must pass, and say how long they take."""
    end, took = run_tests(base, module, 300)
    if end != "passed":
        sys.exit(f"the tests of {module} do not pass as they are: {', '.join(TESTS[module])}")
    print(f"      as it is       {took:5.1f} s  {module}", flush=True)
    return took


def summary(ends: Counter[tuple[str, str]], survivors: list[Mutant]) -> str:
    """Return the table: by module what was killed, and each survivor with its line before and after."""
    lines = ["", f"{'module':34}{'run':>5}{'killed':>8}{'by time':>9}{'survived':>10}{'rate':>8}"]
    modules = sorted({module for module, _ in ends})
    for module in [*modules, "all"]:
        failed, late, passed = (
            sum(count for (name, end), count in ends.items() if end == wanted and module in (name, "all"))
            for wanted in ("failed", "timeout", "passed")
        )
        total = failed + late + passed
        lines.append(f"{module:34}{total:5}{failed + late:8}{late:9}{passed:10}{(failed + late) / total:8.0%}")
    for mutant in sorted(survivors, key=str):
        change = mutant.change
        lines += [
            f"\n{mutant}  line {change.line}, {change.kind}",
            f"  - {change.before}",
            f"  + {change.after or 'pass'}",
        ]
    return "\n".join(lines)


def main() -> int:
    """Run a sample, or one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="modules with commas between, such as planning/joining")
    parser.add_argument("--one", default="", help="a module and a number, such as planning/joining:57")
    parser.add_argument("--count", action="store_true", help="only say how many changes there are")
    chosen = parser.parse_args()
    modules = [name for name in TESTS if not chosen.only or name in chosen.only.split(",")]
    if chosen.count:
        for module, count in Counter(mutant.module for mutant in all_mutants(modules)).items():
            print(f"{count:5}  {module}")
        return 0
    preload()
    with tempfile.TemporaryDirectory(prefix="mutants-") as place:
        base = Path(place) / "src"
        shutil.copytree(ROOT / "src", base, ignore=shutil.ignore_patterns("__pycache__"))
        if chosen.one:
            return run_one(base, chosen.one)
        return 1 if run_sample(base, sample(modules, chosen.number, chosen.seed)) else 0


def run_one(base: Path, name: str) -> int:
    """Run one change, and let its tests print."""
    module, _, number = name.rpartition(":")
    mutant = Mutant(module, mutations(source_of(module).read_text())[int(number)])
    print(f"{mutant}\n  - {mutant.change.before}\n  + {mutant.change.after or 'pass'}", flush=True)
    with changed(base, mutant):
        end, took = run_tests(base, module, 300, loud=True)
    print(f"{end} in {took:.1f} s")
    return 1 if end == "passed" else 0


if __name__ == "__main__":
    sys.exit(main())
