"""Real values for a plan that may be for hundreds of gigabytes.

Steps with one program and the same rules are alike, so one of each kind is run. A kind whose tensors are too large is
run on tensors with all sizes divided by one power of two, where the mapping fits those, too. What is left then is what
explicit sizes forbid to shrink; its copies are proven to touch each element once all the same, as every plan's are.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from weighbridge.base.errors import PlanError, WeighbridgeError
from weighbridge.base.specs import DTYPES, Header, TensorSpec
from weighbridge.planning.compiling import compile_plan
from weighbridge.planning.plan import Plan
from weighbridge.planning.plan_options import Options
from weighbridge.planning.steps import Step
from weighbridge.running.execute import run_step
from weighbridge.running.results import state_dict
from weighbridge.storage import open_checkpoint

if TYPE_CHECKING:
    import torch

MAX_BYTES: Final = 64 * 2**20
"""How many bytes of published tensors a check makes, unless it is told otherwise."""

_FACTORS: Final = tuple(2**power for power in range(1, 15))


def parts_of(plan: Plan, max_bytes: int, config: Any = None) -> list[Plan]:
    """Return plans that together run one step of each kind, each on at most `max_bytes` of sources.

    Args:
        plan: The whole plan.
        max_bytes: Limit for the steps that are run as they are, all together, and for each that is shrunk.
        config: The model's configuration, for operations that read it.
    """
    kinds = {(step.program, step.rules): step for step in reversed(plan.steps) if _has_values(step)}
    whole: list[Step] = []
    parts: list[Plan] = []
    left_bytes = max_bytes
    for step in sorted(kinds.values(), key=lambda step: (source_bytes(step), step.targets)):
        if source_bytes(step) <= left_bytes:
            left_bytes -= source_bytes(step)
            whole.append(step)
        elif (shrunk := _shrink(plan, step, max_bytes, config)) is not None:
            parts.append(shrunk)
    return [restrict(plan, whole), *parts] if whole else parts


def source_bytes(step: Step) -> int:
    """Size of what a step reads."""
    specs = dict(zip(step.sources, step.program.sources, strict=True))
    return sum(spec.size_bytes for spec in specs.values())


def restrict(plan: Plan, steps: list[Step]) -> Plan:
    """Return the plan that runs some steps of another one, on the tensors of these alone."""
    return replace(
        plan,
        steps=tuple(sorted(steps, key=lambda step: step.targets)),
        dropped=(),
        initialised=(),
        tied_sources=(),
        tied_targets=(),
        twins=(),
        source_files=None,
        target_files=None,
    )


def _has_values(step: Step) -> bool:
    """Tell whether torch has all of the step's dtypes, and no value of it is that of a model."""
    from weighbridge.storage.formats.torch_tensors import torch_layout

    specs = (*step.program.sources, *(output.spec for output in step.program.targets))
    return not step.program.keeps_own and all(torch_layout(spec) is not None for spec in specs)


def _shrink(plan: Plan, step: Step, max_bytes: int, config: Any) -> Plan | None:
    """Plan a step's tensors with their sizes divided; None where the rules do not fit any such sizes."""
    outputs = dict(zip(step.targets, (output.spec for output in step.program.targets), strict=True))
    for factor in _FACTORS:
        sources = _divided(dict(zip(step.sources, step.program.sources, strict=True)), factor)
        if sources.size_bytes > max_bytes:
            continue
        options = Options(layout="mapped", config=config)
        try:
            return compile_plan(sources, plan.mapping, _divided(outputs, factor), options=options)
        except WeighbridgeError:
            continue
    return None


def _divided(specs: dict[str, TensorSpec], factor: int) -> Header:
    return Header(
        {
            key: TensorSpec(spec.dtype, tuple(_divided_size(size, factor) for size in spec.shape))
            for key, spec in specs.items()
        }
    )


def _divided_size(size: int, factor: int) -> int:
    return size // factor if size % factor == 0 and size // factor > 1 else size


# ---- values ----


def make_values(plan: Plan, ties: dict[str, str] | None = None) -> dict[str, torch.Tensor]:
    """Make a tensor for each source of a plan; what is cast gets numbers, anything else random bits, NaNs included.

    The same plan gets the same values every time.

    Args:
        plan: A plan whose dtypes torch has.
        ties: For targets that share their storage, the one that stands for them: their sources get equal values.
    """
    values: dict[str, torch.Tensor] = {}
    for step in plan.steps:
        cast = bool(step.program.casts)
        pairs = zip(step.sources, step.program.sources, strict=True)
        values |= {key: make_tensor(spec, key, finite=cast) for key, spec in pairs}
    values |= {one.key: make_tensor(one.spec, one.key) for one in plan.dropped}
    for step in plan.steps:
        if step.fate == "checked" or step.program.cuts:
            values |= _bound_values(step)
        elif step.fate == "tied":
            values |= _twin_values(plan, step, values, ties or {})
    return values


def _bound_values(step: Step) -> dict[str, torch.Tensor]:
    """Return values for sources of which something must hold: those that some targets come back to."""
    cast = bool(step.program.casts)
    specs = {key: step.program.targets[number].spec for key, number in step.writes.items()}
    made = {key: make_tensor(spec, key, finite=cast) for key, spec in specs.items()}
    return dict(run_step(step.inverse(lossy=True), open_checkpoint(made)))


def _twin_values(
    plan: Plan, step: Step, values: dict[str, torch.Tensor], ties: dict[str, str]
) -> dict[str, torch.Tensor]:
    """Return values for a tied step's sources that give what the step of its twin gives."""
    (key,) = step.targets
    group = ties.get(key, key)
    twins = (
        (other, target)
        for other in plan.steps
        for target in other.targets
        if other.fate != "tied" and ties.get(target, target) == group
    )
    other, target = next(twins)
    made = run(restrict(plan, [other]), {source: values[source] for source in other.sources})
    return run(restrict(plan, [step]).inverse(), {key: made[target]})


def run(plan: Plan, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return what a plan makes of tensors."""
    return state_dict(plan, open_checkpoint(values))


def make_tensor(spec: TensorSpec, key: str, *, finite: bool = False) -> torch.Tensor:
    """Make a tensor of random bits that depend on its key alone.

    Args:
        spec: Its dtype and shape.
        key: What the values depend on.
        finite: Make floats of ordinary numbers, which survive a cast to a wider dtype.

    Raises:
        PlanError: `dtype-mismatch` for a dtype that torch does not have.
    """
    import torch

    from weighbridge.storage.formats.torch_tensors import torch_layout

    layout = torch_layout(spec)
    if layout is None:
        raise PlanError("dtype-mismatch", "torch has no values of this dtype", where=key, got=spec.dtype)
    dtype, shape = layout
    chance = torch.Generator().manual_seed(zlib.crc32(key.encode()))
    if DTYPES[spec.dtype].kind == "bool":
        return torch.randint(0, 2, shape, generator=chance).to(dtype)
    if finite and DTYPES[spec.dtype].kind == "float":
        return torch.randn(shape, generator=chance).abs().to(dtype)
    size_bytes = spec.size_bytes
    return torch.randint(0, 256, (size_bytes,), generator=chance, dtype=torch.uint8).view(dtype).reshape(shape)
