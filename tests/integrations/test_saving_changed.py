"""A model that was loaded, changed and saved is read back as it is, by the library and by us (C4)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn

import weighbridge as wb
from weighbridge.integrations import transformers as wbt

pytestmark = pytest.mark.filterwarnings("ignore")  # the library's own, of which it has many

SMALL = {"vocab_size": 48, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
TOWER = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 8,
         "patch_size": 4}  # fmt: skip


def llama(**more: Any) -> Any:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, **more))


def tied() -> Any:
    return llama(tie_word_embeddings=True)


def mixtral() -> Any:
    config = transformers.MixtralConfig(**SMALL, num_key_value_heads=1, num_local_experts=4, num_experts_per_tok=1)
    return transformers.MixtralForCausalLM(config)


def qwen3_moe() -> Any:
    return transformers.Qwen3MoeForCausalLM(
        transformers.Qwen3MoeConfig(
            **SMALL, num_key_value_heads=1, head_dim=8, num_experts=4, num_experts_per_tok=1, moe_intermediate_size=12
        )
    )


def gpt2() -> Any:
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=48, n_embd=16, n_layer=3, n_head=2, n_positions=12, n_inner=20)
    )


def bert() -> Any:
    config = transformers.BertConfig(**SMALL, max_position_embeddings=12, num_labels=3)
    return transformers.BertForSequenceClassification(config)


def llava() -> Any:
    return transformers.LlavaForConditionalGeneration(
        transformers.LlavaConfig(
            vision_config=transformers.CLIPVisionConfig(**TOWER), text_config=transformers.LlamaConfig(**SMALL)
        )
    )


# ---- changes ----


def larger_vocabulary(model: Any) -> None:
    model.resize_token_embeddings(53)


def smaller_vocabulary(model: Any) -> None:
    model.resize_token_embeddings(41)


def other_labels(model: Any) -> None:
    model.classifier = nn.Linear(16, 7)
    model.config.num_labels = model.num_labels = 7


def more_positions(model: Any) -> None:
    model.bert.embeddings.position_embeddings = nn.Embedding(19, 16)
    model.config.max_position_embeddings = 19


def keep_layers(model: Any, kept: list[int]) -> None:
    model.model.layers = nn.ModuleList(copy.deepcopy(model.model.layers[number]) for number in kept)
    model.config.num_hidden_layers = len(kept)
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = model.config.layer_types[: len(kept)]


def fewer_layers(model: Any) -> None:
    keep_layers(model, [0, 1])


def without_the_middle(model: Any) -> None:
    keep_layers(model, [0, 2])


def doubled_layers(model: Any) -> None:
    keep_layers(model, [0, 1, 2, 1])


def other_experts(model: Any, kept: list[int]) -> None:
    for layer in model.model.layers:
        for name in ("gate_up_proj", "down_proj"):
            held = getattr(layer.mlp.experts, name)
            setattr(layer.mlp.experts, name, nn.Parameter(held.detach()[kept] + 1))
        layer.mlp.gate.weight = nn.Parameter(layer.mlp.gate.weight.detach()[kept])
    for name in ("num_local_experts", "num_experts"):
        if hasattr(model.config, name):
            setattr(model.config, name, len(kept))


def fewer_experts(model: Any) -> None:
    other_experts(model, [3, 0])


def more_experts(model: Any) -> None:
    other_experts(model, [0, 1, 2, 3, 1])


def narrower_experts(model: Any) -> None:
    width = model.model.layers[0].mlp.experts.down_proj.shape[2]
    rows = torch.tensor([row for row in range(2 * width) if row % width < width - 2])
    for layer in model.model.layers:
        experts = layer.mlp.experts
        experts.gate_up_proj = nn.Parameter(experts.gate_up_proj.detach()[:, rows])
        experts.down_proj = nn.Parameter(experts.down_proj.detach()[:, :, : width - 2])
    name = "moe_intermediate_size" if hasattr(model.config, "moe_intermediate_size") else "intermediate_size"
    setattr(model.config, name, width - 2)


def narrower_mlp(model: Any) -> None:
    for block in model.transformer.h:
        block.mlp.c_fc.weight = nn.Parameter(block.mlp.c_fc.weight.detach()[:, :18])
        block.mlp.c_fc.bias = nn.Parameter(block.mlp.c_fc.bias.detach()[:18])
        block.mlp.c_proj.weight = nn.Parameter(block.mlp.c_proj.weight.detach()[:18])
    model.config.n_inner = 18


def tie(model: Any) -> None:
    model.config.tie_word_embeddings = True
    model.lm_head.weight = model.model.embed_tokens.weight


def untie(model: Any) -> None:
    model.config.tie_word_embeddings = False
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach() + 1)


def fewer_tower_layers(model: Any) -> None:
    tower = model.model.vision_tower
    tower.encoder.layers = tower.encoder.layers[:2]
    model.config.vision_config.num_hidden_layers = 2
    model.config.vision_feature_layer = -1


def no_pooler(model: Any) -> None:
    model.bert.pooler = None


def half_precision(model: Any) -> None:
    model.bfloat16()
    model.resize_token_embeddings(53)


def adapted(model: Any) -> Any:
    peft = pytest.importorskip("peft", reason="needs peft")
    return peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False, r=3))


def merged_adapters(model: Any) -> Any:
    return adapted(model).merge_and_unload()


class Change(NamedTuple):
    """A model, and what becomes of it between load and save."""

    make: Callable[[], Any]
    change: Callable[[Any], Any]
    strict: bool = True


CHANGES = [
    Change(llama, larger_vocabulary), Change(llama, smaller_vocabulary), Change(tied, larger_vocabulary),
    Change(gpt2, larger_vocabulary), Change(llava, larger_vocabulary), Change(bert, other_labels),
    Change(bert, more_positions), Change(llama, fewer_layers), Change(mixtral, fewer_layers),
    Change(llama, without_the_middle), Change(llama, doubled_layers), Change(qwen3_moe, doubled_layers),
    Change(mixtral, fewer_experts), Change(qwen3_moe, fewer_experts), Change(mixtral, more_experts),
    Change(mixtral, narrower_experts), Change(gpt2, narrower_mlp), Change(llama, tie), Change(tied, untie),
    Change(llava, fewer_tower_layers), Change(bert, no_pooler, strict=False), Change(llama, half_precision),
    Change(llama, merged_adapters), Change(llama, adapted),
]  # fmt: skip


def name(change: Change) -> str:
    return f"{change.make.__name__}-{change.change.__name__}"


def state(model: Any) -> dict[str, torch.Tensor]:
    """What a model holds under the library's names, adapters taken off."""
    if hasattr(model, "unload"):
        model = copy.deepcopy(model).unload()
    return model.state_dict()


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize("case", CHANGES, ids=name)
def test_c4_what_changed_is_saved_and_read_by_both(case: Change, tmp_path: Path) -> None:
    """11 of 17 such changes were refused, though the library saves them all."""
    torch.manual_seed(5)
    case.make().save_pretrained(tmp_path / "hub")
    model = wbt.from_pretrained(type(case.make()), tmp_path / "hub")
    kind = type(model)
    model = case.change(model) or model
    wanted = state(model)
    out = wbt.save_pretrained(model, tmp_path / "out")
    allowed = {} if case.strict else {"partial": True}
    ours = wbt.from_pretrained(kind, out, **allowed)
    assert equal(wanted, ours.state_dict())
    theirs, info = kind.from_pretrained(out, output_loading_info=True)
    assert not info["unexpected_keys"]
    assert not (case.strict and info["missing_keys"])
    assert not info["mismatched_keys"]
    assert equal(wanted, theirs.state_dict())


@pytest.mark.parametrize("case", CHANGES[:-2:3], ids=name)
def test_c4_the_same_holds_for_a_load_without_the_library(case: Change, tmp_path: Path) -> None:
    torch.manual_seed(5)
    case.make().save_pretrained(tmp_path / "hub")
    model = case.make()
    wb.load(model, tmp_path / "hub")
    case.change(model)
    out = wb.save(model, tmp_path / "out")
    again = copy.deepcopy(model)
    for value in again.state_dict().values():
        value.zero_()
    wb.load(again, out, **({} if case.strict else {"partial": True}))
    assert equal(model.state_dict(), again.state_dict())


def test_c4_what_did_not_change_keeps_the_names_that_it_came_in(tmp_path: Path) -> None:
    """The layout is that of the file, not the one that the mapping would choose."""
    torch.manual_seed(5)
    mixtral().save_pretrained(tmp_path / "hub")
    model = wbt.from_pretrained(transformers.MixtralForCausalLM, tmp_path / "hub")
    fewer_experts(model)
    held = load_file(wbt.save_pretrained(model, tmp_path / "out") / "model.safetensors")
    before = load_file(tmp_path / "hub" / "model.safetensors")
    gone = {key for key in before if ".experts.2." in key or ".experts.3." in key}
    assert held.keys() == before.keys() - gone
    w1 = "model.layers.1.block_sparse_moe.experts.0.w1.weight"
    assert torch.equal(held[w1], before[w1.replace("experts.0", "experts.3")] + 1)


def test_c4_the_report_says_what_changed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mixtral().save_pretrained(tmp_path / "hub")
    model = wbt.from_pretrained(transformers.MixtralForCausalLM, tmp_path / "hub")
    fewer_experts(model)
    fewer_layers(model)
    with caplog.at_level("WARNING", logger="weighbridge"):
        wb.save(model, tmp_path / "out")
    assert "model.layers.2." in caplog.text
    assert "gone since loading, not saved" in caplog.text
    assert "saved by the rules that still apply" in caplog.text


def test_c4_unequal_parts_are_not_cut_equally_when_their_shape_changes(tmp_path: Path) -> None:
    """The file said 4 and 2 rows; of 9 rows nobody knows which are whose."""
    rules = [wb.WeightConverter(["q.weight", "k.weight"], "qk.weight", [wb.Concatenate(0)])]
    model = nn.ModuleDict({"qk": nn.Linear(3, 6, bias=False)})
    wb.load(model, {"q.weight": torch.ones(4, 3), "k.weight": torch.zeros(2, 3)}, rules)
    model["qk"].weight = nn.Parameter(torch.arange(24.0).reshape(8, 3))
    with pytest.raises(wb.PlanError) as caught:
        wb.save(model, tmp_path / "out")
    assert caught.value.code == "inverse-unproven"
    assert not (tmp_path / "out").exists()
    out = wb.save(model, tmp_path / "as it is", layout="as is")
    assert load_file(out / "model.safetensors").keys() == {"qk.weight"}
    out = wb.save(model, tmp_path / "other", [wb.WeightRenaming("fused.weight", "qk.weight")])
    assert load_file(out / "model.safetensors").keys() == {"fused.weight"}


def test_c4_parts_of_one_tensor_that_have_other_sizes_now_are_joined_again(tmp_path: Path) -> None:
    """Fewer heads for keys and values: the file has one tensor for all three, whose sizes the model says."""
    rules = [wb.WeightConverter("qkv.weight", ["q.weight", "k.weight", "v.weight"], [wb.Split(0)])]
    sizes = {"q": 6, "k": 4, "v": 4}
    model = nn.ModuleDict({name: nn.Linear(3, size, bias=False) for name, size in sizes.items()})
    wb.load(model, {"qkv.weight": torch.arange(42.0).reshape(14, 3)}, rules)
    for name in "kv":
        model[name].weight = nn.Parameter(model[name].weight.detach()[:2] + 1)
    wanted = torch.cat([model[name].weight.detach() for name in "qkv"])
    for number, options in enumerate(({}, {"layout": "published"})):
        held = load_file(wb.save(model, tmp_path / f"out{number}", **options) / "model.safetensors")
        assert held.keys() == {"qkv.weight"}
        assert torch.equal(held["qkv.weight"], wanted)
    again = nn.ModuleDict({name: nn.Linear(3, size, bias=False) for name, size in (("q", 6), ("k", 2), ("v", 2))})
    wb.load(again, tmp_path / "out0", rules)
    assert equal(model.state_dict(), again.state_dict())


def test_c4_a_layout_that_only_the_load_knew_is_published_again(tmp_path: Path) -> None:
    """No mapping is registered for the model: the one that it was loaded with says what is published."""
    model = nn.ModuleDict({"inner": nn.ModuleDict({"norm": nn.LayerNorm(3)})})
    rules = [wb.WeightRenaming("gamma", "weight"), wb.WeightRenaming("beta", "bias")]
    file = {"norm.gamma": torch.ones(3), "norm.beta": torch.zeros(3)}
    wb.load(model, file, wb.Mapping(rules, base_prefix="inner"))
    assert wb.loaded_plan(model).reading == "mapped, with inner. added"
    assert load_file(wb.save(model, tmp_path / "as loaded") / "model.safetensors").keys() == file.keys()
    held = load_file(wb.save(model, tmp_path / "published", layout="published") / "model.safetensors")
    assert held.keys() == {"inner.norm.gamma", "inner.norm.beta"}
