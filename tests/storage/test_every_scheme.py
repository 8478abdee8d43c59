"""Every scheme of an address: each command does there what it does with a path, byte for byte, and shows no secret."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from elsewhere import (
    MAPPING,
    SHARDS,
    check_no_secret,
    contents,
    encryption,
    reached,
    serve_everywhere,
    without_source,
    write_tiny,
)
from loopback import COMMIT, Asked, Wrong, loopback
from loopback_stores import ROOTS, LoopbackStores, loopback_stores

import weighbridge as wb
from weighbridge.cli.app import app
from weighbridge.storage.outputs import store_folder, store_sink

pytest.importorskip("obstore", reason="needs obstore, of the extra weighbridge[remote]")

SOURCES = ("hf", "s3", "gs", "az", "https", "http", "file")
STORES = ("s3", "gs", "az")


class Setting(NamedTuple):
    """A checkpoint that is served everywhere, the same on this disk, and what a conversion makes of it."""

    server: LoopbackStores
    source: Path
    converted: Path
    mapping: Path
    models: dict[str, str]
    conversions: dict[str, str]
    said: dict[str, str]


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    folder = tmp_path_factory.mktemp("schemes")
    source = write_tiny(folder / "model")
    converted = wb.convert(source, folder / "converted", MAPPING)
    checked = wb.convert(source, folder / "checked", MAPPING, digests=True)
    mapping = folder / "tiny.yaml"
    mapping.write_text(MAPPING.to_yaml())
    context, authority = encryption(folder)
    with loopback_stores() as server, loopback(context) as secured, reached(server, folder) as patch:
        patch.setenv("SSL_CERT_FILE", str(authority))
        for each in (server, secured):
            serve_everywhere(each, source)
            each.serve("/hub/org/checked", checked)
            each.serve("/checked", checked)
        for root in ROOTS.values():
            server.serve(f"{root}/checked", checked)
        at_home, plain = _with_user(secured.other_url), _with_user(server.url)
        models = {
            "hf": "hf://org/tiny",
            "https": f"{at_home}/plain",
            "http": f"{plain}/plain",
            "file": f"file://{source}",
        }
        models |= {scheme: f"{scheme}://bucket/models/tiny" for scheme in STORES}
        conversions = {"hf": "hf://org/checked", "https": f"{at_home}/checked", "http": f"{plain}/checked"}
        conversions |= {"file": f"file://{checked}", **{scheme: f"{scheme}://bucket/checked" for scheme in STORES}}
        found = Setting(server, source, converted, mapping, models, conversions, {})
        found.said.update({" ".join(line): said(found, line, str(source)) for line in LINES})
        yield found


def _with_user(url: str) -> str:
    return url.replace("//", "//me:SECRETPASSWORD@")


LINES = (
    ("inspect", "PLACE"),
    ("inspect", "--json", "PLACE"),
    ("plan", "--json", "PLACE", "MAPPING"),
    ("explain", "PLACE", "MAPPING", "layers.0.experts.gate_up"),
    ("verify", "PLACE", "SOURCE"),
    ("diff", "PLACE", "SOURCE"),
    ("detect", "PLACE"),
)


def run(*arguments: str) -> int:
    return int(app(list(arguments), prog_name="weighbridge", standalone_mode=False) or 0)


def said(setting: Setting, line: tuple[str, ...], place: str) -> str:
    """Return what a command says of a place, whatever it calls the place, and its status."""
    import contextlib
    import io

    words = {"PLACE": place, "MAPPING": str(setting.mapping), "SOURCE": str(setting.source)}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = run(*(words.get(word, word) for word in line))
    text = printed.getvalue()
    clean = place.replace("me:SECRETPASSWORD@", "").removeprefix("file://").replace("org/tiny", f"org/tiny@{COMMIT}")
    for name in (clean, str(setting.source)):
        text = text.replace(name, "PLACE")
    return f"{status}: {text}"


@pytest.mark.parametrize("scheme", SOURCES)
def test_each_scheme_is_read_as_a_path_is(
    setting: Setting, scheme: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    place = setting.models[scheme]
    with caplog.at_level(logging.DEBUG):
        for line in LINES:
            text = said(setting, line, place)
            check_no_secret(text)
            assert _alike(text) == _alike(setting.said[" ".join(line)]), line
        assert not run("convert", place, str(tmp_path / "out"), str(setting.mapping))
        assert not run("verify", setting.conversions[scheme])
        assert not run("revert", setting.conversions[scheme], str(tmp_path / "back"))
    shown = capsys.readouterr()
    assert without_source(contents(tmp_path / "out")) == without_source(contents(setting.converted))
    assert contents(tmp_path / "back") == contents(setting.source)
    check_no_secret(shown.out, shown.err, caplog.text, tmp_path)


def _alike(text: str) -> Any:
    """Return what a command says without what it says of the way the bytes come."""
    status, _, said_there = text.partition(": ")
    if not said_there.startswith("{"):
        return status, [line for line in said_there.splitlines() if "from elsewhere" not in line]
    form = json.loads(said_there)
    notes = [note for note in form.get("notes", ()) if "from elsewhere" not in note]
    return status, {**form, "notes": notes}


@pytest.mark.parametrize("scheme", [*STORES, "file"])
def test_each_scheme_is_written_as_a_path_is(setting: Setting, scheme: str, tmp_path: Path) -> None:
    root = f"file://{tmp_path}" if scheme == "file" else f"{scheme}://bucket"

    def found(name: str) -> dict[str, bytes]:
        return contents(tmp_path / name) if scheme == "file" else setting.server.objects(scheme, name)

    assert not run("convert", setting.models[scheme], f"{root}/out", str(setting.mapping))
    assert without_source(found("out")) == without_source(contents(setting.converted))
    assert not run("verify", f"{root}/out", str(setting.converted))
    assert not run("revert", f"{root}/out", f"{root}/back")
    assert found("back") == contents(setting.source)
    again = app(["convert", setting.models[scheme], f"{root}/out"], prog_name="weighbridge", standalone_mode=False)
    assert again, "what is there was written over"
    check_no_secret(str(found("out")))


@pytest.mark.parametrize("scheme", STORES)
def test_a_stopped_run_goes_on_in_each_store(setting: Setting, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts are as small as a test likes them; a run that is cut off leaves what another one goes on with."""
    for module in (store_sink, store_folder):
        monkeypatch.setattr(module, "PART_BYTES", 2048)
    monkeypatch.setattr(setting.server, "least_part_bytes", 0)
    place, record = f"{scheme}://bucket/stopped", f"{ROOTS[scheme]}/stopped/weighbridge-partial.json"

    def cut_later(_: Asked) -> Wrong | None:
        return Wrong(sent=0.0) if b'"done": {"model' in setting.server.files.get(record, b"") else None

    setting.server.trouble = cut_later
    how: dict[str, Any] = {"max_shard_size": 3_000, "resume": True}
    with pytest.raises(wb.WeighbridgeError) as stopped:
        wb.convert(setting.source, place, MAPPING, **how)
    setting.server.reset()
    assert stopped.value.code == "write-failed"
    with pytest.raises(wb.WeighbridgeError) as unfinished:
        wb.open(place)
    assert unfinished.value.code == "checkpoint-not-found"
    done = set(json.loads(setting.server.files[record])["done"])
    setting.server.asked.clear()
    wb.convert(setting.source, place, MAPPING, **how)
    assert wb.verify(place, setting.converted).equal
    assert "weighbridge-partial.json" not in setting.server.objects(scheme, "stopped")
    sent = {asked.path.rpartition("/")[2] for asked in setting.server.asked if asked.method == "PUT"}
    assert not sent & done, "what was there is sent again"


def test_a_certificate_is_trusted_by_the_variable_that_clients_take(setting: Setting) -> None:
    """That of the module's server is; without its authority it does not verify."""
    place = setting.models["https"]
    assert len(wb.open(place).header) == 14
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SSL_CERT_FILE")
        with pytest.raises(wb.WeighbridgeError) as refused:
            wb.open(place)
    assert refused.value.code == "read-failed"
    assert "certificate" in refused.value.got
    check_no_secret(str(refused.value))


def test_the_hub_may_be_a_server_that_encrypts(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    endpoint = setting.models["https"].replace("me:SECRETPASSWORD@", "").removesuffix("/plain")
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    huggingface_hub.close_session()  # it looks at the variable once, when it first connects
    assert wb.verify("hf://org/tiny", setting.source).equal
    monkeypatch.delenv("SSL_CERT_FILE")
    huggingface_hub.close_session()
    with pytest.raises(wb.WeighbridgeError) as refused:
        wb.open("hf://org/tiny")
    huggingface_hub.close_session()
    assert refused.value.code == "read-failed"
    assert "certificate" in refused.value.got


WITHOUT = {
    "gs": ({"GOOGLE_BEARER_TOKEN": "", "GOOGLE_SERVICE_ACCOUNT": "/nowhere/SECRETKEY.json"}, "GOOGLE_SERVICE_ACCOUNT"),
    "az": ({"AZURE_STORAGE_USE_EMULATOR": ""}, "AZURE_STORAGE_ACCOUNT_NAME"),
}


@pytest.mark.parametrize("scheme", WITHOUT)
def test_a_store_without_credentials_says_which_it_takes(
    setting: Setting, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, wanted = WITHOUT[scheme]
    for name, value in changes.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    with pytest.raises(wb.WeighbridgeError) as refused:
        wb.open(setting.models[scheme])
    assert refused.value.code == "remote-denied"
    assert wanted in refused.value.hint
    check_no_secret(str(refused.value))


@pytest.mark.parametrize("scheme", STORES)
def test_a_long_list_comes_page_by_page(setting: Setting, scheme: str) -> None:
    root = ROOTS[scheme]
    setting.server.files |= {f"{root}/many/log/{number:05}.txt": b"" for number in range(1_500)}
    setting.server.files[f"{root}/many/model.safetensors"] = (setting.source / SHARDS[1]).read_bytes()
    setting.server.asked.clear()
    assert len(wb.open(f"{scheme}://bucket/many").header) == 2
    lists = [asked for asked in setting.server.asked if "list" in asked.query]
    assert len(lists) == 2
    for path in [path for path in setting.server.files if path.startswith(f"{root}/many/")]:
        del setting.server.files[path]
