"""Hold every class of the installed transformers to what weighbridge promises: `make sweep`.

Each class is made small, on the meta device, in a child process with a time and a memory limit; `sweeping/checks.py`
says what is looked at. There is a line of JSON a class, in build/sweep-VERSION.jsonl. A sweep that was stopped goes on
where it was, as long as versions and sources are the same.

    make sweep                      all classes, one process a core
    make sweep ONLY=llama,BartModel the classes of these families, or of these names
    make sweep TENTH=1              those that the tests run: our families, and a tenth of the others
    make sweep NUMBER=50            the first 50 that have no line yet
    make sweep AGAIN=1              those that were not well; the lines of all others are kept
    make sweep VALUES=all           with values of all, and not only where tensors are converted, and of a tenth
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from sweeping import lines, totals
from sweeping.checks import judge
from sweeping.children import run_each
from sweeping.classes import Named, chosen, model_class, names
from sweeping.outcomes import OK, said
from sweeping.page import Sweep, page

from weighbridge.integrations import transformers as wbt


def main() -> int:
    """Sweep, and print the totals."""
    arguments = read_arguments()
    if arguments.page:
        print("\n".join(page(Sweep(*lines.load(path)) for path in arguments.page)))
        return 0
    be_quiet()
    made_with = lines.stamp()
    path = arguments.out or lines.ROOT / "build" / f"sweep-{made_with['transformers']}.jsonl"
    found = lines.begin(path, made_with, keep=is_well if arguments.again else None)
    wanted = list(chosen(names(), arguments.only, as_tests=arguments.tenth))
    done = lines.done(found)
    left = importable((each for each in wanted if (each.family, each.name) not in done), path)
    work = partial(judge, by_value=arguments.values)
    began, last = time.monotonic(), 0.0
    for named, outcome in run_each(islice(left, arguments.number or None), work, jobs=arguments.jobs):
        is_line = isinstance(outcome, dict)
        lines.append(path, outcome if is_line else {"class": named.name, "family": named.family, "built": outcome})
        if time.monotonic() - last > 30:
            last = time.monotonic()
            print(f"{last - began:6.0f} s  {named.family}/{named.name}", flush=True)
    asked = {(each.family, each.name) for each in wanted}
    print("\n".join(totals.table(line for line in lines.load(path)[1] if (line["family"], line["class"]) in asked)))
    return 0


def is_well(line: lines.Line) -> bool:
    """Tell whether a class was built, and nothing was found."""
    return line["built"] == OK and not any(True for _ in totals.differing([line]))


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names of classes or families, with commas between")
    parser.add_argument("--tenth", action="store_true", help="a tenth of the classes, by hash")
    parser.add_argument("--number", type=int, default=0, help="how many classes at most")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="how many at a time")
    parser.add_argument("--values", default="some", choices=("all", "some", "none"), help="whose values are compared")
    parser.add_argument("--again", action="store_true", help="run those anew that were not well, and keep the others")
    parser.add_argument("--page", type=Path, nargs="+", help="print the page of the documentation for these files")
    parser.add_argument("--out", type=Path, help="the file of the lines")
    return parser.parse_args()


def be_quiet() -> None:
    """Keep the library's warnings, and ours, from standing between the lines: outcomes have them."""
    from transformers.utils import logging as theirs

    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    warnings.simplefilter("ignore")
    logging.getLogger("weighbridge").setLevel(logging.ERROR)
    wbt.registry()  # read once, before there are children


def importable(named: Iterator[Named], path: Path) -> Iterator[Named]:
    """Yield what is a model, imported here, so that children share it; a model that cannot be has its line at once."""
    for each in named:
        try:
            if model_class(each) is not None:
                yield each
        except Exception as refused:
            if "PreTrainedModel" not in each.bases or each.name.endswith("PreTrainedModel"):
                continue
            line: dict[str, Any] = {"class": each.name, "family": each.family, "built": said(refused)}
            lines.append(path, line)


if __name__ == "__main__":
    sys.exit(main())
