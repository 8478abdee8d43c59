"""Models of transformers whose weights come by ranges from a hub, a store or a server, and never lie on this disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from elsewhere import reached
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


def test_arguments_of_downloads_are_refused(served: tuple[Loopback, Path]) -> None:
    with pytest.raises(WeighbridgeError) as refused:
        wbt.from_pretrained(transformers.AutoModelForCausalLM, "org/llama", stream=True, force_download=True)
    assert refused.value.code == "integration-unsupported"
