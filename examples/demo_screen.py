"""What the demo prints: panels and colours on a terminal, plain lines of text anywhere else."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from textwrap import fill
from typing import IO, NamedTuple

from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

PLAIN_WIDTH = 120
"""Characters on a line of plain text; what a plan prints is never wrapped."""

SHOWN_DIGITS = 10
"""Leading hexadecimal digits of a hash that a table shows; all of them are compared."""


RECEIPT = "weighbridge.json"
"""The file that every output has beside those of the model: the plan that made it."""


class Fact(NamedTuple):
    """A statement that the demo has checked, and whether it holds."""

    holds: bool
    text: str


class Screen(NamedTuple):
    """Where the demo prints."""

    console: Console

    @staticmethod
    def open(file: IO[str] | None = None) -> Screen:
        """Print to a file; by default to the standard output."""
        lively = Console(file=file, highlight=False)
        return Screen(lively if lively.is_terminal else Console(file=file, highlight=False, width=PLAIN_WIDTH))

    def title(self, title: str, note: str) -> None:
        """Open a part of the demo."""
        self.console.print()
        if self.console.is_terminal:
            self.console.print(Panel(Text(note), title=f"[bold]{title}", title_align="left", border_style="cyan"))
            return
        self.line(f"{title}\n{'=' * len(title)}\n{fill(note, PLAIN_WIDTH)}")

    def text(self, title: str, text: str) -> None:
        """Show a text under a short heading."""
        self.console.print()
        if self.console.is_terminal:
            self.console.print(Panel(Text(text), title=title, title_align="left", border_style="dim"))
            return
        self.line(f"-- {title}\n{text}")

    def table(self, title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
        """Show a table under a short heading; columns after the first are right-aligned."""
        self.console.print()
        lively = self.console.is_terminal
        table = Table(box=box.ROUNDED if lively else None, border_style="dim", pad_edge=lively)
        for number, name in enumerate(columns):
            table.add_column(Text(name), justify="right" if number else "left", no_wrap=True)
        for row in rows:
            table.add_row(*map(Text, row))
        self.line(title if lively else f"-- {title}")
        self.console.print(table)

    def line(self, text: str) -> None:
        """Print a text as it is."""
        self.console.print(Text(text), soft_wrap=True)

    def facts(self, facts: Iterable[Fact]) -> None:
        """Print facts, one on each line, as the last thing."""
        self.line("\nWhat was found")
        for fact in facts:
            mark = Text("ok      ", "bold green") if fact.holds else Text("FAILED  ", "bold red")
            self.console.print(mark + Text(fact.text), soft_wrap=True)

    def hashes(self, title: str, before: Mapping[str, str], **after: Mapping[str, str]) -> None:
        """Show the hashes of files: what they were before, and what they are after each way back."""
        columns = [before, *after.values()]
        rows = ([name, *(hashes.get(name, "absent")[:SHOWN_DIGITS] for hashes in columns)] for name in before)
        self.table(title, ["SHA-256 of", "before", *after], rows)


def file_hashes(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a directory by name, without the receipt that outputs have."""
    files = sorted(path for path in directory.iterdir() if path.is_file() and path.name != RECEIPT)
    return {path.name: file_hash(path) for path in files}


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
