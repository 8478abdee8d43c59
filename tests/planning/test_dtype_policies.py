"""Dtypes by pattern: what is cast and what never is, beside torch doing the same; and casts beyond a dtype's range."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import weighbridge as wb
from weighbridge.base.specs import DTYPES

MIXED = {
    "layers.0.mixer.A_log": torch.randn(3) * 5,
    "layers.1.mixer.A_log": torch.randn(3) * 5,
    "layers.0.mixer.norm.weight": torch.randn(4),
    "norm.weight": torch.randn(4),
    "embed.weight": torch.randn(6, 4),
    "half.weight": torch.randn(2, 5).half(),
    "position_ids": torch.arange(7),
    "mask": torch.tensor([True, False, True]),
    "turns": torch.tensor([1 + 2j, 3 - 1j]),
}
POLICY = {"**": "BF16", "A_log": "F32", "^norm": torch.float64, "half": "keep"}


def expected() -> dict[str, torch.Tensor]:
    """What torch makes of the tensors by the policy above."""
    cast = {key: MIXED[key].bfloat16() for key in ("layers.0.mixer.norm.weight", "embed.weight")}
    return {**MIXED, **cast, "norm.weight": MIXED["norm.weight"].double()}


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for key, tensor in wanted.items():
        assert found[key].dtype == tensor.dtype, key
        assert found[key].equal(tensor), key


def test_each_tensor_takes_the_dtype_of_the_last_pattern_that_names_it(tmp_path: Path):
    save_file(MIXED, tmp_path / "in.safetensors")
    for place in (MIXED, tmp_path / "in.safetensors"):
        plan = wb.plan(place, [], dtype=POLICY)
        assert_same(plan.state_dict(), expected())
        assert_same(dict(plan.stream()), expected())
    wb.convert(tmp_path / "in.safetensors", tmp_path / "out", [], dtype=POLICY)
    assert_same(load_file(tmp_path / "out" / "model.safetensors"), expected())
    again = wb.Plan.from_json(wb.plan(MIXED, [], dtype=POLICY).to_json())
    assert_same(again.state_dict(MIXED), expected())


def test_patterns_speak_of_the_names_of_the_target():
    rules = [wb.WeightConverter(["A.*.w"], "joined.w", [wb.MergeModulelist(0)]), wb.WeightRenaming("gamma", "weight")]
    source = {"A.0.w": torch.randn(2), "A.1.w": torch.randn(2), "a.gamma": torch.randn(3), "b.gamma": torch.randn(3)}
    made = wb.plan(source, rules, dtype={"joined": "F16", "a.weight": "BF16"}).state_dict()
    joined = torch.stack([source["A.0.w"], source["A.1.w"]]).half()
    assert_same(made, {"joined.w": joined, "a.weight": source["a.gamma"].bfloat16(), "b.weight": source["b.gamma"]})
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, rules, dtype={"**": "F16", "joinde.w": "BF16"})
    assert (caught.value.code, caught.value.where) == ("rule-unused", "joinde.w")
    assert caught.value.got == "nearest: joined.w"


def test_a_pattern_that_decides_about_nothing_is_said():
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(MIXED, [], dtype={"A_log": "F32", "**": "BF16"})
    assert (caught.value.code, caught.value.where) == ("rule-unused", "A_log")
    assert "the last one decides" in caught.value.hint
    with pytest.raises(wb.PatternError) as unclear:
        wb.plan(MIXED, [], dtype={"*": "BF16"})
    assert unclear.value.code == "pattern-syntax"
    notes = wb.plan(MIXED, [], dtype={"**": "F32", "position_ids": "F16"}).notes
    assert "1 target keeps its dtype, I64, whatever is asked for position_ids" in notes


@pytest.mark.parametrize("dtype", ["I32", "BOOL", "F8_E8M0", "F4", "C64", {"a": "I64"}])
def test_nothing_is_cast_to_what_is_no_plain_float(dtype):
    with pytest.raises(wb.WeighbridgeError) as caught:
        wb.plan(MIXED, [], dtype=dtype)
    assert caught.value.code == "usage"


def test_a_target_of_integers_takes_no_floats_by_a_cast():
    wanted = wb.Header({"a": wb.TensorSpec("I64", (2,))})
    plan = wb.plan({"a": torch.tensor([1.5, 2.5])}, [], wanted, dtype="target")
    assert plan.target["a"].dtype == "F32"


def test_the_dtypes_of_a_target_can_have_exceptions():
    wanted = wb.Header({key: wb.TensorSpec("F16", (4,)) for key in ("a", "b")})
    source = {"a": torch.randn(4), "b": torch.randn(4)}
    plan = wb.plan(source, [], wanted, dtype={"**": "target", "b": "keep"})
    assert_same(plan.state_dict(), {"a": source["a"].half(), "b": source["b"]})
    assert '1 target wants F16 and keeps F32: dtype="target" (--dtype target) casts them' in plan.notes


def test_what_is_quantised_stays_as_it_is():
    codes, scale = torch.randn(4, 4).to(torch.float8_e4m3fn), torch.rand(1, 1)
    source = {"q.weight": codes, "q.weight_scale_inv": scale, "norm.weight": torch.randn(4), "raw": codes[0]}
    plan = wb.plan(source, [], dtype="F16")
    made = plan.state_dict()
    assert made["norm.weight"].equal(source["norm.weight"].half())
    for key in ("q.weight", "q.weight_scale_inv", "raw"):
        assert made[key].view(torch.uint8).equal(source[key].view(torch.uint8)), key
    said = "3 targets keep their dtype, as part of what is quantised: q.{weight,weight_scale_inv}, raw"
    assert said in plan.notes


def test_a_way_back_restores_what_was_widened_and_says_what_was_rounded(tmp_path: Path):
    widened = wb.plan(MIXED, [], dtype={"^norm": "F64", "half": "F32"})
    assert widened.is_exact
    assert_same(widened.inverse().state_dict(widened.state_dict()), MIXED)
    save_file(MIXED, tmp_path / "in.safetensors")
    out = wb.convert(tmp_path / "in.safetensors", tmp_path / "out", [], dtype=POLICY)
    with pytest.raises(wb.PlanError) as caught:
        wb.revert(out, tmp_path / "back")
    assert caught.value.code == "inverse-lossy"
    back = load_file(wb.revert(out, tmp_path / "back", lossy=True) / "model.safetensors")
    rounded = {key: MIXED[key].bfloat16().float() for key in ("layers.0.mixer.norm.weight", "embed.weight")}
    assert_same(back, {**MIXED, **rounded})


def test_a_narrowing_cast_is_said(caplog: pytest.LogCaptureFixture):
    plan = wb.plan(MIXED, [], dtype=POLICY)
    said = "2 targets are rounded from F32 to BF16: embed.weight, layers.0.mixer.norm.weight"
    assert said in plan.notes
    assert said in str(plan.report)
    model = torch.nn.Linear(3, 2, bias=False)
    with caplog.at_level(logging.INFO):
        wb.load(model, {"weight": torch.randn(2, 3)}, [], dtype="F16")
    assert "1 target is rounded from F32 to F16: weight" in caplog.messages


# ---- beyond the range ----

LARGE = torch.tensor([[1.0, -70_000.0], [float("inf"), float("nan")]])


@pytest.mark.parametrize("way", ["state_dict", "stream", "write", "load", "strided"])
@pytest.mark.parametrize("is_file", [True, False])
def test_a_value_beyond_the_range_is_an_error_unless_it_is_declared(way: str, is_file: bool, tmp_path: Path):
    save_file({"weight": LARGE}, tmp_path / "in.safetensors")
    place = tmp_path / "in.safetensors" if is_file else {"weight": LARGE}
    rules = [wb.WeightConverter("weight", "weight", [wb.Transpose()])] if way == "strided" else []
    wanted = (LARGE.T if way == "strided" else LARGE).half()

    def run(**options: bool) -> torch.Tensor:
        plan = wb.plan(place, rules, dtype="F16", **options)
        if way == "stream":
            return dict(plan.stream())["weight"]
        if way == "write":
            return load_file(plan.write(tmp_path / "out") / "model.safetensors")["weight"]
        if way == "load":
            model = torch.nn.Linear(2, 2, bias=False)
            plan.load_into(model)
            return model.weight.detach()
        return plan.state_dict()["weight"]

    with pytest.raises(wb.PlanError) as caught:
        run()
    assert (caught.value.code, caught.value.where) == ("cast-overflow", "weight")
    assert (caught.value.expected, caught.value.got) == ("at most 65504 in F16", "70000 in F32")
    assert not (tmp_path / "out").exists()
    assert run(allow_overflow=True).view(torch.int16).equal(wanted.contiguous().view(torch.int16))


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ"])
def test_the_limit_is_where_torch_has_it(dtype: str):
    top = torch.finfo(getattr(torch, DTYPES[dtype].torch_name)).max
    assert wb.plan({"a": torch.tensor([top, -top])}, [], dtype=dtype).state_dict()["a"].double().abs().eq(top).all()
    beyond = {"a": torch.tensor([0.0, -top * 1.25], dtype=torch.float64)}
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(beyond, [], dtype=dtype).state_dict()
    assert caught.value.code == "cast-overflow"
    made = wb.plan(beyond, [], dtype=dtype, allow_overflow=True).state_dict()["a"]
    assert made.view(torch.uint8).equal(beyond["a"].to(made.dtype).view(torch.uint8))


def test_infinities_and_nans_of_the_source_are_no_overflow():
    source = {"a": torch.tensor([float("-inf"), float("nan"), 2.0])}
    made = wb.plan(source, [], dtype="F16").state_dict()["a"]
    assert made.view(torch.int16).equal(source["a"].half().view(torch.int16))


def test_a_value_that_is_rounded_down_to_the_largest_one_is_none_either():
    assert wb.plan({"a": torch.tensor([65_510.0])}, [], dtype="F16").state_dict()["a"].item() == 65_504


def test_a_cast_of_a_mapping_is_watched_as_well_and_a_plan_remembers_what_was_declared():
    rules = [wb.WeightConverter("a", "a", [wb.Cast("F16"), wb.Cast("F32")])]
    source = {"a": torch.tensor([1e6, 1.0]), "b": torch.tensor([1.0])}
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, rules).state_dict()
    assert caught.value.code == "cast-overflow"
    plan = wb.plan(source, rules, allow_overflow=True)
    assert "values beyond the range of a dtype become infinite, as declared: a" in plan.notes
    again = wb.Plan.from_json(plan.to_json())
    assert again == plan
    for made in (again, again.restrict("a"), again.inverse(lossy=True).inverse(lossy=True)):
        assert made.state_dict(source)["a"].tolist() == [float("inf"), 1.0]
    assert "overflows" not in json.dumps(wb.plan(source, []).to_dict())


def test_a_difference_shows_what_a_cast_made_of_too_large_values():
    assert wb.diff({"a": torch.tensor([1e6, 1.0])}, {"a": torch.tensor([1e6, 1.0]).half()}, [], dtype="target")
