"""The command `lint`: one mapping, or all of a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from weighbridge import api
from weighbridge.base.errors import WeighbridgeError
from weighbridge.base.specs import Header
from weighbridge.cli.mapping_argument import load_argument
from weighbridge.cli.printing import DIFFERENT, Output, reporting
from weighbridge.cli.shared_options import spread
from weighbridge.mappings.registry import default_registry
from weighbridge.studies.lint import Entry, lint as lint_mapping, lint_registry
from weighbridge.studies.lint.table import table_lines


@dataclass(frozen=True, slots=True)
class LintSubject:
    """What is checked, as the command's arguments say it; one of the first three is given.

    Args:
        mapping: The argument MAPPING.
        registered: A registered name.
        transformers: Whether the installed library's table is meant.
        header: Place of a checkpoint with the mapping's source keys.
        target: Place of a checkpoint with its target keys.
    """

    mapping: str | None
    registered: str | None
    transformers: bool
    header: str | None
    target: str | None

    def check(self, ignored: Iterable[str]) -> list[Entry]:
        """Check it.

        Args:
            ignored: Codes of findings to leave out.

        Raises:
            WeighbridgeError: `usage`, and what loading the mapping and opening the checkpoints raises.
        """
        self._refuse_unclear()
        entries = self._table() if self.transformers else [self._single()]
        return [entry._replace(report=entry.report.without(ignored)) for entry in entries]

    def _refuse_unclear(self) -> None:
        given = [self.mapping is not None, self.registered is not None, self.transformers]
        if sum(given) != 1:
            what = "give one of MAPPING, --registered NAME and --transformers"
            raise WeighbridgeError("usage", what, got=f"{sum(given)} of them")
        if self.transformers and (self.header or self.target):
            raise WeighbridgeError("usage", "a whole table has no header and no target", got="--transformers")

    def _table(self) -> list[Entry]:
        from weighbridge.integrations.transformers import registry  # it loads the library, which is slow

        return lint_registry(registry())

    def _single(self) -> Entry:
        found = load_argument(self.mapping) if self.mapping is not None else default_registry.find(str(self.registered))
        report = lint_mapping(found, _header(self.header), _header(self.target))
        return Entry((found.name,), report)

    def form(self, entries: Sequence[Entry]) -> Any:
        """Return the JSON form of the answer."""
        if not self.transformers:
            return entries[0].report.to_dict()
        return {"mappings": [entry.to_dict() for entry in entries]}

    def lines(self, entries: Sequence[Entry]) -> Iterator[str]:
        """Yield the answer as text."""
        return table_lines(entries) if self.transformers else entries[0].report.lines()


def _header(place: str | None) -> Header | None:
    return api.open(place).header if place is not None else None


@spread
def lint(
    output: Output,
    mapping: Annotated[
        str | None, typer.Argument(metavar="MAPPING", help="A registered name, path.yaml, path.py:NAME, or path.json.")
    ] = None,
    registered: Annotated[
        str | None, typer.Option(metavar="NAME", help="Check what is registered under a name.")
    ] = None,
    transformers: Annotated[
        bool, typer.Option("--transformers", help="Check the table of the installed transformers.")
    ] = False,
    header: Annotated[
        str | None, typer.Option(metavar="PLACE", help="A checkpoint with the keys that the mapping is for.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="PLACE", help="A checkpoint in the layout that it leads to.")
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(metavar="CODE", help="Leave these findings out; may be given again.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Let a warning end with status 1, too.")] = False,
) -> None:
    """Check a mapping for rules that never match, overlap, collide or do not come back; nothing is converted.

    Example: weighbridge lint qwen3_moe --header model/
    """
    with reporting(output):
        subject = LintSubject(mapping, registered, transformers, header, target)
        entries = subject.check(ignore or ())
        output.give(lambda: subject.form(entries), subject.lines(entries))
        if any(entry.report.findings if strict else entry.report.errors for entry in entries):
            raise typer.Exit(DIFFERENT)
