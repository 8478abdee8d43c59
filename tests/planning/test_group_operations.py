"""Law C1 for every operation and every format, and C2 and C3 beside it: what fits is told by moving block numbers.

The movement of a weight's elements is that of an array of their numbers. Whether it comes down to a movement of entries
is looked up in that array, block by block, and not in any layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, Final, NamedTuple

import numpy as np
import pytest
import torch
from dequantised import weights_of
from test_flat_blocks import CONFIG as FLAT_CONFIG, matrix
from test_group_laws import KINDS as LAID_OUT, Kind, bits, configuration
from test_groups import codes_of

import weighbridge as wb
from weighbridge.operations.ops import OPERATIONS

Tensors = dict[str, torch.Tensor]
WHOLE: Final = None
"""One entry for the whole axis."""


class Grid(NamedTuple):
    """How the entries of one tensor of a group lie: the rows and columns of a block, and which order must stay."""

    rows: int | None
    columns: int | None
    keeps_rows: bool = False
    keeps_columns: bool = False


FLAT: Final = "four bits over the flat weight"
KINDS: dict[str, Kind] = LAID_OUT | {
    FLAT: Kind(
        FLAT_CONFIG["quantization_config"],
        lambda name, rows, columns, generator: matrix(
            name, rows, columns, 64, int(torch.randint(9**6, (), generator=generator))
        ),
        rows=2,
        columns=0,
    )
}

GRIDS: dict[str, tuple[Grid, ...]] = {
    "blocks of FP8": (Grid(4, 8),),
    "one scale for each row": (Grid(1, WHOLE),),
    "groups of columns": (Grid(1, 8),),
    "one scale for each weight": (Grid(WHOLE, WHOLE),),
    "two columns in a byte": (Grid(1, 2, keeps_columns=True), Grid(1, 16), Grid(WHOLE, WHOLE)),
    "two rows in a byte": (Grid(2, 1, keeps_rows=True), Grid(1, 8)),
    "words of columns": (Grid(1, 8, keeps_columns=True), Grid(1, 16)),
    "words of columns, zero points in words of rows": (
        *(Grid(1, 8, keeps_columns=True), Grid(1, 16), Grid(8, 16, keeps_rows=True)),
    ),
    "words of rows, columns first": (Grid(8, 1, keeps_rows=True), Grid(8, 16, keeps_rows=True), Grid(1, 16)),
    "words of columns, columns first": (
        *(Grid(1, 8, keeps_columns=True), Grid(8, 16, keeps_rows=True), Grid(1, 16)),
        Grid(WHOLE, WHOLE, keeps_columns=True),  # columns are numbered, and all of them are one
    ),
    FLAT: (Grid(1, 2, keeps_columns=True), Grid(1, 64)),  # of one row, which all elements are
}

JOIN: Final = ["m.a.weight", "m.b.weight"]
PARTS: Final = ["m.x.weight", "m.y.weight"]
ROWS, COLUMNS = 32, 32


def one(operation: Any) -> wb.WeightConverter:
    return wb.WeightConverter("m.a.weight", "m.x.weight", [operation])


def both(operation: Any) -> wb.WeightConverter:
    return wb.WeightConverter(JOIN, "m.x.weight", [operation])


def cut(operation: Any) -> wb.WeightConverter:
    return wb.WeightConverter("m.a.weight", PARTS, [operation])


STACK: Final = wb.WeightConverter("e.*.weight", "s.weight", [wb.MergeModulelist(0)])
FUSED: Final = wb.WeightConverter(["e.*.a.weight", "e.*.b.weight"], PARTS, [wb.ErnieFuseAndSplitTextVisionExperts()])


class Use(NamedTuple):
    """An operation in a rule.

    Args:
        rule: The rule.
        sources: The weights, with their rows.
        before: A rule that makes the weights first.
    """

    rule: wb.WeightConverter
    sources: dict[str, int] = {"m.a": ROWS, "m.b": ROWS}  # noqa: RUF012
    before: wb.WeightConverter | None = None


MEMBERS: Final = {f"e.{number}": ROWS for number in range(3)}
PAIRS: Final = {f"e.{number}.{name}": rows for number in range(4) for name, rows in (("a", ROWS), ("b", 2 * ROWS))}
USES: dict[str, Use] = {
    "Cast": Use(one(wb.Cast("BF16"))),
    "Chunk": Use(cut(wb.Chunk(0))),
    "Chunk of columns": Use(cut(wb.Chunk(1))),
    "Concatenate": Use(both(wb.Concatenate(0)), {"m.a": ROWS, "m.b": 2 * ROWS}),
    "Concatenate of columns": Use(both(wb.Concatenate(1))),
    "Conv3dToLinear": Use(
        wb.WeightConverter(
            "m.a.weight", "m.x.weight", [wb.LinearToConv3d(2, (4, 2, 2)), wb.Conv3dToLinear(2, (4, 2, 2))]
        )
    ),
    "ErnieFuseAndSplitTextVisionExperts": Use(FUSED, PAIRS),
    "ErnieSplitAndDecoupleTextVisionExperts": Use(
        wb.WeightConverter(PARTS, ["e.*.a.weight", "e.*.b.weight"], [wb.ErnieSplitAndDecoupleTextVisionExperts()]),
        {f"e.{number}.{name}": ROWS for number in range(4) for name in "ab"},
        FUSED,
    ),
    "InsertConstant": Use(
        wb.WeightConverter("m.a.weight", "m.x.weight", [wb.InsertConstant(1, (ROWS, COLUMNS)), wb.Concatenate(0)])
    ),
    "Interleave": Use(one(wb.Interleave(0))),
    "LinearToConv3d": Use(one(wb.LinearToConv3d(2, (4, 2, 2)))),
    "MergeEqual": Use(both(wb.MergeEqual())),
    "MergeModulelist": Use(STACK, MEMBERS),
    "On": Use(
        wb.WeightConverter(JOIN, "m.x.weight", [wb.On([1], wb.Interleave(0)), wb.Concatenate(0)]),
        {"m.a": ROWS, "m.b": 2 * ROWS},
    ),
    "Pad": Use(one(wb.Pad(0, size=2 * ROWS))),
    "Permute": Use(one(wb.Permute((1, 0)))),
    "PermuteForRope": Use(one(wb.PermuteForRope(num_heads=2))),
    "PermuteForRope of one head in each block": Use(one(wb.PermuteForRope(num_heads=ROWS // 2))),
    "Rearrange": Use(one(wb.Rearrange("(h two d) c -> (two h d) c", h=2, two=2))),
    "RemoveConstant": Use(wb.WeightConverter(JOIN, "m.x.weight", [wb.RemoveConstant(1, (ROWS, COLUMNS))])),
    "Reorder": Use(one(wb.Reorder(0, (2, 0, 1), sizes=(8, 16, 8)))),
    "Repeat": Use(wb.WeightConverter("m.a.weight", PARTS, [wb.Repeat()])),
    "Reshape": Use(one(wb.Reshape((2, ROWS // 2, COLUMNS)))),
    "Reshape to other columns": Use(one(wb.Reshape((ROWS * 2, COLUMNS // 2)))),
    "Split": Use(cut(wb.Split(0, (8, ROWS - 8)))),
    "Split within blocks": Use(cut(wb.Split(0, (1, ROWS - 1)))),
    "SplitModulelist": Use(wb.WeightConverter("s.weight", "e.*.weight", [wb.SplitModulelist(0)]), MEMBERS, STACK),
    "Transpose": Use(one(wb.Transpose(0, 1))),
    "Trim": Use(one(wb.Trim(0, size=ROWS // 2))),
}

DECLARING: Final = ("Cast", "InsertConstant", "Pad", "RemoveConstant", "Trim")
"""What codes have no part in: casts, and values that come from no source."""


def test_every_operation_is_tried_on_every_format() -> None:
    assert {name.split()[0] for name in USES} == {operation.__name__ for operation in OPERATIONS}
    assert GRIDS.keys() == KINDS.keys()


def made_by(kind: Kind, use: Use) -> Tensors:
    """The weights that a rule is about, all of them with one scale where a scale is for whole weights."""
    generator = torch.Generator().manual_seed(5)
    source: Tensors = {}
    for name, rows in use.sources.items():
        source |= kind.make(name, rows, COLUMNS, generator)
    if use.before is not None:
        source = wb.plan(source, [use.before], config=configuration(kind)).state_dict()
    return source


def numbered(weights: Tensors) -> Tensors:
    """A number for each element of each weight."""
    starts = np.cumsum([0, *(weight.numel() for weight in weights.values())])
    return {
        key: torch.arange(int(start), int(start) + weight.numel()).reshape(weight.shape)
        for (key, weight), start in zip(weights.items(), starts, strict=False)
    }


def blocks_of(values: Sequence[torch.Tensor], grid: Grid) -> dict[int, tuple[tuple[Any, ...], tuple[int, int]]]:
    """For each element of some values: its block, and where it lies in that."""
    found = {}
    for number, value in enumerate(values):
        *stack, rows, columns = value.shape
        sides = grid.rows or rows, grid.columns or columns
        flat = value.flatten().tolist()
        for element, (*place, i, j) in zip(flat, product(*map(range, (*stack, rows, columns))), strict=True):
            block = number, *place, i // sides[0], j // sides[1]
            found[element, number] = block, (i % sides[0], j % sides[1])
    return found


def comes_down_to_entries(before: Sequence[torch.Tensor], after: Sequence[torch.Tensor], grid: Grid) -> bool:
    """Tell by the numbers of blocks whether each block of what is made is one of the source's, in its order."""
    if any(len(value.shape) < 2 for value in after):
        return False
    read = {element: where for (element, _), where in blocks_of(before, grid).items()}
    sources: dict[Any, set[Any]] = {}
    targets: dict[Any, set[Any]] = {}
    for (element, _), (block, place) in blocks_of(after, grid).items():
        origin, there = read[element]
        if (grid.keeps_rows and place[0] != there[0]) or (grid.keeps_columns and place[1] != there[1]):
            return False
        sources.setdefault((block, origin[:-2]), set()).add(origin)
        targets.setdefault((origin, block[:-2]), set()).add(block)
    is_whole = WHOLE in grid[:2]
    if not is_whole:
        origins: dict[Any, set[Any]] = {}
        for block, found in sources.items():
            origins.setdefault(block[0], set()).update(found)
        once = [len(found) == 1 for found in origins.values()]
        return all(once) and len(set().union(*origins.values())) == len(origins)
    return all(len(found) == 1 for found in (*sources.values(), *targets.values()))


def fits(kind: str, use: Use, weights: Tensors) -> bool:
    named = numbered(weights)
    moved = wb.plan(named, [use.rule]).state_dict()
    before = [*named.values()]
    after = [value for key, value in moved.items() if key not in named or not value.equal(named[key])]
    if kind == FLAT:
        before, after = ([value.reshape(1, -1) for value in values] for values in (before, after))
    return all(comes_down_to_entries(before, after, grid) for grid in GRIDS[kind])


@pytest.mark.parametrize("name", KINDS)
def test_each_format_has_movements_that_fit_and_others(name: str) -> None:
    """So that neither half of what follows is empty."""
    tried = {which: use for which, use in USES.items() if which not in (*DECLARING, "MergeEqual", "Repeat")}
    found = {
        which: fits(name, use, weights_of(made_by(KINDS[name], use), configuration(KINDS[name])))
        for which, use in tried.items()
    }
    assert {found[which] for which in ("Concatenate", "MergeModulelist", "SplitModulelist", "Conv3dToLinear")} == {True}
    assert all(found.values()) == (name == "one scale for each weight")


@pytest.mark.parametrize("which", USES)
@pytest.mark.parametrize("name", KINDS)
def test_what_comes_down_to_entries_is_exact_and_all_else_is_named(name: str, which: str) -> None:
    kind, use = KINDS[name], USES[which]
    config = configuration(kind)
    source = made_by(kind, use)
    if which.startswith(("MergeEqual", "Repeat")):
        source |= {key.replace("m.a.", "m.b."): source[key].clone() for key in [*source] if key.startswith("m.a.")}
    plain = weights_of(source, config)
    is_declared = which in DECLARING
    if is_declared or (not which.startswith(("MergeEqual", "Repeat")) and not fits(name, use, plain)):
        with pytest.raises(wb.PlanError) as caught:
            wb.plan(source, [use.rule], config=config)
        assert codes_of(caught) <= {"companion-fixed"} | ({"companion-misaligned"} if not is_declared else set())
        return
    plan = wb.plan(source, [use.rule], config=config)
    for condition in plan.conditions if name != FLAT else ():  # whose tables and texts are all alike
        for keys in condition.ways:
            source |= {key: source[first].clone() for first, key in zip(condition.ways[0], keys, strict=True)}
    plain = weights_of(source, config)
    made, wanted = plan.state_dict(source), wb.plan(plain, [use.rule]).state_dict()
    found = weights_of(made, config)
    assert found.keys() == wanted.keys()
    assert [key for key in wanted if not found[key].equal(wanted[key].reshape(found[key].shape))] == []
    assert plan.is_exact
    back = plan.inverse().state_dict(made)
    assert back.keys() == source.keys()
    assert [key for key in back if not bits(back[key]).equal(bits(source[key]))] == []
