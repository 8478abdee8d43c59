"""The engine: run a step's copies, from where the source's bytes lie to where the target's bytes belong.

Each copy goes straight to its final place. Runs that are contiguous on both sides and keep their dtype are read from
the file into that place; all others are strided copies by torch between two views, with a cast where dtypes differ.
torch is imported when the first tensor is made: a conversion that only moves runs of bytes does without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from weighbridge.copies import Copy
from weighbridge.layout import Layout
from weighbridge.plan import Step
from weighbridge.program import Output
from weighbridge.specs import DTYPES, TensorSpec

if TYPE_CHECKING:
    import torch

    from weighbridge.storage.protocol import Checkpoint


def allocate(spec: TensorSpec) -> torch.Tensor:
    """Allocate a CPU tensor of a spec, without setting its values; raw bytes for dtypes that torch does not have."""
    import torch

    from weighbridge.storage.torch_tensors import torch_layout

    layout = torch_layout(spec)
    if layout is None:
        return torch.empty(spec.size_bytes, dtype=torch.uint8)
    dtype, shape = layout
    return torch.empty(shape, dtype=dtype)


class Slots:
    """The values that a step's copies read: the sources as they lie, and the temporaries."""

    def __init__(self, step: Step, checkpoint: Checkpoint) -> None:
        self.step = step
        self.checkpoint = checkpoint
        self.temporaries: list[torch.Tensor] = []
        self._flat: dict[int, torch.Tensor] = {}
        for output in step.program.temporaries:
            self.temporaries.append(make(output, self).view(-1))

    def key(self, slot: int) -> str | None:
        """Return the source key of a slot; None for a temporary."""
        return self.step.sources[slot] if slot < len(self.step.sources) else None

    def dtype(self, slot: int) -> str:
        """Return the dtype code of a slot."""
        return self.step.program.slots[slot].dtype

    def flat(self, slot: int) -> torch.Tensor:
        """Return a slot's elements in row-major order, on one axis."""
        key = self.key(slot)
        if key is None:
            return self.temporaries[slot - len(self.step.sources)]
        if slot not in self._flat:
            self._flat[slot] = self.checkpoint.tensor(key).detach().to("cpu").contiguous().view(-1)
        return self._flat[slot]


def fill(buffer: torch.Tensor, layout: Layout, slots: Slots, dtype: str) -> None:
    """Run all copies of a layout, or of a window of one.

    Args:
        buffer: The flat value, on the CPU; one axis, of the layout's number of elements.
        layout: The copies.
        slots: What they read.
        dtype: Dtype code of the value.
    """
    from weighbridge.storage.torch_tensors import bytes_of

    if not layout.copies:
        return
    if DTYPES[dtype].kind == "packed":
        _read_whole(buffer, slots)
        return
    raw = bytes_of(buffer)
    for copy in layout.copies:
        if is_direct(copy, slots, dtype):
            _read_run(raw, copy, slots, buffer.element_size())
            continue
        _copy_strided(buffer, slots.flat(copy.source), copy)


def is_direct(copy: Copy, slots: Slots, dtype: str) -> bool:
    """Tell whether a copy is one run of bytes that can be read from a file as it is."""
    key = slots.key(copy.source)
    plain = not copy.loops or (len(copy.loops) == 1 and copy.loops[0][1:] == (1, 1))
    if not plain or key is None or slots.dtype(copy.source) != dtype:
        return False
    return slots.checkpoint.extent(key) is not None


def _read_whole(buffer: torch.Tensor, slots: Slots) -> None:
    from weighbridge.storage.torch_tensors import bytes_of

    slots.checkpoint.read(slots.step.sources[0], 0, bytes_of(buffer))


def _read_run(raw: memoryview, copy: Copy, slots: Slots, itemsize: int) -> None:
    start, size = copy.target_start * itemsize, copy.numel * itemsize
    slots.checkpoint.read(slots.step.sources[copy.source], copy.source_start * itemsize, raw[start : start + size])


def _copy_strided(buffer: torch.Tensor, source: torch.Tensor, copy: Copy) -> None:
    sizes = [loop.size for loop in copy.loops]
    target = buffer.as_strided(
        sizes, [loop.target_stride for loop in copy.loops], buffer.storage_offset() + copy.target_start
    )
    origin = source.as_strided(
        sizes, [loop.source_stride for loop in copy.loops], source.storage_offset() + copy.source_start
    )
    target.copy_(origin)


def run_target(step: Step, number: int, checkpoint: Checkpoint) -> torch.Tensor:
    """Return one target of a step, by its number, in memory of its own."""
    return make(step.program.targets[number], Slots(step, checkpoint))


def make(output: Output, slots: Slots) -> torch.Tensor:
    """Return what a step writes as one output, in memory of its own."""
    tensor = allocate(output.spec)
    fill(tensor.view(-1), output.layout, slots, output.dtype)
    return tensor


def run_step(step: Step, checkpoint: Checkpoint) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the targets of one step, each in memory of its own."""
    slots = Slots(step, checkpoint)
    for key, output in zip(step.targets, step.program.targets, strict=True):
        yield key, make(output, slots)
