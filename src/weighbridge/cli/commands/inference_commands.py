"""The commands `infer` and `new`: a mapping from two checkpoints, by their values or by their headers alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weighbridge import api
from weighbridge.base.errors import DestinationError
from weighbridge.cli.printing import (
    DIFFERENT,
    DONE,
    NO_WAY_BACK,
    UNDECIDED,
    Output,
    print_lines,
    reporting,
    visible,
    write_new,
)
from weighbridge.cli.shared_options import spread

if TYPE_CHECKING:
    from weighbridge.studies.inference import Inferred
    from weighbridge.studies.inference.commented import Commented

OutOption = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="FILE", help="Write the mapping into this new file: .yaml, or .json."),
]


@spread
def infer(
    first: Annotated[str, typer.Argument(metavar="A", help="A checkpoint in the layout that is there.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The same values in the layout that is wanted.")],
    output: Output,
    out: OutOption = None,
) -> None:
    """Infer the mapping from A to B by their contents, run it and its inverse, and compare.

    The status is 1 if tensors stay unexplained, 6 if values leave a choice open, and 7 if the inverse does not hold.

    Example: weighbridge infer published/ converted/ -o mapping.yaml
    """
    with reporting(output):
        _check_free(out)
        found = api.infer(first, second)
        _write(out, found.commented())
        output.give(found.to_dict, found.lines())
        if (status := status_of(found)) != DONE:
            raise typer.Exit(status)


def status_of(found: Inferred) -> int:
    """Choose the status: what is missing weighs more than what is open, and that more than the way back."""
    if not found.is_complete:
        return DIFFERENT
    if not found.is_settled:
        return UNDECIDED
    return NO_WAY_BACK if found.inverse_faults else DONE


@spread
def new(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="What there is; only headers are read.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="A checkpoint, or an inventory, of what is wanted.")],
    output: Output,
    out: OutOption = None,
) -> None:
    """Sketch a mapping file from names and shapes alone, each rule marked as a guess, with what is left to do.

    Example: weighbridge new model/ wanted/ -o mapping.yaml
    """
    from weighbridge.studies.inference import sketch_mapping

    with reporting(output):
        _check_free(out)
        found = sketch_mapping(api.open(checkpoint).header, api.open(target).header)
        _write(out, found.commented())
        if out is None and not (output.as_json or output.quiet):
            print_lines(map(visible, found.to_file().splitlines()))
            return
        output.give(found.to_dict, found.lines())


def _check_free(out: Path | None) -> None:
    """Refuse a file that is there, before any work is done."""
    if out is not None and out.expanduser().exists():
        hint = "remove it, or choose another name; nothing is ever overwritten"
        raise DestinationError("destination-exists", "this file is already there", where=str(out), hint=hint)


def _write(out: Path | None, found: Commented) -> None:
    if out is not None:
        write_new(out, json.dumps(found.to_dict(), indent=1) if out.suffix == ".json" else found.to_yaml())
