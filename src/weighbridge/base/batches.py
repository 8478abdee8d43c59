"""Work on many tensors, several at a time, with results in the order of the tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final, TypeVar

from weighbridge.base.workers import count_workers, run_all

Item = TypeVar("Item")
Result = TypeVar("Result")

WINDOW_BYTES: Final = 4 * 2**20
"""Size of the buffer that a thread reads tensors through, in bytes; a multiple of every whole element's size."""

BATCH_BYTES: Final = WINDOW_BYTES
BATCH_ITEMS: Final = 256
"""A batch is full with so many bytes or tensors: a thread costs more than a small tensor does."""


def windows_of(size_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield the intervals of bytes, [start, stop), that a tensor is read in.

    Examples:
        >>> list(windows_of(5_000_000))
        [(0, 4194304), (4194304, 5000000)]
        >>> list(windows_of(0))
        []
    """
    return ((start, min(start + WINDOW_BYTES, size_bytes)) for start in range(0, size_bytes, WINDOW_BYTES))


def run_in_batches(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    size_bytes: Callable[[Item], int],
    *,
    workers: int | None = None,
) -> list[Result]:
    """Return what `work` gives for each item, in the order of the items, whatever the order in which it is done.

    After an exception nothing more is begun; of several, the one that comes first in the order of the items is raised.

    Args:
        work: What to do with one item; called from several threads at a time.
        items: The items.
        size_bytes: How large an item is.
        workers: How many threads that are; None for `count_workers()`.

    Examples:
        >>> run_in_batches(str.upper, ["a", "b"], len)
        ['A', 'B']
    """
    batches = list(batches_of(items, size_bytes))
    done: list[list[Result]] = [[] for _ in batches]
    failed: dict[int, Exception] = {}

    def run(number: int) -> None:
        try:
            done[number] = [work(item) for item in batches[number]]
        except Exception as problem:
            failed[number] = problem
            raise

    try:
        run_all((partial(run, number) for number in range(len(batches))), workers or count_workers())
    except Exception as problem:
        first = failed[min(failed)] if failed else problem
        raise first  # noqa: B904 - its own cause is the one to show
    return [result for batch in done for result in batch]


def batches_of(items: Sequence[Item], size_bytes: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Cut items into runs of about `BATCH_BYTES`, or of `BATCH_ITEMS`.

    Examples:
        >>> list(batches_of([3_000_000, 2_000_000, 1], int))
        [[3000000, 2000000], [1]]
    """
    batch: list[Item] = []
    total_bytes = 0
    for item in items:
        batch.append(item)
        total_bytes += size_bytes(item)
        if total_bytes >= BATCH_BYTES or len(batch) >= BATCH_ITEMS:
            yield batch
            batch, total_bytes = [], 0
    if batch:
        yield batch
