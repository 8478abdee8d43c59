"""What the command prints, and the status that it ends with.

Text goes to stdout, errors and progress to stderr. A terminal gets colours and tables; anything else, and any
environment with NO_COLOR, gets plain lines, in which nothing is cut or wrapped.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Final

import typer

from weighbridge.base.errors import (
    CheckpointError,
    DestinationError,
    PlanError,
    RegistryError,
    VerifyError,
    WeighbridgeError,
)
from weighbridge.cli.wording import in_options

if TYPE_CHECKING:
    from rich.console import RenderableType

    from weighbridge.api import Plan

DONE: Final = 0
DIFFERENT: Final = 1
WRONG_USAGE: Final = 2
NO_FIT: Final = 3
BAD_SOURCE: Final = 4
BAD_DESTINATION: Final = 5
UNDECIDED: Final = 6
NO_WAY_BACK: Final = 7
HUNG_UP: Final = 129
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141
TERMINATED: Final = 143

EXIT_CODES: Final[dict[int, str]] = {
    DONE: "done; for verify and diff: equal; for lint: no error",
    DIFFERENT: "verify or diff found a difference, lint an error, infer a gap",
    WRONG_USAGE: "wrong usage, or there is no such mapping",
    NO_FIT: "the mapping does not fit, or has no inverse",
    BAD_SOURCE: "a source is missing, damaged or unsafe",
    BAD_DESTINATION: "the destination cannot be written",
    UNDECIDED: "done, but a choice is open: infer (CHECK), or the way back of a plan",
    NO_WAY_BACK: "infer found a mapping whose inverse does not hold",
    HUNG_UP: "the terminal went away; nothing is left behind, but by --resume or --part",
    INTERRUPTED: "interrupted; nothing is left behind, but by --resume or --part",
    BROKEN_PIPE: "the reader of the output went away",
    TERMINATED: "terminated; nothing is left behind, but by --resume or --part",
}
"""Each status that the command ends with, and what it means."""

_CODES_BY_KIND: Final[tuple[tuple[type[WeighbridgeError], int], ...]] = (
    (VerifyError, DIFFERENT),
    (CheckpointError, BAD_SOURCE),
    (DestinationError, BAD_DESTINATION),
)

_COLOURS: Final = (
    (r"^(?:plan|bytes|memory|copies|way back|sources|targets|unused|hash|wrote) ", "bold"),
    (r"^(?:key|spec|elements|file|offset|tied to) ", "bold"),
    (r"^  (?:from|to|nearest|origin) ", "bold"),
    (r"^equal(?=:)|^ +fired(?=:)|^equal(?=  )", "green"),
    (r"^different(?=:|  )|^ +failed|^only in the (?:first|second)", "red"),
    (r"^(?:cast|reshaped|padded|transposed|permuted)(?=  )", "yellow"),
    (r" (?:BOOL|C64|B?F(?:\d\w*)|[IU]\d+)(?= \[)", "cyan"),
    (r"rule \d+(?: |$)|^ +<-|^ +(?:no match|outside scope .*|not tried.*)$", "dim"),
)
"""Colours of the printed text, as (regular expression, style)."""

_USAGE_CODES: Final = {"usage", "mapping-file", "mapping-not-found", "budget-too-small"}


def exit_code(problem: WeighbridgeError) -> int:
    """Choose the status for an error.

    Examples:
        >>> exit_code(CheckpointError("file-truncated", "the file ends too soon"))
        4
    """
    if problem.code in _USAGE_CODES or isinstance(problem, RegistryError):
        return WRONG_USAGE
    return next((code for kind, code in _CODES_BY_KIND if isinstance(problem, kind)), NO_FIT)


def end_undecided(made: Plan) -> None:
    """End with a status of its own where a way back that was derived is one of several that are as likely."""
    if not set(made.choices).isdisjoint(made.notes):
        raise typer.Exit(UNDECIDED)


def is_terminal(stream: IO[str] | None) -> bool:
    """Tell whether colours and tables are welcome on a stream; there is none where a shell has closed it."""
    return (
        stream is not None and stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    )


def visible(line: str) -> str:
    r"""Escape what a line must not do to a terminal: control characters, and those that reverse or hide text.

    Examples:
        >>> print(visible("a.\x1b[31mweight"))
        a.\x1b[31mweight
    """
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def error_form(problem: WeighbridgeError) -> dict[str, Any]:
    """Return the JSON form of an error, with the single problems of a plan."""
    form: dict[str, Any] = dict(problem.to_dict())
    if problem.hint:
        form["hint"] = in_options(problem.hint)
    if isinstance(problem, PlanError) and problem.problems:
        form["problems"] = [error_form(single) for single in problem.problems]
    return form


def error_text(problem: WeighbridgeError, *, full: bool = False) -> str:
    """Write an error as text; `full` lists all problems of a plan."""
    if not (full and isinstance(problem, PlanError)):
        return str(problem)
    own = [problem.headline, *WeighbridgeError.details(problem)]
    return "\n".join([*own, *("  " + error_text(single).replace("\n", "\n  ") for single in problem.problems)])


@dataclass(frozen=True, slots=True)
class Output:
    """How a command answers: as text, as one JSON document, or not at all.

    Args:
        as_json: Print JSON; it is printed even if `quiet`.
        quiet: Print nothing but errors.
        verbose: Report on stderr what is being done: each stage, or, if this is 2, what each rule did as well.
    """

    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document, errors included.")] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False
    verbose: Annotated[
        int, typer.Option("--verbose", "-v", count=True, help="Say on stderr what is being done; -vv says more.")
    ] = 0

    @property
    def is_pretty(self) -> bool:
        """Whether stdout takes tables."""
        return not self.as_json and is_terminal(sys.stdout)

    @property
    def shows_progress(self) -> bool:
        """Whether stderr takes a progress bar."""
        return not (self.as_json or self.quiet or self.verbose) and is_terminal(sys.stderr)

    @property
    def log_level(self) -> int:
        """The level from which on a log record is shown."""
        if self.verbose:
            return logging.INFO if self.verbose == 1 else logging.DEBUG
        return logging.ERROR if self.quiet else logging.WARNING

    def give(
        self,
        form: Callable[[], Any],
        lines: Iterable[str],
        pretty: Callable[[], Iterable[RenderableType]] | None = None,
    ) -> None:
        """Print an answer in the form that was asked for.

        Args:
            form: Gives the JSON form.
            lines: The text.
            pretty: Gives what to print on a terminal; by default the text, in colours.
        """
        if self.as_json:
            print_lines([json.dumps(form())])
        elif self.quiet:
            return
        elif self.is_pretty:
            _print_pretty(pretty() if pretty is not None else _coloured(lines))
        else:
            print_lines(map(visible, lines))

    def fail(self, problem: WeighbridgeError, *, full: bool = False, beside: dict[str, Any] | None = None) -> None:
        """Print an error.

        Args:
            problem: The error.
            full: List all problems of a plan.
            beside: What else belongs into the JSON document.
        """
        if self.as_json:
            print_lines([json.dumps({"error": error_form(problem)} | (beside or {}))])
            return
        text = "\n".join(visible(in_options(line)) for line in error_text(problem, full=full).split("\n"))
        if is_terminal(sys.stderr):
            text = typer.style(problem.code, fg="red", bold=True) + text.removeprefix(problem.code)
        print_lines([text], error=True)

    def stopped(self, word: str, problem: BaseException) -> None:
        """Say that the command was stopped from outside, and what that left behind."""
        left = "; ".join(getattr(problem, "__notes__", ["nothing is left behind"]))
        if self.as_json:
            print_lines([json.dumps({"error": {"code": word, "what": f"{word}; {left}"}})])
        else:
            print_lines([visible(f"{word}; {left}")], error=True)


def print_lines(lines: Iterable[str], *, error: bool = False) -> None:
    """Print lines and flush them; end the command if nobody reads on."""
    stream: IO[str] | None = sys.stderr if error else sys.stdout
    if stream is None:
        return
    with _writing(stream):
        for line in lines:
            stream.write(line + "\n")
        stream.flush()


def write_new(path: Path, text: str) -> None:
    """Write a text into a new file.

    Raises:
        DestinationError: `destination-exists`, `write-failed`.
    """
    try:
        with path.expanduser().open("x", encoding="utf-8") as file:
            file.write(text.removesuffix("\n") + "\n")
    except FileExistsError:
        hint = "remove it, or choose another name; nothing is ever overwritten"
        raise DestinationError("destination-exists", "this file is already there", where=str(path), hint=hint) from None
    except OSError as problem:
        raise DestinationError(
            "write-failed", "this file cannot be written", where=str(path), got=problem.strerror or str(problem)
        ) from None


def _print_pretty(parts: Iterable[RenderableType]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, emoji=False)
    with _writing(sys.stdout):
        for part in parts:
            # a line is left to the terminal to wrap, so that a key can be copied whole
            console.print(part, soft_wrap=not isinstance(part, Table))


def _coloured(lines: Iterable[str]) -> Iterator[RenderableType]:
    from rich.text import Text

    for line in lines:
        text = Text(visible(line))
        for pattern, style in _COLOURS:
            text.highlight_regex(pattern, style)
        yield text


@contextmanager
def _writing(stream: IO[str]) -> Iterator[None]:
    """End the command if nobody reads on, or if what is printed has no place."""
    try:
        yield
    except OSError as problem:
        # the interpreter flushes once more as it ends: give it a stream that takes everything
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if isinstance(problem, BrokenPipeError):
            raise typer.Exit(BROKEN_PIPE) from None
        if stream is sys.stderr:
            return  # the status must speak for itself
        got = problem.strerror or str(problem)
        raise DestinationError("write-failed", "the output cannot be printed", where=stream.name, got=got) from None


@contextmanager
def reporting(output: Output, *, full: bool = False) -> Iterator[None]:
    """Turn what goes wrong into printed text and the command's status."""
    try:
        with _logging(output.log_level):
            yield
    except WeighbridgeError as problem:
        output.fail(problem, full=full)
        raise typer.Exit(exit_code(problem)) from None
    except KeyboardInterrupt as problem:
        output.stopped("interrupted", problem)
        raise typer.Exit(INTERRUPTED) from None
    except SystemExit as problem:
        output.stopped("terminated", problem)
        raise


class _LogLines(logging.Handler):
    """Print log records to stderr: the seconds since the start, and the text."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record; a warning without a time, as it is news and not a step."""
        text = record.getMessage()
        if record.levelno < logging.WARNING:
            text = f"{record.relativeCreated / 1000:8.3f} s  {text}"
        print_lines([visible(text)], error=True)


@contextmanager
def _logging(level: int) -> Iterator[None]:
    """Show what the library logs, from a level on."""
    logger = logging.getLogger("weighbridge")
    handler, before = _LogLines(), (logger.level, logger.propagate)
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
