"""Vision transformers of the ViT pattern: vit, deit, audio-spectrogram-transformer, vivit, vit_msn.

The published blocks lie under `encoder.layer`, with the attention's projections two levels deep; the runtime has a
plain list of layers with q/k/v/o projections and an MLP. Base and head classes differ by the base's name in front only.

deit's head for masked image modelling computes something else than it did in 4.57, whose class was wrong; the weights
are the same.
"""

from __future__ import annotations

from typing import Final

from weighbridge.mappings.families.common_rules import below, renames
from weighbridge.mappings.mapping import Mapping

_BLOCK: Final = {
    "layernorm_before": "layernorm_before",
    "layernorm_after": "layernorm_after",
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}

_BLOCKS: Final = renames(below("encoder.layer.{i}", "layers.{i}", _BLOCK))

MAPPINGS: Final = {
    "vit": Mapping([_BLOCKS], name="vit", base_prefix="vit"),
    "deit": Mapping([_BLOCKS], name="deit", base_prefix="deit"),
    "vit_msn": Mapping([_BLOCKS], name="vit_msn", base_prefix="vit"),
    "vivit": Mapping([_BLOCKS], name="vivit", base_prefix="vivit"),
    "audio-spectrogram-transformer": Mapping(
        [_BLOCKS], name="audio-spectrogram-transformer", base_prefix="audio_spectrogram_transformer"
    ),
}
