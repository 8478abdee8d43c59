"""Adapters for tests: made of whole numbers, written as PEFT writes them, and read by code of its own.

`changes` computes what an adapter adds to each weight, by PEFT's formulas alone, so that the movement of factors can be
compared with the movement of what they stand for.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]

PREFIX: Final = "base_model.model."
FILES: Final = ("adapter_config.json", "adapter_model.safetensors")


def whole_numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    """Small whole numbers, whose products and sums are exact in float64."""
    made = torch.Generator().manual_seed(seed + sum(size * 31**at for at, size in enumerate(shape)))
    return torch.randint(-7, 8, shape, generator=made).double()


def write_adapter(folder: Path, tensors: dict[str, torch.Tensor], **config: Any) -> Path:
    """Write an adapter; names are without PEFT's prefix."""
    folder.mkdir(parents=True)
    named = {PREFIX + key: tensor.clone().contiguous() for key, tensor in tensors.items()}
    save_file(named, folder / FILES[1], metadata={"format": "pt"})
    form = {"peft_type": "LORA", "peft_version": "0.21.2", "r": 2, "lora_alpha": 4, "fan_in_fan_out": False} | config
    (folder / FILES[0]).write_text(json.dumps(form, indent=1) + "\n")
    return folder


def linear(name: str, out: int, inputs: int, rank: int = 2, *, seed: int = 0) -> dict[str, torch.Tensor]:
    """Factors of a linear module."""
    down, up = whole_numbers(rank, inputs, seed=seed), whole_numbers(out, rank, seed=seed + 1)
    return {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}


def embedding(name: str, rows: int, width: int, rank: int = 2, *, seed: int = 0) -> dict[str, torch.Tensor]:
    """Factors of an embedding."""
    down, up = whole_numbers(rank, rows, seed=seed), whole_numbers(width, rank, seed=seed + 1)
    return {f"{name}.lora_embedding_A": down, f"{name}.lora_embedding_B": up}


def config_of(folder: Path) -> dict[str, Any]:
    """Return what the configuration of an adapter says."""
    found: dict[str, Any] = json.loads((folder / FILES[0]).read_text())
    return found


def scaling(config: dict[str, Any], name: str, rank: int) -> float:
    """Return what PEFT multiplies a module's change by."""
    fits = (value for key, value in (config.get("alpha_pattern") or {}).items() if re.match(rf"(.*\.)?({key})$", name))
    alpha = next(fits, config["lora_alpha"])
    return float(alpha / math.sqrt(rank)) if config.get("use_rslora") else float(alpha / rank)


def rank_of(config: dict[str, Any], name: str) -> int:
    """Return the rank that the configuration gives a module."""
    patterns = config.get("rank_pattern") or {}
    return int(next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", name)), config["r"]))


def changes(folder: Path, turned: tuple[str, ...] = ()) -> dict[str, torch.Tensor]:
    """Return what an adapter adds to each weight, and the tensors that it saves whole.

    Args:
        folder: The adapter.
        turned: Parameters of experts that are [experts, in, out].
    """
    config, tensors = config_of(folder), load_file(folder / FILES[1])
    made: dict[str, torch.Tensor] = {}
    for key, down in tensors.items():
        name = key.removeprefix(PREFIX)
        if name.endswith(".lora_A.weight"):
            module, up = name.removesuffix(".lora_A.weight"), tensors[key.replace("lora_A", "lora_B")]
            parameter = _parameter(config, module)
            if parameter is None:
                change = scaling(config, module, len(down)) * (up @ down)
                made[f"{module}.weight"] = change.T if config.get("fan_in_fan_out") else change
            else:
                made[parameter] = _experts(config, parameter, down, up, is_turned=parameter in turned)
            assert len(down) % rank_of(config, parameter or module) == 0
        elif name.endswith(".lora_embedding_A"):
            module = name.removesuffix(".lora_embedding_A")
            up = tensors[key.replace("_A", "_B")]
            made[f"{module}.weight"] = scaling(config, module, len(down)) * (up @ down).T
        elif "lora_" not in name:
            made[f"whole:{name}"] = down
    return made


def _parameter(config: dict[str, Any], module: str) -> str | None:
    """Return the parameter that a wrapper is of: of two, gate_up_proj lies innermost."""
    owner = module.replace(".base_layer", "")
    entries = [entry for entry in config.get("target_parameters") or () if owner.endswith(entry.rpartition(".")[0])]
    names = sorted({entry.rpartition(".")[2] for entry in entries}, reverse=True)
    depth = module.count(".base_layer")
    return f"{owner}.{names[len(names) - 1 - depth]}" if names else None


def _experts(
    config: dict[str, Any], name: str, down: torch.Tensor, up: torch.Tensor, *, is_turned: bool
) -> torch.Tensor:
    rank = rank_of(config, name)
    experts = len(down) // rank
    one = down.reshape(experts, rank, -1)
    if config.get("lora_B_layout") == "grouped_by_expert":
        other = up.reshape(len(up), experts, rank).permute(1, 0, 2)
    else:
        other = up.reshape(len(up), rank, experts).permute(2, 0, 1)
    change = scaling(config, name, rank) * (other @ one)
    return change.transpose(1, 2) if is_turned else change


def same_files(one: Path, other: Path) -> bool:
    """Tell whether two adapters are the same files, byte for byte, and no others."""
    names = [sorted(path.name for path in folder.iterdir()) for folder in (one, other)]
    return names[0] == names[1] == sorted(FILES) and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in FILES
    )
