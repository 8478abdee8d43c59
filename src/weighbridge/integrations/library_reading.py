"""What the library makes of a file by the names that its own rules give each tensor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from weighbridge.algebra.layout import Layout
from weighbridge.mappings.library_parts import library_module, library_name
from weighbridge.planning.plan import Plan
from weighbridge.planning.steps import Step


class LibraryNames:
    """Gives tensors of a checkpoint the names that the library's loading gives them.

    Args:
        rules: The library's rules for the checkpoint.
        prefix: The name of the base model, which it puts in front of a key or takes away.
        state: The tensors of the model, by name.
    """

    def __init__(self, rules: Iterable[Any], prefix: str, state: Mapping[str, Any]) -> None:
        converting = library_module("core_model_loading")
        self._rename, converter = (library_name(converting, name) for name in ("rename_source_key", "WeightConverter"))
        listed = [*rules]
        self._renames = [rule for rule in listed if not isinstance(rule, converter)]
        self._converters = [rule for rule in listed if isinstance(rule, converter)]
        self._prefix, self._state = prefix, state

    def find(self, key: str) -> tuple[str, str | None]:
        """Return the name of a tensor, and the pattern of the converter that takes it; what leads nowhere is undone."""
        name, pattern = self._rename(key, self._renames, self._converters, self._prefix, self._state)
        if name not in self._state and key in self._state:
            name, pattern = self._rename(key, [], [], self._prefix, self._state)
        return name, pattern

    def unexpected(self, key: str) -> list[str]:
        """Return what the library calls a tensor that it finds no place for; nothing where it has one."""
        name, pattern = self.find(key)
        if name in self._state:
            return []
        taken = next((rule for rule in self._converters if pattern in rule.source_patterns), None)
        first, *others = taken.target_patterns if taken is not None else [name]
        return [name, *(name.replace(first, other) for other in others)]


def report_unseen(
    loading_info: Any, left_over: Iterable[str], dropped: Iterable[str], rules: list[Any], model: Any
) -> None:
    """Add to what the library found out the tensors that it never saw, under the names that it would give them.

    Args:
        loading_info: What it found out.
        left_over: Tensors of the checkpoint without a place.
        dropped: Those that a rule of the caller's left out.
        rules: The library's rules for the checkpoint.
        model: The model.
    """
    if left_over or dropped:
        names = LibraryNames(rules, model.base_model_prefix, model.state_dict())
        unexpected = library_name(loading_info, "unexpected_keys")
        unexpected.update(name for key in left_over for name in names.unexpected(key))
        unexpected.update(name for key in dropped for name in names.unexpected(key) or [key])


def remember_rules(model: Any, rules: list[Any], keys: list[str]) -> None:
    """Leave on the model the rules that fit its checkpoint, so that the library's own save does what it always does."""
    names = LibraryNames(rules, "", {})
    for key in keys:
        names.find(key)
    model._weight_conversions = [rule for rule in rules if rule.was_used()]


def is_read_by_library(model: Any, back: Plan) -> bool:
    """Tell whether the library leads each tensor of a file to the model's tensor that it was made of.

    Where its elements were moved about, one of the library's converters must take it, and see to that.

    Args:
        model: A model of the library, without wrappers.
        back: The plan that makes the file of the model.
    """
    rules = library_name(library_module("conversion_mapping"), "get_model_conversion_mapping")(model)
    names = LibraryNames(rules, model.base_model_prefix, back.source.specs)
    for step in back.steps:
        for key in step.targets:
            name, pattern = names.find(key)
            if name not in step.sources or not (pattern is not None or _is_unmoved(step)):
                return False
    return True


def _is_unmoved(step: Step) -> bool:
    """Tell whether one tensor is one of the file's, of the same shape and in the same order."""
    if len(step.sources) != 1 or len(step.targets) != 1 or step.program.temporaries:
        return False
    return step.program.targets[0].layout == Layout.of(0, step.program.sources[0].shape)
