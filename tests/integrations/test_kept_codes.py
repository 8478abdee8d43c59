"""Quantised checkpoints whose codes the library's own model has: loaded as they are, and saved byte for byte."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from conftest import ROOT
from dequantised_twins import Quantised, int8_channel, nvfp4, packed
from safetensors.torch import load_file, save_file

import weighbridge as wb
from weighbridge.integrations import transformers as wbt

EXAMPLES = ROOT.parent / "shared" / "formats"
TOKENS = torch.arange(8)[None]

Maker = Callable[[np.random.Generator, int, int], Quantised]


def write_quantised(place: Path, config: Any, maker: Maker, which: str) -> dict[str, torch.Tensor]:
    """Write a small model of the library with some of its matrices as codes; return what they stand for.

    Args:
        place: Directory to make.
        config: The library's configuration.
        maker: Makes a quantised matrix of a given size, and its values.
        which: What the names of the matrices have in common.
    """
    chance = np.random.default_rng(0)
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(place)
    tensors, values = {}, {}
    for key, value in load_file(place / "model.safetensors").items():
        if which not in key:
            tensors[key] = values[key] = value
            continue
        made = maker(chance, *value.shape)
        said = made.config["quantization_config"]
        tensors |= {key.removesuffix(".weight") + name.removeprefix("q"): part for name, part in made.tensors.items()}
        values[key] = made.weight
    save_file(tensors, place / "model.safetensors", {"format": "pt"})
    form = json.loads((place / "config.json").read_text())
    said["config_groups"]["one"].setdefault("format", said.get("format"))
    said = {**said, "quantization_status": "compressed", "ignore": ["lm_head"], "version": "0.20.0"}
    (place / "config.json").write_text(json.dumps({**form, "quantization_config": said}))
    return values


def load(place: Path, **options: Any) -> Any:
    return wbt.from_pretrained(transformers.AutoModelForCausalLM, place, **options)


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A Llama with int8 channels, as compressed-tensors stores them."""
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, vocab_size=40
    )
    write_quantised(tmp_path / "llama", config, int8_channel, "proj")
    return tmp_path / "llama"


def test_codes_are_loaded_as_they_are_and_saved_byte_for_byte(llama: Path, tmp_path: Path) -> None:
    model, stored = load(llama), load_file(llama / "model.safetensors")
    state = model.state_dict()
    assert state.keys() == stored.keys()
    for key, value in stored.items():
        assert state[key].dtype == value.dtype
        assert torch.equal(state[key], value), key
    out = wbt.save_pretrained(model, tmp_path / "out")
    for name in ("model.safetensors", "config.json", "generation_config.json"):
        assert (out / name).read_bytes() == (llama / name).read_bytes(), name


def test_the_model_computes_with_them(llama: Path) -> None:
    kept, numbers = load(llama), load(llama, dequantize=True)
    with torch.no_grad():
        torch.testing.assert_close(kept(TOKENS).logits, numbers(TOKENS).logits)


def test_a_plain_checkpoint_keeps_settings_that_say_the_same(tmp_path: Path) -> None:
    """In the words, and of the version, that it came with; what was changed is written as the library does."""
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, vocab_size=40
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "in")
    for name in ("config.json", "generation_config.json"):
        form = json.loads((tmp_path / "in" / name).read_text())
        (tmp_path / "in" / name).write_text(json.dumps({**form, "transformers_version": "5.0.0"}, indent=1))
    model = load(tmp_path / "in")
    out = wbt.save_pretrained(model, tmp_path / "out")
    for name in ("config.json", "generation_config.json"):
        assert (out / name).read_bytes() == (tmp_path / "in" / name).read_bytes(), name
    model.generation_config.max_length = 7
    again = wbt.save_pretrained(model, tmp_path / "again")
    assert (again / "config.json").read_bytes() == (tmp_path / "in" / "config.json").read_bytes()
    form = json.loads((again / "generation_config.json").read_text())
    assert (form["max_length"], form["transformers_version"]) == (7, transformers.__version__)


@pytest.mark.parametrize("text", ["[1]", '{"model_type": ', '{"model_type": "llama", "quantization_config": 3}'])
def test_a_configuration_that_is_none_is_the_librarys_to_refuse(text: str, tmp_path: Path) -> None:
    """In its own words, as without us."""
    save_file({"weight": torch.ones(2)}, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        transformers.LlamaForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(type(theirs.value)) as ours:
        wbt.from_pretrained(transformers.LlamaForCausalLM, tmp_path)
    assert str(ours.value) == str(theirs.value)


def test_other_settings_are_those_of_the_model(llama: Path, tmp_path: Path) -> None:
    """What is said of the codes stays as it was said, where the library keeps part of it."""
    model = load(llama)
    model.config.bos_token_id = 7
    out = wbt.save_pretrained(model, tmp_path / "out")
    before, after = (json.loads((place / "config.json").read_text()) for place in (llama, out))
    assert after["bos_token_id"] == 7
    assert after["quantization_config"] == before["quantization_config"]


@pytest.mark.parametrize("layout", [None, "as loaded", "published", "as is"])
def test_codes_that_became_numbers_are_not_saved_beside_their_scales(llama: Path, tmp_path: Path, layout: Any) -> None:
    """The first forward pass puts numbers in the place of the codes: with the scales, they would be read as codes."""
    model = load(llama)
    model(TOKENS)
    for save in (wbt.save_pretrained, wb.save):
        with pytest.raises(wb.PlanError) as refused:
            save(model, tmp_path / "out", layout=layout)
        assert refused.value.code == "model-mismatch"
        assert "weight_scale" in refused.value.got
        assert not (tmp_path / "out").exists()
    assert "before its first forward pass" in refused.value.hint
    fresh = wbt.save_pretrained(load(llama), tmp_path / "codes", layout=layout)
    assert load_file(fresh / "model.safetensors").keys() == load_file(llama / "model.safetensors").keys()
    assert "load the numbers" in refused.value.hint
    numbers = load(llama, dequantize=True)
    numbers(TOKENS)
    plain = wbt.save_pretrained(numbers, tmp_path / "numbers", layout=layout)
    assert not any("scale" in key for key in wb.open(plain).header)


OTHER_NAMES = [wb.WeightRenaming("^blocks", "model.layers"), wb.WeightRenaming("^head", "lm_head")]
"""From a layout that nobody publishes to the names of the model."""


def said_in(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / "config.json").read_text())["quantization_config"]
    return found


def test_names_in_the_configuration_follow_to_another_layout_and_back(llama: Path, tmp_path: Path) -> None:
    form = json.loads((llama / "config.json").read_text())
    form["quantization_config"]["ignore"] = ["re:.*lm_head", "model.layers.0.input_layernorm", "model.norm"]
    form["quantization_config"]["config_groups"]["one"]["targets"] = [r"re:model\.layers\..*proj$"]
    (llama / "config.json").write_text(json.dumps(form, indent=3))
    model, before = load(llama), said_in(llama)
    out = wbt.save_pretrained(model, tmp_path / "out", OTHER_NAMES)
    after = said_in(out)
    assert after["ignore"] == ["head", "blocks.0.input_layernorm", "model.norm"]
    assert "blocks.0.mlp.down_proj.weight_scale" in wb.open(out).header
    targets = after["config_groups"]["one"].pop("targets")
    del before["config_groups"]["one"]["targets"]
    assert after == before | {"ignore": after["ignore"]}
    projections = {key.removesuffix(".weight") for key in wb.open(out).header if key.endswith("proj.weight")}
    meant = {
        module
        for module in {key.rpartition(".")[0] for key in wb.open(out).header}
        if any(entry == module or (entry[:3] == "re:" and re.match(entry[3:], module)) for entry in targets)
    }
    assert meant == projections
    assert len(projections) == 7
    back = wb.plan(out, OTHER_NAMES).write(tmp_path / "back")
    assert said_in(back)["ignore"] == ["lm_head", "model.layers.0.input_layernorm", "model.norm"]
    for key, value in load_file(llama / "model.safetensors").items():
        assert torch.equal(load_file(back / "model.safetensors")[key], value), key
    for layout in ("as loaded", "as is", "published"):
        same = wbt.save_pretrained(model, tmp_path / layout, layout=layout)
        assert (same / "config.json").read_bytes() == (llama / "config.json").read_bytes(), layout


def test_names_that_cannot_be_said_of_the_layout_are_an_error_before_anything_is_written(
    llama: Path, tmp_path: Path
) -> None:
    form = json.loads((llama / "config.json").read_text())
    form["quantization_config"]["ignore"] = ["lm_head", "model.norm"]
    (llama / "config.json").write_text(json.dumps(form))
    model = load(llama)
    form["quantization_config"]["ignore"] = ["lm_head", "re:blocks"]  # of which it means nothing where it was loaded
    (llama / "config.json").write_text(json.dumps(form))
    with pytest.raises(wb.PlanError) as refused:
        wbt.save_pretrained(model, tmp_path / "out", OTHER_NAMES)
    assert {problem.code for problem in refused.value.problems} == {"names-unmapped"}
    assert not (tmp_path / "out").exists()


class Block(torch.nn.Module):
    """A weight in FP8, with a scale for all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(4, 4).to(torch.float8_e4m3fn), requires_grad=False)
        self.weight_scale_inv = torch.nn.Parameter(torch.zeros(2, 2), requires_grad=False)


def test_any_model_whose_codes_were_cast_is_refused(tmp_path: Path) -> None:
    """And one whose codes and scales both made way for numbers is saved with these."""
    tensors = {"q.weight": torch.eye(4).to(torch.float8_e4m3fn), "q.weight_scale_inv": torch.rand(2, 2)}
    model = torch.nn.ModuleDict({"q": Block()})
    wb.load(model, tensors, [])
    wb.save(model, tmp_path / "codes")
    model.to(torch.bfloat16)
    with pytest.raises(wb.PlanError) as refused:
        wb.save(model, tmp_path / "numbers")
    assert refused.value.code == "model-mismatch"
    del model["q"].weight_scale_inv
    written = load_file(wb.save(model, tmp_path / "numbers") / "model.safetensors")
    assert written.keys() == {"q.weight"}
    assert torch.equal(written["q.weight"], torch.eye(4, dtype=torch.bfloat16))


@pytest.mark.parametrize("name", ["ct-fp8-block", "ct-fp8-tensor-static", "ct-int4-group", "ct-mxfp4", "ct-nvfp4"])
def test_a_real_checkpoint_comes_back_and_answers_as_its_writer_did(name: str, tmp_path: Path) -> None:
    if not EXAMPLES.is_dir():
        pytest.skip("needs the directory shared/formats beside the project")
    place = tmp_path / name
    place.mkdir()
    for file in ("config.json", "generation_config.json", "model.safetensors"):
        shutil.copy(EXAMPLES / name / file, place)
    model = load(place)
    out = wbt.save_pretrained(model, tmp_path / "out")
    for file in sorted(path.name for path in place.iterdir()):
        assert (out / file).read_bytes() == (place / file).read_bytes(), file
    theirs = transformers.AutoModelForCausalLM.from_pretrained(place)
    tokens = load_file(EXAMPLES / name / "forward.safetensors")["input_ids"]
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, theirs(tokens).logits)


# ---- where the library is wrong ----


def mixture(place: Path, maker: Maker) -> dict[str, torch.Tensor]:
    config = transformers.Qwen3MoeConfig(
        hidden_size=32,
        intermediate_size=32,
        moe_intermediate_size=16,
        num_experts=2,
        num_experts_per_tok=1,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=40,
    )
    return write_quantised(place, config, maker, "mlp.experts")


def asymmetric(chance: np.random.Generator, rows: int, columns: int) -> Quantised:
    """Integers of 4 bits in groups of 8 columns, each with a zero point."""
    found = (packed(chance, rows, columns) for _ in range(1000))
    wanted = {"num_bits": 4, "group_size": 8, "symmetric": False}
    return next(
        made
        for made in found
        if wanted.items() <= made.config["quantization_config"]["config_groups"]["one"]["weights"].items()
    )


def stacked(values: dict[str, torch.Tensor], *names: str) -> torch.Tensor:
    head = "model.layers.0.mlp.experts"
    return torch.stack([torch.cat([values[f"{head}.{i}.{name}.weight"] for name in names]) for i in range(2)])


def test_z5_asymmetric_experts_have_their_zero_points(tmp_path: Path) -> None:
    """The library cannot read them at all: the zero points do not reach what computes the numbers."""
    values = mixture(tmp_path / "in", asymmetric)
    ours = load(tmp_path / "in", dequantize=True)
    for key, names in (("gate_up_proj", ("gate_proj", "up_proj")), ("down_proj", ("down_proj",))):
        assert torch.equal(ours.state_dict()[f"model.layers.0.mlp.experts.{key}"], stacked(values, *names)), key
    with pytest.raises(RuntimeError):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "in")


def test_z4_experts_in_nvfp4_keep_their_global_scale(tmp_path: Path) -> None:
    """The library reads the experts without it, and says nothing."""
    values = mixture(tmp_path / "in", nvfp4)
    with pytest.raises(wb.PlanError) as refused:
        load(tmp_path / "in")
    assert "with dequantize" in refused.value.hint  # the class has stacked experts, and no place for their codes
    ours = load(tmp_path / "in", dequantize=True, dtype=torch.float32)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "in", dtype=torch.float32)
    key, right = "model.layers.0.mlp.experts.gate_up_proj", stacked(values, "gate_proj", "up_proj")
    assert torch.equal(ours.state_dict()[key], right)
    assert float((theirs.state_dict()[key] - right).abs().max() / right.abs().max()) > 0.1
