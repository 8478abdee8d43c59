"""DETR and its kin: conditional_detr, deformable_detr, rt_detr, rt_detr_v2, d_fine, table-transformer, maskformer.

The runtime moved the feed-forward layers of every block into an `mlp` and calls the attention's output `o_proj`, and
holds the backbone without a wrapper. `...ForSegmentation` is a class of its own: it holds a whole object detector under
the family's name, and only there the mask head's numbered layers become named ones.

conditional_detr gives its decoder's projections to the attentions that use them; its encoder has the plain names.

deformable_detr with box refinement is published with every tied tensor under all of its names, and goes back so; the
library writes one of them.

table-transformer's layout did not change. maskformer's decoder is a DETR decoder, mounted where it hangs.
"""

from __future__ import annotations

from typing import Final

from weighbridge.mappings.families.common_rules import below, renames
from weighbridge.mappings.mapping import Mapping, Part

_BACKBONE: Final = {"backbone.conv_encoder.model": "backbone.model"}
_MLP: Final = {"fc1": "mlp.fc1", "fc2": "mlp.fc2"}
_SELF_OUTPUT: Final = {"self_attn.out_proj": "self_attn.o_proj"}
_CROSS_OUTPUT: Final = {"encoder_attn.out_proj": "encoder_attn.o_proj"}
_LAYER: Final = "layers.{i}"

_DETR: Final = renames(_BACKBONE | below(_LAYER, _LAYER, _MLP | _SELF_OUTPUT | _CROSS_OUTPUT))

_CONDITIONAL: Final = {
    **{
        f"{short}_{role}_proj": f"{attention}.{new}_proj"
        for short, attention in (("sa", "self_attn"), ("ca", "encoder_attn"))
        for role, new in (
            ("qcontent", "q_content"),
            ("qpos", "q_pos"),
            ("kcontent", "k_content"),
            ("kpos", "k_pos"),
            ("v", "v"),
        )
    },
    "ca_qpos_sine_proj": "encoder_attn.q_pos_sine_proj",
}

_MASK_HEAD: Final = {
    "bbox_attention.q_linear": "bbox_attention.q_proj",
    "bbox_attention.k_linear": "bbox_attention.k_proj",
    "mask_head.lay1": "mask_head.conv1.conv",
    "mask_head.gn1": "mask_head.conv1.norm",
    "mask_head.lay2": "mask_head.conv2.conv",
    "mask_head.gn2": "mask_head.conv2.norm",
    "mask_head.out_lay": "mask_head.output_conv",
    **{f"mask_head.adapter{stage + 1}": f"mask_head.fpn_stages.{stage}.fpn_adapter" for stage in range(3)},
    **{f"mask_head.lay{stage + 3}": f"mask_head.fpn_stages.{stage}.refine.conv" for stage in range(3)},
    **{f"mask_head.gn{stage + 3}": f"mask_head.fpn_stages.{stage}.refine.norm" for stage in range(3)},
}

_HYBRID: Final = {"encoder.encoder.{stack}": "encoder.aifi.{stack}"}
_RT_DETR: Final = (renames(_HYBRID), renames(below(_LAYER, _LAYER, _MLP | _SELF_OUTPUT)))
_D_FINE_MLP: Final = {"fc1": "mlp.layers.0", "fc2": "mlp.layers.1"}

MAPPINGS: Final = {
    "detr": Mapping([_DETR], name="detr", base_prefix="model"),
    "DetrForSegmentation": Mapping([renames(_MASK_HEAD)], name="DetrForSegmentation", parts=[Part("detr")]),
    "conditional_detr": Mapping(
        [_DETR, renames(below("decoder.layers.{i}", "decoder.layers.{i}", _CONDITIONAL))],
        name="conditional_detr",
        base_prefix="model",
    ),
    "ConditionalDetrForSegmentation": Mapping(
        [renames(_MASK_HEAD)], name="ConditionalDetrForSegmentation", parts=[Part("conditional_detr")]
    ),
    "deformable_detr": Mapping(
        [renames(_BACKBONE | below(_LAYER, _LAYER, _MLP | _SELF_OUTPUT))],
        name="deformable_detr",
        base_prefix="model",
    ),
    "rt_detr": Mapping(_RT_DETR, name="rt_detr", base_prefix="model"),
    "rt_detr_v2": Mapping(_RT_DETR, name="rt_detr_v2", base_prefix="model"),
    "d_fine": Mapping(
        [renames(_HYBRID), renames(below(_LAYER, _LAYER, _D_FINE_MLP | _SELF_OUTPUT))],
        name="d_fine",
        base_prefix="model",
    ),
    "table-transformer": Mapping(name="table-transformer", base_prefix="model"),
    "maskformer": Mapping(
        name="maskformer", base_prefix="model", parts=[Part("model", classes=(("maskformer", "MaskFormerModel"),))]
    ),
    "MaskFormerModel": Mapping(
        name="MaskFormerModel", base_prefix="model", parts=[Part("transformer_module.decoder", "decoder_config")]
    ),
}
