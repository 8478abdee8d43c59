"""`device_map`: models of transformers on several devices and on the disk are the library's own, and are saved."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel, Qwen3MoeConfig, Qwen3MoeForCausalLM

import weighbridge as wb
from weighbridge.integrations import transformers as wbt

pytest.importorskip("accelerate", reason="needs the package accelerate, of the extra `test`")

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own, of which they have many

SIZES = {
    "vocab_size": 24,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
}
EXPERTS = {"moe_intermediate_size": 12, "num_experts": 3, "num_experts_per_tok": 2}
FAMILIES: dict[str, Any] = {
    "as it is": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=False)),
    "tied": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)),
    "converted": lambda: Qwen3MoeForCausalLM(Qwen3MoeConfig(**SIZES, **EXPERTS)),
}
SPLIT = {"model.embed_tokens": "disk", "model.layers.0": "cpu", "model.norm": "disk", "model.rotary_emb": "cpu"}
MAPS: dict[str, dict[str, Any]] = {
    "a name": {"device_map": "cpu"},
    "auto": {"device_map": "auto"},
    "auto, with less memory": {"device_map": "auto", "max_memory": {"cpu": "9KB"}},
    "a map": {"device_map": {**SPLIT, "model.layers.1": "disk", "lm_head": "disk"}},
    "all on the disk": {"device_map": {"": "disk"}, "offload_buffers": True},
}


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> None:
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


@pytest.fixture(scope="module", params=FAMILIES)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A class of models, and a directory that the library saved one into."""
    torch.manual_seed(0)
    model, place = FAMILIES[request.param](), tmp_path_factory.mktemp("hub")
    model.save_pretrained(place)
    return type(model), place


def outputs(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(torch.arange(5)[None]).logits
    return found


def placed(load: Any, place: Path, folder: Path, **options: Any) -> dict[str, Any]:
    """Load a model, and say where everything is, and what it computes."""
    model = load(place, offload_folder=folder, **options)
    devices = {name: (str(tensor.device), tensor.dtype) for name, tensor in model.state_dict().items()}
    written = {file.name: load_file(file)[file.stem] for file in folder.glob("*")}
    seen = {"map": getattr(model, "hf_device_map", None), "devices": devices, "written": sorted(written)}
    return {"model": model, "seen": seen, "outputs": outputs(model), "tensors": written}


@pytest.mark.parametrize("how", MAPS)
def test_a_placed_model_is_the_librarys(saved: tuple[Any, Path], how: str, tmp_path: Path) -> None:
    """On the same devices, with the same files beside, and computing the same; saved, it is the file it came from."""
    kind, place = saved
    theirs = placed(kind.from_pretrained, place, tmp_path / "theirs", **MAPS[how])
    ours = placed(partial(wbt.from_pretrained, kind), place, tmp_path / "ours", **MAPS[how])
    assert ours["seen"] == theirs["seen"]
    assert ours["outputs"].equal(theirs["outputs"])
    assert all(tensor.equal(theirs["tensors"][name]) for name, tensor in ours["tensors"].items())
    saved_files = [wbt.save_pretrained(ours["model"], tmp_path / "out"), wb.save(ours["model"], tmp_path / "again")]
    for out in saved_files:
        assert (out / "model.safetensors").read_bytes() == (place / "model.safetensors").read_bytes()


def test_a_placed_model_is_saved_in_its_dtype(saved: tuple[Any, Path], tmp_path: Path) -> None:
    """What the library casts, and what it takes from the file in another dtype, is what it is in memory."""
    kind, place = saved
    for dtype, options in ((torch.bfloat16, MAPS["a map"]), (torch.bfloat16, {}), (None, MAPS["a map"])):
        model = wbt.from_pretrained(kind, place, dtype=dtype, offload_folder=tmp_path / "folder", **options)
        for layout in ("as loaded", "published", "as is"):
            wbt.save_pretrained(model, tmp_path / f"{dtype} {bool(options)} {layout}", layout=layout)
    for layout in ("as loaded", "published", "as is"):
        halves = [tmp_path / f"{torch.bfloat16} {is_placed} {layout}/model.safetensors" for is_placed in (True, False)]
        assert halves[0].read_bytes() == halves[1].read_bytes()


def test_a_tensor_that_is_converted_under_its_own_name_is_not_read_as_it_lies(tmp_path: Path) -> None:
    """By the names alone it would be found in the checkpoint, and be another matrix."""
    torch.manual_seed(1)
    model = FAMILIES["as it is"]()
    model.save_pretrained(tmp_path / "hub")
    tensors = load_file(tmp_path / "hub/model.safetensors")
    turned = {
        key: tensor.T.contiguous() if "self_attn.q_proj" in key else tensor for key, tensor in tensors.items()
    }  # square matrices
    save_file(turned, tmp_path / "hub/model.safetensors", metadata={"format": "pt"})
    rule = wb.WeightConverter("q_proj.weight", "q_proj.weight", [wb.Transpose(0, 1)])
    options = {"mapping": [rule], "layout": "mapped", "device_map": {"": "disk"}}
    with pytest.raises(wb.WeighbridgeError) as caught:
        wbt.from_pretrained(LlamaForCausalLM, tmp_path / "hub", **options)
    assert (caught.value.code, "q_proj.weight" in caught.value.where) == ("usage", True)
    loaded = wbt.from_pretrained(LlamaForCausalLM, tmp_path / "hub", offload_folder=tmp_path / "folder", **options)
    assert outputs(loaded).equal(outputs(model.eval()))
    assert len([*(tmp_path / "folder").iterdir()]) == 2
    out = wbt.save_pretrained(loaded, tmp_path / "out")
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "hub/model.safetensors").read_bytes()


def test_what_the_disk_cannot_hold_is_refused(tmp_path: Path) -> None:
    """The library loads these, and fails when the model is run. Elsewhere they can be, as the hints say."""
    FAMILIES["tied"]().save_pretrained(tmp_path / "tied")
    LlamaModel(LlamaConfig(**SIZES)).save_pretrained(tmp_path / "base")
    config = json.loads((tmp_path / "base/config.json").read_text()) | {"tie_word_embeddings": False}
    (tmp_path / "base/config.json").write_text(json.dumps(config))
    load = partial(wbt.from_pretrained, LlamaForCausalLM, offload_folder=tmp_path / "folder")
    for place, options in (
        ("tied", {"device_map": {"model": "cpu", "lm_head": "disk"}}),
        ("base", {"device_map": {"model": "cpu", "lm_head": "disk"}, "initialise": "^lm_head"}),
    ):
        with pytest.raises(wb.RegistryError) as caught:
            load(tmp_path / place, **options)
        assert caught.value.code == "integration-unsupported"
        assert "lm_head.weight" in caught.value.where
        options["device_map"] = dict.fromkeys(SPLIT, "cpu") | {"model.layers.1": "disk", "lm_head": "cpu"}
        assert outputs(load(tmp_path / place, **options)).isfinite().all()


def test_words_on_the_place_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    """Two places, and a folder where the checkpoint is, which would be no checkpoint any more."""
    FAMILIES["as it is"]().save_pretrained(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    disk = {"device_map": {"": "disk"}}
    calls = ({"device": "cpu", "device_map": "auto"}, disk | {"offload_folder": tmp_path / "in/side"})
    for options in (*calls, disk | {"offload_folder": tmp_path}):
        with pytest.raises(wb.WeighbridgeError) as caught:
            wbt.from_pretrained(LlamaForCausalLM, tmp_path, **options)
        assert caught.value.code == "usage"
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_file_of_the_offload_folder_that_changed_is_noticed(saved: tuple[Any, Path], tmp_path: Path) -> None:
    """A save reads what the model would read, and says what is not there."""
    kind, place = saved
    if kind is not Qwen3MoeForCausalLM:
        return
    model = wbt.from_pretrained(kind, place, offload_folder=tmp_path / "folder", device_map={"": "disk"})
    file = sorted((tmp_path / "folder").iterdir())[0]
    file.unlink()
    with pytest.raises(wb.CheckpointError) as caught:
        wbt.save_pretrained(model, tmp_path / "out")
    assert file.name in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_model_on_a_gpu_is_offloaded_to_memory_and_to_the_disk(saved: tuple[Any, Path], tmp_path: Path) -> None:
    """What is in memory until it is used is the model's own there, and what is on the device was made there."""
    kind, place = saved
    places: dict[str, Any] = {"model.embed_tokens": 0, "model.layers.0": "cpu", "model.layers.1": "disk"}
    places |= {"model.norm": 0, "model.rotary_emb": 0, "lm_head": 0}
    folder = tmp_path / "folder"
    ours = wbt.from_pretrained(kind, place, device_map=places, offload_folder=folder)
    theirs = kind.from_pretrained(place, device_map=places, offload_folder=tmp_path / "theirs")
    assert outputs(ours).equal(outputs(theirs))
    out = wbt.save_pretrained(ours, tmp_path / "out")
    assert (out / "model.safetensors").read_bytes() == (place / "model.safetensors").read_bytes()
