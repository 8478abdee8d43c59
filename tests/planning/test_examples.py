"""Every quantised example of the formats' own writers: each movement is exact, there and back, or a named error.

What is made is held to what the format's own reader makes of the example, moved by torch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from test_groups import (
    EXAMPLES,
    EXPERTS,
    FUSED,
    GATE_UP,
    QKV,
    bits,
    codes_of,
    config_of,
    copied,
    example,
    numbers_in,
    same_files,
)

import weighbridge as wb

Tensors = dict[str, torch.Tensor]
LAYER: Final = "model.layers.0"
SWITCH: Final = f"{LAYER}.block_sparse_moe.switch_mlp"


def attention(numbers: Tensors) -> Tensors:
    parts = [numbers[f"{LAYER}.self_attn.{name}_proj.weight"] for name in "qkv"]
    return {f"{LAYER}.self_attn.qkv_proj.weight": torch.cat(parts)}


def dense(numbers: Tensors) -> Tensors:
    return {
        f"{LAYER}.mlp.gate_up.weight": torch.cat(
            [numbers[f"{LAYER}.mlp.{name}_proj.weight"] for name in ("gate", "up")]
        )
    }


def experts(numbers: Tensors) -> Tensors:
    stem = f"{LAYER}.mlp.experts"
    count = sum(key.startswith(stem) and "gate_proj" in key for key in numbers)
    part: Callable[[str], list[torch.Tensor]] = lambda name: [  # noqa: E731
        numbers[f"{stem}.{number}.{name}_proj.weight"] for number in range(count)
    ]
    both = [torch.cat(pair) for pair in zip(part("gate"), part("up"), strict=True)]
    return {f"{stem}.gate_up_proj": torch.stack(both), f"{stem}.down_proj": torch.stack(part("down"))}


def switched(numbers: Tensors) -> Tensors:
    return {f"{SWITCH}.gate_up.weight": torch.cat([numbers[f"{SWITCH}.{n}_proj.weight"] for n in ("gate", "up")], 1)}


def parted(numbers: Tensors) -> Tensors:
    key = f"{LAYER}.mlp.experts.gate_up_proj"
    return {key: torch.cat([numbers[key][:, 0::2], numbers[key][:, 1::2]], 1)}


class Movement(NamedTuple):
    """Rules, and what they come to by torch."""

    mapping: wb.Mapping
    moved: Callable[[Tensors], Tensors]


STACKED = wb.WeightConverter(
    ["switch_mlp.gate_proj.weight", "switch_mlp.up_proj.weight"], "switch_mlp.gate_up.weight", [wb.Concatenate(1)]
)
PARTED = wb.WeightConverter("experts.gate_up_proj", "experts.gate_up_proj", [wb.Interleave(1)])
MOVEMENTS: dict[str, Movement] = {
    "q, k and v": Movement(wb.Mapping([QKV], name="attention"), attention),
    "gate and up": Movement(wb.Mapping([GATE_UP], name="dense"), dense),
    "experts": Movement(EXPERTS, experts),
    "stacked gate and up": Movement(wb.Mapping([STACKED], name="switched"), switched),
    "alternating gate and up": Movement(wb.Mapping([PARTED], name="parted"), parted),
}

BOTH: Final = ("q, k and v", "gate and up")
WITH_EXPERTS: Final = ("q, k and v", "experts")

MOVES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("awq-gemm", "bnb-int8", "bnb-nf4", "ct-fp8-block", "ct-from-awq-gemm", "ct-int4-asym"), BOTH),
    **dict.fromkeys(("ct-int4-group", "ct-int8-channel", "ct-mxfp4", "fp8-block-aligned", "gptq-int4"), BOTH),
    **dict.fromkeys(("modelopt-nvfp4", "torchao-float8", "torchao-int8"), BOTH),
    **dict.fromkeys(("ct-moe-int4-asym", "ct-moe-int4-group", "fp8-block-moe"), WITH_EXPERTS),
    "ct-int4-asym-misaligned": ("gate and up",),
    "gpt-oss-mxfp4": ("alternating gate and up",),
    "mlx-mxfp4": ("q, k and v", "stacked gate and up"),
}
"""Movements that are exact."""


def seam(row: int, rows: int, blocks: str, block: int, fine: int | None) -> tuple[str, ...]:
    said = f"one entry for {block} rows; the seam at row {row} of {rows} of the result is {blocks} blocks in"
    return "companion-misaligned", said, "are packed" if fine is None else f"blocks of {fine} would fit"


REFUSED: dict[tuple[str, str], tuple[str, ...]] = {
    # k and v have 12 rows where q has 48, of 32 or 8 in a block: the first seam is behind q, or behind k
    ("ct-fp8-block-misaligned", "q, k and v"): seam(48, 72, "1.5", 32, 16),
    ("ct-fp8-block-misaligned", "gate and up"): seam(80, 160, "2.5", 32, 16),
    ("ct-int4-asym-misaligned", "q, k and v"): seam(60, 72, "7.5", 8, None),
    ("fp8-block-straddle", "q, k and v"): seam(72, 80, "2.25", 32, 8),
    ("fp8-block-straddle", "gate and up"): seam(80, 160, "2.5", 32, 16),
    ("ct-fp8-tensor-static", "q, k and v"): ("companion-differs", "weight_scale[0] is 0.000583648681640625"),
    ("ct-fp8-tensor-static", "gate and up"): ("companion-differs", "weight_scale[0] is 0.000560760498046875"),
    ("ct-nvfp4", "q, k and v"): ("companion-differs", "input_global_scale[0] is 417.5", "is 419.5"),
    ("ct-nvfp4", "gate and up"): ("companion-differs", "input_global_scale[0] is 422.5", "is 421.5"),
    ("modelopt-fp8", "q, k and v"): ("companion-differs", "q_proj.weight_scale[] is 0.0006583077483810484"),
    ("modelopt-fp8", "gate and up"): ("companion-differs", "gate_proj.weight_scale[] is 0.00067138671875"),
    ("hqq-int4", "q, k and v"): ("companion-fixed", "1,024 bytes of codes, 64 scales"),
    ("hqq-int4", "gate and up"): ("companion-fixed", "1,536 bytes of codes, 96 scales"),
}
"""Movements that are not, with the code and the numbers."""

ELSEWHERE: Final = {
    "fp8-block-128-mla": "test_groups.py: a last block that is not full may be joined as the last one",
    "gguf-llama-q8_0": "below: no format that is read here",
    "gguf-qwen3moe-q8_0": "below: no format that is read here",
}


def test_every_example_is_tried() -> None:
    if not EXAMPLES.is_dir():
        pytest.skip("needs the directory shared/formats beside the project")
    plain = ("layouts-", "peft-", "lora-", "unsloth-", "scripts")
    quantised = {place.name for place in EXAMPLES.iterdir() if place.is_dir() and not place.name.startswith(plain)}
    assert quantised == {*MOVES, *(name for name, _ in REFUSED), *ELSEWHERE}


def oracle_of(name: str) -> Tensors:
    """What the format's own reader makes of an example."""
    reader = example({"ct-from-awq-gemm": "awq-gemm"}.get(name, name))
    found = load_file(reader / "oracle.safetensors")
    return {key: value.mT for key, value in found.items()} if name == "gpt-oss-mxfp4" else found  # columns first there


@pytest.mark.parametrize(("name", "which"), [(name, which) for name, movements in MOVES.items() for which in movements])
def test_what_is_made_is_the_oracles_and_goes_back_byte_for_byte(name: str, which: str, tmp_path: Path) -> None:
    source, movement = copied(example(name), tmp_path / "source"), MOVEMENTS[which]
    plan = wb.plan(source, movement.mapping)
    assert plan.is_exact
    made = plan.write(tmp_path / "made")
    before, after = numbers_in(source), numbers_in(made)
    oracle = {key: value for key, value in {**before, **oracle_of(name)}.items() if key in before}
    wanted = movement.moved(oracle)
    assert len(after) < len(before) or which == "alternating gate and up"
    assert [key for key in wanted if not after[key].to(wanted[key].dtype).equal(wanted[key])] == []
    kept = after.keys() - wanted.keys()
    assert [key for key in kept if not after[key].equal(before[key])] == []
    same_files(source, wb.revert(made, tmp_path / "back"))

    (made / "weighbridge.json").unlink()  # what lost its record is parted by the inverse of the mapping
    again = wb.convert(made, tmp_path / "again", movement.mapping, reverse=True, target=source)
    first, second = load_file(source / "model.safetensors"), load_file(again / "model.safetensors")
    assert first.keys() == second.keys()
    assert [key for key in first if not bits(first[key]).equal(bits(second[key]))] == []
    assert config_of(again) == config_of(source)
    assert wb.open(again).header.metadata.keys() == wb.open(source).header.metadata.keys()


@pytest.mark.parametrize(("name", "which"), REFUSED)
def test_what_cannot_be_moved_is_a_named_error_with_its_numbers(name: str, which: str, tmp_path: Path) -> None:
    source = copied(example(name), tmp_path / "source")
    code, *words = REFUSED[name, which]
    with pytest.raises(wb.PlanError) as caught:
        wb.convert(source, tmp_path / "made", MOVEMENTS[which].mapping)
    assert codes_of(caught) == {code}
    text = str(caught.value)
    assert [part for part in words if part not in text] == [], text
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", [name for name in ELSEWHERE if name.startswith("gguf")])
def test_a_format_that_is_not_read_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(wb.CheckpointError) as caught:
        wb.plan(example(name) / "model.gguf", FUSED)
    assert caught.value.code == "checkpoint-not-found"
    assert ".safetensors" in str(caught.value)
