"""Prove that what is saved of a model can be read back, by the rules that it was loaded with and into its class."""

from __future__ import annotations

from typing import Any, Final

from weighbridge.base.errors import PlanError
from weighbridge.base.keys import collapse
from weighbridge.base.specs import Header
from weighbridge.planning.compiling import compile_plan
from weighbridge.planning.plan import Plan
from weighbridge.planning.plan_options import Options
from weighbridge.planning.readings import without_change
from weighbridge.planning.way_back.inverting import steps_not_back

_OPEN: Final = frozenset({"operation-config", "dtype-mismatch"})
"""What cannot be told here: a configuration that is not known any more, and a cast that wants the dtype of old."""


def prove_read_back(saved: Plan, loaded: Plan, held: Header, config: Any) -> None:
    """Plan the load of a file that is not written yet: its layout is read as that of the first file was.

    A weight that no file gave may have no name from which the rules lead to it, and a file with new names may be read
    in another way than the one that the model came from.

    Args:
        saved: The way back, which is to be carried out.
        loaded: The plan that the model was loaded through.
        held: Specs of the model's tensors, and which are tied.
        config: The model's configuration.

    Raises:
        PlanError: `inverse-unproven`.
    """
    try:
        mapping, _ = without_change(loaded.mapping, loaded.reading)
        again = compile_plan(saved.target, mapping, held, options=Options(config=config))
    except PlanError as refused:
        if _OPEN.isdisjoint(refused.codes):
            raise _unread(refused) from None
        return
    lost = [step for step in steps_not_back(saved, again) if step.sources[0] in held]
    if lost:
        keys = ", ".join(collapse(key for step in lost for key in step.targets)[:4])
        raise _unread(PlanError("inverse-unproven", "these keys come back as something else", where=keys))


def _unread(problem: PlanError) -> PlanError:
    return PlanError(
        "inverse-unproven",
        "what was loaded through a plan, and is new since, has no names together from which both can be loaded again",
        hint="save(model, out, []) saves it under the model's own names",
        problems=problem.problems or [problem],
    )
