"""What a run of a plan takes, known beforehand: bytes, copies, memory."""

from __future__ import annotations

from typing import NamedTuple

from weighbridge.base.workers import MAX_WORKERS
from weighbridge.planning.plan import DEFAULT_BUDGET_BYTES, Plan
from weighbridge.reporting.portion_costs import portion_cost


def format_bytes(size_bytes: int) -> str:
    """Write a size for a reader, in powers of 1,024.

    Examples:
        >>> format_bytes(3_400_000_000), format_bytes(512)
        ('3.17 GiB', '512 B')
    """
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.2f} {unit}"
        size /= 1024
    return f"{size:.2f} TiB"


class Cost(NamedTuple):
    """What a run of a plan takes, known beforehand; sizes in bytes.

    `buffer_bytes` is the most that a run holds beside its results: temporaries, and the budget's buffers.
    """

    read_bytes: int
    written_bytes: int
    copies: int
    temporary_bytes: int
    buffer_bytes: int


def cost(plan: Plan, budget_bytes: int = DEFAULT_BUDGET_BYTES) -> Cost:
    """Predict what a run takes; of a cut plan, what is read is what its parts need."""
    read = written = copies = temporary = largest = 0
    for step in plan.steps:
        program = step.program
        read += sum(spec.size_bytes for spec in program.sources)
        sizes = [program.targets[number].spec.size_bytes for number in step.writes.values()]
        written += sum(sizes)
        copies += program.copies
        temporary = max(temporary, program.temporary_bytes)
        largest = max(largest, *sizes, 0)
    portion = portion_cost(plan)
    if portion is not None:
        read, written = (
            (portion.needed_bytes, written) if portion.is_of_targets else (portion.held_bytes, portion.needed_bytes)
        )
    # Each worker builds a window of its own.
    windows = (MAX_WORKERS + 1) * largest
    return Cost(read, written, copies, temporary, temporary + min(budget_bytes, windows))
