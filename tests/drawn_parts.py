"""Parts of tensors, drawn for several processes, and what a process holds by them, found by lists of indices.

Nothing here uses the intervals of a part as the library does: each axis is written out, index by index.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence

import torch

from weighbridge.algebra.copies import Copy
from weighbridge.algebra.held_parts import Part
from weighbridge.algebra.layout import Layout, concat, stack

Shape = tuple[int, ...]


def deal(shape: Shape, processes: int, chance: random.Random) -> list[Part]:
    """Deal a tensor out: whole to each, or axes cut anywhere and the pieces dealt, so that each is held once."""
    if not shape or chance.random() < 0.15:
        return [Part.whole(shape)] * processes
    if processes == 4 and len(shape) > 1 and chance.random() < 0.4:
        first, second = chance.sample(range(len(shape)), 2)
        rows, columns = (deal_axis(shape[axis], 2, chance) for axis in (first, second))
        return [_part(shape, {first: row, second: column}) for row in rows for column in columns]
    axis = chance.randrange(len(shape))
    return [_part(shape, {axis: piece}) for piece in deal_axis(shape[axis], processes, chance)]


def deal_axis(size: int, processes: int, chance: random.Random) -> list[list[tuple[int, int]]]:
    """Cut an axis at random places, and deal the pieces out; some may get none."""
    cuts = sorted(chance.sample(range(1, size), min(size - 1, chance.randint(0, 5)))) if size > 1 else []
    pieces = list(itertools.pairwise([0, *cuts, size])) if size else []
    dealt: list[list[tuple[int, int]]] = [[] for _ in range(processes)]
    for number, piece in enumerate(pieces):
        at = number % processes if chance.random() < 0.7 else chance.randrange(processes)
        dealt[at].append(piece)
    return dealt


def _part(shape: Shape, axes: Mapping[int, list[tuple[int, int]]]) -> Part:
    whole = [((0, size),) if size else () for size in shape]
    return Part(shape, tuple(tuple(axes.get(axis, whole[axis])) for axis in range(len(shape))))


def deal_all(shapes: Mapping[str, Shape], processes: int, chance: random.Random) -> list[dict[str, Part]]:
    """Deal out all tensors; what each process holds of them."""
    dealt = {key: deal(shape, processes, chance) for key, shape in shapes.items()}
    return [{key: parts[process] for key, parts in dealt.items()} for process in range(processes)]


def indices_of(part: Part) -> list[list[int]]:
    """Write out which indices of each axis are held."""
    return [[index for start, stop in intervals for index in range(start, stop)] for intervals in part.axes]


def held_of(tensor: torch.Tensor, part: Part) -> torch.Tensor:
    """Take what is held of a tensor, axis by axis."""
    for axis, indices in enumerate(indices_of(part)):
        tensor = tensor.index_select(axis, torch.tensor(indices, dtype=torch.long))
    return tensor


def flat_indices(part: Part) -> list[int]:
    """List the flat indices of what is held, in its own row-major order."""
    places = torch.arange(torch.Size(part.shape).numel()).reshape(part.shape)
    return held_of(places, part).reshape(-1).tolist()


def touched(copy: Copy) -> list[tuple[int, int]]:
    """List the element that is read and the element that is written of every move of a copy."""
    found = []
    for place in itertools.product(*(range(loop.size) for loop in copy.loops)):
        steps = list(zip(place, copy.loops, strict=True))
        read = copy.source_start + sum(at * loop.source_stride for at, loop in steps)
        found.append((read, copy.target_start + sum(at * loop.target_stride for at, loop in steps)))
    return found


def run(layout: Layout, slots: Sequence[torch.Tensor]) -> torch.Tensor:
    """Run a layout move by move; what it does not write stays -1."""
    made = torch.full((layout.numel,), -1, dtype=torch.long)
    for copy in layout.copies:
        for read, written in touched(copy):
            assert made[written] == -1
            made[written] = slots[copy.source].reshape(-1)[read]
    return made.reshape(layout.shape)


def moved(layout: Layout, chance: random.Random) -> Layout:
    """Apply a few random movements that keep every element."""
    for _ in range(chance.randint(0, 3)):
        kind = chance.randrange(3)
        axis = chance.randrange(len(layout.shape))
        if kind == 0:
            axes = list(range(len(layout.shape)))
            chance.shuffle(axes)
            layout = layout.permute(axes)
        elif kind == 1:
            size = layout.shape[axis]
            at = chance.randint(0, size)
            layout = concat(layout.split(axis, (at, size - at))[::-1], axis)
        else:
            rows = chance.choice([n for n in range(1, layout.numel + 1) if layout.numel % n == 0] or [1])
            layout = layout.reshape((rows, layout.numel // rows))
    return layout


def joined(shapes: Sequence[Shape], first: int, chance: random.Random) -> Layout:
    """Join sources of one shape, from slot `first` on, along some axis, and move what comes of it."""
    sources = [Layout.of(first + number, shape) for number, shape in enumerate(shapes)]
    return moved(chance.choice((concat, stack))(sources, chance.randrange(len(shapes[0]))), chance)
