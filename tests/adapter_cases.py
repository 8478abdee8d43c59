"""What rules do to weights with factors, as cases for tests of every kind of adapter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from adapters import Tensors, embedding, linear, whole_numbers

import weighbridge as wb


class Case(NamedTuple):
    """Modules of an adapter, a rule over their weights, and options; the sizes are given when it is drawn."""

    tensors: Callable[[int, int, int], Tensors]
    rule: wb.WeightConverter | wb.WeightRenaming
    options: dict[str, Any] | None = None
    config: dict[str, Any] | None = None


def equal_inputs(out: int, inputs: int, rank: int) -> Tensors:
    """Three modules that have A in common, of other numbers of outputs."""
    down = whole_numbers(rank, inputs)
    parts = [linear(f"l.0.{name}", out + at, inputs, rank, seed=at) for at, name in enumerate("qkv")]
    return {key: down if "lora_A" in key else tensor for part in parts for key, tensor in part.items()}


def apart(out: int, inputs: int, rank: int) -> Tensors:
    """Three modules of other numbers of outputs."""
    parts = [linear(f"l.0.{name}", out + at, inputs, rank, seed=at) for at, name in enumerate("qkv")]
    return {key: tensor for part in parts for key, tensor in part.items()}


def beside(out: int, inputs: int, rank: int) -> Tensors:
    """Two modules of other numbers of inputs."""
    parts = [linear(f"l.0.{name}", out, inputs + at, rank, seed=at) for at, name in enumerate("ab")]
    return {key: tensor for part in parts for key, tensor in part.items()}


def equal_outputs(out: int, inputs: int, rank: int) -> Tensors:
    """Two modules that have B in common."""
    up = whole_numbers(out, rank, seed=9)
    return {key: up if "lora_B" in key else tensor for key, tensor in beside(out, inputs, rank).items()}


def one(out: int, inputs: int, rank: int) -> Tensors:
    """One module whose sizes divide by four."""
    return linear("l.0.a", 4 * out, 4 * inputs, rank)


def table(out: int, inputs: int, rank: int) -> Tensors:
    """An embedding."""
    return embedding("l.0.a", 4 * out, 4 * inputs, rank)


def experts(out: int, inputs: int, rank: int) -> Tensors:
    """Three experts, each with two projections."""
    parts = [
        linear(f"l.0.e.{number}.{name}", out, inputs, rank, seed=10 * number + at)
        for number in range(3)
        for at, name in enumerate(("gate", "up"))
    ]
    return {key: tensor for part in parts for key, tensor in part.items()}


QKV: Final = ["q.weight", "k.weight", "v.weight"]
GATE_UP: Final = ["e.*.gate.weight", "e.*.up.weight"]
BLOCKS: Final[dict[str, Any]] = {"block_diagonal": True}
FUSED: Final = wb.WeightConverter(GATE_UP, "e.gate_up_proj", [wb.MergeModulelist(0), wb.Concatenate(1)])
CASES: Final = {
    "rename": Case(apart, wb.WeightRenaming("l.{i}", "layers.{i}")),
    "join rows, A equal": Case(equal_inputs, wb.WeightConverter(QKV, "qkv.weight", [wb.Concatenate(0)])),
    "join rows as blocks": Case(apart, wb.WeightConverter(QKV, "qkv.weight", [wb.Concatenate(0)]), BLOCKS),
    "join columns, B equal": Case(
        equal_outputs, wb.WeightConverter(["a.weight", "b.weight"], "ab.weight", [wb.Concatenate(1)])
    ),
    "join columns as blocks": Case(
        beside, wb.WeightConverter(["a.weight", "b.weight"], "ab.weight", [wb.Concatenate(1)]), BLOCKS
    ),
    "cut rows": Case(one, wb.WeightConverter("a.weight", ["b.weight", "c.weight"], [wb.Chunk(0)])),
    "cut columns": Case(one, wb.WeightConverter("a.weight", ["b.weight", "c.weight"], [wb.Chunk(1)])),
    "transpose": Case(one, wb.WeightConverter("a.weight", "b.weight", [wb.Transpose(0, 1)])),
    "move rows": Case(one, wb.WeightConverter("a.weight", "b.weight", [wb.Rearrange("(a b) c -> (b a) c", a=2)])),
    "move columns": Case(one, wb.WeightConverter("a.weight", "b.weight", [wb.Rearrange("c (a b) -> c (b a)", a=4)])),
    "move both, turned": Case(
        one, wb.WeightConverter("a.weight", "b.weight", [wb.Rearrange("(a b) (c d) -> (d c) (b a)", a=2, c=4)])
    ),
    "move rows, fan in first": Case(
        one,
        wb.WeightConverter("a.weight", "b.weight", [wb.Rearrange("(a b) c -> (b a) c", a=2)]),
        config={"fan_in_fan_out": True},
    ),
    "cut an embedding": Case(table, wb.WeightConverter("a.weight", ["b.weight", "c.weight"], [wb.Chunk(0)])),
    "move an embedding": Case(
        table, wb.WeightConverter("a.weight", "b.weight", [wb.Rearrange("c (a b) -> c (b a)", a=4)])
    ),
    "stack experts": Case(experts, wb.WeightConverter("e.*.up.weight", "e.up_proj", [wb.MergeModulelist(0)])),
    "stack experts, turned": Case(
        experts, wb.WeightConverter("e.*.up.weight", "e.up_proj", [wb.MergeModulelist(0), wb.Transpose(1, 2)])
    ),
    "fuse experts as blocks": Case(experts, FUSED, BLOCKS),
}
ROWS: Final = CASES["join rows, A equal"].rule
