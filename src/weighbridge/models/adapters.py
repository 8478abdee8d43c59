"""Adapters in a model: which there are, whether they are merged into the weights, and what is said of that.

They are looked through: a model with adapters is loaded and saved as the model without them, and their own tensors are
left aside. Adapters that are merged have changed the weights that they were made for: what is saved then holds them,
and nothing may be loaded under them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from weighbridge.base.errors import RegistryError
from weighbridge.base.keys import counted
from weighbridge.models.wrappers import Branch, classes_of


@dataclass(frozen=True, slots=True)
class Adapters:
    """The adapters in a model.

    Args:
        names: Their names.
        count: How many tensors are theirs.
        merged: The places that adapters are merged into.
        unmerged: The places that they are not merged into.
        copies: The places of which adapters train a copy of their own.
        taken: How adapters began with a part of the weights, which these have lost.
        trained: Which weights were trained beside the adapters.
    """

    names: tuple[str, ...] = ()
    count: int = 0
    merged: tuple[str, ...] = ()
    unmerged: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()
    taken: tuple[str, ...] = ()
    trained: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What is said of them, one sentence each."""
        if not self.names:
            return ()
        called = f"adapter{'s' * (len(self.names) > 1)} {', '.join(self.names[:4])}"
        state = "merged into the weights, which hold it" if self.merged else "not merged into the weights"
        notes = [f"{called}: {state}; {counted(self.count, 'tensor')} beside them left aside"]
        if self.copies:
            notes.append(f"trained copies left aside, the originals stand for them: {', '.join(self.copies[:4])}")
        changes = (*self.taken, *self.trained)
        return (*notes, *(f"the weights are not those that the model came with: {change}" for change in changes))

    def check_readable(self) -> None:
        """Refuse adapters that are merged into part of the model alone.

        Raises:
            RegistryError: `integration-unsupported`.
        """
        if self.merged and self.unmerged:
            raise RegistryError(
                "integration-unsupported",
                "adapters are merged into some of the weights and not into others",
                got=f"merged: {', '.join(self.merged[:2])}; not merged: {', '.join(self.unmerged[:2])}",
                hint="model.merge_adapter() merges them everywhere, model.unmerge_adapter() nowhere",
            )

    def check_settable(self) -> None:
        """Refuse to set weights that adapters are merged into, or were made of: together they would be something else.

        Raises:
            RegistryError: `integration-unsupported`.
        """
        if self.taken:
            raise RegistryError(
                "integration-unsupported",
                "an adapter holds a part of the weights that it was made for",
                got="; ".join(self.taken),
                hint="load the model before it gets its adapter",
            )
        if self.merged:
            raise RegistryError(
                "integration-unsupported",
                "adapters are merged into these weights",
                where=", ".join(self.merged[:4]),
                hint="model.unmerge_adapter() takes them out",
            )


def find_adapters(tree: Iterable[Branch]) -> Adapters:
    """Find the adapters of PEFT in a model."""
    found = list(tree)
    layers = [part for part in found if part.inner is not None and classes_of(part.module, "peft")]
    if not layers:
        return Adapters()
    merging = [part for part in layers if hasattr(part.module, "merged_adapters")]
    configs = {name: config for part in found for name, config in _configs(part.module).items()}
    return Adapters(
        names=tuple(sorted({name for part in layers for name in _names(part.module)} | configs.keys())),
        count=sum(_count(part) for part in layers),
        merged=tuple(part.path for part in merging if part.module.merged_adapters),
        unmerged=tuple(part.path for part in merging if not part.module.merged_adapters and _names(part.module)),
        copies=tuple(part.path for part in layers if "ModulesToSaveWrapper" in classes_of(part.module, "peft")),
        taken=tuple(dict.fromkeys(change for config in configs.values() for change in _taken(config))),
        trained=tuple(dict.fromkeys(change for config in configs.values() for change in _trained(config))),
    )


def _names(layer: Any) -> set[str]:
    """Return the names of a layer's adapters: the keys of what holds their tensors."""
    held = (getattr(layer, name, None) for name in getattr(layer, "adapter_layer_names", ()) if "." not in name)
    return {str(name) for container in held if container is not None for name in getattr(container, "keys", tuple)()}


def _configs(module: Any) -> dict[str, Any]:
    found = getattr(module, "peft_config", None)
    return found if isinstance(found, dict) else {}


def _count(part: Branch) -> int:
    """Count the tensors of a wrapper that are not those of what it wraps."""
    module = part.module
    others = [child for child in module._modules.values() if child is not None and child is not part.inner]
    own = [tensor for slots in (module._parameters, module._buffers) for tensor in slots.values()]
    inside = sum(len(list(child.parameters())) + len(list(child.buffers())) for child in others)
    return inside + sum(tensor is not None for tensor in own)


def _taken(config: Any) -> Iterable[str]:
    """Yield how an adapter has changed the weights when it was made, by its configuration."""
    from weighbridge.mappings.lora.peft_configs import PLAIN_STARTS

    start = getattr(config, "init_lora_weights", None)
    if isinstance(start, str) and not start.startswith(PLAIN_STARTS):
        yield f"an adapter began with a part of them (init_lora_weights={start!r})"


def _trained(config: Any) -> Iterable[str]:
    """Yield which weights of the model itself are trained with an adapter, by its configuration."""
    bias = getattr(config, "bias", "none")
    if isinstance(bias, str) and bias not in ("none", ""):
        yield f"biases were trained in their place (bias={bias!r})"
