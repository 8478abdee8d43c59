"""Two checkpoints compared with each other, and an output with its own receipt: whatever was changed is seen."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import weighbridge as wb
from weighbridge.base import batches
from weighbridge.base.batches import run_in_batches
from weighbridge.base.specs import DTYPES
from weighbridge.running.receipt import read_receipt
from weighbridge.running.tensor_digests import Digests
from weighbridge.storage import FileWriter, build_image
from weighbridge.studies.verification import Verification

PACKAGES = str(Path(wb.__file__).parents[1])
MAPPING = wb.Mapping(
    [wb.WeightConverter(["q", "k"], "qk", [wb.Concatenate(0)]), wb.WeightRenaming("old", "new")], name="joined"
)


def tensors() -> dict[str, torch.Tensor]:
    """Return a few tensors of different values, shapes and dtypes; `old.a` and `old.b` have one spec."""
    made = {f"layers.{i}.{name}": torch.arange(12.0).reshape(4, 3) + i for i in range(2) for name in "qk"}
    made |= {"old.a": torch.arange(5.0), "old.b": torch.arange(5.0) * 2, "ids": torch.arange(7, dtype=torch.int16)}
    return made


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An output in two shards that was written with digests."""
    save_file(tensors(), tmp_path / "model.safetensors")
    return wb.convert(tmp_path / "model.safetensors", tmp_path / "out", MAPPING, digests=True, max_shard_size=200)


@pytest.fixture
def single(tmp_path: Path) -> Path:
    """An output in one file that was written with digests."""
    return wb.convert(tensors(), tmp_path / "single", MAPPING, digests=True)


def shards(directory: Path) -> list[Path]:
    found = sorted(directory.glob("*.safetensors"))
    assert found
    return found


def change_receipt(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = directory / "weighbridge.json"
    form = json.loads(path.read_text("utf-8"))
    change(form)
    path.write_text(json.dumps(form), encoding="utf-8")


def resave(path: Path, held: Mapping[str, torch.Tensor]) -> None:
    save_file(dict(held), path, metadata={"format": "pt"})


def code_of(directory: Path) -> str:
    with pytest.raises(wb.CheckpointError) as caught:
        wb.verify(directory)
    return caught.value.code


def differing(found: Verification) -> list[str]:
    assert not found
    return [difference.key for difference in found.differences]


# Digests


def test_digests_are_those_of_the_bytes_that_lie_in_the_files(out: Path) -> None:
    held = {key: value for path in shards(out) for key, value in load_file(path).items()}
    recorded = read_receipt(out).digests
    assert recorded is not None
    assert recorded.tensors == {key: hashlib.sha256(value.numpy().tobytes()).hexdigest() for key, value in held.items()}
    index = out / "model.safetensors.index.json"
    assert recorded.files[index.name] == hashlib.sha256(index.read_bytes()).hexdigest()
    assert sorted(recorded.files) == [*(path.name for path in shards(out)), index.name]


def test_output_is_equal_to_its_receipt(out: Path) -> None:
    found = wb.verify(out)
    assert found
    assert (found.compared, found.compared_bytes) == (5, 4 * (4 * 12 + 2 * 5) + 14)
    assert str(found) == "equal: 5 tensors, 246 bytes compared with the receipt"
    assert wb.verify(out / "weighbridge.json") == wb.verify(str(shards(out)[0])) == found
    found.require_equal()


def test_receipt_without_digests_stays_as_it_was(out: Path, tmp_path: Path) -> None:
    """Digests are one more member at the end; everything before it is what a receipt without them says."""
    wb.convert(tmp_path / "model.safetensors", tmp_path / "plain", MAPPING, max_shard_size=200)
    plain, full = (json.loads((folder / "weighbridge.json").read_text()) for folder in (tmp_path / "plain", out))
    assert (plain["version"], "digests" in plain) == (1, False)
    assert list(full) == [*plain, "digests"]
    assert {name: full[name] for name in plain} == plain
    assert read_receipt(tmp_path / "plain").digests is None


def test_output_with_digests_is_reverted(out: Path, tmp_path: Path) -> None:
    wb.revert(out, tmp_path / "back")
    assert (tmp_path / "back/model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def every_dtype() -> dict[str, wb.TensorSpec]:
    """Return specs of every dtype of the format: whole bytes, an empty one, and a scalar where that is possible."""
    specs = {f"{code}.whole": wb.TensorSpec(code, (3, 8)) for code in DTYPES}
    specs |= {f"{code}.empty": wb.TensorSpec(code, (0, 8)) for code in DTYPES}
    return specs | {f"{code}.scalar": wb.TensorSpec(code, ()) for code, dtype in DTYPES.items() if dtype.bits % 8 == 0}


@pytest.fixture
def every(tmp_path: Path) -> Path:
    """A file with tensors of every dtype, none of whose bytes are all alike."""
    image = build_image("every.safetensors", every_dtype(), {})
    with FileWriter.of_image(tmp_path, image) as writer:
        for number, (_, offset, size_bytes) in enumerate(image.tensors):
            writer.write(offset, bytes((number * 31 + i * 7) % 256 for i in range(size_bytes)))
    return tmp_path / image.name


def test_every_dtype_has_digests(every: Path, tmp_path: Path) -> None:
    made = wb.convert(every, tmp_path / "out", [wb.PrefixChange(prefix_to_add="model")], digests=True)
    assert wb.verify(made).compared == len(every_dtype())
    recorded = read_receipt(made).digests
    assert recorded is not None
    assert recorded.tensors["model.F4.empty"] == hashlib.sha256().hexdigest()
    source = wb.open(every)
    for key in ("F4.whole", "F6_E2M3.whole", "BF16.scalar"):
        buffer = bytearray(source.header[key].size_bytes)
        source.read(key, 0, memoryview(buffer))
        assert recorded.tensors[f"model.{key}"] == hashlib.sha256(buffer).hexdigest()


def test_tied_tensors_have_a_digest_each(tmp_path: Path) -> None:
    weight = torch.arange(6.0)
    made = wb.convert({"head": weight, "embed": weight, "other": weight + 1}, tmp_path / "out", [], digests=True)
    recorded = read_receipt(made).digests
    assert recorded is not None
    assert recorded.tensors["head"] == recorded.tensors["embed"] != recorded.tensors["other"]
    assert wb.verify(made).compared == 3


def test_saved_model_is_checked(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    made = wb.save(model, tmp_path / "out", [wb.PrefixChange(prefix_to_remove="inner")], digests=True)
    assert wb.verify(made).compared == 2
    with torch.no_grad():
        model.weight[1, 1] += 1
    assert wb.verify(made)


def test_digests_of_restored_files_are_refused_before_anything_is_written(out: Path, tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    resave(tmp_path / "linear.safetensors", {f"old.{key}": value for key, value in model.state_dict().items()})
    wb.load(model, tmp_path / "linear.safetensors", [wb.PrefixChange(prefix_to_remove="old")])
    for restore in (
        lambda: wb.revert(out, tmp_path / "back", digests=True),
        lambda: wb.save(model, tmp_path / "back", digests=True),
    ):
        with pytest.raises(wb.DestinationError) as caught:
            restore()
        assert caught.value.code == "usage"
        assert not (tmp_path / "back").exists()


# What an output's own check sees


def test_every_flipped_byte_is_seen(single: Path) -> None:
    """A weight file is its head and its tensors, and digests account for both."""
    (path,) = shards(single)
    raw = path.read_bytes()
    for place in range(len(raw)):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
        try:
            assert not wb.verify(single), place
        except wb.CheckpointError:
            assert place < len(raw) - 246
    path.write_bytes(raw)
    assert wb.verify(single)


def test_flipped_byte_is_named_by_its_tensor(out: Path) -> None:
    path = shards(out)[-1]
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 128
    path.write_bytes(raw)
    found = wb.verify(out)
    assert differing(found) == ["new.b"]
    assert str(found).splitlines() == [
        "different: 1 differ (5 tensors, 246 bytes compared with the receipt)",
        "new.b F32 [5]: its bytes are not those that were written",
    ]
    recorded = read_receipt(out).digests
    assert recorded is not None
    assert found.differences[0].digests == (recorded.tensors["new.b"], hashlib.sha256(raw[-20:]).hexdigest())
    with pytest.raises(wb.VerifyError) as caught:
        found.require_equal()
    assert caught.value.code == "verify-failed"


def test_swapped_values_are_seen(single: Path) -> None:
    (path,) = shards(single)
    held = load_file(path)
    resave(path, held | {"new.a": held["new.b"], "new.b": held["new.a"]})
    found = wb.verify(single)
    assert (differing(found), found.files) == (["new.a", "new.b"], ())


def test_swapped_names_are_seen(single: Path) -> None:
    (path,) = shards(single)
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"new.a", b"*****").replace(b"new.b", b"new.a").replace(b"*****", b"new.b"))
    found = wb.verify(single)
    assert (differing(found), len(found.files)) == (["new.a", "new.b"], 1)


def test_other_tensors_and_specs_are_seen(single: Path) -> None:
    (path,) = shards(single)
    held = load_file(path)
    del held["ids"]
    resave(path, held | {"more": torch.ones(2), "new.a": held["new.a"].double(), "new.b": held["new.b"][None]})
    found = wb.verify(single)
    assert differing(found) == ["new.a", "new.b"]
    assert (found.only_first, found.only_second) == (("ids",), ("more",))
    lines = str(found).splitlines()
    assert lines[0].startswith("different: 2 differ, 1 only in the receipt, 1 only in the files, 1 file not as written")
    assert lines[1:3] == ["only in the receipt: ids", "only in the files:   more"]
    assert lines[3] == "model.safetensors: its header is not the one that was written"
    assert lines[4] == "new.a: F32 [5] against F64 [5]"


def test_metadata_of_a_header_is_seen(single: Path) -> None:
    (path,) = shards(single)
    save_file(load_file(path), path, metadata={"format": "tf"})
    found = wb.verify(single)
    assert (found.equal, found.differences, len(found.files)) == (False, (), 1)


def test_index_is_seen(out: Path) -> None:
    path = out / "model.safetensors.index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"note": "new"}))
    assert wb.verify(out).files == (f"{path.name}: its text is not the one that was written",)


def test_same_tensors_in_other_files_are_seen(out: Path) -> None:
    held = {key: value for path in shards(out) for key, value in load_file(path).items()}
    names = [path.name for path in shards(out)]
    for path in (*shards(out), out / "model.safetensors.index.json"):
        path.unlink()
    resave(out / "all.safetensors", held)
    found = wb.verify(out)
    assert found.differences == ()
    assert found.files == (
        "all.safetensors: this file was not written",
        *(f"{name}: this file was written, and is no part of the checkpoint" for name in names),
        "model.safetensors.index.json: this file was written, and is no part of the checkpoint",
    )


def test_missing_file_is_an_error(out: Path, single: Path) -> None:
    shards(out)[0].unlink()
    assert code_of(out) == "index-mismatch"
    shards(single)[0].unlink()
    assert code_of(single) == "checkpoint-not-found"


def test_truncated_file_is_an_error(single: Path) -> None:
    (path,) = shards(single)
    path.write_bytes(path.read_bytes()[:-1])
    assert code_of(single) == "file-truncated"


# Receipts


def drop_digests(form: dict[str, Any]) -> None:
    del form["digests"]


def test_receipt_without_digests_says_how_to_get_them(out: Path) -> None:
    change_receipt(out, drop_digests)
    with pytest.raises(wb.CheckpointError) as caught:
        wb.verify(out)
    assert caught.value.code == "digests-missing"
    assert "--digests" in caught.value.hint


def test_changed_digest_is_a_difference(out: Path) -> None:
    change_receipt(out, lambda form: form["digests"]["tensors"].update(ids=64 * "0"))
    assert differing(wb.verify(out)) == ["ids"]


DAMAGE: dict[str, Callable[[dict[str, Any]], None]] = {
    "no object": lambda form: form.update(digests=[]),
    "null": lambda form: form.update(digests=None),
    "algorithm": lambda form: form["digests"].update(algorithm="md5"),
    "no algorithm": lambda form: form["digests"].pop("algorithm"),
    "no files": lambda form: form["digests"].pop("files"),
    "short": lambda form: form["digests"]["tensors"].update(ids="00"),
    "upper case": lambda form: form["digests"]["tensors"].update(ids=64 * "A"),
    "line end": lambda form: form["digests"]["tensors"].update(ids=64 * "0" + "\n"),
    "no text": lambda form: form["digests"]["tensors"].update(ids=0),
    "left out": lambda form: form["digests"]["tensors"].pop("ids"),
    "too many": lambda form: form["digests"]["tensors"].update(more=64 * "0"),
    "file": lambda form: form["digests"]["files"].update(a="?"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_digests_are_named(out: Path, tmp_path: Path, name: str) -> None:
    change_receipt(out, DAMAGE[name])
    assert code_of(out) == "receipt-invalid"
    with pytest.raises(wb.CheckpointError) as caught:
        wb.revert(out, tmp_path / "back")
    assert caught.value.code == "receipt-invalid"
    assert not (tmp_path / "back").exists()


def test_digests_come_back_from_their_form() -> None:
    digests = Digests({"a": 64 * "1"}, {"b": 64 * "f"})
    assert Digests.from_dict(json.loads(json.dumps(digests.to_dict()))) == digests


def test_keys_of_any_characters_come_back(tmp_path: Path) -> None:
    made = wb.convert({'lay"ers\\.é.𝛼': torch.ones(2)}, tmp_path / "out", [], digests=True)
    assert wb.verify(made)


def test_place_without_a_receipt_is_an_error(tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / "model.safetensors")
    for place in (tmp_path, tmp_path / "model.safetensors"):
        assert code_of(place) == "receipt-invalid"
    assert code_of(tmp_path / "nowhere") == "checkpoint-not-found"


@pytest.mark.parametrize("place", [{}, None, wb.Header({})])
def test_what_is_no_path_has_no_receipt(place: object) -> None:
    with pytest.raises(wb.WeighbridgeError) as caught:
        wb.verify(place)
    assert caught.value.code == "usage"


def test_second_side_that_is_none_is_a_slip(out: Path) -> None:
    with pytest.raises(wb.CheckpointError) as caught:
        wb.verify(out, None)
    assert caught.value.code == "checkpoint-not-found"


# Two checkpoints


def test_differences_come_in_order_from_any_number_of_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    one = {f"k.{i}": torch.full((i % 5 + 1,), i, dtype=torch.int32) for i in range(300)}
    two = {key: value + (i % 3 == 0) for i, (key, value) in enumerate(one.items())}
    whole = wb.verify(one, two)
    assert differing(whole) == sorted(f"k.{i}" for i in range(0, 300, 3))
    monkeypatch.setattr(batches, "BATCH_ITEMS", 1)
    assert wb.verify(dict(reversed(one.items())), two) == whole


def test_windows_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "WINDOW_BYTES", 16)
    one = torch.zeros(5, 7, dtype=torch.float64)
    two = one.clone()
    two[1, 2] = two[3, 0] = two[4, 6] = 1
    (found,) = wb.verify({"a": one}, {"a": two}).differences
    assert (found.first, found.differing) == ((1, 2), 3)
    assert str(found) == "a F64 [5, 7]: 3 of 35 elements differ, first at [1, 2]"


def test_elements_below_a_byte_are_counted_as_bytes(every: Path) -> None:
    raw = bytearray(every.read_bytes())
    extent = wb.open(every).extent("F6_E2M3.whole")
    assert extent is not None
    for place in (5, 16):
        raw[extent.offset + place] ^= 0xFF
    other = every.with_name("other.safetensors")
    other.write_bytes(raw)
    (found,) = wb.verify(every, other).differences
    assert str(found) == "F6_E2M3.whole F6_E2M3 [3, 8]: 2 of 18 bytes differ, first at [5]"


def test_header_alone_cannot_be_compared() -> None:
    header = wb.Header({"a": wb.TensorSpec("F32", (2,))})
    with pytest.raises(wb.CheckpointError) as caught:
        wb.verify(header, header)
    assert caught.value.code == "data-missing"


def test_batches_raise_the_first_error_in_order() -> None:
    begun: list[int] = []
    is_later_done = threading.Event()

    def work(number: int) -> int:
        begun.append(number)
        if number == 3:
            is_later_done.wait(timeout=10)
            raise KeyError(number)
        if number == 4:
            is_later_done.set()
            raise IndexError(number)
        return number

    with pytest.raises((KeyError, IndexError)) as caught:
        run_in_batches(work, range(10_000), lambda _: batches.BATCH_BYTES)
    assert caught.value.args == (3,)
    assert len(begun) < 100


# The command


def run(folder: Path, *arguments: str) -> tuple[int, str, str]:
    search = os.pathsep.join(path for path in (PACKAGES, os.environ.get("PYTHONPATH", "")) if path)
    command = [sys.executable, "-m", "weighbridge", *arguments]
    environment = {**os.environ, "PYTHONPATH": search}
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return ran.returncode, ran.stdout, ran.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint, a mapping as a file, and what the command makes of them."""
    save_file(tensors(), tmp_path / "model.safetensors")
    (tmp_path / "joined.json").write_text(json.dumps(MAPPING.to_dict()))
    ran = run(tmp_path, "convert", "model.safetensors", "out", "joined.json", "--digests", "--quiet")
    assert ran == (0, "", "")
    return tmp_path


def test_command_checks_an_output(folder: Path) -> None:
    assert run(folder, "verify", "out") == (0, "equal: 5 tensors, 246 bytes compared with the receipt\n", "")
    (path,) = shards(folder / "out")
    held = load_file(path)
    resave(path, held | {"new.b": held["new.b"] + 1})
    status, text, errors = run(folder, "verify", "out", "--full")
    assert (status, errors) == (1, "")
    assert text.splitlines()[1] == "new.b F32 [5]: its bytes are not those that were written"
    status, text, _ = run(folder, "verify", "out", "--json")
    form = json.loads(text)
    assert (status, form["equal"], [found["key"] for found in form["differences"]]) == (1, False, ["new.b"])
    assert [len(digest) for digest in form["differences"][0]["digests"]] == [64, 64]
    assert run(folder, "verify", "out", "--quiet") == (1, "", "")


def test_command_says_how_to_get_digests(single: Path) -> None:
    change_receipt(single, drop_digests)
    status, text, errors = run(single.parent, "verify", "single")
    assert (status, text) == (4, "")
    assert errors.startswith("digests-missing: ")
    assert "convert --digests" in errors
