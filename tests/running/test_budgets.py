"""Whether a plan can be written within a budget is known before its output begins (G16)."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from safetensors.torch import load_file, save_file

import weighbridge as wb
from weighbridge.algebra.copies import MAX_PIECES
from weighbridge.algebra.layout import Layout, windows
from weighbridge.base.errors import LayoutError
from weighbridge.running import budgets

COLUMNS = [wb.WeightConverter("c.*.w", "c.w", [wb.MergeModulelist(1)])]


def columns(number: int, rows: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    return {f"c.{i}.w": torch.arange(rows).to(dtype).reshape(rows, 1) + i for i in range(number)}


def count_folders(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note every directory that is made from now on."""
    made: list[str] = []
    plain = os.mkdir

    def mkdir(path: Any, *args: Any, **options: Any) -> None:
        made.append(str(path))
        plain(path, *args, **options)

    monkeypatch.setattr(os, "mkdir", mkdir)
    return made


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("kind", ["memory", "file"])
def test_a_budget_that_is_too_small_is_refused_before_anything_is_made(
    kind: str, resume: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G16: `budget-too-small` came when the output had begun, after other tensors were written."""
    state = columns(3, 4) | {"big": torch.zeros(1000)}
    source: Any = state
    if kind == "file":
        source = tmp_path / "model.safetensors"
        save_file(state, source)
    plan = wb.plan(source, COLUMNS)
    made = count_folders(monkeypatch)
    with pytest.raises(wb.PlanError) as caught:
        plan.write(tmp_path / "out", memory_budget=3, resume=resume)
    assert (caught.value.code, made) == ("budget-too-small", [])
    plan.write(tmp_path / "out", memory_budget=4, resume=resume)  # the size that the error asks for
    assert load_file(tmp_path / "out" / "model.safetensors")["c.w"].shape == (4, 3, 1)


def test_a_budget_is_not_asked_of_what_moves_as_it_is(tmp_path: Path) -> None:
    """G16: runs of bytes need no window."""
    save_file({"a": torch.ones(3), "b": torch.ones(2)}, tmp_path / "model.safetensors")
    plan = wb.plan(tmp_path / "model.safetensors", [wb.WeightRenaming("a", "z")])
    plan.write(tmp_path / "out", memory_budget=1)


def test_a_tensor_in_more_pieces_than_an_operation_may_make_is_cut(tmp_path: Path) -> None:
    """G16: `layout-fragmented` came in the middle of the output; the pieces of its windows are as many as they are."""
    number, rows, numel = 256, 2048, 1700
    (step,) = wb.plan(columns(number, rows), COLUMNS).steps
    layout = step.program.targets[0].layout
    count, left = divmod(layout.numel, numel)
    with pytest.raises(LayoutError):
        layout.reshape((layout.numel,)).split(0, [numel] * count + [left])
    found = list(windows(layout, numel))
    assert sum(len(window.copies) for window in found) > MAX_PIECES
    assert [window.numel for window in found] == [numel] * count + [left]


def test_a_budget_that_makes_many_pieces_is_said_with_what_is_enough(tmp_path: Path, caplog: Any) -> None:
    """G16: what takes long within a small budget is known before it begins."""
    save_file(columns(256, 256), tmp_path / "model.safetensors")
    plan = wb.plan(tmp_path / "model.safetensors", COLUMNS)
    with caplog.at_level(logging.WARNING, logger="weighbridge"):
        plan.write(tmp_path / "out", memory_budget=256 * 256 * 4 // 50)
    assert load_file(tmp_path / "out" / "model.safetensors")["c.w"].equal(plan.state_dict()["c.w"])
    assert "1 kind of tensors fall into more than 10,000 small pieces" in caplog.text
    enough = int(caplog.text.partition("; ")[2].split()[0])
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="weighbridge"):
        plan.write(tmp_path / "again", memory_budget=enough)
    assert caplog.text == ""


@given(st.integers(1, 7), st.integers(1, 9), st.integers(1, 70), st.booleans())
def test_windows_are_the_value_in_order(rows: int, width: int, numel: int, crowded: bool) -> None:
    """They are drawn a part of the value at a time, and are what a split of the whole gives."""
    layout = Layout.of(0, (rows, width, 3)).permute((1, 0, 2))
    total = rows * width * 3
    whole, left = divmod(total, numel)
    wanted = layout.reshape((total,)).split(0, [numel] * whole + [left] * (left > 0))
    from weighbridge.algebra import layout as module

    plain = module.MAX_PIECES
    try:
        module.MAX_PIECES = 8 if crowded else plain
        found = list(windows(layout, numel))
    finally:
        module.MAX_PIECES = plain
    assert [window.shape for window in found] == [window.shape for window in wanted]
    values = torch.arange(float(total)).numpy()
    assert [render(window, values) for window in found] == [render(window, values) for window in wanted]


def render(layout: Layout, values: Any) -> list[float]:
    """Run a layout's copies element by element."""
    from itertools import product

    written = [None] * layout.numel
    for copy in layout.copies:
        for place in product(*(range(loop.size) for loop in copy.loops)):
            steps = list(zip(place, copy.loops, strict=True))
            read = copy.source_start + sum(at * loop.source_stride for at, loop in steps)
            write = copy.target_start + sum(at * loop.target_stride for at, loop in steps)
            written[write] = values[read]
    return written


def test_the_largest_item_is_known() -> None:
    from weighbridge.base.specs import DTYPES

    sizes = [dtype.itemsize for dtype in DTYPES.values() if dtype.kind != "packed"]
    assert max(sizes) <= budgets.LARGEST_ITEM_BYTES
