"""The laws of whole mappings, each on at least a thousand drawn layouts, against a second implementation.

`strategies.py` draws rules together with a layout that they fit, and works out in plain Python and numpy what must come
of them. The numbers of the laws are those of the documentation's page on design.
"""

from __future__ import annotations

import itertools
import json
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings, strategies as st
from strategies import (
    TORCH,
    Bits,
    Expected,
    Layout,
    Rule,
    draw_equal_layout,
    draw_keys,
    draw_layout,
    draw_rules,
    draw_trimmed_layout,
    evaluate,
    faults,
    files_of,
    header_of,
    layouts,
    mapping,
    raw,
    same,
    tensors_of,
    write_checkpoint,
)

import weighbridge as wb

laws = settings(max_examples=1000, deadline=None)
seeds = st.integers(0, 2**32 - 1)
MEMORY_DISK = Path("/dev/shm")


@contextmanager
def workplace() -> Iterator[Path]:
    """A directory in memory, where there is one."""
    base = MEMORY_DISK if MEMORY_DISK.is_dir() else None
    with tempfile.TemporaryDirectory(dir=base) as name:
        yield Path(name)


@contextmanager
def poisoned() -> Iterator[None]:
    """Fill all memory that torch hands out with NaN or the largest number."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


# ---- 1. conservation ----


@laws
@given(layouts())
def test_every_tensor_has_exactly_one_fate(layout):
    expected = layout.expected
    plan = wb.plan(header_of(layout.tensors), layout.mapping)
    assert Counter(key for key, _ in plan.source_fates()) == Counter(list(layout.tensors))
    assert Counter(key for key, _ in plan.target_fates()) == Counter(list(expected.targets))
    for step in plan.steps:
        read, made = (sum(side[key].array.size for key in keys)
                      for side, keys in ((layout.tensors, step.reads), (expected.targets, step.writes)))  # fmt: skip
        read += sum(constant.spec.numel for constant in step.program.constants)
        made += sum(cut.output.spec.numel for cut in step.program.cuts)
        assert (step.fate == "shared", step.fate == "checked") == (made > read, made < read)
        assert (step.fate == "trimmed") == bool(step.program.cuts)
    carried = {key for key, fate in plan.source_fates() if fate.name == "carried"}
    assert carried == set(layout.tensors) - expected.touched
    assert {frozenset(s.sources): frozenset(s.targets) for s in plan.steps} == {
        frozenset(sources): frozenset(targets) for sources, targets in expected.provenance.items()
    }


def _lose(layout: Layout, chance: random.Random) -> None:
    del layout.tensors[chance.choice(sorted(layout.tensors))]


def _add(layout: Layout, chance: random.Random) -> None:
    layout.tensors[chance.choice(("stray", "model.stray", "lm_head.bias"))] = Bits("F32", np.zeros(2, np.uint32))


def _add_expert(layout: Layout, chance: random.Random) -> None:
    """Add an expert after the last one, or far behind it."""
    for key in [key for key in layout.tensors if ".experts.0." in key]:
        count = sum(key.replace(".experts.0.", f".experts.{i}.") in layout.tensors for i in range(12))
        layout.tensors[key.replace(".experts.0.", f".experts.{chance.choice((count, 40))}.")] = layout.tensors[key]


def _bend(layout: Layout, chance: random.Random) -> None:
    key = chance.choice(sorted(layout.tensors))
    bits = layout.tensors[key]
    layout.tensors[key] = Bits(bits.dtype, np.concatenate([bits.array.reshape(-1), np.ones(1, bits.array.dtype)]))


def _double(layout: Layout, chance: random.Random) -> None:
    """Put in a source under the name of another one's target."""
    target = chance.choice(sorted(layout.expected.targets))
    layout.tensors.setdefault(target, layout.tensors["lm_head.weight"])


DAMAGES = (_lose, _lose, _add, _double)


@laws
@given(seeds, st.sampled_from(DAMAGES))
def test_damage_is_named_exactly(seed, damage):
    """What is missing, left over or there twice is an error that names it, and nothing else is one.

    The order of the keys means nothing to the complaints either.
    """
    layout, chance = draw_layout(seed, seed % 4), random.Random(seed)
    wanted = layout.expected.targets
    damage(layout, chance)
    damaged = layout.expected
    problems = _account(damaged, wanted)
    assume(not any(code in ("rule-overlap", "group-duplicate") for code, _ in damaged.problems))
    if not problems:
        same(wb.plan(tensors_of(layout.tensors), layout.mapping, header_of(wanted)).state_dict(), wanted)
        return
    shuffled = list(layout.tensors)
    chance.shuffle(shuffled)
    texts = set()
    for keys in (layout.tensors, shuffled):
        with pytest.raises(wb.PlanError) as caught:
            wb.plan(header_of({k: layout.tensors[k] for k in keys}), layout.mapping, header_of(wanted))
        assert _plainly(faults(caught.value)) == _plainly(problems)
        texts.add(str(caught.value))
    assert len(texts) == 1


def _account(damaged: Expected, wanted: dict[str, Bits]) -> set[tuple[str, str]]:
    """List what the damaged layout must be blamed for: broken groups, and what is missing and left over."""
    problems = set(damaged.problems)
    broken = {key for code, key in problems if code in ("group-incomplete", "operation-arity")}
    problems |= {("target-missing", key) for key in wanted if key not in damaged.targets and key not in broken}
    for sources, targets in damaged.provenance.items():
        strange = [key for key in targets if key not in wanted]
        if len(strange) == len(targets):
            problems |= {("source-unplaced", key) for key in sources}
        else:
            problems |= {("source-unplaced", key) for key in strange}
    for key, bits in damaged.written:
        if key in wanted and bits.shape != wanted[key].shape:
            problems.add(("spec-mismatch", key))
    return problems


def _plainly(problems: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Take a lack of the last experts for what it is to this oracle: another shape."""
    return {("spec-mismatch" if code == "group-incomplete" and "*" not in key else code, key) for code, key in problems}


@laws
@given(seeds, st.sampled_from((_bend, _add_expert)))
def test_shapes_that_do_not_fit_never_pass(seed, damage):
    """A tensor of another shape, or an expert too many, is an error at the target that it would have filled."""
    layout, chance = draw_layout(seed, seed % 4), random.Random(seed)
    wanted, before = layout.expected, dict(layout.tensors)
    damage(layout, chance)
    changed = {key for key, bits in layout.tensors.items() if key not in before or before[key] is not bits}
    assume(changed)
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(header_of(layout.tensors), layout.mapping, header_of(wanted.targets))
    hit = {key for sources, keys in wanted.provenance.items() if not changed.isdisjoint(sources) for key in keys}
    named = {key.replace("*", "0") for _, key in faults(caught.value)}
    if damage is _bend:
        # one with a free index is named as its converter writes it, before the later renames
        free = {key.rpartition(".")[2] for _, key in faults(caught.value) if "*" in key}
        firsts = {key.replace(".1.", ".0.") if ".experts." in key else key for key in hit}
        assert named & firsts or named & hit or free & {key.rpartition(".")[2] for key in hit}
    assert named


# ---- 2. exactly once ----


@laws
@given(layouts())
def test_every_element_is_written_once_and_read_once(layout):
    """Count what the copies of a plan touch; beside that, run them into poisoned memory and compare with numpy.

    Each element of a target is written once, from a source or from a declared value; each element of a source is read
    once, for a target or to be held to a declared value.
    """
    expected = layout.expected
    plan = wb.plan(tensors_of(layout.tensors), layout.mapping)
    for step in plan.steps:
        assert not step.program.temporaries
        read = [np.zeros(layout.tensors[key].array.size, int) for key in step.sources]
        read += [np.zeros(constant.spec.numel, int) for constant in step.program.constants]
        for output, _ in step.program.cuts:
            for copy in output.layout.copies:
                for source, _ in _touched(copy):
                    read[copy.source][source] += 1
        for key, output in zip(step.targets, step.program.targets, strict=True):
            written = np.zeros(expected.targets[key].array.size, int)
            for copy in output.layout.copies:
                for source, target in _touched(copy):
                    read[copy.source][source] += 1
                    written[target] += 1
            assert (written == 1).all(), key
        assert all((counts == 1).all() for counts in read)
    with poisoned():
        same(plan.state_dict(), expected.targets)


@laws
@given(seeds)
def test_what_is_read_once_and_must_equal_another_is_compared_first(seed):
    """One changed bit of sources that must be equal is named, and nothing is made of any of them.

    The plan was made from headers, and lists the condition; the receipt of a run that passes has it.
    """
    layout, chance = draw_equal_layout(seed), random.Random(seed)
    plan = wb.plan(header_of(layout.tensors), layout.mapping)
    checked = sorted(key for key, fate in plan.source_fates() if fate.name == "checked")
    assume(any(layout.tensors[key].array.size for key in checked))
    assert {key for condition in plan.conditions for way in condition.ways for key in way} == set(checked)
    with workplace() as place:
        plan.write(place / "good", tensors_of(layout.tensors), sync=False)
        recorded = json.loads((place / "good" / "weighbridge.json").read_text())["checked"]
        assert recorded == json.loads(json.dumps([(each.target, each.ways) for each in plan.conditions]))
        key = chance.choice([key for key in checked if layout.tensors[key].array.size])
        bits = layout.tensors[key]
        flat = bits.array.copy().reshape(-1)
        flat[chance.randrange(flat.size)] ^= flat.dtype.type(1 << chance.randrange(8 * flat.itemsize))
        changed = tensors_of(layout.tensors | {key: Bits(bits.dtype, flat.reshape(bits.shape))})
        for run in (plan.state_dict, lambda source: next(plan.stream(source)), partial(plan.write, place / "bad")):
            with pytest.raises(wb.PlanError) as caught:
                run(changed)
            assert caught.value.codes == ("sources-differ",)
            assert f"{key}[" in caught.value.problems[0].got
        assert not (place / "bad").exists()


@laws
@given(seeds)
def test_what_is_cut_off_is_held_to_its_value_first(seed):
    """One changed bit of it is named, and nothing is made; the plan lists the condition, and a receipt has it."""
    layout, chance = draw_trimmed_layout(seed), random.Random(seed)
    plan = wb.plan(header_of(layout.tensors), layout.mapping)
    trimmed = sorted(key for key, fate in plan.source_fates() if fate.name == "trimmed")
    assert {key for condition in plan.conditions for way in condition.ways for key in way} == set(trimmed)
    with workplace() as place:
        plan.write(place / "good", tensors_of(layout.tensors), sync=False)
        same(_read_files(place / "good"), layout.expected.targets)
        recorded = json.loads((place / "good" / "weighbridge.json").read_text())["checked"]
        assert recorded == [list(json.loads(json.dumps(condition))) for condition in plan.conditions]
        key = chance.choice(trimmed)
        bits = layout.tensors[key]
        flat = bits.array.copy().reshape(-1)
        (step,) = (step for step in plan.steps if key in step.sources)
        cut = [
            source for output, _ in step.program.cuts for copy in output.layout.copies for source, _ in _touched(copy)
        ]
        flat[chance.choice(cut)] ^= flat.dtype.type(1 << chance.randrange(8 * flat.itemsize))
        changed = tensors_of(layout.tensors | {key: Bits(bits.dtype, flat.reshape(bits.shape))})
        for run in (plan.state_dict, lambda source: next(plan.stream(source)), partial(plan.write, place / "bad")):
            with pytest.raises(wb.PlanError) as caught:
                run(changed)
            assert caught.value.codes == ("padding-differs",)
            assert f"{key}[" in caught.value.problems[0].got
        assert not (place / "bad").exists()


def _touched(copy) -> Iterator[tuple[int, int]]:
    """Yield the element read and the element written of every move of a copy."""
    for place in itertools.product(*(range(loop.size) for loop in copy.loops)):
        steps = list(zip(place, copy.loops, strict=True))
        source = copy.source_start + sum(at * loop.source_stride for at, loop in steps)
        yield source, copy.target_start + sum(at * loop.target_stride for at, loop in steps)


def _read_files(directory: Path) -> dict[str, torch.Tensor]:
    """Read safetensors files by hand."""
    found = {}
    for path in directory.glob("*.safetensors"):
        content = path.read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        head = json.loads(content[8:start])
        head.pop("__metadata__", None)
        for key, entry in head.items():
            low, high = entry["data_offsets"]
            flat = torch.frombuffer(bytearray(content[start + low : start + high] or b"\0"), dtype=torch.uint8)
            dtype = TORCH[entry["dtype"]]
            empty = torch.empty(entry["shape"], dtype=dtype)
            found[key] = flat.view(dtype).reshape(entry["shape"]) if high > low else empty
    return found


# ---- 3. round trip ----


@laws
@given(layouts(features=1), seeds)
def test_the_way_back_gives_the_very_same_files(layout, seed):
    """Header order, header text, padding, metadata, shard boundaries and index text included.

    By the plan itself, or by one that went through JSON; by its inverse, or by nothing but the receipt. Memory is
    poisoned, and buffers hold a few elements or all.
    """
    chance = random.Random(seed)
    with workplace() as place, poisoned():
        write_checkpoint(place / "in", layout.tensors, chance, chance.choice((1, 1, 2, 3)))
        plan = wb.plan(place / "in", layout.mapping)
        plan = plan if chance.random() < 0.5 else _through_json(plan)
        budget, shard = chance.choice((8, 16, 24, 1000)), chance.choice((None, 16, 200))
        plan.write(place / "out", place / "in", memory_budget=budget, max_shard_size=shard)
        same(_read_files(place / "out"), layout.expected.targets)
        if chance.random() < 0.5:
            plan.inverse().write(place / "back", memory_budget=budget)
        else:
            wb.revert(place / "out", place / "back")
        assert files_of(place / "back") == files_of(place / "in")


def _through_json(plan: wb.Plan) -> wb.Plan:
    read = wb.Plan.from_json(plan.to_json())
    assert read == plan
    assert read.hash == plan.hash
    assert read.to_json() == plan.to_json()
    return read


# ---- 4. the inverse is recorded, never guessed ----


@laws
@given(layouts())
def test_the_inverse_of_the_inverse_is_the_plan(layout):
    plan = wb.plan(tensors_of(layout.tensors), layout.mapping)
    assert plan.is_exact
    assert plan.inverse().inverse() == plan
    assert plan.inverse().inverse().hash == plan.hash
    same(plan.inverse(plan.state_dict()).state_dict(), layout.tensors)


@laws
@given(layouts())
def test_a_derived_inverse_is_right_or_refused(layout):
    """Without a plan, the mapping's inverse is used.

    It brings back exactly what was there; only the sizes of parts that were joined are not in a mapping, so that a
    layout with unequal ones may be refused, but whatever is accepted comes to the same tensors on the way forward.
    """
    targets = layout.expected.targets
    joins = any(name == "Concatenate" for rule in layout.rules for name, _ in rule.steps)
    plan = _outcome(targets, layout.mapping.inverse())
    if isinstance(plan, wb.PlanError) and plan.code == "inverse-unproven":
        # A rule that matches what it writes: by its names alone, the source could be in the original layout already.
        assert "could be in the original layout" in str(plan)
        plan = _outcome(targets, layout.mapping.inverse(), layout="mapped")
    if isinstance(plan, wb.PlanError):
        assert joins
        assert plan.codes == ("split-unequal",)
        return
    back = plan.state_dict()
    assert set(back) == set(layout.tensors)
    if not joins:
        same(back, layout.tensors)
    again = evaluate(layout.rules, {key: _bits_of(tensor) for key, tensor in back.items()})
    assert not again.problems
    same(tensors_of(again.targets), targets)


def _outcome(values: dict[str, Bits], rules: wb.Mapping, layout: str = "auto") -> wb.Plan | wb.PlanError:
    try:
        return wb.plan(tensors_of(values), rules, layout=layout)
    except wb.PlanError as failed:
        return failed


def _bits_of(tensor: torch.Tensor) -> Bits:
    code = next(code for code, dtype in TORCH.items() if dtype == tensor.dtype)
    width = f"<u{tensor.element_size()}"
    return Bits(code, np.frombuffer(raw(tensor), width).reshape(tuple(tensor.shape)))


# ---- 5. order is meaning ----


@laws
@given(seeds, st.integers(0, 6), st.integers(1, 6))
def test_rules_run_in_list_order(seed, rule_count, key_count):
    """Rules that run into each other: the same names, and the same complaints, as an interpreter of single keys.

    The recorded way back gives the keys that were there, whatever the rules did to them.
    """
    chance = random.Random(seed)
    rules, tensors = draw_rules(chance, rule_count), draw_keys(chance, key_count)
    expected = evaluate(rules, tensors)
    plan = _outcome(tensors, mapping(rules))
    if isinstance(plan, wb.PlanError):
        assert {(problem.code, problem.where) for problem in plan.problems} == expected.problems
        return
    assert not expected.problems
    made = plan.state_dict()
    same(made, expected.targets)
    same(plan.inverse(made).state_dict(), tensors)


# ---- 6. a scope is a mount ----


@laws
@given(seeds, st.integers(0, 5), st.sampled_from(("p", "tower.p", "a", "0.a")))
def test_a_mounted_mapping_does_below_what_it_does_alone(seed, rule_count, path):
    """mapping.scoped(p) turns p.k into p.f(k), and leaves whatever is not below p as it is."""
    chance = random.Random(seed)
    rules, tensors = draw_rules(chance, rule_count), draw_keys(chance, 4)
    expected = evaluate(rules, tensors)
    assume(not expected.problems)
    outside = {f"{path}_b.a": "x", f"{path}b.a.b": "x", path: "x", f"z.{path}.a.b": "x", "b": "x"}
    beside = {key: Bits("I64", np.full((2, 3), 1000 + n, np.uint64)) for n, key in enumerate(outside)}
    below = {f"{path}.{key}": bits for key, bits in tensors.items()}
    result = wb.plan(tensors_of(below | beside), mapping(rules).scoped(path)).state_dict()
    same(result, {f"{path}.{key}": bits for key, bits in expected.targets.items()} | beside)


@laws
@given(layouts(features=2), st.sampled_from(("p", "model", "old_prefix.x")))
def test_a_mounted_layout_is_the_layout_under_the_mount(layout, path):
    """The same for layouts with converters, with an unmounted twin beside."""
    below = {f"{path}.{key}": bits for key, bits in layout.tensors.items()}
    twin = {f"{path}_b.{key}": bits for key, bits in list(layout.tensors.items())[:4]}
    result = wb.plan(tensors_of(below | twin), layout.mapping.scoped(path)).state_dict()
    same(result, {f"{path}.{key}": bits for key, bits in layout.expected.targets.items()} | twin)


# ---- 7. independence ----


@laws
@given(layouts(), seeds)
def test_the_order_of_keys_means_nothing(layout, seed):
    """Equal plan, equal hash, equal JSON, equal values."""
    keys = list(layout.tensors)
    random.Random(seed).shuffle(keys)
    plan = wb.plan(header_of(layout.tensors), layout.mapping)
    shuffled = wb.plan(header_of({key: layout.tensors[key] for key in keys}), layout.mapping)
    assert shuffled == plan
    assert shuffled.hash == plan.hash
    assert shuffled.to_json() == plan.to_json()


@laws
@given(layouts(features=1), seeds)
def test_shards_mean_nothing(layout, seed):
    """Tensors dealt out to other shards, in another order, come to the same plan and to the same bytes."""
    chance = random.Random(seed)
    with workplace() as place:
        write_checkpoint(place / "one", layout.tensors, chance, 1)
        write_checkpoint(place / "many", layout.tensors, chance, chance.choice((2, 3, 4)))
        one, many = (wb.plan(place / name, layout.mapping) for name in ("one", "many"))
        assert one.steps == many.steps
        assert set(one.source_fates()) == set(many.source_fates())
        if one.metadata == many.metadata:
            assert one.hash == many.hash
        same(many.state_dict(), layout.expected.targets)


# ---- 10. nothing half-done ----


@laws
@given(layouts(features=1), seeds)
def test_a_source_that_breaks_leaves_nothing_behind(layout, seed):
    """Cut the source after it was opened: an error, no destination, no hidden directory, the source as it was."""
    chance = random.Random(seed)
    with workplace() as place:
        write_checkpoint(place / "in", layout.tensors, chance, chance.choice((1, 2)))
        plan = wb.plan(place / "in", layout.mapping)
        victim = chance.choice(sorted((place / "in").glob("*.safetensors")))
        victim.write_bytes(victim.read_bytes()[:-1])
        before = files_of(place / "in")
        with pytest.raises(wb.CheckpointError) as caught:
            plan.write(place / "new" / "out")
        assert caught.value.code in ("file-truncated", "source-changed", "tensor-bounds")
        assert sorted(path.name for path in place.iterdir()) == ["in"]
        assert files_of(place / "in") == before


def scenario() -> list[Rule]:
    """The order scenario: a root rename, and a converter scoped to what the rename makes, on one key."""
    join = (("Concatenate", (0,)),)
    sources = tuple(("attn", f"{letter}_proj", "weight") for letter in "qkv")
    return [
        Rule("rename", (("old_prefix",),), (("model", "vlm"),), anchored=True),
        Rule("convert", sources, (("attn", "qkv_proj", "weight"),), join, scope="model.vlm"),
    ]


def test_a_root_rename_and_a_scoped_converter_chain_in_both_directions():
    rules = scenario()
    tensors = {
        f"{tower}.layers.0.attn.{letter}_proj.weight": Bits("F32", np.arange(6, dtype=np.uint32).reshape(2, 3) + n)
        for tower in ("old_prefix", "model.other")
        for n, letter in enumerate("qkv")
    }
    plan = wb.plan(tensors_of(tensors), mapping(rules))
    untouched = [f"model.other.layers.0.attn.{letter}_proj.weight" for letter in "qkv"]
    assert sorted(plan.target) == sorted([*untouched, "model.vlm.layers.0.attn.qkv_proj.weight"])
    same(plan.state_dict(), evaluate(rules, tensors).targets)
    made = plan.state_dict()
    same(plan.inverse().state_dict(), tensors)
    derived = wb.plan(made, mapping(rules).inverse())
    same(derived.state_dict(), tensors)
    assert [type(rule).__name__ for rule in mapping(rules).inverse()] == ["WeightConverter", "WeightRenaming"]
    assert mapping(rules).inverse().transforms[0].scope == "model.vlm"
