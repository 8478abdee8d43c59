"""Where the library puts a model's weights: on several devices, and on the disk, from which modules take them to run.

What goes to the disk stays in the checkpoint if that has it as the model wants it, and is written to the offload folder
otherwise. Which it is, a plan knows; the library would tell by the names alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch

from weighbridge.base.errors import RegistryError, WeighbridgeError
from weighbridge.base.keys import collapse
from weighbridge.base.specs import Header
from weighbridge.integrations.transformers_weights import Pending
from weighbridge.mappings.library_parts import library_module, library_name
from weighbridge.running.devices import fill_tensors
from weighbridge.storage.formats.torch_tensors import dtype_of

AT_HAND: Final = ("cpu", "meta")
"""Devices on which a weight is made when the library asks for it, and not before."""

DISK: Final = "disk"


def _devices(load_config: Any, keys: list[str]) -> dict[str, Any]:
    """Return where the library puts each weight, by what it was told."""
    if load_config.device_map is None:
        return {}
    expand = library_name(library_module("integrations.accelerate"), "expand_device_map")
    found: dict[str, Any] = expand(load_config.device_map, keys)
    return found


def start_on_devices(tensors: Mapping[str, Pending], model: Any, load_config: Any) -> None:
    """Make all weights of accelerators at once, but for those that the library casts: it holds both for a moment.

    Args:
        tensors: The weights.
        model: The library's model.
        load_config: What the library was told.
    """
    devices = {key: torch.device(one) for key, one in _devices(load_config, [*tensors]).items() if one != DISK}
    elsewhere = {key: device for key, device in devices.items() if device.type not in AT_HAND}
    state = model.state_dict() if elsewhere else {}
    wanted = []
    for key, device in elsewhere.items():
        output = tensors[key].step.program.targets[tensors[key].number]
        if key in state and state[key].dtype == dtype_of(output.dtype):
            wanted.append(tensors[key].start(device))
    if wanted:
        fill_tensors(wanted, next(iter(tensors.values())).checkpoint)


def stored_on_disk(
    tensors: Mapping[str, Pending], model: Any, header: Header, load_config: Any
) -> dict[str, dict[str, str]] | None:
    """Say of the weights that go to the disk where they are there already, as accelerate reads it; None if none go.

    Args:
        tensors: The weights that are loaded.
        model: The library's model.
        header: Specs of all its weights, and which of them are one.
        load_config: What the library was told.

    Raises:
        RegistryError: `integration-unsupported` for weights without which a module on the disk could not run.
        WeighbridgeError: `usage` for weights that are to be written, without a folder for them.
    """
    devices = _devices(load_config, [*header])
    if DISK not in devices.values():
        return None
    made = set() if load_config.offload_buffers else {name for name, _ in model.named_buffers()}
    wanted = [key for key in header if devices[key] == DISK and key not in made]
    _refuse_unread(wanted, tensors, header)
    state = model.state_dict()
    stored = {key: place for key in wanted if key in tensors and (place := tensors[key].stored) is not None}
    left = [key for key in wanted if key in tensors and key not in stored]
    if left and load_config.disk_offload_folder is None:
        what = "these weights go to the disk, and no file has them as the model wants them"
        hint = 'give a directory for them: offload_folder="..."'
        raise WeighbridgeError("usage", what, where=", ".join(collapse(left)[:4]), hint=hint)
    dtypes = {key: str(state[key].dtype).removeprefix("torch.") for key in stored}
    return {
        key: {"safetensors_file": str(place.path), "weight_name": place.key, "dtype": dtypes[key]}
        for key, place in stored.items()
    }


def _refuse_unread(wanted: list[str], tensors: Mapping[str, Pending], header: Header) -> None:
    """Refuse what accelerate would look for on the disk in vain, or would have there and elsewhere."""
    groups: dict[str, list[str]] = {}
    for key in header:
        groups.setdefault(header.ties.get(key, key), []).append(key)
    there = set(wanted)
    for group in groups.values():
        on_disk = [key for key in group if key in there]
        if on_disk and len(on_disk) < len(group):
            what, names = "these weights are one, and part of them would be on the disk", group
            hint = "put the modules that hold them in one place, by device_map"
        elif on_disk and not any(key in tensors for key in group):
            what, names = "no checkpoint holds these weights, and they would be read from the disk", group
            hint = "put the modules that hold them elsewhere, by device_map"
        else:
            continue
        raise RegistryError("integration-unsupported", what, where=", ".join(names[:4]), hint=hint)


def share_on_disk(on_disk: dict[str, Any] | None, model: Any) -> None:
    """Let tied weights that are on the disk both be found there, under either name.

    Args:
        on_disk: What is there, once the library has written its part.
        model: The library's model.
    """
    ties: Mapping[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
    for pair in ties.items() if on_disk is not None else ():
        for key, twin in (pair, pair[::-1]):
            if on_disk is not None and twin in on_disk:
                on_disk.setdefault(key, on_disk[twin])
