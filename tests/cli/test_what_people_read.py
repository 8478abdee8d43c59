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


def test_a_selection_of_nothing_names_what_is_near_and_what_a_star_is(there):
    ran = run(there, "plan", "model", "--only", "**.norm.*")
    assert ran.status == 3
    assert "got       nearest: layers.0.norm.gamma" in ran.err
    assert "try       a lone * is an index, and ** any names: **.norm.**" in ran.err
    made = run(there, "plan", "model", "--only", "**.norm.**", "--json")
    assert [step["targets"] for step in made.form["steps"]] == [["layers.{0..2}.norm.gamma"]]
    assert "lone *" not in run(there, "plan", "model", "--only", "layers.*.nrom.gamma").err


def test_a_part_of_a_name_is_near_to_it(tmp_path):
    save_file({"model.language_model.embed_tokens.weight": torch.ones(2, 3)}, tmp_path / "a.safetensors")
    (tmp_path / "map.yaml").write_text("transforms: []\n")
    near = "model.language_model.embed_tokens.weight"
    assert f"nearest  {near}" in run(tmp_path, "explain", "a.safetensors", "map.yaml", "embed").out
    ran = run(tmp_path, "inspect", "a.safetensors", "--key", "embed")
    assert ran.status == 4
    assert f"got       nearest: '{near}'\n" in ran.err
    assert "try       take one of these names; weighbridge inspect a.safetensors --full lists all\n" in ran.err
    assert near in run(tmp_path, "inspect", "a.safetensors", "--full").out


@pytest.mark.parametrize(
    ("pattern", "left"), [("**.k.weight", 7), ("layers.{0..1}.q.weight", 8), ("layers.{0,2}.{q,k}.weight", 6)]
)
def test_what_only_takes_is_taken_by_drop_as_well(there, pattern, left):
    assert run(there, "convert", "model", "out", "--drop", pattern).status == 0
    kept = load_file(there / "out" / "model.safetensors")
    whole = wb.plan(there / "model")
    assert len(kept) == left
    assert kept.keys() == whole.target.keys() - whole.restrict([pattern]).target.keys()
    assert f'"{pattern}"' in (there / "out" / "weighbridge.json").read_text().replace('\\"', '"')


def test_carry_and_initialise_take_selections_and_what_is_neither_is_refused_as_before(there):
    assert run(there, "plan", "model", "maps.py:FUSED", "--carry", "**.gamma").status == 0
    fused = run(there, "plan", "model", "maps.py:FUSED", "--carry", "**.gamma", "--json").form
    assert ["layers.{0..2}.norm.gamma"] in [step["targets"] for step in fused["steps"]]
    save_file({"embed.weight": torch.ones(11, 5), "deep.new.bias": torch.ones(2)}, there / "want.safetensors")
    save_file({"embed.weight": torch.ones(11, 5)}, there / "have.safetensors")
    asked = ("plan", "have.safetensors", "--target", "want.safetensors", "--initialise", "**.bias")
    assert run(there, *asked).status == 0
    ran = run(there, "plan", "model", "--drop", "(((")
    assert (ran.status, ran.err.split(":")[0]) == (3, "pattern-syntax")


def test_a_plan_is_not_taken_for_a_mapping(there):
    assert run(there, "plan", "model", "maps.py:FUSED", "--out", "plan.json").status == 0
    ran = run(there, "convert", "model", "out", "plan.json")
    assert ran.status == 2
    assert ran.err.startswith("mapping-file: this file holds a plan, which is no mapping @ plan.json")
    (there / "map.json").write_text(json.dumps(json.loads((there / "plan.json").read_text())["mapping"]))
    assert run(there, "convert", "model", "out", "map.json").status == 0
    assert "layers.0.qk.weight" in load_file(there / "out" / "model.safetensors")


def test_files_of_other_formats_are_refused_with_what_to_do(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pkl")
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    assert "try       make safetensors files of it with its own tools" in run(tmp_path, "inspect", "a.gguf").err
    assert "try       give it a name that ends in .pt, if torch.save wrote it" in run(tmp_path, "inspect", "a.pkl").err
    (tmp_path / "a.pkl").rename(tmp_path / "a.pt")
    assert run(tmp_path, "inspect", "a.pt").status == 0


def test_an_adapters_file_is_said_to_lack_its_configuration_and_its_directory_to_be_an_adapter(tmp_path):
    (tmp_path / "adapter").mkdir()
    stem = "base_model.model.layers.0.q_proj"
    factors = {f"{stem}.lora_A.weight": torch.ones(2, 3), f"{stem}.lora_B.weight": torch.ones(4, 2)}
    save_file(factors, tmp_path / "adapter" / "adapter_model.safetensors")
    said = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    config = json.dumps({**said, "base_model_name_or_path": "some/base"})
    (tmp_path / "adapter" / "adapter_config.json").write_text(config)
    (tmp_path / "map.yaml").write_text("transforms: [{rename: q_proj, to: query}]\n")
    assert "adapter   LORA, rank 2, of some/base, on q_proj\n" in run(tmp_path, "inspect", "adapter").out
    told = {"kind": "LORA", "base": "some/base", "rank": 2, "targets": ["q_proj"]}
    assert json.loads(run(tmp_path, "inspect", "adapter", "--json").out)["adapter"] == told
    assert "adapter   " not in run(tmp_path, "inspect", "adapter/adapter_model.safetensors").out
    ran = run(tmp_path, "convert", "adapter/adapter_model.safetensors", "half", "map.yaml")
    assert "without the adapter_config.json beside it: open their directory for an adapter\n" in ran.err
    whole = run(tmp_path, "convert", "adapter", "whole", "map.yaml")
    assert (whole.status, whole.err) == (0, "")
    assert f"{stem.replace('q_proj', 'query')}.lora_A.weight" in load_file(tmp_path / "whole/adapter_model.safetensors")
