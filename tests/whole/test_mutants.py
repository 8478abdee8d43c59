"""The mutation tool: what it changes, that each change is one, and that the source stays as it is."""

from __future__ import annotations

import ast
import subprocess
import sys
from textwrap import dedent

import pytest
from conftest import ROOT
from mutants import TESTS, sample, source_of
from mutations import mutate, mutations

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


def test_words_and_what_is_known_are_left_alone():
    """A docstring, an annotation, the text of an error, and an assert for the type checker."""
    texts = {change.before for change in mutations(SOURCE)}
    assert not any(
        "Find one" in text or "is not None" in text for text in texts if text.startswith(('"', "'", "assert"))
    )
    assert "len(names) + 1" not in texts
    assert not any(change.line == 4 and change.kind != "constant" for change in mutations(SOURCE))


@pytest.mark.parametrize("module", TESTS)
def test_each_change_of_a_module_is_another_module_that_compiles(module):
    source = source_of(module).read_text()
    plain = ast.unparse(ast.parse(source)) + "\n"
    found = mutations(source)
    assert [change.number for change in found] == list(range(len(found)))
    for change in found[:: max(1, len(found) // 20)]:
        made = mutate(source, change.number)
        compile(made, module, "exec")
        assert made != plain, change


def test_tests_of_each_module_are_there():
    missing = [name for names in TESTS.values() for name in names if not (ROOT / "tests" / name).is_file()]
    assert missing == []


def test_a_sample_is_drawn_by_its_seed_and_grows():
    modules = list(TESTS)
    assert sample(modules, 20, 3)[:5] == sample(modules, 5, 3)
    assert sample(modules, 5, 3) != sample(modules, 5, 4)
    assert len({mutant.module for mutant in sample(modules, 60, 0)}) > 6


def test_the_command_prints_a_table_and_changes_nothing():
    before = {path: path.read_bytes() for path in (ROOT / "src").rglob("*.py")}
    command = [sys.executable, ROOT / "tests" / "mutants.py", "--number", "1", "--only", "planning/drafts"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert "planning/drafts" in done.stdout.split("survived", 1)[1]
    assert ("SURVIVED" in done.stdout) == (done.returncode == 1)
    assert {path: path.read_bytes() for path in (ROOT / "src").rglob("*.py")} == before
