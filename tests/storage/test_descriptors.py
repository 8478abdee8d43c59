"""Descriptors are few, and closed: what was planned, loaded or written holds no file open."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import weighbridge as wb
from weighbridge.base.workers import call_after_run, run_all
from weighbridge.storage.places.regular_files import OpenFiles

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc/self/fd")

SHARDS = 33
STACK = [wb.WeightConverter("experts.*.w", "experts.w", [wb.MergeModulelist(0), wb.Transpose(1, 2)])]


def open_below(folder: Path) -> list[str]:
    """List the files in a folder that this process holds open, deleted ones included."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            name = os.readlink(entry)  # noqa: PTH115 - what it leads to may not be there
        except FileNotFoundError:
            continue
        if name.startswith(str(folder)):
            found.append(name)
    return found


def sharded(folder: Path, count: int = SHARDS) -> Path:
    """Write a checkpoint of many shards, each with an expert and a norm."""
    folder.mkdir()
    for k in range(count):
        tensors = {f"experts.{k}.w": torch.full((3, 5), float(k)), f"norms.{k}.weight": torch.full((4,), float(k))}
        save_file(tensors, folder / f"model-{k + 1:05d}-of-{count:05d}.safetensors")
    return folder


class Norms(torch.nn.Module):
    def __init__(self, count: int = SHARDS) -> None:
        super().__init__()
        self.experts = torch.nn.Module()
        self.experts.w = torch.nn.Parameter(torch.empty(count, 5, 3))
        self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(4, bias=False) for _ in range(count))


RUNS = {
    "plan": lambda plan, out: plan.report,
    "state dict, mapped": lambda plan, out: plan.state_dict(),
    "state dict, copied": lambda plan, out: plan.state_dict(copy=True),
    "stream": lambda plan, out: dict(plan.stream()),
    "begun stream": lambda plan, out: (stream := plan.stream(copy=True), next(stream)),
    "load": lambda plan, out: plan.load_into(Norms()),
    "write": lambda plan, out: plan.write(out, digests=True),
    "write, small budget": lambda plan, out: plan.write(out, memory_budget=4096),
    "hard links": lambda plan, out: plan.write(out, link="hard"),
}


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_g15_a_plan_that_has_run_holds_nothing_open(run, direct: bool, tmp_path: Path) -> None:
    source = wb.open(sharded(tmp_path / "model"), direct=direct)
    plan = wb.plan(source, STACK, Norms())
    kept = run(plan, tmp_path / "out")
    assert kept is not None
    assert open_below(tmp_path) == []


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_g15_a_loaded_model_holds_nothing_open(device: str, tmp_path: Path) -> None:
    with torch.device(device):
        model = Norms()
    wb.load(model, sharded(tmp_path / "model"), STACK)
    assert open_below(tmp_path) == []
    assert model.norms[7].weight.tolist() == [7.0] * 4
    wb.save(model, tmp_path / "back")
    assert open_below(tmp_path) == []
    assert wb.verify(tmp_path / "model", tmp_path / "back")
    assert open_below(tmp_path) == []


def test_g15_reading_single_tensors_holds_nothing_open(tmp_path: Path) -> None:
    source = wb.open(sharded(tmp_path / "model"))
    held = [source.tensor(key) for key in source.header]
    buffer = bytearray(16)
    for k in range(SHARDS):
        source.read(f"norms.{k}.weight", 0, memoryview(buffer))
    assert len(held) == 2 * SHARDS
    assert open_below(tmp_path) == []


def test_g15_deleted_files_give_their_room_back(tmp_path: Path) -> None:
    plan = wb.plan(sharded(tmp_path / "model"), STACK)
    made = plan.state_dict(copy=True)
    for path in (tmp_path / "model").iterdir():
        path.unlink()
    assert open_below(tmp_path) == []
    assert made["norms.3.weight"].tolist() == [3.0] * 4


def test_g15_many_plans_over_many_shards_live_side_by_side(tmp_path: Path) -> None:
    script = f"""
    import resource, sys
    sys.path[:0] = {sys.path!r}
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
    import torch, weighbridge as wb
    stack = [wb.WeightConverter("experts.*.w", "experts.w", [wb.MergeModulelist(0), wb.Transpose(1, 2)])]
    plans = []
    for number in range(40):
        plans.append(wb.plan({str(sharded(tmp_path / "model"))!r}, stack))
        made = plans[-1].state_dict(copy=True)
        plans[-1].write({str(tmp_path)!r} + f"/out-{{number}}")
    print(len(plans), made["experts.w"].shape[0])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["40", str(SHARDS)], done.stderr[-2000:]


def test_g15_few_are_open_while_a_plan_runs(tmp_path: Path) -> None:
    plan = wb.plan(sharded(tmp_path / "model", 100), STACK)
    most = []
    plan.state_dict(copy=True, progress=lambda done, total: most.append(len(open_below(tmp_path / "model"))))
    assert 0 < max(most) <= 32
    assert open_below(tmp_path) == []


def test_g15_nothing_stays_open_after_a_failure(tmp_path: Path) -> None:
    plan = wb.plan(sharded(tmp_path / "model"), STACK)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    for run in (plan.state_dict, lambda **given: plan.write(tmp_path / "out", **given)):
        with pytest.raises(KeyboardInterrupt):
            run(progress=stop)
        assert open_below(tmp_path) == []


# What the workers do for it


def test_it_is_called_once_after_all_tasks() -> None:
    order: list[str] = []

    def release() -> None:
        order.append("released")

    def task() -> None:
        assert call_after_run(release)
        order.append("done")

    run_all([task] * 5, 2)
    assert order == ["done"] * 5 + ["released"]
    assert not call_after_run(release)


def test_inner_tasks_have_their_own_end() -> None:
    order: list[str] = []

    def outer() -> None:
        call_after_run(lambda: order.append("outer"))
        run_all([lambda: call_after_run(lambda: order.append("inner"))], 1)
        order.append("between")
        assert call_after_run(lambda: order.append("outer again"))

    run_all([outer], 1)
    assert order == ["inner", "between", "outer", "outer again"]


def test_it_is_called_after_a_failure() -> None:
    order: list[str] = []

    def fail() -> None:
        call_after_run(lambda: order.append("released"))
        raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        run_all([fail], 2)
    assert order == ["released"]


def test_a_reader_outlives_the_place_of_its_descriptor(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    files = OpenFiles({})
    reading, closed = threading.Event(), threading.Event()
    found = []

    def hold() -> None:
        held = files.hold(tmp_path / "a")
        reading.set()
        assert closed.wait(60)
        found.append(os.pread(held.number, 4, 2))

    def close() -> None:
        assert reading.wait(60)
        files.close()
        closed.set()

    run_all([hold, close], 2)
    assert found == [b"2345"]
    assert open_below(tmp_path) == []
