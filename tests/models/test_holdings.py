"""What a model holds (B2): as a target and as a source the same, extra state and state-dict hooks included."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import weighbridge as wb


class Stateful(torch.nn.Module):
    """A linear layer whose extra state is whatever it is given."""

    def __init__(self, state: Any = None) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 2, bias=False)
        self.state = state
        self.seen: torch.Tensor | None = None

    def get_extra_state(self) -> Any:
        return self.state

    def set_extra_state(self, state: Any) -> None:
        self.state = state
        self.seen = self.linear.weight.detach().clone()


def model_with(state: Any) -> torch.nn.Sequential:
    return torch.nn.Sequential(torch.nn.Linear(3, 3), Stateful(state))


def numbers(*shape: int) -> torch.Tensor:
    return torch.arange(float(torch.Size(shape).numel())).reshape(shape)


def a_file(model: torch.nn.Module, extra_state: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    state = {key: torch.rand_like(value) for key, value in model.state_dict().items() if torch.is_tensor(value)}
    return state if extra_state is None else state | {"1._extra_state": extra_state}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("shape", [(4,), (7,)], ids=["as it was", "of another shape"])
def test_a_files_extra_state_reaches_its_module_and_is_saved_again(
    device: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    """B2: it never reached `set_extra_state`, and what was loaded could not be saved."""
    file = a_file(model_with(torch.zeros(4)), numbers(*shape))
    save_file(file, tmp_path / "model.safetensors")
    with torch.device(device):
        model = model_with(torch.zeros(4))
    report = wb.load(model, tmp_path / "model.safetensors", [])
    assert model[1].state.equal(numbers(*shape))
    assert model[1].seen is not None
    assert model[1].seen.equal(file["1.linear.weight"]), "the extra state comes after the weights"
    assert dict(report.plan.target_fates())["1._extra_state"].name == "filled"
    saved = wb.save(model, tmp_path / "out")
    assert (saved / "model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def test_extra_state_that_changed_since_is_saved_as_it_is_now(tmp_path: Path) -> None:
    """B2: state of another shape is no other source."""
    model = model_with(torch.zeros(4))
    wb.load(model, a_file(model), [])
    model[1].state = numbers(9)
    saved = load_file(wb.save(model, tmp_path / "out") / "model.safetensors")
    assert saved["1._extra_state"].equal(numbers(9))
    again = model_with(torch.zeros(1))
    wb.load(again, tmp_path / "out", [])
    assert again[1].state.equal(numbers(9))


def test_a_file_without_the_extra_state_lacks_something() -> None:
    """B2: torch calls it missing as well."""
    model = model_with(torch.zeros(4))
    file = a_file(model)
    del file["1._extra_state"]
    with pytest.raises(wb.PlanError) as caught:
        wb.load(model, file, [])
    assert caught.value.codes == ("target-missing",)
    report = wb.load(model, file, [], initialise="_extra_state")
    assert dict(report.plan.target_fates())["1._extra_state"].name == "initialised"


@pytest.mark.parametrize("state", [None, {"steps": 3}, b"raw"], ids=repr)
def test_extra_state_that_is_no_tensor_is_left_aside_and_said(
    state: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """B2: a model with such state loads and saves, and both say what is left aside."""
    model = model_with(state)
    file = a_file(model)
    report = wb.load(model, file, [])
    assert model[1].state == state
    assert f"1._extra_state, a {type(state).__name__}" in str(report)
    with caplog.at_level(logging.WARNING, logger="weighbridge"):
        saved = load_file(wb.save(model, tmp_path / "out") / "model.safetensors")
    assert saved.keys() == file.keys()
    assert "1._extra_state" in caplog.text
    fresh = model_with(state)
    wb.save(fresh, tmp_path / "fresh", [])
    assert load_file(tmp_path / "fresh" / "model.safetensors").keys() == file.keys()


def test_a_tensor_of_a_file_reaches_a_module_that_has_no_state_yet(tmp_path: Path) -> None:
    """B2: what a fresh module has nothing of, the file may have."""
    file = a_file(model_with(None), numbers(5))
    model = model_with(None)
    wb.load(model, file, [])
    assert model[1].state.equal(numbers(5))
    saved = load_file(wb.save(model, tmp_path / "out") / "model.safetensors")
    assert saved["1._extra_state"].equal(numbers(5))


def test_state_that_is_no_tensor_any_more_is_left_out_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """B2: a module that makes an object of its tensor is saved without it."""
    model = model_with(torch.zeros(4))
    wb.load(model, a_file(model), [])
    model[1].state = {"parsed": True}
    with caplog.at_level(logging.WARNING, logger="weighbridge"):
        saved = load_file(wb.save(model, tmp_path / "out") / "model.safetensors")
    assert "1._extra_state" not in saved
    assert "1._extra_state: extra state that is no tensor now, not saved" in caplog.text


def renaming_hook(module: torch.nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    state[f"{prefix}kernel"] = state.pop(f"{prefix}weight")


def adding_hook(module: torch.nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    state[f"{prefix}version"] = torch.tensor([2, 1])


def copying_hook(module: torch.nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for key, value in list(state.items()):
        if key.startswith(prefix):
            state[key] = value.detach().clone()


def dropping_hook(module: torch.nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    del state[f"{prefix}bias"]


HOOKS = {"renames": renaming_hook, "adds": adding_hook, "copies": copying_hook, "drops": dropping_hook}


def hooked(*names: str) -> torch.nn.Sequential:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    for name in names:
        model[1]._register_state_dict_hook(HOOKS[name])
    return model


@pytest.mark.parametrize(
    "names", [["renames"], ["adds"], ["copies"], ["drops"], ["renames", "adds"], ["renames", "drops"]]
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_state_dict_hook_breaks_neither_loading_nor_saving(names: list[str], device: str, tmp_path: Path) -> None:
    """B2: a hook that adds or renames a key: the file that torch writes loads, and comes back."""
    written = hooked(*names).state_dict()
    file = {key: tensor.detach().clone() for key, tensor in written.items()}
    save_file(file, tmp_path / "model.safetensors")
    with torch.device(device):
        model = hooked(*names)
    if "drops" in names and device == "meta":
        model[1].bias = torch.nn.Parameter(torch.zeros(2, device="cpu"))
    wb.load(model, tmp_path / "model.safetensors", [])
    for key, tensor in model.state_dict().items():
        assert tensor.equal(file[key]), key
    saved = load_file(wb.save(model, tmp_path / "out") / "model.safetensors")
    assert saved.keys() == file.keys()
    assert all(saved[key].equal(file[key]) for key in file)


@pytest.mark.parametrize("names", [["renames"], ["adds"], ["copies"], ["drops"]])
def test_a_model_is_the_same_as_a_source_and_as_a_target(names: list[str], tmp_path: Path) -> None:
    """B2: one definition: what is saved of a fresh model loads into another, equal."""
    model, other = hooked(*names), hooked(*names)
    wb.save(model, tmp_path / "out", [])
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == model.state_dict().keys()
    wb.load(other, tmp_path / "out", [])
    assert wb.verify(model, other)
    assert wb.verify(tmp_path / "out", other)


def test_a_file_without_what_a_hook_adds_is_whole() -> None:
    """B2: torch does not ask for it either."""
    model = hooked("adds")
    file = {key: tensor.detach().clone() for key, tensor in hooked().state_dict().items()}
    wb.load(model, file, [])
    assert model[1].weight.equal(file["1.weight"])


def test_a_value_that_a_hook_changes_is_refused() -> None:
    """B2: nobody but the module's own code knows how such a value goes back."""

    def doubling(module: torch.nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
        state[f"{prefix}weight"] = state[f"{prefix}weight"] * 2

    model = hooked()
    model[1]._register_state_dict_hook(doubling)
    for use in (lambda: wb.open(model), lambda: wb.load(model, hooked().state_dict(), [])):
        with pytest.raises(wb.RegistryError) as caught:
            use()
        assert (caught.value.code, caught.value.where) == ("integration-unsupported", "1.weight")
    wb.open(model.state_dict())  # as the hint says


class Packed(torch.nn.Module):
    """Writes its weight in another form, as quantised layers do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(numbers(2, 3))

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}packed"] = self.weight.detach().to(torch.int8)

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *others: Any) -> None:
        self.weight.data = state[f"{prefix}packed"].float()


def test_a_weight_that_a_module_writes_in_its_own_form_is_not_loaded_past_it(tmp_path: Path) -> None:
    """B2: it can be saved; a load that set nothing would look like one that did."""
    model = torch.nn.Sequential(Packed())
    saved = load_file(wb.save(model, tmp_path / "out", []) / "model.safetensors")
    assert list(saved) == ["0.packed"]
    before = model[0].weight.detach().clone()
    with pytest.raises(wb.RegistryError) as caught:
        wb.load(model, {"0.packed": torch.ones(2, 3, dtype=torch.int8)}, [])
    assert caught.value.where == "0.weight"
    assert model[0].weight.equal(before)
    model.load_state_dict({"0.packed": torch.ones(2, 3, dtype=torch.int8)})  # as the hint says
    assert model[0].weight.equal(torch.ones(2, 3))


def test_entries_that_are_no_tensors_are_said() -> None:
    """B2: a hook's own notes are no weights."""

    def noting(module: torch.nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
        state["epoch"] = 3

    model = hooked()
    model._register_state_dict_hook(noting)
    assert wb.open(model).notes == ("no tensors, left aside: epoch, a int",)


def test_a_module_without_hooks_is_not_asked_for_its_state_dict() -> None:
    """A collective call, or a large copy, is made only where it says something new."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    asked: list[str] = []
    plain = torch.nn.Module.state_dict
    try:
        torch.nn.Module.state_dict = lambda self, *args, **kwargs: asked.append("") or plain(self, *args, **kwargs)
        header = wb.open(model).header
    finally:
        torch.nn.Module.state_dict = plain
    assert asked == []
    assert list(header) == list(model.state_dict())
