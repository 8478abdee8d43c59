"""The commands `plan` and `explain`: what a mapping makes of a checkpoint, as a whole, and of one key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from weighbridge import api
from weighbridge.base.errors import PlanError, WeighbridgeError
from weighbridge.cli.command_options import MappingArgument, NoMappingArgument, PlanOptions
from weighbridge.cli.explaining import explain_unfit
from weighbridge.cli.pages import write_plan_page
from weighbridge.cli.parts_file import read_parts
from weighbridge.cli.printing import Output, end_undecided, exit_code, print_lines, reporting, write_new
from weighbridge.cli.shared_options import FullOption, OnlyOption, SourceArgument, spread
from weighbridge.reporting.explanation import Explanation


@spread
def plan(
    source: SourceArgument,
    options: PlanOptions,
    output: Output,
    mapping: NoMappingArgument = None,
    full: FullOption = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the plan as JSON into a new file.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page to look at into a new file, even without a plan.")
    ] = None,
    only: OnlyOption = None,
    parts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Cut the plan to what one process holds: its parts, as JSON.")
    ] = None,
) -> None:
    """Compile a plan and print its report; no tensor is read, nothing is converted.

    Example: weighbridge plan model/ qwen3_moe --target other/model.safetensors
    """
    with reporting(output, full=full), options.naming(source, mapping):
        if parts is not None and html is not None:
            raise WeighbridgeError("usage", "the page shows the whole plan", got="--html with --parts")
        found = options.mapping(mapping)
        made = (
            options.make_plan(source, found, only)
            if html is None
            else write_plan_page(options, source, found, only, html)
        )
        made = made if parts is None else made.cut(read_parts(parts))
        if out is not None:
            write_new(out, made.to_json())
        output.give(made.report.to_dict, made.report.lines(full=full))
        end_undecided(made)


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
