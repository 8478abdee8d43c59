"""Equal tensors: several are made of one, one of several that must be equal; values come from plain torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file

import weighbridge as wb
from weighbridge.planning.plan import EQUALS_VERSION, PLAN_VERSION
from weighbridge.planning.stored import read_plan
from weighbridge.testing import check_round_trip

Tensors = dict[str, torch.Tensor]


def numbers(*shape: int, start: int = 0) -> torch.Tensor:
    count = int(torch.tensor(shape).prod()) if shape else 1
    return torch.arange(start, start + count, dtype=torch.float32).reshape(shape)


K, Q, TABLE = numbers(4, 3), numbers(4, 3, start=100), numbers(5, start=200)
RANKS = [f"ranks.{rank}.k" for rank in range(4)]


class Case(NamedTuple):
    """Tensors of the side of the one, a rule, and what must come of it."""

    one: Tensors
    rule: wb.WeightConverter
    several: Tensors
    config: Any = None


def rule(sources: str | list[str], targets: str | list[str], *operations: Any) -> wb.WeightConverter:
    return wb.WeightConverter(sources, targets, operations)


CASES = {
    "untied": Case({"embed": K}, rule("embed", ["embed", "head"], wb.Repeat()), {"embed": K, "head": K}),
    "a table of all layers": Case(
        {"table": TABLE}, rule("table", "layers.*.table", wb.Repeat(3)), {f"layers.{i}.table": TABLE for i in range(3)}
    ),
    "layers used twice": Case(
        {f"layers.{i}.w": Q + i for i in range(2)},
        rule("layers.{i:0|1}.w", ["twice.{i}.w", "twice.{i+2}.w"], wb.Repeat()),
        {f"twice.{i}.w": Q + i % 2 for i in range(4)},
    ),
    "heads for four ranks": Case(
        {"k": K},
        rule("k", RANKS, wb.Chunk(0), wb.Repeat(2)),
        dict(zip(RANKS, [K[:2], K[:2], K[2:], K[2:]], strict=True)),
    ),
    "heads for four ranks by their number": Case(
        {"k": K},
        rule("k", "ranks.*.k", wb.Chunk(0, "kv_heads"), wb.Repeat(2)),
        dict(zip(RANKS, [K[:2], K[:2], K[2:], K[2:]], strict=True)),
        {"kv_heads": 2},
    ),
    "heads within one tensor": Case(
        {"k": K},
        rule("k", "kk", wb.Rearrange("(h d) c -> h d c", h=2), wb.Repeat(3), wb.MergeModulelist(1),
             wb.Rearrange("h r d c -> (h r d) c", h=2, r=3)),
        {"kk": K.reshape(2, 2, 3).repeat_interleave(3, 0).reshape(12, 3)},
    ),
    "experts of one matrix": Case(
        {"up": K},
        rule("up", "experts.up", wb.Transpose(0, 1), wb.Repeat(3), wb.MergeModulelist(0)),
        {"experts.up": K.T.expand(3, 3, 4)},
    ),
    "a LoRA factor of three": Case(
        {"l.qkv.lora_A.weight": Q},
        rule("qkv.lora_A", [f"{part}.lora_A" for part in "qkv"], wb.Repeat()),
        {f"l.{part}.lora_A.weight": Q for part in "qkv"},
    ),
    "each of two, fused": Case(
        {"q": Q, "k": K}, rule(["q", "k"], "qqkk", wb.Repeat(2), wb.Concatenate(0)), {"qqkk": torch.cat([Q, Q, K, K])}
    ),
    "repeated twice": Case(
        {"k": K}, rule("k", "ranks.*.k", wb.Repeat(3), wb.Transpose(0, 1), wb.Repeat(2)),
        {f"ranks.{i}.k": K.T for i in range(6)},
    ),
}  # fmt: skip
"""By what they are for."""

by_name = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def same(found: Tensors, wanted: Tensors) -> bool:
    """Tell whether tensors are the same, and each has memory of its own."""
    places = {tensor.data_ptr() for tensor in found.values()}
    equal = all(torch.equal(found[key], tensor) for key, tensor in wanted.items())
    return found.keys() == wanted.keys() and equal and len(places) == len(found)


@by_name
def test_one_becomes_several_and_comes_back(case: Case) -> None:
    plan = wb.plan(case.one, [case.rule], config=case.config)
    assert {fate.name for _, fate in plan.source_fates()} == {"shared"}
    assert plan.is_exact
    assert plan.conditions == ()
    made = plan.state_dict()
    assert same(made, case.several)
    back = plan.inverse(made)
    assert {fate.name for _, fate in back.source_fates()} == {"checked"}
    assert back.inverse() == plan
    assert same(back.state_dict(), case.one)


@by_name
def test_several_become_one_by_the_inverse_of_the_rule(case: Case) -> None:
    """Derived, and not recorded: it makes what the recorded way back makes."""
    several = {key: tensor.clone() for key, tensor in case.several.items()}
    plan = wb.plan(several, wb.Mapping([case.rule]).inverse(), config=case.config)
    assert same(dict(plan.stream()), case.one)
    recorded = wb.plan(case.one, [case.rule], config=case.config).inverse()
    assert [(step.sources, step.targets) for step in plan.steps] == [(s.sources, s.targets) for s in recorded.steps]
    assert plan.conditions == recorded.conditions
    assert {key for condition in plan.conditions for way in condition.ways for key in way} == set(several)


@by_name
def test_files_go_there_and_back_byte_for_byte(case: Case, tmp_path: Path) -> None:
    sides = {name: {key: tensor.contiguous().clone() for key, tensor in tensors.items()}
             for name, tensors in (("one", case.one), ("several", case.several))}  # fmt: skip
    rules = {"one": wb.Mapping([case.rule]), "several": wb.Mapping([case.rule.inverse()])}
    for name, tensors in sides.items():
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors")
        out = wb.convert(tmp_path / name, tmp_path / f"{name} there", rules[name], config=case.config)
        other = sides["several" if name == "one" else "one"]
        assert same(load_file(out / "model.safetensors"), other)
        wb.revert(out, tmp_path / f"{name} back")
        raw = [(tmp_path / place / "model.safetensors").read_bytes() for place in (name, f"{name} back")]
        assert raw[0] == raw[1]


@by_name
def test_authors_laws_hold_both_ways(case: Case) -> None:
    for tensors, mapping in ((case.one, case.rule), (case.several, case.rule.inverse())):
        header = wb.Header({key: wb.TensorSpec("F32", tuple(tensor.shape)) for key, tensor in tensors.items()})
        check_round_trip([mapping], header, config=case.config)


# ---- what differs ----


def refused(run: Callable[[], Any]) -> wb.WeighbridgeError:
    with pytest.raises(wb.PlanError) as caught:
        run()
    assert caught.value.codes == ("sources-differ",)
    return caught.value.problems[0]


def test_the_first_element_that_differs_is_named_by_the_sources_own_indices() -> None:
    fused = torch.cat([Q, Q, K, K])
    fused[6, 1] = -1.0
    plan = wb.plan({"qqkk": fused}, wb.Mapping([CASES["each of two, fused"].rule]).inverse())
    problem = refused(plan.state_dict)
    assert problem.where == "q"
    assert problem.got.splitlines() == ["qqkk[2, 1] is 107.0, 0x42d60000", "qqkk[6, 1] is -1.0, 0xbf800000"]


def test_every_one_that_differs_is_named() -> None:
    several = {f"layers.{i}.table": TABLE + (i > 1) for i in range(4)}
    plan = wb.plan(several, [rule("layers.*.table", "table", wb.MergeEqual())])
    with pytest.raises(wb.PlanError) as caught:
        plan.state_dict()
    assert [problem.got.splitlines()[1].split("[")[0] for problem in caught.value.problems] == [
        "layers.2.table",
        "layers.3.table",
    ]


def test_a_difference_far_into_large_tensors_is_found() -> None:
    """They are compared a window at a time, whose number of elements is no part of what is said."""
    one = torch.zeros(700, 1000)
    other = one.clone()
    other[699, 998] = 1
    problem = refused(wb.plan({"a": one, "b": other}, [rule(["a", "b"], "c", wb.MergeEqual())]).state_dict)
    assert problem.got.splitlines()[1] == "b[699, 998] is 1.0, 0x3f800000"


def test_bits_are_compared_and_not_numbers() -> None:
    """Two kinds of what is no number differ, and so do the two zeros; the same bits are equal, no number or not."""
    bits = torch.tensor([0x7FC00000, 0x7FC00001, 0, -(2**31)], dtype=torch.int32)
    both = [rule(["a", "b"], "c", wb.MergeEqual())]
    values = bits.view(torch.float32)
    assert refused(wb.plan({"a": values[0:1].clone(), "b": values[1:2].clone()}, both).state_dict)
    assert refused(wb.plan({"a": values[2:3].clone(), "b": values[3:4].clone()}, both).state_dict)
    made = wb.plan({"a": values[:2].clone(), "b": values[:2].clone()}, both).state_dict()
    assert torch.equal(made["c"].view(torch.int32), bits[:2])


def test_what_differs_before_a_cast_is_not_equal() -> None:
    """Rounded, both would be the same."""
    one = torch.tensor([1.0, 2.0])
    several = {"a": one, "b": one + 2**-20}
    assert torch.equal(several["a"].bfloat16(), several["b"].bfloat16())
    for operations, options in (([wb.MergeEqual(), wb.Cast("BF16")], {}), ([wb.MergeEqual()], {"dtype": "bfloat16"})):
        plan = wb.plan(several, [rule(["a", "b"], "c", *operations)], **options)
        assert refused(plan.state_dict).where == "c"
    equal = wb.plan({"a": one, "b": one.clone()}, [rule(["a", "b"], "c", wb.MergeEqual(), wb.Cast("BF16"))])
    assert torch.equal(equal.state_dict()["c"], one.bfloat16())


def test_targets_of_two_dtypes_come_back_if_the_wider_one_holds_the_others_values() -> None:
    plan = wb.plan({"a": Q}, [rule("a", ["b", "c"], wb.Repeat())], dtype={"c": "float64"})
    made = plan.state_dict()
    assert made["c"].dtype == torch.float64
    assert same(plan.inverse(made).state_dict(), {"a": Q})
    made["c"][0, 0] += 2**-40  # below what the narrower one can hold
    assert refused(plan.inverse(made).state_dict).where == "a"


def test_a_model_stays_as_it_was() -> None:
    model = torch.nn.Linear(3, 4, bias=False)
    before = model.weight.detach().clone()
    source = {"one": K, "two": K + 1}
    refused(lambda: wb.load(model, source, [rule(["one", "two"], "weight", wb.MergeEqual())]))
    assert torch.equal(model.weight, before)
    wb.load(model, source | {"two": K.clone()}, [rule(["one", "two"], "weight", wb.MergeEqual())])
    assert torch.equal(model.weight, K)


def test_a_model_that_was_trained_since_is_not_saved_as_one_tensor(tmp_path: Path) -> None:
    model = torch.nn.ModuleDict({name: torch.nn.Linear(3, 4, bias=False) for name in ("embed", "head")})
    wb.load(model, {"table": K}, [rule("table", ["embed.weight", "head.weight"], wb.Repeat())])
    assert model["embed"].weight.data_ptr() != model["head"].weight.data_ptr()
    wb.save(model, tmp_path / "same")
    assert same(load_file(tmp_path / "same" / "model.safetensors"), {"table": K})
    with torch.no_grad():
        model["head"].weight[1, 2] = 9
    problem = refused(lambda: wb.save(model, tmp_path / "trained"))
    assert "head.weight[1, 2] is 9.0" in problem.got
    assert not (tmp_path / "trained").exists()
    wb.save(model, tmp_path / "own", layout="as is")
    assert load_file(tmp_path / "own" / "model.safetensors")["head.weight"][1, 2] == 9


def test_a_tied_model_takes_what_is_shared() -> None:
    model = torch.nn.ModuleDict({name: torch.nn.Linear(3, 4, bias=False) for name in ("embed", "head")})
    model["head"].weight = model["embed"].weight
    wb.load(model, {"table": K}, [rule("table", ["embed.weight", "head.weight"], wb.Repeat())])
    assert model["head"].weight is model["embed"].weight
    assert torch.equal(model["head"].weight, K)


# ---- what a target says ----


def test_a_target_says_how_many() -> None:
    target = wb.Header({f"layers.{i}.table": wb.TensorSpec("F32", (5,)) for i in range(4)})
    plan = wb.plan({"table": TABLE}, [rule("table", "layers.*.table", wb.Repeat())], target)
    assert same(plan.state_dict(), {f"layers.{i}.table": TABLE for i in range(4)})
    with pytest.raises(wb.PlanError) as caught:
        wb.plan({"table": TABLE}, [rule("table", "layers.*.table", wb.Repeat())])
    assert caught.value.codes == ("operation-argument",)
    with pytest.raises(wb.PlanError) as caught:
        wb.plan({"table": TABLE}, [rule("table", "layers.*.table", wb.Repeat(3))], target)
    assert caught.value.codes == ("target-missing",)


def test_parts_of_unequal_size_are_repeated_as_the_targets_have_them() -> None:
    shapes = {"q.0": 3, "q.1": 3, "k.0": 1, "k.1": 1}
    target = wb.Header({key: wb.TensorSpec("F32", (rows, 3)) for key, rows in shapes.items()})
    plan = wb.plan({"qk": K}, [rule("qk", list(shapes), wb.Chunk(0), wb.Repeat(2))], target)
    assert same(plan.state_dict(), {"q.0": K[:3], "q.1": K[:3], "k.0": K[3:], "k.1": K[3:]})


def test_a_selection_keeps_what_it_needs() -> None:
    plan = wb.plan({"k": K, "x": Q}, [CASES["heads for four ranks"].rule]).restrict("ranks.2.k")
    assert same(plan.state_dict(), {"ranks.2.k": K[2:]})
    both = wb.plan({"k": K}, [CASES["heads for four ranks"].rule]).restrict(["ranks.2.k", "ranks.3.k"])
    assert same(both.state_dict(), {"ranks.2.k": K[2:], "ranks.3.k": K[2:]})
    several = {key: tensor.clone() for key, tensor in CASES["each of two, fused"].several.items()}
    several["qqkk"][13] += 1  # a row of the second k
    whole = wb.plan(several, wb.Mapping([CASES["each of two, fused"].rule]).inverse())
    assert same(whole.restrict("q").state_dict(), {"q": Q})
    assert refused(whole.restrict("k").state_dict).where == "k"


# ---- stored plans ----


def test_only_a_plan_with_equal_tensors_has_the_newer_version() -> None:
    plain = wb.plan({"k": K}, [rule("k", "j", wb.Transpose(0, 1))])
    shared = wb.plan({"k": K}, [rule("k", ["j", "i"], wb.Repeat())])
    for plan, version in ((plain, PLAN_VERSION), (shared, EQUALS_VERSION), (shared.inverse(), EQUALS_VERSION)):
        form = json.loads(plan.to_json())
        assert form["version"] == version
        assert read_plan(form) == plan
        form["version"] = PLAN_VERSION + EQUALS_VERSION - version
        with pytest.raises(wb.PlanError) as caught:
            read_plan(form)
        assert caught.value.code == "plan-format"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda step: step.__setitem__(3, "moved"), "another fate than its keys and its program say"),
        (lambda step: step.__setitem__(3, "shared"), "another fate than its keys and its program say"),
        (lambda step: step.__setitem__(2, ["c", "d"]), "another fate than its keys and its program say"),
    ],
)
def test_a_step_whose_fate_is_not_that_of_its_keys_is_refused(change: Callable[[list[Any]], None], what: str) -> None:
    form = json.loads(wb.plan({"a": K, "b": K.clone()}, [rule(["a", "b"], "c", wb.MergeEqual())]).to_json())
    change(form["steps"][0])
    with pytest.raises(wb.PlanError) as caught:
        read_plan(form)
    assert what in str(caught.value)


def test_a_key_of_two_specs_is_refused() -> None:
    form = json.loads(wb.plan({"a": K, "b": K.clone()}, [rule(["a", "b"], "c", wb.MergeEqual())]).to_json())
    form["programs"][0]["targets"][1][1] = [12]
    with pytest.raises(wb.PlanError) as caught:
        read_plan(form)
    assert "has two specs" in str(caught.value)


def test_a_receipt_that_says_something_else_was_checked_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    save_file({"a": K, "b": K.clone()}, tmp_path / "in" / "model.safetensors")
    out = wb.convert(tmp_path / "in", tmp_path / "out", [rule(["a", "b"], "c", wb.MergeEqual())])
    path = out / "weighbridge.json"
    form = json.loads(path.read_text())
    assert form["checked"] == [["c", [["a"], ["b"]]]]
    path.write_text(json.dumps({**form, "checked": []}))
    with pytest.raises(wb.CheckpointError) as caught:
        wb.revert(out, tmp_path / "back")
    assert caught.value.code == "receipt-invalid"


# ---- what cannot be meant ----


@pytest.mark.parametrize(
    ("sources", "targets", "operations", "what"),
    [
        ("a", "b", [wb.Repeat()], "makes an index that the targets do not have"),
        ("a", "b", [wb.Repeat(2)], "makes an index that the targets do not have"),
        ("a", ["b", "c", "d"], [wb.Repeat(2)], "give 2 tensors for 3"),
        (["a", "b"], ["c", "d"], [wb.Repeat()], "repeats one tensor"),
        ("a", ["b", "c"], [wb.Repeat(), wb.Chunk(0)], "needs a number"),
        ("a", "b", [wb.MergeEqual()], "merges an index that the sources do not have"),
        (["a", "b", "c"], "d", [wb.MergeEqual(2)], "does not divide 3 tensors"),
        (["a", "b"], ["c", "d"], [wb.MergeEqual()], "give one tensor for 2"),
        ("a.*", "b.*", [wb.MergeEqual(2), wb.Transpose(0, 1), wb.Chunk(0)], ""),
    ],
)
def test_patterns_and_numbers_have_to_fit(sources: Any, targets: Any, operations: list[Any], what: str) -> None:
    with pytest.raises(wb.MappingError) as caught:
        wb.WeightConverter(sources, targets, operations)
    assert caught.value.code == "mapping-invalid"
    assert what in str(caught.value)


@pytest.mark.parametrize("times", [1, 0, -2, True, "two", 1.5, 2**17])
def test_a_number_is_one_of_several(times: Any) -> None:
    for operation in (wb.Repeat, wb.MergeEqual):
        with pytest.raises(wb.LayoutError) as caught:
            operation(times)
        assert caught.value.code in ("operation-argument", "layout-fragmented")


@pytest.mark.parametrize(
    ("several", "code"),
    [
        ({"a": K, "b": K[:3]}, "shape-mismatch"),
        ({"a": K, "b": K.double()}, "dtype-mismatch"),
        ({"a": K}, "group-incomplete"),
    ],
)
def test_what_cannot_be_equal_is_refused_by_the_headers(several: Tensors, code: str) -> None:
    header = {
        key: wb.TensorSpec({torch.float32: "F32"}.get(t.dtype, "F64"), tuple(t.shape)) for key, t in several.items()
    }
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(wb.Header(header), [rule(["a", "b"], "c", wb.MergeEqual())])
    assert caught.value.codes == (code,)


def test_two_names_for_one_result_are_no_equal_tensors() -> None:
    """A later rule gives both targets one name: nothing says that these are meant to be one."""
    with pytest.raises(wb.PlanError) as caught:
        wb.plan({"k": K}, [rule("k", ["i", "j"], wb.Repeat()), wb.WeightRenaming("i", "j")])
    assert caught.value.codes == ("target-collision",)
