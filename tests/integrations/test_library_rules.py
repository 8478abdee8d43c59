"""Models of transformers whose entries in its table need more than one name for another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import weighbridge as wb
from weighbridge.integrations import transformers as wbt

transformers = pytest.importorskip("transformers", reason="needs the extra `transformers`")
core = pytest.importorskip("transformers.core_model_loading")

pytestmark = pytest.mark.filterwarnings("ignore")  # the library's own, of which it has many


@pytest.fixture(autouse=True)
def _quiet():
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def kimi() -> Any:
    """A model with one converter in the entry of its own type and in that of the text model inside it."""
    config = transformers.Kimi_K25Config()
    config.vision_config.num_hidden_layers = 1
    text = config.text_config
    text.num_hidden_layers, text.first_k_dense_replace, text.n_routed_experts = 2, 1, 3
    return transformers.Kimi_K25ForConditionalGeneration(config)


def depth() -> Any:
    """A model whose entry has `head\\.convs`, for names such as `depth_head.convs.0`."""
    return transformers.Tipsv2DptForDensePrediction(transformers.Tipsv2DptConfig())


def tower() -> Any:
    """The vision tower by itself, whose rules look for `vision_config` in a configuration that is that one."""
    config = transformers.Step3p7VisionModel.config_class()
    config.num_hidden_layers = 1
    return transformers.Step3p7VisionModel(config)


def on_meta(make: Any) -> Any:
    with torch.device("meta"):
        return make()


def saved_there(model: Any) -> dict[str, torch.Tensor]:
    """Return the tensors of a fresh model by the names under which the library saves them."""
    found: dict[str, torch.Tensor] = core.revert_weight_conversion(model, dict(model.state_dict()))
    return found


@pytest.mark.parametrize("make", [kimi, depth, tower])
def test_h1_what_the_library_saves_is_read_whole(make):
    model = on_meta(make)
    there = saved_there(model)
    plan = wb.plan(there, wbt.resolve(model), target=model, config=model.config)
    assert plan.is_exact
    assert {key for key, fate in plan.target_fates() if fate.name in ("filled", "tied")} == set(model.state_dict())
    assert set(plan.inverse().target) == set(there)


def test_h1_a_converter_that_two_models_bring_along_fires_once():
    model = on_meta(kimi)
    mapping = wbt.resolve(model)
    scopes = [rule.scope for rule in mapping.converters if "mlp.experts.*.down_proj.weight" in rule.source_patterns[0]]
    assert scopes == ["model.language_model", ""]
    plan = wb.plan(saved_there(model), mapping, target=model, config=model.config)
    step = plan.steps[plan.step_of_target["model.language_model.layers.1.mlp.experts.down_proj"]]
    assert [key.rpartition("experts.")[2] for key in step.sources] == [f"{i}.down_proj.weight" for i in range(3)]


def test_h1_a_pattern_that_begins_inside_a_segment_takes_what_stands_before_it():
    names = [key for key in saved_there(on_meta(depth)) if key.endswith("head.convs.0.weight")]
    assert sorted(names) == [f"{kind}_head.convs.0.weight" for kind in ("depth", "normals", "segmentation")]
    mapping = wbt.registry().find("tipsv2_dpt")
    plan = wb.plan({key: torch.zeros(2, 3) for key in names}, mapping)
    assert sorted(plan.target) == [f"{kind}_neck.convs.0.weight" for kind in ("depth", "normals", "segmentation")]


def marian(folder: Path) -> Any:
    """A Marian model, and its directory as the library writes it: without the positions, which the class computes."""
    torch.manual_seed(0)
    model = transformers.MarianMTModel(
        transformers.MarianConfig(
            vocab_size=29, d_model=12, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=3, encoder_ffn_dim=20, decoder_ffn_dim=14, max_position_embeddings=17,
            pad_token_id=28, decoder_start_token_id=28, eos_token_id=0,
        )
    )  # fmt: skip
    model.save_pretrained(folder)
    return model.eval()


POSITIONS = {f"model.{side}.embed_positions.weight" for side in ("encoder", "decoder")}


def test_h1_parameters_that_a_class_computes_may_be_missing(tmp_path):
    theirs = marian(tmp_path / "lib")
    assert POSITIONS.isdisjoint(wb.open(tmp_path / "lib").header)
    model = wbt.from_pretrained(transformers.MarianMTModel, tmp_path / "lib")
    plan = wb.loaded_plan(model)
    assert {fated.key for fated in plan.initialised} == POSITIONS
    assert all("MarianMTModel._keys_to_ignore_on_load_missing" in fated.by for fated in plan.initialised)
    wanted, found = theirs.state_dict(), model.state_dict()
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[key], found[key]) for key in wanted)
    wbt.save_pretrained(model, tmp_path / "again")
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("lib", "again")]
    assert files[0] == files[1]


def test_h1_a_new_model_is_saved_without_what_its_class_computes(tmp_path):
    model = marian(tmp_path / "lib")
    wbt.save_pretrained(model, tmp_path / "new")
    assert set(wb.open(tmp_path / "new").header) == set(wb.open(tmp_path / "lib").header)


def test_h1_a_weight_that_no_class_excuses_is_still_missed(tmp_path):
    marian(tmp_path / "lib")
    tensors = wb.plan(tmp_path / "lib", []).state_dict()
    del tensors["model.encoder.layers.1.fc1.weight"]
    (tmp_path / "less").mkdir()
    wb.plan(tensors, []).write(tmp_path / "less" / "weights")
    (tmp_path / "less" / "weights" / "config.json").write_bytes((tmp_path / "lib" / "config.json").read_bytes())
    with pytest.raises(wb.PlanError) as caught:
        wbt.from_pretrained(transformers.MarianMTModel, tmp_path / "less" / "weights")
    missed = [problem.where for problem in caught.value.problems if problem.code == "target-missing"]
    assert "model.encoder.layers.1.fc1.weight" in ", ".join(missed)


def esm(folder: Path) -> Any:
    """An Esm-2 model with rotary positions, and its directory as the library writes it."""
    torch.manual_seed(0)
    model = transformers.EsmForMaskedLM(
        transformers.EsmConfig(
            vocab_size=23, hidden_size=12, num_hidden_layers=3, num_attention_heads=2, intermediate_size=20,
            max_position_embeddings=17, position_embedding_type="rotary", pad_token_id=1, mask_token_id=4,
        )
    )  # fmt: skip
    model.save_pretrained(folder)
    return model.eval()


FREQUENCIES = "esm.encoder.layer.{}.attention.self.rotary_embeddings.inv_freq"


def esm_as_published(folder: Path, change: Any = torch.clone) -> Any:
    """The same, as it was published: with the frequencies in each layer."""
    model = esm(folder / "lib")
    tensors = dict(wb.plan(folder / "lib", []).state_dict())
    frequencies = tensors.pop(FREQUENCIES.format("*"))
    tensors |= {FREQUENCIES.format(layer): frequencies.clone() for layer in range(3)}
    tensors[FREQUENCIES.format(2)] = change(frequencies)
    wb.plan(tensors, []).write(folder / "old")
    (folder / "old" / "config.json").write_bytes((folder / "lib" / "config.json").read_bytes())
    return model


@pytest.mark.parametrize("name", ["lib", "old"])
def test_c8_one_buffer_for_each_layer_is_one_tensor_of_the_model(name, tmp_path):
    """The library itself writes a star into the name; published files have the buffer once a layer."""
    theirs = esm_as_published(tmp_path)
    model = wbt.from_pretrained(transformers.EsmForMaskedLM, tmp_path / name)
    wanted, found = theirs.state_dict(), model.state_dict()
    assert all(torch.equal(wanted[key], found[key]) for key in wanted)
    wbt.save_pretrained(model, tmp_path / "again")
    files = [(tmp_path / place / "model.safetensors").read_bytes() for place in (name, "again")]
    assert files[0] == files[1]


def test_c8_buffers_that_differ_are_no_one_tensor(tmp_path):
    esm_as_published(tmp_path, lambda frequencies: frequencies + 1)
    with pytest.raises(wb.PlanError) as caught:
        wbt.from_pretrained(transformers.EsmForMaskedLM, tmp_path / "old")
    assert "target-collision" in caught.value.codes


def test_c8_a_rule_without_inverse_blocks_no_name_that_it_has_not_made(tmp_path, caplog):
    model = esm(tmp_path / "lib")
    wbt.save_pretrained(model, tmp_path / "new")
    assert "esm.rotary_embeddings.inv_freq" in wb.open(tmp_path / "new").header
    assert "esm.rotary_embeddings.inv_freq keeps its name" in caplog.text
    again = wbt.from_pretrained(transformers.EsmForMaskedLM, tmp_path / "new")
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in model.state_dict().items())


def test_c8_a_rule_without_inverse_still_blocks_what_it_may_have_made(tmp_path):
    model = torch.nn.Module()
    model.freq = torch.nn.Parameter(torch.ones(3))
    other = wb.WeightConverter(["layers.*.up"], "freq", [wb.MergeModulelist(0), wb.Reshape((3,))])
    with pytest.raises(wb.WeighbridgeError) as caught:
        wb.save(model, tmp_path / "out", [other])
    assert caught.value.code in ("operation-one-way", "pattern-one-way")
    named = torch.nn.Module()
    named.weight = torch.nn.Parameter(torch.ones(3))
    wb.save(named, tmp_path / "out", [wb.WeightRenaming("layers.*.freq", "freq"), wb.WeightRenaming("gamma", "weight")])
    assert set(wb.open(tmp_path / "out").header) == {"gamma"}
