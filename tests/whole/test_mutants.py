"""The mutation tool: what it changes, that each change is one, and that the source stays as it is."""

from __future__ import annotations

import ast
import builtins
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import pytest
from conftest import ROOT
from mutant_reach import Reached
from mutants import MODULES, TESTS, Mutant, choose_tests, sample, source_of
from mutations import MARKS, mark_statements, mutate, mutations

SOURCE = dedent('''
    """A module."""

    def first(names: list[str], most: int = 3) -> str | None:
        """Find one."""
        assert names is not None
        for name in sorted(names):
            if not name.startswith("a") and len(name) < most:
                continue
            found = [part for part in name.split(".") if part]
            found.reverse()
            return found[0]
        raise ValueError(f"none of {len(names) + 1}")
''')


def test_each_kind_of_change_is_made_once_at_its_place():
    changes = {(change.kind, change.before, change.after) for change in mutations(SOURCE)}
    assert {
        ("constant", "3", "4"),
        ("constant", "3", "2"),
        ("order", "sorted(names)", "list(names)"),
        ("not", "not name.startswith('a')", "name.startswith('a')"),
        ("comparison", "len(name) < most", "len(name) <= most"),
        ("comparison", "len(name) < most", "len(name) >= most"),
        ("statement", "continue", ""),
        ("filter", "for part in name.split('.') if part", "for part in name.split('.')"),
        ("statement", "found.reverse()", ""),
        ("return", "return found[0]", "return None"),
        ("constant", "0", "1"),
    } <= changes
    kinds = {kind for kind, _, _ in changes}
    assert {"and/or", "part of a condition", "turned if"} <= kinds


@pytest.mark.parametrize(
    "text", [SOURCE, "def f(a):\n    if not a:\n        return a == 1\n    return 2 if a in b else not b\n"]
)
def test_no_two_changes_come_to_the_same(text: str) -> None:
    made = [mutate(text, change.number) for change in mutations(text)]
    assert len(set(made)) == len(made)


def test_words_and_what_is_known_are_left_alone():
    """A docstring, an annotation, the text of an error, and an assert for the type checker."""
    texts = {change.before for change in mutations(SOURCE)}
    assert not any(
        "Find one" in text or "is not None" in text for text in texts if text.startswith(('"', "'", "assert"))
    )
    assert "len(names) + 1" not in texts
    assert mutations("pairs = zip(names, sizes, strict=True)") == []
    assert mutations("MOST: Final = 8 * 2**20") == []
    assert not any(change.line == 4 and change.kind != "constant" for change in mutations(SOURCE))


@pytest.mark.parametrize("module", MODULES)
def test_each_change_of_a_module_is_another_module_that_compiles(module: str) -> None:
    source = source_of(module).read_text()
    plain = ast.unparse(ast.parse(source)) + "\n"
    found = mutations(source)
    assert [change.number for change in found] == list(range(len(found)))
    for change in found[:: max(1, len(found) // 8)]:
        made = mutate(source, change.number)
        compile(made, module, "exec")
        assert made != plain, change


def test_test_files_are_there() -> None:
    base = {"src": ROOT, "tests": ROOT / "tests"}
    missing = [name for name in TESTS if not (base["src" if name.startswith("src/") else "tests"] / name).is_file()]
    assert missing == []


def test_marks_tell_which_statements_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change knows the statement that it is in; one outside all functions runs on import."""
    found = {(change.before, change.after): change.statement for change in mutations(SOURCE)}
    assert found["3", "4"] == 0
    assert found["continue", ""] == 9
    assert found["found.reverse()", ""] == 11
    marks: dict[str, dict[int, int]] = {}
    monkeypatch.setattr(builtins, MARKS, marks, raising=False)
    names: dict[str, object] = {}
    exec(compile(mark_statements(SOURCE, "module"), "module", "exec"), names)
    assert marks == {"module": {}}
    assert names["first"](["b", "ccc", "a.d"]) == "d"  # type: ignore[operator]
    assert sorted(marks["module"]) == [6, 7, 8, 10, 11, 12]
    names["first"](["b", "abc"])  # type: ignore[operator]
    assert names["first"].__doc__ == "Find one."
    assert 9 not in marks["module"]
    names["first"](["", "abc"])  # type: ignore[operator]
    assert 9 in marks["module"]


def test_a_change_meets_the_tests_that_reach_it_its_rooms_first_and_quick_ones_first() -> None:
    change = next(change for change in mutations(SOURCE) if change.before == "continue")
    reach = {
        "whole/test_a.py::test_quick": Reached(0.1, {"planning/joining": [9]}),
        "planning/test_b.py::test_slow": Reached(3.0, {"planning/joining": [6, 9]}),
        "planning/test_b.py::test_quick": Reached(0.2, {"planning/joining": [9]}),
        "planning/test_b.py::test_elsewhere": Reached(0.1, {"planning/joining": [6]}),
        "planning/test_b.py::test_of_another_module": Reached(0.1, {"planning/fitting": [9]}),
    }
    found = choose_tests(Mutant("planning/joining", change), reach)
    assert found == [
        "planning/test_b.py::test_quick",
        "planning/test_b.py::test_slow",
        "whole/test_a.py::test_quick",
    ]
    on_import = Mutant("planning/joining", replace(change, statement=0))
    assert len(choose_tests(on_import, reach)) == 4, "all that reach the module at all"


def test_a_sample_is_drawn_by_its_seed_and_grows() -> None:
    assert sample(MODULES, 20, 3)[:5] == sample(MODULES, 5, 3)
    assert sample(MODULES, 5, 3) != sample(MODULES, 5, 4)
    assert len({mutant.module for mutant in sample(MODULES, 60, 0)}) > 6


def test_the_command_prints_a_table_and_changes_nothing(tmp_path: Path) -> None:
    """It notes first what the tests reach, and keeps that."""
    before = {path: path.read_bytes() for path in (ROOT / "src").rglob("*.py")}
    command = [sys.executable, ROOT / "tests" / "mutants.py", "--number", "1", "--only", "planning/drafts"]
    command += ["--tests", "planning/test_readings.py", "--reach", tmp_path / "reach.json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert "as it is" in done.stdout
    assert "planning/drafts" in done.stdout.split("survived", 1)[1]
    assert ("SURVIVED" in done.stdout) == (done.returncode == 1)
    assert list(json.loads((tmp_path / "reach.json").read_text())) == ["planning/test_readings.py"]
    assert {path: path.read_bytes() for path in (ROOT / "src").rglob("*.py")} == before


def test_a_test_file_that_cannot_be_run_is_not_one_without_tests(tmp_path: Path) -> None:
    """Every change would survive it."""
    broken = tmp_path / "test_broken.py"
    broken.write_text("import nothing_of_that_name\n")
    command = [sys.executable, ROOT / "tests" / "mutants.py", "--number", "1", "--tests", broken]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr.strip()) == (1, f"{broken} cannot be run")
