"""Laws of the operations: each equals an eager reference, each inverse gives the data back."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from transformers import core_model_loading as peer

import weighbridge as wb
from weighbridge.algebra.layout import Layout
from weighbridge.base.errors import LayoutError
from weighbridge.operations.configuration import read_config
from weighbridge.operations.lowering import Lowered, lower
from weighbridge.operations.ops import (
    OPERATIONS,
    Cast,
    Chunk,
    Concatenate,
    Conv3dToLinear,
    ErnieFuseAndSplitTextVisionExperts,
    ErnieSplitAndDecoupleTextVisionExperts,
    InsertConstant,
    Interleave,
    LinearToConv3d,
    MergeEqual,
    MergeModulelist,
    On,
    Operation,
    Pad,
    Permute,
    PermuteForRope,
    Rearrange,
    RemoveConstant,
    Reorder,
    Repeat,
    Reshape,
    Split,
    SplitModulelist,
    Transpose,
    Trim,
    invert,
    operation_from_dict,
)
from weighbridge.operations.rearrange import movement, parse, reverse
from weighbridge.operations.values import Context, Lane, Value

Tensors = list[list[torch.Tensor]]
laws = settings(max_examples=1000, deadline=None)
DTYPES = {"F32": torch.float32, "F64": torch.float64, "BF16": torch.bfloat16, "I64": torch.int64}
CODES = {dtype: code for code, dtype in DTYPES.items()}
CONFIG = {"num_attention_heads": 3, "num_key_value_heads": 2, "shards": 4, "vision": {"num_attention_heads": 5}}


def numbered(groups: Sequence[Sequence[tuple[int, ...]]], dtype: torch.dtype = torch.int64) -> Tensors:
    """Make tensors of the given shapes, no two elements alike."""
    start, tensors = 0, []
    for group in groups:
        tensors.append([])
        for shape in group:
            tensors[-1].append(torch.arange(start, start + prod(shape)).reshape(shape).to(dtype))
            start += prod(shape)
    return tensors


def lanes_of(tensors: Tensors, indexed: bool | None = None, names: Sequence[str] = ()) -> tuple[Lane, ...]:
    """Make lanes whose values are whole sources; more than one tensor, or none, makes an indexed lane."""
    lanes, slot = [], 0
    for number, group in enumerate(tensors):
        values = tuple(Value(Layout.of(slot + i, tuple(t.shape)), CODES[t.dtype]) for i, t in enumerate(group))
        name = names[number] if names else f"source{number}"
        lanes.append(Lane(name, values, len(group) != 1 if indexed is None else indexed))
        slot += len(group)
    return tuple(lanes)


def write(value: Value, slots: list[torch.Tensor]) -> torch.Tensor:
    out = torch.empty(value.shape, dtype=DTYPES[value.dtype])
    for source, read, start, loops in value.layout.copies:
        sizes = [loop.size for loop in loops]
        source_view = slots[source].reshape(-1).as_strided(sizes, [loop.source_stride for loop in loops], read)
        out.view(-1).as_strided(sizes, [loop.target_stride for loop in loops], start).copy_(source_view)
    return out


def run(lowered: Lowered, tensors: Tensors) -> Tensors:
    slots = [tensor for group in tensors for tensor in group] * lowered.repeats
    slots += [torch.full(spec.shape, DECLARED, dtype=DTYPES[spec.dtype]) for spec, _ in lowered.constants]
    for temporary in lowered.temporaries:
        slots.append(write(Value(temporary.layout, temporary.dtype), slots))
    return [[write(value, slots) for value in lane.values] for lane in lowered.lanes]


def same(actual: Tensors, expected: Sequence[Sequence[torch.Tensor]]) -> bool:
    return len(actual) == len(expected) and all(
        len(a) == len(b) and all(x.dtype == y.dtype and torch.equal(x, y) for x, y in zip(a, b, strict=True))
        for a, b in zip(actual, expected, strict=True)
    )


def context_of(tensors: Sequence[Sequence[torch.Tensor]], lanes: Sequence[Lane], **given: Any) -> Context:
    """Return the context in which these tensors are the targets."""
    shapes = tuple(tuple(tuple(tensor.shape) for tensor in group) for group in tensors)
    names = tuple(lane.name for lane in lanes)
    indexed = tuple(lane.indexed for lane in lanes)
    return Context(names, shapes, indexed, tuple(map(len, tensors)), **given)


@dataclass(frozen=True)
class Case:
    """An operation, shapes to use it on, and what it must do, said eagerly.

    Of `equal` tensors that lie side by side, each holds what the first one holds. The interval `rest` of an axis holds
    a declared value, given as axis, start and stop.
    """

    operation: Operation
    shapes: Sequence[Sequence[tuple[int, ...]]]
    reference: Callable[[Tensors], Sequence[Sequence[torch.Tensor]]]
    targets: tuple[str, ...] = ("target",)
    indexed: bool | None = None
    names: Sequence[str] = ()
    dtype: torch.dtype = torch.int64
    given: dict[str, Any] = field(default_factory=dict)
    equal: int = 1
    rest: tuple[int, int, int] | None = None

    def __str__(self) -> str:
        return repr(self.operation)


def each(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], Tensors]:
    return lambda tensors: [[change(tensor) for tensor in group] for group in tensors]


def rope(heads: int, inverse: bool = False) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        rows = torch.arange(tensor.shape[0]).reshape(heads, -1)
        order = [torch.cat([head[0::2], head[1::2]]) for head in rows]
        order = torch.cat(order)
        return tensor[order.argsort() if inverse else order]

    return change


def gathered(whole: torch.Tensor) -> torch.Tensor:
    """Take stripes of four ranks apart, each with 2, 1 and 3 rows of q, k and v, to [q; v; k]."""
    ranks = [rank.split((2, 1, 3)) for rank in whole.chunk(4)]
    return torch.cat([torch.cat([rank[part] for rank in ranks]) for part in (0, 2, 1)])


def ernie_fuse(tensors: Tensors) -> Tensors:
    half = len(tensors[0]) // 2
    return [[torch.cat([torch.stack(group[start : start + half], 0) for group in tensors], 1)] for start in (0, half)]


def ernie_split(tensors: Tensors) -> Tensors:
    halves = [group[0].chunk(2, dim=1) for group in tensors]
    return [[x for pair in halves for x in pair[number].unbind(0)] for number in range(2)]


def halves(tensor: torch.Tensor) -> torch.Tensor:
    return torch.cat([tensor[0::2], tensor[1::2]])


DECLARED = 77
"""The declared value of all cases."""


def longer(*sizes: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Pad the last axes, the last one first."""
    pairs = [end for size in sizes for end in (0, size)]
    return lambda tensor: torch.nn.functional.pad(tensor, pairs, value=DECLARED)


TWO = ("first", "second")
TRIO = (*TWO, "third")
CASES = [
    Case(MergeModulelist(), [[(2, 3)] * 4, [(5, 3)] * 4], lambda t: [[torch.stack(g)] for g in t], TWO),
    Case(MergeModulelist(-1), [[(2, 3)] * 4], lambda t: [[torch.stack(g, -1)] for g in t]),
    Case(MergeModulelist(1), [[(2, 3)]], lambda t: [[torch.stack(g, 1)] for g in t], indexed=True),
    Case(SplitModulelist(1), [[(2, 4, 3)], [(5, 4)]], lambda t: [g[0].unbind(1) for g in t], TWO),
    Case(Concatenate(), [[(2, 3)], [(4, 3)], [(1, 3)]], lambda t: [[torch.cat([g[0] for g in t])]]),
    Case(Concatenate(-1), [[(2, 3)] * 3, [(2, 5)]], lambda t: [[torch.cat([x for g in t for x in g], -1)]]),
    Case(Concatenate(0, "shards"), [[(2, 3)] * 4], lambda t: [[torch.cat(t[0])]]),
    Case(Concatenate(1, sizes=(3, 5)), [[(2, 3)], [(2, 5)]], lambda t: [[torch.cat([g[0] for g in t], 1)]]),
    Case(Chunk(1), [[(3, 8)]], lambda t: [[x] for x in t[0][0].chunk(2, 1)], TWO),
    Case(Chunk(0, "shards"), [[(8, 3)]], lambda t: [t[0][0].chunk(4)], indexed=False),
    Case(Split(0, (1, 4)), [[(5, 3)]], lambda t: [[x] for x in t[0][0].split((1, 4))], TWO),
    Case(Split(-1, (1, 4)), [[(3, 5)]], lambda t: [[x] for x in t[0][0].split((1, 4), -1)], TWO),
    Case(Transpose(), [[(2, 3)]], each(lambda x: x.transpose(0, 1))),
    Case(Transpose(1, -1), [[(2, 3, 4, 5)] * 2, [(4, 3, 2)]], each(lambda x: x.transpose(1, -1)), TWO),
    Case(
        Transpose(check_dims=True),
        [[(2, 3)]],
        each(lambda x: x.transpose(0, 1)),
        given={"target_shapes": (((3, 2),),)},
    ),
    Case(Transpose(check_dims=True), [[(2, 3)]], each(lambda x: x), given={"target_shapes": (((2, 3),),)}),
    Case(Permute((2, 0, -2)), [[(2, 3, 5)]], each(lambda x: x.permute(2, 0, 1))),
    Case(Permute((1, 3, 0, 2)), [[(2, 3, 4, 5)]], each(lambda x: x.permute(1, 3, 0, 2))),
    Case(Reshape((-1, 3), (6, 4)), [[(6, 4)]], each(lambda x: x.reshape(8, 3))),
    Case(Reshape((2, 12), (-1, 3)), [[(8, 3)]], each(lambda x: x.reshape(2, 12))),
    Case(Interleave(), [[(6, 5)]], each(lambda x: torch.cat([x[0::2], x[1::2]]))),
    Case(Interleave(1, inverse=True), [[(3, 8)]], each(lambda x: torch.stack([x[:, :4], x[:, 4:]], 2).flatten(1))),
    Case(PermuteForRope(), [[(12, 5)], [(18,)]], each(rope(3)), TWO),
    Case(PermuteForRope(inverse=True), [[(12, 5)], [(18,)]], each(rope(3, inverse=True)), TWO),
    Case(PermuteForRope("vision", num_heads="num_attention_heads"), [[(20, 3)]], each(rope(5))),
    Case(PermuteForRope(num_heads=2), [[(8, 3)]], each(rope(2))),
    Case(
        PermuteForRope(permute_layer_names=["k_proj"], num_heads="num_key_value_heads"),
        [[(8, 3)], [(8, 5)]],
        lambda t: [t[0], [rope(2)(t[1][0])]],
        ("q_proj", "k_proj"),
        names=("q_proj", "k_proj"),
    ),
    Case(Conv3dToLinear(3, (2, 4, 5)), [[(7, 3, 2, 4, 5)]], each(lambda x: x.flatten(1))),
    Case(LinearToConv3d(3, (2, 4, 5)), [[(7, 120)]], each(lambda x: x.reshape(7, 3, 2, 4, 5))),
    Case(ErnieFuseAndSplitTextVisionExperts(), [[(2, 3)] * 6, [(5, 3)] * 6], ernie_fuse, TWO, names=("g.*", "u.*")),
    Case(ErnieFuseAndSplitTextVisionExperts(), [[(2, 3)] * 6] * 2, ernie_fuse, TWO),
    Case(ErnieSplitAndDecoupleTextVisionExperts(), [[(3, 4, 5)], [(3, 6, 5)]], ernie_split, TWO),
    Case(ErnieSplitAndDecoupleTextVisionExperts(), [[(3, 4, 5)], [(3, 4, 5)]], ernie_split, TWO),
    Case(
        Rearrange("(h two d) c -> (two h d) c", two=2, h="num_attention_heads"),
        [[(24, 5)]],
        each(lambda x: x.reshape(3, 2, 4, 5).transpose(0, 1).reshape(24, 5)),
    ),
    Case(
        Rearrange("(g r) ... 1 -> ... g () r", g=2, r=3),
        [[(6, 4, 5, 1)], [(6, 1)]],
        each(lambda x: x.reshape(2, 3, *x.shape[1:-1]).movedim((0, 1), (-2, -1)).unsqueeze(-2)),
        TWO,
    ),
    Case(Reorder(0, (1, 0)), [[(6, 5)], [(8,)]], each(lambda x: torch.cat(x.chunk(2)[::-1])), TWO),
    Case(Reorder(-1, (1, 2, 0), (1, 4, 2)), [[(3, 7)]], each(lambda x: torch.cat([x[:, 1:5], x[:, 5:], x[:, :1]], 1))),
    Case(
        Reorder(0, (2, 0, 1), ("num_attention_heads", 2, "shards*vision.num_attention_heads")),
        [[(25, 2)]],
        each(lambda x: torch.cat([x[5:], x[:5]])),
    ),
    Case(Reorder(0, (0, 2, 1), (8, 4, 12), source_stripes="shards"), [[(24, 2)]], each(gathered)),
    Case(
        Reorder(1, (0, 1), source_stripes=3, target_stripes=2),
        [[(5, 12)]],
        each(lambda x: x[:, [0, 1, 4, 2, 3, 6, 5, 8, 9, 7, 10, 11]]),
    ),
    Case(Repeat(), [[(2, 3)]], lambda t: [t[0], t[0]], TWO),
    Case(Repeat(), [[(2, 3)]], lambda t: [t[0] * 4], given={"indexed": (True,), "counts": (4,)}),
    Case(Repeat(2), [[(2, 3)], [(4,)]], lambda t: [t[0], t[0], t[1], t[1]], tuple("abcd")),
    Case(
        Repeat(3),
        [[(2, 3)] * 2, [(5,)] * 2],
        lambda t: [[x for x in group for _ in range(3)] for group in t],
        TWO,
        given={"indexed": (True, True)},
    ),
    Case(MergeEqual(), [[(2, 3)], [(2, 3)]], lambda t: [t[0]], equal=2),
    Case(MergeEqual(), [[(2, 3)] * 4], lambda t: [t[0][:1]], equal=4),
    Case(MergeEqual(2), [[(2, 3)], [(2, 3)], [(4,)], [(4,)]], lambda t: [t[0], t[2]], TWO, equal=2),
    Case(MergeEqual(3), [[(2, 3)] * 6], lambda t: [t[0][::3]], given={"indexed": (True,)}, equal=3),
    Case(Cast("float64", "float32"), [[(2, 3)]], each(lambda x: x.double()), dtype=torch.float32),
    Case(Chunk(1, chunks=3), [[(2, 12)]], lambda t: [[x] for x in t[0][0].chunk(3, 1)], ("a", "b", "c")),
    Case(Concatenate(1, chunks=2), [[(2, 3)], [(2, 3)]], lambda t: [[torch.cat([g[0] for g in t], 1)]]),
    Case(
        Pad(0, 5, value=DECLARED, source_size=3),
        [[(3, 2)], [(3,)]],
        lambda t: [[longer(0, 2)(t[0][0])], [longer(2)(t[1][0])]],
        TWO,
    ),
    Case(Pad(-1, multiple_of="num_attention_heads", value=DECLARED, source_size=4), [[(2, 4)] * 3], each(longer(2))),
    Case(Pad(1, "shards*num_key_value_heads", value=DECLARED), [[(2, 5)]], each(longer(3))),
    Case(Pad(0, value=DECLARED), [[(3, 2)]], each(longer(0, 4)), given={"target_shapes": (((7, 2),),)}),
    Case(Pad(0, 3), [[(3, 2)]], each(lambda x: x)),
    Case(Trim(0, 3, value=DECLARED, source_size=5), [[(5, 2)]], each(lambda x: x[:3]), rest=(0, 3, 5)),
    Case(Trim(-1, 4, multiple_of=3, value=DECLARED), [[(2, 6)]], each(lambda x: x[:, :4]), rest=(1, 4, 6)),
    Case(
        Trim(1, value=DECLARED),
        [[(2, 6)]],
        each(lambda x: x[:, :1]),
        rest=(1, 1, 6),
        given={"target_shapes": (((2, 1),),)},
    ),
    Case(
        InsertConstant(1, (2, "shards"), DECLARED),
        [[(3, 4)], [(5, 4)]],
        lambda t: [t[0], [torch.full((2, 4), DECLARED)], t[1]],
        TRIO,
    ),
    Case(InsertConstant(0, (4,), DECLARED), [[(3, 4)]], lambda t: [[torch.full((4,), DECLARED)], *t], TWO),
    Case(
        RemoveConstant(1, ("num_key_value_heads", 4), DECLARED), [[(3, 4)], [(2, 4)]], lambda t: t[:1], rest=(0, 0, 2)
    ),
    Case(On([1], Transpose()), [[(2, 3)], [(5, 4)]], lambda t: [t[0], [t[1][0].T]], TWO),
    Case(On([1, 0], PermuteForRope()), [[(12, 2)], [(6, 5)], [(8,)]], lambda t: [*each(rope(3))(t[:2]), t[2]], TRIO),
    Case(
        On([0], Transpose(check_dims=True)),
        [[(2, 3)], [(3, 3)]],
        lambda t: [[t[0][0].T], t[1]],
        TWO,
        given={"target_shapes": (((3, 2),), ((3, 3),))},
    ),
    Case(On([1], Interleave()), [[(2, 3)] * 3, [(4, 5)] * 2], lambda t: [t[0], each(halves)(t)[1]], TWO),
]


def equal_ones(tensors: Tensors, count: int) -> Tensors:
    """Give all of `count` tensors that lie side by side the values of the first."""
    flat = [tensor for group in tensors for tensor in group]
    values = iter([flat[number - number % count].clone() for number in range(len(flat))])
    return [[next(values) for _ in group] for group in tensors]


def forward(case: Case) -> tuple[Tensors, tuple[Lane, ...], Lowered]:
    tensors = equal_ones(numbered(case.shapes, case.dtype), case.equal)
    if case.rest is not None:
        axis, start, stop = case.rest
        tensors[-1][0].narrow(axis, start, stop - start).fill_(DECLARED)
    lanes = lanes_of(tensors, case.indexed, case.names)
    context = Context(case.targets, config=CONFIG, **case.given)
    return tensors, lanes, lower([case.operation], lanes, context)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_operation_equals_its_eager_reference(case: Case) -> None:
    tensors, _, lowered = forward(case)
    assert same(run(lowered, tensors), case.reference(tensors))
    assert all(same(run(replace(lowered, lanes=again), tensors), case.reference(tensors)) for again in lowered.again)
    assert tuple(lane.name for lane in lowered.lanes) == case.targets


@pytest.mark.parametrize("case", [case for case in CASES if case.rest is not None], ids=str)
def test_what_is_cut_off_is_told_with_its_value(case: Case) -> None:
    tensors, _, lowered = forward(case)
    slots = [tensor for group in tensors for tensor in group]
    ((rest, element),) = lowered.cuts
    written = write(rest, slots)
    assert written.numel() == sum(map(torch.numel, slots)) - sum(x.numel() for g in case.reference(tensors) for x in g)
    assert torch.equal(written, torch.frombuffer(bytearray(element), dtype=case.dtype).expand_as(written))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_inverse_gives_the_data_back(case: Case) -> None:
    """So does the inverse's inverse: it does what the operation does."""
    tensors, lanes, lowered = forward(case)
    moved = run(lowered, tensors)
    back = lower([case.operation.inverse()], relaned(lowered, moved), context_of(tensors, lanes, config=CONFIG))
    assert same(run(back, moved), tensors)
    again = case.operation.inverse().inverse()
    repeated = lower([again], lanes, context_of(moved, lowered.lanes, config=CONFIG))
    assert same(run(repeated, tensors), moved)


def relaned(lowered: Lowered, moved: Tensors) -> tuple[Lane, ...]:
    """Return the lanes of outputs as lanes of sources."""
    lanes = zip(lanes_of(moved), lowered.lanes, strict=True)
    return tuple(replace(lane, name=old.name, indexed=old.indexed) for lane, old in lanes)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_operation_is_a_value_with_a_json_form(case: Case) -> None:
    operation = case.operation
    assert operation_from_dict(operation.to_dict()) == operation
    assert pickle.loads(pickle.dumps(operation)) == operation
    assert eval(repr(operation)) == operation
    assert len({operation, eval(repr(operation))}) == 1


def test_every_operation_has_a_case() -> None:
    assert {type(case.operation) for case in CASES} == set(OPERATIONS)


def test_argument_names_are_those_of_the_peer() -> None:
    for cls in OPERATIONS:
        theirs = getattr(peer, cls.__name__, None)
        if theirs is not None:
            count = theirs.__init__.__code__.co_argcount
            names = theirs.__init__.__code__.co_varnames[1:count]
            example = next(case.operation for case in CASES if isinstance(case.operation, cls))
            assert tuple(example.to_dict())[1 : 1 + len(names)] == names


# Against the peer itself

ONE_TO_ONE = MergeModulelist | SplitModulelist | Transpose | PermuteForRope

PEER_CASES = [
    case
    for case in CASES
    if hasattr(peer, type(case.operation).__name__)
    and type(case.operation).__name__ != "Split"
    and not getattr(case.operation, "check_dims", False)
    and getattr(case.operation, "num_heads", None) is None
    and getattr(case.operation, "sizes", None) is None
]


@pytest.mark.parametrize("case", PEER_CASES, ids=str)
def test_operation_equals_the_one_of_the_peer(case: Case) -> None:
    if len(case.targets) > 1 and isinstance(case.operation, ONE_TO_ONE):
        case = replace(case, shapes=case.shapes[:1], targets=case.targets[:1], names=case.names[:1])
    if isinstance(case.operation, Transpose):
        # The peer reads the first tensor of a pattern and drops the others.
        case = replace(case, shapes=[case.shapes[0][:1]])
    tensors, _, lowered = forward(case)
    form = case.operation.to_dict()
    ours = ("operation", "num_heads", "sizes", "chunks")
    arguments = {name: value for name, value in form.items() if name not in ours}
    theirs = getattr(peer, form["operation"])(**arguments)
    text = SimpleNamespace(**{**CONFIG, "vision": SimpleNamespace(**CONFIG["vision"])})
    text.get_text_config = lambda: text
    names = [f"s{number}" for number in range(len(tensors))]
    splits = isinstance(case.operation, SplitModulelist | ErnieSplitAndDecoupleTextVisionExperts)
    splits = splits or form.get("num_shards_attribute") is not None
    targets = [f"{target}.*" for target in case.targets] if splits else list(case.targets)
    moved = theirs.convert(
        dict(zip(names, [list(group) for group in tensors], strict=True)),
        source_patterns=names,
        target_patterns=targets,
        config=text,
    )
    expected = [x for out in moved.values() for x in (out if isinstance(out, list | tuple) else [out])]
    actual = [x for group in run(lowered, tensors) for x in group]
    assert same([actual], [expected])


# Chunk and Split


def test_chunk_is_sized_by_its_targets() -> None:
    """Grouped heads: k and v are smaller than q, and an equal cut would be silently wrong."""
    tensors = numbered([[(12, 5)]])
    context = Context(("q", "k", "v"), (((6, 5),), ((3, 5),), ((3, 5),)))
    q, k, v = run(lower([Chunk(0)], lanes_of(tensors), context), tensors)
    assert same([q, k, v], [[x] for x in tensors[0][0].split((6, 3, 3))])


def test_chunk_sees_the_targets_through_later_operations() -> None:
    """A later transpose and a later split do not hide the sizes that the targets ask for."""
    tensors = numbered([[(4, 12, 5)]])
    context = Context(("a.*", "b.*"), (((5, 8),) * 4, ((5, 4),) * 4))
    lowered = lower([Chunk(1), SplitModulelist(0), Transpose(0, 1)], lanes_of(tensors), context)
    expected = [[x.T for x in part.unbind(0)] for part in tensors[0][0].split((8, 4), 1)]
    assert same(run(lowered, tensors), expected)


@pytest.mark.parametrize("between", [[], [On([0], Reorder(1, (1, 0)))]], ids=["at once", "with a part moved"])
def test_what_is_cut_again_was_cut_into_one_part(between: list[Operation]) -> None:
    tensors = numbered([[(4, 2)]])
    cut = run(lower([Chunk(1), *between, Chunk(0)], lanes_of(tensors), Context(("a", "b"))), tensors)
    whole = tensors[0][0][:, [1, 0]] if between else tensors[0][0]
    assert same(cut, [[half] for half in whole.chunk(2)])
    rule = wb.WeightConverter("x.w", ["x.a", "x.b"], [Chunk(1), *between, Chunk(0)])
    plan = wb.plan({"x.w": tensors[0][0]}, [rule])
    assert same([list(plan.state_dict().values())], [[*whole.chunk(2)]])
    assert same([list(plan.inverse(plan.state_dict()).state_dict().values())], [[tensors[0][0]]])


def test_chunk_gives_an_indexed_target_its_count() -> None:
    tensors = numbered([[(12, 5)]])
    context = Context(("part.*", "rest"), indexed=(True, False), counts=(3, None))
    lowered = lower([Chunk(0)], lanes_of(tensors), context)
    assert [(len(lane.values), lane.indexed) for lane in lowered.lanes] == [(3, True), (1, False)]
    assert same(run(lowered, tensors), [tensors[0][0].chunk(4)[:3], tensors[0][0].chunk(4)[3:]])


def test_split_takes_sizes_from_its_targets() -> None:
    tensors = numbered([[(5, 3)]])
    context = Context(("a", "b"), (((1, 3),), ((4, 3),)))
    assert same(run(lower([Split(0)], lanes_of(tensors), context), tensors), [[x] for x in tensors[0][0].split((1, 4))])


# Rearrange


@st.composite
def rearrangements(draw: st.DrawFn) -> tuple[str, dict[str, int], tuple[int, ...], list[int], list[int]]:
    """Return a pattern, lengths, a shape, the elementary sizes and their order."""
    count = draw(st.integers(1, 5))
    sizes = draw(st.permutations([2, 3, 4, 5, 1, 6]))[:count]
    order = draw(st.permutations(range(count)))
    names = [f"a{number}" for number in range(count)]

    def grouped(axes: Sequence[int]) -> list[list[int]]:
        groups: list[list[int]] = []
        for axis in axes:
            if groups and draw(st.booleans()):
                groups[-1].append(axis)
            else:
                groups.append([axis])
        return groups

    left, right = grouped(range(count)), grouped(order)
    sides = [" ".join(f"({' '.join(names[axis] for axis in group)})" for group in side) for side in (left, right)]
    known = {names[axis]: sizes[axis] for group in left for axis in group[:-1]}
    known |= {names[axis]: sizes[axis] for group in right for axis in group[:-1]}
    shape = tuple(prod(sizes[axis] for axis in group) for group in left)
    return " -> ".join(sides), known, shape, list(sizes), list(order)


@laws
@given(rearrangements())
def test_rearrange_splits_permutes_and_joins(
    example: tuple[str, dict[str, int], tuple[int, ...], list[int], list[int]],
) -> None:
    pattern, known, shape, sizes, order = example
    tensors = numbered([[shape]])
    operation = Rearrange(pattern, **known)
    moved = run(lower([operation], lanes_of(tensors)), tensors)
    assert torch.equal(moved[0][0].reshape(-1), tensors[0][0].reshape(sizes).permute(order).reshape(-1))
    assert same(run(lower([operation.inverse()], lanes_of(moved)), moved), tensors)
    assert operation.inverse().inverse() == operation


@laws
@given(rearrangements())
def test_reverse_of_reverse_is_the_movement(
    example: tuple[str, dict[str, int], tuple[int, ...], list[int], list[int]],
) -> None:
    pattern, known, shape, _, _ = example
    change = movement(pattern, shape, known)
    assert reverse(reverse(change, shape), change.joined) == change


@pytest.mark.parametrize(
    ("pattern", "caret"),
    [
        ("a b", 3),
        ("a b -> a", 2),
        ("a -> a b", 7),
        ("a a -> a", 2),
        ("(a b -> a b", 3),
        ("a b) -> a b", 3),
        ("((a) b) -> a b", 1),
        ("a - b -> a b", 2),
        ("a 2 -> a", 2),
        ("(a ...) -> a ...", 3),
        ("a b -> b a ->", 11),
    ],
)
def test_bad_pattern_has_a_caret_at_its_fault(pattern: str, caret: int) -> None:
    with pytest.raises(LayoutError) as caught:
        parse(pattern)
    assert caught.value.code == "operation-argument"
    assert caught.value.got == f"{pattern}\n{' ' * caret}^"


# Lists of operations


def test_inverse_of_a_list_is_the_inverses_reversed() -> None:
    tensors = numbered([[(2, 3)] * 4, [(5, 3)] * 4])
    lanes = lanes_of(tensors, names=("gate.*", "up.*"))
    there = [MergeModulelist(0), Concatenate(1), Transpose(1, 2)]
    lowered = lower(there, lanes, Context(("gate_up",)))
    moved = run(lowered, tensors)
    assert moved[0][0].shape == (4, 3, 7)
    assert len(lowered.lanes[0].values[0].layout.copies) == 8
    back = lower(invert(there), lanes_of(moved), context_of(tensors, lanes))
    assert same(run(back, moved), tensors)


def test_two_casts_keep_the_rounding_between_them() -> None:
    tensors = [[torch.rand(3, 5, dtype=torch.float32)]]
    lowered = lower([Cast("BF16"), Transpose(), Cast("F32")], lanes_of(tensors))
    assert [temporary.dtype for temporary in lowered.temporaries] == ["BF16"]
    assert same(run(lowered, tensors), [[tensors[0][0].bfloat16().float().T]])


def test_one_cast_is_fused_into_the_copy() -> None:
    lowered = lower([Cast("BF16"), Transpose(), Cast("BF16")], lanes_of([[torch.rand(3, 5)]]))
    assert lowered.temporaries == ()
    assert lowered.lanes[0].values[0].dtype == "BF16"


def test_fragmented_values_are_written_out_between_operations() -> None:
    """Sizes without a common factor fall into many pieces; the elements are the same all the same."""
    tensors = numbered([[(97, 101)]])
    there = [Transpose(), Reshape((97, 101)), Transpose(), Reshape((97, 101)), Transpose()]
    lowered = lower(there, lanes_of(tensors), cap=1)
    assert same(run(lowered, tensors), [[tensors[0][0].T.reshape(97, 101).T.reshape(97, 101).T]])
    assert lowered.temporaries
    assert {copy.source for copy in lowered.lanes[0].values[0].layout.copies} == {len(lowered.temporaries)}


def test_input_is_written_out_when_an_operation_would_fall_into_too_many_pieces() -> None:
    """Only layouts: the tensor itself would have five billion elements."""
    shape = (70_001, 70_003)
    value = Value(Layout.of(0, shape), "BF16")
    lowered = lower([Transpose(), Reshape(shape), Transpose()], [Lane("source", (value,))])
    assert [temporary.layout.shape for temporary in lowered.temporaries] == [shape]
    assert lowered.lanes[0].values[0].layout == Layout.of(1, shape).transpose(0, 1)


def random_operation(chance: random.Random, shape: tuple[int, ...]) -> Operation:
    ndim, numel = len(shape), prod(shape)
    dims = list(range(ndim))
    chance.shuffle(dims)
    divisor = chance.choice([d for d in range(1, numel + 1) if numel % d == 0])
    choices: list[Operation] = [
        Permute(tuple(dims)),
        Transpose(dims[0], dims[-1]),
        Reshape((divisor, numel // divisor), shape),
    ]
    even = [axis for axis in range(ndim) if shape[axis] % 2 == 0]
    choices += [Interleave(axis, chance.random() < 0.5) for axis in even]
    return chance.choice(choices)


@pytest.mark.parametrize("cap", [1, 4096])
def test_random_lists_of_movements_come_back(cap: int) -> None:
    """A list equals its operations run one by one, and its inverse gives the data back."""
    chance = random.Random(cap)
    for _ in range(1000):
        tensors = numbered([[tuple(chance.choice([1, 2, 3, 5, 6, 7, 8]) for _ in range(chance.randint(1, 4)))]])
        step = tensors
        there: list[Operation] = []
        for _ in range(chance.randint(1, 6)):
            there.append(random_operation(chance, tuple(step[0][0].shape)))
            step = run(lower(there[-1:], lanes_of(step)), step)
        assert same(run(lower(there, lanes_of(tensors), cap=cap), tensors), step)
        assert same(run(lower(invert(there), lanes_of(step), cap=cap), step), tensors)


CHAINS: list[tuple[list[Operation], tuple[int, ...], Callable[[torch.Tensor], torch.Tensor]]] = [
    ([Split(0, (12, 6, 2)), On([0], PermuteForRope()), Concatenate(0)], (20, 3),
     lambda x: torch.cat([rope(3)(x[:12]), x[12:]])),
    ([Split(0, ("shards*num_key_value_heads", 4)), On([1], Interleave()), Concatenate(0)], (12,),
     lambda x: torch.cat([x[:8], halves(x[8:])])),
    ([Chunk(-1, chunks=2), On([1], Interleave(1)), Concatenate(-1)], (3, 8),
     lambda x: torch.cat([x[:, :4], halves(x[:, 4:].T).T], 1)),
    ([Chunk(0, "shards"), Interleave(), Concatenate(0)], (8, 3),
     lambda x: torch.cat([halves(part) for part in x.chunk(4)])),
    ([Split(0, (2, 4)), Transpose(), Concatenate(1, sizes=(2, 4))], (6, 3), lambda x: x.T),
    ([Transpose(), Split(0, (2, 5)), On([0], Reorder(1, (1, 0))), Concatenate(0), Transpose()], (6, 7),
     lambda x: torch.cat([torch.cat([x[3:, :2], x[:3, :2]]), x[:, 2:]], 1)),
    ([Split(0, (2, 4)), Concatenate(0), Chunk(0, chunks=3), On([2], Interleave(1)), Concatenate(0)], (6, 4),
     lambda x: torch.cat([x[:4], halves(x[4:].T).T])),
]  # fmt: skip


CHAIN_NAMES = (
    "rotated part",
    "shuffled rest",
    "shuffled half",
    "each shard",
    "turned parts",
    "turned twice",
    "cut twice",
)


@pytest.mark.parametrize(("chain", "shape", "reference"), CHAINS, ids=CHAIN_NAMES)
def test_a_chain_does_what_torch_does_and_its_inverse_undoes_it(
    chain: list[Operation], shape: tuple[int, ...], reference: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """Neither way are shapes of targets known: the chain says by itself where it cuts."""
    tensors = numbered([[shape]])
    context = Context(("whole",), config=CONFIG)
    moved = run(lower(chain, lanes_of(tensors), context), tensors)
    assert same(moved, [[reference(tensors[0][0])]])
    back = invert(chain)
    assert same(run(lower(back, lanes_of(moved), context), moved), tensors)
    assert same(run(lower(invert(back), lanes_of(tensors), context), tensors), moved)


@pytest.mark.parametrize(
    "chain",
    [
        [Split(0, (2, 4)), Transpose(), Concatenate(0)],
        [Split(0, (2, 4)), On([0], Reshape((-1,), (2, 3))), Concatenate(0)],
        [Split(0, (2, 4)), Concatenate(-2)],
    ],
)
def test_a_chain_that_changes_its_parts_has_an_inverse_if_the_join_says_their_sizes(chain: list[Operation]) -> None:
    with pytest.raises(LayoutError) as caught:
        invert(chain)
    assert caught.value.code == "operation-one-way"
    assert "Concatenate(" in caught.value.hint
    *others, join = chain
    assert isinstance(join, Concatenate)
    assert invert([*others, replace(join, sizes=(1, 2))])[0] == Split(join.dim, (1, 2))


def test_a_form_of_before_is_written_as_it_was() -> None:
    """Plans are known by the hash of such forms."""
    assert Chunk(1).to_dict() == {"operation": "Chunk", "dim": 1, "num_shards_attribute": None}
    form = {"operation": "Concatenate", "dim": 0, "num_shards_attribute": None, "sizes": None}
    assert Concatenate(0).to_dict() == form
    assert Concatenate(0, chunks=2).to_dict() == form | {"chunks": 2}


def test_a_cast_of_one_part_keeps_the_rounding_of_another() -> None:
    tensors = [[torch.rand(3, 5)], [torch.rand(2, 5)]]
    chain = [On([0, 1], Cast("BF16")), On([1], Cast("F32")), On([0], Cast("F32")), Concatenate(0)]
    lowered = lower(chain, lanes_of(tensors), Context(("whole",)))
    assert same(run(lowered, tensors), [[torch.cat([tensors[0][0], tensors[1][0]]).bfloat16().float()]])


# Errors

EVEN = Context(("a", "b"))


@pytest.mark.parametrize(
    ("code", "operation", "shapes", "context"),
    [
        ("split-unequal", Chunk(0), [[(10, 3)]], Context(("a", "b", "c"))),
        ("split-unequal", Chunk(0, "shards"), [[(10, 3)]], Context(("a.*",), config=CONFIG)),
        ("operation-config", Chunk(0, "experts"), [[(8, 3)]], Context(("a.*",), config=CONFIG)),
        ("operation-config", Chunk(0, "shards"), [[(8, 3)]], Context(("a.*",))),
        ("operation-arity", Chunk(0, "shards"), [[(8, 3)]], Context(("a.*", "b"), config=CONFIG)),
        ("operation-arity", Chunk(0), [[(8, 3)], [(8, 3)]], EVEN),
        ("operation-argument", Chunk(0), [[(8, 3)]], Context(("a.*",))),
        ("shape-mismatch", Chunk(0), [[(8, 3)]], Context(("a", "b"), (((4, 3),), ((3, 3),)))),
        ("shape-mismatch", Chunk(0), [[(8, 3)]], Context(("a", "b"), (((4,),), ((4,),)))),
        ("operation-argument", Split(0), [[(8, 3)]], EVEN),
        ("operation-arity", Split(0, (2, 2, 4)), [[(8, 3)]], EVEN),
        ("shape-mismatch", Split(0, (2, 4)), [[(8, 3)]], EVEN),
        ("operation-arity", Chunk(0, chunks=4), [[(8, 3)]], EVEN),
        ("split-unequal", Chunk(0, chunks=3), [[(8, 3)]], Context()),
        ("operation-config", Split(0, ("nobody", 4)), [[(8, 3)]], Context(config=CONFIG)),
        ("shape-mismatch", Concatenate(0, chunks=2), [[(8, 3)], [(7, 3)]], Context()),
        ("shape-mismatch", Concatenate(0, chunks=3), [[(8, 3)], [(8, 3)]], Context()),
        ("operation-arity", On([2], Transpose()), [[(8, 3)], [(8, 3)]], Context()),
        ("axis-out-of-range", On([1], Transpose(0, 2)), [[(8, 3)], [(8, 3)]], Context()),
        ("operation-arity", MergeModulelist(), [[(8, 3)]], Context()),
        ("operation-arity", MergeModulelist(), [[]], Context()),
        ("shape-mismatch", MergeModulelist(), [[(8, 3), (8, 2)]], Context()),
        ("operation-arity", SplitModulelist(), [[(8, 3), (8, 3)]], Context()),
        ("shape-mismatch", Concatenate(0), [[(8, 3)], [(8, 2)]], Context()),
        ("shape-mismatch", Concatenate(0, sizes=(1, 2)), [[(2, 3)], [(1, 3)]], Context()),
        ("operation-arity", Concatenate(0), [[(8, 3)], [(8, 3)]], EVEN),
        ("axis-out-of-range", Concatenate(2), [[(8, 3)]], Context()),
        ("axis-out-of-range", Transpose(0, 2), [[(8, 3)]], Context()),
        ("layout-ambiguous", Transpose(check_dims=True), [[(3, 3)]], Context(("a",), (((3, 3),),))),
        ("operation-argument", Transpose(check_dims=True), [[(3, 2)]], Context(("a",))),
        ("shape-mismatch", Transpose(check_dims=True), [[(3, 2)]], Context(("a",), (((3, 4),),))),
        ("shape-mismatch", Permute((0, 1)), [[(3, 2, 1)]], Context()),
        ("shape-mismatch", Reshape((4, 4)), [[(3, 5)]], Context()),
        ("shape-mismatch", Reshape((15,), (5, 3)), [[(3, 5)]], Context()),
        ("split-unequal", Interleave(), [[(3, 5)]], Context()),
        ("operation-config", PermuteForRope(), [[(12, 5)]], Context()),
        ("operation-config", PermuteForRope(), [[(12, 5)]], Context(config={"num_attention_heads": True})),
        ("operation-config", PermuteForRope("audio"), [[(12, 5)]], Context(config={"vision": CONFIG})),
        ("operation-config", PermuteForRope("audio"), [[(12, 5)]], Context(config=CONFIG | {"audio": {}})),
        ("split-unequal", PermuteForRope(), [[(15, 5)]], Context(config=CONFIG)),
        ("shape-mismatch", PermuteForRope(), [[(12, 5, 1)]], Context(config=CONFIG)),
        ("shape-mismatch", Conv3dToLinear(3, (2, 2, 2)), [[(5, 24)]], Context()),
        ("shape-mismatch", LinearToConv3d(3, (2, 2, 2)), [[(5, 25)]], Context()),
        ("split-unequal", ErnieFuseAndSplitTextVisionExperts(), [[(2, 3)] * 5], EVEN),
        ("split-unequal", ErnieSplitAndDecoupleTextVisionExperts(), [[(2, 3, 4)]], EVEN),
        ("operation-arity", ErnieFuseAndSplitTextVisionExperts(), [[(2, 3)]], EVEN),
        ("operation-arity", ErnieSplitAndDecoupleTextVisionExperts(), [[(2, 4)] * 2], EVEN),
        ("shape-mismatch", Rearrange("a b -> b a"), [[(5,)]], Context()),
        ("shape-mismatch", Rearrange("a 1 -> a"), [[(5, 2)]], Context()),
        ("shape-mismatch", Rearrange("a -> a", a=3), [[(6,)]], Context()),
        ("split-unequal", Rearrange("(a b) -> b a", a=4), [[(6,)]], Context()),
        ("operation-argument", Rearrange("(a b) -> b a"), [[(6,)]], Context()),
        ("operation-config", Rearrange("(a b) -> b a", a="heads"), [[(6,)]], Context(config=CONFIG)),
        ("dtype-mismatch", Cast("F32", "F16"), [[(6,)]], Context()),
    ],
)
def test_misfit_has_a_code_and_names_the_operation(
    code: str, operation: Operation, shapes: Sequence[Sequence[tuple[int, ...]]], context: Context
) -> None:
    with pytest.raises(LayoutError) as caught:
        lower([operation], lanes_of(numbered(shapes)), context)
    assert caught.value.code == code
    if not caught.value.expected.endswith("targets"):
        assert repr(operation) in caught.value.because
        assert all(f"[{', '.join(map(str, shape))}]" in caught.value.because for group in shapes for shape in group)


@pytest.mark.parametrize("operation", [MergeModulelist(), Concatenate()])
def test_different_dtypes_do_not_become_one_tensor(operation: Operation) -> None:
    tensors = [[torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bfloat16)]]
    with pytest.raises(LayoutError) as caught:
        lower([operation], lanes_of(tensors))
    assert caught.value.code == "dtype-mismatch"


@pytest.mark.parametrize(
    "operation", [Reshape((3, 4)), Cast("F32"), Rearrange("a b -> (a b)"), Rearrange("h d c -> (h d) c", c=2)]
)
def test_one_way_operation_has_no_inverse(operation: Operation) -> None:
    with pytest.raises(LayoutError) as caught:
        invert([Transpose(), operation])
    assert caught.value.code == "operation-one-way"
    assert caught.value.because == repr(operation)


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"operation": "Melt"},
        {"operation": "Chunk", "axis": 0},
        {"operation": "Chunk", "dim": "0"},
        {"operation": "Chunk", "dim": True},
        {"operation": "Chunk", "dim": None},
        {"operation": "Permute"},
        {"operation": "Permute", "dims": [0, 0]},
        {"operation": "Permute", "dims": [0, "1"]},
        {"operation": "Conv3dToLinear", "in_channels": 3, "kernel_size": [2, 2]},
        {"operation": "Interleave", "is_inverse": True},
        {"operation": "Interleave", "inverse": 1},
        {"operation": "Cast", "dtype": "float31"},
        {"operation": "Chunk", "chunks": 0},
        {"operation": "Chunk", "chunks": 2, "num_shards_attribute": "shards"},
        {"operation": "Concatenate", "chunks": 2, "sizes": [3, 3]},
        {"operation": "Concatenate", "chunks": "2"},
        {"operation": "On", "parts": [0]},
        {"operation": "On", "parts": [], "apply": {"operation": "Transpose"}},
        {"operation": "On", "parts": 0, "apply": {"operation": "Transpose"}},
        {"operation": "On", "parts": [-1], "apply": {"operation": "Transpose"}},
        {"operation": "On", "parts": [True], "apply": {"operation": "Transpose"}},
        {"operation": "On", "parts": [1, 1], "apply": {"operation": "Transpose"}},
        {"operation": "On", "parts": [0], "apply": {"operation": "Chunk"}},
        {"operation": "On", "parts": [0], "apply": {"operation": ["Transpose"]}},
        {"operation": "On", "parts": [0], "apply": "Transpose"},
        {"operation": "On", "parts": [0], "apply": {"operation": "Transpose", "axis": 0}},
        {"operation": "On", "parts": [0], "apply": {"operation": "Transpose"}, "more": 1},
        {"operation": "Rearrange"},
        {"operation": "Rearrange", "pattern": 3},
        {"operation": "Rearrange", "pattern": "a b -> b a", "lengths": 3},
        {"operation": "Rearrange", "pattern": "a b -> b a", "lengths": {"c": 3}},
        {"operation": "Rearrange", "pattern": "a b -> b a", "lengths": {"a": 0}},
        {"operation": "Rearrange", "pattern": "a b -> b a", "lengths": {"a": 2.0}},
    ],
)
def test_bad_json_form_has_a_code(form: dict[str, Any]) -> None:
    with pytest.raises(LayoutError) as caught:
        operation_from_dict(form)
    assert caught.value.code in ("operation-argument", "axis-out-of-range")


def test_no_operation_can_do_without_a_count() -> None:
    with pytest.raises(LayoutError) as caught:
        Chunk(0).lower(lanes_of(numbered([[(8,)]])), Context())
    assert caught.value.code == "operation-arity"


@pytest.mark.parametrize(
    ("config", "got", "hint"),
    [
        (
            None,
            "no configuration",
            "name the directory that has the model's config.json beside the weights, or pass config=",
        ),
        ({}, "nothing", "add num_attention_heads to"),
        ({"n_head": 4, "hidden_size": 8}, "nothing; nearest: n_head", "add num_attention_heads to"),
        (
            {"text_config": {"num_attention_heads": 4}, "num_hidden_layers": 2},
            "nothing; nearest: text_config.num_attention_heads, num_hidden_layers",
            "add num_attention_heads to",
        ),
        (SimpleNamespace(num_heads=4, _heads=4), "nothing; nearest: num_heads", "add num_attention_heads to"),
        ({"num_attention_heads": "4"}, "'4'", "correct num_attention_heads in"),
    ],
)
def test_e_a_number_that_the_configuration_lacks_is_asked_for_by_what_is_there(config, got, hint):
    with pytest.raises(LayoutError) as caught:
        read_config(config, "num_attention_heads")
    assert (caught.value.code, caught.value.got) == ("operation-config", got)
    assert caught.value.hint.startswith(hint)


def test_e_a_number_is_looked_for_in_the_text_configuration_last():
    config = {"text_config": {"experts": 4}}
    assert read_config(config, "experts", default_to_text=True) == 4
    with pytest.raises(LayoutError) as caught:
        read_config({"expert": 4}, "experts", default_to_text=True)
    assert caught.value.got == "nothing; nearest: expert"
