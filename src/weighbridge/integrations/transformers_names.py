"""Weights of one of transformers' models that its files do not have, by the word of its classes."""

from __future__ import annotations

from typing import Any

from weighbridge.base.spelling import exact_pattern
from weighbridge.mappings.exception_rules import Drop


def unsaved_names(model: Any) -> set[str]:
    """Return the names of the weights that a class makes itself, and that the library leaves out of every file.

    Args:
        model: A model of the library, without wrappers; or another one, whose class says no such thing.
    """
    return set(getattr(model, "_keys_to_ignore_on_save", None) or ())


def leave_out_unsaved(model: Any) -> list[Drop]:
    """Return the rules that leave these weights out of a model's file, as the library does."""
    why = f"{type(model).__name__}._keys_to_ignore_on_save: the class makes it itself"
    return [Drop(exact_pattern(key), why) for key in sorted(unsaved_names(model)) if key in model.state_dict()]
