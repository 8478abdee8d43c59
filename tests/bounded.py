"""Run a few lines in a process of their own that may not use more than so much processor time and memory.

What takes too long, or too much, is a failure there, and not the end of the test run. The process is a fork of one that
has imported everything, torch as well, so that a test waits for its own lines only.

    python -m bounded SCRIPT ARGUMENT...     is that process
"""

from __future__ import annotations

import json
import os
import sys
from typing import Final, NamedTuple

from conftest import ROOT
from forked import COMMAND, forks

SECONDS: Final = 10
MEGABYTES: Final = 1000

_FRAME: Final = """
import json, os, resource, sys
import weighbridge as wb
{imports}
resource.setrlimit(resource.RLIMIT_CPU, ({seconds}, {seconds}))
mapped = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
resource.setrlimit(resource.RLIMIT_AS, (mapped + {size_bytes},) * 2)

def run():
{body}

try:
    found = {{"value": run()}}
except wb.WeighbridgeError as error:
    problems = [problem.code for problem in getattr(error, "problems", ())]
    found = {{"code": error.code, "problems": problems, "text": str(error)[:20000]}}
print(json.dumps(found))
"""


class Outcome(NamedTuple):
    """What came of some lines: the value that they return, or the error that they raise.

    Args:
        value: A JSON value.
        codes: The error's code, then those of the problems that it lists.
        text: What the error prints, or its beginning.
    """

    value: object = None
    codes: tuple[str, ...] = ()
    text: str = ""


def run_bounded(
    body: str, *arguments: object, imports: str = "", seconds: int = SECONDS, megabytes: int = MEGABYTES
) -> Outcome:
    """Run lines as the body of a function, and return what comes of them.

    Args:
        body: The lines; `wb` is there, and the arguments as `sys.argv[1:]`.
        arguments: Texts for the lines.
        imports: Lines that run before anything is limited.
        seconds: The most processor time.
        megabytes: The most memory that may be mapped beyond what is when the lines begin.
    """
    indented = "\n".join(f"    {line}" for line in body.strip("\n").splitlines())
    script = _FRAME.format(seconds=seconds, size_bytes=megabytes * 2**20, imports=imports, body=indented)
    ended = forks(COMMAND).run("bounded", [script, *map(str, arguments)], ROOT / "tests", os.environ)
    assert ended.status == 0, f"ended with {ended.status}: {ended.err.decode()[-2000:]}"
    found = json.loads(ended.out.splitlines()[-1])
    if "code" not in found:
        return Outcome(found["value"])
    return Outcome(codes=(found["code"], *found["problems"]), text=found["text"])


if __name__ == "__main__":
    words = sys.argv.pop(1)
    exec(words, {})
