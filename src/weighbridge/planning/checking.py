"""What must hold of a plan before it may run, proven from the plan alone, wherever it comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping as MappingOf
from typing import Protocol

from weighbridge.base.errors import PlanError, WeighbridgeError
from weighbridge.base.specs import Header, TensorSpec
from weighbridge.mappings.mapping import Mapping
from weighbridge.planning.program import Program
from weighbridge.planning.steps import EQUAL_FATES, STEP_FATES, Fated, Step, fate_of


class Claims(Protocol):
    """What a plan claims, as far as it is to be proven."""

    @property
    def mapping(self) -> Mapping:
        """The mapping, whose rules the steps name."""

    @property
    def steps(self) -> tuple[Step, ...]:
        """All steps."""

    @property
    def programs(self) -> tuple[Program, ...]:
        """The different programs of the steps."""

    @property
    def tied_sources(self) -> tuple[Fated, ...]:
        """Sources that a step's other source stands for."""

    @property
    def tied_targets(self) -> tuple[Fated, ...]:
        """Targets that share the storage of a filled one."""

    @property
    def twins(self) -> tuple[tuple[str, str], ...]:
        """Pairs of filled targets that share one storage."""

    @property
    def computed(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Sources that are computed from codes, by the title of their scheme."""

    @property
    def source(self) -> Header:
        """Specs of all source tensors."""

    @property
    def target(self) -> Header:
        """Specs of all target tensors."""

    @property
    def step_of_source(self) -> dict[str, int]:
        """Number of the step that reads a source."""

    @property
    def step_of_target(self) -> dict[str, int]:
        """Number of the step that writes a target."""

    def source_keys(self) -> list[str]:
        """List the key of every source's fate, as often as it has one."""

    def target_keys(self) -> list[str]:
        """List the key of every target's fate, as often as it has one."""


def find_problems(plan: Claims) -> list[WeighbridgeError]:
    """List all that is wrong with a plan; nothing for one that may run.

    Args:
        plan: The plan. Its files are not looked at.
    """
    problems: list[WeighbridgeError] = []
    for program in plan.programs:
        try:
            program.prove()
        except WeighbridgeError as problem:
            user = next(step for step in plan.steps if step.program == program)
            problems.append(problem.with_context(where=", ".join((user.targets or user.sources)[:1])))
    problems += [problem for step in plan.steps for problem in _step_problems(step, len(plan.mapping.transforms))]
    for side, keys in (("source", plan.source_keys()), ("target", plan.target_keys())):
        twice = [key for key, count in Counter(keys).items() if count > 1] if len(set(keys)) < len(keys) else []
        problems += [PlanError("target-collision", f"a {side} has two fates", where=key) for key in twice]
    # The specs of both sides can only be told once every step fits its program.
    return problems or [
        *_tie_problems(plan.tied_sources, plan.step_of_source, plan.source),
        *_target_ties(plan),
        *_computed_problems(plan),
    ]


def _computed_problems(plan: Claims) -> Iterator[WeighbridgeError]:
    keys = [key for _, keys in plan.computed for key in keys]
    strange = [key for key, count in Counter(keys).items() if count > 1 or key not in plan.source]
    for key in strange:
        yield PlanError("plan-format", "this is said to be computed, and is no source", where=repr(key)[:200])


def _target_ties(plan: Claims) -> Iterator[WeighbridgeError]:
    yield from _tie_problems(plan.tied_targets, plan.step_of_target, plan.target)
    for pair in plan.twins:
        strange = [key for key in pair if key not in plan.step_of_target]
        if strange or pair[0] == pair[1]:
            yield PlanError("plan-format", "these are not two targets that steps write", where=repr(pair)[:200])


def _step_problems(step: Step, rules: int) -> Iterator[WeighbridgeError]:
    where = repr(step.targets[:1] or step.sources[:1])[:200]
    for side, keys, slots in (
        ("sources", step.sources, step.program.sources),
        ("targets", step.targets, step.program.targets),
    ):
        if len(keys) != len(slots):
            expected = f"{len(slots)}, as its program has"
            yield PlanError(
                "plan-format",
                f"a step has another number of {side}",
                where=where,
                expected=expected,
                got=str(len(keys)),
            )
        if not all(type(key) is str for key in keys):
            yield PlanError("plan-format", f"the {side} of a step are not all texts", where=where)
    if step.fate not in STEP_FATES:
        yield PlanError(
            "plan-format", "this is no fate", where=where, expected=", ".join(STEP_FATES), got=repr(step.fate)
        )
    yield from _equal_problems(step, where)
    if not all(type(rule) is int and 0 <= rule < rules for rule in step.rules):
        what = "a step names a rule that the mapping does not have"
        yield PlanError("plan-format", what, where=where, expected=f"numbers below {rules}", got=repr(step.rules)[:200])


def _equal_problems(step: Step, where: str) -> Iterator[WeighbridgeError]:
    """Yield what is wrong with keys that stand in a step more than once, and with a fate that its program tells."""
    repeats = len(set(step.sources)) < len(step.sources) or len(set(step.targets)) < len(step.targets)
    repeats = repeats or any(step.program.again)
    is_told = step.fate in (*EQUAL_FATES, "trimmed") or (step.program.cuts and step.fate != "tied")
    if not repeats and not is_told:
        return
    wanted = fate_of(step.sources, step.targets, step.program)
    if step.fate != wanted:
        what = "a step has another fate than its keys and its program say"
        yield PlanError("plan-format", what, where=where, expected=wanted, got=repr(step.fate)[:200])
    if wanted == "checked" and step.program.uncast is None:
        what = "tensors that must be equal have dtypes that no one dtype holds the values of"
        got = ", ".join(sorted({spec.dtype for spec in step.program.sources}))
        yield PlanError("dtype-mismatch", what, where=where, got=got)
    for keys, parts in zip((step.sources, step.targets), step.program.partial, strict=True):
        strange = [key for number, key in enumerate(keys) if number in parts and key not in keys[: parts.start]]
        for key in strange:
            yield PlanError("plan-format", "a tensor is there for a part of it, and is nowhere as a whole", where=key)
    specs = zip(step.targets, (output.spec for output in step.program.targets), strict=False)
    for side, pairs in (("source", zip(step.sources, step.program.sources, strict=False)), ("target", specs)):
        known: dict[str, TensorSpec] = {}
        for key, spec in pairs:
            if known.setdefault(key, spec) != spec:
                what = f"a {side} that stands in a step more than once has two specs"
                yield PlanError("plan-format", what, where=key, expected=str(known[key]), got=str(spec))


def _tie_problems(tied: tuple[Fated, ...], steps: MappingOf[str, int], specs: Header) -> Iterator[WeighbridgeError]:
    for key, spec, by in tied:
        if by not in steps:
            yield PlanError(
                "plan-format", "a tensor is tied to one that no step touches", where=key, got=repr(by)[:200]
            )
        elif specs[by] != spec:
            expected, got = str(specs[by]), str(spec)
            yield PlanError("plan-format", "tied tensors differ in their specs", where=key, expected=expected, got=got)
