"""Options of the library's own call that change what is loaded: by value the same as there, and saved as published."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

import weighbridge as wb
from weighbridge.integrations import transformers as wbt
from weighbridge.integrations.transformers_arguments import refuse_arguments

pytestmark = pytest.mark.filterwarnings("ignore")  # the library's own, of which it has many

SIZES = {"vocab_size": 24, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "head_dim": 4}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
EXPERTS = {"moe_intermediate_size": 12, "num_experts": 3, "num_experts_per_tok": 2}
FAMILIES: dict[str, Any] = {
    "as it is": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS, tie_word_embeddings=False)),
    "tied": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS, tie_word_embeddings=True)),
    "converted": lambda: Qwen3MoeForCausalLM(Qwen3MoeConfig(**SIZES, **HEADS, **EXPERTS)),
}


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> None:
    from transformers.utils import logging

    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of each family, as the library saves it."""
    folder = tmp_path_factory.mktemp("hub")
    torch.manual_seed(0)
    for name, make in FAMILIES.items():
        make().save_pretrained(folder / name)
    return folder


def kind_of(family: str) -> Any:
    return Qwen3MoeForCausalLM if family == "converted" else LlamaForCausalLM


def from_both(kind: Any, place: Path | None, declared: dict[str, Any] | None = None, **options: Any) -> tuple[Any, Any]:
    """Load with the library and through a plan; compare values, dtypes, ties, and what the library says of the load."""
    calls: list[Callable[[], Any]] = [
        lambda: kind.from_pretrained(place, output_loading_info=True, **options),
        lambda: wbt.from_pretrained(kind, place, output_loading_info=True, **options, **(declared or {})),
    ]
    found = []
    for call in calls:
        torch.manual_seed(3)  # weights that are made anew are random
        found.append(call())
    (theirs, said), (ours, told) = found
    assert told == said
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for (key, one), other in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert one.dtype == other.dtype, key
        assert one.equal(other), key
    tied = [getattr(model, "lm_head", None) is not None and model.lm_head.weight for model in (ours, theirs)]
    assert (tied[0] is ours.get_input_embeddings().weight) == (tied[1] is theirs.get_input_embeddings().weight)
    assert str(ours._weight_conversions) == str(theirs._weight_conversions)
    return ours, told


def copied(place: Path, out: Path, rename: Callable[[str], str], **more: torch.Tensor) -> Path:
    """Save a checkpoint anew under other names."""
    out.mkdir()
    tensors = {rename(key): tensor for key, tensor in load_file(place / "model.safetensors").items()}
    save_file(tensors | more, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_bytes((place / "config.json").read_bytes())
    return out


# ---- ignore_mismatched_sizes ----

CHANGES: list[tuple[str, dict[str, int]]] = [
    ("as it is", {"vocab_size": 30}),
    ("as it is", {}),
    ("tied", {"vocab_size": 30}),
    ("tied", {"intermediate_size": 18}),
    ("converted", {"num_experts": 4}),
    ("converted", {"num_experts": 2}),
    ("converted", {"moe_intermediate_size": 10, "vocab_size": 30}),
]


@pytest.mark.parametrize(("family", "changes"), CHANGES, ids=str)
def test_weights_of_another_size_are_made_anew(hub: Path, family: str, changes: dict[str, int], tmp_path: Path) -> None:
    """The same ones as there, with the same values; and saved under the names that the checkpoint has for them."""
    kind, place = kind_of(family), hub / family
    ours, told = from_both(kind, place, ignore_mismatched_sizes=True, **changes)
    report = str(wb.loaded_plan(ours).report)
    assert bool(told["mismatched_keys"]) == bool(changes) == ("of another size: " in report)
    out = wbt.save_pretrained(ours, tmp_path / "out")
    again = kind.from_pretrained(out)
    assert all(again.state_dict()[key].equal(tensor) for key, tensor in ours.state_dict().items())
    names = set(load_file(place / "model.safetensors"))
    if "num_experts" not in changes:
        assert set(load_file(out / "model.safetensors")) == names
    if changes:
        with pytest.raises(wb.PlanError):
            wbt.from_pretrained(kind, place, **changes)


@pytest.mark.corpus
def test_the_layout_is_told_by_the_other_sizes(corpus: Path) -> None:
    """Of experts that are transposed or not; were every size free, either could be."""
    from transformers import AutoConfig, Qwen3VLMoeForConditionalGeneration as Vision

    place = corpus / "cases/qwen3_vl_moe__Qwen3VLMoeForConditionalGeneration"
    config = AutoConfig.from_pretrained(place)
    config.text_config.intermediate_size += 4
    assert from_both(Vision, place, config=config, ignore_mismatched_sizes=True)[1]["mismatched_keys"]


def test_half_of_what_a_tensor_becomes_is_not_made_anew(hub: Path, tmp_path: Path) -> None:
    """What is left of it would be in nobody's file."""
    tensors = load_file(hub / "as it is/model.safetensors")
    for layer in (0, 1):
        gate, up = (tensors.pop(f"model.layers.{layer}.mlp.{name}_proj.weight") for name in ("gate", "up"))
        tensors[f"model.layers.{layer}.mlp.both.weight"] = torch.cat([gate, up, up[:3]])
    place = copied(hub / "as it is", tmp_path / "joined", str)
    save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
    rule = wb.WeightConverter(
        "mlp.both.weight", ["mlp.gate_proj.weight", "mlp.up_proj.weight"], [wb.Split(0, (20, 23))]
    )
    with pytest.raises(wb.RegistryError) as caught:
        wbt.from_pretrained(LlamaForCausalLM, place, mapping=[rule], ignore_mismatched_sizes=True)
    assert caught.value.code == "integration-unsupported"
    assert caught.value.where == "model.layers.0.mlp.both.weight"


# ---- output_loading_info ----


def test_what_the_library_says_of_a_load_is_said(hub: Path, tmp_path: Path) -> None:
    """Missing and unexpected keys are there what a partial load accepts here, and under the library's names."""
    from transformers import Qwen3MoeModel

    base = tmp_path / "base"
    LlamaModel.from_pretrained(hub / "as it is").save_pretrained(base)
    assert from_both(LlamaForCausalLM, base, {"partial": True}, tie_word_embeddings=False)[1]["missing_keys"]
    assert from_both(LlamaForCausalLM, base, {"initialise": "^lm_head"}, tie_word_embeddings=False)[1]["missing_keys"]
    for kind, family in ((LlamaModel, "as it is"), (Qwen3MoeModel, "converted")):
        for declared in ({"partial": True}, {"drop": "^lm_head"}, {"carry": "^lm_head"}):
            assert from_both(kind, hub / family, declared)[1]["unexpected_keys"] == {"lm_head.weight"}
    strange = {"model.layers.7.mlp.experts.0.gate_proj.weight": torch.ones(2), "foo.bar": torch.ones(2)}
    place = copied(hub / "converted", tmp_path / "strange", str, **strange)
    told = from_both(Qwen3MoeForCausalLM, place, {"partial": True})[1]
    assert told["unexpected_keys"] == {"foo.bar", "model.layers.7.mlp.experts.gate_up_proj"}
    model = wbt.from_pretrained(LlamaForCausalLM, hub / "as it is", output_loading_info=False)
    assert isinstance(model, LlamaForCausalLM)


# ---- key_mapping ----

RENAMES = {
    "texts": {"^backbone.blocks": "model.layers", "attention": "self_attn"},
    "expressions": {r"^backbone\.blocks\.(\d+)": r"model.layers.\1", r"\.attention(?=\.)": ".self_attn"},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_keys_are_mapped_as_the_library_does_it(hub: Path, family: str, tmp_path: Path) -> None:
    """Before the family's own rules; and the way back takes all of them back, byte for byte."""

    def trained(key: str) -> str:
        return key.replace("model.layers", "backbone.blocks").replace("self_attn", "attention")

    place, kind = copied(hub / family, tmp_path / "trained", trained), kind_of(family)
    for name, key_mapping in RENAMES.items():
        ours, _ = from_both(kind, place, key_mapping=key_mapping)
        out = wbt.save_pretrained(ours, tmp_path / name)
        assert (out / "model.safetensors").read_bytes() == (place / "model.safetensors").read_bytes()
    with pytest.raises(wb.PlanError):
        wbt.from_pretrained(kind, place)
    rules = wbt.resolve(kind.config_class.from_pretrained(place))
    ours = wbt.from_pretrained(kind, place, mapping=rules, key_mapping=RENAMES["texts"])
    assert ours.state_dict().keys() == kind.from_pretrained(hub / family).state_dict().keys()
    with pytest.raises(wb.PatternError):
        wbt.from_pretrained(kind, place, key_mapping={"attention(": "self_attn"})


# ---- state_dict ----


@pytest.mark.parametrize("family", FAMILIES)
def test_a_state_dict_is_loaded_as_the_library_does_it(hub: Path, family: str, tmp_path: Path) -> None:
    """In the names of a file and in the model's own; what is loaded is a copy."""
    kind, place = kind_of(family), hub / family
    config, tensors = kind.config_class.from_pretrained(place), load_file(place / "model.safetensors")
    ours, _ = from_both(kind, None, config=config, state_dict=tensors)
    from_both(kind, None, config=str(place), state_dict=tensors, dtype=torch.bfloat16)
    from_both(kind, None, config=config, state_dict=kind.from_pretrained(place).state_dict())
    out = wbt.save_pretrained(ours, tmp_path / "out")
    assert (out / "model.safetensors").read_bytes() == (place / "model.safetensors").read_bytes()
    before = {key: tensor.clone() for key, tensor in tensors.items()}
    with torch.no_grad():
        for tensor in ours.parameters():
            tensor.add_(1)
    assert all(tensors[key].equal(tensor) for key, tensor in before.items())


def test_places_that_contradict_each_other_are_refused(hub: Path) -> None:
    """Two places for one model's weights, none, and a state dict that does not say what it is of."""
    config, place, tensors = LlamaConfig(), hub / "tied", {"a": torch.ones(1)}
    calls: list[tuple[Any, Path | None, Any, dict[str, Any]]] = [
        (LlamaForCausalLM, place, config, {"state_dict": tensors}),
        (LlamaForCausalLM, None, config, {}),
        (LlamaForCausalLM, None, None, {"state_dict": tensors}),
        (AutoModelForCausalLM, None, config, {"state_dict": tensors}),
    ]
    for kind, path, given, arguments in calls:
        with pytest.raises(wb.WeighbridgeError) as caught:
            refuse_arguments(kind, path, given, None, arguments)
        assert caught.value.code == "usage"
    refuse_arguments(LlamaForCausalLM, None, config, None, {"state_dict": tensors})  # as the hints say
    refuse_arguments(AutoModelForCausalLM, place, None, None, {})


# ---- variant ----


@pytest.mark.parametrize("family", ["as it is", "converted"])
def test_a_variant_is_the_one_that_the_library_takes(hub: Path, family: str, tmp_path: Path) -> None:
    """One file, shards with an index, a torch file; saved where the library looks for it without the variant."""
    kind, place = kind_of(family), tmp_path / "both"
    kind.from_pretrained(hub / family).save_pretrained(place)
    half = kind.from_pretrained(hub / family).half()
    half.save_pretrained(place, variant="fp16")
    half.save_pretrained(tmp_path / "shards", variant="fp16", max_shard_size="4KB")
    torch_file = copied(place, tmp_path / "torch", str)
    (torch_file / "model.safetensors").unlink()
    torch.save(load_file(place / "model.fp16.safetensors"), torch_file / "pytorch_model.fp16.bin")
    for folder in (place, tmp_path / "shards", torch_file):
        ours, _ = from_both(kind, folder, variant="fp16")
        assert ours.dtype == torch.float16
        out = wbt.save_pretrained(ours, tmp_path / f"{folder.name} saved")
        assert {file.name for file in out.glob("*.safetensors")} == {"model.safetensors"}
        again = kind.from_pretrained(out)
        assert all(again.state_dict()[key].equal(tensor) for key, tensor in ours.state_dict().items())
    from_both(kind, place)
    kept = wb.save(wbt.from_pretrained(kind, tmp_path / "shards", variant="fp16"), tmp_path / "as loaded")
    for file in [*(tmp_path / "shards").glob("*.safetensors"), tmp_path / "shards/model.safetensors.index.fp16.json"]:
        assert (kept / file.name).read_bytes() == file.read_bytes()
    for folder, options in ((place, {"variant": "fp8"}), (torch_file, {"variant": "fp16", "use_safetensors": True})):
        with pytest.raises(wb.CheckpointError) as caught:
            wbt.from_pretrained(kind, folder, **options)
        assert caught.value.code == "checkpoint-not-found"
        assert "fp16" in caught.value.got


def test_the_index_of_a_variant_opens_and_is_carried_along_by_nobody(hub: Path, tmp_path: Path) -> None:
    """Beside other weights it would name files that are not there."""
    model = LlamaForCausalLM.from_pretrained(hub / "tied")
    model.save_pretrained(tmp_path / "in", variant="fp16", max_shard_size="4KB")
    index = tmp_path / "in/model.safetensors.index.fp16.json"
    opened = wb.open(index)
    assert opened.header.specs == wb.open(hub / "tied").header.specs
    model.save_pretrained(tmp_path / "in")
    out = wb.convert(tmp_path / "in", tmp_path / "out", [])
    assert not list(out.glob("*fp16*"))
