"""A program without the slots that nothing of it reads."""

from __future__ import annotations

from dataclasses import replace

from weighbridge.planning.program import Output, Program


def without_unread(program: Program) -> tuple[Program, tuple[int, ...]]:
    """Leave out of a program the sources, constants and temporaries that are not read.

    Args:
        program: The program; some of what it had to write may have been taken away.

    Returns:
        The program, and the numbers of the sources that it still reads. None of them is there for a part only.

    Examples:
        >>> from weighbridge.algebra.layout import Layout
        >>> from weighbridge.base.specs import TensorSpec
        >>> pair = (TensorSpec("F32", (2,)), TensorSpec("F32", (3,)))
        >>> without_unread(Program(pair, (), (Output("F32", Layout.of(1, (3,))),)))[1]
        (1,)
    """
    slots = program.slots_of(output.layout for output in program.outputs[len(program.temporaries) :])
    if len(slots) == len(program.slots):
        return program, tuple(range(len(program.sources)))
    first, temporary = len(program.sources), program.first_temporary
    place_of = {slot: place for place, slot in enumerate(slots)}

    def moved(output: Output) -> Output:
        copies = tuple(copy._replace(source=place_of[copy.source]) for copy in output.layout.copies)
        return output._replace(layout=replace(output.layout, copies=copies))

    sources = tuple(slot for slot in slots if slot < first)
    made = replace(
        program,
        sources=tuple(program.sources[slot] for slot in sources),
        temporaries=tuple(moved(program.temporaries[slot - temporary]) for slot in slots if slot >= temporary),
        targets=tuple(map(moved, program.targets)),
        constants=tuple(program.constants[slot - first] for slot in slots if first <= slot < temporary),
        cuts=tuple(cut._replace(output=moved(cut.output)) for cut in program.cuts),
        again=(0, program.again[1]),
    )
    return made, sources
