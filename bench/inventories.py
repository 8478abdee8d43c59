"""Headers of large mixture-of-experts models, their fused counterparts, and the mapping from one to the other.

DeepSeek-V3 by its published configuration (`deepseek-ai/DeepSeek-V3`, `config.json`): 61 layers, 3 of them dense, MLA
attention, 256 routed experts and a shared one, FP8 weights in blocks of 128 x 128 with one F32 scale each. Every linear
layer of the attention and of the experts has scales; the router, the norms, the embedding and the head have none:

    expert layer    256 x 3 x 2 routed + 3 x 2 shared + 2 router + 5 x 2 + 2 attention + 2 norms = 1,558
    dense layer     3 x 2 + 5 x 2 + 2 + 2 = 20
    model           58 x 1,558 + 3 x 20 + 3 = 90,427

The published index has 91,991 keys: these, and 1,564 of layer 61, which predicts a further token and which a model of
61 layers does not have. With that layer the elements of each dtype are those published, too: 680,571,043,840 of
F8_E4M3, 3,918,786,560 of BF16 and 41,555,600 of F32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import weighbridge as wb

Entry = tuple[str, str, tuple[int, ...]]
"""Key, dtype and shape of one tensor."""

SCALE_BLOCK = 128
"""Rows and columns of a weight that share one scale."""


class DeepSeek(NamedTuple):
    """Sizes of a DeepSeek-V3 model; the defaults are the published ones."""

    layers: int = 61
    dense_layers: int = 3
    experts: int = 256
    hidden: int = 7168
    intermediate: int = 18432
    expert_intermediate: int = 2048
    q_rank: int = 1536
    kv_rank: int = 512
    heads: int = 128
    rope_dim: int = 64
    nope_dim: int = 128
    value_dim: int = 128
    vocabulary: int = 129280


class Moe(NamedTuple):
    """Sizes of a Qwen3-MoE-like model; the defaults give 3,219 tensors of 3.4 GB."""

    layers: int = 16
    experts: int = 64
    hidden: int = 1024
    expert_intermediate: int = 512
    query_dim: int = 2048
    key_dim: int = 512
    head_dim: int = 128
    vocabulary: int = 5000

    def config(self) -> dict[str, Any]:
        """Return the model's `config.json`."""
        return {
            "architectures": ["Qwen3MoeForCausalLM"],
            "model_type": "qwen3_moe",
            "dtype": "bfloat16",
            "decoder_sparse_step": 1,
            "head_dim": self.head_dim,
            "hidden_size": self.hidden,
            "intermediate_size": 2 * self.hidden,
            "mlp_only_layers": [],
            "moe_intermediate_size": self.expert_intermediate,
            "num_attention_heads": self.query_dim // self.head_dim,
            "num_experts": self.experts,
            "num_experts_per_tok": min(2, self.experts),
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.key_dim // self.head_dim,
            "tie_word_embeddings": False,
            "vocab_size": self.vocabulary,
        }


class Dense(NamedTuple):
    """Sizes of a Llama-like model; the defaults give 183 tensors of 2.1 GB."""

    layers: int = 20
    hidden: int = 2048
    intermediate: int = 5632
    heads: int = 16
    vocabulary: int = 8000

    def config(self) -> dict[str, Any]:
        """Return the model's `config.json`."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "dtype": "bfloat16",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.heads,
            "tie_word_embeddings": False,
            "vocab_size": self.vocabulary,
        }


class Small(NamedTuple):
    """Numbers of small tensors; the defaults give 50,000 of 4 KiB."""

    layers: int = 500
    tensors: int = 100
    numel: int = 1024


Sizes = Moe | Dense


def header_of(sizes: Sizes) -> wb.Header:
    """Return the header of a model's checkpoint, as it is published."""
    return moe(sizes) if isinstance(sizes, Moe) else dense(sizes)


def deepseek(sizes: DeepSeek, *, fused: bool = False) -> wb.Header:
    """Return the header of a DeepSeek-V3 model.

    Args:
        sizes: The model's sizes.
        fused: Give the layout with one tensor for all experts' gate and up projections, and one for down.
    """
    entries: list[Entry] = [("model.embed_tokens.weight", "BF16", (sizes.vocabulary, sizes.hidden))]
    for layer in range(sizes.layers):
        prefix = f"model.layers.{layer}"
        entries += _deepseek_attention(f"{prefix}.self_attn", sizes)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            entries.append((f"{prefix}.{norm}.weight", "BF16", (sizes.hidden,)))
        if layer < sizes.dense_layers:
            entries += _gated(f"{prefix}.mlp", sizes.hidden, sizes.intermediate)
        else:
            entries += _deepseek_experts(f"{prefix}.mlp", sizes, fused=fused)
    entries.append(("model.norm.weight", "BF16", (sizes.hidden,)))
    entries.append(("lm_head.weight", "BF16", (sizes.vocabulary, sizes.hidden)))
    return _header(entries)


def deepseek_mapping() -> wb.Mapping:
    """Return the mapping that fuses the experts' weights, and their scales by the same operations."""
    return wb.Mapping([*_fusing("weight", ""), *_fusing("weight_scale_inv", "_scale_inv")], name="deepseek_v3")


def deepseek_weights() -> wb.Mapping:
    """Return the mapping that fuses the experts' weights, whose scales go along where a configuration says so."""
    return wb.Mapping(_fusing("weight", ""), name="deepseek_v3")


def moe(sizes: Moe, *, fused: bool = False) -> wb.Header:
    """Return the header of a Qwen3-MoE-like model, in BF16.

    Args:
        sizes: The model's sizes.
        fused: Give the layout with one tensor for all experts' gate and up projections, and one for down.
    """
    entries: list[Entry] = [("model.embed_tokens.weight", "BF16", (sizes.vocabulary, sizes.hidden))]
    for layer in range(sizes.layers):
        entries += _moe_layer(f"model.layers.{layer}", sizes, fused=fused)
    entries.append(("model.norm.weight", "BF16", (sizes.hidden,)))
    entries.append(("lm_head.weight", "BF16", (sizes.vocabulary, sizes.hidden)))
    return _header(entries)


def moe_mapping() -> wb.Mapping:
    """Return the mapping that fuses the experts."""
    return wb.Mapping(_fusing("weight", ""), name="moe")


def _header(entries: list[Entry]) -> wb.Header:
    specs = {key: wb.TensorSpec(dtype, shape) for key, dtype, shape in entries}
    assert len(specs) == len(entries), "a key stands twice"
    return wb.Header(specs, {"format": "pt"})


def dense(sizes: Dense) -> wb.Header:
    """Return the header of a Llama-like model, in BF16; its checkpoint and its model have the same keys."""
    hidden, inner = sizes.hidden, sizes.intermediate
    linear = {f"self_attn.{name}_proj": (hidden, hidden) for name in "qkvo"}
    linear |= {"mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner)}
    norms = {"input_layernorm": (hidden,), "post_attention_layernorm": (hidden,)}
    layer = {**linear, **norms}
    entries: list[Entry] = [("model.embed_tokens.weight", "BF16", (sizes.vocabulary, hidden))]
    entries += [
        (f"model.layers.{number}.{name}.weight", "BF16", shape)
        for number in range(sizes.layers)
        for name, shape in layer.items()
    ]
    entries.append(("model.norm.weight", "BF16", (hidden,)))
    entries.append(("lm_head.weight", "BF16", (sizes.vocabulary, hidden)))
    return _header(entries)


def small(sizes: Small) -> wb.Header:
    """Return the header of many small tensors, in F32."""
    names = ((layer, number) for layer in range(sizes.layers) for number in range(sizes.tensors))
    return _header([(f"layers.{layer}.w{number}", "F32", (sizes.numel,)) for layer, number in names])


def huge(rows: int) -> wb.Header:
    """Return the header of one matrix in BF16, of `rows` rows and half as many columns."""
    return _header([("weight", "BF16", (rows, rows // 2))])


def transposed_mapping() -> wb.Mapping:
    """Return the mapping that fuses the experts and transposes every expert's matrix."""
    turned = [replace(rule, operations=(*rule.operations, wb.Transpose(1, 2))) for rule in _fusing("weight", "")]
    return wb.Mapping(turned, name="moe_transposed")


def _fusing(suffix: str, target_suffix: str) -> list[wb.WeightConverter]:
    halves = [f"mlp.experts.*.{name}_proj.{suffix}" for name in ("gate", "up")]
    return [
        wb.WeightConverter(
            halves, f"mlp.experts.gate_up_proj{target_suffix}", [wb.MergeModulelist(0), wb.Concatenate(1)]
        ),
        wb.WeightConverter(
            f"mlp.experts.*.down_proj.{suffix}", f"mlp.experts.down_proj{target_suffix}", [wb.MergeModulelist(0)]
        ),
    ]


def _scaled(name: str, *shape: int, scale: str = "_scale_inv") -> Iterator[Entry]:
    """Yield an FP8 weight and its scales, one for each block of the last two axes."""
    yield name, "F8_E4M3", shape
    blocks = tuple(-(-size // SCALE_BLOCK) for size in shape[-2:])
    yield name + scale, "F32", shape[:-2] + blocks


def _gated(prefix: str, hidden: int, intermediate: int) -> Iterator[Entry]:
    yield from _scaled(f"{prefix}.gate_proj.weight", intermediate, hidden)
    yield from _scaled(f"{prefix}.up_proj.weight", intermediate, hidden)
    yield from _scaled(f"{prefix}.down_proj.weight", hidden, intermediate)


def _deepseek_attention(prefix: str, sizes: DeepSeek) -> Iterator[Entry]:
    query_dim = sizes.heads * (sizes.nope_dim + sizes.rope_dim)
    yield from _scaled(f"{prefix}.q_a_proj.weight", sizes.q_rank, sizes.hidden)
    yield f"{prefix}.q_a_layernorm.weight", "BF16", (sizes.q_rank,)
    yield from _scaled(f"{prefix}.q_b_proj.weight", query_dim, sizes.q_rank)
    yield from _scaled(f"{prefix}.kv_a_proj_with_mqa.weight", sizes.kv_rank + sizes.rope_dim, sizes.hidden)
    yield f"{prefix}.kv_a_layernorm.weight", "BF16", (sizes.kv_rank,)
    yield from _scaled(f"{prefix}.kv_b_proj.weight", sizes.heads * (sizes.nope_dim + sizes.value_dim), sizes.kv_rank)
    yield from _scaled(f"{prefix}.o_proj.weight", sizes.hidden, sizes.heads * sizes.value_dim)


def _deepseek_experts(prefix: str, sizes: DeepSeek, *, fused: bool) -> Iterator[Entry]:
    hidden, inner, experts = sizes.hidden, sizes.expert_intermediate, sizes.experts
    yield f"{prefix}.gate.weight", "BF16", (experts, hidden)
    yield f"{prefix}.gate.e_score_correction_bias", "F32", (experts,)
    yield from _gated(f"{prefix}.shared_experts", hidden, inner)
    if fused:
        yield from _scaled(f"{prefix}.experts.gate_up_proj", experts, 2 * inner, hidden)
        yield from _scaled(f"{prefix}.experts.down_proj", experts, hidden, inner)
        return
    for expert in range(experts):
        yield from _gated(f"{prefix}.experts.{expert}", hidden, inner)


def _moe_layer(prefix: str, sizes: Moe, *, fused: bool) -> Iterator[Entry]:
    hidden, inner, experts = sizes.hidden, sizes.expert_intermediate, sizes.experts
    attention = {
        "q_proj": (sizes.query_dim, hidden),
        "k_proj": (sizes.key_dim, hidden),
        "v_proj": (sizes.key_dim, hidden),
        "o_proj": (hidden, sizes.query_dim),
        "q_norm": (sizes.head_dim,),
        "k_norm": (sizes.head_dim,),
    }
    yield from ((f"{prefix}.self_attn.{name}.weight", "BF16", shape) for name, shape in attention.items())
    for norm in ("input_layernorm", "post_attention_layernorm"):
        yield f"{prefix}.{norm}.weight", "BF16", (hidden,)
    yield f"{prefix}.mlp.gate.weight", "BF16", (experts, hidden)
    if fused:
        yield f"{prefix}.mlp.experts.gate_up_proj", "BF16", (experts, 2 * inner, hidden)
        yield f"{prefix}.mlp.experts.down_proj", "BF16", (experts, hidden, inner)
        return
    for expert in range(experts):
        for name, shape in (("gate", (inner, hidden)), ("up", (inner, hidden)), ("down", (hidden, inner))):
            yield f"{prefix}.mlp.experts.{expert}.{name}_proj.weight", "BF16", shape
