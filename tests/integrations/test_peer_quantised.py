"""Where the library's own reading of quantised checkpoints is wrong, side by side with ours; it says so by itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import ROOT
from safetensors.torch import load_file, save_file

import weighbridge as wb
from weighbridge.integrations import transformers as wbt

BLOCK = 16
SAVES_CODES = tuple(map(int, transformers.__version__.split(".")[:2])) < (5, 24)
"""Whether the library saves numbers as codes, or under the names of codes; from 5.24 on it saves them as numbers."""
GPT_OSS = ROOT.parent / "shared" / "formats" / "gpt-oss-mxfp4"


def quantised(place: Path, intermediate_size: int) -> dict[str, torch.Tensor]:
    """Write a small Llama in FP8 blocks, whose last ones may be partial; return what its codes stand for."""
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=intermediate_size, num_hidden_layers=1, num_attention_heads=2, vocab_size=40
    )
    torch.manual_seed(0)
    state = transformers.LlamaForCausalLM(config).state_dict()
    tensors, values = {}, {}
    for key, value in state.items():
        tensors[key] = values[key] = value.clone()
        if "proj" not in key:
            continue
        scales = torch.rand([-(-size // BLOCK) for size in value.shape]) + 0.5
        wide = scales.repeat_interleave(BLOCK, 0)[: value.shape[0]].repeat_interleave(BLOCK, 1)[:, : value.shape[1]]
        tensors[key] = (value / wide).to(torch.float8_e4m3fn)
        tensors[f"{key}_scale_inv"] = scales
        values[key] = tensors[key].float() * wide
    place.mkdir()
    save_file(tensors, place / "model.safetensors", {"format": "pt"})
    said = {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK], "modules_to_not_convert": ["lm_head"]}
    form = {**config.to_dict(), "architectures": ["LlamaForCausalLM"], "quantization_config": said}
    (place / "config.json").write_text(json.dumps(form))
    return values


def both(place: Path) -> tuple[Any, Any]:
    """Load with weighbridge, and with the library, which computes numbers where there is no kernel for the codes."""
    ours = wbt.from_pretrained(transformers.AutoModelForCausalLM, place, dequantize=True, dtype=torch.float32)
    return ours, transformers.AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)


def worst(model: Any, values: dict[str, torch.Tensor]) -> float:
    state = model.state_dict()
    return max(float((state[key] - value).abs().max() / value.abs().max()) for key, value in values.items())


@pytest.mark.parametrize(("size", "is_right"), [(48, True), (24, False)], ids=["whole blocks", "partial blocks"])
def test_a_block_is_what_the_configuration_says(size: int, is_right: bool, tmp_path: Path) -> None:
    """The library divides rows by those of the grid: 24 rows in blocks of 16 are two of 12 to it, without a word."""
    values = quantised(tmp_path / "in", size)
    ours, theirs = both(tmp_path / "in")
    assert worst(ours, values) == 0
    assert (worst(theirs, values) == 0) == is_right
    assert is_right or worst(theirs, values) > 0.1


def test_numbers_are_saved_as_numbers(tmp_path: Path) -> None:
    """What the library saved of such a model were codes again, in its own blocks, of which no configuration spoke."""
    values = quantised(tmp_path / "in", 48)
    ours, theirs = both(tmp_path / "in")
    written = load_file(wbt.save_pretrained(ours, tmp_path / "ours") / "model.safetensors")
    assert written.keys() == values.keys() - ({"lm_head.weight"} if ours.config.tie_word_embeddings else set())
    for key, value in written.items():
        assert torch.equal(value, values[key]), key
    theirs.save_pretrained(tmp_path / "theirs")
    form = json.loads((tmp_path / "theirs" / "config.json").read_text())
    dtypes = {value.dtype for value in load_file(tmp_path / "theirs" / "model.safetensors").values()}
    assert (torch.float8_e4m3fn in dtypes, "quantization_config" in form) == (SAVES_CODES, False)


def test_numbers_are_not_saved_under_the_names_of_codes(tmp_path: Path) -> None:
    """MXFP4 of gpt-oss: the library saved floats as `_blocks`, which neither it nor anybody else read again."""
    if not GPT_OSS.is_dir():
        pytest.skip("needs the directory shared/formats beside the project")
    (tmp_path / "in").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(GPT_OSS / name, tmp_path / "in")
    ours, theirs = both(tmp_path / "in")
    for key, value in theirs.state_dict().items():
        assert torch.equal(value, ours.state_dict()[key]), key
    names = wb.open(wbt.save_pretrained(ours, tmp_path / "ours")).header
    assert {key.rpartition(".")[2] for key in names if "experts" in key} == {
        *("gate_up_proj", "gate_up_proj_bias", "down_proj", "down_proj_bias")
    }
    theirs.save_pretrained(tmp_path / "theirs")
    header = wb.open(tmp_path / "theirs").header
    assert ("model.layers.0.mlp.experts.gate_up_proj_blocks" in header) == SAVES_CODES
