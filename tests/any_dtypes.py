"""Tensors of every dtype that torch and safetensors files have, and whether two state dicts are the same bytes."""

from __future__ import annotations

import torch

from weighbridge.base.specs import DTYPES, TensorSpec
from weighbridge.storage.formats.torch_tensors import torch_layout


def every_dtype() -> dict[str, torch.Tensor]:
    """Return a tensor of random bytes of each dtype that torch and safetensors have, and some of odd shapes."""
    dice = torch.Generator().manual_seed(3)
    made = {}
    for code in DTYPES:
        layout = torch_layout(TensorSpec(code, (3, 4)))
        if layout is None:
            continue
        raw = torch.randint(0, 256, (3, 4 * layout[0].itemsize), dtype=torch.uint8, generator=dice)
        raw = raw % 2 if code == "BOOL" else raw[:, : layout[1][1] * layout[0].itemsize].contiguous()
        made[f"old.{code}"] = raw.view(layout[0])
    assert len(made) > 15
    return made | {
        "scalar": torch.tensor(7),
        "none": torch.empty(0, 5),
        "t": torch.arange(15.0).view(3, 5),
        "ü.x": raw.clone(),
    }


def raw_bytes(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().view(-1).view(torch.uint8).tolist()) if tensor.numel() else b""


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Tell whether two state dicts are the same: names, dtypes, shapes, bytes."""
    return first.keys() == second.keys() and all(
        (one.dtype, one.shape, raw_bytes(one)) == (second[key].dtype, second[key].shape, raw_bytes(second[key]))
        for key, one in first.items()
    )
