"""Write the page of a plan, or of what is known of one that could not be made."""

from __future__ import annotations

from pathlib import Path

from weighbridge import api
from weighbridge.api import Plan
from weighbridge.base.errors import DestinationError, WeighbridgeError
from weighbridge.cli.command_options import PlanOptions
from weighbridge.cli.printing import write_new
from weighbridge.mappings.mapping import Mapping
from weighbridge.planning.plan_options import Options
from weighbridge.reporting.report_page import failure_page


def write_plan_page(options: PlanOptions, source: str, mapping: Mapping, only: list[str] | None, page: Path) -> Plan:
    """Compile a plan and write its page; without a plan, write a page that says why, and raise all the same.

    Args:
        options: What the plan is made from beside source and mapping.
        source: The checkpoint's place.
        mapping: The mapping.
        only: Patterns of the targets to restrict the plan to, if any.
        page: The new file.

    Raises:
        DestinationError: `destination-exists`, `write-failed`.
        WeighbridgeError: All that `PlanOptions.make_plan` raises.
    """
    if page.expanduser().exists():
        hint = "remove it, or choose another name; nothing is ever overwritten"
        raise DestinationError("destination-exists", "this file is already there", where=str(page), hint=hint)
    checkpoint = options.open(source)
    target = api.open(options.target).header if options.target else None
    arguments = options.arguments()
    arguments["config"] = api.config_for(arguments["config"], checkpoint, options.target)
    declared = Options(**arguments)
    try:
        made = options.make_plan(checkpoint, mapping, only)
    except WeighbridgeError as problem:
        write_new(page, failure_page(problem, mapping, checkpoint.header, target, declared))
        raise
    write_new(page, made.to_html())
    return made
