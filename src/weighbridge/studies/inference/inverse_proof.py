"""Run the way back of what is proposed: its inverse, from the second checkpoint to the first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from weighbridge.base.errors import PlanError, WeighbridgeError
from weighbridge.base.keys import collapse_by_name
from weighbridge.base.specs import Header
from weighbridge.mappings.mapping import Mapping
from weighbridge.planning.fitting import draft_reading
from weighbridge.planning.plan_options import Options
from weighbridge.planning.readings import Reading
from weighbridge.running.execute import run_step
from weighbridge.studies.inference.by_value.fingerprints import bits_of, read_as
from weighbridge.studies.inference.proving import is_equal

if TYPE_CHECKING:
    import torch

    from weighbridge.planning.plan import Plan
    from weighbridge.planning.steps import Step
    from weighbridge.storage.protocol import Checkpoint


def inverse_faults(mapping: Mapping, plan: Plan, source: Checkpoint, target: Checkpoint) -> tuple[str, ...]:
    """Say why the inverse of a mapping does not give the first checkpoint back from the second; nothing if it does.

    Every tensor that the plan moves has to come back, bit for bit, or as the cast that the plan makes of it leaves it.

    Args:
        mapping: What is proposed.
        plan: Its plan from `source` to `target`, which holds.
        source: The first checkpoint.
        target: The second one.

    Raises:
        CheckpointError: The codes of reading.
    """
    moving = [step for step in plan.steps if step.fate not in ("carried", "tied")]
    try:
        inverse = mapping.inverse()
        back = _plan_back(inverse, moving, source.header, target.header)
    except WeighbridgeError as problem:
        return (_fault_text(problem),)
    through = {key: out.dtype for step in moving for out in step.program.targets for key in step.sources}
    made: set[str] = set()
    wrong: list[str] = []
    for key, value in (given for step in back.steps for given in run_step(step, target)):
        made.add(key)
        if not _is_back(value, source, key, through[key]):
            wrong.append(key)
    return tuple(_faults(through.keys() - made, wrong))


def _plan_back(inverse: Mapping, moving: Sequence[Step], source: Header, target: Header) -> Plan:
    """Plan the way back of what moves by the rules alone: the layout to reach is known here, and is not to settle it.

    What is dropped, or left to be initialised, is lost and not asked for.

    Raises:
        PlanError: `plan-failed`.
    """
    made = Header({key: target[key] for step in moving for key in step.targets})
    wanted = Header({key: source[key] for step in moving for key in step.sources})
    casts = any(step.program.casts for step in moving)
    options = Options(dtype="target" if casts else None, allow_overflow=True)
    draft = draft_reading(Reading("mapped", inverse), made, wanted, options)
    if not draft.fits:
        problems = draft.problems(made, wanted)
        raise PlanError("plan-failed", "the inverse of the mapping does not fit", problems=problems)
    return draft.plan


def _is_back(value: torch.Tensor, source: Checkpoint, key: str, through: str) -> bool:
    """Compare a tensor with the one that it should be, as the cast to a dtype leaves it."""
    if source.header[key].dtype == through:
        return is_equal(value, source, key)
    wanted = read_as(source, key, through).to(value.dtype)
    return value.shape == wanted.shape and bits_of(value.contiguous()).equal(bits_of(wanted.contiguous()))


def _fault_text(problem: WeighbridgeError) -> str:
    first = problem.problems[0] if isinstance(problem, PlanError) and problem.problems else problem
    return first.headline


def _faults(missing: Iterable[str], wrong: Iterable[str]) -> Iterator[str]:
    for keys, what in ((missing, "does not come back"), (wrong, "comes back with other values")):
        yield from (f"{line} {what}" for line in collapse_by_name(keys))
