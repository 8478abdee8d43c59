"""What rules, exceptions and targets say of quantised weights by name: a group goes along, or it is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from command import run
from safetensors.torch import save_file

import weighbridge as wb

CONFIG: dict[str, Any] = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [2, 2]}}
JOIN = wb.WeightConverter(["gate.weight", "up.weight"], "both.weight", [wb.Concatenate(0)])
SCALES = wb.WeightConverter(
    ["gate.weight_scale_inv", "up.weight_scale_inv"], "both.weight_scale_inv", [wb.Concatenate(0)]
)


def codes(*shape: int) -> torch.Tensor:
    return torch.arange(float(shape[0] * shape[1])).reshape(shape).to(torch.float8_e4m3fn)


def checkpoint() -> dict[str, torch.Tensor]:
    found = {"norm.weight": torch.ones(5)}
    for name, rows in (("gate", 4), ("up", 6)):
        found[f"mlp.{name}.weight"] = codes(rows, 6)
        found[f"mlp.{name}.weight_scale_inv"] = torch.rand(rows // 2, 3)
    return found


def codes_of(caught: pytest.ExceptionInfo[wb.PlanError]) -> set[str]:
    return {problem.code for problem in caught.value.problems}


def refused(rules: list[Any], **options: Any) -> set[str]:
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(checkpoint(), rules, **{"config": CONFIG, **options})
    return codes_of(caught)


def test_a_rule_of_the_weight_alone_does_what_rules_of_both_do() -> None:
    source = checkpoint()
    plans = [wb.plan(source, rules, config=CONFIG) for rules in ([JOIN], [JOIN, SCALES])]
    by_name = wb.plan(source, [JOIN, SCALES], config=CONFIG, companions=False)
    movements = [{(step.sources, step.targets, step.program) for step in plan.steps} for plan in (*plans, by_name)]
    assert movements[0] == movements[1] == movements[2]


def test_without_companions_each_tensor_goes_by_its_own_name() -> None:
    assert refused([JOIN], companions=False) == {"companion-unknown"}
    assert refused([JOIN], config=None) == {"companion-unknown"}


@pytest.mark.parametrize(
    "rule",
    [
        wb.WeightConverter(SCALES.source_patterns[::-1], SCALES.target_patterns, [wb.Concatenate(0)]),
        wb.WeightConverter(SCALES.source_patterns, "mlp.scales", [wb.Concatenate(0)]),
        wb.WeightRenaming("up.weight_scale_inv", "up.scale"),
    ],
    ids=["other order", "other name", "renamed"],
)
def test_a_rule_that_says_something_else_of_the_scales_is_refused(rule: Any) -> None:
    assert refused([JOIN, rule]) == {"companion-unknown"}


def test_rules_that_are_about_both_are_about_the_group() -> None:
    plan = wb.plan(checkpoint(), [wb.WeightRenaming("^mlp", "layers.0.mlp"), JOIN], config=CONFIG)
    assert sorted(plan.target) == ["layers.0.mlp.both.weight", "layers.0.mlp.both.weight_scale_inv", "norm.weight"]


def test_a_part_of_a_group_is_not_left_out() -> None:
    assert refused([], drop=["weight_scale_inv"]) == {"companion-unknown"}
    assert refused([JOIN], carry=["up.weight_scale_inv"]) == {"companion-unknown"}
    dropped = wb.plan(checkpoint(), [], drop=["^mlp.up.{rest:**}"], config=CONFIG)
    assert {fated.key for fated in dropped.dropped} == {"mlp.up.weight", "mlp.up.weight_scale_inv"}
    carried = wb.plan(checkpoint(), [JOIN], carry=["^mlp.{rest:**}"], config=CONFIG)
    assert carried.target.specs.keys() == checkpoint().keys()


def test_a_name_is_none_of_two_tensors() -> None:
    rules = [JOIN, wb.WeightRenaming("norm.weight", "mlp.both.weight_scale_inv")]
    assert "target-collision" in refused(rules)


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"mlp.both.weight_scale_inv": None}, "companion-missing"),
        ({"mlp.both.weight_scale_inv": ("F16", (5, 3))}, "companion-missing"),
        ({"mlp.both.weight": ("F8_E5M2", (10, 6))}, "companion-missing"),
        ({"mlp.both.weight": ("BF16", (10, 6)), "mlp.both.weight_scale_inv": None}, "companion-missing"),
        ({"mlp.both.weight": ("F8_E4M3", (12, 6)), "mlp.both.weight_scale_inv": ("F32", (6, 3))}, "spec-mismatch"),
    ],
)
def test_a_target_stores_each_weight_as_the_source_does(changed: dict[str, Any], code: str) -> None:
    made = dict(wb.plan(checkpoint(), [JOIN], config=CONFIG).target)
    assert wb.plan(checkpoint(), [JOIN], wb.Header(made), config=CONFIG).target.specs == made
    wanted = {key: spec for key, spec in made.items() if key not in changed}
    wanted |= {key: wb.TensorSpec(*spec) for key, spec in changed.items() if spec is not None}
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(checkpoint(), [JOIN], wb.Header(wanted), config=CONFIG)
    assert code in codes_of(caught)


def test_the_layout_to_reach_settles_where_a_joined_weight_is_cut() -> None:
    source = checkpoint()
    made = wb.plan(source, [JOIN], config=CONFIG).state_dict()
    specs = wb.Header({key: wb.open(source).header[key] for key in source})
    back = wb.plan(made, wb.Mapping([JOIN]).inverse(), specs, config=CONFIG).state_dict()
    assert {key: tensor.float().tolist() for key, tensor in back.items()} == {
        key: tensor.float().tolist() for key, tensor in source.items()
    }


def test_codes_are_not_cast_by_a_rule_nor_by_a_pattern_of_dtypes() -> None:
    assert refused([wb.WeightConverter("up.weight", "up.weight", [wb.Cast("BF16")])]) == {"companion-fixed"}
    target = wb.plan(checkpoint(), [JOIN], config=CONFIG, dtype={"mlp.{rest:**}": "BF16", "norm.weight": "BF16"}).target
    assert {key: spec.dtype for key, spec in target.items()} == {
        "mlp.both.weight": "F8_E4M3",
        "mlp.both.weight_scale_inv": "F32",
        "norm.weight": "BF16",
    }


def test_a_rule_for_a_name_is_none_for_what_lies_below_it() -> None:
    """`q.weight` begins the names of what bitsandbytes stores beside it; a join of the codes must not join those."""
    said = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    source = {}
    for name in "qk":
        source |= {
            f"{name}.weight": wb.TensorSpec("U8", (96, 1)),
            f"{name}.weight.absmax": wb.TensorSpec("F32", (3,)),
            f"{name}.weight.quant_map": wb.TensorSpec("F32", (16,)),
            f"{name}.weight.quant_state.bitsandbytes__nf4": wb.TensorSpec("U8", (81,)),
        }
    join = wb.WeightConverter(["q.weight", "k.weight"], "qk.weight", [wb.Concatenate(0)])
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(wb.Header(source), [join], config={"quantization_config": said})
    assert codes_of(caught) == {"companion-fixed"}
    renamed = wb.plan(
        wb.Header(source), [wb.WeightRenaming("q.weight", "p.weight")], config={"quantization_config": said}
    )
    assert {key for key in renamed.target if key.startswith("p")} == {
        key.replace("q.weight", "p.weight") for key in source if key.startswith("q.")
    }


def test_a_weight_is_turned_where_its_blocks_stay_what_the_configuration_says() -> None:
    turn = wb.WeightConverter("up.weight", "up.weight", [wb.Transpose(0, 1)])
    source = checkpoint()
    made = wb.plan(source, [turn], config=CONFIG).state_dict()
    assert made["mlp.up.weight_scale_inv"].equal(source["mlp.up.weight_scale_inv"].T)
    said = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [1, 2]}}
    other = {"up.weight": codes(6, 6), "up.weight_scale_inv": torch.rand(6, 3)}
    rows = {"up.weight": wb.TensorSpec("I8", (6, 6)), "up.SCB": wb.TensorSpec("F32", (6,))}
    for place, config in ((other, said), (wb.Header(rows), None)):
        with pytest.raises(wb.PlanError) as caught:
            wb.plan(place, [turn], config=config)
        assert codes_of(caught) == {"companion-fixed"}


@pytest.mark.parametrize("operation", [wb.Pad(0, size=8), wb.Trim(0, size=4)])
def test_no_declared_value_is_put_into_codes_or_cut_off(operation: Any) -> None:
    assert refused([wb.WeightConverter("up.weight", "up.weight", [operation])]) == {"companion-fixed"}


NAMED: dict[str, dict[str, tuple[str, tuple[int, ...]]]] = {
    "MXFP4": {"up_blocks": ("U8", (6, 2, 16)), "up_scales": ("U8", (6, 2))},
    "NVFP4 of ModelOpt": {
        "up.weight": ("U8", (6, 16)),
        "up.weight_scale": ("F8_E4M3", (6, 2)),
        "up.weight_scale_2": ("F32", ()),
    },
    "NVFP4 of compressed-tensors": {
        "up.weight_packed": ("U8", (6, 16)),
        "up.weight_scale": ("F8_E4M3", (6, 2)),
        "up.weight_global_scale": ("F32", (1,)),
    },
    "int8 of bitsandbytes": {"up.weight": ("I8", (6, 32)), "up.SCB": ("F32", (6,))},
}


@pytest.mark.parametrize("name", NAMED)
def test_names_alone_tell_formats_of_one_size(name: str) -> None:
    specs = {f"{e}.{key}": wb.TensorSpec(*spec) for e in range(3) for key, spec in NAMED[name].items()}
    rules = [wb.WeightConverter("^*.up", "all", [wb.MergeModulelist(0)])]
    if name != "MXFP4":
        rules = [wb.WeightConverter("^*.up.weight", "all.weight", [wb.MergeModulelist(0)])]
    plan = wb.plan(wb.Header(specs), rules)
    assert {key.removeprefix("all"): (spec.dtype, spec.shape[1:]) for key, spec in plan.target.items()} == {
        key.removeprefix("up"): spec for key, spec in NAMED[name].items()
    }


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            None,
            "give the configuration that says how they are stored: config (--config),\nand read the weights as numbers",
        ),
        ({"quantization_config": {"quant_method": "mxfp4"}}, "or read the weights as numbers"),
    ],
    ids=["by names", "by a configuration"],
)
def test_a_hint_leads_to_numbers_where_they_can_be_had(config: Any, words: str) -> None:
    specs = {key: wb.TensorSpec(*spec) for key, spec in NAMED["MXFP4"].items()}
    turn = wb.WeightConverter("up", "up", [wb.Transpose(0, 1)])
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(wb.Header(specs), [turn], config=config)
    (problem,) = caught.value.problems
    assert words in problem.hint
    assert problem.hint.endswith('dtype="bfloat16" (--dtype bfloat16)')


def test_no_hint_leads_to_numbers_that_are_not_computed() -> None:
    """What comes into the module is multiplied too, which a plain weight does not say."""
    specs = {"up.weight": ("U8", (3, 16)), "up.weight_scale": ("F32", (6, 2)), "up.pre_quant_scale": ("BF16", (16,))}
    said = {"quantization_config": {"quant_method": "modelopt", "quant_algo": "W4A16_AWQ", "group_size": 8}}
    cut = wb.WeightConverter("up.weight", ["a.weight", "b.weight"], [wb.Split(0, (3, 3))])
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(wb.Header({key: wb.TensorSpec(*spec) for key, spec in specs.items()}), [cut], config=said)
    (problem,) = caught.value.problems
    assert problem.code == "companion-misaligned"
    assert "codes are packed" in problem.got
    assert "dtype=" not in problem.hint


@pytest.mark.parametrize(
    "more",
    [
        {"q.SCB": ("F32", (2,))},
        {"up.weight_scale": ("F8_E4M3", (6, 3))},
        {"q.weight": ("U8", (6, 16)), "q.weight_scale": ("F8_E4M3", (6, 2))},
    ],
    ids=["of two formats", "of another size", "without a scale"],
)
def test_names_of_two_formats_and_what_contradicts_them_tell_nothing(
    more: dict[str, tuple[str, tuple[int, ...]]],
) -> None:
    specs = {key: wb.TensorSpec(*spec) for key, spec in (NAMED["NVFP4 of ModelOpt"] | more).items()}
    cut = wb.WeightConverter("up.weight", ["a.weight", "b.weight"], [wb.Chunk(0)])
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(wb.Header(specs), [cut])
    assert codes_of(caught) == {"companion-unknown"}


def test_a_scale_without_a_role_is_not_left_behind() -> None:
    """A scale of a cache, say: where the keys go, it would have to go as well, and nothing says how."""
    source = checkpoint() | {"mlp.up.k_scale": torch.tensor(0.5)}
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, [JOIN], config=CONFIG)
    assert codes_of(caught) == {"companion-unknown"}
    assert wb.plan(source, [], config=CONFIG).is_exact
    named = wb.plan(source, [JOIN, wb.WeightRenaming("up.k_scale", "both.k_scale")], config=CONFIG)
    assert "mlp.both.k_scale" in named.target


def test_equal_weights_become_one_and_are_had_again_as_several() -> None:
    source = {f"{name}.weight": codes(4, 6) for name in "ab"}
    source |= {f"{name}.weight_scale_inv": torch.arange(6.0).reshape(2, 3) for name in "ab"}
    plan = wb.plan(source, [wb.WeightConverter(["a.weight", "b.weight"], "c.weight", [wb.MergeEqual()])], config=CONFIG)
    assert {condition.target for condition in plan.conditions} == {"c.weight", "c.weight_scale_inv"}
    made = plan.state_dict()
    assert made["c.weight_scale_inv"].equal(source["a.weight_scale_inv"])
    assert plan.inverse().state_dict(made).keys() == source.keys()


def test_single_values_in_two_shapes_are_not_joined() -> None:
    source = {f"{name}.weight": codes(4, 6) for name in "ab"}
    source |= {"a.weight_scale": torch.tensor(0.5), "b.weight_scale": torch.tensor([0.5])}
    said = {"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8"}}
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, [wb.WeightConverter(["a.weight", "b.weight"], "c.weight", [wb.Concatenate(0)])], config=said)
    assert codes_of(caught) == {"companion-missing"}


def test_explain_shows_the_copies_of_a_scale_and_the_command_plans_by_names(tmp_path: Path) -> None:
    plan = wb.plan(checkpoint(), [JOIN], config=CONFIG)
    text = str(plan.explain("mlp.both.weight_scale_inv"))
    assert "mlp.both.weight_scale_inv[0:2, :] <- mlp.gate.weight_scale_inv[:, :]" in text
    save_file(checkpoint(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(
        '{"quantization_config": {"quant_method": "fp8", "weight_block_size": [2, 2]}}'
    )
    (tmp_path / "map.yaml").write_text(wb.Mapping([JOIN]).to_yaml())
    assert run(tmp_path, "plan", ".", "map.yaml").status == 0
    refused = run(tmp_path, "plan", ".", "map.yaml", "--no-companions")
    assert refused.status != 0
    assert "companion-unknown" in refused.err + refused.out


def test_a_disagreement_of_two_files_matters_where_elements_are_moved(tmp_path: Path) -> None:
    specs = {
        f"{name}.{ending}": spec
        for name in "qk"
        for ending, spec in (("qweight", torch.zeros(4, 8)), ("qzeros", torch.zeros(2, 1)))
    }
    source = {key: tensor.to(torch.int32) for key, tensor in specs.items()}
    source |= {f"{name}.scales": torch.ones(2, 8, dtype=torch.float16) for name in "qk"}
    save_file(source, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(
        '{"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 16}}'
    )
    join = wb.WeightConverter(["q.weight", "k.weight"], "qk.weight", [wb.Concatenate(0)])
    assert wb.plan(tmp_path, [join]).target["qk.qweight"].shape == (4, 16)
    (tmp_path / "quantize_config.json").write_text('{"bits": 4, "group_size": 8}')
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(tmp_path, [join])
    assert codes_of(caught) == {"scheme-conflict"}
    assert wb.plan(tmp_path, [wb.WeightRenaming("^q", "p")]).is_exact
