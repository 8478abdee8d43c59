"""States of an optimizer go where their weights go, by the same rules; the numbers beside them are copied, or equal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dcp_directories import write_dcp
from hypothesis import assume, given, settings
from strategies import layouts, same, tensors_of

import weighbridge as wb

RULES = wb.Mapping(
    [
        wb.WeightConverter("experts.*.up", "experts.up", [wb.MergeModulelist(0), wb.Transpose(1, 2)]),
        wb.WeightConverter("qkv", ["q", "k", "v"], [wb.Chunk(dim=0)]),
        wb.WeightRenaming("gamma", "weight"),
    ],
    name="rules",
)


def numbers(*shape: int, start: float = 1.0) -> torch.Tensor:
    return torch.arange(start, start + torch.Size(shape).numel()).reshape(shape)


WEIGHTS = {
    "experts.0.up": numbers(2, 3).bfloat16(),
    "experts.1.up": numbers(2, 3, start=50.0).bfloat16(),
    "qkv": numbers(6, 5).bfloat16(),
    "norm.gamma": numbers(4).bfloat16(),
    "frozen": numbers(2).bfloat16(),
}
TRAINED = [key for key in WEIGHTS if key != "frozen"]


def do(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Do by hand what the rules say."""
    experts = torch.stack([weights["experts.0.up"], weights["experts.1.up"]]).transpose(1, 2)
    parts = zip("qkv", weights["qkv"].chunk(3), strict=True)
    left = {key: weights[key] for key in ("frozen",) if key in weights}
    return {"experts.up": experts, **dict(parts), "norm.weight": weights["norm.gamma"], **left}


def states(name: str, start: float) -> dict[str, torch.Tensor]:
    return {key: WEIGHTS[key].float() * 3 + start for key in TRAINED}


def checkpoint(under: str = "model.", optim: str = "optim.") -> dict[str, torch.Tensor]:
    made = {under + key: tensor for key, tensor in WEIGHTS.items()}
    for key in TRAINED:
        made[f"{optim}state.{key}.exp_avg"] = states("exp_avg", 0.5)[key]
        made[f"{optim}state.{key}.exp_avg_sq"] = states("exp_avg_sq", 0.25)[key]
        made[f"{optim}state.{key}.step"] = torch.tensor(7.0)
    return made | {f"{optim}param_groups.{key}.lr": torch.tensor(0.125) for key in TRAINED} | {"epoch": torch.tensor(2)}


def wanted(under: str = "model.", optim: str = "optim.") -> dict[str, torch.Tensor]:
    made = {under + key: tensor for key, tensor in do(WEIGHTS).items()}
    for name, start in (("exp_avg", 0.5), ("exp_avg_sq", 0.25)):
        made |= {f"{optim}state.{key}.{name}": tensor for key, tensor in do(states(name, start)).items()}
    for key in do(states("", 0)):
        made[f"{optim}state.{key}.step"] = torch.tensor(7.0)
        made[f"{optim}param_groups.{key}.lr"] = torch.tensor(0.125)
    return made | {"epoch": torch.tensor(2)}


def dense(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: tensor.contiguous() for key, tensor in tensors.items()}


def error_of(function: Callable[[], object]) -> wb.PlanError:
    with pytest.raises(wb.PlanError) as caught:
        function()
    return caught.value


@pytest.mark.parametrize(("under", "optim"), [("model.", "optim."), ("", "optimizer."), ("a.model.", "a.optim.")])
def test_states_go_where_their_weights_go_and_back(tmp_path: Path, under: str, optim: str) -> None:
    source = wb.convert(checkpoint(under, optim), tmp_path / "in", max_shard_size=200)
    plan = wb.plan(source, RULES)
    assert plan.is_exact
    assert wb.verify(dict(plan.state_dict()), dense(wanted(under, optim)))
    out = plan.write(tmp_path / "out")
    assert wb.verify(out, dense(wanted(under, optim)))
    back = wb.revert(out, tmp_path / "back")
    assert {path.name: path.read_bytes() for path in back.iterdir()} == {
        path.name: path.read_bytes() for path in source.iterdir() if path.name != "weighbridge.json"
    }
    assert wb.Plan.from_json(plan.to_json()) == plan


def test_states_in_a_distributed_checkpoint(tmp_path: Path) -> None:
    boxes = {
        "optim.state.qkv.exp_avg": [((0, 0), (4, 5)), ((4, 0), (2, 5))],
        "model.qkv": [((0, 0), (1, 5)), ((1, 0), (5, 5))],
    }
    paths = {
        key: ("model", key.removeprefix("model.")) if key.startswith("model.") else tuple(key.split(".", 1))
        for key in checkpoint()
        if key != "epoch"
    }
    folder = write_dcp(tmp_path / "in", checkpoint(), boxes, paths=paths)
    out = wb.convert(f"{folder}::**", tmp_path / "out", RULES, to="dcp")
    assert wb.verify(out, dense(wanted()))
    assert wb.verify(wb.revert(out, tmp_path / "back", to="dcp"), checkpoint())
    assert sorted(wb.plan(folder, RULES).target) == sorted(do(WEIGHTS))


@settings(deadline=None, max_examples=300)
@given(layouts())
def test_a_state_that_is_its_weight_becomes_what_its_weight_becomes(layout) -> None:
    """Whatever the rules: a second implementation says what becomes of the weights."""
    weights = tensors_of(layout.tensors)
    assume(not any(step.program.is_declared for step in wb.plan(weights, layout.mapping).steps))
    given_ = {f"model.{key}": tensor for key, tensor in weights.items()}
    given_ |= {f"optim.state.{key}.m": tensor for key, tensor in weights.items()}
    plan = wb.plan(given_, layout.mapping)
    found = plan.state_dict()
    for start, end in (("model.", ""), ("optim.state.", ".m")):
        ours = {key.removeprefix(start).removesuffix(end): t for key, t in found.items() if key.startswith(start)}
        same(ours, layout.expected.targets)
    if plan.is_exact:
        back = plan.inverse().state_dict()
        assert wb.verify(back, given_)


def test_numbers_that_differ_are_found_before_anything_is_written(tmp_path: Path) -> None:
    tensors = checkpoint() | {"optim.state.experts.1.up.step": torch.tensor(8.0)}
    error = error_of(lambda: wb.convert(tensors, tmp_path / "out", RULES))
    assert error.code == "plan-failed"
    assert error.codes == ("sources-differ",)
    assert "optim.state.experts.up.step" in str(error)
    assert not (tmp_path / "out").exists()


def test_some_without_a_state_are_named() -> None:
    tensors = checkpoint()
    del tensors["optim.state.experts.1.up.exp_avg"]
    error = error_of(lambda: wb.plan(tensors, RULES))
    assert error.codes == ("group-incomplete",)
    assert "experts.1.up" in error.problems[0].got


def test_states_of_another_shape_or_of_two_dtypes_are_refused() -> None:
    tensors = checkpoint() | {"optim.state.qkv.exp_avg": numbers(6)}
    assert error_of(lambda: wb.plan(tensors, RULES)).codes == ("spec-mismatch",)
    tensors = checkpoint() | {"optim.state.experts.1.up.exp_avg": numbers(2, 3).double()}
    assert error_of(lambda: wb.plan(tensors, RULES)).codes == ("dtype-mismatch",)


def test_declared_rows_say_nothing_of_states() -> None:
    rules = [wb.WeightConverter("w", "w", [wb.Pad(0, 4, value=0)])]
    tensors = {"model.w": numbers(3, 2), "optim.state.w.exp_avg": numbers(3, 2)}
    assert error_of(lambda: wb.plan(tensors, rules)).codes == ("spec-mismatch",)


def test_what_is_dropped_of_the_weights_is_dropped_of_the_states() -> None:
    plan = wb.plan(checkpoint(), RULES, drop=["^norm.gamma$"])
    dropped = {fated.key for fated in plan.dropped}
    assert dropped == {
        "model.norm.gamma",
        *(f"optim.state.norm.gamma.{name}" for name in ("exp_avg", "exp_avg_sq", "step")),
        "optim.param_groups.norm.gamma.lr",
    }


def test_a_cast_of_the_weights_leaves_the_states_as_they_are() -> None:
    plan = wb.plan(checkpoint(), RULES, dtype="F32")
    assert {spec.dtype for key, spec in plan.target.items() if key.startswith("model.")} == {"F32"}
    assert plan.target["optim.state.q.exp_avg"].dtype == "F32"
    plan = wb.plan(checkpoint(), RULES, dtype="F16")
    assert plan.target["optim.state.q.exp_avg"].dtype == "F32"


def test_a_moving_average_of_the_weights_goes_with_them() -> None:
    tensors = checkpoint() | {f"ema.{key}": tensor + 1 for key, tensor in WEIGHTS.items()}
    found = wb.plan(tensors, RULES).state_dict()
    ema = do({key: tensor + 1 for key, tensor in WEIGHTS.items()})
    assert wb.verify(found, dense(wanted() | {f"ema.{key}": tensor for key, tensor in ema.items()}))


def test_names_like_those_of_states_are_weights_where_no_weight_is_theirs() -> None:
    tensors = {"cell.state.gamma.x": numbers(2), "cell.gamma": numbers(3)}
    assert sorted(wb.plan(tensors, RULES).target) == ["cell.state.weight.x", "cell.weight"]


def test_a_state_is_explained_by_the_rules_of_its_weight() -> None:
    plan = wb.plan(checkpoint(), RULES)
    said = str(plan.explain("optim.state.experts.1.up.exp_avg"))
    assert "optim.state.experts.up.exp_avg" in said
    assert "fired: experts.1.up -> experts.up" in said
    assert "step" in plan.notes[-1]
    assert json.loads(plan.to_json())
