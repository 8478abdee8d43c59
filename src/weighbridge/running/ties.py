"""Tensors that share one storage: what fills them must be the same bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weighbridge.base.errors import PlanError, WeighbridgeError
from weighbridge.planning.plan import Plan
from weighbridge.planning.steps import Step
from weighbridge.running.execute import run_target
from weighbridge.running.tensor_digests import digest_tensor

if TYPE_CHECKING:
    import torch

    from weighbridge.storage.protocol import Checkpoint


def check_ties(plan: Plan, checkpoint: Checkpoint, ties: dict[str, str]) -> None:
    """Compare all that fills targets of one storage; it must be the same bytes.

    Args:
        plan: The plan.
        checkpoint: What it reads.
        ties: For each key that shares its storage, the key that stands for all of them.

    Raises:
        PlanError: `plan-failed`, with a `tie-differs` for every target that differs.
    """
    groups = set(ties.values())
    writers: dict[str, list[tuple[Step, int]]] = {}
    for step in plan.steps:
        for number, key in enumerate(step.targets):
            if key in ties or key in groups:
                writers.setdefault(ties.get(key, key), []).append((step, number))
    problems: list[WeighbridgeError] = []
    for first, *others in writers.values():
        value = run_target(*first, checkpoint) if others else None
        problems += [
            _differs(other, first) for other in others if not same_bytes(value, run_target(*other, checkpoint))
        ]
    if problems:
        raise PlanError("plan-failed", "tied tensors differ", problems=problems)


def _differs(one: tuple[Step, int], other: tuple[Step, int]) -> PlanError:
    return PlanError(
        "tie-differs",
        "these tensors share one parameter of the model, and differ",
        where=one[0].targets[one[1]],
        got=f"{', '.join(one[0].sources[:3])} against {', '.join(other[0].sources[:3])}",
        hint="drop one of them, or untie the model",
    )


def same_bytes(one: torch.Tensor | None, other: torch.Tensor) -> bool:
    """Tell whether two dense CPU tensors have the same dtype, shape and bytes."""
    import torch

    if one is None or one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))


def check_standing_ties(plan: Plan, checkpoint: Checkpoint) -> None:
    """Check that what a plan leaves unread because it is tied still holds what its twin holds.

    Raises:
        PlanError: `tie-differs`.
    """
    ties = checkpoint.header.ties
    for fated in plan.tied_sources:
        key, twin = fated.key, fated.by
        if key not in checkpoint.header or ties.get(key, key) == ties.get(twin, twin):
            continue
        if not _hold_the_same(checkpoint, key, twin):
            raise PlanError(
                "tie-differs",
                "these tensors were one when they were loaded, and differ now",
                where=key,
                got=f"{twin} holds something else",
                hint="the original layout has no place for both: tie them again, or save with another mapping",
            )


def _hold_the_same(checkpoint: Checkpoint, one: str, other: str) -> bool:
    """Tell whether two tensors of a source are the same; those in files are read, not mapped."""
    if checkpoint.extent(one) is None or checkpoint.extent(other) is None:
        return same_bytes(*[checkpoint.tensor(name).detach().to("cpu").contiguous() for name in (one, other)])
    same = checkpoint.header[one] == checkpoint.header[other]
    return same and digest_tensor(checkpoint, one) == digest_tensor(checkpoint, other)
