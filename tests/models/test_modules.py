"""Models as targets and sources."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import weighbridge as wb
from weighbridge.models.modules import module_header

RENAME = [wb.WeightRenaming("dense", "linear"), wb.WeightRenaming("gamma", "weight")]


class Small(torch.nn.Module):
    """A model with parameters, a persistent buffer, another one, and a tied head."""

    def __init__(self, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 2, dtype=dtype)
        self.norm = torch.nn.LayerNorm(2, bias=False, dtype=dtype)
        self.register_buffer("steps", torch.zeros(4, dtype=torch.int64))
        self.register_buffer("cache", torch.ones(5), persistent=False)


def checkpoint(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    return {
        "dense.weight": torch.arange(6.0).reshape(2, 3).to(dtype),
        "dense.bias": torch.tensor([8.0, 9.0]).to(dtype),
        "norm.gamma": torch.tensor([0.25, 0.5]).to(dtype),
        "steps": torch.tensor([4, 3, 2, 1]),
    }


def assert_loaded(model: Small, state: dict[str, torch.Tensor]) -> None:
    assert torch.equal(model.linear.weight, state["dense.weight"])
    assert torch.equal(model.linear.bias, state["dense.bias"])
    assert torch.equal(model.norm.weight, state["norm.gamma"])
    assert torch.equal(model.steps, state["steps"])


def test_header_of_a_model_has_parameters_and_persistent_buffers() -> None:
    assert list(module_header(Small())) == ["steps", "linear.weight", "linear.bias", "norm.weight"]


def test_load_into_a_real_model_keeps_its_parameters() -> None:
    model, state = Small(), checkpoint()
    weight, pointer = model.linear.weight, model.linear.weight.data_ptr()
    wb.load(model, state, RENAME)
    assert_loaded(model, state)
    assert model.linear.weight is weight
    assert model.linear.weight.data_ptr() == pointer


def test_load_into_a_meta_model_gives_it_values(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = Small()
    state = checkpoint()
    save_file(state, tmp_path / "model.safetensors")
    wb.load(model, tmp_path, RENAME)
    assert_loaded(model, state)
    assert isinstance(model.linear.weight, torch.nn.Parameter)
    assert model.linear.weight.requires_grad
    assert model.cache.is_meta, "what no checkpoint holds is the model's own affair"


def test_load_keeps_the_files_dtype_unless_asked() -> None:
    state = checkpoint(torch.bfloat16)
    kept, cast = Small(), Small()
    wb.load(kept, state, RENAME)
    wb.load(cast, state, RENAME, dtype="target")
    assert kept.linear.weight.dtype == torch.bfloat16
    assert cast.linear.weight.dtype == torch.float32
    assert_loaded(kept, state)
    assert torch.equal(cast.linear.weight, state["dense.weight"].float())


def test_a_dtype_that_is_not_the_models_is_said(caplog: pytest.LogCaptureFixture) -> None:
    state = checkpoint(torch.bfloat16)
    report = wb.load(Small(), state, RENAME)
    assert report.plan.notes == ('3 targets want F32 and keep BF16: dtype="target" (--dtype target) casts them',)
    assert [record.getMessage() for record in caplog.records] == [
        '3 tensors of the model, torch.float32 so far, will be torch.bfloat16: dtype="target" keeps the model\'s'
    ]
    caplog.clear()
    assert wb.load(Small(), state, RENAME, dtype="target").plan.notes == ()
    assert wb.load(Small(dtype=torch.bfloat16), state, RENAME).plan.notes == ()
    with torch.device("meta"):
        model = Small()
    assert wb.load(model, state, RENAME).plan.notes
    assert ["on meta" in record.getMessage() for record in caplog.records] == [True]


def test_save_goes_back_through_the_recorded_plan(tmp_path: Path) -> None:
    """A fine-tuned model is saved with its own values, in the layout and file that it came from."""
    source = tmp_path / "source"
    source.mkdir()
    save_file(checkpoint(), source / "model.safetensors", metadata={"format": "pt", "made": "here"})
    (source / "config.json").write_text("{}")
    model = Small()
    wb.load(model, source, RENAME)
    wb.save(model, tmp_path / "same")
    assert (tmp_path / "same/model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    assert (tmp_path / "same/config.json").read_text() == "{}"
    with torch.no_grad():
        model.linear.weight += 1
    wb.save(model, tmp_path / "tuned")
    tuned = load_file(tmp_path / "tuned/model.safetensors")
    assert torch.equal(tuned["dense.weight"], checkpoint()["dense.weight"] + 1)
    assert torch.equal(tuned["norm.gamma"], checkpoint()["norm.gamma"])


def test_save_of_a_model_from_scratch_needs_a_mapping(tmp_path: Path) -> None:
    model = Small()
    with pytest.raises(wb.RegistryError) as caught:
        wb.save(model, tmp_path / "out")
    assert caught.value.code == "mapping-not-found"
    wb.save(model, tmp_path / "out", [wb.WeightRenaming("dense", "linear")])
    assert "dense.weight" in load_file(tmp_path / "out/model.safetensors")


def test_initialised_parameters_are_saved_too(tmp_path: Path) -> None:
    """A head that was not in the checkpoint is declared, keeps its values, and is saved as the rules would name it."""
    state = checkpoint()
    del state["dense.bias"]
    model = Small()
    bias = model.linear.bias.detach().clone()
    report = wb.load(model, state, RENAME, initialise=["linear.bias"])
    assert report.fates()["target"] == {"filled": 3, "initialised": 1}
    assert torch.equal(model.linear.bias, bias)
    wb.save(model, tmp_path / "out")
    saved = load_file(tmp_path / "out/model.safetensors")
    assert torch.equal(saved["dense.bias"], bias)
    assert torch.equal(saved["dense.weight"], state["dense.weight"])
    again = Small()
    wb.load(again, tmp_path / "out", RENAME)
    assert torch.equal(again.linear.bias, bias)


def test_initialised_parameter_without_values_is_an_error() -> None:
    state = checkpoint()
    del state["dense.bias"]
    with torch.device("meta"):
        model = Small()
    with pytest.raises(wb.PlanError) as caught:
        wb.load(model, state, RENAME, initialise=["linear.bias"])
    assert caught.value.code == "model-mismatch"
    assert model.linear.weight.is_meta


def test_missing_and_left_over_tensors_are_named_and_nothing_is_loaded() -> None:
    state = checkpoint()
    del state["dense.bias"]
    state["extra.weight"] = torch.ones(2)
    model = Small()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(wb.PlanError) as caught:
        wb.load(model, state, RENAME)
    assert [(problem.code, problem.where) for problem in caught.value.problems] == [
        ("target-missing", "linear.bias"),
        ("source-unplaced", "extra.weight"),
    ]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_partial_load_reports_what_it_left() -> None:
    state = {"dense.weight": checkpoint()["dense.weight"], "extra.weight": torch.ones(2)}
    model = Small()
    report = wb.load(model, state, RENAME, partial=True)
    assert report.fates() == {
        "source": {"moved": 1, "carried": 1},
        "target": {"filled": 2, "initialised": 3},
    }
    assert torch.equal(model.linear.weight, state["dense.weight"])


def test_partial_load_of_nothing_is_an_error() -> None:
    with pytest.raises(wb.PlanError) as caught:
        wb.load(Small(), {"extra.weight": torch.ones(2)}, RENAME, partial=True)
    assert "target-missing" in caught.value.codes


def test_plan_for_another_model_is_refused() -> None:
    plan = wb.plan(checkpoint(), RENAME, target=Small())
    with pytest.raises(wb.PlanError) as caught:
        plan.load_into(torch.nn.Linear(3, 2))
    assert caught.value.code == "model-mismatch"


def test_registry_finds_the_mapping_by_class_name() -> None:
    wb.register("Small", RENAME, overwrite=True)
    model = Small()
    wb.load(model, checkpoint())
    assert_loaded(model, checkpoint())


def test_carried_tensors_come_back_from_the_original(tmp_path: Path) -> None:
    """A model has no place for a carried tensor; what is saved has it all the same, and is the very same file."""
    source = tmp_path / "source"
    source.mkdir()
    save_file({**checkpoint(), "mtp.proj.weight": torch.arange(6.0)}, source / "model.safetensors")
    model = Small()
    report = wb.load(model, source, RENAME, carry=["mtp"])
    assert report.fates()["source"] == {"moved": 4, "carried": 1}
    wb.save(model, tmp_path / "out")
    assert (tmp_path / "out/model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    (source / "model.safetensors").write_bytes(b"gone")
    with pytest.raises(wb.CheckpointError) as caught:
        wb.save(model, tmp_path / "again")
    assert caught.value.code == "source-changed"


@pytest.mark.parametrize("when", ["on loading", "later"])
def test_a_model_that_was_cast_is_saved_in_the_dtype_it_has(tmp_path: Path, when: str) -> None:
    """What a wider model has learnt since is not rounded away in silence."""
    model = Small()
    wb.load(model, checkpoint(torch.bfloat16), RENAME, dtype="target" if when == "on loading" else None)
    model.float()
    with torch.no_grad():
        model.linear.weight += 1e-4
    saved = load_file(wb.save(model, tmp_path / "out") / "model.safetensors")
    assert torch.equal(saved["dense.weight"], model.linear.weight)
    assert saved["steps"].dtype == torch.int64


def test_what_no_file_has_stays_out_of_a_save(tmp_path: Path) -> None:
    state = checkpoint()
    del state["dense.bias"]
    source = tmp_path / "source"
    source.mkdir()
    save_file(state, source / "model.safetensors")
    model = Small()
    mapping = wb.Mapping(RENAME, initialise=[wb.Initialise("linear.bias", "never published", saved=False)])
    wb.load(model, source, mapping)
    wb.save(model, tmp_path / "out")
    assert (tmp_path / "out/model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()


class Pair(torch.nn.Module):
    """Two weights of one shape."""

    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Linear(3, 3, bias=False)
        self.b = torch.nn.Linear(3, 3, bias=False)


def pair(start: float = 0) -> dict[str, torch.Tensor]:
    return {
        "a.weight": torch.arange(9.0).reshape(3, 3) + start,
        "b.weight": torch.arange(9.0).reshape(3, 3) + start + 50,
    }


def test_a_model_can_be_loaded_from_its_own_tensors() -> None:
    """Nothing is overwritten before it was read."""
    model = Pair()
    wb.load(model, pair(), [])
    swap = [wb.GroupWeightRename(["^a", "^b"], ["b", "a"])]
    wb.load(model, model.state_dict(), swap, layout="mapped")
    assert torch.equal(model.a.weight, pair()["b.weight"])
    assert torch.equal(model.b.weight, pair()["a.weight"])


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_tied_parameters_take_the_dtype_of_a_checkpoint_that_has_one_of_them(device: str) -> None:
    with torch.device(device):
        model = Pair()
        model.b.weight = model.a.weight
    values = {key: tensor.bfloat16() for key, tensor in pair().items() if key != "b.weight"}
    wb.load(model, values, [])
    assert model.a.weight is model.b.weight
    assert model.b.weight.dtype == torch.bfloat16
    assert torch.equal(model.b.weight, values["a.weight"])


def test_two_parameters_of_one_memory_are_tied() -> None:
    model = Pair()
    model.b.weight = torch.nn.Parameter(model.a.weight.data)
    with pytest.raises(wb.PlanError) as caught:
        wb.load(model, pair(), [])
    assert caught.value.codes == ("tie-differs",)
    same = {key: pair()["a.weight"] for key in pair()}
    wb.load(model, same, [])
    assert torch.equal(model.b.weight, same["a.weight"])


def test_parameters_that_share_a_part_of_their_memory_are_refused() -> None:
    model, whole = Pair(), torch.zeros(5, 3)
    model.a.weight = torch.nn.Parameter(whole[:3])
    model.b.weight = torch.nn.Parameter(whole[2:5])
    with pytest.raises(wb.PlanError, match="share part of their memory"):
        wb.load(model, pair(), [])
    assert not whole.any()


def test_what_a_model_gained_since_loading_is_saved_too(tmp_path: Path) -> None:
    model = Pair()
    wb.load(model, pair(), [])
    model.c = torch.nn.Linear(2, 2, bias=False)
    saved = load_file(wb.save(model, tmp_path / "out") / "model.safetensors")
    assert saved.keys() == {"a.weight", "b.weight", "c.weight"}
    assert torch.equal(saved["c.weight"], model.c.weight)


def test_a_tie_that_was_broken_since_loading_is_not_lost_in_silence(tmp_path: Path) -> None:
    model = Pair()
    model.b.weight = model.a.weight
    wb.load(model, {"a.weight": pair()["a.weight"]}, [])
    model.b.weight = torch.nn.Parameter(model.a.weight.detach().clone())
    wb.save(model, tmp_path / "same")
    with torch.no_grad():
        model.b.weight += 1
    saved = load_file(wb.save(model, tmp_path / "out") / "model.safetensors")
    assert torch.equal(saved["b.weight"], model.b.weight)
    assert torch.equal(saved["a.weight"], model.a.weight)


def test_an_initialised_weight_never_takes_a_loaded_ones_name(tmp_path: Path) -> None:
    """The source's b became the model's a; the model's own b cannot be saved as b beside it."""
    model = Pair()
    state = {"b.weight": pair()["b.weight"]}
    plan = wb.plan(state, [wb.WeightRenaming("^b", "a")], target=model, initialise="b.weight", layout="mapped")
    plan.load_into(model)
    with pytest.raises(wb.PlanError) as caught:
        wb.save(model, tmp_path / "out")
    assert caught.value.codes == ("target-collision",)


def test_carried_tensors_come_from_what_was_read(tmp_path: Path) -> None:
    """One plan, two checkpoints: each model is saved with the carried tensors of its own."""
    first, second = pair() | {"z": torch.zeros(2)}, pair(7) | {"z": torch.ones(2)}
    models = Pair(), Pair()
    plan = wb.plan(first, [], target=models[0], carry="z")
    plan.load_into(models[0])
    plan.load_into(models[1], second)
    for number, (model, state) in enumerate(zip(models, (first, second), strict=True)):
        saved = load_file(wb.save(model, tmp_path / str(number)) / "model.safetensors")
        assert all(torch.equal(saved[key], state[key]) for key in state)


def test_ties_are_compared_target_by_target() -> None:
    """A cut tensor fills one tied and one plain weight; only what fills the same weight is compared."""
    half = pair()["a.weight"]
    cut = [wb.WeightConverter("f.weight", ["x.weight", "y.weight"], [wb.Chunk(0)])]

    class Three(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x, self.y, self.z = (torch.nn.Linear(3, 3, bias=False) for _ in range(3))
            self.z.weight = self.y.weight

    state = {"f.weight": torch.cat([half + 9, half]), "z.weight": half.clone()}
    model = Three()
    wb.load(model, state, cut)
    assert torch.equal(model.z.weight, half)
    with pytest.raises(wb.PlanError) as caught:
        wb.load(Three(), state | {"z.weight": half + 1}, cut)
    assert caught.value.codes == ("tie-differs",)


@pytest.mark.parametrize("bad", ["meta", "integers", "expanded"])
def test_what_torch_would_refuse_half_way_is_refused_before(bad: str) -> None:
    model, state = Pair(), pair()
    if bad == "meta":
        state["b.weight"] = torch.empty(3, 3, device="meta")
    elif bad == "integers":
        state["b.weight"] = torch.ones(3, 3, dtype=torch.int64)
    else:
        model.b.weight = torch.nn.Parameter(torch.zeros(1, 3).expand(3, 3))
    before = model.a.weight.detach().clone()
    with pytest.raises(wb.WeighbridgeError):
        wb.load(model, state, [])
    assert torch.equal(model.a.weight, before)


def test_dropped_tensors_need_a_word_on_saving(tmp_path: Path) -> None:
    model = Pair()
    wb.load(model, pair() | {"z": torch.ones(1)}, [], drop="z")
    with pytest.raises(wb.PlanError) as caught:
        wb.save(model, tmp_path / "out")
    assert caught.value.code == "inverse-lossy"
    assert load_file(wb.save(model, tmp_path / "out", lossy=True) / "model.safetensors").keys() == pair().keys()


def test_a_model_is_saved_when_its_directory_is_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = tmp_path / "source"
    source.mkdir()
    save_file(pair(), source / "model.safetensors")
    (source / "config.json").write_text("{}")
    model = Pair()
    wb.load(model, source, [])
    for path in source.iterdir():
        path.unlink()
    wb.save(model, tmp_path / "out")
    assert "config.json" in caplog.text


def test_buffers_without_values_are_named(caplog: pytest.LogCaptureFixture) -> None:
    with torch.device("meta"):
        model = Small()
    wb.load(model, checkpoint(), RENAME)
    assert "cache" in caplog.text


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_compiled_part_is_saved_under_its_own_name(tmp_path: Path) -> None:
    model = Pair()
    model.a = torch.compile(model.a)
    wb.load(model, pair(), [])
    assert load_file(wb.save(model, tmp_path / "out") / "model.safetensors").keys() == pair().keys()


def test_new_weight_is_saved_in_the_dtype_of_its_siblings(tmp_path: Path) -> None:
    """A cast of the mapping is not turned round for the one weight that no file had."""
    model = torch.nn.ModuleDict({"l": torch.nn.ModuleList([torch.nn.Linear(3, 3, bias=False) for _ in range(2)])})
    mapping = wb.Mapping(
        [wb.WeightConverter(r"^b.*.weight", "l.*.weight", [wb.Cast("F32", "BF16")])], initialise={r"^l\.1\.": "new"}
    )
    wb.load(model, {"b.0.weight": torch.randn(3, 3, dtype=torch.bfloat16)}, mapping)
    header = wb.open(wb.save(model, tmp_path / "out")).header
    assert {key: spec.dtype for key, spec in header.items()} == {"b.0.weight": "F32", "b.1.weight": "F32"}


def test_new_weight_keeps_its_name_where_the_published_one_is_that_of_another(tmp_path: Path) -> None:
    model = torch.nn.ParameterDict({"new": torch.ones(2), "old": torch.zeros(3), "kept": torch.zeros(1)})
    mapping = wb.Mapping([wb.WeightRenaming("^old", "new")], initialise={"^(old|new)$": "new here"})
    wb.load(model, {"kept": torch.ones(1)}, mapping)
    header = wb.open(wb.save(model, tmp_path / "out")).header
    assert {key: spec.shape for key, spec in header.items()} == {"kept": (1,), "new": (2,), "old": (3,)}


def test_interleaved_columns_of_one_matrix_are_parameters_of_their_own() -> None:
    """G17: disjoint views were refused, as if they shared their memory."""
    whole = torch.zeros(4, 6)
    model = torch.nn.Module()
    model.even, model.odd = torch.nn.Parameter(whole[:, ::2]), torch.nn.Parameter(whole[:, 1::2])
    state = {"even": torch.arange(12.0).reshape(4, 3), "odd": torch.arange(12.0).reshape(4, 3) + 100}
    wb.load(model, state, [])
    assert model.even.equal(state["even"])
    assert model.odd.equal(state["odd"])
    assert whole[:, ::2].equal(state["even"])
    model.odd = torch.nn.Parameter(whole[:, 2::2])
    with pytest.raises(wb.PlanError):
        wb.load(model, state | {"odd": state["odd"][:, :2].clone()}, [])


def test_a_long_span_over_several_others_is_looked_at_as_a_whole() -> None:
    """G17: what lies between two others may touch a third."""
    whole = torch.zeros(10, 4)
    model = torch.nn.Module()
    model.column = torch.nn.Parameter(whole[:, 0])
    model.first, model.later = torch.nn.Parameter(whole[1, 1:]), torch.nn.Parameter(whole[7, :2])
    state = {"column": torch.ones(10), "first": torch.ones(3) * 2, "later": torch.ones(2) * 3}
    with pytest.raises(wb.PlanError) as caught:
        wb.load(model, state, [])
    assert caught.value.problems[0].where == "column, first, later"
    model.later = torch.nn.Parameter(whole[7, 1:3])
    wb.load(model, state, [])
    assert model.later.tolist() == [3, 3]


def test_the_collector_runs_while_a_model_is_loaded() -> None:
    """G17: a long load kept it off for the whole process."""
    import gc

    seen: list[bool] = []
    model = torch.nn.Linear(3, 2)
    wb.load(
        model,
        {key: value.clone() for key, value in model.state_dict().items()},
        [],
        progress=lambda *_: seen.append(gc.isenabled()),
    )
    assert seen
    assert all(seen)
