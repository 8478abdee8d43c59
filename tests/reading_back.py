"""What we write, we read: a file in a random model, saved, and read again by another model of its kind."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from drawn_checkpoints import Drawn
from drawn_models import Anatomy, Held, draw_anatomy, is_tree
from finds import Find, attempt, difference, workplace
from interpreter import Made, Tensors, interpret
from saved_names import unled

import weighbridge as wb

READINGS = ("mapped", "as is", "added", "removed", "into head", "into base", "part", "whole", "partial")
"""How a file lies to the model that it is loaded into."""

PARTIAL = ("into head", "into base", "part", "whole", "partial")
"""Readings in which either side has what the other one lacks."""


@dataclass
class Case:
    """A file, a kind of model that it is loaded into, and what is declared for it.

    Args:
        reading: One of `READINGS`.
        mapping: The mapping.
        file: Tensors of the file.
        anatomy: The kind of model.
        options: What is declared for the first load.
        again: What is declared for what was saved.
        config: The configuration that both go with.
    """

    reading: str
    mapping: wb.Mapping
    file: Tensors
    anatomy: Anatomy
    options: dict[str, Any] = field(default_factory=dict)
    again: dict[str, Any] = field(default_factory=dict)
    config: Any = None


def draw_case(drawn: Drawn, seed: int) -> Case | None:
    """Draw a model for a mapping and tensors, and a file for the model; None where the names are those of no module."""
    chance = random.Random(seed)
    mapping, tensors = drawn.mapping, dict(drawn.tensors)
    tensors |= _further(chance, tensors)
    made = interpret(mapping, tensors, config=drawn.config)
    if made.problems or made.dropped or made.carried or not made.tensors or any(map(_is_for_files, mapping)):
        mapping = wb.Mapping(name="none")
        made = interpret(mapping, tensors)
    reading, prefix = chance.choice(READINGS), chance.choice(("base", "base", "model.base", "model"))
    if any(key.startswith(f"{prefix}.") for key in (*tensors, *made.tensors)):
        prefix = "backbone"
    file, wanted = _both_sides(chance, reading, prefix, tensors, made.tensors)
    if not is_tree(wanted):
        return None
    if reading in ("added", "removed", "into head", "into base") or chance.random() < 0.3:
        mapping = replace(mapping, base_prefix=prefix)
    options = {"partial": True} if reading in PARTIAL else {}
    case = Case(reading, mapping, file, draw_anatomy(chance, wanted, prefix), options, {}, drawn.config)
    _tie(chance, case, made)
    _declare(chance, case)
    return case


def _both_sides(
    chance: random.Random, reading: str, prefix: str, tensors: Tensors, made: Tensors
) -> tuple[Tensors, Tensors]:
    """Draw what lies in a file, and what its model is to hold, as a reading has them."""
    file, wanted = dict(made if reading == "as is" else tensors), dict(made)
    if reading in ("added", "into head", "part"):
        wanted = {f"{prefix}.{key}": tensor for key, tensor in wanted.items()}
    if reading in ("removed", "into base", "whole"):
        file = {f"{prefix}.{key}": tensor for key, tensor in file.items()}
    head = {"score.weight": torch.arange(6.0).reshape(2, 3), "score.bias": torch.arange(2.0)}
    if reading in ("into head", "part", "partial"):
        wanted |= {key: tensor for key, tensor in head.items() if chance.random() < 0.8}
    if reading == "added" and chance.random() < 0.5:
        wanted |= head
        file |= head
    if reading in ("into base", "whole", "partial"):
        file |= {f"lm_{key}": tensor for key, tensor in head.items() if chance.random() < 0.8}
    return file, wanted


def _is_for_files(rule: Any) -> bool:
    """Whether a rule may not lead back: a model is saved in its own dtype, and what was equal differs in it by then."""
    return any(type(each).__name__ in ("Cast", "Repeat") for each in getattr(rule, "operations", ()))


def _further(chance: random.Random, tensors: Tensors) -> Tensors:
    """Add what no rule is for: a number of steps, a mask, and the state of a module."""
    path = chance.choice(sorted({key.rpartition(".")[0] for key in tensors}))
    dot = f"{path}." if path else ""
    more = {
        f"{dot}num_batches_tracked": torch.tensor(chance.randrange(1000)),
        f"{dot}mask": torch.tensor([True, False, True]),
        f"{dot}_extra_state": torch.arange(chance.randint(1, 4)) + chance.randrange(90),
    }
    return {key: tensor for key, tensor in more.items() if chance.random() < 0.2 and key not in tensors}


def _tie(chance: random.Random, case: Case, made: Made) -> None:
    """Let two parameters be one; the file has both, with one value, or the first."""
    if case.reading not in ("mapped", "as is") or chance.random() < 0.6:
        return
    held = case.anatomy.held
    plain = [key for key, each in held.items() if not each.is_buffer and key not in made.changed]
    pairs = [(one, two) for one in plain for two in plain if one < two and held[one][:2] == held[two][:2]]
    if not pairs:
        return
    first, second = chance.choice(pairs)
    names = (first, second) if case.reading == "as is" else (made.sources[first][0], made.sources[second][0])
    case.anatomy.ties[second] = first
    case.file[names[1]] = case.file[names[0]].clone()
    if chance.random() < 0.5:
        del case.file[names[chance.randrange(2)]]


def _declare(chance: random.Random, case: Case) -> None:
    """Now and then let a tensor of either side be an exception."""
    if case.options or chance.random() < 0.6:
        return
    match chance.choice(("drop", "carry", "initialise")):
        case "drop":
            case.file["extra.table"] = torch.arange(3.0)
            case.options["drop"] = ["^extra.table$"]
        case "carry":
            case.file["extra.table"] = torch.arange(3.0)
            case.options["carry"] = ["^extra.table$"]
        case _:
            case.anatomy.held["fresh.weight"] = Held(torch.float32, (2, 2), is_buffer=False)
            case.options["initialise"] = ["^fresh.weight$"]
            case.again["initialise"] = ["^fresh.weight$"]


# ---- the check ----


def judge_read_back(drawn: Drawn, seed: int) -> Find | None:
    """A file in a model, saved, is in another model what it was in the first, bit for bit."""
    case = draw_case(drawn, seed)
    if case is None:
        return None
    with workplace() as place:
        return _judge(case, seed, place)


def _judge(case: Case, seed: int, place: Path) -> Find | None:
    from safetensors.torch import save_file

    source = place / "source"
    source.mkdir()
    save_file({key: tensor.contiguous() for key, tensor in case.file.items()}, source / "model.safetensors")
    model = case.anatomy.build(seed % 1000)
    fresh = _state(model)
    done, crash = attempt(wb.load, model, source, case.mapping, config=case.config, **case.options)
    if crash or isinstance(done, wb.WeighbridgeError):
        return crash
    wrong = _misloaded(case, model, fresh)
    if wrong:
        return Find("loaded something else", wrong)
    chance, plan, before = random.Random(seed + 1), wb.loaded_plan(model), _state(model)
    way, save = _way(chance, model, case, place / "saved")
    out, crash = attempt(save)
    if crash:
        return crash._replace(kind=f"{way}: {crash.kind}")
    if isinstance(out, wb.WeighbridgeError):
        if "padding-differs" in getattr(out, "codes", ()) and (difference(before, _state(model)) or plan.initialised):
            return (
                None  # rows that were put in have values of their own by now, or new weights have them from the start
            )
        if way == "derived" or (out.code == "inverse-unproven" and _unnamed(case, plan)):
            return None
        return Find(f"{way}: not saved", f"{case.reading}: {str(out)[:600]}")
    again = case.anatomy.build(seed % 1000 + 1)
    options = case.options if way in ("write", "convert") else case.again
    done, crash = attempt(wb.load, again, out, case.mapping, config=case.config, **options)
    if crash:
        return crash._replace(kind=f"{way}: {crash.kind}")
    if isinstance(done, wb.WeighbridgeError):
        return Find(f"{way}: not read back", f"{case.reading}: {str(done)[:900]}")
    wrong = difference(_state(again), _state(model))
    return Find(f"{way}: read back as something else", f"{case.reading}: {wrong}") if wrong else None


def _unnamed(case: Case, plan: Any) -> list[str]:
    """Return the weights that were initialised and have no name from which the rules lead to them: no file can be read.

    A path that a reading puts before all keys, it does not put before those of whole parts that the model has besides.
    """
    return unled(
        [plan.mapping.transforms, case.mapping.transforms], [fated.key for fated in plan.initialised], case.config
    )


def _state(model: torch.nn.Module) -> Tensors:
    return {key: tensor.detach().clone() for key, tensor in model.state_dict().items()}


def _misloaded(case: Case, model: torch.nn.Module, fresh: Tensors) -> str:
    """Compare a loaded model with what the interpreter makes of the rules of its reading."""
    plan = wb.loaded_plan(model)
    assert plan is not None
    rules = wb.Mapping(drop=plan.mapping.drop, carry=plan.mapping.carry) if plan.reading == "as is" else plan.mapping
    now = _state(model)
    shapes = {key: tuple(tensor.shape) for key, tensor in now.items()}
    made = interpret(rules, case.file, shapes, case.config)
    if made.problems - {"target-collision"} and not case.options.get("partial"):
        return f"{plan.reading}: should be {sorted(made.problems)}"
    for key, tensor in now.items():
        wanted = made.tensors.get(key)
        if wanted is None:
            twin = next((other for one, other in case.anatomy.ties.items() if key in (one, other)), key)
            pair = [twin, *(one for one, other in case.anatomy.ties.items() if other == twin)]
            wanted = next((made.tensors[each] for each in pair if each in made.tensors), fresh[key])
        if difference({key: tensor}, {key: wanted}):
            return f"{plan.reading}: {difference({key: tensor}, {key: wanted})}"
    return ""


def _way(chance: random.Random, model: torch.nn.Module, case: Case, out: Path) -> tuple[str, Any]:
    """Choose how a loaded model is written, changed or not: by its plan, by its mapping, or by the plan itself."""
    plan = wb.loaded_plan(model)
    assert plan is not None
    is_whole = not plan.initialised and plan.is_exact
    match chance.choice(("save", "save", "save", "derived", *(("write", "convert") if is_whole else ("save",)))):
        case "save":
            _change_values(chance, model)
            if chance.random() < 0.3:
                model.to(chance.choice((torch.float16, torch.float64)))
            size, lossy = chance.choice(("5GB", None, 100)), "drop" in case.options
            return "save", lambda: wb.save(model, out, lossy=lossy, sync=False, max_shard_size=size)
        case "derived":
            _change_values(chance, model)
            return "derived", lambda: wb.save(model, out, case.mapping, config=case.config, sync=False)
        case "write":
            _change_values(chance, model)
            back = plan.inverse(model)
            return "write", lambda: back.write(out, sync=False)
    return "convert", lambda: plan.write(out, sync=False)


def _change_values(chance: random.Random, model: torch.nn.Module) -> None:
    """Change a model as training does, or leave it alone."""
    with torch.no_grad():
        for tensor in model.parameters() if chance.random() < 0.6 else ():
            if tensor.is_floating_point():
                tensor.copy_(torch.randint(0, 100, tensor.shape) + 0.0)
