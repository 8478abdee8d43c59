"""Casts in a row: what a mapping casts and what a caller casts afterwards, beside torch doing the same one by one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, strategies as st
from safetensors.torch import load_file, save_file

import weighbridge as wb
from weighbridge.base.specs import DTYPES
from weighbridge.planning.program import Program

FLOATS = ("F16", "BF16", "F32", "F64")
DELICATE = (1 + 2**-12, 2.5, -(1 + 2**-9), 70_000.0, 1e-30, 2**-20, 0.1, -0.0)
"""Values that F16, BF16 and F32 each treat in their own way: rounded, too large, too small."""


def torch_dtype(code: str) -> torch.dtype:
    return getattr(torch, DTYPES[code].torch_name)


def delicate(code: str) -> torch.Tensor:
    return torch.tensor(DELICATE, dtype=torch.float64).reshape(2, 4).to(torch_dtype(code))


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


def casting(*codes: str) -> wb.Mapping:
    return wb.Mapping([wb.WeightConverter("a", "b", [wb.Cast(code) for code in codes])], name="casting")


@given(st.sampled_from(FLOATS), st.lists(st.sampled_from(FLOATS), max_size=4), st.sampled_from([None, *FLOATS]))
def test_casts_in_a_row_give_what_torch_gives_one_after_another(source, chain, wanted):
    given_tensor = expected = delicate(source)
    for code in [*chain, *([wanted] if wanted else [])]:
        expected = expected.to(torch_dtype(code))
    mapping = casting(*chain) if chain else [wb.WeightRenaming("^a", "b")]
    plan = wb.plan({"a": given_tensor}, mapping, dtype=wanted, allow_overflow=True)
    assert same_bits(plan.state_dict()["b"], expected)


@given(st.sampled_from(FLOATS), st.lists(st.sampled_from(FLOATS), min_size=1, max_size=4), st.sampled_from(FLOATS))
def test_a_chain_that_is_called_exact_comes_back_and_one_that_rounded_is_not_called_so(source, chain, wanted):
    given_tensor = through = delicate(source)
    for code in (*chain, wanted):
        through = through.to(torch_dtype(code))
    plan = wb.plan({"a": given_tensor}, casting(*chain), dtype=wanted, allow_overflow=True)
    if plan.is_exact:
        made = plan.state_dict()
        assert made
        assert same_bits(plan.inverse().state_dict()["a"], given_tensor)
    else:
        assert "cast from" in plan.lossy_reasons[0]
    if not same_bits(through.to(given_tensor.dtype), given_tensor):
        assert not plan.is_exact
        with pytest.raises(wb.PlanError) as caught:
            plan.inverse()
        assert caught.value.code == "inverse-lossy"


@pytest.mark.parametrize("wanted", ["F32", "target"])
def test_a_declared_narrowing_cast_is_not_skipped_for_a_dtype_that_is_asked_for(wanted):
    source = {"a": delicate("F32")}
    plan = wb.plan(source, casting("F16"), {"b": torch.zeros(2, 4)}, dtype=wanted, allow_overflow=True)
    assert same_bits(plan.state_dict()["b"], source["a"].half().float())
    assert plan.lossy_reasons == ("1 tensor cast from F32 to F16",)
    assert dict(plan.source_fates())["a"].name == "computed"
    assert "F32 cast to F16  F16 cast to F32" in str(plan.report)
    assert "through a temporary of 16 B" in str(plan.report)
    assert "temporary 0[:, :] <- a[:, :]  cast F32 to F16" in str(plan.explain("b"))


def test_casts_that_keep_every_value_are_fused_to_no_cast_at_all():
    source = {"a": delicate("BF16")}
    for plan in (wb.plan(source, casting("F32"), dtype="BF16"), wb.plan(source, casting("F32", "F64", "BF16"))):
        (step,) = plan.steps
        assert step.program.is_identity
        assert step.fate == "moved"
        assert plan.is_exact
        assert same_bits(plan.state_dict()["b"], source["a"])


def test_a_joined_tensor_of_which_one_part_was_rounded_is_rounded_first():
    parts = {"w.0": delicate("F32"), "w.1": delicate("F32")}
    operations = [wb.MergeModulelist(0), wb.Cast("F16"), wb.Concatenate(0)]
    mapping = wb.Mapping([wb.WeightConverter(["w.*"], "all", operations)])
    plan = wb.plan(parts, mapping, dtype="F32", allow_overflow=True)
    assert same_bits(plan.state_dict()["all"], torch.stack(list(parts.values())).half().float())
    assert not plan.is_exact


def test_every_way_out_gives_the_rounded_values(tmp_path: Path):
    source, expected = {"a": delicate("F32")}, delicate("F32").half().float()
    save_file(source, tmp_path / "in.safetensors")
    plan = wb.plan(tmp_path / "in.safetensors", casting("F16"), dtype="F32", allow_overflow=True)
    plan.write(tmp_path / "out")
    assert same_bits(load_file(tmp_path / "out" / "model.safetensors")["b"], expected)
    assert all(same_bits(tensor, expected) for _, tensor in plan.stream())
    wb.convert(tmp_path / "in.safetensors", tmp_path / "converted", casting("F16"), dtype="F32", allow_overflow=True)
    assert same_bits(load_file(tmp_path / "converted" / "model.safetensors")["b"], expected)

    model = torch.nn.Module()
    model.b = torch.nn.Parameter(torch.zeros(2, 4))
    wb.load(model, tmp_path / "in.safetensors", casting("F16"), dtype="F32", allow_overflow=True)
    assert same_bits(model.b.detach(), expected)
    again = wb.Plan.from_json(plan.to_json())
    assert again.hash == plan.hash
    assert not again.is_exact


def test_a_model_that_went_through_a_narrowing_cast_is_saved_as_it_is_now(tmp_path: Path):
    model = torch.nn.Module()
    model.b = torch.nn.Parameter(torch.zeros(2, 4))
    wb.load(model, {"a": delicate("F32")}, casting("F16"), dtype="F32", allow_overflow=True)
    tuned = model.b.detach() + 2**-20
    model.b.data.copy_(tuned)
    wb.save(model, tmp_path / "out")
    assert same_bits(load_file(tmp_path / "out" / "model.safetensors")["a"], tuned)


@pytest.mark.parametrize("dtype", ["BF16", "F64"])
def test_a_dtype_can_be_asked_for_on_a_derived_way_back(dtype):
    """The way back is proven as the files stand; what the caller casts beyond that touches no name."""
    mapping = wb.Mapping([wb.WeightConverter("a", "b", [wb.Cast("F32", "BF16"), wb.Transpose()])], name="widened")
    made = {"b": delicate("F32")}
    plan = wb.plan(made, mapping.inverse(), dtype=dtype)
    assert same_bits(plan.state_dict()["a"], made["b"].T.bfloat16().to(torch_dtype(dtype)))
    unproven = wb.Mapping([wb.WeightRenaming("^x", "y"), wb.WeightRenaming("^y", "z")]).inverse()
    with pytest.raises(wb.PlanError) as caught:
        wb.plan({"x": made["b"]}, unproven, dtype=dtype)
    assert caught.value.code == "inverse-unproven"


def test_recasting_to_the_dtypes_that_are_there_changes_nothing():
    narrowed = Program.identity(wb.TensorSpec("F32", (2, 3)), "F16")
    assert narrowed.recast(["F16"]) == narrowed


def test_e_each_number_of_lost_tensors_reads_as_a_sentence():
    source = {name: delicate("F32") for name in "ab"}
    assert wb.plan(source, [], dtype="F16").lossy_reasons == ("2 tensors cast from F32 to F16",)
    assert "way back  lossy: 2 tensors cast from F32 to F16" in str(wb.plan(source, [], dtype="F16").report)
