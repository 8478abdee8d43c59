"""The way back from one of transformers' models to a published layout: its plan, the dtypes, the settings beside."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from weighbridge.api.bound_plan import Plan
from weighbridge.mappings.mapping import Mapping
from weighbridge.mappings.transforms import PrefixChange
from weighbridge.models.model_sources import open_model
from weighbridge.models.module_saving import recorded_way_back, tied_names
from weighbridge.models.resolve import class_name
from weighbridge.planning.compiling import compile_plan
from weighbridge.planning.plan_options import Options


def plan_back(model: Any, mapping: Mapping, *, lossy: bool = False) -> Plan:
    """Return the plan that takes a model's weights back.

    Args:
        model: The model, without wrappers.
        mapping: For a model that was not loaded through a plan: the mapping that would have been used.
        lossy: Accept that what a rule dropped on loading is not saved either.

    Raises:
        PlanError: `inverse-unproven`, `inverse-lossy`, `dtype-mismatch`.
    """
    recorded = recorded_way_back(model, lossy=lossy)
    return _derived(model, mapping) if recorded is None else Plan.bind(recorded.plan, model, origin=recorded.origin)


def _derived(model: Any, mapping: Mapping) -> Plan:
    """Plan with the inverse of a mapping.

    A change of prefix has no part in it: nobody knows whether the checkpoint that was never there had the prefix. Of
    tied weights one is written, as the library does.
    """
    kept = tuple(rule for rule in mapping.transforms if not isinstance(rule, PrefixChange))
    back = replace(mapping, transforms=kept, carry=()).inverse()
    checkpoint = open_model(model)
    plan = compile_plan(checkpoint.header, back, options=Options(drop=tied_names(model), config=model.config))
    return Plan.bind(plan, checkpoint)


def save_settings(model: Any, out: Path) -> None:
    """Write the configuration and the generation settings, as the library does beside the weights."""
    config = copy.deepcopy(model.config)
    config.dtype = str(model.dtype).removeprefix("torch.")
    config.architectures = [class_name(model)]
    config.save_pretrained(out)
    if model.can_generate():
        model.generation_config.save_pretrained(out)
