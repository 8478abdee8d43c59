"""Values of tensors in windows: those that a checkpoint holds, and those that a plan would give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from weighbridge.algebra.layout import Layout, flat
from weighbridge.base.specs import DTYPES, Header, Shape, TensorSpec
from weighbridge.planning.plan import Plan
from weighbridge.planning.program import Output, Program
from weighbridge.planning.steps import Step
from weighbridge.running.execute import Slots, allocate, fill

if TYPE_CHECKING:
    import torch

    from weighbridge.storage.protocol import Checkpoint

WINDOW_NUMEL: Final = 2**19
"""How many elements are read at a time: 4 MiB of the widest dtype, and of what is computed from them."""


class Contents(NamedTuple):
    """The values of one tensor, read window by window.

    Args:
        spec: Dtype and shape. A dtype that packs elements below a byte is read as its bytes, on one axis.
        layout: The copies that give the values.
        slots: What the copies read.
    """

    spec: TensorSpec
    layout: Layout
    slots: Slots

    @property
    def is_packed(self) -> bool:
        """Whether the values are bytes, because torch cannot address the elements."""
        return DTYPES[self.spec.dtype].kind == "packed"

    @property
    def shape(self) -> Shape:
        """Sizes of the axes that are read."""
        return (self.spec.size_bytes,) if self.is_packed else self.layout.shape

    @property
    def numel(self) -> int:
        """Number of values that are read."""
        return self.spec.size_bytes if self.is_packed else self.spec.numel

    def permuted(self, axes: Sequence[int]) -> Contents:
        """Return the same tensor with its axes in another order; nothing is read."""
        layout = self.layout.permute(axes)
        return Contents(TensorSpec(self.spec.dtype, layout.shape), layout, self.slots)

    def sliced(self, axis: int, start: int, stop: int) -> Contents:
        """Return a part of the same tensor, [start, stop) of one axis; nothing is read."""
        layout = self.layout.slice(axis, start, stop)
        return Contents(TensorSpec(self.spec.dtype, layout.shape), layout, self.slots)

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Return the values [start, stop) of the row-major tensor, on one axis and the CPU.

        Raises:
            CheckpointError: The codes of reading.
        """
        from weighbridge.storage.formats.torch_tensors import bytes_of

        buffer = allocate(TensorSpec("U8" if self.is_packed else self.spec.dtype, (stop - start,)))
        if self.is_packed:
            self.slots.checkpoint.read(self.slots.step.sources[0], start, bytes_of(buffer))
        else:
            fill(buffer, flat(self.layout, start, stop), self.slots, self.spec.dtype)
        return buffer

    def windows(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield all values, each window with the number of its first one."""
        for start in range(0, self.numel, WINDOW_NUMEL):
            yield start, self.read(start, min(start + WINDOW_NUMEL, self.numel))


class Side(Protocol):
    """One side of a comparison: specs, and contents by key."""

    @property
    def header(self) -> Header:
        """Specs of all tensors."""

    @property
    def where(self) -> str:
        """What to call it."""

    def contents(self, key: str) -> Contents:
        """Return one tensor's contents; nothing is read yet, but for a plan's temporaries."""


class Held:
    """The side that a checkpoint is.

    Args:
        checkpoint: The opened checkpoint.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.header = checkpoint.header
        self.where = checkpoint.where

    def contents(self, key: str) -> Contents:
        """Return one tensor's contents."""
        program = Program.identity(self.header[key])
        return _contents(program.targets[0], Slots(Step((key,), (key,), program, "carried"), self.checkpoint))


class Planned:
    """The side that a plan would make; nothing is written.

    Args:
        plan: The plan.
        checkpoint: What it reads.
    """

    def __init__(self, plan: Plan, checkpoint: Checkpoint) -> None:
        self.plan = plan
        self.header = plan.target
        self.checkpoint = checkpoint
        self.where = f"{self.checkpoint.where} through {plan.mapping.name or 'the mapping'}, reading: {plan.reading}"
        self._twins = {fated.key: fated.by for fated in plan.tied_targets}
        self._last: tuple[int, Slots] | None = None

    def contents(self, key: str) -> Contents:
        """Return one target's contents; temporaries are kept as long as targets of one step are asked for."""
        target = self._twins.get(key, key)
        number = self.plan.step_of_target[target]
        step = self.plan.steps[number]
        if self._last is None or self._last[0] != number:
            self._last = None
            self._last = number, Slots(step, self.checkpoint)
        return _contents(step.program.targets[step.targets.index(target)], self._last[1])


def _contents(output: Output, slots: Slots) -> Contents:
    return Contents(output.spec, output.layout, slots)
