"""One reading, compiled: the plan as far as it goes, and everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from weighbridge.base.errors import WeighbridgeError
from weighbridge.base.keys import collapse_by_name
from weighbridge.base.specs import Header
from weighbridge.planning.plan import Plan
from weighbridge.planning.problems import OpenSide, first_of, missing_target, unplaced_source, with_likes
from weighbridge.planning.program import Program
from weighbridge.planning.readings import Reading
from weighbridge.planning.steps import Step
from weighbridge.planning.way_back.origins import find_origins

NAMING_FAULTS: Final = frozenset(
    {
        "group-duplicate",
        "group-extra",
        "group-incomplete",
        "index-out-of-range",
        "rule-overlap",
        "source-unplaced",
        "spec-mismatch",
        "target-collision",
        "target-missing",
    }
)
"""Codes of what is wrong with names and shapes; any other fault is one of a reading that may well be the right one."""


@dataclass(frozen=True, slots=True)
class Draft:
    """One reading, compiled: the plan as far as it goes, and what is wrong with it.

    Args:
        reading: What was compiled.
        plan: The plan; complete only if the draft fits.
        faults: What is wrong beside tensors that are missing or left over.
        missing: Targets that nothing fills and no rule excuses.
        unplaced: Sources without a place.
        partial: Whether missing and left-over tensors are accepted.
        reach: Number of targets that the reading fills, or would fill but for a fault.
        is_settled: Whether the layout to reach has decided about every name of a way back.
        strays: Steps that write nothing which the target has.
    """

    reading: Reading
    plan: Plan
    faults: tuple[WeighbridgeError, ...]
    missing: tuple[str, ...]
    unplaced: tuple[str, ...]
    partial: bool
    reach: int = 0
    is_settled: bool = False
    strays: tuple[Step, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults and (self.partial or not (self.missing or self.unplaced))

    @property
    def is_named(self) -> bool:
        """Whether all names and shapes fit, whatever else is wrong: that alone decides which reading is right."""
        open_ended = not self.partial and bool(self.missing or self.unplaced)
        return not open_ended and not any(fault.code in NAMING_FAULTS for fault in self.faults)

    @property
    def movement(self) -> list[tuple[tuple[str, ...], tuple[str, ...], Program]]:
        """What the plan moves where, whichever rules say so."""
        return [(step.sources, step.targets, step.program) for step in self.plan.steps]

    def covers_more(self, other: Draft) -> bool:
        """Whether this draft leaves strictly less open than another one, on both sides."""
        mine = {("missing", key) for key in self.missing} | {("unplaced", key) for key in self.unplaced}
        theirs = {("missing", key) for key in other.missing} | {("unplaced", key) for key in other.unplaced}
        return mine < theirs

    def problems(self, source: Header, target: Header | None) -> list[WeighbridgeError]:
        """List everything that is wrong; missing and left-over tensors collapsed by their indices."""
        targets = OpenSide(target or Header({}), () if self.partial else self.missing)
        faults = [with_likes(fault, targets) for fault in self.faults]
        if self.partial:
            return faults
        sources = OpenSide(source, self.unplaced, dict(self._made_of_strays()))
        missing = {line: first_of(line) for line in collapse_by_name(self.missing)}
        unplaced = collapse_by_name(self.unplaced)
        origins = find_origins(self.plan.mapping, missing.values())
        return [
            *faults,
            *(missing_target(line, origins.get(key), sources, targets) for line, key in missing.items()),
            *(unplaced_source(line, sources, targets) for line in unplaced),
        ]

    def _made_of_strays(self) -> Iterator[tuple[str, str]]:
        """Yield the sources of which rules make something that the target does not have, and what they make."""
        for step in self.strays:
            if step.rules:
                numbers = ", ".join(str(rule + 1) for rule in step.rules)
                rules = f"rule{'s' * (len(step.rules) > 1)} {numbers} {'make' if len(step.rules) > 1 else 'makes'}"
                yield from ((key, f"of which {rules} {', '.join(step.targets[:2])}") for key in step.sources)
