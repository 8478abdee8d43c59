"""Mappings against an interpreter that takes them at their word: there, back, into a target, and by files."""

from __future__ import annotations

import re

import pytest
import torch
from drawn_mappings import draw
from finds import show, shrink
from hypothesis import given, settings, strategies as st
from interpreter import interpret
from judging import CHECKS
from strategies import evaluate, layouts, same, tensors_of

import weighbridge as wb
from weighbridge.algebra.layout import Layout
from weighbridge.mappings.transforms import describe
from weighbridge.operations.ops import OPERATIONS
from weighbridge.pattern import Pattern

many = settings(max_examples=max(1000, settings().max_examples), deadline=None)
"""The same ones each time: `make fuzz` draws others for as long as one likes, and the search profile many more."""
seeds = st.integers(0, 2**32 - 1)


def hold(name: str, seed: int) -> None:
    """Run one check on one drawn case; what it finds is shown as small as it can be."""
    check, drawn = CHECKS[name], draw(seed)
    if check(drawn, seed) is not None:
        small, find = shrink(check, drawn, seed)
        pytest.fail(f"{name}: {find.kind}\n{find.said}\n{show(small)}seed      {seed}", pytrace=False)


@many
@given(layouts())
def test_two_interpreters_agree(layout):
    """This one reads mappings, the other the rules that they were made of; neither knows of the other."""
    expected = evaluate(layout.rules, layout.tensors)
    made = interpret(layout.mapping, tensors_of(layout.tensors))
    assert not made.problems
    same(made.tensors, expected.targets)


@many
@given(seeds)
def test_a_mapping_gives_what_its_rules_say(seed):
    hold("result", seed)


@many
@given(seeds)
def test_a_process_makes_its_parts_of_what_the_rules_say(seed):
    """Law 8a for every operation, against what knows nothing of layouts."""
    hold("cut", seed)


@many
@given(seeds)
def test_dtypes_by_pattern_are_what_torch_casts_to(seed):
    hold("dtypes", seed)


@many
@given(seeds)
def test_a_target_takes_the_only_reading_that_fits(seed):
    hold("target", seed)


@many
@given(seeds)
def test_a_partial_load_fills_what_the_rules_make(seed):
    hold("partial", seed)


@many
@given(seeds)
def test_a_recorded_way_back_ends_where_it_began(seed):
    hold("recorded", seed)


@many
@given(seeds)
def test_a_derived_way_back_is_the_only_one(seed):
    hold("derived", seed)


@many
@given(seeds)
def test_a_derived_way_back_to_a_target_is_right(seed):
    hold("derived for a target", seed)


@many
@given(seeds)
def test_a_directory_goes_back_or_stays(seed):
    hold("directory", seed)


@many
@given(seeds)
def test_tied_targets_have_one_value(seed):
    hold("ties", seed)


@pytest.mark.parametrize("source", ["{i:int}", "{i+1:int}", "{i-1:int}", "{i:02}", "{i//2}.{i%2}"])
@pytest.mark.parametrize("target", ["{i}", "{i+1}", "{i-1}", "{i:02}", "{i//2}.{i%2}"])
def test_an_index_that_a_form_has_no_digits_for_is_refused_and_no_other(source, target):
    """A rule that left such a key alone would leave its tensor under the old name, and nobody would know."""
    rules = wb.Mapping([wb.WeightRenaming(f"a.{source}.w", f"b.{target}.w")])
    for index in ("0", "1", "2", "10", "00", "01", "010", "0.0", "1.1", "1.2", "1.00"):
        for key in (f"a.{index}.w", f"a.{index}.w.a.05.w", f"a.7.w.a.{index}.w"):
            tensors = {key: torch.arange(3.0)}
            made = interpret(rules, tensors)
            codes, names = set(), set(made.tensors)
            try:
                names = set(wb.plan(tensors, rules).target)
            except wb.PlanError as refused:
                codes = set(refused.codes)
            assert (codes, names) == (made.problems, set(made.tensors)), key


def test_each_operation_and_each_form_of_an_index_is_drawn():
    """The laws and checks hold for what was drawn, so that nothing may be forgotten there."""
    forms = {
        "moved by a number": r"\{\w+[+]\d",
        "moved by a name": r"\{\w+[+][a-z]",
        "with zeros": ":02",
        "halves": "//2",
        "some numbers": r"\{\w+:\d+\|",
        "two stars": r"\*.*\*",
    }
    missing = {cls.__name__ for cls in OPERATIONS} | set(forms)
    for seed in range(4000):
        drawn = draw(seed)
        for rule in drawn.mapping:
            found = {name for name, form in forms.items() if re.search(form, describe(rule))}
            found |= {type(operation).__name__ for operation in getattr(rule, "operations", ())}
            if found & missing and not interpret(drawn.mapping, drawn.tensors, config=drawn.config).problems:
                missing -= found
        if not missing:
            return
    pytest.fail(f"never drawn in a mapping that holds: {', '.join(sorted(missing))}")


def test_the_interpreter_runs_without_what_it_is_held_against(monkeypatch):
    """No pattern is matched, no operation lowered and nothing planned, so that no mistake is made on both sides."""
    drawn = [draw(seed) for seed in range(60)]
    expected = [interpret(each.mapping, each.tensors, config=each.config) for each in drawn]

    def broken(*arguments, **named):
        raise AssertionError("the interpreter must not use this")

    for cls in OPERATIONS:
        monkeypatch.setattr(cls, "lower", broken)
    for owner, name in ((Pattern, "match"), (Pattern, "fill"), (Layout, "of"), (Layout, "split")):
        monkeypatch.setattr(owner, name, broken)
    for each, before in zip(drawn, expected, strict=True):
        made = interpret(each.mapping, each.tensors, config=each.config)
        assert (list(made.tensors), made.problems) == (list(before.tensors), before.problems)
    with pytest.raises(AssertionError, match="must not use this"):
        wb.plan({"a": torch.ones(2, 3)}, [wb.WeightConverter("a", "b", [wb.Transpose()])])


# ---- what the checks found, as small as it can be ----


def test_a_group_that_lacks_members_is_named_though_a_later_rule_is_at_fault():
    """Two patterns of the rename claim the name that the group would have had."""
    stack = wb.WeightConverter("layers.*.scale", "layers.scale", [wb.MergeModulelist(0)])
    rules = [stack, wb.WeightRenaming(["layers", "scale"], "new")]
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(wb.Header({"layers.1.scale": wb.TensorSpec("F32", (2,))}), rules)
    assert caught.value.codes == ("group-incomplete",)
    assert caught.value.problems[0].where == "layers.scale"


def test_a_tensor_without_parts_has_no_place_of_its_own_in_a_partial_load():
    """It is taken apart into no tensors at all, while its own name is a target."""
    rules = [wb.WeightConverter("norm", "norm.*.part", [wb.SplitModulelist(0)])]
    specs = {"norm": wb.TensorSpec("F32", (0, 2)), "head": wb.TensorSpec("F32", (3,))}
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(wb.Header(specs), rules, wb.Header(specs), partial=True, layout="mapped")
    assert caught.value.codes == ("source-unplaced",)
    assert caught.value.problems[0].where == "norm"
