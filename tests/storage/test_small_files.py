"""Files of settings beside the weights are regular files of a limited size, whatever goes by their names."""

from __future__ import annotations

import gzip
import json
import os
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bounded import run_bounded
from safetensors.torch import load_file, save_file

import weighbridge as wb
from weighbridge.base.forms.inflating import ALWAYS_BYTES, GZIP, MOST_TIMES, ZLIB, inflate_bounded
from weighbridge.base.json_text import MOST_VALUES, JsonError, parse_json
from weighbridge.base.plain_files import OddFileError, open_plain, read_plain

NORMS = wb.Mapping([wb.WeightRenaming("gamma", "weight")], name="norms")


def checkpoint(folder: Path) -> Path:
    path = folder / "model"
    path.mkdir()
    save_file({"a.gamma": torch.arange(4.0)}, path / "model.safetensors")
    return path


def fifo(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder_of_that_name(path: Path) -> None:
    path.mkdir()


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        here = Path.cwd()
        os.chdir(path.parent)  # the name of a socket has a hundred characters at most
        try:
            made.bind(path.name)
        finally:
            os.chdir(here)


def sparse(path: Path) -> None:
    path.write_bytes(b"{")
    os.truncate(path, 2**31)


ODD: dict[str, tuple[Callable[[Path], None], str]] = {
    "pipe": (fifo, "a pipe"),
    "device": (device, "a device"),
    "directory": (folder_of_that_name, "a directory"),
    "socket": (listening, "a socket"),
    "too large": (sparse, "2,147,483,648 bytes"),
}
odd = pytest.mark.parametrize(("make", "words"), ODD.values(), ids=ODD)


# G11: the receipt


@odd
@pytest.mark.parametrize(
    "call", ["wb.revert(one, two)", "wb.verify(one)", "wb.convert(one, two, [], reverse=True, layout='mapped')"]
)
def test_g11_what_goes_by_the_name_of_a_receipt(
    make: Callable[[Path], None], words: str, call: str, tmp_path: Path
) -> None:
    source = checkpoint(tmp_path)
    make(source / "weighbridge.json")
    body = f"import sys\none, two = sys.argv[1:]\n{call}\nreturn True"
    found = run_bounded(body, source, tmp_path / "out")
    if "reverse" in call:  # a receipt could only have told the layout, which is not needed here
        assert found.value is True
    else:
        assert found.codes == ("receipt-invalid",)
        assert words in found.text


BROKEN = {
    "a name twice": b'{"format": "weighbridge-receipt", "format": "weighbridge-receipt", "version": 1}',
    "no number": b'{"format": "weighbridge-receipt", "version": NaN}',
    "no UTF-8": b'{"format": "\xff"}',
    "nested": b"[" * 10**6,
    "a list": b"[]",
    "digits": b'{"format": "weighbridge-receipt", "version": ' + b"1" * 10**6 + b"}",
    "nothing": b"",
    "zeros": bytes(10**6),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_g11_a_receipt_is_strict_json(content: bytes, tmp_path: Path) -> None:
    source = checkpoint(tmp_path)
    (source / "weighbridge.json").write_bytes(content)
    with pytest.raises(wb.CheckpointError) as caught:
        wb.revert(source, tmp_path / "out")
    assert caught.value.code == "receipt-invalid"
    assert len(str(caught.value)) < 1000


def test_a_receipt_of_a_source_whose_path_is_no_utf8_is_read(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    source = checkpoint(folder)
    wb.convert(source, tmp_path / "out", NORMS)
    wb.revert(tmp_path / "out", tmp_path / "back")
    assert (tmp_path / "back" / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()


def test_g14_a_receipt_whose_heads_inflate_to_much_is_refused(tmp_path: Path) -> None:
    out = wb.convert(checkpoint(tmp_path), tmp_path / "out", NORMS)
    form = json.loads((out / "weighbridge.json").read_text())
    import base64

    bomb = base64.b64encode(zlib.compress(bytes(90_000_000), 9)).decode()
    image = form["plan"]["source_files"]["images"][0]
    form["plan"]["source_files"]["images"] = [{**image, "name": f"{k}.safetensors", "head": bomb} for k in range(5)]
    (out / "weighbridge.json").write_text(json.dumps(form))
    found = run_bounded("import sys\nwb.revert(*sys.argv[1:])", out, tmp_path / "back", megabytes=500)
    assert found.codes == ("receipt-invalid",)


# The configuration


@odd
def test_g11_what_goes_by_the_name_of_a_configuration(make: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    source = checkpoint(tmp_path)
    make(source / "config.json")
    found = run_bounded("import sys\nreturn list(wb.plan(sys.argv[1], []).target)", source)
    if make is sparse:
        assert found.codes == ("read-failed",)
        assert words in found.text
    else:
        assert found.value == ["a.gamma"]


# The index, inventories, mapping files


@odd
@pytest.mark.parametrize(
    "name", ["model.safetensors.index.json", "inventory.json", "inventory.json.gz", "w.safetensors"]
)
def test_g11_what_goes_by_the_name_of_another_file(
    make: Callable[[Path], None], words: str, name: str, tmp_path: Path
) -> None:
    make(tmp_path / name)
    found = run_bounded("import sys\nreturn len(wb.open(sys.argv[1]).header)", tmp_path / name)
    codes = (
        {"read-failed", "header-invalid"} if make is sparse else {"read-failed", "checkpoint-not-found", "path-unsafe"}
    )
    assert set(found.codes) <= codes
    assert found.codes


@odd
@pytest.mark.parametrize("suffix", ["yaml", "yml", "json", "py"])
def test_g11_what_goes_by_the_name_of_a_mapping_file(
    make: Callable[[Path], None], words: str, suffix: str, tmp_path: Path
) -> None:
    make(tmp_path / f"map.{suffix}")
    found = run_bounded(
        "import sys\nfrom weighbridge.cli.mapping_argument import load_argument as load\nreturn str(load(sys.argv[1]))",
        tmp_path / f"map.{suffix}",
    )
    assert found.codes == ("mapping-file",)


@pytest.mark.parametrize(
    "text", ['{"transforms": [], "transforms": []}', '{"transforms": [], "name": NaN}', "[" * 10**5]
)
def test_g11_a_mapping_in_json_is_strict_json(text: str, tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text(text)
    with pytest.raises(wb.MappingError) as caught:
        wb.load_mapping(tmp_path / "map.json")
    assert caught.value.code == "mapping-file"


# The reader itself


@pytest.mark.parametrize("name", ["pipe", "device", "directory", "socket"])
def test_a_plain_file_is_nothing_else(name: str, tmp_path: Path) -> None:
    make, words = ODD[name]
    make(tmp_path / "odd")
    for read in (open_plain, lambda path: read_plain(path, 10)):
        with pytest.raises(OddFileError) as caught:
            read(tmp_path / "odd")
        assert caught.value.kind == words


def test_a_plain_file_has_a_limit(tmp_path: Path) -> None:
    (tmp_path / "ten").write_bytes(b"0123456789")
    assert read_plain(tmp_path / "ten", 10) == b"0123456789"
    with pytest.raises(OSError, match="larger than 9 bytes"):
        read_plain(tmp_path / "ten", 9)
    with pytest.raises(FileNotFoundError):
        read_plain(tmp_path / "none", 9)


# G14: what inflates


def inventory(tensors: str = "{}", blanks: int = 0) -> bytes:
    return f'{{"format": "weighbridge-inventory", "version": 1, "tensors": {tensors}{" " * blanks}}}'.encode()


BOMBS = {
    "blanks": lambda: gzip.compress(inventory(blanks=10**9)),
    "members": lambda: gzip.compress(inventory()) + gzip.compress(b" " * 10**8) * 10,
    "lists": lambda: gzip.compress(inventory('{"a": ' + "[" + "[]," * 3 * 10**7 + "[]]}")),
    "shapes": lambda: gzip.compress(inventory('{"a": {"dtype": "F32", "shape": [' + "1," * 5 * 10**7 + "1]}}")),
    "tensors": lambda: gzip.compress(
        inventory("{" + ",".join(f'"{k}":{{"dtype":"F32","shape":[2]}}' for k in range(300_000)) + "}")
    ),
}


@pytest.mark.parametrize("make", BOMBS.values(), ids=BOMBS)
def test_g14_an_inventory_that_unpacks_to_very_much(make: Callable[[], bytes], tmp_path: Path) -> None:
    (tmp_path / "a.json.gz").write_bytes(make())
    found = run_bounded("import sys\nreturn len(wb.open(sys.argv[1]).header)", tmp_path / "a.json.gz")
    assert found.codes == ("inventory-invalid",) or found.value == 300_000


def test_an_inventory_of_many_tensors_is_read(tmp_path: Path) -> None:
    names = [
        f"model.layers.{i}.mlp.experts.{k}.{n}_proj.weight"
        for i in range(60)
        for k in range(64)
        for n in ("up", "down")
    ]
    header = wb.Header({name: wb.TensorSpec("BF16", (4096, 2048)) for name in names})
    from weighbridge.storage import write_inventory

    write_inventory(header, tmp_path / "a.json.gz")
    assert wb.open(tmp_path / "a.json.gz").header == header


@pytest.mark.parametrize(("kind", "pack"), [(GZIP, gzip.compress), (ZLIB, zlib.compress)], ids=["gzip", "zlib"])
def test_inflating_stops_at_each_limit(kind: int, pack: Callable[[bytes], bytes]) -> None:
    text = b"weights " * 100
    assert inflate_bounded(pack(text), len(text), kind) == text
    assert inflate_bounded(pack(bytes(ALWAYS_BYTES)), 10**9, kind) == bytes(ALWAYS_BYTES)
    large = bytes(10 * ALWAYS_BYTES)
    assert len(pack(large)) * MOST_TIMES < len(large)
    for packed, limit, words in (
        (pack(text), len(text) - 1, "more than"),
        (pack(large), 10**9, "more than"),
        (pack(text)[:-1], 10**6, "too early"),
        (pack(text) + b"more", 10**6, "incorrect header" if kind == GZIP else "stands behind"),
        (b"weights", 10**6, "incorrect header"),
        (b"", 10**6, "too early"),
    ):
        with pytest.raises(ValueError, match=words):
            inflate_bounded(packed, limit, kind)


def test_members_of_gzip_follow_each_other() -> None:
    assert inflate_bounded(gzip.compress(b"one ") + gzip.compress(b"two"), 7, GZIP) == b"one two"
    with pytest.raises(ValueError, match="more than 6"):
        inflate_bounded(gzip.compress(b"one ") + gzip.compress(b"two"), 6, GZIP)


# G14: headers of very many values


def write_header(path: Path, text: bytes) -> Path:
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    return path


HEADERS = {
    "50 million axes": lambda: b'{"a":{"dtype":"F32","shape":[' + b"1," * 49_999_900 + b'1],"data_offsets":[0,4]}}',
    "10 million axes": lambda: b'{"a":{"dtype":"F32","shape":[' + b"1," * 9_999_999 + b'1],"data_offsets":[0,4]}}',
    "65 axes": lambda: b'{"a":{"dtype":"F32","shape":[' + b"1," * 64 + b'1],"data_offsets":[0,4]}}',
    "lists": lambda: b'{"a":[' + b"[]," * 33_000_000 + b"[]]}",
    "objects": lambda: b'{"a":[' + b"{}," * 33_000_000 + b"{}]}",
    "texts": lambda: b'{"a":[' + b'"ab",' * 19_000_000 + b'"ab"]}',
    "offsets": lambda: b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[' + b"1000," * 19_000_000 + b"4]}}",
}


@pytest.mark.parametrize("make", HEADERS.values(), ids=HEADERS)
def test_g14_a_header_of_very_many_values_is_refused(make: Callable[[], bytes], tmp_path: Path) -> None:
    path = write_header(tmp_path / "model.safetensors", make())
    found = run_bounded("import sys\nreturn len(wb.open(sys.argv[1]).header)", path)
    path.unlink()  # pytest keeps the folders of three runs
    assert found.codes == ("header-invalid",)


def test_a_shape_of_64_axes_is_read(tmp_path: Path) -> None:
    text = b'{"a":{"dtype":"U8","shape":[' + b"1," * 63 + b'1],"data_offsets":[0,1]}}'
    path = write_header(tmp_path / "model.safetensors", text)
    with path.open("ab") as file:
        file.write(b"\x07")
    assert len(wb.open(path).header["a"].shape) == 64
    assert load_file(path)["a"].flatten().tolist() == [7]


def test_values_in_a_text_do_not_count() -> None:
    commas = b"," * (MOST_VALUES + 1)
    assert parse_json(b'{"a": "' + commas + b'\\""}') == {"a": commas.decode() + '"'}
    with pytest.raises(JsonError, match="more than 12,000,000 values"):
        parse_json(b"[" + b"1," * (MOST_VALUES + 1) + b'"\\""]')
