"""The commands `convert` and `revert`: a checkpoint in another layout, and the way back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from weighbridge import api
from weighbridge.api import Plan
from weighbridge.base.errors import WeighbridgeError
from weighbridge.base.file_names import names_torch_file
from weighbridge.base.keys import counted
from weighbridge.base.secrets_of_addresses import without_secrets
from weighbridge.cli.command_options import NoMappingArgument, PlanOptions
from weighbridge.cli.printing import Output, end_undecided, reporting
from weighbridge.cli.progress import progress_bar
from weighbridge.cli.shared_options import (
    DestinationArgument,
    DigestsOption,
    DirectOption,
    MemoryOption,
    NameOption,
    OnlyOption,
    ShardSizeOption,
    SourceArgument,
    WritingOptions,
    size_option,
    spread,
)
from weighbridge.mappings.finding import refuse_swapped
from weighbridge.planning.plan import DEFAULT_BUDGET_BYTES
from weighbridge.reporting.costs import format_bytes
from weighbridge.reporting.unused import unused_lines
from weighbridge.storage import check_destination
from weighbridge.storage.remote.addresses import is_address, is_elsewhere, path_or_address, read_address
from weighbridge.storage.remote.folders import open_folder


@spread
def convert(
    source: SourceArgument,
    destination: DestinationArgument,
    options: PlanOptions,
    writing: WritingOptions,
    output: Output,
    mapping: NoMappingArgument = None,
    name: NameOption = None,
    max_shard_size: ShardSizeOption = None,
    memory: MemoryOption = None,
    only: OnlyOption = None,
    digests: DigestsOption = False,
    direct: DirectOption = False,
) -> None:
    """Convert a checkpoint into a directory or a torch file, which appears whole or not at all.

    Without a mapping, names stay.

    Example: weighbridge convert model/ converted/ qwen3_moe
    """
    with reporting(output), options.naming(source, mapping):
        refuse_swapped(source, destination, mapping)
        _check_early(source, destination, writing.part)
        choices = {
            **writing.arguments(),
            "name": name,
            "digests": digests,
            "max_shard_size": _shard_size(destination, max_shard_size),
            "memory_budget": DEFAULT_BUDGET_BYTES if memory is None else size_option("--memory", memory),
        }
        found = options.mapping(mapping)
        made = options.make_plan(options.open(source, direct=direct), found, only)
        _write(output, made, destination, "converting", choices)
        output.give(lambda: _written_form(made, destination), _written_lines(made, destination))
        end_undecided(made)


@spread
def revert(
    source: SourceArgument,
    destination: DestinationArgument,
    writing: WritingOptions,
    output: Output,
    lossy: Annotated[bool, typer.Option("--lossy", help="Go back without what was dropped or rounded.")] = False,
    direct: DirectOption = False,
) -> None:
    """Undo a conversion by the receipt that it left: the files it came from, byte for byte.

    Example: weighbridge revert converted/ back/
    """
    with reporting(output):
        _check_early(source, destination, writing.part)
        back = api.plan_revert(source, lossy=lossy, direct=direct)
        _write(output, back, destination, "reverting", writing.arguments())
        output.give(lambda: _written_form(back, destination), _written_lines(back, destination, is_reverted=True))


def _check_early(source: str, destination: str, part: str | None) -> None:
    """Refuse a destination before anything is planned; a part may be run again when the output is there."""
    if part is None and not is_elsewhere(destination):
        destination = str(path_or_address(destination)) if is_address(destination) else destination
        sources = [place for place in [path_or_address(source)] if isinstance(place, Path)]
        check_destination(destination, sources, as_file=names_torch_file(destination))


def _shard_size(destination: str, text: str | None) -> int | None:
    """Read how large a new file may be; a torch file is one, whatever is said."""
    if text is not None and names_torch_file(destination):
        what, got = "a torch file is not cut into shards", f"--max-shard-size {text}"
        raise WeighbridgeError("usage", what, where=destination, got=got, hint="leave it out, or name a directory")
    return None if text == "none" else size_option("--max-shard-size", text or "5GB")


def _write(output: Output, made: Plan, destination: str, word: str, options: dict[str, Any]) -> None:
    with progress_bar(output, word, made.target.size_bytes) as progress:
        made.write(destination, progress=progress, **options)


def _written_form(made: Plan, destination: str) -> dict[str, Any]:
    report = made.report.to_dict()
    del report["steps"]
    return {"destination": without_secrets(destination), "files": _written_files(destination), **report}


def _written_files(destination: str) -> list[str]:
    if is_elsewhere(destination):
        return sorted(open_folder(read_address(destination)).files)
    path = Path(path_or_address(destination)) if is_address(destination) else Path(destination)
    return sorted(file.name for file in path.iterdir()) if path.is_dir() else [path.name] * path.exists()


def _written_lines(made: Plan, given: str, *, is_reverted: bool = False) -> Iterator[str]:
    destination = without_secrets(given)
    if not _written_files(destination):
        yield f"done      this part of {destination}, which appears when all parts are done"
        return
    written = made.report.to_dict()["written_bytes"]
    yield f"wrote     {destination}: {counted(len(made.target), 'tensor')}, {format_bytes(written)}"
    yield from () if is_reverted else unused_lines(made)
    yield from made.report.remark_lines()
    if made.initialised:
        have = "has" if len(made.initialised) == 1 else "have"
        yield f"note      {counted(len(made.initialised), 'target')} {have} no values: {made.initialised[0].by}"
    if made.target_files is not None:
        return  # these are the files that the conversion was made of: they have no receipt, and need no way back
    if not made.is_exact:
        yield f"way back  lossy: {'; '.join(made.lossy_reasons)}"
    else:
        yield f"way back  weighbridge revert {quote(destination)} BACK"
