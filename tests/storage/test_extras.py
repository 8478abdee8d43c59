"""The files beside the weights (A12, G14, G17): carried or left by one rule, and what is left is said by name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from command import run
from safetensors.torch import save_file

import weighbridge as wb
from weighbridge.base.file_names import RECORD_NAME
from weighbridge.storage.places import extras

CARRIED = ("config.json", "tokenizer.model", "trainer_state.json", "latest", "code/modeling.py", "code/deep/er/a.txt")
LEFT = {
    "optimizer.pt": "optimizer.pt",
    "scheduler.pt": "scheduler.pt",
    "rng_state_0.pth": "rng_state_0.pth",
    "training_args.bin": "training_args.bin",
    "random_states_0.pkl": "random_states_0.pkl",
    "custom_checkpoint_0.pkl": "custom_checkpoint_0.pkl",
    "optimizer_0/__0_0.distcp": "optimizer_0",
    "pytorch_model_fsdp_0/.metadata": "pytorch_model_fsdp_0",
    "global_step3/mp_rank_00_model_states.pt": "global_step3",
    "pytorch_model.bin.index.json": "pytorch_model.bin.index.json",
    "model.gguf": "model.gguf",
    "consolidated.safetensors": "consolidated.safetensors",
    ".gitattributes": ".gitattributes",
    "code/.cache": "code/.cache",
    "vae/config.json": "vae",
    "vae/model.safetensors": "vae",
}
"""Files that stay behind, and what the note calls them."""


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A folder as trainers write it."""
    root = tmp_path / "trained"
    for name in (*CARRIED, *LEFT):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"{}" if name.endswith(".json") else name.encode())
    (root / "optimizer_0" / "note.txt").write_text("beside")
    (root / "empty").mkdir()
    save_file({"a.gamma": torch.ones(3)}, root / "model.safetensors", metadata={"format": "pt"})
    return root


RULES = wb.Mapping([wb.WeightRenaming("gamma", "weight")], name="norms")


def named(notes: tuple[str, ...]) -> set[str]:
    (note,) = (note for note in notes if note.startswith("left aside, not carried along: "))
    return {name.strip("'") for name in note.partition(": ")[2].split(", ")}


def files_of(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_each_file_is_carried_or_named(trained: Path, tmp_path: Path) -> None:
    """A12: trainers' files were left out without a word, others of the same kind carried."""
    opened = wb.open(trained)
    assert named(opened.notes) == {*LEFT.values(), "empty"}
    out = wb.convert(trained, tmp_path / "out", RULES)
    assert files_of(out) == {*CARRIED, "model.safetensors", "weighbridge.json"}
    assert all((out / name).read_bytes() == (trained / name).read_bytes() for name in CARRIED)


def test_what_is_left_is_said_in_the_report_and_on_the_terminal(trained: Path, tmp_path: Path) -> None:
    """A12: by name, wherever a conversion is reported."""
    report = wb.plan(trained, RULES).report
    assert named(report.notes) == {*LEFT.values(), "empty"}
    assert "'optimizer.pt'" in str(report)
    assert "'optimizer.pt'" in json.dumps(report.to_dict())
    (tmp_path / "norms.yaml").write_text("name: norms\ntransforms:\n  - rename: gamma\n    to: weight\n")
    shown = run(tmp_path, "convert", str(trained), "out", "norms.yaml")
    assert shown.status == 0
    for name in {*LEFT.values(), "empty"}:
        assert f"'{name}'" in shown.out.replace("\n", " ")


def test_a_torch_checkpoint_leaves_the_same_files(tmp_path: Path) -> None:
    """A12: one rule, whatever the format of the weights."""
    root = tmp_path / "trained"
    root.mkdir()
    torch.save({"a.gamma": torch.ones(3)}, root / "pytorch_model.bin")
    for name in ("optimizer.pt", "scheduler.pt", "training_args.bin"):
        torch.save({"state": torch.ones(2)}, root / name)
    (root / "config.json").write_text("{}")
    assert named(wb.open(root).notes) == {"optimizer.pt", "scheduler.pt", "training_args.bin"}
    assert files_of(wb.convert(root, tmp_path / "out", RULES)) == {
        "config.json",
        "model.safetensors",
        "weighbridge.json",
    }


def test_a_clean_folder_has_nothing_to_say(tmp_path: Path) -> None:
    save_file({"a.gamma": torch.ones(3)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text("{}")
    assert wb.open(tmp_path).notes == ()


def test_files_beside_shards_in_a_sub_directory_go_along(tmp_path: Path) -> None:
    """A12: the checkpoint's own files are no further weights, wherever the index says that they are."""
    root = tmp_path / "model"
    (root / "parts").mkdir(parents=True)
    save_file({"a.gamma": torch.ones(3)}, root / "parts" / "x.safetensors", metadata={"format": "pt"})
    (root / "parts" / "notes.txt").write_text("here")
    (root / "parts" / "old.pt").write_bytes(b"old")
    index = {"metadata": {}, "weight_map": {"a.gamma": "parts/x.safetensors"}}
    (root / "model.safetensors.index.json").write_text(json.dumps(index))
    assert named(wb.open(root).notes) == {"parts/old.pt"}
    assert "parts/notes.txt" in files_of(wb.convert(root, tmp_path / "out", RULES))


def test_links_that_lead_out_stay_behind(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("key")
    (trained / "id_rsa").symlink_to(tmp_path / "secret")
    (trained / "inside.json").symlink_to("config.json")
    (trained / "folder").symlink_to("code")
    assert {"id_rsa", "folder"} <= named(wb.open(trained).notes)
    assert "inside.json" in files_of(wb.convert(trained, tmp_path / "out", RULES))


@pytest.mark.skipif(os.geteuid() == 0, reason="needs a user who may not read everything")
def test_a_sub_directory_that_cannot_be_read_stays_behind(trained: Path) -> None:
    """G17: it made `open` fail."""
    (trained / "locked").mkdir(mode=0)
    assert "locked" in named(wb.open(trained).notes)


def test_a_fifo_and_a_record_of_an_unfinished_output_stay_behind(trained: Path, tmp_path: Path) -> None:
    """G17: an extra of that name made `convert` fail."""
    (trained / RECORD_NAME).write_text("{}")
    os.mkfifo(trained / "pipe")
    assert {RECORD_NAME, "pipe"} <= named(wb.open(trained).notes)
    wb.convert(trained, tmp_path / "out", RULES)


def test_deep_and_crowded_folders_take_no_time(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """G14: 1,100 directories in each other took a minute, and ended in a RecursionError."""
    deep = trained / "deep"
    deep.mkdir()
    inner = deep
    names = []
    for _ in range(300):
        names.append("d")
        inner = inner / "d"
        inner.mkdir()
    (inner / "x.txt").write_text("here")
    asked: list[object] = []
    plain = extras.resolve_inside
    monkeypatch.setattr(extras, "resolve_inside", lambda *places: asked.append(places) or plain(*places))
    assert "deep" in named(wb.open(trained).notes)
    assert len(asked) < 100
    monkeypatch.setattr(extras, "MOST_FILES", 3)
    assert "code" in named(wb.open(trained).notes)
