"""The command itself: what it is called with, the commands that it has, and how it ends."""

from __future__ import annotations

import json
import signal
import sys
from typing import Annotated, Any, NoReturn, cast

import typer

from weighbridge._version import __version__
from weighbridge.base.secrets_of_addresses import without_secrets
from weighbridge.cli.lazy_commands import CONTEXT_SETTINGS, LazyCommands
from weighbridge.cli.printing import EXIT_CODES, INTERRUPTED, print_lines

# Typer brings its own copy of click or needs the real one, by its version: this is the right class in both.
_UsageError = cast("type[Exception]", typer.BadParameter.__base__)

_PATTERN_OPTIONS = {"--only", "--drop", "--carry", "--initialise"}

_STOPPING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Signals that would end the process on the spot."""

app = typer.Typer(
    cls=LazyCommands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=CONTEXT_SETTINGS,
    epilog="Exit status:\n" + "\n".join(f"{code:>5}  {meaning}" for code, meaning in EXIT_CODES.items()),
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print_lines([f"weighbridge {__version__}"])
        raise typer.Exit


@app.callback()
def _weighbridge(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Move model weights between layouts, both ways, and account for every byte.

    Example: weighbridge inspect model/
    """


def main() -> NoReturn:
    """Run the command with the process's arguments, and end the process with its status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    for stopping in _STOPPING:
        if signal.getsignal(stopping) is signal.SIG_DFL:
            signal.signal(stopping, _stop)
    try:
        status = app(prog_name="weighbridge", standalone_mode=False)
    except _UsageError as problem:
        status = _refuse(problem)
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    sys.exit(status or 0)


def _stop(number: int, _: Any) -> NoReturn:
    """End by an exception, so that what is half written is removed."""
    sys.exit(128 + number)


def _refuse(problem: Any) -> int:
    """Print what is wrong with the arguments."""
    if "unexpected extra argument" in problem.message and _PATTERN_OPTIONS & set(sys.argv):
        problem.message += " Quote a pattern: a shell puts words of its own in the place of {0..3} and *."
    problem.message = without_secrets(problem.message)
    if "--json" in sys.argv:
        print_lines([json.dumps({"error": {"code": "usage", "what": problem.format_message()}})])
    else:
        problem.show()
    return int(problem.exit_code)
