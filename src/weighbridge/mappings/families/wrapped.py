"""Models that wrap a whole vision-language model: shieldgemma2, colpali, colqwen2.

shieldgemma2 holds a Gemma 3 head model at `model`, so that model's rules apply there, one level down. Each of the two
loads the other's checkpoints, whose configurations name the other's type: both are known by their class names as well.
colpali holds the base model of PaliGemma at `vlm`, published with the base's own names.
colqwen2 holds the base model of Qwen2-VL at `vlm`, published with one `model` more in the path and the parts inside
under their runtime names; so nothing of the base class's own mapping may be mounted there.
"""

from __future__ import annotations

from typing import Final

from weighbridge.mappings.families.llava import MAPPINGS as _LLAVA
from weighbridge.mappings.mapping import Mapping, Part
from weighbridge.mappings.transforms import PrefixChange

_SHIELD: Final = Mapping(
    _LLAVA["gemma3"].scoped("model").transforms,
    name="shieldgemma2",
    base_prefix="model",
    parts=[Part("model.model", classes=(("shieldgemma2", "Gemma3Model"),))],
    claims=("Gemma3ForConditionalGeneration",),
)

MAPPINGS: Final = {
    "shieldgemma2": _SHIELD,
    "ShieldGemma2ForImageClassification": _SHIELD,
    "Gemma3ForConditionalGeneration": _LLAVA["gemma3"],
    "colpali": Mapping(
        name="colpali", base_prefix="vlm", parts=[Part("vlm", "vlm_config", (("paligemma", "PaliGemmaModel"),))]
    ),
    "colqwen2": Mapping(
        [PrefixChange(prefix_to_remove="model", scope="vlm")],
        name="colqwen2",
        base_prefix="vlm",
        claims=("Qwen2VLModel",),
    ),
}
