"""A checkpoint of FP8 in blocks, as DeepSeek and Qwen publish it, and what it stands for.

Written with torch and the safetensors library, and nothing of what is measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

BLOCK = 128


class Blocks(NamedTuple):
    """Sizes: some files, each with some matrices of so many rows and columns, which need not be whole blocks."""

    files: int = 4
    matrices: int = 8
    rows: int = 8256
    columns: int = 7936

    @property
    def size_bytes(self) -> int:
        """Size of all codes."""
        return self.files * self.matrices * self.rows * self.columns


def write_blocks(place: Path, sizes: Blocks) -> None:
    """Write the checkpoint, unless it is there."""
    import torch
    from safetensors.torch import save_file

    if place.exists():
        return
    place.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    grid = -(-sizes.rows // BLOCK), -(-sizes.columns // BLOCK)
    places: dict[str, str] = {}
    for number in range(sizes.files):
        tensors: dict[str, Any] = {}
        for matrix in range(sizes.matrices):
            codes = torch.randint(0, 127, (sizes.rows, sizes.columns), dtype=torch.uint8, generator=generator)
            key = f"model.layers.{number}.mlp.experts.{matrix}.up_proj.weight"
            tensors[key] = codes.view(torch.float8_e4m3fn)
            tensors[f"{key}_scale_inv"] = torch.rand(grid, generator=generator) + 0.5
        name = f"model-{number + 1:05}-of-{sizes.files:05}.safetensors"
        places |= dict.fromkeys(tensors, name)
        save_file(tensors, place / name, metadata={"format": "pt"})
    (place / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    said = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [BLOCK, BLOCK]}
    (place / "config.json").write_text(json.dumps({"model_type": "deepseek_v3", "quantization_config": said}))


def values_of(tensors: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield each weight of a file as BF16, by the plainest use of torch."""
    import torch

    for key, codes in tensors.items():
        scales = tensors.get(f"{key}_scale_inv")
        if scales is not None:
            wide = scales.repeat_interleave(BLOCK, 0)[: codes.shape[0]].repeat_interleave(BLOCK, 1)
            yield key, (codes.float() * wide[:, : codes.shape[1]]).to(torch.bfloat16)


def wrong_values(source: Path, made: Path) -> Iterator[str]:
    """Yield the name of each tensor of an output that is not what torch makes of the source."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file

    found: dict[str, Path] = {}
    for path in made.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            found |= dict.fromkeys(file.keys(), path)
    for path in sorted(source.glob("*.safetensors")):
        for key, value in values_of(load_file(path)):
            if key not in found:
                yield key
                continue
            with safe_open(found.pop(key), "pt") as file:
                if not torch.equal(file.get_tensor(key), value):
                    yield key
    yield from found
