"""Change the code a little, many times, and see whether the tests notice: `make mutants NUMBER=300 SEED=1`.

A sample of all small changes (`mutations.py`) to the modules below is run, each against the tests that reach its lines
(`mutant_runs.py`), up to the first failure: those of the module's own room first, and the quick ones first. The source
is changed in a copy, which a forked process imports; torch and the test libraries are loaded once, before. At the end
there is a table of what survived: each survivor either comes to the same, or wants a test.

    python tests/mutants.py --number 300 --seed 1      a sample
    python tests/mutants.py --only planning/joining    of one module, or of several with commas between
    python tests/mutants.py --one planning/joining:57  one change, with what its tests print
    python tests/mutants.py --reach reach.json         with what each test reaches noted there, for the next time
"""

from __future__ import annotations

import argparse
import compileall
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from mutant_reach import Reach, Source, read_reach
from mutant_runs import ROOT, End, preload, run_tests
from mutations import Mutation, mutate, mutations

MODULES = (
    "planning/names/prepared",
    "planning/names/wanting",
    "operations/nesting",
    "planning/joining",
    "planning/members/group_keys",
    "planning/tracing",
    "planning/readings",
    "planning/fitting",
    "planning/drafts",
    "planning/compiling",
    "planning/way_back/inverting",
    "planning/way_back/origins",
    "planning/way_back/preimages",
    "planning/way_back/target_steps",
    "running/gather",
    "algebra/copies",
)
"""What is changed."""

TESTS = (
    "algebra/test_layout.py",
    "operations/test_ops.py",
    "mappings/test_transforms.py",
    "planning/test_adapters.py",
    "planning/test_blocks.py",
    "planning/test_casts.py",
    "planning/test_config_lists.py",
    "planning/test_configurations.py",
    "planning/test_dtype_policies.py",
    "planning/test_equals.py",
    "planning/test_giving_way.py",
    "planning/test_grids.py",
    "planning/test_group_laws.py",
    "planning/test_group_names.py",
    "planning/test_groups.py",
    "planning/test_index_forms.py",
    "planning/test_named_adapters.py",
    "planning/test_no_fit.py",
    "planning/test_only_choice.py",
    "planning/test_origins.py",
    "planning/test_padding.py",
    "planning/test_planning.py",
    "planning/test_planning_bounds.py",
    "planning/test_readings.py",
    "planning/test_restrict.py",
    "planning/test_tampering.py",
    "planning/test_way_back.py",
    "running/test_execute.py",
    "running/test_gather.py",
    "running/test_source_reads.py",
    "running/test_ties.py",
    "models/test_reading_back.py",
    "models/test_save_tied.py",
    "whole/test_error_snapshots.py",
    "whole/test_interpreter.py",
    "whole/test_laws.py",
    "whole/test_logging.py",
    "whole/test_problem_lists.py",
    *(f"src/weighbridge/{module}.py" for module in MODULES),
)
"""What should notice: test files that take little time, and the examples of the modules themselves."""

FIRST_SECONDS = 2.0
"""Processor time of the tests that are run first; what survives them meets all others that reach it."""


class Mutant(NamedTuple):
    """A change to a module."""

    module: str
    change: Mutation

    def __str__(self) -> str:
        return f"{self.module}:{self.change.number}"


def source_of(module: str, base: Path = ROOT / "src") -> Path:
    return base / "weighbridge" / f"{module}.py"


def all_mutants(modules: Sequence[str], base: Path = ROOT / "src") -> list[Mutant]:
    return [Mutant(module, change) for module in modules for change in mutations(source_of(module, base).read_text())]


# ---- running ----


@contextmanager
def changed(base: Path, mutant: Mutant) -> Iterator[None]:
    """Make a change in the copy, for a while."""
    path = source_of(mutant.module, base)
    original = path.read_text()
    path.write_text(mutate(original, mutant.change.number))
    try:
        yield
    finally:
        path.write_text(original)


def choose_tests(mutant: Mutant, reach: Reach) -> list[str]:
    """Name the tests that run a mutant's statement, or its module where that runs on import.

    Those of the module's own room come first, and of these the quick ones.
    """
    inside = {
        name: set(reached.lines[mutant.module]) for name, reached in reach.items() if mutant.module in reached.lines
    }
    found = [name for name, lines in inside.items() if mutant.change.statement in lines or not mutant.change.statement]
    room = f"{mutant.module.partition('/')[0]}/"
    return sorted(found, key=lambda name: (not name.startswith(room), reach[name].seconds, name))


def try_mutant(base: Path, mutant: Mutant, reach: Reach, *, loud: bool = False) -> End:
    """Run the tests of a mutant: a few seconds of them at first, then the others."""
    names = choose_tests(mutant, reach)
    cut = sum(_seconds(names[:at], reach) < FIRST_SECONDS for at in range(len(names)))
    end = End("passed", 0.0)
    with changed(base, mutant):
        for part in (names[:cut], names[cut:]):
            if part and end.word == "passed":
                now = run_tests(base, part, 20 + 3 * _seconds(part, reach), loud=loud)
                end = End(now.word, end.seconds + now.seconds)
    return end


def _seconds(names: Sequence[str], reach: Reach) -> float:
    return sum(reach[name].seconds for name in names)


# ---- the command ----


def sample(modules: Sequence[str], number: int, seed: int) -> list[Mutant]:
    """Draw changes from all modules; a larger number has those of a smaller one."""
    found = all_mutants(modules)
    random.Random(seed).shuffle(found)
    return found[:number]


def run_sample(base: Path, chosen: Sequence[Mutant], reach: Reach) -> list[Mutant]:
    """Run each mutant, and print a line for each; return what survived."""
    survivors: list[Mutant] = []
    ends: Counter[tuple[str, str]] = Counter()
    for count, mutant in enumerate(chosen, 1):
        end = try_mutant(base, mutant, reach)
        ends[mutant.module, end.word] += 1
        survivors += [mutant] if end.word == "passed" else []
        word = {"passed": "SURVIVED", "failed": "killed", "timeout": "killed by time"}[end.word]
        print(f"{count:4}  {word:14} {end.seconds:5.1f} s  {mutant}  {mutant.change.kind}", flush=True)
    print(summary(ends, survivors))
    return survivors


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
        lines.append(f"{module:34}{total:5}{failed + late:8}{late:9}{passed:10}{(failed + late) / max(total, 1):8.0%}")
    for mutant in sorted(survivors, key=str):
        change = mutant.change
        lines += [
            f"\n{mutant}  line {change.line}, {change.kind}",
            f"  - {change.before}",
            f"  + {change.after or 'pass'}",
        ]
    return "\n".join(lines)


def main() -> int:
    """Run a sample, or some that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="modules with commas between, such as planning/joining")
    parser.add_argument(
        "--one", default="", help="modules and numbers with commas between, such as planning/joining:57"
    )
    parser.add_argument("--tests", default="", help="test files with commas between, such as planning/test_readings.py")
    parser.add_argument("--reach", default="", help="a file to keep what each test reaches in")
    parser.add_argument("--count", action="store_true", help="only say how many changes there are")
    chosen = parser.parse_args()
    modules = [name for name in MODULES if not chosen.only or name in chosen.only.split(",")]
    if chosen.count:
        for module, count in Counter(mutant.module for mutant in all_mutants(modules)).items():
            print(f"{count:5}  {module}")
        return 0
    preload(library=not chosen.tests)
    with tempfile.TemporaryDirectory(prefix="mutants-") as place:
        base = Path(place) / "src"
        shutil.copytree(ROOT / "src", base, ignore=shutil.ignore_patterns("__pycache__"))
        compileall.compile_dir(base, quiet=1)
        files = chosen.tests.split(",") if chosen.tests else TESTS
        source = Source(base, {str(source_of(module, base)): module for module in MODULES})
        reach = read_reach(source, files, Path(chosen.reach or f"{place}/reach.json"))
        if chosen.one:
            return run_named(base, chosen.one.split(","), reach)
        return 1 if run_sample(base, sample(modules, chosen.number, chosen.seed), reach) else 0


def run_named(base: Path, names: Sequence[str], reach: Reach) -> int:
    """Run some changes, and let their tests print."""
    ends = []
    for name in names:
        module, _, number = name.rpartition(":")
        mutant = all_mutants([module], base)[int(number)]
        print(f"{mutant}\n  - {mutant.change.before}\n  + {mutant.change.after or 'pass'}", flush=True)
        ends.append(try_mutant(base, mutant, reach, loud=True))
        print(f"{ends[-1].word} in {ends[-1].seconds:.1f} s", flush=True)
    return 1 if any(end.word == "passed" for end in ends) else 0


if __name__ == "__main__":
    sys.exit(main())
