"""The mappings that come with weighbridge, as data: published layout to runtime layout, by class name or model type.

One module for each family, or for a few that are alike; nothing is loaded before it is asked for. The runtime layout is
that of transformers 5.23, but neither planning nor converting needs that library.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingOf
from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from weighbridge.mappings.mapping import Mapping

_MODULES: Final[MappingOf[str, tuple[str, ...]]] = {
    "clip": (
        "clip",
        "clip_vision_model",
        "clip_text_model",
        "CLIPVisionModelWithProjection",
        "CLIPTextModelWithProjection",
        "siglip",
        "siglip_vision_model",
        "siglip_text_model",
        "siglip2",
        "siglip2_vision_model",
        "siglip2_text_model",
        "clipseg",
        "clipseg_vision_model",
        "clipseg_text_model",
        "metaclip_2",
        "metaclip_2_vision_model",
        "metaclip_2_text_model",
        "MetaClip2VisionModelWithProjection",
        "MetaClip2TextModelWithProjection",
        "altclip",
        "altclip_vision_model",
        "altclip_text_model",
    ),
    "detr": (
        "detr",
        "DetrForSegmentation",
        "conditional_detr",
        "ConditionalDetrForSegmentation",
        "deformable_detr",
        "rt_detr",
        "rt_detr_v2",
        "d_fine",
        "table-transformer",
        "maskformer",
        "MaskFormerModel",
    ),
    "dinov2": (
        "dinov2",
        "dinov2_with_registers",
    ),
    "experts": (
        "qwen2_moe",
        "qwen3_moe",
        "qwen3_next",
        "deepseek_v2",
        "deepseek_v3",
        "dots1",
        "olmoe",
        "mixtral",
        "minimax",
        "minimax_m2",
        "ernie4_5_moe",
        "granitemoe",
        "aria_text",
        "jetmoe",
    ),
    "llava": (
        "aria",
        "aya_vision",
        "gemma3",
        "got_ocr2",
        "internvl",
        "llava",
        "llava_next",
        "llava_next_video",
        "llava_onevision",
        "mistral3",
        "paligemma",
        "vipllava",
        "AriaModel",
        "AyaVisionModel",
        "Gemma3Model",
        "GotOcr2Model",
        "InternVLModel",
        "LlavaModel",
        "LlavaNextModel",
        "LlavaNextVideoModel",
        "LlavaOnevisionModel",
        "Mistral3Model",
        "PaliGemmaModel",
        "VipLlavaModel",
        "pp_chart2table",
        "video_llava",
        "VideoLlavaModel",
        "fuyu",
        "FuyuModel",
        "mllama",
        "MllamaModel",
        "mllama_text_model",
        "emu3",
        "Emu3Model",
        "emu3_text_model",
        "qwen2_audio",
        "Qwen2AudioModel",
        "voxtral",
        "VoxtralModel",
    ),
    "mimi": ("mimi",),
    "plain": (
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
        "bert",
        "gpt2",
    ),
    "qwen_vl": (
        "qwen2_vl",
        "Qwen2VLModel",
        "qwen2_5_vl",
        "Qwen2_5_VLModel",
        "qwen2_5_omni_thinker",
        "Qwen2_5OmniThinkerModel",
        "qwen3_vl_moe",
        "qwen3_vl_moe_text",
    ),
    "segformer": ("segformer",),
    "swin": (
        "swin",
        "SwinBackbone",
        "mask2former",
        "Mask2FormerModel",
    ),
    "video": (
        "videomae",
        "yolos",
    ),
    "vit": (
        "vit",
        "deit",
        "vit_msn",
        "vivit",
        "audio-spectrogram-transformer",
    ),
    "wrapped": (
        "shieldgemma2",
        "ShieldGemma2ForImageClassification",
        "Gemma3ForConditionalGeneration",
        "colpali",
        "colqwen2",
    ),
}

MODULES: Final = {name: module for module, names in _MODULES.items() for name in names}
"""Class name or model type to the module of this package that holds its mapping."""

TEXTS_OF_RULES: Final[MappingOf[str, tuple[str, ...]]] = {
    **dict.fromkeys(_MODULES["plain"], ()),
    "bert": ("LayerNorm.gamma", "LayerNorm.beta"),
}
"""Families whose rules can be told to be none, or to see no key of a file, without reading them: each key that one of
their rules sees has one of these texts in it."""


def load_family(name: str) -> Mapping:
    """Return the mapping of a class name or model type; its module is imported now.

    Raises:
        KeyError: There is no such name in `MODULES`.

    Examples:
        >>> load_family("LlavaModel").name
        'LlavaModel'
    """
    mappings: dict[str, Mapping] = import_module(module_of(name)).MAPPINGS
    return mappings[name]


def module_of(name: str) -> str:
    """Return the full name of the module that holds the mapping of a class name or model type.

    Examples:
        >>> module_of("LlavaModel")
        'weighbridge.mappings.families.llava'
    """
    return f"{__name__}.{MODULES[name]}"
