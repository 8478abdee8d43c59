"""Plans written to files: places, windows, shards, receipts, and what happens when it goes wrong."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from command import run
from safetensors.torch import load_file, save_file

import weighbridge as wb
from weighbridge.mappings.mapping import Mapping
from weighbridge.running.receipt import read_receipt
from weighbridge.storage import plan_shards

MAPPING = Mapping(
    [
        wb.WeightConverter(["q", "k", "v"], "qkv", [wb.Concatenate(0), wb.Transpose(0, 1)]),
        wb.WeightRenaming("old", "new"),
    ],
    name="fused",
)


def state() -> dict[str, torch.Tensor]:
    """Return a few tensors of different values, shapes and dtypes."""
    made = {
        f"layers.{i}.{name}": torch.randn(rows, 24) for i in range(3) for name, rows in (("q", 16), ("k", 8), ("v", 8))
    }
    made["old.ids"] = torch.arange(77, dtype=torch.int32)
    made["old.half"] = torch.randn(33, dtype=torch.bfloat16)
    made["extra"] = torch.randn(5, 3)
    return made


def fused(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Do by hand what the mapping says."""
    made = {f"layers.{i}.qkv": torch.cat([tensors[f"layers.{i}.{n}"] for n in "qkv"]).t() for i in range(3)}
    return made | {"new.ids": tensors["old.ids"], "new.half": tensors["old.half"], "extra": tensors["extra"]}


def digests(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of every file but the receipt."""
    files = [path for path in sorted(directory.rglob("*")) if path.is_file() and path.name != "weighbridge.json"]
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def make_source(directory: Path, tensors: dict[str, torch.Tensor], shard_bytes: int | None = None) -> Path:
    """Write a checkpoint with the safetensors library, in shards if asked, with files beside the weights."""
    directory.mkdir()
    from weighbridge.storage.formats.torch_tensors import spec_of

    shards = plan_shards({key: spec_of(value) for key, value in tensors.items()}, shard_bytes)
    for name, keys in shards.files.items():
        save_file({key: tensors[key] for key in keys}, directory / name, metadata={"format": "pt"})
    if shards.index is not None:
        # Another indentation than anyone's, and a fact that no convention knows.
        index = json.loads(shards.index.text) | {"note": "kept"}
        (directory / shards.index.name).write_text(json.dumps(index, indent=5))
    (directory / "config.json").write_text('{"model_type": "small"}')
    (directory / "tokenizer.model").write_bytes(b"\x00\x01tokens")
    return directory


@pytest.mark.parametrize("shard_bytes", [None, 3000])
def test_convert_and_revert_give_the_same_files(tmp_path: Path, shard_bytes: int | None) -> None:
    tensors = state()
    source = make_source(tmp_path / "source", tensors, shard_bytes)
    before = digests(source)
    wb.convert(source, tmp_path / "out", MAPPING, max_shard_size=4000 if shard_bytes else None)
    made = {key: value for path in (tmp_path / "out").glob("*.safetensors") for key, value in load_file(path).items()}
    wanted = fused(tensors)
    assert made.keys() == wanted.keys()
    assert all(torch.equal(made[key], wanted[key]) for key in wanted)
    wb.revert(tmp_path / "out", tmp_path / "back")
    assert digests(tmp_path / "back") == before
    assert digests(source) == before


@pytest.mark.parametrize("budget", [8, 100, 1000, 10**6])
def test_result_does_not_depend_on_the_memory_budget(tmp_path: Path, budget: int) -> None:
    tensors = state()
    wb.plan(tensors, MAPPING).write(tmp_path / "out", memory_budget=budget)
    made = load_file(tmp_path / "out/model.safetensors")
    assert all(torch.equal(made[key], value) for key, value in fused(tensors).items())


def test_budget_below_one_element_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(state(), MAPPING).write(tmp_path / "out", memory_budget=1)
    assert caught.value.code == "budget-too-small"
    assert list(tmp_path.iterdir()) == []


def test_new_files_are_those_that_the_safetensors_library_writes(tmp_path: Path) -> None:
    tensors = {key: value.contiguous() for key, value in fused(state()).items()}
    wb.plan(tensors, []).write(tmp_path / "out")
    save_file(tensors, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    plan = wb.plan(state(), MAPPING)
    calls: list[tuple[int, int]] = []
    plan.write(tmp_path / "out", progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (plan.target.size_bytes, plan.target.size_bytes)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_receipt_holds_the_plan_and_the_sources_fingerprints(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", state())
    plan = wb.plan(source, MAPPING)
    plan.write(tmp_path / "out")
    receipt = read_receipt(tmp_path / "out")
    assert receipt.plan == plan
    assert receipt.plan.hash == plan.hash
    assert receipt.source["files"][0]["size_bytes"] == (source / "model.safetensors").stat().st_size


def test_revert_writes_changed_values_in_the_original_layout(tmp_path: Path) -> None:
    """Values may be changed between conversion and reversal; only the layout must be the plan's."""
    source = make_source(tmp_path / "source", state())
    wb.convert(source, tmp_path / "out", MAPPING)
    path = tmp_path / "out/model.safetensors"
    tuned = {key: value + 1 if value.is_floating_point() else value for key, value in load_file(path).items()}
    save_file(tuned, path)
    wb.revert(tmp_path / "out", tmp_path / "back")
    back, original = load_file(tmp_path / "back/model.safetensors"), load_file(source / "model.safetensors")
    assert torch.equal(back["layers.1.k"], original["layers.1.k"] + 1)


@pytest.mark.parametrize("recorded", [True, False])
def test_e_revert_says_what_the_digests_no_longer_match(recorded: bool, tmp_path: Path, caplog: Any) -> None:
    """What was changed goes back as it is now, and is named, in Python by the log; else nothing is said."""
    source = make_source(tmp_path / "source", state())
    wb.convert(source, tmp_path / "out", MAPPING, digests=recorded)
    wb.revert(tmp_path / "out", tmp_path / "same")
    assert digests(tmp_path / "same") == digests(source)
    path = tmp_path / "out/model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1  # the last byte of the last tensor
    path.write_bytes(raw)
    with caplog.at_level("WARNING"):
        wb.revert(tmp_path / "out", tmp_path / "back")
    said = [record.getMessage() for record in caplog.records]
    changed = wb.verify(tmp_path / "out").differences if recorded else ()
    assert bool(said) == recorded
    assert [str(tmp_path / "out") in line and changed[0].key in line for line in said] == [True] * recorded
    assert not recorded or "1 tensor is not what was written here, by the receipt's digests" in said[0]
    assert digests(tmp_path / "back") != digests(source)
    told = run(tmp_path, "revert", "out", "again")
    assert (told.status, "the values of now go back" in told.out) == (0, recorded)


def test_revert_of_another_layout_is_an_error(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", state())
    wb.convert(source, tmp_path / "out", MAPPING)
    path = tmp_path / "out/model.safetensors"
    save_file({key: value for key, value in load_file(path).items() if key != "layers.1.qkv"}, path)
    with pytest.raises(wb.CheckpointError) as caught:
        wb.revert(tmp_path / "out", tmp_path / "back")
    assert caught.value.code == "source-changed"
    assert "layers.1.qkv" in caught.value.where
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": "weighbridge-receipt", "version": 9}', "\x00"])
def test_damaged_receipts_are_named(tmp_path: Path, text: str) -> None:
    source = make_source(tmp_path / "source", state())
    (source / "weighbridge.json").write_text(text)
    with pytest.raises(wb.CheckpointError) as caught:
        wb.revert(source, tmp_path / "back")
    assert caught.value.code == "receipt-invalid"


def test_revert_without_a_receipt_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(wb.CheckpointError) as caught:
        wb.revert(make_source(tmp_path / "source", state()), tmp_path / "back")
    assert caught.value.code == "receipt-invalid"
    assert "--reverse" in caught.value.hint


def test_lossy_plan_is_not_reverted_in_silence(tmp_path: Path) -> None:
    wb.convert(make_source(tmp_path / "source", state()), tmp_path / "out", MAPPING, drop=["extra"])
    with pytest.raises(wb.PlanError) as caught:
        wb.revert(tmp_path / "out", tmp_path / "back")
    assert caught.value.code == "inverse-lossy"
    assert '"extra"' in caught.value.got


def test_file_that_shrinks_after_planning_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", state())
    plan = wb.plan(source, MAPPING)
    path = source / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(wb.CheckpointError) as caught:
        plan.write(tmp_path / "out")
    assert caught.value.code in ("source-changed", "file-truncated")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_exception_while_writing_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wb.plan(state(), MAPPING).write(tmp_path / "deep/er/out", progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_destination_beside_a_single_file_is_allowed(tmp_path: Path) -> None:
    """The source is a file, not its directory, when a file was named."""
    save_file(state(), tmp_path / "model.safetensors")
    wb.convert(tmp_path / "model.safetensors", tmp_path / "out", MAPPING)
    assert wb.open(tmp_path / "out").header.keys() == fused(state()).keys()


@pytest.mark.parametrize("place", ["source", "source/inner", "source/inner/deeper"])
def test_destination_in_the_source_is_refused(tmp_path: Path, place: str) -> None:
    source = make_source(tmp_path / "source", state())
    with pytest.raises(wb.DestinationError) as caught:
        wb.convert(source, tmp_path / place, MAPPING)
    assert caught.value.code in ("destination-unsafe", "destination-exists")
    assert sorted(path.name for path in source.iterdir()) == ["config.json", "model.safetensors", "tokenizer.model"]


def test_torch_files_convert_and_come_back_as_safetensors(tmp_path: Path) -> None:
    tensors = state()
    (tmp_path / "source").mkdir()
    torch.save(tensors, tmp_path / "source/pytorch_model.bin")
    wb.convert(tmp_path / "source", tmp_path / "out", MAPPING)
    wb.revert(tmp_path / "out", tmp_path / "back")
    assert wb.verify(tmp_path / "source", tmp_path / "back")


def test_verify_says_which_elements_differ(tmp_path: Path) -> None:
    one = {"a": torch.zeros(3, 5), "b": torch.ones(2), "c": torch.ones(2)}
    two = {"a": torch.zeros(3, 5), "b": torch.ones(3), "d": torch.ones(2)}
    two["a"][1, 2] = two["a"][2, 4] = -0.0
    found = wb.verify(one, two)
    assert not found
    assert [(d.key, d.first, d.differing) for d in found.differences] == [("a", (1, 2), 2), ("b", None, 0)]
    assert (found.only_first, found.only_second) == (("c",), ("d",))
    with pytest.raises(wb.VerifyError):
        found.require_equal()
    assert wb.verify(one, dict(reversed(one.items())))


def test_verify_reaches_across_windows(tmp_path: Path) -> None:
    """A difference beyond the first window is found at its place."""
    one = {"a": torch.zeros(2_000_003, dtype=torch.int32)}
    two = {"a": one["a"].clone()}
    two["a"][2_000_001] = 1
    assert wb.verify(one, two).differences[0].first == (2_000_001,)


def test_reverse_conversion_takes_sizes_from_the_receipt(tmp_path: Path) -> None:
    """Grouped heads: q has 16 rows, k and v 8; the mapping alone could only cut in three equal parts."""
    source = make_source(tmp_path / "source", state())
    wb.convert(source, tmp_path / "out", MAPPING)
    wb.convert(tmp_path / "out", tmp_path / "back", MAPPING, reverse=True)
    assert wb.verify(source, tmp_path / "back")


def test_tensor_added_to_an_output_is_not_lost_by_a_revert(tmp_path: Path) -> None:
    wb.convert(make_source(tmp_path / "source", state()), tmp_path / "out", MAPPING)
    path = tmp_path / "out/model.safetensors"
    save_file(load_file(path) | {"new": torch.ones(2)}, path)
    with pytest.raises(wb.CheckpointError) as caught:
        wb.revert(tmp_path / "out", tmp_path / "back")
    assert caught.value.code == "source-changed"
    assert "new" in caught.value.where


def test_revert_without_what_was_dropped(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", state())
    wb.convert(source, tmp_path / "out", MAPPING, drop=["extra"])
    wb.revert(tmp_path / "out", tmp_path / "back", lossy=True)
    assert wb.open(tmp_path / "back").header.keys() == state().keys() - {"extra"}
    assert not wb.verify(source, tmp_path / "back").differences


def test_inverse_finds_its_output_from_another_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = wb.plan(state(), MAPPING)
    plan.write("out")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert plan.inverse().state_dict().keys() == state().keys()
