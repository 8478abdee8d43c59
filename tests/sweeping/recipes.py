"""What a class needs in its configuration beside the defaults, as data: those whose defaults make no model."""

from __future__ import annotations

from typing import Any, Final

RESNET: Final = {"model_type": "resnet", "out_features": ["stage4"]}
"""A backbone that the library has itself, where the default one is another package's."""

RESNET_LEVELS: Final = {"model_type": "resnet", "out_features": ["stage2", "stage3", "stage4"]}

RESNET_ALL: Final = {"model_type": "resnet", "out_features": ["stage1", "stage2", "stage3", "stage4"]}

EXPERTS: Final = {"num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 704}
TOKENS: Final = {"<image>": 100, "<|extra_200|>": 99}
FULL: Final = {"rope_type": "default", "rope_theta": 10000.0}

RECIPES: Final[dict[str, dict[str, Any]]] = {
    "AutoformerConfig": {"prediction_length": 8},
    "AyaVisionConfig": {"vision_config": {"model_type": "siglip_vision_model", "num_attention_heads": 16}},
    "BeitForSemanticSegmentation": {"out_indices": [3, 5, 7, 11]},
    "ChameleonConfig": {"vocabulary_map": {"<image>": 100, "IMGIMGA": 60}},
    "CohereCompassTextConfig": {"rope_parameters": {"full_attention": FULL, "sliding_attention": FULL}},
    "CohereCompassConfig": {
        "text_config": {"rope_parameters": {"full_attention": FULL, "sliding_attention": FULL}},
    },
    "ConditionalDetrConfig": {"backbone_config": RESNET},
    "ConvNextBackbone": {"hidden_sizes": [96, 192, 384, 768]},
    "ConvNextV2Backbone": {"hidden_sizes": [96, 192, 384, 768]},
    "DabDetrConfig": {"backbone_config": RESNET},
    "DeepseekOcr2TextConfig": {"num_hidden_layers": 2, "mlp_layer_types": ["dense", "sparse"]},
    "DeepseekOcr2Config": {"text_config": {"num_hidden_layers": 2, "mlp_layer_types": ["dense", "sparse"]}},
    "DeformableDetrConfig": {"backbone_config": RESNET_LEVELS},
    "DetrConfig": {"backbone_config": RESNET},
    "ConditionalDetrForSegmentation": {"backbone_config": RESNET_ALL},
    "DetrForSegmentation": {"backbone_config": RESNET_ALL},
    "DiffusionGemmaTextConfig": EXPERTS,
    "DiffusionGemmaConfig": {"text_config": EXPERTS},
    "Dots1Config": {"n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "Emu3Config": {"vocabulary_map": TOKENS},
    "EsmForProteinFolding": {"vocab_size": 33, "is_folding_model": True},
    "Granite4VisionConfig": {"deepstack_layer_map": [[0, 0], [1, 1]], "downsample_rate": "4/8"},
    "HunYuanDenseV1Config": {"head_dim": 128},
    "HunYuanMoEV1Config": {"head_dim": 128},
    "HunYuanVLTextConfig": {"head_dim": 128},
    "HunYuanVLConfig": {"text_config": {"head_dim": 128}},
    "InformerConfig": {"prediction_length": 8},
    "Lfm2MoeConfig": {"num_hidden_layers": 4, "layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "MinistralConfig": {"head_dim": 128},
    "MoshiForConditionalGeneration": {"audio_vocab_size": 2048},
    "NemotronConfig": {"num_key_value_heads": 8},
    "PerceiverForMultimodalAutoencoding": {"num_self_attention_heads": 5, "num_cross_attention_heads": 1},
    "ReformerModelWithLMHead": {"is_decoder": True},
    "T5GemmaEncoderModel": {"is_encoder_decoder": False},
    "TableTransformerConfig": {"backbone_config": RESNET},
    "TimeSeriesTransformerConfig": {"prediction_length": 8},
    "VitMatteConfig": {"fusion_hidden_sizes": [256, 128, 64, 32]},
    "Wav2Vec2ConformerForCTC": {"vocab_size": 32},
    "Wav2Vec2BertForCTC": {"vocab_size": 32},
}
"""Values of the configuration by class name, or by the name of the configuration's class."""


def recipe(kind: Any) -> Any:
    """Return the configuration that a class is made with."""
    values = {**RECIPES.get(kind.config_class.__name__, {}), **RECIPES.get(kind.__name__, {})}
    return kind.config_class(**values)
