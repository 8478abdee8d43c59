"""Copies between two flat tensors on one device, by strides, and the casts that are done on the way.

A cast of a number beyond the range of its dtype is an error, unless the step's program declares it.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from weighbridge.algebra.copies import Copy
from weighbridge.algebra.sections import sections
from weighbridge.algebra.stitching import is_of_rows
from weighbridge.base.errors import PlanError
from weighbridge.base.specs import largest, may_overflow, spacing

if TYPE_CHECKING:
    import torch

    from weighbridge.planning.steps import Step

SECTION_BYTES: Final = 2**20
"""Size of the buffer that holds a section of a source: it stays in the cache of a core."""

_kept = threading.local()


def scratch(name: str, size_bytes: int = SECTION_BYTES) -> torch.Tensor:
    """Return this thread's buffer for a purpose, of at least a size."""
    import torch

    found: torch.Tensor | None = getattr(_kept, name, None)
    if found is None or found.numel() < size_bytes:
        # Of any mode: it outlives the one that this was called in.
        with torch.inference_mode(False):
            found = torch.empty(size_bytes, dtype=torch.uint8, device="cpu")
        setattr(_kept, name, found)
    return found


GRAIN: Final = 2**15 - 1
"""torch spreads an operation on more elements over threads of its own; here the callers are the threads."""


def copy_strided(buffer: torch.Tensor, source: torch.Tensor, copy: Copy, step: Step | None = None) -> None:
    """Copy between two flat tensors by strides, with a cast where their dtypes differ; in this thread alone.

    Args:
        buffer: What is written; one axis.
        source: What is read; one axis, on the same device.
        copy: The copy, in elements of both.
        step: Which step it is of; needed where the dtypes differ.

    Raises:
        PlanError: `cast-overflow`.
    """
    import torch

    if buffer.dtype == source.dtype == torch.bool:
        # As bytes: torch makes every byte but 0 a 1, which is no exact copy.
        buffer, source = buffer.view(torch.uint8), source.view(torch.uint8)
    if buffer.device.type != "cpu":
        _copy_part(buffer, source, copy, step)
        return
    is_lazy = source.is_conj() or source.is_neg()
    if buffer.dtype == source.dtype and is_run(copy) and not is_lazy:
        _move(buffer, source, copy)
        return
    if buffer.dtype == source.dtype and _is_transposed(copy) and copy.loops[0].target_stride == copy.loops[1].size:
        _copy_transposed(buffer, source, copy)
        return
    most = SECTION_BYTES // max(buffer.element_size(), source.element_size())
    for section in sections(copy, source.numel(), most):
        if buffer.dtype == source.dtype and _is_transposed(section):
            _copy_transposed(buffer, source, section)
            continue
        for part in sections(section, source.numel(), GRAIN):
            _copy_part(buffer, source, part, step)


def is_run(copy: Copy) -> bool:
    """Tell whether a copy moves consecutive elements to consecutive places.

    Examples:
        >>> from weighbridge.algebra.copies import Loop
        >>> is_run(Copy(0, 4, 8, (Loop(6, 1, 1),))), is_run(Copy(0, 0, 0, (Loop(6, 1, 2),)))
        (True, False)
    """
    return not copy.loops or (len(copy.loops) == 1 and copy.loops[0][1:] == (1, 1))


def _move(buffer: torch.Tensor, source: torch.Tensor, copy: Copy) -> None:
    itemsize = buffer.element_size()
    start, origin = (t.data_ptr() + n * itemsize for t, n in ((buffer, copy.target_start), (source, copy.source_start)))
    ctypes.memmove(start, origin, copy.numel * itemsize)


def _copy_part(buffer: torch.Tensor, source: torch.Tensor, copy: Copy, step: Step | None) -> None:
    sizes = [loop.size for loop in copy.loops]
    write = [loop.target_stride for loop in copy.loops]
    read = [loop.source_stride for loop in copy.loops]
    target = buffer.as_strided(sizes, write, buffer.storage_offset() + copy.target_start)
    origin = source.as_strided(sizes, read, source.storage_offset() + copy.source_start)
    target.copy_(origin)
    if buffer.dtype != source.dtype and step is not None and not step.program.overflows:
        check_cast(origin, target, step.targets)


def check_cast(values: torch.Tensor, cast: torch.Tensor, keys: Sequence[str]) -> None:
    """Refuse a cast of a number beyond the range of its dtype, whatever became of it.

    Args:
        values: What was cast.
        cast: What became of it: infinities, for most dtypes; for those of 8 bits, also the largest value, or no number.
        keys: Names of the tensors that it is part of.

    Raises:
        PlanError: `cast-overflow`.
    """
    from weighbridge.storage.formats.torch_tensors import code_of

    source, target = code_of(values.dtype), code_of(cast.dtype)
    if not may_overflow(source, target) or not values.numel():
        return
    values = values if values.element_size() > 1 else values.float()
    limit = largest(target)
    low, high = (float(end) for end in values.aminmax())
    if -limit <= low and high <= limit:  # both are no number where one of the values is none
        return
    wide, made = (tensor if tensor.element_size() > 2 else tensor.float() for tensor in (values, cast))
    within = made.isfinite() & (wide.abs() <= limit + spacing(target) / 2)
    kept = within | wide.isnan() | (wide.isinf() & made.isinf())
    if kept.all():
        return
    raise PlanError(
        "cast-overflow",
        "a value lies beyond the range of the dtype that it is cast to",
        where=", ".join(keys[:3]),
        expected=f"at most {limit:g} in {target}",
        got=f"{float(wide[~kept].abs().max()):g} in {source}",
        hint='keep the tensor in a dtype of a wider range: dtype={"**": ..., KEY: "BF16"} (--dtype KEY=BF16),\n'
        "or declare that such values may become infinite: allow_overflow=True (--allow-overflow)",
    )


def _is_transposed(copy: Copy) -> bool:
    """Tell whether a copy is a transpose that torch does in blocks."""
    return is_of_rows(copy) and copy.numel >= 60 * 60


def _copy_transposed(buffer: torch.Tensor, source: torch.Tensor, copy: Copy) -> None:
    """Transpose a section in a dense buffer, which torch does in blocks, and copy its rows to their places."""
    (columns, _, stride), (rows, _, _) = copy.loops
    origin = source.as_strided((columns, rows), (1, columns), source.storage_offset() + copy.source_start)
    target = buffer.as_strided((columns, rows), (stride, 1), buffer.storage_offset() + copy.target_start)
    if stride == rows:
        target.copy_(origin)
        return
    dense = scratch("transposed")[: copy.numel * buffer.element_size()].view(buffer.dtype).view(columns, rows)
    dense.copy_(origin)
    step = max(1, GRAIN // rows)
    for start in range(0, columns, step):
        target[start : start + step].copy_(dense[start : start + step])
