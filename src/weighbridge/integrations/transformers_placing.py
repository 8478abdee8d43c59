"""Where the library puts a model's weights: on several devices, and on the disk, from which modules take them to run.

What goes to the disk stays in the checkpoint if that has it as the model wants it, and is written to the offload folder
otherwise. Which it is, a plan knows; the library would tell by the names alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch

from weighbridge.base.errors import WeighbridgeError
from weighbridge.base.keys import collapse
from weighbridge.integrations.transformers_weights import Pending
from weighbridge.mappings.transformers_table import library_module, library_name
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


def stored_on_disk(tensors: Mapping[str, Pending], model: Any, load_config: Any) -> dict[str, dict[str, str]]:
    """Say of the weights that go to the disk where they are there already, as accelerate reads it.

    Args:
        tensors: The weights.
        model: The library's model.
        load_config: What the library was told.

    Raises:
        WeighbridgeError: `usage` for weights that are to be written, without a folder for them.
    """
    made = set() if load_config.offload_buffers else {name for name, _ in model.named_buffers()}
    devices = _devices(load_config, [*tensors])
    wanted = [key for key in tensors if devices[key] == DISK and key not in made]
    state = model.state_dict()
    index = {}
    for key in wanted:
        stored = tensors[key].stored
        if stored is not None:
            dtype = str(state[key].dtype).removeprefix("torch.")
            index[key] = {"safetensors_file": str(stored.path), "weight_name": stored.key, "dtype": dtype}
    left = [key for key in wanted if key not in index]
    if left and load_config.disk_offload_folder is None:
        what = "these weights go to the disk, and no file has them as the model wants them"
        hint = 'give a directory for them: offload_folder="..."'
        raise WeighbridgeError("usage", what, where=", ".join(collapse(left)[:4]), hint=hint)
    return index


def share_on_disk(index: dict[str, Any], model: Any, load_config: Any) -> None:
    """Let tied weights that are on the disk both be found there, under either name.

    Args:
        index: What is on the disk, once the library has written its part.
        model: The library's model.
        load_config: What the library was told.
    """
    ties: Mapping[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
    devices = _devices(load_config, [*ties, *ties.values()])
    for pair in ties.items():
        for key, twin in (pair, pair[::-1]):
            if devices[key] == DISK and twin in index:
                index.setdefault(key, index[twin])
