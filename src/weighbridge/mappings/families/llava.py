"""Models of the LLaVA pattern: a language model, one or more towers, and a projector between them.

Two published layouts meet in one runtime:

    head class   language_model.model.*, language_model.lm_head, vision_tower.*, multi_modal_projector.*
    base class   language_model.model.*, vision_tower.*, multi_modal_projector.*
    runtime      model.language_model.*, lm_head, model.vision_tower.*, model.multi_modal_projector.*

So the head's mapping only moves the parts below `model` and takes the language model's head out; that the language
model is not wrapped any more is the base class's own rule, which is mounted at `model`. A base model alone follows that
rule at the top, and nothing leaks from one class into the other. The towers follow the mappings of their own types.
"""

from __future__ import annotations

from typing import Final

from weighbridge.mappings.families.common_rules import renames
from weighbridge.mappings.mapping import Mapping, Part
from weighbridge.mappings.transforms import WeightRenaming


def head_model(name: str, base: str, *moved: str, language_model: str = "language_model") -> Mapping:
    """Return the mapping of a head class.

    Args:
        name: Model type of the family.
        base: Class of the base model, which hangs at `model`.
        moved: Names of the parts that moved below `model`, beside the language model.
        language_model: Name of the language model.
    """
    return Mapping(
        [
            WeightRenaming(f"^{language_model}.lm_head", "lm_head"),
            renames({f"^{part}": f"model.{part}" for part in (language_model, *moved)}),
        ],
        name=name,
        base_prefix="model",
        parts=[Part("model", classes=((name, base),))],
    )


def base_model(name: str, *parts: Part, language_model: str = "language_model") -> Mapping:
    """Return the mapping of a base class, whose published language model is wrapped in one more module."""
    unwrap = WeightRenaming(f"^{language_model}.model", language_model)
    return Mapping([unwrap], name=name, base_prefix="model", parts=[Part(language_model, "text_config"), *parts])


_VISION: Final = Part("vision_tower", "vision_config")
_AUDIO: Final = Part("audio_tower", "audio_config")
_PARTS: Final = ("vision_tower", "multi_modal_projector")
_AUDIO_PARTS: Final = ("audio_tower", "multi_modal_projector")

_LLAVA: Final = {
    "aria": ("AriaModel", *_PARTS),
    "aya_vision": ("AyaVisionModel", *_PARTS),
    "gemma3": ("Gemma3Model", *_PARTS),
    "got_ocr2": ("GotOcr2Model", *_PARTS),
    "internvl": ("InternVLModel", *_PARTS),
    "llava": ("LlavaModel", *_PARTS),
    "llava_next": ("LlavaNextModel", *_PARTS, "image_newline"),
    "llava_next_video": ("LlavaNextVideoModel", *_PARTS, "image_newline"),
    "llava_onevision": ("LlavaOnevisionModel", *_PARTS, "image_newline"),
    "mistral3": ("Mistral3Model", *_PARTS),
    "paligemma": ("PaliGemmaModel", *_PARTS),
    "vipllava": ("VipLlavaModel", *_PARTS),
}

MAPPINGS: Final = {
    **{name: head_model(name, *names) for name, names in _LLAVA.items()},
    **{base: base_model(base, _VISION) for base, *_ in _LLAVA.values()},
    "pp_chart2table": head_model("pp_chart2table", "GotOcr2Model", *_PARTS),
    "video_llava": head_model("video_llava", "VideoLlavaModel", "image_tower", "video_tower", "multi_modal_projector"),
    "VideoLlavaModel": base_model(
        "VideoLlavaModel", Part("video_tower", "vision_config"), Part("image_tower", "vision_config")
    ),
    "fuyu": head_model("fuyu", "FuyuModel", "vision_embed_tokens"),
    "FuyuModel": base_model("FuyuModel"),
    "mllama": head_model("mllama", "MllamaModel", "vision_model", "multi_modal_projector"),
    "MllamaModel": base_model("MllamaModel", Part("vision_model", "vision_config")),
    "mllama_text_model": Mapping(name="mllama_text_model", base_prefix="model"),
    "emu3": head_model("emu3", "Emu3Model", "vqmodel", language_model="text_model"),
    "Emu3Model": base_model("Emu3Model", language_model="text_model"),
    "emu3_text_model": Mapping(name="emu3_text_model", base_prefix="model"),
    "qwen2_audio": head_model("qwen2_audio", "Qwen2AudioModel", *_AUDIO_PARTS),
    "Qwen2AudioModel": base_model("Qwen2AudioModel", _AUDIO),
    "voxtral": head_model("voxtral", "VoxtralModel", *_AUDIO_PARTS),
    "VoxtralModel": base_model("VoxtralModel", _AUDIO),
}
