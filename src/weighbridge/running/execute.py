"""The engine: run a step's copies, from where the source's bytes lie to where the target's bytes belong.

Each copy goes straight to its final place. Runs that are contiguous on both sides and keep their dtype are read from
the file into that place; all others go through a small buffer that holds a section of the source, from which they are
copied by strides, with a cast where dtypes differ. torch is imported when the first tensor is made: a conversion that
only moves runs of bytes does without it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Final

from weighbridge.algebra.copies import Copy, Loop
from weighbridge.algebra.layout import Layout
from weighbridge.algebra.rereading import reread
from weighbridge.algebra.sections import close_gaps, reach, sections
from weighbridge.algebra.stitching import side_by_side
from weighbridge.base.errors import LayoutError, PlanError
from weighbridge.base.forms.elements import Constant
from weighbridge.base.specs import DTYPES, TensorSpec
from weighbridge.planning.program import Output
from weighbridge.planning.steps import Step
from weighbridge.running.strided import SECTION_BYTES, copy_strided, is_run, scratch
from weighbridge.storage.protocol import is_read, read_places

if TYPE_CHECKING:
    import torch

    from weighbridge.storage.protocol import Checkpoint

FAR_BYTES: Final = 16 * 1024
"""Pieces of a source that lie this far apart are read by a call each; to read what is between them takes longer."""

HUGE_BYTES: Final = 4 * 2**20
"""Tensors of at least this size may be backed with huge pages, where these are found to be faster."""


def allocate(spec: TensorSpec, device: torch.device | str = "cpu") -> torch.Tensor:
    """Allocate a tensor of a spec, without setting its values; raw bytes for dtypes that torch does not have.

    Raises:
        PlanError: `budget-too-small` for one that the machine's memory does not hold.
    """
    import torch

    from weighbridge.storage.formats.torch_tensors import torch_layout
    from weighbridge.storage.places.huge_pages import advise_huge

    dtype, shape = torch_layout(spec) or (torch.uint8, (spec.size_bytes,))
    try:
        tensor = torch.empty(shape, dtype=dtype, device=device)
    except RuntimeError:
        if str(device) != "cpu":
            raise
        what, expected = "there is not enough memory for this tensor", f"{spec.size_bytes:,} bytes for {spec}"
        hint = "write it to files, which needs no more than the budget: plan.write(out)"
        raise PlanError("budget-too-small", what, expected=expected, hint=hint) from None
    if tensor.device.type == "cpu" and spec.size_bytes >= HUGE_BYTES:
        advise_huge(tensor.data_ptr(), spec.size_bytes)
    return tensor


class WorkerBuffers:
    """Memory that each worker keeps from one window to the next."""

    def __init__(self) -> None:
        self._kept = threading.local()

    def take(self, size_bytes: int) -> torch.Tensor:
        """Return this worker's buffer of so many bytes; its content is that of the last window."""
        kept: torch.Tensor | None = getattr(self._kept, "buffer", None)
        if kept is None or kept.numel() < size_bytes:
            self._kept.buffer = None
            kept = self._kept.buffer = allocate(TensorSpec("U8", (size_bytes,)))
        return kept[:size_bytes]


class Slots:
    """The values that a step's copies read: the sources as they lie, and the constants and the temporaries."""

    def __init__(self, step: Step, checkpoint: Checkpoint) -> None:
        self.step = step
        self.checkpoint = checkpoint
        self._held: list[torch.Tensor | None] = [
            constant_tensor(constant) if constant.element else None for constant in step.program.constants
        ]
        self._found: dict[int, torch.Tensor | None] = {}
        self._lock = threading.Lock()
        for output in step.program.temporaries:
            self._held.append(make(output, self).view(-1))

    def key(self, slot: int) -> str | None:
        """Return the source key of a slot; None for a constant or a temporary."""
        return self.step.sources[slot] if slot < len(self.step.sources) else None

    def dtype(self, slot: int) -> str:
        """Return the dtype code of a slot."""
        return self.step.program.dtype(slot)

    def at_hand(self, slot: int) -> torch.Tensor | None:
        """Return a slot's elements where they lie in the CPU's memory, by any strides; None where they must be read."""
        key = self.key(slot)
        if key is None:
            held = self._held[slot - len(self.step.sources)]
            if held is None:
                raise left_to_model(self.step.targets[0])
            return held
        with self._lock:
            if slot not in self._found:
                self._found[slot] = self._find(key)
            return self._found[slot]

    def _find(self, key: str) -> torch.Tensor | None:
        if is_read(self.checkpoint, key):
            return None
        tensor = self.checkpoint.tensor(key).detach()
        return tensor if tensor.device.type == "cpu" else None


def left_to_model(key: str) -> PlanError:
    """Make the error for rows that are to stay as a model has them, where there is no model."""
    return PlanError(
        "target-missing",
        "part of this target is to stay as the model has it, and here is no model",
        where=key,
        hint="load into a model that has values: plan.load_into(model), or declare a value for these rows",
    )


def constant_tensor(constant: Constant) -> torch.Tensor:
    """Return a constant as a tensor of one axis, all of whose elements lie in the place of one."""
    import torch

    from weighbridge.storage.formats.torch_tensors import dtype_of

    element = torch.frombuffer(bytearray(constant.element), dtype=dtype_of(constant.spec.dtype))
    return element.expand(constant.spec.numel)


def is_at_hand(checkpoint: Checkpoint, key: str) -> bool:
    """Tell whether a tensor lies dense in the CPU's memory, so that parts of it cost nothing to take.

    Raises:
        CheckpointError: The codes of reading.
    """
    if is_read(checkpoint, key):
        return False
    from weighbridge.storage.formats.tensor_kinds import is_plain

    return is_plain(checkpoint.tensor(key))


def fill(buffer: torch.Tensor, layout: Layout, slots: Slots, dtype: str) -> None:
    """Run all copies of a layout, or of a window of one.

    Args:
        buffer: The flat value, on the CPU; one axis, of the layout's number of elements.
        layout: The copies.
        slots: What they read.
        dtype: Dtype code of the value.
    """
    if not layout.copies:
        return
    if DTYPES[dtype].kind == "packed":
        _read_whole(buffer, slots)
        return
    together, alone = columns(layout.copies, slots.step, dtype)
    for group in together:
        copy_stitched(buffer, group, slots)
    for copy in alone:
        run_copy(buffer, copy, slots, dtype)


def fill_reads(copies: Sequence[Copy], step: Step, dtype: str) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Tell what `fill` reads of sources that lie in files.

    Args:
        copies: The copies.
        step: Which step they are of.
        dtype: Dtype code of the value that they write.

    Yields:
        A source's slot, and the places of it that are read by one call, each a start and a size in bytes.
    """
    itemsize = DTYPES[dtype].itemsize
    if copies and DTYPES[dtype].kind == "packed":
        yield 0, [(0, step.program.sources[0].size_bytes)]
        return
    together, alone = columns(copies, step, dtype)
    for copy in chain.from_iterable(together):
        yield copy.source, [(copy.source_start * itemsize, copy.numel * itemsize)]
    for copy in alone:
        own = step.program.dtype(copy.source)
        if copy.source < len(step.sources) and own == dtype and is_run(copy):
            yield copy.source, [(copy.source_start * itemsize, copy.numel * itemsize)]
        elif copy.source < len(step.sources):
            yield from ((copy.source, places) for _, places in section_reads(copy, DTYPES[own].itemsize))


MANY_COPIES: Final = 16
"""From how many copies on it is worth looking for those that can be run as one."""


def columns(copies: Sequence[Copy], step: Step, dtype: str) -> tuple[list[tuple[Copy, ...]], Sequence[Copy]]:
    """Find columns that are read as they lie, and written side by side: a call for each would take far longer."""
    if len(copies) < MANY_COPIES:
        return [], copies
    fits = [copy.source < len(step.sources) and step.program.dtype(copy.source) == dtype for copy in copies]
    fitting = [copy for copy, is_fit in zip(copies, fits, strict=True) if is_fit]
    others = [copy for copy, is_fit in zip(copies, fits, strict=True) if not is_fit]
    groups, left = side_by_side(fitting, SECTION_BYTES // DTYPES[dtype].itemsize)
    return groups, [*left, *others]


def run_copy(buffer: torch.Tensor, copy: Copy, slots: Slots, dtype: str) -> None:
    """Run one copy of a layout; arguments as for `fill`."""
    from weighbridge.storage.formats.torch_tensors import bytes_of

    source = slots.at_hand(copy.source)
    if source is not None and copy_from_memory(buffer, copy, source, slots.step):
        return
    if is_run(copy) and slots.dtype(copy.source) == dtype and slots.key(copy.source) is not None:
        _read_run(bytes_of(buffer), copy, slots, buffer.element_size())
    else:
        copy_by_sections(buffer, copy, slots)


def copy_from_memory(buffer: torch.Tensor, copy: Copy, source: torch.Tensor, step: Step) -> bool:
    """Run one copy of a tensor that lies in the CPU's memory, by whatever strides; nothing of it is copied before.

    Args:
        buffer: The flat value that the copy writes to.
        copy: The copy.
        source: The tensor.
        step: Which step it is of.

    Returns:
        Whether that was done: what falls into too many pieces is left to be read.
    """
    from weighbridge.storage.formats.tensor_kinds import span_numel

    if not source.is_contiguous():
        try:
            parts = reread(copy, source.shape, source.stride())
        except LayoutError:
            return False
        flat = source.as_strided((span_numel(source),), (1,))
    else:
        parts, flat = (copy,), source.view(-1)
    for part in parts:
        copy_strided(buffer, flat, part, step)
    return True


def _read_whole(buffer: torch.Tensor, slots: Slots) -> None:
    from weighbridge.storage.formats.torch_tensors import bytes_of

    slots.checkpoint.read(slots.step.sources[0], 0, bytes_of(buffer))


def _read_run(raw: memoryview, copy: Copy, slots: Slots, itemsize: int) -> None:
    start, size = copy.target_start * itemsize, copy.numel * itemsize
    slots.checkpoint.read(slots.step.sources[copy.source], copy.source_start * itemsize, raw[start : start + size])


def copy_by_sections(buffer: torch.Tensor, copy: Copy, slots: Slots) -> None:
    """Run one copy of a source that is read, section by section.

    A file is never mapped for it: one that is cut short meanwhile is an error, and not the end of the process. A tensor
    that lies in memory by strides is never copied whole.

    Args:
        buffer: The flat value that the copy writes to.
        copy: The copy.
        slots: What it reads.
    """
    from weighbridge.storage.formats.torch_tensors import bytes_of, dtype_of

    dtype = dtype_of(slots.dtype(copy.source))
    key = slots.step.sources[copy.source]
    for section, places in section_reads(copy, dtype.itemsize):
        raw = scratch("section")[: reach(section) * dtype.itemsize]
        read_places(slots.checkpoint, key, places, bytes_of(raw))
        copy_strided(buffer, raw.view(dtype), section._replace(source_start=0), slots.step)


def section_reads(copy: Copy, itemsize: int) -> Iterator[tuple[Copy, list[tuple[int, int]]]]:
    """Cut a copy into sections; what lies close together is read with what is between.

    Args:
        copy: The copy.
        itemsize: Size of an element of its source, in bytes.

    Yields:
        A section, and the places of the source that are read for it, each a start and a size in bytes.
    """
    most = SECTION_BYTES // itemsize
    whole, pieces = close_gaps(copy, FAR_BYTES // itemsize)
    for section in sections(whole, most, most):
        start = section.source_start
        between = pieces.between(start, start + reach(section))
        yield section, [(first * itemsize, count * itemsize) for first, count in between]


def copy_side_by_side(parts: Sequence[tuple[torch.Tensor, Copy]], start: int, numel: int, slots: Slots) -> None:
    """Read a section of a source once, for all copies that read from it.

    Args:
        parts: Each flat value that is written to, with its copy, whose source is the section.
        start: The section's first element.
        numel: Its length.
        slots: What is read; all copies read from one slot.
    """
    from weighbridge.storage.formats.torch_tensors import bytes_of, dtype_of

    number = parts[0][1].source
    dtype = dtype_of(slots.dtype(number))
    raw = scratch("section", numel * dtype.itemsize)[: numel * dtype.itemsize]
    slots.checkpoint.read(slots.step.sources[number], start * dtype.itemsize, bytes_of(raw))
    for buffer, copy in parts:
        copy_strided(buffer, raw.view(dtype), copy, slots.step)


def copy_stitched(buffer: torch.Tensor, copies: Sequence[Copy], slots: Slots) -> None:
    """Run copies of `stitched` or `side_by_side` as one: their sources are laid one after the other, and transposed.

    Args:
        buffer: The flat value that the copies write to.
        copies: The copies, in the order of their targets.
        slots: What they read.
    """
    from weighbridge.storage.formats.torch_tensors import bytes_of, dtype_of

    dtype = dtype_of(slots.dtype(copies[0].source))
    numel = sum(copy.numel for copy in copies)
    raw = scratch("stitched", numel * dtype.itemsize)[: numel * dtype.itemsize]
    view, done = bytes_of(raw), 0
    for copy in copies:
        size_bytes = copy.numel * dtype.itemsize
        key = slots.step.sources[copy.source]
        slots.checkpoint.read(key, copy.source_start * dtype.itemsize, view[done : done + size_bytes])
        done += size_bytes
    columns, stride = copies[0].loops[0].size, copies[0].loops[0].target_stride
    loops = Loop(columns, 1, stride), Loop(numel // columns, columns, 1)
    copy_strided(buffer, raw.view(dtype), Copy(0, 0, copies[0].target_start, loops), slots.step)


def run_target(step: Step, number: int, checkpoint: Checkpoint) -> torch.Tensor:
    """Return one target of a step, by its number, in memory of its own."""
    return make(step.program.targets[number], Slots(step, checkpoint))


def is_whole(output: Output) -> bool:
    """Tell whether copies write all of an output; what they leave out of a model's tensor is the model's own."""
    return sum([copy.numel for copy in output.layout.copies]) == output.layout.numel


def make(output: Output, slots: Slots) -> torch.Tensor:
    """Return what a step writes as one output, in memory of its own."""
    tensor = allocate(output.spec)
    fill(tensor.view(-1), output.layout, slots, output.dtype)
    return tensor


def run_step(step: Step, checkpoint: Checkpoint) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the targets of one step, each in memory of its own."""
    slots = Slots(step, checkpoint)
    for key, number in step.writes.items():
        yield key, make(step.program.targets[number], slots)
