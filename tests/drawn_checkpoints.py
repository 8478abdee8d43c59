"""Random checkpoints with modules as models have them, and targets that fit them, nearly fit, or do not."""

from __future__ import annotations

import random
from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from interpreter import Made, Tensors
from interpreter_operations import DTYPES

import weighbridge as wb

Shape = tuple[int, ...]
Specs = dict[str, wb.TensorSpec]

CODES = {dtype: code for code, dtype in DTYPES.items()}
CONFIG = {
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "parts": 2,
    "counts": [2, 1],
    "text_config": {"num_attention_heads": 3},
}
WORDS = ("a", "b", "q", "norm", "w", "proj", "q_proj", "k_proj", "weight", "bias")
TOWERS = ("", "model", "model.text", "tower", "old.model", "a.b", "layers")


class Drawn(NamedTuple):
    """A mapping, a checkpoint, and the configuration that both go with."""

    mapping: wb.Mapping
    tensors: Tensors
    config: dict[str, Any] | None


def header(tensors: Tensors) -> wb.Header:
    return wb.Header({key: spec(tensor) for key, tensor in tensors.items()})


def spec(tensor: torch.Tensor) -> wb.TensorSpec:
    return wb.TensorSpec(CODES[tensor.dtype], tuple(tensor.shape))


class Checkpoint:
    """Builds the tensors of a few modules, layer by layer."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.counter = 1
        self.tensors: Tensors = {}

    def put(self, key: str, shape: Sequence[int], dtype: torch.dtype) -> None:
        count = prod(shape)
        values = torch.arange(self.counter, self.counter + count)
        # Within 8 bits every number is exact in every dtype, so that a cast there and back is one, too.
        values = values % 251 if dtype not in (torch.float32, torch.int64, torch.float64) else values
        self.tensors[key] = values.to(dtype).reshape(tuple(shape))
        self.counter += count

    def draw(self) -> Tensors:
        chance = self.chance
        makers = chance.sample(self.makers(), 2)
        for tower in chance.sample(TOWERS, chance.choice((1, 1, 2))):
            for layer in range(chance.choice((1, 2))):
                for make in makers:
                    make(".".join(part for part in (tower, "layers", str(layer)) if part))
        if chance.random() < 0.3:
            self.put("head.weight", (2, 3), torch.float32)
        return self.tensors

    def makers(self) -> list[Any]:
        modules = [self.attention, self.experts, self.fused, self.convolution, self.norms, self.loose]
        return [*modules, self.grid]

    def dims(self, count: int) -> list[int]:
        return [self.chance.choice((2, 2, 3, 4, 6)) for _ in range(count)]

    def dtype(self) -> torch.dtype:
        return self.chance.choice((torch.float32, torch.float32, torch.bfloat16, torch.int64, torch.float16))

    def attention(self, path: str) -> None:
        rows, columns = self.dims(2)
        dtype, narrow = self.dtype(), self.chance.choice((rows, rows, 2))
        for name in ("q_proj", "k_proj", "v_proj"):
            self.put(f"{path}.attn.{name}.weight", (rows if name == "q_proj" else narrow, columns), dtype)
        if self.chance.random() < 0.3:
            self.put(f"{path}.attn.q_proj.bias", (rows,), dtype)

    def experts(self, path: str) -> None:
        shape, dtype = self.dims(2), self.dtype()
        for expert in range(self.chance.choice((1, 2, 3, 4))):
            for name in ("w1", "w2")[: self.chance.choice((1, 2, 2, 2))]:
                self.put(f"{path}.experts.{expert}.{name}", shape, dtype)

    def grid(self, path: str) -> None:
        """Tensors with two indices, as many for each outer one or not."""
        shape, dtype, chance = self.dims(2), self.dtype(), self.chance
        alike = chance.choice((1, 2, 3))
        for outer in range(chance.choice((1, 2, 3))):
            for inner in range(alike if chance.random() < 0.8 else chance.choice((1, 2))):
                for name in ("gate", "up"):
                    self.put(f"{path}.grid.{outer}.cells.{inner}.{name}", shape, dtype)
        self.put(f"{path}.cube", (2, 3, *shape), dtype)

    def fused(self, path: str) -> None:
        rows, columns = self.dims(2)
        self.put(f"{path}.mlp.gate_up", (2 * rows, columns), self.dtype())
        self.put(f"{path}.mlp.stack", (self.chance.choice((2, 3)), rows, columns), self.dtype())

    def convolution(self, path: str) -> None:
        self.put(f"{path}.conv.filter", self.dims(3), self.dtype())
        self.put(f"{path}.patch.weight", (2, 3, 2, 1, 2), self.dtype())
        self.put(f"{path}.linear.weight", (2, 12), self.dtype())

    def norms(self, path: str) -> None:
        for name in self.chance.sample(("norm.gamma", "norm.beta", "norm0.w", "norm1.w", "norm.weight", "gain"), 3):
            self.put(f"{path}.{name}", self.chance.choice(((3,), (2,), (), (0, 2), (2, 2))), self.dtype())

    def loose(self, path: str) -> None:
        for _ in range(3):
            name = ".".join(self.chance.choice(WORDS) for _ in range(self.chance.randint(1, 2)))
            self.put(f"{path}.{name}", self.dims(self.chance.choice((1, 2, 2, 3))), self.dtype())


def draw_target(chance: random.Random, drawn: Drawn, made: Made) -> Specs:
    """Draw what is wanted: what the mapping makes, the source as it is, or either with something else about it."""
    own = {key: spec(tensor) for key, tensor in drawn.tensors.items()}
    ours = {key: spec(tensor) for key, tensor in made.tensors.items()} or dict(own)
    kind = chance.choice(("made", "made", "own", "changed", "changed", "named"))
    if kind == "own":
        return own
    if kind == "named":  # the source's names, with the shapes that the mapping gives where it gives them
        return {key: ours.get(key, spec_) for key, spec_ in own.items()}
    wanted = dict(ours)
    if kind == "changed":
        for _ in range(chance.choice((1, 1, 2))):
            _change(chance, wanted)
    return wanted


def _change(chance: random.Random, wanted: Specs) -> None:
    key = chance.choice(sorted(wanted))
    found = wanted[key]
    match chance.choice(("lose", "lose", "gain", "turn", "grow", "rename", "dtype")):
        case "lose" if len(wanted) > 1:
            del wanted[key]
        case "gain":
            wanted[chance.choice(("extra", f"{key}.extra", f"{key}_b"))] = found
        case "turn":
            wanted[key] = wb.TensorSpec(found.dtype, found.shape[::-1])
        case "grow" if found.shape:
            wanted[key] = wb.TensorSpec(found.dtype, (found.shape[0] + 1, *found.shape[1:]))
        case "rename":
            wanted[f"{key}_b"] = wanted.pop(key)
        case "dtype":
            wanted[key] = wb.TensorSpec("F64", found.shape)
