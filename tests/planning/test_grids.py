"""Two indices in one converter: all experts of all layers in one tensor, layer by layer or one behind the other."""

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
some = settings(max_examples=400, deadline=None)

LAYERS, EXPERTS = 3, 4
NAMES = ("gate", "up")


def grid(heights: Any = (EXPERTS,) * LAYERS, names: Any = ("w",), shapes: Any = ((3, 5), (2, 5))) -> Tensors:
    """Make tensors of distinct numbers, in an order of names that is not that of their indices."""
    found = [
        (f"layers.{layer}.experts.{expert}.{name}", shape)
        for layer, height in enumerate(heights) for expert in range(height)
        for name, shape in zip(names, shapes, strict=False)
    ]  # fmt: skip
    return {key: 1000 * number + numbers(*shape) for number, (key, shape) in reversed(list(enumerate(found)))}


def layer_of(tensors: Tensors, layer: int, name: str = "w") -> list[torch.Tensor]:
    count = sum(key.startswith(f"layers.{layer}.") and key.endswith(f".{name}") for key in tensors)
    return [tensors[f"layers.{layer}.experts.{expert}.{name}"] for expert in range(count)]


PLAIN, PAIR = grid(), grid(names=NAMES)
RAGGED, MANY = grid((2, 4, 1)), grid((11, 11))
STACKS = [torch.stack(layer_of(PLAIN, layer)) for layer in range(LAYERS)]
JOINED = [
    torch.cat([torch.stack(layer_of(PAIR, layer, name)) for name in NAMES], 1) for layer in range(LAYERS)
]  # fmt: skip
ONE, BOTH = "layers.*.experts.*.w", [f"layers.*.experts.*.{name}" for name in NAMES]
stack, apart = wb.MergeModulelist(0), wb.SplitModulelist(0)

CASES = {
    "layers, then experts": Case([stack, stack], PLAIN, {"all": torch.stack(STACKS)}, sides=(ONE, "all")),
    "experts, then layers": Case(
        [stack, wb.MergeModulelist(1)], PLAIN, {"all": torch.stack(STACKS, 1)}, sides=(ONE, "all")
    ),
    "eleven of each come in the order of numbers": Case(
        [stack, stack], MANY, {"all": torch.stack([torch.stack(layer_of(MANY, n)) for n in range(2)])},
        sides=(ONE, "all"),
    ),
    "gate and up are joined in each layer": Case(
        [stack, wb.Concatenate(1, sizes=(3, 2)), stack], PAIR, {"all": torch.stack(JOINED)}, sides=(BOTH, "all")
    ),
    "gate and up are joined in each expert": Case(
        [wb.Concatenate(0, sizes=(3, 2)), stack, stack], PAIR, {"all": torch.stack(JOINED)}, sides=(BOTH, "all")
    ),
    "each expert is transposed, and one of its matrices has its rows turned": Case(
        [wb.On([1], wb.Reorder(0, (1, 0))), wb.Concatenate(0, sizes=(3, 2)), wb.Transpose(0, 1), stack, stack],
        PAIR,
        {"all": torch.stack([x[:, [0, 1, 2, 4, 3]].transpose(1, 2) for x in JOINED]).contiguous()},
        sides=(BOTH, "all"),
    ),
    "two stacks of two indices": Case(
        [stack, stack], PAIR,
        {name: torch.stack([torch.stack(layer_of(PAIR, n, name)) for n in range(LAYERS)]) for name in NAMES},
        sides=(BOTH, ["gate", "up"]),
    ),
    "an index that stays, and two that go": Case(
        [stack, stack],
        {f"towers.{tower}.{key}": 100 * tower + value for tower in range(2) for key, value in PLAIN.items()},
        {f"towers.{tower}.all": 100 * tower + torch.stack(STACKS) for tower in range(2)},
        sides=("towers.*." + ONE, "towers.*.all"),
    ),
    "three indices": Case(
        [stack, stack, stack],
        {f"towers.{tower}.{key}": 100 * tower + value for tower in range(2) for key, value in PLAIN.items()},
        {"all": torch.stack([100 * tower + torch.stack(STACKS) for tower in range(2)])},
        sides=("towers.*." + ONE, "all"),
    ),
    "layers with other numbers of experts": Case(
        [stack, wb.Concatenate(0, sizes=(2, 4, 1))], RAGGED,
        {"all": torch.cat([torch.stack(layer_of(RAGGED, n)) for n in range(3)])}, sides=(ONE, "all"),
    ),
    "the configuration says how many": Case(
        [stack, wb.Concatenate(0, sizes="moe.experts")], RAGGED,
        {"all": torch.cat([torch.stack(layer_of(RAGGED, n)) for n in range(3)])},
        {"moe": {"experts": [2, 4, 1]}}, sides=(ONE, "all"),
    ),
    "one tensor becomes a grid": Case(
        [apart, apart], {"all": torch.stack(STACKS)}, PLAIN, sides=("all", ONE),
    ),
    "a grid of which each layer is cut": Case(
        [apart, wb.Split(1, (3, 2)), apart], {"all": torch.stack(JOINED)}, PAIR, sides=("all", BOTH),
    ),
    "one tensor becomes layers of other numbers": Case(
        [wb.Split(0, "experts"), apart], {"all": torch.cat([torch.stack(layer_of(RAGGED, n)) for n in range(3)])},
        RAGGED, {"experts": (2, 4, 1)}, sides=("all", ONE),
    ),
    "gate and up of one index, joined in each expert": Case(
        [wb.Concatenate(0, sizes=(3, 2)), stack],
        {key.removeprefix("layers.1."): value for key, value in PAIR.items() if ".1.experts" in key},
        {"all": JOINED[1]}, sides=([f"experts.*.{name}" for name in NAMES], "all"),
    ),
    "a chain on each expert, and a stack": Case(
        [wb.Split(0, (2, 1)), wb.On([0], wb.Reorder(0, (1, 0))), wb.Concatenate(0), stack],
        {key.removeprefix("layers.1."): value for key, value in PLAIN.items() if "layers.1." in key},
        {"all": STACKS[1][:, [1, 0, 2]]}, sides=("experts.*.w", "all"),
    ),
    "replicas of each layer are one": Case(
        [wb.MergeEqual(2), stack],
        {f"layers.{layer}.ranks.{rank}.w": PLAIN[f"layers.{layer}.experts.0.w"].clone()
         for layer in range(2) for rank in range(2)},
        {"all": torch.stack([PLAIN[f"layers.{layer}.experts.0.w"] for layer in range(2)])},
        sides=("layers.*.ranks.*.w", "all"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_from_memory(case: Case) -> None:
    case.check_in_memory()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_inverse_is_recorded_and_derived(case: Case) -> None:
    case.check_ways_back()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_from_files_and_back(case: Case, tmp_path: Path) -> None:
    case.check_files(tmp_path)


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        (["layers.1.experts.2.w"], "missing: 1.2"),
        (["layers.2.experts.3.w"], "missing: 2.3"),
        ([f"layers.1.experts.{n}.w" for n in range(4)], "missing: 1.{0..3}"),
        ([f"layers.{n}.experts.1.w" for n in (0, 2)], "missing: {0,2}.1"),
        (["layers.0.experts.0.w", "layers.2.experts.3.w"], "missing: 0.0, 2.3"),
    ],
)
@pytest.mark.parametrize("target", [False, True])
def test_what_is_missing_of_either_index_is_named(lost: list[str], said: str, target: bool) -> None:
    rules = wb.Mapping([wb.WeightConverter(ONE, "all", [stack, stack])])
    specs = {key: wb.TensorSpec("F32", (3, 5)) for key in PLAIN if key not in lost}
    wanted = wb.Header({"all": wb.TensorSpec("F32", (3, 4, 3, 5))}) if target else None
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(wb.Header(specs), rules, wanted)
    assert caught.value.codes == ("group-incomplete",)
    (problem,) = caught.value.problems
    assert problem.where == "all"
    assert said in problem.got
    assert f"{12 - len(lost)} of 12" in problem.got


def test_two_keys_at_one_place_are_both_named() -> None:
    specs = {key: wb.TensorSpec("F32", (3, 5)) for key in (*PLAIN, "layers.01.experts.2.w")}
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(wb.Header(specs), [wb.WeightConverter(ONE, "all", [stack, stack])])
    assert "layers.01.experts.2.w\nlayers.1.experts.2.w" in caught.value.problems[0].got


def test_a_huge_index_is_missing_and_no_memory_is_taken() -> None:
    specs = {f"layers.{n}.experts.{n}.w": wb.TensorSpec("F32", (3,)) for n in (0, 300_000_000)}
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(wb.Header(specs), [wb.WeightConverter(ONE, "all", [stack, stack])])
    assert "1..299999999" in caught.value.problems[0].got


@pytest.mark.parametrize(
    ("sizes", "config", "code", "words"),
    [
        (None, {}, "group-incomplete", "missing: 0.{2,3}, 2.{1..3}"),
        (("a", "b", "c"), {"a": 2, "b": 4, "c": 1}, "group-incomplete", "missing: 0.{2,3}, 2.{1..3}"),
        ((2, 4, 2), {}, "group-incomplete", "missing: 2.1"),
        ((2, 3, 1), {}, "shape-mismatch", "(2, 3, 1)"),
        ((2, 4, 1, 3), {}, "group-incomplete", "missing: 3.{0..2}"),
        ((2, 4), {}, "shape-mismatch", "(2, 4)"),
        ("experts", {}, "operation-config", "experts"),
        ("experts", {"experts": 3}, "operation-config", "one list"),
        ("experts", {"experts": [2, 4, 0]}, "operation-config", "a list of positive whole numbers"),
        ("experts", {"experts": [2, 5, 1]}, "group-incomplete", "missing: 1.4"),
        ("experts", {"experts": [2, 2, 1]}, "shape-mismatch", "(2, 2, 1)"),
    ],
)
def test_layers_of_other_numbers_are_refused_where_nothing_says_them(
    sizes: Any, config: dict[str, Any], code: str, words: str
) -> None:
    rules = [wb.WeightConverter(ONE, "all", [stack, wb.Concatenate(0, sizes=sizes)])]
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(RAGGED, rules, config=config)
    assert caught.value.codes == (code,)
    assert words in str(caught.value)


def test_a_gap_within_a_shorter_layer_is_still_one() -> None:
    lacking = {
        key: value for key, value in RAGGED.items() if key not in ("layers.1.experts.2.w", "layers.2.experts.0.w")
    }
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(lacking, [wb.WeightConverter(ONE, "all", [stack, wb.Concatenate(0, sizes=(2, 4, 1))])])
    assert caught.value.codes == ("group-incomplete",)
    assert "missing: 1.2, 2.0" in caught.value.problems[0].got
    del lacking["layers.0.experts.0.w"], lacking["layers.0.experts.1.w"]
    lacking |= {f"layers.2.experts.{n}.w": numbers(3, 5) for n in range(2)}
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(lacking, [wb.WeightConverter(ONE, "all", [stack, wb.Concatenate(0, sizes=(2, 4, 1))])])
    assert "missing: 0.{0,1}, 1.2" in caught.value.problems[0].got


@pytest.mark.parametrize(
    ("sources", "targets", "operations", "words"),
    [
        (ONE, "all", [stack], "the operations leave one tensor for each index, and the targets have none"),
        (ONE, "layers.*.all", [stack, stack], "an index `*` that the operations use up still stands"),
        ("experts.*.w", "all", [stack, stack], "merges an index that the sources do not have"),
        (ONE, "all", [wb.Chunk(0, chunks=2), wb.Concatenate(0)], "Chunk divides one tensor, not one for each index"),
        ("all", ONE, [apart], "the targets have an index `*` that no operation makes"),
        ("all", [ONE, "layers.*.w"], [apart, apart], "as many `*` each"),
        (
            "x.*.w", "all", [wb.Repeat(2), wb.Concatenate(0), stack],
            "Repeat is for the tensors of an index, and Concatenate joins those of each index by themselves",
        ),
    ],
)  # fmt: skip
def test_indices_that_do_not_come_out_are_refused(sources: Any, targets: Any, operations: Any, words: str) -> None:
    with pytest.raises(wb.MappingError) as caught:
        wb.WeightConverter(sources, targets, operations)
    assert words in caught.value.what + str(caught.value)


def test_a_target_says_what_the_mapping_leaves_open() -> None:
    """How many layers there are, how many experts each has, and how long the parts of each are."""
    rules = wb.Mapping([wb.WeightConverter(BOTH, "all", [stack, wb.Concatenate(1), stack])])
    wanted = wb.Header({key: wb.TensorSpec("F32", tuple(value.shape)) for key, value in PAIR.items()})
    back = wb.plan({"all": torch.stack(JOINED)}, rules.inverse(), wanted)
    assert equal(back.state_dict(), PAIR)
    ragged = wb.Mapping([wb.WeightConverter(ONE, "all", [stack, wb.Concatenate(0)])])
    joined = torch.cat([torch.stack(layer_of(RAGGED, n)) for n in range(3)])
    cut = wb.Mapping([wb.WeightConverter("all", ONE, [wb.Split(0), apart])])
    wanted = wb.Header({key: wb.TensorSpec("F32", (3, 5)) for key in RAGGED})
    assert equal(wb.plan({"all": joined}, cut, wanted).state_dict(), RAGGED)
    with pytest.raises(wb.PlanError) as caught:
        wb.plan({"all": joined}, ragged.inverse())
    assert "it is not known how many tensors" in str(caught.value)


def test_a_grid_of_another_size_than_the_target_is_refused_by_name() -> None:
    rules = wb.Mapping([wb.WeightConverter("all", ONE, [apart, apart])])
    wanted = {key: wb.TensorSpec("F32", (3, 5)) for key in PLAIN if key != "layers.1.experts.3.w"}
    with pytest.raises(wb.PlanError) as caught:
        wb.plan({"all": torch.stack(STACKS)}, rules, wb.Header(wanted))
    assert "layers.1.experts.3.w" in str(caught.value)


def test_a_plan_says_where_an_expert_goes() -> None:
    plan = wb.plan(PAIR, wb.Mapping([wb.WeightConverter(BOTH, "all", [stack, wb.Concatenate(1), stack])]))
    text = str(plan.explain("layers.2.experts.1.up"))
    assert "all[2, 1, 3:5, :] <- layers.2.experts.1.up[:, :]" in text.replace("[2:3, 1:2, 3:5, :]", "[2, 1, 3:5, :]")
    lacking = {key: value for key, value in PAIR.items() if key != "layers.1.experts.3.up"}
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(lacking, plan.mapping)
    assert "missing: 1.3" in str(caught.value)


@some
@given(st.integers(0, 2**32))
def test_a_grid_is_that_of_torch_and_has_an_inverse(seed: int) -> None:
    """With any axes for the two stacks, and any numbers of both; recorded, derived, and turned round twice."""
    chance = random.Random(seed)
    layers, experts = chance.randint(1, 4), chance.randint(1, 12)
    shape = tuple(chance.sample((1, 2, 3, 5), 2))
    tensors = grid((experts,) * layers, shapes=(shape,))
    keys = list(tensors)
    chance.shuffle(keys)
    inner, outer = chance.randint(-3, 2), chance.randint(-4, 3)
    wanted = torch.stack([torch.stack(layer_of(tensors, layer), inner) for layer in range(layers)], outer)
    rules = wb.Mapping([wb.WeightConverter(ONE, "all", [wb.MergeModulelist(inner), wb.MergeModulelist(outer)])])
    plan = wb.plan({key: tensors[key] for key in keys}, rules)
    assert torch.equal(plan.state_dict()["all"], wanted)
    assert plan.inverse().inverse() == plan
    assert equal(plan.inverse().state_dict({"all": wanted}), tensors)
    assert equal(wb.plan({"all": wanted}, rules.inverse()).state_dict(), tensors)
