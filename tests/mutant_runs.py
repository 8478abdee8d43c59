"""Run chosen tests on a copy of the source, in a forked process, up to the first that fails.

Property tests draw fewer examples than usual, always the same ones.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = 30
"""Examples of each property test, instead of its thousand."""

BUSY = 30
"""How many times its processor time a process may take, before it counts as one that waits for ever."""

MOST_MEMORY = 8 * 2**30
"""Address space of a process that runs tests, in bytes: a change may let something grow without end."""

SLOW = {
    *("test_every_element_is_written_once_and_read_once", "test_the_way_back_gives_the_very_same_files"),
    *("test_shards_mean_nothing", "test_a_source_that_breaks_leaves_nothing_behind"),
    *("test_a_directory_goes_back_or_stays", "test_coverage_gives_up_on_tangled_copies"),
}
"""Tests that write files, for what quicker ones hold as well."""


class End(NamedTuple):
    """How a run of tests ended, `passed`, `failed` or `timeout`, and the seconds that went by."""

    word: str
    seconds: float


class Chosen:
    """A plugin for pytest: run only the named tests, in the order of their names; all of them if there are none.

    What is expected to fail, and what is slow, is left out, and what would start a process is skipped. Property tests
    draw a few examples, always the same.
    """

    def __init__(self, base: Path, names: Sequence[str] = ()) -> None:
        self.base = base
        self.places = {name: place for place, name in enumerate(names)}
        subprocess.Popen = _NoProcess  # type: ignore[assignment,misc]

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        kept = [item for item in items if self._is_wanted(item)]
        items[:] = sorted(kept, key=lambda item: self.places.get(name_of(self.base, item), 0))
        for item in items:
            _draw_less(item)

    def _is_wanted(self, item: Any) -> bool:
        if getattr(item, "originalname", "") in SLOW or item.get_closest_marker("xfail") is not None:
            return False
        return not self.places or name_of(self.base, item) in self.places


class _NoProcess:
    """Stands for a process that a test would start: that takes long, and shows little of what ran in it."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pytest.skip("would start a process")


def name_of(base: Path, item: Any) -> str:
    """Name a test by its file, below `tests` or `src`, and its own name."""
    _, _, own = item.nodeid.partition("::")
    is_copied = item.path.is_relative_to(base)
    return f"{item.path.relative_to(base.parent if is_copied else ROOT / 'tests').as_posix()}::{own}"


def file_of(base: Path, name: str) -> Path:
    """Return the file of a test, or of a module's examples, by its name."""
    name = name.partition("::")[0]
    return base.parent / name if name.startswith("src/") else ROOT / "tests" / name


def _draw_less(item: Any) -> None:
    from hypothesis import Phase, settings

    function = getattr(item, "obj", None)
    function = getattr(function, "__func__", function)
    own = getattr(function, "_hypothesis_internal_use_settings", None)
    if own is not None:
        few = min(own.max_examples, EXAMPLES)
        function._hypothesis_internal_use_settings = settings(
            own, max_examples=few, derandomize=True, database=None, phases=(Phase.explicit, Phase.generate)
        )


def run_tests(base: Path, names: Sequence[str], seconds: float, *, loud: bool = False) -> End:
    """Run tests on the copy of the source, up to the first that fails.

    Args:
        base: The copy.
        names: The tests, in their order.
        seconds: The processor time that they may take; on a busy machine, many times as much may go by.
        loud: Whether the tests may print.
    """
    return fork(lambda: run_pytest(base, names, [Chosen(base, names)]), base, seconds, loud=loud)


def run_pytest(base: Path, names: Sequence[str], plugins: list[Any], *further: str) -> int:
    """Run the files of some tests in this process, with further options; a plugin chooses among what they hold."""
    options = ["-x", "-q", "--no-header", "-p", "no:cacheprovider", "-p", "no:xdist", "-c", f"{ROOT}/pyproject.toml"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of what was loaded before
    files = dict.fromkeys(str(file_of(base, name)) for name in names)
    status = pytest.main([*options, *further, *files], plugins=plugins)
    return int(status) if status != pytest.ExitCode.NO_TESTS_COLLECTED else 0


def fork(run: Callable[[], int], base: Path, seconds: float, *, loud: bool) -> End:
    """Call `run` in a process of its own, which ends with it, and with all that it has started."""
    began = time.monotonic()
    child = os.fork()
    if not child:
        _run_here(run, base, seconds, loud)
    while time.monotonic() - began < BUSY * seconds:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return End(_word_of(status), time.monotonic() - began)
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return End("timeout", time.monotonic() - began)


def _word_of(status: int) -> str:
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU:
        return "timeout"
    return "passed" if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0 else "failed"


def _run_here(run: Callable[[], int], base: Path, seconds: float, loud: bool) -> None:
    os.setpgid(0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 2))
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    sys.path.insert(0, str(base))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(base), os.environ.get("PYTHONPATH", "")])
    sys.dont_write_bytecode = True  # a change that is written in the second of another one would pass for it
    os.chdir(ROOT)
    if not loud:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
    status = 3
    try:
        status = run()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def preload(*, library: bool) -> None:
    """Import what is slow and is not tested, once for all children; the library of models only if it is wanted."""
    import hypothesis.internal.conjecture.engine
    import hypothesis.strategies
    import numpy
    import pydantic
    import safetensors.torch
    import torch
    import yaml

    with suppress(ImportError):  # without it, the tests that need it are skipped
        if library:
            from transformers import BartForConditionalGeneration, LlamaForCausalLM, T5ForConditionalGeneration

            assert all((BartForConditionalGeneration, LlamaForCausalLM, T5ForConditionalGeneration))
    assert all((hypothesis, numpy, pydantic, safetensors, torch, yaml))
    loaded = [name for name in sys.modules if name.startswith("weighbridge")]
    assert not loaded, f"the copy would not be imported: {loaded[:3]} are already"
    gc.freeze()  # children need not look through all that again
