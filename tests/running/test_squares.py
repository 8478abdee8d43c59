"""A transpose far beyond the budget is made in squares: H and G16 of the list, and the row `huge` of the benchmark."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from safetensors.torch import load_file, save_file

import weighbridge as wb
from weighbridge.algebra.copies import Copy, Loop
from weighbridge.algebra.layout import Layout
from weighbridge.algebra.squares import is_transpose, squares
from weighbridge.running import transposing


@given(st.integers(2, 9), st.integers(2, 9), st.integers(1, 4), st.integers(1, 40))
def test_squares_write_each_element_once_and_are_no_larger_than_asked(
    rows: int, columns: int, number: int, most: int
) -> None:
    matrix = np.arange(number * rows * columns).reshape(number, rows, columns)
    layout = Layout.of(0, matrix.shape).permute((0, 2, 1))
    flat, written = matrix.reshape(-1), np.full(matrix.size, -1)
    for copy in layout.copies:
        assert is_transpose(copy)
        for square in squares(copy, most):
            assert 1 <= square.numel <= most
            for row in range(square.rows):
                for column in range(square.columns):
                    at = square.target_start + row + column * square.target_stride
                    assert written[at] == -1
                    written[at] = flat[square.source_start + row * square.source_stride + column]
    assert (written.reshape(number, columns, rows) == matrix.transpose(0, 2, 1)).all()


@pytest.mark.parametrize("loops", [(), (Loop(4, 1, 1),), (Loop(3, 2, 1),), (Loop(2, 1, 8), Loop(4, 4, 2))])
def test_what_is_no_transpose_is_told_apart(loops: tuple[Loop, ...]) -> None:
    assert not is_transpose(Copy(0, 0, 0, loops))


RULES = {
    "turned": [wb.WeightConverter("w", "w", [wb.Transpose(0, 1)])],
    "stacked": [wb.WeightConverter("e.*.w", "e.w", [wb.MergeModulelist(0), wb.Transpose(1, 2)])],
}


def turned(name: str, state: dict[str, torch.Tensor]) -> torch.Tensor:
    """Do what the rules do, by torch alone."""
    return state["w"].t() if name == "turned" else torch.stack([state[f"e.{i}.w"] for i in range(3)]).transpose(1, 2)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.uint8, torch.bool])
@pytest.mark.parametrize("name", RULES)
def test_a_transpose_beyond_the_budget_is_exact(
    name: str, dtype: torch.dtype, resume: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows and columns are no multiples of anything, so that the last squares are smaller on both sides."""
    keys = {"turned": ["w"], "stacked": [f"e.{i}.w" for i in range(3)]}[name]
    numel = 517 * 331
    state = {key: (torch.arange(numel) * (7 + at)).to(dtype).reshape(517, 331) for at, key in enumerate(keys)}
    save_file(state, tmp_path / "model.safetensors")
    made: list[int] = []
    plain = transposing.write_square
    monkeypatch.setattr("weighbridge.running.filling.write_square", lambda *args: (made.append(1), plain(*args)))
    plan = wb.plan(tmp_path / "model.safetensors", RULES[name])
    plan.write(tmp_path / "out", memory_budget=70_000, resume=resume)
    (found,) = load_file(tmp_path / "out" / "model.safetensors").values()
    assert torch.equal(found.view(torch.uint8), turned(name, state).contiguous().view(torch.uint8))
    assert len(made) > 3


def test_a_transpose_within_the_budget_is_made_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({"w": torch.arange(35.0).reshape(5, 7)}, tmp_path / "model.safetensors")
    monkeypatch.setattr("weighbridge.running.filling.write_square", None)
    wb.plan(tmp_path / "model.safetensors", RULES["turned"]).write(tmp_path / "out")
    assert load_file(tmp_path / "out" / "model.safetensors")["w"].shape == (7, 5)
