"""What files of one of transformers' models lack, by the word of its classes, and what they have more than once."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from weighbridge.base.keys import natural_key
from weighbridge.base.spelling import exact_pattern
from weighbridge.mappings.exception_rules import Carry, Drop
from weighbridge.mappings.mapping import Mapping
from weighbridge.planning.tracing import prepare, spell, trace_keys
from weighbridge.running.ties import are_equal
from weighbridge.storage.protocol import Checkpoint


def unsaved_names(model: Any) -> set[str]:
    """Return the names of the weights that a class makes itself, and that the library leaves out of every file.

    Args:
        model: A model of the library, without wrappers; or another one, whose class says no such thing.
    """
    return set(getattr(model, "_keys_to_ignore_on_save", None) or ())


def leave_out_unsaved(model: Any, there: Container[str]) -> list[Drop]:
    """Return the rules that leave these weights out of a model's file, as the library does.

    Args:
        model: The model.
        there: The names of the weights that can be read.
    """
    why = f"{type(model).__name__}._keys_to_ignore_on_save: the class makes it itself"
    return [Drop(exact_pattern(key), why) for key in sorted(unsaved_names(model)) if key in there]


def equal_ones(mapping: Mapping, checkpoint: Checkpoint) -> list[Carry]:
    """Return rules for tensors that a renaming gives one name, and that are the same bytes: the first stands for all.

    Old checkpoints hold a tensor once for each layer that the model holds once. The others are written back as they
    are, beside the first. Tensors that differ are left to the plan, which refuses them.

    Args:
        mapping: The mapping that the checkpoint is read by.
        checkpoint: The checkpoint, whose tensors are compared.
    """
    alike: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for trace, members in trace_keys(prepare(mapping), sorted(checkpoint.header, key=natural_key), []):
        for key, indices in members if trace.hit is None and trace.fired else ():
            alike.setdefault((spell(trace.name, indices), trace.fired), []).append(key)
    found = (keys for keys in map(_in_order, alike.values()) if len(keys) > 1)
    return [
        Carry(exact_pattern(key), f"equal to {keys[0]}, which stands for it")
        for keys in found
        if all(are_equal(keys[0], key, checkpoint) for key in keys[1:])
        for key in keys[1:]
    ]


def _in_order(keys: list[str]) -> list[str]:
    return sorted(keys, key=natural_key)
