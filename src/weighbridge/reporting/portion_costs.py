"""What a cut plan's process holds, and what it needs for that, in bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from weighbridge.algebra.copies import Copy, swapped
from weighbridge.algebra.coverage import coverage
from weighbridge.base.specs import DTYPES
from weighbridge.planning.plan import Plan
from weighbridge.planning.steps import Step


class PortionCost(NamedTuple):
    """What one process has to do with a plan; sizes in bytes.

    Of a plan that is cut to parts of its targets, `held_bytes` is what is made of them, and `needed_bytes` what that
    takes of the sources. Of one that is cut to parts of its sources, it is what is there of them, and what is made of
    that. The two others are the whole targets and sources, or the other way round; `is_of_targets` says which.
    """

    held_bytes: int
    whole_bytes: int
    needed_bytes: int
    other_bytes: int
    is_of_targets: bool


def portion_cost(plan: Plan) -> PortionCost | None:
    """Say what a process holds and needs; None for a plan that is not cut."""
    if plan.portion is None:
        return None
    whole = plan.portion.whole
    needed = needed_bytes(plan)
    sides = whole.source.size_bytes, whole.target.size_bytes
    if plan.portion.target is None:
        return PortionCost(needed, sides[0], sum(map(_made_bytes, plan.steps)), sides[1], False)
    made = sum(step.program.targets[number].spec.size_bytes for step in plan.steps for number in step.writes.values())
    return PortionCost(made, sides[1], needed, sides[0], True)


def needed_bytes(plan: Plan) -> int:
    """Count the bytes of the sources that any copy of a plan reads, each once."""
    known: dict[tuple[int, ...], int] = {}
    total = 0
    for step in plan.steps:
        first: dict[str, int] = {}
        places = tuple([first.setdefault(key, slot) for slot, key in enumerate(step.sources)])
        name = id(step.program), *places
        if name not in known:
            known[name] = sum(_read_bytes(step, places))
        total += known[name]
    return total


def _read_bytes(step: Step, places: tuple[int, ...]) -> Iterator[int]:
    """Yield for each different source of a step how many of its bytes are read."""
    read: dict[int, list[Copy]] = {}
    for output in step.program.outputs:
        for copy in output.layout.copies:
            if copy.source < len(places):
                read.setdefault(places[copy.source], []).append(swapped(copy))
    for slot, copies in read.items():
        spec = step.program.sources[slot]
        counts = coverage(copies, spec.numel)
        yield (counts.once + counts.multiple) * DTYPES[spec.dtype].bits // 8


def _made_bytes(step: Step) -> int:
    written = (step.program.targets[number] for number in step.writes.values())
    return sum(copy.numel * DTYPES[output.dtype].bits // 8 for output in written for copy in output.layout.copies)
