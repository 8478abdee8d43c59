"""Predict how many bytes of its files a run reads: all that it needs, and what lies between in reach of one call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from weighbridge.algebra.copies import Copy
from weighbridge.algebra.sections import rows_of
from weighbridge.base.specs import DTYPES
from weighbridge.planning.plan import Plan
from weighbridge.planning.program import Output
from weighbridge.planning.steps import Step
from weighbridge.running.execute import fill_reads, section_reads
from weighbridge.running.gather import STITCH_BYTES, is_read_by_rows, row_reads, shares
from weighbridge.running.pieces import split_copies
from weighbridge.running.strided import is_run


def predict_portion(plan: Plan) -> int | None:
    """Do as `predict_reads` for a plan that is cut to parts of its targets; None for any other one."""
    return None if plan.portion is None or plan.portion.source is not None else predict_reads(plan)


def predict_reads(plan: Plan) -> int:
    """Count the bytes that a run of a plan reads of its sources, where these lie in files.

    What it compares before, such as tied tensors, is read besides. What is mapped is counted as if it were read.

    Args:
        plan: The plan; programs that steps share are looked at once.
    """
    known: dict[tuple[int, ...], int] = {}
    total = 0
    for step in plan.steps:
        numbers = tuple(step.writes.values())
        name = id(step.program), *numbers
        if name not in known:
            outputs = [step.program.targets[number] for number in numbers]
            known[name] = sum(_staged(outputs, step) if step.program.temporaries else _gathered(outputs, step))
        total += known[name]
    return total


def _gathered(outputs: Iterable[Output], step: Step) -> Iterator[int]:
    """Yield what is read for targets that are filled where they lie."""
    strided: dict[int, list[tuple[Copy, Output]]] = {}
    for output in outputs:
        split = split_copies(output, step, in_files=True, stitch_bytes=STITCH_BYTES)
        yield from (run.size_bytes for run in split.runs)
        yield from (_size(copy, output) for group in split.stitched for copy in group)
        for copy in split.others:
            strided.setdefault(copy.source, []).append((copy, output))
    for slot, alike in strided.items():
        if slot < len(step.sources):
            yield from _of_one_source(slot, alike, step)


def _of_one_source(slot: int, alike: Sequence[tuple[Copy, Output]], step: Step) -> Iterator[int]:
    itemsize = DTYPES[step.program.dtype(slot)].itemsize
    rows = rows_of([copy for copy, _ in alike]) if len(alike) > 1 else None
    if rows is not None and is_read_by_rows(rows, itemsize):
        yield from (numel * itemsize for *_, numel in row_reads(rows, len(alike), itemsize))
        return
    for copy, output in alike:
        for part in shares(copy, step, DTYPES[output.dtype].itemsize):
            yield from _of_copy(part, output, step)


def _staged(outputs: Iterable[Output], step: Step) -> Iterator[int]:
    """Yield what is read for targets that need temporaries, which are made first."""
    for output in (*step.program.temporaries, *outputs):
        for _, places in fill_reads(output.layout.copies, step, output.dtype):
            yield from (size_bytes for _, size_bytes in places)


def _of_copy(copy: Copy, output: Output, step: Step) -> Iterator[int]:
    dtype = step.program.dtype(copy.source)
    if is_run(copy) and dtype == output.dtype:
        yield _size(copy, output)
        return
    for _, places in section_reads(copy, DTYPES[dtype].itemsize):
        yield from (size_bytes for _, size_bytes in places)


def _size(copy: Copy, output: Output) -> int:
    return copy.numel * DTYPES[output.dtype].itemsize
