"""Divide the program of a weight among the tensors of its group: each gets the quotient by the grid that it has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from math import ceil, prod
from typing import NamedTuple

from weighbridge.algebra.copies import Copy, Loop, strides
from weighbridge.algebra.layout import Layout
from weighbridge.algebra.quotient import Grid, Quotient, Seam, divide
from weighbridge.algebra.repeating import Repeated, repeat_entries
from weighbridge.base.forms.elements import Constant, element_bytes
from weighbridge.base.specs import Shape, TensorSpec
from weighbridge.mappings.schemes.scheme import Along, Axis, Form, Member
from weighbridge.planning.grouped.weights import Kind
from weighbridge.planning.program import Cut, Output, Program

ROWS, COLUMNS = 0, 1
"""Numbers of the roles that the axes of a weight have."""


class Divided(NamedTuple):
    """What a program does to one kind of the tensors of a group.

    Args:
        member: What they are.
        program: What is done to them.
        slots: For each source of the program, the number of the weight that it belongs to.
        targets: For each target of the program, the number of the weight that it belongs to.
    """

    member: Member
    program: Program
    slots: tuple[int, ...]
    targets: tuple[int, ...]


class Undivided(NamedTuple):
    """Why a program does not divide: the kind of tensors, and where; no seam for one that only a whole weight has."""

    member: Member
    seam: Seam | None


def divide_program(program: Program, kinds: Sequence[Kind], made: Form) -> list[Divided] | Undivided:
    """Divide a program among the tensors of the groups that it moves.

    What is made is stored by the same scheme: its rows are its last axis but one, its columns the last. So a matrix is
    turned where that leaves blocks as they are, and nowhere else.

    Args:
        program: What is done to the weights.
        kinds: How those are stored that it reads, slot by slot; all of them have the same members.
        made: What these members will be: the same, or with finer blocks.

    Raises:
        LayoutError: `layout-fragmented`.
    """
    return all_or_none(divide_member(program, kinds, number, member) for number, member in enumerate(made))


def all_or_none(divided: Iterable[Divided | Undivided]) -> list[Divided] | Undivided:
    """Return what a program does to all kinds of tensors, or the first that it does not divide among."""
    made = list(divided)
    failed = next((each for each in made if isinstance(each, Undivided)), None)
    return [each for each in made if isinstance(each, Divided)] if failed is None else failed


def divide_member(program: Program, kinds: Sequence[Kind], number: int, made: Member) -> Divided | Undivided:
    """Divide a program among the tensors of one kind; see `divide_program`."""
    member, specs = kinds[0].stored.members[number], [kind.stored.specs[number] for kind in kinds]
    inside = specs[0].shape[len(kinds[0].shape or ()) - 2 :]
    shapes = [kind.shape or () for kind in kinds], [output.layout.shape for output in program.targets]
    stored = [grid.stored for shape in shapes[0] if (grid := _grid(member, shape, inside)) is not None]
    sources, targets = [[grid for shape in side if (grid := _grid(made, shape, inside)) is not None] for side in shapes]
    # Nothing but copies from sources to targets divides.
    is_plain = program == Program(program.sources, (), program.targets)
    is_whole = len(sources) == len(shapes[0]) and len(targets) == len(shapes[1]) and is_plain
    is_as_stored = stored == [spec.shape for spec in specs]
    found: Quotient | Seam = Seam(0, is_order=True)
    if is_whole and is_as_stored:
        layouts = [output.layout for output in program.targets]
        found = divide(layouts, sources, targets, may_repeat=member.role != "shape")
        if isinstance(found, Seam) and member.role == "shape":
            return _restated(member, kinds, specs, shapes[1])
    if isinstance(found, Seam):
        return Undivided(made, found)
    read = Repeated(found.slots, tuple(layout for _, layout in found.outputs), 0)
    if made != member:
        again = repeat_entries(read.layouts, [_entries(member, made, sources[slot]) for slot in found.slots])
        read = again._replace(slots=tuple(found.slots[slot] for slot in again.slots))
    outputs = tuple(Output(specs[0].dtype, layout) for layout in read.layouts)
    divided = Program(tuple(specs[slot] for slot in read.slots), (), outputs, again=(read.partial, 0))
    return Divided(member, divided, read.slots, tuple(target for target, _ in found.outputs))


def _entries(member: Member, made: Member, grid: Grid) -> Grid:
    """Return how many entries of a finer grid one of what is stored becomes, along each axis."""
    pairs = zip(member.along or (), made.along or (), strict=True)
    along = [int((one.elements or 1) / (other.elements or 1)) for one, other in pairs]
    return Grid.of(grid.stored, [*[1] * (len(grid.stored) - len(along)), *along])


def _restated(member: Member, kinds: Sequence[Kind], specs: Sequence[TensorSpec], made: Sequence[Shape]) -> Divided:
    """Say the shapes of new weights, which come from no tensor, and hold those of the old ones to what is there."""
    dtype = specs[0].dtype
    constants: list[Constant] = []
    targets: list[Output] = []
    for shape in made:
        first, stack = len(specs) + len(constants), shape[:-2]
        constants += [Constant(TensorSpec(dtype, stack), element_bytes(size, dtype)) for size in shape[-2:]]
        copies = tuple([Copy(first + place, 0, place, _every(prod(stack), 1, 2)) for place in range(2)])
        targets.append(Output(dtype, Layout((*stack, 2), copies)))
    cuts = [
        Cut(
            Output(dtype, Layout(shape[:-2], (Copy(slot, place, 0, _every(prod(shape[:-2]), 2, 1)),))),
            element_bytes(size, dtype),
        )
        for slot, shape in enumerate(kind.shape or () for kind in kinds)
        for place, size in enumerate(shape[-2:])
    ]
    program = Program(tuple(specs), (), tuple(targets), constants=tuple(constants), cuts=tuple(cuts))
    return Divided(member, program, tuple(range(len(specs))), tuple(range(len(made))))


def _every(count: int, read: int, write: int) -> tuple[Loop, ...]:
    return (Loop(count, read, write),) if count > 1 else ()


def _along(member: Member, inside: Shape) -> tuple[Along, ...]:
    """Return the axes of a tensor behind those of a stack; single values, and a shape, lie inside of the weight."""
    is_single = member.kind == "shared" and prod(inside) == 1
    if member.along is None or is_single:
        return tuple(Along(Axis.INSIDE, size) for size in inside)
    return member.along


def _grid(member: Member, shape: Shape, inside: Shape) -> Grid | None:
    """Return the grid of a tensor over its weight; None where it cannot be one of it.

    Args:
        member: What the tensor is.
        shape: The weight's shape.
        inside: What such tensors have behind the axes of a stack.
    """
    if len(shape) < 2:
        return None
    along = list(_along(member, inside))
    axis_of = {Axis.ROWS: len(shape) - 2, Axis.COLUMNS: len(shape) - 1}
    units = [_unit(member, each, shape[axis_of[each.axis]]) if each.axis in axis_of else None for each in along]
    if any(unit is not None and not unit.fits for unit in units):
        return None
    sizes = [each.elements if unit is None else unit.entries for each, unit in zip(along, units, strict=True)]
    stored = (*shape[:-2], *(int(size or 0) for size in sizes))
    step_of = strides(stored)
    blocks, steps = [1] * len(shape), [*step_of[: len(shape) - 2], 0, 0]
    whole, kept, inner = set(axis_of.values()), [], []
    for each, unit, step in zip(along, units, step_of[len(shape) - 2 :], strict=True):
        if unit is None:
            inner.append((int(each.elements or 0), step))
            continue
        axis = axis_of[each.axis]
        blocks[axis], steps[axis] = unit.elements, step * unit.width
        whole -= set() if unit.is_whole else {axis}
        kept += [list(axis_of).index(each.axis)] if unit.is_kept else []
        inner += [(unit.width, step)] if unit.width > 1 else []
    for axis in whole:
        blocks[axis] = max(1, shape[axis])
    roles = (axis_of[Axis.ROWS], axis_of[Axis.COLUMNS])
    return Grid(shape, tuple(blocks), tuple(steps), stored, frozenset(whole), roles, tuple(sorted(kept)), tuple(inner))


class _Unit(NamedTuple):
    """What cannot be divided along an axis: so many elements in so many entries, and how many entries there are."""

    elements: int
    width: int
    entries: int
    is_whole: bool = False
    is_kept: bool = False
    fits: bool = True


def _unit(member: Member, along: Along, size: int) -> _Unit:
    if along.elements is None:
        return _Unit(max(1, size), 1, 1, is_whole=True)
    if member.kind == "numbered":
        return _Unit(max(1, size), max(1, size), size, is_kept=True)
    dense = Fraction(along.elements)
    is_packed = (member.kind == "codes" or isinstance(along.elements, Fraction)) and dense != 1
    fits = dense.denominator == 1 or size % dense.numerator == 0
    entries = ceil(size / dense)
    return _Unit(dense.numerator, dense.denominator, entries, is_kept=is_packed, fits=fits)
