"""Plan a training checkpoint: its weights by their mapping, and each state of its optimizer as its weight.

A state of the weight's shape has the weight's program, whatever dtype it has. One that is a number has no elements to
move: it is copied to each tensor that its weight becomes part of, and where several weights become one, theirs must be
equal, which is found out before anything is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

from weighbridge.api.states.optimizer_states import State, Training
from weighbridge.base.errors import PlanError, WeighbridgeError
from weighbridge.base.keys import collapse
from weighbridge.base.specs import Header, TensorSpec
from weighbridge.planning.plan import Plan
from weighbridge.planning.program import Output, Program
from weighbridge.planning.steps import Fated, Step, fate_of


def plan_training(training: Training, compiled: Callable[[Header], Plan]) -> Plan:
    """Plan the whole of a training checkpoint.

    Args:
        training: What there is.
        compiled: Compiles the weights.

    Returns:
        A plan whose keys are those of the checkpoint, in which only the weights' names are others.

    Raises:
        PlanError: As `compiled`; `plan-failed` with a `group-incomplete` where only some of the weights that become one
            have a state, a `spec-mismatch` for a state that is neither of its weight's shape nor a number, and a
            `dtype-mismatch` for states of several dtypes that become one.
    """
    plans = {prefix: compiled(training.weights(prefix)) for prefix in training.prefixes}
    first = next(iter(plans.values()))
    _refuse_others(list(plans.values()))
    steps = [step for prefix, plan in plans.items() for step in _under(plan, prefix)]
    dropped = [fated._replace(key=prefix + fated.key) for prefix, plan in plans.items() for fated in plan.dropped]
    problems: list[WeighbridgeError] = []
    for state, weights in training.states.items():
        there = set(weights)
        for step in first.steps:
            try:
                steps += _of_state(step, state, there, training.header)
            except PlanError as problem:
                problems.append(problem)
        dropped += [
            Fated(state.key(each.key), training.header[state.key(each.key)], each.by)
            for each in first.dropped
            if each.key in there
        ]
    if problems:
        raise PlanError(
            "plan-failed", "the states of the optimizer cannot go where their weights go", problems=problems
        )
    for key in training.others:
        steps.append(Step((key,), (key,), Program.identity(training.header[key]), "carried"))
    names = ", ".join(dict.fromkeys(state.name for state in training.states))
    made = replace(
        first,
        steps=tuple(sorted(steps, key=lambda step: step.targets)),
        dropped=tuple(sorted(dropped)),
        tied_sources=tuple(
            fated._replace(key=prefix + fated.key, by=prefix + fated.by)
            for prefix, plan in plans.items()
            for fated in plan.tied_sources
        ),
        notes=(*first.notes, f"states of the optimizer go where their weights go: {names}"),
    )
    made.check()
    return made


def weights_of(training: Training) -> dict[str, str]:
    """Return what the rules call the weight that a tensor is, or is a state of, by the tensor's key."""
    named = {prefix + weight: weight for prefix in training.prefixes for weight in training.weights(prefix)}
    return named | {state.key(weight): weight for state, weights in training.states.items() for weight in weights}


def _refuse_others(plans: Sequence[Plan]) -> None:
    """Refuse what is not known to have states, or rules that are not the same for all copies of the weights."""
    mappings = {plan.mapping for plan in plans}
    strange = any(
        plan.computed or plan.refined or plan.twins or plan.tied_targets or plan.initialised for plan in plans
    )
    if strange or len(mappings) > 1:
        what = "these weights cannot be moved together with the states of their optimizer"
        raise PlanError("usage", what, hint="open the dict of the weights alone, such as checkpoint::model")


def _under(plan: Plan, prefix: str) -> Iterator[Step]:
    for step in plan.steps:
        sources, targets = (tuple(prefix + key for key in keys) for keys in (step.sources, step.targets))
        yield replace(step, sources=sources, targets=targets)


def _of_state(step: Step, state: State, there: set[str], header: Header) -> list[Step]:
    """Return the step that moves a state of a step's weights; none where they have none."""
    having = [key for key in dict.fromkeys(step.sources) if key in there]
    if not having:
        return []
    lacking = [key for key in dict.fromkeys(step.sources) if key not in there]
    if lacking:
        what, got = "some of the weights that become one have a state, and some have none", ", ".join(collapse(lacking))
        raise PlanError("group-incomplete", what, where=state.key(having[0]), got=f"none of {got}")
    specs = tuple(header[state.key(key)] for key in step.sources)
    if len({spec.dtype for spec in specs}) > 1:
        got = ", ".join(sorted({spec.dtype for spec in specs}))
        what = "states that become one have several dtypes"
        raise PlanError("dtype-mismatch", what, where=state.key(having[0]), got=got)
    if all(spec.shape == weight.shape for spec, weight in zip(specs, step.program.sources, strict=True)):
        return [_moved(step, state, specs)]
    if any(spec.numel != 1 for spec in specs) or len(set(specs)) > 1:
        number = next((number for number, spec in enumerate(specs) if spec.numel != 1), 0)
        raise PlanError(
            "spec-mismatch",
            "this state is neither of its weight's shape nor a number",
            where=state.key(step.sources[number]),
            expected=str(list(step.program.sources[number].shape)),
            got=str(specs[number]),
        )
    return [_number(step, state, specs[0])]


def _moved(step: Step, state: State, specs: tuple[TensorSpec, ...]) -> Step:
    if step.program.is_declared:
        what = "rows of a declared value come to its weight, or go, and nothing says what those of a state are"
        raise PlanError("spec-mismatch", what, where=state.key(step.sources[0]))
    program = _retyped(step.program, specs[0].dtype)
    sources, targets = (tuple(map(state.key, keys)) for keys in (step.sources, step.targets))
    fate = step.fate if step.fate in ("carried", "tied") else fate_of(sources, targets, program)
    return Step(sources, targets, program, fate, step.rules)


@lru_cache(maxsize=1024)
def _retyped(program: Program, dtype: str) -> Program:
    """Return the same movement of elements of another dtype, without a cast."""

    def typed(output: Output) -> Output:
        return output._replace(dtype=dtype)

    sources = tuple(TensorSpec(dtype, spec.shape) for spec in program.sources)
    return replace(
        program,
        sources=sources,
        temporaries=tuple(map(typed, program.temporaries)),
        targets=tuple(map(typed, program.targets)),
        overflows=False,
    )


def _number(step: Step, state: State, spec: TensorSpec) -> Step:
    """Return the step in which each target's number is that of every source that the target is made of."""
    pairs = [
        (step.sources[slot], target)
        for number, target in enumerate(step.targets)
        for slot in step.program.slots_read([number])
        if slot < len(step.sources)
    ]
    sources, targets = (tuple(map(state.key, keys)) for keys in zip(*dict.fromkeys(pairs), strict=True))
    program = _copied(spec, len(sources))
    fate = step.fate if step.fate == "carried" else fate_of(sources, targets, program)
    return Step(sources, targets, program, fate, step.rules)


@lru_cache(maxsize=1024)
def _copied(spec: TensorSpec, count: int) -> Program:
    one = Program.identity(spec).targets[0]
    outputs = [
        one._replace(layout=replace(one.layout, copies=tuple(c._replace(source=slot) for c in one.layout.copies)))
        for slot in range(count)
    ]
    return Program((spec,) * count, (), tuple(outputs))
