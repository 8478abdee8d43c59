"""The row of quantised weights: a checkpoint of FP8 in blocks, converted to BF16."""

from __future__ import annotations

from typing import Final

from bench.measure import Figure
from bench.quantised import Blocks, write_blocks, wrong_values
from bench.rounds import ROUNDS, Bench, Side, against, agree, memory, take_turns, times

PLAIN_RATIO: Final = 1.3
BUDGET_MB: Final = 256
OTHER_MB: Final = 300
"""What a process has beside its budget: torch, and the pages that it writes through."""

PLAIN: Final = "load_file, multiply by torch, save_file"
OURS: Final = "wb.convert, dtype=bfloat16"


def measure_dequantise(bench: Bench, rounds: int = ROUNDS, blocks: Blocks | None = None) -> list[Figure]:
    """Compute the weights of a checkpoint from file to file, beside a plain loop over its files with torch.

    Neither forces its files to the disk. The plain loop holds a file of it at a time, and what is made of that.
    """
    sizes = blocks or Blocks()
    source, ours, plain = (bench.work / name for name in ("fp8", "bf16", "bf16-plain"))
    bench.need_room(6 * sizes.size_bytes)
    write_blocks(source, sizes)
    bench.say(f"dequantise: {sizes.size_bytes / 1e9:.1f} GB of FP8, in turn, {rounds} rounds after a comparison")

    def check() -> None:
        agree(wrong_values(source, ours), "values that are wrong")

    touched = 3 * sizes.size_bytes
    sides = [
        Side(PLAIN, "dequantise_plainly", (source, plain), touched, source, plain),
        Side(OURS, "dequantise", (source, ours, str(BUDGET_MB)), touched, source, ours, check),
    ]
    runs = take_turns(bench, sides, rounds)
    theirs = times(PLAIN, runs[PLAIN])
    figure = against(times(OURS, runs[OURS], is_ours=True), (theirs, PLAIN_RATIO))
    limit = float(BUDGET_MB + OTHER_MB)
    return [theirs, figure, *memory(PLAIN, runs[PLAIN]), *memory(OURS, runs[OURS], limit_mb=limit, is_ours=True)]
