"""Rows that come and go, and parts that no tensor has: declared values beside those of plain torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file

import weighbridge as wb
from weighbridge.planning.plan import DECLARED_VERSION, EQUALS_VERSION, PLAN_VERSION
from weighbridge.planning.stored import read_plan
from weighbridge.testing import check_round_trip

Tensors = dict[str, torch.Tensor]


def numbers(*shape: int, start: int = 1) -> torch.Tensor:
    count = int(torch.tensor(shape).prod())
    return torch.arange(start, start + count, dtype=torch.float32).reshape(shape)


def rule(sources: str | list[str], targets: str | list[str], *operations: Any) -> wb.WeightConverter:
    return wb.WeightConverter(sources, targets, operations)


class Case(NamedTuple):
    """Tensors without declared values, a rule that adds them, what it must give, and what becomes of the targets."""

    short: Tensors
    rule: wb.WeightConverter
    long: Tensors
    fates: set[str]
    config: Any = None


E, HEAD, BIAS = numbers(11, 3), numbers(4, 5, start=100), numbers(4, start=200)
NAN = torch.tensor([0x7FC1], dtype=torch.int16).view(torch.bfloat16)
PADDED = {"padded"}

CASES = {
    "a vocabulary to a multiple": Case(
        {"embed": E}, rule("embed", "embed", wb.Pad(0, multiple_of=8, source_size=11)),
        {"embed": torch.cat([E, torch.zeros(5, 3)])}, PADDED,
    ),
    "to a size, by a value, turned and renamed": Case(
        {"old": HEAD}, rule("old", "new", wb.Pad(1, 7, value=-2.5, source_size=5), wb.Transpose(0, 1)),
        {"new": torch.cat([HEAD, torch.full((4, 2), -2.5)], 1).T}, PADDED,
    ),
    "to sizes of the configuration": Case(
        {"embed": E}, rule("embed", "embed", wb.Pad(-2, "text.rows*ranks", value=1, source_size="vocab_size")),
        {"embed": torch.cat([E, torch.ones(5, 3)])}, PADDED, {"vocab_size": 11, "text": {"rows": 4}, "ranks": 4},
    ),
    "a bias of logits that are never taken": Case(
        {"bias": BIAS}, rule("bias", "bias", wb.Pad(0, 6, value="-inf", source_size=4)),
        {"bias": torch.cat([BIAS, torch.full((2,), -torch.inf)])}, PADDED,
    ),
    "whole numbers": Case(
        {"ids": torch.arange(4)}, rule("ids", "ids", wb.Pad(0, 6, value=-100, source_size=4)),
        {"ids": torch.tensor([0, 1, 2, 3, -100, -100])}, PADDED,
    ),
    "a value by its bits": Case(
        {"w": HEAD.bfloat16()}, rule("w", "w", wb.Pad(0, 5, value="bits:0x7fc1", source_size=4)),
        {"w": torch.cat([HEAD.bfloat16(), NAN.expand(1, 5)])}, PADDED,
    ),
    "on two axes": Case(
        {"w": HEAD}, rule("w", "w", wb.Pad(0, 6, source_size=4), wb.Pad(1, 8, value=9, source_size=5)),
        {"w": torch.cat([torch.cat([HEAD, torch.zeros(2, 5)]), torch.full((6, 3), 9.0)], 1)}, PADDED,
    ),
    "each of a list": Case(
        {f"experts.{i}.w": HEAD + 50 * i for i in range(3)},
        rule("experts.*.w", "experts.w", wb.Pad(0, 6, value=7, source_size=4), wb.MergeModulelist(0)),
        {"experts.w": torch.stack([torch.cat([HEAD + 50 * i, torch.full((2, 5), 7.0)]) for i in range(3)])}, PADDED,
    ),
    "one of several that are joined": Case(
        {"a": HEAD, "b": E[:, :1].expand(11, 5).clone()},
        rule(["a", "b"], "ab", wb.On([0], wb.Pad(0, 8, source_size=4)), wb.Concatenate(0, sizes=(8, 11))),
        {"ab": torch.cat([HEAD, torch.zeros(4, 5), E[:, :1].expand(11, 5)])}, PADDED,
    ),
    "an absent bias": Case(
        {"q.bias": BIAS, "v.bias": BIAS + 4}, rule(["q.bias", "v.bias"], "qkv.bias",
            wb.InsertConstant(1, ("kv_heads*head_dim",)), wb.Concatenate(0, sizes=(4, 2, 4))),
        {"qkv.bias": torch.cat([BIAS, torch.zeros(2), BIAS + 4])}, PADDED, {"kv_heads": 1, "head_dim": 2},
    ),
    "equal parts, one of them declared": Case(
        {"k.bias": BIAS, "v.bias": BIAS + 4},
        rule(["k.bias", "v.bias"], "qkv.bias", wb.InsertConstant(0, (4,), 1), wb.Concatenate(0)),
        {"qkv.bias": torch.cat([torch.ones(4), BIAS, BIAS + 4])}, PADDED,
    ),
    "a bias that no tensor has": Case(
        {"q.weight": HEAD}, rule("q.weight", ["q.weight", "q.bias"], wb.InsertConstant(1, (4,))),
        {"q.weight": HEAD, "q.bias": torch.zeros(4)}, {"filled", "declared"},
    ),
    "repeated and padded": Case(
        {"k": HEAD}, rule("k", ["ranks.0.k", "ranks.1.k"], wb.Repeat(2), wb.Pad(0, 6, value=3, source_size=4)),
        {f"ranks.{i}.k": torch.cat([HEAD, torch.full((2, 5), 3.0)]) for i in range(2)}, PADDED,
    ),
}  # fmt: skip
"""By what they are for."""

by_name = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def same(found: Tensors, wanted: Tensors) -> bool:
    """Tell whether tensors are the same, bit for bit."""
    pairs = ((found[key], tensor.contiguous()) for key, tensor in wanted.items() if key in found)
    equal = all(one.dtype == two.dtype and one.shape == two.shape and raw(one) == raw(two) for one, two in pairs)
    return found.keys() == wanted.keys() and equal


def raw(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.detach().contiguous().view(-1).view(torch.uint8).tolist())


def clones(tensors: Tensors) -> Tensors:
    return {key: tensor.contiguous().clone() for key, tensor in tensors.items()}


# ---- there and back ----


@by_name
def test_what_is_added_is_there_and_is_cut_off_again(case: Case) -> None:
    plan = wb.plan(case.short, [case.rule], config=case.config)
    assert {fate.name for _, fate in plan.target_fates()} == case.fates
    assert plan.is_exact
    assert plan.conditions == ()
    made = plan.state_dict()
    assert same(made, case.long)
    back = plan.inverse(made)
    assert back.conditions
    assert back.inverse() == plan
    assert same(back.state_dict(), case.short)


@by_name
def test_the_inverse_of_the_rule_gives_what_the_recorded_way_back_gives(case: Case) -> None:
    long = clones(case.long)
    plan = wb.plan(long, wb.Mapping([case.rule]).inverse(), config=case.config)
    assert same(dict(plan.stream()), case.short)
    recorded = wb.plan(case.short, [case.rule], config=case.config).inverse()
    assert [(step.sources, step.targets, step.fate) for step in plan.steps] == [
        (step.sources, step.targets, step.fate) for step in recorded.steps
    ]
    assert sorted(plan.conditions) == sorted(recorded.conditions)
    again = plan.inverse(plan.state_dict())
    assert same(again.state_dict(), case.long)


@by_name
def test_files_go_there_and_back_byte_for_byte(case: Case, tmp_path: Path) -> None:
    sides = {"short": clones(case.short), "long": clones(case.long)}
    rules = {"short": wb.Mapping([case.rule]), "long": wb.Mapping([case.rule.inverse()])}
    for name, tensors in sides.items():
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors")
        out = wb.convert(tmp_path / name, tmp_path / f"{name} there", rules[name], config=case.config, digests=True)
        other = sides["long" if name == "short" else "short"]
        assert same(load_file(out / "model.safetensors"), other)
        assert wb.verify(out)
        wb.revert(out, tmp_path / f"{name} back")
        held = [(tmp_path / place / "model.safetensors").read_bytes() for place in (name, f"{name} back")]
        assert held[0] == held[1]
    back = wb.convert(tmp_path / "short there", tmp_path / "by rule", rules["short"], reverse=True, config=case.config)
    assert same(load_file(back / "model.safetensors"), sides["short"])


@by_name
def test_authors_laws_hold_both_ways(case: Case) -> None:
    codes = {torch.float32: "F32", torch.float64: "F64", torch.bfloat16: "BF16", torch.int64: "I64"}
    for tensors, mapping in ((case.short, case.rule), (case.long, case.rule.inverse())):
        header = wb.Header({key: wb.TensorSpec(codes[x.dtype], tuple(x.shape)) for key, x in tensors.items()})
        check_round_trip([mapping], header, config=case.config)


@by_name
def test_a_part_of_the_memory_is_enough(case: Case, tmp_path: Path) -> None:
    plan = wb.plan(clones(case.short), [case.rule], config=case.config)
    for budget in (16, 24, 1000):
        plan.write(tmp_path / f"{budget}", memory_budget=budget, sync=False)
        assert same(load_file(tmp_path / f"{budget}" / "model.safetensors"), clones(case.long))


def test_long_runs_are_moved_by_the_kernel_and_the_rest_is_filled(tmp_path: Path) -> None:
    """A tensor whose source has runs worth a call, and more of a declared value than a window holds."""
    table = torch.randn(3000, 100)
    (tmp_path / "in").mkdir()
    save_file({"w": table}, tmp_path / "in" / "model.safetensors")
    pad = rule("w", "w", wb.Pad(0, 9000, value=-1.5, source_size=3000))
    out = wb.convert(tmp_path / "in", tmp_path / "out", [pad], memory_budget=2**20)
    assert same(load_file(out / "model.safetensors"), {"w": torch.cat([table, torch.full((6000, 100), -1.5)])})
    loaded = wb.plan(tmp_path / "in", [pad]).state_dict()
    assert same(loaded, load_file(out / "model.safetensors"))
    wb.revert(out, tmp_path / "back", memory_budget=2**20)
    assert (tmp_path / "back" / "model.safetensors").read_bytes() == (
        tmp_path / "in" / "model.safetensors"
    ).read_bytes()


def test_a_changed_byte_of_what_was_filled_in_is_found(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    save_file({"embed": E}, tmp_path / "in" / "model.safetensors")
    out = wb.convert(tmp_path / "in", tmp_path / "out", [CASES["a vocabulary to a multiple"].rule], digests=True)
    content = bytearray((out / "model.safetensors").read_bytes())
    content[-2] ^= 1
    (out / "model.safetensors").write_bytes(content)
    with pytest.raises(wb.VerifyError) as caught:
        wb.verify(out).require_equal()
    assert "embed" in str(caught.value)


# ---- what is to be cut off holds something else ----


def refused(run: Callable[[], Any]) -> wb.WeighbridgeError:
    with pytest.raises(wb.PlanError) as caught:
        run()
    assert caught.value.codes == ("padding-differs",)
    return caught.value.problems[0]


def test_the_rows_that_hold_something_else_are_named() -> None:
    table = torch.cat([E, torch.zeros(9, 3)])
    table[13, 1], table[17:19] = 0.25, -1.0
    problem = refused(wb.plan({"embed": table}, [rule("embed", "embed", wb.Trim(0, 11))]).state_dict)
    assert problem.where == "embed"
    assert problem.got.splitlines() == ["embed[13, 1] is 0.25, 0x3e800000", "in 3 rows of axis 0: 13,17,18"]
    assert problem.expected == "0, 0x00000000, in all of it"


def test_a_column_and_a_part_of_a_stack_are_named_by_the_sources_own_indices() -> None:
    wide = torch.cat([HEAD, torch.zeros(4, 3)], 1)
    wide[2, 6] = 1.0
    turned = rule("w", "w", wb.Trim(1, 5), wb.Transpose(0, 1))
    problem = refused(wb.plan({"w": wide}, [turned]).state_dict)
    assert problem.got.splitlines() == ["w[2, 6] is 1.0, 0x3f800000", "in 1 row of axis 1: 6"]
    qkv = torch.cat([BIAS, torch.zeros(2), BIAS])
    qkv[5] = 3.0
    inverse = wb.Mapping([CASES["an absent bias"].rule]).inverse()
    problem = refused(wb.plan({"qkv.bias": qkv}, inverse, config=CASES["an absent bias"].config).state_dict)
    assert problem.got.splitlines()[0] == "qkv.bias[5] is 3.0, 0x40400000"


def test_bits_are_compared_and_not_numbers() -> None:
    """Two kinds of what is no number differ, and so do the two zeros."""
    bits = torch.tensor([0x7FC00000, 0x7FC00001, 0, -(2**31)], dtype=torch.int32).view(torch.float32)
    for value, held, other in (("nan", bits[0], bits[1]), (0, bits[2], bits[3]), ("-0.0", bits[3], bits[2])):
        trim = [rule("b", "b", wb.Trim(0, 4, value=value))]
        kept = wb.plan({"b": torch.cat([BIAS, held.view(1)])}, trim).state_dict()
        assert same(kept, {"b": BIAS})
        assert refused(wb.plan({"b": torch.cat([BIAS, other.view(1)])}, trim).state_dict)


def test_what_is_no_number_is_that_in_another_dtype_whatever_its_bits() -> None:
    """A cast keeps no payload: one that was written, read and written again may have others."""
    half = HEAD.half()
    rules = [rule("w", "w", wb.Pad(0, 6, value="nan", source_size=4))]
    plan = wb.plan({"w": half}, rules, dtype={"**": "F32"})
    made = plan.state_dict()["w"]
    made.view(torch.int32)[4:] = torch.tensor([0x7FC00000, 0x7FC00001, 0x7FFFFFFF, -1, -(2**22)], dtype=torch.int32)
    assert same(plan.inverse({"w": made}).state_dict(), {"w": half})
    made[5, 2] = 0
    refused(plan.inverse({"w": made}).state_dict)


def test_what_differs_before_a_cast_is_not_what_was_declared() -> None:
    """Rounded, it would be."""
    long = torch.cat([BIAS, torch.tensor([1 + 2**-20])])
    assert long.bfloat16()[4] == 1
    for operations, options in (
        ([wb.Trim(0, 4, value=1), wb.Cast("BF16")], {}),
        ([wb.Trim(0, 4, value=1)], {"dtype": "BF16"}),
    ):
        assert refused(wb.plan({"b": long}, [rule("b", "b", *operations)], **options).state_dict)


def test_a_difference_far_into_large_tensors_is_found() -> None:
    """It is compared a window at a time."""
    table = torch.zeros(900, 1000)
    table[:200] = torch.randn(200, 1000)
    table[899, 998] = 1
    problem = refused(wb.plan({"w": table}, [rule("w", "w", wb.Trim(0, 200))]).state_dict)
    assert problem.got.splitlines() == ["w[899, 998] is 1.0, 0x3f800000", "in 1 row of axis 0: 899"]


def test_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    save_file({"embed": torch.cat([E, E])}, tmp_path / "in" / "model.safetensors")
    refused(lambda: wb.convert(tmp_path / "in", tmp_path / "out", [rule("embed", "embed", wb.Trim(0, 11))]))
    assert not (tmp_path / "out").exists()
    plan = wb.plan(tmp_path / "in", [rule("embed", "embed", wb.Trim(0, 11))])
    refused(lambda: next(plan.stream()))


# ---- models ----


def embedding(rows: int) -> torch.nn.ModuleDict:
    return torch.nn.ModuleDict({"embed": torch.nn.Embedding(rows, 3)})


PAD_TO_TARGET = rule("embed.weight", "embed.weight", wb.Pad(0))


def test_a_model_says_how_long_its_vocabulary_is(tmp_path: Path) -> None:
    """To the model's size and back to the file's, which the record has; and nothing else may be cut off."""
    model = embedding(16)
    wb.load(model, {"embed.weight": E}, [PAD_TO_TARGET])
    assert torch.equal(model["embed"].weight, torch.cat([E, torch.zeros(5, 3)]))
    wb.save(model, tmp_path / "same")
    assert same(load_file(tmp_path / "same" / "model.safetensors"), {"embed.weight": E})
    with torch.no_grad():
        model["embed"].weight[12, 2] = 9
    problem = refused(lambda: wb.save(model, tmp_path / "trained"))
    assert problem.got.splitlines()[1] == "in 1 row of axis 0: 12"
    assert 'layout="as is"' in problem.hint
    assert not (tmp_path / "trained").exists()
    wb.save(model, tmp_path / "own", layout="as is")
    assert load_file(tmp_path / "own" / "model.safetensors")["embed.weight"][12, 2] == 9


def test_a_model_on_meta_and_one_that_is_cast_since(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = embedding(16)
    wb.load(model, {"embed.weight": E}, [rule("embed.weight", "embed.weight", wb.Pad(0, value=0.1015625))])
    assert torch.equal(model["embed"].weight, torch.cat([E, torch.full((5, 3), 0.1015625)]))
    model.bfloat16()
    wb.save(model, tmp_path / "half")
    assert same(load_file(tmp_path / "half" / "model.safetensors"), {"embed.weight": E.bfloat16()})


@pytest.mark.parametrize("rows", [0, 3])
def test_a_model_that_is_cast_since_gets_back_what_was_cut_off_in_its_dtype(rows: int, tmp_path: Path) -> None:
    rules = [rule("weight", "weight", wb.Trim(1, size=1, multiple_of=2, value=3))]
    model, again = torch.nn.Module(), torch.nn.Module()
    for each in (model, again):
        each.weight = torch.nn.Parameter(torch.zeros(rows, 1))
    wb.load(model, {"weight": torch.full((rows, 2), 3.0).half()}, rules)
    model.double()
    wb.save(model, tmp_path / "out")
    assert same(load_file(tmp_path / "out" / "model.safetensors"), {"weight": torch.full((rows, 2), 3.0).double()})
    wb.load(again, tmp_path / "out", rules)
    assert torch.equal(again.weight, model.weight)


def test_a_model_stays_as_it_was() -> None:
    model = embedding(11)
    before = model["embed"].weight.detach().clone()
    refused(
        lambda: wb.load(model, {"embed.weight": torch.cat([E, E])}, [rule("embed.weight", "embed.weight", wb.Trim(0))])
    )
    assert torch.equal(model["embed"].weight, before)
    wb.load(
        model, {"embed.weight": torch.cat([E, torch.zeros(2, 3)])}, [rule("embed.weight", "embed.weight", wb.Trim(0))]
    )
    assert torch.equal(model["embed"].weight, E)


OWN = rule("embed.weight", "embed.weight", wb.Pad(0, value="own"))


@pytest.mark.parametrize("kind", ["file", "memory", "cast", "by strides"])
def test_rows_of_the_models_own_stay_as_they_are(kind: str, tmp_path: Path) -> None:
    save_file({"embed.weight": E}, tmp_path / "model.safetensors")
    model = embedding(16)
    if kind == "cast":
        model.double()
    if kind == "by strides":
        model["embed"].weight.data = torch.randn(3, 16).T
    own = model["embed"].weight.detach().clone()
    source: Any = {"embed.weight": E} if kind == "memory" else tmp_path / "model.safetensors"
    plan = wb.plan(source, [OWN], target=model, dtype="target" if kind == "cast" else None)
    assert dict(plan.target_fates())["embed.weight"].name == "padded"
    assert not plan.is_exact
    plan.load_into(model)
    assert torch.equal(model["embed"].weight, torch.cat([E.to(own.dtype), own[11:]]))
    with pytest.raises(wb.PlanError) as caught:
        wb.save(model, tmp_path / "out")
    assert caught.value.code == "inverse-lossy"
    assert "rows of the model's own" in caught.value.got
    wb.save(model, tmp_path / "short", lossy=True)
    assert same(load_file(tmp_path / "short" / "model.safetensors"), {"embed.weight": E.to(own.dtype)})
    wb.save(model, tmp_path / "long", layout="as is")
    assert torch.equal(load_file(tmp_path / "long" / "model.safetensors")["embed.weight"], model["embed"].weight)


def test_rows_of_a_models_own_need_a_model(tmp_path: Path) -> None:
    plan = wb.plan({"embed.weight": E}, [OWN], wb.Header({"embed.weight": wb.TensorSpec("F32", (16, 3))}))
    for run in (plan.state_dict, lambda: next(plan.stream()), lambda: plan.write(tmp_path / "out")):
        assert code_of(run) == "target-missing"
    assert not (tmp_path / "out").exists()
    with torch.device("meta"):
        model = embedding(16)
    assert code_of(lambda: wb.load(model, {"embed.weight": E}, [OWN])) == "model-mismatch"


def test_own_rows_are_left_alone_on_the_way_to_a_device(tmp_path: Path) -> None:
    """By the lanes that feed an accelerator, here with the processor in its place."""
    from weighbridge.models.holdings import take_stock
    from weighbridge.models.own_rows import around_own
    from weighbridge.running.devices import gather_staged
    from weighbridge.running.gather import Wanted
    from weighbridge.storage import open_checkpoint

    save_file({"embed.weight": E}, tmp_path / "model.safetensors")
    for source in (tmp_path / "model.safetensors", {"embed.weight": E}):
        model = embedding(16)
        plan = wb.plan(source, [OWN], target=model)
        (step,) = around_own(plan, take_stock(model).places).steps
        weight = model["embed"].weight.detach()
        own = weight[11:].clone()
        gather_staged([Wanted(step, 0, weight)], open_checkpoint(source), torch.device("cpu"))
        assert torch.equal(weight, torch.cat([E, own]))


def test_what_is_cut_off_whatever_it_holds_is_lossy() -> None:
    plan = wb.plan({"embed": torch.cat([E, E])}, [rule("embed", "embed", wb.Trim(0, 11, value="any"))])
    assert plan.conditions == ()
    assert plan.lossy_reasons == ("1 tensor with part cut off, whatever it holds",)
    assert same(plan.state_dict(), {"embed": E})
    assert code_of(plan.inverse) == "inverse-lossy"
    for one_way in (wb.Pad(0, 16, value="own"), wb.Trim(0, 11, value="any"), wb.RemoveConstant(0, (4,), "any")):
        assert code_of(one_way.inverse) == "operation-one-way"
    for make in (lambda: wb.Pad(0, 16, value="any"), lambda: wb.Trim(0, 11, value="own")):
        assert code_of(make) == "operation-argument"


def test_tied_embeddings_are_padded_once() -> None:
    model = torch.nn.ModuleDict({"embed": torch.nn.Embedding(16, 3), "head": torch.nn.Linear(3, 16, bias=False)})
    model["head"].weight = model["embed"].weight
    wb.load(model, {"embed.weight": E}, [PAD_TO_TARGET])
    assert model["head"].weight is model["embed"].weight
    assert torch.equal(model["head"].weight[11:], torch.zeros(5, 3))


def test_a_partial_load_pads_what_is_there() -> None:
    model = torch.nn.ModuleDict({"embed": torch.nn.Embedding(16, 3), "norm": torch.nn.LayerNorm(3)})
    wb.load(model, {"embed.weight": E}, [PAD_TO_TARGET], partial=True)
    assert torch.equal(model["embed"].weight[:11], E)
    assert torch.equal(model["norm"].weight, torch.ones(3))


def test_what_is_declared_is_cast_with_the_rest() -> None:
    """On the way back it is held to its value before that is rounded again."""
    cast = rule("w", "w", wb.Pad(0, 6, value=0.1015625, source_size=4), wb.Cast("F64", "F32"))
    plan = wb.plan({"w": HEAD}, [cast])
    made = plan.state_dict()
    assert same(made, {"w": torch.cat([HEAD, torch.full((2, 5), 0.1015625)]).double()})
    assert same(plan.inverse(made).state_dict(), {"w": HEAD})
    assert same(wb.plan(made, wb.Mapping([cast]).inverse()).state_dict(), {"w": HEAD})
    made["w"][5, 1] += 2**-50
    refused(plan.inverse(made).state_dict)


def test_dtypes_are_cast_after_what_is_declared() -> None:
    plan = wb.plan({"embed": E}, [rule("embed", "embed", wb.Pad(0, 12, value=0.5))], dtype="BF16")
    assert same(plan.state_dict(), {"embed": torch.cat([E, torch.full((1, 3), 0.5)]).bfloat16()})
    target = wb.Header({"embed": wb.TensorSpec("F64", (12, 3))})
    wide = wb.plan({"embed": E}, [rule("embed", "embed", wb.Pad(0, value="nan"))], target, dtype="target")
    made = wide.state_dict()
    assert made["embed"].dtype == torch.float64
    assert same(wide.inverse(made).state_dict(), {"embed": E})


def test_a_selection_keeps_what_it_needs() -> None:
    made = wb.plan({"q.weight": HEAD}, [CASES["a bias that no tensor has"].rule]).restrict("q.bias")
    assert same(made.state_dict(), {"q.bias": torch.zeros(4)})
    qkv = {"qkv.bias": torch.cat([torch.ones(4), BIAS, torch.full((4,), 7.0)])}
    back = wb.plan(qkv, wb.Mapping([CASES["equal parts, one of them declared"].rule]).inverse())
    assert same(back.restrict("k.bias").state_dict(), {"k.bias": BIAS})


# ---- sizes and values that cannot be meant ----


def code_of(run: Callable[[], Any]) -> str:
    with pytest.raises(wb.WeighbridgeError) as caught:
        run()
    found = caught.value
    return found.problems[0].code if isinstance(found, wb.PlanError) and found.problems else found.code


@pytest.mark.parametrize(
    ("operation", "code"),
    [
        (wb.Pad(0), "operation-argument"),
        (wb.Trim(0), "operation-argument"),
        (wb.Pad(0, "vocab_size"), "operation-config"),
        (wb.Pad(0, 10), "shape-mismatch"),
        (wb.Trim(0, 12), "shape-mismatch"),
        (wb.Pad(0, 12, source_size=10), "shape-mismatch"),
        (wb.Trim(0, 5, source_size=12), "shape-mismatch"),
        (wb.Trim(0, 5, multiple_of=4), "shape-mismatch"),
        (wb.Pad(2, 12), "axis-out-of-range"),
        (wb.Pad(0, 12, value=0.1), "operation-argument"),
        (wb.Pad(0, 12, value="bits:0x7fc1"), "operation-argument"),
        (wb.Trim(0, 5, value=10**400), "operation-argument"),
    ],
)
def test_sizes_and_values_have_to_fit(operation: Any, code: str) -> None:
    assert code_of(lambda: wb.plan({"embed": E}, [rule("embed", "embed", operation)])) == code


@pytest.mark.parametrize(
    "make",
    [
        lambda: wb.Pad(0, 8, multiple_of=4),
        lambda: wb.Trim(0, 8, multiple_of=4, source_size=12),
        lambda: wb.Pad(0, -1),
        lambda: wb.Pad(0, multiple_of=0),
        lambda: wb.Pad(0, 8, value="zero"),
        lambda: wb.Pad(0, 8, value=None),
        lambda: wb.Pad(0, 8.0),
        lambda: wb.InsertConstant(-1, (4,)),
        lambda: wb.InsertConstant(0, (-4,)),
        lambda: wb.RemoveConstant(0, ("",)),
    ],
)
def test_arguments_have_to_make_sense(make: Callable[[], Any]) -> None:
    assert code_of(make) == "operation-argument"


@pytest.mark.parametrize(
    ("sources", "targets", "operations", "code"),
    [
        (["a", "b"], "c", [wb.InsertConstant(3, (4,)), wb.Concatenate(0)], "operation-arity"),
        ("a", "b", [wb.RemoveConstant(0, (4,))], "operation-arity"),
        (["a", "b"], "c", [wb.RemoveConstant(2, (4,))], "operation-arity"),
        (["a", "b"], "c", [wb.InsertConstant(1, (4,)), wb.Concatenate(0, sizes=(4, 4))], "operation-arity"),
        (["a", "b"], "c", [wb.InsertConstant(1, (4,)), wb.Concatenate(0, chunks=2)], "operation-arity"),
        (["a", "b"], "c", [wb.Concatenate(0, sizes=(4, 4, 4))], "operation-arity"),
        ("a", "b", [wb.Split(0, (4, 4)), wb.Concatenate(0, chunks=3)], "operation-arity"),
        (["a.*.x", "a.*.y"], "b", [wb.MergeModulelist(0), wb.Concatenate(0, chunks=3)], "operation-arity"),
        (["a", "b"], "c", [wb.InsertConstant(1, (4,))], "mapping-invalid"),
        ("a.*", "b", [wb.InsertConstant(1, (4,)), wb.Concatenate(0)], "mapping-invalid"),
    ],
)
def test_parts_have_to_be_there(sources: Any, targets: Any, operations: list[Any], code: str) -> None:
    with pytest.raises(wb.MappingError) as caught:
        wb.WeightConverter(sources, targets, operations)
    assert caught.value.code == code


def test_a_part_of_another_dtype_or_shape_is_refused() -> None:
    cases: list[tuple[Tensors, wb.WeightConverter, str]] = [
        (
            {"a": BIAS, "b": BIAS.double()},
            rule(["a", "b"], "c", wb.InsertConstant(1, (4,)), wb.Concatenate(0)),
            "dtype-mismatch",
        ),
        (
            {"a": HEAD, "b": HEAD},
            rule(["a", "b"], "c", wb.InsertConstant(1, (4,)), wb.Concatenate(0)),
            "shape-mismatch",
        ),
        ({"a": BIAS}, rule("a", ["b", "c"], wb.Split(0, (1, 2, 1)), wb.RemoveConstant(1, (1,))), "shape-mismatch"),
    ]
    for tensors, converter, code in cases:
        assert code_of(lambda tensors=tensors, converter=converter: wb.plan(tensors, [converter])) == code


def test_a_way_back_without_sizes_says_what_to_write() -> None:
    mapping = wb.Mapping([rule("embed", "embed", wb.Pad(0, multiple_of=8))])
    with pytest.raises(wb.PlanError) as caught:
        wb.plan({"embed": torch.cat([E, torch.zeros(5, 3)])}, mapping.inverse())
    assert "Trim(0, size=...)" in str(caught.value)
    target = wb.Header({"embed": wb.TensorSpec("F32", (11, 3))})
    back = wb.plan({"embed": torch.cat([E, torch.zeros(5, 3)])}, mapping.inverse(), target)
    assert same(back.state_dict(), {"embed": E})


def test_what_is_as_long_as_it_is_to_be_stays_as_it_is() -> None:
    plan = wb.plan({"embed": E}, [rule("embed", "embed", wb.Pad(0, 11)), rule("head", "head", wb.Pad(0, 11))])
    assert plan.steps[0].program.is_identity
    assert plan.version == PLAN_VERSION
    assert dict(plan.target_fates())["embed"].name == "filled"


# ---- what is said of it ----


def test_the_plan_says_what_it_takes_for_granted() -> None:
    header = wb.Header({f"layers.{i}.bias": wb.TensorSpec("BF16", (6,)) for i in range(3)})
    plan = wb.plan(header, [rule("bias", "bias", wb.Trim(0, 4, value=-1))])
    lines = list(plan.report.lines())
    assert "if equal  layers.{0..2}.bias[4:6] = -1, cut off" in lines
    assert "sources   3 trimmed" in lines
    text = str(plan.explain("layers.1.bias"))
    assert "if equal layers.1.bias[4:6] = -1, cut off" in text
    assert "cut off, if -1[:] <- layers.1.bias[4:6]" in text


def test_the_plan_draws_what_is_declared() -> None:
    text = str(wb.plan({"embed": E}, [CASES["a vocabulary to a multiple"].rule]).explain("embed"))
    assert "embed[11:16, :] <- declared 0" in text
    assert "│ b │" in text
    assert "b  declared 0  F32 [5, 3]" in text
    whole = wb.plan({"q.weight": HEAD}, [CASES["a bias that no tensor has"].rule])
    assert "q.bias[:] <- declared 0" in str(whole.explain("q.bias"))
    assert "q.bias   target: declared" in str(whole.explain("q.bias"))


# ---- stored plans and receipts ----


def test_only_a_plan_with_declared_values_has_the_newest_version() -> None:
    plain = wb.plan({"k": HEAD}, [rule("k", "j", wb.Transpose(0, 1))])
    shared = wb.plan({"k": HEAD}, [rule("k", ["j", "i"], wb.Repeat())])
    padded = wb.plan({"k": HEAD}, [rule("k", "j", wb.Pad(0, 6))])
    versions = (
        (plain, PLAN_VERSION),
        (shared, EQUALS_VERSION),
        (padded, DECLARED_VERSION),
        (padded.inverse(), DECLARED_VERSION),
    )
    for plan, version in versions:
        form = json.loads(plan.to_json())
        assert form["version"] == version
        assert read_plan(form) == plan
        assert ("constants" in json.dumps(form["programs"])) == (plan is padded)
        form["version"] = PLAN_VERSION if version != PLAN_VERSION else DECLARED_VERSION
        with pytest.raises(wb.PlanError) as caught:
            read_plan(form)
        assert caught.value.code == "plan-format"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda form: form["steps"][0].__setitem__(3, "moved"), "another fate than its keys and its program say"),
        (lambda form: form["programs"][0].pop("cuts"), "another fate than its keys and its program say"),
        (lambda form: form["programs"][0]["cuts"][0].__setitem__(3, "00"), "no element of its dtype"),
        (lambda form: form["programs"][0]["cuts"][0].__setitem__(3, "zz"), "no plan"),
        (lambda form: form["programs"][0]["cuts"][0].__setitem__(3, "0000803f"), "is not what its hash says"),
        (lambda form: form["programs"][0]["cuts"][0].__setitem__(1, [3, 5]), "do not write each element once"),
    ],
)
def test_a_plan_that_was_changed_is_refused(change: Callable[[Any], Any], what: str) -> None:
    form = json.loads(wb.plan({"k": HEAD}, [rule("k", "k", wb.Trim(0, 2))]).to_json())
    change(form)
    with pytest.raises(wb.PlanError) as caught:
        read_plan(form)
    assert what in str(caught.value)


def test_a_receipt_tells_what_was_cut_off(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    save_file({"embed": torch.cat([E, torch.zeros(2, 3)])}, tmp_path / "in" / "model.safetensors")
    out = wb.convert(tmp_path / "in", tmp_path / "out", [rule("embed", "embed", wb.Trim(0, 11))])
    path = out / "weighbridge.json"
    form = json.loads(path.read_text())
    assert form["checked"] == [["embed", [["embed"]], "[11:13, :]", "0"]]
    path.write_text(json.dumps({**form, "checked": [["embed", [["embed"]], "[11:13, :]", "1"]]}))
    with pytest.raises(wb.CheckpointError) as caught:
        wb.revert(out, tmp_path / "back")
    assert caught.value.code == "receipt-invalid"


# ---- mapping files ----


@pytest.mark.parametrize("value", [0, -1, 0.5, 1e-05, 1e22, -2.5e-300, "nan", "-inf", "-0.0", "bits:0x7fc1", 2**63])
def test_values_are_written_and_read_again(value: Any) -> None:
    mapping = wb.Mapping([rule("w", "w", wb.Pad(0, 5, value=value, source_size="vocab_size"))], name="padded")
    text = mapping.to_yaml()
    assert wb.Mapping.from_yaml(text) == mapping
    assert wb.Mapping.from_yaml(text).to_yaml() == text
    assert wb.Mapping.from_dict(json.loads(json.dumps(mapping.to_dict()))) == mapping


def test_a_value_that_readers_take_for_different_things_is_refused() -> None:
    text = "transforms:\n  - convert: w\n    to: w\n    with: [Pad: {dim: 0, size: 5, value: 0x3f80}]\n"
    assert code_of(lambda: wb.Mapping.from_yaml(text)) == "mapping-file"
