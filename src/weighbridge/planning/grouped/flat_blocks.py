"""Divide the program of a weight among tensors whose blocks are of its flat elements, row after row.

As bitsandbytes stores 4 bits: codes two in a byte, scales for as many elements, and a text that says rows and columns.
So rows can be joined and cut, and matrices stacked, where whole blocks end, and the text is told anew for each weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Final

from weighbridge.algebra.copies import Copy, Loop, fuse
from weighbridge.algebra.layout import Layout
from weighbridge.algebra.quotient import Grid, Seam, divide
from weighbridge.base.forms.elements import Constant
from weighbridge.base.specs import Shape, TensorSpec
from weighbridge.mappings.schemes.bitsandbytes import State
from weighbridge.mappings.schemes.scheme import Member
from weighbridge.planning.grouped.dividing import Divided, Undivided, all_or_none
from weighbridge.planning.grouped.weights import Kind
from weighbridge.planning.program import Cut, Output, Program

_BYTE: Final = TensorSpec("U8", ())


def divide_flat(program: Program, kinds: Sequence[Kind]) -> list[Divided] | Undivided:
    """Divide a program among the tensors of the groups that it moves; see `divide_program`.

    Args:
        program: What is done to the weights.
        kinds: How those are stored that it reads, slot by slot; each has a state.

    Raises:
        LayoutError: `layout-fragmented`.
    """
    members = kinds[0].stored.members
    is_plain = program == Program(program.sources, (), program.targets)
    if not is_plain or any(len(output.layout.shape) < 2 for output in program.targets):
        return Undivided(members[0], None)
    # Codes come last: where scales are cut as well, it is these that say how large parts must be.
    order = sorted(enumerate(members), key=lambda pair: pair[1].kind == "codes")
    return all_or_none(_divide(program, kinds, number, member) for number, member in order)


def _divide(program: Program, kinds: Sequence[Kind], number: int, member: Member) -> Divided | Undivided:
    states = [kind.state for kind in kinds if kind.state is not None]
    if member.role == "state":
        return _retold(member, states, [output.layout.shape for output in program.targets])
    specs, is_codes = [kind.stored.specs[number] for kind in kinds], member.kind == "codes"
    layouts = [output.layout.reshape((output.layout.numel,)) for output in program.targets]
    sizes = [prod(state.shape) for state in states], [layout.numel for layout in layouts]
    block = 2 if is_codes else states[0].block
    sources, targets = ([_grid(member, specs[0], block, size) for size in side] for side in sizes)
    found = divide(layouts, sources, targets, may_repeat=member.kind == "shared")
    if isinstance(found, Seam):
        return Undivided(member, found)
    outputs = [
        Output(specs[0].dtype, layout.reshape((layout.numel, 1) if is_codes else layout.shape))
        for _, layout in found.outputs
    ]
    made = Program(tuple(specs[slot] for slot in found.slots), (), tuple(outputs))
    return Divided(member, made, found.slots, tuple(target for target, _ in found.outputs))


def _grid(member: Member, spec: TensorSpec, block: int, numel: int) -> Grid:
    """Return the grid of a tensor over the flat elements of its weight; a table is one for all of them."""
    if member.kind != "shared":
        return Grid.of((numel,), (block,), (0,) if member.kind == "codes" else ())
    inner = ((spec.numel, 1),)
    return Grid((numel,), (max(1, numel),), (0,), spec.shape, whole=frozenset({0}), roles=(0,), inner=inner)


def _retold(member: Member, states: Sequence[State], shapes: Sequence[Shape]) -> Divided:
    """Tell the texts of new weights, each from every old one, of which all must be the same but for the shapes."""
    pairs = [(slot, target) for slot in range(len(states)) for target in range(len(shapes))]
    texts = [(states[slot].told(states[slot].shape), states[slot].told(shapes[target])) for slot, target in pairs]
    constants: list[Constant] = []
    targets: list[Output] = []
    cuts: list[Cut] = []
    for place, text in enumerate(texts):
        copies: list[Copy] = []
        read = write = 0
        for old, new in zip(*text, strict=True):
            if old == new:
                copies.append(Copy(place, read, write, (Loop(len(old), 1, 1),)))
            else:
                first = len(pairs) + len(constants)
                constants += [Constant(_BYTE, bytes([byte])) for byte in new]
                copies += [Copy(first + at, 0, write + at, ()) for at in range(len(new))]
                cuts += [_cut(place, read + at, byte) for at, byte in enumerate(old)]
            read, write = read + len(old), write + len(new)
        targets.append(Output("U8", Layout((write,), fuse(copies))))
    sources = tuple(TensorSpec("U8", (len(b"".join(old)),)) for old, _ in texts)
    made = Program(sources, (), tuple(targets), constants=tuple(constants), cuts=tuple(cuts))
    return Divided(member, made, tuple(slot for slot, _ in pairs), tuple(target for _, target in pairs))


def _cut(slot: int, at: int, byte: int) -> Cut:
    return Cut(Output("U8", Layout((), (Copy(slot, at, 0, ()),))), bytes([byte]))
