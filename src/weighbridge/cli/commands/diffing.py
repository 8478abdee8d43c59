"""The command `diff`: how the tensors of two checkpoints are related, as they are or through a mapping."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from weighbridge import api
from weighbridge.base.errors import WeighbridgeError
from weighbridge.cli.command_options import LayoutMode, PlanOptions, SetOption, mapping_names
from weighbridge.cli.printing import DIFFERENT, Output, reporting
from weighbridge.cli.shared_options import FullOption, spread


@spread
def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="One checkpoint.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The other one; files and shards may differ.")],
    output: Output,
    through: Annotated[
        str | None,
        typer.Option(
            metavar="MAPPING",
            help="Compare what this mapping makes of A; nothing is written.",
            autocompletion=mapping_names,
        ),
    ] = None,
    reverse: Annotated[bool, typer.Option("--reverse", help="Use the inverse of the mapping.")] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Let the mapping leave tensors of either side out.")
    ] = False,
    dtype: Annotated[
        list[str] | None,
        typer.Option(metavar="[PATTERN=]DTYPE", help="With the mapping, cast floats to it, or to B's: 'target'."),
    ] = None,
    config: Annotated[
        str | None, typer.Option(metavar="FILE", help="The configuration that the mapping reads sizes from.")
    ] = None,
    settings: SetOption = None,
    layout: Annotated[LayoutMode, typer.Option(help="How the mapping is to read A's layout.")] = LayoutMode.AUTO,
    full: FullOption = False,
) -> None:
    """Say how the tensors of two checkpoints are related, and by how much they differ; the status is 1 if they do.

    Example: weighbridge diff published/ converted/ --through qwen3_moe
    """
    with reporting(output):
        if through is None:
            if reverse or partial or dtype or config is not None or settings or layout is not LayoutMode.AUTO:
                what = "--reverse, --partial, --dtype, --config, --set and --layout need --through MAPPING"
                raise WeighbridgeError("usage", what)
            result = api.diff(first, second)
        else:
            options = PlanOptions(target=second, dtype=dtype or [], config=config, settings=settings)
            options = replace(options, allow_overflow=True, partial=partial, layout=layout, reverse=reverse)
            result = api.diff(first, second, options.mapping(through), **options.arguments())
        output.give(lambda: result.to_dict(full=full), result.lines(full=full))
        if not result:
            raise typer.Exit(DIFFERENT)
