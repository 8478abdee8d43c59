"""VideoMAE and YOLOS: single parameters that moved into a module of their own."""

from __future__ import annotations

from typing import Final

from weighbridge.mappings.families.common_rules import renames
from weighbridge.mappings.mapping import Mapping

_BIASES: Final = {
    "attention.attention.q_bias": "attention.attention.query.bias",
    "attention.attention.v_bias": "attention.attention.value.bias",
}

_POSITIONS: Final = {"encoder.mid_position_embeddings": "encoder.interpolation.mid_position_embeddings"}

MAPPINGS: Final = {
    "videomae": Mapping([renames(_BIASES)], name="videomae", base_prefix="videomae"),
    "yolos": Mapping([renames(_POSITIONS)], name="yolos", base_prefix="vit"),
}
