"""Quantised weights move with all that belongs to them: real examples, held to the formats' own readers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from dequantised import FORMULAS, weights_of
from safetensors.torch import load_file, save_file

import weighbridge as wb

EXAMPLES = ROOT.parent / "shared" / "formats"

QKV = wb.WeightConverter(
    [f"self_attn.{name}_proj.weight" for name in "qkv"], "self_attn.qkv_proj.weight", [wb.Concatenate(0)]
)
GATE_UP = wb.WeightConverter(["mlp.gate_proj.weight", "mlp.up_proj.weight"], "mlp.gate_up.weight", [wb.Concatenate(0)])
FUSED = wb.Mapping([QKV, GATE_UP], name="fused")
EXPERTS = wb.Mapping(
    [
        wb.WeightConverter(
            ["mlp.experts.*.gate_proj.weight", "mlp.experts.*.up_proj.weight"],
            "mlp.experts.gate_up_proj",
            [wb.MergeModulelist(dim=0), wb.Concatenate(dim=1)],
        ),
        wb.WeightConverter("mlp.experts.*.down_proj.weight", "mlp.experts.down_proj", [wb.MergeModulelist(dim=0)]),
    ],
    name="experts",
)

JOINABLE = ("awq-gemm", "bnb-int8", "ct-fp8-block", "ct-int8-channel", "ct-mxfp4", "fp8-block-aligned", "gptq-int4")
EQUALISED = ("modelopt-nvfp4",)
"""Those whose writer gives q, k and v one scale, and gate and up one."""

DIFFERING = ("ct-fp8-tensor-static", "ct-nvfp4", "modelopt-fp8")
"""Those whose writer gives each of them its own."""


def example(name: str) -> Path:
    place = EXAMPLES / name
    if not place.is_dir():
        pytest.skip("needs the directory shared/formats beside the project")
    return place


def config_of(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / "config.json").read_text())
    return found


def numbers_in(place: Path) -> dict[str, torch.Tensor]:
    return weights_of(load_file(place / "model.safetensors"), config_of(place))


def codes_of(caught: pytest.ExceptionInfo[wb.PlanError]) -> set[str]:
    return {problem.code for problem in caught.value.problems}


def same_files(one: Path, other: Path) -> None:
    names = sorted(path.name for path in one.iterdir() if path.name != "weighbridge.json")
    assert sorted(path.name for path in other.iterdir()) == names
    assert [name for name in names if (one / name).read_bytes() != (other / name).read_bytes()] == []


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and bits(one).equal(bits(other))


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def copied(place: Path, folder: Path) -> Path:
    """An example without what is only for tests, so that it is a checkpoint."""
    folder.mkdir()
    for name in ("config.json", "hf_quant_config.json", "quantize_config.json", "model.safetensors"):
        if (place / name).is_file():
            (folder / name).write_bytes((place / name).read_bytes())
    return folder


def joined(numbers: dict[str, torch.Tensor], base: str, parts: Sequence[str], axis: int = 0) -> torch.Tensor:
    return torch.cat([numbers[base.format(part)] for part in parts], axis)


@pytest.mark.parametrize("name", [*JOINABLE, *EQUALISED, *DIFFERING, "ct-int4-group", "ct-int4-asym", "fp8-block-moe"])
def test_the_formulas_are_those_of_the_formats_own_readers(name: str) -> None:
    place = example(name)
    oracle, found = load_file(place / "oracle.safetensors"), numbers_in(place)
    known = found.keys() & oracle.keys()
    assert len(known) >= 5
    assert [key for key in known if not torch.equal(found[key].to(oracle[key].dtype), oracle[key])] == []


@pytest.mark.parametrize("name", DIFFERING)
def test_scales_of_whole_weights_that_differ_are_found_before_anything_is_written(name: str, tmp_path: Path) -> None:
    source = copied(example(name), tmp_path / "source")
    plan = wb.plan(source, FUSED)
    assert {len(condition.ways) for condition in plan.conditions} == {2, 3}
    with pytest.raises(wb.PlanError) as caught:
        plan.write(tmp_path / "made")
    assert codes_of(caught) == {"companion-differs"}
    assert not (tmp_path / "made").exists()


def test_fp8_experts_are_stacked_with_their_scales_and_go_back(tmp_path: Path) -> None:
    source = copied(example("fp8-block-moe"), tmp_path / "source")
    oracle = load_file(example("fp8-block-moe") / "oracle.safetensors")
    made = wb.convert(source, tmp_path / "made", EXPERTS)
    expert = "model.layers.0.mlp.experts.{}.{}_proj.weight"
    count = sum("layers.0.mlp.experts" in key and "gate_proj" in key for key in oracle)
    both = [torch.cat([oracle[expert.format(i, part)] for part in ("gate", "up")]) for i in range(count)]
    found = numbers_in(made)
    assert torch.equal(found["model.layers.0.mlp.experts.gate_up_proj"].to(both[0].dtype), torch.stack(both))
    down = torch.stack([oracle[expert.format(i, "down")] for i in range(count)])
    assert torch.equal(found["model.layers.0.mlp.experts.down_proj"].to(down.dtype), down)
    assert "model.layers.0.mlp.experts.gate_up_proj_scale_inv" in wb.open(made).header
    same_files(source, wb.revert(made, tmp_path / "back"))


def test_gate_and_up_of_gpt_oss_are_parted_by_rows(tmp_path: Path) -> None:
    """As published they alternate by row; the bytes of 32 columns stay as they are."""
    source = copied(example("gpt-oss-mxfp4"), tmp_path / "source")
    base = "model.layers.0.mlp.experts.gate_up_proj"
    before = numbers_in(source)[base]
    experts, rows, columns = before.shape
    rules = [
        wb.WeightConverter(
            "experts.gate_up_proj",
            "experts.gate_up_proj",
            [
                wb.Reshape((experts, rows // 2, 2, columns)),
                wb.Permute((0, 2, 1, 3)),
                wb.Reshape((experts, rows, columns)),
            ],
        )
    ]
    made = wb.plan(source, rules).write(tmp_path / "made")
    assert torch.equal(numbers_in(made)[base], torch.cat([before[:, 0::2], before[:, 1::2]], 1))
    same_files(source, wb.revert(made, tmp_path / "back"))
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, [wb.WeightConverter("experts.gate_up_proj", "experts.gate_up_proj", [wb.Transpose(1, 2)])])
    assert codes_of(caught) == {"companion-fixed"}


def test_a_last_block_that_is_not_full_may_be_joined_as_the_last_one(tmp_path: Path) -> None:
    source = copied(example("fp8-block-128-mla"), tmp_path / "source")
    names = ["q_a_proj.weight", "kv_a_proj_with_mqa.weight"]
    made = wb.plan(source, [wb.WeightConverter(names, "fused.weight", [wb.Concatenate(0)])]).write(tmp_path / "made")
    before, (after,) = numbers_in(source), numbers_in(made).values()
    assert torch.equal(after, torch.cat([next(v for k, v in before.items() if k.endswith(n)) for n in names]))
    same_files(source, wb.revert(made, tmp_path / "back"))
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, [wb.WeightConverter(names[::-1], "fused.weight", [wb.Concatenate(0)])])
    assert codes_of(caught) == {"companion-misaligned"}


@pytest.mark.parametrize("name", [*JOINABLE, *EQUALISED, *DIFFERING, "bnb-nf4", "hqq-int4", "ct-int4-asym"])
def test_a_rule_that_renames_the_weight_takes_its_group_along(name: str, tmp_path: Path) -> None:
    source = copied(example(name), tmp_path / "source")
    made = wb.plan(source, [wb.WeightRenaming("self_attn.q_proj.weight", "attention.wq.weight")])
    moved = {key.replace("self_attn.q_proj", "attention.wq") for key in made.source if "q_proj.bias" not in key}
    assert made.target.specs.keys() == moved
    same_files(source, wb.revert(made.write(tmp_path / "made"), tmp_path / "back"))


@pytest.mark.parametrize("name", ["gptq-int4", "awq-gemm"])
def test_columns_of_groups_that_are_numbered_or_packed_stay(name: str, tmp_path: Path) -> None:
    source = copied(example(name), tmp_path / "source")
    cut = wb.WeightConverter("mlp.up_proj.weight", ["mlp.a.weight", "mlp.b.weight"], [wb.Chunk(dim=1)])
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, [cut])
    assert codes_of(caught) == {"companion-misaligned"}


def test_every_format_with_a_formula_is_tried() -> None:
    tried = {config_of(example(name))["quantization_config"]["quant_method"] for name in (*JOINABLE, *EQUALISED)}
    assert tried | {"mxfp4", "mlx", "torchao"} == set(FORMULAS)


@pytest.mark.parametrize("name", ["torchao-int8", "torchao-float8"])
def test_what_the_metadata_says_of_torchao_tensors_follows_their_names(name: str, tmp_path: Path) -> None:
    source = copied(example(name), tmp_path / "source")
    rules = [QKV, GATE_UP, wb.WeightRenaming("^model", "language.model")]
    made = wb.plan(source, rules).write(tmp_path / "made")
    before, after = wb.open(source).header.metadata, wb.open(made).header.metadata
    listed = json.loads(after["tensor_names"])
    assert listed[1:4] == ["language.model.layers.0.self_attn.qkv_proj.weight", *listed[2:4]]
    assert set(listed) == after.keys() - {"tensor_names", "format"}
    joined = "language.model.layers.0.self_attn.qkv_proj.weight"
    assert after[joined] == before["model.layers.0.self_attn.q_proj.weight"]
    parts = {key: tensor for key, tensor in load_file(made / "model.safetensors").items() if "qkv" in key}
    first = load_file(source / "model.safetensors")
    for ending in (key.removeprefix(joined.removesuffix(".weight")) for key in parts):
        wanted = torch.cat([first[f"model.layers.0.self_attn.{part}_proj{ending}"] for part in "qkv"])
        assert torch.equal(parts[joined.removesuffix(".weight") + ending].float(), wanted.float())
    same_files(source, wb.revert(made, tmp_path / "back"))


@pytest.mark.parametrize("only", ["model.layers.0.self_attn.**", "model.norm.weight"])
def test_a_part_of_a_torchao_checkpoint_has_metadata_of_that_part_alone(only: str, tmp_path: Path) -> None:
    """What it said of the others would be of absent tensors, and refused when it is converted again."""
    source = copied(example("torchao-int8"), tmp_path / "source")
    made = wb.plan(source, [wb.WeightRenaming("^other", "none")]).restrict(only).write(tmp_path / "made")
    before, after = wb.open(source).header.metadata, wb.open(made).header.metadata
    stem = only.removesuffix("**")
    wanted = [name for name in json.loads(before["tensor_names"]) if name.startswith(stem)]
    assert json.loads(after["tensor_names"]) == wanted
    assert after.keys() == {*wanted, "tensor_names", "format"}
    assert {name: after[name] for name in wanted} == {name: before[name] for name in wanted}
    again = wb.plan(made, [wb.WeightRenaming("^model", "m")]).metadata  # of plain tensors alone as well
    assert json.loads(again["tensor_names"]) == [f"m{name.removeprefix('model')}" for name in wanted]
    assert again.keys() == {*json.loads(again["tensor_names"]), "tensor_names", "format"}


def test_plain_tensors_of_such_a_file_may_be_stacked() -> None:
    plain = '{"_type": "Tensor"}'
    names = ["norms.0.weight", "norms.1.weight"]
    specs = dict.fromkeys(names, wb.TensorSpec("F32", (4,)))
    found = wb.Header(specs, {**dict.fromkeys(names, plain), "tensor_names": json.dumps(names)})
    stack = wb.WeightConverter("norms.*.weight", "norms", [wb.MergeModulelist(0)])
    assert dict(wb.plan(found, [stack]).metadata) == {"norms": plain, "tensor_names": '["norms"]'}


def test_what_the_metadata_says_does_not_hold_of_a_stack(tmp_path: Path) -> None:
    source = copied(example("torchao-int8"), tmp_path / "source")
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, [wb.WeightConverter("mlp.gate_proj.weight", "mlp.both", [wb.Reshape((1, 96, 32))])])
    assert codes_of(caught) == {"companion-fixed"}


STACKED = wb.Mapping(
    [
        wb.WeightConverter(f"mlp.experts.*.{name}_proj.weight", f"mlp.experts.{name}_proj", [wb.MergeModulelist(0)])
        for name in ("gate", "up", "down")
    ],
    name="stacked",
)


@pytest.mark.parametrize("name", ["ct-moe-int4-asym", "ct-moe-int4-group"])
def test_packed_experts_are_stacked_and_found_again_under_their_new_names(name: str, tmp_path: Path) -> None:
    source = copied(example(name), tmp_path / "source")
    oracle = load_file(example(name) / "oracle.safetensors")
    made = wb.convert(source, tmp_path / "made", STACKED)
    found, stem = numbers_in(made), "model.layers.0.mlp.experts"
    count = sum(stem in key and "gate_proj" in key for key in oracle)
    for part in ("gate", "up", "down"):
        wanted = torch.stack([oracle[f"{stem}.{i}.{part}_proj.weight"] for i in range(count)])
        assert torch.equal(found[f"{stem}.{part}_proj"].to(wanted.dtype), wanted)
    assert f"{stem}.gate_proj_packed" in wb.open(made).header
    same_files(source, wb.revert(made, tmp_path / "back"))
    (made / "weighbridge.json").unlink()
    again = load_file(wb.convert(made, tmp_path / "again", STACKED, reverse=True) / "model.safetensors")
    first = load_file(source / "model.safetensors")
    assert first.keys() == again.keys()
    assert [key for key in first if not same_bits(first[key], again[key])] == []


@pytest.mark.parametrize("name", ["ct-int4-asym", "ct-int4-group", "ct-from-awq-gemm"])
def test_the_shape_beside_packed_integers_is_said_anew(name: str, tmp_path: Path) -> None:
    place = example(name)
    source = copied(place, tmp_path / "source")
    reader = place if (place / "oracle.safetensors").is_file() else example(name.removeprefix("ct-from-"))
    oracle = load_file(reader / "oracle.safetensors")
    made = wb.plan(source, FUSED).write(tmp_path / "made")
    found, tensors = numbers_in(made), load_file(made / "model.safetensors")
    stem, parts = "model.layers.0.self_attn", "model.layers.0.self_attn.{}_proj.weight"
    wanted = joined(oracle, parts, "qkv")
    assert torch.equal(found[f"{stem}.qkv_proj.weight"].to(wanted.dtype), wanted)
    assert tensors[f"{stem}.qkv_proj.weight_shape"].tolist() == list(wanted.shape)
    same_files(source, wb.revert(made, tmp_path / "back"))
    (made / "weighbridge.json").unlink()
    again = load_file(wb.convert(made, tmp_path / "again", FUSED, reverse=True, target=source) / "model.safetensors")
    first = load_file(source / "model.safetensors")
    assert [key for key in first if not same_bits(first[key], again[key])] == []


def test_a_shape_that_is_not_that_of_the_codes_is_found_before_anything_is_written(tmp_path: Path) -> None:
    """Eight columns share a word, of which the last may be padding: the tensors alone do not say."""
    source = copied(example("ct-int4-group"), tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.0.self_attn.q_proj.weight_shape"][1] -= 1
    save_file(tensors, source / "model.safetensors")
    plan = wb.plan(source, [QKV])
    with pytest.raises(wb.PlanError) as caught:
        plan.write(tmp_path / "made")
    assert codes_of(caught) == {"scheme-conflict"}
    text = str(caught.value)
    assert "q_proj.weight_shape[1] is 63" in text or "q_proj.weight_shape[1] is 31" in text, text
    assert "by the sizes of the other tensors" in text
