"""Weights that a checkpoint holds in another size than the model has: they are left there, and made anew.

So the library does with `ignore_mismatched_sizes`, weight by weight, after all conversions. Here the plan is made first
as if the sizes that differ were wanted, which says what would come out, and of what; then once more without those
tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Final, NamedTuple

import torch

from weighbridge.base.errors import PlanError, RegistryError
from weighbridge.base.keys import collapse
from weighbridge.base.specs import Header, Shape
from weighbridge.base.spelling import exact_pattern
from weighbridge.mappings.exception_rules import Drop, Initialise
from weighbridge.models.changed_models import OTHER_SIZE
from weighbridge.models.holdings import Holdings
from weighbridge.planning.names.selections import select
from weighbridge.planning.plan import Plan
from weighbridge.planning.steps import Step

SIZE_FAULTS: Final = frozenset({"group-extra", "group-incomplete", "spec-mismatch"})
"""Codes of what is wrong with a plan whose weights have other sizes than the model's."""


class OtherSizes(NamedTuple):
    """What a checkpoint holds in another size.

    Args:
        shapes: The shapes that would come out, by the names of the model's weights.
        drop: Rules that leave the tensors there.
        initialise: Rules that let the weights be made anew.
    """

    shapes: dict[str, Shape]
    drop: tuple[Drop, ...]
    initialise: tuple[Initialise, ...]

    def in_their_place(self, header: Header) -> dict[str, torch.Tensor]:
        """Return a tensor of the other shape for each weight, without memory: the library looks at the shape alone."""
        return {key: torch.zeros(()).expand(shape) for key, shape in self.shapes.items() if key in header}


def refuse_spread(shapes: Collection[str], held: Holdings) -> None:
    """Refuse to make weights anew of which each process holds a part: their parts would be random by themselves.

    Args:
        shapes: The weights of another size.
        held: What the model holds here.

    Raises:
        RegistryError: `integration-unsupported`.
    """
    spread = [key for key in shapes if key in held.places and held.places[key].sharded is not None]
    if spread:
        what = "these weights are of another size in the checkpoint, and spread over processes here"
        hint = "load the model in one process, save it, and load what was saved"
        raise RegistryError("integration-unsupported", what, where=", ".join(collapse(spread)[:4]), hint=hint)


def find_other_sizes(compile_for: Callable[[Header], Plan], header: Header, problem: PlanError) -> OtherSizes:
    """Find the weights that would come out in another size than the model has.

    How the checkpoint is read is still told by the sizes of all others.

    Args:
        compile_for: Plans for a model of these specs, whatever shapes are declared to be free.
        header: The model's.
        problem: What planning for the model as it is came to.

    Raises:
        PlanError: As `compile_for`.
        RegistryError: `integration-unsupported` where only part of what one tensor becomes has another size.
    """
    plan = _compile_freely(compile_for, header, problem)
    shapes = {key: shape for key, shape in _made(plan) if key in header and header[key].shape != shape}
    steps = [step for step in plan.steps if any(key in shapes for key in step.writes)]
    for step in steps:
        _refuse_part(step, shapes)
    tied = {fated.key: fated.by for fated in plan.tied_targets if fated.by in shapes}
    drop = (Drop(exact_pattern(key), _why(step, shapes, header)) for step in steps for key in step.reads)
    keys = [*shapes, *tied]
    initialise = (Initialise(exact_pattern(key), f"{OTHER_SIZE}: {list(header[key].shape)} here") for key in keys)
    return OtherSizes(shapes, tuple(drop), tuple(initialise))


def _compile_freely(compile_for: Callable[[Header], Plan], header: Header, problem: PlanError) -> Plan:
    """Free the shapes that a problem names, and those that turn out to be other ones then, until a plan fits."""
    free: set[str] = set()
    while True:
        named = _named(problem, header) - free
        if not named:
            raise problem
        free |= named
        try:
            return compile_for(replace(header, loose=header.loose | free))
        except PlanError as again:
            problem = again


def _named(problem: PlanError, header: Header) -> set[str]:
    """Return the weights whose sizes a problem complains of."""
    lines = [line for one in problem.problems if one.code in SIZE_FAULTS for line in one.where.split(", ")]
    return select(lines, dict.fromkeys(header))


def _made(plan: Plan) -> Iterator[tuple[str, Shape]]:
    for step in plan.steps:
        yield from ((key, step.program.targets[number].layout.shape) for key, number in step.writes.items())


def _why(step: Step, shapes: dict[str, Shape], header: Header) -> str:
    key = next(iter(step.writes))
    return f"{OTHER_SIZE}: {key} {list(shapes[key])} there, {list(header[key].shape)} in the model"


def _refuse_part(step: Step, shapes: dict[str, Shape]) -> None:
    """Refuse to leave a tensor where it is of which a weight is made that has its size."""
    fitting = [key for key in step.writes if key not in shapes]
    if fitting:
        what = "of what these tensors become, some has the model's size, and some has not"
        where, got = ", ".join(step.reads[:4]), ", ".join([*step.writes][:4])
        hint = "give a configuration with the sizes of the checkpoint"
        raise RegistryError("integration-unsupported", what, where=where, got=got, hint=hint)
