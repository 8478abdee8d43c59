"""The way back from one of transformers' models to a published layout: its plan, the dtypes, the settings beside."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from weighbridge.api.bound_plan import Plan
from weighbridge.api.live_models import say
from weighbridge.mappings.exception_rules import Drop, exception_rules
from weighbridge.mappings.mapping import Mapping
from weighbridge.mappings.transforms import PrefixChange
from weighbridge.models.model_sources import open_model
from weighbridge.models.module_saving import tied_names
from weighbridge.models.resolve import class_name
from weighbridge.models.wrappers import unwrap
from weighbridge.planning.compiling import compile_plan
from weighbridge.planning.plan_options import read_options
from weighbridge.storage.places.directory import Extra


def published(mapping: Mapping) -> Mapping:
    """Return the inverse of a model's mapping that gives published names.

    A change of prefix has no part in it: nobody knows whether the checkpoint that was never there had the prefix.
    """
    kept = tuple(rule for rule in mapping.transforms if not isinstance(rule, PrefixChange))
    return replace(mapping, transforms=kept, carry=()).inverse()


def plan_derived(model: Any, back: Mapping, planning: dict[str, Any]) -> Plan:
    """Plan with the inverse of a mapping; of tied weights one is written, as the library does.

    Args:
        model: The model.
        back: The inverse.
        planning: Options of a plan.

    Raises:
        PlanError: `inverse-unproven`.
    """
    inner = unwrap(model)
    drop = (*tied_names(inner), *exception_rules(Drop, planning.get("drop", ())))
    checkpoint = open_model(model)
    options = read_options({"config": inner.config, **planning, "drop": drop})
    plan = compile_plan(checkpoint.header, back, options=options)
    notes = (*plan.notes, *checkpoint.notes)
    say(notes)
    return Plan.bind(replace(plan, notes=notes), checkpoint)


@contextmanager
def settings_of(model: Any) -> Iterator[list[Extra]]:
    """Write the configuration and the generation settings to a place of their own, as the library does.

    Args:
        model: The model, without wrappers.

    Yields:
        The files, to be put beside the weights before these are seen; they are gone afterwards.
    """
    config = copy.deepcopy(model.config)
    config.dtype = str(model.dtype).removeprefix("torch.")
    config.architectures = [class_name(model)]
    with TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        if model.can_generate():
            model.generation_config.save_pretrained(folder)
        paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        yield [Extra(path.relative_to(folder).as_posix(), path.resolve()) for path in paths]
