"""Measure speed and memory, and print a table: `python bench/run.py [NAME...] [--json FILE] [--work DIRECTORY]`.

The exit status is 1 if a row failed or a figure is over its limit.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.measure import Figure, RunFailedError
from bench.report import heading, machine, print_table, results_json, versions
from bench.rows import DEFAULT_ROWS, ROWS, Bench


def read_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure speed and memory.")
    listed = f"rows to run, of {', '.join(ROWS)}; by default {', '.join(DEFAULT_ROWS)}"
    parser.add_argument("rows", nargs="*", metavar="NAME", help=listed)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run to FILE")
    parser.add_argument("--work", type=Path, metavar="DIRECTORY", help="where to put 10 GB for a while (default: temp)")
    found = parser.parse_args(arguments)
    unknown = sorted(set(found.rows) - set(ROWS))
    if unknown:
        parser.error(f"no row {', '.join(unknown)}; there are {', '.join(ROWS)}")
    return found


def run_rows(names: list[str], bench: Bench) -> tuple[list[Figure], dict[str, str]]:
    """Run rows; return the figures, and the reason for each row that failed."""
    figures: list[Figure] = []
    failed = {}
    for name in names:
        try:
            figures += ROWS[name](bench)
        except RunFailedError as problem:
            failed[name] = str(problem)
    return figures, failed


def main() -> int:
    chosen = read_arguments()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="weighbridge-bench-", dir=chosen.work) as work:
        facts = machine(Path(work))
        bench = Bench(Path(work), say=lambda line: print(line, file=sys.stderr, flush=True))
        figures, failed = run_rows(chosen.rows or list(DEFAULT_ROWS), bench)
    print(heading(facts, versions()) + "\n")
    print_table(figures)
    for name, reason in failed.items():
        print(f"\nFAILED {name}: {reason}")
    print(f"\n{len(bench.runs)} processes in {time.perf_counter() - start:.0f} s")
    if chosen.json is not None:
        chosen.json.write_text(results_json(facts, figures, bench.runs, failed), encoding="utf-8")
    return 1 if failed or not all(figure.is_within for figure in figures) else 0


if __name__ == "__main__":
    raise SystemExit(main())
