"""Laws 8a to 8c: what one process of many does is its part of what one process does alone, on either side.

`test_interpreter` holds every operation to law 8a.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from drawn_checkpoints import Drawn
from drawn_mappings import draw
from drawn_parts import deal, deal_all, flat_indices, held_of, indices_of, joined, moved, run, touched
from hypothesis import assume, example, given, settings, strategies as st
from safetensors.torch import save_file
from strategies import header_of, layouts, raw, tensors_of

import weighbridge as wb
from weighbridge.algebra.held_parts import part_around
from weighbridge.algebra.layout import Layout
from weighbridge.planning.portions.cut_programs import cut_sources, cut_targets
from weighbridge.planning.portions.cutting import BY_PARTS
from weighbridge.planning.program import Output, Program

laws = settings(max_examples=max(1000, settings().max_examples), deadline=None)
some = settings(max_examples=max(200, settings().max_examples), deadline=None)
seeds = st.integers(0, 2**32 - 1)


def shapes_of(header: wb.Header) -> dict[str, tuple[int, ...]]:
    return {key: spec.shape for key, spec in header.items()}


def planned(drawn: Drawn, **options: object) -> wb.Plan | None:
    """Plan a drawn case; None where the rules do not fit, or the values are not what they take for granted."""
    try:
        plan = wb.plan(drawn.tensors, drawn.mapping, config=drawn.config, **options)
        plan.state_dict()
    except wb.WeighbridgeError:
        return None
    return plan


def same_numbers(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Tell whether two values are the same bytes but for those of NaN: torch casts it otherwise alone than in a row."""
    if raw(one) == raw(other):
        return True
    numbers = ~one.isnan()
    return torch.equal(numbers, ~other.isnan()) and raw(one[numbers]) == raw(other[numbers])


def hold_cut_targets(plan: wb.Plan, chance: random.Random, *, rounds: bool = False) -> None:
    """Cut then run is run then slice, for each of some processes; together they read what one alone reads."""
    whole = plan.state_dict()
    needed: Counter[tuple[str, int]] = Counter()
    parts = deal_all(shapes_of(plan.target), chance.choice((1, 2, 3, 4)), chance)
    for mine in parts:
        cut = plan.cut(mine)
        made = cut.state_dict()
        assert made.keys() == whole.keys()
        for key, part in mine.items():
            wanted = held_of(whole[key], part)
            assert made[key].shape == wanted.shape, key
            assert same_numbers(made[key], wanted) if rounds else raw(made[key]) == raw(wanted), key
        assert sorted(key for key, _ in cut.source_fates()) == sorted(key for key, _ in plan.source_fates())
        assert (cut.whole_hash, cut.is_exact) == (plan.hash, plan.is_exact)
        needed |= Counter(reads(cut))
    if not any(program.temporaries for program in plan.programs):
        assert set(needed) == set(reads(plan))


def reads(plan: wb.Plan) -> Iterator[tuple[str, int]]:
    """Yield each element of a source that a plan reads."""
    for step in plan.steps:
        for output in step.program.outputs:
            for copy in output.layout.copies:
                if copy.source < len(step.sources):
                    yield from ((step.sources[copy.source], read) for read, _ in touched(copy))


def hold_cut_sources(plan: wb.Plan, chance: random.Random) -> None:
    """What a process makes of its parts of the sources is what comes of these; together it is everything."""
    parts = deal_all(shapes_of(plan.source), chance.choice((1, 2, 3, 4)), chance)
    whole, together = set(moves(plan)), set()
    for mine in parts:
        places = {key: flat_indices(part) for key, part in mine.items()} | {"": [0]}
        found = {(target, to, key, places[key][read]) for target, to, key, read in moves(plan.cut(source=mine))}
        held = {key: set(there) for key, there in places.items()}
        assert found == {move for move in whole if move[3] in held[move[2]]}
        together |= found
    assert together == whole


def moves(plan: wb.Plan) -> Iterator[tuple[str, int, str, int]]:
    """Yield for each written element where it comes from; a declared value comes from no key."""
    for step in plan.steps:
        for number, output in enumerate(step.program.targets):
            for copy in output.layout.copies:
                is_read = copy.source < len(step.sources)
                key = step.sources[copy.source] if is_read else ""
                for read, written in touched(copy):
                    yield f"{step.targets[number]} {number}", written, key, read if is_read else 0


@laws
@given(layouts(), seeds)
def test_8a_to_cut_and_run_is_to_run_and_slice(layout, seed):
    hold_cut_targets(wb.plan(tensors_of(layout.tensors), layout.mapping), random.Random(seed))


@some
@example(507899)  # not a number, in two dtypes
@given(seeds)
def test_8a_it_is_so_where_values_are_rounded_on_the_way(seed):
    plan = planned(draw(seed), dtype=random.Random(seed).choice(("BF16", "F16", "F32")), allow_overflow=True)
    assume(plan is not None)
    hold_cut_targets(plan, random.Random(seed), rounds=True)


@laws
@given(layouts(), seeds)
def test_8b_what_is_read_can_be_cut_as_well(layout, seed):
    hold_cut_sources(wb.plan(header_of(layout.tensors), layout.mapping), random.Random(seed))


@some
@given(seeds)
def test_8b_it_is_so_for_the_way_back_of_every_operation(seed):
    plan = planned(draw(seed))
    assume(plan is not None and plan.is_exact)
    hold_cut_sources(plan.inverse(), random.Random(seed))


# ---- temporaries ----


def through_temporary(chance: random.Random) -> tuple[Program, list[torch.Tensor]]:
    """A program whose targets are made of a temporary, and of a source besides; and values of the sources."""
    shape = tuple(chance.sample((1, 2, 3, 4, 5), chance.randint(1, 3)))
    count = chance.randint(1, 3)
    specs = [wb.TensorSpec("I64", shape)] * count
    first = joined([shape] * count, 0, chance)
    second = moved(Layout.of(count, first.shape), chance)
    targets = [Output("I64", moved(part, chance)) for part in second.split(0, _two(second.shape[0], chance))]
    values = [1000 * number + torch.arange(torch.Size(shape).numel()).reshape(shape) for number in range(count)]
    return Program(tuple(specs), (Output("I64", first),), tuple(targets)), values


def _two(size: int, chance: random.Random) -> tuple[int, int]:
    at = chance.randint(0, size)
    return at, size - at


def run_program(program: Program, values: list[torch.Tensor]) -> list[torch.Tensor]:
    slots = list(values)
    for output in program.temporaries:
        slots.append(run(output.layout, slots))
    return [run(output.layout, slots) for output in program.targets]


@laws
@given(seeds)
def test_8a_temporaries_are_cut_to_what_is_read_of_them(seed):
    chance = random.Random(seed)
    program, values = through_temporary(chance)
    whole = run_program(program, values)
    parts = [deal(tuple(made.shape), 2, chance)[0] for made in whole]
    cut = cut_targets(program, parts)
    cut.prove()
    for found, made, part in zip(run_program(cut, values), whole, parts, strict=True):
        assert found.equal(held_of(made, part))
    assert cut.temporary_bytes <= program.temporary_bytes


@laws
@given(seeds)
def test_8b_temporaries_are_cut_to_what_is_written_of_them_or_refused(seed):
    chance = random.Random(seed)
    program, values = through_temporary(chance)
    whole = run_program(program, values)
    parts = [deal(spec.shape, 2, chance)[0] for spec in program.sources]
    try:
        cut = cut_sources(program, parts)
    except wb.LayoutError as refused:
        if refused.code != "layout-fragmented":
            raise
        return
    cut.prove()
    held = [held_of(value, part) for value, part in zip(values, parts, strict=True)]
    known = torch.cat([value.reshape(-1) for value in held])
    for found, made in zip(run_program(cut, held), whole, strict=True):
        assert found.equal(torch.where(torch.isin(made, known), made, -1))


def test_a_temporary_is_no_larger_than_its_part():
    """Half of the rows of a value that was rounded before: half of it is made."""
    plan = wb.plan({"a": torch.rand(8, 3), "b": torch.rand(8, 3)}, ROUNDED)
    (step,) = plan.cut({"c": wb.Part((16, 3), (((0, 4),), ((0, 3),)))}).steps
    assert step.sources == ("a",)
    assert [output.spec.shape for output in step.program.temporaries] == [(4, 3)]


ROUNDED = wb.Mapping([wb.WeightConverter(["a", "b"], "c", [wb.Concatenate(0), wb.Cast("BF16"), wb.Cast("F32")])])


@given(seeds)
def test_what_is_around_copies_holds_all_they_write(seed):
    chance = random.Random(seed)
    layout = joined([(3, 4)] * 2, 0, chance)
    copies = chance.sample(layout.copies, chance.randint(0, len(layout.copies)))
    part = part_around(copies, layout.shape)
    assert {written for copy in copies for _, written in touched(copy)} <= set(flat_indices(part))


# ---- a cut plan as a value ----


FUSED = wb.Mapping(
    [
        wb.WeightConverter(["q", "k"], "qk", [wb.Concatenate(0)]),
        wb.WeightConverter("experts.*.w", "experts", [wb.MergeModulelist(0)]),
    ],
    name="fused",
    drop=["^old$"],
)


def tensors() -> dict[str, torch.Tensor]:
    made = {"q": torch.rand(4, 3), "k": torch.rand(2, 3), "norm": torch.rand(3), "old": torch.rand(2)}
    return made | {f"experts.{number}.w": torch.rand(2, 5) for number in range(4)}


def halves(plan: wb.Plan) -> list[dict[str, wb.Part]]:
    """Give each of two processes half of the rows of everything."""
    found: list[dict[str, wb.Part]] = [{}, {}]
    for key, spec in plan.target.items():
        rows, *others = spec.shape
        middle = -(-rows // 2)
        for mine, rest in zip(found, ((0, middle), (middle, rows)), strict=True):
            mine[key] = wb.Part(spec.shape, ((rest,), *(((0, size),) for size in others)))
    return found


def test_what_a_part_does_not_need_is_dropped_by_name():
    plan = wb.plan(tensors(), FUSED)
    cut = plan.cut(halves(plan)[1])
    assert {key: fate.by for key, fate in cut.source_fates() if fate.name == "dropped"} == {
        "old": '"^old$"',
        "experts.0.w": BY_PARTS,
        "experts.1.w": BY_PARTS,
    }
    assert cut.target["qk"].shape == (3, 3)
    assert cut.lossy_reasons == plan.lossy_reasons


def test_steps_that_are_alike_share_what_they_are_cut_to():
    layers = {f"h.{i}.experts.{e}.w": torch.rand(2, 5) for i in range(3) for e in range(4)}
    plan = wb.plan(layers, FUSED)
    assert len(plan.programs) == len(plan.cut(halves(plan)[0]).programs) == 1


def test_the_way_back_of_a_cut_plan_is_the_way_back_cut():
    source = tensors()
    del source["old"]
    plan = wb.plan(source, FUSED)
    for mine in halves(plan):
        back = plan.cut(mine).inverse()
        assert back == plan.inverse().cut(source=mine)
        assert back.inverse() == plan.cut(mine)
        assert back.whole_hash == plan.inverse().hash


def test_restricting_and_cutting_may_change_places():
    plan = wb.plan(tensors(), FUSED)
    for mine in halves(plan):
        assert plan.restrict("experts").cut(mine) == plan.cut(mine).restrict("experts")


def test_a_cut_plan_is_stored_with_the_whole_and_proven_again():
    plan = wb.plan(tensors(), FUSED)
    for cut in (plan.cut(halves(plan)[1]), plan.inverse(lossy=True).cut(source=halves(plan)[0])):
        read = wb.Plan.from_json(cut.to_json())
        assert (read, read.hash, read.whole_hash) == (cut, cut.hash, cut.whole_hash)
        assert read.hash != read.whole_hash
        assert read.to_json() == cut.to_json()


def _changed(form: dict, change: str) -> dict:
    parts = form["parts"]["target"]
    if change == "no parts":
        del form["parts"]
    elif change == "no side":
        form["parts"] = {}
    elif change == "another side":
        form["parts"]["both"] = {}
    elif change == "one left out":
        del parts["norm"]
    elif change == "another part":
        parts["norm"]["axes"] = [[[0, 1]]]
    elif change == "beyond":
        parts["norm"]["axes"] = [[[0, 9]]]
    else:
        parts["norm"]["axes"] = [[[0, True]]]
    return form


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("no parts", "plan-format"),
        ("no side", "plan-format"),
        ("another side", "plan-format"),
        ("one left out", "parts-mismatch"),
        ("another part", "plan-format"),
        ("beyond", "axis-out-of-range"),
        ("no number", "plan-format"),
    ],
)
def test_a_stored_cut_that_was_changed_is_refused(change: str, code: str):
    plan = wb.plan(tensors(), FUSED)
    form = _changed(json.loads(plan.cut(halves(plan)[0]).to_json()), change)
    with pytest.raises(wb.WeighbridgeError) as caught:
        wb.Plan.from_json(json.dumps(form))
    assert caught.value.code == code


def test_the_report_says_what_is_held_and_needed():
    plan = wb.plan(
        {"q": torch.rand(4, 3), "k": torch.rand(4, 3)}, [wb.WeightConverter(["q", "k"], "qk", [wb.Concatenate(1)])]
    )
    (first, _) = halves(plan)
    cut = plan.cut(first)
    said = "holds 48 B of 96 B of the targets, needs 48 B of 96 B of the sources, reads 1.000 times that"
    assert f"portion   {said}; of the plan {plan.hash[:16]}" in str(cut)
    assert "portion" not in str(plan)
    said = cut.report.to_dict()["portion"]
    assert (said["held_bytes"], said["needed_bytes"], said["whole"]) == (48, 48, plan.hash)
    back = plan.inverse().cut(source=first)
    assert "holds 48 B of 96 B of the sources, gives 48 B of 96 B of the targets" in str(back)


@given(seeds)
def test_parts_of_files_are_the_same_mapped_or_copied(tmp_path_factory, seed):
    path = tmp_path_factory.mktemp("whole") / "model.safetensors"
    source = tensors()
    save_file(source, path)
    plan = wb.plan(path, FUSED)
    whole, chance = wb.plan(source, FUSED).state_dict(), random.Random(seed)
    for mine in deal_all(shapes_of(plan.target), 3, chance):
        made = plan.cut(mine).state_dict(copy=chance.random() < 0.5)
        assert all(raw(made[key]) == raw(held_of(whole[key], part)) for key, part in mine.items())


def test_a_process_that_holds_nothing_needs_nothing():
    plan = wb.plan(tensors(), FUSED)
    cut = plan.cut({key: wb.Part.empty(spec.shape) for key, spec in plan.target.items()})
    assert all(tensor.numel() == 0 for tensor in cut.state_dict().values())
    assert cut.report.to_dict()["read_bytes"] == 0


# ---- what is refused ----


def refusal(act: object, *arguments: object, **named: object) -> wb.WeighbridgeError:
    with pytest.raises(wb.WeighbridgeError) as caught:
        act(*arguments, **named)
    return caught.value


def test_parts_of_other_tensors_are_refused_all_at_once():
    plan = wb.plan(tensors(), FUSED)
    mine = halves(plan)[0]
    mine["norm"] = wb.Part.whole((4,))
    del mine["experts"]
    error = refusal(plan.cut, mine)
    assert [(problem.code, problem.where) for problem in error.problems] == [
        ("parts-mismatch", "experts"),
        ("parts-mismatch", "norm"),
    ]
    assert plan.cut(halves(plan)[0] | {"of another model": wb.Part.whole((3,))}) == plan.cut(halves(plan)[0])


def test_tensors_that_are_one_are_held_alike():
    target = wb.Header(
        {key: wb.TensorSpec("F32", (4,)) for key in ("embed", "head")}, ties={"head": "embed", "embed": "embed"}
    )
    plan = wb.plan({"embed": torch.arange(4.0)}, [], target)
    mine = {key: wb.Part((4,), (((0, 2),),)) for key in ("embed", "head")}
    made = plan.cut(mine).state_dict()
    assert made["head"].data_ptr() == made["embed"].data_ptr()
    assert made["head"].tolist() == [0, 1]
    error = refusal(plan.cut, mine | {"head": wb.Part((4,), (((2, 4),),))})
    assert [problem.where for problem in error.problems] == ["head"]


def test_elements_below_a_byte_are_held_together_or_not_at_all():
    plan = wb.plan(wb.Header({"codes": wb.TensorSpec("F4", (4, 6))}), [])
    whole = wb.Part.whole((4, 6))
    assert plan.cut({"codes": whole}).steps == plan.steps
    assert plan.cut({"codes": wb.Part.empty((4, 6))}).target["codes"].shape == (0, 0)
    error = refusal(plan.cut, {"codes": wb.Part((4, 6), (((0, 2),), ((0, 6),)))})
    assert [(problem.code, problem.where) for problem in error.problems] == [("dtype-mismatch", "codes")]


def test_a_plan_is_cut_once_and_to_something():
    plan = wb.plan(tensors(), FUSED)
    mine = halves(plan)[0]
    assert refusal(plan.cut(mine).cut, mine).code == "usage"
    assert refusal(plan.cut).code == "usage"


def test_pieces_are_not_run_as_tensors_nor_parts_written_as_a_checkpoint(tmp_path):
    plan = wb.plan(tensors(), FUSED)
    mine = halves(plan)[0]
    back = plan.inverse(lossy=True).cut(source=mine)
    for act in (back.state_dict, back.stream, lambda: back.load_into(torch.nn.Linear(2, 3))):
        assert refusal(act).code == "usage"
    assert refusal(plan.cut(mine).write, tmp_path / "out").code == "usage"
    assert not (tmp_path / "out").exists()


OUTSIDE = {
    "beyond": (((0, 5),),),
    "before": (((-1, 2),),),
    "empty": (((2, 2),),),
    "out of order": (((2, 4), (0, 1)),),
    "overlapping": (((0, 3), (2, 4)),),
    "of no axis": (),
}


@pytest.mark.parametrize("how", OUTSIDE)
def test_a_part_lies_in_its_tensor(how):
    assert refusal(wb.Part, (4,), OUTSIDE[how]).code == "axis-out-of-range"


@given(seeds)
def test_a_part_is_its_json_form(seed):
    chance = random.Random(seed)
    for part in deal(tuple(chance.sample((0, 1, 2, 5, 7), 3)), 3, chance):
        assert wb.Part.from_dict(json.loads(json.dumps(part.to_dict()))) == part
        assert part.held == tuple(len(indices) for indices in indices_of(part))


def test_what_is_cut_off_is_still_held_to_its_value():
    rules = wb.Mapping([wb.WeightConverter("a", "b", [wb.Trim(0, size=4, value=0)])])
    source = {"a": torch.cat([torch.rand(4, 2), torch.zeros(2, 2)])}
    plan = wb.plan(source, rules)
    cut = plan.cut({"b": wb.Part((4, 2), (((0, 2),), ((0, 2),)))})
    assert cut.state_dict()["b"].equal(source["a"][:2])
    source["a"][5, 1] = 1
    assert refusal(cut.state_dict).codes == ("padding-differs",)
