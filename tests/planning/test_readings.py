"""Readings: a prefix belongs to the keys as a whole, and declared exceptions follow it."""

from __future__ import annotations

import cProfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import pytest
from hypothesis import given, settings, strategies as st

import weighbridge as wb
from weighbridge.mappings.exception_rules import Refuse
from weighbridge.pattern import Pattern
from weighbridge.planning.readings import MOST_PATHS, Names, nested_readings, possible_readings
from weighbridge.planning.tracing import landing

NAMES = ("enc.weight", "enc.bias", "dec.weight", "dec.bias")


def header(*keys: str) -> wb.Header:
    return wb.Header({key: wb.TensorSpec("F32", (2,)) for key in keys})


def names(mapping: wb.Mapping, source: wb.Header, target: wb.Header | None, mode: str = "auto") -> list[str]:
    return [reading.name for reading in possible_readings(mapping, source, target, mode)]


@given(st.sets(st.sampled_from(NAMES)), st.sampled_from(("ema", "teacher.copy")), st.booleans())
@settings(max_examples=1000, deadline=None)
def test_a_prefix_on_some_of_a_models_keys_only_is_no_reading_of_that_model(
    having: set[str], prefix: str, is_base: bool
) -> None:
    """With it on all keys or on none they fit; mixed, strict planning refuses them, as base prefix and as a path."""
    source = header(*(f"{prefix}.{name}" if name in having else name for name in NAMES))
    mapping = wb.Mapping(base_prefix=prefix if is_base else "")
    if having and having != set(NAMES):
        with pytest.raises(wb.PlanError) as caught:
            wb.plan(source, mapping, header(*NAMES))
        assert caught.value.code == "plan-failed"
        return
    plan = wb.plan(source, mapping, header(*NAMES))
    assert {step.targets[0]: step.sources[0] for step in plan.steps} == dict(zip(NAMES, source, strict=True))


@given(st.sets(st.sampled_from(NAMES), min_size=1), st.booleans())
@settings(max_examples=1000, deadline=None)
def test_a_prefix_is_added_to_all_keys_or_to_none(having: set[str], is_base: bool) -> None:
    source = header(*(f"model.{name}" if name in having else name for name in NAMES))
    target = header(*(f"model.{name}" for name in NAMES))
    mapping = wb.Mapping(base_prefix="model" if is_base else "")
    readings = [*possible_readings(mapping, source, target, "auto"), *nested_readings(mapping, source, target)]
    assert not any("model. added" in reading.name for reading in readings)


def test_a_heads_keys_beside_a_base_model_stay_without_a_place() -> None:
    source, target = header("model.norm", "lm_head"), header("norm")
    mapping = wb.Mapping(base_prefix="model")
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, mapping, target)
    assert set(caught.value.codes) == {"source-unplaced"}
    assert wb.plan(source, mapping, target, drop="lm_head").reading == "mapped, with model. removed"
    assert dict(wb.plan(source, mapping, target, partial=True).target_fates())["norm"].name == "filled"


def test_a_key_lands_in_a_target_with_any_of_its_parts() -> None:
    cut = wb.Mapping([wb.WeightConverter("qk", ["q", "k"], [wb.Chunk(0)])])
    assert landing(cut, ["a.qk", "b.qk", "c.qk"], header("a.k", "b.q", "c.qk")) == {"a.qk", "b.qk"}


def test_a_converter_counts_as_a_way_to_a_target() -> None:
    """A key without the prefix that a rule would cut into targets is no head's."""
    split = wb.WeightConverter("^fused$", "parts.*", [wb.SplitModulelist(dim=0)])
    mapping = wb.Mapping([split], base_prefix="model")
    source, target = header("fused", "model.norm"), wb.Header({"parts.0": wb.TensorSpec("F32", ())})
    assert "mapped, with model. removed" not in names(mapping, source, target)
    assert "mapped, with model. removed" in names(mapping, source, header("norm"))


def test_keys_that_are_dropped_do_not_decide_about_a_prefix() -> None:
    plan = wb.plan(
        header("a.weight", "model.step"), wb.Mapping(base_prefix="model"), header("model.a.weight"), drop="step"
    )
    assert plan.reading == "mapped, with model. added"


@pytest.mark.parametrize("base_prefix", ["", "tower"])
def test_a_refusal_holds_for_the_parts_own_checkpoint(base_prefix: str) -> None:
    """`tower.table` is refused whether the file calls it that, or only `table`."""
    mapping = wb.Mapping(refuse=[Refuse("^table$", scope="tower")], base_prefix=base_prefix)
    target = header("tower.weight", "head.bias")
    for keys in (("tower.weight", "tower.table"), ("weight", "table")):
        with pytest.raises(wb.PlanError):
            wb.plan(header(*keys), mapping, target, partial=True)
    assert wb.plan(header("weight", "other"), mapping, target, partial=True).reading.endswith("with tower. added")


def test_drop_and_carry_rules_follow_the_prefix() -> None:
    target = header("tower.weight")
    mapping = wb.Mapping(
        drop=[wb.Drop("^step$", scope="tower")], carry=[wb.Carry("^table$", scope="tower")], base_prefix="tower"
    )
    for keys in (("tower.weight", "tower.step", "tower.table"), ("weight", "step", "table")):
        plan = wb.plan(header(*keys), mapping, target)
        assert [fated.key for fated in plan.dropped] == [keys[1]]
        assert [step.sources for step in plan.steps if step.fate == "carried"] == [(keys[2],)]


def test_a_mapping_that_adds_its_own_base_prefix_gets_it_once() -> None:
    mapping = wb.Mapping([wb.PrefixChange(prefix_to_add="model")], base_prefix="model")
    assert "mapped, with model. added" not in names(mapping, header("norm"), header("model.norm"))
    assert wb.plan(header("norm"), mapping, header("model.norm")).reading == "mapped"


def test_as_is_holds_without_a_target_too() -> None:
    mapping = wb.Mapping([wb.WeightRenaming("gamma", "weight")])
    assert list(wb.plan(header("gamma"), mapping, layout="as is").target) == ["gamma"]
    assert list(wb.plan(header("gamma"), mapping).target) == ["weight"]


HOSTILE = st.text(st.characters() | st.sampled_from("..*\\^$+?()[]{}|0/<>\ue000"), max_size=12)
ANY_KEY = HOSTILE | st.lists(st.sampled_from(("a", "b", "0", "")) | HOSTILE, min_size=1, max_size=4).map(".".join)
SOME_RULES = (
    wb.WeightRenaming("a", "b"),
    wb.WeightRenaming(r"^(.+)\.b$", r"\1.c"),
    wb.PrefixChange(prefix_to_add="a"),
    wb.PrefixChange(prefix_to_remove="b"),
    wb.WeightConverter(["a.*.b"], "a.c", [wb.MergeModulelist(0)]),
    wb.WeightConverter("b", "a.*", [wb.SplitModulelist(0)]),
    wb.WeightRenaming("x", "y", scope="a"),
)


def planned(source: wb.Header, mapping: wb.Mapping, target: wb.Header, partial: bool) -> wb.Plan | wb.PlanError:
    try:
        return wb.plan(source, mapping, target, partial=partial)
    except wb.PlanError as problem:
        return problem


@given(
    st.lists(ANY_KEY, min_size=1, max_size=4, unique=True),
    st.lists(ANY_KEY, min_size=1, max_size=4, unique=True),
    st.lists(st.sampled_from(SOME_RULES), max_size=3, unique=True),
    st.sampled_from(["", "a", "b.c"]),
    st.booleans(),
)
@settings(max_examples=1000)
def test_whatever_a_key_holds_planning_gives_a_plan_or_says_what_does_not_fit(
    sources: list[str], targets: list[str], rules: list[wb.WeightRenaming], base_prefix: str, partial: bool
) -> None:
    """A path of the data becomes a prefix only where it can be one; it is never read as a pattern."""
    mapping = wb.Mapping(rules, base_prefix=base_prefix)
    made = planned(header(*sources), mapping, header(*targets), partial)
    if isinstance(made, wb.Plan):
        assert str(made.report)
        assert {key for key, _ in made.source_fates()} == set(sources)
    else:
        assert made.code in {"plan-failed", "layout-ambiguous"}
        assert str(made)


@pytest.mark.parametrize("path", ["</script><b>", "a*b", "(x", "a|b", "{x}", "", "a.", "\\", "x\ue000"])
def test_a_path_that_is_no_prefix_is_no_reason_for_another_error(path: str) -> None:
    source, target = header(f"{path}.weight", "left.over"), header("weight", f"other.{path}.bias")
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, [wb.WeightRenaming("^m", "n")], target)
    assert caught.value.code == "plan-failed"
    named = {(problem.code, problem.where) for problem in caught.value.problems}
    assert ("source-unplaced", "left.over") in named


def test_a_path_of_unusual_characters_is_taken_as_it_stands() -> None:
    """Angle brackets and slashes mean nothing in a pattern: such a path is a prefix like any other."""
    plan = wb.plan(header("</script><b>.weight"), wb.Mapping(), header("weight"))
    assert plan.reading == "mapped, with </script><b>. removed"


# ---- what takes long ----


def count_calls(name: str, work: Callable[[], object]) -> int:
    """Count the calls of functions of a name in the library: the same on every machine, unlike time."""
    profile = cProfile.Profile()
    with suppress(wb.PlanError):
        profile.runcall(work)
    counts = ((entry.code, entry.callcount) for entry in profile.getstats() if not isinstance(entry.code, str))
    return sum(count for code, count in counts if code.co_name == name and "weighbridge" in code.co_filename)


def test_h4_keys_are_sorted_out_once_for_all_exceptions() -> None:
    source = header(*(f"{part}.{i}.w" for part in ("h", "copies") for i in range(40)))
    drops = [wb.Drop(f"^copies.{i}.w$", "tied") for i in range(40)]
    few, many = (count_calls("families", partial(wb.plan, source, [], drop=some)) for some in (drops[:2], drops))
    assert few == many
    dropped = wb.plan(source, [], drop=drops).dropped
    assert sorted(fated.key for fated in dropped) == sorted(f"copies.{i}.w" for i in range(40))


def test_h4_near_names_are_sought_for_an_error_alone() -> None:
    """A partial load tries every path of a sub-model; what is wrong with most of them nobody reads."""
    source = header(*(f"tower.h.{i}.{name}" for i in range(4) for name in ("w", "b", "old")))
    target = header(*(f"body.tower.h.{i}.{name}" for i in range(4) for name in ("w", "b", "new")))
    assert count_calls("_likely", partial(wb.plan, source, [], target, partial=True)) == 0
    assert count_calls("_likely", partial(wb.plan, source, [], target)) > 0


def test_h4_a_partial_load_compiles_no_reading_that_could_fill_nothing_more() -> None:
    """Of the paths of a sub-model, before the rules and behind them, only those that something is missing under."""
    source, target = header("a.gamma", "x.b", "y.old"), header("a.weight", "p.one", "q.two", "r.s.three")
    mapping = [wb.WeightRenaming("gamma", "weight"), wb.WeightRenaming("^y.old", "new")]
    assert count_calls("draft_reading", partial(wb.plan, source, mapping, target, partial=True)) == 1
    useful = header(*target, "q.new")
    assert count_calls("draft_reading", partial(wb.plan, source, mapping, useful, partial=True)) == 2
    assert wb.plan(source, mapping, useful, partial=True).step_of_target.keys() >= {"a.weight", "q.new"}


def test_h4_no_step_is_made_for_a_reading_that_its_names_rule_out() -> None:
    source, target = header("norm.gamma", "head", "h.0.w"), header("norm.weight", "head", "h.0.w")
    rules = [wb.WeightRenaming("gamma", "weight")]
    both, one = (partial(wb.plan, source, rules, target, layout=layout) for layout in ("auto", "mapped"))
    assert count_calls("draft_reading", both) == 2
    assert count_calls("identity", both) == count_calls("identity", one) == len(source)


def test_h4_names_are_looked_up_in_the_target_only_where_a_rule_could_give_way() -> None:
    source, target = header("norm.gamma", "head"), header("norm.weight", "head")
    for if_wanted, count in ((False, 0), (True, 1)):
        rules = [wb.WeightRenaming("gamma", "weight", if_wanted=if_wanted)]
        assert count_calls("choose_outcome", partial(wb.plan, source, rules, target, layout="mapped")) == count


KEYS = ("h.0.w", "h.1.w", "h.10.w", "t.h.0.w", "t.h.1.b", "t.x", "a.\ue000.w", "h.00.w")
PATTERNS = ("^h.0.w$", "h.0.w", "^h.*.w$", "*", "^x$", "x$", "^h.{i:int}", "^h.0[0]?.w$", "{a:**}.w")


@given(st.lists(st.sampled_from(KEYS), unique=True), st.sampled_from(PATTERNS), st.sampled_from(("", "t", "h")))
@settings(max_examples=300, deadline=None)
def test_keys_that_were_sorted_out_are_matched_as_each_by_itself(keys: list[str], pattern: str, scope: str) -> None:
    sorted_out, parsed = Names(keys), Pattern.parse(pattern)
    sorted_out.matching("^h.*.w$", scope)
    before = f"{scope}." if scope else ""
    inside = {key: key.removeprefix(before) for key in keys if key.startswith(before)}
    alone = {key for key, name in inside.items() if parsed.match(name, literal=True) is not None}
    assert set(sorted_out.matching(pattern, scope)) == alone


def test_h2_a_head_that_has_a_part_in_a_sub_tree_of_the_base_model_keeps_its_own_names() -> None:
    """A speaker model's head calls a tensor `extractor.weight`; the base model has `extractor.layers` beside it."""
    target = header("net.extractor.layers.0.weight", "net.extractor.layers.1.weight", "net.norm", "extractor.weight")
    source = header("extractor.layers.0.weight", "extractor.layers.1.weight", "norm", "extractor.weight")
    plan = wb.plan(source, wb.Mapping(base_prefix="net"), target)
    assert plan.reading == "mapped, with net. added"
    assert set(plan.inverse().target) == set(source)
    assert {step.sources[0]: step.targets[0] for step in plan.steps} == {
        key: key if key == "extractor.weight" else f"net.{key}" for key in source
    }


def test_h2_a_prefix_that_the_mapping_itself_puts_there_is_not_put_twice() -> None:
    """The rule that the reading would add is one of the mapping's own: that one does it."""
    rule = wb.GroupWeightRename(["^text", "^vision"], ["model.text", "model.vision"])
    source, target = header("text.w", "vision.w", "head.w"), header("model.text.w", "model.vision.w", "head.w")
    plan = wb.plan(source, wb.Mapping([rule], base_prefix="model"), target)
    assert plan.step_of_target.keys() == target.specs.keys()


DEEP = wb.Mapping([wb.WeightRenaming(r"\.norm\.", ".kv_norm."), wb.WeightRenaming("^emb", "embed")], base_prefix="net")


def test_c6_rules_that_speak_of_bare_names_run_before_the_prefix() -> None:
    source = header("emb.w", "norm.w", "layers.0.norm.w", "head.w")
    target = header("net.embed.w", "net.norm.w", "net.layers.0.kv_norm.w", "head.w")
    plan = wb.plan(source, DEEP, target)
    assert plan.reading == "mapped, then with net. added"
    assert {step.sources[0]: step.targets[0] for step in plan.steps} == {
        "emb.w": "net.embed.w",
        "norm.w": "net.norm.w",
        "layers.0.norm.w": "net.layers.0.kv_norm.w",
        "head.w": "head.w",
    }
    assert set(plan.inverse().target) == set(source)


def test_c6_rules_that_speak_of_the_head_model_run_before_the_prefix_is_removed() -> None:
    mapping = wb.Mapping([wb.WeightRenaming("^old", "net.new")], base_prefix="net")
    plan = wb.plan(header("old.w", "norm"), mapping, header("new.w", "norm"))
    assert plan.reading == "mapped, then with net. removed"
    assert {step.sources[0]: step.targets[0] for step in plan.steps} == {"old.w": "new.w", "norm": "norm"}


def test_c6_where_both_orders_come_to_the_same_names_there_is_one_reading() -> None:
    mapping = wb.Mapping([wb.WeightRenaming("gamma", "weight")], base_prefix="net")
    source, target = header("norm.gamma"), header("net.norm.weight")
    assert not any("then with" in name for name in names(mapping, source, target))


def test_c6_the_two_orders_are_told_apart_by_shapes_or_not_at_all() -> None:
    """Both would fit by their names: nothing is guessed."""
    rules = [wb.WeightRenaming(r"^a", "c"), wb.WeightRenaming(r"^b", "a"), wb.WeightRenaming(r"^c", "b")]
    mapping = wb.Mapping(rules, base_prefix="net")
    target = header("net.a", "net.b")
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(header("a", "b"), mapping, target)
    assert caught.value.code == "layout-ambiguous"
    assert "mapped, with net. added" in str(caught.value)
    assert "mapped, then with net. added" in str(caught.value)


@pytest.mark.parametrize("rules", [[], [wb.WeightRenaming("gamma", "weight")]], ids=["no rules", "a rule"])
def test_what_is_refused_is_listed_once_and_what_is_left_over_beside_it(rules: list[wb.Transform]) -> None:
    mapping = wb.Mapping(rules, refuse=[Refuse("^table$", why="it is learnt")])
    source, target = header("w", "table", "stray"), header("w")
    for options, listed in (
        ({}, [("stray", ""), ("table", "it is learnt")]),
        ({"partial": True}, [("table", "it is learnt")]),
    ):
        with pytest.raises(wb.PlanError) as caught:
            wb.plan(source, mapping, target, **options)
        assert sorted((one.where, one.because) for one in caught.value.problems) == listed


def test_which_of_the_two_orders_lets_a_converter_fire_is_told_by_shapes_or_not_at_all() -> None:
    """Both come to the same names, and only one of them transposes."""
    turn = wb.WeightConverter("^w$", "w", [wb.Transpose(0, 1)])
    mapping = wb.Mapping([turn], base_prefix="net")
    one, other = (wb.Header({"w": wb.TensorSpec("F32", shape)}) for shape in ((2, 3), (3, 3)))
    plan = wb.plan(one, mapping, wb.Header({"net.w": wb.TensorSpec("F32", (3, 2))}))
    assert plan.reading == "mapped, then with net. added"
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(other, mapping, wb.Header({"net.w": wb.TensorSpec("F32", (3, 3))}))
    assert caught.value.code == "layout-ambiguous"


def test_c6_a_sub_tree_that_the_target_has_a_part_of_without_the_prefix_is_divided() -> None:
    mapping = wb.Mapping([wb.WeightRenaming("^old", "new")], base_prefix="net")
    source = header("old.w", "ext.weight", "ext.layers.w", "ext.layers.b")
    target = header("net.new.w", "ext.weight", "net.ext.layers.w", "net.ext.layers.b")
    plan = wb.plan(source, mapping, target)
    assert plan.reading == "mapped, then with net. added"
    assert {step.sources[0]: step.targets[0] for step in plan.steps} == dict(zip(source, target, strict=True))


def test_rules_run_below_the_prefix_where_a_head_is_spared_it() -> None:
    mapping = wb.Mapping([wb.WeightRenaming("gamma", "weight")], base_prefix="net")
    plan = wb.plan(header("norm.gamma", "head.gamma"), mapping, header("net.norm.weight", "head.weight"))
    assert plan.reading == "mapped, with net. added"
    assert {step.sources[0]: step.targets[0] for step in plan.steps} == {
        "norm.gamma": "net.norm.weight",
        "head.gamma": "head.weight",
    }


def test_an_exception_below_the_prefix_is_not_one_for_a_head_that_is_spared_it() -> None:
    mapping = wb.Mapping(drop=["^net.head.bias$"], base_prefix="net")
    source, target = header("norm", "head.weight", "head.bias"), header("net.norm", "head.weight", "head.bias")
    plan = wb.plan(source, mapping, target)
    assert plan.step_of_target.keys() == target.specs.keys()


def test_a_pattern_of_an_exception_takes_the_mark_of_a_template_for_no_index() -> None:
    assert Names(["h.\ue000.w", "h.0.w"]).matching("^h.{i:int}.w$") == ["h.0.w"]


def test_a_nested_reading_that_gives_up_what_a_nearer_one_fills_is_not_taken() -> None:
    """As it is the file fills `k`; below `sub` it would fill two others, and not that one."""
    plan = wb.plan(header("k", "x"), [], header("k", "sub.k", "sub.x"), partial=True)
    assert plan.reading == "mapped"
    assert plan.step_of_target.keys() & {"k", "sub.k", "sub.x"} == {"k"}


def test_a_nested_reading_has_to_fill_more_than_each_of_several_nearer_ones() -> None:
    """Below `m`, the file as it is fills more than as it is elsewhere, and not what the rules fill."""
    rules = [wb.WeightRenaming("gamma", "weight"), wb.WeightRenaming("^z", "q"), wb.WeightRenaming("m.z", "m.q")]
    source, target = header("x.gamma", "y.weight", "z"), header("x.weight", "y.weight", "m.z")
    assert wb.plan(source, rules, target, partial=True).reading == "mapped"


def test_a_fault_of_a_nearer_reading_is_no_reason_to_take_a_nested_one_in_a_partial_load() -> None:
    """The rule takes `t` to `T`; where it could not, the file was read below `m`, which has the name `t` as well."""
    rules = [wb.WeightConverter("^t$", "T", [wb.Transpose(0, 1)])]

    def plan(*shape: int) -> wb.Plan:
        specs = {"t": wb.TensorSpec("F32", shape), "u": wb.TensorSpec("F32", (2,))}
        below = {f"m.{key}": spec for key, spec in specs.items()}
        target = wb.Header(below | {"T": wb.TensorSpec("F32", shape[::-1])})
        return wb.plan(wb.Header(specs), rules, target, partial=True)

    assert plan(3, 1).step_of_source["t"] == plan(3, 1).step_of_target["T"]
    with pytest.raises(wb.PlanError) as caught:
        plan(3)
    assert [(problem.code, problem.where) for problem in caught.value.problems] == [("axis-out-of-range", "T")]


def test_a_nested_reading_that_reaches_furthest_is_reported_though_it_is_faulty() -> None:
    """Below `m` the file fits, and fills one target; below `n` all three, but for the shape of one."""
    wide = wb.TensorSpec("F32", (9,))
    target = wb.Header(header("m.a", "n.a", "n.c").specs | {"n.b": wide})
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(header("a", "b", "c"), [], target, partial=True)
    assert [(problem.code, problem.where) for problem in caught.value.problems] == [("spec-mismatch", "n.b")]


def test_a_nested_reading_that_does_not_fit_is_no_reason_to_refuse_a_nearer_one() -> None:
    target = wb.Header({"a": wb.TensorSpec("F32", (2,)), "m.b": wb.TensorSpec("F32", (9,))})
    assert wb.plan(header("a", "b"), [], target, partial=True).reading == "mapped"


def test_a_nested_reading_that_fills_no_more_than_a_faulty_nearer_one_does_not_hide_its_fault() -> None:
    """Without rules, the file below `net` fills `gain` as well: the rule that is at fault was then never heard of."""
    rules = [wb.WeightRenaming(["q", "net.q"], "x"), wb.PrefixChange(prefix_to_remove="net")]
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(header("net.gain", "net.q"), rules, header("gain"), partial=True)
    assert [(problem.code, problem.where) for problem in caught.value.problems] == [("rule-overlap", "net.q")]


def test_a_nested_reading_that_would_be_the_only_one_but_for_a_fault_is_reported() -> None:
    source = wb.Header({"norm.w": wb.TensorSpec("F32", (2,)), "embed.w": wb.TensorSpec("F32", (5,))})
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, [], header("m.norm.w", "m.embed.w"), partial=True)
    assert [(problem.code, problem.where) for problem in caught.value.problems] == [("spec-mismatch", "m.embed.w")]


def test_a_faulty_reading_is_reported_only_where_it_reaches_more_than_each_that_fits() -> None:
    """Two readings of a partial load fit, one fills less and one fills more than the faulty one would."""
    mapping = wb.Mapping([wb.WeightConverter("^w{i:int}$", "v{i}", [wb.Reshape([-1, 1])])], base_prefix="m")
    target = ["v1", "v2", "w1", "m.w1", "m.w2", "m.w3"]
    for names, code in ((target, "layout-ambiguous"), (target[:4], "plan-failed")):
        with pytest.raises(wb.PlanError) as caught:
            wb.plan(header("w1", "w2", "w3"), mapping, header(*names), partial=True)
        assert caught.value.code == code
    assert wb.plan(header("w1", "w2", "w3"), mapping, header("v1", "v2", "w1", "w2"), partial=True).reading == "as is"


def test_a_target_of_a_group_that_a_partial_load_leaves_out_is_missing() -> None:
    """The rules fill `k` and lack members for `e`; as it is the file fills `e` and not `k`: neither has more."""
    rules = [wb.WeightRenaming("^e$", "k"), wb.WeightConverter("e.*.w", "e", [wb.MergeModulelist(0)])]
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(header("e", "e.1.w"), rules, header("e", "k"), partial=True)
    assert caught.value.code == "layout-ambiguous"


def test_a_nested_reading_is_no_way_out_where_a_nearer_one_would_fill_as_much() -> None:
    target = wb.Header({"w": wb.TensorSpec("F32", (5,)), "m.w": wb.TensorSpec("F32", (2,))})
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(header("w"), [], target, partial=True)
    assert [(problem.code, problem.where) for problem in caught.value.problems] == [("spec-mismatch", "w")]


def test_a_pattern_of_an_exception_tells_digits_apart() -> None:
    assert Names(["h.1.w", "h.7.w", "h.12.w"]).matching("^h.[0-3].w$") == ["h.1.w"]


def test_rules_that_speak_of_a_parts_own_names_run_before_it_is_put_below_its_path() -> None:
    plan = wb.plan(header("ln.w"), [wb.WeightRenaming("^ln", "norm")], header("vision.norm.w"))
    assert plan.reading == "mapped, then with vision. added"
    assert plan.step_of_source["ln.w"] == plan.step_of_target["vision.norm.w"]


def test_of_many_paths_those_with_most_tensors_are_tried() -> None:
    small = [f"part{number}.x" for number in range(MOST_PATHS)]
    plan = wb.plan(header("a", "b"), [], header(*small, "whole.a", "whole.b"), partial=True)
    assert plan.step_of_target.keys() >= {"whole.a", "whole.b"}
