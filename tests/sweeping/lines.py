"""The file of a sweep: first what it was made with, then a line a class; one that was stopped goes on from there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import weighbridge as wb

ROOT: Final = Path(__file__).parents[2]
AFTERWARDS: Final = ("page", "reasons", "totals")
"""Modules that look at lines, and have no part in what they say."""

Line = Mapping[str, Any]


def stamp() -> dict[str, str]:
    """Return what the lines of a sweep depend on: versions, and our source."""
    import torch
    import transformers

    found = hashlib.sha256()
    for path in sorted([*(ROOT / "src").rglob("*.py"), *Path(__file__).parent.rglob("*.py")]):
        if path.stem in AFTERWARDS:
            continue
        found.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    versions = {"transformers": transformers.__version__, "torch": torch.__version__, "weighbridge": wb.__version__}
    return {**versions, "source": found.hexdigest()[:16]}


def begin(path: Path, made_with: Mapping[str, str], keep: Callable[[Line], bool] | None = None) -> list[Line]:
    """Return the lines that are there already, if they were made with the same; else begin the file anew.

    Args:
        path: The file.
        made_with: What new lines will be made with.
        keep: Says which lines stay that were made with another source of ours; without it, none does.
    """
    head, lines = load(path) if path.is_file() else ({}, [])
    if keep is None and head == made_with:
        return lines
    is_alike = all(head.get(name) == made_with[name] for name in ("transformers", "torch") if name in made_with)
    kept = [line for line in lines if is_alike and keep is not None and keep(line)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(each) + "\n" for each in (made_with, *kept)), encoding="utf-8")
    return kept


def load(path: Path) -> tuple[dict[str, str], list[Line]]:
    """Read a file: what it was made with, and its lines; a last one that was cut off is left out, and removed."""
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    head, *lines = map(json.loads, whole.splitlines() or ["{}"])
    return head, lines


def append(path: Path, line: Line) -> None:
    """Add a line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def done(lines: Iterable[Line]) -> set[tuple[str, str]]:
    """Return the classes that have a line."""
    return {(line["family"], line["class"]) for line in lines}
