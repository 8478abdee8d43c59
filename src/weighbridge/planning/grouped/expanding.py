"""Write out a plan that was made with one tensor for each quantised weight: every tensor of its group gets its step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from weighbridge.base.errors import PlanError, WeighbridgeError
from weighbridge.base.specs import TensorSpec
from weighbridge.planning.grouped.described import follow_names
from weighbridge.planning.grouped.dividing import Divided, Undivided, divide_program
from weighbridge.planning.grouped.flat_blocks import divide_flat
from weighbridge.planning.grouped.refining import Finer, unrefinable
from weighbridge.planning.grouped.refusals import (
    cannot_be_finer,
    has_no_place,
    is_cast,
    is_declared,
    is_of_other_blocks,
    is_otherwise,
    is_plain,
    lacks_a_part,
    not_alike,
    not_divided,
)
from weighbridge.planning.grouped.weights import Grouped, Weight
from weighbridge.planning.plan import Plan
from weighbridge.planning.program import Program
from weighbridge.planning.steps import Fated, Step, fate_of

_REPEATED: Final = "each entry of the scales is repeated, and the configuration says so; not every reader takes it"


def expand_plan(plan: Plan, source: Grouped, target: Grouped | None, *, may_refine: bool) -> Plan:
    """Write out a plan for all tensors of the groups that it moves.

    Where blocks may be made finer, that is done again until none of them is cut any more.

    Args:
        plan: The plan, with the names that rules see.
        source: The source's groups.
        target: Those of the target, where one is known.
        may_refine: Whether blocks that are cut may be made finer.

    Raises:
        PlanError: `plan-failed`, with every weight of which a tensor cannot be moved along.
    """
    work = _Expanding(plan, source, target)
    steps = [each for step in plan.steps for each in work.expand(step)]
    while may_refine and work.next_finer != work.finer:
        work = _Expanding(plan, source, target, work.next_finer)
        steps = [each for step in plan.steps for each in work.expand(step)]
    work.problems += _not_alike_finer(work.finer, source)
    changes = tuple(work.finer.changes(weight.kind for weight in source.weights.values()))
    metadata = follow_names(plan, source.seen, work.problems)
    made = replace(
        plan,
        steps=tuple(sorted(steps, key=lambda step: step.targets)),
        dropped=tuple(sorted(_fated(plan.dropped, source.weights))),
        initialised=tuple(sorted(_fated(plan.initialised, target.weights if target else {}))),
        tied_sources=tuple(sorted(_tied(plan.tied_sources, source.weights))),
        tied_targets=tuple(sorted(_tied(plan.tied_targets, target.weights if target else {}))),
        metadata=metadata,
        refined=changes,
        notes=(*plan.notes, *(f"{change}: {_REPEATED}" for change in changes)),
        twins=tuple(sorted(_twins(plan, target.weights if target else {}))),
    )
    problems = work.problems
    if target is not None and not problems:
        problems = list(_unwritten(made, target))
    if problems:
        raise PlanError("plan-failed", "the mapping does not fit", problems=problems)
    return made


@dataclass(slots=True)
class _Expanding:
    """The work on one plan: weights that are moved alike are divided once."""

    plan: Plan
    source: Grouped
    target: Grouped | None
    finer: Finer = field(default_factory=Finer)
    problems: list[WeighbridgeError] = field(default_factory=list)
    divided: dict[Any, list[Divided] | WeighbridgeError] = field(default_factory=dict)
    next_finer: Finer = field(init=False)

    def __post_init__(self) -> None:
        self.next_finer = self.finer

    def expand(self, step: Step) -> Iterator[Step]:
        """Yield the steps of all tensors that a step moves; what cannot be moved is added to `problems`."""
        weights = [weight for key in step.sources if (weight := self.source.weights.get(key)) is not None]
        if not weights:
            yield step
            return
        if len(weights) < len(step.sources):
            plain = next(key for key in step.sources if key not in self.source.weights)
            self.problems.append(is_plain(plain, weights[0], step.targets[0]))
            return
        is_whole = step.program == Program.identity(step.program.sources[0]) and not self.finer.touches(weights[0].kind)
        yield from self._renamed(step, weights[0]) if is_whole else self._moved(step, weights)

    def _renamed(self, step: Step, weight: Weight) -> Iterator[Step]:
        (base,) = step.targets
        for (member, spec), key in zip(weight.kind.parts, weight.keys, strict=True):
            name = key if base == weight.base else weight.name(base, member)
            if self._has_place(name, spec, weight, step.fate):
                yield Step((key,), (name,), Program.identity(spec), step.fate, step.rules)

    def _moved(self, step: Step, weights: Sequence[Weight]) -> Iterator[Step]:
        look = id(step.program), *[id(weight.kind) for weight in weights]
        if look not in self.divided:
            self.divided[look] = self._divide(step, weights)
        found = self.divided[look]
        if isinstance(found, WeighbridgeError):
            self.problems.append(found.with_context(where=step.targets[0]))
            return
        for member, program, slots, targets in found:
            ending = member.ending
            sources = tuple([weights[slot].stem + ending for slot in slots])
            names = tuple([weights[0].name(step.targets[target], member) for target in targets])
            is_as_step = step.fate in ("carried", "tied") and len(set(sources)) == len(sources)
            fate = step.fate if is_as_step else fate_of(sources, names, program)
            pairs = zip(names, program.targets, strict=True)
            have_place = [self._has_place(name, output.spec, weights[0], step.fate) for name, output in pairs]
            if all(have_place):
                yield Step(sources, names, program, fate, step.rules)

    def _divide(self, step: Step, weights: Sequence[Weight]) -> list[Divided] | WeighbridgeError:
        """Divide the program of a step; or say why that cannot be."""
        if step.program.casts:
            return is_cast(weights[0], step.program)
        if step.program.is_declared:
            return is_declared(weights[0])
        kinds = [weight.kind for weight in weights]
        likeness = kinds[0].likeness
        strange = {id(kind): kind for kind in kinds if kind is not kinds[0]}
        if any(kind.likeness != likeness for kind in strange.values()):
            return not_alike(weights[0], next(weight for weight in weights if weight.kind.likeness != likeness))
        if kinds[0].shape is None:
            return not_divided(Undivided(kinds[0].stored.members[0], None), weights)
        try:
            is_flat = kinds[0].state is not None
            finer = self.finer.form_of(kinds[0])
            found = divide_flat(step.program, kinds) if is_flat else divide_program(step.program, kinds, finer)
        except WeighbridgeError as problem:
            return problem
        if not isinstance(found, Undivided):
            return found
        further = self.finer.beyond(kinds[0], found)
        self.next_finer = self.next_finer if further is None else self.next_finer.meet(further)
        return not_divided(found, weights, can_be_finer=further is not None)

    def _has_place(self, name: str, spec: TensorSpec, weight: Weight, fate: str) -> bool:
        """Tell whether the target has a tensor, if one is known; it is to be stored there as it is here."""
        if self.target is None or fate == "carried":
            return True
        wanted = self.target.header.specs.get(name)
        if wanted == spec:
            return True
        if wanted is None:
            self.problems.append(has_no_place(name, weight))
        elif self.finer.touches(weight.kind) and wanted.dtype == spec.dtype:
            self.problems.append(is_of_other_blocks(name, spec, wanted))
        else:
            self.problems.append(is_otherwise(name, spec, wanted, weight))
        return False


def _not_alike_finer(finer: Finer, source: Grouped) -> Iterator[PlanError]:
    """Yield why not all weights can have the blocks that some of them need."""
    if not finer.sizes:
        return
    kinds = {id(weight.kind): weight.kind for weight in source.weights.values()}
    kept = unrefinable(finer, kinds.values())
    if kept is not None:
        yield cannot_be_finer(f"{kept.stored.scheme.title}: something says for each column which entry it has")
    yield from (cannot_be_finer(str(fault)) for fault in source.faults if fault.keys)


def _fated(fated: Sequence[Fated], weights: dict[str, Weight]) -> Iterator[Fated]:
    """Yield what no step touches, for each tensor of a group."""
    for each in fated:
        weight = weights.get(each.key)
        yield from [each] if weight is None else [Fated(key, spec, each.by) for key, spec in weight.fated]


def _tied(fated: Sequence[Fated], weights: dict[str, Weight]) -> Iterator[Fated]:
    """Yield tied tensors, each with that of the other group which stands for it."""
    for each in fated:
        weight = weights.get(each.key)
        if weight is None:
            yield each
        else:
            twins = [weight.name(each.by, member) for member, _ in weight.kind.parts]
            yield from (Fated(key, spec, by) for (key, spec), by in zip(weight.fated, twins, strict=True))


def _twins(plan: Plan, weights: dict[str, Weight]) -> Iterator[tuple[str, str]]:
    for key, twin in plan.twins:
        weight = weights.get(key)
        if weight is None:
            yield key, twin
        else:
            yield from zip(weight.keys, [weight.name(twin, member) for member, _ in weight.kind.parts], strict=True)


def _unwritten(plan: Plan, target: Grouped) -> Iterator[WeighbridgeError]:
    """Yield an error for each tensor of the target's groups that the source's group does not have."""
    there = set(plan.target_keys())
    for weight in target.weights.values():
        yield from (lacks_a_part(key, weight, key) for key in weight.keys if key not in there)
