"""Writing checkpoints: the same bytes as the field's own libraries, and nothing half-done."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
from functools import partial
from pathlib import Path

import huggingface_hub
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings, strategies as st

from weighbridge.base.errors import CheckpointError, DestinationError
from weighbridge.base.file_names import RECEIPT_NAME, RECORD_NAME
from weighbridge.base.specs import DTYPES, TensorSpec
from weighbridge.storage import (
    Extent,
    FileOptions,
    FileWriter,
    IndexText,
    build_image,
    check_destination,
    copy_extras,
    index_text,
    open_checkpoint,
    parse_size,
    plan_shards,
    staged_directory,
)
from weighbridge.storage.formats.torch_tensors import bytes_of, spec_of, torch_layout
from weighbridge.storage.outputs import file_writer

TORCH_CODES = sorted(code for code, dtype in DTYPES.items() if dtype.torch_name)


def zeros(spec: TensorSpec) -> torch.Tensor:
    dtype, shape = torch_layout(spec)
    return torch.zeros(TensorSpec("U8", shape).numel * dtype.itemsize, dtype=torch.uint8).view(dtype).reshape(shape)


def write_like_us(path: Path, state: dict[str, torch.Tensor], metadata: dict[str, str] | None) -> None:
    """Write a new safetensors file, tensor after tensor."""
    image = build_image(path.name, {key: spec_of(tensor) for key, tensor in state.items()}, metadata)
    with FileWriter.of_image(path.parent, image) as writer:
        for key, offset, _ in reversed(image.tensors):
            writer.write(offset, bytes_of(state[key]))


def code_of(action, *args, **kwargs) -> str:
    with pytest.raises((CheckpointError, DestinationError)) as caught:
        action(*args, **kwargs)
    return caught.value.code


# New files have the bytes that the safetensors library gives them

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
specs = st.builds(
    TensorSpec, st.sampled_from(TORCH_CODES), st.lists(st.integers(0, 3), max_size=3).map(tuple)
).map(lambda spec: TensorSpec("F4", (*spec.shape, 4)) if spec.dtype == "F4" else spec)  # fmt: skip
tables = st.dictionaries(texts.filter(lambda key: key != "__metadata__"), specs, max_size=6)


@settings(max_examples=1000)
@given(tables, st.none() | st.dictionaries(texts, texts, max_size=1))
def test_new_head_is_that_of_the_library(table, metadata):
    """With two pairs of metadata or more the library's order is random, and it breaks a header of nothing but `{}`."""
    if metadata == {} and not table:
        return
    state = {key: zeros(spec) for key, spec in table.items()}
    expected = safetensors.torch.save(state, metadata)
    image = build_image("a.safetensors", table, metadata)
    data_start = 8 + int.from_bytes(expected[:8], "little")
    assert image.head == expected[:data_start]
    assert image.size_bytes == len(expected)


@settings(max_examples=1000)
@given(tables, st.dictionaries(texts, texts, max_size=4), st.randoms(use_true_random=False))
def test_new_head_does_not_depend_on_the_order_of_keys(table, metadata, random):
    keys = list(table)
    random.shuffle(keys)
    assert build_image("a", {key: table[key] for key in keys}, metadata) == build_image("a", table, metadata)
    text = build_image("a", table, metadata).head[8:]
    assert list(json.loads(text)["__metadata__"].items()) == list(metadata.items())


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_new_file_is_that_of_the_library(tmp_path, metadata):
    generator = torch.Generator().manual_seed(0)
    state = {}
    for number, code in enumerate(TORCH_CODES):
        dtype, shape = torch_layout(TensorSpec(code, (2, number + 1, 4)))
        raw = torch.randint(0, 2, (zeros(TensorSpec(code, (2, number + 1, 4))).nbytes,), generator=generator)
        state[f"layer.{number}.é"] = raw.to(torch.uint8).view(dtype).reshape(shape)
    safetensors.torch.save_file(state, tmp_path / "theirs.safetensors", metadata)
    write_like_us(tmp_path / "ours.safetensors", state, metadata)
    assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()


def test_tensors_of_torchless_dtypes_are_placed():
    image = build_image(
        "a", {"x": TensorSpec("F6_E2M3", (4,)), "y": TensorSpec("BF16", (1,)), "z": TensorSpec("F4", (2,))}
    )
    assert [(key, size_bytes) for key, _, size_bytes in image.tensors] == [("y", 2), ("x", 3), ("z", 1)]


@pytest.mark.parametrize(
    ("table", "metadata", "code"),
    [
        ({"__metadata__": TensorSpec("U8", (1,))}, None, "header-invalid"),
        ({"\ud800": TensorSpec("U8", (1,))}, None, "header-invalid"),
        ({}, {"a": "\udfff"}, "header-invalid"),
        ({}, {"a": 1}, "header-invalid"),
        ({}, {1: "a"}, "header-invalid"),
        ({}, {"a": "x" * 100_000_000}, "header-too-large"),
    ],
)
def test_head_that_cannot_be_is_an_error(table, metadata, code):
    assert code_of(build_image, "a", table, metadata) == code


def test_image_gives_the_very_same_file(tmp_path):
    """Also for a file that the library would have written otherwise."""
    text = b'{ "b":{"shape":[3],"dtype":"U8","data_offsets":[8,11]},'
    text += b' "a":{"dtype":"F64","shape":[],"data_offsets":[0,8]} }   '
    content = len(text).to_bytes(8, "little") + text + bytes(range(11))
    (tmp_path / "a.safetensors").write_bytes(content)
    checkpoint = open_checkpoint(tmp_path / "a.safetensors")
    with FileWriter.of_image(tmp_path / "new" / "deep", checkpoint.images[0]) as writer:
        for key, offset, size_bytes in checkpoint.images[0].tensors:
            if key == "a":
                writer.copy_range(checkpoint.extent(key), offset)
            else:
                buffer = bytearray(size_bytes)
                checkpoint.read(key, 0, memoryview(buffer))
                writer.write(offset, buffer)
    assert (tmp_path / "new" / "deep" / "a.safetensors").read_bytes() == content


# Shards and index


@settings(max_examples=1000)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=20),
    st.integers(1, 100),
    st.sampled_from(["model.safetensors", "model.fp16.safetensors"]),
)
def test_shards_are_those_of_the_hub(sizes, limit, name):
    keys = [f"layer.{number * 7 % 23}.weight" for number in range(len(sizes))]
    state = {key: torch.empty(size, dtype=torch.uint8) for key, size in zip(keys, sizes, strict=True)}
    # Empty tensors share the address 0, which the hub takes for one storage.
    twin = huggingface_hub.split_state_dict_into_shards_factory(
        state,
        get_storage_size=lambda tensor: tensor.nbytes,
        filename_pattern=name.replace(".safetensors", "{suffix}.safetensors"),
        max_shard_size=limit,
    )
    plan = plan_shards({key: spec_of(tensor) for key, tensor in state.items()}, limit, name)
    assert {file: list(keys) for file, keys in plan.files.items()} == twin.filename_to_tensors
    if not twin.is_sharded:
        assert plan.index is None
        return
    expected = json.dumps({"metadata": twin.metadata, "weight_map": twin.tensor_to_filename}, indent=2, sort_keys=True)
    assert plan.index == IndexText(f"{name}.index.json", (expected + "\n").encode())


def test_shards_of_real_tensors_are_those_of_the_hub():
    state = {f"w{n}": torch.zeros(n, 100) for n in range(1, 30)}
    twin = huggingface_hub.split_torch_state_dict_into_shards(state, max_shard_size="20KB")
    plan = plan_shards({key: spec_of(tensor) for key, tensor in state.items()}, "20KB")
    assert {file: list(keys) for file, keys in plan.files.items()} == twin.filename_to_tensors


def test_no_limit_means_one_file():
    table = {"a": TensorSpec("F32", (2**40,)), "b": TensorSpec("F32", (2**40,))}
    assert plan_shards(table, None).files == {"model.safetensors": ("a", "b")}
    assert plan_shards({}).files == {"model.safetensors": ()}


def test_index_is_read_back(tmp_path):
    table = {"b": TensorSpec("U8", (3,)), "a": TensorSpec("U8", (4,))}
    plan = plan_shards(table, 4)
    for name, keys in plan.files.items():
        write_like_us(tmp_path / name, {key: zeros(table[key]) for key in keys}, None)
    (tmp_path / plan.index.name).write_bytes(plan.index.text)
    assert open_checkpoint(tmp_path).header.specs == table
    assert index_text("model.safetensors", table, plan.files) == plan.index


@pytest.mark.parametrize(
    ("size", "expected"), [(7, 7), ("5GB", 5 * 10**9), (" 2 mb", 2 * 10**6), ("1.5KB", 1500), ("1TB", 10**12)]
)
def test_size_is_read(size, expected):
    assert parse_size(size) == expected


@pytest.mark.parametrize(
    "size", [0, -1, True, "", "5", "5XB", "GB", "-1GB", "nanGB", "infGB", "1e999GB", "0KB", "five GB"]
)
def test_bad_size_is_an_error(size):
    assert code_of(plan_shards, {}, size) == "usage"


# One file


def test_pieces_may_come_in_any_order_from_many_threads(tmp_path):
    content = bytes(os.urandom(1)[0] for _ in range(30_000))
    with FileWriter(tmp_path / "a", content[:10], len(content)) as writer:
        starts = list(range(10, len(content), 997))
        threads = [
            threading.Thread(target=lambda s=start: writer.write(s, content[s : min(s + 997, len(content))]))
            for start in reversed(starts)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (tmp_path / "a").read_bytes() == content


def test_short_writes_are_continued(tmp_path, monkeypatch):
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[:3], offset))
    with FileWriter(tmp_path / "a", b"0123456789", 20) as writer:
        writer.write(10, memoryview(b"abcdefghij"))
    assert (tmp_path / "a").read_bytes() == b"0123456789abcdefghij"


def test_buffer_is_spread_over_several_places(tmp_path, monkeypatch):
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[:2], offset))
    with FileWriter(tmp_path / "a", b"head", 12) as writer:
        writer.spread([(9, 3), (5, 1), (6, 2)], memoryview(b"abcdef"))
    assert (tmp_path / "a").read_bytes() == b"head\0def\0abc"


def test_file_has_the_ordinary_mode(tmp_path):
    (tmp_path / "usual").touch()
    with FileWriter(tmp_path / "a", b"", 0):
        pass
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("fallback", ["", "allocate", "kernel copy", "all"])
@pytest.mark.parametrize(("start", "size"), [(0, 0), (0, 50_000), (17, 4096), (49_999, 1)])
def test_range_is_copied(tmp_path, monkeypatch, fallback, start, size):
    content = os.urandom(50_000)
    (tmp_path / "source").write_bytes(content)

    def refuse(*_):
        raise OSError(errno.EXDEV if fallback == "kernel copy" else errno.EOPNOTSUPP, "no")

    if fallback in ("allocate", "all"):
        monkeypatch.setattr(os, "posix_fallocate", refuse)
    if fallback in ("kernel copy", "all"):
        monkeypatch.setattr(os, "copy_file_range", refuse)
    monkeypatch.setattr(file_writer, "COPY_BUFFER_BYTES", 999)
    monkeypatch.setattr(file_writer, "can_share_blocks", lambda *_: True)
    monkeypatch.setattr(file_writer, "HURRY_BYTES", 500)
    with FileWriter(tmp_path / "a", b"head", size + 4) as writer:
        writer.copy_range(Extent(tmp_path / "source", start, size), 4)
    assert (tmp_path / "a").read_bytes() == b"head" + content[start : start + size]


@pytest.fixture
def sharing(monkeypatch):
    """Let the kernel copy even where the file system shares no blocks."""
    monkeypatch.setattr(file_writer, "can_share_blocks", lambda *_: True)
    monkeypatch.setattr(file_writer, "BLOCK_BYTES", 1)


@pytest.mark.parametrize("answer", [0, 7])
def test_kernel_that_copies_less_is_helped(tmp_path, monkeypatch, sharing, answer):
    content = os.urandom(5000)
    (tmp_path / "source").write_bytes(content)
    real = os.copy_file_range
    monkeypatch.setattr(os, "copy_file_range", lambda s, t, n, *at: real(s, t, min(n, answer), *at) if answer else 0)
    with FileWriter(tmp_path / "a", b"", 5000) as writer:
        writer.copy_range(Extent(tmp_path / "source", 0, 5000), 0)
    assert (tmp_path / "a").read_bytes() == content


def test_asking_for_shared_blocks_does_no_harm(tmp_path):
    """Whatever the file system answers, the bytes are those of a plain copy, and the source keeps its own."""
    content = os.urandom(50_000)
    (tmp_path / "source").write_bytes(content)
    with FileWriter(tmp_path / "a", b"head", 50_004) as writer:
        writer.copy_range(Extent(tmp_path / "source", 20_000, 30_000), 20_004)
        writer.copy_range(Extent(tmp_path / "source", 0, 20_000), 4)
    assert (tmp_path / "a").read_bytes() == b"head" + content
    assert (tmp_path / "source").read_bytes() == content


@pytest.mark.parametrize("sync", [True, False])
def test_disk_is_waited_for_if_that_is_wanted(tmp_path, monkeypatch, sync):
    forced = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (forced.append(descriptor), real(descriptor)))
    with FileWriter(tmp_path / "a", b"head", 4, FileOptions(sync=sync)):
        pass
    assert bool(forced) == sync


def test_copy_from_a_short_source_is_an_error(tmp_path):
    (tmp_path / "source").write_bytes(b"abc")
    with FileWriter(tmp_path / "a", b"", 4) as writer:
        assert code_of(writer.copy_range, Extent(tmp_path / "source", 0, 4), 0) == "source-changed"
        assert code_of(writer.copy_range, Extent(tmp_path / "none", 0, 4), 0) == "checkpoint-not-found"


def test_write_outside_the_file_is_an_error(tmp_path):
    with FileWriter(tmp_path / "a", b"head", 8) as writer:
        assert code_of(writer.write, 5, b"long") == "write-failed"
        assert code_of(writer.write, -1, b"x") == "write-failed"
        assert code_of(writer.spread, [(4, 2), (7, 2)], memoryview(b"long")) == "write-failed"
        assert code_of(writer.copy_range, Extent(tmp_path / "a", 0, 8), 1) == "write-failed"


def test_file_that_is_there_is_not_overwritten(tmp_path):
    (tmp_path / "a").write_text("mine")
    assert code_of(FileWriter, tmp_path / "a", b"", 0) == "write-failed"
    assert (tmp_path / "a").read_text() == "mine"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("name", ["posix_fallocate", "pwrite", "fsync"])
def test_full_disk_is_told_from_other_failures(tmp_path, monkeypatch, name, number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    def write() -> None:
        with FileWriter(tmp_path / "a", b"head", 8) as writer:
            writer.write(4, b"tail")

    monkeypatch.setattr(os, name, fail)
    assert code_of(write) == "destination-no-room"
    number = errno.EIO
    (tmp_path / "a").unlink()
    if name != "posix_fallocate":
        assert code_of(write) == "write-failed"


def test_full_disk_during_a_kernel_copy_is_an_error(tmp_path, monkeypatch, sharing):
    def fail(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "copy_file_range", fail)
    (tmp_path / "source").write_bytes(b"abc")
    with FileWriter(tmp_path / "a", b"", 3) as writer:
        assert code_of(writer.copy_range, Extent(tmp_path / "source", 0, 3), 0) == "destination-no-room"


def test_file_too_large_for_its_disk_is_an_error(tmp_path):
    assert code_of(FileWriter, tmp_path / "a", b"", 2**61) in ("destination-no-room", "write-failed")


# A directory


def visible(directory: Path) -> list[str]:
    """Everything under a directory, hidden files included."""
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def test_directory_appears_whole(tmp_path):
    target = tmp_path / "new" / "deep" / "out"
    image = build_image("sub/a.safetensors", {"w": TensorSpec("U8", (2,))})
    with staged_directory(target, needed_bytes=100) as output:
        assert not target.exists()
        assert output.path.parent == target.parent
        with output.create(image) as writer:
            writer.write(image.tensors[0].offset, b"ab")
    assert visible(tmp_path / "new") == ["deep", "deep/out", "deep/out/sub", "deep/out/sub/a.safetensors"]
    assert (target / "sub" / "a.safetensors").read_bytes() == image.head + b"ab"


def test_index_is_late_and_receipt_is_last(tmp_path, monkeypatch):
    order = []
    real = os.open

    def note(path, flags, *rest, **more):
        if flags & os.O_CREAT:
            order.append(Path(path).name)
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", note)
    with staged_directory(tmp_path / "out") as output:
        output.add_receipt(b"receipt")
        output.add_index(IndexText("model.safetensors.index.json", b"index"))
        output.create(build_image("a.safetensors", {})).close()
    assert order == [RECORD_NAME, "a.safetensors", "model.safetensors.index.json", RECEIPT_NAME]
    assert (tmp_path / "out" / RECEIPT_NAME).read_bytes() == b"receipt"


def test_everything_is_forced_to_the_disk_before_the_rename(tmp_path, monkeypatch):
    events = []
    real_sync, real_rename = os.fsync, Path.rename
    monkeypatch.setattr(
        os, "fsync", lambda fd: (events.append(Path(f"/proc/self/fd/{fd}").readlink().name), real_sync(fd))
    )
    monkeypatch.setattr(Path, "rename", lambda path, to: (events.append("rename"), real_rename(path, to))[1])
    with staged_directory(tmp_path / "out") as output:
        output.create(build_image("a.safetensors", {})).close()
        hidden = output.path.name
    start, end = [RECORD_NAME, hidden], [hidden, "a.safetensors", "rename", tmp_path.name]
    assert events == [*start, "a.safetensors", *end]


def test_empty_directory_is_used(tmp_path):
    (tmp_path / "out").mkdir()
    with staged_directory(tmp_path / "out") as output:
        (output.path / "x").touch()
    assert visible(tmp_path) == ["out", "out/x"]


def test_directory_has_the_ordinary_mode(tmp_path):
    (tmp_path / "usual").mkdir()
    with staged_directory(tmp_path / "out"):
        pass
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError, GeneratorExit])
def test_interrupted_directory_leaves_nothing(tmp_path, error):
    def write() -> None:
        with staged_directory(tmp_path / "new" / "deep" / "out") as output:
            (output.path / "sub").mkdir()
            (output.path / "sub" / "x").write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert visible(tmp_path) == []


def test_failure_leaves_an_empty_destination_empty(tmp_path):
    def write() -> None:
        with staged_directory(tmp_path / "out") as output:
            (output.path / "x").touch()
            raise KeyError

    (tmp_path / "out").mkdir()
    with pytest.raises(KeyError):
        write()
    assert visible(tmp_path) == ["out"]


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, "destination-no-room"), (errno.EIO, "write-failed")])
def test_failed_write_is_reported_and_leaves_nothing(tmp_path, number, code):
    def write() -> None:
        with staged_directory(tmp_path / "out"):
            raise OSError(number, os.strerror(number))

    with pytest.raises(DestinationError) as caught:
        write()
    assert caught.value.code == code
    assert os.strerror(number) in caught.value.got
    assert visible(tmp_path) == []


@pytest.mark.parametrize("name", ["fsync", "mkdir"])
def test_failure_at_either_end_leaves_nothing(tmp_path, monkeypatch, name):
    def fail(*_, **__):
        raise OSError(errno.EIO, "broken")

    def write() -> None:
        with staged_directory(tmp_path / "out") as output:
            output.add_receipt(b"x")

    monkeypatch.setattr(os, name, fail)
    assert code_of(write) == "write-failed"
    assert visible(tmp_path) == []


@pytest.mark.parametrize("kind", ["file", "full directory", "link", "dangling link", "link to an empty directory"])
def test_destination_that_is_there_is_an_error(tmp_path, kind):
    target = tmp_path / "out"
    if kind == "file":
        target.touch()
    elif kind == "full directory":
        (target / "x").mkdir(parents=True)
    else:
        (tmp_path / "empty").mkdir()
        target.symlink_to({"link": "/etc", "dangling link": "nowhere"}.get(kind, "empty"))
    before = visible(tmp_path)
    assert code_of(check_destination, target) == "destination-exists"
    assert code_of(staged_directory(target).__enter__) == "destination-exists"
    assert visible(tmp_path) == before


@pytest.mark.parametrize("late", ["file", "full directory"])
def test_destination_that_comes_meanwhile_is_not_overwritten(tmp_path, late):
    def write() -> None:
        with staged_directory(tmp_path / "out") as output:
            (output.path / "ours").touch()
            if late == "file":
                (tmp_path / "out").write_text("theirs")
            else:
                (tmp_path / "out" / "theirs").mkdir(parents=True)

    assert code_of(write) == "destination-exists"
    assert visible(tmp_path) == (["out"] if late == "file" else ["out", "out/theirs"])


@pytest.mark.parametrize(
    ("target", "source"),
    [
        ("model", "model"),
        ("model/out", "model"),
        ("model/deep/out", "model"),
        ("link/out", "model"),
        ("link", "model"),
        ("model/../model/out", "model"),
        (".", "model"),
        ("model/model.safetensors", "model/model.safetensors"),
        ("model", "model/model.safetensors"),
        ("empty", "empty"),
    ],
)
def test_destination_that_touches_the_source_is_an_error(tmp_path, target, source):
    (tmp_path / "model").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "model" / "model.safetensors").touch()
    (tmp_path / "link").symlink_to("model")
    before = visible(tmp_path)
    assert code_of(check_destination, tmp_path / target, [tmp_path / source]) == "destination-unsafe"
    assert visible(tmp_path) == before


def test_destination_beside_the_source_is_allowed(tmp_path):
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "model").mkdir()
    check_destination(tmp_path / "out", [tmp_path / "model.safetensors", tmp_path / "model"])
    check_destination(tmp_path / "model-2", [tmp_path / "model"])


@pytest.mark.parametrize("target", ["", "/", ".", "..", "a/..", "a\0b"])
def test_destination_without_a_name_is_an_error(target):
    assert code_of(check_destination, target) == "destination-unsafe"


def test_destination_without_room_is_an_error(tmp_path):
    with pytest.raises(DestinationError) as caught, staged_directory(tmp_path / "new" / "out", needed_bytes=2**60):
        pass
    assert caught.value.code == "destination-no-room"
    assert f"{2**60:,}" in caught.value.expected
    assert visible(tmp_path) == []


def test_destination_below_a_file_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    assert code_of(staged_directory(tmp_path / "file" / "out").__enter__) == "write-failed"


def test_longest_name_is_possible(tmp_path):
    with staged_directory(tmp_path / ("x" * 255)):
        pass
    assert visible(tmp_path) == ["x" * 255]


def test_relative_destination_is_possible(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with staged_directory("out") as output:
        assert output.path.is_absolute()
    assert visible(tmp_path) == ["out"]


def test_extras_are_copied(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    safetensors.torch.save_file({"a": torch.zeros(1)}, source / "model.safetensors")
    (source / "config.json").write_bytes(b"{}")
    (source / "data.txt").write_bytes(os.urandom(100_000))
    (source / "empty.txt").touch()
    (source / "link.json").symlink_to("config.json")
    (source / "config.json").chmod(0o4500)
    target = tmp_path / "target"
    copy_extras(open_checkpoint(source).extras, partial(FileWriter.of_image, target))
    assert visible(target) == ["config.json", "data.txt", "empty.txt", "link.json"]
    assert all((target / name).read_bytes() == (source / name).read_bytes() for name in visible(target))
    assert not (target / "link.json").is_symlink()
    assert {stat.S_IMODE((target / name).stat().st_mode) & 0o7600 for name in visible(target)} == {0o600}


@pytest.mark.parametrize("change", ["pipe", "gone"])
def test_extra_that_changed_is_an_error(tmp_path, change):
    """It became a pipe, which must not be waited for."""
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").touch()
    checkpoint = open_checkpoint(tmp_path)
    (tmp_path / "config.json").unlink()
    if change == "pipe":
        os.mkfifo(tmp_path / "config.json")
    create = partial(FileWriter.of_image, tmp_path / "out")
    assert code_of(copy_extras, checkpoint.extras, create) in ("read-failed", "checkpoint-not-found")


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        (TensorSpec("U8", (1,) * 65), "header-invalid"),
        (TensorSpec("F32", (2**31, 2**31)), "tensor-bounds"),
        (TensorSpec("F4", (3,)), "tensor-bounds"),
    ],
)
def test_no_file_is_laid_out_that_nobody_would_read(spec, code):
    with pytest.raises(CheckpointError) as caught:
        build_image("a.safetensors", {"w": spec})
    assert caught.value.code == code
    assert caught.value.where == "a.safetensors"
