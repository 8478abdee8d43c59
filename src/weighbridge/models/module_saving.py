"""The way back from a live model: the inverse of the plan it was loaded through, in the dtypes that it has now."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from weighbridge.base.keys import collapse
from weighbridge.base.specs import Header
from weighbridge.mappings.exception_rules import Drop
from weighbridge.models.module_loading import recall
from weighbridge.models.modules import module_header
from weighbridge.planning.plan import Plan
from weighbridge.planning.steps import Fated, Step
from weighbridge.planning.way_back.inverting import proven_steps
from weighbridge.planning.way_back.origins import invert_rules, unstable_names
from weighbridge.planning.way_back.recasting import in_dtypes, step_in_dtype

if TYPE_CHECKING:
    import torch

    from weighbridge.storage.protocol import Checkpoint

_LOG: Final = logging.getLogger(__name__)


class WayBack(NamedTuple):
    """The plan that takes a model's weights back, and the checkpoint that they came from."""

    plan: Plan
    origin: Checkpoint


def recorded_way_back(model: torch.nn.Module, *, lossy: bool = False) -> WayBack | None:
    """Return the plan that takes a model's weights back to where they came from; None if it came through no plan.

    Weights that were initialised go in under the names that the mapping's rules, run backwards, give them, if the
    mapping turns these into theirs again; under their own names otherwise, as a new head does that no rule speaks of.
    They are left out where the rule that declares them says that no file has them. Tensors that the model has gained
    since it was loaded go in as well.

    Args:
        model: The model, without wrappers.
        lossy: Accept that part of the source is lost: what a rule dropped, for example.

    Raises:
        PlanError: `inverse-lossy`, `dtype-mismatch`.
    """
    loaded = recall(model)
    if loaded is None:
        return None
    header = module_header(model)
    config = getattr(model, "config", None)
    return WayBack(_back(in_dtypes(loaded.plan, header), header, config, lossy=lossy), loaded.checkpoint)


def _back(plan: Plan, header: Header, config: Any, *, lossy: bool) -> Plan:
    """Invert a plan, and add the weights that no file gave, unless their rule says that no file has them."""
    absent = {rule.why or f'"{rule.pattern}"' for rule in plan.mapping.initialise if not rule.saved}
    new = tuple(fated for fated in plan.initialised if fated.by not in absent)
    left = tuple(fated._replace(by=f"not in the file: {fated.by}") for fated in plan.initialised if fated.by in absent)
    known = dict(plan.target_fates())
    gained = tuple(Fated(key, spec, "new since loading") for key, spec in header.items() if key not in known)
    back = replace(plan, initialised=new + gained).inverse(lossy=lossy, keep_initialised=True)
    back = _under_published_names(back, [*new, *gained], config)
    return replace(back, dropped=back.dropped + left)


def _under_published_names(back: Plan, new: Sequence[Fated], config: Any) -> Plan:
    """Give weights that no file had the names that the rules have for them; note those that keep another name."""
    if not new or not back.mapping.transforms:
        return back
    header = Header({fated.key: fated.spec for fated in new})
    taken = {key for key in back.target if key not in header}
    proven = [step for step in proven_steps(back.mapping, header, config) if taken.isdisjoint(step.targets)]
    named = [_step_back_in(step, header) for step in _free_of(proven, header)]
    done = {key for step in named for key in step.sources}
    steps = [step for step in back.steps if done.isdisjoint(step.sources)]
    made = replace(back, steps=tuple(sorted([*steps, *named], key=lambda step: step.targets)))
    others = [key for key in header if key not in done]
    unled = {*unstable_names(back.mapping, others), *unstable_names(invert_rules(back.mapping).mapping, others)}
    if unled:
        keys = ", ".join(collapse(unled)[:4])
        note = f"{keys}: saved under the model's own name, as the rules lead back to no other one that can be relied on"
        _LOG.warning("%s", note)
        made = replace(made, notes=(*made.notes, note))
    made.check()
    return made


def _free_of(steps: list[Step], header: Header) -> list[Step]:
    """Leave out steps that would write the name of a weight which keeps its own."""
    while True:
        moved = {key for step in steps for key in step.sources}
        free = [step for step in steps if all(key in moved or key not in header for key in step.targets)]
        if len(free) == len(steps):
            return free
        steps = free


def tied_names(model: torch.nn.Module) -> list[Drop]:
    """Return the rules that leave out the second names of tied weights, for a model that was never loaded.

    A published file holds such a weight once. Which of its names that is, a model of transformers says
    (`all_tied_weights_keys`); of a model that does not say it, every name is kept. So is a name whose weight is another
    tensor now, against what the model says.
    """
    said: dict[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
    ties = module_header(model).ties if said else {}
    shared = (key for key, twin in said.items() if key in ties and ties[key] == ties.get(twin, twin))
    return [Drop(f"^{re.escape(key)}$", "tied") for key in shared]


def _step_back_in(step: Step, header: Header) -> Step:
    """Return a step of the way back without casts: what it makes has the dtype that the model has."""
    dtypes = {header[key].dtype for key in step.sources}
    return step_in_dtype(step, dtypes.pop()) if len(dtypes) == 1 else step
