"""Machines and file systems that are not like most: another order of bytes, and names that are one in two spellings."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import weighbridge as wb
from weighbridge.base.process import machines
from weighbridge.storage.outputs import output_names
from weighbridge.storage.outputs.output_names import check_apart, tells_case_apart

TURN = [wb.WeightConverter("a", "b", [wb.Transpose(0, 1)])]


def source(folder: Path) -> Path:
    path = folder / "model"
    path.mkdir()
    save_file({"a": torch.arange(6.0).reshape(2, 3)}, path / "model.safetensors")
    return path


RUNS: dict[str, Callable[[Path, Path], object]] = {
    "a state dict": lambda path, out: wb.plan(path, TURN).state_dict(),
    "a stream": lambda path, out: list(wb.plan(path, TURN).stream()),
    "a new directory": lambda path, out: wb.convert(path, out, TURN),
    "a linked directory": lambda path, out: wb.convert(path, out, [], link="hard"),
    "tensors in memory": lambda path, out: wb.convert({"a": torch.ones(2, 3)}, out, TURN),
    "a model": lambda path, out: wb.load(torch.nn.Linear(3, 2, bias=False), path, [wb.WeightRenaming("a", "weight")]),
    "a saved model": lambda path, out: wb.save(torch.nn.Linear(3, 2), out, []),
    "one tensor": lambda path, out: wb.open(path).tensor("a"),
    "a comparison": lambda path, out: wb.verify(path, {"a": torch.ones(2, 3)}),
    "a difference": lambda path, out: wb.diff(path, {"a": torch.ones(2, 3)}),
    "an inference": lambda path, out: wb.infer(path, {"b": torch.ones(2, 3)}),
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_g17_no_tensor_is_moved_on_a_big_endian_machine(
    run: Callable[[Path, Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = source(tmp_path)
    monkeypatch.setattr(machines, "byte_order", lambda: "big")
    with pytest.raises(wb.WeighbridgeError) as caught:
        run(path, tmp_path / "out")
    assert caught.value.code == "machine-unsupported"
    assert not (tmp_path / "out").exists()


def test_g17_headers_are_read_and_planned_on_any_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = source(tmp_path)
    monkeypatch.setattr(machines, "byte_order", lambda: "big")
    assert wb.open(path).header["a"].shape == (2, 3)
    assert "1 filled" in str(wb.plan(path, TURN).report)


def test_the_order_of_bytes_is_this_machines() -> None:
    assert machines.byte_order() == sys.byteorder


PAIRS = [("config.json", "Config.json"), ("caf\u00e9.txt", "cafe\u0301.txt"), ("stra\u00dfe.txt", "STRASSE.txt")]


@pytest.mark.parametrize("pair", PAIRS, ids=ascii)
def test_g17_two_names_that_are_one_file_are_refused_before_any_is_written(
    pair: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = source(tmp_path)
    for name in pair:
        (path / name).write_text(name)
    if {each.name for each in wb.open(path).extras} != set(pair):
        pytest.skip("needs a file system that tells these names apart")
    assert {each.name for each in wb.convert(path, tmp_path / "both", TURN).iterdir()} >= set(pair)
    monkeypatch.setattr(output_names, "tells_case_apart", lambda there: False)
    with pytest.raises(wb.DestinationError) as caught:
        wb.convert(path, tmp_path / "out", TURN)
    assert caught.value.code == "write-failed"
    assert all(repr(name) in caught.value.got for name in pair)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["both", "model"]


def test_a_file_system_is_asked_by_a_file_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text("{}")
    assert tells_case_apart(tmp_path / "record.json")
    (tmp_path / "RECORD.JSON").write_text("{}")  # what a system that folds names would answer to
    assert not tells_case_apart(tmp_path / "record.json")
    check_apart(["a", "b", "A/b"], tmp_path / "record.json", "out")
    with pytest.raises(wb.DestinationError):
        check_apart(["a", "b", "A"], tmp_path / "record.json", "out")
