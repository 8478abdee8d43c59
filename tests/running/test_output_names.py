"""The name of an output's weight files: given, found again by all that reads an output, and refused before a write."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from command import run
from safetensors.torch import load_file, save_file

import weighbridge as wb

RULES = wb.Mapping([wb.WeightRenaming("old", "new")], name="renamed")
NAME = "diffusion_pytorch_model"


def state() -> dict[str, torch.Tensor]:
    return {f"old.{number}": torch.randn(number + 2, 7) for number in range(6)}


def publish(folder: Path) -> Path:
    folder.mkdir()
    save_file(state(), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text('{"model_type": "small"}')
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def weights_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if "safetensors" in path.name)


@pytest.mark.parametrize("link", ["never", "share"])
@pytest.mark.parametrize("size", [None, 300])
def test_an_output_is_found_again_under_its_name(tmp_path: Path, size: int | None, link: str) -> None:
    source = publish(tmp_path / "source")
    out = wb.convert(
        source, tmp_path / "out", RULES, name=NAME, max_shard_size=size, digests=True, link=link, sync=False
    )
    wanted = {key.replace("old", "new"): tensor for key, tensor in load_file(source / "model.safetensors").items()}
    split = huggingface_hub.split_torch_state_dict_into_shards(
        wanted,
        filename_pattern=NAME + "{suffix}.safetensors",
        max_shard_size=10**9 if size is None or link == "share" else size,
    )
    index = [f"{NAME}.safetensors.index.json"] if split.is_sharded else []
    assert weights_in(out) == sorted([*split.filename_to_tensors, *index])
    assert split.is_sharded == (size is not None and link == "never")
    made = {key: value for name in split.filename_to_tensors for key, value in load_file(out / name).items()}
    assert made.keys() == wanted.keys()
    assert all(torch.equal(made[key], wanted[key]) for key in wanted)
    if index:
        assert json.loads((out / index[0]).read_text())["weight_map"] == dict(split.tensor_to_filename)
        assert wb.verify(out / index[0], wanted)
    assert wb.verify(out)
    assert wb.verify(out, wanted)
    assert digests(wb.revert(out, tmp_path / "back")) == digests(source)


def test_a_name_may_hold_a_variant_and_dots(tmp_path: Path) -> None:
    out = wb.plan(publish(tmp_path / "source")).write(tmp_path / "out", name="model.fp16", max_shard_size=300)
    assert weights_in(out)[-1] == "model.fp16.safetensors.index.json"
    assert wb.verify(out, tmp_path / "source")


def test_a_model_is_saved_under_a_name_instead_of_its_old_files(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 5)
    source = wb.plan({"old.weight": torch.randn(5, 3), "old.bias": torch.randn(5)}).write(tmp_path / "source")
    rules = [wb.PrefixChange(prefix_to_remove="old")]
    wb.load(model, source, rules)
    out = wb.save(model, tmp_path / "out", name="adapter_model")
    assert weights_in(out) == ["adapter_model.safetensors"]
    assert wb.verify(out, source)
    assert wb.verify(out, {"old.weight": model.weight, "old.bias": model.bias})
    other = torch.nn.Linear(3, 5)
    wb.load(other, out, rules)
    assert torch.equal(other.weight, model.weight)
    assert torch.equal(other.bias, model.bias)
    assert weights_in(wb.save(model, tmp_path / "as_it_was")) == ["model.safetensors"]
    assert weights_in(wb.save(other, tmp_path / "named")) == ["adapter_model.safetensors"]


def test_an_unfinished_output_of_another_name_is_not_gone_on_with(tmp_path: Path) -> None:
    source = publish(tmp_path / "source")

    def stop(done: int, whole: int) -> None:
        if done > whole // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wb.convert(source, tmp_path / "out", RULES, name="first", resume=True, progress=stop, memory_budget=2000)
    with pytest.raises(wb.WeighbridgeError) as caught:
        wb.convert(source, tmp_path / "out", RULES, name="second", resume=True)
    assert caught.value.code == "resume-mismatch"
    out = wb.convert(source, tmp_path / "out", RULES, name="first", resume=True)
    assert weights_in(out) == ["first.safetensors"]
    assert digests(wb.revert(out, tmp_path / "back")) == digests(source)


@pytest.mark.parametrize(
    ("name", "got"),
    [
        ("", "'': it is empty"),
        ("a/b", "'a/b': a slash or a colon is in it"),
        ("..", "'..': it begins with a dot or a space, or ends in one"),
        (".hidden", "'.hidden': it begins with a dot or a space, or ends in one"),
        ("a\\b", "'a\\\\b': a slash or a colon is in it"),
        ("c:model", "'c:model': a slash or a colon is in it"),
        ("a\nb", "'a\\nb': a character in it is not printable"),
        ("model.safetensors", "'model.safetensors': it ends in .safetensors"),
        ("pytorch_model.BIN", "'pytorch_model.BIN': it ends in .bin"),
        ("weighbridge.json", "'weighbridge.json': it ends in .json"),
        ("model-00001-of-00002", "'model-00001-of-00002': it ends in the number of a shard"),
        (7, "a int"),
    ],
)
def test_a_bad_name_is_refused_before_anything_is_written(tmp_path: Path, name: Any, got: str) -> None:
    source = publish(tmp_path / "source")
    before = sorted(tmp_path.rglob("*"))
    for write in (
        lambda: wb.convert(source, tmp_path / "deep" / "out", RULES, name=name),
        lambda: wb.plan(source, RULES).write(tmp_path / "deep" / "out", name=name),
        lambda: wb.save(torch.nn.Linear(2, 3), tmp_path / "out", layout="as is", name=name),
    ):
        with pytest.raises(wb.WeighbridgeError) as caught:
            write()
        assert (caught.value.code, caught.value.got) == ("usage", got)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_name_too_long_for_its_shards_is_refused(tmp_path: Path) -> None:
    source = publish(tmp_path / "source")
    assert len(weights_in(wb.convert(source, tmp_path / "out", name="ü" * 100, max_shard_size=300))) > 2
    with pytest.raises(wb.WeighbridgeError, match="it is too long"):
        wb.convert(source, tmp_path / "other", name="ü" * 101)


def test_the_command_takes_a_name(tmp_path: Path) -> None:
    publish(tmp_path / "source")
    ran = run(tmp_path, "convert", "source", "out", "--name", "adapter_model", "--json")
    assert ran.status == 0, ran.err
    assert ran.form["files"] == ["adapter_model.safetensors", "config.json", "weighbridge.json"]
    assert run(tmp_path, "revert", "out", "back").status == 0
    assert digests(tmp_path / "back") == digests(tmp_path / "source")
    refused = run(tmp_path, "convert", "source", "other", "--name", "adapter_model.bin")
    assert refused.status == 2
    assert refused.err.startswith("usage: weight files cannot have this name")
    assert not (tmp_path / "other").exists()
