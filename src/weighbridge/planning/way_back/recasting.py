"""A plan as it would be, had the tensors other dtypes."""

from __future__ import annotations

from dataclasses import replace

from weighbridge.base.errors import PlanError
from weighbridge.base.specs import Header, TensorSpec
from weighbridge.planning.plan import Plan
from weighbridge.planning.program import Output, Program
from weighbridge.planning.steps import Fated, Step


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
    specs = (*plan.target.items(), *((fated.key, fated.spec) for fated in plan.initialised))
    same = all(header.specs.get(key, spec).dtype == spec.dtype for key, spec in specs)
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
    return step_in_dtype(step, dtypes.pop()) if dtypes else step


def step_in_dtype(step: Step, dtype: str) -> Step:
    """Return a step whose tensors all have one dtype, without casts."""
    program = step.program
    if {spec.dtype for spec in program.slots} | {out.dtype for out in program.targets} == {dtype}:
        return step

    def output(one: Output) -> Output:
        return one._replace(dtype=dtype)

    sources = tuple(TensorSpec(dtype, spec.shape) for spec in program.sources)
    recast = Program(sources, tuple(map(output, program.temporaries)), tuple(map(output, program.targets)))
    return Step(step.sources, step.targets, recast, "moved" if step.fate == "computed" else step.fate, step.rules)
