"""A plan: what will happen to every tensor of a checkpoint, as a frozen value that was proven before it could run.

A plan is a list of steps, each joining some source tensors to some target tensors by one program, and the exceptions
that were declared. Every source and every target has exactly one fate:

    source   moved      its bytes go into targets, re-ordered at most
             computed   its values are cast on the way
             carried    it passes through under its own name
             tied       its bytes must equal those of another source, which moves in its place
             dropped    a named rule leaves it out
    target   filled     a step writes every element of it once
             tied       it shares its storage with another target, which is filled
             initialised  a named rule, or a declared partial load, leaves it as the model made it
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping as MappingOf
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from weighbridge.base.errors import PlanError
from weighbridge.base.file_sets import FileSet
from weighbridge.base.hashes import sha256_of
from weighbridge.base.keys import counted
from weighbridge.base.specs import Header, TensorSpec
from weighbridge.mappings.mapping import Mapping
from weighbridge.planning.program import Program, program_to_dict

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from weighbridge.reporting.explaining_plans import Explanation, Report

PLAN_FORMAT: Final = "weighbridge-plan"
PLAN_VERSION: Final = 1
"""Version of the JSON form; raised whenever an older reader could misread it."""

DEFAULT_BUDGET_BYTES: Final = 256 * 2**20
"""Size of the buffers that a run may hold beside its results, in bytes."""


@dataclass(frozen=True, slots=True)
class Step:
    """Some sources, the program that reads them, and the targets it writes.

    Args:
        sources: Keys that are read; their position is the program's slot.
        targets: Keys that are written, in the program's order.
        program: The copies.
        fate: What becomes of the sources: ``moved``, ``computed``, ``carried`` or ``tied``.
        rules: Numbers of the mapping's rules that fired, in order.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    program: Program
    fate: str
    rules: tuple[int, ...] = ()


class Fated(NamedTuple):
    """A tensor that no step touches: its key, its spec, and the rule (or the key) that accounts for it."""

    key: str
    spec: TensorSpec
    by: str


class Fate(NamedTuple):
    """What became of one tensor: the word for it, and the step, rule or key that is responsible."""

    name: str
    step: int | None = None
    by: str = ""


@dataclass(slots=True)
class Binding:
    """Where a plan reads, and what its runs made last; no part of the plan's value."""

    source: Any = None
    produced: Any = None
    read: Any = None


@dataclass(frozen=True)
class Plan:
    """Everything that will happen, known before a byte moves.

    Args:
        mapping: The mapping that was compiled.
        steps: Steps in the order of their first target.
        dropped: Sources that a named rule leaves out.
        initialised: Targets that nothing fills, each with the rule that declares it.
        tied_sources: Sources that a step's other source stands for.
        tied_targets: Targets that share the storage of a filled one; `by` is that target's key.
        reading: Which reading of the checkpoint's layout fits: ``mapped``, ``as is``, with or without a prefix.
        metadata: Free text pairs for the header of new files.
        notes: What the plan takes for granted, one sentence each.
        source_files: How the source lies in files; the inverse writes exactly these. Like the next one, no part of
            the plan's value: another sharding of the same tensors gives an equal plan.
        target_files: The files to write, where they are to be the very same as earlier ones.
    """

    mapping: Mapping
    steps: tuple[Step, ...]
    dropped: tuple[Fated, ...] = ()
    initialised: tuple[Fated, ...] = ()
    tied_sources: tuple[Fated, ...] = ()
    tied_targets: tuple[Fated, ...] = ()
    reading: str = "mapped"
    metadata: MappingOf[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    source_files: FileSet | None = field(default=None, repr=False, compare=False)
    target_files: FileSet | None = field(default=None, repr=False, compare=False)
    binding: Binding = field(default_factory=Binding, repr=False, compare=False)

    def __str__(self) -> str:
        return str(self.report)

    def __repr__(self) -> str:
        sizes = f"{len(self.source):,} -> {counted(len(self.target), 'tensor')}"
        return f"<Plan {self.mapping.name!r}: {sizes}, {'exact' if self.is_exact else 'lossy'}, {self.hash[:16]}>"

    # ---- what the plan says ----

    @cached_property
    def source(self) -> Header:
        """Specs of all source tensors, by key."""
        specs = {key: spec for step in self.steps for key, spec in zip(step.sources, step.program.sources, strict=True)}
        specs |= {fated.key: fated.spec for fated in self.dropped + self.tied_sources}
        return Header(specs)

    @cached_property
    def target(self) -> Header:
        """Specs of all tensors that a run gives, by key; carried ones included, initialised ones not."""
        written = (zip(step.targets, step.program.targets, strict=True) for step in self.steps)
        pairs = ((key, output.spec) for step in written for key, output in step)
        return Header(dict(pairs) | {fated.key: fated.spec for fated in self.tied_targets}, self.metadata)

    @cached_property
    def step_of_source(self) -> dict[str, int]:
        """Number of the step that reads a source."""
        return {key: number for number, step in enumerate(self.steps) for key in step.sources}

    @cached_property
    def step_of_target(self) -> dict[str, int]:
        """Number of the step that writes a target."""
        return {key: number for number, step in enumerate(self.steps) for key in step.targets}

    def source_fates(self) -> Iterator[tuple[str, Fate]]:
        """Yield every source's fate."""
        for number, step in enumerate(self.steps):
            yield from ((key, Fate(step.fate, number)) for key in step.sources)
        yield from ((fated.key, Fate("dropped", by=fated.by)) for fated in self.dropped)
        yield from ((fated.key, Fate("tied", by=fated.by)) for fated in self.tied_sources)

    def target_fates(self) -> Iterator[tuple[str, Fate]]:
        """Yield every target's fate."""
        for number, step in enumerate(self.steps):
            yield from ((key, Fate("filled", number)) for key in step.targets)
        yield from ((fated.key, Fate("tied", by=fated.by)) for fated in self.tied_targets)
        yield from ((fated.key, Fate("initialised", by=fated.by)) for fated in self.initialised)

    @cached_property
    def programs(self) -> tuple[Program, ...]:
        """The different programs of the plan, each once."""
        return tuple(dict.fromkeys({id(step.program): step.program for step in self.steps}.values()))

    @cached_property
    def lossy_reasons(self) -> tuple[str, ...]:
        """What of the source cannot be had back; empty for an exact plan."""
        dropped = Counter(f"dropped: {fated.by}" for fated in self.dropped)
        casts = Counter(step.program.lossy_reason for step in self.steps if not step.program.is_exact)
        return tuple(
            f"{count:,} tensor{'s' * (count != 1)} {reason}" for reason, count in [*dropped.items(), *casts.items()]
        )

    @property
    def is_exact(self) -> bool:
        """Whether the inverse gives back every byte of every source tensor."""
        return not self.lossy_reasons

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the plan's JSON form without the files; equal plans have equal hashes."""
        text = json.dumps(self._form(), sort_keys=True, separators=(",", ":"))
        return sha256_of(text.encode())

    @property
    def files_hash(self) -> str:
        """SHA-256 of how source and target lie in files, which is no part of `hash`."""
        digests = [files.digest if files is not None else "" for files in (self.source_files, self.target_files)]
        return sha256_of(" ".join(digests).encode())

    def check(self) -> None:
        """Prove every program, that each fits its step, and that every tensor has exactly one fate.

        Raises:
            PlanError: `plan-failed` with every problem found.
        """
        from weighbridge.planning.checking import find_problems

        problems = find_problems(self)
        if problems:
            hint = "make the plan anew: its form was changed"
            raise PlanError("plan-failed", "the plan does not hold", hint=hint, problems=problems)

    def __hash__(self) -> int:
        return int(self.hash[:16], 16)

    # ---- the way back ----

    def inverse(self, source: Any = None, *, lossy: bool = False, keep_initialised: bool = False) -> Plan:
        """Return the recorded way back: every step turned round, and the files as they were.

        Args:
            source: What to read: a model, a directory, a state dict. By default what this plan's last run made, or,
                if it never ran, what it would make.
            lossy: Accept that part of the source is lost, instead of an error.
            keep_initialised: Carry the targets that were initialised under their own names, instead of leaving them
                out; the files are then new ones.

        Raises:
            PlanError: `inverse-lossy`.
        """
        if not self.is_exact and not lossy:
            raise PlanError(
                "inverse-lossy",
                "this plan has no exact inverse",
                got="\n".join(self.lossy_reasons),
                hint="pass lossy=True (revert --lossy) to go back without what is lost",
            )
        back = [_step_back(step, lossy=lossy) for step in self.steps]
        new = self.initialised if keep_initialised else ()
        back += [Step((f.key,), (f.key,), Program.identity(f.spec), "carried") for f in new]
        left = () if keep_initialised else self.initialised
        made = replace(
            self,
            steps=tuple(sorted(back, key=lambda step: step.targets)),
            dropped=tuple(Fated(f.key, f.spec, f"not in the source, initialised: {f.by}") for f in left),
            initialised=(),
            tied_sources=self.tied_targets,
            tied_targets=self.tied_sources,
            source_files=self.target_files,
            target_files=self.source_files if self.is_exact and not new else None,
            binding=Binding(source=Made(self, source)),
        )
        made.check()
        return made

    # ---- JSON ----

    def to_json(self) -> str:
        """Write the plan as JSON, files included."""
        return json.dumps(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form: plain lists, dicts, texts and numbers."""
        form = self._form()
        for name in ("source_files", "target_files"):
            files: FileSet | None = getattr(self, name)
            form[name] = files.to_dict() if files is not None else None
        return {**form, "hash": self.hash, "files_hash": self.files_hash}

    def _form(self) -> dict[str, Any]:
        by_value = {program: number for number, program in enumerate(self.programs)}
        numbers = {id(step.program): by_value[step.program] for step in _first_uses(self.steps)}
        fated = {
            name: [[f.key, f.spec.dtype, list(f.spec.shape), f.by] for f in getattr(self, name)]
            for name in FATED_FIELDS
        }
        return {
            "format": PLAN_FORMAT,
            "version": PLAN_VERSION,
            "mapping": self.mapping.to_dict(),
            "reading": self.reading,
            "metadata": dict(self.metadata),
            "notes": list(self.notes),
            "programs": [program_to_dict(program) for program in self.programs],
            "steps": [
                [numbers[id(step.program)], list(step.sources), list(step.targets), step.fate, list(step.rules)]
                for step in self.steps
            ],
            **fated,
        }

    @staticmethod
    def from_json(text: str | bytes) -> Plan:
        """Read a plan's JSON form, and prove it again.

        Raises:
            PlanError: `plan-format`, `plan-failed`.
        """
        try:
            form = json.loads(text)
        except (ValueError, RecursionError) as problem:
            raise PlanError("plan-format", "this is no JSON", got=repr(problem)) from None
        return Plan.from_dict(form)

    @staticmethod
    def from_dict(form: Any) -> Plan:
        """Read the form that `to_dict` gives, and prove the plan and its record of files again.

        Raises:
            PlanError: `plan-format`, `plan-failed`.
            MappingError: `mapping-invalid`.
            CheckpointError: `path-unsafe`.
        """
        from weighbridge.planning.checking import read_plan

        return read_plan(form)

    # ---- what can be asked of it, and done with it ----

    @property
    def report(self) -> Report:
        """Fates, bytes, peak memory and reversibility, to print."""
        from weighbridge.reporting.explaining_plans import Report

        return Report(self)

    def to_html(self) -> str:
        """Return one self-contained page: both layouts side by side, every rule, every tensor; see `docs/report.md`."""
        from weighbridge.reporting.report_page import plan_page

        return plan_page(self)

    def _repr_html_(self) -> str:
        """Return the head of the report as a small table, for notebooks."""
        return self.report._repr_html_()

    def explain(self, key: str) -> Explanation:
        """Explain one key of either side: every rule tried, what fired, the copies, the nearest names for a miss."""
        from weighbridge.reporting.explaining_plans import explain

        return explain(self, key)

    def restrict(self, only: str | Iterable[str]) -> Plan:
        """Return the plan for part of the targets; see `weighbridge.planning.restricting.restrict`."""
        from weighbridge.planning.restricting import restrict

        return restrict(self, only)

    def load_into(self, model: torch.nn.Module, source: Any = None, **options: Any) -> Report:
        """Put the targets into a model's parameters and persistent buffers; see `module_loading.load_into`."""
        from weighbridge.models.module_loading import load_into

        return load_into(self, model, source, **options)

    def state_dict(self, source: Any = None, **options: Any) -> dict[str, torch.Tensor]:
        """Return all targets as a state dict; see `weighbridge.running.results.state_dict`."""
        from weighbridge.running.results import state_dict

        return state_dict(self, source, **options)

    def stream(self, source: Any = None, **options: Any) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the targets one at a time, as (key, tensor); see `weighbridge.running.results.stream`."""
        from weighbridge.running.results import stream

        return stream(self, source, **options)

    def write(self, destination: str | Path, source: Any = None, **options: Any) -> Path:
        """Write the targets as safetensors files into a new directory; see `directory_writing.write`."""
        from weighbridge.running.directory_writing import write

        return write(self, destination, source, **options)


class Made(NamedTuple):
    """Stands for what a plan made: the source of its inverse, looked up when the inverse runs."""

    plan: Plan
    source: Any


FATED_FIELDS: Final = ("dropped", "initialised", "tied_sources", "tied_targets")


def _first_uses(steps: tuple[Step, ...]) -> Iterator[Step]:
    """Yield one step for each program object."""
    yield from {id(step.program): step for step in steps}.values()


def _step_back(step: Step, *, lossy: bool) -> Step:
    fate = "moved" if step.fate == "tied" else step.fate
    return Step(step.targets, step.sources, step.program.inverse(lossy=lossy), fate, step.rules)
