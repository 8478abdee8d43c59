"""Choose between our mapping of a model and the library's own rules for it, by names alone.

Users have files of both kinds: published ones, and those that the library has written, which may be neither published
nor the model's own names. Ours goes first; the other is asked where ours does not fit, and the plan says so.
"""

from __future__ import annotations

from collections.abc import Callable

from weighbridge.base.errors import PlanError
from weighbridge.base.specs import Header
from weighbridge.mappings.mapping import Mapping, MappingLike, as_mapping
from weighbridge.planning.drafts import NAMING_FAULTS
from weighbridge.planning.plan import Plan


def plan_by_either(
    plan_by: Callable[..., Plan],
    ours: Mapping,
    find_theirs: Callable[[], MappingLike],
    header: Header,
    *,
    is_partial: bool,
) -> Plan:
    """Plan by our mapping; by the library's where our names do not fit, or leave more open in a partial load.

    Args:
        plan_by: Plans by a mapping, with a note to add to the plan.
        ours: Our mapping.
        find_theirs: Gives the library's; called only where it is needed.
        header: Specs of the model's tensors.
        is_partial: Whether weights that nothing fills, and tensors without a place, are accepted.

    Raises:
        PlanError: As `plan_by` with our mapping, where neither fits, or where something else than names is wrong.
    """
    note = f'read by the rules of the library itself, as the mapping "{ours.name}" does not fit'
    try:
        plan = plan_by(ours)
    except PlanError as problem:
        theirs = as_mapping(find_theirs())
        if theirs.transforms == ours.transforms or NAMING_FAULTS.isdisjoint(problem.codes):
            raise
        try:
            return plan_by(theirs, note=note)
        except PlanError:
            raise problem from None
    left = _open(plan, header) if is_partial else set()
    theirs = as_mapping(find_theirs()) if left else ours
    if theirs.transforms == ours.transforms:
        return plan
    try:
        other = plan_by(theirs, note=note)
    except PlanError:
        return plan
    return other if _open(other, header) < left else plan_by(ours)


def _open(plan: Plan, header: Header) -> set[tuple[str, str]]:
    """Return the weights that nothing fills, and the tensors that go nowhere."""
    left = {key for step in plan.steps if step.fate == "carried" for key in step.sources if key not in header}
    return {("source", key) for key in left} | {("target", fated.key) for fated in plan.initialised}
