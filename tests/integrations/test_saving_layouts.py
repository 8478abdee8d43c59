"""In which layout a model is saved: never one that the configuration beside it contradicts (C2)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

import weighbridge as wb
from weighbridge.integrations import transformers as wbt

pytestmark = pytest.mark.filterwarnings("ignore")  # the library's own, of which it has many

SMALL = {"vocab_size": 48, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
TOWER = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 8,
         "patch_size": 4}  # fmt: skip


@pytest.fixture
def llava(tmp_path: Path) -> Path:
    """A published LLaVA, with the language model below `language_model`."""
    torch.manual_seed(2)
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**TOWER), text_config=transformers.LlamaConfig(**SMALL)
    )
    model = transformers.LlavaForConditionalGeneration(config)
    return wbt.save_pretrained(model, tmp_path / "llava")


def held(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "model.safetensors")


def config_of(path: Path) -> Any:
    return json.loads((path / "config.json").read_text())


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in one.state_dict().items())


def test_c2_a_saved_part_has_the_layout_of_its_own_class(
    llava: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """39 tensors under `language_model.*` stood beside the configuration of a Llama: the library found none of them."""
    model = wbt.from_pretrained(LlamaForCausalLM, llava, config=transformers.LlamaConfig(**SMALL), partial=True)
    assert any(step.sources[0].startswith("language_model.") for step in wb.loaded_plan(model).steps)
    with caplog.at_level("WARNING", logger="weighbridge"):
        out = wbt.save_pretrained(model, tmp_path / "out")
    assert 'layout="as loaded"' in caplog.text
    assert "vision_tower" in caplog.text
    assert "no part of a LlamaForCausalLM, not saved" in caplog.text
    assert config_of(out)["architectures"] == ["LlamaForCausalLM"]
    assert held(out).keys() == model.state_dict().keys()
    theirs, info = LlamaForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert equal(model, theirs)
    assert equal(model, wbt.from_pretrained(LlamaForCausalLM, out))


def test_c2_the_layout_that_it_came_in_has_the_configuration_that_it_came_with(llava: Path, tmp_path: Path) -> None:
    model = wbt.from_pretrained(LlamaForCausalLM, llava, config=transformers.LlamaConfig(**SMALL), partial=True)
    for number, save in enumerate((wb.save, wbt.save_pretrained)):
        out = save(model, tmp_path / f"out{number}", layout="as loaded")
        assert held(out).keys() <= held(llava).keys()
        assert "language_model.model.norm.weight" in held(out)
        assert config_of(out) == config_of(llava)
    assert held(wb.save(model, tmp_path / "default")).keys() == held(out).keys()


def test_c2_the_same_class_keeps_the_names_of_its_file(tmp_path: Path) -> None:
    """A mapping of one's own says what the file's names are: those of the checkpoint beside the same configuration."""
    model = LlamaForCausalLM(transformers.LlamaConfig(**SMALL))
    model.save_pretrained(tmp_path / "hub")
    renamed = {key.replace("model.", "module.", 1): value.clone() for key, value in held(tmp_path / "hub").items()}
    save_file(renamed, tmp_path / "hub" / "model.safetensors", metadata={"format": "pt"})
    rules = [wb.WeightRenaming("^module", "model")]
    model = wbt.from_pretrained(LlamaForCausalLM, tmp_path / "hub", mapping=rules)
    assert held(wbt.save_pretrained(model, tmp_path / "default")).keys() == renamed.keys()
    assert held(wbt.save_pretrained(model, tmp_path / "loaded", layout="as loaded")).keys() == renamed.keys()
    for number, save in enumerate((wb.save, wbt.save_pretrained)):
        for layout in ("published", "as is", "mapped"):
            out = save(model, tmp_path / f"{layout} {number}", layout=layout)
            assert held(out).keys() == model.state_dict().keys()


def test_c2_published_and_own_names_of_merged_experts(tmp_path: Path) -> None:
    config = transformers.MixtralConfig(**SMALL, num_key_value_heads=1, num_local_experts=3)
    model = transformers.MixtralForCausalLM(config)
    for number, save in enumerate((wb.save, wbt.save_pretrained)):
        own = held(save(model, tmp_path / f"own{number}", layout="as is"))
        assert own.keys() == model.state_dict().keys()
        published = held(save(model, tmp_path / f"published{number}", layout="published"))
        assert "model.layers.1.block_sparse_moe.experts.2.w3.weight" in published
    again = wbt.from_pretrained(transformers.MixtralForCausalLM, tmp_path / "own1")
    assert equal(model, again)


def test_c2_a_layout_that_there_is_not_is_refused_with_what_to_do(tmp_path: Path) -> None:
    model = LlamaForCausalLM(transformers.LlamaConfig(**SMALL))
    for number, save in enumerate((wb.save, wbt.save_pretrained)):
        for mapping in (None, "llama"):
            with pytest.raises(wb.WeighbridgeError) as caught:
                save(model, tmp_path / "out", mapping, layout="as loaded")
            assert caught.value.code == "usage"
            assert 'layout="published"' in caught.value.hint
        for layout in ("published", "as is"):  # as the hint says
            save(model, tmp_path / f"{layout}{number}", layout=layout)
        with pytest.raises(wb.WeighbridgeError, match="no such layout"):
            save(model, tmp_path / "out", layout="as-loaded")
    assert not (tmp_path / "out").exists()


def test_c5_what_cannot_be_proven_names_a_way_that_can_be_gone(tmp_path: Path) -> None:
    """The hint spoke of the plan that made the source, and there is none for a new model."""
    rules = [wb.WeightRenaming("^a", "first"), wb.WeightRenaming("^first.x", "first.weight")]
    model = torch.nn.ModuleDict({"first": torch.nn.Linear(2, 2, bias=False)})
    wb.load(model, {"first.weight": torch.ones(2, 2)}, [])
    crossed = [*rules, wb.WeightRenaming("^a.x", "first.weight"), wb.WeightRenaming("^first.weight", "second.weight")]
    with pytest.raises(wb.PlanError) as caught:
        wb.save(model, tmp_path / "out", crossed)
    assert caught.value.code == "inverse-unproven"
    assert caught.value.hint == 'layout="as loaded" saves it as it came, layout="as is" saves it under its own names'
    assert held(wb.save(model, tmp_path / "own", layout="as is")).keys() == {"first.weight"}
    assert held(wb.save(model, tmp_path / "as it came", layout="as loaded")).keys() == {"first.weight"}
