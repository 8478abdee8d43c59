"""The command `verify`: whether two checkpoints are equal, or one is what its receipt says."""

from __future__ import annotations

from typing import Annotated

import typer

from weighbridge import api
from weighbridge.cli.printing import DIFFERENT, Output, reporting
from weighbridge.cli.shared_options import FullOption, spread


@spread
def verify(
    first: Annotated[str, typer.Argument(metavar="A", help="One checkpoint.")],
    output: Output,
    second: Annotated[
        str | None, typer.Argument(metavar="B", help="The other one; without it, A's own receipt.")
    ] = None,
    full: FullOption = False,
) -> None:
    """Compare two checkpoints exactly, tensor by tensor; the exit status is 1 if they differ.

    A single one is compared with its own receipt, if it was converted with --digests.

    Example: weighbridge verify model/ back/
    """
    with reporting(output):
        result = api.verify(first) if second is None else api.verify(first, second)
        output.give(result.to_dict, result.lines(limit=None if full else 40))
        if not result:
            raise typer.Exit(DIFFERENT)
