"""Fill many tensors at once: reads in the order of the files, several at a time, each byte straight to its place.

What is contiguous on both sides becomes pieces of a file and of memory. Pieces that follow each other in a file are
read by one call, whichever tensors they belong to; long ones are cut, so that every worker has its share. All other
copies run beside them in parts, in the order of what they read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from weighbridge.algebra.copies import Copy
from weighbridge.algebra.sections import Rows, rows_of, sections
from weighbridge.base.specs import DTYPES
from weighbridge.base.workers import Counter, Task, count_workers, run_all
from weighbridge.planning.program import Output
from weighbridge.planning.steps import Step
from weighbridge.running.execute import (
    Slots,
    allocate,
    copy_side_by_side,
    copy_stitched,
    fill,
    run_copy,
)
from weighbridge.running.pieces import Parts, Piece, batch_pieces, cut_runs, split_copies
from weighbridge.running.strided import SECTION_BYTES, is_run
from weighbridge.storage.places.scatter import MAX_SPANS, Span
from weighbridge.storage.protocol import FileReader, pace_of

if TYPE_CHECKING:
    import torch

    from weighbridge.storage.protocol import Checkpoint, Extent, Mapped

STITCH_BYTES: Final = 8 * 2**20
"""The most that is transposed at once."""

BATCH_BYTES: Final = 16 * 2**20
"""How much one call reads at most; also the most that a long tensor is cut into."""


class Wanted(NamedTuple):
    """One tensor to fill: output `number` of a step, and where its elements go, dense and on the CPU."""

    step: Step
    number: int
    tensor: torch.Tensor

    @property
    def output(self) -> Output:
        """What the step writes there."""
        return self.step.program.targets[self.number]


class Job(NamedTuple):
    """Work in the order of what it reads: a file and a place in it, how much it fills, and what to do."""

    path: str
    offset: int
    size_bytes: int
    task: Task


def gather(wanted: Sequence[Wanted], checkpoint: Checkpoint, counter: Counter | None = None) -> None:
    """Fill tensors that lie dense on the CPU.

    Args:
        wanted: The tensors; their memory must not overlap, nor be read from.
        checkpoint: What the steps read.
        counter: Told of each piece of work that is done.

    Raises:
        CheckpointError: The codes of reading; part of the tensors may have been filled by then.
    """
    await_devices(checkpoint)
    modes = modes_of_torch()
    jobs = sorted(_jobs(wanted, checkpoint), key=lambda job: job[:2])
    total = sum([job.size_bytes for job in jobs])

    def run(job: Job) -> None:
        modes(job.task)()
        if counter is not None:
            counter.add(job.size_bytes)

    run_all((partial(run, job) for job in jobs), _workers(checkpoint, total))


def _workers(checkpoint: Checkpoint, total_bytes: int) -> int:
    """Return how many reads are to run at once: as many as there are cores, or as an answer from elsewhere takes."""
    if checkpoint.is_serial:
        return 1
    pace = pace_of(checkpoint)
    if pace is not None:
        return max(1, min(pace.in_flight, total_bytes // SECTION_BYTES))
    return count_workers(max(1, total_bytes // (4 * SECTION_BYTES)))


def batch_bytes(checkpoint: Checkpoint) -> int:
    """Return how much one call is to read at most."""
    pace = pace_of(checkpoint)
    return BATCH_BYTES if pace is None else pace.range_bytes


def await_devices(checkpoint: Checkpoint) -> None:
    """Wait for what is still being computed in a source's tensors: workers have streams of their own."""
    found = {tensor.device for tensor in checkpoint.held_tensors() if tensor.is_cuda}
    for device in found:
        import torch

        torch.cuda.current_stream(device).synchronize()


def modes_of_torch() -> Callable[[Task], Task]:
    """Return what makes a task run in other threads as it would here: in inference mode or not, without gradients."""
    import torch

    is_inference = torch.is_inference_mode_enabled()

    def wrap(task: Task) -> Task:
        def run() -> None:
            with torch.inference_mode(is_inference), torch.no_grad():
                task()

        return run

    return wrap


def start_output(
    step: Step, number: int, mapped: Mapped | None, device: torch.device | str = "cpu"
) -> tuple[torch.Tensor, Wanted | None]:
    """Return the tensor that will hold one output of a step, and what is left to be done for it.

    A tensor that moves as it is needs no copy: it is the map of its file. So is a part of one that lies there in one
    piece, such as some of its rows.

    Args:
        step: The step.
        number: Which of its targets.
        mapped: The map to take it from; None to have memory of its own.
        device: Where to allocate it otherwise.
    """
    from weighbridge.storage.formats.torch_tensors import torch_layout

    output = step.program.targets[number]
    start = _as_it_lies(step) if mapped is not None else None
    if mapped is not None and start is not None:
        found = mapped.tensor(step.sources[0])
        if found is not None:
            layout = torch_layout(output.spec)
            is_part = layout is not None and not step.program.is_identity
            found = found.view(-1)[start : start + output.layout.numel] if is_part else found
            return (found if layout is None else found.view(layout[1])), None
    made = allocate(output.spec, device)
    return made, Wanted(step, number, made)


def _as_it_lies(step: Step) -> int | None:
    """Return at which element of its source a step's only target begins, if it is one piece of that; None otherwise."""
    program = step.program
    if program.is_identity:
        return 0
    is_plain = len(program.sources) == len(program.targets) == 1 and not program.temporaries
    if program.is_declared or not is_plain or DTYPES[program.sources[0].dtype].kind == "packed":
        return None
    output = program.targets[0]
    (*others, copy) = output.layout.copies or (None,)
    if copy is None or others or output.dtype != program.sources[0].dtype:
        return None
    return copy.source_start if is_run(copy) and copy.numel == output.layout.numel else None


# ---- what is to be done ----


def _jobs(wanted: Sequence[Wanted], checkpoint: Checkpoint) -> Iterator[Job]:
    pieces: list[Piece[int]] = []
    parts: dict[tuple[int, int], Parts] = {}
    staged: dict[int, list[Wanted]] = {}
    strided: dict[tuple[int, int], list[tuple[Wanted, Copy]]] = {}
    in_files = isinstance(checkpoint, FileReader)
    most_bytes = batch_bytes(checkpoint)
    for want in wanted:
        step, number, tensor = want
        if step.program.temporaries or not (in_files or _is_held(step, checkpoint)):
            staged.setdefault(id(step), []).append(want)
            continue
        split = parts.get((id(step.program), number))
        if split is None:
            split = parts[id(step.program), number] = split_copies(
                want.output, step, in_files=in_files, stitch_bytes=STITCH_BYTES
            )
        if split.runs:
            pieces += cut_runs(split.runs, step, checkpoint, most_bytes, tensor.data_ptr().__add__)
        for group in split.stitched:
            yield _stitched_job(want, group, checkpoint)
        for copy in split.others:
            strided.setdefault((id(step), copy.source), []).append((want, copy))
    for alike in strided.values():
        yield from _strided_jobs(alike, checkpoint)
    yield from (_staged_job(group, checkpoint) for group in staged.values())
    if pieces:
        assert isinstance(checkpoint, FileReader)
        for batch in batch_pieces(pieces, most_bytes, MAX_SPANS):
            yield _reading_job(batch, checkpoint)


def _is_held(step: Step, checkpoint: Checkpoint) -> bool:
    """Tell whether all that a step reads lies in memory, so that parts of it cost nothing to take."""
    return all(checkpoint.held(key) is not None for key in step.sources)


def _reading_job(batch: Sequence[Piece[int]], reader: FileReader) -> Job:
    first = batch[0]
    spans = [Span(piece.goal, piece.size_bytes) for piece in batch]
    size_bytes = sum([piece.size_bytes for piece in batch])
    return Job(str(first.path), first.offset, size_bytes, partial(reader.scatter, first.key, first.start_byte, spans))


def _strided_jobs(alike: Sequence[tuple[Wanted, Copy]], checkpoint: Checkpoint) -> Iterator[Job]:
    """Cut copies of one source into parts that workers share; where they read parts of the same rows, it is read once.

    Columns of a matrix that become tensors of their own are such copies.
    """
    want, copy = alike[0]
    code = want.step.program.dtype(copy.source)
    extent = _extent(want.step, copy.source, checkpoint)
    is_cut = extent is not None and DTYPES[code].kind != "packed"
    rows = rows_of([copy for _, copy in alike]) if len(alike) > 1 and is_cut else None
    itemsize = DTYPES[code].itemsize
    if extent is None or rows is None or not is_read_by_rows(rows, itemsize):
        for want, copy in alike:
            yield from _jobs_of_copy(want, copy, checkpoint)
    else:
        yield from _jobs_of_rows(alike, rows, itemsize, extent, Slots(want.step, checkpoint))


def _jobs_of_rows(
    alike: Sequence[tuple[Wanted, Copy]], rows: Rows, itemsize: int, extent: Extent, slots: Slots
) -> Iterator[Job]:
    flats = [want.tensor.view(-1) for want, _ in alike]
    copies = [copy for _, copy in alike]
    for first, last, start, numel in row_reads(rows, len(alike), itemsize):
        parts = list(zip(flats, rows.between(copies, first, last), strict=True))
        size_bytes = sum([flat.element_size() * part.numel for flat, part in parts])
        task = partial(copy_side_by_side, parts, start, numel, slots)
        yield Job(str(extent.path), extent.offset + start * itemsize, size_bytes, task)


def is_read_by_rows(rows: Rows, itemsize: int) -> bool:
    """Tell whether rows are short enough to be read as wholes."""
    return rows.stride * itemsize <= SECTION_BYTES


def row_reads(rows: Rows, count: int, itemsize: int) -> Iterator[tuple[int, int, int, int]]:
    """Cut rows that several copies read parts of into sections.

    Args:
        rows: The rows.
        count: How many copies there are.
        itemsize: Size of an element, in bytes.

    Yields:
        Rows [first, last), the first element that is read for them, and how many are.
    """
    # A call for each copy of a section: with many copies, sections are longer.
    most = min(SECTION_BYTES * max(1, count // 16), BATCH_BYTES // 2)
    step = max(1, most // (rows.stride * itemsize))
    for first in range(0, rows.number, step):
        last = min(first + step, rows.number)
        yield first, last, rows.start + first * rows.stride, (last - first - 1) * rows.stride + rows.reach


def _jobs_of_copy(want: Wanted, copy: Copy, checkpoint: Checkpoint) -> Iterator[Job]:
    """Cut a copy into parts that workers share."""
    slots = Slots(want.step, checkpoint)
    path, offset = _place(_extent(want.step, copy.source, checkpoint))
    flat = want.tensor.view(-1)
    itemsize = DTYPES[want.output.dtype].itemsize
    if DTYPES[want.output.dtype].kind == "packed":
        task = partial(fill, flat, want.output.layout, slots, want.output.dtype)
        yield Job(path, offset, want.output.spec.size_bytes, task)
        return
    read_size = DTYPES[slots.dtype(copy.source)].itemsize
    for part in shares(copy, want.step, itemsize):
        task = partial(run_copy, flat, part, slots, want.output.dtype)
        yield Job(path, offset + part.source_start * read_size, part.numel * itemsize, task)


def shares(copy: Copy, step: Step, itemsize: int) -> Iterator[Copy]:
    """Cut a copy into parts that workers share; `itemsize` is that of what it writes, in bytes."""
    is_read = copy.source < len(step.sources)
    longest = step.program.sources[copy.source].numel if is_read else copy.numel
    return sections(copy, longest, BATCH_BYTES // itemsize)


def _extent(step: Step, slot: int, checkpoint: Checkpoint) -> Extent | None:
    """Return where the source of a slot lies in files; None for a constant as well."""
    return checkpoint.extent(step.sources[slot]) if slot < len(step.sources) else None


def _place(extent: Extent | None) -> tuple[str, int]:
    """Return the file that a tensor lies in, and where in it; what lies in none comes first."""
    return (str(extent.path), extent.offset) if extent is not None else ("", 0)


def _stitched_job(want: Wanted, group: tuple[Copy, ...], checkpoint: Checkpoint) -> Job:
    place = _place(checkpoint.extent(want.step.sources[group[0].source]))
    size_bytes = sum(copy.numel for copy in group) * want.tensor.element_size()
    task = partial(copy_stitched, want.tensor.view(-1), group, Slots(want.step, checkpoint))
    return Job(*place, size_bytes, task)


def _staged_job(group: Sequence[Wanted], checkpoint: Checkpoint) -> Job:
    """Run one step that needs temporaries, for all of its tensors that are wanted."""
    step = group[0].step
    place = _place(checkpoint.extent(step.sources[0]))

    def task() -> None:
        slots = Slots(step, checkpoint)
        for want in group:
            fill(want.tensor.view(-1), want.output.layout, slots, want.output.dtype)

    return Job(*place, sum(want.output.spec.size_bytes for want in group), task)


def group_steps(wanted: Iterable[Step], most_bytes: int) -> Iterator[list[Step]]:
    """Group steps, in order, so that the targets of a group hold at most `most_bytes`, or it is a single step."""
    group: list[Step] = []
    filled = 0
    for step in wanted:
        size_bytes = sum([output.spec.size_bytes for output in step.program.targets])
        if filled and filled + size_bytes > most_bytes:
            yield group
            group, filled = [], 0
        group.append(step)
        filled += size_bytes
    if group:
        yield group
