"""Qwen's vision-language models: qwen2_vl, qwen2_5_vl, qwen2_5_omni's thinker, qwen3_vl_moe.

Qwen2-VL is published with the language model under `model` and the towers beside it; at run time all lie below `model`,
the language model as `model.language_model`. The base class is published the same way, without the head. A save of the
base class by the library gives names that no published file has.

qwen3_vl_moe is published with the experts' matrices transposed: `gate_up_proj` (experts, hidden, 2 * inner) and
`down_proj` (experts, inner, hidden). The transposition is declared, not read off the shapes: where hidden and inner
sizes make a matrix square, the shapes cannot tell, and the caller must (`layout="mapped"` for a published file). The
library's rule looks at the shapes, so it does not undo the transposition on a save and skips it on a square one.
"""

from __future__ import annotations

from typing import Final

from weighbridge.mappings.families.common_rules import renames
from weighbridge.mappings.mapping import Mapping
from weighbridge.mappings.transforms import WeightConverter, WeightRenaming
from weighbridge.operations.movements import Transpose

_TEXT: Final = "layers|embed_tokens|norm"


def _head(name: str, base: str, *towers: str) -> Mapping:
    return Mapping(
        [
            renames({f"^{tower}": f"model.{tower}" for tower in towers}),
            WeightRenaming(f"^model.{{part:{_TEXT}}}", "model.language_model.{part}"),
        ],
        name=name,
        base_prefix="model",
        claims=(base,),
    )


def _base(name: str) -> Mapping:
    return Mapping(
        [WeightRenaming(f"^model.{{part:{_TEXT}}}", "language_model.{part}")], name=name, base_prefix="model"
    )


_EXPERTS: Final = tuple(
    WeightConverter(f"mlp.experts.{name}", f"mlp.experts.{name}", [Transpose(1, 2)])
    for name in ("gate_up_proj", "down_proj")
)

MAPPINGS: Final = {
    "qwen2_vl": _head("qwen2_vl", "Qwen2VLModel", "visual"),
    "Qwen2VLModel": _base("Qwen2VLModel"),
    "qwen2_5_vl": _head("qwen2_5_vl", "Qwen2_5_VLModel", "visual"),
    "Qwen2_5_VLModel": _base("Qwen2_5_VLModel"),
    "qwen2_5_omni_thinker": _head("qwen2_5_omni_thinker", "Qwen2_5OmniThinkerModel", "visual", "audio_tower"),
    "Qwen2_5OmniThinkerModel": _base("Qwen2_5OmniThinkerModel"),
    "qwen3_vl_moe": Mapping(_EXPERTS, name="qwen3_vl_moe", base_prefix="model", claims=("qwen3_vl_moe_text",)),
    "qwen3_vl_moe_text": Mapping(_EXPERTS, name="qwen3_vl_moe_text", base_prefix="model"),
}
