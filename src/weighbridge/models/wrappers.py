"""What wraps modules and is no part of a model's layout: for compilation, parallelism, averages, checkpoints, adapters.

A wrapper holds one module, and what else it holds is its own: counters, adapters, trained copies. Its path in the
layout is that of the module inside. Wrappers are known by what they are, except for names that nobody else gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from weighbridge.base.errors import RegistryError
from weighbridge.base.keys import WRAPPERS

if TYPE_CHECKING:
    import torch

_DISTRIBUTED: Final = "torch.distributed"

_PEFT: Final = {
    "PeftModel": "base_model",
    "PeftMixedModel": "base_model",
    "BaseTuner": "model",
    "BaseTunerLayer": "base_layer",
    "AdaptionPromptModel": "model",
    "_BaseAdaptedAttention": "model",
    "ModulesToSaveWrapper": "original_module",
    "TrainableTokensWrapper": "token_adapter",
}
"""Classes of PEFT that wrap a module, and the child that is wrapped."""


class Branch(NamedTuple):
    """A module of a model and its place.

    Args:
        path: Its path in the layout: without the names that wrappers give.
        name: Its path in the module tree.
        module: The module.
        inner: What it wraps; None for a module that is part of the layout itself.
    """

    path: str
    name: str
    module: torch.nn.Module
    inner: torch.nn.Module | None


def branches(model: torch.nn.Module, path: str = "", name: str = "") -> Iterator[Branch]:
    """Yield the modules of a model in the order of its tree, wrappers included, and what wrappers hold beside left out.

    Raises:
        RegistryError: `integration-unsupported` for a wrapper that is known and not understood.

    Examples:
        >>> import torch
        >>> model = torch.nn.DataParallel(torch.nn.Sequential(torch.nn.Linear(2, 3)))
        >>> [(branch.path, branch.name) for branch in branches(model)]
        [('', ''), ('', 'module'), ('0', 'module.0')]
    """
    inner = inside(model)
    yield Branch(path, name, model, inner)
    for child, module in model._modules.items():
        if module is not None and (inner is None or module is inner):
            yield from branches(module, path if inner is not None else _join(path, child), _join(name, child))


def _join(path: str, child: str) -> str:
    return f"{path}.{child}" if path else child


def unwrap(model: torch.nn.Module) -> torch.nn.Module:
    """Return the model inside all wrappers: compiled, data-parallel, sharded, averaged, or with adapters.

    Examples:
        >>> import torch
        >>> inner = torch.nn.Linear(2, 3)
        >>> unwrap(torch.nn.DataParallel(inner)) is inner
        True
    """
    inner = inside(model)
    return model if inner is None else unwrap(inner)


def inside(module: torch.nn.Module) -> torch.nn.Module | None:
    """Return the module that a wrapper holds; None for anything else.

    Raises:
        RegistryError: `integration-unsupported` for a wrapper that is known and not understood.
    """
    children: dict[str, Any] = module._modules
    named = next((children[name] for name in WRAPPERS if name in children), None)
    if named is not None:
        return named  # type: ignore[no-any-return]
    owner = type(module).__module__.partition(".")[0]
    if "module" in children and owner in ("torch", "deepspeed") and len(children) == 1:
        return children["module"]  # type: ignore[no-any-return]
    kinds = classes_of(module, "peft")
    return _inside_peft(module, kinds) if kinds else None


def classes_of(module: torch.nn.Module, package: str) -> list[str]:
    """Return the names of a module's own and inherited classes that a package defines."""
    return [kind.__name__ for kind in type(module).__mro__ if kind.__module__.partition(".")[0] == package]


def _inside_peft(module: torch.nn.Module, kinds: list[str]) -> torch.nn.Module:
    child = next((_PEFT[kind] for kind in kinds if kind in _PEFT), "")
    found: torch.nn.Module | None = module._modules.get(child)
    if found is None:
        raise RegistryError(
            "integration-unsupported",
            "this part of PEFT is not looked through",
            got=type(module).__name__,
            hint="merge the adapters, or take them out: model.merge_and_unload(), model.unload()",
        )
    return found


def layout_class(module: torch.nn.Module) -> type[Any]:
    """Return the class that says how a module's tensors are called.

    Sharding gives a module a class of its own, made of the original class and one of `torch.distributed`.
    """
    found: type[Any] = type(module)
    while _is_distributed(found) or any(_is_distributed(base) for base in found.__bases__):
        original = next((base for base in reversed(found.__bases__) if not _is_distributed(base)), None)
        if original is None or original is object:
            break
        found = original
    return found


def _is_distributed(kind: type[Any]) -> bool:
    return kind.__module__.startswith(_DISTRIBUTED)
