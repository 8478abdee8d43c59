"""One torch file as an output: read by torch itself, found again by all that reads an output, whole or not there."""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from any_dtypes import every_dtype, same
from command import run
from safetensors.torch import load_file, save_file

import weighbridge as wb
from weighbridge.base.specs import TensorSpec
from weighbridge.storage import Extra, FileWriter, build_image
from weighbridge.storage.outputs.checksums import Checksums
from weighbridge.storage.outputs.torch_image import lay_out_torch

RULES = wb.Mapping([wb.WeightRenaming("old", "new"), wb.WeightConverter("t", "t", [wb.Transpose(0, 1)])], name="rules")
SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")


def wanted(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Do by hand what the rules say."""
    return {key.replace("old", "new"): value.t() if key == "t" else value for key, value in tensors.items()}


def publish(folder: Path, tensors: dict[str, torch.Tensor] | None = None) -> Path:
    folder.mkdir()
    save_file(tensors or every_dtype(), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text('{"model_type": "small"}')
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_torch_reads_what_is_written_and_it_goes_back_byte_for_byte(tmp_path: Path, suffix: str) -> None:
    tensors = every_dtype()
    source = publish(tmp_path / "source", tensors)
    out = wb.convert(source, tmp_path / f"out{suffix}", RULES, digests=True, memory_budget=100)
    assert out.is_file()
    for mmap in (False, True):
        assert same(torch.load(out, weights_only=True, mmap=mmap), wanted(tensors))
    assert zipfile.ZipFile(out).testzip() is None
    assert wb.verify(out)
    assert wb.verify(out, wanted(tensors))
    back = digests(wb.revert(out, tmp_path / "back"))
    assert back == {"model.safetensors": digests(source)["model.safetensors"]}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", out.name, "source"]


def test_it_is_the_same_file_whatever_the_source_lies_in_and_the_budget(tmp_path: Path) -> None:
    tensors = every_dtype()
    torch.save(tensors, tmp_path / "source.pt")
    made = [
        wb.plan(source, RULES).write(tmp_path / f"{number}.pth", memory_budget=budget)
        for number, (source, budget) in enumerate(
            [(tensors, 64), (tensors, "1MB"), (dict(reversed(tensors.items())), 10_000)]
        )
    ]
    assert len({path.read_bytes() for path in made}) == 1
    from_file = wb.convert(tmp_path / "source.pt", tmp_path / "again.pth", RULES)
    assert same(torch.load(from_file, weights_only=True), wanted(tensors))
    back = wb.plan(from_file, RULES.inverse()).state_dict()
    assert same(back, tensors)


def test_a_torch_file_goes_back_into_files_of_another_kind(tmp_path: Path) -> None:
    tensors = every_dtype()
    torch.save(tensors, tmp_path / "source.pt")
    out = wb.convert(tmp_path / "source.pt", tmp_path / "out.pth", RULES)
    back = wb.revert(out, tmp_path / "back")
    assert same(load_file(back / "model.safetensors"), tensors)
    assert wb.verify(wb.revert(out, tmp_path / "back.pt"), tmp_path / "source.pt")


# Ties


def shares(path: Path, *keys: str) -> bool:
    loaded = torch.load(path, weights_only=True)
    return len({loaded[key].data_ptr() for key in keys}) == 1


def test_what_the_source_has_tied_lies_in_the_file_once(tmp_path: Path) -> None:
    shared, other = torch.randn(500, 70), torch.randn(500, 70)
    torch.save({"old.a": shared, "b": shared, "c": other, "d": other.clone()}, tmp_path / "source.pt")
    out = wb.convert(tmp_path / "source.pt", tmp_path / "out.pth", [wb.WeightRenaming("old.a", "z")], digests=True)
    loaded = torch.load(out, weights_only=True)
    assert list(loaded) == ["b", "c", "d", "z"]
    assert all(loaded[key].equal(tensor) for key, tensor in zip("zbcd", (shared, shared, other, other), strict=True))
    assert shares(out, "z", "b")
    assert not shares(out, "c", "d")
    assert out.stat().st_size < 4 * shared.nbytes
    assert wb.open(out).header.ties == {"z": "b"}
    assert wb.verify(out)
    assert wb.verify(wb.revert(out, tmp_path / "back"), tmp_path / "source.pt")


def test_views_that_only_overlap_and_transposed_twins_are_no_ties(tmp_path: Path) -> None:
    base = torch.randn(6, 6)
    tensors = {"a": base, "b": base.t(), "c": base[:3], "e": base}
    rules = [wb.WeightConverter("e", "e", [wb.Transpose(0, 1)])]
    out = wb.plan(tensors, rules).write(tmp_path / "out.pth")
    loaded = torch.load(out, weights_only=True)
    assert all(loaded[key].equal(tensor) for key, tensor in {**tensors, "e": base.t()}.items())
    assert not any(shares(out, one, other) for one in "abce" for other in "abce" if one < other)


class Tied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(11, 4)
        self.head = torch.nn.Linear(4, 11, bias=False)
        self.head.weight = self.embed.weight


@pytest.mark.parametrize("held", [("embed.weight",), ("head.weight",), ("embed.weight", "head.weight")])
def test_what_a_model_ties_is_written_once(tmp_path: Path, held: tuple[str, ...]) -> None:
    value = torch.randn(11, 4)
    out = wb.plan({key: value.clone() for key in held}, [], Tied()).write(tmp_path / "out.pt")
    loaded = torch.load(out, weights_only=True)
    assert sorted(loaded) == ["embed.weight", "head.weight"]
    assert all(tensor.equal(value) for tensor in loaded.values())
    assert shares(out, "embed.weight", "head.weight")
    model = Tied()
    wb.load(model, out, [])
    assert model.embed.weight.equal(value)
    saved = wb.save(model, tmp_path / "saved.bin")
    assert torch.load(saved, weights_only=True)["head.weight"].equal(value)
    assert shares(saved, "embed.weight", "head.weight")


# What has no place in such a file


def test_a_dtype_that_torch_lacks_is_named_before_anything_is_written(tmp_path: Path) -> None:
    image = build_image("a.safetensors", {"odd": TensorSpec("F6_E2M3", (4,)), "w": TensorSpec("F32", (1,))})
    with FileWriter.of_image(tmp_path, image) as writer:
        writer.write(len(image.head), bytes(range(image.size_bytes - len(image.head))))
    with pytest.raises(wb.CheckpointError) as caught:
        wb.convert(tmp_path / "a.safetensors", tmp_path / "deep" / "out.pth")
    assert (caught.value.code, caught.value.where) == ("dtype-unknown", "out.pth: odd")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_files_beside_the_weights_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "weighbridge"):
        wb.convert(publish(tmp_path / "source"), tmp_path / "out.pth")
    assert [record.getMessage() for record in caplog.records] == [
        "left out, as one file has no place for them: 'config.json'"
    ]


@pytest.mark.parametrize(("options", "got"), [({"name": "model"}, "name='model'"), ({"link": "hard"}, "link='hard'")])
def test_what_a_torch_file_cannot_have_is_refused(tmp_path: Path, options: dict[str, Any], got: str) -> None:
    with pytest.raises(wb.WeighbridgeError) as caught:
        wb.convert(publish(tmp_path / "source"), tmp_path / "out.pth", **options)
    assert (caught.value.code, caught.value.got) == ("usage", got)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_torch_file_has_no_place_for_settings_that_must_stand_beside_it(tmp_path: Path) -> None:
    source = publish(tmp_path / "source")
    with pytest.raises(wb.WeighbridgeError) as caught:
        wb.plan(source).write(tmp_path / "out.bin", beside=[Extra("config.json", source / "config.json")])
    assert (caught.value.code, caught.value.got) == ("usage", "'config.json'")
    assert not (tmp_path / "out.bin").exists()


# Whole or not there


def test_nothing_takes_the_place_of_what_is_there(tmp_path: Path) -> None:
    source = publish(tmp_path / "source")
    (tmp_path / "file.pth").write_bytes(b"mine")
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "link.pth").symlink_to("nowhere")
    for name, got in (("file", "a file"), ("folder", "an empty directory"), ("link", "a link")):
        with pytest.raises(wb.WeighbridgeError) as caught:
            wb.convert(source, tmp_path / f"{name}.pth")
        assert (caught.value.code, caught.value.got) == ("destination-exists", got)
    with pytest.raises(wb.WeighbridgeError) as inside:
        wb.convert(source, source / "out.pth")
    assert inside.value.code == "destination-unsafe"
    assert (tmp_path / "file.pth").read_bytes() == b"mine"

    def come_before(done: int, whole: int) -> None:
        if done == whole:
            (tmp_path / "late.pth").write_bytes(b"mine")

    with pytest.raises(wb.WeighbridgeError) as late:
        wb.convert(source, tmp_path / "late.pth", progress=come_before)
    assert late.value.code == "destination-exists"
    assert (tmp_path / "late.pth").read_bytes() == b"mine"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_stopped_run_leaves_nothing_that_loads_and_is_gone_on_with(tmp_path: Path) -> None:
    source = publish(tmp_path / "source")
    whole = wb.convert(source, tmp_path / "whole.pth", RULES).read_bytes()
    out, hidden = tmp_path / "out.pth", tmp_path / ".out.pth.weighbridge-partial"

    def stop(done: int, all_bytes: int) -> None:
        if done > all_bytes // 2:
            raise KeyboardInterrupt

    for resume in (False, True):
        with pytest.raises(KeyboardInterrupt):
            wb.convert(source, out, RULES, progress=stop, memory_budget=100, resume=resume)
        assert (out.exists(), hidden.exists()) == (False, resume)
    for read in (lambda: wb.open(hidden / "out.pth"), lambda: torch.load(hidden / "out.pth", weights_only=True)):
        with pytest.raises(Exception):  # noqa: B017, PT011 - torch and wb have errors of their own
            read()
    refusals = (({}, "destination-unfinished"), ({"resume": True, "dtype": "F64"}, "resume-mismatch"))
    for options, code in refusals:
        with pytest.raises(wb.WeighbridgeError) as caught:
            wb.convert(source, out, RULES, **options)
        assert caught.value.code == code
    laid_out = hidden / "out.pth"
    raw = bytearray(laid_out.read_bytes())
    raw[len(raw) // 3 : len(raw) // 3 + 40] = bytes(range(40))
    laid_out.write_bytes(bytes(raw))
    assert (
        wb.convert(source, out, RULES, resume=True).read_bytes()
        == wb.convert(source, tmp_path / "w2.pth", RULES).read_bytes()
    )
    assert len(out.read_bytes()) == len(whole)
    assert not hidden.exists()


def test_no_piece_is_larger_than_the_budget(tmp_path: Path) -> None:
    tensors = {"w": torch.randn(400, 300), "v": torch.randn(300, 200)}
    told = [0]
    rules = [wb.WeightConverter("{name:w|v}", "{name}", [wb.Transpose(0, 1)])]
    out = wb.plan(tensors, rules).write(
        tmp_path / "out.pth", memory_budget=30_000, progress=lambda done, _: told.append(done)
    )
    assert max(later - earlier for earlier, later in pairwise(told)) <= 30_000
    assert told[-1] == sum(tensor.nbytes for tensor in tensors.values())
    assert torch.load(out, weights_only=True)["w"].equal(tensors["w"].t())


def test_sizes_and_places_beyond_32_bits(tmp_path: Path) -> None:
    specs = {"a": TensorSpec("U8", (2**32 + 3,)), "b": TensorSpec("F32", (2,)), "c": TensorSpec("BF16", (0,))}
    made = lay_out_torch("out.pth", specs, {}, 5)
    path = tmp_path / "out.pth"
    with path.open("xb") as file:
        file.write(made.image.head)
        file.truncate(made.image.size_bytes)
        file.seek(made.image.tensors[1].offset)
        file.write(torch.tensor([1.5, -2.0]).numpy().tobytes())
    made.complete(path, b"12345", Checksums(partial(FileWriter.of_image, tmp_path)))
    assert path.stat().st_size == made.image.size_bytes
    with zipfile.ZipFile(path) as archive:
        sizes = [archive.getinfo(f"archive/data/{number}").file_size for number in range(3)]
        assert sizes == [spec.size_bytes for spec in specs.values()]
        assert archive.read("archive/data/1") == torch.tensor([1.5, -2.0]).numpy().tobytes()
    loaded = torch.load(path, weights_only=True, mmap=True)
    assert {key: tuple(tensor.shape) for key, tensor in loaded.items()} == {"a": (2**32 + 3,), "b": (2,), "c": (0,)}
    assert loaded["b"].tolist() == [1.5, -2.0]
    assert wb.open(path).header["a"] == specs["a"]


# Receipts


def test_a_receipt_in_a_torch_file_refuses_a_second_conversion(tmp_path: Path) -> None:
    source = publish(tmp_path / "source", {"w": torch.randn(3, 3)})
    turned = wb.Mapping([wb.WeightConverter("w", "w", [wb.Transpose(0, 1)])], name="turned")
    out = wb.convert(source, tmp_path / "out.pth", turned)
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(out, turned)
    assert caught.value.code == "already-converted"
    assert wb.verify(wb.convert(out, tmp_path / "back", turned.inverse()), source)


def test_a_torch_file_of_others_has_no_receipt(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(2)}, tmp_path / "new.pt")
    torch.save({"w": torch.zeros(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "weighbridge.json").write_text("{}")
    for name in ("new.pt", "old.pt"):
        with pytest.raises(wb.CheckpointError) as caught:
            wb.revert(tmp_path / name, tmp_path / "out")
        assert (caught.value.code, caught.value.what) == (
            "receipt-invalid",
            "there is no receipt here, so the way back is not recorded",
        )
        assert wb.plan(tmp_path / name, [wb.WeightRenaming("w", "v")]).target.keys() == {"v"}


def test_digests_tell_a_change_of_the_weights(tmp_path: Path) -> None:
    out = wb.convert(publish(tmp_path / "source"), tmp_path / "out.pth", RULES, digests=True)
    raw = bytearray(out.read_bytes())
    place = zipfile.ZipFile(out).getinfo("archive/data/0").header_offset
    offset = place + 30 + int.from_bytes(raw[place + 26 : place + 28], "little")
    offset += int.from_bytes(raw[place + 28 : place + 30], "little")
    raw[offset] ^= 1
    out.write_bytes(bytes(raw))
    found = wb.verify(out)
    assert [difference.key for difference in found.differences] == ["new.BF16"]
    with pytest.raises(wb.CheckpointError) as caught:
        wb.verify(wb.convert(tmp_path / "source", tmp_path / "plain.pth"))
    assert caught.value.code == "digests-missing"


def test_the_command_writes_and_reads_a_torch_file(tmp_path: Path) -> None:
    tensors = every_dtype()
    publish(tmp_path / "source", tensors)
    ran = run(tmp_path, "convert", "source", "out.pth", "--digests", "--json")
    assert ran.status == 0, ran.err
    assert ran.form["files"] == ["out.pth"]
    assert same(torch.load(tmp_path / "out.pth", weights_only=True), tensors)
    assert run(tmp_path, "verify", "out.pth").status == 0
    assert run(tmp_path, "verify", "out.pth", "source").status == 0
    assert run(tmp_path, "revert", "out.pth", "back").status == 0
    assert digests(tmp_path / "back").items() <= digests(tmp_path / "source").items()
    assert json.loads(run(tmp_path, "inspect", "out.pth", "--json").out)["format"] == "torch"
    assert run(tmp_path, "convert", "source", "out.pth").status == 5
    assert "left out, as one file has no place" in run(tmp_path, "convert", "source", "other.bin").err
