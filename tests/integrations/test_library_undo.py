"""The library leaves a key alone that its rules would give a name which the model lacks: here a plan decides that.

RF-DETR's rule `^ -> model.` names the head's tensors as well, DeepSeek V4's `.norm. -> .kv_norm.` the last norm of the
whole model, and MaskFormer's Swin has kept the names that the renames of its model type would change.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import weighbridge as wb
from weighbridge.integrations import transformers as wbt

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*meshgrid.*:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def rf_detr() -> Any:
    backbone = transformers.RfDetrDinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=56, patch_size=14,
        num_windows=1, out_indices=[1, 2],
    )  # fmt: skip
    return transformers.RfDetrConfig(
        backbone_config=backbone, d_model=32, decoder_ffn_dim=40, decoder_layers=2, decoder_self_attention_heads=2,
        decoder_cross_attention_heads=4, num_queries=5, group_detr=2, c2f_num_blocks=1, intermediate_size=48,
        decoder_n_points=2, num_labels=3,
    )  # fmt: skip


def deepseek() -> Any:
    kinds = ["sliding", "compressed_sparse", "heavily_compressed"]
    return transformers.DeepseekV4Config(
        vocab_size=40, hidden_size=32, moe_intermediate_size=12, num_hidden_layers=3, num_attention_heads=4,
        head_dim=16, q_lora_rank=20, num_experts_per_tok=2, n_routed_experts=3, max_position_embeddings=64,
        layer_types=[f"{kind}_attention" for kind in kinds], mlp_layer_types=["hash_moe", "moe", "moe"], o_groups=2,
        o_lora_rank=6, index_n_heads=2, index_head_dim=8, index_topk=4, hc_mult=2, sliding_window=8,
        compress_rates={"compressed_sparse_attention": 4, "heavily_compressed_attention": 8},
        partial_rotary_factor=0.5,
    )  # fmt: skip


def maskformer() -> Any:
    swin = transformers.SwinConfig(
        image_size=64, patch_size=4, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 2], window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    detr = transformers.DetrConfig(
        d_model=32, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=20, decoder_ffn_dim=20,
        encoder_attention_heads=2, decoder_attention_heads=2, num_queries=5,
    )  # fmt: skip
    return transformers.MaskFormerConfig(
        backbone_config=swin, decoder_config=detr, fpn_feature_size=32, mask_feature_size=32, num_labels=3
    )


IMAGE = {"pixel_values": torch.linspace(-1, 1, 3 * 56 * 56).view(1, 3, 56, 56)}
SMALL_IMAGE = {"pixel_values": torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64)}
TOKENS = {"input_ids": torch.arange(20).view(2, 10)}
CASES: dict[str, tuple[str, Any, dict[str, torch.Tensor]]] = {
    "rf-detr": ("RfDetrModel", rf_detr, IMAGE),
    "rf-detr-detection": ("RfDetrForObjectDetection", rf_detr, IMAGE),
    "rf-detr-segmentation": ("RfDetrForInstanceSegmentation", rf_detr, IMAGE),
    "deepseek-v4": ("DeepseekV4Model", deepseek, TOKENS),
    "deepseek-v4-head": ("DeepseekV4ForCausalLM", deepseek, TOKENS),
    "maskformer-swin": ("MaskFormerModel", maskformer, SMALL_IMAGE),
    "maskformer-swin-segmentation": ("MaskFormerForInstanceSegmentation", maskformer, SMALL_IMAGE),
}
LEFT_ALONE = {
    "rf-detr-detection": "rule 1 left alone on bbox_embed.layers.{0..2}.{bias,weight}, class_embed.{bias,weight}: ",
    "deepseek-v4-head": "rule 20 left alone on model.norm.weight: ",
}


def make(name: str) -> tuple[Any, Any]:
    if not hasattr(transformers, CASES[name][0]):
        pytest.skip(f"needs a transformers with {CASES[name][0]}")
    torch.manual_seed(3)
    cls = getattr(transformers, CASES[name][0])
    return cls, cls(CASES[name][1]()).eval()


def outputs(model: Any, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    with torch.no_grad():
        made = model.eval()(**inputs)
    return [value for value in made.values() if isinstance(value, torch.Tensor)]


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in one.state_dict().items())


def held(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    ours, theirs = held(one), held(other)
    return ours.keys() == theirs.keys() and all(
        torch.equal(value, theirs[key]) and value.dtype == theirs[key].dtype for key, value in ours.items()
    )


@pytest.mark.parametrize("name", CASES)
def test_c6_the_librarys_file_loads_computes_and_goes_back(name: str, tmp_path: Path) -> None:
    cls, model = make(name)
    model.save_pretrained(tmp_path / "theirs")
    loaded = wbt.from_pretrained(cls, tmp_path / "theirs")
    assert equal(model, loaded)
    reference = outputs(cls.from_pretrained(tmp_path / "theirs"), CASES[name][2])
    made = outputs(loaded, CASES[name][2])
    assert made
    assert all(torch.equal(one, other) for one, other in zip(made, reference, strict=True))
    plan = wb.loaded_plan(loaded)
    assert plan is not None
    if name in LEFT_ALONE:
        assert LEFT_ALONE[name] + "its result is not in the target" in "\n".join(plan.notes)
    assert same(wbt.save_pretrained(loaded, tmp_path / "back"), tmp_path / "theirs")


@pytest.mark.parametrize("name", CASES)
def test_c6_a_fresh_model_is_saved_as_the_library_does_and_read_again(name: str, tmp_path: Path) -> None:
    cls, model = make(name)
    model.save_pretrained(tmp_path / "theirs")
    ours = wbt.save_pretrained(model, tmp_path / "ours")
    assert same(ours, tmp_path / "theirs")
    assert equal(model, wbt.from_pretrained(cls, ours))
    assert equal(model, cls.from_pretrained(ours))


def test_h1_maskformers_swin_is_left_alone_where_its_model_type_speaks_of_other_names(tmp_path: Path) -> None:
    """Without the library, too: our own family is mounted on it by the model type."""
    _, model = make("maskformer-swin")
    _, other = make("maskformer-swin")
    for parameter in other.parameters():
        parameter.data.zero_()
    model.save_pretrained(tmp_path / "theirs")
    report = wb.load(other, tmp_path / "theirs")
    assert equal(model, other)
    assert "rule 1 left alone on pixel_level_module.encoder.model.encoder.layers." in "\n".join(report.plan.notes)
    assert same(wb.save(other, tmp_path / "back"), tmp_path / "theirs")


def test_h1_index_tables_come_from_the_file_where_the_model_holds_them(tmp_path: Path) -> None:
    """Swin's family carries them past the model, which computes them; MaskFormer's own Swin keeps them as buffers."""
    cls, model = make("maskformer-swin")
    model.save_pretrained(tmp_path / "theirs")
    tensors = held(tmp_path / "theirs")
    tables = [key for key in tensors if key.endswith("relative_position_index")]
    assert tables
    changed = {key: value.flip(0) if key in tables else value for key, value in tensors.items()}
    save_file(changed, tmp_path / "theirs" / "model.safetensors", {"format": "pt"})
    loaded = wbt.from_pretrained(cls, tmp_path / "theirs")
    assert equal(loaded, cls.from_pretrained(tmp_path / "theirs"))
    assert not equal(loaded, model)
    plan = wb.loaded_plan(loaded)
    assert plan is not None
    assert {dict(plan.source_fates())[key].name for key in tables} == {"moved"}


def test_c6_the_base_models_file_and_a_head_are_read_by_rules_and_then_the_prefix() -> None:
    """`norm.weight` has no place before it that `.norm.` could match: with the prefix first it would be taken away."""
    _, base = make("deepseek-v4")
    _, model = make("deepseek-v4-head")
    bare = wb.plan(base, wbt.resolve(base).inverse(), layout="mapped").state_dict()
    bare["head.weight"] = model.lm_head.weight.detach()
    plan = wb.plan(bare, wbt.resolve(model), target=model)
    assert plan.reading == "mapped, then with model. added"
    assert plan.step_of_target.keys() == model.state_dict().keys()
    assert wb.verify(plan.inverse(plan.state_dict()).state_dict(), bare)
