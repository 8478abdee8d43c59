"""Run a module's command line in a fork of a process that has imported what it needs: a real process, without the wait.

    python tests/forked.py NAME...      imports modules, reads commands as JSON lines, and answers how each ended

A test starts the command dozens of times, and most of the time of each is imports. What imports mean, and how long they
take, is tested with processes of their own.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
COMMAND = ("torch", "weighbridge.*")
BENCH = (
    *COMMAND,
    *(f"transformers.models.{name}.modeling_{name}" for name in ("llama", "qwen3_moe")),
    "weighbridge.integrations.transformers",
    *(f"bench.work_{name}" for name in ("devices", "models", "plans", "tensors")),
)
NOT_LOADED = ("weighbridge.integrations", "weighbridge.testing", "weighbridge.__main__")
"""What `weighbridge.*` leaves out: what needs other libraries, and what runs when it is imported."""


class Ended(NamedTuple):
    """How a process ended: its status, the processor's seconds, and what it printed to each stream."""

    status: int
    cpu_s: float
    out: bytes
    err: bytes


class Forks:
    """A process that runs modules in forks of itself.

    Args:
        modules: What it imports, by name; `.*` at the end is a package with all that it holds.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        command = [sys.executable, str(Path(__file__).resolve()), *modules]
        self.server = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(
        self, module: str, words: Sequence[str], folder: Path, environment: Mapping[str, str], *, as_one: bool = False
    ) -> Ended:
        """Run `python -m module words`, in a folder, and wait for its end; `as_one` gives both streams as `out`."""
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        with tempfile.NamedTemporaryFile() as out, tempfile.NamedTemporaryFile() as err:
            command = {
                "module": module,
                "words": list(words),
                "folder": str(folder),
                "environment": dict(environment),
                "streams": [out.name, out.name if as_one else err.name],
            }
            print(json.dumps(command), file=self.server.stdin, flush=True)
            status, cpu_s = json.loads(self.server.stdout.readline())
            return Ended(status, cpu_s, out.read(), err.read())


@cache
def forks(modules: tuple[str, ...]) -> Forks:
    """Start the process that forks, once; it ends when this process does, since its input ends then."""
    return Forks(modules)


def serve(modules: Sequence[str]) -> None:
    """Import modules, and fork for each line."""
    for name in modules:
        module = importlib.import_module(name.removesuffix(".*"))
        if name.endswith(".*"):
            for found in pkgutil.walk_packages(module.__path__, f"{module.__name__}."):
                if not found.name.startswith(NOT_LOADED):
                    importlib.import_module(found.name)
    gc.freeze()  # no child looks through all that for garbage
    for line in sys.stdin:
        command = json.loads(line)
        process = os.fork()
        if not process:
            _become(command)
        _, status, usage = os.wait4(process, 0)
        print(json.dumps([os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime]), flush=True)


def _become(command: Any) -> None:
    """Run a module as `python -m` does, in this process, which ends with it."""
    os.chdir(command["folder"])
    os.environ.clear()
    os.environ.update(command["environment"])
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for number, name in enumerate(command["streams"], 1):
        os.dup2(os.open(name, os.O_WRONLY | os.O_APPEND), number)
    sys.path[0] = command["folder"]
    sys.argv = ["", *command["words"]]
    status = 0
    try:
        runpy.run_module(command["module"], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException as error:
        status = 1
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    serve(sys.argv[1:])
