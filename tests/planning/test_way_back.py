"""The way back by rules alone: all names that lead to one, what a target settles, what a failure says of a group."""

from __future__ import annotations

import pytest

import weighbridge as wb
from weighbridge.planning.way_back.origins import find_origins
from weighbridge.planning.way_back.preimages import MOST_NAMES, find_preimages, is_move


def header(**shapes: tuple[int, ...]) -> wb.Header:
    return wb.Header({key.replace("__", "."): wb.TensorSpec("F32", shape) for key, shape in shapes.items()})


# ---- all names that a mapping turns into one ----

STACK = wb.WeightConverter(["e.*.g", "e.*.u"], "e.gu", [wb.MergeModulelist(0), wb.Concatenate(1)])
MOVED = wb.Mapping([wb.WeightRenaming("^h", "layers"), STACK])


def test_names_of_a_stack_are_those_of_its_first_member() -> None:
    """Each rule is run back or not; a converter once, and of the index that it uses up the first is named."""
    found = find_preimages(MOVED, ["layers.3.e.gu"])["layers.3.e.gu"]
    assert found.names == {"h.3.e.0.g", "h.3.e.gu", "layers.3.e.0.g", "layers.3.e.gu"}
    assert found.likely == {"h.3.e.0.g", "h.3.e.gu"}
    assert not found.is_cut


def test_names_of_one_part_are_its_own_and_that_of_the_whole() -> None:
    mapping = wb.Mapping([wb.WeightConverter("qk", ["q", "k"], [wb.Chunk(0)])])
    assert find_preimages(mapping, ["a.k"])["a.k"].names == {"a.qk", "a.k"}
    mapping = wb.Mapping([wb.WeightConverter("all", "x.*.w", [wb.SplitModulelist(0)])])
    assert find_preimages(mapping, ["x.0.w"])["x.0.w"].names == {"all", "x.0.w"}


def test_names_that_no_rule_leads_to_are_none() -> None:
    """The name that a rule would have given away is not one that stays."""
    mapping = wb.Mapping([wb.WeightRenaming("^old", "new"), wb.WeightRenaming("^new", "newer")])
    assert find_preimages(mapping, ["newer.w"])["newer.w"].names == {"old.w", "new.w", "newer.w"}
    assert find_preimages(mapping, ["new.w"])["new.w"].names == set()


def test_a_name_that_comes_both_ways_is_likely_if_one_of_them_is() -> None:
    mapping = wb.Mapping([wb.WeightRenaming("^b", "c"), wb.WeightRenaming("^a", "b"), wb.WeightRenaming("x", "y")])
    found = find_preimages(mapping, ["b.y"])["b.y"]
    assert (found.names, found.likely) == ({"a.x", "a.y"}, {"a.x", "a.y"})


def test_a_rule_for_one_whole_name_has_told_it() -> None:
    """So has one that speaks of a whole name up to its indices; one that speaks of a part, or of any part, has not."""
    told = wb.WeightRenaming(r"^stem\.{i:int}\.kernel$", "conv.{i}.weight")
    assert find_preimages(wb.Mapping([told]), ["conv.3.weight"])["conv.3.weight"].likely == {"stem.3.kernel"}
    part = wb.WeightRenaming("kernel", "weight")
    assert find_preimages(wb.Mapping([part]), ["conv.weight"])["conv.weight"].likely == {"conv.kernel", "conv.weight"}
    any_part = wb.WeightRenaming("{a}.kernel", "{a}.weight")
    found = find_preimages(wb.Mapping([any_part]), ["conv.weight"])["conv.weight"]
    assert found.likely == {"conv.kernel", "conv.weight"}


def test_more_ways_than_are_followed_are_said_to_be_cut() -> None:
    rules = [wb.WeightRenaming(f"x{i}", f"x{i + 1}") for i in range(MOST_NAMES)]
    for count, is_cut in ((MOST_NAMES - 1, False), (MOST_NAMES, True)):
        found = find_preimages(wb.Mapping(rules[:count]), [f"x{count}"])[f"x{count}"]
        assert (len(found.names), found.is_cut) == (MOST_NAMES, is_cut)


@pytest.mark.parametrize(
    ("rule", "moves"),
    [
        (wb.PrefixChange(prefix_to_add="model"), True),
        (wb.PrefixChange(prefix_to_remove="model"), False),
        (wb.WeightRenaming("^old", "model.new"), True),
        (wb.WeightRenaming("old", "model.new"), False),
        (wb.WeightRenaming("^old.", "^"), False),
        (wb.WeightRenaming(["^a", "^b"], "c"), True),
        (wb.WeightRenaming(["^a", "b"], "c"), False),
        (wb.WeightConverter("^a", "b", [wb.Transpose(0, 1)]), False),
        (wb.GroupWeightRename(["^a", "^b"], ["b", "a"]), False),
    ],
    ids=repr,
)
def test_a_rule_that_moves_a_place_begins_with_the_key_and_names_where_to(rule: wb.Transform, moves: bool) -> None:
    assert is_move(rule) is moves


def test_origin_has_the_index_of_the_name_it_leads_to() -> None:
    """Of a tensor that is cut to pieces the whole is the origin of each piece, whichever number it has."""
    found = find_origins(MOVED.inverse(), ["h.3.e.7.u", "h.3.e.0.g"])
    assert {key: origin.sources for key, origin in found.items()} == {
        "h.3.e.7.u": ("layers.3.e.gu",),
        "h.3.e.0.g": ("layers.3.e.gu",),
    }


# ---- what a target settles ----

NORMS = wb.Mapping([wb.WeightRenaming("ln_post", "layer_norm"), wb.WeightRenaming("ln", "layer_norm")])
PUBLISHED = header(enc__ln_post=(2,), dec__ln=(3,))


@pytest.mark.parametrize(
    ("beside", "wanted", "options"),
    [
        ({"step": ()}, {"step": ()}, {"carry": "step"}),
        ({"step": ()}, {}, {"drop": "step"}),
        ({}, {"head": (5,)}, {"initialise": "head"}),
    ],
    ids=["carried", "dropped", "initialised"],
)
def test_a_target_settles_the_way_back_beside_what_is_declared(beside, wanted, options) -> None:
    """A tensor that an exception names comes from no rule, and does not keep the others from being settled."""
    made = wb.Header({**wb.plan(PUBLISHED, NORMS).target.specs, **header(**beside).specs})
    target = wb.Header({**PUBLISHED.specs, **header(**wanted).specs})
    back = wb.plan(made, NORMS.inverse(), target=target, **options)
    assert back.choices == ()
    assert {step.sources: step.targets for step in back.steps if step.rules} == {
        ("dec.layer_norm",): ("dec.ln",),
        ("enc.layer_norm",): ("enc.ln_post",),
    }


# ---- what is said of a reading ----


def test_a_checkpoint_that_is_read_as_it_is_needs_no_rule() -> None:
    """That none fired is worth a note only where they were to."""
    mapping = wb.Mapping([wb.WeightRenaming("gamma", "weight")])
    assert wb.plan(header(w=(2,)), mapping, layout="as is").notes == ()
    assert wb.plan(header(w=(2,)), mapping, layout="mapped").notes == ("no rule of the mapping fired on any tensor",)


def test_what_a_group_lacks_is_looked_for_in_its_own_layer() -> None:
    shapes = {"layers.0.q.weight": 2, "layers.0.k.weight": 2, "layers.1.q.weight": 2, "layers.1.kk.weight": 2}
    source = wb.Header({key: wb.TensorSpec("F32", (rows,)) for key, rows in shapes.items()})
    join = wb.WeightConverter(["q.weight", "k.weight"], "qk.weight", [wb.Concatenate(0)])
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, [join])
    (problem,) = caught.value.problems
    assert problem.got.splitlines()[1].strip() == "nearest keys: layers.1.kk.weight, layers.1.q.weight"
