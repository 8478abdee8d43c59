"""The commands. Each reads its arguments, calls the library, and prints what came of it."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, NoReturn, cast

import typer

from weighbridge import api
from weighbridge._version import __version__
from weighbridge.api import Plan
from weighbridge.base.errors import PlanError, WeighbridgeError
from weighbridge.base.file_names import names_torch_file
from weighbridge.base.keys import counted
from weighbridge.cli.command_options import (
    DestinationArgument,
    DirectOption,
    EntryOption,
    FullOption,
    Link,
    LinkOption,
    MappingArgument,
    NameOption,
    NoMappingArgument,
    NoSyncOption,
    OnlyOption,
    PlanOptions,
    ResumeOption,
    SourceArgument,
    size_option,
    spread,
)
from weighbridge.cli.commands.detecting import detect
from weighbridge.cli.commands.diffing import diff
from weighbridge.cli.commands.inference_commands import infer, new
from weighbridge.cli.commands.linting import lint
from weighbridge.cli.commands.mapping_commands import app as mappings
from weighbridge.cli.explaining import explain_unfit
from weighbridge.cli.inspecting.inspection import Inspection, describe_tensor, tensor_lines
from weighbridge.cli.inspecting.module_tree import module_tree, tree_lines
from weighbridge.cli.pages import write_plan_page
from weighbridge.cli.printing import (
    DIFFERENT,
    EXIT_CODES,
    INTERRUPTED,
    Output,
    end_undecided,
    exit_code,
    print_lines,
    reporting,
    write_new,
)
from weighbridge.cli.progress import progress_bar
from weighbridge.mappings.finding import refuse_swapped
from weighbridge.planning.plan import DEFAULT_BUDGET_BYTES
from weighbridge.reporting.costs import format_bytes
from weighbridge.reporting.explanation import Explanation
from weighbridge.reporting.unused import unused_lines
from weighbridge.storage import check_destination
from weighbridge.storage.formats.inventory import write_inventory

# Typer brings its own copy of click or needs the real one, by its version: this is the right class in both.
_UsageError = cast("type[Exception]", typer.BadParameter.__base__)

_PATTERN_OPTIONS = {"--only", "--drop", "--carry", "--initialise"}

_STOPPING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Signals that would end the process on the spot."""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
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


@app.command()
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
            form = describe_tensor(checkpoint, stats or key or "", measured=stats is not None)
            output.give(lambda: form, tensor_lines(form))
            return
        found = Inspection(checkpoint, full)
        output.give(found.to_dict, found.lines(), found.pretty)


app.command()(detect)


@app.command()
@spread
def plan(
    source: SourceArgument,
    options: PlanOptions,
    output: Output,
    mapping: NoMappingArgument = None,
    full: FullOption = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the plan as JSON into a new file.")] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page to look at into a new file, even without a plan.")
    ] = None,
    only: OnlyOption = None,
) -> None:
    """Compile a plan and print its report; no tensor is read, nothing is converted.

    Example: weighbridge plan model/ qwen3_moe --target other/model.safetensors
    """
    with reporting(output, full=full), options.naming(source, mapping):
        found = options.mapping(mapping)
        made = (
            options.make_plan(source, found, only)
            if html is None
            else write_plan_page(options, source, found, only, html)
        )
        if out is not None:
            write_new(out, made.to_json())
        output.give(made.report.to_dict, made.report.lines(full=full))
        end_undecided(made)


@app.command()
@spread
def explain(
    source: SourceArgument,
    mapping: MappingArgument,
    key: Annotated[str, typer.Argument(metavar="KEY", help="A key of the source or of the target.")],
    options: PlanOptions,
    output: Output,
    full: FullOption = False,
) -> None:
    """Say why a key goes where it goes: every rule tried on it, and the copies that touch it.

    If the mapping does not fit, the problems are printed and the key is explained all the same.

    Example: weighbridge explain model/ qwen3_moe model.layers.0.mlp.experts.gate_up_proj
    """
    with reporting(output, full=full):
        found = options.mapping(mapping)
        checkpoint = options.open(source)
        try:
            answer = options.make_plan(checkpoint, found).explain(key)
        except PlanError as problem:
            target = api.open(options.target).header if options.target else None
            _explain_failure(output, problem, explain_unfit(found, checkpoint.header, target, key), full)
        output.give(answer.to_dict, str(answer).split("\n"))


def _explain_failure(output: Output, problem: PlanError, answer: Explanation, full: bool) -> NoReturn:
    problem.hint = "" if problem.hint.startswith("weighbridge explain") else problem.hint
    output.fail(problem, full=full, beside={"explanation": answer.to_dict()})
    if not (output.as_json or output.quiet):
        print_lines([""], error=True)
        output.give(answer.to_dict, str(answer).split("\n"))
    raise typer.Exit(exit_code(problem))


@app.command()
@spread
def convert(
    source: SourceArgument,
    destination: DestinationArgument,
    options: PlanOptions,
    output: Output,
    mapping: NoMappingArgument = None,
    name: NameOption = None,
    max_shard_size: Annotated[
        str, typer.Option(metavar="SIZE", help="Largest size of a new file, such as 5GB; none for a single file.")
    ] = "5GB",
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Size of the buffers held at a time, such as 256MB.")
    ] = None,
    only: OnlyOption = None,
    digests: Annotated[
        bool, typer.Option("--digests", help="Record the SHA-256 of every tensor, for: weighbridge verify DESTINATION")
    ] = False,
    resume: ResumeOption = False,
    no_sync: NoSyncOption = False,
    link: LinkOption = Link.NEVER,
    direct: DirectOption = False,
) -> None:
    """Convert a checkpoint into a directory or a torch file, which appears whole or not at all.

    Without a mapping, names stay.

    Example: weighbridge convert model/ converted/ qwen3_moe
    """
    with reporting(output), options.naming(source, mapping):
        refuse_swapped(source, destination, mapping)
        check_destination(destination, [source], as_file=names_torch_file(destination))
        choices = {
            "name": name,
            "digests": digests,
            "resume": resume,
            "sync": not no_sync,
            "link": link.value,
            "max_shard_size": None if max_shard_size == "none" else size_option("--max-shard-size", max_shard_size),
            "memory_budget": DEFAULT_BUDGET_BYTES if memory is None else size_option("--memory", memory),
        }
        found = options.mapping(mapping)
        made = options.make_plan(options.open(source, direct=direct), found, only)
        _write(output, made, destination, "converting", choices)
        output.give(lambda: _written_form(made, destination), _written_lines(made, destination))
        end_undecided(made)


@app.command()
@spread
def revert(
    source: SourceArgument,
    destination: DestinationArgument,
    output: Output,
    lossy: Annotated[bool, typer.Option("--lossy", help="Go back without what was dropped or rounded.")] = False,
    resume: ResumeOption = False,
    no_sync: NoSyncOption = False,
    link: LinkOption = Link.NEVER,
    direct: DirectOption = False,
) -> None:
    """Undo a conversion by the receipt that it left: the files it came from, byte for byte.

    Example: weighbridge revert converted/ back/
    """
    with reporting(output):
        check_destination(destination, [source], as_file=names_torch_file(destination))
        back = api.plan_revert(Path(source).expanduser(), lossy=lossy, direct=direct)
        _write(output, back, destination, "reverting", {"resume": resume, "sync": not no_sync, "link": link.value})
        output.give(lambda: _written_form(back, destination), _written_lines(back, destination, is_reverted=True))


def _write(output: Output, made: Plan, destination: str, word: str, options: dict[str, Any]) -> None:
    with progress_bar(output, word, made.target.size_bytes) as progress:
        made.write(destination, progress=progress, **options)


def _written_form(made: Plan, destination: str) -> dict[str, Any]:
    report = made.report.to_dict()
    del report["steps"]
    path = Path(destination)
    files = sorted(file.name for file in path.iterdir()) if path.is_dir() else [path.name]
    return {"destination": destination, "files": files, **report}


def _written_lines(made: Plan, destination: str, *, is_reverted: bool = False) -> Iterator[str]:
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


@app.command()
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


app.command()(diff)
app.command()(infer)
app.command()(new)
app.command()(lint)
app.add_typer(mappings, name="mapping")


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
    if "--json" in sys.argv:
        print_lines([json.dumps({"error": {"code": "usage", "what": problem.format_message()}})])
    else:
        problem.show()
    return int(problem.exit_code)
