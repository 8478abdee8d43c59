"""DINOv2: flatter attention names; the SwiGLU variant's fused input projection is cut into gate and up."""

from __future__ import annotations

from typing import Final

from weighbridge.mappings.families.common_rules import below, renames
from weighbridge.mappings.mapping import Mapping
from weighbridge.mappings.transforms import Transform, WeightConverter
from weighbridge.operations.groupings import Chunk

_NAMES: Final = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "mlp.weights_out": "mlp.down_proj",
}

_BLOCKS: Final[tuple[Transform, ...]] = (
    renames(below("encoder.layer.{i}", "encoder.layer.{i}", _NAMES)),
    *(
        WeightConverter(f"mlp.weights_in.{kind}", [f"mlp.gate_proj.{kind}", f"mlp.up_proj.{kind}"], [Chunk(dim=0)])
        for kind in ("weight", "bias")
    ),
)

MAPPINGS: Final = {
    "dinov2": Mapping(_BLOCKS, name="dinov2", base_prefix="dinov2"),
    "dinov2_with_registers": Mapping(_BLOCKS, name="dinov2_with_registers", base_prefix="dinov2_with_registers"),
}
