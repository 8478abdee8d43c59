"""Fill new files with a plan's targets: several pieces at a time, in buffers that keep within a budget.

A tensor whose bytes lie in files, in runs worth a call each, is moved by the kernel. All others are built window by
window, each worker in a buffer of its own, and written at their place. A file is closed as soon as its last piece is
there, so that the disk works on it while the next one is filled.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Final

from weighbridge.algebra.copies import Copy
from weighbridge.algebra.layout import Layout, windows
from weighbridge.algebra.squares import Square
from weighbridge.base.file_sets import FileImage
from weighbridge.base.forms.elements import Constant
from weighbridge.base.specs import DTYPES, TensorSpec
from weighbridge.base.workers import Counter, Task, run_all
from weighbridge.planning.plan import Plan
from weighbridge.planning.program import Output, Program
from weighbridge.planning.steps import Step
from weighbridge.running.budgets import WINDOW_BYTES, is_in_runs, share_out, window_numel
from weighbridge.running.execute import Slots, WorkerBuffers, fill, fill_reads
from weighbridge.running.gather import await_devices
from weighbridge.running.strided import is_run
from weighbridge.running.to_files.file_parts import Build, Move, Part, Reads, regroup_moves, together
from weighbridge.running.to_files.filled_file import FilledFile
from weighbridge.running.transposing import Room, cut_squares, is_squared, square_places, write_square
from weighbridge.storage.protocol import FileReader, pace_of, pieces_of

if TYPE_CHECKING:
    import torch

    from weighbridge.storage.outputs.sinks import Sink
    from weighbridge.storage.protocol import Checkpoint

PIECE_BYTES: Final = 32 * 2**20
"""The most that the kernel is asked to copy at once, so that all workers have something to do."""

FILES_AT_ONCE: Final = 2
"""How many files are filled side by side."""


def fill_files(
    plan: Plan,
    checkpoint: Checkpoint,
    images: Sequence[FileImage],
    create: Callable[[FileImage], Sink],
    *,
    budget_bytes: int,
    counter: Counter,
    in_order: bool = False,
) -> None:
    """Write every tensor of some files at its place, and close the files.

    Args:
        plan: The plan.
        checkpoint: What it reads.
        images: The files.
        create: Makes the file of an image; called when its first piece is due.
        budget_bytes: The most that all windows may hold together.
        counter: Told of each piece that is written.
        in_order: Write each file from its beginning to its end, as far as several workers do, and no tensor twice over.

    Raises:
        PlanError: `budget-too-small`.
        CheckpointError: The codes of reading.
        DestinationError: The codes of writing. Files that are open then are left to their owner, closed.
    """
    await_devices(checkpoint)
    run = Filling(plan, checkpoint, create, budget_bytes, counter, in_order=in_order)
    try:
        run_all(run.tasks(images), run.workers_for(len(images)))
    except BaseException:
        run.abandon()
        raise


def in_turn(streams: Iterator[Iterator[Task]], count: int) -> Iterator[Task]:
    """Yield tasks of several streams, one of each in turn; where a stream ends, the next one comes in.

    Args:
        streams: The streams.
        count: How many of them take turns.

    Examples:
        >>> told: list[str] = []
        >>> streams = ([partial(told.append, letter) for letter in word] for word in ("abc", "x", "yz"))
        >>> for task in in_turn(map(iter, streams), 2):
        ...     task()
        >>> "".join(told)
        'axbcyz'
    """
    begun = deque(islice(streams, count))
    while begun:
        stream = begun.popleft()
        task = next(stream, None)
        if task is None:
            begun.extend(islice(streams, 1))
        else:
            begun.append(stream)
            yield task


class Filling:
    """One run of a plan into files."""

    def __init__(
        self,
        plan: Plan,
        checkpoint: Checkpoint,
        create: Callable[[FileImage], Sink],
        budget_bytes: int,
        counter: Counter,
        *,
        in_order: bool,
    ) -> None:
        self.plan = plan
        self.checkpoint = checkpoint
        self.create = create
        self.counter = counter
        self.workers, self.share_bytes = share_out(budget_bytes, checkpoint)
        self.in_order = in_order
        is_staged = any(step.program.temporaries for step in plan.steps)
        if in_order and is_staged:
            self.workers = 1  # steps with temporaries take turns, and might take them in another order
        pace = pace_of(checkpoint)
        self.files_at_once = 1 if in_order or is_staged or pace is not None else FILES_AT_ONCE
        self.piece_bytes = PIECE_BYTES if pace is None else pace.range_bytes
        self.twins = {fated.key: fated.by for fated in plan.tied_targets}
        self.files: list[FilledFile] = []
        self._staging = threading.Lock()
        self._staged: tuple[int, Slots] | None = None
        self._buffers = WorkerBuffers()

    def workers_for(self, files: int) -> int:
        """Return how many workers fill so many files.

        Where bytes only move, one writes to a file while another one reads; a third would but wait for them.
        """
        only_moves = pace_of(self.checkpoint) is None and all(map(_is_moved, self.plan.programs))
        return max(1, min(self.workers, 2 * files)) if only_moves else self.workers

    def tasks(self, images: Sequence[FileImage]) -> Iterator[Task]:
        """Yield what there is to do, in the order of the files; drawn by one thread at a time.

        Those who write to one file wait for each other, so that several files are filled side by side.
        """
        yield from in_turn(map(self._tasks_of, images), self.files_at_once)

    def _tasks_of(self, image: FileImage) -> Iterator[Task]:
        file = FilledFile(self.create(image))
        self.files.append(file)
        for part in self.parts(image):
            file.expect()
            yield partial(self._write, part, file)
        yield file.finish

    def parts(self, image: FileImage) -> Iterator[Part]:
        """Cut the work on one file into parts."""
        parts = chain.from_iterable(self._parts(key, offset) for key, offset, _ in image.tensors)
        regrouped = regroup_moves(parts, self.piece_bytes)
        return regrouped if self.in_order else together(regrouped, self.piece_bytes)

    def abandon(self) -> None:
        """Close all files as they are."""
        for file in self.files:
            if file.is_open:
                file.sink.abandon()

    def _write(self, part: Part, file: FilledFile) -> None:
        part.write(file.sink)
        self.counter.add(part.size_bytes)
        file.finish()

    def _parts(self, key: str, offset: int) -> Iterator[Move | Build]:
        """Cut the work on one tensor into parts."""
        target = self.twins.get(key, key)
        number = self.plan.step_of_target[target]
        step = self.plan.steps[number]
        output = step.program.targets[step.targets.index(target)]
        if output.spec.size_bytes == 0:
            return
        if DTYPES[output.dtype].kind == "packed":
            yield from self._packed(offset, output.spec, step.sources[0])
        elif step.program.temporaries:
            made = *step.program.temporaries, output
            reads = partial(_reads, step, [(each.layout.copies, each.dtype) for each in made])
            yield Build(output.spec.size_bytes, partial(self._write_staged, number, output, offset), reads)
        elif is_in_runs(output, step, self.checkpoint):
            for copy in sorted(output.layout.copies, key=lambda copy: copy.target_start):
                yield from self._run(copy, offset, step)
        elif self._is_squared(output, step):
            yield from self._squares(output, step, offset)
        else:
            slots = Slots(step, self.checkpoint)
            itemsize = DTYPES[output.dtype].itemsize
            for start, window in self._windows(output):
                write = partial(self._write_window, window, output.dtype, slots, offset + start * itemsize)
                reads = partial(_reads, step, [(window.copies, output.dtype)])
                yield Build(window.numel * itemsize, write, reads)

    def _is_squared(self, output: Output, step: Step) -> bool:
        """Tell whether a tensor is transposed square by square, which writes all over it."""
        most = window_numel(output, self.share_bytes)
        return not self.in_order and is_squared(output, step, self.checkpoint, self.share_bytes, most)

    def _run(self, copy: Copy, offset: int, step: Step) -> Iterator[Move | Build]:
        if copy.source >= len(step.sources):
            yield from self._declared(copy, offset, step.program.constants[copy.source - len(step.sources)])
            return
        key = step.sources[copy.source]
        itemsize = DTYPES[step.program.sources[copy.source].dtype].itemsize
        start, size_bytes = copy.source_start * itemsize, copy.numel * itemsize
        pieces = pieces_of(self.checkpoint, key, start, size_bytes)
        place = offset + copy.target_start * itemsize
        if pieces is not None:
            for piece in pieces:
                yield Move(piece.path, piece.offset, place, piece.size_bytes)
                place += piece.size_bytes
            return
        raw = _raw(self.checkpoint.tensor(key))[start : start + size_bytes]
        for done in range(0, size_bytes, PIECE_BYTES):
            part = raw[done : done + PIECE_BYTES]
            yield Build(len(part), partial(_write_raw, part, place + done))

    def _declared(self, copy: Copy, offset: int, constant: Constant) -> Iterator[Build]:
        """Write a run of a declared value."""
        size_bytes = len(constant.element)
        most = max(1, min(WINDOW_BYTES, self.share_bytes) // size_bytes)
        for start in range(0, copy.numel, most):
            count = min(most, copy.numel - start)
            write = partial(_write_declared, constant.element, count, offset + (copy.target_start + start) * size_bytes)
            yield Build(count * size_bytes, write)

    def _squares(self, output: Output, step: Step, offset: int) -> Iterator[Build]:
        """Transpose a tensor square by square; the disk begins with rows when the next ones are due."""
        room = Room.within(output, self.share_bytes)
        for copy in output.layout.copies:
            for stripe in cut_squares(copy, room, offset):
                yield Build(0, _hurry)
                for square in stripe:
                    key = step.sources[copy.source]
                    write = partial(self._write_square, square, key, room, offset)
                    reads = partial(_square_reads, square, key, room.itemsize)
                    yield Build(square.numel * room.itemsize, write, reads)

    def _write_square(self, square: Square, key: str, room: Room, offset: int, sink: Sink) -> None:
        import torch

        assert isinstance(self.checkpoint, FileReader)
        with torch.no_grad():
            write_square(square, key, self.checkpoint, self._buffers.take(room.size_bytes), room, offset, sink)

    def _packed(self, offset: int, spec: TensorSpec, key: str) -> Iterator[Move | Build]:
        """Move a tensor whose elements are smaller than a byte."""
        extent = self.checkpoint.extent(key)
        if extent is not None:
            yield Move(extent.path, extent.offset, offset, spec.size_bytes)
            return
        most = min(WINDOW_BYTES, self.share_bytes)
        for start in range(0, spec.size_bytes, most):
            size_bytes = min(most, spec.size_bytes - start)
            write = partial(self._write_bytes, key, start, size_bytes, offset + start)
            yield Build(size_bytes, write, partial(iter, [(key, [(start, size_bytes)])]))

    def _write_bytes(self, key: str, start: int, size_bytes: int, offset: int, sink: Sink) -> None:
        part = memoryview(bytearray(size_bytes))
        self.checkpoint.read(key, start, part)
        sink.write(offset, part)

    def _windows(self, output: Output) -> Iterator[tuple[int, Layout]]:
        """Yield the windows of a tensor, each with the number of its first element."""
        most = window_numel(output, self.share_bytes)
        start = 0
        for window in windows(output.layout, most):
            yield start, window
            start += window.numel

    def _write_window(self, window: Layout, dtype: str, slots: Slots, offset: int, sink: Sink) -> None:
        """Build a window in this worker's buffer, and write it."""
        import torch

        from weighbridge.storage.formats.torch_tensors import bytes_of, dtype_of

        with torch.no_grad():
            part = self._buffers.take(window.numel * DTYPES[dtype].itemsize).view(dtype_of(dtype))
            fill(part, window, slots, dtype)
            sink.write(offset, bytes_of(part))

    def _write_staged(self, number: int, output: Output, offset: int, sink: Sink) -> None:
        """Write a tensor that is made through temporaries; those of one step alone are held at a time."""
        itemsize = DTYPES[output.dtype].itemsize
        with self._staging:
            if self._staged is None or self._staged[0] != number:
                self._staged = None
                self._staged = number, Slots(self.plan.steps[number], self.checkpoint)
            slots = self._staged[1]
            for start, window in self._windows(output):
                self._write_window(window, output.dtype, slots, offset + start * itemsize, sink)


def _reads(step: Step, made: Sequence[tuple[Sequence[Copy], str]]) -> Reads:
    """Tell what is read for parts of a step's values, each given by its copies and its dtype."""
    for copies, dtype in made:
        for slot, places in fill_reads(copies, step, dtype):
            yield step.sources[slot], places


def _square_reads(square: Square, key: str, itemsize: int) -> Reads:
    yield key, square_places(square, itemsize)


def _is_moved(program: Program) -> bool:
    """Tell whether a program writes runs of what it reads, as they are."""
    return not program.temporaries and all(
        is_run(copy) and program.dtype(copy.source) == output.dtype
        for output in program.targets
        for copy in output.layout.copies
    )


def _raw(tensor: torch.Tensor) -> memoryview:
    from weighbridge.storage.formats.torch_tensors import bytes_of

    return bytes_of(tensor)


def _hurry(sink: Sink) -> None:
    sink.hurry()


def _write_declared(element: bytes, count: int, offset: int, sink: Sink) -> None:
    sink.write(offset, memoryview(element * count))


def _write_raw(part: memoryview, offset: int, sink: Sink) -> None:
    sink.write(offset, part)
