"""New files that share blocks with the source's, or are the same files: layout, bytes, links, resumption."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from interrupted import FUSED, SOURCE, nursery
from safetensors.torch import load_file, save_file

import weighbridge as wb
from weighbridge.storage.outputs import destination as staging
from weighbridge.storage.outputs.claiming import partial_path
from weighbridge.storage.places.kernel import BLOCK_BYTES

RENAMED = wb.Mapping([wb.WeightRenaming("^tower", "vision")], name="renamed")
JOINED = wb.Mapping([wb.WeightConverter(["a.weight", "b.weight"], "ab.weight", [wb.Concatenate(dim=0)])], name="joined")


def make_source(folder: Path, rows: int = 700, prefix: str = "tower") -> Path:
    """Write two shards with an index: in the first nothing gets another name."""
    folder.mkdir()
    draw = torch.Generator().manual_seed(3)
    shards = {
        "model-00001-of-00002.safetensors": {
            "body.norm.weight": torch.randn(9, generator=draw),
            "body.a.weight": torch.randn(rows, 64, generator=draw),
            "body.b.weight": torch.randn(rows + 1, 64, generator=draw),
        },
        "model-00002-of-00002.safetensors": {
            f"{prefix}.z.weight": torch.randn(rows, 32, generator=draw),
            f"{prefix}.k": torch.arange(5),
            f"{prefix}.y.weight": torch.randn(rows, 48, generator=draw).bfloat16(),
        },
    }
    where = {key: name for name, shard in shards.items() for key in shard}
    for name, shard in shards.items():
        save_file(shard, folder / name, metadata={"format": "pt"})
    text = '{"metadata": {}, "weight_map": {' + ", ".join(f'"{k}": "{n}"' for k, n in where.items()) + "}}"
    (folder / "model.safetensors.index.json").write_text(text)
    (folder / "config.json").write_text("{}")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: hashlib.sha256(path.read_bytes()).digest() for path in sorted(folder.iterdir())}


def data_start(path: Path) -> int:
    return 8 + int.from_bytes(path.read_bytes()[:8], "little")


def loaded(folder: Path) -> dict[str, torch.Tensor]:
    return {key: value for path in sorted(folder.glob("*.safetensors")) for key, value in load_file(path).items()}


FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


# The layout


def test_default_layout_is_another_one(tmp_path: Path) -> None:
    """What is written without the option is what was always written."""
    source = make_source(tmp_path / "source")
    wb.convert(source, tmp_path / "plain", RENAMED)
    assert [path.name for path in (tmp_path / "plain").glob("*.safetensors")] == ["model.safetensors"]
    assert data_start(tmp_path / "plain" / "model.safetensors") % BLOCK_BYTES != 0


@pytest.mark.parametrize("link", ["share", "hard"])
def test_files_follow_those_of_the_source(link: str, tmp_path: Path) -> None:
    source = make_source(tmp_path / "source")
    wb.convert(source, tmp_path / "out", RENAMED, link=link, max_shard_size=1)
    out = tmp_path / "out"
    assert (out / FIRST).read_bytes() == (source / FIRST).read_bytes()
    assert data_start(out / SECOND) % BLOCK_BYTES == data_start(source / SECOND) % BLOCK_BYTES
    assert (out / SECOND).read_bytes()[data_start(out / SECOND) :] == (source / SECOND).read_bytes()[
        data_start(source / SECOND) :
    ]
    renamed = {key.replace("tower", "vision"): value for key, value in loaded(source).items()}
    made = loaded(out)
    assert made.keys() == renamed.keys()
    assert all(torch.equal(made[key], renamed[key]) for key in renamed)
    assert wb.open(out).index is not None
    wb.revert(out, tmp_path / "back", link=link)
    assert contents(tmp_path / "back") == contents(source)


def test_share_and_hard_write_the_same_bytes(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source")
    made = [contents(wb.convert(source, tmp_path / link, RENAMED, link=link)) for link in ("share", "hard")]
    assert made[0] == made[1]


def test_joined_tensors_stand_where_the_first_of_them_stood(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source")
    wb.convert(source, tmp_path / "out", JOINED, link="share")
    places = [(image.name, placed.key) for image in wb.open(tmp_path / "out").images for placed in image.tensors]
    assert places == [
        (FIRST, "body.ab.weight"), (FIRST, "body.norm.weight"),
        (SECOND, "tower.k"), (SECOND, "tower.z.weight"), (SECOND, "tower.y.weight"),
    ]  # fmt: skip
    wb.revert(tmp_path / "out", tmp_path / "back", link="share")
    assert contents(tmp_path / "back") == contents(source)


def test_tensors_stay_aligned_when_a_cast_moves_them(tmp_path: Path) -> None:
    """In the source's order, an odd number of two-byte elements would come before four-byte ones."""
    save_file({"a": torch.randn(3), "b": torch.randn(5)}, tmp_path / "model.safetensors")
    mapping = wb.Mapping([wb.WeightConverter("a", "a", [wb.Cast("F16")])])
    wb.convert(tmp_path / "model.safetensors", tmp_path / "out", mapping, link="share")
    (image,) = wb.open(tmp_path / "out").images
    assert [(placed.key, (placed.offset - len(image.head)) % 4) for placed in image.tensors] == [("b", 0), ("a", 0)]


def test_source_in_memory_is_laid_out_as_ever(tmp_path: Path) -> None:
    state = {"w": torch.randn(4, 4)}
    made = [contents(wb.plan(state).write(tmp_path / link, link=link)) for link in ("never", "hard")]
    assert made[0]["model.safetensors"] == made[1]["model.safetensors"]


def test_unknown_link_is_named(tmp_path: Path) -> None:
    with pytest.raises(wb.DestinationError) as caught:
        wb.plan({"w": torch.zeros(1)}).write(tmp_path / "out", link="soft")
    assert caught.value.code == "usage"
    assert list(tmp_path.iterdir()) == []


# Hard links


def test_unchanged_file_is_a_further_name_of_the_source(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source")
    told: list[tuple[int, int]] = []
    wb.convert(source, tmp_path / "out", RENAMED, link="hard", digests=True, progress=lambda *pair: told.append(pair))
    assert (tmp_path / "out" / FIRST).samefile(source / FIRST)
    assert not (tmp_path / "out" / SECOND).samefile(source / SECOND)
    assert told[-1][0] == told[-1][1]
    assert wb.verify(tmp_path / "out")
    wb.revert(tmp_path / "out", tmp_path / "back", link="hard")
    assert (tmp_path / "back" / FIRST).samefile(source / FIRST)
    assert contents(tmp_path / "back") == contents(source)
    shutil.rmtree(source)
    assert wb.verify(tmp_path / "out")


def test_file_whose_values_move_within_the_same_header_is_no_link(tmp_path: Path) -> None:
    """A square matrix is transposed in its place: the header is that of the source, the bytes are not."""
    value = torch.arange(9.0).view(3, 3)
    save_file({"w": value}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    mapping = wb.Mapping([wb.WeightConverter("w", "w", [wb.Transpose(0, 1)])])
    out = wb.convert(tmp_path / "model.safetensors", tmp_path / "out", mapping, link="hard", layout="mapped")
    assert not (out / "model.safetensors").samefile(tmp_path / "model.safetensors")
    assert torch.equal(load_file(out / "model.safetensors")["w"], value.t())


def test_names_that_swap_are_no_links(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(4), "b": torch.ones(4)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    swap = wb.Mapping([wb.GroupWeightRename(["a", "b"], ["b", "a"])])
    out = wb.convert(tmp_path / "model.safetensors", tmp_path / "out", swap, link="hard", layout="mapped")
    assert not (out / "model.safetensors").samefile(tmp_path / "model.safetensors")
    assert torch.equal(load_file(out / "model.safetensors")["a"], torch.ones(4))


def test_refused_link_is_a_copy_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another file system: this one is asked for a link that none gives."""
    source = make_source(tmp_path / "source")

    def refuse(*_: object) -> None:
        raise OSError(18, os.strerror(18))

    monkeypatch.setattr(staging.os, "link", refuse)
    wb.convert(source, tmp_path / "out", RENAMED, link="hard")
    assert not (tmp_path / "out" / FIRST).samefile(source / FIRST)
    assert (tmp_path / "out" / FIRST).read_bytes() == (source / FIRST).read_bytes()
    assert f"{FIRST} is copied, not linked" in caplog.text


def test_source_that_is_replaced_before_it_is_linked_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_source(tmp_path / "source")
    real, calls = os.link, []

    def replace_then_link(origin: Path, path: Path) -> None:
        calls.append(origin)
        if len(calls) == 2:
            shutil.copy(origin, tmp_path / "copy").replace(origin)
        real(origin, path)

    monkeypatch.setattr(staging.os, "link", replace_then_link)
    with pytest.raises(wb.CheckpointError) as caught:
        wb.convert(source, tmp_path / "out", RENAMED, link="hard")
    assert caught.value.code == "source-changed"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]
    assert wb.open(source)


class Killed(BaseException):
    """Stands for the end of the process: nothing is cleaned up after it."""


@pytest.mark.parametrize("moment", ["after the link", "while it is filled"])
@pytest.mark.parametrize("again", ["hard", "share"])
def test_stopped_run_is_resumed_and_the_source_is_never_written(
    moment: str, again: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_source(tmp_path / "source")
    before, out = contents(source), tmp_path / "out"

    def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(staging.shutil, "rmtree", lambda *_, **__: None)
        if moment == "after the link":
            patch.setattr(staging, "publish_directory", die)
        with pytest.raises(Killed):
            wb.convert(source, out, RENAMED, link="hard", progress=None if moment == "after the link" else die)
    assert (partial_path(out) / FIRST).exists() == (moment == "after the link")
    if again == "share" and moment == "after the link":
        with pytest.raises(wb.DestinationError) as caught:
            wb.convert(source, out, RENAMED, link=again, resume=True)
        assert caught.value.code == "resume-mismatch"
    else:
        wb.convert(source, out, RENAMED, link=again, resume=True)
        assert (out / FIRST).samefile(source / FIRST) == (again == "hard")
        wb.revert(out, tmp_path / "back")
        assert contents(tmp_path / "back") == before
    assert contents(source) == before


@pytest.mark.parametrize("link", ["hard", "share"])
def test_killed_at_any_touch_it_resumes_and_the_source_stays(link: str, tmp_path: Path) -> None:
    """By SIGKILL, just before each time that it reaches for its output: from its making to the last rename."""
    source = make_source(tmp_path / "source", prefix="old")
    before = contents(source)
    options = {"link": link, "sync": False}
    linked = 0
    whole = tmp_path / "whole" / "delivered"
    ended = nursery().run("convert", source, whole, options=options)
    assert ended.status == 0
    assert (whole / FIRST).samefile(source / FIRST) == (link == "hard")
    for touch in range(1, ended.touches + 1):
        out = tmp_path / str(touch) / "delivered"
        assert nursery().run("convert", source, out, options=options, kill_at=touch).was_killed
        assert not out.exists()
        linked += (partial_path(out) / FIRST).exists() and (partial_path(out) / FIRST).samefile(source / FIRST)
        wb.convert(source, out, FUSED, link=link, resume=True)
        assert contents(out) == contents(whole)
        assert [path.name for path in out.parent.iterdir()] == ["delivered"]
        assert contents(source) == before
        shutil.rmtree(out)
    assert (linked > 0) == (link == "hard")


# Shared blocks


def extents(path: Path) -> list[str]:
    """Return what `filefrag` says of each extent of a file."""
    ran = subprocess.run(["filefrag", "-v", path], check=True, capture_output=True, text=True)
    return [line for line in ran.stdout.splitlines() if line.strip()[:1].isdigit()]


@pytest.fixture(params=["btrfs", "xfs"])
def sharing_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A small disk in a file, of a kind whose files share blocks."""
    tools = {"btrfs": "mkfs.btrfs", "xfs": "mkfs.xfs"}
    search = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    maker = shutil.which(tools[request.param], path=search)
    if os.geteuid() != 0 or maker is None or shutil.which("filefrag", path=search) is None:
        pytest.skip(f"needs root, {tools[request.param]} and filefrag")
    image, place = tmp_path / "disk", tmp_path / "mounted"
    with image.open("wb") as file:
        file.truncate(400 * 2**20)
    place.mkdir()
    subprocess.run([maker, "-q", image], check=True, capture_output=True)
    mounted = subprocess.run(["mount", "-o", "loop", image, place], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a disk: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)
        image.unlink()


def free_bytes(place: Path) -> int:
    os.sync()
    status = os.statvfs(place)
    return status.f_bavail * status.f_frsize


@pytest.mark.parametrize("link", ["share", "hard"])
def test_renaming_takes_no_room_where_blocks_are_shared(link: str, sharing_disk: Path) -> None:
    source = make_source(sharing_disk / "source", rows=60_000)
    os.sync()
    size_bytes = sum(path.stat().st_size for path in source.iterdir())
    free = free_bytes(sharing_disk)
    out = wb.convert(source, sharing_disk / "out", RENAMED, link=link)
    wb.revert(out, sharing_disk / "back", link=link)
    used = free - free_bytes(sharing_disk)
    assert size_bytes > 40_000_000
    assert used < 3_000_000
    assert all("shared" in line for line in extents(out / SECOND)[1:-1])
    assert any("shared" in line for line in extents(out / SECOND))
    assert contents(sharing_disk / "back") == contents(source)
    before = loaded(out)["vision.z.weight"]
    with (source / SECOND).open("r+b") as file:
        file.seek(data_start(source / SECOND))
        file.write(bytes(1_000_000))
    assert torch.equal(loaded(out)["vision.z.weight"], before)


def test_interrupted_sharing_is_resumed(sharing_disk: Path) -> None:
    source, out = make_source(sharing_disk / "source", rows=60_000), sharing_disk / "out"
    os.sync()
    free = free_bytes(sharing_disk)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wb.convert(source, out, RENAMED, link="share", resume=True, progress=stop)
    assert partial_path(out).exists()
    wb.convert(source, out, RENAMED, link="share", resume=True)
    assert free - free_bytes(sharing_disk) < 3_000_000
    wb.revert(out, sharing_disk / "back")
    assert contents(sharing_disk / "back") == contents(source)


def test_file_system_that_cannot_share_is_said_and_copied(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two disks never share; where the tests run on one, the temporary directory in memory is another."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or not os.access(memory, os.W_OK) or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system")
    source = make_source(tmp_path / "source")
    out = memory / f"weighbridge-{os.getpid()}-{tmp_path.name}"
    try:
        wb.convert(source, out, RENAMED, link="share")
        assert "share no blocks of a disk: bytes are copied" in caplog.text
        shutil.rmtree(out)
        wb.convert(source, out, RENAMED, link="hard")
        assert f"{FIRST} is copied, not linked" in caplog.text
        assert (out / FIRST).read_bytes() == (source / FIRST).read_bytes()
    finally:
        shutil.rmtree(out, ignore_errors=True)


# The command


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(SOURCE)}
    given = [sys.executable, "-m", "weighbridge", *map(str, arguments)]
    return subprocess.run(given, env=env, capture_output=True, text=True, check=False)


def test_command_links_and_reads_directly(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source")
    (tmp_path / "map.json").write_text(json.dumps(RENAMED.to_dict()))
    ran = command("convert", source, tmp_path / "out", tmp_path / "map.json", "--link", "hard", "--direct", "--digests")
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "out" / FIRST).samefile(source / FIRST)
    ran = command("revert", tmp_path / "out", tmp_path / "back", "--link", "share", "--direct")
    assert ran.returncode == 0, ran.stderr
    assert contents(tmp_path / "back") == contents(source)
    assert command("convert", source, tmp_path / "no", tmp_path / "map.json", "--link", "soft").returncode == 2
    assert not (tmp_path / "no").exists()


def test_command_names_what_is_not_read_directly(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(3)}, tmp_path / "model.bin")
    (tmp_path / "map.json").write_text(json.dumps(wb.Mapping([], name="none").to_dict()))
    ran = command("convert", tmp_path / "model.bin", tmp_path / "out", tmp_path / "map.json", "--direct", "--json")
    assert json.loads(ran.stdout)["error"]["code"] == "usage"
    assert json.loads(ran.stdout)["error"]["hint"] == "leave out --direct"
    assert ran.returncode == 2


def test_a_place_that_cannot_be_made_is_refused_alike(tmp_path: Path) -> None:
    save_file({"a": torch.ones(3)}, tmp_path / "model.safetensors")
    for link in ("never", "share", "hard"):
        with pytest.raises(wb.DestinationError) as caught:
            wb.convert(tmp_path / "model.safetensors", "/", [], link=link)
        assert caught.value.code == "destination-unsafe"
