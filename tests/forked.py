"""Run what the benchmarks measure in forks of one process that has imported everything: what it does, without its wait.

    python tests/forked.py      reads commands as JSON lines, and answers each with how it ended

Each command still runs in a process of its own. Only its memory is not watched, and no time of its means anything.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.measure import ROOT, Run, RunFailedError, child_environment, run_python

CHILD = ("-m", "bench.child")


class Forks:
    """Starts the children of the benchmarks; anything else is run as they run it.

    Args:
        server: The process that forks.
    """

    def __init__(self, server: subprocess.Popen[str]) -> None:
        self.server = server

    def run(self, *arguments: str | Path) -> Run:
        """Run this interpreter with arguments.

        Raises:
            RunFailedError: With the end of the output, if the exit status is not 0.
        """
        words = tuple(str(argument) for argument in arguments)
        if words[:2] != CHILD:
            return run_python(*words)
        began = time.perf_counter()
        with tempfile.NamedTemporaryFile() as output:
            assert self.server.stdin is not None
            assert self.server.stdout is not None
            print(json.dumps({"words": words[2:], "output": output.name}), file=self.server.stdin, flush=True)
            status, cpu_s = json.loads(self.server.stdout.readline())
            text = output.read().decode(errors="replace")
        if status:
            raise RunFailedError(f"{' '.join(words)}: exit status {status}\n{text[-2000:].rstrip()}")
        command = (sys.executable, *words)
        return Run(command, time.perf_counter() - began, cpu_s, None, None, 0, 0, text)


@contextlib.contextmanager
def forks() -> Iterator[Forks]:
    """Start the process that forks, and end it."""
    command = [sys.executable, str(Path(__file__).resolve())]
    with subprocess.Popen(
        command, cwd=ROOT, env=child_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        yield Forks(server)


def serve() -> None:
    """Import what children need, and fork one for each line."""
    import torch
    import transformers

    import weighbridge.integrations.transformers
    import weighbridge.models.modules  # noqa: F401
    from bench import child

    torch.set_num_threads(1)
    for name in ("LlamaForCausalLM", "Qwen3MoeForCausalLM"):
        getattr(transformers, name)
    for line in sys.stdin:
        command = json.loads(line)
        process = os.fork()
        if not process:
            _become(child.main, command)
        _, status, usage = os.wait4(process, 0)
        print(json.dumps([os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime]), flush=True)


def _become(main: Any, command: Any) -> None:
    """Run a command in this process, which ends with it."""
    descriptor = os.open(command["output"], os.O_WRONLY)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    status = 1
    try:
        main(*command["words"])
        status = 0
    except SystemExit as end:
        print(end.code, file=sys.stderr)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    serve()
