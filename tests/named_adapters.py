"""Adapters in kohya's and diffusers' names for tests, and what they add to each weight, by code of its own."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import torch
from adapters import Tensors, rank_of, scaling
from safetensors import safe_open
from safetensors.torch import load_file

import weighbridge as wb

ENDS: Final = {
    "kohya": {"A": ".lora_down.weight", "B": ".lora_up.weight"},
    "diffusers": {"A": ".lora_A.weight", "B": ".lora_B.weight"},
}


def in_names_of(dialect: str, part: str, factors: Tensors, alpha: float | None = None) -> Tensors:
    """Rename factors, whose names are PEFT's without its prefix, and put an alpha beside each module."""
    made: Tensors = {}
    for key, tensor in factors.items():
        module, _, tail = key.partition(".lora_")
        name = part + (module.replace(".", "_") if dialect == "kohya" else module)
        made[name + ENDS[dialect][tail[0]]] = tensor.clone()
        if alpha is not None:
            made[f"{name}.alpha"] = torch.tensor(float(alpha))
    return made


def metadata_of(file: Path) -> dict[str, str]:
    """Return the metadata in the head of a file."""
    with safe_open(file, "pt") as opened:
        return dict(opened.metadata() or {})


def named_changes(file: Path, part: str, modules: Iterable[str]) -> Tensors:
    """Return what an adapter adds to each weight of a model.

    Args:
        file: The adapter.
        part: What all of its names begin with.
        modules: The modules of the model.
    """
    tensors, said = load_file(file), json.loads(metadata_of(file).get("lora_adapter_metadata", "{}"))
    dialect = "kohya" if part.startswith("lora_") else "diffusers"
    spelt = {part + (name.replace(".", "_") if dialect == "kohya" else name): name for name in modules}
    made, used = {}, set()
    for name, module in spelt.items():
        keys = {role: name + end for role, end in ENDS[dialect].items()}
        if keys["A"] not in tensors:
            continue
        down, up = (tensors[keys[role]].double() for role in "AB")
        alpha, rank = tensors.get(f"{name}.alpha"), len(down)
        scale = 1.0 if alpha is None else float(alpha) / rank
        if said:
            config = {name.removeprefix(part): value for name, value in said.items()}
            assert rank_of(config, module) == rank
            scale = scaling(config, module, rank)
        window = down.shape[1:]
        made[f"{module}.weight"] = (scale * (up.flatten(1) @ down.flatten(1))).unflatten(1, window)
        used |= {*keys.values(), f"{name}.alpha"}
    assert tensors.keys() <= used, sorted(tensors.keys() - used)
    return made


def flux() -> wb.Mapping:
    """The layers of Flux that the example has, from the names of its authors to those of diffusers."""
    added = [f"attn.add_{name}_proj.weight" for name in "qkv"]
    return wb.Mapping(
        [
            wb.WeightRenaming("^double_blocks", "transformer_blocks"),
            wb.WeightConverter("img_attn.qkv.weight", [f"attn.to_{name}.weight" for name in "qkv"], [wb.Chunk(0)]),
            wb.WeightConverter("txt_attn.qkv.weight", added, [wb.Chunk(0)]),
            wb.WeightRenaming("img_attn.proj", "attn.to_out.0"),
            wb.WeightRenaming("img_mlp.0", "ff.net.0.proj"),
        ],
        name="flux",
    )


FLUX: Final = {
    "double_blocks.0.img_attn.qkv": (72, 24),
    "double_blocks.0.img_attn.proj": (24, 24),
    "double_blocks.0.img_mlp.0": (40, 24),
    "double_blocks.0.txt_attn.qkv": (72, 24),
}
"""Modules of one layer under the names of its authors, with their sizes."""
