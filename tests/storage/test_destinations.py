"""What an output takes over from an empty destination, and who holds it while it is written."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from safetensors.torch import save_file

import weighbridge as wb
from weighbridge.storage import FileImage, staged_directory
from weighbridge.storage.outputs.claiming import partial_path

NORMS = wb.Mapping([wb.WeightRenaming("gamma", "weight")], name="norms")

is_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a directory away")


def checkpoint(folder: Path) -> Path:
    path = folder / "model"
    (path / "sub").mkdir(parents=True)
    save_file({f"{k}.gamma": torch.arange(4.0) for k in "ab"}, path / "model.safetensors")
    (path / "sub" / "notes.txt").write_text("mine")
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# G17: an empty destination


@pytest.mark.parametrize("wanted", [0o2700, 0o700, 0o1777, 0o2775, 0o500, 0o755, 0o3070])
@pytest.mark.parametrize("resume", [False, True])
def test_g17_an_empty_destination_keeps_its_mode(wanted: int, resume: bool, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    out.chmod(wanted)
    seen: list[int] = []
    source = checkpoint(tmp_path)
    wb.convert(source, out, NORMS, resume=resume, progress=lambda *_: seen.append(mode(partial_path(out))))
    assert mode(out) == wanted
    assert set(seen) == {wanted | 0o700}  # nor was it open to others meanwhile
    assert wb.verify(wb.plan(source, NORMS).state_dict(), out)


@is_root
def test_g17_an_empty_destination_keeps_its_owner_and_passes_its_group_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    os.chown(out, 12345, 23456)
    out.chmod(0o2750)
    wb.convert(checkpoint(tmp_path), out, NORMS)
    assert (out.stat().st_uid, out.stat().st_gid, mode(out)) == (12345, 23456, 0o2750)
    assert {path.stat().st_gid for path in out.rglob("*")} == {23456}
    assert mode(out / "sub") & stat.S_ISGID


@is_root
def test_g17_a_stopped_run_into_somebody_elses_directory_is_gone_on_with(tmp_path: Path) -> None:
    source, out = checkpoint(tmp_path), tmp_path / "out"
    out.mkdir()
    os.chown(out, 12345, 23456)

    def stop(done: int, total: int) -> NoReturn:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wb.convert(source, out, NORMS, resume=True, progress=stop)
    wb.convert(source, out, NORMS, resume=True)
    assert out.stat().st_uid == 12345


@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="needs extended attributes")
def test_g17_an_empty_destination_keeps_its_attributes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    try:
        os.setxattr(out, "user.origin", b"lab 3")
    except OSError:
        pytest.skip("needs a file system with extended attributes")
    wb.convert(checkpoint(tmp_path), out, NORMS)
    assert os.getxattr(out, "user.origin") == b"lab 3"


def test_a_new_destination_has_the_ordinary_mode(tmp_path: Path) -> None:
    (tmp_path / "ordinary").mkdir()
    wb.convert(checkpoint(tmp_path), tmp_path / "out", NORMS)
    assert mode(tmp_path / "out") == mode(tmp_path / "ordinary")


# G17: processes that are forked while a run goes on

ALONE = "WEIGHBRIDGE_TEST_ALONE"


def ran_alone(request: pytest.FixtureRequest) -> bool:
    """Run a test in a process of its own, and say so; false there.

    A process that is forked from a thread ends what other threads hold, and what other tests left in this one, such as
    torch's process groups, may never end.
    """
    if os.environ.get(ALONE):
        return False
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", request.node.nodeid]
    command.append(f"--basetemp={request.getfixturevalue('tmp_path') / 'alone'}")
    ended = subprocess.run(
        command,
        cwd=request.config.rootpath,
        env={**os.environ, ALONE: "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return True


def in_child(work: Callable[[], object]) -> int:
    """Fork a process that does some work and lives on until it is ended; return its number when the work is done."""
    ready, done = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os.close(ready)
            os.close(done)
            time.sleep(60)
            os._exit(0)
    os.close(done)
    os.read(ready, 1)
    os.close(ready)
    return child


@pytest.fixture
def children() -> Iterator[list[int]]:
    """Numbers of processes to end afterwards."""
    started: list[int] = []
    yield started
    for child in started:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("fails", [True, False])
def test_g17_a_child_does_not_keep_the_lock(
    fails: bool, resume: bool, children: list[int], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if ran_alone(request):
        return
    source, out = checkpoint(tmp_path), tmp_path / "out"

    def fork(done: int, total: int) -> None:
        if not children:
            children.append(in_child(lambda: None))
        if fails:
            raise KeyboardInterrupt

    if fails:
        with pytest.raises(KeyboardInterrupt):
            wb.convert(source, out, NORMS, resume=resume, progress=fork)
    else:
        wb.convert(source, out, NORMS, resume=resume, progress=fork)
        assert children
        out.rename(tmp_path / "first")
    wb.convert(source, out, NORMS, resume=resume)
    assert wb.verify(wb.plan(source, NORMS).state_dict(), out)


def test_a_run_holds_its_lock_though_a_child_has_ended(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if ran_alone(request):
        return
    source, out = checkpoint(tmp_path), tmp_path / "out"
    refused: list[str] = []

    def fork(done: int, total: int) -> None:
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(wb.DestinationError) as caught:
            wb.convert(source, out, NORMS)
        refused.append(caught.value.code)

    wb.convert(source, out, NORMS, progress=fork)
    assert set(refused) == {"destination-busy"}


def test_g17_a_child_that_ends_by_an_exception_takes_nothing_away(tmp_path: Path) -> None:
    """It unwinds through the block that it was forked in, and must not remove what its parent writes."""
    parent, out = os.getpid(), tmp_path / "out"
    try:
        with staged_directory(out) as output:
            with output.create(FileImage("a.txt", 4, b"text", ())):
                pass
            child = os.fork()
            if child == 0:
                raise SystemExit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
            assert (partial_path(out) / "a.txt").exists()
            with pytest.raises(wb.DestinationError) as caught, staged_directory(out):
                pass
            assert caught.value.code == "destination-busy"
    except SystemExit:
        os._exit(7 if os.getpid() != parent else 1)
    assert (out / "a.txt").read_text() == "text"
