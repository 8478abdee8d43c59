"""Mimi: the published encoder and decoder are spread over the top level; the runtime has one module for each half."""

from __future__ import annotations

from typing import Final

from weighbridge.mappings.families.common_rules import renames
from weighbridge.mappings.mapping import Mapping

_HALVES: Final = {
    "^encoder.layers": "encoder.encoder_seanet.layers",
    "^encoder_transformer": "encoder.encoder_transformer",
    "^downsample": "encoder.downsample",
    "^upsample": "decoder.upsample",
    "^decoder_transformer": "decoder.decoder_transformer",
    "^decoder.layers": "decoder.decoder_seanet.layers",
}

MAPPINGS: Final = {"mimi": Mapping([renames(_HALVES)], name="mimi", base_prefix="mimi")}
