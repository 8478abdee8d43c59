"""Measure the page of a plan in a real browser, and print medians: `python bench/page.py [--rounds N]`.

What is measured, for the plan of a DeepSeek-V3-size header: the time to make the page, its size, the time from the
start of the navigation to the frame that shows the first rows, and the time from a changed query to the frame that
shows what was found. The exit status is 1 if a figure is over its limit.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import weighbridge as wb
from bench.browser import Browser, find_browser
from bench.inventories import DeepSeek, deepseek, deepseek_mapping

MAX_SIZE_MB: Final = 15.0
MAX_OPEN_S: Final = 2.0
MAX_SEARCH_MS: Final = 200.0

QUERIES: Final = (
    "e",
    "experts.17.down",
    "layers.*.q_a*scale",
    "*experts.1??.*proj.weight*",
    "fate:moved",
    "no such key",
)

PAINTED: Final = """
addEventListener("load", () => requestAnimationFrame(() => setTimeout(() => { window.painted = performance.now(); })));
"""
"""Notes when the first frame after the script's end was painted, counted from the start of the navigation."""

SEARCH: Final = """new Promise(done => {
  const query = document.getElementById("query");
  query.value = %s;
  const start = performance.now();
  query.dispatchEvent(new Event("input"));
  const worked = performance.now() - start;
  requestAnimationFrame(() => setTimeout(() => done([worked, performance.now() - start])));
})"""


class Measured(NamedTuple):
    """One figure: what it is, its unit, every value, and what the median may be at most."""

    name: str
    unit: str
    values: tuple[float, ...]
    limit: float | None = None

    @property
    def is_within(self) -> bool:
        """Whether the figure keeps its limit."""
        return self.limit is None or statistics.median(self.values) <= self.limit


def measure_page(program: str, sizes: DeepSeek, rounds: int = 5) -> Iterator[Measured]:
    """Make the page of a plan and look at it in a browser.

    Args:
        program: Path of the browser.
        sizes: Sizes of the model that is planned.
        rounds: How often each thing is measured.
    """
    plan = wb.plan(deepseek(sizes), deepseek_mapping())
    made = []
    for _ in range(rounds):
        start = time.perf_counter()
        page = plan.to_html()
        made.append(time.perf_counter() - start)
    name = f"page of {len(plan.source):,} keys"
    yield Measured(f"{name}, made", "s", tuple(made))
    yield Measured(f"{name}, size", "MB", (len(page.encode()) / 1e6,), MAX_SIZE_MB)
    with tempfile.TemporaryDirectory(prefix="weighbridge-page-") as folder, Browser(program) as browser:
        path = Path(folder) / "page.html"
        path.write_text(page, encoding="utf-8")
        opened = [_open_seconds(browser, path) for _ in range(rounds)]
        yield Measured("opened, to first rows", "s", tuple(opened), MAX_OPEN_S)
        for query in QUERIES:
            times = [browser.evaluate(SEARCH % json.dumps(query)) for _ in range(rounds)]
            yield Measured(f"search {query!r}, script", "ms", tuple(worked for worked, _ in times))
            yield Measured(f"search {query!r}, to rows", "ms", tuple(shown for _, shown in times), MAX_SEARCH_MS)


def _open_seconds(browser: Browser, path: Path) -> float:
    browser.open(path, before=PAINTED)
    browser.settle()
    rows = browser.evaluate("document.querySelectorAll('[role=treeitem]').length")
    if not rows or browser.complaints():
        raise SystemExit(f"the page does not open: {rows} rows, {browser.complaints()}")
    return float(browser.evaluate("window.painted")) / 1000


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the page of a plan in a real browser.")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="how often each thing is measured")
    rounds = parser.parse_args().rounds
    program = find_browser()
    if program is None:
        print("there is no Chromium: install it, or name one in WEIGHBRIDGE_BROWSER", file=sys.stderr)
        return 1
    within = True
    for figure in measure_page(program, DeepSeek(), rounds):
        values = figure.values
        limit = "" if figure.limit is None else f"   at most {figure.limit:g} {figure.unit}"
        spread = f"{min(values):.3g} to {max(values):.3g}"
        print(f"{figure.name:<46} {statistics.median(values):>8.3g} {figure.unit:<3} {spread:>16}{limit}", flush=True)
        within &= figure.is_within
    return 0 if within else 1


if __name__ == "__main__":
    raise SystemExit(main())
