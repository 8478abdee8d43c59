"""What a class needs in its configuration beside the defaults, as data: those whose defaults make no model."""

from __future__ import annotations

from typing import Any, Final

RESNET: Final = {"model_type": "resnet", "out_features": ["stage4"]}
"""A backbone that the library has itself, where the default one is another package's."""

RESNET_LEVELS: Final = {"model_type": "resnet", "out_features": ["stage2", "stage3", "stage4"]}

RECIPES: Final[dict[str, dict[str, Any]]] = {
    "AutoformerConfig": {"prediction_length": 8},
    "BeitForSemanticSegmentation": {"out_indices": [3, 5, 7, 11]},
    "ConditionalDetrConfig": {"backbone_config": RESNET},
    "DeformableDetrConfig": {"backbone_config": RESNET_LEVELS},
    "DetrConfig": {"backbone_config": RESNET},
    "HunYuanMoEV1Config": {"head_dim": 128},
    "MinistralConfig": {"head_dim": 128},
    "ReformerModelWithLMHead": {"is_decoder": True},
    "T5GemmaEncoderModel": {"is_encoder_decoder": False},
    "TableTransformerConfig": {"backbone_config": RESNET},
    "Wav2Vec2ConformerForCTC": {"vocab_size": 32},
}
"""Values of the configuration by class name, or by the name of the configuration's class."""


def recipe(kind: Any) -> Any:
    """Return the configuration that a class is made with."""
    values = {**RECIPES.get(kind.config_class.__name__, {}), **RECIPES.get(kind.__name__, {})}
    return kind.config_class(**values)
