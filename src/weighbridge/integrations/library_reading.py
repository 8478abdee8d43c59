"""Tell whether the library would read a file as it is meant, by the names that its own rules give each tensor."""

from __future__ import annotations

from typing import Any

from weighbridge.algebra.layout import Layout
from weighbridge.mappings.transformers_table import library_module, library_name
from weighbridge.planning.plan import Plan
from weighbridge.planning.steps import Step


def is_read_by_library(model: Any, back: Plan) -> bool:
    """Tell whether the library leads each tensor of a file to the model's tensor that it was made of.

    Where its elements were moved about, one of the library's converters must take it, and see to that.

    Args:
        model: A model of the library, without wrappers.
        back: The plan that makes the file of the model.
    """
    converting = library_module("core_model_loading")
    rename, converter = library_name(converting, "rename_source_key"), library_name(converting, "WeightConverter")
    rules = library_name(library_module("conversion_mapping"), "get_model_conversion_mapping")(model)
    renames = [rule for rule in rules if not isinstance(rule, converter)]
    converters = [rule for rule in rules if isinstance(rule, converter)]
    prefix, state = model.base_model_prefix, back.source.specs

    def found(key: str) -> tuple[str, bool]:
        """Name a tensor as the library's loading does, which takes back what leads nowhere."""
        name, pattern = rename(key, renames, converters, prefix, state)
        if name not in state and key in state:
            name, pattern = rename(key, [], [], prefix, state)
        return name, pattern is not None

    for step in back.steps:
        for key in step.targets:
            name, is_converted = found(key)
            if name not in step.sources or not (is_converted or _is_unmoved(step)):
                return False
    return True


def _is_unmoved(step: Step) -> bool:
    """Tell whether one tensor is one of the file's, of the same shape and in the same order."""
    if len(step.sources) != 1 or len(step.targets) != 1 or step.program.temporaries:
        return False
    return step.program.targets[0].layout == Layout.of(0, step.program.sources[0].shape)
