"""Fill what one rank writes of files that several ranks fill: pieces of tensors, between those of others.

A piece that lies in one run on both sides is written from where the tensor holds it. Others are laid behind each other
in a buffer, and written run by run; where runs are so short that a call for each would take longer than all else, they
are copied by strides to the pages of the file, if the ranks share these.

A page that several ranks write to would go to the disk as often as one of them has forced the file there. So tensors of
short runs are written to all files first, by all ranks in the same order, and forced with the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from weighbridge.algebra.copies import Copy, runs
from weighbridge.algebra.layout import Layout
from weighbridge.algebra.writing_order import chunks, densely
from weighbridge.base.file_sets import FileImage
from weighbridge.base.specs import DTYPES, TensorSpec
from weighbridge.base.workers import Counter, Task, run_all
from weighbridge.planning.plan import Plan
from weighbridge.planning.program import Output
from weighbridge.planning.steps import Step
from weighbridge.running.execute import Slots, WorkerBuffers, copy_from_memory, fill
from weighbridge.running.gather import await_devices
from weighbridge.running.to_files.filled_file import FilledFile

if TYPE_CHECKING:
    import mmap

    import torch

    from weighbridge.storage.outputs.sinks import Sink
    from weighbridge.storage.protocol import Checkpoint

PIECE_BYTES: Final = 32 * 2**20
"""The most that one task writes from where it lies, so that all workers have something to do."""

WINDOW_BYTES: Final = 4 * 2**20
"""The most that is laid in a buffer at once."""

RUN_BYTES: Final = 64 * 1024
"""Runs of at least this many bytes are written from where they lie: a buffer would save few calls."""

SHORT_RUN_BYTES: Final = 4096
"""Runs that are shorter are copied to the file's pages, where that is possible."""


class Filling(NamedTuple):
    """How files are filled.

    Args:
        open_file: Opens a file, to write pieces of it; is told whether pages of it are written to in parts, which it is
            not to force to the disk: it is opened again for the rest.
        map_file: Maps one that was opened; None where its pages are not shared by all who write to it.
        first: Number of the file to begin with, another one for each rank: those who write to one file by calls wait
            for each other.
        workers: How many threads take part.
        share_bytes: The size of the buffer of each.
    """

    open_file: Callable[[FileImage, bool], Sink]
    map_file: Callable[[FileImage], mmap.mmap] | None
    first: int
    workers: int
    share_bytes: int


def fill_pieces(
    plan: Plan,
    steps: Sequence[Step],
    checkpoint: Checkpoint,
    images: Sequence[FileImage],
    how: Filling,
    counter: Counter,
) -> None:
    """Write what some steps write of files, and close the files; those that they write nothing of are not opened.

    Args:
        plan: The whole plan.
        steps: Its steps, each cut to what is written here.
        checkpoint: What they read.
        images: The files, in the same order on all ranks.
        how: How they are.
        counter: Told of each piece that is written.

    Raises:
        PlanError: `cast-overflow`.
        CheckpointError: The codes of reading.
        DestinationError: The codes of writing.
    """
    await_devices(checkpoint)
    run = _Pieces(plan, steps, checkpoint, how, counter)
    turned = (*images[how.first :], *images[: how.first])
    try:
        run_all(run.tasks(turned if how.map_file is None else images, shares_pages=True), how.workers)
        run_all(run.tasks(turned, shares_pages=False), how.workers)
    except BaseException:
        run.abandon()
        raise


def written_bytes(plan: Plan, steps: Sequence[Step]) -> int:
    """Return how many bytes some steps write, tied targets included."""
    twins = [fated.by for fated in plan.tied_targets]
    total = 0
    for step in steps:
        for key, number in step.writes.items():
            output = step.program.targets[number]
            total += _size_bytes(output) * (1 + twins.count(key))
    return total


def _size_bytes(output: Output) -> int:
    return TensorSpec(output.dtype, (sum([copy.numel for copy in output.layout.copies]),)).size_bytes


class _Open(NamedTuple):
    """A file that is being filled, and its pages, if they can be written to."""

    file: FilledFile
    pages: torch.Tensor | None


class _Pieces:
    """One rank's part of a run."""

    def __init__(
        self, plan: Plan, steps: Sequence[Step], checkpoint: Checkpoint, how: Filling, counter: Counter
    ) -> None:
        self.plan = plan
        self.steps = steps
        self.checkpoint = checkpoint
        self.how = how
        self.counter = counter
        self.twins = {fated.key: fated.by for fated in plan.tied_targets}
        self.files: list[FilledFile] = []
        self._buffers = WorkerBuffers()

    def tasks(self, images: Sequence[FileImage], *, shares_pages: bool) -> Iterator[Task]:
        """Yield what there is to do, file by file; drawn by one thread at a time.

        Args:
            images: The files.
            shares_pages: Write the tensors of short runs; or all others, and then force each file to the disk.
        """
        for image in images:
            found = [(*self._made(key), offset) for key, offset, _ in image.tensors]
            own = [(number, output, offset) for number, output, offset in found if output.layout.copies]
            due = [made for made in own if _has_short_runs(made[1]) == shares_pages]
            if not (due if shares_pages else own):
                continue
            opened = self._open(image, shares_pages=shares_pages)
            for number, output, offset in due:
                for size_bytes, write in self._parts(self.steps[number], output, offset, opened):
                    opened.file.expect()
                    yield partial(self._write, size_bytes, write, opened.file)
            yield opened.file.finish

    def _made(self, key: str) -> tuple[int, Output]:
        number = self.plan.step_of_target[self.twins.get(key, key)]
        step = self.steps[number]
        return number, step.program.targets[step.targets.index(self.twins.get(key, key))]

    def _open(self, image: FileImage, *, shares_pages: bool) -> _Open:
        import torch

        file = FilledFile(self.how.open_file(image, shares_pages))
        self.files.append(file)
        mapped = self.how.map_file(image) if self.how.map_file is not None and shares_pages else None
        return _Open(file, None if mapped is None else torch.frombuffer(mapped, dtype=torch.uint8))

    def abandon(self) -> None:
        """Close all files as they are."""
        for file in self.files:
            if file.is_open:
                file.sink.abandon()

    def _write(self, size_bytes: int, write: Callable[[Sink], None], file: FilledFile) -> None:
        import torch

        with torch.no_grad():
            write(file.sink)
        self.counter.add(size_bytes)
        file.finish()

    def _parts(
        self, step: Step, output: Output, offset: int, opened: _Open
    ) -> Iterator[tuple[int, Callable[[Sink], None]]]:
        """Cut what is written of one tensor into parts: the size of each in bytes, and what writes it."""
        if DTYPES[output.dtype].kind == "packed":
            yield output.spec.size_bytes, partial(self._write_packed, step.sources[0], output.spec, offset)
        elif step.program.temporaries:
            yield _size_bytes(output), partial(self._write_staged, step, output, offset)
        else:
            slots = Slots(step, self.checkpoint)
            for copy in output.layout.copies:
                yield from self._parts_of_copy(copy, output.dtype, slots, offset, opened)

    def _parts_of_copy(
        self, copy: Copy, dtype: str, slots: Slots, offset: int, opened: _Open
    ) -> Iterator[tuple[int, Callable[[Sink], None]]]:
        itemsize = DTYPES[dtype].itemsize
        run_bytes = _run_bytes(copy, itemsize)
        source = slots.at_hand(copy.source)
        raw = _raw(source) if source is not None and slots.dtype(copy.source) == dtype else None
        if raw is not None and runs(copy) * itemsize == run_bytes >= min(RUN_BYTES, copy.numel * itemsize):
            for part in chunks(copy, PIECE_BYTES // itemsize):
                yield part.numel * itemsize, partial(_write_runs, part, raw, itemsize, offset)
            return
        pages = _flat_pages(opened.pages, offset, dtype) if run_bytes < SHORT_RUN_BYTES else None
        for part in chunks(copy, max(1, min(WINDOW_BYTES, self.how.share_bytes) // itemsize)):
            size_bytes = part.numel * itemsize
            if pages is not None and source is not None:
                yield size_bytes, partial(self._copy_to_pages, part, pages, source, dtype, slots, offset)
            else:
                yield size_bytes, partial(self._write_window, part, dtype, slots, offset)

    def _copy_to_pages(
        self,
        copy: Copy,
        pages: torch.Tensor,
        source: torch.Tensor,
        dtype: str,
        slots: Slots,
        offset: int,
        sink: Sink,
    ) -> None:
        if not copy_from_memory(pages, copy, source, slots.step):
            self._write_window(copy, dtype, slots, offset, sink)

    def _write_window(self, copy: Copy, dtype: str, slots: Slots, offset: int, sink: Sink) -> None:
        """Lay what a copy writes in this worker's buffer, and write it run by run."""
        from weighbridge.storage.formats.torch_tensors import bytes_of, dtype_of

        dense, places = densely(copy)
        itemsize = DTYPES[dtype].itemsize
        part = self._buffers.take(copy.numel * itemsize).view(dtype_of(dtype))
        fill(part, Layout((copy.numel,), (dense,)), slots, dtype)
        goals = ((offset + start * itemsize, numel * itemsize) for start, numel in places.between(0, copy.numel))
        sink.spread(goals, bytes_of(part))

    def _write_staged(self, step: Step, output: Output, offset: int, sink: Sink) -> None:
        """Write what is made through temporaries, which are held meanwhile."""
        slots = Slots(step, self.checkpoint)
        most = max(1, min(WINDOW_BYTES, self.how.share_bytes) // DTYPES[output.dtype].itemsize)
        for copy in output.layout.copies:
            for part in chunks(copy, most):
                self._write_window(part, output.dtype, slots, offset, sink)

    def _write_packed(self, key: str, spec: TensorSpec, offset: int, sink: Sink) -> None:
        """Write a tensor whose elements are smaller than a byte."""
        for start in range(0, spec.size_bytes, WINDOW_BYTES):
            part = memoryview(bytearray(min(WINDOW_BYTES, spec.size_bytes - start)))
            self.checkpoint.read(key, start, part)
            sink.write(offset + start, part)


def _has_short_runs(output: Output) -> bool:
    itemsize = DTYPES[output.dtype].itemsize
    return any(
        _run_bytes(copy, itemsize) < min(SHORT_RUN_BYTES, copy.numel * itemsize) for copy in output.layout.copies
    )


def _run_bytes(copy: Copy, itemsize: int) -> int:
    """Return how many bytes a copy writes in one run."""
    return densely(copy)[1].numel * itemsize


def _raw(tensor: torch.Tensor) -> memoryview | None:
    """Return a tensor's bytes as they lie, if they lie in a row, each as it is."""
    from weighbridge.storage.formats.tensor_kinds import is_plain
    from weighbridge.storage.formats.torch_tensors import bytes_of

    return bytes_of(tensor) if is_plain(tensor) else None


def _flat_pages(pages: torch.Tensor | None, offset: int, dtype: str) -> torch.Tensor | None:
    """Return the tensor at an offset of a file, as one axis of elements; None where it does not lie at such places."""
    from weighbridge.storage.formats.torch_tensors import dtype_of

    itemsize = DTYPES[dtype].itemsize
    if pages is None or offset % itemsize:
        return None
    return pages[offset : len(pages) - (len(pages) - offset) % itemsize].view(dtype_of(dtype))


def _write_runs(copy: Copy, raw: memoryview, itemsize: int, offset: int, sink: Sink) -> None:
    """Write a copy that has the same runs on both sides from where its source lies."""
    _, targets = densely(copy)
    inner = copy.loops[:-1] if targets.numel > 1 else copy.loops
    reads = targets._replace(start=copy.source_start, loops=inner)
    for (read, numel), (write, _) in zip(reads.between(0, copy.numel), targets.between(0, copy.numel), strict=True):
        sink.write(offset + write * itemsize, raw[read * itemsize : (read + numel) * itemsize])
