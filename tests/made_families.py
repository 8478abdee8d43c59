"""Small models of families whose published tensors are split, joined, turned or interleaved along their first axis.

A process that is to hold rows of such a weight needs other rows of what was published, often of several tensors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch

from weighbridge.integrations import transformers as wbt

FAMILIES: Final = {
    "gte": "rows are split",
    "hrm_text": "rows are split",
    "inkling2_text": "gate and up are interleaved",
    "jina_embeddings_v3": "rows are split",
    "kimi_k25": "rows are split, and turned for rotary positions",
    "kimi_linear": "rows are joined",
    "nomic_bert": "rows are split",
    "olmo_hybrid": "rows are joined",
    "qianfan_ocr": "rows are split",
    "tipsv2_text_model": "rows are split",
}
"""Model types, and what becomes of what they publish."""

SIZES: Final = {
    "depth": 1,
    "head_dim": 8,
    "hidden_size": 32,
    "image_size": 28,
    "intermediate_size": 48,
    "kv_lora_rank": 16,
    "max_position_embeddings": 64,
    "moe_intermediate_size": 24,
    "n_group": 1,
    "n_routed_experts": 4,
    "num_attention_heads": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
    "pad_token_id": 0,
    "patch_size": 14,
    "q_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "topk_group": 1,
    "type_vocab_size": 2,
    "v_head_dim": 8,
    "vocab_size": 64,
}
"""Values that a configuration gets for what it has under these names."""


def make_family(name: str) -> Any:
    """Make a model of a model type, with a value of its own for each element."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config = CONFIG_MAPPING[name]()
    _shrink(config)
    model = transformers.AutoModel.from_config(config).eval()
    chance = torch.Generator().manual_seed(len(name))
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.copy_(torch.rand(tensor.shape, generator=chance))
    return model


def publish(name: str, folder: Path) -> Path:
    """Write the checkpoint of a family as it would be published."""
    return wbt.save_pretrained(make_family(name), folder / name)


def _shrink(config: Any) -> None:
    for name, value in vars(config).copy().items():
        if hasattr(value, "to_dict"):
            _shrink(value)
        elif name in SIZES and isinstance(value, int):
            setattr(config, name, SIZES[name])
    kinds = getattr(config, "layer_types", None)
    if kinds:
        config.layer_types = [kinds[0], next((kind for kind in kinds if kind != kinds[0]), kinds[0])]
    if getattr(config, "mlp_layer_types", None):
        config.mlp_layer_types = ["sparse"] * 2
