"""Quantised weights as the numbers that they stand for: by formulas of the tests' own, and by real readers' values."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from dequantised_twins import MAKERS, Quantised
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file, save_file

import weighbridge as wb
from weighbridge.storage.formats.torch_tensors import bytes_of

EXAMPLES = ROOT.parent / "shared" / "formats"
READ = (
    *("awq-gemm", "bnb-int8", "bnb-nf4", "ct-fp8-block", "ct-fp8-block-misaligned", "ct-fp8-tensor-static"),
    *("ct-int4-asym", "ct-int4-asym-misaligned", "ct-int4-group", "ct-int8-channel", "ct-moe-int4-asym"),
    *("ct-moe-int4-group", "ct-mxfp4", "ct-nvfp4", "fp8-block-128-mla", "fp8-block-aligned", "fp8-block-moe"),
    *("fp8-block-straddle", "gpt-oss-mxfp4", "gptq-int4", "mlx-mxfp4", "modelopt-fp8", "modelopt-nvfp4"),
    *("torchao-float8", "torchao-int8"),
)


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Compare bit for bit."""
    return one.dtype == other.dtype and one.shape == other.shape and bytes(bytes_of(one)) == bytes(bytes_of(other))


def example(name: str) -> Path:
    place = EXAMPLES / name
    if not place.is_dir():
        pytest.skip("needs the directory shared/formats beside the project")
    return place


def written(made: Quantised, place: Path) -> Path:
    """Write what a maker gives as a checkpoint, with an ordinary tensor beside it."""
    place.mkdir()
    save_file({**made.tensors, "norm.weight": torch.arange(4.0)}, place / "model.safetensors", {"format": "pt"})
    (place / "config.json").write_text(json.dumps({"model_type": "x", **made.config, "hidden_size": 4}, indent=2))
    return place


# ---- real files, and what the formats' own readers make of them ----


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", READ)
def test_values_are_those_of_the_formats_own_reader(name: str, dtype: str) -> None:
    place = example(name)
    plan = wb.plan(place, dtype=dtype)
    made = plan.state_dict()
    wanted = load_file(place / "oracle.safetensors")
    assert wanted
    for key, value in wanted.items():
        # The readers' values are kept in the narrowest dtype that holds them, and not all readers know a negative zero.
        assert made[key].dtype is getattr(torch, dtype)
        narrow = made[key].to(value.dtype) if dtype == "float32" else made[key]
        assert torch.equal(narrow, value.to(narrow.dtype)), key
    assert {tensor.dtype for tensor in made.values()} == {getattr(torch, dtype)}
    assert not plan.is_exact


def test_what_has_no_formula_stays_and_is_said() -> None:
    plan = wb.plan(example("hqq-int4"), dtype="bfloat16")
    assert plan.target["model.layers.0.self_attn.q_proj.W_q"].dtype == "U8"
    assert any(note.startswith("7 quantised weights stay as they are: int4 in groups of 32") for note in plan.notes)
    assert plan.computed == ()


# ---- drawn ones ----


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=max(25, settings().max_examples // 4), deadline=None)
def test_values_are_those_of_the_formula_element_by_element(make: Any, seed: int) -> None:
    """Partial blocks, stacks, widths that straddle words; all at once, and any part of the bytes."""
    chance = np.random.default_rng(seed)
    made: Quantised = make(chance, int(chance.integers(1, 40)), int(chance.integers(1, 70)))
    plan = wb.plan(made.tensors, dtype="float32", config=made.config)
    assert list(plan.target) == [made.name]
    assert same(plan.state_dict()[made.name], made.weight.float())
    source = plan.checkpoint()
    assert source.header[made.name].shape == made.values.shape
    whole = bytes(bytes_of(source.tensor(made.name)))
    start, stop = sorted(chance.integers(0, len(whole) + 1, 2).tolist())
    part = memoryview(bytearray(stop - start))
    source.read(made.name, start, part)
    assert bytes(part) == whole[start:stop]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_rules_move_the_values(make: Any, tmp_path: Path) -> None:
    """From files, in a small budget, through a transposition and a cut: what plain torch makes of the values."""
    made: Quantised = make(np.random.default_rng(3), 34, 66)
    rules = [
        wb.WeightConverter(made.name, ["first", "second"], [wb.Transpose(-2, -1), wb.Chunk(dim=made.values.ndim - 1)])
    ]
    out = wb.convert(written(made, tmp_path / "in"), tmp_path / "out", rules, dtype="float32", memory_budget=70_000)
    found = load_file(out / "model.safetensors")
    for name, part in zip(("first", "second"), made.weight.float().mT.chunk(2, -1), strict=True):
        assert same(found[name], part.contiguous())
    assert same(found["norm.weight"], torch.arange(4.0))


# ---- a whole conversion ----


def test_one_command_makes_a_plain_checkpoint(tmp_path: Path) -> None:
    """Configuration included: nothing of it speaks of quantisation any more, and the rest is what it was."""
    made: Quantised = MAKERS[1](np.random.default_rng(5), 37, 70)
    source = written(made, tmp_path / "in")
    (source / "hf_quant_config.json").write_text("{}")
    (source / "tokenizer.json").write_text("[1]")
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    out = wb.convert(source, tmp_path / "out", dtype="bfloat16", digests=True)
    found = load_file(out / "model.safetensors")
    assert same(found["q.weight"], made.weight.bfloat16())
    assert same(found["norm.weight"], torch.arange(4.0).bfloat16())
    assert sorted(found) == ["norm.weight", "q.weight"]
    text = (out / "config.json").read_text()
    assert text == json.dumps({"model_type": "x", "hidden_size": 4}, indent=2)
    assert sorted(path.name for path in out.iterdir()) == [
        *("config.json", "model.safetensors", "tokenizer.json", "weighbridge.json")
    ]
    assert wb.verify(out)
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before


def test_codes_are_not_had_back(tmp_path: Path) -> None:
    made: Quantised = MAKERS[0](np.random.default_rng(5), 9, 9)
    out = wb.convert(written(made, tmp_path / "in"), tmp_path / "out", dtype="bfloat16")
    with pytest.raises(wb.PlanError) as refused:
        wb.revert(out, tmp_path / "back")
    assert refused.value.code == "inverse-lossy"
    assert "1 tensor computed from codes: FP8 in blocks" in str(refused.value)
    assert not (tmp_path / "back").exists()
    back = load_file(wb.revert(out, tmp_path / "back", lossy=True) / "model.safetensors")
    assert same(back["up"], made.weight.bfloat16().float())


def test_a_stored_plan_computes_again(tmp_path: Path) -> None:
    made: Quantised = MAKERS[0](np.random.default_rng(7), 9, 30)
    source = written(made, tmp_path / "in")
    plan = wb.plan(source, [wb.WeightRenaming("^up$", "down")], dtype="float32")
    stored = wb.Plan.from_json(plan.to_json())
    assert (stored, stored.hash, stored.version) == (plan, plan.hash, 3)
    assert same(stored.state_dict(source)["down"], made.weight)
    with pytest.raises(wb.CheckpointError) as refused:
        stored.state_dict({"up": made.weight, "norm.weight": torch.arange(3.0)})
    assert refused.value.code == "source-changed"
    form = plan.to_dict()
    form["computed"] = {"FP8": ["up", "nobody"]}
    with pytest.raises(wb.PlanError):
        wb.Plan.from_dict(form)


def test_an_unfinished_run_goes_on(tmp_path: Path) -> None:
    made: Quantised = MAKERS[0](np.random.default_rng(8), 39, 69)
    source = written(made, tmp_path / "in")

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wb.convert(source, tmp_path / "out", dtype="bfloat16", resume=True, progress=stop)
    out = wb.convert(source, tmp_path / "out", dtype="bfloat16", resume=True)
    assert same(load_file(out / "model.safetensors")["up"], made.weight.bfloat16())
    assert "quantization_config" not in json.loads((out / "config.json").read_text())


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q = torch.nn.Linear(70, 37, bias=False)
        self.norm = torch.nn.LayerNorm(4, bias=False)


@pytest.mark.parametrize("dtype", ["bfloat16", "target"])
def test_a_model_takes_the_values_and_is_saved_with_them(dtype: str, tmp_path: Path) -> None:
    made: Quantised = MAKERS[1](np.random.default_rng(5), 37, 70)
    model = Small().bfloat16()
    wb.load(model, written(made, tmp_path / "in"), [], dtype=dtype)
    assert same(model.q.weight.detach(), made.weight.bfloat16())
    out = wb.save(model, tmp_path / "out")
    assert same(load_file(out / "model.safetensors")["q.weight"], made.weight.bfloat16())
    assert "quantization_config" not in json.loads((out / "config.json").read_text())


# ---- what is asked for, and what is not ----


@pytest.mark.parametrize("dtype", [None, "keep", {"norm": "BF16"}, {"**": "keep", "norm": "F16"}])
def test_codes_stay_where_no_dtype_is_asked_for_all(dtype: Any) -> None:
    made: Quantised = MAKERS[1](np.random.default_rng(5), 8, 8)
    tensors = {**made.tensors, "norm.weight": torch.arange(4.0)}
    plan = wb.plan(tensors, dtype=dtype, config=made.config)
    assert plan.target["q.weight"].dtype == "F8_E4M3"
    assert plan.computed == ()


def test_codes_stay_for_a_target_that_has_them() -> None:
    made: Quantised = MAKERS[1](np.random.default_rng(5), 8, 8)
    plan = wb.plan(made.tensors, target=wb.open(made.tensors).header, dtype="target", config=made.config)
    assert plan.target["q.weight"].dtype == "F8_E4M3"


def test_without_a_configuration_codes_stay_and_it_is_said() -> None:
    made: Quantised = MAKERS[1](np.random.default_rng(5), 8, 8)
    plan = wb.plan(made.tensors, dtype="bfloat16")
    assert plan.target["q.weight"].dtype == "F8_E4M3"
    assert any(note.startswith("1 quantised weight stays as it is: no configuration says how") for note in plan.notes)


@pytest.mark.parametrize("what", ["scale", "grid", "twice", "shape"])
def test_what_contradicts_the_configuration_is_refused_before_anything_is_written(what: str, tmp_path: Path) -> None:
    made: Quantised = (MAKERS[5] if what == "shape" else MAKERS[1])(np.random.default_rng(6), 16, 16)
    tensors = dict(made.tensors)
    if what == "scale":
        del tensors["q.weight_scale_inv"]
    elif what == "grid":
        tensors["q.weight_scale_inv"] = torch.ones(5, 5)
    elif what == "twice":
        tensors = {f"k.{key}": value for key, value in made.tensors.items()}
        tensors |= {"k.q": torch.zeros(1, dtype=torch.float8_e4m3fn), "k.q_scale_inv": torch.ones(1)}
    else:
        tensors["q.weight_shape"] = torch.tensor([16, 999])
    place = written(made._replace(tensors=tensors), tmp_path / "in")
    with pytest.raises(wb.CheckpointError) as refused:
        wb.convert(place, tmp_path / "out", dtype="bfloat16")
    assert refused.value.code == "scheme-conflict"
    assert not (tmp_path / "out").exists()


def test_a_column_of_no_group_is_an_error() -> None:
    made: Quantised = next(make for make in MAKERS if make.__name__ == "gptq")(np.random.default_rng(6), 32, 64)
    made.tensors["q.g_idx"][7] = 99
    with pytest.raises(wb.CheckpointError) as refused:
        wb.plan(made.tensors, dtype="float32", config=made.config).state_dict()
    assert (refused.value.code, refused.value.got) == ("scheme-conflict", "99")


def test_scales_of_what_comes_in_are_named_as_left_out() -> None:
    made: Quantised = MAKERS[2](np.random.default_rng(6), 5, 6)
    plan = wb.plan(made.tensors, dtype="float32", config=made.config)
    assert "left out with the codes: scales of activations of 1 weight" in plan.notes


def test_a_weight_beside_scales_of_what_comes_in_stays() -> None:
    """AWQ of ModelOpt: such scales belong to the module, which a plain one does not have."""
    made: Quantised = MAKERS[4](np.random.default_rng(6), 8, 16)
    tensors = {**made.tensors, "q.pre_quant_scale": torch.ones(16, dtype=torch.bfloat16)}
    plan = wb.plan(tensors, dtype="float32", config=made.config)
    assert plan.target["q.weight"].dtype == "U8"
    assert any("act on what comes in" in note for note in plan.notes)


def test_memory_stays_within_the_budget(tmp_path: Path) -> None:
    """A weight of 64 MB as BF16, computed within 8 MB."""
    codes = torch.randint(0, 120, (4096, 8192), dtype=torch.uint8).view(torch.float8_e4m3fn)
    tensors = {"q.weight": codes, "q.weight_scale_inv": torch.rand(32, 64)}
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    source = written(Quantised(config, tensors, "q.weight", np.zeros(0)), tmp_path / "in")
    script = (
        "import sys, resource, torch, weighbridge as wb\n"
        "wb.convert(sys.argv[1], sys.argv[2], dtype='bfloat16', memory_budget='8MB')\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "wb.convert(sys.argv[3], sys.argv[4], dtype='bfloat16', memory_budget='8MB')\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    small = written(
        Quantised(config, {key: value[:1] for key, value in tensors.items()}, "", np.zeros(0)), tmp_path / "s"
    )
    places = [small, tmp_path / "small-out", source, tmp_path / "out"]
    ran = subprocess.run([sys.executable, "-c", script, *map(str, places)], capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 40_000, "KiB more than for a small one"
    wanted = codes.float() * tensors["q.weight_scale_inv"].repeat_interleave(128, 0).repeat_interleave(128, 1)
    assert same(load_file(tmp_path / "out" / "model.safetensors")["q.weight"], wanted.bfloat16())
    shutil.rmtree(tmp_path)
