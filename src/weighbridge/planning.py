"""Compile a mapping against headers into a proven plan.

    header x mapping x target -> Plan

Each candidate reading of the checkpoint's layout is compiled on the whole key set; exactly one may fit. A plan that is
returned has been proven: every program writes each element once, and every tensor has exactly one fate.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from shlex import quote
from typing import Any

from weighbridge.errors import PlanError, WeighbridgeError
from weighbridge.files import FileSet
from weighbridge.fitting import Draft, draft_reading
from weighbridge.mapping import Carry, Drop, Initialise, Mapping, MappingLike, as_mapping, exception_rules
from weighbridge.options import MODES, Options
from weighbridge.plan import Plan
from weighbridge.readings import Reading, possible_readings
from weighbridge.specs import Header


def compile_plan(
    source: Header,
    mapping: MappingLike,
    target: Header | None = None,
    *,
    files: FileSet | None = None,
    options: Options | None = None,
) -> Plan:
    """Compile a mapping into a plan.

    Args:
        source: Specs of the checkpoint's tensors.
        mapping: A mapping or a list of transforms.
        target: Specs of the tensors that are wanted; None to take whatever the mapping gives.
        files: How the source lies in files, so that the inverse can write the same.
        options: What is declared beside the mapping.

    Returns:
        A proven plan.

    Raises:
        PlanError: `plan-failed` with every problem found, `layout-ambiguous`, `inverse-unproven`.

    Examples:
        >>> from weighbridge.specs import TensorSpec
        >>> from weighbridge.transforms import WeightRenaming
        >>> source = Header({"norm.gamma": TensorSpec("F32", (4,))})
        >>> compile_plan(source, [WeightRenaming("gamma", "weight")]).target["norm.weight"]
        TensorSpec(dtype='F32', shape=(4,))
    """
    options = options or Options()
    if options.layout not in MODES:
        raise PlanError("usage", "unknown layout mode", expected=", ".join(MODES), got=options.layout)
    declared = _declare(as_mapping(mapping), options)
    readings = possible_readings(declared, source, target, options.layout)
    drafts = [draft_reading(reading, source, target, options) for reading in readings]
    chosen = _choose(drafts, source, target, options)
    plan = replace(chosen.plan, source_files=files)
    plan.check()
    if declared.forward is not None and chosen.reading.is_mapped:
        _prove_inverse(plan, declared, options)
    return plan


def _declare(mapping: Mapping, options: Options) -> Mapping:
    """Add the caller's exceptions to the mapping's own."""
    return replace(
        mapping,
        drop=mapping.drop + exception_rules(Drop, options.drop),
        carry=mapping.carry + exception_rules(Carry, options.carry),
        initialise=mapping.initialise + exception_rules(Initialise, options.initialise),
        base_prefix=options.base_prefix or mapping.base_prefix,
    )


def _choose(drafts: list[Draft], source: Header, target: Header | None, options: Options) -> Draft:
    """Take the one reading that fits; readings that come to the same steps are one."""
    fitting: list[Draft] = []
    for draft in drafts:
        if draft.fits and all(draft.movement != other.movement for other in fitting):
            fitting.append(draft)
    if options.partial:
        fitting = [draft for draft in fitting if not any(other.covers_more(draft) for other in fitting)]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise _none_fits(drafts, source, target)
    raise PlanError(
        "layout-ambiguous",
        "the checkpoint can be read in more than one layout",
        got="\n".join(_describe(draft) for draft in fitting),
        hint='declare the layout: layout="mapped" or layout="as is"',
    )


def _describe(draft: Draft) -> str:
    plan = draft.plan
    line = f"{draft.reading.name}: fills {len(plan.step_of_target)} targets from {len(plan.step_of_source)} sources"
    example = next((step for step in plan.steps if step.sources != step.targets), None)
    return line + (f", such as {example.targets[0]} from {example.sources[0]}" if example else "")


def _none_fits(drafts: list[Draft], source: Header, target: Header | None) -> PlanError:
    """Report the nearest reading's problems in full, and the others in a line each."""
    nearest = min(drafts, key=lambda draft: len(draft.missing) + len(draft.unplaced))
    tried = [f"{draft.reading.name}: {_fault_line(draft)}" for draft in drafts]
    return PlanError(
        "plan-failed",
        f'the mapping "{nearest.plan.mapping.name}" does not fit' if nearest.plan.mapping.name else "nothing fits",
        got="\n".join(tried),
        hint=_hint(nearest),
        problems=nearest.problems(source, target),
    )


def _fault_line(draft: Draft) -> str:
    counts = ((len(draft.missing), "target"), (len(draft.unplaced), "source"), (len(draft.faults), "fault"))
    words = {"target": "missing", "source": "left over", "fault": ""}
    named = (f"{count:,} {word}{'s' * (count != 1)} {words[word]}".strip() for count, word in counts if count)
    return ", ".join(named)


def _hint(draft: Draft) -> str:
    if draft.missing and draft.unplaced:
        return f"weighbridge explain SOURCE MAPPING {quote(draft.missing[0])} shows every rule and the nearest names"
    if draft.unplaced:
        return "declare what may be left over: carry=[...] or drop=[...], or partial=True"
    if draft.missing:
        return "declare what may be missing: initialise=[...], or partial=True"
    return ""


def _prove_inverse(plan: Plan, mapping: Mapping, options: Options) -> None:
    """Accept what a derived inverse produced only if the forward mapping turns exactly that into exactly the source."""
    assert mapping.forward is not None
    reading = Reading("mapped", mapping.forward, is_mapped=True)
    produced = Header({key: plan.target[key] for step in plan.steps for key in step.targets})
    back = draft_reading(reading, produced, None, replace(options, dtype=None, partial=False))
    wanted = {(frozenset(step.targets), frozenset(step.sources)) for step in plan.steps}
    found = {(frozenset(step.sources), frozenset(step.targets)) for step in back.plan.steps}
    problems = [*back.faults, *_differences(plan, back.plan, wanted, found)]
    if problems:
        raise PlanError(
            "inverse-unproven",
            "the inverse of the mapping gives names that the mapping does not bring back",
            hint="go back through the inverse of the plan that made the source: plan.inverse(), or weighbridge revert",
            problems=problems,
        )


def _differences(plan: Plan, back: Plan, wanted: set[Any], found: set[Any]) -> Iterable[WeighbridgeError]:
    for step in plan.steps:
        if (frozenset(step.targets), frozenset(step.sources)) in found:
            same = back.steps[back.step_of_source[step.targets[0]]]
            if _same_movement(step.program.inverse(lossy=True), step, same.program, same):
                continue
        names = plan.mapping.transforms
        rules = [plan.mapping.rule_name(number) for number in step.rules if number < len(names)]
        number = back.step_of_source.get(step.targets[0])
        came = ", ".join(back.steps[number].targets[:3]) if number is not None else "nothing"
        yield PlanError(
            "inverse-unproven",
            "this key does not come back",
            where=step.targets[0],
            expected=", ".join(step.sources[:3]),
            got=came,
            because="\n".join(rules),
        )


def _same_movement(inverse: Any, step: Any, forward: Any, other: Any) -> bool:
    """Compare two programs whose keys may stand in another order."""
    if step.targets == other.sources and step.sources == other.targets:
        return bool(inverse == forward)
    slots = [step.targets.index(key) for key in other.sources]
    order = [step.sources.index(key) for key in other.targets]
    renumbered = _renumber(inverse, slots, order)
    return bool(renumbered == forward)


def _renumber(program: Any, slots: list[int], order: list[int]) -> Any:
    """Give a program's sources and targets another order; one with temporaries keeps its own."""
    place = {slot: number for number, slot in enumerate(slots)}

    def moved(output: Any) -> Any:
        copies = tuple(copy._replace(source=place.get(copy.source, copy.source)) for copy in output.layout.copies)
        return output._replace(layout=replace(output.layout, copies=tuple(sorted(copies, key=_start))))

    targets = tuple(moved(program.targets[number]) for number in order)
    return replace(program, sources=tuple(program.sources[slot] for slot in slots), targets=targets)


def _start(copy: Any) -> int:
    start: int = copy.target_start
    return start
