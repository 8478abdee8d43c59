"""A plan as it would be, had the tensors other dtypes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from weighbridge.base.errors import PlanError
from weighbridge.base.forms.elements import Constant, cast_element
from weighbridge.base.specs import Header, TensorSpec
from weighbridge.planning.plan import Plan
from weighbridge.planning.program import Cut, Output, Program
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
        return _recast(step, _mixed_dtypes(step, header))
    return step_in_dtype(step, dtypes.pop()) if dtypes else step


def step_in_dtype(step: Step, dtype: str) -> Step:
    """Return a step whose tensors all have one dtype, without casts."""
    program = step.program
    if {spec.dtype for spec in program.sources} | {out.dtype for out in program.written} == {dtype}:
        return step
    return _recast(step, [dtype] * (len(program.sources) + len(program.written)))


def _recast(step: Step, dtypes: Sequence[str]) -> Step:
    """Give a step's sources and what it writes, in this order, other dtypes."""
    program, first, last = step.program, len(step.program.sources), len(step.program.temporaries)
    sources = tuple(TensorSpec(dtype, spec.shape) for dtype, spec in zip(dtypes[:first], program.sources, strict=True))
    made = [one._replace(dtype=dtype) for dtype, one in zip(dtypes[first:], program.written, strict=True)]
    temporaries, targets = tuple(made[:last]), tuple(made[last:])
    recast = Program(sources, temporaries, targets, False, *_declared_in(program, sources, made), again=program.again)
    return Step(step.sources, step.targets, recast, "moved" if step.fate == "computed" else step.fate, step.rules)


def _declared_in(
    program: Program, sources: Sequence[TensorSpec], made: Sequence[Output]
) -> tuple[tuple[Constant, ...], tuple[Cut, ...]]:
    """Return a program's constants and what it cuts off, in the dtypes that the tensors beside them have now.

    Of what has no elements, no copy tells beside what it lies: it has the dtype that all others have.
    """
    reading = {copy.source: output.dtype for output in reversed(made) for copy in output.layout.copies}
    one = {spec.dtype for spec in sources} | {output.dtype for output in made}
    default = one.pop() if len(one) == 1 else None
    constants = []
    for slot, (spec, element) in enumerate(program.constants, len(sources)):
        dtype = reading.get(slot, default or spec.dtype)
        constants.append(Constant(TensorSpec(dtype, spec.shape), cast_element(element, spec.dtype, dtype)))
    temporaries = [output.dtype for output in made[: len(program.temporaries)]]
    dtypes = [*(spec.dtype for spec in (*sources, *(constant.spec for constant in constants))), *temporaries]
    cuts = []
    for output, element in program.cuts:
        dtype = next((dtypes[copy.source] for copy in output.layout.copies), default or output.dtype)
        cuts.append(Cut(output._replace(dtype=dtype), cast_element(element, output.dtype, dtype)))
    return tuple(constants), tuple(cuts)


def _mixed_dtypes(step: Step, header: Header) -> list[str]:
    """Return the dtypes of a step's sources and what it writes: the model's one, where elements move between them."""
    program = step.program
    parts = _connected(program)
    wanted: dict[int, dict[str, str]] = {}
    for part, key in zip(parts[len(program.sources) + len(program.temporaries) :], step.targets, strict=True):
        if key in header:
            wanted.setdefault(part, {})[key] = header[key].dtype
    for part, found in wanted.items():
        if len(set(found.values())) > 1:
            sources = [key for key, number in zip(step.sources, parts, strict=False) if number == part]
            raise PlanError(
                "dtype-mismatch",
                "weights that become one tensor have different dtypes now",
                where=", ".join(sources[:3]),
                got=", ".join(f"{key}: {dtype}" for key, dtype in found.items()),
            )
    own = [spec.dtype for spec in (*program.sources, *(output.spec for output in program.written))]
    return [next(iter(wanted.get(part, {}).values()), dtype) for part, dtype in zip(parts, own, strict=True)]


def _connected(program: Program) -> list[int]:
    """Number a program's sources and what it writes, in order, so that those which elements move between are alike."""
    sources, constants = len(program.sources), len(program.constants)
    parts = list(range(sources + len(program.written)))
    for place, output in enumerate(program.written, sources):
        slots = {copy.source for copy in output.layout.copies} - set(range(sources, sources + constants))
        joined = {parts[place], *(parts[slot if slot < sources else slot - constants] for slot in slots)}
        parts = [min(joined) if part in joined else part for part in parts]
    return parts
