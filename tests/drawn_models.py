"""Random torch modules for the tensors that a mapping makes: nested, tied, with buffers, hooks and extra state."""

from __future__ import annotations

import random
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from interpreter import Tensors


class Held(NamedTuple):
    """What a model holds under a name, and whether that is a buffer."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    is_buffer: bool


@dataclass
class Anatomy:
    """What a random module is made of; any number of modules alike can be made, each with values of its own.

    Args:
        held: Parameters and persistent buffers by the names that the state dict gives them.
        ties: For each second name of a parameter the first one.
        hidden: Buffers that the state dict leaves out.
        renamed: Paths of modules which the state dict calls by other names than the module tree does.
        states: Paths of modules with extra state, and how long it is in a new module.
        base_prefix: Where the class, or its head classes, hold the base model.
    """

    held: dict[str, Held] = field(default_factory=dict)
    ties: dict[str, str] = field(default_factory=dict)
    hidden: dict[str, Held] = field(default_factory=dict)
    renamed: set[str] = field(default_factory=set)
    states: dict[str, int] = field(default_factory=dict)
    base_prefix: str = ""

    def build(self, seed: int) -> torch.nn.Module:
        """Make a module of this kind; no two seeds give the same values."""
        above = _WithState if "" in self.states else torch.nn.Module
        root = type("DrawnModel", (above,), {"base_model_prefix": self.base_prefix})()
        chance = torch.Generator().manual_seed(seed)
        paths = [key.rpartition(".")[0] for key in (*self.held, *self.hidden)] + [*self.states]
        for path in sorted({path for path in paths if path}):
            _module_at(root, path, self.states)
        for key, held in self.held.items():
            if key not in self.ties:
                _put(root, key, held, _values(held, chance))
        for key, held in self.hidden.items():
            _put(root, key, held, _values(held, chance))
            path, _, name = key.rpartition(".")
            root.get_submodule(path)._non_persistent_buffers_set.add(name)
        for key, first in self.ties.items():
            slots, name = _slot(root, key)
            there, twin = _slot(root, first)
            slots[name] = there[twin]
        for path, length in self.states.items():
            root.get_submodule(path).set_extra_state(torch.arange(length) + seed)
        for path in sorted(self.renamed, reverse=True):
            _rename(root, path)
        return root


class _WithState(torch.nn.Module):
    """A module with extra state that is a tensor of any length."""

    def get_extra_state(self) -> torch.Tensor:
        return self._state

    def set_extra_state(self, state: torch.Tensor) -> None:
        self._state = state.clone()


def _module_at(root: torch.nn.Module, path: str, states: MappingOf[str, int]) -> torch.nn.Module:
    module, walked = root, []
    for name in path.split("."):
        walked.append(name)
        if name not in module._modules:
            module._modules[name] = _WithState() if ".".join(walked) in states else torch.nn.Module()
        module = module._modules[name]  # type: ignore[assignment]
    return module


def _slot(root: torch.nn.Module, key: str) -> tuple[dict[str, Any], str]:
    path, _, name = key.rpartition(".")
    module = root.get_submodule(path)
    return (module._buffers if name in module._buffers else module._parameters), name


def _put(root: torch.nn.Module, key: str, held: Held, values: torch.Tensor) -> None:
    path, _, name = key.rpartition(".")
    module = root.get_submodule(path)
    if held.is_buffer:
        module._buffers[name] = values
    else:
        module._parameters[name] = torch.nn.Parameter(values, requires_grad=values.is_floating_point())


def _values(held: Held, chance: torch.Generator) -> torch.Tensor:
    drawn = torch.randint(0, 2 if held.dtype == torch.bool else 120, held.shape, generator=chance)
    return drawn.to(held.dtype)


def _rename(root: torch.nn.Module, path: str) -> None:
    """Hang a module under another name, which the state dict does not tell."""
    above, _, name = path.rpartition(".")
    parent = root.get_submodule(above)
    parent._modules = {f"{name}_inside" if key == name else key: module for key, module in parent._modules.items()}

    def tell(module: torch.nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
        hidden = f"{prefix}{name}_inside."
        for key in [key for key in state if key.startswith(hidden)]:
            state[f"{prefix}{name}.{key.removeprefix(hidden)}"] = state.pop(key)

    parent.register_state_dict_post_hook(tell)


def draw_anatomy(chance: random.Random, tensors: MappingOf[str, torch.Tensor], base_prefix: str = "") -> Anatomy:
    """Draw a kind of module that holds tensors of these names, dtypes and shapes.

    Args:
        chance: Where the choices come from.
        tensors: What it is to hold.
        base_prefix: See `Anatomy`.
    """
    made = Anatomy(base_prefix=base_prefix)
    for key, tensor in tensors.items():
        if key.rpartition(".")[2] == "_extra_state":
            made.states[key.rpartition(".")[0]] = chance.choice((1, 3, len(tensor)))
            continue
        is_float = tensor.is_floating_point()
        made.held[key] = Held(tensor.dtype, tuple(tensor.shape), not is_float or chance.random() < 0.15)
    paths = sorted({key.rpartition(".")[0] for key in made.held} - {""})
    if paths and chance.random() < 0.2:
        path = chance.choice(paths)
        made.renamed.add(path)
    if paths and chance.random() < 0.3:
        made.hidden[f"{chance.choice(paths)}.inv_freq"] = Held(torch.float32, (3,), is_buffer=True)
    return made


def is_tree(names: Tensors | dict[str, Any]) -> bool:
    """Tell whether modules can have these names: none of them empty, and no tensor where a module is."""
    paths = {key.rpartition(".")[0] for key in names}
    above = {".".join(path.split(".")[:depth]) for path in paths for depth in range(1, path.count(".") + 2)}
    return all(all(key.split(".")) for key in names) and above.isdisjoint(names)
