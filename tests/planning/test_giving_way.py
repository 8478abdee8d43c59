"""Rules that are `if_wanted`: left alone where the target lacks what they lead to, by all keys and never by a guess."""

from __future__ import annotations

from collections.abc import Mapping as MappingOf

import pytest
import torch

import weighbridge as wb
from weighbridge.studies.lint.linter import lint

HEAD_AND_BODY = [wb.WeightRenaming("^", "model.", if_wanted=True)]


def header(**shapes: tuple[int, ...]) -> wb.Header:
    return wb.Header({key.replace("__", "."): wb.TensorSpec("F32", shape) for key, shape in shapes.items()})


def tensors(shapes: MappingOf[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    made, count = {}, 0
    for key, shape in shapes.items():
        made[key] = torch.arange(count, count + torch.Size(shape).numel(), dtype=torch.float32).view(shape)
        count += made[key].numel()
    return made


FILE = tensors({"layers.0.weight": (2, 3), "layers.1.weight": (2, 3), "head.weight": (5, 2), "head.bias": (5,)})
MODEL = header(model__layers__0__weight=(2, 3), model__layers__1__weight=(2, 3), head__weight=(5, 2), head__bias=(5,))


def test_c6_a_rule_is_left_alone_where_its_result_is_not_in_the_target() -> None:
    plan = wb.plan(FILE, HEAD_AND_BODY, MODEL)
    made = plan.state_dict()
    assert {key: made[key].data_ptr() and made[key].tolist() for key in made} == {
        "model.layers.0.weight": FILE["layers.0.weight"].tolist(),
        "model.layers.1.weight": FILE["layers.1.weight"].tolist(),
        "head.weight": FILE["head.weight"].tolist(),
        "head.bias": FILE["head.bias"].tolist(),
    }
    assert plan.notes == ("rule 1 left alone on head.{bias,weight}: its result is not in the target",)
    told = str(plan.explain("head.bias"))
    assert "left alone, as its result is not in the target: head.bias -> model.head.bias" in told
    assert "fired: layers.0.weight -> model.layers.0.weight" in str(plan.explain("layers.0.weight"))
    assert wb.verify(plan.inverse(made).state_dict(), FILE)
    assert wb.Plan.from_json(plan.to_json()).explain("head.bias").tried == plan.explain("head.bias").tried


def test_rules_that_were_left_alone_are_told_in_the_order_of_the_mapping() -> None:
    rules = [wb.WeightRenaming(f"^{name}", f"m.{name}", if_wanted=True) for name in "ba"]
    plan = wb.plan(header(a=(2,), b=(3,)), rules, header(a=(2,), b=(3,)), layout="mapped")
    assert [note.partition(":")[0] for note in plan.notes[:2]] == ["rule 1 left alone on b", "rule 2 left alone on a"]


def test_c6_without_the_field_a_rule_fires_as_written() -> None:
    with pytest.raises(wb.WeighbridgeError, match="target-missing"):
        wb.plan(FILE, [wb.WeightRenaming("^", "model.")], MODEL, layout="mapped")


def test_c6_without_a_target_a_rule_fires_as_written() -> None:
    assert set(wb.plan(FILE, HEAD_AND_BODY).target) == {f"model.{key}" for key in FILE}


def test_a_converter_that_gives_way_in_one_layer_fires_in_another_that_has_both_names() -> None:
    """What it makes has another shape than what it is made of: no reason to take the name as it is instead."""
    turn = wb.WeightConverter("w", "v", [wb.Transpose(0, 1)], if_wanted=True)
    target = header(layers__0__v=(3, 2), layers__0__w=(2, 3), layers__1__w=(2, 3))
    plan = wb.plan(header(layers__0__w=(2, 3), layers__1__w=(2, 3)), [turn], target, layout="mapped", partial=True)
    assert {key: plan.steps[number].targets for key, number in plan.step_of_source.items()} == {
        "layers.0.w": ("layers.0.v",),
        "layers.1.w": ("layers.1.w",),
    }
    assert plan.target["layers.0.v"].shape == (3, 2)


def test_c6_a_rule_whose_result_is_there_fires_though_the_old_name_is_there_too() -> None:
    """Both names are the target's: the rule says which, and the other one is missing."""
    target = header(model__norm=(3,), norm=(3,))
    with pytest.raises(wb.WeighbridgeError) as caught:
        wb.plan(tensors({"norm": (3,)}), HEAD_AND_BODY, target, layout="mapped")
    assert "nothing fills this target @ norm\n" in str(caught.value)


def test_c6_a_name_of_another_shape_is_not_reached() -> None:
    target = header(model__norm=(3,), norm=(4,))
    plan = wb.plan(tensors({"norm": (4,)}), HEAD_AND_BODY, target, layout="mapped", initialise=["^model.norm$"])
    assert [(step.sources, step.targets) for step in plan.steps] == [(("norm",), ("norm",))]


def test_c6_members_of_a_family_may_differ_and_each_is_decided_by_the_target() -> None:
    """Layers of two kinds: one has the new name, one has kept the old one."""
    rules = [wb.WeightRenaming(r"\.norm\.", ".kv_norm.", if_wanted=True)]
    source = tensors({f"layers.{i}.norm.weight": (2 + i,) for i in range(4)})
    target = header(**{f"layers__{i}__{'kv_norm' if i % 2 else 'norm'}__weight": (2 + i,) for i in range(4)})
    plan = wb.plan(source, rules, target)
    assert {step.sources[0]: step.targets[0] for step in plan.steps} == {
        f"layers.{i}.norm.weight": f"layers.{i}.{'kv_norm' if i % 2 else 'norm'}.weight" for i in range(4)
    }
    assert wb.verify(plan.inverse(plan.state_dict()).state_dict(), source)


def test_c6_one_of_two_rules_gives_way() -> None:
    rules = [wb.WeightRenaming("^", "model.", if_wanted=True), wb.WeightRenaming("gamma", "weight", if_wanted=True)]
    source = tensors({"norm.gamma": (3,), "head.gamma": (4,), "head.other": (5,)})
    target = header(model__norm__gamma=(3,), head__weight=(4,), head__other=(5,))
    plan = wb.plan(source, rules, target)
    assert {step.sources[0]: step.targets[0] for step in plan.steps} == {
        "norm.gamma": "model.norm.gamma",
        "head.gamma": "head.weight",
        "head.other": "head.other",
    }


def test_c6_two_ways_to_give_way_are_an_error_that_names_both() -> None:
    rules = [wb.WeightRenaming("a", "b", if_wanted=True), wb.WeightRenaming("x", "y", if_wanted=True)]
    target = header(a__y=(3,), b__x=(3,))
    with pytest.raises(wb.WeighbridgeError) as caught:
        wb.plan(tensors({"a.x": (3,)}), rules, target, layout="mapped")
    told = str(caught.value)
    assert "layout-ambiguous: rules could give way to the target in two ways @ a.x" in told
    assert "a.y" in told
    assert "b.x" in told


def test_c6_a_converter_gives_way_with_the_rename_before_it() -> None:
    """A target whose layers hold experts apart in one place, and stacked in another."""
    rules = [
        wb.WeightRenaming("^", "model.", if_wanted=True),
        wb.WeightConverter("experts.*.up", "experts.up", [wb.MergeModulelist(dim=0)], if_wanted=True),
    ]
    source = tensors({f"{tower}.experts.{i}.up": (2, 3) for tower in ("text", "apart") for i in range(3)})
    target = header(model__text__experts__up=(3, 2, 3), **{f"apart__experts__{i}__up": (2, 3) for i in range(3)})
    plan = wb.plan(source, rules, target)
    made = plan.state_dict()
    assert torch.equal(made["model.text.experts.up"], torch.stack([source[f"text.experts.{i}.up"] for i in range(3)]))
    assert torch.equal(made["apart.experts.2.up"], source["apart.experts.2.up"])
    assert wb.verify(plan.inverse(made).state_dict(), source)


def two_claims(*, if_wanted: bool) -> list[wb.WeightConverter]:
    """The second pattern is a part of the name that the first one means, as it stands in the library's table."""
    return [
        wb.WeightConverter("experts.gate_up", "experts.w13", [wb.Transpose(0, 1)], if_wanted=if_wanted),
        wb.WeightConverter(r"(\w*)up", r"\1up_t", [wb.Transpose(0, 1)], if_wanted=if_wanted),
    ]


def test_h1_a_converter_gives_way_to_an_earlier_one() -> None:
    """The library takes the first that matches, on the way back too: new models of Inkling could not be saved."""
    source = tensors({"experts.gate_up": (2, 3), "shared.up": (4, 3)})
    plan = wb.plan(source, two_claims(if_wanted=True))
    assert set(plan.target) == {"experts.w13", "shared.up_t"}
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, two_claims(if_wanted=False))
    assert caught.value.codes == ("rule-overlap",)


def test_c6_a_rename_behind_a_converter_gives_way() -> None:
    rules = [
        wb.WeightConverter("qkv", ["q", "k", "v"], [wb.Chunk(dim=0)]),
        wb.WeightRenaming("^", "model.", if_wanted=True),
    ]
    source = tensors({"layers.0.qkv": (6, 2), "head.qkv": (9, 2)})
    target = header(
        **{f"model__layers__0__{name}": (2, 2) for name in "qkv"}, **{f"head__{name}": (3, 2) for name in "qkv"}
    )
    plan = wb.plan(source, rules, target)
    assert torch.equal(plan.state_dict()["head.k"], source["head.qkv"][3:6])
    assert wb.verify(plan.inverse(plan.state_dict()).state_dict(), source)


def test_c6_the_way_back_of_a_fresh_model_is_proven_from_its_own_names() -> None:
    model = tensors({"model.layers.0.weight": (2, 3), "head.weight": (5, 2)})
    plan = wb.plan(model, wb.Mapping(HEAD_AND_BODY).inverse())
    assert set(plan.target) == {"layers.0.weight", "head.weight"}
    # What reads it again could have had the model's own name as well: that is said, and not hidden.
    assert any("model.layers.0.weight goes back to layers.0.weight" in line for line in plan.choices)
    target = header(layers__0__weight=(2, 3), head__weight=(5, 2))
    assert wb.plan(model, wb.Mapping(HEAD_AND_BODY).inverse(), target).choices == ()
    kept = header(model__layers__0__weight=(2, 3), head__weight=(5, 2))
    settled = wb.plan(model, wb.Mapping(HEAD_AND_BODY).inverse(), kept)
    assert set(settled.target) == set(kept)


def test_c6_the_rule_that_puts_a_prefix_before_every_key_has_an_inverse() -> None:
    back = wb.WeightRenaming("^", "model.").inverse()
    assert (back.source_patterns, back.target_patterns) == (("^model.(.+)",), (r"\1",))
    assert wb.WeightRenaming("$", ".weight").inverse().source_patterns == ("(.+).weight$",)


@pytest.mark.parametrize("value", [1, "yes", None])
def test_the_field_is_a_flag(value: object) -> None:
    with pytest.raises(wb.WeighbridgeError, match="mapping-invalid: if_wanted is no flag"):
        wb.WeightRenaming("a", "b", if_wanted=value)  # type: ignore[arg-type]
    with pytest.raises(wb.WeighbridgeError, match="mapping-invalid: if_wanted is no flag"):
        wb.PrefixChange(prefix_to_add="a", if_wanted=value)  # type: ignore[arg-type]


def test_c6_the_linter_takes_the_target_into_account() -> None:
    """With a target, the head's names come back to themselves; without one the rule would carry them off."""
    report = lint(HEAD_AND_BODY, wb.open(FILE).header, MODEL)
    assert "round-trip" not in report.counts()
    written = lint([wb.WeightRenaming("^", "model.")], wb.open(FILE).header, MODEL)
    assert "round-trip" in written.counts()


def test_a_target_that_takes_any_shape_is_reached_by_a_rule_that_gives_way() -> None:
    """The extra state of a module has the shape that the file gives it."""
    target = header(model__state=(0,), state=(3,))
    source = tensors({"state": (3,)})
    loose = wb.Header(target.specs, loose=frozenset({"model.state"}))
    for wanted, reached in ((loose, "model.state"), (target, "state")):
        plan = wb.plan(source, HEAD_AND_BODY, wanted, layout="mapped", initialise=["^model.state$", "^state$"])
        assert [step.targets for step in plan.steps] == [(reached,)]
