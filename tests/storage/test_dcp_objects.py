"""What is no tensor in a distributed checkpoint: kept for the way back if it is plain, and never run."""

from __future__ import annotations

import base64
import json
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from dcp_directories import item_of, write_dcp

import weighbridge as wb

PLAIN = {
    "optim.param_groups": [{"lr": 0.1, "betas": (0.9, 0.99), "params": ["w"], "fused": None}],
    "epoch": 7,
    "again": 7,
    "names": OrderedDict(a=True),
}
RULES = [wb.WeightRenaming("w", "kernel")]


class Hostile:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.target}",)


def error_of(function: Callable[[], object]) -> wb.WeighbridgeError:
    with pytest.raises(wb.WeighbridgeError) as caught:
        function()
    return caught.value


def convert(folder: Path, objects: dict[str, Any]) -> Path:
    write_dcp(folder / "in", {"w": torch.ones(3, 2)}, objects=objects)
    return wb.convert(f"{folder / 'in'}::**", folder / "out", RULES)


@pytest.mark.filterwarnings("ignore")
def test_plain_objects_come_back_as_they_were(tmp_path: Path) -> None:
    out = convert(tmp_path, PLAIN)
    form = json.loads((out / "dcp-objects.json").read_text())
    assert form["objects"].keys() == PLAIN.keys()
    assert len(form["items"]) == len(PLAIN) - 1
    back = wb.revert(out, tmp_path / "back", to="dcp")
    assert not (back / "dcp-objects.json").exists()
    state: dict[str, Any] = {**dict.fromkeys(PLAIN), "w": torch.zeros(3, 2)}
    dcp.load(state, checkpoint_id=back, no_dist=True)
    assert {key: state[key] for key in PLAIN} == PLAIN
    assert state["w"].equal(torch.ones(3, 2))


def test_they_go_with_the_weights_through_another_conversion(tmp_path: Path) -> None:
    out = convert(tmp_path, PLAIN)
    again = wb.convert(out, tmp_path / "again", to="dcp", layout="as is")
    assert (again / "dcp-objects.json").read_bytes() == (out / "dcp-objects.json").read_bytes()
    assert not wb.open(f"{again}::**").notes
    back = wb.revert(again, tmp_path / "first")
    assert (back / "dcp-objects.json").read_bytes() == (out / "dcp-objects.json").read_bytes()


def test_weights_alone_have_no_objects_beside_them(tmp_path: Path) -> None:
    paths = {"model.w": ("model", "w"), "epoch": ("epoch",)}
    write_dcp(tmp_path / "in", {"model.w": torch.ones(2)}, objects={"epoch": 7}, paths=paths)
    assert not (wb.convert(tmp_path / "in", tmp_path / "out") / "dcp-objects.json").exists()


def test_what_is_more_than_plain_values_is_named_and_left_aside(tmp_path: Path) -> None:
    objects = {"epoch": 7, "code": Hostile(tmp_path / "ran"), "inside": {"t": torch.ones(2)}, "large": "x" * 2**21}
    write_dcp(tmp_path / "in", {"w": torch.ones(3, 2)}, objects=objects)
    checkpoint = wb.open(f"{tmp_path / 'in'}::**")
    left = next(note for note in checkpoint.notes if "left aside" in note)
    assert "'code' (the code of posix.system)" in left
    assert "'inside' (" in left
    assert "'large' (too large)" in left
    (extra,) = checkpoint.extras
    assert extra.content is not None
    assert list(json.loads(extra.content)["objects"]) == ["epoch"]
    assert not (tmp_path / "ran").exists()


def test_code_that_was_put_among_them_does_not_go_back(tmp_path: Path) -> None:
    out = convert(tmp_path, PLAIN)
    path = out / "dcp-objects.json"
    form = json.loads(path.read_text())
    form["items"][0] = base64.b64encode(item_of(Hostile(tmp_path / "ran"))).decode()
    path.write_text(json.dumps(form))
    error = error_of(lambda: wb.revert(out, tmp_path / "back", to="dcp"))
    assert (error.code, error.got) == ("dcp-unsafe", "the code of posix.system")
    assert not (tmp_path / "back").exists()
    assert not (tmp_path / "ran").exists()
    assert wb.revert(out, tmp_path / "files").is_dir()


@pytest.mark.parametrize(
    "change",
    [
        lambda form: form.update(format="other"),
        lambda form: form.update(version=2),
        lambda form: form.pop("items"),
        lambda form: form.update(items=["no base64!"]),
        lambda form: form["objects"].update(epoch=99),
        lambda form: form["objects"].update(epoch="0"),
        lambda form: form.update(objects=[]),
    ],
)
def test_file_that_cannot_be_read_is_refused(tmp_path: Path, change: Callable[[Any], object]) -> None:
    out = convert(tmp_path, PLAIN)
    path = out / "dcp-objects.json"
    form = json.loads(path.read_text())
    change(form)
    path.write_text(json.dumps(form))
    assert error_of(lambda: wb.revert(out, tmp_path / "back", to="dcp")).code == "dcp-invalid"
    assert not (tmp_path / "back").exists()
