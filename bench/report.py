"""Print figures as a table, and write them with everything behind them as JSON."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import weighbridge as wb
from bench.measure import Figure, Run

COLUMNS = ("measured", "median", "min", "max", "runs", "ratio", "limit", "")
PACKAGES = ("torch", "safetensors", "transformers", "rich", "typer")


def table_rows(figures: Iterable[Figure]) -> list[tuple[str, ...]]:
    """Return rows of texts under `COLUMNS`: one for each figure, and one more for each further comparison."""
    return [row for figure in figures for row in _rows(figure)]


def _rows(figure: Figure) -> Iterator[tuple[str, ...]]:
    values = (figure.median, min(figure.values), max(figure.values))
    texts = [figure.name, *(format_value(value, figure.unit) for value in values), str(len(figure.values))]
    limit = "" if figure.limit is None else f"{figure.limit:g} {figure.unit}"
    verdicts = [("", limit, _verdict(figure.limit, figure.is_within_limit))] if limit or not figure.comparisons else []
    for compared in figure.comparisons:
        bound = "" if compared.limit is None else f"{compared.limit:g} ×"
        verdicts.append(
            (f"{compared.ratio:.2f} × {compared.other}", bound, _verdict(compared.limit, compared.is_within))
        )
    for verdict in verdicts:
        yield (*texts, *verdict)
        texts = [""] * len(texts)


def _verdict(limit: float | None, is_within: bool) -> str:
    if limit is None:
        return ""
    return "ok" if is_within else "OVER"


def format_value(value: float, unit: str) -> str:
    """Write a value with its unit."""
    return f"{value:.2f} {unit}" if unit == "s" else f"{value:.0f} {unit}"


def plain_table(rows: Sequence[Sequence[str]]) -> str:
    """Set rows in columns of equal width."""
    lines = [COLUMNS, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def print_table(figures: Iterable[Figure]) -> None:
    """Print figures, with rich where it is installed."""
    rows = table_rows(figures)
    plain = plain_table(rows)
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        print(plain)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(COLUMNS):
        table.add_column(column, justify="right" if 1 <= number <= 4 else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row, style="red" if row[-1] == "OVER" else None)
    # Wide enough that no cell is cut, even where the terminal is narrow or there is none.
    Console(width=max(len(line) for line in plain.splitlines()) + 2 * len(COLUMNS)).print(table)


def machine(work: Path) -> dict[str, Any]:
    """Describe the machine: processor, cores, memory, system, and the file system of the working directory."""
    return {
        "processor": _first_match("/proc/cpuinfo", r"^model name\s*: (.+)$") or platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "file_system": file_system(work),
        "load": round(os.getloadavg()[0], 2),
    }


def _first_match(path: str, pattern: str) -> str:
    try:
        found = re.search(pattern, Path(path).read_text(), re.MULTILINE)
    except OSError:
        return ""
    return found[1] if found else ""


def file_system(place: Path) -> str:
    """Name the kind of file system that a directory lies on; empty where the system does not tell."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return ""
    around = [mount for mount in mounts if place.resolve().is_relative_to(mount[1])]
    return max(around, key=lambda mount: len(mount[1]))[2] if around else ""


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that take part."""
    found = {"weighbridge": wb.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def heading(facts: dict[str, Any], found: dict[str, str]) -> str:
    """Return the lines above the table."""
    memory = f"{facts['memory_bytes'] / 2**30:.0f} GiB"
    described = f"{facts['processor']}, {facts['cores']} cores, {memory}, {facts['system']}, {facts['file_system']}"
    lines = [described, ", ".join(f"{name} {version}" for name, version in found.items())]
    if facts["load"] > facts["cores"] / 4:
        lines.append(f"The machine was busy at the start (load {facts['load']}): times are longer than they would be.")
    return "\n".join(lines)


def results_json(facts: dict[str, Any], figures: Iterable[Figure], runs: Iterable[Run], failed: dict[str, str]) -> str:
    """Return everything that was measured: the machine, versions, figures with each value, and each process."""
    listed = [_figure_form(figure) for figure in figures]
    processes = [run._asdict() | {"output": run.output[-1000:]} for run in runs]
    form = {"machine": facts, "versions": versions(), "figures": listed, "failed": failed, "processes": processes}
    return json.dumps(form, indent=1) + "\n"


def _figure_form(figure: Figure) -> dict[str, Any]:
    return {
        "row": figure.row,
        "name": figure.name,
        "unit": figure.unit,
        "values": figure.values,
        "median": figure.median,
        "min": min(figure.values),
        "max": max(figure.values),
        "limit": figure.limit,
        "comparisons": [
            compared._asdict() | {"ratio": compared.ratio, "is_within": compared.is_within}
            for compared in figure.comparisons
        ],
        "is_ours": figure.is_ours,
        "is_within": figure.is_within,
    }
