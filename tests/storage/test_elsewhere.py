"""Checkpoints that lie on no disk here: each scheme does what a path does, byte for byte, and no secret is shown."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest
import torch
from elsewhere import (
    MAPPING,
    SHARDS,
    addresses,
    check_no_secret,
    contents,
    reached,
    serve_everywhere,
    write_tiny,
)
from loopback import COMMIT, Asked, Loopback, Wrong, loopback
from safetensors.torch import save_file

import weighbridge as wb
from weighbridge.cli.app import app
from weighbridge.storage.remote.addresses import read_address
from weighbridge.storage.remote.traffic import watched_traffic

pytest.importorskip("obstore", reason="needs obstore, of the extra weighbridge[remote]")

KINDS = ("hub", "store", "server")


class Setting(NamedTuple):
    """A served checkpoint, the same on this disk, and what a conversion makes of it."""

    server: Loopback
    source: Path
    converted: Path
    places: dict[str, str]


@pytest.fixture(scope="module")
def everywhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    folder = tmp_path_factory.mktemp("elsewhere")
    source = write_tiny(folder / "model")
    converted = wb.convert(source, folder / "converted", MAPPING, digests=True)
    with loopback() as server, reached(server, folder):
        serve_everywhere(server, source)
        server.serve("/bucket/converted", converted)
        server.serve("/plain/converted", converted)
        server.serve("/hub/org/converted", converted)
        yield Setting(server, source, converted, addresses(server))


@pytest.fixture
def setting(everywhere: Setting) -> Setting:
    everywhere.server.reset()
    return everywhere


def run(*arguments: object) -> int:
    return int(app([str(argument) for argument in arguments], prog_name="weighbridge", standalone_mode=False) or 0)


@pytest.mark.parametrize("kind", KINDS)
def test_an_output_elsewhere_is_checked_by_its_receipt_and_reverted(
    setting: Setting, kind: str, tmp_path: Path
) -> None:
    place = {"hub": "hf://org/converted", "store": "s3://bucket/converted"}.get(kind)
    place = place or f"{setting.server.url}/plain/converted"
    assert wb.verify(place).equal
    assert contents(wb.revert(place, tmp_path / "back")) == contents(setting.source)
    back = [wb.plan(each, MAPPING.inverse()) for each in (place, setting.converted)]
    assert back[0].hash == back[1].hash


def test_a_revision_is_pinned_to_its_commit_and_recorded(setting: Setting, tmp_path: Path) -> None:
    out = wb.convert("hf://org/tiny@v1", tmp_path / "out")
    said = json.loads((out / "weighbridge.json").read_text())["source"]
    assert said["where"] == f"hf://org/tiny@{COMMIT}"
    assert {file["version"] for file in said["files"]} == {COMMIT}
    ranges = [asked.path for asked in setting.server.asked if "/resolve/" in asked.path]
    assert ranges
    assert all(f"/resolve/{COMMIT}/" in path for path in ranges)


def test_headers_take_one_request_a_file_and_a_part_its_bytes_alone(setting: Setting) -> None:
    with watched_traffic() as traffic:
        opened = wb.open(setting.places["store"])
    assert traffic.requests == len(list(setting.server.asked))
    assert traffic.requests <= 2 * (len(SHARDS) + 2)
    with watched_traffic() as traffic:
        key = "layers.1.norm.weight"
        assert list(wb.plan(opened, MAPPING).restrict(key).state_dict()) == [key]
    assert traffic.read_bytes <= 4096


@pytest.mark.parametrize("scheme", ["store", "hub"])
def test_a_long_header_takes_two_requests(setting: Setting, scheme: str, tmp_path: Path) -> None:
    server = setting.server
    save_file({"a": torch.arange(3)}, tmp_path / "model.safetensors", metadata={"note": "x" * 300_000})
    server.files["/long/model.safetensors"] = (tmp_path / "model.safetensors").read_bytes()
    server.files["/hub/org/long/model.safetensors"] = server.files["/long/model.safetensors"]
    opened = wb.open({"store": "s3://long/model.safetensors", "hub": "hf://org/long"}[scheme])
    assert len(opened.header.metadata["note"]) == 300_000
    spans = [asked.span for asked in server.asked if asked.path.endswith(".safetensors")]
    assert [span and span[0] for span in spans] == [0, 2**18]


def test_what_the_hubs_cache_has_is_mapped_from_there(setting: Setting, tmp_path: Path) -> None:
    blobs = tmp_path / "hub" / "models--org--tiny" / "blobs"
    snapshot = tmp_path / "hub" / "models--org--tiny" / "snapshots" / COMMIT
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for name in (SHARDS[0], "config.json"):
        shutil.copy(setting.source / name, blobs / name)
        (snapshot / name).symlink_to(blobs / name)
    with reached(setting.server, tmp_path):
        opened = wb.open("hf://org/tiny")
        plan = wb.plan(opened, MAPPING)
    state = plan.state_dict()
    assert all(torch.equal(state[key], value) for key, value in wb.plan(setting.source, MAPPING).state_dict().items())
    asked = [asked.path.rpartition("/")[2] for asked in setting.server.asked]
    assert SHARDS[0] not in asked
    assert "config.json" not in asked
    assert SHARDS[1] in asked


def test_a_redirect_to_another_host_takes_no_credentials_along(setting: Setting) -> None:
    server = setting.server

    def moved(asked: Asked) -> Wrong | None:
        is_file = "/resolve/" in asked.path and asked.host.startswith("127.0.0.1")
        name = asked.path.rpartition("/")[2]
        return Wrong(location=f"{server.other_url}/plain/{name}?sig=SECRETSIGNATURE") if is_file else None

    server.trouble = moved
    opened = wb.open("hf://org/tiny")
    assert wb.verify(opened, setting.source).equal
    elsewhere = [asked for asked in server.asked if asked.host.startswith("localhost")]
    assert elsewhere
    assert all("authorization" not in asked.headers for asked in elsewhere)
    at_home = [asked for asked in server.asked if "/resolve/" in asked.path]
    assert all(asked.headers.get("authorization") == "Bearer SECRETTOKEN" for asked in at_home)
    check_no_secret(opened.where, opened.fingerprint())


NO_ADDRESSES = {
    "hf://org/none": "checkpoint-not-found",
    "hf://org/tiny@never": "checkpoint-not-found",
    "hf://tiny": "checkpoint-not-found",
    "hf://org/tiny/none": "checkpoint-not-found",
    "hf://org/tiny/model-00003-of-00003.safetensors": "checkpoint-not-found",
    "s3://bucket/none": "checkpoint-not-found",
    "s3://": "checkpoint-not-found",
    "s3://bucket/../other": "path-unsafe",
    "s3://bucket/models/tiny/weights.pt": "checkpoint-not-found",
    "URL/none": "checkpoint-not-found",
    "URL/plain?X-Amz-Signature=SECRETSIGNATURE": "usage",
    "org/tiny": "checkpoint-not-found",
}


@pytest.mark.parametrize("place", NO_ADDRESSES)
def test_what_is_not_there_is_refused_by_name(setting: Setting, place: str) -> None:
    with pytest.raises(wb.WeighbridgeError) as refused:
        wb.open(place.replace("URL", setting.server.url))
    assert refused.value.code == NO_ADDRESSES[place]
    check_no_secret(str(refused.value), repr(refused.value.__cause__))


def test_a_bare_name_of_the_hub_is_told_its_address() -> None:
    for place, words in (("org/tiny", "hf://org/tiny"), (Path("hf://org/tiny"), '"hf://org/tiny"')):
        with pytest.raises(wb.WeighbridgeError) as refused:
            wb.open(place)
        assert words in str(refused.value)


def test_names_that_leave_the_folder_are_refused(setting: Setting) -> None:
    server = setting.server
    content = (setting.source / SHARDS[1]).read_bytes()
    server.files |= {"/odd/model.safetensors": content, "/odd/../outside.json": b"{}", "/odd/a//b.json": b"{}"}
    with pytest.raises(wb.WeighbridgeError) as refused:
        wb.open("s3://odd")
    assert refused.value.code == "path-unsafe"
    assert len(wb.open("s3://odd/model.safetensors").header) == 2
    index = json.dumps({"weight_map": {"a": "../plain/model-00001-of-00002.safetensors"}}).encode()
    server.files["/astray/model.safetensors.index.json"] = index
    for place in ("s3://astray", f"{server.url}/astray"):
        with pytest.raises(wb.WeighbridgeError) as refused:
            wb.open(place)
        assert refused.value.code == "path-unsafe"


def test_what_goes_along_is_the_same_here_and_elsewhere(setting: Setting, tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "model", rows=2)
    for name in (
        "images/one.png",
        "other/weights.bin",
        ".hidden",
        "images/.hidden",
        "training_args.bin",
        "deep/a/b.txt",
    ):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(b"x")
    setting.server.serve("/extras/tiny", source)
    here, there = wb.open(source), wb.open("s3://extras/tiny")
    assert sorted(extra.name for extra in there.extras) == sorted(extra.name for extra in here.extras)
    assert there.notes == here.notes


def test_a_listing_of_many_thousand_files_is_read_page_by_page_and_has_a_limit(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = setting.server
    server.files |= {f"/many/log/{number:06}.txt": b"" for number in range(3_000)}
    server.files["/many/model.safetensors"] = (setting.source / SHARDS[1]).read_bytes()
    assert len(wb.open("s3://many").header) == 2
    assert len([asked for asked in server.asked if "list-type" in str(asked) or asked.path == "/many"]) >= 3
    monkeypatch.setattr("weighbridge.storage.remote.clients.MOST_LISTED", 2_500)
    with pytest.raises(wb.WeighbridgeError) as refused:
        wb.open("s3://many")
    assert refused.value.code == "checkpoint-ambiguous"
    assert len(wb.open(f"{server.url}/many/model.safetensors").header) == 2


def test_addresses_are_split_without_their_secrets() -> None:
    found = read_address("https://me:SECRETPASSWORD@host.org/a/model.safetensors")
    assert (found.text, found.folder, found.file_name) == (
        "https://host.org/a/model.safetensors",
        "https://host.org/a",
        "model.safetensors",
    )
    assert read_address("hf://org/name.json").file_name == ""


WRONG_LINES = (
    ("plan", "PLACE", "tiny.yaml", "--target", "PLACE/model-00002-of-00002.safetensors"),
    ("plan", "PLACE", "none.yaml"),
    ("plan", "PLACE", "tiny.yaml", "--drop", "none"),
    ("convert", "PLACE", "tiny.yaml", "out"),
    ("convert", "tiny.yaml", "out", "PLACE"),
    ("convert", "PLACE", "PLACE", "tiny.yaml"),
    ("convert", "PLACE", "there", "tiny.yaml"),
    ("revert", "PLACE", "out"),
    ("verify", "PLACE"),
    ("verify", "PLACE", "none"),
    ("inspect", "PLACE/none"),
    ("inspect", "PLACE?token=SECRETTOKEN"),
    ("inspect", "PLACE::model"),
    ("detect", "PLACE/tokenizer.json"),
    ("lint", "PLACE"),
)


@pytest.mark.parametrize("line", WRONG_LINES, ids=" ".join)
def test_a_command_that_fails_shows_no_secret(
    setting: Setting,
    line: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(MAPPING.to_yaml())
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "something").write_text("")
    place = setting.places["server"]
    status = run(*(word.replace("PLACE", place) for word in line))
    shown = capfd.readouterr()
    assert status, shown.out
    check_no_secret(shown.out, shown.err)


@pytest.mark.parametrize("turned", [False, True])
def test_what_a_load_brings_is_predicted(setting: Setting, turned: bool, tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "model", rows=900)
    setting.server.serve("/predicted", source)
    name = "experts.{e}.gate.weight"
    rules = [wb.WeightConverter(name, name, [wb.Transpose(0, 1)])] if turned else MAPPING
    plan = wb.plan("s3://predicted", rules)
    said = next(note for note in plan.report.notes if "from elsewhere" in note)
    with watched_traffic() as traffic:
        plan.state_dict()
    checks = 3  # the index and two shards are looked at before anything is read
    kept = 2 * 16 * 4  # the second shard came with its header
    size_bytes, requests = (int(text.replace(",", "")) for text in re.findall(r"[\d,]*\d", said))
    assert requests - 1 <= traffic.requests - checks <= requests + len(plan.steps)
    assert abs(traffic.read_bytes - size_bytes) <= kept


def brought(asked: list[Asked], files: dict[str, bytes]) -> tuple[int, int]:
    """Return how many bytes the requests for data brought, and how many they were; a byte is asked for to compare."""
    sizes = [len(files[each.path]) if each.span is None else each.span[1] - each.span[0] for each in asked]
    data = [size for size in sizes if size > 1]
    return sum(data), len(data)


@pytest.mark.parametrize("turned", [False, True])
def test_what_a_conversion_brings_is_predicted_to_the_request(setting: Setting, turned: bool, tmp_path: Path) -> None:
    server, source = setting.server, write_tiny(tmp_path / "model", rows=900)
    server.serve("/predicted", source)
    name = "experts.{e}.gate.weight"
    rules = [wb.WeightConverter(name, name, [wb.Transpose(0, 1)])] if turned else MAPPING
    plan = wb.plan("s3://predicted", rules)
    said = next(note for note in plan.report.notes if note.startswith("converting"))
    size_bytes, requests = (int(text.replace(",", "")) for text in re.findall(r"[\d,]*\d", said))
    server.asked.clear()
    plan.write(tmp_path / "out")
    assert brought(server.asked, server.files) == (size_bytes, requests)
    assert requests <= (15 if turned else 5)


def test_a_conversion_of_some_keys_brings_their_bytes_alone(setting: Setting, tmp_path: Path) -> None:
    server = setting.server
    server.serve("/some", write_tiny(tmp_path / "model", rows=900))
    key = "layers.1.experts.gate_up"
    plan = wb.plan("s3://some", MAPPING).restrict(key)
    server.asked.clear()
    plan.write(tmp_path / "out")
    weights = [each for each in server.asked if each.path.endswith(SHARDS[0])]
    assert brought(weights, server.files)[0] <= plan.target[key].size_bytes


FOREIGN: Final = {
    "torch": {"pytorch_model.bin": b"PK"},
    "index": {"pytorch_model.bin.index.json": b'{"weight_map": {"a": "pytorch_model-1.bin"}}'},
    "dcp": {".metadata": b"x", "__0_0.distcp": b"x"},
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_read_from_disks_alone_says_how_to_bring_it_there(setting: Setting, kind: str) -> None:
    for name, content in FOREIGN[kind].items():
        setting.server.files[f"/foreign/{kind}/{name}"] = content
    with pytest.raises(wb.WeighbridgeError) as refused:
        wb.open(f"s3://foreign/{kind}")
    assert refused.value.code in ("checkpoint-not-found", "index-invalid")
    assert "fetch it first" in refused.value.hint
