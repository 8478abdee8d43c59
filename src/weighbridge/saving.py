"""The way back from a live model: the inverse of the plan it was loaded through, in the dtypes that it has now."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from weighbridge.errors import PlanError
from weighbridge.loading import loaded_plan
from weighbridge.modules import module_header
from weighbridge.plan import Fated, Plan, Step
from weighbridge.program import Output, Program
from weighbridge.specs import Header, TensorSpec

if TYPE_CHECKING:
    import torch


def recorded_way_back(model: torch.nn.Module, *, lossy: bool = False) -> Plan | None:
    """Return the plan that takes a model's weights back to where they came from; None if it came through no plan.

    Weights that were initialised, a new head for example, go in under their own names, unless the rule that declares
    them says that no file has them; so do tensors that the model has gained since it was loaded.

    Args:
        model: The model, without wrappers.
        lossy: Accept that part of the source is lost: what a rule dropped, for example.

    Raises:
        PlanError: `inverse-lossy`, `dtype-mismatch`.
    """
    plan = loaded_plan(model)
    if plan is None:
        return None
    header = module_header(model)
    return _back(in_dtypes(plan, header), model, header, lossy=lossy)


def _back(plan: Plan, model: torch.nn.Module, header: Header, *, lossy: bool) -> Plan:
    """Invert a plan; initialised weights go in under their own names, unless their rule says that no file has them."""
    absent = {rule.why or f'"{rule.pattern}"' for rule in plan.mapping.initialise if not rule.saved}
    new = tuple(fated for fated in plan.initialised if fated.by not in absent)
    left = tuple(fated._replace(by=f"not in the file: {fated.by}") for fated in plan.initialised if fated.by in absent)
    known = dict(plan.target_fates())
    gained = tuple(Fated(key, spec, "new since loading") for key, spec in header.items() if key not in known)
    back = replace(plan, initialised=new + gained).inverse(model, lossy=lossy, keep_initialised=True)
    return replace(back, dropped=back.dropped + left)


def in_dtypes(plan: Plan, header: Header) -> Plan:
    """Return a plan as it would be, had the checkpoint been in the dtypes that the model has now.

    A model that was cast, on loading or later, is saved in the dtype that it has: a cast back could lose what it has
    learnt since. A plan without casts whose dtypes are still the model's is left as it is.

    Args:
        plan: The plan that the model was loaded through.
        header: The model's specs.

    Raises:
        PlanError: `dtype-mismatch` where weights that become one tensor have different dtypes now.
    """
    same = all(header.specs.get(key, spec).dtype == spec.dtype for key, spec in plan.target.items())
    if same and not any(step.program.casts for step in plan.steps):
        return plan
    made = replace(
        plan,
        steps=tuple(_step_in(step, header) for step in plan.steps),
        initialised=_specs_in(plan.initialised, header),
        tied_targets=_specs_in(plan.tied_targets, header),
        source_files=None,
    )
    made.check()
    return made


def _specs_in(fated: tuple[Fated, ...], header: Header) -> tuple[Fated, ...]:
    return tuple(one._replace(spec=header.specs.get(one.key, one.spec)) for one in fated)


def _step_in(step: Step, header: Header) -> Step:
    dtypes = {header[key].dtype for key in step.targets if key in header}
    if len(dtypes) > 1:
        raise PlanError(
            "dtype-mismatch",
            "weights that become one tensor have different dtypes now",
            where=", ".join(step.sources[:3]),
            got=", ".join(f"{key}: {header[key].dtype}" for key in step.targets),
        )
    program = step.program
    if not dtypes or {spec.dtype for spec in program.slots} | {out.dtype for out in program.targets} == dtypes:
        return step
    (dtype,) = dtypes

    def output(one: Output) -> Output:
        return one._replace(dtype=dtype)

    sources = tuple(TensorSpec(dtype, spec.shape) for spec in program.sources)
    recast = Program(sources, tuple(map(output, program.temporaries)), tuple(map(output, program.targets)))
    return Step(step.sources, step.targets, recast, "moved" if step.fate == "computed" else step.fate, step.rules)
