"""Write the configurations beside a checkpoint's weights anew where they name modules that a plan gives other names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from weighbridge.api.configurations import read_extra
from weighbridge.api.refined_files import with_blocks
from weighbridge.base.errors import PlanError, WeighbridgeError
from weighbridge.mappings.lora.named_dialects import names_peft
from weighbridge.mappings.schemes.said import BESIDE, CONFIG
from weighbridge.planning.config_names.moved_modules import moved_modules
from weighbridge.planning.config_names.named_places import follow_config, read_config

if TYPE_CHECKING:
    from weighbridge.planning.plan import Plan
    from weighbridge.running.changed_files import FileChange
    from weighbridge.storage.places.directory import Extra
    from weighbridge.storage.protocol import Checkpoint

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


def check_writable(plan: Plan, changes: Sequence[FileChange] | None) -> None:
    """Refuse to write what would not be a checkpoint: one process's parts, or an adapter without its configuration.

    Args:
        plan: The plan.
        changes: The files beside the weights that it writes anew, as far as that is known.

    Raises:
        PlanError: `usage`.
    """
    if plan.portion is not None:
        what = "this plan is cut to parts of its tensors, and a file of these would pass for one of the whole tensors"
        raise PlanError("usage", what, hint="write the whole plan; take the parts as tensors: plan.state_dict()")
    if plan.is_of_adapter and not changes and names_peft(plan.source, plan.target):
        what = "this plan moves an adapter's tensors, and does not hold the configuration that belongs to them"
        hint = "make the plan anew, of the adapter's directory and the mapping, and write that"
        raise PlanError("usage", what, hint=hint)


def changed_files(
    plan: Plan, changes: Sequence[FileChange] | None, checkpoint: Checkpoint, origin: Checkpoint | None
) -> tuple[FileChange, ...]:
    """Return the files to write anew beside what is read.

    Args:
        plan: The plan.
        changes: What is known of them; None as long as nobody has looked for any.
        checkpoint: What is read.
        origin: Has the files beside it, where the checkpoint has none.
    """
    found = follow_names(plan, checkpoint.extras) if changes is None else changes
    return with_blocks(found, plan.refined, (origin or checkpoint).extras)


def _text(extra: Extra) -> str:
    """Return what a file is to hold; nothing where that is no text."""
    try:
        return read_extra(extra).decode("utf-8")
    except UnicodeDecodeError:
        return ""
