"""The way back by rules alone: all names that lead to one, what a target settles, what a failure says of a group."""

from __future__ import annotations

import pytest
import torch

import weighbridge as wb
from weighbridge.planning.way_back.inverting import proven_steps, steps_not_back
from weighbridge.planning.way_back.origins import find_origins, find_rivals, invert_rules
from weighbridge.planning.way_back.preimages import MOST_NAMES, Part, find_preimages, is_move


def header(**shapes: tuple[int, ...]) -> wb.Header:
    return wb.Header({key.replace("__", "."): wb.TensorSpec("F32", shape) for key, shape in shapes.items()})


# ---- all names that a mapping turns into one ----

STACK = wb.WeightConverter(["e.*.g", "e.*.u"], "e.gu", [wb.MergeModulelist(0), wb.Concatenate(1)])
SIZED, STACKED = wb.Concatenate(0, sizes=(1, 1)), wb.MergeModulelist(0)
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
    mapping = wb.Mapping([wb.WeightConverter(["q", "k"], "qk", [wb.Concatenate(0)])])
    assert find_preimages(mapping, ["a.qk"])["a.qk"].names == {"a.q", "a.qk"}
    mapping = wb.Mapping([wb.WeightConverter("all", "x.*.w", [wb.SplitModulelist(0)])])
    assert find_preimages(mapping, ["x.0.w"])["x.0.w"].names == {"all", "x.0.w"}
    mapping = wb.Mapping([wb.WeightRenaming("x", "y"), *mapping])
    assert find_preimages(mapping, ["x.0.w"])["x.0.w"].names == {"all"}, "the rule in front is not run again"
    names = {"h.3.e.0.g", "h.3.e.gu", "layers.3.e.0.g", "layers.3.e.gu"}
    assert find_preimages(MOVED.inverse(), ["h.3.e.0.g"])["h.3.e.0.g"].names == names


def test_a_converter_that_joins_fewer_than_another_means_its_first() -> None:
    mapping = wb.Mapping(
        [wb.WeightConverter(["q", "k"], "qk", [SIZED]), wb.WeightConverter("z", "qk", [wb.Transpose()])]
    )
    assert find_preimages(mapping, ["qk"], part=Part(lane=1))["qk"].names == {"k", "z", "qk"}


def test_names_that_no_rule_leads_to_are_none() -> None:
    """The name that a rule would have given away is not one that stays."""
    mapping = wb.Mapping([wb.WeightRenaming("^old", "new"), wb.WeightRenaming("^new", "newer")])
    assert find_preimages(mapping, ["newer.w"])["newer.w"].names == {"old.w", "new.w", "newer.w"}
    assert find_preimages(mapping, ["new.w"])["new.w"].names == set()
    both = wb.Mapping([wb.WeightConverter("a", name, [wb.Transpose(0, 1)]) for name in ("one", "other")])
    assert find_preimages(both, ["one"])["one"].names == {"one"}, "two rules claim the other name"


def test_a_name_that_comes_both_ways_is_likely_if_one_of_them_is() -> None:
    mapping = wb.Mapping([wb.WeightRenaming("^b", "c"), wb.WeightRenaming("^a", "b"), wb.WeightRenaming("x", "y")])
    found = find_preimages(mapping, ["b.y"])["b.y"]
    assert (found.names, found.likely) == ({"a.x", "a.y"}, {"a.x", "a.y"})


def test_a_place_that_has_not_moved_is_not_made_likely_by_another_rule() -> None:
    mapping = wb.Mapping([wb.WeightRenaming("x", "y"), wb.WeightRenaming("^a", "b")])
    found = find_preimages(mapping, ["b.y"])["b.y"]
    assert (found.names, found.likely) == ({"a.x", "a.y", "b.x", "b.y"}, {"a.x", "a.y"})


def test_a_rule_for_one_whole_name_has_told_it() -> None:
    """So has one that speaks of a whole name up to its indices; one that speaks of a part, or of any part, has not."""
    for source, target, key, likely in (
        ("stem", "conv.weight", "conv.weight", {"stem"}),
        ("stem", "conv.weight", "enc.conv.weight", {"enc.stem", "enc.conv.weight"}),
        ("stem.{i:int}.kernel", "conv.{i}.weight", "conv.3.weight", {"stem.3.kernel"}),
        ("{a}.kernel", "{a}.weight", "conv.weight", {"conv.kernel", "conv.weight"}),
    ):
        mapping = wb.Mapping([wb.WeightRenaming(source, target)])
        assert find_preimages(mapping, [key])[key].likely == likely, (source, key)


def test_names_that_change_places_have_changed_them_once() -> None:
    """A rule does not see what it has written itself: it is not run back over that either."""
    swap = wb.Mapping([wb.GroupWeightRename(["q", "k"], ["k", "q"])])
    found = find_preimages(swap, ["attn.q"])["attn.q"]
    assert (found.names, found.is_cut) == ({"attn.k"}, False)


def test_a_key_that_holds_the_mark_of_a_template_is_a_key_like_any_other() -> None:
    mapping = wb.Mapping([wb.WeightRenaming("h.{i:int}", "layers.{i}")])
    assert find_preimages(mapping, ["h.\ue000.w"])["h.\ue000.w"].names == {"h.\ue000.w"}


def test_more_ways_than_are_followed_are_said_to_be_cut() -> None:
    rules = [wb.WeightRenaming(f"x{i}", f"x{i + 1}") for i in range(MOST_NAMES)]
    for count, is_cut in ((MOST_NAMES - 1, False), (MOST_NAMES, True)):
        found = find_preimages(wb.Mapping(rules[:count]), [f"x{count}"])[f"x{count}"]
        assert (len(found.names), found.is_cut) == (MOST_NAMES, is_cut)


def test_a_way_back_with_more_ways_than_are_followed_is_not_the_only_one() -> None:
    """Beyond the limit nothing was said: the rest could hold another name, and a hundred rules are no rarity."""
    rules = [wb.WeightRenaming(f"^x{i}", f"x{i + 1}") for i in range(MOST_NAMES)]
    last = f"x{MOST_NAMES}"
    away = [wb.WeightConverter(f"^x{i}$", f"flat{i}", [wb.Reshape((-1,), (2,))]) for i in range(1, MOST_NAMES + 1)]
    for mapping, is_cut in ((wb.Mapping([*away, *rules]), True), (wb.Mapping([away[-1], rules[-1]]), False)):
        assert find_preimages(mapping, [last])[last].is_cut is is_cut
        back = wb.plan(header(**{last: (2,)}), mapping.inverse(), layout="auto")
        words = f"more than {MOST_NAMES} ways lead to it, and not all of them were followed"
        assert [words in choice for choice in back.choices] == [True] * is_cut


AWAY = wb.WeightConverter("^{name:gu|qk}$", "flat.{name}", [wb.Reshape((-1,), (2, 2))])
"""Whatever had such a name went away: no name stays."""


@pytest.mark.parametrize(
    ("rules", "key", "went", "other"),
    [
        ([wb.WeightRenaming("old_k", "k"), wb.WeightConverter(["q", "k"], "qk", [SIZED])], "qk", "old_k", "k"),
        ([wb.WeightRenaming("old_q", "q"), wb.WeightConverter(["q", "k"], "qk", [SIZED])], "qk", "old_q", "q"),
        ([wb.WeightRenaming("last", "e.1.w"), wb.WeightConverter("e.*.w", "gu", [STACKED])], "gu", "last", "e.1.w"),
        ([wb.WeightRenaming("first", "e.0.w"), wb.WeightConverter("e.*.w", "gu", [STACKED])], "gu", "first", "e.0.w"),
    ],
    ids=["second of two", "first of two", "second index", "first index"],
)
def test_each_part_of_what_is_taken_apart_is_looked_at(rules: list[wb.Transform], key: str, went: str, other: str):
    """A rule for one part, or for one index, leaves the name of that part open, and only the first was looked at."""
    mapping = wb.Mapping([AWAY, *rules])
    back = wb.plan(header(**{key: (2, 2)}), mapping.inverse())
    assert went in back.target
    (choice,) = back.choices
    assert choice.startswith(f"{key} goes back to {went}, by rule 3, 2; the mapping would make it of {other}, too")
    settled = wb.plan(header(**{key: (2, 2)}), mapping.inverse(), target=back.target)
    assert settled.choices == ()


def test_parts_that_no_rule_tells_apart_are_one() -> None:
    stacked = wb.Mapping([AWAY, wb.WeightRenaming("old", "e"), wb.WeightConverter("e.*.w", "gu", [STACKED])])
    back = wb.plan(header(gu=(40, 2)), stacked.inverse())
    assert len(back.target) == 40
    (choice,) = back.choices
    assert "the mapping would make it of e.0.w, too" in choice


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
    assert found == dict.fromkeys(("h.3.e.7.u", "h.3.e.0.g"), (("layers.3.e.gu",), (0, 1)))


def test_origin_is_not_changed_by_a_rule_in_front_of_the_one_that_makes_the_name() -> None:
    split = wb.WeightConverter("all", "x.*.w", [wb.SplitModulelist(0)])
    found = find_origins(wb.Mapping([wb.WeightRenaming("x", "y"), split]), ["x.0.w", "x.2.w"])
    assert found == {"x.0.w": (("all",), (1,)), "x.2.w": (("all",), (1,))}


def test_a_name_that_the_rules_would_not_stop_at_has_no_origin() -> None:
    mapping = wb.Mapping([wb.WeightRenaming("^a", "b"), wb.WeightRenaming("^b", "c")])
    assert find_origins(mapping, ["b", "c", "d"]) == {"c": (("a",), (0, 1))}


def test_of_two_rules_that_write_as_much_none_is_the_special_one() -> None:
    same = wb.Mapping([wb.WeightRenaming("^old", "new"), wb.WeightRenaming("^ancient", "new")])
    assert find_rivals(same, ["new.w"]) == {}
    special = wb.Mapping([wb.WeightRenaming("stem.kernel", "conv.weight"), wb.WeightRenaming(r"\.w$", ".weight")])
    found = find_rivals(special, ["pre.conv.weight"])["pre.conv.weight"]
    assert found == ((("pre.conv.w",), (1,)), (("pre.stem.kernel",), (0,)))
    longer = wb.Mapping([wb.WeightRenaming("^old.w", "new.w"), wb.WeightRenaming("^ancient", "new")])
    assert find_rivals(longer, ["new.w"]) == {"new.w": ((("ancient.w",), (1,)), (("old.w",), (0,)))}


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


@pytest.mark.parametrize("partial", [False, True])
def test_a_complete_target_settles_the_way_back_in_a_partial_one_too(partial: bool) -> None:
    """Then it was asked for nothing, and a name that it has was left as it was."""
    made = wb.plan(PUBLISHED, NORMS).target
    back = wb.plan(made, NORMS.inverse(), target=PUBLISHED, partial=partial)
    assert (back.target.specs, back.choices) == (PUBLISHED.specs, ())


def test_a_target_settles_what_it_has_a_place_for() -> None:
    """What either side has besides is left over, or left as it is, as a partial way back accepts."""
    made = wb.Header({**wb.plan(PUBLISHED, NORMS).target.specs, **header(head=(4,)).specs})
    target = wb.Header({**PUBLISHED.specs, **header(new=(5,)).specs})
    back = wb.plan(made, NORMS.inverse(), target=target, partial=True)
    assert back.target.specs.keys() == {*PUBLISHED.specs, "head"}
    assert [fated.key for fated in back.initialised] == ["new"]
    assert back.choices == ()


def test_a_target_settles_the_way_back_beside_a_cast_that_keeps_every_value() -> None:
    """One cast was enough to take all names of the mapping for open."""
    widen = wb.WeightConverter("^w", "wide", [wb.Cast("F32", "F16")])
    mapping = wb.Mapping([*NORMS, widen])
    published = wb.Header({**PUBLISHED.specs, "w": wb.TensorSpec("F16", (2,))})
    made = wb.plan(published, mapping).target
    back = wb.plan(made, mapping.inverse(), target=published)
    assert (back.target.specs, back.choices) == (published.specs, ())
    values = {key: torch.arange(len(spec.shape) + 2.0)[: spec.shape[0]] for key, spec in made.items()}
    assert back.state_dict(values)["w"].dtype == torch.float16
    narrow = wb.Mapping([*NORMS, wb.WeightConverter("^w", "wide", [wb.Cast("F16", "F32")])])
    rounded = wb.Header({**PUBLISHED.specs, "w": wb.TensorSpec("F32", (2,))})
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(wb.plan(rounded, narrow).target, narrow.inverse(), target=rounded)
    assert "source-unplaced" in caught.value.codes, "what was rounded is not known, and no target tells it"


def test_rules_that_settled_a_name_are_told_in_the_order_of_the_way_back() -> None:
    """A rule that only old files need has no number there: a target may have the names that it reads, all the same."""
    gamma, moved = wb.WeightRenaming("gamma", "weight"), wb.WeightRenaming("^x", "y")
    made, wanted = header(y__weight=(2,)), header(x__gamma=(2,))
    for legacy, rules in (([], (0, 1)), ([gamma], (0,))):
        back = wb.plan(made, wb.Mapping([gamma, moved], legacy=legacy).inverse(), target=wanted)
        (step,) = back.steps
        assert (step.sources, step.targets, step.rules) == (("y.weight",), ("x.gamma",), rules)
        assert back.choices == ()


def test_rules_that_only_old_files_need_have_no_part_in_a_way_back() -> None:
    gamma, moved = wb.WeightRenaming("gamma", "weight"), wb.WeightRenaming("^x", "y")
    assert invert_rules(wb.Mapping([gamma, moved])).numbers == (1, 0)
    assert invert_rules(wb.Mapping([gamma, moved], legacy=[gamma])).numbers == (1,)
    assert set(find_origins(wb.Mapping([gamma, moved], legacy=[gamma]), ["a.weight", "y.b"])) == {"y.b"}


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


def test_a_failure_reads_the_same_whatever_order_keys_come_in() -> None:
    shapes = {"a.q": (2, 3), "a.k": (2, 4), "b.q": (5, 3), "b.k": (5, 4), "c.q": (2,), "ck": (2,), "c.kk": (2,)}
    rules = [wb.WeightConverter([f"{n}.q", f"{n}.k"], f"{n}.qk", [wb.Concatenate(0)]) for n in "bac"]
    said = []
    for keys in (list(shapes), list(reversed(shapes))):
        with pytest.raises(wb.PlanError) as caught:
            wb.plan(wb.Header({key: wb.TensorSpec("F32", shapes[key]) for key in keys}), rules)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert [line.rpartition(" @ ")[2] for line in said[0].splitlines() if " @ " in line] == ["c.qk", "b.qk", "a.qk"]


# ---- whether one step undoes another ----

TURNED = [wb.Transpose(0, 1)]


def test_steps_undo_each_other_whatever_order_their_rules_list_the_tensors_in() -> None:
    source = header(a=(2, 3), b=(5, 7))
    saved = wb.plan(source, [wb.WeightConverter(["a", "b"], ["x", "y"], TURNED)]).inverse()
    for sources, targets, operations, is_back in (
        (["a", "b"], ["x", "y"], TURNED, True),
        (["b", "a"], ["y", "x"], TURNED, True),
        (["b", "a"], ["x", "y"], TURNED, False),
        (["b", "a"], ["y", "x"], [wb.Reshape([-1])], False),
    ):
        again = wb.plan(source, [wb.WeightConverter(sources, targets, operations)])
        assert steps_not_back(saved, again) == ([] if is_back else list(saved.steps)), (sources, targets)
    apart = wb.plan(source, [wb.WeightConverter(*names, TURNED) for names in (("a", "x"), ("b", "y"))])
    assert steps_not_back(saved, apart) == list(saved.steps)


def test_a_name_that_the_rules_lead_further_has_no_proven_way_back() -> None:
    mapping = wb.Mapping([wb.WeightRenaming("^a", "b"), wb.WeightRenaming("^b", "c")])
    assert proven_steps(mapping, header(b__w=(2,)), rules=(0, 1)) == ()
    assert [step.targets for step in proven_steps(mapping, header(c__w=(2,)), rules=(0, 1))] == [("a.w",)]


def test_a_tensor_that_the_rules_would_change_has_no_proven_way_back() -> None:
    """A rule that is not run back would fire on the name that the others lead back to."""
    mapping = wb.Mapping([wb.WeightConverter("^x$", "x", TURNED), wb.WeightRenaming("^x", "y")])
    assert [step.targets for step in proven_steps(mapping, header(y=(3, 3)), rules=(0, 1))] == [("x",)]
    assert proven_steps(mapping, header(y=(3, 3)), rules=(1,)) == ()


def test_a_target_settles_the_way_back_beside_a_cast_and_leaves_the_cast_to_the_rules() -> None:
    mapping = wb.Mapping([wb.WeightConverter("^a", "b", [wb.Cast("F32", "BF16")]), wb.WeightRenaming("^c", "d")])
    made = header(b=(2,), d=(3,))
    wanted = wb.Header({"a": wb.TensorSpec("BF16", (2,)), "c": wb.TensorSpec("F32", (3,))})
    plan = wb.plan(made, mapping.inverse(), wanted)
    assert plan.target.specs == wanted.specs
    assert plan.lossy_reasons == ("1 tensor cast from F32 to BF16",)


@pytest.mark.parametrize(
    ("keys", "more"),
    [
        (["h.y"], ""),
        (["h.0.y", "h.1.y", "h.2.y"], ", and 2 more like it"),
        (["h.y", "\ue000.y"], ", and 1 more like it"),
    ],
)
def test_names_alike_that_could_be_others_are_counted_in_one_line(keys: list[str], more: str) -> None:
    source = wb.Header({key: wb.TensorSpec("F32", (2,)) for key in keys})
    (line,) = wb.plan(source, wb.Mapping([wb.WeightRenaming("x", "y")]).inverse()).choices
    assert f", by rule 1{more}; it may have had that name already" in line


def test_a_target_that_the_rules_would_make_something_else_of_settles_nothing() -> None:
    """Two of its names lead to one tensor, or one of its tensors to more than there is."""
    moved = wb.Mapping([wb.WeightRenaming("^old", "new")])
    back = wb.plan(header(new__w=(2,)), moved.inverse(), header(old__w=(2,), new__w=(2,)), partial=True)
    assert [step.targets for step in back.steps] == [("old.w",)]
    assert len(back.choices) == 1
    cut = wb.Mapping([wb.WeightConverter("qk", ["q", "k"], [wb.Chunk(0)])])
    with pytest.raises(wb.PlanError):
        wb.plan(header(q=(2,)), cut.inverse(), header(qk=(4,)), partial=True)


@pytest.mark.parametrize("made", [{"a": "BF16", "b": "F32"}, {"a": "F32", "b": "BF16"}, {"a": "F16", "b": "F16"}])
def test_a_cast_is_undone_only_from_the_dtype_that_it_makes(made: dict[str, str]) -> None:
    widen = wb.Mapping([wb.WeightConverter("^w$", ["a", "b"], [wb.Cast("F32", "F16"), wb.Chunk(0)])])
    target = wb.Header({"w": wb.TensorSpec("F16", (4,))})
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(wb.Header({key: wb.TensorSpec(dtype, (2,)) for key, dtype in made.items()}), widen.inverse(), target)
    assert caught.value.codes == ("dtype-mismatch",)
    source = wb.Header(dict.fromkeys(made, wb.TensorSpec("F32", (2,))))
    assert wb.plan(source, widen.inverse(), target).choices == ()


def test_a_rule_that_did_not_fire_takes_nothing_for_granted() -> None:
    mapping = wb.Mapping([wb.WeightConverter(["q", "k"], "qk", [wb.Concatenate(0)])])
    assert wb.plan(header(norm=(2,)), mapping.inverse()).choices == ()
    assert len(wb.plan(header(qk=(2,)), mapping.inverse()).choices) == 1


def test_a_name_that_the_rules_would_change_again_goes_back_where_the_layout_is_declared() -> None:
    grown = wb.Mapping([wb.WeightRenaming("^a", "a.b")])
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(header(a__b__w=(2,)), grown.inverse())
    assert caught.value.codes == ("inverse-unproven",)
    assert list(wb.plan(header(a__b__w=(2,)), grown.inverse(), layout="mapped").target) == ["a.w"]


def test_a_rule_is_run_back_once() -> None:
    """It fits what it has made of a name once more, which changes nothing of how likely that name is."""
    mapping = wb.Mapping([wb.WeightRenaming("^", "model.")])
    key = "model." * (MOST_NAMES + 2) + "w"
    found = find_preimages(mapping, [key])[key]
    assert found == ({key.removeprefix("model.")}, {key.removeprefix("model.")}, False)


def test_a_name_of_whatever_characters_is_led_back_as_any_other() -> None:
    mapping = wb.Mapping([wb.WeightRenaming("^old", "new")])
    for rest in ("größe", "\ue001.w", "\ue900.w"):
        assert find_preimages(mapping, [f"new.{rest}"])[f"new.{rest}"].names == {f"old.{rest}", f"new.{rest}"}


def test_what_a_partial_way_back_has_no_place_for_goes_nowhere_else() -> None:
    """It keeps its name, and no rule has a part in that: only what was taken back could be another."""
    back, target = wb.Mapping([wb.WeightRenaming("a", "b")]).inverse(), header(model__a=(2,), model__b=(2,))
    (choice,) = wb.plan(header(b=(2,), model__b=(2,)), back, target, partial=True).choices
    assert choice.startswith("model.b goes back to model.a, by rule 1; ")


def test_a_rule_that_matches_a_name_in_two_places_leaves_the_way_back_open() -> None:
    """Forwards it runs where it matches first, and so each of two names becomes this one."""
    rules = wb.Mapping([wb.WeightConverter("c", "b", [wb.Transpose(0, 1)])])
    there = {key for name in ("a.b.c", "a.c.b") for key in wb.plan({name: torch.ones(2, 3)}, rules).target}
    assert there == {"a.b.b"}
    back = wb.plan({"a.b.b": torch.ones(3, 2)}, rules.inverse())
    assert list(back.target) == ["a.c.b"]
    assert any("the mapping would make it of a.b.c, too" in choice for choice in back.choices)
    settled = wb.plan({"a.b.b": torch.ones(3, 2)}, rules.inverse(), wb.Header({"a.b.c": wb.TensorSpec("F32", (2, 3))}))
    assert (list(settled.target), settled.choices) == (["a.b.c"], ())


def test_a_tensor_that_a_mapping_carries_is_none_that_it_could_have_renamed_already() -> None:
    rules = [wb.WeightRenaming("gamma$", "weight")]
    source = header(n__weight=(2,), x__gamma=(3,))
    assert set(wb.plan(source, wb.Mapping(rules, carry=["x.gamma"]).inverse()).target) == {"n.gamma", "x.gamma"}
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, wb.Mapping(rules).inverse())
    assert [problem.where for problem in caught.value.problems] == ["x.gamma"]
