"""Parts of stored tensors: a range along each axis, read without the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING, NamedTuple

import torch

from weighbridge.base.specs import DTYPES, Shape
from weighbridge.storage.formats.torch_tensors import bytes_of, dtype_of
from weighbridge.storage.protocol import read_places

if TYPE_CHECKING:
    from weighbridge.storage.protocol import Checkpoint


class Range(NamedTuple):
    """Entries along an axis, the end not included."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        """How many there are."""
        return self.stop - self.start


def read_block(checkpoint: Checkpoint, key: str, shape: Shape, ranges: Sequence[Range]) -> torch.Tensor:
    """Read a part of a tensor.

    Args:
        checkpoint: What holds it.
        key: Its name.
        shape: Its sizes, of which some may stand for several axes that follow each other.
        ranges: What to read along each of them.

    Raises:
        CheckpointError: The codes of reading.
    """
    code = checkpoint.header[key].dtype
    itemsize = DTYPES[code].itemsize
    raw = torch.empty(prod(each.size for each in ranges) * itemsize, dtype=torch.uint8)
    view = bytes_of(raw)
    places = [(start * itemsize, count * itemsize) for start, count in _runs(shape, ranges)]
    if len(places) == 1:
        checkpoint.read(key, places[0][0], view)
    else:
        read_places(checkpoint, key, places, view)
    return raw.view(dtype_of(code)).view([each.size for each in ranges])


def read_whole(checkpoint: Checkpoint, key: str) -> torch.Tensor:
    """Read a tensor; arguments and errors as for `read_block`."""
    shape = checkpoint.header[key].shape
    return read_block(checkpoint, key, shape, [Range(0, size) for size in shape])


def _runs(shape: Shape, ranges: Sequence[Range]) -> Iterator[tuple[int, int]]:
    """Yield the start and length of each run of elements that follow each other.

    Examples:
        >>> list(_runs((4, 6), [Range(1, 3), Range(2, 5)])), list(_runs((4, 6), [Range(1, 3), Range(0, 6)]))
        ([(8, 3), (14, 3)], [(6, 12)])
    """
    whole = 1
    axes = list(zip(shape, ranges, strict=True))
    while axes and axes[-1][1] == (0, axes[-1][0]):
        whole *= axes.pop()[0]
    if not axes:
        if whole:
            yield 0, whole
        return
    _, (start, stop) = axes.pop()
    stride = whole * (shape[len(axes)])
    offsets = [0]
    for size, outer in reversed(axes):
        offsets = [first * stride + offset for first in range(*outer) for offset in offsets]
        stride *= size
    if stop > start and whole:
        yield from ((offset + start * whole, (stop - start) * whole) for offset in offsets)
