"""What is said where no reading fits: which reading is shown, what its rules did, and which rename would help."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings, strategies as st

import weighbridge as wb

SPEC = wb.TensorSpec("F32", (4, 3))
FUSE = wb.WeightConverter(["q", "k", "v"], "qkv", [wb.Concatenate(0)])


def header(*keys: str) -> wb.Header:
    return wb.Header(dict.fromkeys(keys, SPEC))


def parts(*blocks: str, layers: int = 3) -> list[str]:
    return [f"layers.{i}.{block}.{part}" for i in range(layers) for block in blocks for part in "qkv"]


def refused(source: wb.Header, mapping: object, target: wb.Header, **options: object) -> wb.PlanError:
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, mapping, target, **options)
    assert caught.value.code == "plan-failed"
    return caught.value


def test_e_rules_that_are_too_wide_are_shown_at_work() -> None:
    """The rule fuses what the model keeps apart: the reading without it leaves less open, and shows nothing of that."""
    wide = wb.Header({f"layers.{i}.attn.qkv": wb.TensorSpec("F32", (12, 3)) for i in range(3)})
    target = wb.Header({**wide.specs, **header(*parts("cross")).specs})
    error = refused(header(*parts("attn", "cross")), [FUSE], target)
    assert error.got.splitlines() == [
        "mapped: 9 targets missing, 9 sources left over",
        "as is: 3 targets missing, 9 sources left over",
    ]
    places = {problem.where for problem in error.problems}
    assert places == {f"layers.{{0..2}}.cross.{part}" for part in "qkv"}
    assert "the source layers.0.cross.k, of which rule 1 makes layers.0.cross.qkv" in str(error)
    assert error.hint == "narrow rule 1: the target wants 9 of its sources by their own names, such as layers.0.cross.k"
    narrow = wb.WeightConverter(["attn.q", "attn.k", "attn.v"], "attn.qkv", [wb.Concatenate(0)])
    assert len(wb.plan(header(*parts("attn", "cross")), [narrow], target).steps) == 12


def test_a_checkpoint_in_the_targets_layout_is_shown_as_it_is() -> None:
    """No rule gives a target what the reading without rules lacks: that one is nearer."""
    error = refused(header(*parts("attn")), [FUSE], header(*parts("attn"), "extra"))
    assert error.got.splitlines()[0] == "as is: 1 target missing"
    assert [problem.where for problem in error.problems] == ["extra"]


def test_e_a_rule_that_fires_under_another_name_is_named() -> None:
    error = refused(header("a.gamma", "b.w"), [wb.WeightRenaming("gamma", "scale")], header("a.weight", "b.w"))
    unplaced = next(problem for problem in error.problems if problem.code == "source-unplaced")
    assert unplaced.got.splitlines()[0] == "the source a.gamma, of which rule 1 makes a.scale"


RENAMES = [
    ("model.language_model", "model", "WeightRenaming('^model.language_model', 'model')"),
    ("model", "model.language_model", "WeightRenaming('^model', 'model.language_model')"),
    ("bert", "electra.encoder", "WeightRenaming('^bert', 'electra.encoder')"),
]


@pytest.mark.parametrize(("old", "new", "rule"), RENAMES)
@pytest.mark.parametrize("rules", [[], [wb.WeightRenaming("gamma", "weight")]], ids=["no rules", "a rule"])
def test_e_the_one_prefix_that_would_make_everything_fit_is_proposed(old, new, rule, rules) -> None:
    """Gemma 4: the language model of the whole one lies under a path of its own."""
    names = [f"layers.{i}.{part}.{{}}" for i in range(4) for part in ("attn", "mlp.up", "mlp.down")]
    written = "gamma" if rules else "weight"
    source = header(*(f"{old}.{name.format(written)}" for name in names), "lm_head.weight")
    target = header(*(f"{new}.{name.format('weight')}" for name in names), "lm_head.weight")
    beside = header(*source, "vision.patch.w", "vision.norm.w")
    error = refused(beside, rules, target, carry=["^vision"])
    assert error.hint == f"put {rule} before the other rules: with it everything fits"
    error = refused(beside, rules, target)
    assert error.hint.startswith(f"put {rule} before the other rules: with it every target is filled, and 2 sources")


def test_no_prefix_is_proposed_that_does_not_fill_every_target() -> None:
    source = header(*(f"model.language_model.{i}.w" for i in range(3)), "other.w")
    assert "put " not in refused(source, [], header(*(f"model.{i}.w" for i in range(4)))).hint
    one = [f"second.{leaf}" for leaf in ("weight", "bias")]
    other = [f"third.norm.{leaf}" for leaf in ("weight", "bias")]
    assert "put " not in refused(header(*one), [], header(*other)).hint
    shapes = wb.Header({f"model.{i}.w": wb.TensorSpec("F32", (3, 4)) for i in range(3)})
    assert "put " not in refused(source, [], shapes).hint


@settings(max_examples=max(100, settings().max_examples), deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_e_whatever_is_proposed_leads_to_a_plan(seed: int) -> None:
    chance = random.Random(seed)
    paths = ["", "model", "model.text", "text", "text.model", "vision"]
    names = [f"h.{i}.{leaf}" for i in range(2) for leaf in chance.sample(["w", "b", "q.w"], 2)] + ["norm"]
    old, new = (f"{path}." if path else "" for path in chance.sample(paths, 2))
    other = f"{chance.choice(paths[1:])}.more"
    source = header(*(old + name for name in names), *([other] if chance.random() < 0.5 else []))
    target = header(*(new + name for name in names))
    try:
        wb.plan(source, [], target)
    except wb.PlanError as error:
        if error.code != "plan-failed" or not error.hint.startswith("put "):
            return
        kinds = {"PrefixChange": wb.PrefixChange, "WeightRenaming": wb.WeightRenaming}
        rule = eval(error.hint.removeprefix("put ").partition(" before ")[0], kinds)
        made = wb.plan(source, [rule], target, partial="left over" in error.hint)
        assert set(target) <= set(made.step_of_target)


def test_e_gemma4_names_the_path_of_its_language_model() -> None:
    """A checkpoint of the whole model, read into the language model alone: dozens of problems, and one cause."""
    transformers = pytest.importorskip("transformers", reason="needs the package transformers, which has Gemma 4")
    sizes = {
        "hidden_size": 8,
        "intermediate_size": 6,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 4,
    }
    text = sizes | {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"], "vocab_size": 11}
    config = transformers.Gemma4Config(text_config=text, vision_config=sizes | {"num_hidden_layers": 1})
    with torch.device("meta"):
        whole = transformers.Gemma4ForConditionalGeneration(config)
        part = transformers.Gemma4ForCausalLM(config.text_config)
    source = wb.Header({key: wb.TensorSpec("F32", tuple(value.shape)) for key, value in whole.state_dict().items()})
    error = refused(source, wb.resolve(part), part)
    assert len(error.problems) > 30
    first = "put WeightRenaming('^model.language_model', 'model') before the other rules"
    assert error.hint.startswith(f"{first}: with it every target is filled, and")
    rules = [wb.WeightRenaming("^model.language_model", "model"), *wb.resolve(part)]
    plan = wb.plan(source, rules, part, drop=["^model.(vision_tower|embed_vision)"])
    assert set(plan.target) == set(part.state_dict())


def test_e_a_prefix_is_proposed_by_what_the_rules_make() -> None:
    """Experts are joined: no name that is left over is that of a target, but for the prefix."""
    one, stack = wb.TensorSpec("F32", (2, 3)), wb.TensorSpec("F32", (3, 4, 3))
    names = [f"layers.{i}.e.{j}.{part}.weight" for i in range(3) for j in range(3) for part in ("gate", "up")]
    source = wb.Header({f"model.language_model.{name}": one for name in names})
    target = wb.Header({f"model.layers.{i}.e.gate_up": stack for i in range(3)})
    sources = ["e.*.gate.weight", "e.*.up.weight"]
    experts = wb.WeightConverter(sources, "e.gate_up", [wb.MergeModulelist(0), wb.Concatenate(1)])
    error = refused(source, [experts], target)
    rule = wb.WeightRenaming("^model.language_model", "model")
    assert error.hint == (
        "put WeightRenaming('^model.language_model', 'model') before the other rules: with it everything fits"
    )
    assert wb.plan(source, [rule, experts], target).is_exact


def test_an_ambiguous_reading_is_described_by_what_it_fills() -> None:
    """What is left over was counted as filled, so that two halves both said "fills 4 targets from 4 sources"."""
    source = wb.Header({key: wb.TensorSpec("F32", (2,)) for key in ("old.0.w", "old.1.w", "vit.norm", "head")})
    target = wb.Header({key: wb.TensorSpec("F32", (2,)) for key in ("new.0.w", "new.1.w", "norm")})
    mapping = wb.Mapping([wb.WeightRenaming("^old", "new")], base_prefix="vit")
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, mapping, target, partial=True)
    assert caught.value.got.splitlines() == [
        "mapped: fills 2 targets from 2 sources, such as new.0.w from old.0.w",
        "as is, with vit. removed: fills 1 target from 1 source, such as norm from vit.norm",
    ]


def test_e_one_of_a_kind_is_named_in_the_singular() -> None:
    gate = wb.Header({"gate": wb.TensorSpec("F32", (4, 4))})
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(gate, [wb.WeightConverter("gate", "gate", [wb.Transpose(0, 1)])], gate)
    assert caught.value.code == "layout-ambiguous"
    assert "as is: fills 1 target from 1 source" in caught.value.got.splitlines()
    with pytest.raises(wb.MappingError) as refused_rule:
        wb.GroupWeightRename(["a"], ["b", "c"])
    assert refused_rule.value.expected == "1 target"


def test_what_a_reading_without_rules_leaves_open_is_told_in_one_order() -> None:
    said = []
    for sources, targets in (("dcba", "wxyz"), ("abcd", "zyxw"), ("bdac", "yxwz")):
        with pytest.raises(wb.PlanError) as caught:
            wb.plan(header(*sources), [], header(*targets))
        said.append([(problem.code, problem.where) for problem in caught.value.problems])
    assert said == [said[0]] * 3
