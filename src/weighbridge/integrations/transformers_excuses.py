"""What the library's classes excuse: tensors that a checkpoint may have left over, and weights that it may lack."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from weighbridge.base.spelling import exact_pattern, literally
from weighbridge.integrations.transformers_names import unsaved_names
from weighbridge.mappings.exception_rules import Initialise
from weighbridge.models.wrappers import layout_class


def _patterns(model: Any, name: str) -> dict[str, str]:
    """Return a class's own list of excused keys: each pattern with what to call the rule."""
    patterns = sorted(getattr(model, name, None) or ())  # the library keeps sets
    return {pattern: f"{layout_class(model).__name__}.{name}: {pattern}" for pattern in patterns}


def may_be_missing(keys: list[str], model: Any, among: list[str]) -> Iterator[Initialise]:
    """Yield a rule for each weight that a class makes itself where a file lacks it; some are in no file, ever."""
    unsaved = unsaved_names(model)
    for are_saved in (True, False):
        absent = [key for key in keys if (key not in unsaved) == are_saved]
        found = excused(absent, _patterns(model, "_keys_to_ignore_on_load_missing"), model, among)
        yield from (Initialise(pattern, why, saved=are_saved) for pattern, why in found)


def expected_left_over(model: Any) -> dict[str, str]:
    """Return the patterns of the keys that the library leaves aside in silence; two of them hold for every class."""
    patterns = _patterns(model, "_keys_to_ignore_on_load_unexpected")
    buffers = [name for name, _ in model.named_buffers()]
    for ending, pattern in (("rotary_emb.inv_freq", r"rotary_emb\.inv_freq"), ("position_ids", r"(^|\.)position_ids$")):
        if any(name.endswith(ending) for name in buffers):
            patterns[pattern] = f"{ending} is computed by the model"
    return patterns


def excused(keys: list[str], patterns: dict[str, str], model: Any, among: list[str]) -> list[tuple[str, str]]:
    """Return a rule for each of the keys that a pattern of the library excuses, with the reason."""
    prefix = f"{model.base_model_prefix}." if model.base_model_prefix else ""
    found: dict[str, str] = {}
    for key in keys:
        for pattern, why in patterns.items():
            if any(re.search(pattern, name) for name in (key, prefix + key, key.removeprefix(prefix))):
                found.setdefault(key, why)
    return list(dict.fromkeys((_rule_for(key, found, among), why) for key, why in found.items()))


def _rule_for(key: str, excused: dict[str, str], among: list[str]) -> str:
    """Write a pattern for a key: for all that differ in the last index, if those are excused as well."""
    head, index, tail = re.fullmatch(r"(?:(.*\.)?(\d+)(?=\.|$))?(.*)", key).groups()  # type: ignore[union-attr]
    if index is not None:
        alike = re.compile(rf"{re.escape(head or '')}\d+{re.escape(tail)}")
        if all(other in excused for other in among if alike.fullmatch(other)):
            return f"^{literally(head or '')}*{literally(tail)}$"
    return exact_pattern(key)
