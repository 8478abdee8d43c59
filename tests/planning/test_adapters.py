"""Adapters: the mapping of a model moves the factors of its adapter as it moves what these stand for."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_cases import BLOCKS, CASES, FUSED, QKV, ROWS, apart, equal_inputs, experts, one
from adapters import (
    FILES,
    PREFIX,
    Tensors,
    changes,
    config_of,
    embedding,
    linear,
    same_files,
    whole_numbers,
    write_adapter,
)
from command import run
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file, save_file

import weighbridge as wb
from weighbridge.api import plan_revert

LAST_BIT = 2**-51
"""What the root of a rank may come to: no float is the alpha that would be right."""

TURNED = {"stack experts, turned": ("l.0.e.up_proj",)}


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=12)
@given(out=st.integers(1, 5), inputs=st.integers(1, 5), rank=st.integers(1, 4), is_rooted=st.booleans())
def test_factors_move_as_what_they_stand_for(name: str, out: int, inputs: int, rank: int, is_rooted: bool) -> None:
    """Law A1: moving factors and multiplying them is multiplying them and moving the product; and back, the files."""
    case = CASES[name]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        modules = sorted({key.partition(".lora_")[0] for key in case.tensors(out, inputs, rank)})
        config = {"r": rank, "lora_alpha": 4 * rank, "use_rslora": is_rooted, "target_modules": modules} | (
            case.config or {}
        )
        adapter = write_adapter(folder / "adapter", case.tensors(out, inputs, rank), **config)
        wb.convert(adapter, folder / "new", [case.rule], **(case.options or {}))
        wanted = wb.plan(changes(adapter), [case.rule]).state_dict()
        found = changes(folder / "new", TURNED.get(name, ()))
        assert found.keys() == wanted.keys()
        most = LAST_BIT if is_rooted and case.options == BLOCKS else 0
        assert [key for key in wanted if not torch.allclose(found[key], wanted[key], rtol=most, atol=0)] == []
        wb.revert(folder / "new", folder / "back")
        assert same_files(adapter, folder / "back")


def test_the_law_can_fail(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", one(2, 3, 2), target_modules=["a"])
    wb.convert(adapter, tmp_path / "new", [CASES["move rows"].rule])
    path = tmp_path / "new" / FILES[1]
    tensors = load_file(path)
    save_file({key: tensor.flip(0) if "lora_B" in key else tensor for key, tensor in tensors.items()}, path)
    wanted = wb.plan(changes(adapter), [CASES["move rows"].rule]).state_dict()
    assert not torch.equal(changes(tmp_path / "new")["l.0.b.weight"], wanted["l.0.b.weight"])


def test_experts_are_fused_and_taken_apart_again(tmp_path: Path) -> None:
    """A fused pair that is split has A twice; what is joined of it again has one, and is the same files' tensors."""
    adapter = write_adapter(tmp_path / "adapter", experts(4, 3, 2), target_modules=["gate", "up"])
    wb.convert(adapter, tmp_path / "fused", [FUSED], **BLOCKS)
    base = wb.plan(changes(adapter), [FUSED]).target
    wb.convert(tmp_path / "fused", tmp_path / "apart", [FUSED.inverse()], base=base)
    found, wanted = changes(tmp_path / "apart"), changes(adapter)
    assert {key: tensor.tolist() for key, tensor in found.items()} == {k: v.tolist() for k, v in wanted.items()}
    wb.convert(tmp_path / "apart", tmp_path / "again", [FUSED])
    assert (tmp_path / "again" / FILES[1]).read_bytes() == (tmp_path / "fused" / FILES[1]).read_bytes()
    wb.revert(tmp_path / "apart", tmp_path / "back")
    assert same_files_but_receipt(tmp_path / "fused", tmp_path / "back")


def same_files_but_receipt(made: Path, back: Path) -> bool:
    return all((made / name).read_bytes() == (back / name).read_bytes() for name in FILES)


def test_both_packings_of_experts_come_to_one(tmp_path: Path) -> None:
    grouped = {
        "l.0.e.lora_A.weight": whole_numbers(6, 5),
        "l.0.e.lora_B.weight": whole_numbers(4, 6, seed=3),
    }
    config = {"target_modules": [], "target_parameters": ["e.down_proj"], "lora_B_layout": "grouped_by_expert"}
    adapter = write_adapter(tmp_path / "adapter", grouped, **config)
    base = wb.Header({"l.0.e.down_proj": wb.TensorSpec("F64", (3, 4, 5))})
    rule = wb.WeightRenaming("l.{i}", "layers.{i}")
    wb.convert(adapter, tmp_path / "new", [rule], base=base)
    assert config_of(tmp_path / "new")["lora_B_layout"] == "rank_major"
    found = changes(tmp_path / "new")["layers.0.e.down_proj"]
    assert torch.equal(found, changes(adapter)["l.0.e.down_proj"])
    wb.revert(tmp_path / "new", tmp_path / "back")
    assert same_files(adapter, tmp_path / "back")


def test_magnitudes_biases_and_whole_tensors_go_along(tmp_path: Path) -> None:
    rows = {f"l.0.{name}.lora_magnitude_vector": whole_numbers(4 + at, seed=at) for at, name in enumerate("qkv")}
    rows |= {f"l.0.{name}.lora_B.bias": whole_numbers(4 + at, seed=7 + at) for at, name in enumerate("qkv")}
    whole = {"head.weight": whole_numbers(3, 5)}
    adapter = write_adapter(
        tmp_path / "adapter", equal_inputs(4, 5, 2) | rows | whole, target_modules=["q", "k", "v"], use_dora=True,
        modules_to_save=["head"],
    )  # fmt: skip
    rules = [wb.WeightConverter(QKV, "qkv.weight", [wb.Concatenate(0)]), wb.WeightRenaming("^head", "lm_head")]
    wb.convert(adapter, tmp_path / "new", rules)
    found = load_file(tmp_path / "new" / FILES[1])
    for tail in ("lora_magnitude_vector", "lora_B.bias"):
        assert torch.equal(found[f"{PREFIX}l.0.qkv.{tail}"], torch.cat([rows[f"l.0.{name}.{tail}"] for name in "qkv"]))
    assert torch.equal(found[f"{PREFIX}lm_head.weight"], whole["head.weight"])
    assert config_of(tmp_path / "new")["modules_to_save"] == ["lm_head"]
    wb.revert(tmp_path / "new", tmp_path / "back")
    assert same_files(adapter, tmp_path / "back")


def test_an_adapter_without_factors_is_one_all_the_same(tmp_path: Path) -> None:
    whole = {"head.weight": whole_numbers(3, 5)}
    adapter = write_adapter(tmp_path / "adapter", whole, target_modules=[], modules_to_save=["head"])
    wb.convert(adapter, tmp_path / "new", [wb.WeightRenaming("^head", "lm_head")])
    assert list(load_file(tmp_path / "new" / FILES[1])) == [f"{PREFIX}lm_head.weight"]
    wb.revert(tmp_path / "new", tmp_path / "back")
    assert same_files(adapter, tmp_path / "back")


def test_a_resized_embedding_keeps_its_rows_beside_its_factors(tmp_path: Path) -> None:
    tensors = embedding("embed", 6, 5) | {"embed.base_layer.weight": whole_numbers(6, 5)}
    adapter = write_adapter(tmp_path / "adapter", tensors, target_modules=["embed"])
    plan = wb.plan(adapter, [wb.WeightRenaming("^embed", "wte")])
    assert sorted(plan.target) == [
        f"{PREFIX}wte.{tail}" for tail in ("base_layer.weight", "lora_embedding_A", "lora_embedding_B")
    ]


# What is said of it


def test_a_plan_lists_what_must_be_equal_and_explains_by_the_weight(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", equal_inputs(4, 5, 2), target_modules=["q", "k", "v"])
    plan = wb.plan(adapter, wb.Mapping([CASES["join rows, A equal"].rule], name="mine"))
    ways = tuple((f"{PREFIX}l.0.{name}.lora_A.weight",) for name in "qkv")
    assert [condition.ways for condition in plan.conditions] == [ways]
    assert "fired: l.0.k.weight -> l.0.qkv.weight" in str(plan.explain(f"{PREFIX}l.0.k.lora_B.weight"))
    assert "reading: mapped, as an adapter" in str(plan)
    assert plan.to_html()


def test_files_that_stay_as_they_are_are_not_written_anew(tmp_path: Path) -> None:
    """A configuration that says the right thing of the new layout stays byte for byte."""
    adapter = write_adapter(tmp_path / "adapter", one(1, 2, 2), target_modules=["a"])
    rule = wb.WeightConverter("a.weight", "a.weight", [wb.Rearrange("(a b) c -> (b a) c", a=2)])
    wb.convert(adapter, tmp_path / "new", [rule])
    assert (tmp_path / "new" / FILES[0]).read_bytes() == (adapter / FILES[0]).read_bytes()


def test_the_way_back_of_the_way_back_is_the_way_there(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", apart(4, 5, 2), target_modules=["q", "k", "v"])
    plan = wb.plan(adapter, [CASES["join rows as blocks"].rule], block_diagonal=True)
    assert plan.inverse().inverse() == plan
    assert wb.Plan.from_json(plan.to_json()) == plan
    back = plan.inverse(plan.state_dict()).state_dict()
    assert all(torch.equal(back[key], tensor) for key, tensor in load_file(adapter / FILES[1]).items())


def test_rules_over_an_adapters_own_names_move_its_tensors_as_they_are(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", one(1, 2, 2), target_modules=["a"])
    plan = wb.plan(adapter, [wb.WeightRenaming("lora_A.weight", "lora_down.weight")])
    assert f"{PREFIX}l.0.a.lora_down.weight" in plan.target
    assert not plan.is_of_adapter


def test_the_command_converts_an_adapter_and_takes_it_back(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", apart(4, 5, 2), target_modules=["q", "k", "v"])
    (tmp_path / "rules.yaml").write_text(wb.Mapping([ROWS]).to_yaml())
    refused = run(tmp_path, "convert", "adapter", "out", "rules.yaml")
    assert "sources-differ" in refused.err
    assert not (tmp_path / "out").exists()
    assert run(tmp_path, "convert", "adapter", "out", "rules.yaml", "--block-diagonal").status == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [*FILES, "weighbridge.json"]
    assert run(tmp_path, "revert", "out", "back").status == 0
    assert same_files(adapter, tmp_path / "back")


# What is refused


def codes_of(adapter: Path, rules: list[Any], **options: Any) -> set[str]:
    with pytest.raises(wb.WeighbridgeError) as caught:
        wb.convert(adapter, adapter.parent / "out", rules, **options)
    assert not (adapter.parent / "out").exists()
    problems = getattr(caught.value, "problems", ())
    return {problem.code for problem in problems} or {caught.value.code}


DOWN = {"l.0.e.lora_A.weight": whole_numbers(6, 5), "l.0.e.lora_B.weight": whole_numbers(4, 6)}
OF_DOWN: dict[str, Any] = {"target_modules": [], "target_parameters": ["e.down_proj"]}
EXPERTS = {"l.0.e.down_proj": wb.TensorSpec("F64", (3, 4, 5))}


@pytest.mark.parametrize(
    ("tensors", "config", "rules", "options", "code"),
    [
        pytest.param(apart(4, 5, 2), {}, [ROWS], {}, "sources-differ", id="A differs"),
        pytest.param(
            equal_inputs(4, 5, 2), {"alpha_pattern": {"k": 6}}, [ROWS], {}, "adapter-inexact", id="other strengths"
        ),
        pytest.param(
            apart(4, 5, 2), {"alpha_pattern": {"k": 6}}, [ROWS], BLOCKS, "adapter-inexact", id="blocks that differ"
        ),
        pytest.param(
            linear("l.0.q", 4, 5) | linear("l.0.k", 5, 5),
            {},
            [ROWS],
            {"base": wb.Header({f"l.0.{n}.weight": wb.TensorSpec("BF16", (4 + i, 5)) for i, n in enumerate("qkv")})},
            "adapter-inexact",
            id="no factors for one part",
        ),
        pytest.param(linear("l.0.q", 4, 5), {}, [ROWS], {}, "group-incomplete", id="a part that nothing knows of"),
        pytest.param(
            one(1, 2, 2),
            {},
            [wb.WeightConverter("a.weight", "b.weight", [wb.Reshape((8, 4))])],
            {},
            "adapter-inexact",
            id="a reshape across both axes",
        ),
        pytest.param(
            one(1, 2, 2) | {"l.0.a.lora_magnitude_vector": whole_numbers(4)},
            {"use_dora": True},
            [CASES["cut columns"].rule],
            {},
            "adapter-inexact",
            id="columns of DoRA",
        ),
        pytest.param(one(1, 2, 2), {"use_qalora": True}, [ROWS], {}, "adapter-inexact", id="a variant"),
        pytest.param(one(1, 2, 2), {"init_lora_weights": "pissa"}, [ROWS], {}, "adapter-inexact", id="begun so"),
        pytest.param(one(1, 2, 2), {"peft_type": "IA3"}, [ROWS], {}, "adapter-inexact", id="no factors at all"),
        pytest.param(one(1, 2, 2), {"r": 3}, [ROWS], {}, "adapter-invalid", id="another rank"),
        pytest.param(one(1, 2, 2), {"rank_pattern": {"(": 2}}, [ROWS], {}, "adapter-invalid", id="a broken pattern"),
        pytest.param(one(1, 2, 2), {"r": "2"}, [ROWS], {}, "adapter-invalid", id="a rank that is a text"),
        pytest.param(
            {"l.0.a.lora_A.weight": whole_numbers(2, 3, 3, 3), "l.0.a.lora_B.weight": whole_numbers(4, 2, 3, 3)},
            {},
            [ROWS],
            {},
            "adapter-invalid",
            id="two windows",
        ),
        pytest.param(
            {"l.0.a.lora_A.weight": whole_numbers(2, 3)}, {}, [ROWS], {}, "adapter-invalid", id="one factor alone"
        ),
        pytest.param(
            one(1, 2, 2),
            {},
            [CASES["cut rows"].rule],
            {"base": wb.Header({"l.0.a.weight": wb.TensorSpec("F32", (4, 7))})},
            "adapter-invalid",
            id="a base of other sizes",
        ),
        pytest.param(
            one(1, 2, 2),
            {},
            [CASES["cut rows"].rule],
            {"base": wb.Header({"l.0.z.weight": wb.TensorSpec("F32", (4, 8))})},
            "adapter-invalid",
            id="a base of other names",
        ),
        pytest.param(DOWN, OF_DOWN, [ROWS], {}, "adapter-invalid", id="experts of an unknown shape"),
        pytest.param(
            DOWN,
            OF_DOWN | {"peft_version": None},
            [ROWS],
            {"base": wb.Header(EXPERTS)},
            "adapter-packing",
            id="experts of an unknown writer",
        ),
        pytest.param(
            DOWN,
            OF_DOWN | {"auto_mapping": {"unsloth_fixed": True}},
            [ROWS],
            {"base": wb.Header(EXPERTS)},
            "adapter-packing",
            id="experts that Unsloth trained",
        ),
        pytest.param(
            DOWN,
            OF_DOWN | {"lora_B_layout": "grouped_by_expert"},
            [ROWS],
            {"base": wb.Header(EXPERTS), "lora_B_layout": "rank_major"},
            "adapter-packing",
            id="experts said in two ways",
        ),
        pytest.param(
            {"l.0.e.lora_A.weight": whole_numbers(6, 5), "l.0.e.lora_B.weight": whole_numbers(5, 6)},
            OF_DOWN,
            [ROWS],
            {"base": wb.Header({"l.0.e.down_proj": wb.TensorSpec("F64", (3, 5, 5))})},
            "adapter-invalid",
            id="square experts",
        ),
        pytest.param(one(1, 2, 2), {}, [ROWS], {"dtype": "BF16"}, "usage", id="a cast"),
        pytest.param(one(1, 2, 2), {}, [CASES["cut rows"].rule], {"only": "**"}, "usage", id="a part of it"),
    ],
)  # fmt: skip
def test_what_has_no_exact_equivalent_is_refused_before_anything_is_written(
    tmp_path: Path, tensors: Tensors, config: dict[str, Any], rules: list[Any], options: dict[str, Any], code: str
) -> None:
    names = sorted({key.partition(".lora_")[0].rpartition(".")[2] for key in tensors})
    adapter = write_adapter(tmp_path / "adapter", tensors, **({"target_modules": names} | config))
    assert codes_of(adapter, rules, **options) == {code}


def test_a_declared_packing_settles_what_nothing_says(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", DOWN, **OF_DOWN, auto_mapping={"unsloth_fixed": True})
    rule, base = wb.WeightRenaming("l.{i}", "layers.{i}"), wb.Header(EXPERTS)
    for layout in ("rank_major", "grouped_by_expert"):
        wb.convert(adapter, tmp_path / layout, [rule], base=base, lora_B_layout=layout)
        said = write_adapter(tmp_path / f"said-{layout}", DOWN, **OF_DOWN, lora_B_layout=layout)
        found = changes(tmp_path / layout)["layers.0.e.down_proj"]
        assert torch.equal(found, changes(said)["l.0.e.down_proj"])
        assert config_of(tmp_path / layout)["lora_B_layout"] == "rank_major"


def test_what_is_no_longer_zero_between_blocks_cannot_be_taken_apart(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", apart(4, 5, 2), target_modules=["q", "k", "v"])
    wb.convert(adapter, tmp_path / "new", [ROWS], **BLOCKS)
    path = tmp_path / "new" / FILES[1]
    tensors = load_file(path)
    tensors[f"{PREFIX}l.0.qkv.lora_B.weight"][0, -1] = 1
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(wb.PlanError) as caught:
        wb.revert(tmp_path / "new", tmp_path / "back")
    assert {problem.code for problem in caught.value.problems} == {"padding-differs"}
    assert not (tmp_path / "back").exists()


def test_a_plan_without_its_configuration_is_not_written(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", one(1, 2, 2), target_modules=["a"])
    plan = wb.plan(adapter, [CASES["cut rows"].rule])
    with pytest.raises(wb.PlanError, match="does not hold the configuration"):
        wb.Plan.from_json(plan.to_json()).write(tmp_path / "out", adapter)
    with pytest.raises(wb.WeighbridgeError, match="no place for the files beside"):
        plan.write(tmp_path / "out.pt")


def test_a_configuration_that_was_changed_since_is_named_on_the_way_back(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", one(1, 2, 2), target_modules=["a"])
    wb.convert(adapter, tmp_path / "new", [CASES["cut rows"].rule])
    path = tmp_path / "new" / FILES[0]
    path.write_text(json.dumps(config_of(tmp_path / "new") | {"lora_dropout": 0.5}))
    notes = plan_revert(tmp_path / "new").notes
    assert [note for note in notes if "adapter_config.json is not what was written" in note]


def test_an_output_is_not_converted_twice(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", one(1, 2, 2), target_modules=["a"])
    mapping = wb.Mapping([wb.WeightRenaming("l.{i}", "layers.{i}")], name="mine")
    wb.convert(adapter, tmp_path / "new", mapping)
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(tmp_path / "new", mapping)
    assert caught.value.code == "already-converted"
