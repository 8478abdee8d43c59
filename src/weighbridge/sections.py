"""Cut a copy into sections that read a short interval of their source, so that each can be read as one piece."""

from __future__ import annotations

from collections.abc import Iterator

from weighbridge.copies import Copy, pick


def reach(copy: Copy) -> int:
    """Return the length of the interval of the source that a copy reads from, in elements.

    Examples:
        >>> from weighbridge.copies import Loop
        >>> reach(Copy(0, 5, 0, (Loop(3, 10, 2), Loop(2, 1, 1))))
        22
    """
    return 1 + sum([(size - 1) * stride for size, stride, _ in copy.loops])


def sections(copy: Copy, longest: int, numel: int) -> Iterator[Copy]:
    """Cut a copy so that no section reads from an interval of more than `longest` elements, or copies over `numel`.

    Args:
        copy: The copy.
        longest: The most elements of the source from a section's first to its last; at least 1.
        numel: The most elements in a section; at least 1.

    Yields:
        Sections in the order in which they lie in the source, as far as its loops allow that.

    Examples:
        >>> from weighbridge.copies import Loop
        >>> rows = Copy(0, 0, 0, (Loop(4, 10, 1), Loop(10, 1, 4)))
        >>> [(part.source_start, part.numel) for part in sections(rows, 20, 100)]
        [(0, 20), (20, 20)]
    """
    if not copy.loops or (reach(copy) <= longest and copy.numel <= numel):
        yield copy
        return
    number = max(range(len(copy.loops)), key=lambda k: (copy.loops[k].source_stride, copy.loops[k].size))
    size, stride, _ = copy.loops[number]
    inner = pick(copy, number, 0, 1)
    room = (longest - reach(inner)) // stride + 1 if stride else size
    count = max(1, min(room, numel // inner.numel, size))
    for start in range(0, size, count):
        part = pick(copy, number, start, min(start + count, size))
        if reach(part) <= longest and part.numel <= numel:
            yield part
        else:
            yield from sections(part, longest, numel)
