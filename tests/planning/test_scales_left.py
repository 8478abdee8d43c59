"""Weights that hold no codes, and beside them what only codes have: moved together, or an error with a name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from command import run
from safetensors.torch import load_file, save_file
from test_groups import codes_of, same_files

import weighbridge as wb
from weighbridge.mappings.schemes.endings import BELOW_WEIGHT, CACHES, COMMON, OF_CODES

Tensors = dict[str, torch.Tensor]

JOIN = wb.WeightConverter(["q.weight", "k.weight"], "qk.weight", [wb.Concatenate(0)])
MODULES = [wb.WeightRenaming("^q", "query"), wb.WeightRenaming("^k", "key")]
FLOATS = (torch.bfloat16, torch.float16, torch.float32)


def checkpoint(ending: str = ".weight_scale", dtype: torch.dtype = torch.bfloat16) -> Tensors:
    found: Tensors = {"norm.weight": torch.ones(3)}
    for number, name in enumerate("qk"):
        found[f"{name}.weight"] = torch.arange(24.0).reshape(4, 6).add(number).to(dtype)
        found[f"{name}{ending}"] = torch.arange(6.0).reshape((6,) if ".weight." in ending else (2, 3)).add(number)
    return found


def refused(source: Any, rules: list[Any], **options: Any) -> wb.PlanError:
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, rules, **options)
    assert codes_of(caught) == {"companion-unknown"}
    return caught.value


NAMES = [*(f".{name}" for name in sorted(OF_CODES)), *(f".weight.{name}" for name in sorted(BELOW_WEIGHT))]


@pytest.mark.parametrize("ending", NAMES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_weight_is_not_joined_without_what_only_codes_have(ending: str, dtype: torch.dtype) -> None:
    source = checkpoint(ending, dtype)
    problem, *others = refused(source, [JOIN]).problems
    assert len(others) == 1
    assert problem.where == "q"
    assert f"q.weight: {wb.open(source).header['q.weight']}" in problem.got
    moved = ending.replace(".weight.", "k.weight.") if ".weight." in ending else ending  # named by the rule as well
    assert f"q{ending} -> q{moved}" in problem.got
    assert wb.plan(source, []).is_exact
    made = wb.plan(source, MODULES)
    assert made.state_dict().keys() == {
        key.replace("q.", "query.").replace("k.", "key.") if key[0] in "qk" else key for key in source
    }
    assert made.inverse().state_dict(made.state_dict()).keys() == source.keys()


@pytest.mark.parametrize(
    "rule",
    [
        wb.WeightRenaming("^q.weight", "query.weight"),
        wb.WeightRenaming("^q.weight_scale", "query.scale"),
        wb.WeightConverter("q.weight", ["a.weight", "b.weight"], [wb.Chunk(0)]),
        wb.WeightConverter("q.weight", "q.weight", [wb.Transpose(0, 1)]),
    ],
    ids=["renamed alone", "left alone", "cut", "turned"],
)
def test_any_movement_apart_is_refused_before_anything_is_written(rule: Any, tmp_path: Path) -> None:
    save_file(checkpoint(), tmp_path / "model.safetensors")
    with pytest.raises(wb.PlanError) as caught:
        wb.convert(tmp_path / "model.safetensors", tmp_path / "out", [rule])
    assert codes_of(caught) == {"companion-unknown"}
    assert not (tmp_path / "out").exists()


def test_scales_with_a_rule_of_their_own_that_does_the_same_go_along() -> None:
    scales = wb.WeightConverter(["q.weight_scale", "k.weight_scale"], "qk.weight_scale", [wb.Concatenate(0)])
    source = checkpoint()
    made = wb.plan(source, [JOIN, scales]).state_dict()
    assert made["qk.weight"].equal(torch.cat([source["q.weight"], source["k.weight"]]))
    assert made["qk.weight_scale"].equal(torch.cat([source["q.weight_scale"], source["k.weight_scale"]]))
    other = wb.WeightConverter(["k.weight_scale", "q.weight_scale"], "qk.weight_scale", [wb.Concatenate(0)])
    refused(source, [JOIN, other])


def test_the_scales_of_a_parameter_are_its_own() -> None:
    experts = {"experts.up": torch.ones(2, 4, 6), "experts.up_scale_inv": torch.ones(2, 2, 3)}
    refused(experts, [wb.WeightConverter("experts.up", "experts.up", [wb.Transpose(1, 2)])])
    assert wb.plan(experts, [wb.WeightRenaming("^experts", "mlp.experts")]).is_exact


@pytest.mark.parametrize("name", [*CACHES, *COMMON])
def test_what_plain_modules_have_as_well_says_nothing(name: str) -> None:
    source = checkpoint(f".{name}")
    assert wb.plan(source, [JOIN]).state_dict()["qk.weight"].shape == (8, 6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_dtype_is_no_movement(dtype: str) -> None:
    for rules in ([], MODULES):
        made = wb.plan(checkpoint(dtype=torch.float32), rules, dtype=dtype, allow_overflow=True).state_dict()
        assert {tensor.dtype for tensor in made.values()} == {getattr(torch, dtype)}
    refused(checkpoint(), [JOIN], dtype=dtype)


def test_scales_that_numbers_have_no_use_for_are_left_out_by_name() -> None:
    source = checkpoint()
    plan = wb.plan(source, [JOIN], drop=["weight_scale"])
    assert plan.state_dict().keys() == {"qk.weight", "norm.weight"}
    assert {fated.key for fated in plan.dropped} == {"q.weight_scale", "k.weight_scale"}


def test_parameters_of_such_a_name_move_by_names_alone(tmp_path: Path) -> None:
    source = checkpoint()
    made = wb.plan(source, [JOIN], companions=False).state_dict()
    assert made["qk.weight"].equal(torch.cat([source["q.weight"], source["k.weight"]]))
    assert made["q.weight_scale"].equal(source["q.weight_scale"])
    (tmp_path / "source").mkdir()
    save_file(source, tmp_path / "source" / "model.safetensors")
    (tmp_path / "map.yaml").write_text(wb.Mapping([JOIN]).to_yaml())
    assert run(tmp_path, "convert", "source", "out", "map.yaml").status == 3
    assert not (tmp_path / "out").exists()
    assert run(tmp_path, "convert", "source", "out", "map.yaml", "--no-companions").status == 0
    assert load_file(tmp_path / "out" / "model.safetensors")["qk.weight"].equal(made["qk.weight"])
    assert run(tmp_path, "revert", "out", "back").status == 0
    same_files(tmp_path / "source", tmp_path / "back")


def test_a_configuration_of_another_format_changes_nothing() -> None:
    said = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [2, 2]}}
    codes = {"v.weight": torch.ones(4, 6).to(torch.float8_e4m3fn), "v.weight_scale_inv": torch.ones(2, 3)}
    refused(checkpoint(".input_scale") | codes, [JOIN], config=said)
    assert wb.plan(checkpoint(".input_scale") | codes, MODULES, config=said).is_exact


def test_a_checkpoint_without_such_names_is_planned_as_before() -> None:
    """Law K1: no step, no hash and no word of it changes."""
    source = {key: tensor for key, tensor in checkpoint().items() if "scale" not in key}
    assert wb.plan(source, [JOIN]) == wb.plan(source, [JOIN], companions=False)
