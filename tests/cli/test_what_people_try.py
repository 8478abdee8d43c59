"""What somebody who is new here does first, and what the answer tells them to do next."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from command import run
from safetensors.torch import save_file

import weighbridge as wb
from weighbridge import TensorSpec


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"a.gamma": torch.ones(4)}, folder / "model.safetensors")
    (tmp_path / "map.yaml").write_text("transforms:\n- rename: gamma\n  to: weight\n")
    return folder


def test_a_mapping_in_the_first_place_is_no_reason_to_remove_a_checkpoint(model: Path, tmp_path: Path) -> None:
    ran = run(tmp_path, "convert", "map.yaml", "model", "out")
    assert (ran.status, ran.err.split(":")[0]) == (2, "usage")
    assert "try       model out map.yaml" in ran.err
    assert run(tmp_path, "convert", "model", "out", "map.yaml").status == 0


def test_a_configuration_that_cannot_be_read_is_said(model: Path) -> None:
    (model / "config.json").write_text("{bad")
    (note,) = (note for note in wb.plan(model).notes if "config.json" in note)
    assert "cannot be read, and is taken for none" in note
    (model / "config.json").write_text("{}")
    assert not any("config.json" in note for note in wb.plan(model).notes)


def test_only_what_was_asked_for_is_offered_to_be_set(model: Path, tmp_path: Path) -> None:
    ran = run(tmp_path, "plan", "model", "map.yaml", "--set", "num_attention_heads=8")
    assert ran.status == 2
    assert "quantization" not in ran.err


def test_a_place_in_front_of_the_model_is_said() -> None:
    for call in (wb.load, wb.save):
        with pytest.raises(wb.WeighbridgeError, match="the model comes first") as caught:
            call("model", torch.nn.Linear(2, 2), [])  # type: ignore[arg-type]
        assert caught.value.code == "usage"


@pytest.mark.filterwarnings("ignore")
def test_a_distributed_checkpoint_whose_files_did_not_arrive_is_told_as_one(tmp_path: Path) -> None:
    dcp.save({"w": torch.ones(3)}, checkpoint_id=tmp_path / "step", no_dist=True)
    for file in (tmp_path / "step").glob("*.distcp"):
        file.unlink()
    with pytest.raises(wb.CheckpointError, match="a file that the metadata names is missing") as caught:
        wb.open(tmp_path / "step")
    assert caught.value.code == "dcp-invalid"


def test_the_family_of_a_packed_checkpoint_is_that_of_its_weights() -> None:
    specs = {"model.embed_tokens.weight": TensorSpec("F16", (32, 64)), "model.norm.weight": TensorSpec("F16", (64,))}
    for layer in range(2):
        names = [
            *(f"self_attn.{name}_proj" for name in "qkvo"),
            *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
        ]
        for name in names:
            stem = f"model.layers.{layer}.{name}"
            specs[f"{stem}.qweight"] = TensorSpec("I32", (8, 64))
            specs[f"{stem}.qzeros"] = TensorSpec("I32", (2, 8))
            specs[f"{stem}.scales"] = TensorSpec("F16", (2, 64))
            specs[f"{stem}.g_idx"] = TensorSpec("I32", (64,))
        for name in ("input_layernorm", "post_attention_layernorm"):
            specs[f"model.layers.{layer}.{name}.weight"] = TensorSpec("F16", (64,))
    said = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False, "checkpoint_format": "gptq"}
    config = {"model_type": "llama", "quantization_config": said}
    from weighbridge.studies.detection import detect

    best = detect(wb.Header(specs), config).best
    assert best is not None
    assert (best.name, best.score) == ("llama", 1.0)


def test_options_that_would_do_nothing_are_refused(model: Path, tmp_path: Path) -> None:
    for *words, said, followed in (
        ("plan", "model", "map.yaml", "--dtype", "target", "--dtype target: there is no target", ["--dtype", "F16"]),
        ("convert", "model", "out.pth", "--max-shard-size", "1GB", "a torch file is not cut into shards", []),
        ("plan", "model", "--layout", "mapped", "--layout mapped needs the mapping that is meant", []),
    ):
        typed = [str(word) for word in words]
        ran = run(tmp_path, *typed)
        assert ran.err.startswith(f"usage: {said}"), ran.err
        assert ran.status == 2
        assert len(list(tmp_path.iterdir())) == 2
        without = [*typed[: typed.index(next(word for word in typed if word.startswith("--")))], *followed]
        assert run(tmp_path, *without).status == 0
        (tmp_path / "out.pth").unlink(missing_ok=True)
    assert run(tmp_path, "plan", "model", "map.yaml", "--dtype", "target", "--target", "model").err.count("usage") == 0


def test_a_plan_is_written_by_either_name_of_the_option(model: Path, tmp_path: Path) -> None:
    for option in ("-o", "--out"):
        assert run(tmp_path, "plan", "model", "map.yaml", option, f"plan{option}.json").status == 0
    assert (tmp_path / "plan-o.json").read_bytes() == (tmp_path / "plan--out.json").read_bytes()


def test_a_file_that_is_all_its_directory_holds_has_the_configuration_beside_it(model: Path, tmp_path: Path) -> None:
    """As the directory has it; of all else that lies there nothing is taken along. Of two files neither has it."""
    (model / "config.json").write_text('{"model_type": "mine", "sizes": [1, 3]}')
    (model / "notes.txt").write_text("not the model's")
    (tmp_path / "cut.yaml").write_text(
        "transforms:\n- convert: a.gamma\n  to: [b, c]\n  with: [{Split: {dim: 0, sizes: sizes}}]\n"
    )
    file = "model/model.safetensors"
    assert json.loads(run(tmp_path, "inspect", file, "--json").out)["family"]["name"] == "mine"
    assert run(tmp_path, "plan", file, "cut.yaml").status == 0
    assert run(tmp_path, "convert", file, "out", "cut.yaml").status == 0
    assert {each.name for each in (tmp_path / "out").iterdir()} == {
        "config.json",
        "model.safetensors",
        "weighbridge.json",
    }
    assert run(tmp_path, "revert", "out", "back").status == 0
    assert run(tmp_path, "verify", "back/model.safetensors", file).status == 0
    save_file({"b": torch.ones(1)}, model / "other.safetensors")
    assert run(tmp_path, "plan", file, "cut.yaml").status == 0  # the name by which a directory is read
    (model / "model.safetensors").rename(model / "one.safetensors")
    ran = run(tmp_path, "plan", "model/one.safetensors", "cut.yaml")
    assert ran.status != 0
    assert "sizes" in ran.err
    assert run(tmp_path, "plan", "model/one.safetensors", "cut.yaml", "--config", "model/config.json").status == 0
