"""Unfinished outputs: what a run goes on with, what it refuses, and why it need not trust what is there."""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import logging
import os
import random
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from safetensors.torch import save_file

import weighbridge as wb
from weighbridge.base.errors import CheckpointError, DestinationError, PlanError
from weighbridge.base.file_names import RECORD_NAME
from weighbridge.base.specs import TensorSpec
from weighbridge.storage import Extent, IndexText, MendingWriter, Work, build_image, staged_directory
from weighbridge.storage.outputs import mending
from weighbridge.storage.outputs.claiming import partial_path

MAPPING = wb.Mapping([wb.WeightRenaming("^old", "new")], name="renamed")
OTHER = wb.Mapping([wb.WeightRenaming("^old", "newer")], name="renamed")


def code_of(function: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises((CheckpointError, DestinationError, PlanError)) as caught:
        function(*arguments, **options)
    return caught.value.code


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def listed(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# One file


@given(data=st.data(), size=st.integers(0, 60), seed=st.integers(0, 2**32))
def test_file_is_right_whatever_it_was(
    tmp_path_factory: pytest.TempPathFactory, data: Any, size: int, seed: int
) -> None:
    """What was there is zeros, garbage, the right bytes with flaws, shorter or longer."""
    folder = tmp_path_factory.mktemp("mended")
    path, source, chance = folder / "file", folder / "source", random.Random(seed)
    wanted = chance.randbytes(size)
    there = bytearray(data.draw(st.sampled_from([wanted, bytes(size), chance.randbytes(size)])))
    for place in data.draw(st.lists(st.integers(0, max(size - 1, 0)), max_size=3)) if size else ():
        there[place] ^= 1
    path.write_bytes(data.draw(st.sampled_from([there, there[: size // 2], there + b"more"])))
    source.write_bytes(b"??" + wanted)
    cuts = sorted({0, size, *data.draw(st.lists(st.integers(0, size), max_size=5))})
    pieces = data.draw(st.permutations(list(itertools.pairwise(cuts))))
    with pytest.MonkeyPatch.context() as patch, MendingWriter(path, b"", size) as writer:
        patch.setattr(mending, "MEND_BYTES", data.draw(st.integers(1, 70)))
        for start, stop in pieces:
            if data.draw(st.booleans()):
                writer.write(start, wanted[start:stop])
            else:
                writer.copy_range(Extent(source, 2 + start, stop - start), start)
    assert path.read_bytes() == wanted
    shutil.rmtree(folder)


def test_what_is_there_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three blocks one is wrong, and only that one is written."""
    path, wanted = tmp_path / "a", random.Random(1).randbytes(3000)
    path.write_bytes(wanted[:1500] + b"?" + wanted[1501:])
    written = []
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, part, at: (written.append((at, len(part))), real(fd, part, at))[1])
    monkeypatch.setattr(mending, "MEND_BYTES", 1000)
    with MendingWriter(path, b"", 3000) as writer:
        writer.write(0, wanted)
    assert written == [(1000, 1000)]
    assert writer.kept_bytes == 2000
    assert path.read_bytes() == wanted


def test_what_is_spread_is_compared_place_by_place(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"ab??ef")
    with MendingWriter(tmp_path / "a", b"", 6) as writer:
        writer.spread([(4, 2), (2, 2), (0, 2)], memoryview(b"efcdab"))
    assert (tmp_path / "a").read_bytes() == b"abcdef"
    assert writer.kept_bytes == 4


def test_many_threads_mend_one_file(tmp_path: Path) -> None:
    path, wanted = tmp_path / "a", random.Random(2).randbytes(400_000)
    source = tmp_path / "source"
    source.write_bytes(wanted)
    path.write_bytes(bytes(200_000) + wanted[200_000:])
    with MendingWriter(path, wanted[:10], len(wanted)) as writer:

        def work(number: int) -> None:
            for start in range(10 + number * 1000, len(wanted), 8000):
                size = min(1000, len(wanted) - start)
                if number % 2:
                    writer.write(start, wanted[start : start + size])
                else:
                    writer.copy_range(Extent(source, start, size), start)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert path.read_bytes() == wanted
    assert 199_000 <= writer.kept_bytes <= 200_000


def test_what_cannot_be_read_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> int:
        raise OSError(errno.EIO, "bad block")

    (tmp_path / "a").write_bytes(b"abc")
    with MendingWriter(tmp_path / "a", b"", 3) as writer:
        monkeypatch.setattr(os, "preadv", fail)
        writer.write(0, b"abc")
        monkeypatch.undo()
    assert (tmp_path / "a").read_bytes() == b"abc"
    assert writer.kept_bytes == 0


def test_mending_has_the_errors_of_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"abcd")
    (tmp_path / "source").write_bytes(b"ab")
    (tmp_path / "link").symlink_to("a")
    assert code_of(MendingWriter, tmp_path / "none", b"", 0) == "write-failed"
    assert code_of(MendingWriter, tmp_path / "link", b"", 4) == "write-failed"
    with MendingWriter(tmp_path / "a", b"", 4) as writer:
        assert code_of(writer.write, 3, b"xy") == "write-failed"
        assert code_of(writer.write, -1, b"x") == "write-failed"
        assert code_of(writer.copy_range, Extent(tmp_path / "source", 0, 3), 0) == "source-changed"
        assert code_of(writer.copy_range, Extent(tmp_path / "gone", 0, 3), 0) == "checkpoint-not-found"
        monkeypatch.setattr(os, "pwrite", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        assert code_of(writer.write, 0, b"xy") == "destination-no-room"
        monkeypatch.undo()


# The hidden directory


IMAGE = build_image("a.safetensors", {"w": TensorSpec("U8", (4,))})
WORK = Work(
    "plan", [{"name": "s", "size_bytes": 1, "mtime_ns": 2, "head_sha256": "3"}], (IMAGE,), ("sub/note", "index.json")
)


def stage(target: Path, values: bytes = b"abcd", *, stop: bool = False, resume: bool = False) -> None:
    """Write one weight file and an index; stop after that, if asked."""
    with staged_directory(target, work=WORK, resume=resume) as output:
        with output.create(IMAGE) as writer:
            writer.write(len(IMAGE.head), values)
        with output.create(IMAGE._replace(name="sub/note", head=b"", size_bytes=3)) as writer:
            writer.write(0, b"any")
        output.add_index(IndexText("index.json", b"{}"))
        if stop:
            raise KeyboardInterrupt


def leave(target: Path) -> Path:
    """Leave an unfinished output."""
    with pytest.raises(KeyboardInterrupt):
        stage(target, resume=True, stop=True)
    return partial_path(target)


def test_length_bytes_are_written_last(tmp_path: Path) -> None:
    hidden = leave(tmp_path / "out")
    assert (hidden / "a.safetensors").read_bytes() == bytes(8) + IMAGE.head[8:] + b"abcd"
    assert code_of(wb.open, hidden) in ("header-invalid", "header-too-large", "file-truncated")
    stage(tmp_path / "out", resume=True)
    assert (tmp_path / "out" / "a.safetensors").read_bytes() == IMAGE.head + b"abcd"
    assert listed(tmp_path) == ["out", "out/a.safetensors", "out/index.json", "out/sub", "out/sub/note"]


def test_stopped_run_says_what_it_kept(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        stage(tmp_path / "out", resume=True, stop=True)
    assert str(partial_path(tmp_path / "out")) in "".join(caught.value.__notes__)

    def fail() -> None:
        with staged_directory(tmp_path / "out", work=WORK, resume=True):
            raise OSError(errno.ENOSPC, "full")

    with pytest.raises(DestinationError) as failed:
        fail()
    assert failed.value.code == "destination-no-room"
    assert str(partial_path(tmp_path / "out")) in failed.value.hint
    stage(tmp_path / "out", resume=True)


@pytest.mark.parametrize(
    ("problem", "is_kept"),
    [
        (SystemExit(143), True),
        (CheckpointError("read-failed", "broken"), True),
        (CheckpointError("checkpoint-not-found", "unmounted"), True),
        (DestinationError("write-failed", "broken"), True),
        (PlanError("budget-too-small", "small"), True),
        (CheckpointError("source-changed", "changed"), False),
        (CheckpointError("file-truncated", "cut"), False),
        (PlanError("tie-differs", "wrong"), False),
    ],
)
def test_what_can_be_of_no_more_use_is_removed(tmp_path: Path, problem: BaseException, is_kept: bool) -> None:
    def fail(resume: bool) -> None:
        with staged_directory(tmp_path / "deep" / "out", work=WORK, resume=resume) as output:
            output.create(IMAGE).close()
            raise problem

    for resume in (False, True):
        with pytest.raises(type(problem)):
            fail(resume)
        assert partial_path(tmp_path / "deep" / "out").exists() == (is_kept and resume)
        assert (tmp_path / "deep").exists() == (is_kept and resume)


def test_left_directory_without_files_is_nothing(tmp_path: Path) -> None:
    """A run that was killed before its first file leaves nothing to go on with, and nothing to lose."""
    for record in (None, b"", b'{"format": "wei'):
        hidden = partial_path(tmp_path / "out")
        hidden.mkdir()
        if record is not None:
            (hidden / RECORD_NAME).write_bytes(record)
        stage(tmp_path / "out")
        shutil.rmtree(tmp_path / "out")
    assert listed(tmp_path) == []


def test_left_directory_with_empty_folders_is_resumed(tmp_path: Path) -> None:
    hidden = leave(tmp_path / "out")
    for path in (hidden / "sub" / "note", hidden / "a.safetensors"):
        path.unlink()
    stage(tmp_path / "out", resume=True)
    assert listed(tmp_path / "out") == ["a.safetensors", "index.json", "sub", "sub/note"]


def test_run_that_never_wrote_a_file_keeps_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with staged_directory(tmp_path / "out", work=WORK, resume=True):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert listed(tmp_path) == []


def test_stop_after_the_rename_is_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interrupt comes while the parent directory is forced to the disk: the output is there, and whole."""
    real = os.fsync

    def stop(descriptor: int) -> None:
        real(descriptor)
        if (tmp_path / "out").exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stop)
    for resume in (False, True):
        with pytest.raises(KeyboardInterrupt) as caught:
            stage(tmp_path / "out", resume=resume)
        assert not hasattr(caught.value, "__notes__")
        assert listed(tmp_path) == ["out", "out/a.safetensors", "out/index.json", "out/sub", "out/sub/note"]
        assert (tmp_path / "out" / "a.safetensors").read_bytes() == IMAGE.head + b"abcd"
        shutil.rmtree(tmp_path / "out")


def test_output_that_only_lacks_its_name_is_resumed(tmp_path: Path) -> None:
    """The record goes before the heads are written; a run that was killed in between had all its files."""
    hidden = leave(tmp_path / "out")
    (hidden / "index.json").write_bytes(b"{}")
    (hidden / "a.safetensors").write_bytes(IMAGE.head + b"abXd")
    (hidden / RECORD_NAME).unlink()

    def resume(values: bytes) -> None:
        with staged_directory(tmp_path / "out", work=WORK, resume=True) as output:
            assert not (hidden / RECORD_NAME).exists()
            assert (hidden / "a.safetensors").read_bytes()[:8] == bytes(8)
            with output.create(IMAGE) as writer:
                writer.write(len(IMAGE.head), values)
            output.add_index(IndexText("index.json", b"[]"))

    resume(b"abcd")
    assert contents(tmp_path / "out") == {"a.safetensors": IMAGE.head + b"abcd", "index.json": b"[]"}


def spoil_record(hidden: Path, **parts: Any) -> None:
    form = json.loads((hidden / RECORD_NAME).read_text())
    (hidden / RECORD_NAME).write_text(json.dumps({**form, **parts}))


def add_link(hidden: Path) -> None:
    (hidden / "sub" / "note").unlink()
    (hidden / "sub" / "note").symlink_to("../a.safetensors")


def add_linked_folder(hidden: Path) -> None:
    shutil.move(hidden / "sub", hidden.parent / "elsewhere")
    (hidden / "sub").symlink_to(hidden.parent / "elsewhere")


FOREIGN = {
    "another plan": lambda hidden: spoil_record(hidden, plan_hash="other"),
    "another source": lambda hidden: spoil_record(hidden, source=[]),
    "another layout": lambda hidden: spoil_record(hidden, files=[]),
    "other files": lambda hidden: spoil_record(hidden, others=[]),
    "another version": lambda hidden: spoil_record(hidden, version=2),
    "no record": lambda hidden: (hidden / RECORD_NAME).unlink(),
    "empty record": lambda hidden: (hidden / RECORD_NAME).write_bytes(b""),
    "cut record": lambda hidden: os.truncate(hidden / RECORD_NAME, 40),
    "record of zeros": lambda hidden: (hidden / RECORD_NAME).write_bytes(bytes(40)),
    "record that is no object": lambda hidden: (hidden / RECORD_NAME).write_text("[1]"),
    "deep record": lambda hidden: (hidden / RECORD_NAME).write_text("[" * 100_000),
    "unknown file": lambda hidden: (hidden / "stranger").touch(),
    "unknown file below": lambda hidden: (hidden / "sub" / "stranger").touch(),
    "unknown folder": lambda hidden: (hidden / "folder").mkdir(),
    "link": add_link,
    "linked folder": add_linked_folder,
    "hard link": lambda hidden: os.link(hidden / "a.safetensors", hidden.parent / "mine"),
    "pipe": lambda hidden: os.mkfifo(hidden / "pipe"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_directory_is_refused_and_left_alone(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "out"
    FOREIGN[kind](leave(target))
    before = listed(tmp_path), contents(tmp_path)
    assert code_of(stage, target, resume=True) == "resume-mismatch"
    assert code_of(stage, target) == "destination-unfinished"
    assert (listed(tmp_path), contents(tmp_path)) == before


def test_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    hidden = leave(tmp_path / "out")
    try:
        os.chown(hidden, 12345, -1)
    except PermissionError:
        pytest.skip("needs the right to give a directory away")
    assert code_of(stage, tmp_path / "out", resume=True) == "resume-mismatch"


@pytest.mark.parametrize("resume", [False, True])
def test_held_directory_is_busy(tmp_path: Path, resume: bool) -> None:
    with staged_directory(tmp_path / "out", work=WORK) as output:
        output.create(IMAGE).close()
        before = contents(tmp_path)
        assert code_of(stage, tmp_path / "out", resume=resume) == "destination-busy"
        assert contents(tmp_path) == before
    assert listed(tmp_path) == ["out", "out/a.safetensors"]


def test_lock_ends_with_the_run(tmp_path: Path) -> None:
    for _ in range(3):
        leave(tmp_path / "out")
    stage(tmp_path / "out", resume=True)
    assert code_of(stage, tmp_path / "out", resume=True) == "destination-exists"


def test_threads_race_for_one_destination(tmp_path: Path) -> None:
    """One of them makes it; the others are told that it is busy, or there."""
    codes: list[str] = []
    ready = threading.Barrier(8)

    def work() -> None:
        ready.wait()
        try:
            stage(tmp_path / "out")
            codes.append("made")
        except DestinationError as problem:
            codes.append(problem.code)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes.count("made") == 1
    assert set(codes) <= {"made", "destination-busy", "destination-exists"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_file_system_without_locks_can_write_and_not_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", fail)
    leave(tmp_path / "out")
    assert code_of(stage, tmp_path / "out", resume=True) == "destination-unfinished"
    shutil.rmtree(partial_path(tmp_path / "out"))
    stage(tmp_path / "out")
    assert (tmp_path / "out").exists()


def test_lock_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(fcntl, "flock", fail)
    assert code_of(stage, tmp_path / "out") == "write-failed"


def test_link_in_place_of_the_hidden_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    partial_path(tmp_path / "out").symlink_to("mine")
    for resume in (False, True):
        assert code_of(stage, tmp_path / "out", resume=resume) == "write-failed"
    assert listed(tmp_path / "mine") == ["file"]


def test_hidden_directory_is_no_source(tmp_path: Path) -> None:
    hidden = leave(tmp_path / "out")
    options = {"sources": [hidden], "resume": True}
    assert code_of(staged_directory(tmp_path / "out", **options).__enter__) == "destination-unsafe"
    assert hidden.exists()


@pytest.mark.parametrize("name", ["x", "x" * 234, "x" * 235, "é" * 127, "x" * 255])
def test_hidden_name_is_its_own_and_fits(tmp_path: Path, name: str) -> None:
    path = partial_path(tmp_path / name)
    path.mkdir()
    assert path.name.startswith(".")
    assert path.name.endswith(".weighbridge-partial")
    assert path != partial_path(tmp_path / (name[:-1] + "y"))


# Whole conversions


def make_source(folder: Path) -> Path:
    folder.mkdir()
    tensors = {f"old.{number}": torch.full((number + 1, 1000), float(number)) for number in range(5)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text("{}")
    return folder


def interrupt_after(share: float) -> Any:
    """Return a progress callback that stops the run when this share of its bytes is done."""

    def progress(done: int, total: int) -> None:
        if done >= share * total:
            raise KeyboardInterrupt

    return progress


def begin(source: Path, out: Path, **options: Any) -> Path:
    """Begin a conversion and interrupt it in the middle."""
    with pytest.raises(KeyboardInterrupt):
        wb.convert(source, out, MAPPING, resume=True, progress=interrupt_after(0.5), **options)
    return partial_path(out)


@pytest.mark.parametrize("seed", range(6))
def test_result_does_not_depend_on_what_was_there(tmp_path: Path, seed: int) -> None:
    """Bits flip, pages are torn, files are cut, lengthened or gone: nothing of it is in the result."""
    source = make_source(tmp_path / "source")
    wb.convert(source, tmp_path / "wanted", MAPPING, max_shard_size=9000)
    hidden = begin(source, tmp_path / "out", max_shard_size=9000)
    chance = random.Random(seed)
    for path in sorted(hidden.glob("*.safetensors")):
        raw = bytearray(path.read_bytes())
        for _ in range(chance.randrange(4)):
            place = chance.randrange(len(raw))
            raw[place : place + 512] = chance.choice([bytes(512), chance.randbytes(512)])
        path.write_bytes(raw[: chance.choice([len(raw), len(raw) // 3, 0])] + chance.choice([b"", b"beyond"]))
        if chance.random() < 0.2:
            path.unlink()
    wb.convert(source, tmp_path / "out", MAPPING, max_shard_size=9000, resume=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "wanted")


def test_what_was_there_is_counted_and_not_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A finished file keeps its time of modification, but for the eight bytes that make it readable."""
    source = make_source(tmp_path / "source")
    hidden = begin(source, tmp_path / "out")
    size_bytes = sum(placed.size_bytes for placed in wb.open(source).images[0].tensors)
    shutil.copy(source / "model.safetensors", hidden / "model.safetensors")
    with caplog.at_level(logging.INFO, "weighbridge"):
        wb.convert(source, tmp_path / "out", MAPPING, resume=True)
    kept = [int(record.args[0].replace(",", "")) for record in caplog.records if "already" in record.msg]
    assert len(kept) == 1
    assert 0 < kept[0] < size_bytes + 1000
    assert wb.verify(tmp_path / "out", wb.plan(source, MAPPING).state_dict())


@pytest.mark.parametrize(
    ("mapping", "options"),
    [(OTHER, {}), (MAPPING, {"max_shard_size": 9000}), (MAPPING, {"dtype": "BF16"}), (MAPPING, {"drop": ["old.0"]})],
)
def test_another_conversion_does_not_go_on_with_it(tmp_path: Path, mapping: Any, options: dict[str, Any]) -> None:
    source = make_source(tmp_path / "source")
    hidden = begin(source, tmp_path / "out")
    before = contents(hidden)
    assert code_of(wb.convert, source, tmp_path / "out", mapping, resume=True, **options) == "resume-mismatch"
    assert contents(hidden) == before
    wb.convert(source, tmp_path / "out", MAPPING, resume=True)


def test_another_source_does_not_go_on_with_it(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source")
    hidden = begin(source, tmp_path / "out")
    tensors = wb.plan(source, ()).state_dict()
    save_file(
        {key: value + 1 for key, value in tensors.items()}, source / "model.safetensors", metadata={"format": "pt"}
    )
    before = contents(hidden)
    with pytest.raises(DestinationError) as caught:
        wb.convert(source, tmp_path / "out", MAPPING, resume=True)
    assert caught.value.code == "resume-mismatch"
    assert "source" in caught.value.got
    assert contents(hidden) == before


def test_new_file_beside_the_weights_is_another_layout(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source")
    begin(source, tmp_path / "out")
    (source / "notes.txt").touch()
    assert code_of(wb.convert, source, tmp_path / "out", MAPPING, resume=True) == "resume-mismatch"


def test_changed_file_beside_the_weights_is_taken_as_it_is_now(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source")
    begin(source, tmp_path / "out")
    (source / "config.json").write_text('{"changed": true}')
    wb.convert(source, tmp_path / "out", MAPPING, resume=True)
    assert (tmp_path / "out" / "config.json").read_text() == '{"changed": true}'


def test_tensors_in_memory_are_resumed(tmp_path: Path) -> None:
    """They have no fingerprint; the comparison alone makes the result right."""
    state = {"old.a": torch.arange(5000.0), "old.b": torch.ones(3000)}
    with pytest.raises(KeyboardInterrupt):
        wb.plan(state, MAPPING).write(tmp_path / "out", resume=True, progress=interrupt_after(0.1))
    state["old.a"] += 1
    wb.plan(state, MAPPING).write(tmp_path / "out", resume=True)
    assert wb.verify(tmp_path / "out", {"new.a": state["old.a"], "new.b": state["old.b"]})


def test_room_that_is_taken_already_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that the unfinished output has filled has room for the rest of it."""
    source = make_source(tmp_path / "source")
    hidden = begin(source, tmp_path / "out")
    real = os.statvfs(tmp_path)
    taken = sum(path.lstat().st_blocks * 512 for path in hidden.rglob("*") if path.is_file())
    needed = sum(path.stat().st_size for path in hidden.glob("*.safetensors"))

    def statvfs(_: Any) -> os.statvfs_result:
        blocks = max(needed - taken, 0) // real.f_frsize + 2
        return os.statvfs_result((*real[:4], blocks, *real[5:]))

    assert taken >= needed // 2
    monkeypatch.setattr(os, "statvfs", statvfs)
    assert code_of(wb.convert, source, tmp_path / "elsewhere", MAPPING) == "destination-no-room"
    wb.convert(source, tmp_path / "out", MAPPING, resume=True)


@pytest.mark.parametrize("place", ["source", "extra"])
def test_read_error_is_a_read_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """The kernel's copy fails for a bad block without saying on which side: reading it finds out."""
    source = make_source(tmp_path / "source")
    bad = (source / ("model.safetensors" if place == "source" else "config.json")).stat().st_ino
    real_copy, real_read = os.copy_file_range, os.preadv

    def fail_from(descriptor: int) -> None:
        if os.fstat(descriptor).st_ino == bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    plan = wb.plan(source, MAPPING)
    monkeypatch.setattr(os, "copy_file_range", lambda fd, *rest: (fail_from(fd), real_copy(fd, *rest))[1])
    monkeypatch.setattr(os, "preadv", lambda fd, *rest: (fail_from(fd), real_read(fd, *rest))[1])
    monkeypatch.setattr(type(plan.binding.source), "check_unchanged", lambda self: None)
    for resume in (False, True):
        assert code_of(plan.write, tmp_path / "out", resume=resume) == "read-failed"
        assert partial_path(tmp_path / "out").exists() == resume
    monkeypatch.undo()
    wb.convert(source, tmp_path / "out", MAPPING, resume=True)
    assert wb.open(tmp_path / "out").header.keys() == {f"new.{number}" for number in range(5)}


def test_save_and_revert_take_resume(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source")
    wb.convert(source, tmp_path / "out", MAPPING)
    with pytest.raises(KeyboardInterrupt):
        wb.revert(tmp_path / "out", tmp_path / "back", resume=True, progress=interrupt_after(0.5))
    wb.revert(tmp_path / "out", tmp_path / "back", resume=True)
    assert contents(tmp_path / "back") == contents(source)
    model = torch.nn.Module()
    model.register_module("old", torch.nn.Linear(300, 200))
    with pytest.raises(KeyboardInterrupt):
        wb.save(model, tmp_path / "saved", (), resume=True, progress=interrupt_after(0.1))
    wb.save(model, tmp_path / "saved", (), resume=True)
    assert wb.verify(model, tmp_path / "saved")
