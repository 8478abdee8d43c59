"""One model in the layouts of several systems, as their own converters wrote it: each is reached by rules, and left."""

from __future__ import annotations

from typing import Any, Final

import pytest
import torch
from safetensors.torch import load_file
from test_groups import EXAMPLES, bits, config_of, example

import weighbridge as wb

Rename, Convert = wb.WeightRenaming, wb.WeightConverter
LAYER: Final = "^model.layers.{n}"
QKV: Final = [f"{LAYER}.self_attn.{name}_proj.weight" for name in "qkv"]
BIASES: Final = [f"{LAYER}.self_attn.{name}_proj.bias" for name in "qkv"]
GATE_UP: Final = ["mlp.gate_proj.weight", "mlp.up_proj.weight"]
SIZES: Final = ("num_attention_heads*head_dim", *["num_key_value_heads*head_dim"] * 2)
GROUPED: Final = [wb.Concatenate(0), wb.Reorder(0, (0, 1, 2), SIZES, target_stripes="num_key_value_heads")]


def pairs(heads: str) -> list[Any]:
    return [wb.PermuteForRope(inverse=True, num_heads=heads)]


def rotated(name: str, target: str, heads: str) -> Convert:
    return Convert(f"{LAYER}.self_attn.{name}_proj.weight", target, pairs(heads))


def rotary(target: str, *names: str) -> list[Convert]:
    """Queries and keys whose halves become pairs, head by head."""
    heads = ("num_attention_heads", "num_key_value_heads")
    return [rotated(n, f"{target}.{name}.weight", count) for n, name, count in zip("qk", names, heads, strict=True)]


LLAMA_NAMES: Final = [
    Rename(f"{LAYER}.self_attn.v_proj", "layers.{n}.attention.wv"),
    Rename(f"{LAYER}.self_attn.o_proj", "layers.{n}.attention.wo"),
    *(
        Rename(f"{LAYER}.mlp.{name}_proj", f"layers.{{n}}.feed_forward.{short}")
        for name, short in (("gate", "w1"), ("down", "w2"), ("up", "w3"))
    ),
    Rename(f"{LAYER}.input_layernorm", "layers.{n}.attention_norm"),
    Rename(f"{LAYER}.post_attention_layernorm", "layers.{n}.ffn_norm"),
    Rename("^model.embed_tokens", "tok_embeddings"),
    Rename("^model.norm", "norm"),
]
LITGPT: Final = [
    Convert(QKV, "transformer.h.{n}.attn.qkv.weight", [wb.Concatenate(0)]),
    Rename(f"{LAYER}.self_attn.o_proj", "transformer.h.{n}.attn.proj"),
    Rename(f"{LAYER}.input_layernorm", "transformer.h.{n}.norm_1"),
    Rename(f"{LAYER}.post_attention_layernorm", "transformer.h.{n}.norm_2"),
    Rename("^model.embed_tokens", "transformer.wte"),
    Rename("^model.norm", "transformer.ln_f"),
]
MEGATRON: Final = [
    Convert(QKV, "decoder.layers.{n}.self_attention.linear_qkv.weight", GROUPED),
    Rename(f"{LAYER}.self_attn.o_proj", "decoder.layers.{n}.self_attention.linear_proj"),
    Rename(f"{LAYER}.input_layernorm.weight", "decoder.layers.{n}.self_attention.linear_qkv.layer_norm_weight"),
    Rename("^model.embed_tokens", "embedding.word_embeddings"),
    Rename("^model.norm", "decoder.final_layernorm"),
    Rename("^lm_head", "output_layer"),
]
VLLM: Final = [
    Convert(QKV, "model.layers.{n}.self_attn.qkv_proj.weight", [wb.Concatenate(0)]),
    Convert(GATE_UP, "mlp.gate_up_proj.weight", [wb.Concatenate(0)]),
]


def stacked(source: str, target: str) -> Convert:
    return Convert(source, target, [wb.MergeModulelist(0)])


def fused(stem: str, names: tuple[str, str], target: str) -> Convert:
    parts = [f"{stem}.*.{name}.weight" for name in names]
    return Convert(parts, target, [wb.MergeModulelist(0), wb.Concatenate(1)])


MOE: Final = "mlp.experts"
SPARSE: Final = "block_sparse_moe.experts"
LAYOUTS: dict[tuple[str, str], list[Any]] = {
    ("layouts-llama", "vllm"): VLLM,
    ("layouts-llama", "litgpt"): [
        *LITGPT,
        *(
            Rename(f"{LAYER}.mlp.{name}_proj", f"transformer.h.{{n}}.mlp.{short}")
            for name, short in (("gate", "fc_1"), ("up", "fc_2"), ("down", "proj"))
        ),
    ],
    ("layouts-llama", "torchtitan"): [
        *rotary("layers.{n}.attention.qkv_linear", "wq", "wk"),
        *LLAMA_NAMES[1:],
        Rename(f"{LAYER}.self_attn.v_proj", "layers.{n}.attention.qkv_linear.wv"),
    ],
    ("layouts-llama", "meta"): [
        *rotary("layers.{n}.attention", "wq", "wk"),
        *LLAMA_NAMES,
        Rename("^lm_head", "output"),
    ],
    ("layouts-llama", "torchtune"): [
        *rotary("layers.{n}.attn", "q_proj", "k_proj"),
        Rename(f"{LAYER}.self_attn.v_proj", "layers.{n}.attn.v_proj"),
        Rename(f"{LAYER}.self_attn.o_proj", "layers.{n}.attn.output_proj"),
        *(
            Rename(f"{LAYER}.mlp.{name}_proj", f"layers.{{n}}.mlp.{short}")
            for name, short in (("gate", "w1"), ("down", "w2"), ("up", "w3"))
        ),
        Rename(f"{LAYER}.input_layernorm.weight", "layers.{n}.sa_norm.scale"),
        Rename(f"{LAYER}.post_attention_layernorm.weight", "layers.{n}.mlp_norm.scale"),
        Rename("^model.embed_tokens", "tok_embeddings"),
        Rename("^model.norm.weight", "norm.scale"),
        Rename("^lm_head", "output"),
    ],
    ("layouts-llama", "megatron"): [
        *MEGATRON,
        Convert(
            [f"{LAYER}.{name}" for name in GATE_UP], "decoder.layers.{n}.mlp.linear_fc1.weight", [wb.Concatenate(0)]
        ),
        Rename(f"{LAYER}.mlp.down_proj", "decoder.layers.{n}.mlp.linear_fc2"),
        Rename(f"{LAYER}.post_attention_layernorm.weight", "decoder.layers.{n}.mlp.linear_fc1.layer_norm_weight"),
    ],
    ("layouts-mixtral", "runtime"): [
        fused(SPARSE, ("w1", "w3"), "mlp.experts.gate_up_proj"),
        stacked(f"{SPARSE}.*.w2.weight", "mlp.experts.down_proj"),
        Rename("block_sparse_moe.gate", "mlp.gate"),
    ],
    ("layouts-mixtral", "mlx"): [
        stacked(f"{SPARSE}.*.{short}.weight", f"block_sparse_moe.switch_mlp.{name}_proj.weight")
        for short, name in (("w1", "gate"), ("w2", "down"), ("w3", "up"))
    ],
    ("layouts-mixtral", "litgpt"): [
        *LITGPT,
        *(
            Rename(f"{LAYER}.block_sparse_moe.experts.{{e}}.{name}", f"transformer.h.{{n}}.mlp.experts.{{e}}.{short}")
            for name, short in (("w1", "fc_1"), ("w3", "fc_2"), ("w2", "proj"))
        ),
        Rename(f"{LAYER}.block_sparse_moe.gate", "transformer.h.{n}.mlp.gate"),
    ],
    ("layouts-qwen3_moe", "runtime"): [
        fused(MOE, ("gate_proj", "up_proj"), "mlp.experts.gate_up_proj"),
        stacked(f"{MOE}.*.down_proj.weight", "mlp.experts.down_proj"),
    ],
    ("layouts-qwen3_moe", "vllm"): [
        *VLLM[:1],
        fused(MOE, ("gate_proj", "up_proj"), "mlp.experts.routed_experts.w13_weight"),
        stacked(f"{MOE}.*.down_proj.weight", "mlp.experts.routed_experts.w2_weight"),
    ],
    ("layouts-qwen3_moe", "mlx"): [
        stacked(f"{MOE}.*.{name}_proj.weight", f"mlp.switch_mlp.{name}_proj.weight") for name in ("gate", "up", "down")
    ],
    ("layouts-qwen3_moe", "torchtitan"): [
        *(
            stacked(f"{LAYER}.{MOE}.*.{name}_proj.weight", f"layers.{{n}}.moe.routed_experts.inner_experts.{short}")
            for name, short in (("gate", "w1_EFD"), ("down", "w2_EDF"), ("up", "w3_EFD"))
        ),
        Rename(f"{LAYER}.mlp.gate", "layers.{n}.moe.router.gate"),
        *(Rename(f"{LAYER}.self_attn.{n}_proj", f"layers.{{n}}.attention.qkv_linear.w{n}") for n in "qkv"),
        *(Rename(f"{LAYER}.self_attn.{n}_norm", f"layers.{{n}}.attention.{n}_norm") for n in "qk"),
        Rename(f"{LAYER}.self_attn.o_proj", "layers.{n}.attention.wo"),
        *LLAMA_NAMES[-4:],
    ],
    ("layouts-qwen3_moe", "megatron"): [
        *MEGATRON,
        *(Rename(f"{LAYER}.self_attn.{n}_norm", f"decoder.layers.{{n}}.self_attention.{n}_layernorm") for n in "qk"),
        Convert(
            [f"{LAYER}.{MOE}.{{e}}.{name}_proj.weight" for name in ("gate", "up")],
            "decoder.layers.{n}.mlp.experts.linear_fc1.weight{e}",
            [wb.Concatenate(0)],
        ),
        Rename(f"{LAYER}.{MOE}.{{e}}.down_proj.weight", "decoder.layers.{n}.mlp.experts.linear_fc2.weight{e}"),
        Rename(f"{LAYER}.mlp.gate", "decoder.layers.{n}.mlp.router"),
        Rename(f"{LAYER}.post_attention_layernorm", "decoder.layers.{n}.pre_mlp_layernorm"),
    ],
    ("layouts-qwen2_5_vl", "runtime"): [Rename("^model", "model.language_model"), Rename("^visual", "model.visual")],
    ("layouts-qwen2_5_vl", "vllm"): [
        *VLLM[:1],
        Convert(BIASES, "model.layers.{n}.self_attn.qkv_proj.bias", [wb.Concatenate(0)]),
        *VLLM[1:],
        Convert(
            ["visual.blocks.{n}.mlp.gate_proj.bias", "visual.blocks.{n}.mlp.up_proj.bias"],
            "visual.blocks.{n}.mlp.gate_up_proj.bias",
            [wb.Concatenate(0)],
        ),
        Rename("^model", "language_model.model"),
        Rename("^lm_head", "language_model.lm_head"),
    ],
    ("layouts-gpt_oss", "vllm_experts"): [
        Convert("experts.gate_up_proj", "experts.routed_experts.w13_weight", [wb.Transpose(1, 2)]),
        Convert("experts.down_proj", "experts.routed_experts.w2_weight", [wb.Transpose(1, 2)]),
        Rename("experts.gate_up_proj_bias", "experts.routed_experts.w13_bias"),
        Rename("experts.down_proj_bias", "experts.routed_experts.w2_bias"),
    ],
    ("layouts-gpt_oss", "megatron_experts"): [
        Convert(
            f"{LAYER}.mlp.experts.gate_up_proj",
            "decoder.layers.{n}.mlp.experts.linear_fc1.weight*",
            [wb.Interleave(2), wb.Transpose(1, 2), wb.SplitModulelist(0)],
        ),
        Convert(
            f"{LAYER}.mlp.experts.gate_up_proj_bias",
            "decoder.layers.{n}.mlp.experts.linear_fc1.bias*",
            [wb.Interleave(1), wb.SplitModulelist(0)],
        ),
        Convert(
            f"{LAYER}.mlp.experts.down_proj",
            "decoder.layers.{n}.mlp.experts.linear_fc2.weight*",
            [wb.Transpose(1, 2), wb.SplitModulelist(0)],
        ),
    ],
}

RANKS: Final = {
    "meta_mp2_consolidated.00",
    "meta_mp2_consolidated.01",
    "megatron_tp2_mp_rank_00",
    "megatron_tp2_mp_rank_01",
    "vllm_tp2_rank0",
    "vllm_tp2_rank1",
}
"""Cuts for ranks: those of vLLM are in `test_group_ranks.py`."""


def test_every_layout_is_tried() -> None:
    if not EXAMPLES.is_dir():
        pytest.skip("needs the directory shared/formats beside the project")
    found = {
        (place.name, file.stem)
        for place in EXAMPLES.glob("layouts-*")
        for file in place.glob("*.safetensors")
        if file.stem not in {"hf", "forward", *RANKS}
    }
    assert found == LAYOUTS.keys()


@pytest.mark.parametrize(("name", "layout"), LAYOUTS)
def test_a_layout_is_that_of_its_own_converter_and_leads_back(name: str, layout: str) -> None:
    place = example(name)
    config = config_of(place) if (place / "config.json").is_file() else {}
    published, wanted = load_file(place / "hf.safetensors"), load_file(place / f"{layout}.safetensors")
    mapping = wb.Mapping(LAYOUTS[name, layout], name=layout)
    plan = wb.plan(published, mapping, config=config)
    made = plan.state_dict()
    assert wanted.keys() <= made.keys()
    assert wanted.keys() == made.keys() or layout.endswith("_experts")
    assert [key for key in wanted if not same(made[key], wanted[key])] == []
    assert plan.is_exact
    recorded = plan.inverse().state_dict(made)
    derived = wb.plan(made, mapping.inverse(), published, config=config).state_dict()
    for back in (recorded, derived):
        assert back.keys() == published.keys()
        assert [key for key in back if not same(back[key], published[key])] == []


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and bits(one).equal(bits(other))
