"""Outputs in a store: the bytes of a local run, whole or not there at all, from store to store and back."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from elsewhere import HURRIED, MAPPING, check_no_secret, contents, without_source, write_tiny
from safetensors.torch import save_file

import weighbridge as wb
from weighbridge.base.file_sets import FileImage
from weighbridge.cli.app import app
from weighbridge.storage.outputs import store_folder, store_sink
from weighbridge.storage.remote import pace

pytest.importorskip("obstore", reason="needs obstore, of the extra weighbridge[remote]")
server = pytest.importorskip("moto.server", reason="needs moto and flask, of the extra weighbridge[test]")

BUCKET = "bucket"


class Store(NamedTuple):
    """A store, the checkpoint in it, and what a conversion makes of it on this disk."""

    client: Any
    source: Path
    converted: Path

    def keys(self, prefix: str) -> list[str]:
        found = self.client.list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/").get("Contents", [])
        return sorted(each["Key"].removeprefix(f"{prefix}/") for each in found)

    def objects(self, prefix: str) -> dict[str, bytes]:
        return {
            name: self.client.get_object(Bucket=BUCKET, Key=f"{prefix}/{name}")["Body"].read()
            for name in self.keys(prefix)
        }

    def uploads(self) -> list[str]:
        return [each["Key"] for each in self.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    import boto3

    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "SECRETKEY")
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setattr(pace, "PATIENCE", HURRIED)
        client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"], region_name="us-east-1")
        client.create_bucket(Bucket=BUCKET)
        folder = tmp_path_factory.mktemp("store")
        source = write_tiny(folder / "model", rows=400)
        for name, content in contents(source).items():
            client.put_object(Bucket=BUCKET, Key=f"model/{name}", Body=content)
        converted = wb.convert(source, folder / "converted", MAPPING, max_shard_size=200_000)
        yield Store(client, source, converted)
    running.stop()


def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have parts that a small file has many of; a store takes none below 5 MiB, so this is for sinks alone."""
    monkeypatch.setattr(store_sink, "PART_BYTES", 4096)


def test_from_store_to_store_and_back_is_what_it_is_here(store: Store) -> None:
    assert wb.convert("s3://bucket/model", "s3://bucket/out", MAPPING, max_shard_size=200_000) == "s3://bucket/out"
    assert without_source(store.objects("out")) == without_source(contents(store.converted))
    said = json.loads(store.objects("out")["weighbridge.json"])["source"]
    assert said["where"] == "s3://bucket/model"
    assert wb.verify("s3://bucket/out", store.converted).equal
    assert wb.revert("s3://bucket/out", "s3://bucket/back") == "s3://bucket/back"
    assert store.objects("back") == contents(store.source)
    assert store.uploads() == []


def test_the_command_writes_there_and_says_so(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mapping = tmp_path / "tiny.yaml"
    mapping.write_text(MAPPING.to_yaml())
    line = ["convert", "--json", str(store.source), "s3://bucket/said", str(mapping), "--max-shard-size", "200KB"]
    assert not app(line, prog_name="weighbridge", standalone_mode=False)
    told = json.loads(capsys.readouterr().out)
    assert told["files"] == sorted(contents(store.converted))
    assert not app(
        ["revert", "s3://bucket/said", "s3://bucket/reverted"], prog_name="weighbridge", standalone_mode=False
    )
    shown = capsys.readouterr()
    assert "s3://bucket/reverted" in shown.out
    check_no_secret(shown.out, shown.err)


REFUSED = {
    "s3://bucket/model": "destination-unsafe",
    "s3://bucket/model/inside": "destination-unsafe",
    "s3://bucket": "destination-unsafe",
    "s3://bucket/taken": "destination-exists",
    "s3://bucket/model.safetensors": "usage",
    "s3://nowhere/out": "write-failed",
    "hf://org/name": "usage",
    "https://host.example/out": "usage",
}


@pytest.mark.parametrize("destination", REFUSED)
def test_a_place_that_is_none_is_refused_and_nothing_is_put(store: Store, destination: str) -> None:
    store.client.put_object(Bucket=BUCKET, Key="taken/something", Body=b"x")
    before = store.keys("")
    with pytest.raises(wb.WeighbridgeError) as refused:
        wb.convert("s3://bucket/model", destination, MAPPING)
    assert refused.value.code == REFUSED[destination]
    assert store.keys("") == before


@pytest.mark.parametrize("option", [{"digests": True}, {"link": "hard"}, {"to": "dcp"}, {"part": (0, 2)}], ids=str)
def test_what_is_for_disks_is_refused(store: Store, option: dict[str, Any]) -> None:
    with pytest.raises(wb.WeighbridgeError) as refused:
        wb.convert(store.source, "s3://bucket/disk", MAPPING, **option)
    assert refused.value.code == "usage"


class StoppedError(Exception):
    """A run is stopped here."""


def stop_after(size_bytes: int) -> Any:
    def progress(done: int, _: int) -> None:
        if done > size_bytes:
            raise StoppedError

    return progress


def test_a_run_that_fails_takes_away_what_it_has_put(store: Store) -> None:
    with pytest.raises(StoppedError):
        wb.convert(store.source, "s3://bucket/failed", MAPPING, max_shard_size=200_000, progress=stop_after(200_000))
    assert store.keys("failed") == []
    assert store.uploads() == []


def test_a_stopped_run_is_hidden_and_another_goes_on_with_it(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    how: dict[str, Any] = {"max_shard_size": 120_000}
    with pytest.raises(StoppedError):
        wb.convert(store.source, "s3://bucket/on", MAPPING, progress=stop_after(250_000), resume=True, **how)
    there = store.keys("on")
    assert "weighbridge-partial.json" in there
    assert any(name.endswith(".safetensors") for name in there)
    assert not any("index" in name or name == "weighbridge.json" for name in there)
    for again, code in (({}, "destination-unfinished"), ({"resume": True, "name": "other"}, "resume-mismatch")):
        with pytest.raises(wb.WeighbridgeError) as refused:
            wb.convert(store.source, "s3://bucket/on", MAPPING, **how, **again)
        assert refused.value.code == code
    with pytest.raises(wb.WeighbridgeError) as unfinished:
        wb.open("s3://bucket/on")
    assert unfinished.value.code == "checkpoint-not-found"
    times = {name: store.client.head_object(Bucket=BUCKET, Key=f"on/{name}")["ETag"] for name in there}
    with caplog.at_level(logging.INFO):
        wb.convert(store.source, "s3://bucket/on", MAPPING, resume=True, **how)
    assert "going on with s3://bucket/on" in caplog.text
    found = store.objects("on")
    assert "weighbridge-partial.json" not in found
    assert wb.verify("s3://bucket/on", store.converted).equal
    assert all(name not in found or times[name] for name in times)
    check_no_secret(caplog.text)


def test_of_two_runs_one_writes(store: Store) -> None:
    first = store_folder.staged_folder
    address = store_folder.read_destination("s3://bucket/two", [])
    with first(address, store_folder.Work("one"), resume=True) as holding:
        with pytest.raises(wb.WeighbridgeError) as refused:
            wb.convert(store.source, "s3://bucket/two", MAPPING)
        assert refused.value.code == "destination-unfinished"
        with first(address, store_folder.Work("one"), resume=True):
            with pytest.raises(wb.WeighbridgeError) as busy, holding.create(FileImage("a", 1, b"a", ())):
                pass
            assert busy.value.code == "destination-busy"
    assert store.keys("two") == ["a"]


def test_a_large_file_goes_up_in_parts(store: Store, tmp_path: Path) -> None:
    tensors = {f"w{number}": torch.full((3 * 2**20,), float(number)) for number in range(2)}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    rules = [wb.WeightConverter(["w0", "w1"], "w", [wb.Concatenate(dim=0)])]
    wb.convert(tmp_path / "model.safetensors", "s3://bucket/parts", rules)
    local = wb.convert(tmp_path / "model.safetensors", tmp_path / "local", rules)
    assert store.objects("parts")["model.safetensors"] == (local / "model.safetensors").read_bytes()
    assert store.client.head_object(Bucket=BUCKET, Key="parts/model.safetensors")["ETag"].endswith('-4"')


def test_parts_are_sent_in_order_whatever_order_they_are_filled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    small_parts(monkeypatch)
    sent: list[bytes] = []
    whole = bytes(range(256)) * 80
    sink = store_sink.StoreSink("s3://b/a", lambda parts, _: sent.extend(map(bytes, parts)), whole[:100], len(whole))
    pieces = [(start, whole[start : start + 1500]) for start in range(100, len(whole), 1500)]
    ahead = threading.Thread(target=lambda: [sink.write(start, piece) for start, piece in pieces[1::2]])
    ahead.start()
    for start, piece in pieces[::2]:
        sink.write(start, piece)
    ahead.join()
    sink.close()
    assert b"".join(sent) == whole
    assert {len(part) for part in sent} == {4096}


def test_every_kind_of_plan_is_written_in_order(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Transposed, interleaved, cast and staged tensors, with parts far smaller than they are, as a local run writes."""
    small_parts(monkeypatch)
    monkeypatch.setattr(store_folder, "PART_BYTES", 0)
    monkeypatch.setattr(
        store_folder,
        "put_parts",
        lambda client, name, parts, _: store_folder.put_whole(client, name, b"".join(parts), is_ours=True),
    )
    torch.manual_seed(3)
    tensors = {f"{kind}.{number}": torch.randn(64, 96) for kind in ("a", "b", "c") for number in range(3)}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    rules = [
        wb.WeightConverter("a.{n}", "a.{n}", [wb.Transpose(0, 1)]),
        wb.WeightConverter("b.*", "b", [wb.MergeModulelist(dim=1), wb.Permute((2, 0, 1))]),
    ]
    out = f"s3://bucket/kinds{os.getpid()}"
    wb.convert(tmp_path / "model.safetensors", out, rules, dtype="F16", memory_budget=100_000)
    local = wb.convert(tmp_path / "model.safetensors", tmp_path / "local", rules, dtype="F16", memory_budget=100_000)
    assert (
        store.objects(out.removeprefix("s3://bucket/"))["model.safetensors"]
        == (local / "model.safetensors").read_bytes()
    )
