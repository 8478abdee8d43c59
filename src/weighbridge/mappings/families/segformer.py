"""SegFormer: three parallel lists of the published encoder (patches, blocks, norms) become stages that hold them."""

from __future__ import annotations

from typing import Final

from weighbridge.mappings.families.common_rules import below, renames
from weighbridge.mappings.mapping import Mapping

_BLOCK: Final = {
    "layer_norm_1": "layernorm_before",
    "layer_norm_2": "layernorm_after",
    "attention.self.query": "attention.q_proj",
    "attention.self.key": "attention.k_proj",
    "attention.self.value": "attention.v_proj",
    "attention.self.sr": "attention.sequence_reduction.sequence_reduction",
    "attention.self.layer_norm": "attention.sequence_reduction.layer_norm",
    "attention.output.dense": "attention.o_proj",
    "mlp.dwconv": "mlp.dwconv",
    "mlp.dense1": "mlp.fc1",
    "mlp.dense2": "mlp.fc2",
}

_STAGES: Final = {
    "encoder.patch_embeddings.{stage}": "stages.{stage}.patch_embeddings",
    "encoder.layer_norm.{stage}": "stages.{stage}.layer_norm",
    **below("encoder.block.{stage}.{i}", "stages.{stage}.blocks.{i}", _BLOCK),
}

_HEAD: Final = {"decode_head.linear_c": "decode_head.linear_projections"}

MAPPINGS: Final = {"segformer": Mapping([renames({**_STAGES, **_HEAD})], name="segformer", base_prefix="segformer")}
