"""Measure speed and memory, and print a table.

    python bench/run.py [NAME...] [--json FILE] [--picture FILE.svg] [--work DIRECTORY]

The exit status is 1 if a row failed or a figure is over its limit.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import FrameType

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
    parser.add_argument("--work", type=Path, metavar="DIRECTORY", help="where to put 16 GB for a while (default: temp)")
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


def run_rows(names: list[str], bench: Bench) -> tuple[list[Figure], dict[str, str]]:
    """Run rows; return the figures, and the reason for each row that failed."""
    figures: list[Figure] = []
    failed = {}
    for name in names:
        start = time.perf_counter()
        try:
            figures += (replace(figure, row=name) for figure in ROWS[name](bench))
        except RunFailedError as problem:
            failed[name] = str(problem)
        bench.clear()
        bench.say(f"  {name}: {time.perf_counter() - start:.0f} s")
    return figures, failed


def stop(number: int, frame: FrameType | None) -> None:
    """Leave as on Ctrl-C: what runs is ended, and what was written is removed."""
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> int:
    chosen = read_arguments(arguments)
    signal.signal(signal.SIGTERM, stop)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="weighbridge-bench-", dir=chosen.work and chosen.work.resolve()) as work:
        facts = machine(Path(work))
        bench = Bench(Path(work), say=lambda line: print(line, file=sys.stderr, flush=True))
        figures, failed = run_rows(chosen.names, bench)
    lines = heading(facts, versions())
    print(lines + "\n")
    print_table(figures)
    for name, reason in failed.items():
        print(f"\nFAILED {name}: {reason}")
    print(f"\n{len(bench.runs)} processes in {time.perf_counter() - start:.0f} s")
    if chosen.json is not None:
        chosen.json.write_text(results_json(facts, figures, bench.runs, failed), encoding="utf-8")
    if chosen.picture is not None:
        chosen.picture.write_text(picture(figures, lines.splitlines()), encoding="utf-8")
    return 1 if failed or not all(figure.is_within for figure in figures) else 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit("interrupted; everything that was written is removed") from None
