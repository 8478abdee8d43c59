"""Layers with heads of their own: sizes and numbers of heads from a list of the configuration, by the layer's index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from command import run
from mapping_cases import Case, Tensors, equal, numbers
from safetensors.torch import load_file, save_file

import weighbridge as wb

HEADS, KV_HEADS, HEAD_DIM = (2, 4, 3), (1, 2, 3), 4
CONFIG: dict[str, Any] = {"text_config": {"heads": HEADS, "kv_heads": list(KV_HEADS), "head_dim": HEAD_DIM}}
SIZES = ("heads[layer]*head_dim", "kv_heads[layer]*head_dim", "kv_heads[layer]*head_dim")
QKV = [f"layers.{{layer:int}}.{name}" for name in "qkv"]


def rows(layer: int) -> tuple[int, int, int]:
    return HEADS[layer] * HEAD_DIM, KV_HEADS[layer] * HEAD_DIM, KV_HEADS[layer] * HEAD_DIM


FUSED: Tensors = {f"layers.{layer}.qkv": 1000 * layer + numbers(sum(rows(layer)), 5) for layer in range(3)}
APART: Tensors = {
    f"layers.{layer}.{name}": part
    for layer in range(3)
    for name, part in zip("qkv", FUSED[f"layers.{layer}.qkv"].split(rows(layer)), strict=True)
}


def rotate(whole: torch.Tensor, heads: int) -> torch.Tensor:
    return torch.cat([part for head in whole.chunk(heads) for part in (head[0::2], head[1::2])])


CASES = {
    "a fused tensor is cut": Case(
        [wb.Split(0, SIZES)], FUSED, APART, CONFIG, ("layers.{layer:int}.qkv", QKV)
    ),
    "parts are fused": Case(
        [wb.Concatenate(0, sizes=SIZES)], APART, FUSED, CONFIG, (QKV, "layers.{layer:int}.qkv")
    ),
    "heads are turned": Case(
        [wb.PermuteForRope(num_heads="text_config.heads[i]")],
        {key: value for key, value in APART.items() if key.endswith("q")},
        {f"h.{layer + 1}.q": rotate(APART[f"layers.{layer}.q"], HEADS[layer]) for layer in range(3)},
        CONFIG, ("layers.{i:int}.q", "h.{i+1}.q"),
    ),
    "an index that is moved is the one that stands for the entry": Case(
        [wb.PermuteForRope(num_heads="text_config.heads[i]")],
        {f"h.{layer + 1}.q": APART[f"layers.{layer}.q"] for layer in range(3)},
        {f"layers.{layer}.q": rotate(APART[f"layers.{layer}.q"], HEADS[layer]) for layer in range(3)},
        CONFIG, ("h.{i+1:int}.q", "layers.{i}.q"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_from_memory(case: Case) -> None:
    case.check_in_memory()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_inverse_is_recorded_and_derived(case: Case) -> None:
    case.check_ways_back()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_from_files_and_back(case: Case, tmp_path: Path) -> None:
    case.check_files(tmp_path)


@pytest.mark.parametrize(
    ("config", "got"),
    [
        (None, "no configuration"),
        ({"head_dim": 4}, "nothing; nearest: head_dim"),
        ({"heads": 2, "head_dim": 4}, "2"),
        ({"heads": [2, 4], "kv_heads": KV_HEADS, "head_dim": 4}, "a list of 2, and layer is 2"),
        ({"heads": [2, "4", 3], "kv_heads": KV_HEADS, "head_dim": 4}, "'4'"),
    ],
)
def test_a_list_that_does_not_say_it_is_refused(config: Any, got: str) -> None:
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(FUSED, CASES["a fused tensor is cut"].mapping, config=config)
    assert set(caught.value.codes) == {"operation-config"}
    assert got in {problem.got for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("layers.*.q", "layers.*.q"),
        ("layers.{i:int}.q", "layers.{i}.q"),
        ("layers.{layer}.q", "layers.{layer}.q"),
        (r"layers.(\d+).q", r"layers.\1.q"),
    ],
)
def test_what_no_pattern_captures_reads_no_list(source: str, target: str) -> None:
    with pytest.raises(wb.MappingError) as caught:
        wb.WeightConverter(source, target, [wb.PermuteForRope(num_heads="heads[layer]")])
    assert "{layer:int} in each source" in caught.value.expected


def test_a_command_sets_a_list(tmp_path: Path) -> None:
    save_file(FUSED, tmp_path / "model.safetensors")
    (tmp_path / "rules.yaml").write_text(CASES["a fused tensor is cut"].mapping.to_yaml(), "utf-8")
    sets = ["--set", "heads=[2, 4, 3]", "--set", "kv_heads=[1, 2, 3]", "--set", "head_dim=4"]
    assert run(tmp_path, "convert", "model.safetensors", "out", "rules.yaml", *sets).status == 0
    assert equal(load_file(tmp_path / "out" / "model.safetensors"), APART)
    refused = run(tmp_path, "convert", "model.safetensors", "less", "rules.yaml", *sets, "--set", "head=[2]")
    assert "no rule asks for this" in refused.err
