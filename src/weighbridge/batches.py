"""Work on many tensors, several at a time, with results in the order of the tensors."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

THREADS: Final = min(8, max(2, os.cpu_count() or 1))
"""How many threads work at a time."""

WINDOW_BYTES: Final = 4 * 2**20
"""Size of the buffer that a thread reads tensors through, in bytes; a multiple of every whole element's size."""

BATCH_BYTES: Final = WINDOW_BYTES
BATCH_ITEMS: Final = 256
"""A batch is full with so many bytes or tensors: a thread costs more than a small tensor does."""

WAITING_BATCHES: Final = 32 * THREADS
"""How many batches are under way or wait for those before them."""


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
    work: Callable[[Item], Result], items: Sequence[Item], size_bytes: Callable[[Item], int]
) -> Iterator[Result]:
    """Yield what `work` gives for each item, in the order of the items, whatever the order in which it is done.

    The first exception, in that order, is raised; what has not begun by then is left undone.

    Args:
        work: What to do with one item; called from `THREADS` threads at a time.
        items: The items.
        size_bytes: How large an item is.

    Examples:
        >>> list(run_in_batches(str.upper, ["a", "b"], len))
        ['A', 'B']
    """

    def run(batch: list[Item]) -> list[Result]:
        return [work(item) for item in batch]

    waiting: deque[Future[list[Result]]] = deque()
    with ThreadPoolExecutor(THREADS, thread_name_prefix="weighbridge") as pool:
        try:
            for batch in batches_of(items, size_bytes):
                waiting.append(pool.submit(run, batch))
                if len(waiting) >= WAITING_BATCHES:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


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
