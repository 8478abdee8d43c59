"""What would be read in very many small pieces: a transpose far beyond the budget, and columns beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from safetensors.torch import load_file, save_file

import weighbridge as wb
from weighbridge.algebra.copies import Copy, Loop
from weighbridge.algebra.layout import Layout
from weighbridge.algebra.squares import Pages, is_transpose, stripes
from weighbridge.algebra.stitching import side_by_side
from weighbridge.running import transposing


@given(
    st.integers(2, 9), st.integers(2, 9), st.integers(1, 4), st.integers(1, 40), st.integers(1, 12), st.integers(1, 4)
)
def test_squares_write_each_element_once_and_are_no_larger_than_asked(
    rows: int, columns: int, number: int, most: int, longest: int, page: int
) -> None:
    matrix = np.arange(number * rows * columns).reshape(number, rows, columns)
    layout = Layout.of(0, matrix.shape).permute((0, 2, 1))
    flat, written, ends = matrix.reshape(-1), np.full(matrix.size, -1), 0
    for copy in layout.copies:
        assert is_transpose(copy)
        for stripe in stripes(copy, most, longest, Pages(page, most % page)):
            for square in stripe:
                assert 1 <= square.numel <= most
                assert 1 <= square.rows <= longest
                for row in range(square.rows):
                    for column in range(square.columns):
                        at = square.target_start + row + column * square.target_stride
                        assert written[at] == -1
                        written[at] = flat[square.source_start + row * square.source_stride + column]
            assert (written[:ends] >= 0).all()
            ends = square.target_start + (square.columns - 1) * square.target_stride + square.rows
    assert (written.reshape(number, columns, rows) == matrix.transpose(0, 2, 1)).all()


@pytest.mark.parametrize(
    ("longest", "first", "rows"),
    [
        (400, 3, [19, 21]),
        (400, 0, [24, 16]),
        (15, 3, [3, 8, 8, 8, 8, 5]),
        (7, 3, [7, 7, 7, 7, 7, 5]),
    ],
)
def test_squares_end_where_pages_do(longest: int, first: int, rows: list[int]) -> None:
    """A page has 8 elements; what cannot reach one takes no notice of them."""
    turn = Copy(0, 0, 0, (Loop(30, 1, 40), Loop(40, 30, 1)))
    for stripe in stripes(turn, 400, longest, Pages(8, first)):
        assert [square.rows for square in stripe] == rows


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


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 2)), max_size=12), st.integers(1, 30))
def test_columns_side_by_side_are_grouped_and_none_is_lost(kinds: list[tuple[int, int]], most: int) -> None:
    copies = [Copy(n, gap, 40 * gap + n, (Loop(2 + size, 1, 12),)) for n, (size, gap) in enumerate(kinds)]
    groups, left = side_by_side(copies, most)
    assert sorted([*left, *(copy for group in groups for copy in group)]) == sorted(copies)
    for group in groups:
        assert len(group) > 1
        assert sum(copy.numel for copy in group) <= most
        assert {copy.loops for copy in group} == {group[0].loops}
        starts = [copy.target_start for copy in group]
        assert starts == list(range(starts[0], starts[0] + len(group)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool])
@pytest.mark.parametrize("kind", ["file", "memory", "turned"])
def test_g16_many_columns_within_a_small_budget_are_exact(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Budgets that cut rows, and one that cuts none; one column is wider than the others."""
    rows, wide = 129, 17
    widths = [3 if number == wide else 1 for number in range(40)]
    state = {
        f"c{number}.w": (torch.arange(rows * width) * 3 + number).to(dtype).reshape(rows, width)
        for number, width in enumerate(widths)
    }
    rule = [wb.WeightConverter([f"^c{number}.w$" for number in range(40)], "c.w", [wb.Concatenate(1)])]
    source: Any = state
    if kind == "turned":
        source = {key: tensor.t().contiguous().t() for key, tensor in state.items()}
    if kind == "file":
        source = tmp_path / "model.safetensors"
        save_file(state, source)
    for budget in (400, 3000, 10**6):
        wb.plan(source, rule).write(tmp_path / f"out{budget}", memory_budget=budget)
        (found,) = load_file(tmp_path / f"out{budget}" / "model.safetensors").values()
        assert torch.equal(found, torch.cat([*state.values()], 1))
