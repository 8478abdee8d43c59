"""Restrict a plan to part of its targets.

What the kept targets do not need is not read: such a source is dropped, by a rule that names the selection. A step that
writes more targets than are kept is cut, so a run of the restricted plan gives what a run of the whole plan gives for
the same keys, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache

from weighbridge.planning.grouped.described import without_absent
from weighbridge.planning.names.selections import select
from weighbridge.planning.plan import Plan
from weighbridge.planning.portions.read_slots import without_unread
from weighbridge.planning.program import Program
from weighbridge.planning.steps import Fated, Step


def restrict(plan: Plan, only: str | Iterable[str]) -> Plan:
    """Restrict a plan to the targets that a selection names.

    Args:
        plan: The plan.
        only: See `select`.

    Returns:
        A plan that writes these targets alone, into new files. A source that is not read any more is dropped, and the
        rule that drops it is called `--only` with the selection.

    Raises:
        PatternError: `pattern-syntax`.
        PlanError: `rule-unused` for a selection that names no target.
    """
    assert plan.portion is None, "what is cut is restricted by recut"
    texts = (only,) if isinstance(only, str) else tuple(only)
    there = [*plan.target, *(fated.key for fated in plan.initialised)]
    wanted = select(texts, dict.fromkeys(there))
    kept, twins = _keep_twins(plan, wanted)
    steps = tuple(sorted(_cut_steps(plan, kept), key=lambda step: step.targets))
    read = {key for step in steps for key in step.sources}
    by = f"--only {', '.join(texts)}"
    tied = tuple(fated for fated in plan.tied_sources if fated.by in read)
    accounted = read | {fated.key for fated in (*tied, *plan.dropped)}
    unread = [Fated(key, spec, by) for key, spec in plan.source.items() if key not in accounted]
    made = replace(
        plan,
        steps=steps,
        dropped=tuple(sorted((*plan.dropped, *unread))),
        initialised=tuple(fated for fated in plan.initialised if fated.key in wanted),
        tied_sources=tied,
        tied_targets=twins,
        metadata=without_absent(plan.metadata, (key for step in steps for key in step.targets)),
        twins=tuple((kept[key], kept[twin]) for key, twin in plan.twins if key in kept and twin in kept),
        notes=(*plan.notes, f"restricted by {by}: {len(wanted):,} of {len(there):,} targets"),
        target_files=None,
    )
    made.check()
    return made


def _keep_twins(plan: Plan, wanted: set[str]) -> tuple[dict[str, str], tuple[Fated, ...]]:
    """Choose the written targets to keep, and their names.

    Returns:
        New name by old name: where only a tied target is wanted, the one that stands for it is written under its name.
        And the tied targets that are left.
    """
    kept = {key: key for key in plan.step_of_target if key in wanted}
    tied = sorted(fated for fated in plan.tied_targets if fated.key in wanted)
    for fated in tied:
        kept.setdefault(fated.by, fated.key)
    return kept, tuple(fated._replace(by=kept[fated.by]) for fated in tied if kept[fated.by] != fated.key)


def _cut_steps(plan: Plan, kept: dict[str, str]) -> Iterator[Step]:
    for step in plan.steps:
        numbers = tuple(number for number, key in enumerate(step.targets) if key in kept)
        if not numbers:
            continue
        program, slots = _cut_program(step.program, numbers)
        sources = tuple(step.sources[slot] for slot in slots)
        targets = tuple(kept[step.targets[number]] for number in numbers)
        # the tensor that it had to equal may be left out
        yield replace(step, sources=sources, targets=targets, program=program).fated()


@lru_cache(maxsize=1024)
def _cut_program(program: Program, numbers: tuple[int, ...]) -> tuple[Program, tuple[int, ...]]:
    """Keep some targets of a program, and of its slots those that they are made from; what is cut off is left out.

    Returns:
        The program, and the numbers of the sources that it still reads.
    """
    if len(numbers) == len(program.targets):
        return program, tuple(range(len(program.sources)))
    again = 0, sum(number in program.partial[1] for number in numbers)
    targets = tuple(program.targets[number] for number in numbers)
    return without_unread(replace(program, targets=targets, cuts=(), again=again))
