"""Plans and receipts that somebody, or a disk, has changed: each is refused, with an error of this package."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from form_values import places_of, replaced
from hypothesis import given, settings, strategies as st
from safetensors.torch import save_file

import weighbridge as wb
from weighbridge.api import Plan
from weighbridge.base.errors import WeighbridgeError
from weighbridge.base.file_sets import MAX_HEAD_BYTES, MAX_INDEX_BYTES, FileImage, FileSet
from weighbridge.base.forms import json_forms as forms
from weighbridge.planning import stored as proof
from weighbridge.running.receipt import read_receipt
from weighbridge.storage import FileWriter, IndexText, staged_directory
from weighbridge.storage.formats import shard_index
from weighbridge.storage.formats.safetensors_header import LENGTH_BYTES, MAX_HEADER_BYTES

MAPPING = wb.Mapping(
    [
        wb.WeightConverter(["q", "k"], "qk", [wb.Concatenate(0), wb.Transpose(0, 1)]),
        wb.WeightRenaming("old", "new"),
    ],
    name="joined",
)
WEIGHTS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"


def make_source(directory: Path) -> Path:
    """Write a checkpoint of two shards whose tensors `old.a` and `old.b` are alike."""
    directory.mkdir()
    first = {"q": torch.arange(6.0).reshape(2, 3), "k": torch.arange(12.0).reshape(4, 3)}
    second = {"old.a": torch.zeros(5), "old.b": torch.ones(5)}
    for name, tensors in zip(WEIGHTS, (first, second), strict=True):
        save_file(tensors, directory / name, metadata={"format": "pt"})
    places = dict.fromkeys(first, WEIGHTS[0]) | dict.fromkeys(second, WEIGHTS[1])
    (directory / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return directory


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint on the disk."""
    return make_source(tmp_path_factory.mktemp("tampering") / "source")


@pytest.fixture(scope="module")
def form(source: Path) -> dict[str, Any]:
    """The JSON form of a plan that records files."""
    return json.loads(wb.plan(source, MAPPING).to_json())


def files_hash(files: FileSet) -> str:
    """The digest that a plan has whose source lies in these files."""
    return Plan(MAPPING, (), source_files=files).files_hash


def code_of(form: Any) -> str:
    """Read a form that cannot be read, and return the error's code."""
    with pytest.raises(WeighbridgeError) as caught:
        Plan.from_dict(form)
    return caught.value.code


def rehashed(form: dict[str, Any]) -> dict[str, Any]:
    """Make both hashes right again, as somebody would who wants a changed form to pass."""
    files = FileSet.from_dict(form["source_files"])
    return form | {"files_hash": files_hash(files)}


# Names


UNSAFE = ["../evil", "/abs", "", ".", "a/../b", "a\\b", "a\0b", "a//b", "C:x", "\ud800", "weighbridge.json"]


@pytest.mark.parametrize("name", UNSAFE)
def test_recorded_name_that_leads_elsewhere_is_refused(form: dict[str, Any], name: str) -> None:
    for change in ("image", "index"):
        damaged = deepcopy(form)
        files = damaged["source_files"]
        place, field = (files["images"][0], "name") if change == "image" else (files, "index_name")
        place[field] = name
        assert code_of(damaged) == "path-unsafe"
        with pytest.raises(wb.CheckpointError):
            FileSet.from_dict(files)


@pytest.mark.parametrize("name", UNSAFE)
def test_writers_refuse_unsafe_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(wb.CheckpointError) as caught:
        FileWriter.of_image(tmp_path / "in", FileImage(name, 0, b"", ()))
    assert caught.value.code == "path-unsafe"
    with pytest.raises(wb.CheckpointError) as caught, staged_directory(tmp_path / "out") as output:
        output.add_index(IndexText(name, b"{}"))
    assert caught.value.code == "path-unsafe"
    assert list(tmp_path.iterdir()) == []


def test_repeated_names_are_refused(form: dict[str, Any]) -> None:
    for name in (WEIGHTS[1], INDEX):
        damaged = deepcopy(form)
        damaged["source_files"]["images"][0]["name"] = name
        assert code_of(damaged) == "plan-format"


def test_receipt_with_an_unsafe_name_writes_nothing(source: Path, tmp_path: Path) -> None:
    wb.convert(source, tmp_path / "out", MAPPING)
    path = tmp_path / "out" / "weighbridge.json"
    receipt = json.loads(path.read_text())
    receipt["plan"]["source_files"]["images"][0]["name"] = "../../evil.safetensors"
    path.write_text(json.dumps(receipt))
    with pytest.raises(wb.CheckpointError) as caught:
        wb.revert(tmp_path / "out", tmp_path / "deep" / "back")
    assert caught.value.code == "path-unsafe"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


# The record of files


def swap_keys(files: dict[str, Any]) -> None:
    first, second = files["images"][1]["tensors"]
    first[0], second[0] = second[0], first[0]


def delete_place(files: dict[str, Any]) -> None:
    del files["images"][0]["tensors"][0]


def delete_image(files: dict[str, Any]) -> None:
    del files["images"][0]


def delete_all_images(files: dict[str, Any]) -> None:
    files["images"] = []


def delete_index(files: dict[str, Any]) -> None:
    del files["index_name"], files["index_text"]
    del files["images"][0]


def repeat_image(files: dict[str, Any]) -> None:
    files["images"].append(files["images"][0] | {"name": "again.safetensors"})
    del files["index_name"], files["index_text"]


def lengthen(files: dict[str, Any]) -> None:
    files["images"][0]["size_bytes"] += 4


def rename_file(files: dict[str, Any]) -> None:
    files["images"][0]["name"] = "other.safetensors"


def swap_keys_in_head(files: dict[str, Any]) -> None:
    image = files["images"][1]
    head = forms.inflate(image["head"], MAX_HEAD_BYTES)
    image["head"] = forms.deflate(head.replace(b"old.a", b"?").replace(b"old.b", b"old.a").replace(b"?", b"old.b"))


def rename_in_head(files: dict[str, Any]) -> None:
    image = files["images"][1]
    image["head"] = forms.deflate(forms.inflate(image["head"], MAX_HEAD_BYTES).replace(b"old.a", b"old.c"))
    image["tensors"] = [[key.replace("old.a", "old.c"), *place] for key, *place in image["tensors"]]


def prolong_head(files: dict[str, Any]) -> None:
    image = files["images"][1]
    image["head"] = forms.deflate(forms.inflate(image["head"], MAX_HEAD_BYTES) + b"more")


CHANGES = [
    swap_keys,
    delete_place,
    delete_image,
    delete_all_images,
    delete_index,
    repeat_image,
    lengthen,
    rename_file,
    swap_keys_in_head,
    rename_in_head,
    prolong_head,
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("hides", [False, True])
def test_changed_record_of_files_is_refused(
    form: dict[str, Any], change: Callable[[dict[str, Any]], None], hides: bool
) -> None:
    """Even where the digest was made to fit: the heads are parsed again, and must hold the plan's tensors."""
    damaged = deepcopy(form)
    change(damaged["source_files"])
    assert code_of(rehashed(damaged) if hides else damaged) == "plan-format"


def test_consistent_change_of_a_head_is_seen_by_the_digest(form: dict[str, Any]) -> None:
    """Metadata and spaces of a header are no part of the plan, so that only the digest can tell."""
    damaged = deepcopy(form)
    image = damaged["source_files"]["images"][0]
    head = forms.inflate(image["head"], MAX_HEAD_BYTES)
    image["head"] = forms.deflate(head.replace(b'"pt"', b'"tp"'))
    assert code_of(damaged) == "plan-format"
    assert Plan.from_dict(rehashed(damaged)).files_hash != form["files_hash"]
    del damaged["files_hash"]
    assert code_of(damaged) == "plan-format"


def test_target_files_are_proven_as_well(source: Path) -> None:
    form = json.loads(wb.plan(source, MAPPING).inverse().to_json())
    assert Plan.from_dict(form).to_dict() == form
    swap_keys(form["target_files"])
    assert code_of(form) == "plan-format"
    files = FileSet.from_dict(form["target_files"])
    with pytest.raises(wb.PlanError):
        proof.check_files(files, Plan.from_dict(json.loads(wb.plan(source, MAPPING).to_json())).source.specs)


def test_receipt_of_another_plan_is_refused(source: Path, tmp_path: Path) -> None:
    wb.convert(source, tmp_path / "out", MAPPING)
    path = tmp_path / "out" / "weighbridge.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"plan_hash": "0" * 64}))
    with pytest.raises(wb.CheckpointError) as caught:
        read_receipt(tmp_path / "out")
    assert caught.value.code == "receipt-invalid"


# Sizes


def test_limits_are_those_of_the_readers() -> None:
    assert (MAX_HEAD_BYTES, MAX_INDEX_BYTES) == (MAX_HEADER_BYTES + LENGTH_BYTES, shard_index.MAX_INDEX_BYTES)


@pytest.mark.parametrize("size", [0, 1, 999, 1000])
def test_inflate_gives_back_what_was_deflated(size: int) -> None:
    assert forms.inflate(forms.deflate(b"x" * size), 1000) == b"x" * size


def test_inflate_stops_at_the_limit() -> None:
    with pytest.raises(wb.PlanError) as caught:
        forms.inflate(forms.deflate(bytes(10**7)), 1000)
    assert caught.value.code == "plan-format"
    assert "1,000" in caught.value.got


@pytest.mark.parametrize(
    "value",
    [
        "",
        "?",
        "AAAA",
        "é",
        None,
        7,
        base64.b64encode(zlib.compress(b"x")[:-1]).decode(),
        base64.b64encode(zlib.compress(b"x") + b"more").decode(),
    ],
)
def test_inflate_refuses_what_is_no_stream(form: dict[str, Any], value: object) -> None:
    damaged = deepcopy(form)
    damaged["source_files"]["images"][0]["head"] = value
    assert code_of(damaged) == "plan-format"


# Every other value


ODD = [None, [], {}, -1, 0, 1, 2**63, 10**30, 10**5000, "x", "", True, 0.5, float("nan"), float("inf"), [[]], {"x": 1}]


@settings(max_examples=1000, deadline=None)
@given(data=st.data())
def test_damaged_form_gives_an_error_of_this_package(form: dict[str, Any], data: st.DataObject) -> None:
    """Whatever stands at whatever place: the form is refused with one of the codes, or it is still the same plan."""
    paths = data.draw(st.lists(st.sampled_from(places_of(form)), min_size=1, max_size=2))
    damaged = form
    for path in sorted(paths, key=len, reverse=True):
        damaged = replaced(damaged, path, data.draw(st.sampled_from(ODD)))
    try:
        plan = Plan.from_dict(damaged)
    except WeighbridgeError as problem:
        str(problem)
    else:
        assert plan.hash == form["hash"]


@settings(max_examples=500, deadline=None)
@given(data=st.data())
def test_damaged_form_without_hashes_gives_an_error_of_this_package(form: dict[str, Any], data: st.DataObject) -> None:
    """What the hashes would have stopped is stopped by the proof, or is a sound plan that can be inverted."""
    told = ("format", "version", "hash", "files_hash")
    path = data.draw(st.sampled_from([path for path in places_of(form) if path[:1] not in [(name,) for name in told]]))
    damaged = replaced(form, path, data.draw(st.sampled_from(ODD)))
    try:
        plan = proof._plan_from_form(damaged)
        plan.check()
        proof.check_files(plan.source_files, plan.source.specs)
        again = {**damaged, "hash": plan.hash, "files_hash": plan.files_hash}
    except Exception:
        assert code_of(damaged)
    else:
        read = Plan.from_dict(again)
        assert not read.is_exact or read.inverse().target.specs == read.source.specs


@pytest.fixture(scope="module")
def output(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted checkpoint whose receipt a test may change."""
    return wb.convert(source, tmp_path_factory.mktemp("output") / "out", MAPPING)


@pytest.fixture(scope="module")
def receipt_form(output: Path) -> dict[str, Any]:
    """The receipt of `output` as it was written."""
    return json.loads((output / "weighbridge.json").read_text())


@settings(max_examples=500, deadline=None)
@given(data=st.data())
def test_damaged_receipt_gives_a_checkpoint_error(
    output: Path, receipt_form: dict[str, Any], data: st.DataObject
) -> None:
    """Only what a receipt merely tells, such as where its source lay, may differ and still be read."""
    outer = [path for path in places_of(receipt_form) if path[:1] != ("plan",)]
    path = data.draw(st.sampled_from(outer) | st.sampled_from(places_of(receipt_form)))
    value = data.draw(st.sampled_from([value for value in ODD if value != 10**5000]))
    (output / "weighbridge.json").write_text(json.dumps(replaced(receipt_form, path, value)))
    try:
        receipt = read_receipt(output)
    except wb.CheckpointError as problem:
        codes = {problem.code}
        assert codes <= {"receipt-invalid", "path-unsafe"}
    else:
        assert receipt.plan.to_dict() == receipt_form["plan"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("steps", 0, 1), ["k"]),
        (("steps", 0, 2), []),
        (("steps", 0, 3), "lost"),
        (("steps", 0, 4), [99]),
        (("steps", 0, 4), [True]),
        (("steps", 0, 0), False),
        (("steps", 0, 1, 0), 7),
        (("tied_targets",), [["t", "F32", [5], "nobody"]]),
        (("tied_targets",), [["t", "F32", [6], "new.a"]]),
        (("tied_sources",), [["t", "F32", [5], "nobody"]]),
        (("programs", 0, "sources", 0, 1, 0), -2),
        (("programs", 0, "sources", 0, 1, 0), 2.0),
        (("programs", 0, "sources", 0, 0), "F33"),
    ],
)
def test_check_refuses_what_does_not_hold(form: dict[str, Any], path: tuple[Any, ...], value: Any) -> None:
    with pytest.raises(wb.PlanError) as caught:
        Plan.from_dict(replaced(form, path, value))
    found = {caught.value.code, *caught.value.codes}
    assert found & {"plan-format", "plan-failed"}
    assert "hash" not in caught.value.what


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(wb.PlanError) as caught:
        Plan.from_json("[" * 100_000)
    assert caught.value.code == "plan-format"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace('{"', '{"reading": "mapped", "', 1), "'reading' stands twice"),
        (lambda text: text.replace('"version": 1', '"version": NaN'), "NaN is not JSON"),
        (lambda text: text.encode("utf-16"), "byte 0 is not UTF-8"),
        (lambda text: text[:-2], "character"),
        (lambda text: text + "[" * 20, "Extra data"),
        (lambda text: "[" + "0," * 12_000_001 + "0]", "more than 12,000,000 values"),
        (lambda text: 7, "a int"),
    ],
    ids=["a name twice", "no number", "another encoding", "cut off", "too long", "too many values", "no text"],
)
def test_the_text_of_a_plan_is_read_as_strictly_as_a_receipt(change: Any, words: str) -> None:
    text = wb.plan({"a": torch.zeros(2)}, []).to_json()
    assert Plan.from_json(text.encode()) == Plan.from_json(text)
    with pytest.raises(wb.PlanError) as caught:
        Plan.from_json(change(text))
    assert (caught.value.code, caught.value.expected) == ("plan-format", proof.EXPECTED)
    assert words in caught.value.got


def test_the_text_of_a_plan_has_a_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    text = wb.plan({"a": torch.zeros(2)}, []).to_json()
    monkeypatch.setattr(proof, "MAX_PLAN_BYTES", len(text))
    assert Plan.from_json(text)
    with pytest.raises(wb.PlanError) as caught:
        Plan.from_json(text + " ")
    assert caught.value.got == f"{len(text) + 1:,} bytes, of {len(text):,}"


# Hashing


def test_equal_plans_hash_alike(source: Path, form: dict[str, Any]) -> None:
    plan = wb.plan(source, MAPPING)
    assert len({plan, Plan.from_dict(form), plan.inverse()}) == 2
