"""Compiling a mapping: readings, exceptions, inverses without a plan, and what a plan says of itself."""

from __future__ import annotations

import json
from itertools import product
from math import prod
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import weighbridge as wb
from weighbridge.api.functions import plan_revert
from weighbridge.base.specs import MAX_KEY_CHARACTERS
from weighbridge.planning.problems import MOST_SEARCHES


def header(**shapes: tuple[int, ...]) -> wb.Header:
    """Specs by key; `__` stands for a dot."""
    return wb.Header({key.replace("__", "."): wb.TensorSpec("F32", shape) for key, shape in shapes.items()})


def problems_of(*arguments, **options) -> list[tuple[str, str]]:
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(*arguments, **options)
    assert caught.value.code == "plan-failed"
    return sorted((problem.code, problem.where) for problem in caught.value.problems)


# ---- readings ----


def test_a_checkpoint_that_is_already_in_the_targets_layout_is_read_as_it_is():
    rules = [wb.WeightRenaming("^gamma", "scale.gamma")]
    source = header(gamma=(2,), other=(3,))
    assert wb.plan(source, rules, header(scale__gamma=(2,), other=(3,))).reading == "mapped"
    assert wb.plan(source, rules, source).reading == "as is"
    assert problems_of(source, rules, source, layout="mapped") == [
        ("source-unplaced", "gamma"),
        ("target-missing", "gamma"),
    ]


@pytest.mark.parametrize(
    ("source", "target", "reading"),
    [
        (header(norm=(2,)), header(model__norm=(2,)), "added"),
        (header(model__norm=(2,)), header(norm=(2,)), "removed"),
        (header(model__norm=(2,)), header(model__norm=(2,)), "mapped"),
        (header(norm=(2,)), header(norm=(2,)), "mapped"),
    ],
)
def test_a_base_prefix_is_decided_once_on_the_whole_key_set(source, target, reading):
    plan = wb.plan(source, wb.Mapping([], base_prefix="model"), target)
    assert reading in plan.reading
    assert list(plan.target) == list(target)


def test_a_prefix_that_some_keys_have_is_no_reading():
    """Half of the keys fit with the prefix and half without: no reading fits all of them, and that is an error."""
    source = header(norm=(2,), model__head=(3,))
    target = header(model__norm=(2,), head=(3,))
    assert problems_of(source, wb.Mapping([], base_prefix="model"), target)


def test_readings_that_come_to_the_same_steps_are_one():
    rules = [wb.WeightRenaming("absent", "present")]
    assert wb.plan(header(a=(2,)), rules, header(a=(2,))).reading == "mapped"


def test_an_unknown_layout_mode_is_refused():
    with pytest.raises(wb.WeighbridgeError):
        wb.plan(header(a=(2,)), [], layout="guess")


# ---- exceptions ----


def test_dropped_sources_need_a_rule():
    source, target = header(a=(2,), inv_freq=(3,)), header(a=(2,))
    assert problems_of(source, [], target) == [("source-unplaced", "inv_freq")]
    plan = wb.plan(source, [], target, drop="inv_freq")
    assert [fated.key for fated in plan.dropped] == ["inv_freq"]
    assert not plan.is_exact
    assert plan.lossy_reasons


def test_carried_sources_pass_every_rule():
    source = header(a=(2,), b__a=(3,))
    plan = wb.plan(source, [wb.WeightRenaming("a", "c")], header(c=(2,)), carry="b.a")
    assert sorted(plan.target) == ["b.a", "c"]
    assert dict(plan.source_fates())["b.a"].name == "carried"
    assert plan.is_exact


def test_a_carried_source_fills_the_target_of_its_name():
    """The target would have kept its own value otherwise, and the report said "carried"."""
    plan = wb.plan(header(a=(2,), b__a=(3,)), [wb.WeightRenaming("a", "c")], header(c=(2,), b__a=(3,)), carry="b.a")
    assert dict(plan.source_fates())["b.a"].name == "moved"
    assert [step.rules for step in plan.steps if step.targets == ("b.a",)] == [()]
    assert problems_of(header(a=(2,), b=(3,)), [], header(a=(2,), b=(4,)), carry="b") == [("spec-mismatch", "b")]


def test_a_key_that_is_both_dropped_and_carried_is_refused():
    assert ("rule-overlap", "a") in problems_of(header(a=(2,)), [], drop="a", carry="a")


def test_initialised_targets_need_a_rule():
    source, target = header(a=(2,)), header(a=(2,), head=(3,), head__bias=(1,))
    assert problems_of(source, [], target) == [("target-missing", "head"), ("target-missing", "head.bias")]
    plan = wb.plan(source, [], target, initialise=[wb.Initialise("^head", "a new head")])
    assert {fated.key: fated.by for fated in plan.initialised} == {"head": "a new head", "head.bias": "a new head"}
    assert plan.is_exact


@pytest.mark.parametrize("kind", ["drop", "carry", "initialise"])
def test_an_exception_that_names_no_tensor_is_refused(kind):
    with pytest.raises(wb.PlanError, match="rule-unused"):
        wb.plan(header(a=(2,)), [], header(a=(2,)), **{kind: "no_such_tensor"})


def test_all_problems_come_in_one_report():
    source = header(a=(2,), stray=(1,), x__0__w=(2,), x__2__w=(2,))
    target = header(a=(3,), lost=(4,), x=(3, 2))
    found = problems_of(source, [wb.WeightConverter("x.*.w", "x", [wb.MergeModulelist(0)])], target)
    assert {code for code, _ in found} >= {"group-incomplete", "source-unplaced", "spec-mismatch", "target-missing"}
    assert ("source-unplaced", "stray") in found
    assert any(code == "target-missing" and "lost" in where for code, where in found)
    assert ("spec-mismatch", "a") in found


def test_families_of_problems_take_a_line_each():
    target = wb.Header({f"layers.{i}.{name}": wb.TensorSpec("F32", (2,)) for i in range(40) for name in ("up", "down")})
    assert problems_of(header(a=(2,)), [], target) == [
        ("source-unplaced", "a"),
        ("target-missing", "layers.{0..39}.down"),
        ("target-missing", "layers.{0..39}.up"),
    ]


# ---- dtypes ----


def test_a_cast_is_computed_and_an_exact_one_goes_back():
    source = {"a": torch.tensor([1.0, 2.5]).bfloat16(), "n": torch.arange(3)}
    plan = wb.plan(source, [], dtype="float32")
    fates = dict(plan.source_fates())
    assert plan.target["a"].dtype == "F32"
    assert plan.target["n"].dtype == "I64"
    assert (fates["a"].name, fates["n"].name) == ("computed", "carried")
    assert plan.is_exact
    assert wb.verify(plan.inverse().state_dict(), source)


def test_a_narrowing_cast_is_lossy():
    plan = wb.plan({"a": torch.tensor([1.0, 1.00001])}, [], dtype="bfloat16")
    assert not plan.is_exact
    with pytest.raises(wb.PlanError, match="inverse-lossy"):
        plan.inverse()
    assert list(plan.inverse(lossy=True).target) == ["a"]


# ---- inverses without a plan ----


def test_a_derived_inverse_is_proven_key_by_key():
    rules = wb.Mapping([wb.WeightRenaming("^old", "new"), wb.WeightRenaming("gamma", "weight")], name="m")
    back = wb.plan({"new.norm.weight": torch.zeros(2)}, rules.inverse())
    assert list(back.target) == ["old.norm.gamma"]
    with pytest.raises(wb.PlanError) as caught:
        wb.plan({"old.norm.weight": torch.zeros(2)}, rules.inverse())
    assert caught.value.code == "inverse-unproven"
    assert [problem.where for problem in caught.value.problems] == ["old.norm.gamma"]


def test_a_derived_inverse_takes_the_stack_apart():
    experts = wb.Mapping([wb.WeightConverter("e.*.w", "e.w", [wb.MergeModulelist(0)])])
    stacked = torch.arange(6.0).reshape(3, 2)
    found = wb.plan({"e.w": stacked}, experts.inverse()).state_dict()
    assert {key: value.tolist() for key, value in found.items()} == {f"e.{i}.w": stacked[i].tolist() for i in range(3)}


def test_the_recorded_inverse_knows_sizes_that_the_derived_one_does_not():
    """q, k and v of different sizes: equal parts would fit nothing that was ever there."""
    fuse = wb.Mapping([wb.WeightConverter(["q", "k", "v"], "qkv", [wb.Concatenate(0)])])
    source = {"q": torch.zeros(4, 2), "k": torch.ones(1, 2), "v": torch.full((1, 2), 2.0)}
    plan = wb.plan(source, fuse)
    assert wb.verify(plan.inverse().state_dict(), source)
    with pytest.raises(wb.PlanError, match="split-unequal"):
        wb.plan({"qkv": torch.zeros(7, 2)}, fuse.inverse())


# ---- a plan as a value ----


def test_a_plan_that_was_changed_is_not_read():
    plan = wb.plan(header(a=(2, 3)), [wb.WeightConverter("a", "b", [wb.Transpose(0, 1)])])
    form = json.loads(plan.to_json())
    form["steps"][0][2] = ["c"]
    with pytest.raises(wb.PlanError) as caught:
        wb.Plan.from_json(json.dumps(form))
    assert caught.value.code == "plan-format"


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"format": "weighbridge-plan", "version": 99}', "\x00"])
def test_what_is_no_plan_is_refused(text):
    with pytest.raises(wb.PlanError) as caught:
        wb.Plan.from_json(text)
    assert caught.value.code == "plan-format"


def test_a_plan_without_data_cannot_run_and_says_so():
    plan = wb.Plan.from_json(wb.plan(header(a=(2,))).to_json())
    with pytest.raises(wb.PlanError, match="source-unbound"):
        plan.state_dict()


def test_a_plan_does_not_run_on_another_source():
    plan = wb.plan({"a": torch.zeros(2), "b": torch.zeros(3)}, [wb.WeightRenaming("b", "c")])
    for other in ({"a": torch.zeros(3)}, {"a": torch.zeros(2).double()}, {"a": torch.zeros(2)}):
        with pytest.raises(wb.CheckpointError, match="source-changed"):
            plan.state_dict(other)
    with pytest.raises(wb.CheckpointError, match="does not know"):
        plan.state_dict({"a": torch.ones(2), "b": torch.ones(3), "extra": torch.zeros(1)})
    again = plan.state_dict({"a": torch.ones(2), "b": torch.ones(3)})
    assert {key: value.tolist() for key, value in again.items()} == {"a": [1, 1], "c": [1, 1, 1]}


def test_a_plan_does_not_mix_two_sources():
    plan = wb.plan({"a": torch.zeros(2), "b": torch.zeros(3)}, [wb.WeightRenaming("b", "c")])
    with pytest.raises(wb.CheckpointError, match="source-changed"):
        plan.state_dict({"b": torch.ones(3)})


def test_equal_plans_have_equal_hashes_and_others_do_not():
    rename = [wb.WeightRenaming("a", "b")]
    first, second = wb.plan(header(a=(2,), c=(3,)), rename), wb.plan(header(c=(3,), a=(2,)), rename)
    assert first == second
    assert first.hash == second.hash
    assert first.hash != wb.plan(header(a=(2,), c=(4,)), rename).hash
    assert first.hash != wb.plan(header(a=(2,), c=(3,)), []).hash


def test_explain_shows_every_rule_in_order():
    rules = [wb.WeightRenaming("a", "b"), wb.WeightRenaming("x", "y", scope="tower"), wb.WeightRenaming("b", "c")]
    said = wb.plan(header(a__w=(2,)), rules).explain("a.w")
    assert [tried.outcome for tried in said.tried] == ["fired", "outside scope tower", "fired"]
    assert said.targets == ("c.w",)
    assert json.loads(json.dumps(said.to_dict()))["key"] == "a.w"


def test_a_misspelt_option_is_named():
    with pytest.raises(wb.WeighbridgeError) as caught:
        wb.plan(header(a=(2,)), [], initialize="a")
    assert (caught.value.code, caught.value.where, caught.value.got) == ("usage", "initialize", "nearest: initialise")


def test_a_plan_prints_as_its_report():
    plan = wb.plan(header(a=(2,)), wb.Mapping([wb.WeightRenaming("a", "b")], name="ab"))
    assert str(plan) == str(plan.report)
    assert repr(plan) == f"<Plan 'ab': 1 -> 1 tensor, exact, {plan.hash[:16]}>"


def test_options_of_another_kind_are_named():
    for options in ({"dtype": "float3"}, {"drop": 5}, {"layout": "upside down"}):
        with pytest.raises(wb.WeighbridgeError):
            wb.plan({"a": torch.zeros(2)}, [], **options)
    assert wb.plan({"a": torch.zeros(2)}, [], dtype=torch.float16).target["a"].dtype == "F16"


def test_a_mapping_that_does_nothing_says_so():
    plan = wb.plan(header(a=(2,)), [wb.WeightRenaming("x", "y")])
    assert plan.notes == ("no rule of the mapping fired on any tensor",)


def test_a_target_without_tensors_says_what_a_target_is(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(wb.CheckpointError) as caught:
        wb.plan(header(a=(2,)), [], tmp_path)
    assert (caught.value.code, "--inventory header.json" in caught.value.hint) == ("checkpoint-not-found", True)
    with pytest.raises(wb.CheckpointError) as lost:
        wb.plan(tmp_path, [])
    assert "inventory" not in lost.value.hint


def test_a_dtype_that_is_not_the_targets_is_noted(tmp_path):
    """It stays, as a dtype always does unless somebody asks; but the plan says so, and its way back does not."""
    held = {"a.old": torch.ones(2, dtype=torch.bfloat16), "b": torch.ones(3, dtype=torch.int64), "c": torch.ones(4)}
    source, target = tmp_path / "held.safetensors", tmp_path / "wanted.safetensors"
    save_file(held, source)
    save_file({"a.new": torch.ones(2), "b": torch.ones(3), "c": torch.ones(4)}, target)
    rules = [wb.WeightRenaming("old", "new")]
    plan = wb.plan(source, rules, target)
    assert plan.notes == (
        '1 target wants F32 and keeps BF16: dtype="target" (--dtype target) casts them',
        "1 target wants F32 and keeps I64: only floats are cast",
    )
    assert plan.notes[0] in str(plan.report)
    assert wb.plan(source, rules, target, dtype="target").notes == plan.notes[1:]
    plan.write(tmp_path / "out")
    assert wb.open(tmp_path / "out").header["a.new"].dtype == "BF16"
    assert plan_revert(tmp_path / "out").notes == ()


def test_a_dtype_that_is_not_the_targets_is_noted_for_a_tied_target_too():
    target = wb.Header({name: wb.TensorSpec("F16", (2,)) for name in "ab"}, ties={"b": "a"})
    (note,) = wb.plan(header(a=(2,)), [], target).notes
    assert note.startswith("2 targets want F16 and keep F32")


def test_a_partial_load_stays_with_the_reading_that_reaches_furthest():
    """One expert is missing; the tensors that are named alike in both layouts are no reason to take nothing else."""
    experts = wb.WeightConverter("experts.*.w", "experts.w", [wb.MergeModulelist(0)])
    source = header(norm=(2,), experts__0__w=(3, 4), experts__2__w=(3, 4), head__old=(5,))
    target = header(norm=(2,), experts__w=(3, 3, 4), head__new=(5,))
    plan = wb.plan(source, [experts, wb.WeightRenaming("head.old", "head.new")], target, partial=True)
    assert plan.reading == "mapped"
    assert dict(plan.source_fates())["experts.0.w"].name == "carried"
    assert [fated.key for fated in plan.initialised] == ["experts.w"]
    assert plan.step_of_target.keys() >= {"norm", "head.new"}
    bent = header(norm=(2,), experts__0__w=(3, 4), experts__1__w=(3, 5), head__old=(5,))
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(bent, [experts, wb.WeightRenaming("head.old", "head.new")], target, partial=True)
    assert caught.value.codes == ("shape-mismatch",)


def test_missing_target_behind_an_inverted_converter_is_reported() -> None:
    rules: list[wb.Transform] = [
        wb.GroupWeightRename(["enc.a", "dec.b"], ["m.w", "w"]),
        wb.WeightConverter("m.w", "fused", [wb.Transpose(0, 1)]),
    ]
    with pytest.raises(wb.PlanError) as caught:
        wb.plan({"x": torch.ones(2)}, rules, target=wb.Header({"fused": wb.TensorSpec("F32", (2, 2))}))
    assert caught.value.code == "plan-failed"


def test_missing_targets_whose_names_hold_what_lines_are_written_with() -> None:
    keys = ("0.a,b1", "0.a,b2", "1.a,b3", "1.a,b4", "0.{x", "1.{x", "2.}y,", "3.}y,")
    with pytest.raises(wb.PlanError) as caught:
        wb.plan({"x": torch.ones(2)}, [], target=wb.Header({key: wb.TensorSpec("F32", (1,)) for key in keys}))
    assert "target-missing" in caught.value.codes


def test_what_cannot_be_a_path_is_a_name_that_is_not_registered() -> None:
    for name in ("a" * 300, "transforms:\n  - rename: a\n    to: b/c\n" + "d" * 5000, "a\0b"):
        with pytest.raises(wb.RegistryError) as caught:
            wb.plan({"x": torch.ones(2)}, name)
        assert caught.value.code == "mapping-not-found"


def fused(leaf):
    return wb.WeightConverter([f"{part}.{leaf}" for part in "qkv"], f"qkv.{leaf}", [wb.Concatenate(0)])


@pytest.mark.parametrize(
    ("lost", "is_by_design"),
    [
        ([f"l__{i}__k__bias" for i in range(3)], True),
        (["l__1__k__bias"], False),
        ([f"l__{i}__k__{leaf}" for i in range(3) for leaf in ("weight", "bias")], False),
    ],
    ids=["of every layer", "of one layer", "and no weight is there either"],
)
def test_e_a_part_that_no_layer_has_is_not_blamed_on_shards(lost, is_by_design):
    names = {f"l__{i}__{part}__{leaf}": (4,) for i in range(3) for part in "qkv" for leaf in ("weight", "bias")}
    source = header(**{name: shape for name, shape in names.items() if name not in lost})
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, [fused("{leaf}")])
    problem = caught.value.problems[0]
    assert problem.code == "group-incomplete"
    named = "its pattern fits others, such as l.0.k.weight, and none of this kind"
    assert problem.hint.startswith(named if is_by_design else "check the pattern, and that all shards")
    assert "partial" not in problem.hint  # without a target there is no such thing


@pytest.mark.parametrize("indices", [["0", "1", "01"], ["01", "1", "0"]])
def test_a_group_with_two_sources_for_a_place_is_not_joined(indices: list[str]) -> None:
    """What else is wrong with it would depend on which of the two came last."""
    shapes = {"0": (2, 3), "1": (2, 3), "01": (4, 3)}
    source = wb.Header({f"e.{index}": wb.TensorSpec("F32", shapes[index]) for index in indices})
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, [wb.WeightConverter("e.*", "stack", [wb.MergeModulelist(0)])])
    assert caught.value.codes == ("group-duplicate",)


def test_targets_of_a_group_that_lacks_members_are_not_missing_besides() -> None:
    spec = wb.TensorSpec("F32", (2,))
    join = wb.WeightConverter(["^a$", "^b$"], "x.*", [wb.Concatenate(0), wb.SplitModulelist(0)])
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(wb.Header({"a": spec}), [join], wb.Header({f"x.{i}": wb.TensorSpec("F32", ()) for i in range(4)}))
    assert caught.value.codes == ("group-incomplete",)


def test_a_stack_of_tensors_without_elements_that_does_not_fit_is_refused() -> None:
    """How many were joined was divided by the length of the axis, which is nothing."""
    merge = wb.WeightConverter("e.*", "stack", [wb.MergeModulelist(1)])
    source = wb.Header({f"e.{i}": wb.TensorSpec("F32", (0, 2)) for i in range(3)})
    assert problems_of(source, [merge], header(stack=(4, 3, 2))) == [("spec-mismatch", "stack")]


def test_targets_of_a_split_that_lacks_members_are_not_missing_under_their_last_names_either() -> None:
    join = wb.WeightConverter(["^a$", "^b$"], "x.*", [wb.Concatenate(0), wb.SplitModulelist(0)])
    target = wb.Header({f"y.{i}": wb.TensorSpec("F32", ()) for i in range(4)})
    assert problems_of(header(a=(2,)), [join, wb.WeightRenaming("^x", "y")], target) == [("group-incomplete", "x.*")]


def test_stacks_of_their_own_lengths_say_what_each_of_them_lacks() -> None:
    """The count of the longest was given for all of them."""
    stacks = wb.WeightConverter(["a.*", "b.*"], ["a", "b"], [wb.MergeModulelist(0)])
    source = wb.Header({key: wb.TensorSpec("F32", (2,)) for key in ("a.0", "a.1", "a.2", "a.3", "b.0", "b.2")})
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, [stacks], header(a=(4, 2), b=(3, 2)))
    (problem,) = caught.value.problems
    assert (problem.expected, problem.got) == ("4 sources for a.*, 3 sources for b.*", "2 of 3  b.*  missing: 1")


def test_keys_near_to_what_a_group_lacks_are_sought_for_so_many_groups_and_no_more() -> None:
    join = wb.WeightConverter(["q", "k"], "qk", [wb.Concatenate(0)])
    names = (f"b{first}{second}" for first in "acde" for second in "abcdefgh")
    source = wb.Header({f"{name}.{part}": wb.TensorSpec("F32", (2,)) for name in names for part in ("q", "kx")})
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, [join])
    assert len(caught.value.problems) == 32
    assert sum("nearest keys" in problem.got for problem in caught.value.problems) == MOST_SEARCHES


def test_a_name_that_rules_write_may_be_as_long_as_any_other() -> None:
    longest = "x" * (MAX_KEY_CHARACTERS - 2)
    assert list(wb.plan(header(old__w=(2,)), [wb.WeightRenaming("old", longest)]).target) == [f"{longest}.w"]
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(header(old__w=(2,)), [wb.WeightRenaming("old", f"{longest}x")])
    assert caught.value.codes == ("name-too-long",)


def test_a_converter_of_which_one_output_has_no_last_name_is_refused() -> None:
    cut = wb.WeightConverter("qk", ["q", "k"], [wb.Chunk(0)])
    rules = [cut, wb.WeightRenaming(["attn.k", "k$"], "z")]
    assert problems_of(header(attn__qk=(4, 3)), rules) == [("rule-overlap", "attn.k")]


def test_parts_of_unequal_sizes_are_joined_by_their_numbers() -> None:
    held = {f"part.{i}": torch.full((1 + i % 3, 2), float(i)) for i in reversed(range(11))}
    made = wb.plan(held, [wb.WeightConverter("part.*", "whole", [wb.Concatenate(0)])]).state_dict()
    assert torch.equal(made["whole"], torch.cat([held[f"part.{i}"] for i in range(11)]))


def test_two_converters_for_one_name_that_do_different_things_overlap() -> None:
    turn, flat = wb.Transpose(0, 1), wb.Reshape([-1])
    first, same, other = (
        wb.WeightConverter(*rule) for rule in (("a", "b", [turn]), ("^a", "b", [turn]), ("a", "b", [flat]))
    )
    source = wb.Header({"a": wb.TensorSpec("F32", (2, 3))})
    assert wb.plan(source, [first, same]).target["b"].shape == (3, 2)
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, [first, other])
    assert caught.value.codes == ("rule-overlap",)


def test_two_outputs_of_one_step_that_land_on_one_target_are_named_once_each() -> None:
    cut = wb.WeightConverter("qk", ["q", "k"], [wb.Chunk(0)])
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(header(attn__qk=(4, 3)), [cut, wb.WeightRenaming(["q$", "k$"], "z")])
    (problem,) = caught.value.problems
    assert (problem.code, problem.where) == ("target-collision", "attn.z")
    assert [line for line in problem.got.splitlines() if "rule" not in line] == ["attn.qk", "attn.qk"]


def test_a_source_that_a_rule_renames_is_not_compared_with_the_target_of_its_old_name() -> None:
    """It has no place, and to take it as it is, in a partial load, would go against the rule."""
    rules, target = [wb.WeightRenaming("^a$", "b")], header(a=(5,), c=(3,))
    found = problems_of(header(a=(2,), c=(3,)), rules, target, partial=True, layout="mapped")
    assert found == [("source-unplaced", "b")]


def test_a_tensor_is_taken_apart_at_two_levels_where_the_first_has_one_part() -> None:
    whole = torch.arange(12.0).reshape(1, 3, 4)
    part = wb.WeightConverter("w", "layers.*.experts.*", [wb.SplitModulelist(0), wb.SplitModulelist(0)])
    plan = wb.plan({"w": whole}, [part])
    made = plan.state_dict()
    assert {key: tensor.tolist() for key, tensor in made.items()} == {
        f"layers.0.experts.{i}": whole[0, i].tolist() for i in range(3)
    }
    assert torch.equal(plan.inverse().state_dict(made)["w"], whole)


@pytest.mark.parametrize("levels", [2, 3])
def test_a_tensor_is_cut_as_its_targets_at_several_levels_have_to_be(levels: int) -> None:
    sizes = (2, 3, 4)[:levels]
    whole, cuts = torch.arange(6.0 * prod(sizes)).reshape(*sizes, 6), {"a": slice(0, 2), "b": slice(2, 6)}
    stars = ".*" * levels
    part = wb.WeightConverter("ab", [f"a{stars}", f"b{stars}"], [wb.Chunk(levels), *[wb.SplitModulelist(0)] * levels])
    expected = {
        ".".join([name, *map(str, place)]): whole[place][cut]
        for name, cut in cuts.items()
        for place in product(*map(range, sizes))
    }
    target = wb.Header({key: wb.TensorSpec("F32", tuple(tensor.shape)) for key, tensor in expected.items()})
    made = wb.plan({"ab": whole}, [part], target).state_dict()
    assert {key: tensor.tolist() for key, tensor in made.items()} == {
        key: tensor.tolist() for key, tensor in expected.items()
    }


def test_a_partial_load_without_a_target_takes_all_that_there_is() -> None:
    plan = wb.plan(header(a=(2,)), [wb.WeightRenaming("^a$", "b")], partial=True)
    assert (list(plan.target), plan.initialised) == (["b"], ())


def test_tensors_with_three_indices_are_stacked_by_each_of_them_and_taken_apart_again() -> None:
    whole = torch.arange(48.0).reshape(2, 3, 4, 2)
    parts = {f"a.{i}.b.{j}.c.{k}": whole[i, j, k] for i in range(2) for j in range(3) for k in range(4)}
    stack = wb.WeightConverter("a.*.b.*.c.*", "w", [wb.MergeModulelist(0)] * 3)
    assert torch.equal(wb.plan(parts, [stack]).state_dict()["w"], whole)
    back = wb.plan({"w": whole}, wb.Mapping([stack]).inverse()).state_dict()
    assert {key: tensor.tolist() for key, tensor in back.items()} == {k: part.tolist() for k, part in parts.items()}


def test_stacks_whose_outer_indices_differ_are_refused_by_these() -> None:
    stacks = wb.WeightConverter(["a.*.x.*", "b.*.x.*"], ["a", "b"], [wb.MergeModulelist(0)] * 2)
    heights = {"a": 2, "b": 3}
    keys = (f"{name}.{i}.x.{j}" for name, height in heights.items() for i in range(height) for j in range(2))
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(
            wb.Header({key: wb.TensorSpec("F32", (2,)) for key in keys}), [stacks], header(a=(2, 2, 2), b=(3, 2, 2))
        )
    (problem,) = caught.value.problems
    assert (problem.code, problem.expected) == ("operation-arity", "the same outer indices in each pattern")


@pytest.mark.parametrize(("shape", "wanted"), [((1,), [-1, -1]), ((0, 3), [0, -1])])
def test_a_size_that_could_be_any_is_not_guessed(shape: tuple[int, ...], wanted: list[int]) -> None:
    """numpy refuses these, too."""
    rules = [wb.WeightConverter("a", "b", [wb.Reshape(wanted)])]
    assert problems_of(header(a=shape), rules) == [("shape-mismatch", "b")]


def test_a_key_with_the_mark_of_a_free_index_is_refused_only_where_there_is_one() -> None:
    source = wb.Header({"w.\uf000": wb.TensorSpec("F32", (2, 3))})
    turn, split = (
        [wb.WeightConverter("^w", to, [made])]
        for to, made in (("v", wb.Transpose(0, 1)), ("v.*", wb.SplitModulelist(0)))
    )
    assert wb.plan(source, turn).target["v.\uf000"].shape == (3, 2)
    assert problems_of(source, split) == [("source-unplaced", "w.\uf000")]


def test_of_two_targets_that_share_storage_the_first_by_name_is_written() -> None:
    target = wb.Header({name: wb.TensorSpec("F32", (2,)) for name in "ab"}, ties={"b": "a"})
    rules = [wb.WeightRenaming("^x", "b"), wb.WeightRenaming("^y", "a")]
    for source in (header(x=(2,), y=(2,)), header(y=(2,), x=(2,))):
        plan = wb.plan(source, rules, target)
        assert plan.twins == (("b", "a"),)
        assert {step.targets: step.fate for step in plan.steps} == {("a",): "moved", ("b",): "tied"}


@pytest.mark.parametrize(
    ("further", "shape"),
    [
        ([wb.Chunk(0)], (6, 4)),
        ([wb.Split(0, (2, 4)), wb.Concatenate(0), wb.MergeModulelist(0), wb.Chunk(0)], (1, 6, 4)),
    ],
    ids=["cut to one part", "cut and joined again"],
)
def test_what_belongs_to_an_index_stays_together_whatever_is_cut(further: list[Any], shape: tuple[int, ...]) -> None:
    first, second = torch.arange(24.0).reshape(2, 3, 4), torch.arange(24.0, 48.0).reshape(2, 3, 4)
    rule = wb.WeightConverter(["^a", "^c"], "b.*", [wb.SplitModulelist(0), wb.Concatenate(0), *further])
    target = wb.Header({f"b.{index}": wb.TensorSpec("F32", shape) for index in range(2)})
    made = wb.plan({"a": first, "c": second}, [rule], target).state_dict()
    for index in range(2):
        assert torch.equal(made[f"b.{index}"], torch.cat([first[index], second[index]]).reshape(shape))


def test_what_is_missing_and_left_over_is_listed_by_name_whatever_order_the_keys_come_in() -> None:
    for keys, wanted in (("xzba", "ytc"), ("abzx", "cty")):
        source, target = (header(**dict.fromkeys(names, (2,))) for names in (keys, wanted))
        with pytest.raises(wb.PlanError) as caught:
            wb.plan(source, [wb.WeightRenaming("^x", "y")], target)
        assert [problem.where for problem in caught.value.problems] == ["c", "t", "a", "b", "z"]


def test_all_parts_are_joined_before_each_index_gets_the_whole() -> None:
    whole = torch.arange(24.0).reshape(2, 3, 4)
    rule = wb.WeightConverter("^a", "b.*", [wb.SplitModulelist(0), wb.Concatenate(0), wb.Repeat()])
    made = wb.plan({"a": whole}, [rule], header(b__0=(6, 4), b__1=(6, 4))).state_dict()
    assert [made[f"b.{index}"].tolist() for index in range(2)] == [whole.reshape(6, 4).tolist()] * 2
