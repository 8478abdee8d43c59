"""Which of the tensors in a directory of torch.distributed.checkpoint are meant, and the keys that they have then.

A training saves its weights and the states of its optimizer side by side, each in a dict of its own, and the metadata
says which dict a tensor was in. So the rule is the same as for a torch file, which holds such dicts, too
(`torch_entries`): the weights are what is meant, or what an entry names, `dir::model`. An entry of two stars means all
tensors of all dicts, each under its full name.
"""

from __future__ import annotations

from math import prod
from typing import Any, Final

from weighbridge.base.errors import CheckpointError
from weighbridge.base.json_text import shorten
from weighbridge.storage.formats.torch_entries import choose, notes_on
from weighbridge.storage.formats.torch_pickles import Storage, Stored
from weighbridge.storage.outputs.pickle_text import row_major_strides
from weighbridge.storage.sharded.dcp_metadata import Described, Tensor

EVERYTHING: Final = "**"
"""The entry that means all tensors of all dicts."""


def select(described: Described, entry: str | None) -> tuple[dict[str, str], list[str]]:
    """Choose tensors.

    Args:
        described: What there is.
        entry: Which dict is meant; see `torch_entries.choose`. Two stars for all; None to choose.

    Returns:
        The name of each tensor by the key that it is to have, and notes on what was left aside.

    Raises:
        CheckpointError: `checkpoint-ambiguous`, whose hint is an entry, `checkpoint-not-found`, `dcp-invalid`; without
            the place.
    """
    if entry == EVERYTHING:
        return {name: name for name in described.tensors}, []
    value = _nest(described)
    try:
        chosen = choose(value, entry)
    except CheckpointError as problem:
        if problem.code != "pickle-invalid":
            raise
        hint = f"open all that there is, with {EVERYTHING} as the entry" if described.tensors else ""
        what = "no weights are in here"
        raise CheckpointError("checkpoint-not-found", what, got=problem.got, hint=hint) from None
    found: dict[str, str] = {}
    for key, stored in chosen.tensors.items():
        assert isinstance(stored, Stored)
        assert stored.storage is not None
        found[str(key)] = stored.storage.key
    if len(found) < len(chosen.tensors):
        raise _contradiction(chosen.name)
    return found, notes_on(value, chosen)


def _nest(described: Described) -> Any:
    """Return the dicts and lists that were saved, with a description in the place of each tensor."""
    root: dict[str | int, Any] = {}
    leaves: dict[str, Any] = {name: _leaf(name, tensor) for name, tensor in described.tensors.items()}
    leaves |= dict.fromkeys(described.objects)
    for name, leaf in leaves.items():
        *way, last = described.path(name)
        inner = root
        for key in way:
            inner = inner.setdefault(key, {})
            if type(inner) is not dict:
                raise _contradiction(name)
        if inner.setdefault(last, leaf) is not leaf:
            raise _contradiction(name)
    return _with_lists(root)


def _leaf(name: str, tensor: Tensor) -> Stored:
    storage = Storage(name, tensor.dtype, prod(tensor.shape))
    return Stored(storage, tensor.dtype, 0, tensor.shape, row_major_strides(tensor.shape))


def _with_lists(value: Any) -> Any:
    """Make a list of each dict whose keys are numbers: it was one."""
    if type(value) is not dict:
        return value
    made = {key: _with_lists(inner) for key, inner in value.items()}
    return list(made.values()) if made and all(type(key) is int for key in made) else made


def _contradiction(name: str) -> CheckpointError:
    what = "the metadata contradicts itself"
    return CheckpointError("dcp-invalid", what, got=f"two values at the place of {shorten(name)}")
