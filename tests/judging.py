"""Hold weighbridge to what the interpreter makes of the same mapping and tensors.

Each check takes a drawn case and gives a `Find`, or None where all is as it must be. The tests of laws call them on a
thousand cases each, the fuzzer for as long as it is told to. `reading_back` has one more, for models.
"""

from __future__ import annotations

import random
from collections.abc import Mapping as MappingOf
from pathlib import Path
from typing import Any

import torch
from drawn_checkpoints import Drawn, Specs, draw_target, header
from drawn_parts import deal_all, held_of
from finds import Check, Find, attempt, difference, workplace
from interpreter import Made, Tensors, interpret
from reading_back import judge_read_back
from strategies import raw

import weighbridge as wb
from weighbridge.base.spelling import exact_pattern

BY_SHAPES = {
    *("shape-mismatch", "axis-out-of-range"),
    *("rule-overlap", "index-out-of-range", "target-collision", "group-incomplete", "group-duplicate"),
}
"""What names and shapes alone say of a reading; everything else is wrong *with* the right one."""

UNLIKE = {"sources-differ", "padding-differs"}
"""What only the values say, when a plan is run."""


def kept(drawn: Drawn, made: Made) -> Tensors:
    """The tensors that a way back can bring: all but those that a rule drops."""
    return {key: tensor for key, tensor in drawn.tensors.items() if key not in made.dropped}


def accepts(made: Made, shapes: MappingOf[str, tuple[int, ...]]) -> bool:
    """Tell whether names and shapes are what is wanted; what is declared to be carried may come on top."""
    ours = made.shapes
    return not made.problems and ours | shapes == ours and ours.keys() - shapes.keys() <= made.carried


# ---- forwards ----


def judge_result(drawn: Drawn, seed: int = 0) -> Find | None:
    """Without a target, a mapping gives what the interpreter gives, or is refused where that refuses."""
    made = interpret(drawn.mapping, drawn.tensors, config=drawn.config)
    plan, crash = attempt(wb.plan, drawn.tensors, drawn.mapping, config=drawn.config)
    if crash:
        return crash
    if isinstance(plan, wb.WeighbridgeError):
        return None if made.problems else Find("refused", str(plan)[:600])
    if made.problems and made.problems <= UNLIKE:
        return _judge_unlike(plan, made)
    if made.problems:
        return Find("accepted", f"should be {sorted(made.problems)}")
    wrong = difference(plan.state_dict(), made.tensors)
    return Find("wrong", wrong) if wrong else None


def _judge_unlike(plan: wb.Plan, made: Made) -> Find | None:
    """Values are compared when a plan is run: it lists the condition, and what differs is refused by name."""
    found, crash = attempt(plan.state_dict)
    if crash or not plan.conditions:
        return crash or Find("no condition", f"something must hold: {sorted(made.problems)}")
    named = isinstance(found, wb.WeighbridgeError) and made.problems <= set(found.codes) <= UNLIKE
    return None if named else Find("accepted", f"should be {sorted(made.problems)}")


FLOATS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}


def judge_policy(drawn: Drawn, seed: int) -> Find | None:
    """Dtypes by pattern are what torch casts to in the end; a value beyond a range is refused, and nothing else is."""
    chance = random.Random(seed)
    made = interpret(drawn.mapping, drawn.tensors, config=drawn.config)
    if made.problems or not made.tensors:
        return None
    named = {key: chance.choice(("keep", *FLOATS)) for key in made.tensors if chance.random() < 0.4}
    rules = {"**": chance.choice(("keep", *FLOATS))} if chance.random() < 0.8 else {}
    rules |= {exact_pattern(key): dtype for key, dtype in named.items()}
    if "**" in rules and len(named) == len(made.tensors):
        del rules["**"]  # it would decide about nothing
    wanted = {key: named.get(key, rules.get("**", "keep")) for key in made.tensors}
    cast = {
        key: tensor.to(FLOATS[wanted[key]])
        if wanted[key] != "keep" and tensor.dtype in FLOATS.values() and key not in made.carried
        else tensor
        for key, tensor in made.tensors.items()
    }
    plan, crash = attempt(wb.plan, drawn.tensors, drawn.mapping, config=drawn.config, dtype=rules)
    if crash or isinstance(plan, wb.WeighbridgeError):
        return crash or Find("refused", str(plan)[:600])
    plan = wb.Plan.from_json(plan.to_json()) if seed % 2 else plan
    overflows = any(cast[key].isinf().any() and not made.tensors[key].isinf().any() for key in cast)
    found, crash = attempt(plan.state_dict, drawn.tensors)
    if crash or isinstance(found, wb.WeighbridgeError):
        return crash or (None if overflows and found.code == "cast-overflow" else Find("stopped", str(found)[:600]))
    found, cast = _without_payloads(found), _without_payloads(cast)
    wrong = "an overflow that nobody saw" if overflows else difference(found, cast)
    if wrong:
        return Find("wrong", wrong)
    if not plan.is_exact:
        return None
    wrong = difference(_without_payloads(plan.inverse().state_dict(found)), _without_payloads(kept(drawn, made)))
    return Find("back", wrong) if wrong else None


def _without_payloads(tensors: Tensors) -> Tensors:
    """Give all that is no number the same bits: a cast keeps no payload of one."""
    return {
        key: torch.where(each.isnan(), torch.nan, each) if each.is_floating_point() else each
        for key, each in tensors.items()
    }


def judge_target(drawn: Drawn, seed: int) -> Find | None:
    """With a target, what is accepted is one reading carried out as it says; the only one that fits is accepted."""
    chance = random.Random(seed)
    free = interpret(drawn.mapping, drawn.tensors, config=drawn.config)
    wanted = draw_target(chance, drawn, free)
    return judge_wanted(drawn, wanted)


def judge_wanted(drawn: Drawn, wanted: Specs) -> Find | None:
    """As `judge_target`, for one target."""
    shapes = {key: tuple(each.shape) for key, each in wanted.items()}
    made = interpret(drawn.mapping, drawn.tensors, shapes, drawn.config)
    as_stored = {key: tuple(tensor.shape) for key, tensor in kept(drawn, made).items()}
    plan, crash = attempt(wb.plan, drawn.tensors, drawn.mapping, wb.Header(wanted), config=drawn.config)
    if crash:
        return crash
    fits = accepts(made, shapes)
    if isinstance(plan, wb.WeighbridgeError):
        is_due = fits and as_stored != shapes and not made.vanished
        return Find("refused", str(plan)[:600]) if is_due else None
    if plan.reading.startswith("as is"):
        return _judge_as_is(drawn, made, plan, shapes, fits)
    return _judge_mapped(drawn, plan, shapes)


def _judge_mapped(drawn: Drawn, plan: wb.Plan, shapes: MappingOf[str, tuple[int, ...]]) -> Find | None:
    rules = plan.mapping if plan.mapping.transforms != drawn.mapping.transforms else drawn.mapping
    made = interpret(rules, drawn.tensors, shapes, drawn.config)
    if made.problems and made.problems <= UNLIKE:
        return _judge_unlike(plan, made)
    if made.problems:
        return Find("accepted", f"{plan.reading}: should be {sorted(made.problems)}")
    if not accepts(made, shapes):
        return Find("accepted", f"{plan.reading}: does not fit")
    wrong = difference(plan.state_dict(), made.tensors)
    return Find("wrong", f"{plan.reading}: {wrong}") if wrong else None


def _judge_as_is(
    drawn: Drawn, made: Made, plan: wb.Plan, shapes: MappingOf[str, tuple[int, ...]], fits: bool
) -> Find | None:
    whole = kept(drawn, made)
    wrong = difference(plan.state_dict(), whole)
    if wrong:
        return Find("wrong", f"{plan.reading}: {wrong}")
    if fits and difference(made.tensors, whole):
        return Find("as is, though mapped fits", difference(made.tensors, whole))
    if made.problems & UNLIKE:
        return None  # values have stopped some of it, so that nothing says which shapes that would have
    faults = made.problems - BY_SHAPES
    fits_elsewhere = all(shapes.get(name) == shape for name, shape in made.shapes.items())
    if faults and made.failed and fits_elsewhere and (set(made.tensors) | made.failed) == set(shapes):
        return Find("as is for a fault", f"the right reading has {sorted(faults)}")
    return None


def judge_partial(drawn: Drawn, seed: int) -> Find | None:
    """A partial load fills targets with what the mapping makes of them, and carries only what has no place."""
    free = interpret(drawn.mapping, drawn.tensors, config=drawn.config)
    wanted = draw_target(random.Random(seed), drawn, free)
    shapes = {key: tuple(each.shape) for key, each in wanted.items()}
    plan, crash = attempt(wb.plan, drawn.tensors, drawn.mapping, wb.Header(wanted), config=drawn.config, partial=True)
    if crash or isinstance(plan, wb.WeighbridgeError):
        return crash
    rules = wb.Mapping(drop=drawn.mapping.drop) if plan.reading == "as is" else plan.mapping
    made = interpret(rules, drawn.tensors, shapes, drawn.config)
    result, crash = attempt(plan.state_dict)
    if crash or isinstance(result, wb.WeighbridgeError):
        return crash or (None if made.problems & UNLIKE else Find("refused", str(result)[:600]))
    for key, tensor in result.items():
        right = made.tensors if key in wanted and key in made.tensors else drawn.tensors
        if key not in right or difference({key: tensor}, {key: right[key]}):
            return Find("wrong", f"{plan.reading}: {key}")
    unfilled = [key for key in wanted if key in made.tensors and key not in result and not made.problems]
    return Find("left out", f"{plan.reading}: {unfilled[0]}") if unfilled else None


# ---- backwards ----


def judge_recorded(drawn: Drawn, seed: int = 0) -> Find | None:
    """The inverse of a plan gives back what was there, through JSON, too."""
    plan, crash = attempt(wb.plan, drawn.tensors, drawn.mapping, config=drawn.config)
    if crash or isinstance(plan, wb.WeighbridgeError):
        return crash
    made = interpret(drawn.mapping, drawn.tensors, config=drawn.config)
    if made.problems and made.problems <= UNLIKE:
        return None
    if plan.is_exact and made.dropped:
        return Find("exact, with a dropped tensor", sorted(made.dropped)[0])
    back = wb.Plan.from_json(plan.inverse(lossy=True).to_json()) if seed % 2 else plan.inverse(lossy=True)
    found, crash = attempt(back.state_dict, plan.state_dict())
    if crash:
        return crash
    if isinstance(found, wb.WeighbridgeError):
        return Find("refused", str(found)[:600])
    wrong = difference(found, kept(drawn, made))
    return Find("wrong", wrong) if wrong and plan.is_exact else None


def judge_derived(drawn: Drawn, seed: int = 0) -> Find | None:
    """What the derived inverse gives is what was there: the only thing that the rules take there, or it says so."""
    return _judge_back(drawn, None)


def judge_derived_for_target(drawn: Drawn, seed: int = 0) -> Find | None:
    """The same where a target says which layout to reach."""
    return _judge_back(drawn, header(drawn.tensors))


def _judge_back(drawn: Drawn, target: wb.Header | None) -> Find | None:
    made = interpret(drawn.mapping, drawn.tensors, config=drawn.config)
    if made.problems or made.vanished or any(map(_rounds, drawn.mapping)):
        return None
    inverse, crash = attempt(drawn.mapping.inverse)
    if crash or isinstance(inverse, wb.WeighbridgeError):
        return crash
    truth = kept(drawn, made)
    wanted = target if target is None else header(truth)
    plan, crash = attempt(wb.plan, made.tensors, inverse, wanted, config=drawn.config)
    if crash or isinstance(plan, wb.WeighbridgeError):
        return crash
    if plan.choices:
        return None  # there are several ways back, and it says so
    found = plan.state_dict()
    if found.keys() != truth.keys():
        return Find("another name", difference(found, truth))
    wrong = difference(found, truth)
    if not wrong:
        return None
    sized = any(found[key].shape != tensor.shape for key, tensor in truth.items())
    return Find("another size" if sized else "another order", f"{plan.reading}: {wrong}")


def _rounds(rule: Any) -> bool:
    return any(type(each).__name__ == "Cast" for each in getattr(rule, "operations", ()))


def judge_directory(drawn: Drawn, seed: int = 0) -> Find | None:
    """A converted directory goes back by the mapping's reverse to what it was, or it says so; by `revert` always."""
    from safetensors.torch import save_file

    from weighbridge.running.receipt import read_receipt

    with workplace() as place:
        (place / "in").mkdir()
        stored = {key: tensor.contiguous().clone() for key, tensor in drawn.tensors.items()}
        save_file(stored, place / "in" / "model.safetensors")
        options = {"config": drawn.config, "sync": False}
        done, crash = attempt(wb.convert, place / "in", place / "out", drawn.mapping, **options)
        if crash or isinstance(done, wb.WeighbridgeError):
            return crash
        truth = kept(drawn, interpret(drawn.mapping, drawn.tensors, config=drawn.config))
        back, crash = attempt(wb.convert, place / "out", place / "back", drawn.mapping, reverse=True, **options)
        if crash:
            return crash
        vanished = interpret(drawn.mapping, drawn.tensors, config=drawn.config).vanished
        if isinstance(back, Path) and not vanished and not read_receipt(back).plan.choices:
            wrong = difference(_read(place / "back"), truth)
            if wrong:
                return Find("reversed to something else", wrong)
        exact = len(truth) == len(drawn.tensors) and not any(map(_rounds, drawn.mapping))
        back, crash = attempt(wb.revert, place / "out", place / "again", sync=False)
        if crash or not exact:
            return crash
        if not isinstance(back, Path):
            return Find("not reverted", str(back)[:600])
        same = (place / "again/model.safetensors").read_bytes() == (place / "in/model.safetensors").read_bytes()
        return None if same else Find("reverted to something else", difference(_read(place / "again"), truth))


def _read(directory: Path) -> Tensors:
    from safetensors.torch import load_file

    return load_file(directory / "model.safetensors")


def judge_ties(drawn: Drawn, seed: int) -> Find | None:
    """Targets that share memory get one value: that of all their sources, if these agree, else there is an error."""
    chance = random.Random(seed)
    names = [f"{letter}.weight" for letter in "abcde"[: chance.randint(2, 5)]]
    groups = {name: chance.choice("xxy") for name in names}
    first = {group: name for name, group in reversed(groups.items())}
    ties = {name: first[group] for name, group in groups.items() if list(groups.values()).count(group) > 1}
    held = [name for name in names if chance.random() < 0.7]
    tensors = {name: torch.full((2, 3), float(chance.randint(0, 1))) for name in held}
    target = wb.Header({name: wb.TensorSpec("F32", (2, 3)) for name in names}, ties=ties)
    options = {"initialise": ["{any:**}"]} if chance.random() < 0.5 else {}
    plan, crash = attempt(wb.plan, tensors, [], target, **options)
    if crash or isinstance(plan, wb.WeighbridgeError):
        return crash
    run = chance.choice((plan.state_dict, lambda: dict(plan.stream())))
    found, crash = attempt(run)
    if crash or isinstance(found, wb.WeighbridgeError):
        return crash
    for group in set(groups.values()):
        values = {raw(found[name]) for name in names if groups[name] == group and name in found}
        given = {raw(tensors[name]) for name in held if groups[name] == group and group in first}
        if len(values) > 1 or (given and not values <= given):
            return Find("tied to two values", f"{ties} from {sorted(held)}")
    return None


def judge_cut(drawn: Drawn, seed: int) -> Find | None:
    """Each of some processes makes its parts of what the interpreter gives, and is refused nothing."""
    made = interpret(drawn.mapping, drawn.tensors, config=drawn.config)
    plan, crash = attempt(wb.plan, drawn.tensors, drawn.mapping, config=drawn.config)
    if crash or isinstance(plan, wb.WeighbridgeError) or made.problems:
        return crash
    chance = random.Random(seed)
    for mine in deal_all(made.shapes, chance.choice((1, 2, 3, 4)), chance):
        found, crash = attempt(lambda parts=mine: plan.cut(parts).state_dict())
        if crash or isinstance(found, wb.WeighbridgeError):
            return crash or Find("refused", str(found)[:600])
        wrong = difference(found, {key: held_of(made.tensors[key], part) for key, part in mine.items()})
        if wrong:
            return Find("wrong part", wrong)
    return None


CHECKS: dict[str, Check] = {
    "result": judge_result,
    "cut": judge_cut,
    "dtypes": judge_policy,
    "target": judge_target,
    "partial": judge_partial,
    "recorded": judge_recorded,
    "derived": judge_derived,
    "derived for a target": judge_derived_for_target,
    "directory": judge_directory,
    "ties": judge_ties,
    "read back": judge_read_back,
}
