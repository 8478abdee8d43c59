"""Programs cut to parts of the tensors that they write, or to parts of those that they read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

from weighbridge.algebra.copies import swapped
from weighbridge.algebra.held_parts import Part, cut_layout, cut_slots, part_around, without_slots
from weighbridge.algebra.layout import Layout
from weighbridge.base.errors import LayoutError
from weighbridge.base.specs import TensorSpec
from weighbridge.planning.program import Output, Program


def cut_targets(program: Program, parts: Sequence[Part]) -> Program:
    """Restrict a program to parts of its targets; of its temporaries, little more is made than these need.

    What is cut off of the sources, and must hold a declared value, stays whole unless nothing is held.

    Args:
        program: The program.
        parts: What is held of each target.

    Raises:
        LayoutError: `layout-fragmented`.
    """
    if all(part.is_whole for part in parts):
        return program
    targets = [_with_layout(output, cut_layout(output.layout, part))
               for output, part in zip(program.targets, parts, strict=True)]  # fmt: skip
    is_held = any(part.numel for part in parts)
    cuts = tuple(cut for cut in program.cuts if is_held and cut.output.layout.copies)
    made = replace(program, targets=tuple(targets), cuts=cuts)
    for place in reversed(range(len(program.temporaries))):
        made = _cut_temporary(made, place, _part_read(made, place))
    return made


def cut_sources(program: Program, parts: Sequence[Part], unread: Collection[int] = ()) -> Program:
    """Restrict a program to what it makes of parts of its sources: it writes some elements of its targets only.

    A declared value is put in whatever is held, unless its slot is not to be read.

    Args:
        program: The program.
        parts: What is held of each source.
        unread: Slots of sources and constants of which nothing is read, whatever is held.

    Raises:
        LayoutError: `layout-fragmented`, also where what is known of a temporary would be no part of it.
    """
    if all(part.is_whole for part in parts) and not unread:
        return program
    slots = [*parts, *[None] * (len(program.slots) - len(parts))]
    sources = [TensorSpec(spec.dtype, part.held) for spec, part in zip(program.sources, parts, strict=True)]
    read = _mapped(program, lambda layout: cut_slots(without_slots(layout, unread), slots))
    made = replace(read, sources=tuple(sources), is_portion=True)
    for place in range(len(program.temporaries)):
        made = _cut_temporary(made, place, _part_written(made, place))
    return made


def _part_read(program: Program, place: int) -> Part:
    """Return the part of a temporary that is read: around what the copies touch."""
    slot = program.first_temporary + place
    copies = [copy for output in program.outputs for copy in output.layout.copies if copy.source == slot]
    return part_around(map(swapped, copies), program.temporaries[place].layout.shape)


def _part_written(program: Program, place: int) -> Part:
    """Return the part of a temporary that is written; it must be all of that part."""
    layout = program.temporaries[place].layout
    part = part_around(layout.copies, layout.shape)
    written = sum(copy.numel for copy in layout.copies)
    if part.numel != written:
        raise LayoutError(
            "layout-fragmented",
            "what a part of a source fills of a temporary lies scattered in it",
            expected="intervals of its axes",
            got=f"{written:,} elements among {part.numel:,}",
            hint="hold other parts of this tensor, such as whole rows, or the whole of it",
        )
    return part


def _cut_temporary(program: Program, place: int, part: Part) -> Program:
    """Replace a temporary by a part of it, on both sides: what writes it, and what reads it."""
    if part.is_whole:
        return program
    slots: list[Part | None] = [None] * len(program.slots)
    slots[program.first_temporary + place] = part
    made = _mapped(program, lambda layout: cut_slots(layout, slots))
    temporaries = list(made.temporaries)
    temporaries[place] = _with_layout(temporaries[place], cut_layout(temporaries[place].layout, part))
    return replace(made, temporaries=tuple(temporaries))


def _mapped(program: Program, change: Callable[[Layout], Layout]) -> Program:
    """Return a program with all of its layouts changed."""

    def changed(outputs: Iterable[Output]) -> tuple[Output, ...]:
        return tuple(_with_layout(output, change(output.layout)) for output in outputs)

    return replace(
        program,
        temporaries=changed(program.temporaries),
        targets=changed(program.targets),
        cuts=tuple(cut._replace(output=_with_layout(cut.output, change(cut.output.layout))) for cut in program.cuts),
    )


def _with_layout(output: Output, layout: Layout) -> Output:
    return output._replace(layout=layout)
