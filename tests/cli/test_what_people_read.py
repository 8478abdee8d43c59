"""What people read when they try something: each answer says what is there, and what to write instead."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from command import fill, run
from conftest import ROOT
from safetensors.torch import load_file, save_file

import weighbridge as wb

FORMATS = ROOT.parent / "shared" / "formats"


@pytest.fixture
def there(tmp_path: Path) -> Path:
    return fill(tmp_path)


def shards(folder: Path, stem: str, count: int = 2) -> None:
    """Write files of which each holds one tensor, as those of a checkpoint whose index is lost."""
    folder.mkdir(exist_ok=True)
    for number in range(1, count + 1):
        name = f"{stem}-{number:05}-of-{count:05}.safetensors"
        save_file({f"{stem}.{number}.weight": torch.full((2, 3), float(number))}, folder / name)


@pytest.mark.parametrize("name", ["out.safetensors", "out.pkl", "out.gguf", "deep/out.safetensors"])
def test_a_directory_is_not_given_the_name_of_a_file(there, name):
    ran = run(there, "convert", "model", name)
    assert ran.status == 2
    assert ran.err.startswith("usage: a directory is made here, and this is the name of a .")
    assert "name a directory; with --max-shard-size none one model.safetensors is in it" in ran.err
    assert not (there / name).exists()
    made = wb.plan(there / "model")
    writers = (
        made.write,
        lambda to: wb.convert(there / "model", to),
        lambda to: wb.save(torch.nn.Linear(3, 2), to, []),
        lambda to: made.write(to.with_name("model.safetensors.index.json")),
    )
    for write in writers:
        with pytest.raises(wb.DestinationError) as caught:
            write(there / name)
        assert caught.value.code == "usage"
    assert sorted(path.name for path in there.iterdir()) == ["maps.py", "model"]


def test_what_the_refusal_of_a_files_name_says_can_be_done(there):
    assert run(there, "convert", "model", "out", "--max-shard-size", "none").status == 0
    assert load_file(there / "out" / "model.safetensors").keys() == load_file(there / "model/model.safetensors").keys()
    assert run(there, "convert", "model", "out.pt").status == 0
    assert len(torch.load(there / "out.pt")) == 10


def test_options_of_adapters_are_refused_by_the_names_that_were_typed(there):
    ran = run(there, "convert", "model", "out", "--block-diagonal", "--lora-b-layout", "rank_major")
    assert ran.status == 2
    assert "  got       --block-diagonal, --lora-b-layout\n" in ran.err
    assert "  try       leave this out, or open the directory of an adapter" in ran.err
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(there / "model", adapter_prefix="unet.")
    assert (caught.value.code, caught.value.got) == ("usage", "adapter_prefix= (--adapter-prefix)")


def test_an_order_of_columns_that_is_none_is_refused_with_those_that_are(there):
    ran = run(there, "convert", "model", "out", "--lora-b-layout", "foo")
    assert ran.status == 2
    assert "@ --lora-b-layout\n  expected  rank_major, grouped_by_expert\n  got       'foo'" in ran.err


def test_shards_of_several_checkpoints_without_an_index_can_be_set_apart(tmp_path):
    for stem in ("model", "ema", "old"):
        shards(tmp_path / "all", stem)
    ran = run(tmp_path, "inspect", "all")
    assert ran.status == 4
    assert "try       put the files that are meant into a directory of their own, and open that" in ran.err
    shards(tmp_path / "one", "ema")
    assert list(wb.open(tmp_path / "one").header) == ["ema.1.weight", "ema.2.weight"]


def test_one_shard_that_is_opened_alone_is_said_to_be_one_of_several(tmp_path, caplog):
    shards(tmp_path / "model", "model")
    name = "model-00001-of-00002.safetensors"
    ran = run(tmp_path, "convert", f"model/{name}", "half")
    assert ran.status == 0
    said = f"{name} is opened alone, and is by its name one of 2 files: open their directory, or their index, for all\n"
    assert ran.err == said
    assert run(tmp_path, "convert", "model", "whole").err == ""
    assert run(tmp_path, "inspect", "model/model-{i:05}-of-00002.safetensors").err == ""
    with caplog.at_level(logging.WARNING, logger="weighbridge"):
        wb.plan(tmp_path / "model" / name).write(tmp_path / "again")
        wb.plan(tmp_path / "model")
    assert [record.getMessage() + "\n" for record in caplog.records] == [said]


def test_a_shard_of_a_torch_checkpoint_is_said_to_be_one_and_a_single_one_is_not(tmp_path, caplog):
    for name in ("pytorch_model-00003-of-00004.bin", "pytorch_model-00001-of-00001.bin"):
        torch.save({"model": {"a": torch.ones(2)}}, tmp_path / name)
        wb.open(f"{tmp_path / name}::model")
    assert [record.args for record in caplog.records if record.levelno == logging.WARNING] == [
        ("pytorch_model-00003-of-00004.bin", "4")
    ]


def test_several_files_are_called_what_they_are(tmp_path):
    shards(tmp_path, "model")
    torch.save({"a": torch.ones(2)}, tmp_path / "part-1.pt")
    place = "model-{i:05}-of-00002.safetensors"
    assert "format    safetensors, 2 files\n" in run(tmp_path, "inspect", place).out
    assert run(tmp_path, "inspect", place, "--json").form["format"] == "safetensors"
    assert "format    torch, 1 file\n" in run(tmp_path, "inspect", "part-{i}.pt").out


@pytest.mark.skipif(not FORMATS.is_dir(), reason="needs the directory shared/formats beside the project")
@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("modelopt-nvfp4", "quantization_config of config.json, hf_quant_config.json"),
        ("gptq-int4", "quantization_config of config.json, quantize_config.json"),
    ],
)
def test_what_spoke_of_codes_and_is_left_behind_is_said(name, gone, tmp_path):
    source = FORMATS / name
    ran = run(tmp_path, "convert", str(source), "out", "--dtype", "bfloat16")
    assert ran.status == 0, ran.err
    assert f"note      left behind with the codes: {gone}\n" in ran.out
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
    assert not (tmp_path / "out" / gone.split(", ")[1]).exists()
    assert "left behind" not in run(tmp_path, "convert", str(source), "same").out
