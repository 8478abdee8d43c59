"""Run a few lines in a process of their own that may not use more than so much processor time and memory.

What takes too long, or too much, is a failure there, and not the end of the test run.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Final, NamedTuple

SECONDS: Final = 10
MEGABYTES: Final = 1000

_FRAME: Final = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_CPU, ({seconds}, {seconds}))
import weighbridge as wb
{imports}
resource.setrlimit(resource.RLIMIT_AS, ({size_bytes}, {size_bytes}))

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
        imports: Lines that run before the memory is limited, for libraries that reserve much of it.
        seconds: The most processor time.
        megabytes: The most memory that the process may have mapped.
    """
    indented = "\n".join(f"    {line}" for line in body.strip("\n").splitlines())
    script = _FRAME.format(seconds=seconds, size_bytes=megabytes * 2**20, imports=imports, body=indented)
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 * seconds, check=False)
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr[-2000:]}"
    found = json.loads(done.stdout.splitlines()[-1])
    if "code" not in found:
        return Outcome(found["value"])
    return Outcome(codes=(found["code"], *found["problems"]), text=found["text"])
