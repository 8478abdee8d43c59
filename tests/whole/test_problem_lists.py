"""The list of problems where something is declared and something else is wrong: what is declared is not in it."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import pytest
from hypothesis import event, given, settings, strategies as st
from strategies import faults

import weighbridge as wb

many = settings(max_examples=max(1000, settings().max_examples), deadline=None)
seeds = st.integers(0, 2**32 - 1)

SPEC = wb.TensorSpec("F32", (2, 3))
NAMES = tuple(f"{part}.{leaf}" for part in ("a", "b", "head", "tower.0", "tower.1") for leaf in ("weight", "bias", "w"))


class Declared(NamedTuple):
    """A checkpoint, a target with ties, a mapping, and what is declared beside it."""

    source: list[str]
    target: list[str]
    ties: dict[str, str]
    mapping: list[Any]
    options: dict[str, list[str]]


def draw_declared(seed: int) -> Declared:
    """Draw names for both sides, most of them the same; declare some of what is missing, and of what is left over."""
    chance = random.Random(seed)
    target = chance.sample(NAMES, chance.randint(2, 8))
    tied = chance.sample(target, chance.choice((0, 0, 2, 3)) if len(target) > 3 else 0)
    ties = dict.fromkeys(tied, min(tied)) if tied else {}
    source = [name for name in target if chance.random() < 0.7] or [target[0]]
    source += chance.sample([name for name in NAMES if name not in target], chance.choice((0, 0, 1, 2)))
    mapping: list[Any] = []
    if chance.random() < 0.5:
        mapping = [wb.WeightRenaming("{part}.gamma$", "{part}.weight")]
        source = [name.replace(".weight", ".gamma") if chance.random() < 0.5 else name for name in source]
    options: dict[str, list[str]] = {}
    for kind, names in (("initialise", target), ("drop", source), ("carry", source)):
        if chance.random() < 0.6:
            options[kind] = [f"^{name}$" for name in chance.sample(names, chance.choice((1, 1, 2)) % (len(names) + 1))]
    return Declared(source, target, ties, mapping, options)


def expected(case: Declared, rules: list[Any]) -> set[tuple[str, str]] | None:
    """What must be complained of if the checkpoint is read by these rules; None where that depends on more."""
    named = {kind: {pattern[1:-1] for pattern in patterns} for kind, patterns in case.options.items()}
    taken = named.get("drop", set()) | named.get("carry", set())
    if named.get("drop", set()) & named.get("carry", set()):
        return None
    made: dict[str, str] = {name: name for name in named.get("carry", set())}
    for name in case.source:
        new = name.replace(".gamma", ".weight") if rules else name
        if name not in taken and made.setdefault(new, name) != name:
            return None
    groups = {case.ties.get(name, name) for name in made if name in case.target}
    missing = {
        name
        for name in case.target
        if name not in made and case.ties.get(name, name) not in groups and name not in named.get("initialise", set())
    }
    left = {name for new, name in made.items() if new not in case.target and name not in taken}
    return {("target-missing", name) for name in missing} | {("source-unplaced", name) for name in left}


def outcome(case: Declared) -> Any:
    header = wb.Header(dict.fromkeys(case.source, SPEC))
    target = wb.Header(dict.fromkeys(case.target, SPEC), ties=case.ties)
    try:
        return wb.plan(header, case.mapping, target, **case.options)
    except wb.PlanError as refused:
        return refused


@many
@given(seeds)
def test_what_is_declared_is_no_problem(seed):
    """Neither what may be missing, nor what may be left over, nor a target whose twin is filled."""
    case = draw_declared(seed)
    readings = [expected(case, rules) for rules in ([case.mapping, []] if case.mapping else [[]])]
    found = outcome(case)
    if None in readings or (isinstance(found, wb.PlanError) and found.code in ("rule-unused", "layout-ambiguous")):
        return
    if set() in readings:
        event("fits")
        assert isinstance(found, wb.Plan), f"{case}\n{found}"
    else:
        event("does not fit")
        assert isinstance(found, wb.PlanError), case
        assert faults(found) in readings, f"{case}\n{found}"


@pytest.mark.parametrize("mapping", [[], [wb.WeightRenaming("gamma", "scale")]], ids=["no rules", "a rule"])
def test_e_declared_and_tied_targets_are_not_missing_again(mapping):
    """E: `initialise` names `b`, the head is tied to the embedding, and something else is wrong."""
    source = wb.Header({"embed": SPEC, "stray": SPEC})
    target = wb.Header(dict.fromkeys(("embed", "head", "b", "c"), SPEC), ties={"embed": "embed", "head": "embed"})
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, mapping, target, initialise=["^b$"])
    assert faults(caught.value) == {("target-missing", "c"), ("source-unplaced", "stray")}
