"""Language models whose published layout is the runtime's: bert, gpt2, and the many of Llama's pattern.

BERT's oldest files call the layer norms' parameters gamma and beta. They are read, and go back as they came; a new
model is never saved that way.
"""

from __future__ import annotations

from typing import Final

from weighbridge.mappings.families.common_rules import renames
from weighbridge.mappings.mapping import Mapping

_NORMS: Final = renames({"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"})

_LLAMA: Final = (
    "cohere",
    "cohere2",
    "gemma",
    "gemma2",
    "gemma3_text",
    "granite",
    "llama",
    "mistral",
    "olmo",
    "olmo2",
    "persimmon",
    "phi",
    "qwen2",
    "qwen3",
    "starcoder2",
)

MAPPINGS: Final = {
    **{name: Mapping(name=name, base_prefix="model") for name in _LLAMA},
    "bert": Mapping([_NORMS], name="bert", base_prefix="bert", legacy=[_NORMS]),
    "gpt2": Mapping(name="gpt2", base_prefix="transformer"),
}
