"""The command `inspect`: what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import join
from typing import Annotated

import typer

from weighbridge import api
from weighbridge.base.errors import CheckpointError, WeighbridgeError
from weighbridge.cli.inspecting.inspection import Inspection, describe_tensor, tensor_lines
from weighbridge.cli.inspecting.module_tree import module_tree, tree_lines
from weighbridge.cli.printing import Output, reporting
from weighbridge.cli.shared_options import EntryOption, FullOption, spread
from weighbridge.storage.formats.inventory import write_inventory
from weighbridge.storage.lookup import ALL_KEYS


@spread
def inspect(
    place: Annotated[str, typer.Argument(metavar="PLACE", help="What to look at; only headers are read.")],
    output: Output,
    full: FullOption = False,
    key: Annotated[str | None, typer.Option(metavar="KEY", help="Describe this tensor alone.")] = None,
    inventory: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the header alone into a new file, .json or .json.gz.")
    ] = None,
    stats: Annotated[
        str | None, typer.Option(metavar="KEY", help="Describe this tensor, and measure its values.")
    ] = None,
    tree: Annotated[bool, typer.Option("--tree", help="Print the tree of modules, like ones in one line.")] = False,
    entry: EntryOption = None,
) -> None:
    """Say what a checkpoint holds: files, tensors, dtypes, and its keys with like ones in one line.

    Example: weighbridge inspect model/
    """
    with reporting(output):
        checkpoint = api.open(place, entry=entry)
        if inventory is not None:
            write_inventory(checkpoint.header, inventory.expanduser())
        if sum([key is not None, stats is not None, tree]) > 1:
            raise WeighbridgeError("usage", "give one of --key, --stats and --tree")
        if tree:
            branches = module_tree(checkpoint.header)
            output.give(lambda: {"branches": [branch.to_dict() for branch in branches]}, tree_lines(branches))
            return
        if key is not None or stats is not None:
            with _naming(place, entry):
                form = describe_tensor(checkpoint, stats or key or "", measured=stats is not None)
            output.give(lambda: form, tensor_lines(form))
            return
        found = Inspection(checkpoint, full)
        output.give(found.to_dict, found.lines(), found.pretty)


@contextmanager
def _naming(place: str, entry: str | None) -> Iterator[None]:
    """Put what was typed into the hint that lists all keys, so that it can be typed as it is printed."""
    try:
        yield
    except CheckpointError as problem:
        typed = join([place, *(["--entry", entry] if entry is not None else [])])
        problem.hint = problem.hint.replace(ALL_KEYS, f"weighbridge inspect {typed} --full lists all")
        raise
