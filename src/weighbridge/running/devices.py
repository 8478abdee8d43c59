"""Fill tensors that lie on an accelerator: each byte is read once into pinned memory, and moved to the device once.

A worker owns a lane: two pinned buffers that take turns, and a stream of its own. While one buffer is on its way to the
device, the other one is being read into. Whatever is not one run of bytes is arranged on the device, from a staging
buffer there, so that neither side ever holds a tensor twice. Small tensors that follow each other in a file travel
together.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import torch

from weighbridge.algebra.copies import Copy
from weighbridge.algebra.sections import reach, sections
from weighbridge.base.specs import DTYPES
from weighbridge.base.workers import Counter, Task, count_workers, run_all
from weighbridge.planning.steps import Step
from weighbridge.running.execute import Slots, fill, is_whole, make
from weighbridge.running.gather import STITCH_BYTES, Wanted, await_devices, gather, modes_of_torch
from weighbridge.running.pieces import Parts, Piece, batch_pieces, cut_runs, split_copies
from weighbridge.running.strided import copy_strided
from weighbridge.storage.formats.torch_tensors import bytes_of, dtype_of
from weighbridge.storage.protocol import FileReader, pace_of

if TYPE_CHECKING:
    from weighbridge.storage.protocol import Checkpoint

STAGE_BYTES: Final = 16 * 2**20
"""Size of each pinned buffer, and of each staging buffer on the device."""

DEPTH: Final = 2
"""Buffers of a lane."""

MOST_LANES: Final = 16
"""However slow the answers from elsewhere are: lanes take memory on both sides."""


def fill_tensors(wanted: Sequence[Wanted], checkpoint: Checkpoint, counter: Counter | None = None) -> None:
    """Fill dense tensors, wherever they lie.

    Args:
        wanted: The tensors; their memory must not overlap, nor be read from.
        checkpoint: What the steps read.
        counter: Told of each piece of work that is done.

    Raises:
        CheckpointError: The codes of reading; part of the tensors may have been filled by then.
    """
    elsewhere = [want for want in wanted if not want.tensor.is_cpu]
    gather(wanted if not elsewhere else [want for want in wanted if want.tensor.is_cpu], checkpoint, counter)
    for device in sorted({want.tensor.device for want in elsewhere}, key=str):
        gather_staged([want for want in elsewhere if want.tensor.device == device], checkpoint, device, counter)


def gather_staged(
    wanted: Sequence[Wanted], checkpoint: Checkpoint, device: torch.device, counter: Counter | None = None
) -> None:
    """Fill tensors of one device through buffers; the CPU is a device like any other here.

    Args:
        wanted: The tensors.
        checkpoint: What the steps read.
        device: Where the tensors lie.
        counter: Told of each piece of work that is done.

    Raises:
        CheckpointError: The codes of reading.
    """
    await_devices(checkpoint)
    lanes = _Lanes(device)
    work = _Work(checkpoint, lanes, counter)
    modes = modes_of_torch()
    try:
        run_all(map(modes, work.tasks(wanted)), _lanes_for(checkpoint))
    finally:
        lanes.finish()


def _lanes_for(checkpoint: Checkpoint) -> int:
    """Return how many lanes there are to be: one for each core, or for each request that is to be on its way."""
    if checkpoint.is_serial:
        return 1
    pace = pace_of(checkpoint)
    return count_workers() if pace is None else min(pace.in_flight, MOST_LANES)


class _Lane:
    """What one worker moves bytes with."""

    def __init__(self, device: torch.device) -> None:
        is_cuda = device.type == "cuda"
        self.device = device
        self.stream: Any = torch.cuda.Stream(device) if is_cuda else None  # type: ignore[no-untyped-call]
        self.buffers = [
            torch.empty(STAGE_BYTES, dtype=torch.uint8, device="cpu", pin_memory=is_cuda) for _ in range(DEPTH)
        ]
        # Allocated on the stream that uses them: a block of another one may still be in use there.
        with torch.cuda.stream(self.stream):
            self.stages = [torch.empty(STAGE_BYTES, dtype=torch.uint8, device=device) for _ in range(DEPTH)]
        events = (torch.cuda.Event() if is_cuda else None for _ in range(DEPTH))  # type: ignore[no-untyped-call]
        self.events: list[Any] = list(events)
        self.turn = 0

    def send(self, size_bytes: int, read: Callable[[memoryview], None], place: Callable[[torch.Tensor], None]) -> None:
        """Read bytes, move them to the device, and let `place` arrange them there; returns before that is done.

        Args:
            size_bytes: How many bytes, at most `STAGE_BYTES`.
            read: Fills a buffer with them.
            place: Called with the bytes on the device, one axis of uint8.
        """
        self.turn = (self.turn + 1) % DEPTH
        buffer, stage, event = self.buffers[self.turn], self.stages[self.turn], self.events[self.turn]
        if event is not None:
            event.synchronize()
        read(bytes_of(buffer)[:size_bytes])
        with torch.cuda.stream(self.stream):
            stage[:size_bytes].copy_(buffer[:size_bytes], non_blocking=event is not None)
            place(stage[:size_bytes])
            if event is not None:
                event.record(self.stream)

    def finish(self) -> None:
        """Wait until everything has arrived."""
        if self.stream is not None:
            self.stream.synchronize()


class _Lanes:
    """A lane for each thread that asks for one."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._made: list[_Lane] = []
        self._kept = threading.local()
        if device.type == "cuda":
            # Memory that is given out now may still be in use by what was queued before.
            torch.cuda.current_stream(device).synchronize()

    def own(self) -> _Lane:
        lane: _Lane | None = getattr(self._kept, "lane", None)
        if lane is None:
            lane = self._kept.lane = _Lane(self.device)
            self._made.append(lane)
        return lane

    def finish(self) -> None:
        for lane in self._made:
            lane.finish()


_Batch = Sequence[Piece[tuple[torch.Tensor, int]]]
"""Consecutive bytes of a file that travel together, each piece to a place in a tensor's bytes."""


def _goal(raw: torch.Tensor, start: int) -> tuple[torch.Tensor, int]:
    return raw, start


def _arrange(batch: _Batch, stage: torch.Tensor) -> None:
    start = 0
    for piece in batch:
        target, target_start = piece.goal
        target[target_start : target_start + piece.size_bytes].copy_(stage[start : start + piece.size_bytes])
        start += piece.size_bytes


class _Work:
    """The work on the tensors of one device."""

    def __init__(self, checkpoint: Checkpoint, lanes: _Lanes, counter: Counter | None) -> None:
        self.checkpoint = checkpoint
        self.lanes = lanes
        self.counter = counter
        self._split: dict[tuple[int, int], Parts] = {}

    def tasks(self, wanted: Sequence[Wanted]) -> Iterator[Task]:
        """Yield what there is to do: runs of bytes in the order of the files, then everything else."""
        in_files = isinstance(self.checkpoint, FileReader)
        easy = [want for want in wanted if in_files and not _is_made_first(want.step)]
        for batch in self._batches(easy):
            yield partial(self._send_batch, batch)
        for want in easy:
            parts = self._parts(want)
            for copy in (*chain.from_iterable(parts.stitched), *parts.others):
                yield partial(self._send_strided, want, copy)
        for want in wanted:
            if not in_files or _is_made_first(want.step):
                yield partial(self._send_whole, want)

    def _count(self, size_bytes: int) -> None:
        if self.counter is not None:
            self.counter.add(size_bytes)

    def _parts(self, want: Wanted) -> Parts:
        name = id(want.step.program), want.number
        if name not in self._split:
            self._split[name] = split_copies(want.output, want.step, in_files=True, stitch_bytes=STITCH_BYTES)
        return self._split[name]

    def _batches(self, wanted: Sequence[Wanted]) -> Iterator[_Batch]:
        """Join runs that follow each other in a file, and cut long ones."""
        pieces: list[Piece[tuple[torch.Tensor, int]]] = []
        for want in wanted:
            raw = want.tensor.view(-1).view(torch.uint8)
            pieces += cut_runs(self._parts(want).runs, want.step, self.checkpoint, STAGE_BYTES, partial(_goal, raw))
        return batch_pieces(pieces, STAGE_BYTES, len(pieces))

    def _send_batch(self, batch: _Batch) -> None:
        size_bytes = sum([piece.size_bytes for piece in batch])
        read = partial(_read_on, self.checkpoint, batch[0])
        self.lanes.own().send(size_bytes, read, partial(_arrange, batch))
        self._count(size_bytes)

    def _send_strided(self, want: Wanted, copy: Copy) -> None:
        """Send the interval of the source that each section spans, and copy by strides on the device."""
        code = want.step.program.sources[copy.source].dtype
        dtype = dtype_of(code)
        key = want.step.sources[copy.source]
        flat = want.tensor.view(-1)
        most = STAGE_BYTES // dtype.itemsize
        for section in sections(copy, most, most):

            def place(stage: torch.Tensor, section: Copy = section) -> None:
                copy_strided(flat, stage.view(dtype), section._replace(source_start=0), want.step)

            read = partial(self.checkpoint.read, key, section.source_start * dtype.itemsize)
            self.lanes.own().send(reach(section) * dtype.itemsize, read, place)
            self._count(section.numel * DTYPES[want.output.dtype].itemsize)

    def _send_whole(self, want: Wanted) -> None:
        """Make a tensor on the CPU first: its source is no file, or not all of it comes from sources."""
        slots, output = Slots(want.step, self.checkpoint), want.output
        if is_whole(output):
            made = make(output, slots)
        else:
            made = want.tensor.to("cpu", copy=True)
            fill(made.view(-1), output.layout, slots, output.dtype)
        want.tensor.copy_(made)
        self._count(want.output.spec.size_bytes)


def _is_made_first(step: Step) -> bool:
    return bool(step.program.temporaries or step.program.constants)


def _read_on(checkpoint: Checkpoint, first: Piece[Any], buffer: memoryview) -> None:
    """Fill a buffer with what the files hold from a piece on."""
    from weighbridge.storage.places.scatter import Span

    assert isinstance(checkpoint, FileReader)
    address = torch.frombuffer(buffer, dtype=torch.uint8).data_ptr()
    checkpoint.scatter(first.key, first.start_byte, [Span(address, len(buffer))])
