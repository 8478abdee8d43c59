"""What a plan takes for granted of its sources' values: some are equal, and what is cut off holds a declared value.

Both are compared window by window, bit for bit and before any cast, before anything is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Final, NamedTuple

from weighbridge.algebra.layout import Layout, flat, windows
from weighbridge.algebra.regions import region_of
from weighbridge.base.errors import PlanError
from weighbridge.base.forms.elements import Constant, spell_element
from weighbridge.base.keys import counted, index_set
from weighbridge.base.specs import DTYPES, TensorSpec, coordinates
from weighbridge.planning.companions import quantised_keys
from weighbridge.planning.plan import Plan
from weighbridge.planning.program import Cut
from weighbridge.planning.steps import Step
from weighbridge.running.execute import Slots, allocate, constant_tensor, fill, left_to_model

if TYPE_CHECKING:
    import torch

    from weighbridge.storage.protocol import Checkpoint

COMPARED_BYTES: Final = 2**20
"""How much of each of two values is held at a time."""

SHOWN_ROWS: Final = 120
"""How many characters name the rows of an error."""

_AS_IT_IS: Final = 'save the model under its own names by layout="as is", or through other rules'

NOT_AS_TAKEN: Final = "the values are not what the plan takes them to be"


def check_conditions(plan: Plan, checkpoint: Checkpoint) -> None:
    """Compare what a plan takes for granted of its sources' values, and nothing else.

    Raises:
        PlanError: `plan-failed`, with a `sources-differ` for every way beyond the first in which a target would be made
            otherwise, or a `companion-differs` where that belongs to a quantised weight, and a `padding-differs` for
            all that is to be cut off and does not hold its declared value, or a `scheme-conflict` where that is a shape
            which stands beside codes.
        CheckpointError: The codes of reading.
    """
    problems = list(broken_conditions(plan, checkpoint))
    if problems:
        raise PlanError("plan-failed", NOT_AS_TAKEN, problems=problems)


def refuse_own(plan: Plan) -> None:
    """Refuse rows that are to stay as a model has them, where there is no model.

    Raises:
        PlanError: `plan-failed`, with a `target-missing` for each such target.
    """
    problems = [left_to_model(step.targets[0]) for step in plan.steps if step.program.keeps_own]
    if problems:
        raise PlanError("plan-failed", "part of the targets is a model's own", problems=problems)


def broken_conditions(plan: Plan, checkpoint: Checkpoint) -> Iterator[PlanError]:
    """Yield an error for each condition of a plan that the source's values do not meet."""
    for step in plan.steps:
        for key, number, element in first_differences(step, checkpoint):
            ways = (step.program.targets[way].layout for way in (step.writes[key], number))
            one, other = (_Element.of(step, layout, element) for layout in ways)
            if one.key in quantised_keys(plan.source):
                yield _companions_differ(key, one, other, checkpoint, is_back=bool(plan.is_back))
            else:
                yield _sources_differ(key, one, other, checkpoint, _remedy(plan))
        for cut, found in unlike_cuts(step, checkpoint):
            first = _Element.of(step, cut.output.layout, found.element)
            if first.key in quantised_keys(plan.source):
                yield _shape_conflicts(first, cut, checkpoint)
            else:
                yield _padding_differs(step, cut, found, checkpoint, is_back=bool(plan.is_back))


def holds_conditions(step: Step, checkpoint: Checkpoint) -> bool:
    """Tell whether the values of a step's sources are what it takes them to be."""
    broken = (next(kind(step, checkpoint), None) for kind in (first_differences, unlike_cuts))
    return all(found is None for found in broken)


def first_differences(step: Step, checkpoint: Checkpoint) -> Iterator[tuple[str, int, int]]:
    """Compare what a step takes to be equal, before any cast: what differs is not the same, though it may be rounded.

    Two windows of a tensor are held at a time, and what has differed is not looked at again.

    Args:
        step: The step.
        checkpoint: What it reads.

    Yields:
        A target, the number of an output that does not give the same as the first one, and the first element of it
        that differs.
    """
    compared = step.program.uncast if step.fate == "checked" else None
    if compared is None:
        return
    slots = Slots(replace(step, program=compared), checkpoint)
    for key in step.writes:
        ways = [number for number, target in enumerate(step.targets) if target == key]
        if any(compared.targets[way].layout.copies for way in ways):
            yield from ((key, number, element) for number, element in _unlike_the_first(slots, ways))


def _unlike_the_first(slots: Slots, ways: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield each of some ways of making a target that does not give what the first one does, with an element."""
    program = slots.step.program
    outputs = [program.targets[number] for number in ways]
    dtype = outputs[0].dtype
    most = max(1, COMPARED_BYTES // (DTYPES[dtype].bits // 8))
    start, left = 0, dict(enumerate(ways))
    del left[0]
    for parts in zip(*(windows(output.layout, most) for output in outputs), strict=True):
        nothing = _unwritten(parts[0], dtype) if program.is_portion else None
        first = window_bytes(parts[0], dtype, slots, nothing)
        for place, number in list(left.items()):
            if program.is_portion:
                _refuse_other_part(slots.step, parts[0], parts[place], is_less=number in program.partial[1])
            otherwise = first if program.is_portion or number in program.partial[1] else None
            unequal = (first != window_bytes(parts[place], dtype, slots, otherwise)).nonzero()
            if unequal.numel():
                del left[place]
                yield number, start + int(unequal[0]) // DTYPES[dtype].itemsize
        start += parts[0].numel


def _unwritten(window: Layout, dtype: str) -> torch.Tensor:
    import torch

    return torch.zeros(TensorSpec(dtype, window.shape).size_bytes, dtype=torch.uint8)


def _refuse_other_part(step: Step, first: Layout, other: Layout, *, is_less: bool) -> None:
    """Refuse to compare what one process holds of two values that must be equal, where it is not the same part.

    Raises:
        PlanError: `parts-mismatch`.
    """
    one, two = _written(first), _written(other)
    if bool((two & ~one).any()) or (bool((one & ~two).any()) and not is_less):
        raise PlanError(
            "parts-mismatch",
            "of tensors that must be equal, a process holds different parts, and cannot compare them",
            where=", ".join(dict.fromkeys(step.sources)),
            hint='spread them alike, or save the model under its own names by layout="as is"',
        )


def _written(window: Layout) -> torch.Tensor:
    """Tell of each element of a value whether a copy writes it."""
    import torch

    found = torch.zeros(window.numel, dtype=torch.bool)
    for copy in window.copies:
        sizes, strides = [loop.size for loop in copy.loops], [loop.target_stride for loop in copy.loops]
        found.as_strided(sizes, strides, copy.target_start).fill_(True)
    return found


class _Element(NamedTuple):
    """One element of a source: its key, and where it is; or one of a constant, without a key."""

    key: str
    spec: TensorSpec
    number: int
    declared: bytes = b""

    @staticmethod
    def of(step: Step, layout: Layout, element: int) -> _Element:
        """Return what an element of a value is made of."""
        program = step.program
        while True:
            copy = flat(layout, element, element + 1).copies[0]
            if copy.source < len(step.sources):
                return _Element(step.sources[copy.source], program.sources[copy.source], copy.source_start)
            if copy.source < program.first_temporary:
                constant = program.constants[copy.source - len(step.sources)]
                return _Element("", constant.spec, copy.source_start, constant.element)
            layout, element = program.temporaries[copy.source - program.first_temporary].layout, copy.source_start

    def text(self, checkpoint: Checkpoint) -> str:
        """Write where the element is, and its bytes."""
        if not self.key:
            return f"a declared value, {spell_element(self.declared, self.spec.dtype)}, 0x{self.declared[::-1].hex()}"
        size_bytes = DTYPES[self.spec.dtype].bits // 8
        raw = bytearray(size_bytes)
        checkpoint.read(self.key, self.number * size_bytes, memoryview(raw))
        place = ", ".join(map(str, coordinates(self.number, self.spec.shape)))
        return f"{self.key}[{place}] is {_value(raw, self.spec.dtype)}, 0x{raw[::-1].hex()}"


def _value(raw: bytearray, dtype: str) -> str:
    import torch

    from weighbridge.storage.formats.torch_tensors import dtype_of

    return str(torch.frombuffer(raw, dtype=dtype_of(dtype)).item())


def _remedy(plan: Plan) -> str:
    """Say what to do about sources that differ."""
    if plan.is_of_adapter and not plan.is_back:
        return "join factors that differ as blocks, at the sum of their ranks: block_diagonal=True (--block-diagonal)"
    if plan.is_back:
        return _AS_IT_IS
    return "give each a target of its own, or rename the one that is meant and drop the others"


def _sources_differ(key: str, one: _Element, other: _Element, checkpoint: Checkpoint, hint: str) -> PlanError:
    return PlanError(
        "sources-differ",
        "these sources are to become one target, and differ",
        where=key,
        expected="the same bytes in both",
        got=f"{one.text(checkpoint)}\n{other.text(checkpoint)}",
        hint=hint,
    )


def _companions_differ(key: str, one: _Element, other: _Element, checkpoint: Checkpoint, *, is_back: bool) -> PlanError:
    numbers = 'or read the weights as numbers, by their configuration: dtype="bfloat16" (--dtype bfloat16)'
    return PlanError(
        "companion-differs",
        "these belong to quantised weights that are to become one, and differ",
        where=key,
        expected="the same bytes in both",
        got=f"{one.text(checkpoint)}\n{other.text(checkpoint)}",
        hint=_AS_IT_IS if is_back else f"narrow the rule to other weights, quantise these with one scale,\n{numbers}",
    )


class Unlike(NamedTuple):
    """What of a part that is cut off does not hold its value: the first such element, and how many rows have one.

    Args:
        element: Number of the first one in the part.
        rows: The rows, counted along the axis that is cut, where the part is a box of a source; else empty.
        axis: That axis.
    """

    element: int
    rows: tuple[int, ...] = ()
    axis: int = 0


def unlike_cuts(step: Step, checkpoint: Checkpoint) -> Iterator[tuple[Cut, Unlike]]:
    """Compare what a step cuts off with what it must hold, before any cast that could round it.

    A window of it is held at a time.

    Args:
        step: The step.
        checkpoint: What it reads.

    Yields:
        Each part that holds something else, and where.
    """
    cuts = [cut for cut in step.program.cuts if cut.element and cut.output.layout.copies]
    if not cuts:
        return
    uncast = step.program.uncast
    slots = Slots(replace(step, program=uncast or step.program), checkpoint)
    for cut in cuts:
        dtype = uncast.targets[0].dtype if uncast is not None else cut.output.dtype
        found = _unlike_in(step, cut, dtype, slots)
        if found is not None:
            yield cut, found


def _unlike_in(step: Step, cut: Cut, dtype: str, slots: Slots) -> Unlike | None:
    import torch

    from weighbridge.storage.formats.torch_tensors import dtype_of

    declared = constant_tensor(Constant(TensorSpec(cut.output.dtype, (1,)), cut.element))
    wanted = declared.to(dtype_of(dtype)).view(torch.uint8)
    # A cast keeps no payload, and does not even give the same bits in one element as in many.
    is_any_nan = dtype != cut.output.dtype and bool(declared.double().isnan())
    axis = _cut_axis(step, cut)
    shape = cut.output.layout.shape
    stride, size = (prod(shape[axis.axis + 1 :]), shape[axis.axis]) if axis is not None else (1, 1)
    first, rows, start = None, set[int](), 0
    for window in windows(cut.output.layout, max(1, COMPARED_BYTES // len(wanted))):
        held = window_bytes(window, dtype, slots, wanted.repeat(window.numel) if step.program.is_portion else None)
        differs = (held.view(-1, len(wanted)) != wanted).any(1)
        if is_any_nan:
            differs = ~held.view(dtype_of(dtype)).double().isnan()
        unequal = differs.nonzero().flatten()
        if unequal.numel():
            first = start + int(unequal[0]) if first is None else first
            rows.update(((unequal + start) // stride % size).tolist())
        start += window.numel
    if first is None:
        return None
    return Unlike(first) if axis is None else Unlike(first, tuple(sorted(row + axis.start for row in rows)), axis.axis)


class _CutAxis(NamedTuple):
    """The axis of a source that is cut, and where what is cut off begins on it."""

    axis: int
    start: int


def _cut_axis(step: Step, cut: Cut) -> _CutAxis | None:
    """Find the one axis that is cut; None where the part is no box of a source, as it lies there."""
    layout = cut.output.layout
    copy = layout.copies[0] if len(layout.copies) == 1 else None
    if copy is None or copy.source >= len(step.sources):
        return None
    shape = step.program.sources[copy.source].shape
    box = region_of(copy, shape, of_target=False)
    if box is None or not box.ascending or tuple(stop - start for start, stop in box.spans) != layout.shape:
        return None
    cuts = [_CutAxis(axis, span[0]) for axis, span in enumerate(box.spans) if span != (0, shape[axis])]
    return cuts[0] if len(cuts) == 1 else None


def _shape_conflicts(element: _Element, cut: Cut, checkpoint: Checkpoint) -> PlanError:
    """Say that a shape which stands beside packed codes is not theirs."""
    return PlanError(
        "scheme-conflict",
        "the shape that stands beside the codes of a quantised weight is not theirs",
        where=element.key,
        expected=f"{spell_element(cut.element, cut.output.dtype)}, by the sizes of the other tensors",
        got=element.text(checkpoint),
        hint="correct the shape, or leave the weight as it is, by a narrower rule",
    )


def _padding_differs(step: Step, cut: Cut, found: Unlike, checkpoint: Checkpoint, *, is_back: bool) -> PlanError:
    element = _Element.of(step, cut.output.layout, found.element)
    value = spell_element(cut.element, cut.output.dtype)
    got = element.text(checkpoint)
    if found.rows:
        named = index_set(found.rows).strip("{}")
        named = named if len(named) <= SHOWN_ROWS else f"{named[:SHOWN_ROWS]}…"
        got += f"\nin {counted(len(found.rows), 'row')} of axis {found.axis}: {named}"
    hint = "declare the value that stands there: Trim(..., value=...), or keep the tensor as long as it is"
    return PlanError(
        "padding-differs",
        "what is to be cut off does not hold the value that is declared for it",
        where=element.key or step.targets[0],
        expected=f"{value}, 0x{cut.element[::-1].hex()}, in all of it",
        got=got,
        hint=_AS_IT_IS if is_back else hint,
    )


def window_bytes(window: Layout, dtype: str, slots: Slots, otherwise: torch.Tensor | None = None) -> torch.Tensor:
    """Return the bytes of a part of a value.

    Args:
        window: The copies that write it.
        dtype: Dtype code of the value.
        slots: What they read.
        otherwise: The bytes of elements that none of them writes.
    """
    import torch

    part = allocate(TensorSpec(dtype, window.shape))
    if otherwise is not None:
        part.view(torch.uint8).copy_(otherwise)
    fill(part, window, slots, dtype)
    return part.view(torch.uint8)
