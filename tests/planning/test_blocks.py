"""Blocks within one tensor: what mappings make of them, and of what they made, against plain torch."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from mapping_cases import Case, Tensors, equal, numbers

import weighbridge as wb

laws = settings(max_examples=1000, deadline=None)


def of_each(change: Any, *shapes: tuple[int, ...]) -> tuple[Tensors, Tensors]:
    """Make a tensor of each shape, and what becomes of it; their last names tell them apart."""
    source = {f"layers.{number}.block.weight": numbers(*shape) for number, shape in enumerate(shapes)}
    return source, {key: change(tensor) for key, tensor in source.items()}


def gather_ranks(whole: torch.Tensor) -> torch.Tensor:
    """Take what four ranks hold, 4 rows of q and 1 of k and v each, to [q; k; v]."""
    ranks = [rank.split((4, 1, 1)) for rank in whole.chunk(4)]
    return torch.cat([torch.cat([rank[part] for rank in ranks]) for part in range(3)])


def rotate(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Turn each head from pairs of neighbours to two halves."""
    return torch.cat([part for head in rows.chunk(heads) for part in (head[0::2], head[1::2])])


def rotate_first(whole: torch.Tensor) -> torch.Tensor:
    """Do that with the first 4 of the 6 rows of each of three heads."""
    return torch.cat([part for head in whole.chunk(3) for part in (rotate(head[:4], 1), head[4:])])


QKV = ("heads*head_dim", "kv_heads*head_dim", "kv_heads*head_dim")
HEADS = {"heads": 4, "kv_heads": 1, "head_dim": 4}

CASES = {
    "adaLN halves": Case([wb.Reorder(0, (1, 0))], *of_each(lambda x: torch.cat(x.chunk(2)[::-1]), (6, 4), (10,))),
    "[up; gate] to [gate; up] of stacked experts": Case(
        [wb.Reorder(1, (1, 0))], *of_each(lambda x: torch.cat(x.chunk(2, 1)[::-1], 1), (3, 8, 5))
    ),
    "[K; Q; V] to [Q; K; V]": Case(
        [wb.Reorder(0, (1, 0, 2), ("kv_heads*head_dim", "heads*head_dim", "kv_heads*head_dim"))],
        *of_each(lambda x: torch.cat([x[4:20], x[:4], x[20:]]), (24, 3), (24,)),
        {"heads": 8, "kv_heads": 2, "head_dim": 2},
    ),
    "ranks": Case(
        [wb.Reorder(0, (0, 1, 2), (16, 4, 4), source_stripes="world.tensor")],
        *of_each(gather_ranks, (24, 3), (24,)),
        {"world": {"tensor": 4}},
    ),
    "two ranks to three": Case(
        [wb.Reorder(-1, (0, 1), (6, 12), source_stripes=2, target_stripes=3)],
        *of_each(
            lambda x: x[..., [0, 1, 3, 4, 5, 6, 2, 9, 7, 8, 12, 13, 10, 11, 14, 15, 16, 17]], (2, 18)
        ),
    ),
    "rotary query and key, and a value that stays": Case(
        [wb.Split(0, QKV), wb.On([0], wb.PermuteForRope(num_heads="heads")),
         wb.On([1], wb.PermuteForRope(num_heads="kv_heads")), wb.Concatenate(0)],
        *of_each(lambda x: torch.cat([rotate(x[:16], 4), rotate(x[16:20], 1), x[20:]]), (24, 3), (24,)),
        HEADS,
    ),
    "[K; Q; V] to [Q; K; V], with a rotary key": Case(
        [wb.Split(0, (QKV[1], QKV[0], QKV[2])), wb.On([0], wb.PermuteForRope(num_heads="kv_heads")), wb.Concatenate(0),
         wb.Reorder(0, (1, 0, 2), (QKV[1], QKV[0], QKV[2]))],
        *of_each(lambda x: torch.cat([x[4:20], rotate(x[:4], 1), x[20:]]), (24, 3)),
        HEADS,
    ),
    "halves of which one is interleaved": Case(
        [wb.Chunk(0, chunks=2), wb.On([1], wb.Interleave(0, inverse=True)), wb.Concatenate(0)],
        *of_each(lambda x: torch.cat([x[:4], x[[4, 6, 5, 7]]]), (8, 3), (8,)),
    ),
    "rotation of a part of each head": Case(
        [wb.Rearrange("(h d) ... -> h d ...", h=3), wb.Split(1, (4, 2)), wb.On([0], wb.Interleave(1)),
         wb.Concatenate(1), wb.Rearrange("h d ... -> (h d) ...", h=3)],
        *of_each(rotate_first, (18, 2)),
    ),
    "parts that are each turned, and joined along the other axis": Case(
        [wb.Split(0, (2, 4)), wb.Transpose(0, 1), wb.Concatenate(1, sizes=(2, 4))],
        *of_each(lambda x: x.T.contiguous(), (6, 3)),
    ),
    "one of two sources is transposed": Case(
        [wb.On([1], wb.Transpose(0, 1)), wb.Concatenate(0, sizes=(3, 2))],
        {"block.up": numbers(3, 5), "block.down": 100 + numbers(5, 2)},
        {"block": torch.cat([numbers(3, 5), 100 + numbers(5, 2).T])},
        sides=(["block.up", "block.down"], "block"),
    ),
    "one of two kinds of experts is transposed": Case(
        [wb.On([1], wb.Transpose(0, 1)), wb.MergeModulelist(0), wb.Concatenate(1, sizes=(3, 2))],
        {f"block.{i}.{name}": 100 * i + numbers(*shape)
         for i in range(4) for name, shape in (("up", (3, 5)), ("down", (5, 2)))},
        {"block": torch.stack([torch.cat([100 * i + numbers(3, 5), 100 * i + numbers(5, 2).T]) for i in range(4)])},
        sides=(["block.*.up", "block.*.down"], "block"),
    ),
    "one of two targets is transposed": Case(
        [wb.Split(0, (3, 2)), wb.On([1], wb.Transpose(0, 1))],
        {"block": numbers(5, 4)},
        {"block.up": numbers(5, 4)[:3], "block.down": numbers(5, 4)[3:].T.contiguous()},
        sides=("block", ["block.up", "block.down"]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_from_memory_and_back(case: Case) -> None:
    case.check_in_memory()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_inverse_is_recorded_and_derived(case: Case) -> None:
    case.check_ways_back()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_from_files_and_back(case: Case, tmp_path: Path) -> None:
    case.check_files(tmp_path)


@pytest.mark.parametrize(
    ("operation", "code", "words"),
    [
        (lambda: wb.Reorder(0, (0, 2)), "operation-argument", "names each part once"),
        (lambda: wb.Reorder(0, ()), "operation-argument", "names each part once"),
        (lambda: wb.Reorder(0, (1, 0), (2,)), "operation-argument", "2 sizes"),
        (lambda: wb.Reorder(0, (1, 0), (2, 0)), "operation-argument", "above 0"),
        (lambda: wb.Reorder(0, (1, 0), source_stripes=0), "operation-argument", "above 0"),
        (lambda: wb.Reorder(0, (1, 0), target_stripes=""), "operation-argument", "stripes"),
        (lambda: wb.Reorder(3, (1, 0)), "axis-out-of-range", "axis"),
        (lambda: wb.Reorder(0, (1, 0, 2)), "split-unequal", "3 equal parts"),
        (lambda: wb.Reorder(0, (1, 0), (5, 4)), "shape-mismatch", "add up to 8"),
        (lambda: wb.Reorder(0, (1, 0), (5, 3), source_stripes=2), "split-unequal", "2 equal stripes"),
        (lambda: wb.Reorder(0, (1, 0), ("nobody", 3)), "operation-config", "nobody"),
        (lambda: (wb.Split(0, (5, 4)), wb.Concatenate(0)), "shape-mismatch", "add up to axis 0"),
        (lambda: (wb.Split(0, (5, 3)), wb.On([0], wb.Transpose()), wb.Concatenate(0)), "shape-mismatch", "[5, 3]"),
        (lambda: (wb.Split(0, (5, 3)), wb.Transpose()), "operation-arity", "2: 5, 3"),
        (lambda: (wb.Split(0, (5, 3)), wb.Concatenate(0, sizes=(3, 5))), "shape-mismatch", "(5, 3)"),
        (lambda: (wb.Split(0), wb.Concatenate(0)), "operation-arity", "Split does not say how many"),
        (lambda: (wb.Chunk(0), wb.Concatenate(0)), "operation-arity", "Chunk(dim, chunks=...)"),
        (lambda: (wb.Chunk(0, chunks=3), wb.Concatenate(0)), "split-unequal", "3 equal parts"),
        (lambda: (wb.Chunk(0, chunks=2), wb.Chunk(0, chunks=2), wb.Concatenate(0)), "mapping-invalid", "not 2"),
        (
            lambda: (wb.Chunk(0, chunks=2), wb.On([2], wb.Transpose()), wb.Concatenate(0)),
            "operation-arity",
            "2 tensors",
        ),
        (lambda: (wb.On([1], wb.Transpose()),), "operation-arity", "got       1 tensor"),
        (lambda: (wb.On([0], wb.Chunk(0, chunks=2)),), "operation-argument", "neither joins nor cuts"),
        (lambda: (wb.On([0], wb.On([0], wb.Transpose())),), "operation-argument", "neither joins nor cuts"),
    ],
)
def test_what_does_not_fit_is_refused(operation: Any, code: str, words: str) -> None:
    def plan() -> wb.Plan:
        made = operation()
        rules = [wb.WeightConverter("a", "b", made if isinstance(made, tuple) else [made])]
        return wb.plan(wb.Header({"a": wb.TensorSpec("F32", (8, 3))}), rules, config={"heads": 2})

    with pytest.raises(wb.WeighbridgeError) as caught:
        plan()
    assert code in getattr(caught.value, "codes", (caught.value.code,))
    assert words in str(caught.value)


def test_parts_that_are_said_to_be_equal_are_not_noted() -> None:
    """Others are: on the way back the mapping alone does not say how long each is."""
    for join, count in ((wb.Concatenate(0), 1), (wb.Concatenate(0, chunks=2), 0)):
        rules = wb.Mapping([wb.WeightConverter(["up", "down"], "both", [join])])
        assert len(wb.plan({"both": numbers(4, 3)}, rules.inverse()).notes) == count


def test_one_of_two_sources_is_cast() -> None:
    sources = {"up": numbers(3, 5), "down": numbers(2, 5).bfloat16()}
    chain = [wb.On([1], wb.Cast("F32", "BF16")), wb.Concatenate(0)]
    plan = wb.plan(sources, [wb.WeightConverter(["up", "down"], "both", chain)])
    assert torch.equal(plan.state_dict()["both"], torch.cat([numbers(3, 5), numbers(2, 5)]))
    back = plan.inverse(lossy=True).state_dict(plan.state_dict())
    assert back["down"].dtype == torch.bfloat16
    assert equal(back, sources)


def test_a_plan_says_which_parts_are_re_ordered() -> None:
    chain = [wb.Split(0, (6, 2)), wb.On([0], wb.Interleave(0)), wb.Concatenate(0)]
    plan = wb.plan(wb.Header({"w": wb.TensorSpec("F32", (8, 3))}), [wb.WeightConverter("w", "v", chain)])
    text = str(plan.explain("v"))
    assert "Split(sizes=[6, 2]), On(parts=[0], apply=Interleave()), Concatenate()" in text
    assert "v[0:6, :] <- w[0:6, :] re-ordered" in text
    assert "v[6:8, :] <- w[6:8, :]" in text


def test_a_plan_says_which_blocks_go_where() -> None:
    rules = [wb.WeightConverter("up_gate", "gate_up", [wb.Reorder(0, (1, 0), (6, 2))])]
    plan = wb.plan(wb.Header({"up_gate": wb.TensorSpec("F32", (8, 3))}), rules)
    text = str(plan.explain("gate_up"))
    assert "Reorder(order=[1, 0], sizes=[6, 2])" in text
    assert "[6:8, :]" in text
    assert "[0:6, :]" in text


@laws
@given(st.integers(0, 2**32))
def test_an_order_of_blocks_is_that_of_torch_and_has_an_inverse(seed: int) -> None:
    """With parts that lie in any number of stripes on both sides; recorded, derived, and turned round twice."""
    chance = random.Random(seed)
    before, after, count = chance.randint(1, 3), chance.randint(1, 3), chance.randint(1, 4)
    sizes = [before * after * chance.randint(1, 3) for _ in range(count)]
    order = chance.sample(range(count), count)
    shape = chance.sample((2, 3), 2)
    axis = chance.randrange(3)
    shape.insert(axis, sum(sizes))
    whole = numbers(*shape)
    stripes = [stripe.split([size // before for size in sizes], axis) for stripe in whole.chunk(before, axis)]
    parts = [torch.cat([stripe[part] for stripe in stripes], axis).chunk(after, axis) for part in order]
    wanted = torch.cat([part[stripe] for stripe in range(after) for part in parts], axis)
    rules = wb.Mapping([wb.WeightConverter("w", "v", [wb.Reorder(axis, order, sizes, before, after)])])
    plan = wb.plan({"w": whole}, rules)
    assert torch.equal(plan.state_dict()["v"], wanted)
    assert plan.inverse().inverse() == plan
    assert torch.equal(wb.plan({"v": wanted}, rules.inverse()).state_dict()["w"], whole)


@laws
@given(st.integers(0, 2**32))
def test_a_chain_is_that_of_torch_and_has_an_inverse(seed: int) -> None:
    """Some parts of one tensor are interleaved, along either axis; recorded, derived, and turned round twice."""
    chance = random.Random(seed)
    count, along, axis = chance.randint(1, 4), chance.randrange(2), chance.randrange(2)
    sizes = [2 * chance.randint(1, 3) for _ in range(count)]
    whole = numbers(sum(sizes), 4) if axis == 0 else numbers(4, sum(sizes))
    chosen = chance.sample(range(count), chance.randint(1, count))
    parts = list(whole.split(sizes, axis))
    for number in chosen:
        length = parts[number].shape[along]
        parts[number] = parts[number].index_select(along, torch.tensor([*range(0, length, 2), *range(1, length, 2)]))
    wanted = torch.cat(parts, axis)
    cut = (
        wb.Chunk(axis, chunks=count) if len(set(sizes)) == 1 and chance.random() < 0.5 else wb.Split(axis, tuple(sizes))
    )
    chain = [cut, wb.On(chosen, wb.Interleave(along)), wb.Concatenate(axis)]
    rules = wb.Mapping([wb.WeightConverter("w", "v", chain)])
    plan = wb.plan({"w": whole}, rules)
    assert plan.is_exact
    assert torch.equal(plan.state_dict()["v"], wanted)
    assert plan.inverse().inverse() == plan
    assert torch.equal(plan.inverse().state_dict({"v": wanted})["w"], whole)
    assert torch.equal(wb.plan({"v": wanted}, rules.inverse()).state_dict()["w"], whole)
