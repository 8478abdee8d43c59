"""Converted adapters in diffusers itself: it loads them, and adds what they are to add."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import Tensors, changes, linear, whole_numbers, write_adapter
from named_adapters import FLUX, flux, in_names_of, metadata_of, named_changes
from safetensors.torch import load_file, save_file

import weighbridge as wb

diffusers = pytest.importorskip("diffusers", reason="needs the library diffusers")
peft = pytest.importorskip("peft", reason="needs the library peft")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")

FLUX_BASE = wb.Header({f"{name}.weight": wb.TensorSpec("BF16", shape) for name, shape in FLUX.items()})


def transformer() -> Any:
    """A Flux of one layer, of the sizes that `FLUX` has; its feed-forward layers are four times as wide."""
    return diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=0, attention_head_dim=8, num_attention_heads=3,
        joint_attention_dim=24, pooled_projection_dim=24, axes_dims_rope=(2, 2, 4),
    )  # fmt: skip


def unet() -> Any:
    """A UNet of one level, with convolutions before and behind its attention."""
    return diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(8,), layers_per_block=1, down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",), cross_attention_dim=12, attention_head_dim=4, norm_num_groups=2,
    )  # fmt: skip


def added(model: Any, load: Any) -> Tensors:
    """Return what is added to each weight of a model by an adapter that is loaded and fused."""
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    load(model)
    model.fuse_lora()
    after = {key.replace(".base_layer", ""): tensor for key, tensor in model.state_dict().items() if "lora_" not in key}
    assert after.keys() == before.keys()
    return {key: after[key] - before[key] for key in before if not torch.equal(after[key], before[key])}


def flux_adapter(loaded: Any) -> Any:
    def load(model: Any) -> None:
        tensors, alphas, said = diffusers.FluxPipeline.lora_state_dict(
            loaded, return_alphas=True, return_lora_metadata=True
        )
        diffusers.FluxPipeline.load_lora_into_transformer(tensors, alphas, model, metadata=said)

    return load


def assert_same(found: Tensors, wanted: Tensors) -> None:
    assert found.keys() == wanted.keys()
    for key, tensor in wanted.items():
        torch.testing.assert_close(found[key], tensor.to(found[key].dtype), rtol=1e-5, atol=1e-5, msg=key)


SIZES = FLUX | {"double_blocks.0.img_mlp.0": (96, 24)}
MODEL = wb.Header({f"{name}.weight": wb.TensorSpec("BF16", shape) for name, shape in SIZES.items()})


def flux_factors() -> Tensors:
    """Factors of other ranks for each module."""
    made: Tensors = {}
    for at, (name, sizes) in enumerate(SIZES.items()):
        made |= {key: tensor.float() for key, tensor in linear(name, *sizes, rank=2 + at, seed=at).items()}
    return made


@pytest.mark.parametrize("alpha", [None, 3])
def test_the_pipeline_of_flux_adds_what_kohyas_adapter_stands_for(tmp_path: Path, alpha: float | None) -> None:
    file = tmp_path / "mine.safetensors"
    save_file(in_names_of("kohya", "lora_unet_", flux_factors(), alpha), file)
    made = wb.convert(file, tmp_path / "new", flux(), base=MODEL, adapter_prefix="transformer.")
    wanted = wb.plan(named_changes(file, "lora_unet_", SIZES), flux()).state_dict()
    assert_same(added(transformer(), flux_adapter(made)), wanted)


def test_the_pipeline_of_flux_adds_what_pefts_adapter_stands_for(tmp_path: Path) -> None:
    factors = {key: tensor.float() for key, tensor in linear("transformer_blocks.0.attn.to_q", 24, 24, rank=3).items()}
    factors |= {key: t.float() for key, t in linear("transformer_blocks.0.ff.net.0.proj", 96, 24, rank=2).items()}
    adapter = write_adapter(
        tmp_path / "peft",
        factors,
        r=2,
        lora_alpha=5,
        target_modules=["to_q", "ff.net.0.proj"],
        rank_pattern={"to_q": 3},
    )
    made = wb.convert(adapter, tmp_path / "new", adapter_prefix="transformer.")
    assert_same(added(transformer(), flux_adapter(made)), changes(adapter))


def test_what_the_pipeline_of_flux_saves_becomes_kohyas(tmp_path: Path) -> None:
    """The metadata that diffusers writes says how strong it is; all else that it writes is read as well."""
    model = transformer()
    targets = ["attn.to_q", "attn.to_k", "attn.to_v", "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"]
    model.add_adapter(peft.LoraConfig(r=2, lora_alpha=3, target_modules=targets, init_lora_weights=False))
    saved = tmp_path / "saved"
    diffusers.FluxPipeline.save_lora_weights(
        saved,
        transformer_lora_layers=peft.get_peft_model_state_dict(model, adapter_name="default"),
        transformer_lora_adapter_metadata=model.peft_config["default"].to_dict(),
    )
    assert "lora_adapter_metadata" in metadata_of(saved / "pytorch_lora_weights.safetensors")
    wanted = added(transformer(), flux_adapter(saved))
    rules = flux().inverse()
    base = wb.plan(MODEL, flux()).target
    wb.convert(saved, tmp_path / "new", rules, base=base, adapter_prefix="lora_unet_", block_diagonal=True)
    found = named_changes(tmp_path / "new" / "model.safetensors", "lora_unet_", SIZES)
    assert_same(found, wb.plan(wanted, rules).state_dict())
    wb.revert(tmp_path / "new", tmp_path / "back")
    name = "pytorch_lora_weights.safetensors"
    assert (tmp_path / "back" / name).read_bytes() == (saved / name).read_bytes()


BLOCK = "down_blocks.0.attentions.0"
UNET = [f"{BLOCK}.proj_in", *(f"{BLOCK}.transformer_blocks.0.{name}"
                              for name in ("attn1.to_q", "attn2.to_out.0", "ff.net.0.proj"))]  # fmt: skip


@pytest.mark.parametrize("step", [0, 1])
def test_a_unet_gets_what_kohyas_names_stand_for(tmp_path: Path, step: int) -> None:
    """Linear modules and convolutions, against the peer's own reading; of several alphas it takes one for all."""
    weights = unet().state_dict()
    tensors: Tensors = {}
    for at, module in enumerate(UNET):
        out, inputs, *window = weights[f"{module}.weight"].shape
        name = f"lora_unet_{module.replace('.', '_')}"
        tensors[f"{name}.lora_down.weight"] = whole_numbers(2, inputs, *window, seed=at).float()
        tensors[f"{name}.lora_up.weight"] = whole_numbers(out, 2, *(1 for _ in window), seed=9 + at).float()
        tensors[f"{name}.alpha"] = torch.tensor(3.0 + step * at)
    file = tmp_path / "mine.safetensors"
    save_file(tensors, file)
    made = wb.convert(file, tmp_path / "new", base=weights, adapter_prefix="unet.")

    def loading(place: Any, **options: bool) -> Any:
        def load(model: Any) -> None:
            state, alphas, *said = diffusers.StableDiffusionPipeline.lora_state_dict(
                place, unet_config=model.config, **options
            )
            metadata = said[0] if said else None
            diffusers.StableDiffusionPipeline.load_lora_into_unet(state, alphas, model, metadata=metadata)

        return load

    found = added(unet(), loading(made, return_lora_metadata=True))
    assert_same(found, named_changes(file, "lora_unet_", UNET))
    if step == 0:
        assert_same(found, added(unet(), loading(load_file(file))))
