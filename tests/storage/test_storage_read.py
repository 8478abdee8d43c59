"""Opening and reading checkpoints: every kind of source, and everything that can be wrong with one."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import struct
import threading
from collections import OrderedDict
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

from weighbridge.base.errors import CheckpointError, DestinationError
from weighbridge.base.file_names import RECEIPT_NAME
from weighbridge.base.specs import DTYPES, Header, TensorSpec
from weighbridge.base.workers import run_all
from weighbridge.storage import open_checkpoint, write_inventory
from weighbridge.storage.formats.torch_tensors import bytes_of, spec_of, torch_layout
from weighbridge.storage.places.regular_files import OpenFiles

TORCH_CODES = sorted(code for code, dtype in DTYPES.items() if dtype.torch_name)


def make_tensor(code: str, shape: tuple[int, ...] = (3, 5), seed: int = 0) -> torch.Tensor:
    """A tensor of any dtype with random bytes."""
    spec = TensorSpec(code, shape)
    raw = torch.randint(0, 256, (spec.size_bytes,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    dtype, torch_shape = torch_layout(spec)
    return (raw % 2 if code == "BOOL" else raw).view(dtype).reshape(torch_shape)


def make_state(*names: str) -> dict[str, torch.Tensor]:
    """A few tensors with pairwise distinct shapes and values."""
    return {name: torch.arange(6.0 * (n + 1)).reshape(2, 3 * (n + 1)) + 100 * n for n, name in enumerate(names)}


def save(path: Path, state: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(state, path, metadata)
    return path


def save_sharded(directory: Path, *, index: bool = True) -> dict[str, torch.Tensor]:
    """Two shards and their index; returns all tensors."""
    state = make_state("a.weight", "b.weight", "c.weight")
    parts = {
        "model-00001-of-00002.safetensors": ["a.weight"],
        "model-00002-of-00002.safetensors": ["b.weight", "c.weight"],
    }
    for name, keys in parts.items():
        save(directory / name, {key: state[key] for key in keys}, {"format": "pt", "part": name})
    if index:
        write_index(directory, {key: name for name, keys in parts.items() for key in keys})
    return state


def write_index(directory: Path, weight_map: object, name: str = "model.safetensors.index.json") -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(json.dumps({"metadata": {"total_size": 1.5}, "weight_map": weight_map}))
    return directory / name


def raw_file(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    """A file with any header: an object, or the bytes of its text."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8), **more: object) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def same_bytes(left: torch.Tensor, right: torch.Tensor) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and bytes_of(left) == bytes_of(right)


def code_of(place: object) -> str:
    """The code of the error that opening a place raises."""
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(place)
    return caught.value.code


# Safetensors: one file


@pytest.mark.parametrize("code", TORCH_CODES)
@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (2,), (2, 3, 4)], ids=str)
def test_every_dtype_is_read_as_the_library_reads_it(tmp_path, code, shape):
    state = {"w": make_tensor(code, shape), "other": make_tensor("F32", (7,))}
    checkpoint = open_checkpoint(save(tmp_path / "model.safetensors", state))
    assert checkpoint.header["w"] == TensorSpec(code, shape) == spec_of(state["w"])
    assert same_bytes(checkpoint.tensor("w"), state["w"])
    with safetensors.safe_open(tmp_path / "model.safetensors", "pt") as twin:
        assert same_bytes(checkpoint.tensor("w"), twin.get_tensor("w"))


@pytest.mark.parametrize(("code", "shape", "size"), [("F6_E2M3", (4,), 3), ("F6_E3M2", (2, 8), 12), ("F4", (4, 3), 6)])
def test_dtype_that_torch_lacks_comes_as_bytes(tmp_path, code, shape, size):
    data = bytes(range(size))
    checkpoint = open_checkpoint(raw_file(tmp_path / "a.safetensors", {"w": entry(code, shape, (0, size))}, data))
    assert checkpoint.header["w"] == TensorSpec(code, shape)
    assert checkpoint.tensor("w").tolist() == list(data)


def test_scalar_is_read(tmp_path):
    checkpoint = open_checkpoint(save(tmp_path / "a.safetensors", {"s": torch.tensor(3.5)}))
    assert checkpoint.tensor("s").shape == ()
    assert checkpoint.tensor("s").item() == 3.5


def test_tensor_is_a_view_of_the_file(tmp_path):
    checkpoint = open_checkpoint(save(tmp_path / "a.safetensors", make_state("a", "b")))
    one, two = checkpoint.tensor("a"), checkpoint.tensor("b")
    assert abs(one.data_ptr() - two.data_ptr()) < 4096, "two views of one map"


def test_writing_to_a_tensor_does_not_reach_the_file(tmp_path):
    path = save(tmp_path / "a.safetensors", make_state("a"))
    before = path.read_bytes()
    open_checkpoint(path).tensor("a").fill_(-1)
    assert path.read_bytes() == before


def test_unaligned_tensor_is_read(tmp_path):
    values = torch.arange(5, dtype=torch.float64)
    data = b"\x07" + values.numpy().tobytes()
    header = {"pad": entry("U8", [1], [0, 1]), "w": entry("F64", [5], [1, 41])}
    for spaces in range(8):
        text = json.dumps(header).encode() + b" " * spaces
        checkpoint = open_checkpoint(raw_file(tmp_path / "a.safetensors", text, data))
        tensor = checkpoint.tensor("w")
        assert tensor.equal(values)
        assert tensor.data_ptr() % 8 == 0


def test_image_holds_the_head_and_the_places(tmp_path):
    state = make_state("b", "a", "c")
    path = save(tmp_path / "model.safetensors", state, {"format": "pt"})
    content = path.read_bytes()
    checkpoint = open_checkpoint(path)
    (image,) = checkpoint.images
    assert (image.name, image.size_bytes) == ("model.safetensors", len(content))
    assert content.startswith(image.head)
    assert len(image.head) == image.tensors[0].offset
    assert [placed.key for placed in image.tensors] == ["a", "b", "c"]
    for key, offset, size_bytes in image.tensors:
        assert content[offset : offset + size_bytes] == state[key].numpy().tobytes()
        assert checkpoint.extent(key) == (path, offset, size_bytes)
    assert checkpoint.header.metadata == {"format": "pt"}
    assert checkpoint.files.images == checkpoint.images


def test_file_alone_has_no_extras(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    checkpoint = open_checkpoint(str(save(tmp_path / "model.safetensors", make_state("a"))))
    assert checkpoint.extras == ()
    assert checkpoint.index is None


def test_file_without_tensors_is_a_checkpoint(tmp_path):
    assert len(open_checkpoint(save(tmp_path / "a.safetensors", {})).header) == 0


def test_entries_may_stand_in_any_order(tmp_path):
    """Neither the fields nor the tensors need the library's order."""
    header = {
        "second": {"data_offsets": [8, 12], "shape": [2, 2], "dtype": "I8"},
        "first": {"shape": [2], "dtype": "F32", "data_offsets": [0, 8]},
        "empty": entry("F64", [0, 3], [8, 8]),
    }
    checkpoint = open_checkpoint(raw_file(tmp_path / "a.safetensors", header, bytes(12)))
    assert [placed.key for placed in checkpoint.images[0].tensors] == ["first", "empty", "second"]
    assert list(checkpoint.header) == ["second", "first", "empty"]


def test_read_fills_the_whole_buffer(tmp_path):
    tensor = torch.arange(1000, dtype=torch.int16)
    expected = tensor.numpy().tobytes()
    path = save(tmp_path / "a.safetensors", {"before": torch.zeros(3), "w": tensor})
    for checkpoint in (open_checkpoint(path), open_checkpoint({"w": tensor})):
        for start, stop in [(0, 2000), (1, 2), (7, 1999), (2000, 2000), (0, 0)]:
            buffer = bytearray(stop - start)
            checkpoint.read("w", start, memoryview(buffer))
            assert buffer == expected[start:stop]


def test_read_accepts_a_buffer_of_any_format(tmp_path):
    checkpoint = open_checkpoint(save(tmp_path / "a.safetensors", {"w": torch.arange(4, dtype=torch.int32)}))
    buffer = bytearray(16)
    checkpoint.read("w", 0, memoryview(buffer).cast("i"))
    assert struct.unpack("<4i", buffer) == (0, 1, 2, 3)


@pytest.mark.parametrize(("start", "length"), [(-1, 1), (0, 17), (16, 1), (2**70, 1)])
@pytest.mark.parametrize("kind", ["file", "memory"])
def test_read_outside_the_tensor_is_an_error(tmp_path, kind, start, length):
    state = {"w": torch.arange(4, dtype=torch.int32)}
    checkpoint = open_checkpoint(state if kind == "memory" else save(tmp_path / "a.safetensors", state))
    with pytest.raises(CheckpointError) as caught:
        checkpoint.read("w", start, memoryview(bytearray(length)))
    assert caught.value.code == "tensor-bounds"


def test_unknown_key_names_the_nearest(tmp_path):
    state = make_state("model.embed_tokens.weight", "lm_head.weight")
    header = open_checkpoint(state).header
    for checkpoint in map(open_checkpoint, (save(tmp_path / "a.safetensors", state), state, header)):
        for ask in (checkpoint.tensor, checkpoint.extent, lambda key, c=checkpoint: c.read(key, 0, memoryview(b""))):
            with pytest.raises(CheckpointError) as caught:
                ask("model.embed_token.weight")
            assert caught.value.code == "tensor-not-found"
            assert "model.embed_tokens.weight" in caught.value.got


def test_many_threads_read_many_files(tmp_path):
    """More files than descriptors are held, so that they are closed and opened while others read."""
    state = {f"k{number}": torch.full((999,), number, dtype=torch.int32) for number in range(12)}
    for number, (key, tensor) in enumerate(state.items(), 1):
        save(tmp_path / f"m-{number:05d}-of-00012.safetensors", {key: tensor})
    checkpoint = open_checkpoint(tmp_path)
    checkpoint.open_files.limit = 2
    wrong = []

    def check(seed: int) -> None:
        for turn in range(60):
            key = f"k{(seed * 7 + turn * 5) % 12}"
            buffer = bytearray(3996)
            checkpoint.read(key, 0, memoryview(buffer))
            if buffer != state[key].numpy().tobytes() or not checkpoint.tensor(key).equal(state[key]):
                wrong.append(key)

    threads = [threading.Thread(target=check, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_large_sparse_file_opens_without_reading_it(tmp_path):
    size = 2**40
    path = tmp_path / "a.safetensors"
    raw_file(path, {"w": entry("U8", [2**20, 2**20], [0, size])})
    os.truncate(path, path.stat().st_size + size)
    checkpoint = open_checkpoint(path)
    assert checkpoint.tensor("w")[-1, -1] == 0
    buffer = bytearray(b"\xff" * 8)
    checkpoint.read("w", size - 8, memoryview(buffer))
    assert buffer == bytes(8)


# Safetensors: what can be wrong with a file

HUGE = "9" * 4000
BAD_HEADERS = {
    "not JSON": (b"{nonsense}", "header-invalid"),
    "cut off": (b'{"a":', "header-invalid"),
    "empty": (b"", "header-invalid"),
    "not an object": (b"[1]", "header-invalid"),
    "starts with a space": (b" {}", "header-invalid"),
    "starts with a byte order mark": (b"\xef\xbb\xbf{}", "header-invalid"),
    "text after it": (b"{}x", "header-invalid"),
    "zero padding": (b"{}\0\0", "header-invalid"),
    "NaN": (b'{"__metadata__":{"a":NaN}}', "header-invalid"),
    "Infinity": (b'{"a":-Infinity}', "header-invalid"),
    "nested deeply": (b'{"a":' + b"[" * 500_000, "header-invalid"),
    "nested deeply, closed": (b'{"a":' + b'{"b":' * 50_000 + b"1" + b"}" * 50_001, "header-invalid"),
    "not UTF-8": (b'{"\xff":1}', "header-invalid"),
    "surrogate in UTF-8": (b'{"__metadata__":{"a":"\xed\xa0\x80"}}', "header-invalid"),
    "half a pair in a key": (b'{"\\ud800":' + json.dumps(entry()).encode() + b"}", "header-invalid"),
    "half a pair in the metadata": (b'{"__metadata__":{"a":"\\udfff"}}', "header-invalid"),
    "control character": (b'{"__metadata__":{"a":"\x01"}}', "header-invalid"),
    "one entry without a name": (entry(), "header-invalid"),
    "metadata is null": ({"__metadata__": None}, "header-invalid"),
    "metadata is a list": ({"__metadata__": []}, "header-invalid"),
    "metadata is a tensor": ({"__metadata__": entry()}, "header-invalid"),
    "metadata has a number": ({"__metadata__": {"a": 1}}, "header-invalid"),
    "metadata has an object": ({"__metadata__": {"a": {}}}, "header-invalid"),
    "entry is a list": ({"a": ["F32", [2], [0, 8]]}, "header-invalid"),
    "entry is null": ({"a": None}, "header-invalid"),
    "entry is empty": ({"a": {}}, "header-invalid"),
    "entry lacks a field": ({"a": {"dtype": "F32", "shape": [2]}}, "header-invalid"),
    "entry has another field": ({"a": {"dtype": "F32", "shape": [2], "offsets": [0, 8]}}, "header-invalid"),
    "entry has a further field": ({"a": entry(more=1)}, "header-invalid"),
    "dtype is a number": ({"a": entry(dtype=1)}, "header-invalid"),
    "dtype is a list": ({"a": entry(dtype=["F32"])}, "header-invalid"),
    "shape is a number": ({"a": entry(shape=2)}, "header-invalid"),
    "shape is a text": ({"a": entry(shape="2")}, "header-invalid"),
    "shape is an object": ({"a": entry(shape={})}, "header-invalid"),
    "shape holds a text": ({"a": entry(shape=["2"])}, "header-invalid"),
    "shape holds a boolean": ({"a": entry("U8", [True], [0, 1])}, "header-invalid"),
    "shape holds a boolean like another": (
        {"a": entry("U8", [1], [0, 1]), "b": entry("U8", [True], [1, 2])},
        "header-invalid",
    ),
    "shape holds a float": ({"a": entry(shape=[2.0])}, "header-invalid"),
    "shape holds a float like another": ({"a": entry(), "b": entry(shape=[2.0], offsets=[8, 16])}, "header-invalid"),
    "shape is negative": ({"a": entry(shape=[-2])}, "header-invalid"),
    "shape is twice negative": ({"a": entry(shape=[-1, -2])}, "header-invalid"),
    "shape has minus zero": (b'{"a":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}}', "header-invalid"),
    "shape is a huge number": (
        b'{"a":{"dtype":"F32","shape":[' + HUGE.encode() + b'],"data_offsets":[0,8]}}',
        "tensor-bounds",
    ),
    "shape is a number beyond the limit": (
        b'{"a":{"dtype":"F32","shape":[' + HUGE.encode() * 2 + b'],"data_offsets":[0,8]}}',
        "header-invalid",
    ),
    "shape overflows": ({"a": entry(shape=[2**32, 2**32])}, "tensor-bounds"),
    "shape overflows to what fits": ({"a": entry("F32", [2**62 + 1, 8], [0, 32])}, "tensor-bounds"),
    "shape overflows beside a zero": ({"a": entry("F32", [2**40, 2**40, 0], [0, 0])}, "tensor-bounds"),
    "offsets are three": ({"a": entry(offsets=[0, 4, 8])}, "header-invalid"),
    "offsets are one": ({"a": entry(offsets=[8])}, "header-invalid"),
    "offsets are a text": ({"a": entry(offsets="08")}, "header-invalid"),
    "offsets hold a boolean": ({"a": entry("U8", [1], [False, True])}, "header-invalid"),
    "offsets hold a float": ({"a": entry(offsets=[0, 8.0])}, "header-invalid"),
    "offsets are negative": ({"a": entry(offsets=[-8, 0])}, "header-invalid"),
    "offsets run backwards": ({"a": entry(offsets=[8, 0])}, "tensor-bounds"),
    "offsets are too few for the shape": ({"a": entry(offsets=[0, 4])}, "tensor-bounds"),
    "offsets are too many for the shape": ({"a": entry(offsets=[0, 16])}, "tensor-bounds"),
    "offsets are huge": ({"a": entry(offsets=[2**70, 2**70 + 8])}, "tensor-bounds"),
    "hole at the start": ({"a": entry(offsets=[8, 16])}, "tensor-bounds"),
    "hole in between": ({"a": entry(), "b": entry(offsets=[12, 20])}, "tensor-bounds"),
    "overlap": ({"a": entry(), "b": entry(offsets=[4, 12])}, "tensor-bounds"),
    "twice the same bytes": ({"a": entry(), "b": entry()}, "tensor-bounds"),
    "empty tensor within another": ({"a": entry(), "b": entry(shape=[0], offsets=[4, 4])}, "tensor-bounds"),
    "bits that fill no bytes": ({"a": entry("F4", [3], [0, 2])}, "tensor-bounds"),
    "dtype is unknown": ({"a": entry("F33")}, "dtype-unknown"),
    "dtype is a torch name": ({"a": entry("float32")}, "dtype-unknown"),
    "dtype is in lower case": ({"a": entry("f32")}, "dtype-unknown"),
    "key twice": (b'{"a":%s,"a":%s}' % ((json.dumps(entry()).encode(),) * 2), "header-duplicate-key"),
    "key twice, escaped": (b'{"a":%s,"\\u0061":%s}' % ((json.dumps(entry()).encode(),) * 2), "header-duplicate-key"),
    "metadata twice": (b'{"__metadata__":{},"__metadata__":{}}', "header-duplicate-key"),
    "name twice in the metadata": (b'{"__metadata__":{"a":"1","a":"2"}}', "header-duplicate-key"),
    "field twice": (b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', "header-duplicate-key"),
    "field twice instead of another": (b'{"a":{"dtype":"F32","dtype":"F32","shape":[2]}}', "header-duplicate-key"),
    "data is missing": ({"a": entry(), "b": entry(offsets=[8, 16]), "c": entry(offsets=[16, 24])}, "file-truncated"),
    "data for nothing": ({}, "tensor-bounds"),
}


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_bad_header_is_an_error(tmp_path, name):
    header, code = BAD_HEADERS[name]
    path = raw_file(tmp_path / "bad.safetensors", header, bytes(16))
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert caught.value.code == code
    assert "bad.safetensors" in caught.value.where
    assert len(str(caught.value)) < 2000, "a hostile header does not fill the screen"


@pytest.mark.parametrize("name", [name for name, (header, _) in BAD_HEADERS.items() if isinstance(header, dict)])
def test_error_names_the_tensor(tmp_path, name):
    header, _ = BAD_HEADERS[name]
    if set(header) & {"__metadata__", "dtype"} or not header or name == "data is missing":
        return
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(raw_file(tmp_path / "bad.safetensors", header, bytes(16)))
    assert any(caught.value.where.endswith(f": {key!r}") for key in header)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "file-truncated"),
        (b"\x02", "file-truncated"),
        (struct.pack("<Q", 2)[:7], "file-truncated"),
        (struct.pack("<Q", 0), "header-invalid"),
        (struct.pack("<Q", 3) + b"{}", "header-too-large"),
        (struct.pack("<Q", 2**60) + b"{}", "header-too-large"),
        (struct.pack("<Q", 2**64 - 1) + b"{}", "header-too-large"),
        (struct.pack("<Q", 2) + b"{}" + b"x", "tensor-bounds"),
    ],
)
def test_bad_length_is_an_error(tmp_path, content, code):
    (tmp_path / "a.safetensors").write_bytes(content)
    assert code_of(tmp_path / "a.safetensors") == code


@pytest.mark.parametrize("length", [100_000_001, 2**60])
def test_header_beyond_the_limit_is_not_read(tmp_path, length):
    """The file is sparse and as long as it claims, as far as a file system allows."""
    path = raw_file(tmp_path / "a.safetensors", b"{}", length=length)
    os.truncate(path, min(length + 8, 2**42))
    assert code_of(path) == "header-too-large"


def test_truncated_file_is_an_error(tmp_path):
    path = save(tmp_path / "a.safetensors", make_state("a", "b"))
    content = path.read_bytes()
    for size in range(len(content)):
        os.truncate(path, size)
        assert code_of(path) in ("file-truncated", "header-too-large")
        path.write_bytes(content)


def test_file_that_goes_on_is_an_error(tmp_path):
    path = save(tmp_path / "a.safetensors", make_state("a"))
    path.write_bytes(path.read_bytes() + b"\0")
    assert code_of(path) == "tensor-bounds"


# What is not a regular file


@pytest.mark.parametrize("name", ["a.safetensors", "a.safetensors.index.json", "a.bin", "a.json"])
@pytest.mark.parametrize("kind", ["pipe", "directory", "device", "dangling link"])
def test_no_regular_file_is_an_error(tmp_path, name, kind):
    """A pipe in particular must not be waited for."""
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else "nowhere")
    codes = {code_of(path)}
    if name != "a.json":
        codes.add(code_of(tmp_path))
    assert codes <= {"read-failed", "checkpoint-not-found", "path-unsafe", "index-mismatch"}


def test_unreadable_file_is_an_error(tmp_path, monkeypatch):
    path = save(tmp_path / "a.safetensors", make_state("a"))

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    assert code_of(path) == "read-failed"


# Directories


def test_sharded_directory_is_read(tmp_path):
    state = save_sharded(tmp_path)
    for place in (tmp_path, str(tmp_path), tmp_path / "model.safetensors.index.json"):
        checkpoint = open_checkpoint(place)
        assert list(checkpoint.header) == list(state)
        assert all(checkpoint.tensor(key).equal(tensor) for key, tensor in state.items())
        assert [image.name[6:11] for image in checkpoint.images] == ["00001", "00002"]
        assert checkpoint.index == (
            "model.safetensors.index.json",
            (tmp_path / "model.safetensors.index.json").read_bytes(),
        )
        assert checkpoint.files.index_text == checkpoint.index.text
        assert checkpoint.header.metadata["part"].startswith("model-00001")
        assert checkpoint.where == str(place)


def test_shards_without_an_index_are_read(tmp_path):
    state = save_sharded(tmp_path, index=False)
    assert set(open_checkpoint(tmp_path).header) == set(state)


def test_files_that_share_no_key_are_one_checkpoint(tmp_path):
    save(tmp_path / "main.safetensors", make_state("a"))
    save(tmp_path / "mtp.safetensors", make_state("b"))
    assert set(open_checkpoint(tmp_path).header) == {"a", "b"}


@pytest.mark.parametrize("other", ["model.fp16.safetensors", "adapter-00001-of-00002.safetensors"])
def test_well_known_name_is_taken_and_others_are_noted(tmp_path, other):
    save(tmp_path / "model.safetensors", make_state("a"))
    save(tmp_path / other, make_state("a", "b"))
    checkpoint = open_checkpoint(tmp_path)
    assert set(checkpoint.header) == {"a"}
    assert any(other in note for note in checkpoint.notes)


def test_well_known_torch_name_is_taken_and_others_are_noted(tmp_path):
    torch.save(make_state("a"), tmp_path / "pytorch_model.bin")
    torch.save(make_state("b"), tmp_path / "other.bin")
    checkpoint = open_checkpoint(tmp_path)
    assert set(checkpoint.header) == {"a"}
    assert any("other.bin" in note for note in checkpoint.notes)


def test_shards_in_a_sub_directory_are_read(tmp_path):
    save(tmp_path / "sub" / "x.safetensors", make_state("a"))
    write_index(tmp_path, {"a": "sub/x.safetensors"})
    assert open_checkpoint(tmp_path).images[0].name == "sub/x.safetensors"


def test_safetensors_are_preferred_to_torch_files(tmp_path):
    save(tmp_path / "model.safetensors", make_state("a"))
    torch.save(make_state("b"), tmp_path / "pytorch_model.bin")
    assert set(open_checkpoint(tmp_path).header) == {"a"}


def test_extras_are_what_belongs_to_the_model(tmp_path):
    save_sharded(tmp_path)
    for name in ("config.json", "tokenizer.model", "merges.txt"):
        (tmp_path / name).write_text(name)
    for name in (
        "pytorch_model.bin",
        "a.gguf",
        "b.h5",
        "training_args.bin",
        RECEIPT_NAME,
        ".gitattributes",
        "x.pt",
        "tf_model.h5.index.json",
    ):
        (tmp_path / name).write_text(name)
    for name in ("original/params.json", "original/consolidated.pth", "1_Pooling/config.json", "1_Pooling/.hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "away.txt").symlink_to("/etc/hostname")
    save(tmp_path / "model-00003-of-00003.safetensors", make_state("stale"))
    checkpoint = open_checkpoint(tmp_path)
    names = ["1_Pooling/config.json", "config.json", "merges.txt", "tokenizer.model"]
    assert [extra.name for extra in checkpoint.extras] == names
    assert "stale" not in checkpoint.header
    notes = " ".join(checkpoint.notes)
    assert all(name in notes for name in ("model-00003-of-00003.safetensors", "original", "away.txt"))


def test_hub_cache_is_read(tmp_path):
    """The hub's cache holds links from the snapshot to the blobs, sub-directories included."""
    blobs, snapshot = tmp_path / "models--x--y" / "blobs", tmp_path / "models--x--y" / "snapshots" / "abc123"
    save(blobs / "hash1", make_state("a"))
    save(blobs / "hash2", make_state("b"))
    write_index(blobs, {"a": "one.safetensors", "b": "sub/two.safetensors"}, "hash3")
    (blobs / "hash4").write_text("{}")
    (snapshot / "sub").mkdir(parents=True)
    (snapshot / "one.safetensors").symlink_to("../../blobs/hash1")
    (snapshot / "sub" / "two.safetensors").symlink_to("../../../blobs/hash2")
    (snapshot / "model.safetensors.index.json").symlink_to("../../blobs/hash3")
    (snapshot / "config.json").symlink_to("../../blobs/hash4")
    checkpoint = open_checkpoint(snapshot)
    assert set(checkpoint.header) == {"a", "b"}
    assert checkpoint.extent("b").path == blobs / "hash2"
    assert [(extra.name, extra.path) for extra in checkpoint.extras] == [("config.json", blobs / "hash4")]
    assert set(open_checkpoint(snapshot / "sub").header) == {"b"}
    assert set(open_checkpoint(snapshot / "one.safetensors").header) == {"a"}


def test_hub_shape_does_not_excuse_other_links(tmp_path):
    save(tmp_path / "m" / "elsewhere", make_state("a"))
    (tmp_path / "m" / "blobs").mkdir()
    (tmp_path / "m" / "snapshots" / "r").mkdir(parents=True)
    (tmp_path / "m" / "snapshots" / "r" / "model.safetensors").symlink_to("../../elsewhere")
    assert code_of(tmp_path / "m" / "snapshots" / "r") == "path-unsafe"


def test_link_within_the_directory_is_read(tmp_path):
    save(tmp_path / "data" / "x", make_state("a"))
    (tmp_path / "model.safetensors").symlink_to("data/x")
    assert set(open_checkpoint(tmp_path).header) == {"a"}


def test_directory_may_itself_be_a_link(tmp_path):
    save(tmp_path / "real" / "model.safetensors", make_state("a"))
    (tmp_path / "link").symlink_to("real")
    assert set(open_checkpoint(tmp_path / "link").header) == {"a"}


def test_link_out_of_the_directory_is_an_error(tmp_path):
    save(tmp_path / "x.safetensors", make_state("a"))
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.safetensors").symlink_to("../x.safetensors")
    assert code_of(tmp_path / "m") == "path-unsafe"
    write_index(tmp_path / "m", {"a": "other.safetensors"})
    (tmp_path / "m" / "model.safetensors").rename(tmp_path / "m" / "other.safetensors")
    assert code_of(tmp_path / "m") == "path-unsafe"


def test_link_loop_is_an_error(tmp_path):
    (tmp_path / "model.safetensors").symlink_to("model.safetensors")
    assert code_of(tmp_path) == "read-failed"


@pytest.mark.parametrize(
    "name",
    ["../x.safetensors", "sub/../../x.safetensors", "/x.safetensors", "./x.safetensors", "a//b.safetensors", "..", "",
     "sub\\x.safetensors", "C:/x.safetensors", "x\0.safetensors", "sub/", "\ud800.safetensors"],
)  # fmt: skip
def test_name_that_leaves_the_directory_is_an_error(tmp_path, name):
    save(tmp_path / "x.safetensors", make_state("a"))
    write_index(tmp_path / "m", {"a": name})
    assert code_of(tmp_path / "m") == "path-unsafe"


@pytest.mark.parametrize(
    ("weight_map", "code"),
    [
        ({"a.weight": "absent.safetensors"}, "index-mismatch"),
        ({"a.weight": "model-00001-of-00002.safetensors", "x": "model-00001-of-00002.safetensors"}, "index-mismatch"),
        ({"b.weight": "model-00002-of-00002.safetensors"}, "index-mismatch"),
        ({"a.weight": "model-00002-of-00002.safetensors"}, "index-mismatch"),
        ({"a.weight": "config.json"}, "index-invalid"),
        ({"a.weight": "model-00001-of-00002.safetensors", "b": "pytorch_model.bin"}, "index-invalid"),
        ({"a.weight": 1}, "index-invalid"),
        ({"a.weight": ["model-00001-of-00002.safetensors"]}, "index-invalid"),
        ({}, "index-invalid"),
        ([], "index-invalid"),
        (None, "index-invalid"),
    ],
)
def test_bad_weight_map_is_an_error(tmp_path, weight_map, code):
    save_sharded(tmp_path)
    write_index(tmp_path, weight_map)
    assert code_of(tmp_path) == code


def test_key_in_two_shards_is_an_error(tmp_path):
    """The index places it in one of them; the other one holds a tensor that the index does not place there."""
    save_sharded(tmp_path)
    save(tmp_path / "model-00002-of-00002.safetensors", make_state("a.weight", "b.weight", "c.weight"))
    assert code_of(tmp_path) == "index-mismatch"
    (tmp_path / "model.safetensors.index.json").unlink()
    assert code_of(tmp_path) == "checkpoint-ambiguous"


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"{", b"null", b"\xff", b'{"weight_map":{"a":"x.safetensors","a":"x.safetensors"}}', b"{}",
     b'{"metadata":NaN,"weight_map":{"a":"x.safetensors"}}', b"[" * 100_000,
     b'{"weight_map":{"\\ud800":"x.safetensors"}}', b'{"weight_map":{"a":"x.safetensors"},"weight_map":{}}'],
    ids=lambda text: ascii(text[:20]),
)  # fmt: skip
def test_bad_index_is_an_error(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_bytes(text)
    assert code_of(tmp_path) == "index-invalid"


def test_huge_index_is_not_read(tmp_path):
    (tmp_path / "model.safetensors.index.json").touch()
    os.truncate(tmp_path / "model.safetensors.index.json", 2**40)
    assert code_of(tmp_path) == "read-failed"


@pytest.mark.parametrize(
    ("names", "code"),
    [
        ([], "checkpoint-not-found"),
        (["config.json", "readme.md"], "checkpoint-not-found"),
        ([".model.safetensors"], "checkpoint-not-found"),
        (["optimizer.bin", "training_args.bin"], "checkpoint-not-found"),
        (["model-00001-of-00002.safetensors"], "index-mismatch"),
        (["model-00002-of-00002.safetensors"], "index-mismatch"),
        (["model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors"], "index-mismatch"),
        (["model-00001-of-00001.safetensors", "other-00001-of-00001.safetensors"], "checkpoint-ambiguous"),
        (["model-00001-of-00001.safetensors", "model.safetensors"], "checkpoint-ambiguous"),
        (["one.safetensors", "two.safetensors"], "checkpoint-ambiguous"),
        (["model.safetensors.index.json", "other.safetensors.index.json"], "checkpoint-ambiguous"),
        (["model.safetensors.index.json", "model.safetensors"], "checkpoint-ambiguous"),
        (["one.bin", "two.bin"], "checkpoint-ambiguous"),
        (["a.pt", "b.pth"], "checkpoint-ambiguous"),
        (["pytorch_model-00001-of-00002.bin"], "index-mismatch"),
    ],
)
def test_directory_without_one_checkpoint_is_an_error(tmp_path, names, code):
    for name in names:
        if name.endswith(".safetensors"):
            save(tmp_path / name, make_state("a"))
        else:
            (tmp_path / name).write_text("{}")
    assert code_of(tmp_path) == code


def test_sub_directories_are_not_searched(tmp_path):
    save(tmp_path / "sub" / "model.safetensors", make_state("a"))
    assert code_of(tmp_path) == "checkpoint-not-found"


@pytest.mark.parametrize(
    "place", ["", "nowhere", "a\0b", "nowhere/model.safetensors", "~/no such file/x.bin", 7, None, b""]
)
def test_place_without_a_checkpoint_is_an_error(place):
    assert code_of(place) == "checkpoint-not-found"


def test_file_of_another_kind_is_an_error(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    assert code_of(tmp_path / "notes.txt") == "checkpoint-not-found"
    assert code_of(tmp_path / "notes.txt" / "x") == "checkpoint-not-found"


# A source that changes


def test_fingerprint_is_json_and_stays(tmp_path):
    save_sharded(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    fingerprint = checkpoint.fingerprint()
    assert json.loads(json.dumps(fingerprint)) == fingerprint == open_checkpoint(tmp_path).fingerprint()
    assert [file["name"][-10:] for file in fingerprint] == ["afetensors"] * 2 + ["index.json"]
    assert set(fingerprint[0]) == {"name", "size_bytes", "mtime_ns", "head_sha256"}
    checkpoint.check_unchanged()


def changes() -> dict[str, object]:
    def cut(path: Path) -> None:
        os.truncate(path, path.stat().st_size - 1)

    def grow(path: Path) -> None:
        os.truncate(path, path.stat().st_size + 1)

    def replace(path: Path) -> None:
        path.with_name("new").write_bytes(path.read_bytes())
        path.with_name("new").rename(path)

    def rewrite(path: Path) -> None:
        """Another header of the same length, and the old time of modification."""
        status = path.stat()
        path.write_bytes(path.read_bytes().replace(b"a.weight", b"z.weight"))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def touch(path: Path) -> None:
        os.utime(path, ns=(0, 0))

    return {"cut": cut, "grow": grow, "replace": replace, "rewrite": rewrite, "touch": touch, "remove": Path.unlink}


@pytest.mark.parametrize("change", changes())
@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "model.safetensors.index.json"])
def test_changed_file_is_noticed(tmp_path, name, change):
    save_sharded(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    changes()[change](tmp_path / name)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.check_unchanged()
    assert caught.value.code == "source-changed"


def test_read_of_a_file_that_was_cut_is_an_error(tmp_path):
    """Never a bus error: neither before nor after the file was first read."""
    path = save(tmp_path / "a.safetensors", {"w": torch.zeros(10_000)})
    fresh, used = open_checkpoint(path), open_checkpoint(path)
    used.read("w", 0, memoryview(bytearray(40_000)))
    os.truncate(path, 4096)
    for checkpoint in (fresh, used):
        with pytest.raises(CheckpointError) as caught:
            checkpoint.read("w", 0, memoryview(bytearray(40_000)))
        assert caught.value.code == "source-changed"
        with pytest.raises(CheckpointError) as caught:
            checkpoint.tensor("w")
        assert caught.value.code == "source-changed"


def test_read_of_a_file_that_is_gone_is_an_error(tmp_path):
    path = save(tmp_path / "a.safetensors", {"w": torch.zeros(3)})
    checkpoint = open_checkpoint(path)
    path.unlink()
    with pytest.raises(CheckpointError) as caught:
        checkpoint.read("w", 0, memoryview(bytearray(12)))
    assert caught.value.code == "checkpoint-not-found"


def test_a_file_that_is_replaced_does_not_mix_with_its_successor(tmp_path):
    """While workers run, reading goes on in the file that was opened; the next one to open it finds the change."""
    path = save(tmp_path / "a.safetensors", {"w": torch.zeros(3)})
    checkpoint = open_checkpoint(path)
    buffer = bytearray(12)

    def read_and_replace():
        checkpoint.read("w", 0, memoryview(buffer))
        save(tmp_path / "b.safetensors", {"w": torch.ones(3)}).rename(path)
        checkpoint.read("w", 0, memoryview(buffer))

    run_all([read_and_replace], 1)
    assert buffer == bytes(12)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.read("w", 0, memoryview(buffer))
    assert caught.value.code == "source-changed"
    assert buffer == bytes(12)


def test_short_file_of_the_expected_size_is_an_error(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    with pytest.raises(CheckpointError) as caught:
        OpenFiles({}).read(path, 1, memoryview(bytearray(3)))
    assert caught.value.code == "file-truncated"


# Tensors in memory


def test_tensors_in_memory_are_given_out_as_they_are():
    base = torch.arange(24.0).reshape(4, 6)
    state = {
        "t": base.t(),
        "s": base[::2, 1:],
        "p": torch.nn.Parameter(base.clone()),
        "c": torch.zeros(2).to(torch.complex64),
    }
    checkpoint = open_checkpoint(state)
    assert all(checkpoint.tensor(key) is tensor for key, tensor in state.items())
    assert checkpoint.header["t"] == TensorSpec("F32", (6, 4))
    assert checkpoint.images == ()
    assert checkpoint.files is None
    assert checkpoint.extent("t") is None
    assert checkpoint.fingerprint() == []
    checkpoint.check_unchanged()


@pytest.mark.parametrize("name", ["transposed", "strided", "conjugated", "negated", "scalar", "empty", "bf16"])
def test_read_of_a_tensor_in_memory_gives_its_row_major_bytes(name):
    base = torch.arange(24.0).reshape(4, 6)
    complex_pair = torch.complex(base, base + 1)
    tensor = {
        "transposed": base.t(), "strided": base[::2, 1::3], "conjugated": complex_pair.conj(),
        "negated": complex_pair.conj().imag, "scalar": base[2, 3], "empty": base[:0], "bf16": base.bfloat16().t(),
    }[name]  # fmt: skip
    dense = tensor.resolve_conj().resolve_neg().contiguous()
    expected = dense.view(-1).view(torch.uint8).numpy().tobytes() if dense.numel() else b""
    buffer = bytearray(len(expected))
    open_checkpoint({"x": tensor}).read("x", 0, memoryview(buffer))
    assert buffer == expected


def test_bytes_stay_valid_after_their_tensor_is_gone():
    view = bytes_of(torch.arange(100_000) * 2)
    later = [torch.full((100_000,), -1) for _ in range(4)]
    assert struct.unpack_from("<3q", view, 8) == (2, 4, 6)
    assert len(later) == 4


def test_ties_are_tensors_of_the_same_elements():
    base = torch.arange(12.0)
    state = {
        "z": base, "m": base, "a": base.view(12), "part": base[:6], "shape": base.view(3, 4),
        "bits": base.view(torch.int32), "copy": base.clone(), "none": torch.empty(0), "nothing": torch.empty(0),
        "part2": base[0:6],
    }  # fmt: skip
    assert open_checkpoint(state).header.ties == {"m": "a", "z": "a", "part2": "part"}
    assert open_checkpoint(dict(reversed(state.items()))).header.ties == {"m": "a", "z": "a", "part2": "part"}


def test_meta_tensors_are_specs_only():
    module = torch.nn.Linear(3, 5, device="meta")
    checkpoint = open_checkpoint({"w": module.weight, "tied": module.weight.detach(), "b": module.bias})
    assert checkpoint.header["w"] == TensorSpec("F32", (5, 3))
    assert checkpoint.header.ties == {"w": "tied"}
    for ask in (checkpoint.tensor, lambda key: checkpoint.read(key, 0, memoryview(b""))):
        with pytest.raises(CheckpointError) as caught:
            ask("w")
        assert caught.value.code == "data-missing"


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ({"a": 1}, "header-invalid"),
        ({1: torch.zeros(1)}, "header-invalid"),
        ({"a": {"b": torch.zeros(1)}}, "header-invalid"),
        ({"a": torch.zeros(1, dtype=torch.complex128)}, "dtype-unknown"),
        ({"a": torch.zeros(2, 2).to_sparse()}, "tensor-unsupported"),
    ],
)
def test_what_is_no_tensor_is_an_error(state, code):
    assert code_of(state) == code


def test_opened_checkpoint_is_returned_as_it_is():
    checkpoint = open_checkpoint(make_state("a"))
    assert open_checkpoint(checkpoint) is checkpoint


# Headers alone


def test_header_has_no_data():
    header = Header({"a": TensorSpec("BF16", (2, 3))})
    checkpoint = open_checkpoint(header)
    assert checkpoint.header is header
    assert checkpoint.extent("a") is None
    assert checkpoint.fingerprint() == []
    for ask in (checkpoint.tensor, lambda key: checkpoint.read(key, 0, memoryview(b""))):
        with pytest.raises(CheckpointError) as caught:
            ask("a")
        assert caught.value.code == "data-missing"


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_inventory_comes_back(tmp_path, name):
    header = Header(
        {
            "é\n": TensorSpec("BF16", (2, 3)),
            "s": TensorSpec("F64", ()),
            "z": TensorSpec("I8", (0,)),
            "t": TensorSpec("I8", (0,)),
        },
        {"format": "pt"},
        {"z": "t"},
    )
    write_inventory(header, tmp_path / name)
    checkpoint = open_checkpoint(tmp_path / name)
    assert checkpoint.header == header
    assert [file["name"] for file in checkpoint.fingerprint()] == [name]
    checkpoint.check_unchanged()
    with pytest.raises(DestinationError) as caught:
        write_inventory(header, tmp_path / name)
    assert caught.value.code == "destination-exists"
    with pytest.raises(DestinationError) as caught:
        write_inventory(header, tmp_path / "no" / name)
    assert caught.value.code == "write-failed"


def inventory(**parts: object) -> bytes:
    return json.dumps({"format": "weighbridge-inventory", "version": 1, "tensors": {}, **parts}).encode()


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "inventory-invalid"),
        (b"[]", "inventory-invalid"),
        (b"{}", "inventory-invalid"),
        (b"\xff", "inventory-invalid"),
        (inventory(format="x"), "inventory-invalid"),
        (inventory(version=2), "inventory-invalid"),
        (inventory(version=True), "inventory-invalid"),
        (inventory(version="1"), "inventory-invalid"),
        (inventory(more=1), "inventory-invalid"),
        (inventory(metadata=None), "inventory-invalid"),
        (inventory(metadata={"a": 1}), "inventory-invalid"),
        (inventory(ties={"a": "b"}), "inventory-invalid"),
        (inventory(ties=["a"]), "inventory-invalid"),
        (inventory(tensors=[]), "inventory-invalid"),
        (inventory(tensors={"a": []}), "inventory-invalid"),
        (inventory(tensors={"a": {"dtype": "F32"}}), "inventory-invalid"),
        (inventory(tensors={"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}), "inventory-invalid"),
        (inventory(tensors={"a": {"dtype": "F32", "shape": [True]}}), "inventory-invalid"),
        (inventory(tensors={"a": {"dtype": "F32", "shape": [-1]}}), "inventory-invalid"),
        (inventory(tensors={"a": {"dtype": "F32", "shape": [1.5]}}), "inventory-invalid"),
        (inventory(tensors={"a": {"dtype": "F32", "shape": [2**61]}}), "inventory-invalid"),
        (inventory(tensors={"a": {"dtype": None, "shape": [1]}}), "inventory-invalid"),
        (inventory(tensors={"a": {"dtype": "F99", "shape": [1]}}), "dtype-unknown"),
        (inventory(tensors={"\ud800": {"dtype": "F32", "shape": [1]}}), "inventory-invalid"),
        (inventory()[:-1] + b',"tensors":{}}', "inventory-invalid"),
        (gzip.compress(inventory(), mtime=0)[:-9], "inventory-invalid"),
        (gzip.compress(b"x", mtime=0), "inventory-invalid"),
        (b"\x1f\x8bnonsense", "inventory-invalid"),
    ],
    ids=lambda value: ascii(value)[:60],
)
def test_bad_inventory_is_an_error(tmp_path, raw, code):
    (tmp_path / "a.json").write_bytes(raw)
    assert code_of(tmp_path / "a.json") == code


# Torch files


@pytest.mark.parametrize("name", ["pytorch_model.bin", "a.pt", "b.pth"])
@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_torch_file_is_read(tmp_path, name, is_zip):
    state = {**make_state("a", "b"), "t": torch.arange(6).reshape(2, 3).t(), "h": torch.ones(2, dtype=torch.bfloat16)}
    torch.save(state, tmp_path / name, _use_new_zipfile_serialization=is_zip)
    (tmp_path / "config.json").write_text("{}")
    for place in (tmp_path / name, tmp_path):
        checkpoint = open_checkpoint(place)
        assert all(same_bytes(checkpoint.tensor(key), tensor) for key, tensor in state.items())
        assert checkpoint.images == ()
        assert checkpoint.extent("a") is None
        assert [file["name"] for file in checkpoint.fingerprint()] == [name]
        checkpoint.check_unchanged()
    assert [extra.name for extra in checkpoint.extras] == ["config.json"]


def test_torch_tensors_are_mapped(tmp_path):
    """Each opening maps the file on its own, and what is written to a map stays there."""
    torch.save({"w": torch.zeros(3)}, tmp_path / "a.pt")
    first = open_checkpoint(tmp_path / "a.pt").tensor("w")
    second = open_checkpoint(tmp_path / "a.pt").tensor("w")
    first.fill_(7)
    assert second.tolist() == [0, 0, 0] == open_checkpoint(tmp_path / "a.pt").tensor("w").tolist()


def test_torch_ties_are_found(tmp_path):
    shared = torch.arange(6.0)
    torch.save({"head": shared, "embed": shared, "view": shared[:3]}, tmp_path / "a.bin")
    assert open_checkpoint(tmp_path / "a.bin").header.ties == {"head": "embed"}


@pytest.mark.parametrize("name", ["state_dict", "model"])
def test_nested_torch_file_is_unwrapped(tmp_path, name):
    content = {name: OrderedDict(make_state("a")), "epoch": 3, "optimizer": {"state": {0: {"m": torch.zeros(1)}}}}
    torch.save(content, tmp_path / "a.pt")
    checkpoint = open_checkpoint(tmp_path / "a.pt")
    assert set(checkpoint.header) == {"a"}
    assert all(word in " ".join(checkpoint.notes) for word in (name, "epoch", "optimizer"))


def test_values_beside_tensors_are_noted(tmp_path):
    torch.save({**make_state("a"), "_extra_state": "text", "version": 2}, tmp_path / "a.pt")
    checkpoint = open_checkpoint(tmp_path / "a.pt")
    assert set(checkpoint.header) == {"a"}
    assert "'_extra_state', 'version'" in checkpoint.notes[0]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ({"model": make_state("a"), "ema": make_state("a")}, "checkpoint-ambiguous"),
        ({"a": torch.zeros(1), "model": make_state("b")}, "checkpoint-ambiguous"),
        ({"epoch": 3}, "pickle-invalid"),
        ({}, "pickle-invalid"),
        ([torch.zeros(1)], "pickle-invalid"),
        (torch.zeros(1), "pickle-invalid"),
        ({1: torch.zeros(1)}, "header-invalid"),
        ({"a": torch.zeros(1, dtype=torch.complex128)}, "dtype-unknown"),
        ({"a": torch.zeros(2, 2).to_sparse()}, "tensor-unsupported"),
    ],
)
def test_torch_file_without_one_dict_is_an_error(tmp_path, content, code):
    torch.save(content, tmp_path / "a.pt")
    assert code_of(tmp_path / "a.pt") == code


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_pickle_with_code_is_an_error(tmp_path, is_zip):
    trace = tmp_path / "executed"
    torch.save({"a": torch.zeros(1), "b": Payload(trace)}, tmp_path / "a.bin", _use_new_zipfile_serialization=is_zip)
    assert code_of(tmp_path / "a.bin") == "pickle-unsafe"
    assert code_of(tmp_path) == "pickle-unsafe"
    assert not trace.exists()


def test_plain_pickle_with_code_is_an_error(tmp_path):
    trace = tmp_path / "executed"
    (tmp_path / "a.pt").write_bytes(pickle.dumps({"a": Payload(trace)}, protocol=2))
    assert code_of(tmp_path / "a.pt") in ("pickle-unsafe", "pickle-invalid")
    assert not trace.exists()


def test_damaged_torch_file_is_an_error(tmp_path):
    torch.save(make_state("a"), tmp_path / "good.pt")
    content = (tmp_path / "good.pt").read_bytes()
    path = tmp_path / "a.pt"
    for damaged in (
        b"",
        b"PK\x03\x04",
        b"nonsense",
        content[:100],
        content[: len(content) // 2],
        content[:-10],
        content[4:],
    ):
        path.write_bytes(damaged)
        assert code_of(path) == "pickle-invalid"


def test_forged_torch_file_is_an_error(tmp_path):
    """The pickle claims a larger tensor than its storage holds."""
    torch.save({"a": torch.zeros(200)}, tmp_path / "a.pt")
    content = (tmp_path / "a.pt").read_bytes()
    forged = content.replace(b"K\xc8\x85", b"K\xff\x85")
    assert forged != content
    (tmp_path / "a.pt").write_bytes(forged)
    assert code_of(tmp_path / "a.pt") == "pickle-invalid"


def save_torch_shards(directory: Path) -> dict[str, torch.Tensor]:
    state = make_state("a", "b")
    torch.save({"a": state["a"]}, directory / "pytorch_model-00001-of-00002.bin")
    torch.save({"b": state["b"]}, directory / "pytorch_model-00002-of-00002.bin")
    return state


def test_sharded_torch_files_are_read(tmp_path):
    state = save_torch_shards(tmp_path)
    assert set(open_checkpoint(tmp_path).header) == set(state)
    names = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    write_index(tmp_path, names, "pytorch_model.bin.index.json")
    for place in (tmp_path, tmp_path / "pytorch_model.bin.index.json"):
        checkpoint = open_checkpoint(place)
        assert all(checkpoint.tensor(key).equal(tensor) for key, tensor in state.items())
        assert checkpoint.index.name == "pytorch_model.bin.index.json"


@pytest.mark.parametrize(
    "weight_map",
    [
        {"a": "pytorch_model-00001-of-00002.bin"},
        {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00003-of-00002.bin"},
        {"a": "pytorch_model-00001-of-00002.bin", "x": "pytorch_model-00002-of-00002.bin"},
        {"a": "pytorch_model-00002-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"},
    ],
)
def test_torch_index_must_fit(tmp_path, weight_map):
    save_torch_shards(tmp_path)
    torch.save(make_state("b", "c"), tmp_path / "pytorch_model-00002-of-00002.bin")
    write_index(tmp_path, weight_map, "pytorch_model.bin.index.json")
    expected = "index-mismatch"
    if weight_map == {"a": "pytorch_model-00001-of-00002.bin"}:
        assert "00002" in " ".join(open_checkpoint(tmp_path).notes)
    else:
        assert code_of(tmp_path) == expected


def test_key_in_two_torch_shards_is_an_error(tmp_path):
    save_torch_shards(tmp_path)
    torch.save(make_state("a"), tmp_path / "pytorch_model-00002-of-00002.bin")
    assert code_of(tmp_path) == "index-mismatch"
