"""CLIP and its relatives: two towers, each with a name that is published even where a tower stands alone.

A tower alone (`CLIPVisionModel`, model type `clip_vision_model`) is published with its name in front of every key, also
inside a larger model: a LLaVA file says `vision_tower.vision_model.encoder`. The two-tower models and the towers with a
projection keep that name at run time as well, so they claim the towers: nothing is mounted on theirs.

altclip: the text tower's list `layer` is `layers` at run time, in the text tower only. The library's own entry renames
it back in the vision tower too when it saves.
"""

from __future__ import annotations

from typing import Final

from weighbridge.mappings.mapping import Mapping, Part
from weighbridge.mappings.transforms import PrefixChange, WeightRenaming


def _tower(name: str, prefix: str) -> Mapping:
    return Mapping([PrefixChange(prefix_to_remove=prefix)], name=name)


def _pair(name: str, base_prefix: str) -> Mapping:
    return Mapping(name=name, base_prefix=base_prefix, claims=(f"{name}_vision_model", f"{name}_text_model"))


def _projected(name: str, tower: str, claim: str) -> Mapping:
    return Mapping(name=name, base_prefix=tower, claims=(claim,))


MAPPINGS: Final = {
    "clip": _pair("clip", "clip"),
    "clip_vision_model": _tower("clip_vision_model", "vision_model"),
    "clip_text_model": _tower("clip_text_model", "text_model"),
    "CLIPVisionModelWithProjection": _projected("CLIPVisionModelWithProjection", "vision_model", "clip_vision_model"),
    "CLIPTextModelWithProjection": _projected("CLIPTextModelWithProjection", "text_model", "clip_text_model"),
    "siglip": _pair("siglip", "siglip"),
    "siglip_vision_model": _tower("siglip_vision_model", "vision_model"),
    "siglip_text_model": _tower("siglip_text_model", "text_model"),
    "siglip2": _pair("siglip2", "siglip2"),
    "siglip2_vision_model": _tower("siglip2_vision_model", "vision_model"),
    "siglip2_text_model": _tower("siglip2_text_model", "text_model"),
    "clipseg": _pair("clipseg", "clip"),
    "clipseg_vision_model": _tower("clipseg_vision_model", "vision_model"),
    "clipseg_text_model": _tower("clipseg_text_model", "text_model"),
    "metaclip_2": _pair("metaclip_2", "metaclip_2"),
    "metaclip_2_vision_model": _tower("metaclip_2_vision_model", "vision_model"),
    "metaclip_2_text_model": _tower("metaclip_2_text_model", "text_model"),
    "MetaClip2VisionModelWithProjection": _projected(
        "MetaClip2VisionModelWithProjection", "vision_model", "metaclip_2_vision_model"
    ),
    "MetaClip2TextModelWithProjection": _projected(
        "MetaClip2TextModelWithProjection", "text_model", "metaclip_2_text_model"
    ),
    "altclip": Mapping(
        name="altclip",
        base_prefix="altclip",
        claims=("altclip_vision_model",),
        parts=[Part("text_model", "text_config")],
    ),
    "altclip_vision_model": _tower("altclip_vision_model", "vision_model"),
    "altclip_text_model": Mapping(
        [WeightRenaming("roberta.encoder.layer.{i}", "roberta.encoder.layers.{i}")],
        name="altclip_text_model",
        base_prefix="text_model",
    ),
}
