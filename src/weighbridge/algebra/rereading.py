"""Read through the strides of a tensor: copies of its row-major value, as copies of the memory that it lies in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from weighbridge.algebra.copies import Copy, Loop, align, fuse, simplify, strides, swapped

MAX_PARTS: Final = 1024
"""Into how many copies one may fall before it is better read part by part."""


def reread(copy: Copy, shape: Sequence[int], read_strides: Sequence[int]) -> tuple[Copy, ...]:
    """Return a copy of a tensor's row-major value as copies that read the tensor's elements where they lie.

    Args:
        copy: What reads the row-major value.
        shape: Sizes of the tensor's axes.
        read_strides: Its strides in memory, in elements; they may be 0, and elements may lie in each other's places.

    Returns:
        The copies; their source begins at the tensor's first element.

    Raises:
        LayoutError: `layout-fragmented` for more than `MAX_PARTS` copies.

    Examples:
        >>> for part in reread(Copy(0, 0, 0, (Loop(6, 1, 1),)), (2, 3), (1, 2)):
        ...     print(part.source_start, *map(tuple, part.loops))
        0 (2, 1, 3) (3, 2, 1)
    """
    axes = [axis for axis in zip(strides(shape), shape, read_strides, strict=True) if axis[1] > 1]

    def move(index: int) -> int:
        return sum([index // step % size * stride for step, size, stride in axes])

    parts = []
    for part in align([swapped(copy)], [step for step, _, _ in axes], MAX_PARTS):
        loops = tuple([Loop(size, move(read), write) for size, write, read in part.loops])
        parts.append(simplify(Copy(copy.source, move(part.target_start), part.source_start, loops)))
    return fuse(parts)
