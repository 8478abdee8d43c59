"""Measure speed and memory, and print a table for each row as soon as it is done.

    python bench/run.py [NAME...] [--json FILE] [--picture FILE.svg] [--work DIRECTORY]

The exit status is 1 if a row failed or a figure is over its limit.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.measure import Figure, RunFailedError
from bench.picture import picture
from bench.report import heading, machine, print_table, results_json, versions
from bench.rounds import Bench
from bench.rows import DEFAULT_ROWS, OPT_IN, ROWS


def read_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure speed and memory.")
    listed = f"rows to run, of {', '.join(ROWS)}; by default all but {', '.join(OPT_IN)}"
    parser.add_argument("names", nargs="*", metavar="NAME", help=listed)
    parser.add_argument("--rows", metavar="NAME,NAME", default="", help="the same, with commas")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run to FILE")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the figures as bars, into an SVG file")
    parser.add_argument("--work", type=Path, metavar="DIRECTORY", help="where to put 17 GB for a while (default: temp)")
    found = parser.parse_args(arguments)
    found.names += [name for name in found.rows.split(",") if name]
    unknown = sorted(set(found.names) - set(ROWS))
    if unknown:
        parser.error(f"no row {', '.join(unknown)}; there are {', '.join(ROWS)}")
    for path in (found.json, found.picture):
        if path is not None and not path.absolute().parent.is_dir():
            parser.error(f"{path}: there is no such directory")
    found.names = found.names or list(DEFAULT_ROWS)
    return found


@dataclass(slots=True)
class Results:
    """What was measured so far, and the files that tell it: they are whole after each row.

    Args:
        facts: The machine.
        json: Where every run goes, if anywhere.
        picture: Where the bars go, if anywhere.
        figures: The figures of all rows that are done.
        failed: The reason for each row that failed.
    """

    facts: dict[str, Any]
    json: Path | None
    picture: Path | None
    figures: list[Figure] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, row: str, bench: Bench) -> None:
        """Run a row, print its figures, and write the files anew."""
        start = time.perf_counter()
        print(f"\n{row}", flush=True)
        try:
            found = [replace(figure, row=row) for figure in ROWS[row](bench)]
        except RunFailedError as problem:
            self.failed[row] = str(problem)
            print(f"FAILED {problem}", flush=True)
        else:
            self.figures += found
            print_table(found)
        bench.clear()
        self.write(bench)
        bench.say(f"  {row}: {time.perf_counter() - start:.0f} s")

    def write(self, bench: Bench) -> None:
        """Write the files that were asked for, with what is known so far."""
        if self.json is not None:
            self.json.write_text(results_json(self.facts, self.figures, bench.runs, self.failed), encoding="utf-8")
        if self.picture is not None:
            lines = heading(self.facts, versions()).splitlines()
            self.picture.write_text(picture(self.figures, lines), encoding="utf-8")

    @property
    def is_within(self) -> bool:
        """Whether no row failed, and no figure is over its limit."""
        return not self.failed and all(figure.is_within for figure in self.figures)


def stop(number: int, frame: FrameType | None) -> None:
    """Leave as on Ctrl-C: what runs is ended, and what was written is removed."""
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> int:
    chosen = read_arguments(arguments)
    signal.signal(signal.SIGTERM, stop)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="weighbridge-bench-", dir=chosen.work and chosen.work.resolve()) as work:
        bench = Bench(Path(work), say=lambda line: print(line, file=sys.stderr, flush=True))
        results = Results(machine(Path(work)), chosen.json, chosen.picture)
        print(heading(results.facts, versions()), flush=True)
        for row in chosen.names:
            results.add(row, bench)
    print(f"\n{len(bench.runs)} processes in {time.perf_counter() - start:.0f} s")
    return 0 if results.is_within else 1


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit("interrupted; the checkpoints that were made are removed") from None
