"""Write the configurations beside a checkpoint's weights anew where they name modules that a plan gives other names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from weighbridge.api.configurations import read_extra
from weighbridge.base.errors import PlanError, WeighbridgeError
from weighbridge.mappings.schemes.said import BESIDE, CONFIG
from weighbridge.planning.config_names.moved_modules import moved_modules
from weighbridge.planning.config_names.named_places import follow_config, read_config

if TYPE_CHECKING:
    from weighbridge.planning.plan import Plan
    from weighbridge.running.changed_files import FileChange
    from weighbridge.storage.places.directory import Extra

FILES: Final = (CONFIG, *BESIDE)
"""Files that name modules of a checkpoint with quantised weights."""


def follow_names(plan: Plan, beside: Sequence[Extra]) -> tuple[FileChange, ...]:
    """Return the configurations that have to say the same of other names; those that are right are left out.

    Args:
        plan: The plan.
        beside: The files beside the weights that it reads.

    Raises:
        PlanError: `plan-failed`, with a `names-mixed` or `names-unmapped` for each place of which the names cannot be
            said.
        CheckpointError: `read-failed`.
    """
    extras = [extra for extra in beside if extra.name in FILES]
    found = [config for extra in extras if (config := read_config(extra.name, _text(extra))) is not None]
    modules = moved_modules(plan) if found else None
    if modules is None:
        return ()
    from weighbridge.running.changed_files import FileChange

    problems: list[WeighbridgeError] = []
    changes = [FileChange(each.name, each.text, follow_config(each, modules, problems)) for each in found]
    if problems:
        raise PlanError("plan-failed", "the mapping does not fit", problems=problems)
    return tuple(change for change in changes if change.before != change.after)


def _text(extra: Extra) -> str:
    """Return what a file is to hold; nothing where that is no text."""
    try:
        return read_extra(extra).decode("utf-8")
    except UnicodeDecodeError:
        return ""
