"""What other loaders get wrong without a word, each under the name of what goes wrong.

The first eight were measured on transformers 5.23.0; the others are classes of failures from public bug reports. Every
one of them must end in the right values or in an error with a name.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from strategies import Bits, files_of, tensors_of, write_safetensors

import weighbridge as wb

EXPERTS = [
    wb.WeightConverter(
        ["mlp.experts.*.gate_proj.weight", "mlp.experts.*.up_proj.weight"],
        "mlp.experts.gate_up_proj",
        [wb.MergeModulelist(0), wb.Concatenate(1)],
    ),
    wb.WeightConverter("mlp.experts.*.down_proj.weight", "mlp.experts.down_proj", [wb.MergeModulelist(0)]),
]


def numbers(*shape: int, start: float = 0) -> torch.Tensor:
    """Distinct values of a shape."""
    return torch.arange(start, start + float(np.prod(shape, dtype=int))).reshape(shape)


def experts(*indices: int, layer: int = 0) -> dict[str, torch.Tensor]:
    """The tensors of some experts; every element says which expert it is of."""
    return {
        f"layers.{layer}.mlp.experts.{i}.{name}_proj.weight": numbers(*shape, start=1000 * i + offset)
        for i in indices
        for name, shape, offset in (("gate", (2, 3), 0), ("up", (2, 3), 100), ("down", (3, 2), 200))
    }


def expert_target(count: int) -> wb.Header:
    return wb.Header(
        {
            "layers.0.mlp.experts.gate_up_proj": wb.TensorSpec("F32", (count, 4, 3)),
            "layers.0.mlp.experts.down_proj": wb.TensorSpec("F32", (count, 3, 2)),
        }
    )


def codes(source, rules, target=None, **options) -> set[str]:
    """Plan, expect it to fail, and return the codes of its problems."""
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, rules, target, **options)
    return set(caught.value.codes)


# ---- the eight that were measured ----


def test_converters_with_one_pattern_in_two_scopes_each_use_their_own_operations():
    """Identity of a rule is its scope and itself, never the text of its pattern; square tensors would hide a mix-up."""
    a, b = numbers(3, 3), numbers(3, 3, start=100)
    rules = [
        wb.WeightConverter("old", "w", [wb.Transpose(0, 1)], scope="a"),
        wb.WeightConverter("old", "w", [wb.Concatenate(0)], scope="b"),
    ]
    plan = wb.plan({"a.old": a, "b.old": b}, rules)
    found = plan.state_dict()
    assert torch.equal(found["a.w"], a.T)
    assert torch.equal(found["b.w"], b)
    assert torch.equal(plan.inverse(found).state_dict()["a.old"], a)


def test_two_sources_that_become_one_name_are_refused():
    source = {"l.weight": torch.ones(2, 2), "k.weight": torch.full((2, 2), 7.0)}
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, [wb.WeightRenaming("k.weight", "l.weight")])
    (problem,) = caught.value.problems
    assert (problem.code, problem.where) == ("target-collision", "l.weight")
    assert "k.weight" in problem.got


def test_a_missing_expert_does_not_shift_the_others():
    """Experts 0, 2 and 3 in a model with three places: place 1 must not get expert 2."""
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(experts(0, 2, 3), EXPERTS, expert_target(3))
    assert "group-incomplete" in caught.value.codes
    assert "missing: 1" in str(caught.value)


def test_experts_beyond_the_models_places_are_refused():
    assert "group-extra" in codes(experts(0, 1, 2, 3), EXPERTS, expert_target(3))
    assert "group-incomplete" in codes(experts(0, 1), EXPERTS, expert_target(3))


def test_a_group_rename_does_not_depend_on_the_order_of_keys():
    rename = wb.GroupWeightRename(["norm0", "norm1"], ["norm1", "norm2"])
    source = {"l.norm0.weight": numbers(2), "l.norm1.weight": numbers(3)}
    for keys in (list(source), list(reversed(source))):
        found = wb.plan({key: source[key] for key in keys}, [rename]).state_dict()
        assert {key: len(value) for key, value in found.items()} == {"l.norm1.weight": 2, "l.norm2.weight": 3}


def test_the_recorded_way_back_does_not_prefix_twice():
    """The reverse of `encoder.layers -> layers`, guessed, would turn a key that never moved into encoder.encoder."""
    rule = [wb.WeightRenaming("^encoder.layers", "layers")]
    plan = wb.plan({"encoder.layers.0.w": numbers(2), "encoder.norm": numbers(3)}, rule)
    assert sorted(plan.inverse().target) == ["encoder.layers.0.w", "encoder.norm"]


def test_a_guessed_way_back_from_a_key_that_never_moved_is_refused():
    rule = wb.Mapping([wb.WeightRenaming("encoder.layers", "layers")])
    with pytest.raises(wb.PlanError, match="inverse-unproven"):
        wb.plan({"encoder.layers.0.w": numbers(2)}, rule.inverse())


def test_an_anchored_guess_from_a_key_that_never_moved_is_refused():
    rule = wb.Mapping([wb.WeightRenaming("^encoder.layers", "layers")])
    with pytest.raises(wb.PlanError, match="inverse-unproven"):
        wb.plan({"encoder.layers.0.w": numbers(2)}, rule.inverse())


def test_a_sibling_whose_name_begins_alike_keeps_its_scope():
    """`model_b` beside the base prefix `model` is no `_b` below it."""
    rules = wb.Mapping([wb.WeightRenaming("old", "new", scope="model_b")], base_prefix="model")
    source = {"model_b.old.weight": numbers(2), "model.old.weight": numbers(3)}
    target = wb.Header(
        {"model_b.new.weight": wb.TensorSpec("F32", (2,)), "model.old.weight": wb.TensorSpec("F32", (3,))}
    )
    found = wb.plan(source, rules, target).state_dict()
    assert torch.equal(found["model_b.new.weight"], source["model_b.old.weight"])
    assert torch.equal(found["model.old.weight"], source["model.old.weight"])


def test_forty_six_thousand_experts_all_arrive():
    """60 layers of 256 experts with three tensors each; every target element says where it comes from."""
    layers, count = 60, 256
    names = ("gate", "up", "down")
    values = torch.arange(layers * count * 3, dtype=torch.int32).reshape(layers, count, 3, 1, 1)
    source = {
        f"layers.{layer}.mlp.experts.{i}.{name}_proj.weight": values[layer, i, n]
        for layer in range(layers)
        for i in range(count)
        for n, name in enumerate(names)
    }
    assert len(source) == 46_080
    plan = wb.plan(source, EXPERTS)
    assert len(plan.steps) == 2 * layers
    assert len(plan.programs) == 2
    found = plan.state_dict()
    for layer in range(layers):
        path = f"layers.{layer}.mlp.experts"
        assert torch.equal(found[f"{path}.gate_up_proj"], values[layer, :, :2, 0])
        assert torch.equal(found[f"{path}.down_proj"], values[layer, :, 2])
    back = plan.inverse(found).state_dict()
    assert back.keys() == source.keys()
    assert all(torch.equal(back[key], source[key]) for key in source)


def test_no_part_of_a_split_tensor_keeps_the_whole_alive():
    source = {"layers.0.mlp.experts.down_proj": numbers(256, 2, 1)}
    split = wb.WeightConverter("experts.down_proj", "experts.*.down_proj.weight", [wb.SplitModulelist(0)])
    plan = wb.plan(source, [split])
    ways = [plan.state_dict(), dict(plan.stream()), wb.plan(plan.state_dict(), EXPERTS[1:]).inverse().state_dict()]
    for made in ways:
        assert len(made) == 256
        for tensor in made.values():
            assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size() == 8


# ---- the damaged experts ----


def test_the_gate_of_one_expert_is_never_paired_with_the_up_of_another():
    """Five experts, one gate and a different up lost: four of each remain, and they do not belong together."""
    source = experts(0, 1, 2, 3, 4)
    for lost in ("1.gate_proj", "2.up_proj", "1.down_proj"):
        del source[f"layers.0.mlp.experts.{lost}.weight"]
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, EXPERTS, expert_target(4))
    broken = [problem for problem in caught.value.problems if problem.code == "group-incomplete"]
    assert len(broken) == 2
    assert "gate_proj.weight  missing: 1" in str(caught.value)
    assert "up_proj.weight  missing: 2" in str(caught.value)


def test_a_chunk_never_gives_uneven_parts():
    rule = [wb.WeightConverter("qkv", ["q", "k", "v"], [wb.Chunk(0)])]
    assert codes({"qkv": numbers(10, 1)}, rule) == {"split-unequal"}


def test_a_guessed_way_back_says_that_it_takes_equal_parts_for_granted():
    """Six rows of q, k and v were four, one and one; two, two and two fuse to the same six rows."""
    fuse = wb.Mapping([wb.WeightConverter(["q", "k", "v"], "qkv", [wb.Concatenate(0)])])
    source = {"q": numbers(4, 2), "k": numbers(1, 2), "v": numbers(1, 2)}
    there = wb.plan(source, fuse)
    made = there.state_dict()
    derived = wb.plan(made, fuse.inverse())
    assert [note for note in derived.notes if "q, k, v" in note and "equal size" in note]
    assert derived.notes[0] in str(derived.report)
    declared = wb.Mapping([wb.WeightConverter(["q", "k", "v"], "qkv", [wb.Concatenate(0, sizes=(4, 1, 1))])])
    known = {"recorded": there.inverse(), "declared": wb.plan(made, declared.inverse())}
    known["target"] = wb.plan(made, fuse.inverse(), wb.open(source).header)
    for name, plan in known.items():
        assert plan.notes == (), name
        assert all(torch.equal(plan.state_dict()[key], source[key]) for key in source), name


def test_several_names_for_one_have_no_way_back():
    rule = wb.WeightRenaming(["x.w1", "x.w2"], "y.w")
    with pytest.raises(wb.PatternError, match="pattern-one-way"):
        rule.inverse()
    assert codes({"x.w1": numbers(2), "x.w2": numbers(2)}, [rule]) == {"target-collision"}
    plan = wb.plan({"x.w2": numbers(2)}, [rule])
    assert list(plan.inverse().target) == ["x.w2"]


# ---- classes of failures ----


def test_what_a_rule_wrote_is_not_matched_again():
    """q_proj becomes qkv_proj, in which neither k_proj nor v_proj may be found."""
    rules = [wb.WeightRenaming(f"{letter}_proj", f"qkv_proj.{letter}") for letter in "qkv"]
    source = {f"attn.{letter}_proj.weight": numbers(2) for letter in "qkv"}
    assert sorted(wb.plan(source, rules).target) == [f"attn.qkv_proj.{letter}.weight" for letter in "kqv"]


def test_names_that_contain_a_rules_text_are_left_alone():
    rules = [
        wb.WeightRenaming("model", "core"),
        wb.WeightConverter("experts.*.up_proj", "experts.up_proj", [wb.MergeModulelist(0)]),
    ]
    source = {
        key: numbers(2)
        for key in ("pre_model.w", "model_b.w", "experts.0.up_proj_gain", "experts.0.up_proj", "a.models.0.w")
    }
    kept = {"pre_model.w", "model_b.w", "experts.0.up_proj_gain", "a.models.0.w"}
    assert set(wb.plan(source, rules).target) == kept | {"experts.up_proj"}


def test_a_target_that_nothing_fills_is_an_error_not_a_guess():
    target = wb.Header({"a": wb.TensorSpec("F32", (2,)), "lm_head.weight": wb.TensorSpec("F32", (2, 3))})
    with pytest.raises(wb.PlanError) as caught:
        wb.plan({"a": numbers(2)}, [], target)
    assert [(p.code, p.where) for p in caught.value.problems] == [("target-missing", "lm_head.weight")]


def test_a_partial_load_names_what_it_leaves_open():
    """Nothing counts as loaded that no bytes reached; a load that reaches nothing at all is an error."""
    target = wb.Header({"a": wb.TensorSpec("F32", (2,)), "b": wb.TensorSpec("F32", (3,))})
    plan = wb.plan({"a": numbers(2), "stray": numbers(1)}, [], target, partial=True)
    fates = dict(plan.target_fates())
    assert (fates["b"].name, fates["b"].by) == ("initialised", "partial=True")
    assert fates["a"].name == "filled"
    assert dict(plan.source_fates())["stray"].name == "carried"
    (line,) = [line for line in str(plan.report).splitlines() if line.startswith("b ")]
    assert "initialised" in line
    assert "partial=True" in line
    assert "target-missing" in codes({"stray": numbers(1)}, [], target, partial=True)


def test_a_partial_load_does_not_fill_a_target_with_a_source_that_a_rule_moved_away():
    """norm1 becomes norm2, which the model lacks; its own name is that of another tensor by then."""
    shift = [wb.GroupWeightRename(["norm0", "norm1"], ["norm1", "norm2"])]
    target = wb.Header({"norm1.w": wb.TensorSpec("F32", (2,)), "x": wb.TensorSpec("F32", (2,))})
    source = {"norm1.w": numbers(2), "x": numbers(2)}
    assert codes(source, shift, target, partial=True, layout="mapped") == {"source-unplaced"}


def test_declared_exceptions_are_named_in_the_plan():
    target = wb.Header({"a": wb.TensorSpec("F32", (2,)), "head": wb.TensorSpec("F32", (3,))})
    rules = wb.Mapping([], drop=[wb.Drop("inv_freq", "a buffer that is computed")], initialise=["head"])
    plan = wb.plan({"a": numbers(2), "inv_freq": numbers(4)}, rules, target)
    assert dict(plan.source_fates())["inv_freq"].by == "a buffer that is computed"
    assert dict(plan.target_fates())["head"].name == "initialised"
    with pytest.raises(wb.PlanError, match="inverse-lossy"):
        plan.inverse()


def test_the_index_comes_from_the_key():
    """1, 10, 2 is the order of files and of text, not of experts."""
    order = sorted(range(12), key=str)
    source = {f"experts.{i}.w": numbers(1, start=i) for i in order}
    merge = wb.WeightConverter("experts.*.w", "experts.w", [wb.MergeModulelist(0)])
    assert wb.plan(source, [merge]).state_dict()["experts.w"].view(-1).tolist() == list(range(12))


def test_two_spellings_of_one_index_are_refused():
    source = {f"experts.{i}.w": numbers(1) for i in ("0", "1", "01")}
    merge = wb.WeightConverter("experts.*.w", "experts.w", [wb.MergeModulelist(0)])
    assert "group-duplicate" in codes(source, [merge])


def test_a_checkpoint_that_fits_two_layouts_must_say_which():
    """Swapped names: both readings fill everything, and no shape tells them apart."""
    swap = [wb.GroupWeightRename(["up", "gate"], ["gate", "up"])]
    source = {"up": numbers(2, 2), "gate": numbers(2, 2, start=10)}
    target = wb.Header({key: wb.TensorSpec("F32", (2, 2)) for key in source})
    with pytest.raises(wb.PlanError, match="layout-ambiguous"):
        wb.plan(source, swap, target)
    mapped = wb.plan(source, swap, target, layout="mapped").state_dict()
    assert torch.equal(mapped["gate"], source["up"])
    plain = wb.plan(source, swap, target, layout="as is").state_dict()
    assert torch.equal(plain["gate"], source["gate"])


@pytest.mark.parametrize(
    "damage", ["a ghost in the index", "a tensor that the index lacks", "a shard that is not there"]
)
def test_an_index_that_disagrees_with_its_shards_is_refused(tmp_path, damage):
    chance = random.Random(0)
    values = {key: Bits("F32", np.arange(2, dtype=np.uint32) + n) for n, key in enumerate("ab")}
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    for key, name in names.items():
        write_safetensors(tmp_path / name, {key: values[key]}, chance)
    if damage == "a ghost in the index":
        names["ghost"] = names["a"]
    elif damage == "a tensor that the index lacks":
        write_safetensors(tmp_path / names["a"], {"a": values["a"], "extra": values["b"]}, chance)
    else:
        (tmp_path / names["b"]).unlink()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(wb.CheckpointError) as caught:
        wb.open(tmp_path)
    assert caught.value.code in ("index-mismatch", "checkpoint-not-found")


def test_what_no_rule_knows_is_carried_along(tmp_path):
    """Extra heads of multi-token prediction have no rule; no shard is left out because of them."""
    source = experts(0, 1) | {"mtp.0.fc.weight": numbers(2, 3), "lm_head.weight": numbers(4, 2)}
    plan = wb.plan(source, EXPERTS)
    plan.write(tmp_path / "out", max_shard_size=40)
    found = wb.plan(tmp_path / "out").state_dict()
    assert torch.equal(found["mtp.0.fc.weight"], source["mtp.0.fc.weight"])
    assert dict(plan.source_fates())["mtp.0.fc.weight"].name == "carried"
    assert wb.verify(plan.inverse().state_dict(), source)


def test_each_tensor_keeps_its_dtype():
    """Scales in float32 beside weights in bfloat16 and float8, joined and carried."""
    source = {
        "experts.0.w": numbers(2, 3).bfloat16(),
        "experts.1.w": numbers(2, 3, start=9).bfloat16(),
        "experts.0.scale": numbers(1),
        "bias": numbers(3).to(torch.float8_e4m3fn),
    }
    found = wb.plan(source, [wb.WeightConverter("experts.*.w", "w", [wb.MergeModulelist(0)])]).state_dict()
    assert {key: tensor.dtype for key, tensor in found.items()} == {
        "w": torch.bfloat16,
        "experts.0.scale": torch.float32,
        "bias": torch.float8_e4m3fn,
    }


def test_tensors_of_different_dtypes_are_not_joined():
    source = {"experts.0.w": numbers(2).bfloat16(), "experts.1.w": numbers(2)}
    merge = wb.WeightConverter("experts.*.w", "w", [wb.MergeModulelist(0)])
    assert codes(source, [merge]) == {"dtype-mismatch"}


def test_a_run_leaves_its_source_as_it_was(tmp_path):
    """No draining of the dict, no writing into its tensors, no aliases of them in the result, rules without memory."""
    source = experts(0, 1) | {"lm_head.weight": numbers(4, 2)}
    before = {key: tensor.clone() for key, tensor in source.items()}
    rules = wb.Mapping(EXPERTS)
    text = repr(rules)
    plan = wb.plan(source, rules)
    found = plan.state_dict()
    plan.write(tmp_path / "out")
    for tensor in found.values():
        tensor.fill_(-1)
    assert list(source) == list(before)
    assert all(torch.equal(source[key], before[key]) for key in source)
    assert repr(rules) == text
    assert hash(rules) == hash(wb.Mapping(EXPERTS))
    assert files_of(tmp_path / "out").keys() == {"model.safetensors"}


def test_rules_are_frozen_and_compare_by_value():
    rule = wb.WeightRenaming("a", "b")
    with pytest.raises(AttributeError):
        rule.scope = "elsewhere"
    assert rule == wb.WeightRenaming(["a"], ["b"])
    assert rule != wb.WeightRenaming("a", "b", scope="x")
    assert len({rule, wb.WeightRenaming(("a",), "b"), *EXPERTS, *EXPERTS}) == 3


def test_an_explanation_names_the_near_miss():
    plan = wb.plan(tensors_of({"layers.0.attn.q_proj.weight": Bits("F32", np.zeros((2, 2), np.uint32))}), [])
    said = plan.explain("layers.0.attn.q_prj.weight")
    assert said.sides == ()
    assert said.nearest == ("layers.0.attn.q_proj.weight",)
    assert "in neither layout" in str(said)


def test_a_missing_target_names_the_nearest_source():
    target = wb.Header({"layers.0.attn.q_proj.weight": wb.TensorSpec("F32", (2,))})
    with pytest.raises(wb.PlanError) as caught:
        wb.plan({"layers.0.attn.q_prj.weight": numbers(2)}, [], target)
    (missing,) = [problem for problem in caught.value.problems if problem.code == "target-missing"]
    assert "layers.0.attn.q_prj.weight" in missing.got


def test_a_rule_that_is_narrower_is_not_shadowed_by_one_that_is_wider():
    """Two converters that claim one key are an error, whichever comes first."""
    wide = wb.WeightConverter("w", "x", [wb.Transpose(0, 1)])
    narrow = wb.WeightConverter("a.w", "y", [wb.Transpose(0, 1)])
    for rules in ([wide, narrow], [narrow, wide]):
        assert codes({"a.w": numbers(2, 3)}, rules) == {"rule-overlap"}


def test_the_destination_of_a_failed_run_is_not_there(tmp_path: Path):
    source = wb.Header({"a": wb.TensorSpec("F32", (2,))})
    with pytest.raises(wb.CheckpointError, match="data-missing"):
        wb.plan(source).write(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
