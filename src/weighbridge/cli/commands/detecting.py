"""The command `detect`: which family of models a checkpoint belongs to."""

from __future__ import annotations

from typing import Annotated

import typer

from weighbridge import api
from weighbridge.cli.printing import Output, reporting
from weighbridge.cli.shared_options import spread


@spread
def detect(
    place: Annotated[str, typer.Argument(metavar="PLACE", help="What to look at; only headers are read.")],
    output: Output,
    transformers: Annotated[
        bool, typer.Option("--transformers", help="Also judge by the table of the installed transformers.")
    ] = False,
) -> None:
    """Say which known family a checkpoint belongs to, in which layout its names stand, and why.

    Example: weighbridge detect model/
    """
    with reporting(output):
        found = api.detect(place, transformers=transformers)
        output.give(lambda: {"place": place, **found.to_dict()}, found.lines())
