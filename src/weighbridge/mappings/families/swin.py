"""Swin, and models with a Swin backbone: mask2former.

Published Swin files hold the window's index tables (`relative_position_index`), which the runtime computes anew. They
have no place in the model, so they are carried, and a save writes them back. The library's own entry loses them.

As a backbone the published encoder lies one level higher than in the runtime, whose backbone is a whole Swin with a
last layer norm. No published file has values for that norm, and the backbone never uses its output: it is initialised.

MaskFormer's own Swin kept the published names. It is mounted by its model type, so the renames are `if_wanted`.
"""

from __future__ import annotations

from typing import Final

from weighbridge.mappings.exception_rules import Carry, Initialise
from weighbridge.mappings.families.common_rules import below, renames
from weighbridge.mappings.mapping import Mapping, Part
from weighbridge.mappings.transforms import WeightRenaming

_BLOCK: Final = {
    "attention.self.query": "attention.q_proj",
    "attention.self.key": "attention.k_proj",
    "attention.self.value": "attention.v_proj",
    "attention.self.relative_position_bias_table": "attention.relative_position_bias.relative_position_bias_table",
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}

_INDEX: Final = Carry("blocks.{i}.attention.self.relative_position_index$", "index tables that the model computes")

MAPPINGS: Final = {
    "swin": Mapping(
        [renames(below("blocks.{i}", "blocks.{i}", _BLOCK), if_wanted=True)],
        name="swin",
        carry=[_INDEX],
        base_prefix="swin",
    ),
    "SwinBackbone": Mapping(
        [WeightRenaming("^{part:embeddings|encoder}", "swin.{part}")],
        name="SwinBackbone",
        initialise=[Initialise("swin.layernorm.{kind}", "a backbone's last norm is never used", saved=False)],
        parts=[Part("swin")],
    ),
    "mask2former": Mapping(
        name="mask2former", base_prefix="model", parts=[Part("model", classes=(("mask2former", "Mask2FormerModel"),))]
    ),
    "Mask2FormerModel": Mapping(
        name="Mask2FormerModel",
        base_prefix="model",
        parts=[Part("pixel_level_module.encoder", "backbone_config", (("swin", "SwinBackbone"),))],
    ),
}
