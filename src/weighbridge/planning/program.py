"""What happens to the tensors of one step: strided copies from sources to targets, proven exactly-once.

A program knows shapes, dtypes and copies, but no names, so that all layers of a model share one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from weighbridge.algebra.copies import Copy, sort_by_target, swapped
from weighbridge.algebra.coverage import Coverage, coverage
from weighbridge.algebra.layout import Layout, invert, prove
from weighbridge.algebra.sameness import is_same
from weighbridge.base.errors import PlanError
from weighbridge.base.forms.elements import Constant
from weighbridge.base.specs import DTYPES, TensorSpec, may_overflow, widens_exactly


class Output(NamedTuple):
    """A tensor that a program writes: its dtype, and the copies that fill it."""

    dtype: str
    layout: Layout

    @property
    def spec(self) -> TensorSpec:
        """The written tensor's spec."""
        return TensorSpec(self.dtype, self.layout.shape)


class Cut(NamedTuple):
    """What a program reads and writes nowhere: the copies that would, and the bytes that all its elements must have."""

    output: Output
    element: bytes


@dataclass(frozen=True)
class Program:
    """Copies from source slots to targets, through temporaries where a value had to be materialised.

    Args:
        sources: Spec of each source; its position is its slot.
        temporaries: Values written before the targets; their slots follow those of the constants. Each may read
            sources, constants and earlier temporaries.
        targets: The tensors that the step gives.
        overflows: Whether a value may lie beyond the range of a cast, and become infinite; else that is an error.
        constants: Tensors of a declared value, which come from no source; their slots follow those of the sources.
        cuts: What goes to no target, and must hold a declared value. The inverse has a constant for each, and so the
            other way round.
        again: How many of the last sources, and of the last targets, are tensors that stand before them as well, for
            parts that are read again, or made again: of these, elements may be left out.
        is_portion: Whether part of the sources is not there, so that elements of any target may be left out.

    Examples:
        >>> swap = Program((TensorSpec("F32", (2, 3)),), (), (Output("F32", Layout.of(0, (2, 3)).permute((1, 0))),))
        >>> swap.inverse().targets[0].spec
        TensorSpec(dtype='F32', shape=(2, 3))
        >>> swap.inverse().inverse() == swap
        True
    """

    sources: tuple[TensorSpec, ...]
    temporaries: tuple[Output, ...]
    targets: tuple[Output, ...]
    overflows: bool = False
    constants: tuple[Constant, ...] = ()
    cuts: tuple[Cut, ...] = ()
    again: tuple[int, int] = (0, 0)
    is_portion: bool = False

    @staticmethod
    def identity(spec: TensorSpec, dtype: str | None = None) -> Program:
        """Return the program that copies one tensor as it is, at most cast to `dtype`."""
        return _identity(spec, dtype or spec.dtype)

    @property
    def slots(self) -> tuple[TensorSpec, ...]:
        """Specs of everything that a copy can read: sources, constants, then temporaries."""
        constants = tuple(constant.spec for constant in self.constants)
        return self.sources + constants + tuple(output.spec for output in self.temporaries)

    @property
    def first_temporary(self) -> int:
        """The slot of the first temporary: those before it are sources and constants."""
        return len(self.sources) + len(self.constants)

    @property
    def written(self) -> tuple[Output, ...]:
        """Everything that is written: temporaries, then targets."""
        return self.temporaries + self.targets

    @property
    def outputs(self) -> tuple[Output, ...]:
        """Everything that copies lead to: temporaries, targets, then what is cut off."""
        return self.written + tuple(cut.output for cut in self.cuts)

    @property
    def partial(self) -> tuple[range, range]:
        """The slots of sources, and the numbers of targets, that are there for parts."""
        counts = len(self.sources), len(self.targets)
        return range(counts[0] - self.again[0], counts[0]), range(counts[1] - self.again[1], counts[1])

    @property
    def is_declared(self) -> bool:
        """Whether a declared value is put in, or must stand in what is cut off."""
        return bool(self.constants or self.cuts)

    def dtype(self, slot: int) -> str:
        """Return the dtype code of a slot."""
        return self.sources[slot].dtype if slot < len(self.sources) else self.slots[slot].dtype

    @cached_property
    def is_identity(self) -> bool:
        """Whether one tensor's bytes come out as they went in, in the same order."""
        if len(self.sources) != 1 or len(self.targets) != 1 or self.temporaries or self.is_declared:
            return False
        source, target = self.sources[0], self.targets[0]
        is_alike = source.dtype == target.dtype and source.numel == target.layout.numel
        return is_alike and target.layout.copies == Layout.of(0, source.shape).copies

    @cached_property
    def casts(self) -> tuple[tuple[str, str], ...]:
        """The pairs of dtypes that copies convert between, each once, those of temporaries first."""
        slots = self.slots
        found = ((slots[copy.source].dtype, output.dtype) for output in self.written for copy in output.layout.copies)
        return tuple(dict.fromkeys(pair for pair in found if pair[0] != pair[1]))

    @cached_property
    def reads(self) -> tuple[Coverage, ...]:
        """For each slot, how often its elements are read."""
        used: list[list[Copy]] = [[] for _ in self.slots]
        for output in self.outputs:
            for copy in output.layout.copies:
                used[copy.source].append(swapped(copy))
        return tuple(coverage(copies, spec.numel) for copies, spec in zip(used, self.slots, strict=True))

    @property
    def reads_all(self) -> bool:
        """Whether each element of every slot is read once; of what is there for parts, none twice."""
        parts, _ = self.partial
        return all(read.exact or (slot in parts and not read.multiple) for slot, read in enumerate(self.reads))

    @property
    def keeps_own(self) -> bool:
        """Whether part of a target stays as the model has it."""
        return any(not element for _, element in self.constants)

    @property
    def cuts_any(self) -> bool:
        """Whether something is cut off whatever it holds."""
        return any(not element for _, element in self.cuts)

    @cached_property
    def is_exact(self) -> bool:
        """Whether the inverse gives back every byte of the sources, and nothing of the targets is lost on the way."""
        if self.keeps_own or self.cuts_any:
            return False
        return self.reads_all and all(widens_exactly(*pair) for pair in self.casts)

    @property
    def lossy_reason(self) -> str:
        """What is lost of the tensors that the program makes, to follow their number; empty for an exact program."""
        narrow = [f"{a} to {b}" for a, b in self.casts if not widens_exactly(a, b)]
        own = ["with rows of the model's own, which the way back cuts off"] if self.keeps_own else []
        parts = [*([f"cast from {', '.join(narrow)}"] if narrow else []), *own]
        parts += ["with part cut off, whatever it holds"] if self.cuts_any else []
        return ", ".join([*parts, *([] if self.reads_all else ["with part of a source not read exactly once"])])

    def slots_read(self, numbers: Iterable[int]) -> list[int]:
        """Return the slots that some targets are made from, in order: temporaries, and what those are made from.

        Examples:
            >>> Program.identity(TensorSpec("F32", (2, 3))).slots_read([0])
            [0]
        """
        return self.slots_of(self.targets[number].layout for number in numbers)

    def slots_of(self, layouts: Iterable[Layout]) -> list[int]:
        """Return the slots that some layouts are made from, in order, as `slots_read` does for targets."""
        used = {copy.source for layout in layouts for copy in layout.copies}
        for place in reversed(range(len(self.temporaries))):
            if self.first_temporary + place in used:
                used |= {copy.source for copy in self.temporaries[place].layout.copies}
        return sorted(used)

    def prove(self) -> None:
        """Prove that every element of every output is written exactly once, from elements that exist.

        Of a target that is there for parts, no element is written twice.

        Raises:
            LayoutError: `layout-coverage`.
            PlanError: `dtype-mismatch` for a dtype that packs elements below a byte and is not moved whole.
        """
        numels, temporaries = [spec.numel for spec in self.slots], len(self.temporaries)
        _, parts = self.partial
        for place, output in enumerate(self.outputs):
            readable = self.first_temporary + min(place, temporaries)
            is_whole = place - temporaries not in parts and (place < temporaries or not self.is_portion)
            prove(output.layout, numels[:readable], is_whole=is_whole)
            self._refuse_packed(output)
        elements = [*self.constants, *((cut.output.spec, cut.element) for cut in self.cuts)]
        for spec, element in elements:
            if element and len(element) * 8 != DTYPES[spec.dtype].bits:
                got = f"{len(element)} bytes for {spec.dtype}"
                raise PlanError("plan-format", "a declared value is no element of its dtype", got=got)

    def _refuse_packed(self, output: Output) -> None:
        """Sub-byte elements cannot be addressed one by one: such a tensor may only pass as a whole."""
        sources = {self.slots[copy.source].dtype for copy in output.layout.copies}
        packed = {dtype for dtype in sources | {output.dtype} if DTYPES[dtype].kind == "packed"}
        if packed and sources and not self.is_identity:
            raise PlanError("dtype-mismatch", f"{min(packed)} packs elements below a byte; it can only be moved whole")

    def inverse(self, *, lossy: bool = False) -> Program:
        """Return the program that gives the sources back from the targets; with `lossy`, casts may round.

        A source that was read in part cannot be given back at all.

        Raises:
            PlanError: `inverse-lossy`.
        """
        if not self.reads_all or not (self.is_exact or lossy):
            raise PlanError("inverse-lossy", "this step cannot be undone", got=self.lossy_reason)
        return _inverse(self)

    def is_same(self, other: Program) -> bool:
        """Tell whether another program writes the same, however its copies are cut."""
        if self == other:
            return True
        ones = [_in_order(program) for program in (self, other)]
        fixed = ("sources", "again", "overflows", "constants", "is_portion")
        values = [(*(getattr(one, name) for name in fixed), len(one.outputs), len(one.targets)) for one in ones]
        elements = [[cut.element for cut in one.cuts] for one in ones]
        return (values[0], elements[0]) == (values[1], elements[1]) and all(
            one.dtype == two.dtype and is_same(one.layout, two.layout)
            for one, two in zip(*(one.outputs for one in ones), strict=True)
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
        return replace(self, temporaries=temporaries, targets=targets)

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
                layout = Layout.of(self.first_temporary + len(temporaries) - 1, output.layout.shape)
                targets.append(Output(dtype, layout))
            else:
                targets.append(output._replace(dtype=dtype))
        return replace(self, temporaries=tuple(temporaries), targets=tuple(targets))

    def _widens(self, output: Output) -> bool:
        """Whether an output's copies keep every value that they move."""
        read = {self.dtype(copy.source) for copy in output.layout.copies}
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


def _in_order(program: Program) -> Program:
    """Return a program with its constants in the order in which it writes them, and its cuts as they lie."""
    if len(program.constants) + len(program.cuts) < 2:
        return program
    cuts = tuple(sorted(program.cuts, key=lambda cut: cut.output.layout.copies))
    first, stop = len(program.sources), program.first_temporary
    written = (copy for output in program.outputs for copy in sort_by_target(output.layout.copies))
    used = dict.fromkeys(copy.source for copy in written if first <= copy.source < stop)
    order = list(dict.fromkeys([*used, *range(first, stop)]))
    places = {slot: first + number for number, slot in enumerate(order)}

    def moved(output: Output) -> Output:
        copies = tuple(copy._replace(source=places.get(copy.source, copy.source)) for copy in output.layout.copies)
        return output._replace(layout=Layout(output.layout.shape, copies))

    return replace(
        program,
        temporaries=tuple(map(moved, program.temporaries)),
        targets=tuple(map(moved, program.targets)),
        constants=tuple(program.constants[slot - first] for slot in order),
        cuts=tuple(cut._replace(output=moved(cut.output)) for cut in cuts),
    )


@lru_cache(maxsize=1024)
def _inverse(program: Program) -> Program:
    """Invert all copies at once: what was read is written, and temporaries come in reverse order."""
    temporaries, sources = len(program.temporaries), len(program.sources)
    read = len(program.outputs) - temporaries  # what the inverse reads: the targets, and what is put back
    shapes = [spec.shape for spec in program.slots]
    layouts = invert([output.layout for output in program.outputs], shapes, program.partial[0])

    def renumber(layout: Layout) -> Layout:
        # An output's number was its place among temporaries, targets and cuts; in the inverse, the last two are read.
        moved = tuple(
            copy._replace(source=copy.source - temporaries if copy.source >= temporaries else _mirror(copy.source))
            for copy in layout.copies
        )
        return Layout(layout.shape, moved)

    def _mirror(temporary: int) -> int:
        return read + temporaries - 1 - temporary

    written = [Output(spec.dtype, renumber(layout)) for spec, layout in zip(program.slots, layouts, strict=True)]
    first = program.first_temporary
    cuts = zip(written[sources:first], program.constants, strict=True)
    return Program(
        tuple(output.spec for output in program.targets),
        tuple(reversed(written[first:])),
        tuple(written[:sources]),
        program.overflows,
        tuple(Constant(cut.output.spec, cut.element) for cut in program.cuts),
        tuple(Cut(output, constant.element) for output, constant in cuts),
        program.again[::-1],
    )


def program_to_dict(program: Program) -> dict[str, Any]:
    """Return the JSON form of a program."""
    return {
        "sources": [[spec.dtype, list(spec.shape)] for spec in program.sources],
        "temporaries": [_output_form(output) for output in program.temporaries],
        "targets": [_output_form(output) for output in program.targets],
        **({"overflows": True} if program.overflows else {}),
        **({"constants": [_constant_form(each) for each in program.constants]} if program.constants else {}),
        **({"cuts": [[*_output_form(cut), element.hex()] for cut, element in program.cuts]} if program.cuts else {}),
        **({"again": list(program.again)} if any(program.again) else {}),
    }


def _constant_form(constant: Constant) -> list[Any]:
    spec, element = constant
    return [spec.dtype, list(spec.shape), element.hex()]


def _output_form(output: Output) -> list[Any]:
    copies = [
        [copy.source, copy.source_start, copy.target_start, [list(loop) for loop in copy.loops]]
        for copy in output.layout.copies
    ]
    return [output.dtype, list(output.layout.shape), copies]
