"""What has to hold of a plan that is run, and which files beside the weights its run writes anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from weighbridge.api.refined_files import with_blocks
from weighbridge.api.renamed_configs import follow_names
from weighbridge.base.errors import PlanError
from weighbridge.mappings.lora.named_dialects import find_dialect

if TYPE_CHECKING:
    from weighbridge.planning.plan import Plan
    from weighbridge.running.changed_files import FileChange
    from weighbridge.storage.protocol import Checkpoint


def check_makes_whole(plan: Plan) -> None:
    """Refuse to make tensors by a plan that is cut to parts of its sources, which fill them in places only.

    Raises:
        PlanError: `usage`.
    """
    if plan.portion is not None and plan.portion.source is not None:
        what = "this plan is cut to parts of its sources, which are pieces of its targets and no tensors"
        raise PlanError("usage", what, hint="run the whole plan, or cut it to parts of its targets")


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
    if plan.is_of_adapter and not changes and find_dialect(plan.target) is None:
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
