"""Laws of quantised weights, for drawn formats and movements: dequantising commutes with converting, both ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from dequantised import weights_of
from hypothesis import given, settings, strategies as st

import weighbridge as wb

Tensors = dict[str, torch.Tensor]


class Kind(NamedTuple):
    """A format: what its configuration says, what it stores for a module, and the units of its rows and columns."""

    said: dict[str, Any]
    make: Callable[[str, int, int, torch.Generator], Tensors]
    rows: int
    columns: int


def integers(generator: torch.Generator, dtype: torch.dtype, *shape: int) -> torch.Tensor:
    size = torch.empty(0, dtype=dtype).element_size()
    raw = torch.randint(0, 256, (*shape, size), dtype=torch.uint8, generator=generator)
    return raw.view(dtype).reshape(shape)


def numbers(generator: torch.Generator, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (torch.randint(1, 64, shape, generator=generator) / 8).to(dtype)


def fp8(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return numbers(generator, *shape).to(torch.float8_e4m3fn)


ONE = torch.tensor(0.25)


def compressed(form: str, **weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "format": form, "weights": {"num_bits": 8, "symmetric": True, **weights}}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group}}


def words_both_ways(group: int) -> Kind:
    """Codes in words of columns with a zero point for each group of columns, which is in a word of rows."""
    return Kind(
        compressed("pack-quantized", num_bits=4, type="int", symmetric=False, strategy="group", group_size=group),
        lambda name, r, c, g: {
            f"{name}.weight_packed": integers(g, torch.int32, r, c // 8),
            f"{name}.weight_scale": numbers(g, r, c // group),
            f"{name}.weight_zero_point": integers(g, torch.int32, r // 8, c // group),
            f"{name}.weight_shape": torch.tensor([r, c]),
        },
        rows=8,
        columns=group,
    )


KINDS: dict[str, Kind] = {
    "blocks of FP8": Kind(
        {"quant_method": "fp8", "weight_block_size": [4, 8]},
        lambda name, r, c, g: {
            f"{name}.weight": fp8(g, r, c),
            f"{name}.weight_scale_inv": numbers(g, -(-r // 4), -(-c // 8)),
        },
        rows=4,
        columns=8,
    ),
    "one scale for each row": Kind(
        compressed("int-quantized", type="int", strategy="channel"),
        lambda name, r, c, g: {
            f"{name}.weight": integers(g, torch.int8, r, c),
            f"{name}.weight_scale": numbers(g, r, 1),
        },
        rows=1,
        columns=1,
    ),
    "groups of columns": Kind(
        compressed("int-quantized", type="int", strategy="group", group_size=8),
        lambda name, r, c, g: {
            f"{name}.weight": integers(g, torch.int8, r, c),
            f"{name}.weight_scale": numbers(g, r, -(-c // 8)),
        },
        rows=1,
        columns=8,
    ),
    "one scale for each weight": Kind(
        {"quant_method": "modelopt", "quant_algo": "FP8"},
        lambda name, r, c, g: {
            f"{name}.weight": fp8(g, r, c),
            f"{name}.weight_scale": ONE.clone(),
            f"{name}.input_scale": ONE.clone(),
        },
        rows=1,
        columns=1,
    ),
    "two columns in a byte": Kind(
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16},
        lambda name, r, c, g: {
            f"{name}.weight": integers(g, torch.uint8, r, c // 2),
            f"{name}.weight_scale": fp8(g, r, c // 16),
            f"{name}.weight_scale_2": ONE.clone(),
        },
        rows=1,
        columns=16,
    ),
    "two rows in a byte": Kind(
        {"quant_method": "modelopt", "quant_algo": "W4A16_AWQ", "group_size": 8},
        lambda name, r, c, g: {
            f"{name}.weight": integers(g, torch.uint8, r // 2, c),
            f"{name}.weight_scale": numbers(g, r, c // 8),
        },
        rows=2,
        columns=8,
    ),
    "words of columns": Kind(
        {"bits": 4, "group_size": 16},  # MLX
        lambda name, r, c, g: {
            f"{name}.weight": integers(g, torch.int32, r, c // 8).view(torch.uint32),
            f"{name}.scales": numbers(g, r, c // 16),
            f"{name}.biases": numbers(g, r, c // 16),
        },
        rows=1,
        columns=16,
    ),
    "words of columns, zero points in words of rows": words_both_ways(16),
    "words of rows, columns first": Kind(
        {"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm"},
        lambda name, r, c, g: {
            f"{name}.qweight": integers(g, torch.int32, c, r // 8),
            f"{name}.qzeros": integers(g, torch.int32, c // 16, r // 8),
            f"{name}.scales": numbers(g, c // 16, r, dtype=torch.float16),
        },
        rows=8,
        columns=16,
    ),
    "words of columns, columns first": Kind(
        {"quant_method": "gptq", "bits": 4, "group_size": 16},
        lambda name, r, c, g: {
            f"{name}.qweight": integers(g, torch.int32, c // 8, r),
            f"{name}.qzeros": integers(g, torch.int32, c // 16, r // 8),
            f"{name}.scales": numbers(g, c // 16, r, dtype=torch.float16),
            f"{name}.g_idx": torch.arange(c, dtype=torch.int32) // 16,
        },
        rows=8,
        columns=0,
    ),
}


def configuration(kind: Kind) -> dict[str, Any]:
    return {"quantization_config" if "quant_method" in kind.said else "quantization": kind.said}


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


class Case(NamedTuple):
    kind: Kind
    source: Tensors
    rules: list[Any]
    fits: bool


def drawn_size(draw: st.DrawFn, unit: int, *, whole: bool) -> int:
    """A multiple of a unit, or, where a partial block may be, a size near one."""
    size = unit * draw(st.integers(1, 3)) if unit else 32
    return size if whole else max(1, size + draw(st.integers(-2, 2)))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a format, some weights of it, and a rule that moves them; and say whether whole units stay whole."""
    kind = KINDS[draw(st.sampled_from(sorted(KINDS)))]
    dense = {"blocks of FP8", "one scale for each row", "one scale for each weight"}
    is_dense = any(kind is KINDS[name] for name in dense)
    rows = [drawn_size(draw, kind.rows, whole=not is_dense) for _ in range(draw(st.integers(2, 3)))]
    columns = drawn_size(draw, kind.columns, whole=not is_dense)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    what = draw(st.sampled_from(["rows joined", "stacked", "rows cut", "columns cut", "reordered"]))
    if min(rows[0], columns) < 2:
        what = "stacked"
    if what in ("stacked", "rows cut", "columns cut", "reordered"):
        rows = rows[:1] * len(rows)
    names = [f"part{number}" for number in range(len(rows))]
    source: Tensors = {}
    for name, size in zip(names, rows, strict=True):
        source |= kind.make(f"m.{name}", size, columns, generator)
    weights = [f"m.{name}.weight" for name in names]
    made = [f"m.made{number}.weight" for number in range(2)]
    unit = max(1, kind.rows)
    match what:
        case "rows joined":
            join = wb.WeightConverter(weights, made[0], [wb.Concatenate(0)])
            return Case(kind, source, [join], all(size % unit == 0 for size in rows[:-1]))
        case "stacked":
            stack = wb.WeightConverter("m.part*.weight", "m.made.weight", [wb.MergeModulelist(0)])
            return Case(kind, source, [stack], True)
        case "rows cut":
            at = draw(st.integers(1, rows[0] - 1))
            cut = wb.WeightConverter(weights[0], made, [wb.Split(0, (at, rows[0] - at))])
            return Case(kind, source, [cut], at % unit == 0)
        case "columns cut":
            at = draw(st.integers(1, columns - 1))
            cut = wb.WeightConverter(weights[0], made, [wb.Split(1, (at, columns - at))])
            return Case(kind, source, [cut], kind.columns > 0 and at % kind.columns == 0)
    if rows[0] % 2:
        return Case(kind, source, [wb.WeightRenaming("m.part0.weight", "m.made0.weight")], True)
    halves = [wb.Reshape((2, rows[0] // 2, columns)), wb.Transpose(0, 1), wb.Reshape((rows[0], columns))]
    is_within = kind is KINDS["blocks of FP8"] and rows[0] <= kind.rows  # a scale does not mind the order
    return Case(kind, source, [wb.WeightConverter(weights[0], made[0], halves)], rows[0] == 2 or unit == 1 or is_within)


@settings(deadline=None)
@given(cases())
def test_dequantising_commutes_with_converting(case: Case) -> None:
    """Law C1, and C4 in memory: what comes back is what was there, bit for bit."""
    config = configuration(case.kind)
    if not case.fits:
        with pytest.raises(wb.PlanError) as caught:
            wb.plan(case.source, case.rules, config=config)
        assert {problem.code for problem in caught.value.problems} <= {"companion-misaligned", "companion-fixed"}
        return
    plan = wb.plan(case.source, case.rules, config=config)
    made = plan.state_dict()
    plain = wb.plan(weights_of(case.source, config), case.rules).state_dict()
    found = weights_of(made, config)
    assert found.keys() == plain.keys()
    assert [key for key in plain if not torch.equal(found[key], plain[key].reshape(found[key].shape))] == []
    assert plan.is_exact
    back = plan.inverse().state_dict(made)
    assert back.keys() == case.source.keys()
    assert [key for key in back if not bits(back[key]).equal(bits(case.source[key]))] == []


@settings(deadline=None)
@given(st.lists(st.integers(1, 13), min_size=2, max_size=4), st.integers(1, 12))
def test_the_numbers_of_a_cut_block_are_those_of_counting(rows: list[int], at: int) -> None:
    """Law C3: where the first part ends within a block, counted row by row; and nothing is planned."""
    kind, generator, block = KINDS["blocks of FP8"], torch.Generator().manual_seed(1), 4
    source: Tensors = {}
    for number, size in enumerate(rows):
        source |= kind.make(f"m.part{number}", size, 8, generator)
    part_of = [number for number, size in enumerate(rows) for _ in range(size)]
    starts = [row for row in range(1, len(part_of)) if part_of[row] != part_of[row - 1]]
    join = wb.WeightConverter([f"m.part{n}.weight" for n in range(len(rows))], "m.made.weight", [wb.Concatenate(0)])
    seams = [(f"row {row} of {len(part_of)} of the result", row) for row in starts if row % block]
    cuts: list[tuple[str, int]] = []
    if at < rows[0]:
        cut = wb.WeightConverter("m.part0.weight", ["m.x.weight", "m.y.weight"], [wb.Split(0, (at, rows[0] - at))])
        cuts = [(f"row {at} of {rows[0]} of m.part0.weight", at)] if at % block else []
    for rule, expected in ((join, seams), *([(cut, cuts)] if at < rows[0] else [])):
        if not expected:
            assert wb.plan(source, [rule], config=configuration(kind)).is_exact
            continue
        with pytest.raises(wb.PlanError) as caught:
            wb.plan(source, [rule], config=configuration(kind))
        (problem,) = caught.value.problems
        where, row = expected[0]
        fine = max(size for size in range(1, block + 1) if row % size == block % size == 0)
        assert f"the seam at {where} is {row / block:.4g} blocks in" in problem.got
        assert f"blocks of {fine} would fit" in problem.got


@pytest.mark.parametrize("name", KINDS)
def test_every_tensor_of_a_group_has_one_fate_and_none_may_be_missing(name: str) -> None:
    """Law C5."""
    kind = KINDS[name]
    generator = torch.Generator().manual_seed(1)
    rows, columns = 2 * max(1, kind.rows), 2 * max(16, kind.columns)
    source = kind.make("m.a", rows, columns, generator) | kind.make("m.b", rows, columns, generator)
    rules = [wb.WeightConverter(["m.a.weight", "m.b.weight"], "m.both.weight", [wb.Concatenate(0)])]
    plan = wb.plan(source, rules, config=configuration(kind))
    assert sorted(plan.source_keys()) == sorted(source)
    assert len(set(plan.target_keys())) == len(plan.target_keys()) == len(source) // 2
    for key in source:
        lacking = {other: tensor for other, tensor in source.items() if other != key}
        with pytest.raises(wb.PlanError) as caught:
            wb.plan(lacking, rules, config=configuration(kind))
        wanted = {"companion-missing", "group-incomplete"} if key.endswith("_scale") and "input" in key else None
        codes = {problem.code for problem in caught.value.problems}
        assert codes <= (wanted or {"companion-missing", "group-incomplete", "scheme-conflict"}), (key, codes)
