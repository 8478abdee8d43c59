"""Write the configurations beside a checkpoint's weights anew where they name modules that a plan gives other names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from weighbridge.api.configurations import NAME
from weighbridge.base.errors import PlanError, WeighbridgeError
from weighbridge.mappings.schemes.said import BESIDE
from weighbridge.planning.config_names.moved_modules import moved_modules
from weighbridge.planning.config_names.places import follow_config, read_config
from weighbridge.storage.places.regular_files import read_small_file

if TYPE_CHECKING:
    from weighbridge.planning.plan import Plan
    from weighbridge.running.changed_files import FileChange
    from weighbridge.storage.places.directory import Extra
    from weighbridge.storage.protocol import Checkpoint

FILES: Final = (NAME, *BESIDE)
"""Files that name modules of a checkpoint with quantised weights."""


def follow_names(plan: Plan, source: Checkpoint) -> tuple[FileChange, ...]:
    """Return the configurations that have to say the same of other names; those that are right are left out.

    Args:
        plan: The plan.
        source: What it reads, opened.

    Raises:
        PlanError: `plan-failed`, with a `names-mixed` or `names-unmapped` for each place of which the names cannot be
            said.
        CheckpointError: `read-failed`.
    """
    extras = [extra for extra in getattr(source, "extras", ()) if extra.name in FILES]
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
    raw = read_small_file(extra.path, is_resolved=True)[0] if extra.content is None else extra.content
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return ""
