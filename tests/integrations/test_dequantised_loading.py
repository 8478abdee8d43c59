"""`from_pretrained(dequantize=True)`: real quantised checkpoints in the library's plain models, and saved again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import ROOT
from safetensors.torch import load_file

import weighbridge as wb
from weighbridge.integrations import transformers as wbt

EXAMPLES = ROOT.parent / "shared" / "formats"
NAMES = ("bnb-int8", "ct-int4-asym", "ct-moe-int4-group", "fp8-block-moe", "gpt-oss-mxfp4", "torchao-int8")


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """One example's weights and configuration, without the values that it comes with."""
    source = EXAMPLES / request.param
    if not source.is_dir():
        pytest.skip("needs the directory shared/formats beside the project")
    made = tmp_path / request.param
    made.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(source / name, made)
    return made


def loaded(place: Path, **options: Any) -> Any:
    return wbt.from_pretrained(transformers.AutoModelForCausalLM, place, dequantize=True, **options)


@pytest.mark.parametrize("place", NAMES, indirect=True)
def test_the_model_has_the_numbers_that_a_conversion_writes(place: Path, tmp_path: Path) -> None:
    """And the library's own load of what was converted gives the same model, with the same answers."""
    model = loaded(place, dtype=torch.float32)
    assert not hasattr(model.config, "quantization_config")
    plan = wb.loaded_plan(model)
    assert plan is not None
    assert plan.computed
    out = wb.convert(place, tmp_path / "plain", dtype="float32")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    state = theirs.state_dict()
    assert state.keys() == model.state_dict().keys()
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key
    tokens = torch.arange(8)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, theirs(tokens).logits)


@pytest.mark.parametrize("place", ["fp8-block-moe", "ct-int4-asym", "gpt-oss-mxfp4"], indirect=True)
def test_it_is_saved_as_a_plain_checkpoint_under_published_names(place: Path, tmp_path: Path) -> None:
    model = loaded(place)
    out = wbt.save_pretrained(model, tmp_path / "out")
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    found, oracle = wb.open(out).header, load_file(EXAMPLES / place.name / "oracle.safetensors")
    written = load_file(out / "model.safetensors")
    for key, value in oracle.items():
        assert torch.equal(written[key], value.to(written[key].dtype)), key
    assert not any("scale" in key or "_blocks" in key for key in found)
    again = transformers.AutoModelForCausalLM.from_pretrained(out)
    for key, value in again.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key


@pytest.mark.parametrize("place", ["fp8-block-moe", "gpt-oss-mxfp4"], indirect=True)
def test_where_the_library_would_compute_numbers_nobody_has_to_ask_for_them(place: Path) -> None:
    """It has nothing on a CPU that computes with such codes."""
    model = wbt.from_pretrained(transformers.AutoModelForCausalLM, place)
    asked = loaded(place)
    assert not hasattr(model.config, "quantization_config")
    assert wb.loaded_plan(model).computed == wb.loaded_plan(asked).computed
    for key, value in asked.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key


@pytest.mark.parametrize("place", ["bnb-int8"], indirect=True)
def test_what_the_library_reads_otherwise_is_refused_with_what_to_do(place: Path) -> None:
    """It needs a package that is not there, and says so; where that is, its model has the codes in another form."""
    with pytest.raises((wb.RegistryError, ImportError)) as refused:
        wbt.from_pretrained(transformers.AutoModelForCausalLM, place)
    assert "with dequantize" in getattr(refused.value, "hint", "with dequantize")
