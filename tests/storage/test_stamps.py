"""What counts as a change of a file that was opened."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import weighbridge as wb

NORMS = wb.Mapping([wb.WeightRenaming("gamma", "weight")], name="norms")


def checkpoint(folder: Path) -> Path:
    path = folder / "model"
    path.mkdir()
    save_file({"a.gamma": torch.arange(4.0), "b.gamma": torch.arange(4.0)}, path / "model.safetensors")
    return path


def write_in_place(path: Path) -> None:
    """Change a tensor's bytes, and set the time of modification back."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\x00\x00\x80\xbf")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace_with_same_times(path: Path) -> None:
    status, content = path.stat(), path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def touch(path: Path) -> None:
    os.utime(path)


CHANGES = [write_in_place, replace_with_same_times, touch]

RUNS: dict[str, Callable[[wb.Plan, Path], object]] = {
    "state dict": lambda plan, out: plan.state_dict(),
    "stream": lambda plan, out: dict(plan.stream(copy=True)),
    "write": lambda plan, out: plan.write(out),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_g17_a_file_that_was_written_to_has_changed(run, change: Callable[[Path], None], tmp_path: Path) -> None:
    source = checkpoint(tmp_path)
    plan = wb.plan(source, NORMS)
    change(source / "model.safetensors")
    with pytest.raises(wb.CheckpointError) as caught:
        run(plan, tmp_path / "out")
    assert caught.value.code == "source-changed"
    assert not (tmp_path / "out").exists()


def test_g17_so_has_one_that_is_written_to_meanwhile(tmp_path: Path) -> None:
    source = checkpoint(tmp_path)
    plan = wb.plan(source, NORMS)
    with pytest.raises(wb.CheckpointError) as caught:
        plan.write(tmp_path / "out", progress=lambda done, total: write_in_place(source / "model.safetensors"))
    assert caught.value.code == "source-changed"


def add_a_name(path: Path) -> None:
    os.link(path, path.with_name("backup"))


def read(path: Path) -> None:
    path.read_bytes()


@pytest.mark.parametrize("change", [add_a_name, read])
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_a_new_name_is_no_change(run, change: Callable[[Path], None], tmp_path: Path) -> None:
    source = checkpoint(tmp_path)
    plan = wb.plan(source, NORMS)
    change(source / "model.safetensors")
    assert run(plan, tmp_path / "out")


def test_hard_links_of_our_own_are_no_change(tmp_path: Path) -> None:
    source = checkpoint(tmp_path)
    plan = wb.plan(source, [])
    plan.write(tmp_path / "one", link="hard")
    assert (tmp_path / "one" / "model.safetensors").samefile(source / "model.safetensors")
    plan.write(tmp_path / "two", link="hard")
    for path in (tmp_path / "one" / "model.safetensors", tmp_path / "two" / "model.safetensors"):
        path.unlink()
    assert plan.state_dict()["a.gamma"].tolist() == [0, 1, 2, 3]


def test_a_run_that_was_stopped_may_be_repeated_with_hard_links(tmp_path: Path) -> None:
    source = checkpoint(tmp_path)
    plan = wb.plan(source, [])

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plan.write(tmp_path / "out", link="hard", progress=stop)
    plan.write(tmp_path / "out", link="hard")
    assert wb.verify(source, tmp_path / "out")
