"""Write a plan's targets as safetensors files into a new directory that appears whole or not at all."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from weighbridge.copies import Copy
from weighbridge.errors import PlanError
from weighbridge.execute import Slots, allocate, fill, is_direct
from weighbridge.files import FileImage
from weighbridge.layout import windows
from weighbridge.plan import DEFAULT_BUDGET_BYTES, Plan
from weighbridge.program import Output
from weighbridge.receipt import receipt_text
from weighbridge.running import bind, find_origin
from weighbridge.specs import DTYPES, TensorSpec
from weighbridge.storage import IndexText, build_image, copy_extras, parse_size, plan_shards, staged_directory
from weighbridge.storage.protocol import Extent, Extra

if TYPE_CHECKING:
    from weighbridge.storage.file_writer import FileWriter
    from weighbridge.storage.protocol import Checkpoint

Progress = Callable[[int, int], None]
"""Called with the bytes written so far and the bytes in all."""

DIRECT_BYTES = 64 * 1024
"""Runs of at least this many bytes are copied from file to file without a buffer of ours."""


class Files(NamedTuple):
    """The files to write, and their index."""

    images: tuple[FileImage, ...]
    shard_index: IndexText | None


def write(
    plan: Plan,
    destination: str | Path,
    source: Any = None,
    *,
    max_shard_size: int | str | None = "5GB",
    memory_budget: int | str = DEFAULT_BUDGET_BYTES,
    progress: Progress | None = None,
) -> Path:
    """Write a plan's targets.

    The inverse of a plan that was made from safetensors files writes these very files again: names, header text, order
    and index. Other plans write new files under the hub's names, and a receipt that records the plan. Files beside
    the weights are carried along.

    Args:
        plan: The plan.
        destination: Directory to make; it must not exist, or be empty.
        source: What to read, if not what the plan was made on.
        max_shard_size: Largest size of a new shard, in bytes or as text such as ``"5GB"``; None for a single file.
        memory_budget: Size of the buffers that are held at a time, in bytes or as text such as ``"200MB"``.
        progress: Called after each piece with the bytes written so far and the bytes in all.

    Returns:
        The directory.

    Raises:
        PlanError: `source-unbound`, `budget-too-small`.
        CheckpointError: `source-changed` and the codes of reading.
        DestinationError: `destination-exists`, `destination-unsafe`, `destination-no-room`, `write-failed`. Nothing is
            left behind.
    """
    checkpoint = bind(plan, source)
    files = lay_out(plan, max_shard_size)
    receipt = b"" if plan.target_files is not None else receipt_text(plan, checkpoint)
    total = sum(image.size_bytes for image in files.images)
    origin = (None if checkpoint.extras else find_origin(plan)) or checkpoint
    places = [place for place in (checkpoint.where, origin.where) if Path(place).exists()]
    with staged_directory(destination, sources=places, needed_bytes=total + len(receipt)) as output:
        run = _Run(plan, checkpoint, parse_size(memory_budget), progress, plan.target.size_bytes)
        for image in files.images:
            with output.create(image) as writer:
                run.fill_file(writer, image)
        copy_extras(_extras(origin, is_read=origin is checkpoint), output.path)
        checkpoint.check_unchanged()
        if files.shard_index is not None:
            output.add_index(files.shard_index)
        if receipt:
            output.add_receipt(receipt)
    made = Path(destination).absolute()
    plan.binding.produced = lambda: made
    return made


def _extras(origin: Checkpoint, *, is_read: bool) -> tuple[Extra, ...]:
    """Return the files to carry along; those beside a model's original weights that are gone by now are left out."""
    there = tuple(extra for extra in origin.extras if is_read or extra.path.is_file())
    gone = [extra.name for extra in origin.extras if extra not in there]
    if gone:
        logging.getLogger("weighbridge").warning("not there any more, so not written: %s", ", ".join(gone))
    return there


def lay_out(plan: Plan, max_shard_size: int | str | None) -> Files:
    """Decide which files hold which tensors, and where.

    Raises:
        CheckpointError: `header-invalid`, `header-too-large`.
        DestinationError: `usage` for a size that cannot be read.
    """
    recorded = plan.target_files
    if recorded is not None:
        index = IndexText(recorded.index_name, recorded.index_text) if recorded.index_name else None
        return Files(recorded.images, index)
    specs = dict(sorted(plan.target.specs.items()))
    shards = plan_shards(specs, max_shard_size)
    metadata = dict(plan.metadata) or {"format": "pt"}
    shares = {name: {key: specs[key] for key in keys} for name, keys in shards.files.items()}
    return Files(tuple(build_image(name, share, metadata) for name, share in shares.items()), shards.index)


class _Run:
    """One run of a plan into files."""

    def __init__(
        self, plan: Plan, checkpoint: Checkpoint, budget: int, progress: Progress | None, total_bytes: int
    ) -> None:
        self.plan = plan
        self.checkpoint = checkpoint
        self.budget = budget
        self.progress = progress
        self.total_bytes = total_bytes
        self.done_bytes = 0
        self.twins = {fated.key: fated.by for fated in plan.tied_targets}
        self.last: tuple[int, Slots] | None = None

    def fill_file(self, writer: FileWriter, image: FileImage) -> None:
        """Write every tensor of one file at its place."""
        for key, offset, _ in image.tensors:
            target = self.twins.get(key, key)
            number = self.plan.step_of_target[target]
            step = self.plan.steps[number]
            output = step.program.targets[step.targets.index(target)]
            self._fill_tensor(writer, offset, output, self._slots(number))

    def _advance(self, size_bytes: int) -> None:
        self.done_bytes += size_bytes
        if self.progress is not None:
            self.progress(self.done_bytes, self.total_bytes)

    def _slots(self, number: int) -> Slots:
        """Return what a step reads; temporaries are kept as long as the step's targets follow each other."""
        if self.last is None or self.last[0] != number:
            self.last = None
            self.last = number, Slots(self.plan.steps[number], self.checkpoint)
        return self.last[1]

    def _fill_tensor(self, writer: FileWriter, offset: int, output: Output, slots: Slots) -> None:
        spec = output.spec
        if spec.size_bytes == 0:
            return
        if self._is_kernel_work(output, slots):
            for copy in output.layout.copies:
                self._copy_run(writer, offset, copy, spec, slots)
            return
        if DTYPES[spec.dtype].kind == "packed":
            self._copy_packed(writer, offset, spec, slots)
            return
        self._copy_windows(writer, offset, output, slots)

    def _is_kernel_work(self, output: Output, slots: Slots) -> bool:
        """Tell whether all of a tensor's bytes lie in files, in runs that are worth copying one by one."""
        itemsize = DTYPES[output.dtype].bits
        if itemsize % 8:
            return False
        return all(
            is_direct(copy, slots, output.dtype)
            and (copy.numel * itemsize >= 8 * DIRECT_BYTES or len(output.layout.copies) == 1)
            and self.checkpoint.extent(slots.step.sources[copy.source]) is not None
            for copy in output.layout.copies
        )

    def _copy_run(self, writer: FileWriter, offset: int, copy: Copy, spec: TensorSpec, slots: Slots) -> None:
        itemsize = DTYPES[spec.dtype].bits // 8
        extent = self.checkpoint.extent(slots.step.sources[copy.source])
        assert extent is not None
        size_bytes = copy.numel * itemsize
        start = extent.offset + copy.source_start * itemsize
        writer.copy_range(Extent(extent.path, start, size_bytes), offset + copy.target_start * itemsize)
        self._advance(size_bytes)

    def _copy_packed(self, writer: FileWriter, offset: int, spec: TensorSpec, slots: Slots) -> None:
        """Move the bytes of a tensor whose elements are smaller than a byte."""
        window = bytearray(min(self.budget, spec.size_bytes))
        for start in range(0, spec.size_bytes, len(window)):
            part = memoryview(window)[: spec.size_bytes - start]
            slots.checkpoint.read(slots.step.sources[0], start, part)
            writer.write(offset + start, part)
            self._advance(len(part))

    def _copy_windows(self, writer: FileWriter, offset: int, output: Output, slots: Slots) -> None:
        """Build a tensor window by window in one buffer, and write each window."""
        from weighbridge.storage.torch_tensors import bytes_of

        itemsize = DTYPES[output.dtype].bits // 8
        window_numel = min(output.spec.numel, self.budget // itemsize)
        if window_numel < 1:
            raise PlanError("budget-too-small", "the budget does not hold one element", got=f"{self.budget} bytes")
        buffer = allocate(TensorSpec(output.dtype, (window_numel,)))
        position = 0
        for window in windows(output.layout, window_numel):
            part = buffer[: window.numel]
            fill(part, window, slots, output.dtype)
            writer.write(offset + position * itemsize, bytes_of(part))
            position += window.numel
            self._advance(window.numel * itemsize)
