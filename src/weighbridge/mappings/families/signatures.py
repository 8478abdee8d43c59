"""Names of the tensors of each model type, as data: in the published layout, and at runtime.

Written by `tests/signature_table.py`. A line without a mark begins a model type, with the prefix that its head models
have; the names that follow are without it. `*` stands for an index, and a set in braces for each of its words. Marks:

    +  names that all known checkpoints of the type have, as they are published
    ?  names that only some of them have
    =  as +, at runtime; left out where nothing differs
    ~  as ?, at runtime
"""

# ruff: noqa: E501 (one name is longer than a line)

from __future__ import annotations

from typing import Final

SIGNATURES: Final = """\
altclip altclip
+ logit_scale text_model.roberta.embeddings.LayerNorm.{bias,weight}
+ text_model.roberta.embeddings.{position_embeddings,token_type_embeddings,word_embeddings}.weight
+ text_model.roberta.encoder.layer.*.attention.output.{LayerNorm,dense}.{bias,weight}
+ text_model.roberta.encoder.layer.*.attention.self.{key,query,value}.{bias,weight}
+ text_model.roberta.encoder.layer.*.intermediate.dense.{bias,weight}
+ text_model.roberta.encoder.layer.*.output.{LayerNorm,dense}.{bias,weight}
+ text_model.{pre_LN,transformation}.{bias,weight} vision_model.embeddings.class_embedding
+ vision_model.embeddings.{patch_embedding,position_embedding}.weight
+ vision_model.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
+ vision_model.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
+ vision_model.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight}
+ vision_model.{post_layernorm,pre_layrnorm}.{bias,weight} {text_projection,visual_projection}.weight
= logit_scale text_model.roberta.embeddings.LayerNorm.{bias,weight}
= text_model.roberta.embeddings.{position_embeddings,token_type_embeddings,word_embeddings}.weight
= text_model.roberta.encoder.layers.*.attention.output.{LayerNorm,dense}.{bias,weight}
= text_model.roberta.encoder.layers.*.attention.self.{key,query,value}.{bias,weight}
= text_model.roberta.encoder.layers.*.intermediate.dense.{bias,weight}
= text_model.roberta.encoder.layers.*.output.{LayerNorm,dense}.{bias,weight}
= text_model.{pre_LN,transformation}.{bias,weight} vision_model.embeddings.class_embedding
= vision_model.embeddings.{patch_embedding,position_embedding}.weight
= vision_model.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
= vision_model.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
= vision_model.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight}
= vision_model.{post_layernorm,pre_layrnorm}.{bias,weight} {text_projection,visual_projection}.weight
altclip_vision_model
+ vision_model.embeddings.class_embedding vision_model.embeddings.{patch_embedding,position_embedding}.weight
+ vision_model.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
+ vision_model.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
+ vision_model.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight}
+ vision_model.{post_layernorm,pre_layrnorm}.{bias,weight}
= embeddings.class_embedding embeddings.{patch_embedding,position_embedding}.weight
= encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
= encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
= encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight} {post_layernorm,pre_layrnorm}.{bias,weight}
aria model
+ language_model.model.layers.*.mlp.experts.{fc1,fc2}.weight language_model.model.layers.*.mlp.router.weight
+ language_model.model.layers.*.mlp.shared_experts.{down_proj,gate_proj,up_proj}.weight
+ language_model.model.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
+ language_model.model.layers.*.{input_layernorm,post_attention_layernorm}.weight
+ language_model.model.{embed_tokens,norm}.weight
+ multi_modal_projector.cross_attn.multihead_attn.out_proj.{bias,weight}
+ multi_modal_projector.cross_attn.multihead_attn.{in_proj_bias,in_proj_weight}
+ multi_modal_projector.cross_attn.{k_proj,q_proj,v_proj}.weight
+ multi_modal_projector.cross_attn.{layer_norm,layer_norm_kv,linear}.{bias,weight}
+ multi_modal_projector.feed_forward.{linear_in,linear_out}.weight multi_modal_projector.layer_norm.{bias,weight}
+ multi_modal_projector.query vision_tower.embeddings.patch_embedding.{bias,weight}
+ vision_tower.embeddings.position_embedding.weight vision_tower.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
+ vision_tower.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
+ vision_tower.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight} vision_tower.post_layernorm.{bias,weight}
? language_model.lm_head.weight
= language_model.layers.*.mlp.experts.{down_proj,gate_up_proj} language_model.layers.*.mlp.router.weight
= language_model.layers.*.mlp.shared_experts.{down_proj,gate_proj,up_proj}.weight
= language_model.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
= language_model.layers.*.{input_layernorm,post_attention_layernorm}.weight language_model.{embed_tokens,norm}.weight
= multi_modal_projector.cross_attn.multihead_attn.out_proj.{bias,weight}
= multi_modal_projector.cross_attn.multihead_attn.{in_proj_bias,in_proj_weight}
= multi_modal_projector.cross_attn.{k_proj,q_proj,v_proj}.weight
= multi_modal_projector.cross_attn.{layer_norm,layer_norm_kv,linear}.{bias,weight}
= multi_modal_projector.feed_forward.{linear_in,linear_out}.weight multi_modal_projector.layer_norm.{bias,weight}
= multi_modal_projector.query vision_tower.embeddings.patch_embedding.{bias,weight}
= vision_tower.embeddings.position_embedding.weight vision_tower.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
= vision_tower.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
= vision_tower.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight} vision_tower.post_layernorm.{bias,weight}
~ lm_head.weight
aria_text model
+ layers.*.mlp.experts.{fc1,fc2}.weight layers.*.mlp.router.weight
+ layers.*.mlp.shared_experts.{down_proj,gate_proj,up_proj}.weight
+ layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight layers.*.{input_layernorm,post_attention_layernorm}.weight
+ {embed_tokens,norm}.weight
? lm_head.weight
= layers.*.mlp.experts.{down_proj,gate_up_proj} layers.*.mlp.router.weight
= layers.*.mlp.shared_experts.{down_proj,gate_proj,up_proj}.weight
= layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight layers.*.{input_layernorm,post_attention_layernorm}.weight
= {embed_tokens,norm}.weight
~ lm_head.weight
audio-spectrogram-transformer audio_spectrogram_transformer
+ embeddings.patch_embeddings.projection.{bias,weight} embeddings.{cls_token,distillation_token,position_embeddings}
+ encoder.layer.*.attention.attention.{key,query,value}.{bias,weight}
+ encoder.layer.*.attention.output.dense.{bias,weight} encoder.layer.*.{intermediate,output}.dense.{bias,weight}
+ encoder.layer.*.{layernorm_after,layernorm_before}.{bias,weight} layernorm.{bias,weight}
? classifier.{dense,layernorm}.{bias,weight}
= embeddings.patch_embeddings.projection.{bias,weight} embeddings.{cls_token,distillation_token,position_embeddings}
= layernorm.{bias,weight} layers.*.attention.{k_proj,o_proj,q_proj,v_proj}.{bias,weight}
= layers.*.mlp.{fc1,fc2}.{bias,weight} layers.*.{layernorm_after,layernorm_before}.{bias,weight}
~ classifier.{dense,layernorm}.{bias,weight}
aya_vision model
+ language_model.model.layers.*.input_layernorm.weight
+ language_model.model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
+ language_model.model.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
+ language_model.model.{embed_tokens,norm}.weight multi_modal_projector.{layernorm,linear_1,linear_2}.{bias,weight}
+ vision_tower.vision_model.embeddings.patch_embedding.{bias,weight}
+ vision_tower.vision_model.embeddings.position_embedding.weight
+ vision_tower.vision_model.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
+ vision_tower.vision_model.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
+ vision_tower.vision_model.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight}
+ vision_tower.vision_model.head.attention.out_proj.{bias,weight}
+ vision_tower.vision_model.head.attention.{in_proj_bias,in_proj_weight}
+ vision_tower.vision_model.head.layernorm.{bias,weight} vision_tower.vision_model.head.mlp.{fc1,fc2}.{bias,weight}
+ vision_tower.vision_model.head.probe vision_tower.vision_model.post_layernorm.{bias,weight}
= language_model.layers.*.input_layernorm.weight language_model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
= language_model.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight language_model.{embed_tokens,norm}.weight
= multi_modal_projector.{layernorm,linear_1,linear_2}.{bias,weight}
= vision_tower.embeddings.patch_embedding.{bias,weight} vision_tower.embeddings.position_embedding.weight
= vision_tower.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
= vision_tower.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
= vision_tower.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight}
= vision_tower.head.attention.out_proj.{bias,weight} vision_tower.head.attention.{in_proj_bias,in_proj_weight}
= vision_tower.head.layernorm.{bias,weight} vision_tower.head.mlp.{fc1,fc2}.{bias,weight} vision_tower.head.probe
= vision_tower.post_layernorm.{bias,weight}
~ lm_head.weight
bert bert
+ embeddings.LayerNorm.{bias,weight} embeddings.{position_embeddings,token_type_embeddings,word_embeddings}.weight
+ encoder.layer.*.attention.output.{LayerNorm,dense}.{bias,weight}
+ encoder.layer.*.attention.self.{key,query,value}.{bias,weight} encoder.layer.*.intermediate.dense.{bias,weight}
+ encoder.layer.*.output.{LayerNorm,dense}.{bias,weight}
? cls.predictions.bias cls.predictions.decoder.{bias,weight} cls.predictions.transform.{LayerNorm,dense}.{bias,weight}
? pooler.dense.{bias,weight}
clip clip
+ vision_model.embeddings.class_embedding vision_model.embeddings.{patch_embedding,position_embedding}.weight
+ vision_model.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
+ vision_model.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
+ vision_model.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight}
+ vision_model.{post_layernorm,pre_layrnorm}.{bias,weight}
? classifier.{bias,weight} logit_scale text_model.embeddings.{position_embedding,token_embedding}.weight
? text_model.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
? text_model.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
? text_model.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight} text_model.final_layer_norm.{bias,weight}
? {text_projection,visual_projection}.weight
clip_text_model
+ text_model.embeddings.{position_embedding,token_embedding}.weight
+ text_model.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
+ text_model.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
+ text_model.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight} text_model.final_layer_norm.{bias,weight}
= embeddings.{position_embedding,token_embedding}.weight encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
= encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
= encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight} final_layer_norm.{bias,weight}
clip_vision_model
+ vision_model.embeddings.class_embedding vision_model.embeddings.{patch_embedding,position_embedding}.weight
+ vision_model.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
+ vision_model.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
+ vision_model.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight}
+ vision_model.{post_layernorm,pre_layrnorm}.{bias,weight}
? visual_projection.weight
~ embeddings.class_embedding embeddings.{patch_embedding,position_embedding}.weight
~ encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
~ encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
~ encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight} vision_model.embeddings.class_embedding
~ vision_model.embeddings.{patch_embedding,position_embedding}.weight
~ vision_model.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
~ vision_model.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
~ vision_model.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight}
~ vision_model.{post_layernorm,pre_layrnorm}.{bias,weight} visual_projection.weight
~ {post_layernorm,pre_layrnorm}.{bias,weight}
clipseg clip
+ logit_scale text_model.embeddings.{position_embedding,token_embedding}.weight
+ text_model.final_layer_norm.{bias,weight} vision_model.embeddings.class_embedding
+ vision_model.embeddings.{patch_embedding,position_embedding}.weight
+ vision_model.{post_layernorm,pre_layrnorm}.{bias,weight}
+ {text_model,vision_model}.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
+ {text_model,vision_model}.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
+ {text_model,vision_model}.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight}
+ {text_projection,visual_projection}.weight
? decoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
? decoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
? decoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight} decoder.reduces.*.{bias,weight}
? decoder.{film_add,film_mul,transposed_convolution}.{bias,weight}
clipseg_text_model
+ text_model.embeddings.{position_embedding,token_embedding}.weight
+ text_model.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
+ text_model.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
+ text_model.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight} text_model.final_layer_norm.{bias,weight}
= embeddings.{position_embedding,token_embedding}.weight encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
= encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
= encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight} final_layer_norm.{bias,weight}
clipseg_vision_model
+ vision_model.embeddings.class_embedding vision_model.embeddings.{patch_embedding,position_embedding}.weight
+ vision_model.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
+ vision_model.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
+ vision_model.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight}
+ vision_model.{post_layernorm,pre_layrnorm}.{bias,weight}
= embeddings.class_embedding embeddings.{patch_embedding,position_embedding}.weight
= encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
= encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
= encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight} {post_layernorm,pre_layrnorm}.{bias,weight}
cohere model
+ layers.*.input_layernorm.weight layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
+ layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight {embed_tokens,norm}.weight
? lm_head.weight
cohere2 model
+ layers.*.input_layernorm.weight layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
+ layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight {embed_tokens,norm}.weight
? lm_head.weight
colpali vlm
+ embedding_proj_layer.{bias,weight} language_model.model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
+ language_model.model.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
+ language_model.model.layers.*.{input_layernorm,post_attention_layernorm}.weight
+ language_model.model.{embed_tokens,norm}.weight multi_modal_projector.linear.{bias,weight}
+ vision_tower.vision_model.embeddings.patch_embedding.{bias,weight}
+ vision_tower.vision_model.embeddings.position_embedding.weight
+ vision_tower.vision_model.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
+ vision_tower.vision_model.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
+ vision_tower.vision_model.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight}
+ vision_tower.vision_model.post_layernorm.{bias,weight}
= embedding_proj_layer.{bias,weight} language_model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
= language_model.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
= language_model.layers.*.{input_layernorm,post_attention_layernorm}.weight language_model.{embed_tokens,norm}.weight
= multi_modal_projector.linear.{bias,weight} vision_tower.embeddings.patch_embedding.{bias,weight}
= vision_tower.embeddings.position_embedding.weight vision_tower.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
= vision_tower.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
= vision_tower.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight} vision_tower.post_layernorm.{bias,weight}
colqwen2 vlm
+ embedding_proj_layer.{bias,weight} model.language_model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
+ model.language_model.layers.*.self_attn.o_proj.weight
+ model.language_model.layers.*.self_attn.{k_proj,q_proj,v_proj}.{bias,weight}
+ model.language_model.layers.*.{input_layernorm,post_attention_layernorm}.weight
+ model.language_model.{embed_tokens,norm}.weight model.visual.blocks.*.attn.{proj,qkv}.{bias,weight}
+ model.visual.blocks.*.mlp.{fc1,fc2}.{bias,weight} model.visual.blocks.*.{norm1,norm2}.{bias,weight}
+ model.visual.merger.ln_q.{bias,weight} model.visual.merger.mlp.*.{bias,weight} model.visual.patch_embed.proj.weight
= embedding_proj_layer.{bias,weight} language_model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
= language_model.layers.*.self_attn.o_proj.weight
= language_model.layers.*.self_attn.{k_proj,q_proj,v_proj}.{bias,weight}
= language_model.layers.*.{input_layernorm,post_attention_layernorm}.weight language_model.{embed_tokens,norm}.weight
= visual.blocks.*.attn.{proj,qkv}.{bias,weight} visual.blocks.*.mlp.{fc1,fc2}.{bias,weight}
= visual.blocks.*.{norm1,norm2}.{bias,weight} visual.merger.ln_q.{bias,weight} visual.merger.mlp.*.{bias,weight}
= visual.patch_embed.proj.weight
conditional_detr model
? backbone.conv_encoder.model.embedder.embedder.convolution.weight
? backbone.conv_encoder.model.embedder.embedder.normalization.{bias,running_mean,running_var,weight}
? backbone.conv_encoder.model.encoder.stages.*.layers.*.layer.*.convolution.weight
? backbone.conv_encoder.model.encoder.stages.*.layers.*.layer.*.normalization.{bias,running_mean}
? backbone.conv_encoder.model.encoder.stages.*.layers.*.layer.*.normalization.{running_var,weight}
? backbone.conv_encoder.model.encoder.stages.*.layers.*.shortcut.convolution.weight
? backbone.conv_encoder.model.encoder.stages.*.layers.*.shortcut.normalization.{bias,running_mean}
? backbone.conv_encoder.model.encoder.stages.*.layers.*.shortcut.normalization.{running_var,weight}
? bbox_attention.{k_linear,q_linear}.{bias,weight} bbox_predictor.layers.*.{bias,weight}
? conditional_detr.bbox_predictor.layers.*.{bias,weight} conditional_detr.class_labels_classifier.{bias,weight}
? conditional_detr.model.backbone.conv_encoder.model.embedder.embedder.convolution.weight
? conditional_detr.model.backbone.conv_encoder.model.embedder.embedder.normalization.{bias,running_mean}
? conditional_detr.model.backbone.conv_encoder.model.embedder.embedder.normalization.{running_var,weight}
? conditional_detr.model.backbone.conv_encoder.model.encoder.stages.*.layers.*.layer.*.convolution.weight
? conditional_detr.model.backbone.conv_encoder.model.encoder.stages.*.layers.*.layer.*.normalization.bias
? conditional_detr.model.backbone.conv_encoder.model.encoder.stages.*.layers.*.layer.*.normalization.running_mean
? conditional_detr.model.backbone.conv_encoder.model.encoder.stages.*.layers.*.layer.*.normalization.running_var
? conditional_detr.model.backbone.conv_encoder.model.encoder.stages.*.layers.*.layer.*.normalization.weight
? conditional_detr.model.backbone.conv_encoder.model.encoder.stages.*.layers.*.shortcut.convolution.weight
? conditional_detr.model.backbone.conv_encoder.model.encoder.stages.*.layers.*.shortcut.normalization.bias
? conditional_detr.model.backbone.conv_encoder.model.encoder.stages.*.layers.*.shortcut.normalization.running_mean
? conditional_detr.model.backbone.conv_encoder.model.encoder.stages.*.layers.*.shortcut.normalization.running_var
? conditional_detr.model.backbone.conv_encoder.model.encoder.stages.*.layers.*.shortcut.normalization.weight
? conditional_detr.model.decoder.layernorm.{bias,weight}
? conditional_detr.model.decoder.layers.*.{ca_kcontent_proj,ca_kpos_proj,ca_qcontent_proj,ca_qpos_proj}.bias
? conditional_detr.model.decoder.layers.*.{ca_qpos_sine_proj,ca_v_proj,encoder_attn_layer_norm,fc1}.bias
? conditional_detr.model.decoder.layers.*.{fc2,final_layer_norm,sa_kcontent_proj,sa_kpos_proj}.bias
? conditional_detr.model.decoder.layers.*.{sa_qcontent_proj,sa_qpos_proj,sa_v_proj,self_attn_layer_norm}.bias
? conditional_detr.model.decoder.layers.*.{ca_kcontent_proj,ca_kpos_proj,ca_qcontent_proj,ca_qpos_proj}.weight
? conditional_detr.model.decoder.layers.*.{ca_qpos_sine_proj,ca_v_proj,encoder_attn_layer_norm,fc1}.weight
? conditional_detr.model.decoder.layers.*.{fc2,final_layer_norm,sa_kcontent_proj,sa_kpos_proj}.weight
? conditional_detr.model.decoder.layers.*.{sa_qcontent_proj,sa_qpos_proj,sa_v_proj,self_attn_layer_norm}.weight
? conditional_detr.model.decoder.layers.*.{encoder_attn,self_attn}.out_proj.{bias,weight}
? conditional_detr.model.decoder.{query_scale,ref_point_head}.layers.*.{bias,weight}
? conditional_detr.model.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
? conditional_detr.model.encoder.layers.*.{fc1,fc2,final_layer_norm,self_attn_layer_norm}.{bias,weight}
? conditional_detr.model.input_projection.{bias,weight} conditional_detr.model.query_position_embeddings.weight
? decoder.layernorm.{bias,weight} decoder.layers.*.{ca_kcontent_proj,ca_kpos_proj,ca_qcontent_proj,ca_qpos_proj}.bias
? decoder.layers.*.{ca_qpos_sine_proj,ca_v_proj,encoder_attn_layer_norm,fc1}.bias
? decoder.layers.*.{fc2,final_layer_norm,sa_kcontent_proj,sa_kpos_proj}.bias
? decoder.layers.*.{sa_qcontent_proj,sa_qpos_proj,sa_v_proj,self_attn_layer_norm}.bias
? decoder.layers.*.{ca_kcontent_proj,ca_kpos_proj,ca_qcontent_proj,ca_qpos_proj}.weight
? decoder.layers.*.{ca_qpos_sine_proj,ca_v_proj,encoder_attn_layer_norm,fc1}.weight
? decoder.layers.*.{fc2,final_layer_norm,sa_kcontent_proj,sa_kpos_proj}.weight
? decoder.layers.*.{sa_qcontent_proj,sa_qpos_proj,sa_v_proj,self_attn_layer_norm}.weight
? decoder.layers.*.{encoder_attn,self_attn}.out_proj.{bias,weight}
? decoder.{query_scale,ref_point_head}.layers.*.{bias,weight}
? encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
? encoder.layers.*.{fc1,fc2,final_layer_norm,self_attn_layer_norm}.{bias,weight}
? mask_head.{adapter1,adapter2,adapter3,gn1,gn2,gn3,gn4,gn5,lay1,lay2,lay3,lay4,lay5,out_lay}.{bias,weight}
? query_position_embeddings.weight {class_labels_classifier,input_projection}.{bias,weight}
~ backbone.model.embedder.embedder.convolution.weight
~ backbone.model.embedder.embedder.normalization.{bias,running_mean,running_var,weight}
~ backbone.model.encoder.stages.*.layers.*.layer.*.convolution.weight
~ backbone.model.encoder.stages.*.layers.*.layer.*.normalization.{bias,running_mean,running_var,weight}
~ backbone.model.encoder.stages.*.layers.*.shortcut.convolution.weight
~ backbone.model.encoder.stages.*.layers.*.shortcut.normalization.{bias,running_mean,running_var,weight}
~ bbox_attention.{k_proj,q_proj}.{bias,weight} bbox_predictor.layers.*.{bias,weight}
~ conditional_detr.bbox_predictor.layers.*.{bias,weight} conditional_detr.class_labels_classifier.{bias,weight}
~ conditional_detr.model.backbone.model.embedder.embedder.convolution.weight
~ conditional_detr.model.backbone.model.embedder.embedder.normalization.{bias,running_mean,running_var,weight}
~ conditional_detr.model.backbone.model.encoder.stages.*.layers.*.layer.*.convolution.weight
~ conditional_detr.model.backbone.model.encoder.stages.*.layers.*.layer.*.normalization.{bias,running_mean}
~ conditional_detr.model.backbone.model.encoder.stages.*.layers.*.layer.*.normalization.{running_var,weight}
~ conditional_detr.model.backbone.model.encoder.stages.*.layers.*.shortcut.convolution.weight
~ conditional_detr.model.backbone.model.encoder.stages.*.layers.*.shortcut.normalization.{bias,running_mean}
~ conditional_detr.model.backbone.model.encoder.stages.*.layers.*.shortcut.normalization.{running_var,weight}
~ conditional_detr.model.decoder.layernorm.{bias,weight}
~ conditional_detr.model.decoder.layers.*.encoder_attn.{k_content_proj,k_pos_proj,o_proj}.bias
~ conditional_detr.model.decoder.layers.*.encoder_attn.{q_content_proj,q_pos_proj,q_pos_sine_proj,v_proj}.bias
~ conditional_detr.model.decoder.layers.*.encoder_attn.{k_content_proj,k_pos_proj,o_proj}.weight
~ conditional_detr.model.decoder.layers.*.encoder_attn.{q_content_proj,q_pos_proj,q_pos_sine_proj,v_proj}.weight
~ conditional_detr.model.decoder.layers.*.self_attn.{k_content_proj,k_pos_proj,o_proj}.bias
~ conditional_detr.model.decoder.layers.*.self_attn.{q_content_proj,q_pos_proj,v_proj}.bias
~ conditional_detr.model.decoder.layers.*.self_attn.{k_content_proj,k_pos_proj,o_proj}.weight
~ conditional_detr.model.decoder.layers.*.self_attn.{q_content_proj,q_pos_proj,v_proj}.weight
~ conditional_detr.model.decoder.layers.*.{encoder_attn_layer_norm,final_layer_norm,self_attn_layer_norm}.bias
~ conditional_detr.model.decoder.layers.*.{encoder_attn_layer_norm,final_layer_norm,self_attn_layer_norm}.weight
~ conditional_detr.model.decoder.{query_scale,ref_point_head}.layers.*.{bias,weight}
~ conditional_detr.model.encoder.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.{bias,weight}
~ conditional_detr.model.encoder.layers.*.{final_layer_norm,self_attn_layer_norm}.{bias,weight}
~ conditional_detr.model.input_projection.{bias,weight} conditional_detr.model.query_position_embeddings.weight
~ conditional_detr.model.{decoder,encoder}.layers.*.mlp.{fc1,fc2}.{bias,weight} decoder.layernorm.{bias,weight}
~ decoder.layers.*.encoder_attn.{k_content_proj,k_pos_proj,o_proj}.bias
~ decoder.layers.*.encoder_attn.{q_content_proj,q_pos_proj,q_pos_sine_proj,v_proj}.bias
~ decoder.layers.*.encoder_attn.{k_content_proj,k_pos_proj,o_proj}.weight
~ decoder.layers.*.encoder_attn.{q_content_proj,q_pos_proj,q_pos_sine_proj,v_proj}.weight
~ decoder.layers.*.self_attn.{k_content_proj,k_pos_proj,o_proj,q_content_proj,q_pos_proj,v_proj}.{bias,weight}
~ decoder.layers.*.{encoder_attn_layer_norm,final_layer_norm,self_attn_layer_norm}.{bias,weight}
~ decoder.{query_scale,ref_point_head}.layers.*.{bias,weight}
~ encoder.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.{bias,weight}
~ encoder.layers.*.{final_layer_norm,self_attn_layer_norm}.{bias,weight}
~ mask_head.fpn_stages.*.fpn_adapter.{bias,weight} mask_head.fpn_stages.*.refine.{conv,norm}.{bias,weight}
~ mask_head.output_conv.{bias,weight} mask_head.{conv1,conv2}.{conv,norm}.{bias,weight}
~ query_position_embeddings.weight {class_labels_classifier,input_projection}.{bias,weight}
~ {decoder,encoder}.layers.*.mlp.{fc1,fc2}.{bias,weight}
d_fine model
+ backbone.model.embedder.{stem1,stem2a,stem2b,stem3,stem4}.convolution.weight
+ backbone.model.embedder.{stem1,stem2a,stem2b,stem3,stem4}.normalization.{bias,running_mean,running_var,weight}
+ backbone.model.encoder.stages.*.blocks.*.layers.*.{conv1,conv2}.convolution.weight
+ backbone.model.encoder.stages.*.blocks.*.layers.*.{conv1,conv2}.normalization.{bias,running_mean}
+ backbone.model.encoder.stages.*.blocks.*.layers.*.{conv1,conv2}.normalization.{running_var,weight}
+ backbone.model.encoder.stages.*.blocks.*.{aggregation,layers}.*.convolution.weight
+ backbone.model.encoder.stages.*.blocks.*.{aggregation,layers}.*.normalization.{bias,running_mean}
+ backbone.model.encoder.stages.*.blocks.*.{aggregation,layers}.*.normalization.{running_var,weight}
+ backbone.model.encoder.stages.*.downsample.convolution.weight
+ backbone.model.encoder.stages.*.downsample.normalization.{bias,running_mean,running_var,weight}
+ decoder.layers.*.encoder_attn.num_points_scale
+ decoder.layers.*.encoder_attn.{attention_weights,sampling_offsets}.{bias,weight}
+ decoder.layers.*.gateway.{gate,norm}.{bias,weight}
+ decoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
+ decoder.layers.*.{fc1,fc2,final_layer_norm,self_attn_layer_norm}.{bias,weight}
+ decoder.lqe_layers.*.reg_conf.layers.*.{bias,weight} decoder.{pre_bbox_head,query_pos_head}.layers.*.{bias,weight}
+ decoder.{reg_scale,up} enc_bbox_head.layers.*.{bias,weight} enc_output.*.{bias,weight} enc_score_head.{bias,weight}
+ encoder.downsample_convs.*.{conv1,conv2}.conv.weight
+ encoder.downsample_convs.*.{conv1,conv2}.norm.{bias,num_batches_tracked,running_mean,running_var,weight}
+ encoder.encoder.*.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
+ encoder.encoder.*.layers.*.{fc1,fc2,final_layer_norm,self_attn_layer_norm}.{bias,weight}
+ encoder.lateral_convs.*.conv.weight
+ encoder.lateral_convs.*.norm.{bias,num_batches_tracked,running_mean,running_var,weight}
+ encoder.{fpn_blocks,pan_blocks}.*.{conv1,conv2,conv3,conv4}.conv.weight
+ encoder.{fpn_blocks,pan_blocks}.*.{conv1,conv2,conv3,conv4}.norm.{bias,num_batches_tracked}
+ encoder.{fpn_blocks,pan_blocks}.*.{conv1,conv2,conv3,conv4}.norm.{running_mean,running_var,weight}
+ encoder.{fpn_blocks,pan_blocks}.*.{csp_rep1,csp_rep2}.bottlenecks.*.{conv1,conv2}.conv.weight
+ encoder.{fpn_blocks,pan_blocks}.*.{csp_rep1,csp_rep2}.bottlenecks.*.{conv1,conv2}.norm.bias
+ encoder.{fpn_blocks,pan_blocks}.*.{csp_rep1,csp_rep2}.bottlenecks.*.{conv1,conv2}.norm.num_batches_tracked
+ encoder.{fpn_blocks,pan_blocks}.*.{csp_rep1,csp_rep2}.bottlenecks.*.{conv1,conv2}.norm.running_mean
+ encoder.{fpn_blocks,pan_blocks}.*.{csp_rep1,csp_rep2}.bottlenecks.*.{conv1,conv2}.norm.{running_var,weight}
+ encoder.{fpn_blocks,pan_blocks}.*.{csp_rep1,csp_rep2}.{conv1,conv2}.conv.weight
+ encoder.{fpn_blocks,pan_blocks}.*.{csp_rep1,csp_rep2}.{conv1,conv2}.norm.{bias,num_batches_tracked}
+ encoder.{fpn_blocks,pan_blocks}.*.{csp_rep1,csp_rep2}.{conv1,conv2}.norm.{running_mean,running_var,weight}
+ encoder_input_proj.*.*.{bias,num_batches_tracked,running_mean,running_var,weight}
? backbone.model.embedder.{stem1,stem2a,stem2b,stem3,stem4}.lab.{bias,scale}
? backbone.model.encoder.stages.*.blocks.*.layers.*.conv2.lab.{bias,scale}
? backbone.model.encoder.stages.*.blocks.*.{aggregation,layers}.*.lab.{bias,scale}
? decoder.bbox_embed.*.layers.*.{bias,weight} decoder.class_embed.*.{bias,weight} denoising_class_embed.weight
= backbone.model.embedder.{stem1,stem2a,stem2b,stem3,stem4}.convolution.weight
= backbone.model.embedder.{stem1,stem2a,stem2b,stem3,stem4}.normalization.{bias,running_mean,running_var,weight}
= backbone.model.encoder.stages.*.blocks.*.layers.*.{conv1,conv2}.convolution.weight
= backbone.model.encoder.stages.*.blocks.*.layers.*.{conv1,conv2}.normalization.{bias,running_mean}
= backbone.model.encoder.stages.*.blocks.*.layers.*.{conv1,conv2}.normalization.{running_var,weight}
= backbone.model.encoder.stages.*.blocks.*.{aggregation,layers}.*.convolution.weight
= backbone.model.encoder.stages.*.blocks.*.{aggregation,layers}.*.normalization.{bias,running_mean}
= backbone.model.encoder.stages.*.blocks.*.{aggregation,layers}.*.normalization.{running_var,weight}
= backbone.model.encoder.stages.*.downsample.convolution.weight
= backbone.model.encoder.stages.*.downsample.normalization.{bias,running_mean,running_var,weight}
= decoder.layers.*.encoder_attn.num_points_scale
= decoder.layers.*.encoder_attn.{attention_weights,sampling_offsets}.{bias,weight}
= decoder.layers.*.gateway.{gate,norm}.{bias,weight} decoder.layers.*.mlp.layers.*.{bias,weight}
= decoder.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.{bias,weight}
= decoder.layers.*.{final_layer_norm,self_attn_layer_norm}.{bias,weight}
= decoder.lqe_layers.*.reg_conf.layers.*.{bias,weight} decoder.{pre_bbox_head,query_pos_head}.layers.*.{bias,weight}
= decoder.{reg_scale,up} enc_bbox_head.layers.*.{bias,weight} enc_output.*.{bias,weight} enc_score_head.{bias,weight}
= encoder.aifi.*.layers.*.mlp.layers.*.{bias,weight}
= encoder.aifi.*.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.{bias,weight}
= encoder.aifi.*.layers.*.{final_layer_norm,self_attn_layer_norm}.{bias,weight}
= encoder.downsample_convs.*.{conv1,conv2}.conv.weight
= encoder.downsample_convs.*.{conv1,conv2}.norm.{bias,num_batches_tracked,running_mean,running_var,weight}
= encoder.lateral_convs.*.conv.weight
= encoder.lateral_convs.*.norm.{bias,num_batches_tracked,running_mean,running_var,weight}
= encoder.{fpn_blocks,pan_blocks}.*.{conv1,conv2,conv3,conv4}.conv.weight
= encoder.{fpn_blocks,pan_blocks}.*.{conv1,conv2,conv3,conv4}.norm.{bias,num_batches_tracked}
= encoder.{fpn_blocks,pan_blocks}.*.{conv1,conv2,conv3,conv4}.norm.{running_mean,running_var,weight}
= encoder.{fpn_blocks,pan_blocks}.*.{csp_rep1,csp_rep2}.bottlenecks.*.{conv1,conv2}.conv.weight
= encoder.{fpn_blocks,pan_blocks}.*.{csp_rep1,csp_rep2}.bottlenecks.*.{conv1,conv2}.norm.bias
= encoder.{fpn_blocks,pan_blocks}.*.{csp_rep1,csp_rep2}.bottlenecks.*.{conv1,conv2}.norm.num_batches_tracked
= encoder.{fpn_blocks,pan_blocks}.*.{csp_rep1,csp_rep2}.bottlenecks.*.{conv1,conv2}.norm.running_mean
= encoder.{fpn_blocks,pan_blocks}.*.{csp_rep1,csp_rep2}.bottlenecks.*.{conv1,conv2}.norm.{running_var,weight}
= encoder.{fpn_blocks,pan_blocks}.*.{csp_rep1,csp_rep2}.{conv1,conv2}.conv.weight
= encoder.{fpn_blocks,pan_blocks}.*.{csp_rep1,csp_rep2}.{conv1,conv2}.norm.{bias,num_batches_tracked}
= encoder.{fpn_blocks,pan_blocks}.*.{csp_rep1,csp_rep2}.{conv1,conv2}.norm.{running_mean,running_var,weight}
= encoder_input_proj.*.*.{bias,num_batches_tracked,running_mean,running_var,weight}
~ backbone.model.embedder.{stem1,stem2a,stem2b,stem3,stem4}.lab.{bias,scale}
~ backbone.model.encoder.stages.*.blocks.*.layers.*.conv2.lab.{bias,scale}
~ backbone.model.encoder.stages.*.blocks.*.{aggregation,layers}.*.lab.{bias,scale} bbox_embed.*.layers.*.{bias,weight}
~ class_embed.*.{bias,weight} decoder.bbox_embed.*.layers.*.{bias,weight} decoder.class_embed.*.{bias,weight}
~ denoising_class_embed.weight
deepseek_v2 model
+ layers.*.mlp.experts.*.{down_proj,gate_proj,up_proj}.weight layers.*.mlp.gate.weight
+ layers.*.mlp.shared_experts.{down_proj,gate_proj,up_proj}.weight
+ layers.*.self_attn.{kv_a_layernorm,kv_a_proj_with_mqa,kv_b_proj,o_proj,q_a_layernorm,q_a_proj,q_b_proj}.weight
+ layers.*.{input_layernorm,post_attention_layernorm}.weight {embed_tokens,norm}.weight
? lm_head.weight
= layers.*.mlp.experts.{down_proj,gate_up_proj} layers.*.mlp.gate.weight
= layers.*.mlp.shared_experts.{down_proj,gate_proj,up_proj}.weight
= layers.*.self_attn.{kv_a_layernorm,kv_a_proj_with_mqa,kv_b_proj,o_proj,q_a_layernorm,q_a_proj,q_b_proj}.weight
= layers.*.{input_layernorm,post_attention_layernorm}.weight {embed_tokens,norm}.weight
~ lm_head.weight
deepseek_v3 model
+ layers.*.mlp.experts.*.{down_proj,gate_proj,up_proj}.weight layers.*.mlp.gate.{e_score_correction_bias,weight}
+ layers.*.mlp.shared_experts.{down_proj,gate_proj,up_proj}.weight layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
+ layers.*.self_attn.{kv_a_layernorm,kv_a_proj_with_mqa,kv_b_proj,o_proj,q_a_layernorm,q_a_proj,q_b_proj}.weight
+ layers.*.{input_layernorm,post_attention_layernorm}.weight {embed_tokens,norm}.weight
? lm_head.weight
= layers.*.mlp.experts.{down_proj,gate_up_proj} layers.*.mlp.gate.{e_score_correction_bias,weight}
= layers.*.mlp.shared_experts.{down_proj,gate_proj,up_proj}.weight layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
= layers.*.self_attn.{kv_a_layernorm,kv_a_proj_with_mqa,kv_b_proj,o_proj,q_a_layernorm,q_a_proj,q_b_proj}.weight
= layers.*.{input_layernorm,post_attention_layernorm}.weight {embed_tokens,norm}.weight
~ lm_head.weight
deformable_detr model
+ backbone.conv_encoder.model.embedder.embedder.convolution.weight
+ backbone.conv_encoder.model.embedder.embedder.normalization.{bias,running_mean,running_var,weight}
+ backbone.conv_encoder.model.encoder.stages.*.layers.*.layer.*.convolution.weight
+ backbone.conv_encoder.model.encoder.stages.*.layers.*.layer.*.normalization.{bias,running_mean}
+ backbone.conv_encoder.model.encoder.stages.*.layers.*.layer.*.normalization.{running_var,weight}
+ backbone.conv_encoder.model.encoder.stages.*.layers.*.shortcut.convolution.weight
+ backbone.conv_encoder.model.encoder.stages.*.layers.*.shortcut.normalization.{bias,running_mean}
+ backbone.conv_encoder.model.encoder.stages.*.layers.*.shortcut.normalization.{running_var,weight}
+ decoder.layers.*.encoder_attn.{attention_weights,output_proj,sampling_offsets,value_proj}.{bias,weight}
+ decoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
+ decoder.layers.*.{encoder_attn_layer_norm,fc1,fc2,final_layer_norm,self_attn_layer_norm}.{bias,weight}
+ encoder.layers.*.self_attn.{attention_weights,output_proj,sampling_offsets,value_proj}.{bias,weight}
+ encoder.layers.*.{fc1,fc2,final_layer_norm,self_attn_layer_norm}.{bias,weight} input_proj.*.*.{bias,weight}
+ level_embed query_position_embeddings.weight reference_points.{bias,weight}
? bbox_embed.*.layers.*.{bias,weight} class_embed.*.{bias,weight} decoder.bbox_embed.*.layers.*.{bias,weight}
= backbone.model.embedder.embedder.convolution.weight
= backbone.model.embedder.embedder.normalization.{bias,running_mean,running_var,weight}
= backbone.model.encoder.stages.*.layers.*.layer.*.convolution.weight
= backbone.model.encoder.stages.*.layers.*.layer.*.normalization.{bias,running_mean,running_var,weight}
= backbone.model.encoder.stages.*.layers.*.shortcut.convolution.weight
= backbone.model.encoder.stages.*.layers.*.shortcut.normalization.{bias,running_mean,running_var,weight}
= decoder.layers.*.encoder_attn.{attention_weights,output_proj,sampling_offsets,value_proj}.{bias,weight}
= decoder.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.{bias,weight}
= decoder.layers.*.{encoder_attn_layer_norm,final_layer_norm,self_attn_layer_norm}.{bias,weight}
= encoder.layers.*.self_attn.{attention_weights,output_proj,sampling_offsets,value_proj}.{bias,weight}
= encoder.layers.*.{final_layer_norm,self_attn_layer_norm}.{bias,weight} input_proj.*.*.{bias,weight} level_embed
= query_position_embeddings.weight reference_points.{bias,weight}
= {decoder,encoder}.layers.*.mlp.{fc1,fc2}.{bias,weight}
~ bbox_embed.*.layers.*.{bias,weight} class_embed.*.{bias,weight} decoder.bbox_embed.*.layers.*.{bias,weight}
deit deit
+ embeddings.patch_embeddings.projection.{bias,weight} embeddings.{cls_token,distillation_token,position_embeddings}
+ encoder.layer.*.attention.attention.{key,query,value}.{bias,weight}
+ encoder.layer.*.attention.output.dense.{bias,weight} encoder.layer.*.{intermediate,output}.dense.{bias,weight}
+ encoder.layer.*.{layernorm_after,layernorm_before}.{bias,weight} layernorm.{bias,weight}
? decoder.*.{bias,weight} embeddings.mask_token pooler.dense.{bias,weight}
= embeddings.patch_embeddings.projection.{bias,weight} embeddings.{cls_token,distillation_token,position_embeddings}
= layernorm.{bias,weight} layers.*.attention.{k_proj,o_proj,q_proj,v_proj}.{bias,weight}
= layers.*.mlp.{fc1,fc2}.{bias,weight} layers.*.{layernorm_after,layernorm_before}.{bias,weight}
~ decoder.*.{bias,weight} embeddings.mask_token pooler.dense.{bias,weight}
detr model
? backbone.conv_encoder.model.embedder.embedder.convolution.weight
? backbone.conv_encoder.model.embedder.embedder.normalization.{bias,running_mean,running_var,weight}
? backbone.conv_encoder.model.encoder.stages.*.layers.*.layer.*.convolution.weight
? backbone.conv_encoder.model.encoder.stages.*.layers.*.layer.*.normalization.{bias,running_mean}
? backbone.conv_encoder.model.encoder.stages.*.layers.*.layer.*.normalization.{running_var,weight}
? backbone.conv_encoder.model.encoder.stages.*.layers.*.shortcut.convolution.weight
? backbone.conv_encoder.model.encoder.stages.*.layers.*.shortcut.normalization.{bias,running_mean}
? backbone.conv_encoder.model.encoder.stages.*.layers.*.shortcut.normalization.{running_var,weight}
? bbox_attention.{k_linear,q_linear}.{bias,weight} bbox_predictor.layers.*.{bias,weight}
? decoder.layernorm.{bias,weight}
? decoder.layers.*.{encoder_attn,self_attn}.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
? decoder.layers.*.{encoder_attn_layer_norm,fc1,fc2,final_layer_norm,self_attn_layer_norm}.{bias,weight}
? detr.bbox_predictor.layers.*.{bias,weight} detr.class_labels_classifier.{bias,weight}
? detr.model.backbone.conv_encoder.model.embedder.embedder.convolution.weight
? detr.model.backbone.conv_encoder.model.embedder.embedder.normalization.{bias,running_mean,running_var,weight}
? detr.model.backbone.conv_encoder.model.encoder.stages.*.layers.*.layer.*.convolution.weight
? detr.model.backbone.conv_encoder.model.encoder.stages.*.layers.*.layer.*.normalization.{bias,running_mean}
? detr.model.backbone.conv_encoder.model.encoder.stages.*.layers.*.layer.*.normalization.{running_var,weight}
? detr.model.backbone.conv_encoder.model.encoder.stages.*.layers.*.shortcut.convolution.weight
? detr.model.backbone.conv_encoder.model.encoder.stages.*.layers.*.shortcut.normalization.{bias,running_mean}
? detr.model.backbone.conv_encoder.model.encoder.stages.*.layers.*.shortcut.normalization.{running_var,weight}
? detr.model.decoder.layernorm.{bias,weight}
? detr.model.decoder.layers.*.{encoder_attn,self_attn}.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
? detr.model.decoder.layers.*.{encoder_attn_layer_norm,fc1,fc2,final_layer_norm,self_attn_layer_norm}.bias
? detr.model.decoder.layers.*.{encoder_attn_layer_norm,fc1,fc2,final_layer_norm,self_attn_layer_norm}.weight
? detr.model.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
? detr.model.encoder.layers.*.{fc1,fc2,final_layer_norm,self_attn_layer_norm}.{bias,weight}
? detr.model.input_projection.{bias,weight} detr.model.query_position_embeddings.weight
? encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
? encoder.layers.*.{fc1,fc2,final_layer_norm,self_attn_layer_norm}.{bias,weight}
? mask_head.{adapter1,adapter2,adapter3,gn1,gn2,gn3,gn4,gn5,lay1,lay2,lay3,lay4,lay5,out_lay}.{bias,weight}
? query_position_embeddings.weight {class_labels_classifier,input_projection}.{bias,weight}
~ backbone.model.embedder.embedder.convolution.weight
~ backbone.model.embedder.embedder.normalization.{bias,running_mean,running_var,weight}
~ backbone.model.encoder.stages.*.layers.*.layer.*.convolution.weight
~ backbone.model.encoder.stages.*.layers.*.layer.*.normalization.{bias,running_mean,running_var,weight}
~ backbone.model.encoder.stages.*.layers.*.shortcut.convolution.weight
~ backbone.model.encoder.stages.*.layers.*.shortcut.normalization.{bias,running_mean,running_var,weight}
~ bbox_attention.{k_proj,q_proj}.{bias,weight} bbox_predictor.layers.*.{bias,weight} decoder.layernorm.{bias,weight}
~ decoder.layers.*.{encoder_attn,self_attn}.{k_proj,o_proj,q_proj,v_proj}.{bias,weight}
~ decoder.layers.*.{encoder_attn_layer_norm,final_layer_norm,self_attn_layer_norm}.{bias,weight}
~ detr.bbox_predictor.layers.*.{bias,weight} detr.class_labels_classifier.{bias,weight}
~ detr.model.backbone.model.embedder.embedder.convolution.weight
~ detr.model.backbone.model.embedder.embedder.normalization.{bias,running_mean,running_var,weight}
~ detr.model.backbone.model.encoder.stages.*.layers.*.layer.*.convolution.weight
~ detr.model.backbone.model.encoder.stages.*.layers.*.layer.*.normalization.{bias,running_mean}
~ detr.model.backbone.model.encoder.stages.*.layers.*.layer.*.normalization.{running_var,weight}
~ detr.model.backbone.model.encoder.stages.*.layers.*.shortcut.convolution.weight
~ detr.model.backbone.model.encoder.stages.*.layers.*.shortcut.normalization.{bias,running_mean}
~ detr.model.backbone.model.encoder.stages.*.layers.*.shortcut.normalization.{running_var,weight}
~ detr.model.decoder.layernorm.{bias,weight}
~ detr.model.decoder.layers.*.{encoder_attn,self_attn}.{k_proj,o_proj,q_proj,v_proj}.{bias,weight}
~ detr.model.decoder.layers.*.{encoder_attn_layer_norm,final_layer_norm,self_attn_layer_norm}.{bias,weight}
~ detr.model.encoder.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.{bias,weight}
~ detr.model.encoder.layers.*.{final_layer_norm,self_attn_layer_norm}.{bias,weight}
~ detr.model.input_projection.{bias,weight} detr.model.query_position_embeddings.weight
~ detr.model.{decoder,encoder}.layers.*.mlp.{fc1,fc2}.{bias,weight}
~ encoder.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.{bias,weight}
~ encoder.layers.*.{final_layer_norm,self_attn_layer_norm}.{bias,weight}
~ mask_head.fpn_stages.*.fpn_adapter.{bias,weight} mask_head.fpn_stages.*.refine.{conv,norm}.{bias,weight}
~ mask_head.output_conv.{bias,weight} mask_head.{conv1,conv2}.{conv,norm}.{bias,weight}
~ query_position_embeddings.weight {class_labels_classifier,input_projection}.{bias,weight}
~ {decoder,encoder}.layers.*.mlp.{fc1,fc2}.{bias,weight}
dinov2 dinov2
+ embeddings.patch_embeddings.projection.{bias,weight} embeddings.{cls_token,mask_token,position_embeddings}
+ encoder.layer.*.attention.attention.{key,query,value}.{bias,weight}
+ encoder.layer.*.attention.output.dense.{bias,weight} encoder.layer.*.{layer_scale1,layer_scale2}.lambda1
+ encoder.layer.*.{norm1,norm2}.{bias,weight} layernorm.{bias,weight}
? classifier.{bias,weight} encoder.layer.*.mlp.{fc1,fc2,weights_in,weights_out}.{bias,weight}
= embeddings.patch_embeddings.projection.{bias,weight} embeddings.{cls_token,mask_token,position_embeddings}
= encoder.layer.*.attention.{k_proj,o_proj,q_proj,v_proj}.{bias,weight}
= encoder.layer.*.{layer_scale1,layer_scale2}.lambda1 encoder.layer.*.{norm1,norm2}.{bias,weight}
= layernorm.{bias,weight}
~ classifier.{bias,weight} encoder.layer.*.mlp.{down_proj,fc1,fc2,gate_proj,up_proj}.{bias,weight}
dinov2_with_registers dinov2_with_registers
+ embeddings.patch_embeddings.projection.{bias,weight}
+ embeddings.{cls_token,mask_token,position_embeddings,register_tokens}
+ encoder.layer.*.attention.attention.{key,query,value}.{bias,weight}
+ encoder.layer.*.attention.output.dense.{bias,weight} encoder.layer.*.mlp.{fc1,fc2}.{bias,weight}
+ encoder.layer.*.{layer_scale1,layer_scale2}.lambda1 encoder.layer.*.{norm1,norm2}.{bias,weight}
+ layernorm.{bias,weight}
? classifier.{bias,weight}
= embeddings.patch_embeddings.projection.{bias,weight}
= embeddings.{cls_token,mask_token,position_embeddings,register_tokens}
= encoder.layer.*.attention.{k_proj,o_proj,q_proj,v_proj}.{bias,weight} encoder.layer.*.mlp.{fc1,fc2}.{bias,weight}
= encoder.layer.*.{layer_scale1,layer_scale2}.lambda1 encoder.layer.*.{norm1,norm2}.{bias,weight}
= layernorm.{bias,weight}
~ classifier.{bias,weight}
dots1 model
+ layers.*.mlp.experts.*.{down_proj,gate_proj,up_proj}.weight layers.*.mlp.gate.{e_score_correction_bias,weight}
+ layers.*.mlp.shared_experts.{down_proj,gate_proj,up_proj}.weight layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
+ layers.*.self_attn.{k_norm,k_proj,o_proj,q_norm,q_proj,v_proj}.weight
+ layers.*.{input_layernorm,post_attention_layernorm}.weight {embed_tokens,norm}.weight
? lm_head.weight
= layers.*.mlp.experts.{down_proj,gate_up_proj} layers.*.mlp.gate.{e_score_correction_bias,weight}
= layers.*.mlp.shared_experts.{down_proj,gate_proj,up_proj}.weight layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
= layers.*.self_attn.{k_norm,k_proj,o_proj,q_norm,q_proj,v_proj}.weight
= layers.*.{input_layernorm,post_attention_layernorm}.weight {embed_tokens,norm}.weight
~ lm_head.weight
emu3 model
? layers.*.mlp.{down_proj,gate_proj,up_proj}.weight layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
? layers.*.{input_layernorm,post_attention_layernorm}.weight text_model.lm_head.weight
? text_model.model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
? text_model.model.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
? text_model.model.layers.*.{input_layernorm,post_attention_layernorm}.weight
? text_model.model.{embed_tokens,norm}.weight
? vqmodel.decoder.middle_block.attn_norm.{conv_b,conv_y,norm_layer}.{bias,weight}
? vqmodel.decoder.middle_block.{block_1,block_2}.{conv1,conv2}.{bias,weight}
? vqmodel.decoder.middle_block.{block_1,block_2}.{norm1,norm2}.{conv_b,conv_y,norm_layer}.{bias,weight}
? vqmodel.decoder.norm_out.{conv_b,conv_y,norm_layer}.{bias,weight}
? vqmodel.decoder.up_block.up.*.attn.*.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
? vqmodel.decoder.up_block.up.*.attn_norms.*.{conv_b,conv_y,norm_layer}.{bias,weight}
? vqmodel.decoder.up_block.up.*.block.*.{conv1,conv2}.{bias,weight}
? vqmodel.decoder.up_block.up.*.block.*.{norm1,norm2}.{conv_b,conv_y,norm_layer}.{bias,weight}
? vqmodel.decoder.up_block.up.*.upsample.conv.{bias,weight} vqmodel.decoder.{conv_in,conv_out}.{bias,weight}
? vqmodel.encoder.down_block.down.*.attn.*.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
? vqmodel.encoder.down_block.down.*.attn_norms.*.{bias,weight}
? vqmodel.encoder.down_block.down.*.block.*.{conv1,conv2,norm1,norm2}.{bias,weight}
? vqmodel.encoder.down_block.down.*.downsample.conv.{bias,weight} vqmodel.encoder.middle_block.attn_norm.{bias,weight}
? vqmodel.encoder.middle_block.{block_1,block_2}.{conv1,conv2,norm1,norm2}.{bias,weight}
? vqmodel.encoder.{conv_in,conv_out,norm_out}.{bias,weight} vqmodel.quantize.embedding.weight
? vqmodel.{decoder,encoder}.middle_block.attn_1.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
? vqmodel.{decoder,encoder}.time_res_stack.*.{conv1,conv2}.conv.{bias,weight}
? vqmodel.{decoder,encoder}.time_res_stack.*.{norm1,norm2}.{bias,num_batches_tracked}
? vqmodel.{decoder,encoder}.time_res_stack.*.{norm1,norm2}.{running_mean,running_var,weight}
? vqmodel.{post_quant_conv,quant_conv}.conv.{bias,weight} {embed_tokens,lm_head,norm}.weight
~ layers.*.mlp.{down_proj,gate_proj,up_proj}.weight layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
~ layers.*.{input_layernorm,post_attention_layernorm}.weight
~ text_model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
~ text_model.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
~ text_model.layers.*.{input_layernorm,post_attention_layernorm}.weight text_model.{embed_tokens,norm}.weight
~ vqmodel.decoder.middle_block.attn_norm.{conv_b,conv_y,norm_layer}.{bias,weight}
~ vqmodel.decoder.middle_block.{block_1,block_2}.{conv1,conv2}.{bias,weight}
~ vqmodel.decoder.middle_block.{block_1,block_2}.{norm1,norm2}.{conv_b,conv_y,norm_layer}.{bias,weight}
~ vqmodel.decoder.norm_out.{conv_b,conv_y,norm_layer}.{bias,weight}
~ vqmodel.decoder.up_block.up.*.attn.*.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
~ vqmodel.decoder.up_block.up.*.attn_norms.*.{conv_b,conv_y,norm_layer}.{bias,weight}
~ vqmodel.decoder.up_block.up.*.block.*.{conv1,conv2}.{bias,weight}
~ vqmodel.decoder.up_block.up.*.block.*.{norm1,norm2}.{conv_b,conv_y,norm_layer}.{bias,weight}
~ vqmodel.decoder.up_block.up.*.upsample.conv.{bias,weight} vqmodel.decoder.{conv_in,conv_out}.{bias,weight}
~ vqmodel.encoder.down_block.down.*.attn.*.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
~ vqmodel.encoder.down_block.down.*.attn_norms.*.{bias,weight}
~ vqmodel.encoder.down_block.down.*.block.*.{conv1,conv2,norm1,norm2}.{bias,weight}
~ vqmodel.encoder.down_block.down.*.downsample.conv.{bias,weight} vqmodel.encoder.middle_block.attn_norm.{bias,weight}
~ vqmodel.encoder.middle_block.{block_1,block_2}.{conv1,conv2,norm1,norm2}.{bias,weight}
~ vqmodel.encoder.{conv_in,conv_out,norm_out}.{bias,weight} vqmodel.quantize.embedding.weight
~ vqmodel.{decoder,encoder}.middle_block.attn_1.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
~ vqmodel.{decoder,encoder}.time_res_stack.*.{conv1,conv2}.conv.{bias,weight}
~ vqmodel.{decoder,encoder}.time_res_stack.*.{norm1,norm2}.{bias,num_batches_tracked}
~ vqmodel.{decoder,encoder}.time_res_stack.*.{norm1,norm2}.{running_mean,running_var,weight}
~ vqmodel.{post_quant_conv,quant_conv}.conv.{bias,weight} {embed_tokens,lm_head,norm}.weight
emu3_text_model model
+ layers.*.mlp.{down_proj,gate_proj,up_proj}.weight layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
+ layers.*.{input_layernorm,post_attention_layernorm}.weight {embed_tokens,norm}.weight
? lm_head.weight
ernie4_5_moe model
+ layers.*.mlp.experts.*.{down_proj,gate_proj,up_proj}.weight layers.*.mlp.moe_statics.e_score_correction_bias
+ layers.*.mlp.shared_experts.{down_proj,gate_proj,up_proj}.weight
+ layers.*.mlp.{down_proj,gate,gate_proj,up_proj}.weight layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
+ layers.*.{input_layernorm,post_attention_layernorm}.weight {embed_tokens,norm}.weight
? layers.*.mlp.experts.*.{down_proj,gate_proj,up_proj}.bias
? layers.*.mlp.shared_experts.{down_proj,gate_proj,up_proj}.bias layers.*.mlp.{down_proj,gate_proj,up_proj}.bias
? layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.bias lm_head.{bias,weight}
= layers.*.mlp.experts.{down_proj,gate_up_proj} layers.*.mlp.gate.moe_statics.e_score_correction_bias
= layers.*.mlp.shared_experts.{down_proj,gate_proj,up_proj}.weight
= layers.*.mlp.{down_proj,gate,gate_proj,up_proj}.weight layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
= layers.*.{input_layernorm,post_attention_layernorm}.weight {embed_tokens,norm}.weight
~ layers.*.mlp.shared_experts.{down_proj,gate_proj,up_proj}.bias layers.*.mlp.{down_proj,gate_proj,up_proj}.bias
~ layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.bias lm_head.{bias,weight}
fuyu model
+ language_model.model.embed_tokens.weight language_model.model.final_layernorm.{bias,weight}
+ language_model.model.layers.*.mlp.{dense_4h_to_h,dense_h_to_4h}.{bias,weight}
+ language_model.model.layers.*.self_attn.{dense,k_layernorm,q_layernorm,query_key_value}.{bias,weight}
+ language_model.model.layers.*.{input_layernorm,post_attention_layernorm}.{bias,weight}
+ vision_embed_tokens.{bias,weight}
? language_model.lm_head.weight
= language_model.embed_tokens.weight language_model.final_layernorm.{bias,weight}
= language_model.layers.*.mlp.{dense_4h_to_h,dense_h_to_4h}.{bias,weight}
= language_model.layers.*.self_attn.{dense,k_layernorm,q_layernorm,query_key_value}.{bias,weight}
= language_model.layers.*.{input_layernorm,post_attention_layernorm}.{bias,weight} vision_embed_tokens.{bias,weight}
~ lm_head.weight
gemma model
+ layers.*.mlp.{down_proj,gate_proj,up_proj}.weight layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
+ layers.*.{input_layernorm,post_attention_layernorm}.weight {embed_tokens,norm}.weight
? lm_head.weight
gemma2 model
+ layers.*.mlp.{down_proj,gate_proj,up_proj}.weight layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
+ layers.*.{input_layernorm,post_attention_layernorm}.weight
+ layers.*.{post_feedforward_layernorm,pre_feedforward_layernorm}.weight {embed_tokens,norm}.weight
? lm_head.weight
gemma3 model
+ language_model.model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
+ language_model.model.layers.*.self_attn.{k_norm,k_proj,o_proj,q_norm,q_proj,v_proj}.weight
+ language_model.model.layers.*.{input_layernorm,post_attention_layernorm}.weight
+ language_model.model.layers.*.{post_feedforward_layernorm,pre_feedforward_layernorm}.weight
+ language_model.model.{embed_tokens,norm}.weight multi_modal_projector.mm_input_projection_weight
+ multi_modal_projector.mm_soft_emb_norm.weight vision_tower.vision_model.embeddings.patch_embedding.{bias,weight}
+ vision_tower.vision_model.embeddings.position_embedding.weight
+ vision_tower.vision_model.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
+ vision_tower.vision_model.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
+ vision_tower.vision_model.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight}
+ vision_tower.vision_model.post_layernorm.{bias,weight}
? language_model.lm_head.weight score.weight vision_tower.vision_model.head.attention.out_proj.{bias,weight}
? vision_tower.vision_model.head.attention.{in_proj_bias,in_proj_weight}
? vision_tower.vision_model.head.layernorm.{bias,weight} vision_tower.vision_model.head.mlp.{fc1,fc2}.{bias,weight}
? vision_tower.vision_model.head.probe
= language_model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
= language_model.layers.*.self_attn.{k_norm,k_proj,o_proj,q_norm,q_proj,v_proj}.weight
= language_model.layers.*.{input_layernorm,post_attention_layernorm}.weight
= language_model.layers.*.{post_feedforward_layernorm,pre_feedforward_layernorm}.weight
= language_model.{embed_tokens,norm}.weight multi_modal_projector.mm_input_projection_weight
= multi_modal_projector.mm_soft_emb_norm.weight vision_tower.embeddings.patch_embedding.{bias,weight}
= vision_tower.embeddings.position_embedding.weight vision_tower.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
= vision_tower.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
= vision_tower.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight} vision_tower.post_layernorm.{bias,weight}
~ vision_tower.head.attention.out_proj.{bias,weight} vision_tower.head.attention.{in_proj_bias,in_proj_weight}
~ vision_tower.head.layernorm.{bias,weight} vision_tower.head.mlp.{fc1,fc2}.{bias,weight} vision_tower.head.probe
~ {lm_head,score}.weight
gemma3_text model
+ layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
+ layers.*.self_attn.{k_norm,k_proj,o_proj,q_norm,q_proj,v_proj}.weight
+ layers.*.{input_layernorm,post_attention_layernorm}.weight
+ layers.*.{post_feedforward_layernorm,pre_feedforward_layernorm}.weight {embed_tokens,norm}.weight
? lm_head.weight
got_ocr2 model
+ language_model.model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
+ language_model.model.layers.*.self_attn.o_proj.weight
+ language_model.model.layers.*.self_attn.{k_proj,q_proj,v_proj}.{bias,weight}
+ language_model.model.layers.*.{input_layernorm,post_attention_layernorm}.weight
+ language_model.model.{embed_tokens,norm}.weight multi_modal_projector.multimodal_projector.{bias,weight}
+ multi_modal_projector.{conv_upsampler1,conv_upsampler2}.weight vision_tower.layers.*.attn.{proj,qkv}.{bias,weight}
+ vision_tower.layers.*.attn.{rel_pos_h,rel_pos_w} vision_tower.layers.*.mlp.{lin1,lin2}.{bias,weight}
+ vision_tower.layers.*.{layer_norm1,layer_norm2}.{bias,weight} vision_tower.neck.{conv1,conv2}.weight
+ vision_tower.neck.{layer_norm1,layer_norm2}.{bias,weight} vision_tower.patch_embed.projection.{bias,weight}
+ vision_tower.pos_embed
? language_model.lm_head.weight
= language_model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight language_model.layers.*.self_attn.o_proj.weight
= language_model.layers.*.self_attn.{k_proj,q_proj,v_proj}.{bias,weight}
= language_model.layers.*.{input_layernorm,post_attention_layernorm}.weight language_model.{embed_tokens,norm}.weight
= multi_modal_projector.multimodal_projector.{bias,weight}
= multi_modal_projector.{conv_upsampler1,conv_upsampler2}.weight vision_tower.layers.*.attn.{proj,qkv}.{bias,weight}
= vision_tower.layers.*.attn.{rel_pos_h,rel_pos_w} vision_tower.layers.*.mlp.{lin1,lin2}.{bias,weight}
= vision_tower.layers.*.{layer_norm1,layer_norm2}.{bias,weight} vision_tower.neck.{conv1,conv2}.weight
= vision_tower.neck.{layer_norm1,layer_norm2}.{bias,weight} vision_tower.patch_embed.projection.{bias,weight}
= vision_tower.pos_embed
~ lm_head.weight
gpt2 transformer
+ h.*.attn.{c_attn,c_proj}.{bias,weight} h.*.mlp.{c_fc,c_proj}.{bias,weight} h.*.{ln_1,ln_2}.{bias,weight}
+ ln_f.{bias,weight} {wpe,wte}.weight
? lm_head.weight
granite model
+ layers.*.mlp.{down_proj,gate_proj,up_proj}.weight layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
+ layers.*.{input_layernorm,post_attention_layernorm}.weight {embed_tokens,norm}.weight
? lm_head.weight
granitemoe model
+ layers.*.block_sparse_moe.router.layer.weight layers.*.block_sparse_moe.{input_linear,output_linear}.weight
+ layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight layers.*.{input_layernorm,post_attention_layernorm}.weight
+ {embed_tokens,norm}.weight
? lm_head.weight
= layers.*.block_sparse_moe.experts.{down_proj,gate_up_proj} layers.*.block_sparse_moe.router.weight
= layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight layers.*.{input_layernorm,post_attention_layernorm}.weight
= {embed_tokens,norm}.weight
~ lm_head.weight
internvl model
+ language_model.model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
+ language_model.model.layers.*.self_attn.o_proj.weight
+ language_model.model.layers.*.self_attn.{k_proj,q_proj,v_proj}.{bias,weight}
+ language_model.model.layers.*.{input_layernorm,post_attention_layernorm}.weight
+ language_model.model.{embed_tokens,norm}.weight multi_modal_projector.{layer_norm,linear_1,linear_2}.{bias,weight}
+ vision_tower.embeddings.patch_embeddings.projection.{bias,weight}
+ vision_tower.embeddings.{cls_token,position_embeddings}
+ vision_tower.encoder.layer.*.attention.projection_layer.{bias,weight}
+ vision_tower.encoder.layer.*.attention.{k_proj,q_proj,v_proj}.weight
+ vision_tower.encoder.layer.*.mlp.{fc1,fc2}.{bias,weight} vision_tower.encoder.layer.*.{lambda_1,lambda_2}
+ vision_tower.encoder.layer.*.{layernorm_after,layernorm_before}.{bias,weight}
? language_model.lm_head.weight vision_tower.encoder.layer.*.attention.{k_norm,q_norm}.weight
? vision_tower.encoder.layer.*.attention.{k_proj,q_proj,v_proj}.bias
= language_model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight language_model.layers.*.self_attn.o_proj.weight
= language_model.layers.*.self_attn.{k_proj,q_proj,v_proj}.{bias,weight}
= language_model.layers.*.{input_layernorm,post_attention_layernorm}.weight language_model.{embed_tokens,norm}.weight
= multi_modal_projector.{layer_norm,linear_1,linear_2}.{bias,weight}
= vision_tower.embeddings.patch_embeddings.projection.{bias,weight}
= vision_tower.embeddings.{cls_token,position_embeddings}
= vision_tower.encoder.layer.*.attention.projection_layer.{bias,weight}
= vision_tower.encoder.layer.*.attention.{k_proj,q_proj,v_proj}.weight
= vision_tower.encoder.layer.*.mlp.{fc1,fc2}.{bias,weight} vision_tower.encoder.layer.*.{lambda_1,lambda_2}
= vision_tower.encoder.layer.*.{layernorm_after,layernorm_before}.{bias,weight}
~ lm_head.weight vision_tower.encoder.layer.*.attention.{k_norm,q_norm}.weight
~ vision_tower.encoder.layer.*.attention.{k_proj,q_proj,v_proj}.bias
jetmoe model
+ layers.*.mlp.bias layers.*.mlp.router.layer.weight layers.*.mlp.{input_linear,output_linear}.weight
+ layers.*.self_attention.experts.bias layers.*.self_attention.experts.router.layer.weight
+ layers.*.self_attention.experts.{input_linear,output_linear}.weight layers.*.self_attention.kv_proj.weight
+ layers.*.{input_layernorm,post_attention_layernorm}.weight {embed_tokens,norm}.weight
? lm_head.weight
llama model
+ layers.*.mlp.{down_proj,gate_proj,up_proj}.weight layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
+ layers.*.{input_layernorm,post_attention_layernorm}.weight {embed_tokens,norm}.weight
? lm_head.weight
llava model
+ language_model.model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
+ language_model.model.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
+ language_model.model.layers.*.{input_layernorm,post_attention_layernorm}.weight
+ language_model.model.{embed_tokens,norm}.weight multi_modal_projector.{linear_1,linear_2}.{bias,weight}
+ vision_tower.vision_model.embeddings.{patch_embedding,position_embedding}.weight
+ vision_tower.vision_model.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
+ vision_tower.vision_model.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
+ vision_tower.vision_model.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight}
+ vision_tower.vision_model.post_layernorm.{bias,weight}
? language_model.lm_head.weight vision_tower.vision_model.embeddings.class_embedding
? vision_tower.vision_model.embeddings.patch_embedding.bias
? vision_tower.vision_model.head.attention.out_proj.{bias,weight}
? vision_tower.vision_model.head.attention.{in_proj_bias,in_proj_weight}
? vision_tower.vision_model.head.layernorm.{bias,weight} vision_tower.vision_model.head.mlp.{fc1,fc2}.{bias,weight}
? vision_tower.vision_model.head.probe vision_tower.vision_model.pre_layrnorm.{bias,weight}
= language_model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
= language_model.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
= language_model.layers.*.{input_layernorm,post_attention_layernorm}.weight language_model.{embed_tokens,norm}.weight
= multi_modal_projector.{linear_1,linear_2}.{bias,weight}
= vision_tower.embeddings.{patch_embedding,position_embedding}.weight
= vision_tower.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
= vision_tower.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
= vision_tower.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight} vision_tower.post_layernorm.{bias,weight}
~ lm_head.weight vision_tower.embeddings.class_embedding vision_tower.embeddings.patch_embedding.bias
~ vision_tower.head.attention.out_proj.{bias,weight} vision_tower.head.attention.{in_proj_bias,in_proj_weight}
~ vision_tower.head.layernorm.{bias,weight} vision_tower.head.mlp.{fc1,fc2}.{bias,weight} vision_tower.head.probe
~ vision_tower.pre_layrnorm.{bias,weight}
llava_next model
+ image_newline language_model.model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
+ language_model.model.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
+ language_model.model.layers.*.{input_layernorm,post_attention_layernorm}.weight
+ language_model.model.{embed_tokens,norm}.weight multi_modal_projector.{linear_1,linear_2}.{bias,weight}
+ vision_tower.vision_model.embeddings.class_embedding
+ vision_tower.vision_model.embeddings.{patch_embedding,position_embedding}.weight
+ vision_tower.vision_model.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
+ vision_tower.vision_model.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
+ vision_tower.vision_model.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight}
+ vision_tower.vision_model.{post_layernorm,pre_layrnorm}.{bias,weight}
? language_model.lm_head.weight
= image_newline language_model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
= language_model.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
= language_model.layers.*.{input_layernorm,post_attention_layernorm}.weight language_model.{embed_tokens,norm}.weight
= multi_modal_projector.{linear_1,linear_2}.{bias,weight} vision_tower.embeddings.class_embedding
= vision_tower.embeddings.{patch_embedding,position_embedding}.weight
= vision_tower.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
= vision_tower.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
= vision_tower.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight}
= vision_tower.{post_layernorm,pre_layrnorm}.{bias,weight}
~ lm_head.weight
llava_next_video model
+ image_newline language_model.model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
+ language_model.model.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
+ language_model.model.layers.*.{input_layernorm,post_attention_layernorm}.weight
+ language_model.model.{embed_tokens,norm}.weight multi_modal_projector.{linear_1,linear_2}.{bias,weight}
+ vision_tower.vision_model.embeddings.class_embedding
+ vision_tower.vision_model.embeddings.{patch_embedding,position_embedding}.weight
+ vision_tower.vision_model.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
+ vision_tower.vision_model.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
+ vision_tower.vision_model.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight}
+ vision_tower.vision_model.{post_layernorm,pre_layrnorm}.{bias,weight}
? language_model.lm_head.weight
= image_newline language_model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
= language_model.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
= language_model.layers.*.{input_layernorm,post_attention_layernorm}.weight language_model.{embed_tokens,norm}.weight
= multi_modal_projector.{linear_1,linear_2}.{bias,weight} vision_tower.embeddings.class_embedding
= vision_tower.embeddings.{patch_embedding,position_embedding}.weight
= vision_tower.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
= vision_tower.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
= vision_tower.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight}
= vision_tower.{post_layernorm,pre_layrnorm}.{bias,weight}
~ lm_head.weight
llava_onevision model
+ image_newline language_model.model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
+ language_model.model.layers.*.self_attn.o_proj.weight
+ language_model.model.layers.*.self_attn.{k_proj,q_proj,v_proj}.{bias,weight}
+ language_model.model.layers.*.{input_layernorm,post_attention_layernorm}.weight
+ language_model.model.{embed_tokens,norm}.weight multi_modal_projector.{linear_1,linear_2}.{bias,weight}
+ vision_tower.vision_model.embeddings.patch_embedding.{bias,weight}
+ vision_tower.vision_model.embeddings.position_embedding.weight
+ vision_tower.vision_model.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
+ vision_tower.vision_model.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
+ vision_tower.vision_model.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight}
+ vision_tower.vision_model.post_layernorm.{bias,weight}
? language_model.lm_head.weight vision_tower.vision_model.head.attention.out_proj.{bias,weight}
? vision_tower.vision_model.head.attention.{in_proj_bias,in_proj_weight}
? vision_tower.vision_model.head.layernorm.{bias,weight} vision_tower.vision_model.head.mlp.{fc1,fc2}.{bias,weight}
? vision_tower.vision_model.head.probe
= image_newline language_model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
= language_model.layers.*.self_attn.o_proj.weight
= language_model.layers.*.self_attn.{k_proj,q_proj,v_proj}.{bias,weight}
= language_model.layers.*.{input_layernorm,post_attention_layernorm}.weight language_model.{embed_tokens,norm}.weight
= multi_modal_projector.{linear_1,linear_2}.{bias,weight} vision_tower.embeddings.patch_embedding.{bias,weight}
= vision_tower.embeddings.position_embedding.weight vision_tower.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
= vision_tower.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
= vision_tower.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight} vision_tower.post_layernorm.{bias,weight}
~ lm_head.weight vision_tower.head.attention.out_proj.{bias,weight}
~ vision_tower.head.attention.{in_proj_bias,in_proj_weight} vision_tower.head.layernorm.{bias,weight}
~ vision_tower.head.mlp.{fc1,fc2}.{bias,weight} vision_tower.head.probe
mask2former model
+ pixel_level_module.decoder.encoder.layers.*.self_attn.{attention_weights,output_proj}.bias
+ pixel_level_module.decoder.encoder.layers.*.self_attn.{sampling_offsets,value_proj}.bias
+ pixel_level_module.decoder.encoder.layers.*.self_attn.{attention_weights,output_proj}.weight
+ pixel_level_module.decoder.encoder.layers.*.self_attn.{sampling_offsets,value_proj}.weight
+ pixel_level_module.decoder.encoder.layers.*.{fc1,fc2,final_layer_norm,self_attn_layer_norm}.{bias,weight}
+ pixel_level_module.decoder.input_projections.*.*.{bias,weight} pixel_level_module.decoder.level_embed
+ pixel_level_module.decoder.mask_projection.{bias,weight}
+ pixel_level_module.decoder.{adapter_1,layer_1}.*.{bias,weight}
+ pixel_level_module.encoder.embeddings.norm.{bias,weight}
+ pixel_level_module.encoder.embeddings.patch_embeddings.projection.{bias,weight}
+ pixel_level_module.encoder.encoder.layers.*.blocks.*.attention.output.dense.{bias,weight}
+ pixel_level_module.encoder.encoder.layers.*.blocks.*.attention.self.relative_position_bias_table
+ pixel_level_module.encoder.encoder.layers.*.blocks.*.attention.self.{key,query,value}.{bias,weight}
+ pixel_level_module.encoder.encoder.layers.*.blocks.*.{intermediate,output}.dense.{bias,weight}
+ pixel_level_module.encoder.encoder.layers.*.blocks.*.{layernorm_after,layernorm_before}.{bias,weight}
+ pixel_level_module.encoder.encoder.layers.*.downsample.norm.{bias,weight}
+ pixel_level_module.encoder.encoder.layers.*.downsample.reduction.weight
+ pixel_level_module.encoder.hidden_states_norms.{stage1,stage2,stage3,stage4}.{bias,weight}
+ transformer_module.decoder.layernorm.{bias,weight}
+ transformer_module.decoder.layers.*.cross_attn.out_proj.{bias,weight}
+ transformer_module.decoder.layers.*.cross_attn.{in_proj_bias,in_proj_weight}
+ transformer_module.decoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
+ transformer_module.decoder.layers.*.{cross_attn_layer_norm,fc1,fc2,final_layer_norm,self_attn_layer_norm}.bias
+ transformer_module.decoder.layers.*.{cross_attn_layer_norm,fc1}.weight
+ transformer_module.decoder.layers.*.{fc2,final_layer_norm,self_attn_layer_norm}.weight
+ transformer_module.decoder.mask_predictor.mask_embedder.*.*.{bias,weight}
+ transformer_module.{level_embed,queries_embedder,queries_features}.weight
? pixel_level_module.encoder.encoder.layers.*.blocks.*.attention.self.relative_position_index
? pixel_level_module.encoder.swin.layernorm.{bias,weight}
= pixel_level_module.decoder.encoder.layers.*.self_attn.{attention_weights,output_proj}.bias
= pixel_level_module.decoder.encoder.layers.*.self_attn.{sampling_offsets,value_proj}.bias
= pixel_level_module.decoder.encoder.layers.*.self_attn.{attention_weights,output_proj}.weight
= pixel_level_module.decoder.encoder.layers.*.self_attn.{sampling_offsets,value_proj}.weight
= pixel_level_module.decoder.encoder.layers.*.{fc1,fc2,final_layer_norm,self_attn_layer_norm}.{bias,weight}
= pixel_level_module.decoder.input_projections.*.*.{bias,weight} pixel_level_module.decoder.level_embed
= pixel_level_module.decoder.mask_projection.{bias,weight}
= pixel_level_module.decoder.{adapter_1,layer_1}.*.{bias,weight}
= pixel_level_module.encoder.hidden_states_norms.{stage1,stage2,stage3,stage4}.{bias,weight}
= pixel_level_module.encoder.swin.embeddings.norm.{bias,weight}
= pixel_level_module.encoder.swin.embeddings.patch_embeddings.projection.{bias,weight}
= pixel_level_module.encoder.swin.encoder.layers.*.blocks.*.attention.relative_position_bias.relative_position_bias_table
= pixel_level_module.encoder.swin.encoder.layers.*.blocks.*.attention.{k_proj,o_proj,q_proj,v_proj}.bias
= pixel_level_module.encoder.swin.encoder.layers.*.blocks.*.attention.{k_proj,o_proj,q_proj,v_proj}.weight
= pixel_level_module.encoder.swin.encoder.layers.*.blocks.*.mlp.{fc1,fc2}.{bias,weight}
= pixel_level_module.encoder.swin.encoder.layers.*.blocks.*.{layernorm_after,layernorm_before}.{bias,weight}
= pixel_level_module.encoder.swin.encoder.layers.*.downsample.norm.{bias,weight}
= pixel_level_module.encoder.swin.encoder.layers.*.downsample.reduction.weight
= transformer_module.decoder.layernorm.{bias,weight}
= transformer_module.decoder.layers.*.cross_attn.out_proj.{bias,weight}
= transformer_module.decoder.layers.*.cross_attn.{in_proj_bias,in_proj_weight}
= transformer_module.decoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
= transformer_module.decoder.layers.*.{cross_attn_layer_norm,fc1,fc2,final_layer_norm,self_attn_layer_norm}.bias
= transformer_module.decoder.layers.*.{cross_attn_layer_norm,fc1}.weight
= transformer_module.decoder.layers.*.{fc2,final_layer_norm,self_attn_layer_norm}.weight
= transformer_module.decoder.mask_predictor.mask_embedder.*.*.{bias,weight}
= transformer_module.{level_embed,queries_embedder,queries_features}.weight
~ pixel_level_module.encoder.swin.layernorm.{bias,weight}
maskformer model
+ pixel_level_module.decoder.fpn.layers.*.{block,proj}.*.{bias,weight}
+ pixel_level_module.decoder.fpn.stem.*.{bias,weight} pixel_level_module.decoder.mask_projection.{bias,weight}
+ pixel_level_module.encoder.hidden_states_norms.*.{bias,weight}
+ pixel_level_module.encoder.model.embeddings.norm.{bias,weight}
+ pixel_level_module.encoder.model.embeddings.patch_embeddings.projection.{bias,weight}
+ pixel_level_module.encoder.model.encoder.layers.*.blocks.*.attention.output.dense.{bias,weight}
+ pixel_level_module.encoder.model.encoder.layers.*.blocks.*.attention.self.{key,query,value}.{bias,weight}
+ pixel_level_module.encoder.model.encoder.layers.*.blocks.*.attention.self.relative_position_bias_table
+ pixel_level_module.encoder.model.encoder.layers.*.blocks.*.attention.self.relative_position_index
+ pixel_level_module.encoder.model.encoder.layers.*.blocks.*.{intermediate,output}.dense.{bias,weight}
+ pixel_level_module.encoder.model.encoder.layers.*.blocks.*.{layernorm_after,layernorm_before}.{bias,weight}
+ pixel_level_module.encoder.model.encoder.layers.*.downsample.norm.{bias,weight}
+ pixel_level_module.encoder.model.encoder.layers.*.downsample.reduction.weight
+ pixel_level_module.encoder.model.layernorm.{bias,weight} transformer_module.decoder.layernorm.{bias,weight}
+ transformer_module.decoder.layers.*.{encoder_attn,self_attn}.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
+ transformer_module.decoder.layers.*.{encoder_attn_layer_norm,fc1}.bias
+ transformer_module.decoder.layers.*.{fc2,final_layer_norm,self_attn_layer_norm}.bias
+ transformer_module.decoder.layers.*.{encoder_attn_layer_norm,fc1}.weight
+ transformer_module.decoder.layers.*.{fc2,final_layer_norm,self_attn_layer_norm}.weight
+ transformer_module.input_projection.{bias,weight} transformer_module.queries_embedder.weight
? class_predictor.{bias,weight} criterion.empty_weight mask_embedder.*.*.{bias,weight}
= pixel_level_module.decoder.fpn.layers.*.{block,proj}.*.{bias,weight}
= pixel_level_module.decoder.fpn.stem.*.{bias,weight} pixel_level_module.decoder.mask_projection.{bias,weight}
= pixel_level_module.encoder.hidden_states_norms.*.{bias,weight}
= pixel_level_module.encoder.model.embeddings.norm.{bias,weight}
= pixel_level_module.encoder.model.embeddings.patch_embeddings.projection.{bias,weight}
= pixel_level_module.encoder.model.encoder.layers.*.blocks.*.attention.output.dense.{bias,weight}
= pixel_level_module.encoder.model.encoder.layers.*.blocks.*.attention.self.{key,query,value}.{bias,weight}
= pixel_level_module.encoder.model.encoder.layers.*.blocks.*.attention.self.relative_position_bias_table
= pixel_level_module.encoder.model.encoder.layers.*.blocks.*.attention.self.relative_position_index
= pixel_level_module.encoder.model.encoder.layers.*.blocks.*.{intermediate,output}.dense.{bias,weight}
= pixel_level_module.encoder.model.encoder.layers.*.blocks.*.{layernorm_after,layernorm_before}.{bias,weight}
= pixel_level_module.encoder.model.encoder.layers.*.downsample.norm.{bias,weight}
= pixel_level_module.encoder.model.encoder.layers.*.downsample.reduction.weight
= pixel_level_module.encoder.model.layernorm.{bias,weight} transformer_module.decoder.layernorm.{bias,weight}
= transformer_module.decoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
= transformer_module.decoder.layers.*.{encoder_attn,self_attn}.{k_proj,o_proj,q_proj,v_proj}.{bias,weight}
= transformer_module.decoder.layers.*.{encoder_attn_layer_norm,final_layer_norm,self_attn_layer_norm}.bias
= transformer_module.decoder.layers.*.{encoder_attn_layer_norm,final_layer_norm,self_attn_layer_norm}.weight
= transformer_module.input_projection.{bias,weight} transformer_module.queries_embedder.weight
~ class_predictor.{bias,weight} criterion.empty_weight mask_embedder.*.*.{bias,weight}
metaclip_2 metaclip_2
+ vision_model.embeddings.class_embedding vision_model.embeddings.{patch_embedding,position_embedding}.weight
+ vision_model.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
+ vision_model.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
+ vision_model.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight}
+ vision_model.{post_layernorm,pre_layrnorm}.{bias,weight}
? classifier.{bias,weight} logit_scale text_model.embeddings.{position_embedding,token_embedding}.weight
? text_model.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
? text_model.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
? text_model.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight} text_model.final_layer_norm.{bias,weight}
? {text_projection,visual_projection}.weight
metaclip_2_text_model
+ text_model.embeddings.{position_embedding,token_embedding}.weight
+ text_model.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
+ text_model.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
+ text_model.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight} text_model.final_layer_norm.{bias,weight}
? text_projection.weight
~ embeddings.{position_embedding,token_embedding}.weight encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
~ encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
~ encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight} final_layer_norm.{bias,weight}
~ text_model.embeddings.{position_embedding,token_embedding}.weight
~ text_model.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
~ text_model.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
~ text_model.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight} text_model.final_layer_norm.{bias,weight}
~ text_projection.weight
metaclip_2_vision_model
+ vision_model.embeddings.class_embedding vision_model.embeddings.{patch_embedding,position_embedding}.weight
+ vision_model.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
+ vision_model.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
+ vision_model.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight}
+ vision_model.{post_layernorm,pre_layrnorm}.{bias,weight}
? visual_projection.weight
~ embeddings.class_embedding embeddings.{patch_embedding,position_embedding}.weight
~ encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
~ encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
~ encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight} vision_model.embeddings.class_embedding
~ vision_model.embeddings.{patch_embedding,position_embedding}.weight
~ vision_model.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
~ vision_model.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
~ vision_model.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight}
~ vision_model.{post_layernorm,pre_layrnorm}.{bias,weight} visual_projection.weight
~ {post_layernorm,pre_layrnorm}.{bias,weight}
mimi mimi
+ quantizer.acoustic_residual_vector_quantizer.layers.*.codebook.cluster_usage
+ quantizer.semantic_residual_vector_quantizer.layers.*.codebook.cluster_usage
+ quantizer.{acoustic_residual_vector_quantizer,semantic_residual_vector_quantizer}.layers.*.codebook.embed_sum
+ quantizer.acoustic_residual_vector_quantizer.layers.*.codebook.initialized
+ quantizer.semantic_residual_vector_quantizer.layers.*.codebook.initialized
+ quantizer.{acoustic_residual_vector_quantizer,semantic_residual_vector_quantizer}.input_proj.weight
+ quantizer.{acoustic_residual_vector_quantizer,semantic_residual_vector_quantizer}.output_proj.weight
+ {decoder,encoder}.layers.*.block.*.conv.{bias,weight} {decoder,encoder}.layers.*.conv.{bias,weight}
+ {decoder_transformer,encoder_transformer}.layers.*.mlp.{fc1,fc2}.weight
+ {decoder_transformer,encoder_transformer}.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
+ {decoder_transformer,encoder_transformer}.layers.*.{input_layernorm,post_attention_layernorm}.{bias,weight}
+ {decoder_transformer,encoder_transformer}.layers.*.{mlp_layer_scale,self_attn_layer_scale}.scale
+ {downsample,upsample}.conv.weight
= decoder.decoder_seanet.layers.*.block.*.conv.{bias,weight} decoder.decoder_seanet.layers.*.conv.{bias,weight}
= decoder.decoder_transformer.layers.*.mlp.{fc1,fc2}.weight
= decoder.decoder_transformer.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
= decoder.decoder_transformer.layers.*.{input_layernorm,post_attention_layernorm}.{bias,weight}
= decoder.decoder_transformer.layers.*.{mlp_layer_scale,self_attn_layer_scale}.scale decoder.upsample.conv.weight
= encoder.downsample.conv.weight encoder.encoder_seanet.layers.*.block.*.conv.{bias,weight}
= encoder.encoder_seanet.layers.*.conv.{bias,weight} encoder.encoder_transformer.layers.*.mlp.{fc1,fc2}.weight
= encoder.encoder_transformer.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
= encoder.encoder_transformer.layers.*.{input_layernorm,post_attention_layernorm}.{bias,weight}
= encoder.encoder_transformer.layers.*.{mlp_layer_scale,self_attn_layer_scale}.scale
= quantizer.acoustic_residual_vector_quantizer.layers.*.codebook.cluster_usage
= quantizer.semantic_residual_vector_quantizer.layers.*.codebook.cluster_usage
= quantizer.{acoustic_residual_vector_quantizer,semantic_residual_vector_quantizer}.layers.*.codebook.embed_sum
= quantizer.acoustic_residual_vector_quantizer.layers.*.codebook.initialized
= quantizer.semantic_residual_vector_quantizer.layers.*.codebook.initialized
= quantizer.{acoustic_residual_vector_quantizer,semantic_residual_vector_quantizer}.input_proj.weight
= quantizer.{acoustic_residual_vector_quantizer,semantic_residual_vector_quantizer}.output_proj.weight
minimax model
+ layers.*.block_sparse_moe.experts.*.{w1,w2,w3}.weight layers.*.block_sparse_moe.gate.weight
+ layers.*.self_attn.{diagonal_decay,key_decay,query_decay,slope_rate}
+ layers.*.self_attn.{k_proj,norm,o_proj,out_proj,output_gate,q_proj,qkv_proj,v_proj}.weight
+ layers.*.{input_layernorm,post_attention_layernorm}.weight {embed_tokens,norm}.weight
? lm_head.weight
= layers.*.mlp.experts.{down_proj,gate_up_proj} layers.*.mlp.gate.weight
= layers.*.self_attn.{diagonal_decay,key_decay,query_decay,slope_rate}
= layers.*.self_attn.{k_proj,norm,o_proj,out_proj,output_gate,q_proj,qkv_proj,v_proj}.weight
= layers.*.{input_layernorm,post_attention_layernorm}.weight {embed_tokens,norm}.weight
~ lm_head.weight
minimax_m2 model
+ layers.*.block_sparse_moe.e_score_correction_bias layers.*.block_sparse_moe.experts.*.{w1,w2,w3}.weight
+ layers.*.block_sparse_moe.gate.weight layers.*.self_attn.{k_norm,k_proj,o_proj,q_norm,q_proj,v_proj}.weight
+ layers.*.{input_layernorm,post_attention_layernorm}.weight {embed_tokens,norm}.weight
? lm_head.weight
= layers.*.mlp.e_score_correction_bias layers.*.mlp.experts.{down_proj,gate_up_proj} layers.*.mlp.gate.weight
= layers.*.self_attn.{k_norm,k_proj,o_proj,q_norm,q_proj,v_proj}.weight
= layers.*.{input_layernorm,post_attention_layernorm}.weight {embed_tokens,norm}.weight
~ lm_head.weight
mistral model
+ layers.*.mlp.{down_proj,gate_proj,up_proj}.weight layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
+ layers.*.{input_layernorm,post_attention_layernorm}.weight {embed_tokens,norm}.weight
? lm_head.weight
mistral3 model
+ language_model.model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
+ language_model.model.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
+ language_model.model.layers.*.{input_layernorm,post_attention_layernorm}.weight
+ language_model.model.{embed_tokens,norm}.weight multi_modal_projector.patch_merger.merging_layer.weight
+ multi_modal_projector.{linear_1,linear_2,norm}.weight
+ vision_tower.transformer.layers.*.attention.{k_proj,o_proj,q_proj,v_proj}.weight
+ vision_tower.transformer.layers.*.feed_forward.{down_proj,gate_proj,up_proj}.weight
+ vision_tower.transformer.layers.*.{attention_norm,ffn_norm}.weight vision_tower.{ln_pre,patch_conv}.weight
? language_model.lm_head.weight
= language_model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
= language_model.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
= language_model.layers.*.{input_layernorm,post_attention_layernorm}.weight language_model.{embed_tokens,norm}.weight
= multi_modal_projector.patch_merger.merging_layer.weight multi_modal_projector.{linear_1,linear_2,norm}.weight
= vision_tower.transformer.layers.*.attention.{k_proj,o_proj,q_proj,v_proj}.weight
= vision_tower.transformer.layers.*.feed_forward.{down_proj,gate_proj,up_proj}.weight
= vision_tower.transformer.layers.*.{attention_norm,ffn_norm}.weight vision_tower.{ln_pre,patch_conv}.weight
~ lm_head.weight
mixtral model
+ layers.*.block_sparse_moe.experts.*.{w1,w2,w3}.weight layers.*.block_sparse_moe.gate.weight
+ layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight layers.*.{input_layernorm,post_attention_layernorm}.weight
+ {embed_tokens,norm}.weight
? {lm_head,score}.weight
= layers.*.mlp.experts.{down_proj,gate_up_proj} layers.*.mlp.gate.weight
= layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight layers.*.{input_layernorm,post_attention_layernorm}.weight
= {embed_tokens,norm}.weight
~ {lm_head,score}.weight
mllama model
? language_model.lm_head.weight
? language_model.model.layers.*.cross_attn.{k_norm,k_proj,o_proj,q_norm,q_proj,v_proj}.weight
? language_model.model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
? language_model.model.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
? language_model.model.layers.*.{cross_attn_attn_gate,cross_attn_mlp_gate}
? language_model.model.layers.*.{input_layernorm,post_attention_layernorm}.weight
? language_model.model.{embed_tokens,norm}.weight
? layers.*.cross_attn.{k_norm,k_proj,o_proj,q_norm,q_proj,v_proj}.weight
? layers.*.mlp.{down_proj,gate_proj,up_proj}.weight layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
? layers.*.{cross_attn_attn_gate,cross_attn_mlp_gate} layers.*.{input_layernorm,post_attention_layernorm}.weight
? multi_modal_projector.{bias,weight} vision_model.class_embedding
? vision_model.gated_positional_embedding.tile_embedding.weight
? vision_model.gated_positional_embedding.{embedding,gate}
? vision_model.global_transformer.layers.*.{gate_attn,gate_ffn} vision_model.patch_embedding.weight
? vision_model.{global_transformer,transformer}.layers.*.mlp.{fc1,fc2}.{bias,weight}
? vision_model.{global_transformer,transformer}.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
? vision_model.{global_transformer,transformer}.layers.*.{input_layernorm,post_attention_layernorm}.bias
? vision_model.{global_transformer,transformer}.layers.*.{input_layernorm,post_attention_layernorm}.weight
? vision_model.{layernorm_post,layernorm_pre}.{bias,weight}
? vision_model.{post_tile_positional_embedding,pre_tile_positional_embedding}.embedding.weight
? vision_model.{post_tile_positional_embedding,pre_tile_positional_embedding}.gate {embed_tokens,lm_head,norm}.weight
~ language_model.layers.*.cross_attn.{k_norm,k_proj,o_proj,q_norm,q_proj,v_proj}.weight
~ language_model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
~ language_model.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
~ language_model.layers.*.{cross_attn_attn_gate,cross_attn_mlp_gate}
~ language_model.layers.*.{input_layernorm,post_attention_layernorm}.weight language_model.{embed_tokens,norm}.weight
~ layers.*.cross_attn.{k_norm,k_proj,o_proj,q_norm,q_proj,v_proj}.weight
~ layers.*.mlp.{down_proj,gate_proj,up_proj}.weight layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
~ layers.*.{cross_attn_attn_gate,cross_attn_mlp_gate} layers.*.{input_layernorm,post_attention_layernorm}.weight
~ multi_modal_projector.{bias,weight} vision_model.class_embedding
~ vision_model.gated_positional_embedding.tile_embedding.weight
~ vision_model.gated_positional_embedding.{embedding,gate}
~ vision_model.global_transformer.layers.*.{gate_attn,gate_ffn} vision_model.patch_embedding.weight
~ vision_model.{global_transformer,transformer}.layers.*.mlp.{fc1,fc2}.{bias,weight}
~ vision_model.{global_transformer,transformer}.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
~ vision_model.{global_transformer,transformer}.layers.*.{input_layernorm,post_attention_layernorm}.bias
~ vision_model.{global_transformer,transformer}.layers.*.{input_layernorm,post_attention_layernorm}.weight
~ vision_model.{layernorm_post,layernorm_pre}.{bias,weight}
~ vision_model.{post_tile_positional_embedding,pre_tile_positional_embedding}.embedding.weight
~ vision_model.{post_tile_positional_embedding,pre_tile_positional_embedding}.gate {embed_tokens,lm_head,norm}.weight
mllama_text_model model
+ layers.*.cross_attn.{k_norm,k_proj,o_proj,q_norm,q_proj,v_proj}.weight
+ layers.*.mlp.{down_proj,gate_proj,up_proj}.weight layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
+ layers.*.{cross_attn_attn_gate,cross_attn_mlp_gate} layers.*.{input_layernorm,post_attention_layernorm}.weight
+ {embed_tokens,norm}.weight
? lm_head.weight
olmo model
+ embed_tokens.weight layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
+ layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
? lm_head.weight
olmo2 model
+ layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
+ layers.*.self_attn.{k_norm,k_proj,o_proj,q_norm,q_proj,v_proj}.weight
+ layers.*.{post_attention_layernorm,post_feedforward_layernorm}.weight {embed_tokens,norm}.weight
? lm_head.weight
olmoe model
+ layers.*.mlp.experts.*.{down_proj,gate_proj,up_proj}.weight layers.*.mlp.gate.weight
+ layers.*.self_attn.{k_norm,k_proj,o_proj,q_norm,q_proj,v_proj}.weight
+ layers.*.{input_layernorm,post_attention_layernorm}.weight {embed_tokens,norm}.weight
? lm_head.weight
= layers.*.mlp.experts.{down_proj,gate_up_proj} layers.*.mlp.gate.weight
= layers.*.self_attn.{k_norm,k_proj,o_proj,q_norm,q_proj,v_proj}.weight
= layers.*.{input_layernorm,post_attention_layernorm}.weight {embed_tokens,norm}.weight
~ lm_head.weight
paligemma model
+ language_model.model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
+ language_model.model.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
+ language_model.model.layers.*.{input_layernorm,post_attention_layernorm}.weight
+ language_model.model.{embed_tokens,norm}.weight multi_modal_projector.linear.{bias,weight}
+ vision_tower.vision_model.embeddings.patch_embedding.{bias,weight}
+ vision_tower.vision_model.embeddings.position_embedding.weight
+ vision_tower.vision_model.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
+ vision_tower.vision_model.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
+ vision_tower.vision_model.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight}
+ vision_tower.vision_model.post_layernorm.{bias,weight}
? language_model.lm_head.weight
? language_model.model.layers.*.{post_feedforward_layernorm,pre_feedforward_layernorm}.weight
= language_model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
= language_model.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
= language_model.layers.*.{input_layernorm,post_attention_layernorm}.weight language_model.{embed_tokens,norm}.weight
= multi_modal_projector.linear.{bias,weight} vision_tower.embeddings.patch_embedding.{bias,weight}
= vision_tower.embeddings.position_embedding.weight vision_tower.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
= vision_tower.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
= vision_tower.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight} vision_tower.post_layernorm.{bias,weight}
~ language_model.layers.*.{post_feedforward_layernorm,pre_feedforward_layernorm}.weight lm_head.weight
persimmon model
+ embed_tokens.weight final_layernorm.{bias,weight} layers.*.mlp.{dense_4h_to_h,dense_h_to_4h}.{bias,weight}
+ layers.*.self_attn.{dense,k_layernorm,q_layernorm,query_key_value}.{bias,weight}
+ layers.*.{input_layernorm,post_attention_layernorm}.{bias,weight}
? lm_head.weight
phi model
+ embed_tokens.weight final_layernorm.{bias,weight} layers.*.input_layernorm.{bias,weight}
+ layers.*.mlp.{fc1,fc2}.{bias,weight} layers.*.self_attn.{dense,k_proj,q_proj,v_proj}.{bias,weight}
? lm_head.{bias,weight}
pp_chart2table model
+ language_model.model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
+ language_model.model.layers.*.self_attn.o_proj.weight
+ language_model.model.layers.*.self_attn.{k_proj,q_proj,v_proj}.{bias,weight}
+ language_model.model.layers.*.{input_layernorm,post_attention_layernorm}.weight
+ language_model.model.{embed_tokens,norm}.weight multi_modal_projector.multimodal_projector.{bias,weight}
+ multi_modal_projector.{conv_upsampler1,conv_upsampler2}.weight vision_tower.layers.*.attn.{proj,qkv}.{bias,weight}
+ vision_tower.layers.*.attn.{rel_pos_h,rel_pos_w} vision_tower.layers.*.mlp.{lin1,lin2}.{bias,weight}
+ vision_tower.layers.*.{layer_norm1,layer_norm2}.{bias,weight} vision_tower.neck.{conv1,conv2}.weight
+ vision_tower.neck.{layer_norm1,layer_norm2}.{bias,weight} vision_tower.patch_embed.projection.{bias,weight}
+ vision_tower.pos_embed
? language_model.lm_head.weight
= language_model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight language_model.layers.*.self_attn.o_proj.weight
= language_model.layers.*.self_attn.{k_proj,q_proj,v_proj}.{bias,weight}
= language_model.layers.*.{input_layernorm,post_attention_layernorm}.weight language_model.{embed_tokens,norm}.weight
= multi_modal_projector.multimodal_projector.{bias,weight}
= multi_modal_projector.{conv_upsampler1,conv_upsampler2}.weight vision_tower.layers.*.attn.{proj,qkv}.{bias,weight}
= vision_tower.layers.*.attn.{rel_pos_h,rel_pos_w} vision_tower.layers.*.mlp.{lin1,lin2}.{bias,weight}
= vision_tower.layers.*.{layer_norm1,layer_norm2}.{bias,weight} vision_tower.neck.{conv1,conv2}.weight
= vision_tower.neck.{layer_norm1,layer_norm2}.{bias,weight} vision_tower.patch_embed.projection.{bias,weight}
= vision_tower.pos_embed
~ lm_head.weight
qwen2 model
+ layers.*.mlp.{down_proj,gate_proj,up_proj}.weight layers.*.self_attn.o_proj.weight
+ layers.*.self_attn.{k_proj,q_proj,v_proj}.{bias,weight} layers.*.{input_layernorm,post_attention_layernorm}.weight
+ {embed_tokens,norm}.weight
? lm_head.weight
qwen2_5_omni_thinker model
+ audio_tower.audio_bos_eos_token.weight audio_tower.layers.*.self_attn.k_proj.weight
+ audio_tower.layers.*.self_attn.{out_proj,q_proj,v_proj}.{bias,weight}
+ audio_tower.layers.*.{fc1,fc2,final_layer_norm,self_attn_layer_norm}.{bias,weight}
+ audio_tower.{conv1,conv2,ln_post,proj}.{bias,weight} layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
+ layers.*.self_attn.o_proj.weight layers.*.self_attn.{k_proj,q_proj,v_proj}.{bias,weight}
+ layers.*.{input_layernorm,post_attention_layernorm}.weight visual.blocks.*.attn.{k,proj,q,v}.{bias,weight}
+ visual.blocks.*.mlp.{down_proj,gate_proj,up_proj}.{bias,weight} visual.blocks.*.{norm1,norm2}.weight
+ visual.merger.ln_q.weight visual.merger.mlp.*.{bias,weight} visual.patch_embed.proj.weight
+ {embed_tokens,norm}.weight
? lm_head.weight
= audio_tower.audio_bos_eos_token.weight audio_tower.layers.*.self_attn.k_proj.weight
= audio_tower.layers.*.self_attn.{out_proj,q_proj,v_proj}.{bias,weight}
= audio_tower.layers.*.{fc1,fc2,final_layer_norm,self_attn_layer_norm}.{bias,weight}
= audio_tower.{conv1,conv2,ln_post,proj}.{bias,weight}
= language_model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight language_model.layers.*.self_attn.o_proj.weight
= language_model.layers.*.self_attn.{k_proj,q_proj,v_proj}.{bias,weight}
= language_model.layers.*.{input_layernorm,post_attention_layernorm}.weight language_model.{embed_tokens,norm}.weight
= visual.blocks.*.attn.{k,proj,q,v}.{bias,weight} visual.blocks.*.mlp.{down_proj,gate_proj,up_proj}.{bias,weight}
= visual.blocks.*.{norm1,norm2}.weight visual.merger.ln_q.weight visual.merger.mlp.*.{bias,weight}
= visual.patch_embed.proj.weight
~ lm_head.weight
qwen2_5_vl model
+ layers.*.mlp.{down_proj,gate_proj,up_proj}.weight layers.*.self_attn.o_proj.weight
+ layers.*.self_attn.{k_proj,q_proj,v_proj}.{bias,weight} layers.*.{input_layernorm,post_attention_layernorm}.weight
+ visual.blocks.*.attn.{proj,qkv}.{bias,weight} visual.blocks.*.mlp.{down_proj,gate_proj,up_proj}.{bias,weight}
+ visual.blocks.*.{norm1,norm2}.weight visual.merger.ln_q.weight visual.merger.mlp.*.{bias,weight}
+ visual.patch_embed.proj.weight {embed_tokens,norm}.weight
? lm_head.weight
= language_model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight language_model.layers.*.self_attn.o_proj.weight
= language_model.layers.*.self_attn.{k_proj,q_proj,v_proj}.{bias,weight}
= language_model.layers.*.{input_layernorm,post_attention_layernorm}.weight language_model.{embed_tokens,norm}.weight
= visual.blocks.*.attn.{proj,qkv}.{bias,weight} visual.blocks.*.mlp.{down_proj,gate_proj,up_proj}.{bias,weight}
= visual.blocks.*.{norm1,norm2}.weight visual.merger.ln_q.weight visual.merger.mlp.*.{bias,weight}
= visual.patch_embed.proj.weight
~ lm_head.weight
qwen2_audio model
+ audio_tower.embed_positions.weight audio_tower.layers.*.self_attn.k_proj.weight
+ audio_tower.layers.*.self_attn.{out_proj,q_proj,v_proj}.{bias,weight}
+ audio_tower.layers.*.{fc1,fc2,final_layer_norm,self_attn_layer_norm}.{bias,weight}
+ audio_tower.{conv1,conv2,layer_norm}.{bias,weight}
+ language_model.model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
+ language_model.model.layers.*.self_attn.o_proj.weight
+ language_model.model.layers.*.self_attn.{k_proj,q_proj,v_proj}.{bias,weight}
+ language_model.model.layers.*.{input_layernorm,post_attention_layernorm}.weight
+ language_model.model.{embed_tokens,norm}.weight multi_modal_projector.linear.{bias,weight}
? language_model.lm_head.weight
= audio_tower.embed_positions.weight audio_tower.layers.*.self_attn.k_proj.weight
= audio_tower.layers.*.self_attn.{out_proj,q_proj,v_proj}.{bias,weight}
= audio_tower.layers.*.{fc1,fc2,final_layer_norm,self_attn_layer_norm}.{bias,weight}
= audio_tower.{conv1,conv2,layer_norm}.{bias,weight} language_model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
= language_model.layers.*.self_attn.o_proj.weight
= language_model.layers.*.self_attn.{k_proj,q_proj,v_proj}.{bias,weight}
= language_model.layers.*.{input_layernorm,post_attention_layernorm}.weight language_model.{embed_tokens,norm}.weight
= multi_modal_projector.linear.{bias,weight}
~ lm_head.weight
qwen2_moe model
+ layers.*.mlp.experts.*.{down_proj,gate_proj,up_proj}.weight
+ layers.*.mlp.shared_expert.{down_proj,gate_proj,up_proj}.weight layers.*.mlp.{gate,shared_expert_gate}.weight
+ layers.*.self_attn.o_proj.weight layers.*.self_attn.{k_proj,q_proj,v_proj}.{bias,weight}
+ layers.*.{input_layernorm,post_attention_layernorm}.weight {embed_tokens,norm}.weight
? lm_head.weight
= layers.*.mlp.experts.{down_proj,gate_up_proj} layers.*.mlp.shared_expert.{down_proj,gate_proj,up_proj}.weight
= layers.*.mlp.{gate,shared_expert_gate}.weight layers.*.self_attn.o_proj.weight
= layers.*.self_attn.{k_proj,q_proj,v_proj}.{bias,weight} layers.*.{input_layernorm,post_attention_layernorm}.weight
= {embed_tokens,norm}.weight
~ lm_head.weight
qwen2_vl model
+ layers.*.mlp.{down_proj,gate_proj,up_proj}.weight layers.*.self_attn.o_proj.weight
+ layers.*.self_attn.{k_proj,q_proj,v_proj}.{bias,weight} layers.*.{input_layernorm,post_attention_layernorm}.weight
+ visual.blocks.*.attn.{proj,qkv}.{bias,weight} visual.blocks.*.mlp.{fc1,fc2}.{bias,weight}
+ visual.blocks.*.{norm1,norm2}.{bias,weight} visual.merger.ln_q.{bias,weight} visual.merger.mlp.*.{bias,weight}
+ visual.patch_embed.proj.weight {embed_tokens,norm}.weight
? lm_head.weight
= language_model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight language_model.layers.*.self_attn.o_proj.weight
= language_model.layers.*.self_attn.{k_proj,q_proj,v_proj}.{bias,weight}
= language_model.layers.*.{input_layernorm,post_attention_layernorm}.weight language_model.{embed_tokens,norm}.weight
= visual.blocks.*.attn.{proj,qkv}.{bias,weight} visual.blocks.*.mlp.{fc1,fc2}.{bias,weight}
= visual.blocks.*.{norm1,norm2}.{bias,weight} visual.merger.ln_q.{bias,weight} visual.merger.mlp.*.{bias,weight}
= visual.patch_embed.proj.weight
~ lm_head.weight
qwen3 model
+ layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
+ layers.*.self_attn.{k_norm,k_proj,o_proj,q_norm,q_proj,v_proj}.weight
+ layers.*.{input_layernorm,post_attention_layernorm}.weight {embed_tokens,norm}.weight
? lm_head.weight
qwen3_moe model
+ layers.*.mlp.experts.*.{down_proj,gate_proj,up_proj}.weight layers.*.mlp.gate.weight
+ layers.*.self_attn.{k_norm,k_proj,o_proj,q_norm,q_proj,v_proj}.weight
+ layers.*.{input_layernorm,post_attention_layernorm}.weight {embed_tokens,norm}.weight
? layers.*.mlp.{down_proj,gate_proj,up_proj}.weight lm_head.weight
= layers.*.mlp.experts.{down_proj,gate_up_proj} layers.*.mlp.gate.weight
= layers.*.self_attn.{k_norm,k_proj,o_proj,q_norm,q_proj,v_proj}.weight
= layers.*.{input_layernorm,post_attention_layernorm}.weight {embed_tokens,norm}.weight
~ layers.*.mlp.{down_proj,gate_proj,up_proj}.weight lm_head.weight
qwen3_next model
+ layers.*.linear_attn.{A_log,dt_bias} layers.*.linear_attn.{conv1d,in_proj_ba,in_proj_qkvz,norm,out_proj}.weight
+ layers.*.mlp.experts.*.{down_proj,gate_proj,up_proj}.weight
+ layers.*.mlp.shared_expert.{down_proj,gate_proj,up_proj}.weight layers.*.mlp.{gate,shared_expert_gate}.weight
+ layers.*.self_attn.{k_norm,k_proj,o_proj,q_norm,q_proj,v_proj}.weight
+ layers.*.{input_layernorm,post_attention_layernorm}.weight {embed_tokens,norm}.weight
? lm_head.weight
= layers.*.linear_attn.{A_log,dt_bias} layers.*.linear_attn.{conv1d,in_proj_ba,in_proj_qkvz,norm,out_proj}.weight
= layers.*.mlp.experts.{down_proj,gate_up_proj} layers.*.mlp.shared_expert.{down_proj,gate_proj,up_proj}.weight
= layers.*.mlp.{gate,shared_expert_gate}.weight layers.*.self_attn.{k_norm,k_proj,o_proj,q_norm,q_proj,v_proj}.weight
= layers.*.{input_layernorm,post_attention_layernorm}.weight {embed_tokens,norm}.weight
~ lm_head.weight
qwen3_vl_moe model
+ language_model.layers.*.mlp.experts.{down_proj,gate_up_proj} language_model.layers.*.mlp.gate.weight
+ language_model.layers.*.self_attn.{k_norm,k_proj,o_proj,q_norm,q_proj,v_proj}.weight
+ language_model.layers.*.{input_layernorm,post_attention_layernorm}.weight language_model.{embed_tokens,norm}.weight
+ visual.blocks.*.attn.{proj,qkv}.{bias,weight} visual.blocks.*.mlp.{linear_fc1,linear_fc2}.{bias,weight}
+ visual.blocks.*.{norm1,norm2}.{bias,weight}
+ visual.deepstack_merger_list.*.{linear_fc1,linear_fc2,norm}.{bias,weight}
+ visual.merger.{linear_fc1,linear_fc2,norm}.{bias,weight} visual.patch_embed.proj.{bias,weight}
+ visual.pos_embed.weight
? language_model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight lm_head.weight
qwen3_vl_moe_text model
+ layers.*.mlp.experts.{down_proj,gate_up_proj} layers.*.mlp.gate.weight
+ layers.*.self_attn.{k_norm,k_proj,o_proj,q_norm,q_proj,v_proj}.weight
+ layers.*.{input_layernorm,post_attention_layernorm}.weight {embed_tokens,norm}.weight
rt_detr model
+ backbone.model.embedder.embedder.*.convolution.weight
+ backbone.model.embedder.embedder.*.normalization.{bias,running_mean,running_var,weight}
+ backbone.model.encoder.stages.*.layers.*.shortcut.convolution.weight
+ backbone.model.encoder.stages.*.layers.*.shortcut.normalization.{bias,running_mean,running_var,weight}
+ backbone.model.encoder.stages.*.layers.*.{layer,shortcut}.*.convolution.weight
+ backbone.model.encoder.stages.*.layers.*.{layer,shortcut}.*.normalization.{bias,running_mean}
+ backbone.model.encoder.stages.*.layers.*.{layer,shortcut}.*.normalization.{running_var,weight}
+ decoder.layers.*.encoder_attn.{attention_weights,output_proj,sampling_offsets,value_proj}.{bias,weight}
+ decoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
+ decoder.layers.*.{encoder_attn_layer_norm,fc1,fc2,final_layer_norm,self_attn_layer_norm}.{bias,weight}
+ decoder.query_pos_head.layers.*.{bias,weight} enc_bbox_head.layers.*.{bias,weight} enc_output.*.{bias,weight}
+ enc_score_head.{bias,weight} encoder.encoder.*.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
+ encoder.encoder.*.layers.*.{fc1,fc2,final_layer_norm,self_attn_layer_norm}.{bias,weight}
+ encoder.{downsample_convs,lateral_convs}.*.conv.weight
+ encoder.{downsample_convs,lateral_convs}.*.norm.{bias,num_batches_tracked,running_mean,running_var,weight}
+ encoder.{fpn_blocks,pan_blocks}.*.bottlenecks.*.{conv1,conv2}.conv.weight
+ encoder.{fpn_blocks,pan_blocks}.*.bottlenecks.*.{conv1,conv2}.norm.{bias,num_batches_tracked}
+ encoder.{fpn_blocks,pan_blocks}.*.bottlenecks.*.{conv1,conv2}.norm.{running_mean,running_var,weight}
+ encoder.{fpn_blocks,pan_blocks}.*.{conv1,conv2}.conv.weight
+ encoder.{fpn_blocks,pan_blocks}.*.{conv1,conv2}.norm.{bias,num_batches_tracked}
+ encoder.{fpn_blocks,pan_blocks}.*.{conv1,conv2}.norm.{running_mean,running_var,weight}
+ {decoder_input_proj,encoder_input_proj}.*.*.{bias,num_batches_tracked,running_mean,running_var,weight}
? decoder.bbox_embed.*.layers.*.{bias,weight} decoder.class_embed.*.{bias,weight} denoising_class_embed.weight
? encoder.{fpn_blocks,pan_blocks}.*.conv3.conv.weight
? encoder.{fpn_blocks,pan_blocks}.*.conv3.norm.{bias,num_batches_tracked,running_mean,running_var,weight}
= backbone.model.embedder.embedder.*.convolution.weight
= backbone.model.embedder.embedder.*.normalization.{bias,running_mean,running_var,weight}
= backbone.model.encoder.stages.*.layers.*.shortcut.convolution.weight
= backbone.model.encoder.stages.*.layers.*.shortcut.normalization.{bias,running_mean,running_var,weight}
= backbone.model.encoder.stages.*.layers.*.{layer,shortcut}.*.convolution.weight
= backbone.model.encoder.stages.*.layers.*.{layer,shortcut}.*.normalization.{bias,running_mean}
= backbone.model.encoder.stages.*.layers.*.{layer,shortcut}.*.normalization.{running_var,weight}
= decoder.layers.*.encoder_attn.{attention_weights,output_proj,sampling_offsets,value_proj}.{bias,weight}
= decoder.layers.*.mlp.{fc1,fc2}.{bias,weight} decoder.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.{bias,weight}
= decoder.layers.*.{encoder_attn_layer_norm,final_layer_norm,self_attn_layer_norm}.{bias,weight}
= decoder.query_pos_head.layers.*.{bias,weight} enc_bbox_head.layers.*.{bias,weight} enc_output.*.{bias,weight}
= enc_score_head.{bias,weight} encoder.aifi.*.layers.*.mlp.{fc1,fc2}.{bias,weight}
= encoder.aifi.*.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.{bias,weight}
= encoder.aifi.*.layers.*.{final_layer_norm,self_attn_layer_norm}.{bias,weight}
= encoder.{downsample_convs,lateral_convs}.*.conv.weight
= encoder.{downsample_convs,lateral_convs}.*.norm.{bias,num_batches_tracked,running_mean,running_var,weight}
= encoder.{fpn_blocks,pan_blocks}.*.bottlenecks.*.{conv1,conv2}.conv.weight
= encoder.{fpn_blocks,pan_blocks}.*.bottlenecks.*.{conv1,conv2}.norm.{bias,num_batches_tracked}
= encoder.{fpn_blocks,pan_blocks}.*.bottlenecks.*.{conv1,conv2}.norm.{running_mean,running_var,weight}
= encoder.{fpn_blocks,pan_blocks}.*.{conv1,conv2}.conv.weight
= encoder.{fpn_blocks,pan_blocks}.*.{conv1,conv2}.norm.{bias,num_batches_tracked}
= encoder.{fpn_blocks,pan_blocks}.*.{conv1,conv2}.norm.{running_mean,running_var,weight}
= {decoder_input_proj,encoder_input_proj}.*.*.{bias,num_batches_tracked,running_mean,running_var,weight}
~ decoder.bbox_embed.*.layers.*.{bias,weight} decoder.class_embed.*.{bias,weight} denoising_class_embed.weight
~ encoder.{fpn_blocks,pan_blocks}.*.conv3.conv.weight
~ encoder.{fpn_blocks,pan_blocks}.*.conv3.norm.{bias,num_batches_tracked,running_mean,running_var,weight}
rt_detr_v2 model
+ backbone.model.embedder.embedder.*.convolution.weight
+ backbone.model.embedder.embedder.*.normalization.{bias,running_mean,running_var,weight}
+ backbone.model.encoder.stages.*.layers.*.shortcut.convolution.weight
+ backbone.model.encoder.stages.*.layers.*.shortcut.normalization.{bias,running_mean,running_var,weight}
+ backbone.model.encoder.stages.*.layers.*.{layer,shortcut}.*.convolution.weight
+ backbone.model.encoder.stages.*.layers.*.{layer,shortcut}.*.normalization.{bias,running_mean}
+ backbone.model.encoder.stages.*.layers.*.{layer,shortcut}.*.normalization.{running_var,weight}
+ decoder.layers.*.encoder_attn.n_points_scale
+ decoder.layers.*.encoder_attn.{attention_weights,output_proj,sampling_offsets,value_proj}.{bias,weight}
+ decoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
+ decoder.layers.*.{encoder_attn_layer_norm,fc1,fc2,final_layer_norm,self_attn_layer_norm}.{bias,weight}
+ decoder.query_pos_head.layers.*.{bias,weight} enc_bbox_head.layers.*.{bias,weight} enc_output.*.{bias,weight}
+ enc_score_head.{bias,weight} encoder.encoder.*.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
+ encoder.encoder.*.layers.*.{fc1,fc2,final_layer_norm,self_attn_layer_norm}.{bias,weight}
+ encoder.{downsample_convs,lateral_convs}.*.conv.weight
+ encoder.{downsample_convs,lateral_convs}.*.norm.{bias,num_batches_tracked,running_mean,running_var,weight}
+ encoder.{fpn_blocks,pan_blocks}.*.bottlenecks.*.{conv1,conv2}.conv.weight
+ encoder.{fpn_blocks,pan_blocks}.*.bottlenecks.*.{conv1,conv2}.norm.{bias,num_batches_tracked}
+ encoder.{fpn_blocks,pan_blocks}.*.bottlenecks.*.{conv1,conv2}.norm.{running_mean,running_var,weight}
+ encoder.{fpn_blocks,pan_blocks}.*.{conv1,conv2}.conv.weight
+ encoder.{fpn_blocks,pan_blocks}.*.{conv1,conv2}.norm.{bias,num_batches_tracked}
+ encoder.{fpn_blocks,pan_blocks}.*.{conv1,conv2}.norm.{running_mean,running_var,weight}
+ {decoder_input_proj,encoder_input_proj}.*.*.{bias,num_batches_tracked,running_mean,running_var,weight}
? decoder.bbox_embed.*.layers.*.{bias,weight} decoder.class_embed.*.{bias,weight} denoising_class_embed.weight
? encoder.{fpn_blocks,pan_blocks}.*.conv3.conv.weight
? encoder.{fpn_blocks,pan_blocks}.*.conv3.norm.{bias,num_batches_tracked,running_mean,running_var,weight}
= backbone.model.embedder.embedder.*.convolution.weight
= backbone.model.embedder.embedder.*.normalization.{bias,running_mean,running_var,weight}
= backbone.model.encoder.stages.*.layers.*.shortcut.convolution.weight
= backbone.model.encoder.stages.*.layers.*.shortcut.normalization.{bias,running_mean,running_var,weight}
= backbone.model.encoder.stages.*.layers.*.{layer,shortcut}.*.convolution.weight
= backbone.model.encoder.stages.*.layers.*.{layer,shortcut}.*.normalization.{bias,running_mean}
= backbone.model.encoder.stages.*.layers.*.{layer,shortcut}.*.normalization.{running_var,weight}
= decoder.layers.*.encoder_attn.n_points_scale
= decoder.layers.*.encoder_attn.{attention_weights,output_proj,sampling_offsets,value_proj}.{bias,weight}
= decoder.layers.*.mlp.{fc1,fc2}.{bias,weight} decoder.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.{bias,weight}
= decoder.layers.*.{encoder_attn_layer_norm,final_layer_norm,self_attn_layer_norm}.{bias,weight}
= decoder.query_pos_head.layers.*.{bias,weight} enc_bbox_head.layers.*.{bias,weight} enc_output.*.{bias,weight}
= enc_score_head.{bias,weight} encoder.aifi.*.layers.*.mlp.{fc1,fc2}.{bias,weight}
= encoder.aifi.*.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.{bias,weight}
= encoder.aifi.*.layers.*.{final_layer_norm,self_attn_layer_norm}.{bias,weight}
= encoder.{downsample_convs,lateral_convs}.*.conv.weight
= encoder.{downsample_convs,lateral_convs}.*.norm.{bias,num_batches_tracked,running_mean,running_var,weight}
= encoder.{fpn_blocks,pan_blocks}.*.bottlenecks.*.{conv1,conv2}.conv.weight
= encoder.{fpn_blocks,pan_blocks}.*.bottlenecks.*.{conv1,conv2}.norm.{bias,num_batches_tracked}
= encoder.{fpn_blocks,pan_blocks}.*.bottlenecks.*.{conv1,conv2}.norm.{running_mean,running_var,weight}
= encoder.{fpn_blocks,pan_blocks}.*.{conv1,conv2}.conv.weight
= encoder.{fpn_blocks,pan_blocks}.*.{conv1,conv2}.norm.{bias,num_batches_tracked}
= encoder.{fpn_blocks,pan_blocks}.*.{conv1,conv2}.norm.{running_mean,running_var,weight}
= {decoder_input_proj,encoder_input_proj}.*.*.{bias,num_batches_tracked,running_mean,running_var,weight}
~ bbox_embed.*.layers.*.{bias,weight} class_embed.*.{bias,weight} decoder.bbox_embed.*.layers.*.{bias,weight}
~ decoder.class_embed.*.{bias,weight} denoising_class_embed.weight encoder.{fpn_blocks,pan_blocks}.*.conv3.conv.weight
~ encoder.{fpn_blocks,pan_blocks}.*.conv3.norm.{bias,num_batches_tracked,running_mean,running_var,weight}
segformer segformer
+ encoder.block.*.*.attention.output.dense.{bias,weight}
+ encoder.block.*.*.attention.self.{key,layer_norm,query,sr,value}.{bias,weight}
+ encoder.block.*.*.mlp.dwconv.dwconv.{bias,weight} encoder.block.*.*.mlp.{dense1,dense2}.{bias,weight}
+ encoder.block.*.*.{layer_norm_1,layer_norm_2}.{bias,weight} encoder.layer_norm.*.{bias,weight}
+ encoder.patch_embeddings.*.{layer_norm,proj}.{bias,weight}
? classifier.{bias,weight} decode_head.batch_norm.{bias,num_batches_tracked,running_mean,running_var,weight}
? decode_head.classifier.{bias,weight} decode_head.linear_c.*.proj.{bias,weight} decode_head.linear_fuse.weight
= stages.*.blocks.*.attention.sequence_reduction.{layer_norm,sequence_reduction}.{bias,weight}
= stages.*.blocks.*.attention.{k_proj,o_proj,q_proj,v_proj}.{bias,weight}
= stages.*.blocks.*.mlp.dwconv.dwconv.{bias,weight} stages.*.blocks.*.mlp.{fc1,fc2}.{bias,weight}
= stages.*.blocks.*.{layernorm_after,layernorm_before}.{bias,weight} stages.*.layer_norm.{bias,weight}
= stages.*.patch_embeddings.{layer_norm,proj}.{bias,weight}
~ classifier.{bias,weight} decode_head.batch_norm.{bias,num_batches_tracked,running_mean,running_var,weight}
~ decode_head.classifier.{bias,weight} decode_head.linear_fuse.weight
~ decode_head.linear_projections.*.proj.{bias,weight}
shieldgemma2 model
+ language_model.model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
+ language_model.model.layers.*.self_attn.{k_norm,k_proj,o_proj,q_norm,q_proj,v_proj}.weight
+ language_model.model.layers.*.{input_layernorm,post_attention_layernorm}.weight
+ language_model.model.layers.*.{post_feedforward_layernorm,pre_feedforward_layernorm}.weight
+ language_model.model.{embed_tokens,norm}.weight multi_modal_projector.mm_input_projection_weight
+ multi_modal_projector.mm_soft_emb_norm.weight vision_tower.vision_model.embeddings.patch_embedding.{bias,weight}
+ vision_tower.vision_model.embeddings.position_embedding.weight
+ vision_tower.vision_model.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
+ vision_tower.vision_model.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
+ vision_tower.vision_model.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight}
+ vision_tower.vision_model.post_layernorm.{bias,weight}
? language_model.lm_head.weight vision_tower.vision_model.head.attention.out_proj.{bias,weight}
? vision_tower.vision_model.head.attention.{in_proj_bias,in_proj_weight}
? vision_tower.vision_model.head.layernorm.{bias,weight} vision_tower.vision_model.head.mlp.{fc1,fc2}.{bias,weight}
? vision_tower.vision_model.head.probe
~ language_model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
~ language_model.layers.*.self_attn.{k_norm,k_proj,o_proj,q_norm,q_proj,v_proj}.weight
~ language_model.layers.*.{input_layernorm,post_attention_layernorm}.weight
~ language_model.layers.*.{post_feedforward_layernorm,pre_feedforward_layernorm}.weight
~ language_model.{embed_tokens,norm}.weight lm_head.weight
~ model.language_model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
~ model.language_model.layers.*.self_attn.{k_norm,k_proj,o_proj,q_norm,q_proj,v_proj}.weight
~ model.language_model.layers.*.{input_layernorm,post_attention_layernorm}.weight
~ model.language_model.layers.*.{post_feedforward_layernorm,pre_feedforward_layernorm}.weight
~ model.language_model.{embed_tokens,norm}.weight model.multi_modal_projector.mm_input_projection_weight
~ model.multi_modal_projector.mm_soft_emb_norm.weight model.vision_tower.embeddings.patch_embedding.{bias,weight}
~ model.vision_tower.embeddings.position_embedding.weight
~ model.vision_tower.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
~ model.vision_tower.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
~ model.vision_tower.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight}
~ model.vision_tower.head.attention.out_proj.{bias,weight}
~ model.vision_tower.head.attention.{in_proj_bias,in_proj_weight} model.vision_tower.head.layernorm.{bias,weight}
~ model.vision_tower.head.mlp.{fc1,fc2}.{bias,weight} model.vision_tower.head.probe
~ model.vision_tower.post_layernorm.{bias,weight} multi_modal_projector.mm_input_projection_weight
~ multi_modal_projector.mm_soft_emb_norm.weight vision_tower.embeddings.patch_embedding.{bias,weight}
~ vision_tower.embeddings.position_embedding.weight vision_tower.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
~ vision_tower.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
~ vision_tower.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight}
~ vision_tower.head.attention.out_proj.{bias,weight} vision_tower.head.attention.{in_proj_bias,in_proj_weight}
~ vision_tower.head.layernorm.{bias,weight} vision_tower.head.mlp.{fc1,fc2}.{bias,weight} vision_tower.head.probe
~ vision_tower.post_layernorm.{bias,weight}
siglip siglip
+ vision_model.embeddings.patch_embedding.{bias,weight} vision_model.embeddings.position_embedding.weight
+ vision_model.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
+ vision_model.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
+ vision_model.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight}
+ vision_model.head.attention.out_proj.{bias,weight} vision_model.head.attention.{in_proj_bias,in_proj_weight}
+ vision_model.head.layernorm.{bias,weight} vision_model.head.mlp.{fc1,fc2}.{bias,weight} vision_model.head.probe
+ vision_model.post_layernorm.{bias,weight}
? classifier.{bias,weight} text_model.embeddings.{position_embedding,token_embedding}.weight
? text_model.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
? text_model.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
? text_model.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight} text_model.{final_layer_norm,head}.{bias,weight}
? {logit_bias,logit_scale}
siglip2 siglip2
+ vision_model.embeddings.patch_embedding.{bias,weight} vision_model.embeddings.position_embedding.weight
+ vision_model.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
+ vision_model.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
+ vision_model.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight}
+ vision_model.head.attention.out_proj.{bias,weight} vision_model.head.attention.{in_proj_bias,in_proj_weight}
+ vision_model.head.layernorm.{bias,weight} vision_model.head.mlp.{fc1,fc2}.{bias,weight} vision_model.head.probe
+ vision_model.post_layernorm.{bias,weight}
? classifier.{bias,weight} text_model.embeddings.{position_embedding,token_embedding}.weight
? text_model.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
? text_model.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
? text_model.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight} text_model.{final_layer_norm,head}.{bias,weight}
? {logit_bias,logit_scale}
siglip2_vision_model
+ vision_model.embeddings.patch_embedding.{bias,weight} vision_model.embeddings.position_embedding.weight
+ vision_model.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
+ vision_model.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
+ vision_model.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight}
+ vision_model.head.attention.out_proj.{bias,weight} vision_model.head.attention.{in_proj_bias,in_proj_weight}
+ vision_model.head.layernorm.{bias,weight} vision_model.head.mlp.{fc1,fc2}.{bias,weight} vision_model.head.probe
+ vision_model.post_layernorm.{bias,weight}
= embeddings.patch_embedding.{bias,weight} embeddings.position_embedding.weight
= encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
= encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
= encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight} head.attention.out_proj.{bias,weight}
= head.attention.{in_proj_bias,in_proj_weight} head.layernorm.{bias,weight} head.mlp.{fc1,fc2}.{bias,weight}
= head.probe post_layernorm.{bias,weight}
siglip_vision_model
+ vision_model.embeddings.patch_embedding.{bias,weight} vision_model.embeddings.position_embedding.weight
+ vision_model.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
+ vision_model.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
+ vision_model.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight}
+ vision_model.head.attention.out_proj.{bias,weight} vision_model.head.attention.{in_proj_bias,in_proj_weight}
+ vision_model.head.layernorm.{bias,weight} vision_model.head.mlp.{fc1,fc2}.{bias,weight} vision_model.head.probe
+ vision_model.post_layernorm.{bias,weight}
= embeddings.patch_embedding.{bias,weight} embeddings.position_embedding.weight
= encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
= encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
= encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight} head.attention.out_proj.{bias,weight}
= head.attention.{in_proj_bias,in_proj_weight} head.layernorm.{bias,weight} head.mlp.{fc1,fc2}.{bias,weight}
= head.probe post_layernorm.{bias,weight}
starcoder2 model
+ embed_tokens.weight layers.*.mlp.{c_fc,c_proj}.{bias,weight}
+ layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.{bias,weight}
+ layers.*.{input_layernorm,post_attention_layernorm}.{bias,weight} norm.{bias,weight}
? lm_head.weight
swin swin
+ embeddings.norm.{bias,weight} embeddings.patch_embeddings.projection.{bias,weight}
+ encoder.layers.*.blocks.*.attention.output.dense.{bias,weight}
+ encoder.layers.*.blocks.*.attention.self.relative_position_bias_table
+ encoder.layers.*.blocks.*.attention.self.{key,query,value}.{bias,weight}
+ encoder.layers.*.blocks.*.{intermediate,output}.dense.{bias,weight}
+ encoder.layers.*.blocks.*.{layernorm_after,layernorm_before}.{bias,weight}
+ encoder.layers.*.downsample.norm.{bias,weight} encoder.layers.*.downsample.reduction.weight layernorm.{bias,weight}
? classifier.{bias,weight} encoder.layers.*.blocks.*.attention.self.relative_position_index
= embeddings.norm.{bias,weight} embeddings.patch_embeddings.projection.{bias,weight}
= encoder.layers.*.blocks.*.attention.relative_position_bias.relative_position_bias_table
= encoder.layers.*.blocks.*.attention.{k_proj,o_proj,q_proj,v_proj}.{bias,weight}
= encoder.layers.*.blocks.*.mlp.{fc1,fc2}.{bias,weight}
= encoder.layers.*.blocks.*.{layernorm_after,layernorm_before}.{bias,weight}
= encoder.layers.*.downsample.norm.{bias,weight} encoder.layers.*.downsample.reduction.weight layernorm.{bias,weight}
~ classifier.{bias,weight}
table-transformer model
+ backbone.conv_encoder.model.embedder.embedder.convolution.weight
+ backbone.conv_encoder.model.embedder.embedder.normalization.{bias,running_mean,running_var,weight}
+ backbone.conv_encoder.model.encoder.stages.*.layers.*.layer.*.convolution.weight
+ backbone.conv_encoder.model.encoder.stages.*.layers.*.layer.*.normalization.{bias,running_mean}
+ backbone.conv_encoder.model.encoder.stages.*.layers.*.layer.*.normalization.{running_var,weight}
+ backbone.conv_encoder.model.encoder.stages.*.layers.*.shortcut.convolution.weight
+ backbone.conv_encoder.model.encoder.stages.*.layers.*.shortcut.normalization.{bias,running_mean}
+ backbone.conv_encoder.model.encoder.stages.*.layers.*.shortcut.normalization.{running_var,weight}
+ decoder.layers.*.{encoder_attn,self_attn}.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
+ decoder.layers.*.{encoder_attn_layer_norm,fc1,fc2,final_layer_norm,self_attn_layer_norm}.{bias,weight}
+ encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
+ encoder.layers.*.{fc1,fc2,final_layer_norm,self_attn_layer_norm}.{bias,weight} input_projection.{bias,weight}
+ query_position_embeddings.weight {decoder,encoder}.layernorm.{bias,weight}
? bbox_predictor.layers.*.{bias,weight} class_labels_classifier.{bias,weight}
video_llava model
+ language_model.model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
+ language_model.model.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
+ language_model.model.layers.*.{input_layernorm,post_attention_layernorm}.weight
+ language_model.model.{embed_tokens,norm}.weight multi_modal_projector.{linear_1,linear_2}.{bias,weight}
+ {image_tower,video_tower}.vision_model.embeddings.class_embedding
+ {image_tower,video_tower}.vision_model.embeddings.{patch_embedding,position_embedding}.weight
+ {image_tower,video_tower}.vision_model.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
+ {image_tower,video_tower}.vision_model.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.bias
+ {image_tower,video_tower}.vision_model.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.weight
+ {image_tower,video_tower}.vision_model.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight}
+ {image_tower,video_tower}.vision_model.{post_layernorm,pre_layrnorm}.{bias,weight}
? language_model.lm_head.weight
= language_model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
= language_model.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
= language_model.layers.*.{input_layernorm,post_attention_layernorm}.weight language_model.{embed_tokens,norm}.weight
= multi_modal_projector.{linear_1,linear_2}.{bias,weight} {image_tower,video_tower}.embeddings.class_embedding
= {image_tower,video_tower}.embeddings.{patch_embedding,position_embedding}.weight
= {image_tower,video_tower}.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
= {image_tower,video_tower}.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
= {image_tower,video_tower}.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight}
= {image_tower,video_tower}.{post_layernorm,pre_layrnorm}.{bias,weight}
~ lm_head.weight
videomae videomae
+ embeddings.patch_embeddings.projection.{bias,weight} encoder.layer.*.attention.attention.{key,query,value}.weight
+ encoder.layer.*.attention.attention.{q_bias,v_bias} encoder.layer.*.attention.output.dense.{bias,weight}
+ encoder.layer.*.{intermediate,output}.dense.{bias,weight}
+ encoder.layer.*.{layernorm_after,layernorm_before}.{bias,weight}
? decoder.decoder_layers.*.attention.attention.{key,query,value}.weight
? decoder.decoder_layers.*.attention.attention.{q_bias,v_bias}
? decoder.decoder_layers.*.attention.output.dense.{bias,weight}
? decoder.decoder_layers.*.{intermediate,output}.dense.{bias,weight}
? decoder.decoder_layers.*.{layernorm_after,layernorm_before}.{bias,weight} decoder.{head,norm}.{bias,weight}
? encoder_to_decoder.weight mask_token {classifier,fc_norm}.{bias,weight}
= embeddings.patch_embeddings.projection.{bias,weight} encoder.layer.*.attention.attention.key.weight
= encoder.layer.*.attention.attention.{query,value}.{bias,weight} encoder.layer.*.attention.output.dense.{bias,weight}
= encoder.layer.*.{intermediate,output}.dense.{bias,weight}
= encoder.layer.*.{layernorm_after,layernorm_before}.{bias,weight}
~ decoder.decoder_layers.*.attention.attention.key.weight
~ decoder.decoder_layers.*.attention.attention.{query,value}.{bias,weight}
~ decoder.decoder_layers.*.attention.output.dense.{bias,weight}
~ decoder.decoder_layers.*.{intermediate,output}.dense.{bias,weight}
~ decoder.decoder_layers.*.{layernorm_after,layernorm_before}.{bias,weight} decoder.{head,norm}.{bias,weight}
~ encoder_to_decoder.weight mask_token {classifier,fc_norm}.{bias,weight}
vipllava model
+ language_model.model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
+ language_model.model.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
+ language_model.model.layers.*.{input_layernorm,post_attention_layernorm}.weight
+ language_model.model.{embed_tokens,norm}.weight
+ multi_modal_projector.{linear_1,linear_2,projector_layernorm}.{bias,weight}
+ vision_tower.vision_model.embeddings.class_embedding
+ vision_tower.vision_model.embeddings.{patch_embedding,position_embedding}.weight
+ vision_tower.vision_model.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
+ vision_tower.vision_model.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
+ vision_tower.vision_model.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight}
+ vision_tower.vision_model.{post_layernorm,pre_layrnorm}.{bias,weight}
? language_model.lm_head.weight
= language_model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
= language_model.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
= language_model.layers.*.{input_layernorm,post_attention_layernorm}.weight language_model.{embed_tokens,norm}.weight
= multi_modal_projector.{linear_1,linear_2,projector_layernorm}.{bias,weight} vision_tower.embeddings.class_embedding
= vision_tower.embeddings.{patch_embedding,position_embedding}.weight
= vision_tower.encoder.layers.*.mlp.{fc1,fc2}.{bias,weight}
= vision_tower.encoder.layers.*.self_attn.{k_proj,out_proj,q_proj,v_proj}.{bias,weight}
= vision_tower.encoder.layers.*.{layer_norm1,layer_norm2}.{bias,weight}
= vision_tower.{post_layernorm,pre_layrnorm}.{bias,weight}
~ lm_head.weight
vit vit
+ embeddings.patch_embeddings.projection.{bias,weight} embeddings.{cls_token,position_embeddings}
+ encoder.layer.*.attention.attention.{key,query,value}.{bias,weight}
+ encoder.layer.*.attention.output.dense.{bias,weight} encoder.layer.*.{intermediate,output}.dense.{bias,weight}
+ encoder.layer.*.{layernorm_after,layernorm_before}.{bias,weight} layernorm.{bias,weight}
? classifier.{bias,weight} decoder.*.{bias,weight} embeddings.mask_token pooler.dense.{bias,weight}
= embeddings.patch_embeddings.projection.{bias,weight} embeddings.{cls_token,position_embeddings}
= layernorm.{bias,weight} layers.*.attention.{k_proj,o_proj,q_proj,v_proj}.{bias,weight}
= layers.*.mlp.{fc1,fc2}.{bias,weight} layers.*.{layernorm_after,layernorm_before}.{bias,weight}
~ classifier.{bias,weight} decoder.*.{bias,weight} embeddings.mask_token pooler.dense.{bias,weight}
vit_msn vit
+ embeddings.patch_embeddings.projection.{bias,weight} embeddings.{cls_token,position_embeddings}
+ encoder.layer.*.attention.attention.{key,query,value}.{bias,weight}
+ encoder.layer.*.attention.output.dense.{bias,weight} encoder.layer.*.{intermediate,output}.dense.{bias,weight}
+ encoder.layer.*.{layernorm_after,layernorm_before}.{bias,weight} layernorm.{bias,weight}
? classifier.{bias,weight}
= embeddings.patch_embeddings.projection.{bias,weight} embeddings.{cls_token,position_embeddings}
= layernorm.{bias,weight} layers.*.attention.{k_proj,o_proj,q_proj,v_proj}.{bias,weight}
= layers.*.mlp.{fc1,fc2}.{bias,weight} layers.*.{layernorm_after,layernorm_before}.{bias,weight}
~ classifier.{bias,weight}
vivit vivit
+ embeddings.patch_embeddings.projection.{bias,weight} embeddings.{cls_token,position_embeddings}
+ encoder.layer.*.attention.attention.{key,query,value}.{bias,weight}
+ encoder.layer.*.attention.output.dense.{bias,weight} encoder.layer.*.{intermediate,output}.dense.{bias,weight}
+ encoder.layer.*.{layernorm_after,layernorm_before}.{bias,weight} layernorm.{bias,weight}
? classifier.{bias,weight} pooler.dense.{bias,weight}
= embeddings.patch_embeddings.projection.{bias,weight} embeddings.{cls_token,position_embeddings}
= layernorm.{bias,weight} layers.*.attention.{k_proj,o_proj,q_proj,v_proj}.{bias,weight}
= layers.*.mlp.{fc1,fc2}.{bias,weight} layers.*.{layernorm_after,layernorm_before}.{bias,weight}
~ classifier.{bias,weight} pooler.dense.{bias,weight}
voxtral model
+ audio_tower.embed_positions.weight audio_tower.layers.*.self_attn.k_proj.weight
+ audio_tower.layers.*.self_attn.{out_proj,q_proj,v_proj}.{bias,weight}
+ audio_tower.layers.*.{fc1,fc2,final_layer_norm,self_attn_layer_norm}.{bias,weight}
+ audio_tower.{conv1,conv2,layer_norm}.{bias,weight}
+ language_model.model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
+ language_model.model.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
+ language_model.model.layers.*.{input_layernorm,post_attention_layernorm}.weight
+ language_model.model.{embed_tokens,norm}.weight multi_modal_projector.{linear_1,linear_2}.weight
? language_model.lm_head.weight
= audio_tower.embed_positions.weight audio_tower.layers.*.self_attn.k_proj.weight
= audio_tower.layers.*.self_attn.{out_proj,q_proj,v_proj}.{bias,weight}
= audio_tower.layers.*.{fc1,fc2,final_layer_norm,self_attn_layer_norm}.{bias,weight}
= audio_tower.{conv1,conv2,layer_norm}.{bias,weight} language_model.layers.*.mlp.{down_proj,gate_proj,up_proj}.weight
= language_model.layers.*.self_attn.{k_proj,o_proj,q_proj,v_proj}.weight
= language_model.layers.*.{input_layernorm,post_attention_layernorm}.weight language_model.{embed_tokens,norm}.weight
= multi_modal_projector.{linear_1,linear_2}.weight
~ lm_head.weight
yolos vit
+ embeddings.patch_embeddings.projection.{bias,weight} embeddings.{cls_token,detection_tokens,position_embeddings}
+ encoder.layer.*.attention.attention.{key,query,value}.{bias,weight}
+ encoder.layer.*.attention.output.dense.{bias,weight} encoder.layer.*.{intermediate,output}.dense.{bias,weight}
+ encoder.layer.*.{layernorm_after,layernorm_before}.{bias,weight} encoder.mid_position_embeddings
+ layernorm.{bias,weight}
? pooler.dense.{bias,weight} {bbox_predictor,class_labels_classifier}.layers.*.{bias,weight}
= embeddings.patch_embeddings.projection.{bias,weight} embeddings.{cls_token,detection_tokens,position_embeddings}
= encoder.interpolation.mid_position_embeddings encoder.layer.*.attention.attention.{key,query,value}.{bias,weight}
= encoder.layer.*.attention.output.dense.{bias,weight} encoder.layer.*.{intermediate,output}.dense.{bias,weight}
= encoder.layer.*.{layernorm_after,layernorm_before}.{bias,weight} layernorm.{bias,weight}
~ pooler.dense.{bias,weight} {bbox_predictor,class_labels_classifier}.layers.*.{bias,weight}
"""
"""The table; see above."""
