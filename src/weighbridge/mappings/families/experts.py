"""Mixture-of-experts language models.

The published files hold one tensor for each expert and projection; the runtime stacks a layer's experts in two tensors,
gate and up joined. Mixtral and minimax call the projections w1, w3 and w2, and the block `block_sparse_moe`.

granitemoe and aria_text are published stacked already: only names differ. jetmoe's layout did not change.

ernie4_5_moe can be made with a bias for each expert (`use_bias`). The runtime's stacked experts have no biases, so such
a checkpoint is refused before anything is loaded; the library's own loader drops them with a warning.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from weighbridge.mappings.exception_rules import Refuse
from weighbridge.mappings.families.common_rules import renames, stacked_experts
from weighbridge.mappings.mapping import Mapping
from weighbridge.mappings.transforms import Transform

_STACKED: Final = stacked_experts("mlp.experts", "gate_proj", "up_proj", "down_proj")
_MIXTRAL: Final = (
    renames({"block_sparse_moe": "mlp"}),
    *stacked_experts("mlp.experts", "w1", "w3", "w2"),
)
_ERNIE: Final = (renames({"mlp.moe_statics": "mlp.gate.moe_statics"}), *_STACKED)
_GRANITE: Final = renames(
    {
        "block_sparse_moe.input_linear.weight": "block_sparse_moe.experts.gate_up_proj",
        "block_sparse_moe.output_linear.weight": "block_sparse_moe.experts.down_proj",
        "block_sparse_moe.router.layer": "block_sparse_moe.router",
    }
)
_ARIA: Final = renames(
    {
        "mlp.experts.fc1.weight": "mlp.experts.gate_up_proj",
        "mlp.experts.fc2.weight": "mlp.experts.down_proj",
    }
)


_NO_BIASES: Final = Refuse(
    "mlp.experts.{expert}.{projection}.bias", "stacked experts have no biases: the model cannot compute with use_bias"
)


def _language_model(name: str, *transforms: Transform) -> Mapping:
    return Mapping(transforms, name=name, base_prefix="model")


MAPPINGS: Final = {
    **{
        name: _language_model(name, *_STACKED)
        for name in ("qwen2_moe", "qwen3_moe", "qwen3_next", "deepseek_v2", "deepseek_v3", "dots1", "olmoe")
    },
    **{name: _language_model(name, *_MIXTRAL) for name in ("mixtral", "minimax", "minimax_m2")},
    "ernie4_5_moe": replace(_language_model("ernie4_5_moe", *_ERNIE), refuse=(_NO_BIASES,)),
    "granitemoe": _language_model("granitemoe", _GRANITE),
    "aria_text": _language_model("aria_text", _ARIA),
    "jetmoe": _language_model("jetmoe"),
}
