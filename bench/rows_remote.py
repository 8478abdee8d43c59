"""The row of what lies elsewhere: loading by ranges, beside the bare client that fetches the same bytes."""

from __future__ import annotations

import json
from typing import Final

from bench.inventories import header_of
from bench.measure import Figure
from bench.rounds import ROUNDS, Bench, Side, against, memory, take_turns, times

RATIO: Final = 1.2
DELAY_S: Final = "0.02"
FILE_REQUESTS: Final = 2.0
EXTRA_MB: Final = 300.0
BARE: Final = "get_range of obstore, the same bytes"
LOAD: Final = "plan.state_dict() from a store"


def measure_remote(bench: Bench, rounds: int = ROUNDS) -> list[Figure]:
    """Load a checkpoint from a store whose answers take 20 ms to begin, beside the bare client."""
    source, size_bytes = bench.checkpoint("moe", bench.moe), header_of(bench.moe).size_bytes
    bench.say(f"remote: in turn, {rounds} rounds after a comparison of all bytes; each answer begins after {DELAY_S} s")
    counted = bench.python("-m", "bench.child", "count_traffic", source, DELAY_S)
    opened, opened_bytes, loaded, loaded_bytes = json.loads(counted.output.splitlines()[-1])
    files = len(list(source.glob("*.safetensors")))
    bench.say(f"remote: {opened} requests and {opened_bytes:,} bytes for headers, {loaded} and {loaded_bytes:,} after")
    sides = [
        Side(BARE, "fetch", (source, DELAY_S), size_bytes, source),
        Side(LOAD, "load_remote", (source, DELAY_S), size_bytes, source),
    ]
    runs = take_turns(bench, sides, rounds)
    bare = times(BARE, runs[BARE])
    return [
        bare,
        against(times(LOAD, runs[LOAD], is_ours=True), (bare, RATIO)),
        *memory(LOAD, runs[LOAD], limit_mb=size_bytes / 1e6 + EXTRA_MB, is_ours=True),
        Figure("requests a file, to open", "", (opened / (files + 2),), FILE_REQUESTS),
        Figure("requests, to load", "", (float(loaded),)),
        Figure("bytes, of those that are wanted", "", (loaded_bytes / size_bytes,)),
    ]
