"""Arguments of the library's own call: which have no part in a load through a plan, and what others ask for."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from weighbridge.base.errors import CheckpointError, RegistryError, WeighbridgeError

_REFUSED: Final = {
    "distributed_config": "load on one device, and spread the model afterwards",
    "gguf_file": "load a GGUF file with the library itself",
    "ignore_mismatched_sizes": "give a configuration with the sizes of the checkpoint, and change the model afterwards",
    "key_mapping": "give mapping=[...], whose rules are this library's",
    "output_loading_info": "weighbridge.loaded_plan(model).report says what became of each tensor",
    "quantization_config": "leave it out: weights are loaded as they are, and quantised afterwards",
    "state_dict": "weighbridge.load(model, state_dict) fills a model of yours",
    "tp_plan": "load on one device, and spread the model afterwards",
    "tp_size": "load on one device, and spread the model afterwards",
    "variant": "give the directory of these files alone",
}
"""Arguments of the library's call that a plan has no part for, and what to do in their place."""

_DOWNLOAD: Final = ("cache_dir", "force_download", "local_files_only", "revision", "token")


def refuse_arguments(device: Any, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that a load through a plan cannot do as the library means them.

    Args:
        device: Where the model is wanted, if that was said.
        arguments: The library's own arguments.

    Raises:
        RegistryError: `integration-unsupported`.
        WeighbridgeError: `usage` for two words on where the model is wanted.
    """
    names = [name for name in _REFUSED if arguments.get(name)]
    if names:
        raise RegistryError(
            "integration-unsupported",
            "a load through a plan does not take these arguments",
            got=", ".join(names),
            hint="\n".join(dict.fromkeys(_REFUSED[name] for name in names)),
        )
    if device is not None and arguments.get("device_map") is not None:
        got = f"device={device!r} and device_map={arguments['device_map']!r}"
        what, hint = "both say where the model is wanted", "give one of the two"
        raise WeighbridgeError("usage", what, got=got, hint=hint)


def refuse_folder(folder: str | Path | None, directory: Path) -> None:
    """Refuse to let the library write what it offloads beside the weights of the checkpoint.

    Args:
        folder: The offload folder, if there is one.
        directory: The checkpoint.

    Raises:
        WeighbridgeError: `usage`.
    """
    if folder is not None and Path(folder).resolve().is_relative_to(directory.resolve()):
        what, hint = "the offload folder is inside of the checkpoint", "give it a directory of its own"
        raise WeighbridgeError("usage", what, where=str(folder), got=str(directory), hint=hint)


def accelerator(device: Any) -> Any:
    """Return the device on which the library can make a model from the start; None if there is none to speak of."""
    import torch

    if device is None or torch.device(device).type == "cpu" or importlib.util.find_spec("accelerate") is None:
        return None
    return torch.device(device)


def local_directory(path: str | Path, arguments: Mapping[str, Any]) -> Path:
    """Return the directory of a checkpoint; one from the hub is fetched first, weights and settings only."""
    root = Path(path)
    if not root.exists() and (root.is_absolute() or str(path).count("/") != 1 or str(path).startswith(".")):
        raise CheckpointError("checkpoint-not-found", "there is no such directory", where=str(path))
    if not root.exists():
        from huggingface_hub import snapshot_download

        wanted = {name: arguments[name] for name in _DOWNLOAD if arguments.get(name) is not None}
        root = Path(snapshot_download(str(path), allow_patterns=["*.safetensors", "*.json", "*.model"], **wanted))
    return root / arguments["subfolder"] if arguments.get("subfolder") else root
