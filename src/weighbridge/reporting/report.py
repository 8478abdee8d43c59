"""The report of a plan: fates, sizes and reversibility, as text and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from weighbridge.base.keys import collapse, collapse_by_name, counted, natural_key
from weighbridge.base.spelling import numbered_forms
from weighbridge.planning.config_names.changes import ConfigChange
from weighbridge.planning.plan import Plan
from weighbridge.planning.steps import Step
from weighbridge.reporting.conditions import condition_lines
from weighbridge.reporting.costs import cost, format_bytes
from weighbridge.reporting.notebook import summary_html
from weighbridge.reporting.portion_costs import PortionCost, portion_cost
from weighbridge.reporting.unused import find_unused, unused_lines

SHOWN_LINES = 40
"""Lines of steps that a printed report shows."""


@dataclass(frozen=True, slots=True)
class Report:
    """A plan's fates, sizes and reversibility; `str` gives it as text.

    Args:
        plan: What is reported.
        remarks: What is to be said of what the plan reads, one sentence each.
        changes: What changes in the configurations beside the weights.
        reads_bytes: How much of its files a run of a cut plan reads, in bytes, if that is known.
    """

    plan: Plan
    remarks: tuple[str, ...] = ()
    changes: tuple[ConfigChange, ...] = ()
    reads_bytes: int | None = None

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self, *, full: bool = False) -> Iterator[str]:
        """Yield the report's lines; `full` lists every group of like steps."""
        plan, spent = self.plan, cost(self.plan)
        name = plan.mapping.name or counted(len(plan.mapping), "transform")
        sizes = f"{len(plan.source):,} -> {counted(len(plan.target), 'tensor')}"
        yield f"plan      {name}: {sizes}, reading: {plan.reading}"
        yield from _portion_lines(plan, self.reads_bytes)
        yield f"bytes     {format_bytes(spent.read_bytes)} read, {format_bytes(spent.written_bytes)} written"
        yield f"memory    at most {format_bytes(spent.buffer_bytes)} of buffers beside the result"
        yield f"copies    {spent.copies:,} in {counted(len(plan.programs), 'program')}"
        yield "way back  " + ("exact" if plan.is_exact else "lossy: " + "; ".join(plan.lossy_reasons))
        yield from (f"if equal  {line}" for line in condition_lines(plan.conditions))
        for side, fates in self.fates().items():
            counts = ", ".join(f"{count:,} {fate}" for fate, count in fates.items())
            yield f"{side + 's':<9} {counts or 'none'}"
        yield from unused_lines(plan)
        yield from self.remark_lines()
        yield f"hash      {plan.hash[:16]}"
        yield ""
        yield from self._step_lines(None if full else SHOWN_LINES)

    def remark_lines(self) -> Iterator[str]:
        """Yield a line for each change of a configuration, each of the plan's choices, and each note that is none."""
        yield from (f"config    {change}" for change in self.changes)
        yield from (f"choice    {choice}" for choice in self.plan.choices)
        yield from (f"note      {note}" for note in self.notes if note not in self.plan.choices)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the plan takes for granted, and what is said of its source; each once."""
        return tuple(dict.fromkeys((*self.plan.notes, *self.remarks)))

    def _repr_html_(self) -> str:
        """Return the head of the report as a small table, for notebooks."""
        return summary_html(self.lines())

    def fates(self) -> dict[str, dict[str, int]]:
        """Count the fates of both sides."""
        return {
            "source": dict(Counter(fate.name for _, fate in self.plan.source_fates())),
            "target": dict(Counter(fate.name for _, fate in self.plan.target_fates())),
        }

    def _portion_form(self, portion: PortionCost) -> dict[str, Any]:
        return {"whole": self.plan.whole_hash, "reads_bytes": self.reads_bytes, **portion._asdict()}

    def _step_lines(self, limit: int | None) -> Iterator[str]:
        groups = list(_alike(self.plan.steps))
        for alike in groups[:limit]:
            yield from _group_lines(self.plan, alike)
        if limit is not None and len(groups) > limit:
            yield f"… and {len(groups) - limit} more groups of steps"
        for word, fated in (("dropped", self.plan.dropped), ("initialised", self.plan.initialised)):
            for by in dict.fromkeys(entry.by for entry in fated):
                for line in collapse([entry.key for entry in fated if entry.by == by]):
                    yield f"{line}   {word}: {by}"
        for entry in self.plan.tied_targets:
            yield f"{entry.key}   tied to {entry.by}"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        plan, spent, portion = self.plan, cost(self.plan), portion_cost(self.plan)
        return {
            "mapping": plan.mapping.name,
            "reading": plan.reading,
            "hash": plan.hash,
            "source_tensors": len(plan.source),
            "target_tensors": len(plan.target),
            "exact": plan.is_exact,
            "lossy_reasons": list(plan.lossy_reasons),
            "conditions": condition_lines(plan.conditions),
            "config_changes": [change._asdict() for change in self.changes],
            "notes": list(self.notes),
            "choices": list(plan.choices),
            "unused": find_unused(plan)._asdict(),
            "fates": self.fates(),
            **spent._asdict(),
            **({"portion": self._portion_form(portion)} if portion else {}),
            "steps": [
                {
                    "targets": collapse([key for step in alike for key in step.targets]),
                    "sources": collapse_by_name(key for step in alike for key in step.sources),
                    "fate": alike[0].fate,
                    "rules": [number + 1 for number in alike[0].rules],
                    "specs": sorted({str(output.spec) for output in alike[0].program.targets}),
                }
                for alike in _alike(plan.steps)
            ],
        }


def _portion_lines(plan: Plan, reads_bytes: int | None) -> Iterator[str]:
    """Yield the line of a cut plan that says what is held, and what that takes."""
    portion = portion_cost(plan)
    if portion is not None:
        held, whole, needed, other = map(format_bytes, portion[:4])
        sides = ("targets", "needs", "sources") if portion.is_of_targets else ("sources", "gives", "targets")
        words = f"holds {held} of {whole} of the {sides[0]}, {sides[1]} {needed} of {other} of the {sides[2]}"
        if reads_bytes is not None and portion.needed_bytes:
            words += f", reads {reads_bytes / portion.needed_bytes:.3f} times that"
        yield f"portion   {words}; of the plan {plan.whole_hash[:16]}"


def _alike(steps: Iterable[Step]) -> Iterator[list[Step]]:
    """Group steps that differ only in indices, in natural order of their first target."""
    groups: dict[tuple[Any, ...], list[Step]] = {}
    for step in steps:
        name = tuple(part for part in step.targets[0].split(".") if not part.isdigit())
        groups.setdefault((name, id(step.program), step.fate, step.rules), []).append(step)
    by_rest: dict[tuple[Any, ...], dict[tuple[str, ...], list[Step]]] = {}
    for (name, *rest), group in groups.items():
        by_rest.setdefault(tuple(rest), {})[name] = group
    merged: dict[tuple[Any, ...], list[Step]] = {}
    for alike, named in by_rest.items():
        for name, form in numbered_forms(named).items():
            merged.setdefault((form, *alike), []).extend(named[name])
    yield from sorted(merged.values(), key=lambda group: natural_key(group[0].targets[0]))


def _group_lines(plan: Plan, alike: list[Step]) -> Iterator[str]:
    program = alike[0].program
    targets = collapse([key for step in alike for key in step.targets])
    specs = ", ".join(dict.fromkeys(str(output.spec) for output in program.targets))
    yield f"{', '.join(targets)}   {specs}"
    sources = collapse_by_name(key for step in alike for key in step.sources)
    rules = ", ".join(f"rule {number + 1}" for number in alike[0].rules)
    if sources != targets or program.casts:
        casts = "".join(f"  {a} cast to {b}" for a, b in program.casts)
        yield f"  <- {', '.join(sources)}   {rules}{casts}"
    if program.temporaries:
        count = len(program.temporaries)
        words = f"{count} temporaries" if count > 1 else "a temporary"
        yield f"     through {words} of {format_bytes(program.temporary_bytes)}"
