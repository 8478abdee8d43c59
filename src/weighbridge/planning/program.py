"""What happens to the tensors of one step: strided copies from sources to targets, proven exactly-once.

A program knows shapes, dtypes and copies, but no names, so that all layers of a model share one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from weighbridge.algebra.copies import Copy, Loop, swapped
from weighbridge.algebra.coverage import Coverage, coverage
from weighbridge.algebra.layout import Layout, invert, prove
from weighbridge.algebra.sameness import is_same
from weighbridge.base.errors import PlanError
from weighbridge.base.forms.json_forms import items, number, numbers, text, truth
from weighbridge.base.specs import DTYPES, TensorSpec, may_overflow, widens_exactly


class Output(NamedTuple):
    """A tensor that a program writes: its dtype, and the copies that fill it."""

    dtype: str
    layout: Layout

    @property
    def spec(self) -> TensorSpec:
        """The written tensor's spec."""
        return TensorSpec(self.dtype, self.layout.shape)


@dataclass(frozen=True)
class Program:
    """Copies from source slots to targets, through temporaries where a value had to be materialised.

    Args:
        sources: Spec of each source; its position is its slot.
        temporaries: Values written before the targets; the slot of number `k` is `len(sources) + k`. Each may read
            sources and earlier temporaries.
        targets: The tensors that the step gives.
        overflows: Whether a value may lie beyond the range of a cast, and become infinite; else that is an error.

    Examples:
        >>> spec = TensorSpec("F32", (2, 3))
        >>> swap = Program((spec,), (), (Output("F32", Layout.of(0, (2, 3)).permute((1, 0))),))
        >>> swap.inverse().targets[0].spec
        TensorSpec(dtype='F32', shape=(2, 3))
        >>> swap.inverse().inverse() == swap
        True
    """

    sources: tuple[TensorSpec, ...]
    temporaries: tuple[Output, ...]
    targets: tuple[Output, ...]
    overflows: bool = False

    @staticmethod
    def identity(spec: TensorSpec, dtype: str | None = None) -> Program:
        """Return the program that copies one tensor as it is, at most cast to `dtype`."""
        return _identity(spec, dtype or spec.dtype)

    @property
    def slots(self) -> tuple[TensorSpec, ...]:
        """Specs of everything that a copy can read: sources, then temporaries."""
        return self.sources + tuple(output.spec for output in self.temporaries)

    @property
    def outputs(self) -> tuple[Output, ...]:
        """Everything that is written: temporaries, then targets."""
        return self.temporaries + self.targets

    @cached_property
    def is_identity(self) -> bool:
        """Whether one tensor's bytes come out as they went in, in the same order."""
        if len(self.sources) != 1 or len(self.targets) != 1 or self.temporaries:
            return False
        source, target = self.sources[0], self.targets[0]
        flat = Layout.of(0, source.shape).reshape(target.layout.shape)
        return source.dtype == target.dtype and target.layout == flat

    @cached_property
    def casts(self) -> tuple[tuple[str, str], ...]:
        """The pairs of dtypes that copies convert between, each once, those of temporaries first."""
        slots = self.slots
        found = ((slots[copy.source].dtype, output.dtype) for output in self.outputs for copy in output.layout.copies)
        return tuple(dict.fromkeys(pair for pair in found if pair[0] != pair[1]))

    @cached_property
    def reads(self) -> tuple[Coverage, ...]:
        """For each slot, how often its elements are read."""
        used: list[list[Copy]] = [[] for _ in self.slots]
        for output in self.outputs:
            for copy in output.layout.copies:
                used[copy.source].append(swapped(copy))
        return tuple(coverage(copies, spec.numel) for copies, spec in zip(used, self.slots, strict=True))

    @cached_property
    def is_exact(self) -> bool:
        """Whether the inverse gives back every byte of the sources."""
        return all(read.exact for read in self.reads) and all(widens_exactly(*pair) for pair in self.casts)

    @property
    def lossy_reason(self) -> str:
        """What is lost of the tensors that the program makes, to follow their number; empty for an exact program."""
        narrow = [f"{a} to {b}" for a, b in self.casts if not widens_exactly(a, b)]
        unread = [read for read in self.reads if not read.exact]
        parts = [f"cast from {', '.join(narrow)}"] if narrow else []
        return ", ".join([*parts, *(["with part of a source not read exactly once"] if unread else [])])

    def slots_read(self, numbers: Iterable[int]) -> list[int]:
        """Return the slots that some targets are made from, in order: temporaries, and what those are made from.

        Examples:
            >>> Program.identity(TensorSpec("F32", (2, 3))).slots_read([0])
            [0]
        """
        used = {copy.source for number in numbers for copy in self.targets[number].layout.copies}
        for place in reversed(range(len(self.temporaries))):
            if len(self.sources) + place in used:
                used |= {copy.source for copy in self.temporaries[place].layout.copies}
        return sorted(used)

    def prove(self) -> None:
        """Prove that every element of every output is written exactly once, from elements that exist.

        Raises:
            LayoutError: `layout-coverage`.
            PlanError: `dtype-mismatch` for a dtype that packs elements below a byte and is not moved whole.
        """
        numels = [spec.numel for spec in self.slots]
        for place, output in enumerate(self.outputs):
            readable = len(self.sources) + min(place, len(self.temporaries))
            prove(output.layout, numels[:readable])
            self._refuse_packed(output)

    def _refuse_packed(self, output: Output) -> None:
        """Sub-byte elements cannot be addressed one by one: such a tensor may only pass as a whole."""
        sources = {self.slots[copy.source].dtype for copy in output.layout.copies}
        packed = {dtype for dtype in sources | {output.dtype} if DTYPES[dtype].kind == "packed"}
        if packed and not (len(output.layout.copies) <= 1 and sources <= {output.dtype} and self.is_identity):
            raise PlanError("dtype-mismatch", f"{min(packed)} packs elements below a byte; it can only be moved whole")

    def inverse(self, *, lossy: bool = False) -> Program:
        """Return the program that gives the sources back from the targets; with `lossy`, casts may round.

        A source that was read in part cannot be given back at all.

        Raises:
            PlanError: `inverse-lossy`.
        """
        unread = not all(read.exact for read in self.reads)
        if unread or not (self.is_exact or lossy):
            raise PlanError("inverse-lossy", "this step cannot be undone", got=self.lossy_reason)
        return _inverse(self)

    def is_same(self, other: Program) -> bool:
        """Tell whether another program writes the same, however its copies are cut."""
        if self == other:
            return True
        if (self.sources, self.overflows) != (other.sources, other.overflows) or len(self.outputs) != len(
            other.outputs
        ):
            return False
        return len(self.targets) == len(other.targets) and all(
            one.dtype == two.dtype and is_same(one.layout, two.layout)
            for one, two in zip(self.outputs, other.outputs, strict=True)
        )

    def overflowing(self) -> Program:
        """Return the program with the declaration that its casts may make infinities, if one of them can."""
        if self.overflows or not any(may_overflow(*pair) for pair in self.casts):
            return self
        return _overflowing(self)

    @cached_property
    def uncast(self) -> Program | None:
        """The program with no other casts than to the smallest dtype that holds all values it reads; None without one.

        Examples:
            >>> Program.identity(TensorSpec("F32", (2, 3)), "F16").uncast.casts
            ()
        """
        read = {spec.dtype for spec in self.sources}
        holding = [code for code in DTYPES if all(dtype == code or widens_exactly(dtype, code) for dtype in read)]
        if not holding:
            return None
        dtype = min(holding, key=lambda code: DTYPES[code].bits)
        temporaries = tuple(output._replace(dtype=dtype) for output in self.temporaries)
        targets = tuple(output._replace(dtype=dtype) for output in self.targets)
        return Program(self.sources, temporaries, targets, self.overflows)

    def recast(self, dtypes: Sequence[str]) -> Program:
        """Return the program with its targets cast to other dtypes, after all the casts that it has.

        A cast that keeps every value is fused with the new one. One that may round is not skipped: its result is
        written to a temporary, which the new cast reads.

        Args:
            dtypes: The new dtype of each target.

        Examples:
            >>> narrowed = Program.identity(TensorSpec("F32", (2, 3)), "F16").recast(["F32"])
            >>> narrowed.casts, narrowed.is_exact
            ((('F32', 'F16'), ('F16', 'F32')), False)
            >>> Program.identity(TensorSpec("BF16", (2, 3)), "F32").recast(["BF16"]).is_identity
            True
        """
        temporaries, targets = list(self.temporaries), []
        for output, dtype in zip(self.targets, dtypes, strict=True):
            if output.dtype != dtype and not self._widens(output):
                temporaries.append(output)
                layout = Layout.of(len(self.sources) + len(temporaries) - 1, output.layout.shape)
                targets.append(Output(dtype, layout))
            else:
                targets.append(output._replace(dtype=dtype))
        return Program(self.sources, tuple(temporaries), tuple(targets), self.overflows)

    def _widens(self, output: Output) -> bool:
        """Whether an output's copies keep every value that they move."""
        read = {self.slots[copy.source].dtype for copy in output.layout.copies}
        return all(widens_exactly(dtype, output.dtype) for dtype in read)

    @property
    def copies(self) -> int:
        """Number of strided copies."""
        return sum(len(output.layout.copies) for output in self.outputs)

    @property
    def temporary_bytes(self) -> int:
        """Size of all temporaries together."""
        return sum(output.spec.size_bytes for output in self.temporaries)


@lru_cache(maxsize=4096)
def _identity(spec: TensorSpec, dtype: str) -> Program:
    return Program((spec,), (), (Output(dtype, Layout.of(0, spec.shape)),))


@lru_cache(maxsize=1024)
def _overflowing(program: Program) -> Program:
    return replace(program, overflows=True)


@lru_cache(maxsize=1024)
def _inverse(program: Program) -> Program:
    """Invert all copies at once: what was read is written, and temporaries come in reverse order."""
    temporaries, sources = len(program.temporaries), len(program.sources)
    targets = len(program.targets)
    layouts = invert([output.layout for output in program.outputs], [spec.shape for spec in program.slots])

    def renumber(layout: Layout) -> Layout:
        # An output's number was its place among temporaries and targets; in the inverse, targets are the sources.
        moved = tuple(
            copy._replace(source=copy.source - temporaries if copy.source >= temporaries else _mirror(copy.source))
            for copy in layout.copies
        )
        return Layout(layout.shape, moved)

    def _mirror(temporary: int) -> int:
        return targets + temporaries - 1 - temporary

    written = [Output(spec.dtype, renumber(layout)) for spec, layout in zip(program.slots, layouts, strict=True)]
    return Program(
        tuple(output.spec for output in program.targets),
        tuple(reversed(written[sources:])),
        tuple(written[:sources]),
        program.overflows,
    )


def program_to_dict(program: Program) -> dict[str, Any]:
    """Return the JSON form of a program."""
    return {
        "sources": [[spec.dtype, list(spec.shape)] for spec in program.sources],
        "temporaries": [_output_form(output) for output in program.temporaries],
        "targets": [_output_form(output) for output in program.targets],
        **({"overflows": True} if program.overflows else {}),
    }


def _output_form(output: Output) -> list[Any]:
    copies = [
        [copy.source, copy.source_start, copy.target_start, [list(loop) for loop in copy.loops]]
        for copy in output.layout.copies
    ]
    return [output.dtype, list(output.layout.shape), copies]


def program_from_dict(form: Mapping[str, Any]) -> Program:
    """Read the JSON form of a program; `Program.prove` must still vouch for it.

    Raises:
        PlanError: `plan-format`.
    """
    specs = [items(entry, 2) for entry in items(form["sources"])]
    return Program(
        tuple(spec_from_form(dtype, shape) for dtype, shape in specs),
        tuple(_output_from_form(entry) for entry in items(form["temporaries"])),
        tuple(_output_from_form(entry) for entry in items(form["targets"])),
        truth(form.get("overflows", False)),
    )


def spec_from_form(dtype: object, shape: object) -> TensorSpec:
    """Read a spec of a JSON form.

    Raises:
        PlanError: `plan-format`.

    Examples:
        >>> spec_from_form("F32", [2, 3])
        TensorSpec(dtype='F32', shape=(2, 3))
    """
    spec = TensorSpec(text(dtype), numbers(shape))
    if spec.dtype not in DTYPES:
        raise PlanError("plan-format", "this is no dtype", got=repr(spec.dtype)[:120])
    number(spec.numel * DTYPES[spec.dtype].bits)
    return spec


def _output_from_form(entry: object) -> Output:
    dtype, shape, copies = items(entry, 3)
    spec = spec_from_form(dtype, shape)
    return Output(spec.dtype, Layout(spec.shape, tuple([_copy_from_form(copy) for copy in items(copies)])))


def _copy_from_form(entry: object) -> Copy:
    source, source_start, target_start, loops = items(entry, 4)
    read = [numbers(items(loop, 3)) for loop in items(loops)]
    return Copy(number(source), number(source_start), number(target_start), tuple([Loop(*loop) for loop in read]))
