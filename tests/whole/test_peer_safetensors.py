"""Changed files against the reference reader: what it refuses we refuse, and what both read has the same values.

Where we refuse what it reads, the reason is one of `STRICTER`, and what the file has in it says so as well: that list
is all that we are stricter in.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import safetensors
from finds import workplace
from hostile_changes import Chance, change_bytes, change_json, text_of
from hypothesis import event, given, settings, strategies as st

import weighbridge as wb

many = settings(max_examples=max(1000, settings().max_examples), deadline=None)
seeds = st.integers(0, 2**32 - 1)

STRICTER = (
    ("stands twice", "the reference takes the last of two equal keys"),
    ("has other fields", "it skips fields that it does not know"),
    ("entry is not an object", "it takes a list for an object"),
    ("__metadata__ is null", "it takes null for nothing"),
    ("not with '{'", "it skips white space before the header"),
    ("the shape is too large", "a zero excuses the other axes if it stands before them"),
)
"""Words of our errors for what the reference reads, and how it reads that."""

SHAPES = {"F32": (2, 3), "BF16": (5,), "U8": (2, 1, 3), "I64": (), "F16": (0, 4), "BOOL": (3,)}
WIDTHS = {"F32": 4, "BF16": 2, "U8": 1, "I64": 8, "F16": 2, "BOOL": 1}


def good_file(chance: Chance) -> tuple[dict[str, Any], bytes]:
    """Draw a header, and data of which no two bytes beside each other are equal."""
    table: dict[str, Any] = {}
    offset = 0
    codes = chance.sample(sorted(SHAPES), chance.randint(1, len(SHAPES)))
    for number, code in enumerate(codes):
        size = WIDTHS[code]
        for axis in SHAPES[code]:
            size *= axis
        key = chance.choice((f"model.{number}.w", f"é{number}", f"a{number} b", f"{number}"))
        table[key] = {"dtype": code, "shape": list(SHAPES[code]), "data_offsets": [offset, offset + size]}
        offset += size
    if chance.random() < 0.6:
        table["__metadata__"] = chance.choice(({"format": "pt"}, {}, {"b": "2", "a": "\u00e9"}))
    entries = list(table.items())
    chance.shuffle(entries)
    # A byte of a bool is 0 or 1, and every other one may be anything.
    return dict(entries), bytes(number % 2 if "BOOL" in codes else number % 251 for number in range(1, offset + 1))


def changed_file(chance: Chance) -> bytes:
    """Draw a file with something else about it: in the header's meaning, in its text, or in any byte."""
    table, data = good_file(chance)
    kind = chance.choice(("meaning", "meaning", "offsets", "text", "bytes", "length", "none", "none", "none"))
    text = json.dumps(table, ensure_ascii=chance.random() < 0.5).encode()
    if kind == "meaning":
        text = text_of(change_json(chance, table))
    elif kind == "offsets":
        entry = table[chance.choice([key for key in table if key != "__metadata__"])]
        field = chance.choice(("shape", "data_offsets"))
        entry[field] = [chance.choice((n, n + 1, n - 1, 0, -n, float(n))) for n in entry[field]]
        text = json.dumps(table).encode()
    elif kind == "text":
        text = change_bytes(chance, text)
    text += b" " * chance.choice((0, 0, 1, 7))
    data = data + b"\0" if chance.random() < 0.05 else data
    made = struct.pack("<Q", len(text) + (chance.choice((1, -1, 8)) if kind == "length" else 0)) + text + data
    return change_bytes(chance, made) if kind == "bytes" else made


def reference(path: Path) -> tuple[dict[str, tuple[str, list[int], bytes]], dict[str, str]] | None:
    """What the reference finds in a file: dtype, shape and bytes by key, and the metadata; None if it refuses."""
    try:
        found = safetensors.deserialize(path.read_bytes())
        with safetensors.safe_open(path, framework="numpy") as opened:
            metadata = opened.metadata() or {}
    except (safetensors.SafetensorError, ValueError):  # the second one for metadata that is no text
        return None
    return {key: (entry["dtype"], list(entry["shape"]), bytes(entry["data"])) for key, entry in found}, metadata


def ours(path: Path) -> Any:
    """The same by weighbridge; the error if it refuses."""
    try:
        checkpoint = wb.open(path)
    except wb.WeighbridgeError as refused:
        return refused
    tensors = {}
    for key, spec in checkpoint.header.items():
        content = bytearray(spec.size_bytes)
        checkpoint.read(key, 0, memoryview(content))
        tensors[key] = (spec.dtype, list(spec.shape), bytes(content))
    return tensors, dict(checkpoint.header.metadata)


@many
@given(seeds)
def test_a_changed_file_is_read_as_the_reference_reads_it(seed):
    with workplace() as folder:
        path = folder / "model.safetensors"
        path.write_bytes(changed_file(Chance(seed)))
        expected, found = reference(path), ours(path)
    if isinstance(found, wb.WeighbridgeError):
        event("refused by both" if expected is None else "stricter")
        known = any(words in str(found) for words, _ in STRICTER)
        assert expected is None or known, f"{found}\nthe reference finds {expected}"
        return
    event("read")
    assert found == expected


ENTRY = '{"dtype":"U8","shape":[2],"data_offsets":[0,2]}'
POINTS = {
    "stands twice": f'{{"a":{ENTRY},"a":{ENTRY}}}',
    "has other fields": f'{{"a":{ENTRY[:-1]},"more":1}}}}',
    "entry is not an object": '{"a":["U8",[2],[0,2]]}',
    "__metadata__ is null": f'{{"__metadata__":null,"a":{ENTRY}}}',
    "not with '{'": f' {{"a":{ENTRY}}}',
    "the shape is too large": '{"a":{"dtype":"U8","shape":[0,4294967296,4294967296,4294967296],"data_offsets":[0,0]}}',
}


@pytest.mark.parametrize(("words", "reason"), STRICTER)
def test_each_point_in_which_we_are_stricter_is_one(words, reason, tmp_path):
    """So that the list does not outlive what it says."""
    path, text = tmp_path / "model.safetensors", POINTS[words].encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(0 if "too large" in words else 2))
    assert reference(path) is not None, reason
    assert words in str(ours(path))


@pytest.mark.parametrize("blank", [b" ", b"\n", b"\t\r\n "])
def test_e_white_space_before_the_header_is_refused_as_the_format_says(blank: bytes, tmp_path: Path) -> None:
    """The format demands that the header begin with `{`; the reference skips what stands before, and we say so."""
    text = blank + b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    raw = struct.pack("<Q", len(text)) + text + bytes(8)
    assert list(dict(safetensors.deserialize(raw))) == ["a"]
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw)
    with pytest.raises(wb.CheckpointError) as caught:
        wb.open(path)
    assert caught.value.code == "header-invalid"
    assert "not with '{'" in str(caught.value)
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text("utf-8")
    assert "white space before the header's `{`" in page
