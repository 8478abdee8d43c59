"""Transpose what is much larger than the budget, square by square.

A window of the target is a few of its rows, and so a few columns of the source: pieces of a few hundred bytes, and each
page of the source is read many times. A square reads longer runs, and writes runs as long.
"""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING

from weighbridge.algebra.copies import Copy, Loop
from weighbridge.algebra.squares import Square, is_transpose
from weighbridge.base.specs import DTYPES
from weighbridge.planning.program import Output
from weighbridge.planning.steps import Step
from weighbridge.running.budgets import SHORT_RUN_BYTES
from weighbridge.running.strided import copy_strided
from weighbridge.storage.protocol import FileReader

if TYPE_CHECKING:
    import torch

    from weighbridge.storage.outputs.sinks import Sink
    from weighbridge.storage.protocol import Checkpoint


def square_numel(output: Output, share_bytes: int) -> int:
    """Return how many elements a square may have: it is held twice, as it is read and as it is written."""
    return max(1, share_bytes // (2 * DTYPES[output.dtype].itemsize))


def is_squared(output: Output, step: Step, checkpoint: Checkpoint, share_bytes: int, window_numel: int) -> bool:
    """Tell whether a tensor is better made square by square than window by window.

    Args:
        output: What is made.
        step: The step that makes it.
        checkpoint: What is read.
        share_bytes: The most that a worker may hold.
        window_numel: How many elements a window would have.
    """
    if not isinstance(checkpoint, FileReader) or output.spec.size_bytes <= share_bytes:
        return False
    side = isqrt(square_numel(output, share_bytes))
    most = min(side, SHORT_RUN_BYTES // DTYPES[output.dtype].itemsize)
    return all(
        is_transpose(copy)
        and copy.source < len(step.sources)
        and step.program.sources[copy.source].dtype == output.dtype
        and window_numel // max(loop.target_stride for loop in copy.loops if loop.source_stride == 1) < most
        for copy in output.layout.copies
    )


def write_square(
    square: Square,
    key: str,
    checkpoint: FileReader,
    buffers: tuple[torch.Tensor, torch.Tensor],
    offset: int,
    sink: Sink,
) -> None:
    """Read a square's rows, transpose them, and write the rows that they become.

    Args:
        square: The square.
        key: The tensor that is read.
        checkpoint: What it is in.
        buffers: Two flat tensors of the square's size.
        offset: Where the target begins in the file, in bytes.
        sink: The file.
    """
    from weighbridge.storage.formats.torch_tensors import bytes_of

    read, turned = (buffer[: square.numel] for buffer in buffers)
    itemsize, run = read.element_size(), square.columns * read.element_size()
    starts = (square.source_start + row * square.source_stride for row in range(square.rows))
    checkpoint.collect(key, [(start * itemsize, run) for start in starts], bytes_of(read))
    copy_strided(
        turned, read, Copy(0, 0, 0, (Loop(square.columns, 1, square.rows), Loop(square.rows, square.columns, 1)))
    )
    starts = (square.target_start + column * square.target_stride for column in range(square.columns))
    sink.spread([(offset + start * itemsize, square.rows * itemsize) for start in starts], bytes_of(turned))
