"""Law 11, find by find: what a saved model's file holds, its class reads, by any reading, with nothing left open."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import weighbridge as wb
from weighbridge.base.file_names import RECEIPT_NAME

NAMES = [wb.WeightRenaming("gamma", "weight")]
FILE = {"norm.gamma": torch.arange(3.0), "pooler.weight": torch.ones(2)}


def modules(**shapes: tuple[int, ...]) -> torch.nn.Module:
    """A model with a parameter of each name, whose `__` are dots, and values of its own."""
    root = torch.nn.Module()
    for name, shape in shapes.items():
        *path, last = name.split("__")
        module = root
        for part in path:
            module._modules.setdefault(part, torch.nn.Module())
            module = module._modules[part]  # type: ignore[assignment]
        module.register_parameter(last, torch.nn.Parameter(torch.randn(shape)))
    return root


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in one.state_dict().items())


def headed() -> torch.nn.Module:
    return modules(norm__weight=(3,), score__weight=(2, 3))


def test_what_a_partial_load_left_over_is_not_saved(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It was written back, and a strict load of the very file called it left over."""
    model, again = headed(), headed()
    wb.load(model, FILE, NAMES, partial=True)
    with caplog.at_level(logging.WARNING, logger="weighbridge"):
        out = wb.save(model, tmp_path / "out")
    assert "pooler.weight: without a place in the model when it was loaded, and not saved" in caplog.text
    assert load_file(out / "model.safetensors").keys() == {"norm.gamma", "score.gamma"}
    wb.load(again, out, NAMES)
    assert same(model, again)


@pytest.mark.parametrize("is_new", [False, True], ids=["as it was", "with a new head"])
def test_what_a_rule_carries_is_saved_and_read_by_the_receipt(is_new: bool, tmp_path: Path) -> None:
    def make() -> torch.nn.Module:
        return headed() if is_new else modules(norm__weight=(3,))

    model, again = make(), make()
    wb.plan(FILE, NAMES)
    source = wb.plan(FILE).write(tmp_path / "file")
    wb.load(model, source, NAMES, carry="^pooler", initialise="^score" if is_new else ())
    out = wb.save(model, tmp_path / "out")
    assert torch.equal(load_file(out / "model.safetensors")["pooler.weight"], FILE["pooler.weight"])
    report = wb.load(again, out, NAMES)
    assert '"^pooler": carried, as the receipt beside the checkpoint says' in str(report)
    assert same(model, again)
    (out / RECEIPT_NAME).unlink()
    with pytest.raises(wb.PlanError) as caught:
        wb.load(again, out, NAMES)
    assert caught.value.codes == ("source-unplaced",)
    wb.load(again, out, NAMES, carry="^pooler")


def test_a_carried_tensor_that_does_not_suit_a_rule_is_read_by_the_receipt(tmp_path: Path) -> None:
    """The receipt was asked about what is left over alone."""
    turn = [wb.WeightConverter(r"(\w+)$", r"\1", [wb.Transpose(0, 1)])]
    model, again = modules(proj__weight=(3, 2)), modules(proj__weight=(3, 2))
    wb.load(model, {"proj.weight": torch.randn(2, 3), "table": torch.ones(3)}, turn, carry="^table$")
    report = wb.load(again, wb.save(model, tmp_path / "out"), turn)
    assert '"^table$": carried, as the receipt beside the checkpoint says' in str(report)
    assert same(model, again)


def test_a_receipt_excuses_only_what_it_names(tmp_path: Path) -> None:
    model = modules(norm__weight=(3,))
    wb.load(model, FILE, NAMES, carry="^pooler")
    out = wb.save(model, tmp_path / "out")
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(out, NAMES, modules(other__weight=(3,)))
    assert set(caught.value.codes) == {"source-unplaced", "target-missing"}


def test_a_new_weight_is_saved_in_its_dtype_where_no_loaded_one_has_another(tmp_path: Path) -> None:
    """The loaded ones had the dtype that the model was cast to, so that the plan was taken to fit as it was."""
    model, again = headed(), headed()
    wb.load(model, {"norm.gamma": torch.arange(3.0).half()}, NAMES, partial=True)
    model.half()
    wb.load(again, wb.save(model, tmp_path / "out"), NAMES)
    assert same(model, again)


class WithState(torch.nn.Module):
    """Extra state, of any length."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.state = torch.arange(length)
        self.weight = torch.nn.Parameter(torch.randn(3))

    def get_extra_state(self) -> torch.Tensor:
        return self.state

    def set_extra_state(self, state: torch.Tensor) -> None:
        self.state = state


@pytest.mark.parametrize(
    ("prefix", "rules", "key"),
    [("norm", [], "norm._extra_state"), ("old", [wb.WeightRenaming("^old", "norm")], "old._extra_state")],
)
def test_extra_state_of_another_length_goes_where_rules_lead(
    prefix: str, rules: list[Any], key: str, tmp_path: Path
) -> None:
    model, again = (torch.nn.ModuleDict({"norm": WithState(length)}) for length in (1, 2))
    wb.load(model, {f"{prefix}.weight": torch.ones(3), key: torch.arange(5)}, rules)
    assert len(model["norm"].state) == 5
    wb.load(again, wb.save(model, tmp_path / "out"), rules)
    assert torch.equal(again["norm"].state, model["norm"].state)


def hooked(model: torch.nn.Module, old: str, new: str) -> torch.nn.Module:
    """Let the state dict of a model call one of its modules by another name."""

    def tell(module: Any, state: dict[str, Any], prefix: str, metadata: Any) -> None:
        for key in [key for key in state if key.startswith(f"{prefix}{old}.")]:
            state[key.replace(old, new, 1)] = state.pop(key)

    model.register_state_dict_post_hook(tell)
    return model


def test_extra_state_goes_where_a_hook_takes_its_module(tmp_path: Path) -> None:
    """It was taken for something that the hook makes, and left as it was."""
    models = [torch.nn.ModuleDict({"inside": WithState(length)}) for length in (1, 2)]
    model, again = (hooked(each, "inside", "norm") for each in models)
    wb.load(model, {"norm.weight": torch.ones(3), "norm._extra_state": torch.arange(5)}, [])
    assert len(model["inside"].state) == 5
    wb.load(again, wb.save(model, tmp_path / "out"), [])
    assert torch.equal(again["inside"].state, model["inside"].state)


class OnlyState(WithState):
    """Extra state, and nothing besides."""

    def __init__(self, length: int) -> None:
        super().__init__(length)
        del self.weight


def test_extra_state_goes_where_a_hook_takes_what_is_around_its_module() -> None:
    """Its module has no tensor of its own that would tell where the hook takes it."""
    inside = torch.nn.ModuleDict({"linear": torch.nn.Linear(2, 3), "scale": torch.nn.ModuleDict({"0": OnlyState(1)})})
    model = hooked(torch.nn.ModuleDict({"inside": inside}), "inside", "norm")
    file = {"norm.linear.weight": torch.ones(3, 2), "norm.linear.bias": torch.ones(3)}
    report = wb.load(model, {**file, "norm.scale.0._extra_state": torch.arange(5)}, [])
    assert torch.equal(inside["scale"]["0"].state, torch.arange(5))
    assert report.fates() == {"source": {"moved": 3}, "target": {"filled": 3}}


def test_extra_state_that_a_hook_takes_nobody_knows_where_is_refused() -> None:
    """It was passed by, as if the hook had made it: no tensor tells where the hook takes the module."""
    model = hooked(torch.nn.ModuleDict({"inside": OnlyState(1), "head": torch.nn.Linear(2, 3)}), "inside", "norm")
    file = {"head.weight": torch.ones(3, 2), "head.bias": torch.ones(3), "norm._extra_state": torch.arange(5)}
    with pytest.raises(wb.RegistryError) as caught:
        wb.load(model, file, [])
    assert (caught.value.code, caught.value.where) == ("integration-unsupported", "norm._extra_state")
    assert len(model["inside"].state) == 1


# ---- dtypes of their own ----


def test_tensors_that_one_rule_takes_apart_are_saved_in_dtypes_of_their_own(tmp_path: Path) -> None:
    """Weights of one rule were all said to become one tensor; those of a source do, and have to agree."""
    rules = [wb.WeightConverter(["bias", "table"], ["bias.*.part", "table.*.part"], [wb.SplitModulelist(1)])]
    shapes = {f"{name}__{i}__part": (2,) for name, count in (("bias", 2), ("table", 3)) for i in range(count)}
    model, again = modules(**shapes), modules(**shapes)
    wb.load(model, {"bias": torch.randn(2, 2), "table": torch.randn(2, 3)}, rules)
    model.bias.double()
    out = wb.save(model, tmp_path / "out")
    saved = load_file(out / "model.safetensors")
    assert {key: tensor.dtype for key, tensor in saved.items()} == {"bias": torch.float64, "table": torch.float32}
    wb.load(again, out, rules)
    assert same(model, again)
    model.table.get_submodule("1").half()
    with pytest.raises(wb.PlanError) as caught:
        wb.save(model, tmp_path / "other")
    assert (caught.value.code, caught.value.where) == ("dtype-mismatch", "table")
    assert caught.value.got == "table.0.part: F32, table.1.part: F16, table.2.part: F32"


# ---- readings ----


def towered() -> torch.nn.Module:
    return modules(tower__norm__weight=(3,), tower__proj__weight=(2, 4), score__weight=(2, 3))


PART = {"norm.gamma": torch.arange(3.0), "proj.weight": torch.randn(2, 4)}


def test_a_part_is_read_back_beside_what_is_new(tmp_path: Path) -> None:
    """The path was put before the new head, too."""
    model, again = towered(), towered()
    wb.load(model, PART, NAMES, partial=True)
    assert wb.loaded_plan(model).reading == "mapped, with tower. added"
    out = wb.save(model, tmp_path / "out")
    assert load_file(out / "model.safetensors").keys() == {"norm.gamma", "proj.weight", "score.weight"}
    wb.load(again, out, NAMES)
    assert same(model, again)


def test_a_part_beside_a_head_is_read_whole_in_a_partial_load(tmp_path: Path) -> None:
    """One name that fits as it is was enough to leave all others random."""
    model = towered()
    report = wb.load(model, PART | {"score.weight": torch.ones(2, 3)}, NAMES, partial=True)
    assert report.fates()["target"] == {"filled": 3}
    assert torch.equal(model.tower.norm.weight, PART["norm.gamma"])


def test_a_new_weight_that_no_name_leads_to_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    rules = [wb.WeightRenaming("^norm.gamma", "norm.weight"), wb.WeightRenaming("^score", "old_score")]
    model, again = headed(), headed()
    wb.load(model, {"norm.gamma": torch.arange(3.0)}, rules, initialise="^score")
    with pytest.raises(wb.PlanError) as caught:
        wb.save(model, tmp_path / "out")
    assert caught.value.code == "inverse-unproven"
    assert caught.value.hint == "save(model, out, []) saves it under the model's own names"
    assert not (tmp_path / "out").exists()
    wb.load(again, wb.save(model, tmp_path / "out", []), [])
    assert same(model, again)


TURNED = wb.Mapping(
    [wb.WeightConverter("proj.weight", "proj.weight", [wb.Transpose(0, 1)])], base_prefix="base"
)  # its names stay


def test_a_square_that_could_be_either_is_one_below_a_prefix_too() -> None:
    """Below a prefix that is added, the file was taken for mapped without a word."""
    for key, model in (("proj", modules(proj__weight=(3, 3))), ("base.proj", modules(base__proj__weight=(3, 3)))):
        with pytest.raises(wb.PlanError) as caught:
            wb.plan({"proj.weight": torch.ones(3, 3)}, TURNED, model)
        assert caught.value.code == "layout-ambiguous", key


def test_a_receipt_says_in_which_layout_a_square_was_saved(tmp_path: Path) -> None:
    model, again = modules(proj__weight=(3, 3)), modules(proj__weight=(3, 3))
    out = wb.save(model, tmp_path / "out", TURNED)
    assert torch.equal(load_file(out / "model.safetensors")["proj.weight"], model.proj.weight.T)
    wb.load(again, out, TURNED)
    assert same(model, again)
    (out / RECEIPT_NAME).unlink()
    with pytest.raises(wb.PlanError) as caught:
        wb.load(again, out, TURNED)
    assert caught.value.code == "layout-ambiguous"


SELF_INVERSE = wb.Mapping([wb.WeightConverter("proj.weight", "proj.weight", [wb.Permute((1, 0))])])


@pytest.mark.parametrize("shape", [(2, 3), (3, 3)])
def test_rules_that_are_their_own_inverse_are_read_in_the_layout_that_was_written(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    """The receipt of the way back looked like one of the way there: refused, and a square was read as it was."""
    assert SELF_INVERSE.inverse().transforms == SELF_INVERSE.transforms
    model, again = modules(proj__weight=shape), modules(proj__weight=shape)
    out = wb.save(model, tmp_path / "out", SELF_INVERSE)
    wb.load(again, out, SELF_INVERSE)
    assert same(model, again)
    forward = wb.convert(out, tmp_path / "there", SELF_INVERSE)
    for place, reading in ((forward, "as is"), (wb.revert(forward, tmp_path / "back"), "mapped")):
        wb.load(again, place, SELF_INVERSE, **({} if place == forward else {"layout": "mapped"}))
        assert wb.loaded_plan(again).reading == reading
        assert same(model, again)


def test_a_way_back_that_is_turned_round_leads_to_what_the_rules_give(tmp_path: Path) -> None:
    model, again = modules(proj__weight=(3, 3)), modules(proj__weight=(3, 3))
    there = wb.plan(model, SELF_INVERSE.inverse(), layout="mapped").inverse()
    out = there.write(tmp_path / "out")
    wb.load(again, out, SELF_INVERSE)
    assert wb.loaded_plan(again).reading == "as is"
    assert same(model, again)


def test_a_receipt_says_the_layout_of_what_was_converted_with_another_prefix(tmp_path: Path) -> None:
    """Rules that have run already ran again, and failed: the receipt names a change of prefix before them."""
    rules = wb.Mapping([wb.WeightConverter("weight$", "weight", [wb.Rearrange("a b -> (b a)")])], base_prefix="base")
    model, again = modules(proj__weight=(6,)), modules(proj__weight=(6,))
    file = wb.plan({"base.proj.weight": torch.randn(2, 3)}).write(tmp_path / "file")
    wb.load(model, file, rules)
    out = wb.convert(file, tmp_path / "out", rules, target=model)
    wb.load(again, out, rules)
    assert same(model, again)


def test_a_receipt_is_in_the_way_of_no_path(tmp_path: Path) -> None:
    """What was converted for a part was refused by the whole, which took the same file without a receipt."""
    part, whole = modules(norm__weight=(3,)), modules(tower__norm__weight=(3,), tower__proj__weight=(2, 3))
    out = wb.convert(wb.plan({"norm.gamma": torch.ones(3)}).write(tmp_path / "file"), tmp_path / "out", NAMES)
    wb.load(part, out, NAMES)
    report = wb.load(whole, out, NAMES, initialise="^tower.proj")
    assert wb.loaded_plan(whole).reading == "as is, with tower. added"
    assert report.fates()["target"] == {"filled": 1, "initialised": 1}


@pytest.mark.parametrize("partial", [False, True])
def test_a_square_that_could_be_either_is_one_below_any_path(partial: bool) -> None:
    """Below a path that nobody names, the file was taken for mapped without a word."""
    file, model = {"proj.weight": torch.ones(3, 3)}, modules(tower__proj__weight=(3, 3))
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(file, SELF_INVERSE, model, partial=partial)
    assert caught.value.code == "layout-ambiguous"
    for layout in ("mapped", "as is"):
        assert wb.plan(file, SELF_INVERSE, model, layout=layout).reading == f"{layout}, with tower. added"


def test_a_new_weight_is_proven_with_the_configuration_of_the_load(tmp_path: Path) -> None:
    """Without it the rules could not be run again, and what they make of the new name was not seen."""
    turn = wb.Rearrange("(h two) c -> (two h) c", two="heads")
    rules = [wb.WeightConverter("weight", "turned", [turn])]
    model, file = modules(proj__turned=(4, 2), fresh__weight=(4, 2)), {"proj.weight": torch.randn(4, 2)}
    wb.load(model, file, rules, initialise="^fresh", config={"heads": 2})
    with pytest.raises(wb.PlanError) as caught:
        wb.save(model, tmp_path / "out")
    assert caught.value.code == "inverse-unproven"
    assert "fresh.weight, of which rule 1 makes fresh.turned" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_new_weight_goes_back_by_a_rule_that_reads_the_configuration_of_the_load(tmp_path: Path) -> None:
    turn = wb.Rearrange("(h two) c -> (two h) c", two="heads")
    rules = [wb.WeightConverter("weight", "turned", [turn])]
    model, again = (modules(proj__turned=(4, 2), fresh__turned=(4, 2)) for _ in range(2))
    wb.load(model, {"proj.weight": torch.randn(4, 2)}, rules, initialise="^fresh", config={"heads": 2})
    recorded, derived = wb.save(model, tmp_path / "recorded"), wb.save(model, tmp_path / "derived", rules)
    for out in (recorded, derived):
        assert load_file(out / "model.safetensors").keys() == {"proj.weight", "fresh.weight"}
        wb.load(again, out, rules, config={"heads": 2})
        assert same(model, again)


def names_that_bring_back(model: torch.nn.Module, again: torch.nn.Module, rules: list[Any], out: Path) -> set[str]:
    """Save a model, see that the file loads into another one, equal, and return its names."""
    wb.save(model, out)
    wb.load(again, out, rules)
    assert same(model, again)
    return set(load_file(out / "model.safetensors"))


def test_a_new_weight_whose_converter_cannot_be_undone_goes_back_by_the_renames(tmp_path: Path) -> None:
    """Unequal parts are not cut, and the weight kept the path that the reading puts before all others."""
    rules = [wb.WeightConverter(["q", "k", "v"], "qkv", [wb.Concatenate(0)])]
    shapes: dict[str, tuple[int, ...]] = {"base__proj": (2,), "base__norm": (3,), "base__qkv": (4, 2)}
    model, again = modules(**shapes), modules(**shapes)
    wb.load(model, {"proj": torch.ones(2)}, rules, partial=True)
    assert wb.loaded_plan(model).reading == "mapped, with base. added"
    assert names_that_bring_back(model, again, rules, tmp_path / "out") == {"proj", "norm", "qkv"}


def test_a_new_weight_that_no_rule_takes_back_loses_the_path_of_the_reading(tmp_path: Path) -> None:
    """Every rule was run back, or none: a prefix that a rule removes hid the one that the reading adds."""
    rules = [wb.PrefixChange(prefix_to_remove="model")]
    model, again = (modules(base__proj=(2,), base__norm=(3,), score__weight=(2, 3)) for _ in range(2))
    wb.load(model, {"proj": torch.ones(2)}, rules, partial=True)
    assert wb.loaded_plan(model).reading == "mapped, with base. added"
    assert names_that_bring_back(model, again, rules, tmp_path / "out") == {"proj", "norm", "score.weight"}


def test_a_new_head_beside_a_part_goes_back_by_the_rules_that_would_rename_it(tmp_path: Path) -> None:
    """The path of the reading is not put before the head; the rules run over it all the same."""
    rules = [wb.GroupWeightRename(["beta", "weight"], ["weight", "last"])]
    model, again = (modules(base__norm__last=(2,), score__weight=(2, 3), score__bias=(2,)) for _ in range(2))
    wb.load(model, {"norm.weight": torch.ones(2)}, rules, partial=True)
    assert wb.loaded_plan(model).reading == "mapped, with base. added"
    assert names_that_bring_back(model, again, rules, tmp_path / "out") == {"norm.weight", "score.beta", "score.bias"}


@pytest.mark.parametrize("partial", [False, True])
def test_rules_that_look_at_the_start_of_a_key_run_before_a_path_is_put_in_front(partial: bool) -> None:
    """The path of a part was only put before the rules, which then found nothing: one tensor of two, or an error."""
    rules = [wb.WeightRenaming("^model", "core")]
    file, target = {"model.w": torch.ones(2), "head.w": torch.ones(3)}, modules(base__core__w=(2,), base__head__w=(3,))
    report = wb.load(target, file, rules, partial=partial)
    assert report.fates()["target"] == {"filled": 2}
    assert wb.loaded_plan(target).reading == "mapped, then with base. added"


def test_no_rule_runs_in_a_layout_that_is_declared_to_be_the_models() -> None:
    rules = wb.Mapping([wb.WeightRenaming("^model", "core")], base_prefix="base")
    target = wb.Header({"base.core.w": wb.TensorSpec("F32", (2,))})
    assert wb.plan({"model.w": torch.ones(2)}, rules, target).reading == "mapped, then with base. added"
    with pytest.raises(wb.PlanError) as caught:
        wb.plan({"model.w": torch.ones(2)}, rules, target, layout="as is")
    assert set(caught.value.codes) == {"source-unplaced", "target-missing"}
