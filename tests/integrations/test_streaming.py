"""Models of transformers whose weights come by ranges from a hub, a store or a server, and never lie on this disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from elsewhere import check_no_secret, reached
from loopback import COMMIT, Loopback, loopback

from weighbridge import WeighbridgeError, loaded_plan
from weighbridge.integrations import transformers as wbt

pytest.importorskip("obstore", reason="needs obstore, of the extra weighbridge[remote]")

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Loopback, Path]]:
    folder = tmp_path_factory.mktemp("streamed")
    config = transformers.LlamaConfig(vocab_size=64, num_key_value_heads=1, **SIZES)
    model = transformers.LlamaForCausalLM(config)
    model.generation_config.temperature, model.generation_config.do_sample = 0.25, True
    model.save_pretrained(folder / "model", max_shard_size="20KB")
    with loopback() as server, reached(server, folder):
        for prefix in ("/hub/org/llama", "/bucket/llama", "/plain"):
            server.serve(prefix, folder / "model")
        yield server, folder


@pytest.mark.parametrize("place", ["org/llama", "hf://org/llama@v1", "s3://bucket/llama", "URL/plain"])
@pytest.mark.parametrize("kind", [transformers.AutoModelForCausalLM, transformers.LlamaModel], ids=["auto", "base"])
def test_a_model_is_streamed_as_it_is_loaded(served: tuple[Loopback, Path], place: str, kind: Any) -> None:
    server, folder = served
    server.reset()
    drop = ["lm_head.weight"] if kind is transformers.LlamaModel else []
    local = wbt.from_pretrained(kind, folder / "model", drop=drop)
    streamed = wbt.from_pretrained(kind, place.replace("URL", server.url), stream=True, drop=drop)
    wanted = local.state_dict()
    assert type(streamed) is type(local)
    assert streamed.state_dict().keys() == wanted.keys()
    assert all(torch.equal(value, wanted[key]) for key, value in streamed.state_dict().items())
    assert streamed.config.to_diff_dict() == local.config.to_diff_dict()
    assert streamed.name_or_path == place.replace("URL", server.url)
    if kind is not transformers.LlamaModel:
        assert streamed.generation_config.temperature == 0.25
    assert not (folder / "hub").exists()
    assert loaded_plan(streamed).hash == loaded_plan(local).hash
    if place.startswith("hf"):
        assert all(f"/resolve/{COMMIT}/" in asked.path for asked in server.asked if "/resolve/" in asked.path)


@pytest.mark.parametrize("given", [{"cache_dir": "x"}, {"force_download": True}, {"local_files_only": True}], ids=str)
def test_arguments_of_downloads_are_refused_by_name(served: tuple[Loopback, Path], given: dict[str, Any]) -> None:
    with pytest.raises(WeighbridgeError) as refused:
        wbt.from_pretrained(transformers.AutoModelForCausalLM, "org/llama", stream=True, **given)
    assert refused.value.code == "integration-unsupported"
    assert refused.value.got.startswith(f"{next(iter(given))}: ")


def test_a_token_and_a_revision_are_taken(served: tuple[Loopback, Path]) -> None:
    server, _ = served
    server.reset()
    server.token = "SECRETPASSWORD"
    kind = transformers.AutoModelForCausalLM
    with pytest.raises(WeighbridgeError) as refused:
        wbt.from_pretrained(kind, "org/llama", stream=True)
    assert refused.value.code == "remote-denied"
    model = wbt.from_pretrained(kind, "org/llama", stream=True, token="SECRETPASSWORD", revision="v1")
    source = loaded_plan(model).binding.source
    assert f"@{COMMIT}" in source.where
    check_no_secret(refused.value, source.where, source.fingerprint(), model.config, loaded_plan(model).to_json())
    asked = [each for each in server.asked if "/resolve/" in each.path]
    assert {each.headers["authorization"] for each in asked} == {"Bearer SECRETPASSWORD"}
    assert any(each.path.endswith("/revision/v1") for each in server.asked)


@pytest.mark.parametrize(
    ("place", "given"),
    [
        ("s3://bucket/llama", {"revision": "v1"}),
        ("s3://bucket/llama", {"token": "SECRETTOKEN"}),
        ("hf://org/llama@v1", {"revision": "main"}),
        ("org/llama", {"token": False}),
    ],
)
def test_what_an_address_says_is_not_said_again(served: tuple[Loopback, Path], place: str, given: Any) -> None:
    with pytest.raises(WeighbridgeError) as refused:
        wbt.from_pretrained(transformers.AutoModelForCausalLM, place, stream=True, **given)
    assert refused.value.code == "usage"
    assert "SECRETTOKEN" not in str(refused.value)


@pytest.mark.parametrize("place", ["org/variants", "s3://bucket/variants", "URL/variants"])
def test_a_variant_is_taken(served: tuple[Loopback, Path], place: str, tmp_path: Path) -> None:
    server, folder = served
    server.reset()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "model")
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(0.5)
    model.save_pretrained(tmp_path / "model", variant="half")
    for prefix in ("/hub/org/variants", "/bucket/variants", "/variants"):
        server.serve(prefix, folder / "model")
        server.serve(prefix, tmp_path / "model")
    kind, at = transformers.AutoModelForCausalLM, place.replace("URL", server.url)
    streamed = wbt.from_pretrained(kind, at, stream=True, variant="half")
    assert torch.equal(streamed.get_output_embeddings().weight, model.get_output_embeddings().weight)
    with pytest.raises(WeighbridgeError) as absent:
        wbt.from_pretrained(kind, at, stream=True, variant="none")
    assert absent.value.code == "checkpoint-not-found"
