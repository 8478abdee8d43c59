"""Hostile files: only a `WeighbridgeError` ever comes out, and what is accepted is what the real library accepts.

The safetensors library is the twin. Where it accepts more than weighbridge does, the reason must be one of `STRICTER`.
"""

from __future__ import annotations

import gzip
import json
import struct
from functools import cache
from io import BytesIO
from pathlib import Path

import pytest
import safetensors
import torch
from hypothesis import event, given, settings, strategies as st

from weighbridge.base.errors import CheckpointError, WeighbridgeError
from weighbridge.base.specs import DTYPES, Header, TensorSpec
from weighbridge.storage import open_checkpoint
from weighbridge.storage.formats.inventory import inventory_text, parse_inventory
from weighbridge.storage.formats.safetensors_header import parse_head
from weighbridge.storage.formats.shard_index import parse_index

STRICTER = (
    "stands twice",  # the library keeps the last of two equal keys
    "has other fields",  # it skips fields that it does not know
    "entry is not an object",  # it reads an entry from a list as well
    "__metadata__ is null",  # it takes null for none
    "not with '{'",  # it skips white space before the header
    "the shape is too large",  # a zero excuses the other axes if it stands before them
)
"""What weighbridge refuses and the library does not, by words of the message."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One directory for all examples; each overwrites the one before."""
    return tmp_path_factory.mktemp("fuzz")


def outcome_of(function, *args):
    """What a function returns, or the error that it raises; nothing but a `WeighbridgeError` is caught."""
    try:
        result = function(*args)
    except WeighbridgeError as error:
        event(error.code)
        return error
    event("accepted")
    return result


def library_reads(content: bytes) -> dict[str, tuple[str, list[int], int]] | None:
    """What the real library finds in a file's bytes: dtype, shape and size by key; None if it refuses them."""
    try:
        found = safetensors.deserialize(content)
    except safetensors.SafetensorError:
        return None
    return {key: (entry["dtype"], list(entry["shape"]), len(entry["data"])) for key, entry in found}


def check_against_library(content: bytes) -> None:
    """Parse a file's bytes with both, and compare."""
    expected = library_reads(content)
    length = int.from_bytes(content[:8], "little")
    head = outcome_of(parse_head, content[: 8 + length], len(content), "a.safetensors")
    if isinstance(head, CheckpointError):
        assert len(str(head)) < 3000
        assert expected is None or any(reason in str(head) for reason in STRICTER), str(head)
        return
    sizes = {placed.key: placed.size_bytes for placed in head.tensors}
    assert {key: (spec.dtype, list(spec.shape), sizes[key]) for key, spec in head.specs.items()} == expected


# Headers that are nearly right

sizes = st.integers(0, 3) | st.sampled_from([-1, 2**31, 2**40, 2**62, 2**63, 2**64, True, 1.0, "1", None, [1]])
shapes = st.lists(st.integers(0, 3), max_size=3) | st.lists(sizes, max_size=3) | st.sampled_from([None, 1, "", {}])
dtypes = st.sampled_from(sorted(DTYPES)) | st.sampled_from(["f32", "F128", "", None, 4])
numbers = st.integers(-1, 40) | st.sampled_from([2**32, 2**63, 2**64, 2**200, False, 0.0, None, "0"])
keys = st.sampled_from(["a", "b", "c", "", "é", "x.weight", "\0", "__metadata__", "dtype"])


@st.composite
def tables(draw):
    """A header whose tensors follow one another, with now and then something wrong in it."""
    table, offset = {}, 0
    for key in draw(st.lists(keys, max_size=4, unique=True)):
        dtype, shape = draw(st.sampled_from(sorted(DTYPES))), draw(st.lists(st.integers(0, 3), max_size=3))
        size = TensorSpec(dtype, tuple(shape)).size_bytes
        entry = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
        fault = draw(st.sampled_from(["none"] * 30 + ["dtype", "shape", "start", "stop", "field", "less", "offsets"]))
        if fault == "dtype":
            entry["dtype"] = draw(dtypes)
        elif fault == "shape":
            entry["shape"] = draw(shapes)
        elif fault in ("start", "stop"):
            entry["data_offsets"][fault == "stop"] = draw(numbers)
        elif fault == "offsets":
            entry["data_offsets"] = draw(st.lists(numbers, max_size=3) | st.sampled_from([None, 0, "ab", {}]))
        elif fault == "field":
            entry[draw(keys)] = draw(numbers)
        elif fault == "less":
            entry.pop(draw(st.sampled_from(sorted(entry))))
        table[key] = draw(st.sampled_from([entry] * 40 + [list(entry.values()), None, dict(reversed(entry.items()))]))
    if draw(st.booleans()):
        text = st.text(max_size=3)
        good = st.dictionaries(text, text, max_size=2)
        table["__metadata__"] = draw(good | good | good | st.sampled_from([None, [], {"a": 1}]))
    shuffled = draw(st.permutations(list(table.items())))
    return dict(shuffled), max(0, offset + draw(st.sampled_from([0] * 8 + [-1, 1])))


def to_file(text: bytes, data_size: int) -> bytes:
    return struct.pack("<Q", len(text)) + text + bytes(data_size)


@settings(max_examples=1500)
@given(tables(), st.sampled_from([*[b"", b" ", b"       "] * 4, b"\n", b"\0", b"x"]), st.booleans())
def test_header_is_read_as_the_library_reads_it(table_and_size, padding, is_ascii):
    table, size = table_and_size
    text = json.dumps(table, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")
    check_against_library(to_file(text + padding, size))


@settings(max_examples=1000)
@given(st.data())
def test_duplicates_in_a_header_are_found(data):
    """Two entries of one key, wherever they stand and however the key is escaped."""
    names = ["a", "\\u0061", "b", "\\u0062", "c", "d", "e", "f", "g", "h"]
    entries = [
        (data.draw(st.sampled_from(names)), f'{{"dtype":"U8","shape":[1],"data_offsets":[{n},{n + 1}]}}')
        for n in range(3)
    ]
    text = "{" + ",".join(f'"{name}":{entry}' for name, entry in entries) + "}"
    plain = [json.loads(f'"{name}"') for name, _ in entries]
    found = outcome_of(parse_head, to_file(text.encode(), 0), 8 + len(text) + 3, "a")
    if len(set(plain)) < 3:
        assert found.code == "header-duplicate-key"
    else:
        assert list(found.specs) == plain


# Texts that are nothing in particular

TOKENS = [
    *("{", "}", "[", "]", ",", ":", '"a"', '"b"', '"dtype"', '"shape"', '"data_offsets"', '"__metadata__"', '"F32"'),
    *("0", "1", "4", "-0", "-1", "1.0", "1e0", "01", "9" * 30, "true", "null", "NaN", "-Infinity", '"U8"', '"\\u0061"'),
    *(" ", "\n", "\0", "\ufeff", '"', "\\", "{}", "[]", '"a":', '{"dtype":"U8","shape":[1],"data_offsets":[0,1]}', "/"),
    '"\\ud800"',
]


@settings(max_examples=2000)
@given(st.lists(st.sampled_from(TOKENS), max_size=14).map("".join), st.integers(0, 4))
def test_text_of_tokens_is_read_as_the_library_reads_it(text, size):
    check_against_library(to_file(("{" + text).encode(), size))


@settings(max_examples=1000)
@given(st.binary(max_size=40), st.integers(0, 12))
def test_any_bytes_are_read_as_the_library_reads_them(content, length):
    check_against_library(content)
    check_against_library(struct.pack("<Q", length) + content)


@st.composite
def mutations(draw, original: bytes):
    """The original with up to four bytes changed, removed, inserted or moved."""
    content = bytearray(original)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 4]))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        kind = draw(st.sampled_from(["change", "remove", "insert", "cut", "double"]))
        if kind == "change" and content:
            content[place] = draw(st.integers(0, 255))
        elif kind == "remove":
            del content[place : place + draw(st.integers(1, 4))]
        elif kind == "insert":
            content[place:place] = draw(
                st.sampled_from([b'"', b",", b"0", b"-", b"{", b"\\u0061", b"\xff", b" ", b"[", b"1e"])
            )
        elif kind == "cut":
            del content[len(content) - draw(st.integers(0, 9)) :]
        else:
            content[place:place] = content[place : place + draw(st.integers(1, 60))]
    return bytes(content)


VALID_HEADER = json.dumps(
    {
        "__metadata__": {"format": "pt"},
        "model.a-0.weight": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]},
        "model.b-1.weight": {"dtype": "BF16", "shape": [], "data_offsets": [8, 10]},
    }
).encode()


@settings(max_examples=2000)
@given(mutations(VALID_HEADER))
def test_mutated_header_is_read_as_the_library_reads_it(text):
    check_against_library(to_file(text, 10))


@settings(max_examples=1000)
@given(mutations(to_file(VALID_HEADER, 10)))
def test_mutated_file_is_read_as_the_library_reads_it(content):
    check_against_library(content)


@settings(max_examples=1000)
@given(content=mutations(to_file(VALID_HEADER, 10)))
def test_mutated_file_opens_or_is_an_error(content, folder):
    path = folder / "a.safetensors"
    path.write_bytes(content)
    checkpoint = outcome_of(open_checkpoint, path)
    if isinstance(checkpoint, CheckpointError):
        return
    for key in checkpoint.header:
        assert checkpoint.tensor(key) is not None


# Indexes

VALID_INDEX = (
    b'{"metadata": {"total_size": 8}, "weight_map": {"a": "m-00001-of-00002.safetensors", "b": "sub/x.safetensors"}}'
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
file_names = st.sampled_from(
    ["m.safetensors", "../m", "/m", "a/b", "a//b", ".", "..", "", "C:\\m", "a/../m"]
) | st.text(max_size=8)


def check_index(text: bytes) -> None:
    weight_map = outcome_of(parse_index, text, "index.json")
    if isinstance(weight_map, CheckpointError):
        assert weight_map.code in ("index-invalid", "path-unsafe")
        return
    assert weight_map == json.loads(text)["weight_map"]
    root = Path("/model")
    for name in weight_map.values():
        path = root / name
        assert path.is_relative_to(root)
        assert ".." not in path.parts
        assert path != root


@settings(max_examples=1000)
@given(mutations(VALID_INDEX))
def test_mutated_index_is_read_or_is_an_error(text):
    check_index(text)


@settings(max_examples=1000)
@given(
    st.fixed_dictionaries({"weight_map": st.dictionaries(st.text(max_size=4), file_names, max_size=4) | json_values})
)
def test_any_weight_map_is_read_or_is_an_error(table):
    check_index(json.dumps(table).encode())


@settings(max_examples=1000)
@given(json_values)
def test_any_json_is_no_index_or_is_one(value):
    check_index(json.dumps(value).encode())


# Inventories and torch files

VALID_INVENTORY = inventory_text(
    Header({"a": TensorSpec("F32", (2,)), "b": TensorSpec("F32", (2,))}, {"format": "pt"}, {"b": "a"})
).encode()


@settings(max_examples=1000)
@given(mutations(VALID_INVENTORY) | mutations(gzip.compress(VALID_INVENTORY, mtime=0)))
def test_mutated_inventory_is_read_or_is_an_error(raw):
    header = outcome_of(parse_inventory, raw, "a.json")
    if isinstance(header, CheckpointError):
        assert header.code in ("inventory-invalid", "dtype-unknown")
        return
    assert parse_inventory(inventory_text(header).encode(), "a.json") == header


@settings(max_examples=1000)
@given(st.dictionaries(st.text(max_size=5), st.sampled_from(["F32", "F4", "BOOL"]), max_size=4), st.text(max_size=3))
def test_inventory_comes_back(table, text):
    header = Header({key: TensorSpec(dtype, (2, 4)) for key, dtype in table.items()}, {text: text})
    assert parse_inventory(inventory_text(header).encode(), "a.json") == header


@cache
def torch_file(is_zip: bool) -> bytes:
    stream = BytesIO()
    state = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(3, dtype=torch.bfloat16)}
    torch.save(state, stream, _use_new_zipfile_serialization=is_zip)
    return stream.getvalue()


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
@settings(max_examples=1000)
@given(data=st.data())
def test_mutated_torch_file_is_read_or_is_an_error(folder, is_zip, data):
    path = folder / "a.pt"
    path.write_bytes(data.draw(mutations(torch_file(is_zip))))
    checkpoint = outcome_of(open_checkpoint, path)
    if isinstance(checkpoint, CheckpointError):
        return
    for key, spec in checkpoint.header.items():
        buffer = bytearray(spec.size_bytes)
        checkpoint.read(key, 0, memoryview(buffer))
