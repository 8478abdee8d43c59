"""Cast the targets of steps as a dtype policy wants it, and say what came of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from weighbridge.base.keys import collapse
from weighbridge.base.specs import DTYPES, Header, widens_exactly
from weighbridge.planning.casts.dtype_policies import ALL, KEEP, TARGET, DtypePolicy, is_castable
from weighbridge.planning.plan import Plan
from weighbridge.planning.steps import Step, fate_of

SHOWN_NAMES: Final = 3
"""How many kinds of tensors a sentence names."""


def cast_steps(
    steps: Sequence[Step], policy: DtypePolicy, target: Header | None, apart: Collection[str]
) -> Iterator[Step]:
    """Yield steps with their targets cast as a policy wants it, after every cast that they have.

    Args:
        steps: The steps.
        policy: What is wanted.
        target: Specs of the wanted tensors, if they are known.
        apart: Sources that are not to be cast.
    """
    wanted = policy.wanted([key for step in steps for key in step.targets])
    for step in steps:
        dtypes = [out.dtype for out in step.program.targets]
        if not any(key in apart for key in step.sources):
            pairs = zip(step.targets, dtypes, strict=True)
            dtypes = [_settled(key, dtype, wanted.get(key, KEEP), target) for key, dtype in pairs]
        if dtypes == [out.dtype for out in step.program.targets]:
            yield step
            continue
        program = step.program.recast(dtypes)
        yield replace(step, program=program, fate=fate_of(step.sources, step.targets, program))


def _settled(key: str, dtype: str, wanted: str, target: Header | None) -> str:
    if wanted == KEEP or not is_castable(dtype):
        return dtype
    if wanted != TARGET:
        return wanted
    spec = target.specs.get(key) if target is not None and key not in target.loose else None
    return spec.dtype if spec is not None and is_castable(spec.dtype, to=True) else dtype


# ---- what is to be said of it ----


def rounded(plan: Plan) -> dict[tuple[str, str], list[str]]:
    """Return the targets whose values a cast may round, by the dtypes before and after it."""
    found: dict[tuple[str, str], list[str]] = {}
    for step in plan.steps:
        for pair in step.program.casts:
            if not widens_exactly(*pair):
                found.setdefault(pair, []).extend(step.writes)
    return found


def rounded_lines(plan: Plan) -> Iterator[str]:
    """Say which targets a cast rounds, a sentence for each pair of dtypes."""
    for (before, after), keys in sorted(rounded(plan).items()):
        yield f"{_counted(keys, 'is', 'are')} rounded from {before} to {after}: {name_some(keys)}"


def policy_notes(plan: Plan, policy: DtypePolicy, quantised: Collection[str]) -> Iterator[str]:
    """Say what a policy rounds, and what it names and leaves as it is.

    Args:
        plan: The plan.
        policy: The policy.
        quantised: Sources that belong to quantised weights.
    """
    yield from rounded_lines(plan)
    specs = {key: out.dtype for step in plan.steps for key, out in zip(step.targets, step.program.targets, strict=True)}
    wanted = policy.wanted(specs)
    asked = {key for key, dtype in wanted.items() if dtype != KEEP}
    coded = {key for step in plan.steps if any(one in quantised for one in step.sources) for key in step.targets}
    small = {key for key in asked if DTYPES[specs[key]].kind == "float" and DTYPES[specs[key]].bits <= 8}
    left = sorted(key for key in asked if key in small | coded and _differs(specs[key], wanted[key]))
    if left:
        yield f"{_counted(left, 'keeps its', 'keep their')} dtype, as part of what is quantised: {name_some(left)}"
    for pattern, dtype in policy.rules:
        named = asked & DtypePolicy(((pattern, dtype),)).wanted(specs).keys() if pattern != ALL else set()
        if named and not any(DTYPES[specs[key]].kind == "float" for key in named):
            kinds = ", ".join(sorted({specs[key] for key in named}))
            yield f"{_counted(named, 'keeps its', 'keep their')} dtype, {kinds}, whatever is asked for {pattern}"


def _differs(dtype: str, wanted: str) -> bool:
    return wanted not in (dtype, TARGET) and DTYPES[dtype].kind == "float"


def _counted(keys: Collection[str], one: str, several: str) -> str:
    return f"{len(keys):,} targets {several}" if len(keys) > 1 else f"1 target {one}"


def name_some(keys: Iterable[str]) -> str:
    """Name a few kinds of tensors, and count the others.

    Examples:
        >>> name_some(["layers.0.norm", "layers.1.norm", "head"])
        'head, layers.{0,1}.norm'
    """
    lines = collapse(sorted(keys))
    more = f" and {len(lines) - SHOWN_NAMES} more" if len(lines) > SHOWN_NAMES else ""
    return ", ".join(lines[:SHOWN_NAMES]) + more
