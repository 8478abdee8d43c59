"""What a model holds, if it is of the plainest kind: on the meta device, of torch and one library, and unwrapped.

`holdings.take_stock` understands wrappers, hooks, spread tensors and state dicts of other forms, and costs their
imports. A model that has none of these holds its parameters and persistent buffers, and nothing has to be understood.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import torch

_OWN_STATE: Final = ("state_dict", "_save_to_state_dict", "get_extra_state", "set_extra_state")


class PlainModel(NamedTuple):
    """A model of the plainest kind.

    Args:
        tensors: Its parameters and persistent buffers by name.
        class_names: The classes of all its modules.
        model_names: The classes and the `model_type` of those of its modules that are models of the library.
    """

    tensors: dict[str, torch.Tensor]
    class_names: frozenset[str]
    model_names: frozenset[str]


def read_plain_model(model: Any, library: str) -> PlainModel | None:
    """Return what a model holds; None for one that is not of the plainest kind.

    Args:
        model: The model, on the meta device.
        library: The package whose classes it is made of, beside torch's own.
    """
    tensors: dict[str, torch.Tensor] = {}
    class_names: set[str] = set()
    model_names: set[str] = set()
    seen: set[int] = set()
    for path, module in _modules(model, ""):
        own = _own_tensors(module)
        if id(module) in seen or not _is_plain(module, path, library) or own is None:
            return None
        seen.add(id(module))
        tensors |= {path + name: tensor for name, tensor in own.items()}
        class_names.add(type(module).__name__)
        if isinstance(getattr(type(module), "base_model_prefix", None), str):
            kind = getattr(getattr(module, "config", None), "model_type", None)
            model_names |= {type(module).__name__, *([kind] if isinstance(kind, str) and kind else [])}
    if len({id(tensor) for tensor in tensors.values()}) < len(tensors):
        return None
    return PlainModel(tensors, frozenset(class_names), frozenset(model_names))


def _modules(module: torch.nn.Module, path: str) -> Iterator[tuple[str, torch.nn.Module]]:
    """Yield the modules of a tree, one that hangs in two places twice, each with what its tensors' names begin with."""
    yield path, module
    for name, child in module._modules.items():
        if child is not None:
            yield from _modules(child, f"{path}{name}.")


def _is_plain(module: torch.nn.Module, path: str, library: str) -> bool:
    """Tell whether a module's state dict is made of its tensors by their names, and no wrapper is among the names."""
    kind, plain = type(module), torch.nn.Module
    is_known = kind.__module__.startswith((f"{library}.", "torch.nn.modules.", "torch.nn.utils."))
    last = path.rstrip(".").rpartition(".")[2]
    is_hooked = module._state_dict_hooks or module._state_dict_pre_hooks or not vars(module).keys().isdisjoint(_BOUND)
    return (
        is_known
        and last != "module"
        and not last.startswith("_")
        and not is_hooked
        and all(getattr(kind, name) is getattr(plain, name) for name in _OWN_STATE)
    )


_BOUND: Final = ("state_dict", "_hf_hook")
"""What stands among a module's own attributes where something has taken its state dict, or its memory, over."""


def _own_tensors(module: torch.nn.Module) -> dict[str, torch.Tensor] | None:
    """Return a module's parameters and persistent buffers; None where one is anything but dense and on meta."""
    hidden = module._non_persistent_buffers_set
    slots = (*module._parameters.items(), *module._buffers.items())
    own = {name: tensor for name, tensor in slots if tensor is not None and name not in hidden}
    kinds = (torch.Tensor, torch.nn.Parameter)
    are_plain = all(type(each) in kinds and each.is_meta and each.is_contiguous() for each in own.values())
    return own if are_plain and not any("." in name for name in own) else None
