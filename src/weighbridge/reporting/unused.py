"""Find what a mapping says in vain: rules that fired on no tensor of a plan, declared exceptions that name none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from weighbridge.base.keys import index_set
from weighbridge.planning.plan import Plan
from weighbridge.planning.readings import matching


def unused_lines(plan: Plan) -> Iterator[str]:
    """Yield the line of a report that says what of the mapping had no part in the plan; none if all had."""
    unused = str(find_unused(plan))
    if unused:
        yield f"unused    {unused}: no tensor here has such a name"


class Unused(NamedTuple):
    """Numbers of rules, from 1, and exceptions as their kind and pattern."""

    rules: tuple[int, ...]
    exceptions: tuple[str, ...]

    def __str__(self) -> str:
        rules = f"rule{'s' * (len(self.rules) > 1)} {index_set(self.rules).strip('{}')}" if self.rules else ""
        return ", ".join(part for part in (rules, *self.exceptions) if part)


def find_unused(plan: Plan) -> Unused:
    """List what of a plan's mapping had no part in it.

    Rules that only old files need are left out, and all rules where none fired at all, which the plan's notes say.

    Args:
        plan: The plan. Of one that was restricted to some targets, or cut to parts, nothing can be said.
    """
    if plan.portion is not None or any(fated.by.startswith("--only ") for fated in plan.dropped):
        return Unused((), ())
    fired = {number for step in plan.steps for number in step.rules}
    rules = [
        number + 1
        for number, transform in enumerate(plan.mapping.transforms)
        if number not in fired and transform not in plan.mapping.legacy
    ]
    return Unused(tuple(rules) if fired else (), tuple(_exceptions(plan)))


def _exceptions(plan: Plan) -> Iterator[str]:
    """Yield the drop and carry rules that name no tensor; a reading that changes prefixes lets them see other names."""
    named = {fated.by for fated in plan.dropped}
    changed = ", with " in plan.reading
    for kind, rules in (("drop", plan.mapping.drop), ("carry", plan.mapping.carry)):
        for rule in rules:
            is_named = (rule.why or f'"{rule.pattern}"') in named
            if not is_named and not changed and not matching(rule.pattern, plan.source, rule.scope):
                yield f'{kind} "{rule.pattern}"'
