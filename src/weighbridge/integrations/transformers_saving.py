"""The way back from one of transformers' models to a published layout: its plan, the dtypes, the settings beside."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from weighbridge.errors import PlanError
from weighbridge.mapping import Drop, Mapping
from weighbridge.modules import loaded_plan, module_header
from weighbridge.options import Options
from weighbridge.plan import Fated, Plan, Step
from weighbridge.planning import compile_plan
from weighbridge.program import Output, Program
from weighbridge.resolve import class_name
from weighbridge.specs import Header, TensorSpec
from weighbridge.storage import open_checkpoint
from weighbridge.transforms import PrefixChange


def plan_back(model: Any, mapping: Mapping) -> Plan:
    """Return the plan that takes a model's weights back.

    Args:
        model: The model, without wrappers.
        mapping: For a model that was not loaded through a plan: the mapping that would have been used.

    Raises:
        PlanError: `inverse-unproven`, `inverse-lossy`, `dtype-mismatch`.
    """
    recorded = loaded_plan(model)
    if recorded is None:
        return _derived(model, mapping)
    return _back(in_dtypes(recorded, module_header(model)), model, mapping)


def _back(plan: Plan, model: Any, mapping: Mapping) -> Plan:
    """Invert a plan; weights that the mapping itself says no file has stay out, those that the caller added go in."""
    absent = {rule.why or f'"{rule.pattern}"' for rule in mapping.initialise}
    new = tuple(fated for fated in plan.initialised if fated.by not in absent)
    left = tuple(fated._replace(by=f"not in the file: {fated.by}") for fated in plan.initialised if fated.by in absent)
    back = replace(plan, initialised=new).inverse(model, keep_initialised=True)
    return replace(back, dropped=back.dropped + left)


def _derived(model: Any, mapping: Mapping) -> Plan:
    """Plan with the inverse of a mapping.

    A change of prefix has no part in it: nobody knows whether the checkpoint that was never there had the prefix. Of
    tied weights one is written, as the library does.
    """
    kept = tuple(rule for rule in mapping.transforms if not isinstance(rule, PrefixChange))
    tied = [Drop(f"^{key}$", "tied") for key in getattr(model, "all_tied_weights_keys", None) or ()]
    back = replace(mapping, transforms=kept, carry=()).inverse()
    checkpoint = open_checkpoint(model)
    plan = compile_plan(checkpoint.header, back, options=Options(drop=tied, config=model.config))
    plan.binding.source = checkpoint
    return plan


def in_dtypes(plan: Plan, header: Header) -> Plan:
    """Return a plan as it would be, had the checkpoint been in the dtypes that the model has now.

    A model that was cast, on loading or later, is saved in the dtype that it has; a plan whose target's dtypes are
    still the model's, and that can be undone exactly, is left as it is.

    Args:
        plan: The plan that the model was loaded through.
        header: The model's specs.

    Raises:
        PlanError: `dtype-mismatch` where weights that become one tensor have different dtypes now.
    """
    same = all(header.specs.get(key, spec).dtype == spec.dtype for key, spec in plan.target.items())
    if same and plan.is_exact:
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


def save_settings(model: Any, out: Path) -> None:
    """Write the configuration and the generation settings, as the library does beside the weights."""
    config = copy.deepcopy(model.config)
    config.dtype = str(model.dtype).removeprefix("torch.")
    config.architectures = [class_name(model)]
    config.save_pretrained(out)
    if model.can_generate():
        model.generation_config.save_pretrained(out)
