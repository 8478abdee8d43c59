"""A model that was never loaded is saved under published names, in sizes that the configuration says (C5, H3)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers.core_model_loading import Concatenate
from transformers.models.detr import modeling_detr

import weighbridge as wb
from weighbridge.integrations import transformers as wbt
from weighbridge.mappings.transformers_table import UNEQUAL, _read_table

pytestmark = pytest.mark.filterwarnings("ignore")  # the library's own, of which it has many

SMALL = {"vocab_size": 48, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
TOWER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 8,
         "patch_size": 4}  # fmt: skip


def olmo_hybrid() -> Any:
    return transformers.OlmoHybridForCausalLM(
        transformers.OlmoHybridConfig(
            **SMALL, num_key_value_heads=2, linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=6,
            linear_value_head_dim=12, pad_token_id=0, layer_types=["linear_attention", "full_attention"],
        )
    )  # fmt: skip


def axk1() -> Any:
    return transformers.AXK1ForCausalLM(
        transformers.AXK1Config(
            **SMALL, num_key_value_heads=2, n_routed_experts=3, num_experts_per_tok=2, moe_intermediate_size=12,
            q_lora_rank=8, kv_lora_rank=8, qk_nope_head_dim=4, qk_rope_head_dim=4, v_head_dim=4, n_group=1,
            topk_group=1, first_k_dense_replace=1,
        )
    )  # fmt: skip


def molmo2() -> Any:
    config = transformers.Molmo2TextConfig(**SMALL, num_key_value_heads=1, head_dim=8, additional_vocab_size=5)
    return transformers.Molmo2TextModel(config)


def llava() -> Any:
    return transformers.LlavaForConditionalGeneration(
        transformers.LlavaConfig(
            vision_config=transformers.CLIPVisionConfig(**TOWER), text_config=transformers.LlamaConfig(**SMALL)
        )
    )


def paligemma() -> Any:
    return transformers.PaliGemmaForConditionalGeneration(
        transformers.PaliGemmaConfig(
            vision_config={"model_type": "siglip_vision_model", **TOWER},
            text_config={"model_type": "gemma", **SMALL, "num_key_value_heads": 1, "head_dim": 8},
            projection_dim=16,
        )
    )


def clip_vision() -> Any:
    return transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**TOWER))


def siglip_vision() -> Any:
    return transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**TOWER))


def mixtral() -> Any:
    config = transformers.MixtralConfig(**SMALL, num_key_value_heads=1, num_local_experts=3)
    return transformers.MixtralForCausalLM(config)


def detr(cls: Any) -> Any:
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 20, "decoder_ffn_dim": 20}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    return cls(transformers.DetrConfig(d_model=16, num_queries=5, **sizes, **heads))


def detr_encoder() -> Any:
    return detr(modeling_detr.DetrEncoder)


def detr_decoder() -> Any:
    return detr(modeling_detr.DetrDecoder)


def altclip_text() -> Any:
    config = transformers.AltCLIPTextConfig(**SMALL, max_position_embeddings=32, project_dim=12, pad_token_id=1)
    return transformers.AltCLIPTextModel(config)


def qwen3_vl_moe_text() -> Any:
    config = transformers.Qwen3VLMoeTextConfig(**SMALL, num_key_value_heads=1, head_dim=8, num_experts=3,
                                               num_experts_per_tok=2, moe_intermediate_size=12)  # fmt: skip
    return transformers.Qwen3VLMoeTextModel(config)


PARTS = {make.__name__: make for make in (altclip_text, detr_decoder, detr_encoder, qwen3_vl_moe_text)}
NEW = {make.__name__: make for make in (axk1, clip_vision, llava, mixtral, molmo2, olmo_hybrid, paligemma,
                                        siglip_vision)}  # fmt: skip


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in one.state_dict().items())


@pytest.mark.parametrize("kind", NEW)
def test_c5_a_new_model_is_saved_and_read_by_both(kind: str, tmp_path: Path) -> None:
    """17 kinds were refused as "could be in the original layout already", Molmo2's because sizes were not known."""
    torch.manual_seed(3)
    model = NEW[kind]()
    out = wbt.save_pretrained(model, tmp_path / "out")
    assert equal(model, wbt.from_pretrained(type(model), out))
    theirs, info = type(model).from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert equal(model, theirs)


@pytest.mark.parametrize("kind", ["axk1", "mixtral"])
def test_c5_the_names_are_the_librarys_where_they_are_the_published_ones(kind: str, tmp_path: Path) -> None:
    model = NEW[kind]()
    model.save_pretrained(tmp_path / "theirs")
    theirs = load_file(tmp_path / "theirs" / "model.safetensors")
    ours = load_file(wbt.save_pretrained(model, tmp_path / "ours") / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize(
    ("kind", "tower"),
    [("llava", "vision_tower."), ("paligemma", "vision_tower."), ("clip_vision", ""), ("siglip_vision", "")],
)
def test_h3_towers_have_the_names_that_every_published_file_has(kind: str, tower: str, tmp_path: Path) -> None:
    """38 classes were saved without the tower's own name: an older version of the library finds nothing of it then."""
    held = load_file(wbt.save_pretrained(NEW[kind](), tmp_path / "out") / "model.safetensors")
    of_tower = [key for key in held if key.startswith(tower)]
    assert of_tower
    assert all(key.startswith(f"{tower}vision_model.") for key in of_tower)


@pytest.mark.parametrize("kind", PARTS)
def test_h3_a_part_that_is_saved_alone_is_what_the_library_saves_and_reads(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They took the names, or transposed matrices, of a part inside a published model: the library found none."""
    torch.manual_seed(3)
    model = PARTS[kind]()
    with caplog.at_level("WARNING", logger="weighbridge"):
        out = wbt.save_pretrained(model, tmp_path / "out")
    assert f"saved as the library saves a {type(model).__name__}: it does not read what" in caplog.text
    model.save_pretrained(tmp_path / "theirs")
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (out, tmp_path / "theirs"))
    assert wb.verify(ours, theirs)
    assert equal(model, wbt.from_pretrained(type(model), out))
    read, info = type(model).from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    assert equal(model, read)


def test_h3_a_part_is_saved_in_the_published_layout_where_that_is_asked_for(tmp_path: Path) -> None:
    out = wbt.save_pretrained(detr_encoder(), tmp_path / "out", layout="published")
    assert "layers.0.fc1.weight" in load_file(out / "model.safetensors")


def test_h3_unequal_parts_have_the_sizes_that_the_configuration_says(tmp_path: Path) -> None:
    """OlmoHybrid's were written as three equal parts, as the library still does; so were Molmo2's two tables."""
    held = load_file(wbt.save_pretrained(olmo_hybrid(), tmp_path / "olmo") / "model.safetensors")
    sizes = [held[f"model.layers.0.linear_attn.{part}_conv1d.weight"].shape[0] for part in "qkv"]
    assert sizes == [12, 12, 24]
    held = load_file(wbt.save_pretrained(molmo2(), tmp_path / "molmo") / "model.safetensors")
    assert [held[f"wte.{name}"].shape[0] for name in ("embedding", "new_embedding")] == [48, 5]


def test_h3_a_plan_with_the_inverse_has_the_configuration_of_its_source() -> None:
    model = olmo_hybrid()
    plan = wb.plan(model, wbt.registry().find("olmo_hybrid").inverse())
    assert plan.target["model.layers.0.linear_attn.q_conv1d.weight"].shape == (12, 1, 4)
    model.config.linear_key_head_dim = None
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(model, wbt.registry().find("olmo_hybrid").inverse())
    assert caught.value.codes == ("operation-config",)


def test_h3_a_configuration_of_other_sizes_is_refused(tmp_path: Path) -> None:
    model = olmo_hybrid()
    model.config.linear_key_head_dim = 5
    with pytest.raises(wb.WeighbridgeError) as caught:
        wbt.save_pretrained(model, tmp_path / "out")
    assert "24" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_h3_every_joined_tensor_of_the_table_has_parts_of_known_size() -> None:
    """Gates and their values are multiplied element by element; all others are equal by the model's code, or listed."""
    halves = {("gate_proj", "up_proj"), ("w1", "w3"), ("fc1", "fc3")}
    equal_by_code = {"bailing_hybrid", "glm5_next", "glm5_next_text", "kimi_linear"}  # three times one size there
    seen: set[tuple[str, ...]] = set()
    for name, entry in _read_table()[0].items():
        for rule in entry:
            if not any(isinstance(one, Concatenate) for one in getattr(rule, "operations", ())):
                continue
            sources = tuple(rule.source_patterns)
            ends = tuple(source.removesuffix(".weight").rpartition(".")[2] for source in sources)
            if len(sources) == 1 or ends in halves or name in equal_by_code:
                continue
            assert sources in UNEQUAL, name
            seen.add(sources)
    assert seen == set(UNEQUAL)
