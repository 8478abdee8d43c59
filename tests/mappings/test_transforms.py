"""Transforms and mappings as values: what they refuse, how they invert, how they are mounted."""

from __future__ import annotations

import pickle

import pytest
import torch

import weighbridge as wb
from weighbridge.mappings.exception_rules import RULE_KINDS
from weighbridge.mappings.mapping import transform_from_dict, transform_to_dict
from weighbridge.mappings.one_way import one_way_reason
from weighbridge.mappings.transforms import TRANSFORMS, describe, rename_key, scoped

ONE_OF_EACH = [
    wb.WeightRenaming(r"^language_model\.model", "model.language_model"),
    wb.GroupWeightRename(["norm0", "norm1"], ["norm1", "norm2"], scope="tower"),
    wb.PrefixChange(prefix_to_add="language_model", model_prefix="model"),
    wb.WeightConverter(["q", "k", "v"], "qkv", [wb.Concatenate(0)], scope="tower.text"),
]


def keys_after(rules, *keys: str) -> list[str]:
    """Plan over keys alone, and list what they become."""
    return sorted(wb.plan(wb.Header({key: wb.TensorSpec("F32", (2, 2)) for key in keys}), rules).target)


# ---- construction ----


def test_every_kind_of_transform_is_covered_here():
    assert {type(rule) for rule in ONE_OF_EACH} == set(TRANSFORMS)


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda: wb.WeightRenaming([], "a"), "mapping-invalid"),
        (lambda: wb.WeightRenaming("", "a"), "mapping-invalid"),
        (lambda: wb.WeightRenaming("a", ""), "mapping-invalid"),
        (lambda: wb.WeightRenaming("a", ["b", "c"]), "mapping-invalid"),
        (lambda: wb.WeightRenaming(["a", "a"], "b"), "mapping-invalid"),
        (lambda: wb.WeightRenaming(3, "a"), "mapping-invalid"),
        (lambda: wb.WeightRenaming([3], "a"), "mapping-invalid"),
        (lambda: wb.WeightRenaming("a(", "b"), "pattern-syntax"),
        (lambda: wb.WeightRenaming("a", r"b\1"), "pattern-reference"),
        (lambda: wb.WeightRenaming("{x}", "{y}"), "pattern-reference"),
        (lambda: wb.WeightRenaming("a", "b", scope=None), "mapping-invalid"),
        (lambda: wb.WeightRenaming("a", "b", scope="tower."), "mapping-invalid"),
        (lambda: wb.WeightRenaming("a", "b", scope="^tower"), "mapping-invalid"),
        (lambda: wb.GroupWeightRename(["a", "b"], ["c"]), "mapping-invalid"),
        (lambda: wb.GroupWeightRename(["a", "a"], ["b", "c"]), "mapping-invalid"),
        (lambda: wb.PrefixChange(), "mapping-invalid"),
        (lambda: wb.PrefixChange(prefix_to_add="a", prefix_to_remove="b"), "mapping-invalid"),
        (lambda: wb.PrefixChange(prefix_to_add=""), "mapping-invalid"),
        (lambda: wb.PrefixChange(prefix_to_add="model."), "mapping-invalid"),
        (lambda: wb.PrefixChange(prefix_to_remove="a*b"), "mapping-invalid"),
        (lambda: wb.PrefixChange(prefix_to_remove=3), "mapping-invalid"),
        (lambda: wb.PrefixChange(prefix_to_add="a", model_prefix="b."), "mapping-invalid"),
        (lambda: wb.WeightConverter("a", "b", []), "mapping-invalid"),
        (lambda: wb.WeightConverter("a", "b", wb.Transpose(0, 1)), "mapping-invalid"),
        (lambda: wb.WeightConverter("a", "b", ["Transpose"]), "mapping-invalid"),
        (lambda: wb.WeightConverter("a", "b", [wb.Transpose]), "mapping-invalid"),
        (lambda: wb.Mapping([3]), "mapping-invalid"),
        (lambda: wb.Mapping(["a"]), "mapping-invalid"),
        (lambda: wb.Mapping([wb.Drop("a")]), "mapping-invalid"),
        (lambda: wb.Mapping([], drop=[wb.Carry("a")]), "mapping-invalid"),
        (lambda: wb.Mapping([], drop=["a("]), "pattern-syntax"),
        (lambda: wb.Drop("a", why=1e308), "mapping-invalid"),
        (lambda: wb.Carry("a", scope={"a": 1}), "mapping-invalid"),
        (lambda: wb.Initialise(3), "mapping-invalid"),
        (lambda: wb.Mapping([wb.WeightRenaming("a", "b"), wb.WeightRenaming(["a"], ["b"])]), "mapping-duplicate-rule"),
    ],
)
def test_what_is_wrong_in_itself_is_refused_at_construction(make, code):
    with pytest.raises((wb.MappingError, wb.PatternError)) as caught:
        make()
    assert caught.value.code == code


@pytest.mark.parametrize("transforms", [3, wb.WeightRenaming("a", "b"), None])
def test_a_mapping_of_something_else_than_a_list_is_refused(transforms):
    with pytest.raises(wb.MappingError):
        wb.Mapping(transforms)


@pytest.mark.parametrize(
    ("sources", "targets", "operations"),
    [
        (["a", "b"], ["c"], [wb.Transpose(0, 1)]),  # two tensors for one target
        (["a"], ["b", "c"], [wb.Transpose(0, 1)]),  # one for two
        (["a", "b"], ["c", "d"], [wb.Chunk(0)]),  # divides one, not two
        (["a", "b"], ["c", "d"], [wb.Concatenate(0)]),  # gives one, not two
        (["a"], ["b"], [wb.MergeModulelist(0)]),  # merges an index that is not there
        (["a.*"], ["b"], [wb.Transpose(0, 1)]),  # an index that nothing uses up
        (["a"], ["b.*"], [wb.Transpose(0, 1)]),  # an index that nothing makes
        (["a"], ["b"], [wb.SplitModulelist(0)]),  # makes an index that the target lacks
        (["a.*"], ["b"], [wb.MergeModulelist(0), wb.MergeModulelist(0)]),  # twice
        (["a.*", "b"], ["c"], [wb.MergeModulelist(0), wb.Concatenate(0)]),  # one side with and without
        (["a.*.x"], ["b.*.x"], [wb.MergeModulelist(0)]),  # an index that is used up and still there
    ],
)
def test_lanes_that_do_not_come_out_are_refused(sources, targets, operations):
    with pytest.raises((wb.MappingError, wb.PatternError)):
        wb.WeightConverter(sources, targets, operations)


@pytest.mark.parametrize("rule", ONE_OF_EACH, ids=lambda rule: type(rule).__name__)
def test_a_transform_is_a_value(rule):
    """Hashable, equal to its copies, frozen, and the same after pickle and JSON."""
    for twin in (pickle.loads(pickle.dumps(rule)), transform_from_dict(transform_to_dict(rule))):
        assert twin == rule
        assert hash(twin) == hash(rule)
    with pytest.raises(AttributeError):
        rule.scope = "x"


def test_a_mapping_is_a_value():
    mapping = wb.Mapping(
        ONE_OF_EACH, name="all", drop=[wb.Drop("x", "why")], carry="y", initialise=["z"], base_prefix="b"
    )
    for twin in (pickle.loads(pickle.dumps(mapping)), wb.Mapping.from_dict(mapping.to_dict())):
        assert twin == mapping
        assert hash(twin) == hash(mapping)
    assert mapping.renames == tuple(ONE_OF_EACH[:3])
    assert mapping.converters == (ONE_OF_EACH[3],)
    assert list(mapping) == ONE_OF_EACH
    assert len(mapping) == 4


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"transforms": 3},
        {"transforms": [{}]},
        {"transforms": [{"transform": "Rename"}]},
        {"transforms": [{"transform": "WeightRenaming", "source_patterns": ["a"]}]},
        {"transforms": [{"transform": "WeightRenaming", "source_patterns": ["a"], "target_patterns": ["b"], "x": 1}]},
        {"transforms": [], "drop": [{"pattern": 3, "y": 1}]},
    ],
)
def test_a_form_that_is_no_mapping_is_refused(form):
    with pytest.raises(wb.MappingError) as caught:
        wb.Mapping.from_dict(form)
    assert caught.value.code == "mapping-invalid"


# ---- inverse ----


@pytest.mark.parametrize("rule", ONE_OF_EACH, ids=lambda rule: type(rule).__name__)
def test_an_inverse_stays_in_its_scope_and_inverts_back(rule):
    back = rule.inverse()
    assert back.scope == rule.scope
    assert type(back) is type(rule)
    again = back.inverse()
    assert [text.replace("\\", "") for text in again.source_patterns] == [
        text.replace("\\", "") for text in rule.source_patterns
    ]


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (wb.WeightRenaming(["x.w1", "x.w2"], "y.w"), "several sources share one target"),
        (wb.GroupWeightRename(["a", "b"], ["c", "c"]), "two pairs share one target"),
        (wb.WeightRenaming(r"(\w+)\.x", "y"), ""),
    ],
)
def test_a_rule_without_an_inverse_says_why(rule, reason):
    assert reason in one_way_reason(rule)
    assert one_way_reason(rule)
    with pytest.raises(wb.PatternError) as caught:
        rule.inverse()
    assert caught.value.code == "pattern-one-way"


def test_a_rule_with_one_way_runs_forward():
    assert keys_after([wb.WeightRenaming(["x.w1", "x.w2"], "y.w")], "x.w2", "z") == ["y.w", "z"]


def test_the_inverse_of_a_mapping_is_the_reversed_list():
    mapping = wb.Mapping([*ONE_OF_EACH[:2], ONE_OF_EACH[3]], name="m")
    back = mapping.inverse()
    assert [describe(rule) for rule in back] == [describe(rule.inverse()) for rule in reversed(mapping.transforms)]
    assert back.inverse() is mapping


def test_a_cast_that_does_not_know_where_it_came_from_has_no_inverse():
    rule = wb.WeightConverter("a", "b", [wb.Cast("bfloat16")])
    with pytest.raises(wb.LayoutError) as caught:
        rule.inverse()
    assert caught.value.code == "operation-one-way"


# ---- prefixes ----


@pytest.mark.parametrize(
    ("change", "before", "after"),
    [
        (wb.PrefixChange(prefix_to_add="model"), "norm.weight", "model.norm.weight"),
        (wb.PrefixChange(prefix_to_add="model"), "model.norm.weight", None),
        (wb.PrefixChange(prefix_to_add="model"), "model_b.weight", "model.model_b.weight"),
        (wb.PrefixChange(prefix_to_remove="model"), "model.norm.weight", "norm.weight"),
        (wb.PrefixChange(prefix_to_remove="model"), "model_b.weight", None),
        (wb.PrefixChange(prefix_to_remove="model"), "x.model.weight", None),
        (wb.PrefixChange(prefix_to_remove="a.b"), "a.b.c", "c"),
        (wb.PrefixChange(prefix_to_remove="a.b"), "a_b.c", None),
        (wb.PrefixChange(prefix_to_add="sub", scope="tower"), "tower.w", "tower.sub.w"),
        (wb.PrefixChange(prefix_to_add="sub", scope="tower"), "tower_b.w", None),
        (wb.PrefixChange(prefix_to_add="text", model_prefix="model"), "model.norm.w", "model.text.norm.w"),
        (wb.PrefixChange(prefix_to_add="text", model_prefix="model"), "model.text.norm.w", None),
        (wb.PrefixChange(prefix_to_add="text", model_prefix="model"), "lm_head.w", None),
        (wb.PrefixChange(prefix_to_remove="text", model_prefix="model", scope="m"), "m.model.text.w", "m.model.w"),
    ],
)
def test_a_prefix_is_added_where_it_lacks_and_removed_where_it_stands(change, before, after):
    assert rename_key(change, before) == after
    assert keys_after([change], before) == [after or before]
    if after is not None:
        assert rename_key(change.inverse(), after) == before


def test_a_prefix_change_remembers_nothing():
    """Keys with and without the prefix, in any order: each is looked at alone, and two that meet are an error."""
    add = [wb.PrefixChange(prefix_to_add="model")]
    assert keys_after(add, "model.a", "b") == ["model.a", "model.b"]
    assert keys_after(add, "b", "model.a") == ["model.a", "model.b"]
    with pytest.raises(wb.PlanError, match="target-collision"):
        keys_after(add, "a", "model.a")


# ---- groups ----


def test_a_group_renames_at_once():
    swap = wb.GroupWeightRename(["up", "gate"], ["gate", "up"])
    assert keys_after([swap], "mlp.up.w", "mlp.gate.w") == ["mlp.gate.w", "mlp.up.w"]
    plan = wb.plan({"mlp.up.w": torch.zeros(2), "mlp.gate.w": torch.ones(3)}, [swap])
    assert plan.target["mlp.gate.w"].shape == (2,)
    assert swap.inverse().inverse() == swap


def test_two_pairs_of_a_group_that_claim_one_key_are_an_error():
    group = wb.GroupWeightRename(["a", "b"], ["x", "y"])
    with pytest.raises(wb.PlanError) as caught:
        keys_after([group], "a.b")
    assert [(p.code, p.where) for p in caught.value.problems] == [("rule-overlap", "a.b")]
    with pytest.raises(wb.MappingError, match="rule-overlap"):
        rename_key(group, "a.b")


# ---- scope ----


def test_scopes_nest():
    inner = wb.WeightRenaming("^a", "b", scope="tower")
    assert scoped(inner, "model").scope == "model.tower"
    assert wb.Mapping([inner]).scoped("model").scoped("x").transforms[0].scope == "x.model.tower"
    assert keys_after(wb.Mapping([inner]).scoped("m"), "m.tower.a", "m.a", "tower.a") == ["m.a", "m.tower.b", "tower.a"]


def test_an_anchor_is_the_start_of_the_mounted_key():
    rule = [wb.WeightRenaming("^a", "b", scope="tower")]
    assert keys_after(rule, "tower.a.a", "a.tower.a", "tower.x.a", "a") == ["a", "a.tower.a", "tower.b.a", "tower.x.a"]


def test_the_mount_itself_is_not_below_itself():
    assert keys_after([wb.WeightRenaming("tower", "x", scope="tower")], "tower", "tower.tower") == ["tower", "tower.x"]


def test_the_inverse_of_a_mounted_mapping_is_the_mounted_inverse():
    mapping = wb.Mapping([wb.WeightRenaming("^a", "b")])
    for back in (mapping.scoped("p").inverse(), mapping.inverse().scoped("p")):
        assert list(wb.plan({"p.b.w": torch.zeros(2)}, back).target) == ["p.a.w"]


@pytest.mark.parametrize("kind", ["drop", "carry"])
def test_declared_exceptions_are_mounted_with_the_mapping(kind):
    """What a sub-model drops or carries is its own; its parent's tensor of the same name is not touched."""
    mounted = wb.Mapping([wb.WeightRenaming("a", "b")], **{kind: ["junk"]}).scoped("p")
    mapping = wb.Mapping([*mounted, wb.WeightRenaming("junk", "c")], **{kind: getattr(mounted, kind)})
    plan = wb.plan({key: torch.zeros(2) for key in ("p.a", "p.junk", "q.junk")}, mapping)
    fates = dict(plan.source_fates())
    assert fates["p.junk"].name == {"drop": "dropped", "carry": "carried"}[kind]
    assert fates["q.junk"].name == "moved"


@pytest.mark.parametrize("kind", RULE_KINDS.values(), ids=RULE_KINDS)
def test_declared_exceptions_are_values_of_their_kind(kind):
    rule = kind("a.b", "because", "tower")
    saved = ", saved=True" if kind is wb.Initialise else ""
    assert repr(rule) == f"{kind.__name__}(pattern='a.b', why='because', scope='tower'{saved})"
    assert pickle.loads(pickle.dumps(rule)) == rule == kind(pattern="a.b", why="because", scope="tower")
    assert [other("a.b", "because", "tower") == rule for other in RULE_KINDS.values()].count(True) == 1
    assert len({rule, kind("a.b", "because", "tower"), kind("a.b", "because")}) == 2
    with pytest.raises(AttributeError):
        rule.pattern = "c"
    with pytest.raises(wb.PatternError):
        kind("a(")


def test_an_explicit_scope_of_a_rule_is_part_of_what_it_is():
    twice = [wb.WeightRenaming("a", "b", scope=scope) for scope in ("", "x", "x.y")]
    assert len(wb.Mapping(twice)) == 3
    assert keys_after(twice[1:], "x.a", "a", "x.y.a.a") == ["a", "x.b", "x.y.b.b"]


def test_e_report_of_a_group_of_many_patterns_shows_a_few():
    names = [f"part{number}" for number in range(44)]
    group = wb.GroupWeightRename([f"old.{name}" for name in names], [f"new.{name}" for name in names])
    old, new = (", ".join(f"{side}.part{number}" for number in range(3)) for side in ("old", "new"))
    assert describe(group) == f"GroupWeightRename({old}, … of 44 -> {new}, … of 44)"
    assert describe(group, full=True).count("old.") == 44
    few = wb.GroupWeightRename(group.source_patterns[:6], group.target_patterns[:6])
    assert describe(few) == describe(few, full=True)
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(
            wb.Header({"old.part0": wb.TensorSpec("F32", (2,))}),
            [group],
            target=wb.Header({"new.part0": wb.TensorSpec("F32", (3,))}),
            layout="mapped",
        )
    assert "… of 44" in str(caught.value)
    assert "part43" not in str(caught.value)


@pytest.mark.parametrize(
    ("sources", "targets", "operations", "words"),
    [
        ("x.*.w", ["a", "b"], [wb.Split(sizes=[1, 2])], "Split divides one tensor, not one for each index"),
        (["x.*", "y.*"], ["a", "b"], [wb.Chunk(0)], "Chunk divides one tensor, not 2 for each index"),
        (["x", "y"], ["a", "b"], [wb.Chunk(0)], "Chunk divides one tensor, not 2"),
    ],
)
def test_e_operation_that_divides_says_what_it_was_given(sources, targets, operations, words):
    with pytest.raises(wb.MappingError) as caught:
        wb.WeightConverter(sources, targets, operations)
    assert caught.value.what == words


def test_e_taking_a_part_of_a_name_away_says_how():
    with pytest.raises(wb.MappingError) as caught:
        wb.WeightRenaming("_orig_mod", "")
    said = caught.value.hint.splitlines()
    assert said[0] == "to take it away, capture what stays: '_orig_mod.{rest:**}' -> '{rest}',"
    assert said[1] == "or PrefixChange(prefix_to_remove='_orig_mod') at the start alone"
    followed = [wb.WeightRenaming("_orig_mod.{rest:**}", "{rest}")]
    assert keys_after(followed, "_orig_mod.a.w", "b._orig_mod.w", "c._orig_mods.w") == ["a.w", "b.w", "c._orig_mods.w"]
