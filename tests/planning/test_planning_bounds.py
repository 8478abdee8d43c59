"""Planning takes time and memory by the number of keys, whatever the numbers in them, and every loop ends."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from bounded import run_bounded
from hypothesis import given, strategies as st

import weighbridge as wb
from weighbridge.base.spelling import gaps

HUGE = 300_000_000


def header(**shapes: tuple[int, ...]) -> wb.Header:
    """Return a header; `__` in a name stands for a dot."""
    return wb.Header({name.replace("__", "."): wb.TensorSpec("F32", shape) for name, shape in shapes.items()})


def codes(source: wb.Header, rules: list[wb.Transform], target: wb.Header | None = None, **options: object) -> set[str]:
    """Codes of all that is wrong with a plan."""
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, rules, target, **options)
    return {problem.code for problem in caught.value.problems}


# G9: no number in a key, a shape or a configuration decides how much is done

MERGES = {
    "stack": '[wb.WeightConverter("experts.*.w", "experts", [wb.MergeModulelist(0)])]',
    "join": '[wb.WeightConverter("experts.*.w", "experts", [wb.Concatenate(0)])]',
    "two lanes": """[
        wb.WeightConverter(["experts.*.w", "experts.*.v"], "experts", [wb.MergeModulelist(0), wb.Concatenate(1)])
    ]""",
    "ernie": '[wb.WeightConverter("experts.*.w", ["text", "vision"], [wb.ErnieFuseAndSplitTextVisionExperts()])]',
}


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("number", [HUGE, 10**17])
@pytest.mark.parametrize("rules", MERGES.values(), ids=MERGES)
def test_g9_an_index_may_be_any_number(rules: str, number: int, partial: bool) -> None:
    found = run_bounded(f"""
        names = [f"experts.{{i}}.{{name}}" for i in (0, 7, {number}) for name in "wv"]
        source = wb.Header({{name: wb.TensorSpec("F32", (2, 2)) for name in names}})
        target = wb.Header({{"other": wb.TensorSpec("F32", (1,))}})
        return len(wb.plan(source, {rules}, target if {partial} else None, partial={partial}).steps)
    """)
    assert found.codes == ("plan-failed", "target-missing" if partial else "group-incomplete")
    assert ("missing: 1..6,8.." in found.text) != partial


def test_g9_explaining_an_incomplete_group_takes_no_room_for_what_is_missing() -> None:
    found = run_bounded(f"""
        from weighbridge.reporting.membership import missing_members
        rules = wb.Mapping({MERGES["stack"]})
        return missing_members(rules, ["experts.{HUGE}.w", "experts.3.w"], "experts.3.w")
    """)
    assert found.value[1] == f"  experts.*.w  2 of {HUGE + 1}: {{3,{HUGE}}}; missing: {{0..2,4..{HUGE - 1}}}"


SPLITS = {
    "unbind": '[wb.WeightConverter("e", "e.*.w", [wb.SplitModulelist(0)])]',
    "shards of the configuration": '[wb.WeightConverter("e", "e.*.w", [wb.Chunk(0, num_shards_attribute="n")])]',
    "ernie": '[wb.WeightConverter("e", ["a.*.w", "b.*.w"], [wb.ErnieSplitAndDecoupleTextVisionExperts()])]',
    "after a movement": '[wb.WeightConverter("e", "e.*.w", [wb.Transpose(1, 2), wb.SplitModulelist(0)])]',
}


@pytest.mark.parametrize("width", [0, 2])
@pytest.mark.parametrize("rules", SPLITS.values(), ids=SPLITS)
def test_g9_a_shape_or_a_configuration_may_ask_for_any_number_of_parts(rules: str, width: int) -> None:
    found = run_bounded(f"""
        source = wb.Header({{"e": wb.TensorSpec("U8", ({HUGE}, {width}, 2))}})
        return len(wb.plan(source, {rules}, config={{"n": {HUGE}}}).steps)
    """)
    assert found.codes == ("plan-failed", "layout-fragmented")
    assert "too many parts" in found.text


@pytest.mark.parametrize("operation", ["PermuteForRope()", 'Chunk(0, num_shards_attribute="num_attention_heads")'])
@pytest.mark.parametrize("number", [10**5000, -(10**5000), 2**63], ids=["huge", "negative", "64 bits"])
def test_g9_a_number_of_the_configuration_may_have_any_number_of_digits(operation: str, number: int) -> None:
    rules = [wb.WeightConverter("q", "p.*" if "Chunk" in operation else "p", [eval(f"wb.{operation}")])]
    assert codes(header(q=(8, 4)), rules, config={"num_attention_heads": number}) == {"operation-config"}


@pytest.mark.parametrize(
    "make",
    [
        lambda n: wb.Reshape((n, -1)),
        lambda n: wb.SplitModulelist(-n),
        lambda n: wb.Split(0, (1, n)),
        lambda n: wb.Rearrange("(a b) -> b a", a=n),
    ],
)
def test_g9_an_argument_of_an_operation_fits_63_bits(make) -> None:
    with pytest.raises(wb.LayoutError) as caught:
        make(10**5000)
    assert caught.value.code == "operation-argument"
    assert len(str(caught.value)) < 500


def test_g14_a_rearrangement_has_a_limited_length() -> None:
    found = run_bounded("""
        names = " ".join(f"a{k}" for k in range(60_000))
        return str(wb.Rearrange(f"{names} -> {names}"))
    """)
    assert found.codes == ("operation-argument",)


@pytest.mark.parametrize("count", [63, 64, 10**6])
def test_g14_a_tensor_that_is_made_has_at_most_64_axes(count: int) -> None:
    found = run_bounded(f"""
        reshape = wb.Reshape((1,) * {count} + (2,))
        source = wb.Header({{"a": wb.TensorSpec("F32", (2,))}})
        return len(wb.plan(source, [wb.WeightConverter("a", "b", [reshape])]).steps)
    """)
    assert found.value == 1 if count == 63 else found.codes == ("plan-failed", "shape-mismatch")


@given(st.sets(st.integers(0, 40)), st.integers(0, 45))
def test_gaps_are_the_numbers_that_are_not_there(present: set[int], stop: int) -> None:
    found = gaps(present, stop)
    assert [number for first, last in found for number in range(first, last)] == sorted(set(range(stop)) - present)
    assert all(first < last for first, last in found)
    assert all(left[1] < right[0] for left, right in pairwise(found))


# G10: what a converter makes is counted up to the first name that comes twice


@pytest.mark.parametrize(
    "after",
    [
        wb.WeightRenaming("experts.{i:int}.w", "expert.w"),
        wb.WeightRenaming(r"^experts\.(\d+)\.", "expert."),
        wb.GroupWeightRename(["experts.{i:int}.w", "other"], ["expert.w", "another"]),
    ],
)
@pytest.mark.parametrize("operation", [wb.SplitModulelist(0), wb.Chunk(0, num_shards_attribute="n")])
def test_g10_a_rename_that_drops_the_made_index_is_a_collision(after: wb.Transform, operation: wb.Operation) -> None:
    shape = (3,) if operation == wb.SplitModulelist(0) else (1, 3)
    rules = [wb.WeightConverter("experts", "experts.*.w", [operation]), after]
    found = codes(header(experts=(2, 3)), rules, header(expert__w=shape), config={"n": 2})
    assert found == {"target-collision"}


def test_g10_a_made_index_that_others_have_dropped_too_is_a_collision() -> None:
    rules = [
        wb.WeightConverter(["x", "y"], ["x.*.w", "y.*.w"], [wb.SplitModulelist(0)]),
        wb.WeightRenaming("(x|y).{i:int}.w", "z.{i}.w"),
    ]
    found = codes(header(x=(2, 3), y=(2, 3)), rules, header(z__0__w=(3,), z__1__w=(3,)))
    assert found == {"target-collision"}


# G2: each lane of a converter has its own names


def numbers(*shape: int, start: int = 0) -> torch.Tensor:
    """Return distinct values."""
    return torch.arange(start, start + torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)


SPLIT = wb.WeightConverter(["x.w", "y.w"], ["a.*.w", "b.*.w"], [wb.SplitModulelist(0)])
UNEVEN = {"x.w": numbers(2, 3), "y.w": numbers(4, 3, start=100)}
DEALT = {f"{new}.{i}.w": UNEVEN[old][i] for old, new in (("x.w", "a"), ("y.w", "b")) for i in range(len(UNEVEN[old]))}


def is_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(one[key].equal(other[key]) for key in one)


@pytest.mark.parametrize("target", [None, DEALT])
def test_g2_lanes_of_unequal_lengths_keep_their_names(target: dict[str, torch.Tensor] | None) -> None:
    plan = wb.plan(UNEVEN, [SPLIT], target)
    made = plan.state_dict()
    assert is_equal(made, DEALT)
    assert is_equal(plan.inverse().state_dict(), UNEVEN)


def test_g2_lanes_of_unequal_lengths_are_stacked_where_a_target_says_how_long_they_are() -> None:
    back = wb.Mapping([SPLIT]).inverse()
    assert is_equal(wb.plan(DEALT, back, UNEVEN).state_dict(), UNEVEN)
    assert is_equal(wb.plan(DEALT, [back.transforms[0]], UNEVEN).state_dict(), UNEVEN)
    assert codes(wb.open(DEALT).header, [back.transforms[0]]) == {"group-incomplete"}


@pytest.mark.parametrize(
    ("rows", "code"), [((3, 4), "group-incomplete"), ((2, 3), "spec-mismatch"), ((2, 5), "spec-mismatch")]
)
def test_g2_lanes_that_are_not_as_long_as_the_target_says_are_an_error(rows: tuple[int, int], code: str) -> None:
    target = wb.Header(
        {name: wb.TensorSpec("F32", (count, 3)) for name, count in zip(("x.w", "y.w"), rows, strict=True)}
    )
    found = codes(wb.open(DEALT).header, [wb.Mapping([SPLIT]).inverse().transforms[0]], target)
    assert found == {code}


@given(st.lists(st.integers(1, 5), min_size=2, max_size=3), st.booleans(), st.randoms(use_true_random=False))
def test_g2_any_lengths_keep_their_names(lengths: list[int], has_target: bool, chance) -> None:
    names = "xyz"[: len(lengths)]
    source = {
        name: numbers(count, 2, 3, start=100 * k) for k, (name, count) in enumerate(zip(names, lengths, strict=True))
    }
    wanted = {f"new.{name}.{i}": row.T for name in names for i, row in enumerate(source[name])}
    operations = (
        [wb.SplitModulelist(0), wb.Transpose(0, 1)]
        if chance.random() < 0.5
        else [wb.Transpose(1, 2), wb.SplitModulelist(0)]
    )
    rules = [wb.WeightConverter(list(names), [f"new.{name}.*" for name in names], operations)]
    shuffled = dict(chance.sample(list(source.items()), len(source)))
    assert is_equal(wb.plan(shuffled, rules, wanted if has_target else None).state_dict(), wanted)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_members_of_unequal_sizes_are_joined_in_the_order_of_their_indices(order: list[int]) -> None:
    held = {f"e.{i}.w": numbers(i + 1, 2, start=10 * i) for i in order}
    plan = wb.plan(held, [wb.WeightConverter("e.*.w", "e", [wb.Concatenate(0)])])
    assert plan.state_dict()["e"].equal(torch.cat([held[f"e.{i}.w"] for i in range(3)]))


# A6: groups of one rule that differ in size


def group_sizes(**sizes: int) -> wb.Header:
    return wb.Header({f"{n}.e.{i}.w": wb.TensorSpec("F32", (1, 3)) for n, count in sizes.items() for i in range(count)})


@pytest.mark.parametrize("operation", [wb.MergeModulelist(0), wb.Concatenate(0), wb.Concatenate(1)])
def test_a6_a_group_without_its_last_member_is_noted(operation: wb.Operation) -> None:
    rules = [wb.WeightConverter("e.*.w", "e", [operation])]
    plan = wb.plan(group_sizes(l0=3, l1=2, l2=3, l3=3), rules)
    (note,) = plan.notes
    assert note.startswith("rule 1 joins 3 tensors into l0.e and 2 more, but 2 into l1.e: ")
    assert f"note      {note}" in str(plan.report)
    assert wb.plan(group_sizes(l0=3, l1=3), rules).notes == ()


def test_a6_convert_prints_the_note(tmp_path, capsys) -> None:
    from safetensors.torch import save_file

    from weighbridge.cli.app import app

    folder = tmp_path / "model"
    folder.mkdir()
    save_file(
        {f"l.{k}.e.{i}.w": numbers(2) for k, n in enumerate((3, 2)) for i in range(n)}, folder / "model.safetensors"
    )
    (tmp_path / "stack.yaml").write_text("transforms: [{convert: 'e.*.w', to: e, with: [MergeModulelist: {dim: 0}]}]")
    with pytest.raises(SystemExit) as ended:
        app(["convert", str(folder), str(tmp_path / "out"), str(tmp_path / "stack.yaml")])
    assert ended.value.code == 0
    assert "note      rule 1 joins 3 tensors into l.0.e, but 2 into l.1.e" in capsys.readouterr().out


def test_a6_a_target_settles_it() -> None:
    rules = [wb.WeightConverter("e.*.w", "e", [wb.MergeModulelist(0)])]
    source = group_sizes(l0=3, l1=2)
    right = wb.Header({"l0.e": wb.TensorSpec("F32", (3, 1, 3)), "l1.e": wb.TensorSpec("F32", (2, 1, 3))})
    assert wb.plan(source, rules, right).notes == ()
    wrong = wb.Header({key: wb.TensorSpec("F32", (3, 1, 3)) for key in right})
    assert codes(source, rules, wrong) == {"group-incomplete"}


# A8: an index that cannot be moved is an error, and never a rule that does not fire


UNMOVED = {
    "leading zero": (
        ["layer_02.w", "layer_10.w"],
        "^layer_{i:int}",
        "layers.{i+1}",
        "02, for {i+1}, has leading zeros",
    ),
    "of a segment": (["layers.002.w"], r"layers\.(\d+)", "blocks.{1+2}", "leading zeros"),
    "negative": (["l.0.w", "l.1.w"], "l.{i:int}", "m.{i-1}", "0, for {i-1}, would become negative"),
    "by more": (["l.7.w"], "l.{i:int}.w", "m.{i-8}.w", "negative"),
    "in a source": (["layer_02.w"], "^layer_{i+1}", "layers.{i}", "02, for {i+1}, has leading zeros"),
    "in a source, backwards": (["layer_00.w"], "^layer_{i-1}", "layers.{i}", "leading zeros"),
    "in a source, before another": (["a.02.b.3"], "{i+1}", "{i}", "leading zeros"),
    "in a source, behind one that stays": (["h.00.e.02.w"], "h.{l:int}.e.{i+1}", "h.{l}.e.{i}", "02, for {i+1}, has"),
    "too large": ([f"l.{10**18}.w"], "l.{i:int}", "m.{i+1}", "more than 18 digits"),
    "in a source, too large": (["l.1" + "0" * 4000 + ".w"], "l.{i+1}", "m.{i}", "more than 18 digits"),
}


@pytest.mark.parametrize(("keys", "source", "target", "words"), UNMOVED.values(), ids=UNMOVED)
def test_a8_an_index_that_cannot_be_moved_is_an_error(keys: list[str], source: str, target: str, words: str) -> None:
    for scope in ("", "tower"):
        named = wb.Header({f"{scope}.{key}".strip("."): wb.TensorSpec("F32", (3,)) for key in keys})
        for rule in (
            wb.WeightRenaming(source, target, scope=scope),
            wb.GroupWeightRename([source, "x"], [target, "y"], scope=scope),
        ):
            with pytest.raises(wb.PlanError) as caught:
                wb.plan(named, [rule])
            (problem,) = caught.value.problems
            assert problem.code == "index-out-of-range"
            assert words in problem.got.replace("'", "")
            assert problem.where.endswith(keys[0])
            assert len(str(problem)) < 20_000


@pytest.mark.parametrize(
    ("key", "source", "target"),
    [("e.0.q", "e.{i:int}.q", "f.{i-1}.q"), ("e_01.q", "e_{i:int}.q", "f.{i+1}.q"), (f"e.{10**20}.q", "e.*.q", "f.q")],
)
def test_a8_a_converter_says_so_as_well(key: str, source: str, target: str) -> None:
    operation = wb.MergeModulelist(0) if "*" in source else wb.Transpose(0, 1)
    assert codes(wb.Header({key: wb.TensorSpec("F32", (2, 3))}), [wb.WeightConverter(source, target, [operation])]) == {
        "index-out-of-range"
    }


def test_a8_a_guard_declares_what_is_left_alone() -> None:
    names = {f"l.{i}.w": (3,) for i in ("0", "1", "02")}
    source = wb.Header({name: wb.TensorSpec("F32", shape) for name, shape in names.items()})
    rules = [wb.WeightRenaming(r"^l.(?!0){i:int}", "m.{i-1}"), wb.WeightRenaming(r"^l.02\.", "m.1.")]
    assert set(wb.plan(source, rules).target) == {"l.0.w", "m.0.w", "m.1.w"}


def test_a8_an_index_of_a_source_is_at_least_its_offset() -> None:
    rules = [wb.WeightRenaming("^l.{i+1}", "m.{i}"), wb.WeightRenaming("^l.0", "stem")]
    assert set(wb.plan(header(l__0__w=(3,), l__1__w=(3,)), rules).target) == {"stem.w", "m.0.w"}


def test_a8_an_explanation_says_which_index_it_is() -> None:
    plan = wb.plan(header(l__1__w=(3,)), [wb.WeightRenaming("^l.{i:int}", "m.{i-1}")])
    assert "cannot be used: '0', for {i-1}, would become negative" in str(plan.explain("l.0.w"))
