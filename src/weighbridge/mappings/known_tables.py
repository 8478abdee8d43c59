"""For which models the transformers library has rules: known without building its table, which takes a while.

The text of the library's module decides: where it is one of those that were read here, it holds these names and no
others. Of any other text nothing is known, unless the library has built its table already.
"""

from __future__ import annotations

import re
from collections.abc import Set
from pathlib import Path
from typing import Any, Final, NamedTuple

from weighbridge.base.hashes import sha256_of
from weighbridge.mappings.library_parts import library_module

LEGACY: Final = "legacy"
"""Name of the library's rules for very old checkpoints; they run after those of every model."""


class KnownTable(NamedTuple):
    """What is known of the library's table.

    Args:
        names: The class names and model types that it has rules for.
        patterns: Regular expressions, one of which is found in each key that a rule for every model sees.
    """

    names: Set[str]
    patterns: tuple[str, ...]


def read_known_table() -> KnownTable | None:
    """Return what is known of the installed library's table; None for nothing.

    Raises:
        RegistryError: `integration-version`.
    """
    module = library_module("conversion_mapping")
    built = getattr(module, "_checkpoint_conversion_mapping_cache", None)
    if built is not None:
        return KnownTable(built.keys(), legacy_patterns(built))
    found = KNOWN.get(sha256_of(Path(module.__file__).read_bytes()))
    if found is None or not all(_is_of(module, name) for name in _MAKERS):
        return None
    return found if module._MODEL_TO_CONVERSION_PATTERN.keys() <= found.names else None


_MAKERS: Final = ("_build_checkpoint_conversion_mapping", "get_checkpoint_conversion_mapping")
"""The functions that make the table, and give out of it."""


def _is_of(module: Any, name: str) -> bool:
    """Tell whether a function is the one that a module's text defines, and nobody's in its place."""
    function = getattr(module, name)
    return function.__module__ == module.__name__ and not hasattr(function, "__wrapped__")


def legacy_patterns(table: dict[str, list[Any]]) -> tuple[str, ...]:
    """Return the regular expressions of the rules for every model, without names of groups.

    Args:
        table: The library's table.
    """
    found = (rule.compiled_sources.pattern for rule in table.get(LEGACY, ()))
    return ("|".join(re.sub(r"\?P<\w+>", "?:", pattern) for pattern in found),)


_NAMES: Final = """
ASTModel AltCLIPVisionModel AriaModel AudioFlamingo3Model AyaVisionModel BeitBackbone BeitForSemanticSegmentation
BeitModel CLIPSegTextModel CLIPSegVisionModel CLIPTextModel CLIPVisionModel ChineseCLIPVisionModel
ConditionalDetrForSegmentation ConditionalDetrModel DeiTModel DetrForSegmentation DetrModel Dinov2Backbone
Dinov2Model Dinov2WithRegistersBackbone Dinov2WithRegistersModel Dots3NoteForConditionalGeneration Dots3NoteModel
Dots3NoteTextModel Emu3Model FuyuModel GPTNeoXForCausalLM Gemma3Model GlmAsrModel GotOcr2Model GraniteSpeechModel
GraniteSpeechPlusModel IJepaModel InternVLModel LlavaModel LlavaNextModel LlavaNextVideoModel LlavaOnevisionModel
MaskFormerDetrDecoder MetaClip2TextModel MetaClip2VisionModel MimiDecoderModel MimiEncoderModel MimiModel
Mistral3Model MllamaModel Molmo2TextModel MtpModel MusicFlamingoModel NemotronH_Omni_Reasoning_V3 PPChart2TableModel
PaliGemmaModel Qwen2AudioModel Qwen2VLForConditionalGeneration Qwen2VLModel
Qwen2_5OmniThinkerForConditionalGeneration Qwen2_5OmniThinkerModel Qwen2_5_VLForConditionalGeneration
Qwen2_5_VLModel Qwen3OmniMoeThinkerForConditionalGeneration Qwen3OmniMoeThinkerModel RfDetrForInstanceSegmentation
RfDetrForObjectDetection RfDetrModel Sapiens2ForImageMatting Sapiens2ForNormalEstimation
Sapiens2ForPointmapEstimation Sapiens2ForPoseEstimation Sapiens2ForSemanticSegmentation
SegformerForSemanticSegmentation SegformerModel Siglip2TextModel Siglip2VisionModel SiglipTextModel
SiglipVisionModel SwinBackbone Tipsv2DptForDepthEstimation Tipsv2DptForNormalEstimation
Tipsv2DptForSemanticSegmentation Tipsv2TextModel Tipsv2VisionBackbone Tipsv2VisionModel UltraVBertForMaskedLM
UltrabertForMaskedLM UltrabertForQuestionAnswering UltrabertForSequenceClassification
UltrabertForTokenClassification UltrabertModel UnlimitedOcrSamVisionEncoder UnlimitedOcrTextModel
UnlimitedOcrVisionEncoder ViTMAEForPreTraining ViTMAEModel ViTMSNForImageClassification ViTMSNModel ViTModel
VibeVoiceAsrModel VideoLlavaModel VipLlavaModel VivitModel VoxtralModel VoxtralRealtimeModel afmoe altclip aria
aria_text audioflamingo3 axk1 axk2 aya_vision bailing_hybrid beam cohere2_moe cohere_asr colqwen2 cosmos3_edge
cosmos3_omni d_fine deepseek_ocr2 deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v4 deformable_detr dinov3_convnext
dinov3_vit dots1 dots3_note_audio_encoder dots3_note_vision_encoder emu3 ernie4_5_moe ernie4_5_vl_moe esm exaone_moe
flex_olmo flint fuyu gemma3 gemma3n_text gemma4_unified glm4_moe glm4_moe_lite glm4v_moe glm5_next glm5_next_text
glm_moe_dsa glmasr got_ocr2 gradium_phonon_tts granite_speech granite_speech_plus granitemoe granitemoehybrid
granitemoeshared gte hrm_text hunyuan_v1_moe hunyuan_vl hy_v3 hy_v4 hyperclovax_vision_v2 inkling2 inkling2_text
inkling_mm_model internvl jamba jev jina_embeddings_v3 kimi_k25 kimi_linear kolibri1 laguna lfm2_moe lfm3
lfm3_vl_vision llava llava_next llava_next_video llava_onevision longcat_flash lw_detr maskformer mellum
mimo_v2_flash minimax minimax_m2 minimax_m3_vl mistral3 mistral_large4 mistral_large4_text mixtral mlcd mlcd_vision
mllama molmo2 musicflamingo nemo_speechlm nemotron_h nomic_bert olmo_hybrid olmoe paddleocr_vl paligemma phimoe pi0
pixio pp_chart2table pp_doclayout_v2 pp_doclayout_v3 pp_doclayout_v4 qianfan_ocr qwen2_5_omni_thinker qwen2_audio
qwen2_moe qwen3_5_moe_text qwen3_5_text qwen3_moe qwen3_next qwen3_omni_moe qwen3_omni_moe_text
qwen3_omni_moe_thinker qwen3_vl_moe qwen4_exp_text radio rt_detr rt_detr_v2 sam3_tracker sam3_tracker_video sapiens2
shieldgemma2 solar_open step3p5_vision step3p7 swin t5gemma2_encoder timesfm2_5 timm_wrapper tipsv2 tipsv2_dpt
unlimited_ocr vibevoice_asr video_llava videomae vipllava voxtral voxtral_realtime xCLIPTextModel xCLIPVisionModel
yolos
"""

_NEW_IN_5_24: Final = """
apertus1p5_text dory exaone hy_v4_vl hy_v4_vl_text inkling2_loop inkling2_loop_text lara_mini sarvam_mla sarvam_moe
"""

_PATTERNS: Final = (
    r"(?:LayerNorm.gamma(?!\w))|"
    r"(?:LayerNorm.beta(?!\w))|"
    r"(?:.weight_g(?!\w))|"
    r"(?:.weight_v(?!\w))|"
    r"(?:^model\.language_model\.model(?!\w))|(?:^language_model\.model\.model(?!\w))"
)

KNOWN: Final = {
    "e877d1729259a0c51859d653b4a158d7671c0caefe78db3e0e2c8579fd72d1bd": KnownTable(
        frozenset(_NAMES.split()), (_PATTERNS,)
    ),
    "6e4085f1c941c55b4d12cdddcbb6134a683fe3639af853988bcb1c026ac2d88c": KnownTable(
        frozenset((_NAMES + _NEW_IN_5_24).split()), (_PATTERNS,)
    ),
}
"""The tables of transformers 5.23 and 5.24, by the SHA-256 of the text of `conversion_mapping.py`."""
