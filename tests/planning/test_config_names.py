"""Names of modules in configurations follow the modules: real checkpoints, what is refused, and where it is told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import linear, write_adapter
from command import run
from conftest import ROOT
from safetensors.torch import load_file, save_file
from transformers.quantizers.quantizers_utils import should_convert_module

import weighbridge as wb
from weighbridge.base.errors import WeighbridgeError

EXAMPLES = ROOT.parent / "shared" / "formats"

LAYERS = 3
IN_LAYER = ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.gate", "mlp.up", "norm")
PLAIN = ["head", "model.embed", *(f"model.layers.{layer}.{name}" for layer in range(LAYERS) for name in IN_LAYER)]
FUSE = [wb.WeightConverter([f"attn.{name}.weight" for name in "qkv"], "attn.qkv.weight", [wb.Concatenate(0)])]
BELOW = [wb.WeightRenaming("^model", "outer.model")]

OUTER = [*BELOW, wb.WeightRenaming("^lm_head", "outer.lm_head")]
NAMED = {
    "ct-fp8-block": {"ignore": ["outer.lm_head"]},
    "ct-fp8-tensor-static": {"ignore": ["outer.lm_head"]},
    "ct-from-awq-gemm": {"ignore": ["outer.lm_head"]},
    "ct-int4-asym": {"ignore": ["outer.lm_head"]},
    "ct-int4-group": {"ignore": ["outer.lm_head"]},
    "ct-int8-channel": {"ignore": ["outer.lm_head"]},
    "ct-moe-int4-asym": {"ignore": ["outer.lm_head", "outer.model.layers.0.mlp.gate"]},
    "ct-moe-int4-group": {"ignore": ["outer.lm_head", "outer.model.layers.0.mlp.gate"]},
    "ct-mxfp4": {"ignore": ["outer.lm_head"]},
    "ct-nvfp4": {"ignore": ["outer.lm_head"]},
    "hqq-int4": {"skip_modules": ["outer.lm_head"]},
    "modelopt-fp8": {"ignore": ["outer.lm_head", "outer.model.embed_tokens"]},
    "modelopt-nvfp4": {"ignore": ["outer.lm_head", "outer.model.embed_tokens"]},
}
"""What the configurations of the examples say of the new names; in all else they stay."""

SILENT = ("awq-gemm", "bnb-int8", "bnb-nf4", "fp8-block-aligned", "gptq-int4", "torchao-int8")
FILES = ("config.json", "hf_quant_config.json", "quantize_config.json", "model.safetensors")


def example(name: str, folder: Path) -> Path:
    """Copy an example without what is only for tests."""
    if not (EXAMPLES / name).is_dir():
        pytest.skip("needs the directory shared/formats beside the project")
    folder.mkdir()
    for file in FILES:
        if (EXAMPLES / name / file).is_file():
            (folder / file).write_bytes((EXAMPLES / name / file).read_bytes())
    return folder


def said_in(place: Path, file: str = "config.json", member: str = "quantization_config") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / file).read_text())[member]
    return found


def same_files(one: Path, other: Path) -> bool:
    return all((one / path.name).read_bytes() == path.read_bytes() for path in other.iterdir())


def checkpoint(folder: Path, said: dict[str, Any], modules: Sequence[str] = PLAIN, **files: Any) -> Path:
    """Write plain tensors for some modules, and a configuration."""
    folder.mkdir()
    sizes = {module: (4,) if module.endswith("norm") else (4, 6) for module in modules}
    save_file({f"{module}.weight": torch.zeros(*size) for module, size in sizes.items()}, folder / "model.safetensors")
    for name, content in {"config.json": said, **files}.items():
        (folder / name).write_text(json.dumps(content, indent=2))
    return folder


def compressed(*entries: str, **more: Any) -> dict[str, Any]:
    return {
        "model_type": "x",
        "quantization_config": {"quant_method": "compressed-tensors", "ignore": list(entries), **more},
    }


def refusals(place: Path, rules: Any, folder: Path) -> list[WeighbridgeError]:
    """Return what a conversion is refused for, which leaves nothing behind."""
    with pytest.raises(wb.PlanError) as caught:
        wb.convert(place, folder / "refused", rules)
    assert not (folder / "refused").exists()
    return list(caught.value.problems)


@pytest.mark.parametrize("name", NAMED)
def test_configurations_of_real_checkpoints_follow_and_come_back_byte_for_byte(name: str, tmp_path: Path) -> None:
    source = example(name, tmp_path / "source")
    plan = wb.plan(source, OUTER)
    made = plan.write(tmp_path / "made")
    assert said_in(made) == said_in(source) | NAMED[name]
    assert {(change.file, change.place) for change in plan.config_changes} >= {
        ("config.json", f"quantization_config.{member}") for member in NAMED[name]
    }
    if (source / "hf_quant_config.json").is_file():
        assert said_in(made, "hf_quant_config.json", "quantization")["exclude_modules"] == NAMED[name]["ignore"]
    assert same_files(wb.revert(made, tmp_path / "back"), source)
    again = wb.convert(made, tmp_path / "again", OUTER, reverse=True)
    assert said_in(again) == said_in(source)


@pytest.mark.parametrize("name", SILENT)
def test_a_configuration_without_names_stays_as_it_is(name: str, tmp_path: Path) -> None:
    source = example(name, tmp_path / "source")
    plan = wb.plan(source, OUTER)
    assert plan.config_changes == ()
    assert (plan.write(tmp_path / "made") / "config.json").read_bytes() == (source / "config.json").read_bytes()


def test_wildcards_of_gpt_oss_become_patterns_that_transformers_reads(tmp_path: Path) -> None:
    source = example("gpt-oss-mxfp4", tmp_path / "source")
    attention = [wb.WeightRenaming("self_attn", "attn"), wb.WeightRenaming("mlp.router", "mlp.gate")]
    made = wb.convert(source, tmp_path / "made", attention)
    entries = said_in(made)["modules_to_not_convert"]
    modules = {key.rpartition(".")[0] for key in wb.open(made).header}
    quantised = {module for module in modules if should_convert_module(module, entries)}
    assert {module for module in quantised if not module.endswith("norm")} == {"model.layers.0.mlp.experts"}
    assert entries[-2:] == ["model.embed_tokens", "lm_head"]
    assert same_files(wb.revert(made, tmp_path / "back"), source)


def test_an_entry_for_half_of_what_is_fused_is_an_error_with_the_names(tmp_path: Path) -> None:
    source = example("ct-int4-group", tmp_path / "source")
    text = (source / "config.json").read_text()
    (source / "config.json").write_text(text.replace('"lm_head"', '"lm_head", "re:.*self_attn.[qk]_proj$"'))
    fused = wb.WeightConverter(
        [f"self_attn.{name}_proj.weight" for name in "qkv"], "self_attn.qkv_proj.weight", [wb.Concatenate(0)]
    )
    (problem,) = refusals(source, [fused], tmp_path)
    assert problem.code == "names-mixed"
    told = str(problem)
    assert "config.json: quantization_config.ignore" in told
    assert (
        "'model.layers.0.self_attn.k_proj', 'model.layers.0.self_attn.q_proj': named by 're:.*self_attn.[qk]_proj$'"
        in told
    )
    assert "'model.layers.0.self_attn.v_proj': named by nothing" in told
    made = wb.convert(source, tmp_path / "made", [fused], config_names=False)
    assert said_in(made) == said_in(source)


@pytest.mark.parametrize(
    ("entries", "wanted"),
    [
        (["re:.*attn.*"], None),
        (
            ["model.layers.0.attn.q", "model.layers.0.attn.k", "head", "model.layers.0.attn.v"],
            ["model.layers.0.attn.qkv", "head"],
        ),
        (["re:.*attn\\.[qkv]$"], [r"re:model\.layers\.\d+\.attn\.qkv$"]),
        (["re:.*1.attn.[qkv]", "Linear"], None),
        (["re:.*1.attn.[qkv]$", "Linear"], ["model.layers.1.attn.qkv", "Linear"]),
        (["re:.*attn.*(q|k|v|o)"], None),
        (["absent.module", "re:absent.*"], None),
    ],
)
def test_what_stays_and_what_is_written_anew(entries: list[str], wanted: list[str] | None, tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "source", compressed(*entries))
    made = wb.convert(source, tmp_path / "made", FUSE)
    if wanted is None or wanted == entries:
        assert (made / "config.json").read_bytes() == (source / "config.json").read_bytes()
    else:
        assert said_in(made)["ignore"] == wanted


def test_an_entry_that_gains_a_module_is_written_for_its_own_alone(tmp_path: Path) -> None:
    """`re:.*up` means what is called so now, and would mean what gets that name."""
    source = checkpoint(tmp_path / "source", compressed("re:.*up$"))
    rules = [wb.WeightRenaming("attn.o", "attn.o_up")]
    made = wb.convert(source, tmp_path / "made", rules)
    assert said_in(made)["ignore"] == [r"re:model\.layers\.\d+\.mlp\.up$"]


def test_an_entry_for_what_only_the_target_has_is_refused(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "source", compressed("re:.*qkv$"))
    (problem,) = refusals(source, FUSE, tmp_path)
    assert problem.code == "names-unmapped"
    assert "'re:.*qkv$': it means nothing in the source" in str(problem)


def test_an_entry_in_the_names_of_the_target_is_refused_and_not_renamed_once_more(tmp_path: Path) -> None:
    """As where a library wrote the names of its modules, and a file has those of the checkpoint."""
    source = checkpoint(tmp_path / "source", compressed("outer.model.layers.0.attn.q"))
    (problem,) = refusals(source, [wb.PrefixChange(prefix_to_add="outer")], tmp_path)
    assert problem.code == "names-unmapped"
    told = ["outer.model.layers.0.attn.q", "model.layers.0.attn.q"]
    (source / "config.json").write_text(json.dumps(compressed(*told)))
    made = wb.convert(source, tmp_path / "made", [wb.PrefixChange(prefix_to_add="outer")])
    assert said_in(made)["ignore"] == told


def test_a_head_that_is_tied_away_is_named_as_the_rules_name_it(tmp_path: Path) -> None:
    modules = [module for module in PLAIN if module != "head"]
    source = checkpoint(tmp_path / "source", compressed("head", "Linear"), modules)
    made = wb.convert(source, tmp_path / "made", [wb.WeightRenaming("^head", "lm_head"), *BELOW])
    assert said_in(made)["ignore"] == ["lm_head", "Linear"]


def test_groups_of_one_configuration_follow_each_for_itself(tmp_path: Path) -> None:
    groups = {
        name: {"targets": targets} for name, targets in (("a", ["re:.*attn.[qkvo]$"]), ("b", ["Linear", "re:.*mlp.*"]))
    }
    source = checkpoint(tmp_path / "source", compressed(config_groups=groups))
    made = wb.convert(source, tmp_path / "made", FUSE)
    found = said_in(made)["config_groups"]
    assert found["a"]["targets"] == [r"re:model\.layers\.\d+\.attn\.qkv$", "re:.*attn.[qkvo]$"]
    assert found["b"] == groups["b"]


def test_objects_keep_what_they_say_and_the_settings_between(tmp_path: Path) -> None:
    per_module = {"bits": 8, "group_size": 64}
    said = {"group_size": 32, "bits": 4, **{f"model.layers.0.attn.{name}": per_module for name in "qkv"}, "head": False}
    source = checkpoint(tmp_path / "source", {"quantization": said, "quantization_config": said})
    made = wb.convert(source, tmp_path / "made", FUSE)
    wanted = {"group_size": 32, "bits": 4, "model.layers.0.attn.qkv": per_module, "head": False}
    assert [list(said_in(made, member=member).items()) for member in ("quantization", "quantization_config")] == [
        list(wanted.items())
    ] * 2
    said["model.layers.0.attn.k"] = {"bits": 4, "group_size": 64}
    other = checkpoint(tmp_path / "other", {"quantization": said})
    assert [problem.code for problem in refusals(other, FUSE, tmp_path)] == ["names-mixed"]


def test_blocks_of_gptq_are_named_in_both_files(tmp_path: Path) -> None:
    said = {
        "bits": 4,
        "modules_in_block_to_quantize": [["attn.q", "attn.k", "attn.v"], ["mlp.up"]],
        "block_name_to_quantize": "model.layers",
        "dynamic": {"-:.*attn.o": {}, "+:.*mlp.gate": {"bits": 8}},
    }
    config = {"quantization_config": {"quant_method": "gptq", **said}}
    files = {"quantize_config.json": said}
    source = checkpoint(tmp_path / "source", config, **files)
    made = wb.convert(source, tmp_path / "made", [*FUSE, wb.WeightRenaming("mlp.gate", "router"), *BELOW])
    wanted = {
        "modules_in_block_to_quantize": [["attn.qkv"], ["mlp.up"]],
        "block_name_to_quantize": "outer.model.layers",
        "dynamic": {"-:.*attn.o": {}, r"+:^outer\.model\.layers\.\d+\.router$": {"bits": 8}},
    }
    assert said_in(made) == {"quant_method": "gptq", "bits": 4, **wanted}
    assert json.loads((made / "quantize_config.json").read_text()) == {"bits": 4, **wanted}
    assert same_files(wb.revert(made, tmp_path / "back"), source)


def test_what_is_no_expression_is_named(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "source", compressed("re:attn.(q"))
    (problem,) = refusals(source, FUSE, tmp_path)
    assert problem.code == "names-unmapped"
    assert "'re:attn.(q'" in str(problem)


def test_a_part_of_a_name_that_means_more_cannot_be_said(tmp_path: Path) -> None:
    said = {"quantization_config": {"quant_method": "awq", "modules_to_not_convert": ["model.layers.0.attn.o"]}}
    source = checkpoint(tmp_path / "source", said)
    rules = [wb.WeightRenaming("layers.0.attn.o", "layers.0.attn.q_out")]
    assert said_in(wb.convert(source, tmp_path / "made", rules))["modules_to_not_convert"] == [
        "model.layers.0.attn.q_out"
    ]
    (problem,) = refusals(source, [wb.WeightRenaming("attn.o", "mlp.u")], tmp_path)
    assert problem.code == "names-unmapped"
    assert "in the dialect of parts of names" in str(problem)


def test_all_else_in_the_file_stays_byte_for_byte(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "source", compressed("head"))
    said = '{"quant_method":"compressed-tensors", "ignore":["head"]}'
    text = f'{{"b":1.50,\n\t"quantization_config" : {said} , "é": "\\u00e9"}}\n'
    (source / "config.json").write_text(text, encoding="utf-8")
    made = wb.convert(source, tmp_path / "made", [wb.WeightRenaming("^head", "lm_head")])
    assert (made / "config.json").read_text(encoding="utf-8") == text.replace('["head"]', '["lm_head"]')


def test_changes_are_told_wherever_a_plan_is(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "source", compressed("head"))
    mapping = wb.Mapping([wb.WeightRenaming("^head", "lm_head")], name="new")
    plan = wb.plan(source, mapping)
    line = 'config.json: quantization_config.ignore ["head"] -> ["lm_head"]'
    assert f"config    {line}" in str(plan.report).splitlines()
    assert plan.report.to_dict()["config_changes"] == [
        {"file": "config.json", "place": "quantization_config.ignore", "before": ["head"], "after": ["lm_head"]}
    ]
    assert json.dumps(line)[1:-1] in plan.to_html()
    (change,) = plan.inverse().config_changes
    assert (change.before, change.after) == (["lm_head"], ["head"])
    assert plan.restrict("lm_head.weight").config_changes == plan.config_changes
    assert same_files(plan.inverse().write(tmp_path / "back"), source)


def test_the_command_says_and_leaves_out(tmp_path: Path) -> None:
    checkpoint(tmp_path / "source", compressed("head"))
    (tmp_path / "map.yaml").write_text(wb.Mapping([wb.WeightRenaming("^head", "lm_head")], name="new").to_yaml())
    line = 'config    config.json: quantization_config.ignore ["head"] -> ["lm_head"]'
    assert line in run(tmp_path, "convert", "source", "made", "map.yaml").out
    assert line in run(tmp_path, "plan", "source", "map.yaml").out
    assert "config    " not in run(tmp_path, "plan", "source", "map.yaml", "--no-config-names").out
    assert said_in(tmp_path / "made")["ignore"] == ["lm_head"]


def test_a_plan_that_was_read_from_json_follows_names_where_it_is_run(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "source", compressed("head"))
    plan = wb.Plan.from_json(wb.plan(source, [wb.WeightRenaming("^head", "lm_head")]).to_json())
    made = plan.write(tmp_path / "made", source=source)
    assert said_in(made)["ignore"] == ["lm_head"]
    assert same_files(wb.revert(made, tmp_path / "back"), source)


def test_where_weights_become_numbers_no_names_are_left(tmp_path: Path) -> None:
    source = example("ct-int4-group", tmp_path / "source")
    plan = wb.plan(source, OUTER, dtype="bfloat16")
    assert plan.config_changes == ()
    assert "quantization_config" not in json.loads((plan.write(tmp_path / "made") / "config.json").read_text())


def test_an_adapter_lists_its_changes_too(tmp_path: Path) -> None:
    source = write_adapter(tmp_path / "adapter", linear("l.0.q", 3, 2), target_modules=["q"])
    (change,) = wb.plan(source, [wb.WeightRenaming("l.0.q", "l.0.w")]).config_changes
    assert change == ("adapter_config.json", "target_modules", ["q"], ["l.0.w"])


def test_metadata_that_names_what_is_not_there_moves_nothing(tmp_path: Path) -> None:
    source = example("torchao-int8", tmp_path / "source")
    header = wb.open(source).header
    gone = "model.layers.0.self_attn.v_proj._weight_"
    tensors = {
        key: tensor for key, tensor in load_file(source / "model.safetensors").items() if not key.startswith(gone)
    }
    save_file(tensors, source / "model.safetensors", metadata=dict(header.metadata))
    rule = wb.WeightConverter(
        [f"self_attn.{name}_proj.weight" for name in "qk"], "self_attn.qk_proj.weight", [wb.Concatenate(0)]
    )
    (problem,) = refusals(source, [rule], tmp_path)
    assert problem.code == "scheme-conflict"
    assert "model.layers.0.self_attn.v_proj: has no tensors of" in str(problem)


def test_names_and_finer_blocks_change_one_file_and_come_back(tmp_path: Path) -> None:
    tensors = {}
    for name, rows in (("gate", 12), ("up", 8)):
        tensors[f"mlp.{name}.weight"] = torch.ones(rows, 8).to(torch.float8_e4m3fn)
        tensors[f"mlp.{name}.weight_scale_inv"] = torch.arange(1.0, 1 + -(-rows // 8)).reshape(-1, 1)
    source = tmp_path / "source"
    source.mkdir()
    save_file({**tensors, "head.weight": torch.zeros(4, 6)}, source / "model.safetensors")
    said = {"quant_method": "fp8", "weight_block_size": [8, 8], "modules_to_not_convert": ["head"]}
    (source / "config.json").write_text(json.dumps({"quantization_config": said}))
    rules = [
        wb.WeightConverter(["gate.weight", "up.weight"], "both.weight", [wb.Concatenate(0)]),
        wb.WeightRenaming("^head", "tail"),
    ]
    made = wb.convert(source, tmp_path / "made", rules, companions="refine")
    assert said_in(made) == said | {"weight_block_size": [4, 8], "modules_to_not_convert": ["tail"]}
    assert same_files(wb.revert(made, tmp_path / "back"), source)
    plan = wb.plan(source, rules, companions="refine")
    assert same_files(plan.inverse().write(tmp_path / "other"), source)
