"""Rows of a model's own: a plan that leaves part of a parameter as the model has it, as it is run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from weighbridge.base.errors import PlanError
from weighbridge.models.holdings import Places
from weighbridge.planning.plan import Plan
from weighbridge.planning.program import Output, Program
from weighbridge.planning.steps import Step


def around_own(plan: Plan, places: dict[str, Places]) -> Plan:
    """Return a plan that writes all but what stays as the model has it.

    Args:
        plan: The plan; it is proven to write the whole of each target, some of it from the model's own rows.
        places: The model's tensors.

    Raises:
        PlanError: `model-mismatch` where the model has no values to keep.
    """
    steps = [step for step in plan.steps if step.program.keeps_own]
    if not steps:
        return plan
    empty = [key for step in steps for key in step.targets if key in places and _has_none(places[key])]
    if empty:
        raise PlanError(
            "model-mismatch",
            "these parameters are to keep some of their values, and have none",
            got="\n".join(empty[:12]),
            hint="make the model on a real device, or declare a value for the rows that no file has",
        )
    return replace(plan, steps=tuple(_around(step) if step.program.keeps_own else step for step in plan.steps))


def _has_none(places: Places) -> bool:
    return places.tensor.is_meta or places.receive is not None


def _around(step: Step) -> Step:
    """Return a step without the copies that would read the model's own rows, which are where they belong already."""
    program = step.program
    first = len(program.sources)
    own = {first + number for number, constant in enumerate(program.constants) if not constant.element}
    if any(copy.source in own for output in program.temporaries for copy in output.layout.copies):
        raise PlanError(
            "layout-fragmented",
            "rows of the model's own are cut too finely to be left in place",
            where=step.targets[0],
            hint="put the Pad behind the operations that re-order its elements",
        )
    kept = [slot for slot in range(len(program.slots)) if slot not in own]
    return replace(step, program=_renumbered(program, {slot: place for place, slot in enumerate(kept)}))


def _renumbered(program: Program, places: dict[int, int]) -> Program:
    """Return a program that reads some slots alone, by their places among those."""

    def outputs(made: Iterable[Output]) -> tuple[Output, ...]:
        return tuple(
            output._replace(layout=replace(output.layout, copies=tuple(
                copy._replace(source=places[copy.source]) for copy in output.layout.copies if copy.source in places
            )))
            for output in made
        )  # fmt: skip

    return replace(
        program,
        temporaries=outputs(program.temporaries),
        targets=outputs(program.targets),
        constants=tuple(constant for constant in program.constants if constant.element),
        cuts=(),
    )
