"""Weights that a checkpoint holds in another size than the model has: they are left there, and made anew.

So the library does with `ignore_mismatched_sizes`, weight by weight, after all conversions. Here the plan is made first
as if every size were wanted, which says what would come out, and of what; then once more without those tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final, NamedTuple

import torch

from weighbridge.base.errors import RegistryError
from weighbridge.base.specs import Header, Shape
from weighbridge.base.spelling import exact_pattern
from weighbridge.mappings.exception_rules import Drop, Initialise
from weighbridge.models.changed_models import OTHER_SIZE
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


def find_other_sizes(compile_for: Callable[[Header], Plan], header: Header) -> OtherSizes:
    """Find the weights that would come out in another size than the model has.

    Args:
        compile_for: Plans for a model of these specs, whatever shapes are declared to be free.
        header: The model's.

    Raises:
        PlanError: As `compile_for`.
        RegistryError: `integration-unsupported` where only part of what one tensor becomes has another size.
    """
    first = _misfits(compile_for(replace(header, loose=header.loose | header.specs.keys())), header)
    plan = compile_for(replace(header, loose=header.loose | first.keys()))
    shapes = _misfits(plan, header)
    steps = [step for step in plan.steps if any(key in shapes for key in step.writes)]
    for step in steps:
        _refuse_part(step, shapes)
    tied = {fated.key: fated.by for fated in plan.tied_targets if fated.by in shapes}
    drop = (Drop(exact_pattern(key), _why(step, shapes, header)) for step in steps for key in step.reads)
    keys = [*shapes, *tied]
    initialise = (Initialise(exact_pattern(key), f"{OTHER_SIZE}: {list(header[key].shape)} here") for key in keys)
    return OtherSizes(shapes, tuple(drop), tuple(initialise))


def _misfits(plan: Plan, header: Header) -> dict[str, Shape]:
    return {key: shape for key, shape in _made(plan) if key in header and header[key].shape != shape}


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
