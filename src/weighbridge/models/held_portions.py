"""The portion of a plan that a process runs, by what it holds of a model."""

from __future__ import annotations

from collections.abc import Mapping

from weighbridge.algebra.held_parts import Part
from weighbridge.base.errors import PlanError
from weighbridge.base.specs import Shape
from weighbridge.models.holdings import Places
from weighbridge.planning.plan import Plan
from weighbridge.planning.portions.cutting import cut


def is_spread(places: Mapping[str, Places]) -> bool:
    """Tell whether a process holds parts of a model's tensors."""
    return any(place.sharded is not None for place in places.values())


def held_portion(plan: Plan, places: Mapping[str, Places]) -> Plan:
    """Cut a plan to what a process holds of a model; one that holds whole tensors runs it as it is.

    Args:
        plan: The plan; it may be cut already, to the same parts.
        places: The model's tensors.

    Raises:
        PlanError: `parts-mismatch`; `model-mismatch` for a plan that was cut to other parts.
    """
    if not is_spread(places):
        return plan
    whole = plan if plan.portion is None else plan.portion.whole
    made = cut(whole, {key: _part(places.get(key), spec.shape) for key, spec in whole.target.items()})
    if plan.portion is not None and plan != made:
        what = "the plan was cut to other parts than this process holds of the model"
        raise PlanError("model-mismatch", what, hint="give the whole plan, which is cut to what is held")
    return made


def _part(place: Places | None, shape: Shape) -> Part:
    """Return what is held of a target; what the model does not have is not made."""
    if place is None:
        return Part.empty(shape)
    return Part.whole(shape) if place.sharded is None or place.sharded.part.shape != shape else place.sharded.part
