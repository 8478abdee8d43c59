"""The engine in memory: what a plan's copies give, compared with torch doing the same by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import weighbridge as wb
from weighbridge.algebra.layout import Layout
from weighbridge.api import Plan
from weighbridge.base.specs import TensorSpec
from weighbridge.mappings.mapping import Mapping
from weighbridge.planning.program import Output, Program
from weighbridge.planning.steps import Step
from weighbridge.running.execute import allocate
from weighbridge.running.ties import check_values
from weighbridge.storage import open_checkpoint

EXPERTS = Mapping(
    [
        wb.WeightConverter(
            ["experts.*.gate.weight", "experts.*.up.weight"],
            "experts.gate_up",
            [wb.MergeModulelist(0), wb.Concatenate(1), wb.Transpose(1, 2)],
        ),
        wb.WeightRenaming(r"norm\.gamma", "norm.weight"),
    ],
    name="experts",
)


def numbered(*shape: int, start: float = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return a tensor whose values are all different."""
    count = torch.Size(shape).numel()
    return (torch.arange(count, dtype=torch.float64) + start).reshape(shape).to(dtype)


def experts_state() -> dict[str, torch.Tensor]:
    state = {"norm.gamma": numbered(7, start=0.5)}
    for expert in range(3):
        state[f"experts.{expert}.gate.weight"] = numbered(2, 5, start=100 * expert)
        state[f"experts.{expert}.up.weight"] = numbered(2, 5, start=100 * expert + 50)
    return state


def fused_by_hand(state: dict[str, torch.Tensor]) -> torch.Tensor:
    pairs = [torch.cat([state[f"experts.{e}.gate.weight"], state[f"experts.{e}.up.weight"]]) for e in range(3)]
    return torch.stack(pairs).transpose(1, 2).contiguous()


def test_state_dict_equals_torch_and_goes_back() -> None:
    state = experts_state()
    plan = wb.plan(state, EXPERTS)
    made = plan.state_dict()
    assert made.keys() == {"experts.gate_up", "norm.weight"}
    assert torch.equal(made["experts.gate_up"], fused_by_hand(state))
    back = plan.inverse().state_dict()
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)


def test_stream_gives_one_tensor_at_a_time_from_files(tmp_path: Path) -> None:
    state = experts_state()
    save_file(state, tmp_path / "model.safetensors")
    streamed = dict(wb.plan(tmp_path, EXPERTS).stream())
    assert torch.equal(streamed["experts.gate_up"], fused_by_hand(state))
    assert torch.equal(streamed["norm.weight"], state["norm.gamma"])


def test_inverse_reads_what_the_last_run_made() -> None:
    """A value changed after a run comes back changed: the inverse never falls back to the original in silence."""
    plan = wb.plan(experts_state(), EXPERTS)
    made = plan.state_dict()
    made["norm.weight"][2] = -1
    assert plan.inverse().state_dict()["norm.gamma"][2] == -1


def test_inverse_of_a_vanished_result_is_an_error() -> None:
    plan = wb.plan(experts_state(), EXPERTS)
    plan.state_dict()
    with pytest.raises(wb.PlanError) as caught:
        plan.inverse().state_dict()
    assert caught.value.code == "source-unbound"


def test_inverse_of_a_plan_that_never_ran_is_computed_from_its_source() -> None:
    state = experts_state()
    back = wb.plan(state, EXPERTS).inverse().state_dict()
    assert all(torch.equal(back[key], state[key]) for key in state)


def test_plan_without_a_source_says_so() -> None:
    plan = Plan.from_json(wb.plan(experts_state(), EXPERTS).to_json())
    with pytest.raises(wb.PlanError) as caught:
        plan.state_dict()
    assert caught.value.code == "source-unbound"


def test_plan_on_a_header_alone_can_be_made_but_not_run() -> None:
    header = wb.Header({key: TensorSpec("F32", tuple(value.shape)) for key, value in experts_state().items()})
    plan = wb.plan(header, EXPERTS)
    assert plan.target["experts.gate_up"].shape == (3, 5, 4)
    with pytest.raises(wb.CheckpointError) as caught:
        plan.state_dict()
    assert caught.value.code == "data-missing"


def test_source_with_other_specs_is_refused() -> None:
    plan = wb.plan(experts_state(), EXPERTS)
    other = experts_state() | {"norm.gamma": numbered(8)}
    with pytest.raises(wb.CheckpointError) as caught:
        plan.state_dict(other)
    assert caught.value.code == "source-changed"


def test_cast_is_fused_and_rounds_as_torch_does() -> None:
    state = {"w": torch.randn(7, 5, generator=torch.Generator().manual_seed(1))}
    plan = wb.plan(state, [], dtype="bfloat16")
    assert plan.steps[0].fate == "computed"
    assert not plan.is_exact
    assert torch.equal(plan.state_dict()["w"], state["w"].to(torch.bfloat16))
    with pytest.raises(wb.PlanError) as caught:
        plan.inverse()
    assert caught.value.code == "inverse-lossy"
    assert torch.equal(
        plan.inverse(lossy=True, source=plan.state_dict()).state_dict()["w"], state["w"].bfloat16().float()
    )


def test_widening_cast_is_exact_both_ways() -> None:
    state = {"w": numbered(3, 4, dtype=torch.bfloat16)}
    plan = wb.plan(state, [], dtype="F32")
    made = plan.state_dict()
    assert made["w"].dtype == torch.float32
    assert plan.is_exact
    assert torch.equal(plan.inverse(made).state_dict()["w"], state["w"])


def test_integers_are_never_cast() -> None:
    state = {"ids": torch.arange(5), "w": numbered(2)}
    made = wb.plan(state, [], dtype="float16").state_dict()
    assert (made["ids"].dtype, made["w"].dtype) == (torch.int64, torch.float16)


def test_non_contiguous_sources_are_read_by_value() -> None:
    base = numbered(4, 6)
    state = {"w": base.t(), "v": base[:, ::2]}
    made = wb.plan(state, [wb.WeightConverter("w", "w2", [wb.Transpose(0, 1)])]).state_dict()
    assert torch.equal(made["w2"], base)
    assert torch.equal(made["v"], base[:, ::2])


def test_inputs_are_never_modified() -> None:
    state = experts_state()
    before = {key: value.clone() for key, value in state.items()}
    made = wb.plan(state, EXPERTS).state_dict()
    for value in made.values():
        value.zero_()
    assert all(torch.equal(state[key], before[key]) for key in state)


def test_zero_size_and_scalar_tensors_pass() -> None:
    state = {"empty": torch.zeros(0, 3), "scalar": torch.tensor(2.5), "w": numbered(2)}
    made = wb.plan(state, []).state_dict()
    assert made["empty"].shape == (0, 3)
    assert made["scalar"].item() == 2.5


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3"])
def test_packed_dtypes_move_whole(dtype: str, tmp_path: Path) -> None:
    """Tensors with elements below a byte are carried from file to file, byte for byte."""
    spec = TensorSpec(dtype, (4, 8))
    raw = bytes(range(spec.size_bytes))
    write_raw(tmp_path / "model.safetensors", "w", spec, raw)
    wb.convert(tmp_path, tmp_path.parent / f"{dtype}_out", [wb.WeightRenaming("w", "v")])
    made = wb.open(tmp_path.parent / f"{dtype}_out")
    buffer = bytearray(spec.size_bytes)
    made.read("v", 0, memoryview(buffer))
    assert made.header["v"] == spec
    assert bytes(buffer) == raw


def write_raw(path: Path, key: str, spec: TensorSpec, raw: bytes) -> None:
    """Write a safetensors file of one tensor by hand."""
    import json

    head = json.dumps({key: {"dtype": spec.dtype, "shape": spec.shape, "data_offsets": [0, len(raw)]}}).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + raw)


def test_temporaries_are_filled_first_and_inverted_last() -> None:
    """x is transposed into a temporary, which is reshaped and transposed into the target."""
    spec = TensorSpec("F32", (4, 6))
    middle = Output("F32", Layout.of(0, (4, 6)).transpose(0, 1))
    last = Output("F32", Layout.of(1, (6, 4)).reshape((3, 8)).transpose(0, 1))
    program = Program((spec,), (middle,), (last,))
    plan = Plan(Mapping(), (Step(("x",), ("y",), program, "moved"),))
    plan.check()
    x = numbered(4, 6)
    made = plan.state_dict({"x": x})
    assert torch.equal(made["y"], x.t().reshape(3, 8).t())
    assert torch.equal(plan.inverse(made).state_dict()["x"], x)
    assert plan.inverse().inverse().steps == plan.steps


def test_ties_of_sources_are_compared_by_value() -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(5, 3)
            self.head = torch.nn.Linear(3, 5, bias=False)
            self.head.weight = self.embed.weight

    same = {"embed.weight": numbered(5, 3), "head.weight": numbered(5, 3)}
    model = Tied()
    report = wb.plan(same, [], target=model).load_into(model)
    assert report.fates()["source"] == {"moved": 1, "tied": 1}
    assert torch.equal(model.head.weight, same["embed.weight"])
    other = same | {"head.weight": numbered(5, 3, start=1)}
    before = model.embed.weight.detach().clone()
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(other, [], target=model).load_into(model)
    assert caught.value.codes == ("tie-differs",)
    assert torch.equal(model.embed.weight, before)
    only = wb.plan({"head.weight": numbered(5, 3, start=7)}, [], target=model)
    only.load_into(model)
    assert model.embed.weight[0, 0] == 7


def test_check_values_accepts_a_plan_without_any() -> None:
    state = experts_state()
    check_values(wb.plan(state, EXPERTS), open_checkpoint(state), {})


def test_allocate_gives_raw_bytes_for_dtypes_that_torch_lacks() -> None:
    assert allocate(TensorSpec("F6_E2M3", (4,))).dtype == torch.uint8


def test_split_targets_own_their_storage(tmp_path: Path) -> None:
    """No part of a split tensor keeps the whole fused storage alive."""
    made = wb.plan(experts_state(), EXPERTS).state_dict()
    back = wb.plan(made, EXPERTS.inverse()).state_dict()
    assert all(value.untyped_storage().nbytes() == value.numel() * value.element_size() for value in back.values())
    save_file(back, tmp_path / "m.safetensors")
    assert load_file(tmp_path / "m.safetensors").keys() == experts_state().keys()
