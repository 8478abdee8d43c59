"""Note once which statements of some modules each test reaches: a change to one is seen by no other tests.

What was noted may be kept in a file: a test file is run again only when it has changed, or a module that it reaches.
"""

from __future__ import annotations

import builtins
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from mutant_runs import Chosen, file_of, fork, name_of, run_pytest
from mutations import MARKS, mark_statements

Reach = dict[str, "Reached"]
"""By the name of a test, what it reaches."""


class Reached(NamedTuple):
    """What one test reaches, by module the lines of statements; and the seconds of processor time that it takes."""

    seconds: float
    lines: dict[str, list[int]]


class Source(NamedTuple):
    """A copy of the source, and the name of each module of it that matters, by its file."""

    base: Path
    modules: dict[str, str]


class Noting:
    """A plugin for pytest: note which statements of the marked modules each test reaches, in whichever thread."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.reach: Reach = {}
        self.failed: set[str] = set()
        self._name = ""
        self._marks: dict[str, dict[int, int]] = {module: {} for module in source.modules.values()}
        setattr(builtins, MARKS, self._marks)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Iterator[Any]:
        self._name = name_of(self.source.base, item)
        for marks in self._marks.values():
            marks.clear()
        began = time.process_time()
        try:
            return (yield)
        finally:
            lines = {module: sorted(marks) for module, marks in self._marks.items() if marks}
            self.reach[self._name] = Reached(time.process_time() - began, lines)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failed.add(self._name)


@contextmanager
def marked(source: Source) -> Iterator[None]:
    """Let the modules of the copy note what runs, for a while."""
    originals = {Path(path): Path(path).read_text() for path in source.modules}
    for path, text in originals.items():
        path.write_text(mark_statements(text, source.modules[str(path)]))
    try:
        yield
    finally:
        for path, text in originals.items():
            path.write_text(text)


def read_reach(source: Source, files: Sequence[str], kept: Path) -> Reach:
    """Return what the tests of some files reach, from a file where it was kept, or by running them; and keep it there.

    Args:
        source: The copy of the source.
        files: Names of test files, below `tests` or, for the examples of a module's docstrings, below `src`.
        kept: The file to keep it in.
    """
    states = {module: _digest(Path(path)) for path, module in source.modules.items()}
    found = json.loads(kept.read_text()) if kept.is_file() else {}
    for name in files:
        state = found[name]["state"] if name in found else {}
        now = {module: states.get(module) for module in state if module} | {"": _digest(file_of(source.base, name))}
        if state != now:
            reach = _note(source, name, kept.with_suffix(".new"))
            reached = {module for _, lines in reach.values() for module in lines}
            found[name] = {"state": {module: states[module] for module in reached} | {"": now[""]}, "reach": reach}
            kept.write_text(json.dumps(found))
    return {test: Reached(*reached) for name in files for test, reached in found[name]["reach"].items()}


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def _note(source: Source, name: str, answer: Path) -> Reach:
    """Run a file's tests on the source as it is; those that fail there are left out, as they would for every change."""

    def run() -> int:
        noting = Noting(source)
        status = run_pytest(source.base, [name], [Chosen(source.base), noting], "--maxfail=1000")
        answer.write_text(json.dumps([noting.reach, sorted(noting.failed)]))
        return 0 if status == pytest.ExitCode.TESTS_FAILED else status

    with marked(source):
        end = fork(run, source.base, 1000, loud=False)
    if end.word != "passed":
        sys.exit(f"{name} cannot be run")
    reach, failed = json.loads(answer.read_text())
    answer.unlink()
    print(f"      as it is       {end.seconds:5.1f} s  {name}, {len(reach)} tests", flush=True)
    for test in failed:
        print(f"      left out, as it fails without a change: {test}", flush=True)
    return {test: reached for test, reached in reach.items() if test not in failed}
