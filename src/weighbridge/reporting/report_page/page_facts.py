"""Gather what the page shows, as plain JSON: both trees, the steps between them, programs, rules, problems.

Whatever many tensors share is written once: a spec with its fate is a *kind*, like branches of a tree are one, a step
is six numbers, and a program that all layers run stands there a single time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, Final

from weighbridge._version import __version__
from weighbridge.base.errors import CODES, PlanError, WeighbridgeError
from weighbridge.base.forms.elements import spell_element
from weighbridge.base.keys import collapse
from weighbridge.base.specs import TensorSpec
from weighbridge.mappings.transforms import describe
from weighbridge.planning.plan import Plan
from weighbridge.planning.program import Output, Program
from weighbridge.planning.steps import Fated, Step
from weighbridge.reporting.belonging import Belonging, find_belongings
from weighbridge.reporting.conditions import condition_lines
from weighbridge.reporting.costs import cost
from weighbridge.reporting.explanation import fired_in, run_rules
from weighbridge.reporting.report_page.packing import PackedTree, pack_numbers, pack_tree

MAX_TRACES: Final = 400
"""Groups of like steps for which every rule that was tried is listed."""

OUTCOMES: Final = {"fired": "f", "no match": "n", "outside": "o", "not tried": "x"}
"""Letters for what a rule did, by how `Tried.outcome` begins."""


@dataclass(frozen=True)
class Known:
    """What is known of a plan: all of it, or as much as could be made of one that failed.

    Args:
        plan: The plan, or the steps that could be made.
        error: Why there is no plan; None if there is one.
        unplaced: Sources without a place.
        missing: Targets that nothing fills.
        changes: What changes in the configurations beside the weights, one line each.
    """

    plan: Plan
    error: WeighbridgeError | None = None
    unplaced: tuple[Fated, ...] = ()
    missing: tuple[Fated, ...] = ()
    changes: tuple[str, ...] = ()

    @cached_property
    def problems(self) -> tuple[WeighbridgeError, ...]:
        """Every single problem, the error that holds them first."""
        if self.error is None:
            return ()
        return (self.error, *(self.error.problems if isinstance(self.error, PlanError) else ()))

    @cached_property
    def kinds(self) -> dict[tuple[Any, ...], int]:
        """The number of each kind of tensor; filled as the trees are made."""
        return {}

    @cached_property
    def source_tree(self) -> PackedTree:
        """All sources."""
        plan = self.plan
        fated = (("dropped", plan.dropped), ("tied", plan.tied_sources), ("unplaced", self.unplaced))
        steps = (
            (key, spec, step.fate, step.rules)
            for step in plan.steps
            for key, spec in zip(step.sources, step.program.sources, strict=True)
        )
        return self._tree(steps, fated)

    @cached_property
    def target_tree(self) -> PackedTree:
        """All targets."""
        plan = self.plan
        fated = (("tied", plan.tied_targets), ("initialised", plan.initialised), ("missing", self.missing))
        steps = (
            (key, step.program.targets[number].spec, step.target_fate(number), step.rules)
            for step in plan.steps
            for key, number in step.writes.items()
        )
        return self._tree(steps, fated)

    def _tree(
        self,
        steps: Iterable[tuple[str, TensorSpec, str, tuple[int, ...]]],
        fated: Iterable[tuple[str, Iterable[Fated]]],
    ) -> PackedTree:
        found = {key: self._kind(spec, fate, "", rules) for key, spec, fate, rules in steps}
        for fate, tensors in fated:
            found |= {tensor.key: self._kind(tensor.spec, fate, tensor.by, ()) for tensor in tensors}
        return pack_tree(found)

    def _kind(self, *kind: Any) -> int:
        return self.kinds.setdefault(kind, len(self.kinds))

    def to_dict(self) -> dict[str, Any]:
        """Return everything that the page shows, as plain lists, dicts, texts and numbers."""
        plan = self.plan
        return {
            "version": __version__,
            "name": plan.mapping.name,
            "reading": plan.reading,
            "hash": "" if self.error else plan.hash,
            "exact": plan.is_exact,
            "lossy": list(plan.lossy_reasons),
            "notes": [*self.changes, *plan.notes],
            "conditions": condition_lines(plan.conditions),
            "cost": cost(plan)._asdict(),
            "errors": [problem.to_dict() for problem in self.problems],
            "codes": {problem.code: CODES[problem.code] for problem in self.problems},
            "rules": rule_rows(plan),
            "exceptions": exception_rows(plan),
            "source": self.source_tree.to_dict(),
            "target": self.target_tree.to_dict(),
            **pack_steps(plan, self.source_tree.keys, self.target_tree.keys),
            "kinds": [
                [spec.dtype, spec.shape, spec.size_bytes, fate, by, rules] for spec, fate, by, rules in self.kinds
            ],
        }


def rule_rows(plan: Plan) -> list[dict[str, Any]]:
    """Return for each rule its text, and how many sources of how many bytes it led to how many targets."""
    rows: list[dict[str, Any]] = [
        {"text": describe(transform), "sources": 0, "targets": 0, "bytes": 0} for transform in plan.mapping.transforms
    ]
    for step in plan.steps:
        for number in step.rules:
            rows[number]["sources"] += len(step.reads)
            rows[number]["targets"] += len(step.writes)
            specs = dict(zip(step.sources, step.program.sources, strict=True))
            rows[number]["bytes"] += sum(spec.size_bytes for spec in specs.values())
    return rows


def exception_rows(plan: Plan) -> list[list[Any]]:
    """Return for each declared exception its fate, its reason, and how many tensors it accounts for."""
    named = (("dropped", plan.dropped), ("initialised", plan.initialised))
    return [[fate, by, count] for fate, fated in named for by, count in Counter(tensor.by for tensor in fated).items()]


def pack_steps(plan: Plan, sources: tuple[str, ...], targets: tuple[str, ...]) -> dict[str, Any]:
    """Pack steps, programs and traces.

    A step is six numbers: its program, its trace or -1, and for each side the place of its first tensor and a pattern,
    which is what the places of its tensors are, counted from the first one.

    Args:
        plan: The plan.
        sources: All source keys in the order of the tree; a step refers to them by their place.
        targets: The same for the targets.
    """
    places = [{key: place for place, key in enumerate(keys)} for keys in (sources, targets)]
    programs: dict[Program, int] = {}
    used = {id(step.program): step.program for step in plan.steps}  # equal ones may stand there several times
    by_identity = {each: programs.setdefault(program, len(programs)) for each, program in used.items()}
    patterns: dict[tuple[int, ...], int] = {}
    traces = _Traces(plan, {}, [], find_belongings(plan.source))
    columns: list[list[int]] = [[] for _ in range(6)]
    for step in plan.steps:
        row = [by_identity[id(step.program)], traces.number(step)]
        for place, keys in zip(places, (step.sources, step.targets), strict=True):
            found = [place[key] for key in keys]
            first = found[0] if found else 0
            pattern = tuple(pack_numbers(number - first for number in found))
            row += [first, patterns.setdefault(pattern, len(patterns))]
        for column, number in zip(columns, row, strict=True):
            column.append(number)
    return {
        "steps": [pack_numbers(column) for column in columns],
        "patterns": list(patterns),
        "programs": [pack_program(program) for program in programs],
        "traces": traces.found,
    }


@dataclass(slots=True)
class _Traces:
    """For each group of like steps, what every rule did to the first source of one of them."""

    plan: Plan
    numbers: dict[tuple[Any, ...], int]
    found: list[dict[str, Any]]
    belongings: dict[str, Belonging]

    def number(self, step: Step) -> int:
        form = tuple(part for part in step.sources[0].split(".") if not part.isdecimal()) if step.sources else ()
        like = form, id(step.program), step.fate, step.rules
        known = self.numbers.get(like)
        if known is None:
            known = self.numbers[like] = self._trace(step)
        return known

    def _trace(self, step: Step) -> int:
        if not step.sources or not self.plan.mapping.transforms or len(self.found) >= MAX_TRACES:
            return -1
        key = step.sources[0]
        weight = self.belongings.get(key)
        try:
            tried = run_rules(self.plan, key, weight, [step])
        except WeighbridgeError:
            return -1
        if fired_in(tried) != step.rules:
            return -1  # the plan runs the other way, so these rules say nothing of its sources
        letters = "".join(OUTCOMES[each.outcome.split(":")[0].split(" scope")[0]] for each in tried)
        names = [[each.before, *each.after] for each in tried if each.outcome == "fired"]
        stored_as = {"weight": weight.weight, "stored": collapse(weight.tensors)} if weight is not None else {}
        self.found.append({"key": key, "outcomes": letters, "names": names, **stored_as})
        return len(self.found) - 1


def pack_program(program: Program) -> dict[str, Any]:
    """Return a program's JSON form, with like sources counted and copies as columns.

    Examples:
        >>> pack_program(Program.identity(TensorSpec("F32", (2, 3))))["outputs"]
        [['F32', (2, 3), [0], [0], [0], [0]]]
    """
    nests: dict[tuple[Any, ...], int] = {}
    return {
        "sources": [[len(list(alike)), spec.dtype, spec.shape] for spec, alike in groupby(program.sources)],
        "outputs": [_pack_output(output, nests) for output in program.outputs],
        "temporaries": len(program.temporaries),
        "nests": list(nests),
        "casts": program.casts,
        "constants": [
            [spec.dtype, spec.shape, spell_element(element, spec.dtype) if element else ""]
            for spec, element in program.constants
        ],
        "cuts": [spell_element(cut.element, cut.output.dtype) for cut in program.cuts],
    }


def _pack_output(output: Output, nests: dict[tuple[Any, ...], int]) -> list[Any]:
    copies = output.layout.copies
    columns: tuple[Iterable[int], ...] = (
        (copy.source for copy in copies),
        (copy.source_start for copy in copies),
        (copy.target_start for copy in copies),
        (nests.setdefault(copy.loops, len(nests)) for copy in copies),
    )
    return [output.dtype, output.layout.shape, *(pack_numbers(column) for column in columns)]
