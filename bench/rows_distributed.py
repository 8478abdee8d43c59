"""Rows that read and write distributed checkpoints, each beside copying the files, and beside what torch has for it."""

from __future__ import annotations

from typing import Final

from bench.checkpoints import discard, wrong_tensors
from bench.inventories import header_of
from bench.measure import Figure, Run
from bench.rounds import ROUNDS, Bench, Side, against, agree, memory, take_turns, times
from bench.rows_files import CONVERT, COPY

RANKS: Final = 2
RATIO: Final = 1.5
EXTRA_MB: Final = 100.0
IN: Final = f"{CONVERT} of a distributed checkpoint"
OUT: Final = f"{CONVERT} into a distributed checkpoint"
THEIR_IN: Final = "dcp_to_torch_save of torch, not fused"
THEIR_OUT: Final = "load_file, dcp.save of torch, not fused"


def measure_dcp_in(bench: Bench, rounds: int = ROUNDS) -> list[Figure]:
    """Fuse the experts of what two ranks saved, beside copying it, and beside what torch makes one file with."""
    source, size_bytes = bench.checkpoint("moe", bench.moe, room=4), header_of(bench.moe).size_bytes
    saved, fused, copied, whole = (bench.work / name for name in ("dcp", "fused", "copied", "whole"))
    bench.say(f"dcp-in: {RANKS} ranks save it; then in turn, {rounds} rounds after a comparison of all bytes")
    bench.python("-m", "bench.work_distributed", source, saved, str(RANKS))

    def check() -> None:
        agree(wrong_tensors(source, fused, bench.moe.experts), "tensors converted wrongly")

    sides = [
        Side(COPY, "copy", (saved, copied, "0"), size_bytes, saved, copied),
        Side(IN, "convert_from_dcp", (saved, fused), size_bytes, saved, fused, check),
        Side(THEIR_IN, "dcp_to_torch", (saved, whole), 2 * size_bytes, saved, whole),
    ]
    runs = take_turns(bench, sides, rounds)
    return _figures(f"{COPY} of the distributed one", runs[COPY], IN, runs[IN], THEIR_IN, runs[THEIR_IN])


def measure_dcp_out(bench: Bench, rounds: int = ROUNDS) -> list[Figure]:
    """Fuse the experts into a distributed checkpoint, beside copying the files, and beside torch's own save."""
    source, size_bytes = bench.checkpoint("moe", bench.moe, room=4), header_of(bench.moe).size_bytes
    made, copied, saved, read = (bench.work / name for name in ("dcp-made", "copied", "dcp-saved", "read"))
    bench.say(f"dcp-out: in turn, {rounds} rounds after torch has loaded what is written, and all bytes are compared")

    def check() -> None:
        bench.check("read_dcp", made, read)
        agree(wrong_tensors(source, read, bench.moe.experts), "tensors written wrongly")
        discard(read)

    sides = [
        Side(COPY, "copy", (source, copied, "0"), size_bytes, source, copied),
        Side(OUT, "convert_to_dcp", (source, made), size_bytes, source, made, check),
        Side(THEIR_OUT, "torch_to_dcp", (source, saved), 2 * size_bytes, source, saved),
    ]
    runs = take_turns(bench, sides, rounds)
    return _figures(COPY, runs[COPY], OUT, runs[OUT], THEIR_OUT, runs[THEIR_OUT])


def _figures(copy: str, copies: list[Run], name: str, ours: list[Run], peer: str, theirs: list[Run]) -> list[Figure]:
    plain = times(copy, copies)
    other = against(times(peer, theirs), (plain, None))
    return [
        plain,
        other,
        against(times(name, ours, is_ours=True), (plain, RATIO), (other, None)),
        *memory(peer, theirs),
        *memory(name, ours, extra_mb=EXTRA_MB, is_ours=True),
    ]
