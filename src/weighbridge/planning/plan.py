"""A plan: what will happen to every tensor of a checkpoint, as a frozen value that was proven before it could run.

A plan is a list of steps, each joining some source tensors to some target tensors by one program, and the exceptions
that were declared. It says what happens, and how to go back; it knows nothing of where it reads, who runs it, or how it
is printed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping as MappingOf
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Final

from weighbridge.algebra.held_parts import Part
from weighbridge.base.errors import PlanError
from weighbridge.base.file_sets import FileSet
from weighbridge.base.hashes import sha256_of
from weighbridge.base.keys import counted
from weighbridge.base.specs import Header
from weighbridge.mappings.lora.adapter_names import is_of_adapter
from weighbridge.mappings.mapping import Mapping
from weighbridge.planning.checking import find_problems
from weighbridge.planning.program import Program, program_to_dict
from weighbridge.planning.steps import EQUAL_FATES, FATED_FIELDS, Condition, Fate, Fated, Refinement, Step

PLAN_FORMAT: Final = "weighbridge-plan"
PLAN_VERSION: Final = 1
"""Version of the JSON form; raised whenever an older reader could misread it."""

EQUALS_VERSION: Final = 2
"""Version of a plan in which a key stands in a step more than once: one tensor is shared, or several are equal."""

COMPUTED_VERSION: Final = 3
"""Version of a plan that reads weights which are computed from their codes."""

DECLARED_VERSION: Final = 4
"""Version of a plan in which a declared value is put into a target, or must stand in what is cut off of a source."""

REFINED_VERSION: Final = 5
"""Version of a plan in which blocks are made finer, or a tensor stands in a step again for a part of it."""

PORTION_VERSION: Final = 6
"""Version of a plan that is cut to parts of its tensors: the whole plan, and the parts."""

PLAN_VERSIONS: Final = (
    PLAN_VERSION,
    EQUALS_VERSION,
    COMPUTED_VERSION,
    DECLARED_VERSION,
    REFINED_VERSION,
    PORTION_VERSION,
)

DEFAULT_BUDGET_BYTES: Final = 256 * 2**20
"""Size of the buffers that a run may hold beside its results, in bytes."""


@dataclass(frozen=True, slots=True)
class Portion:
    """What a cut plan was cut from, and to what.

    Args:
        whole: The whole plan.
        target: The part that is written of each target; None where all is.
        source: The part that is there of each source; None where all is.
    """

    whole: Plan
    target: MappingOf[str, Part] | None
    source: MappingOf[str, Part] | None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form of the parts of both sides."""
        sides = {"target": self.target, "source": self.source}
        named = {side: parts for side, parts in sides.items() if parts is not None}
        return {side: {key: parts[key].to_dict() for key in sorted(parts)} for side, parts in named.items()}


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything that will happen, known before a byte moves.

    Args:
        mapping: The mapping that was compiled.
        steps: Steps in the order of their first target.
        dropped: Sources that a named rule leaves out.
        initialised: Targets that nothing fills, each with the rule that declares it.
        tied_sources: Sources that a step's other source stands for.
        tied_targets: Targets that share the storage of a filled one; `by` is that target's key.
        twins: Pairs of filled targets that share one storage: what fills them must be the same bytes.
        reading: Which reading of the checkpoint's layout fits: ``mapped``, ``as is``, with or without a prefix.
        metadata: Free text pairs for the header of new files.
        notes: What the plan takes for granted, one sentence each.
        choices: Where a derived way back takes one of several names or sizes, each of which the rules would lead to the
            source, one sentence each: a target or a record would have settled it. The notes repeat the likelier ones.
        computed: The sources that are no tensors of a file: weights that are computed from their codes, by the title of
            their scheme.
        refined: Blocks of quantised weights that are made finer, for the configuration beside the weights to say.
        source_files: How the source lies in files; the inverse writes exactly these. Like the next one, no part of
            the plan's value: another sharding of the same tensors gives an equal plan.
        target_files: The files to write, where they are to be the very same as earlier ones.
        is_back: Whether this is the recorded inverse of a plan, so that its steps lead from what the mapping gives to
            what it takes; no part of the plan's value either. None if it is not known.
        portion: For a plan that was cut to what one process holds, the whole plan and the parts; see `portions`.
    """

    mapping: Mapping
    steps: tuple[Step, ...]
    dropped: tuple[Fated, ...] = ()
    initialised: tuple[Fated, ...] = ()
    tied_sources: tuple[Fated, ...] = ()
    tied_targets: tuple[Fated, ...] = ()
    twins: tuple[tuple[str, str], ...] = ()
    reading: str = "mapped"
    metadata: MappingOf[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    computed: tuple[tuple[str, tuple[str, ...]], ...] = ()
    refined: tuple[Refinement, ...] = ()
    source_files: FileSet | None = field(default=None, repr=False, compare=False)
    target_files: FileSet | None = field(default=None, repr=False, compare=False)
    is_back: bool | None = field(default=None, compare=False)
    portion: Portion | None = field(default=None, repr=False)

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

    def source_keys(self) -> list[str]:
        """List the key of every source's fate, as often as it has one."""
        apart = [fated.key for fated in self.dropped + self.tied_sources]
        return [key for step in self.steps for key in step.reads] + apart

    def target_keys(self) -> list[str]:
        """List the key of every target's fate, as often as it has one."""
        apart = [fated.key for fated in self.tied_targets + self.initialised]
        return [key for step in self.steps for key in step.writes] + apart

    def source_fates(self) -> Iterator[tuple[str, Fate]]:
        """Yield every source's fate."""
        for number, step in enumerate(self.steps):
            yield from ((key, Fate(step.fate, number)) for key in step.reads)
        yield from ((fated.key, Fate("dropped", by=fated.by)) for fated in self.dropped)
        yield from ((fated.key, Fate("tied", by=fated.by)) for fated in self.tied_sources)

    def target_fates(self) -> Iterator[tuple[str, Fate]]:
        """Yield every target's fate."""
        for number, step in enumerate(self.steps):
            for key, output in step.writes.items():
                yield key, Fate(step.target_fate(output), number)
        yield from ((fated.key, Fate("tied", by=fated.by)) for fated in self.tied_targets)
        yield from ((fated.key, Fate("initialised", by=fated.by)) for fated in self.initialised)

    @cached_property
    def programs(self) -> tuple[Program, ...]:
        """The different programs of the plan, each once."""
        return tuple(dict.fromkeys({id(step.program): step.program for step in self.steps}.values()))

    @cached_property
    def lossy_reasons(self) -> tuple[str, ...]:
        """What of the source cannot be had back, of all portions together; empty for an exact plan."""
        if self.portion is not None:
            return self.portion.whole.lossy_reasons
        dropped = Counter(f"dropped: {fated.by}" for fated in self.dropped)
        casts = Counter(step.program.lossy_reason for step in self.steps if not step.program.is_exact)
        made = {f"computed from codes: {title}": len(keys) for title, keys in self.computed}
        reasons = [*made.items(), *dropped.items(), *casts.items()]
        return tuple(f"{count:,} tensor{'s' * (count != 1)} {reason}" for reason, count in reasons)

    @cached_property
    def conditions(self) -> tuple[Condition, ...]:
        """What must hold of the source's values, which a run compares before it writes anything."""
        return tuple(condition for step in self.steps for condition in step.conditions())

    @property
    def is_of_adapter(self) -> bool:
        """Whether it moves an adapter, as the mapping of the adapter's model says."""
        return is_of_adapter(self.reading)

    @property
    def is_exact(self) -> bool:
        """Whether the inverse gives back every byte of every source tensor."""
        return not self.lossy_reasons

    @property
    def version(self) -> int:
        """Version of the plan's JSON form: the oldest that can say it."""
        if self.portion is not None:
            return PORTION_VERSION
        if self.refined or any(any(program.again) for program in self.programs):
            return REFINED_VERSION
        if any(program.is_declared for program in self.programs):
            return DECLARED_VERSION
        if self.computed:
            return COMPUTED_VERSION
        return EQUALS_VERSION if any(step.fate in EQUAL_FATES for step in self.steps) else PLAN_VERSION

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the plan's JSON form without the files; equal plans have equal hashes."""
        text = json.dumps(self._form(), sort_keys=True, separators=(",", ":"))
        return sha256_of(text.encode())

    @property
    def whole_hash(self) -> str:
        """The `hash` of the whole plan: its own, or that of the plan that it was cut from."""
        return self.hash if self.portion is None else self.portion.whole.hash

    @property
    def files_hash(self) -> str:
        """SHA-256 of how source and target lie in files, which is no part of `hash`."""
        if self.portion is not None:
            return self.portion.whole.files_hash
        digests = [files.digest if files is not None else "" for files in (self.source_files, self.target_files)]
        return sha256_of(" ".join(digests).encode())

    def check(self) -> None:
        """Prove every program, that each fits its step, and that every tensor has exactly one fate.

        Raises:
            PlanError: `plan-failed` with every problem found.
        """
        problems = find_problems(self)
        if problems:
            hint = "make the plan anew: its form was changed"
            raise PlanError("plan-failed", "the plan does not hold", hint=hint, problems=problems)

    def __eq__(self, other: object) -> bool:
        """Tell whether two plans say the same; what one of them is bound to besides makes no difference."""
        if not isinstance(other, Plan):
            return NotImplemented
        compared = (each.name for each in fields(Plan) if each.compare)
        return all(getattr(self, name) == getattr(other, name) for name in compared)

    def __hash__(self) -> int:
        return int(self.hash[:16], 16)

    # ---- the way back ----

    def inverse(self, *, lossy: bool = False, keep_initialised: bool = False) -> Plan:
        """Return the recorded way back: every step turned round, and the files as they were.

        Args:
            lossy: Accept that part of the source is lost, instead of an error.
            keep_initialised: Carry the targets that were initialised under their own names, instead of leaving them
                out; the files are then new ones.

        Raises:
            PlanError: `inverse-lossy`.
        """
        assert self.portion is None, "what is cut is turned round by recut"
        if not self.is_exact and not lossy:
            raise PlanError(
                "inverse-lossy",
                "this plan has no exact inverse",
                got="\n".join(self.lossy_reasons),
                hint="pass lossy=True (revert --lossy) to go back without what is lost",
            )
        back = [step.inverse(lossy=lossy) for step in self.steps]
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
            twins=(),
            computed=(),
            refined=tuple(each.inverse() for each in self.refined),
            source_files=self.target_files,
            target_files=self.source_files if self.is_exact and not new else None,
            is_back=None if self.is_back is None else not self.is_back,
        )
        made.check()
        return made

    # ---- JSON ----

    def to_json(self) -> str:
        """Write the plan as JSON, files included."""
        return json.dumps(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form: plain lists, dicts, texts and numbers."""
        form, whole = self._form(), self if self.portion is None else self.portion.whole
        for name in ("source_files", "target_files"):
            files: FileSet | None = getattr(whole, name)
            form[name] = files.to_dict() if files is not None else None
        way = {} if self.is_back is None else {"is_back": self.is_back}
        return {**form, **way, "hash": self.hash, "files_hash": self.files_hash}

    def _form(self) -> dict[str, Any]:
        if self.portion is not None:
            return {**self.portion.whole._form(), "version": self.version, "parts": self.portion.to_dict()}
        by_value = {program: number for number, program in enumerate(self.programs)}
        numbers = {id(step.program): by_value[step.program] for step in _first_uses(self.steps)}
        fated = {
            name: [[f.key, f.spec.dtype, list(f.spec.shape), f.by] for f in getattr(self, name)]
            for name in FATED_FIELDS
        }
        return {
            "format": PLAN_FORMAT,
            "version": self.version,
            "mapping": self.mapping.to_dict(),
            "reading": self.reading,
            "metadata": dict(self.metadata),
            "notes": list(self.notes),
            **({"choices": list(self.choices)} if self.choices else {}),
            "programs": [program_to_dict(program) for program in self.programs],
            "steps": [
                [numbers[id(step.program)], list(step.sources), list(step.targets), step.fate, list(step.rules)]
                for step in self.steps
            ],
            **fated,
            **({"twins": [list(pair) for pair in self.twins]} if self.twins else {}),
            **({"computed": {title: list(keys) for title, keys in self.computed}} if self.computed else {}),
            **({"refined": [list(map(list, each)) for each in self.refined]} if self.refined else {}),
        }


def _first_uses(steps: tuple[Step, ...]) -> Iterator[Step]:
    """Yield one step for each program object."""
    yield from {id(step.program): step for step in steps}.values()
