"""Rows of ranks that load and save one model together, each its part, beside plain reads and writes of as much."""

from __future__ import annotations

import json
from typing import Final

from bench.checkpoints import file_hashes
from bench.inventories import header_of
from bench.measure import Figure, beside
from bench.rank_jobs import RANKS
from bench.rounds import ROUNDS, Bench, Side, against, agree, take_turns, times

LOAD_RATIO: Final = {"fsdp": 1.25, "ep": 1.25, "tp": 2.3}
READ_RATIO: Final = {"fsdp": 1.005, "ep": 1.005, "tp": 2.01}
"""What is more than 1 and 2 is the files' heads, which are read again to see that they are what they were."""
SAVE_RATIO: Final = 1.5
SAVED: Final = ("fsdp", "tp")
DCP_LOAD: Final = "dcp.load of torch, fsdp, not fused"
DCP_SAVE: Final = "dcp.save of torch"


def measure_rank_load(bench: Bench, rounds: int = ROUNDS) -> list[Figure]:
    """Load a mixture of experts into what four ranks hold of it, beside reading as many bytes on each of them."""
    source, size_bytes = bench.checkpoint("moe", bench.moe, room=1), header_of(bench.moe).size_bytes
    sizes = json.dumps(bench.moe)
    bench.say(f"rank-load: {RANKS} ranks, in turn, {rounds} rounds")
    sides = []
    for way in LOAD_RATIO:
        sides.append(Side(_read(way), "read_by_ranks", (source, sizes, way), size_bytes, source))
        sides.append(Side(_ours(way), "load_by_ranks", (source, sizes, way), size_bytes, source))
        sides.append(Side(_theirs(way), "load_by_transformers", (source, way), 2 * size_bytes, source))
    sides.append(Side(DCP_LOAD, "load_by_dcp", (source, sizes), size_bytes, source))
    runs = take_turns(bench, sides, rounds)
    figures = []
    for way, limit in LOAD_RATIO.items():
        floor = times(_read(way), runs[_read(way)])
        peer = against(times(_theirs(way), runs[_theirs(way)]), (floor, None))
        spent = times(_ours(way), runs[_ours(way)], part=1, is_ours=True)
        plans = times(f"{_ours(way)}, of it planning", runs[_ours(way)], is_ours=True)
        filled = tuple(whole - plan for whole, plan in zip(spent.values, plans.values, strict=True))
        fill = Figure(f"{_ours(way)}, of it filling", "s", filled)
        figures += [floor, peer, against(spent, (floor, None), (peer, None)), plans, against(fill, (floor, limit))]
    return [*figures, times(DCP_LOAD, runs[DCP_LOAD])]


def _read(way: str) -> str:
    return f"preadv of as much, {way}"


def _ours(way: str) -> str:
    return f"load on {RANKS} ranks, {way}"


def _theirs(way: str) -> str:
    return f"from_pretrained of transformers, {way}"


def measure_rank_bytes(bench: Bench) -> list[Figure]:
    """State what each rank reads of the files, beside what it needs of them, as the system counts it."""
    source, sizes = bench.checkpoint("moe", bench.moe, room=1), json.dumps(bench.moe)
    bench.say(f"rank-bytes: {RANKS} ranks, once")
    figures = []
    for way, limit in READ_RATIO.items():
        found = bench.work / f"bytes-{way}"
        found.mkdir()
        bench.check("bytes_of_ranks", source, sizes, way, found)
        pairs = [json.loads((found / f"{rank}.json").read_text()) for rank in range(RANKS)]
        needed, read = (tuple(each / 1e6 for each in side) for side in zip(*pairs, strict=True))
        needs = Figure(f"{way}: needed by each rank", "MB", needed)
        figures += [needs, Figure(f"{way}: read by each rank", "MB", read, None, (beside(read, needs, limit),))]
    return figures


def measure_rank_save(bench: Bench, rounds: int = ROUNDS) -> list[Figure]:
    """Save that model from what four ranks hold, beside writing as many bytes on each, all of it forced to the disk.

    Every file has the SHA-256 of the published one.
    """
    source, size_bytes = bench.checkpoint("moe", bench.moe), header_of(bench.moe).size_bytes
    sizes, expected = json.dumps(bench.moe), file_hashes(source)
    bench.say(f"rank-save: {RANKS} ranks, in turn, {rounds} rounds after a comparison of all files")
    sides = []
    for way in SAVED:
        for name, action in (
            (_plain(way), "write_by_ranks"),
            (_save(way), "save_by_ranks"),
            (_dcp(way), "save_by_dcp"),
        ):
            output = bench.work / f"{action}-{way}"

            def check(output: object = output) -> None:
                found = file_hashes(bench.work / str(output))
                agree(
                    (name for name in expected.keys() | found if found.get(name) != expected.get(name)), "files differ"
                )

            checked = check if action == "save_by_ranks" else None
            words = source, output, sizes, way
            sides.append(Side(name, action, words, 2 * size_bytes, None, output, checked))
    runs = take_turns(bench, sides, rounds)
    figures = []
    for way in SAVED:
        floor, peer = (times(name, runs[name]) for name in (_plain(way), _dcp(way)))
        ours = times(_save(way), runs[_save(way)], is_ours=True)
        figures += [floor, against(peer, (floor, None)), against(ours, (floor, SAVE_RATIO), (peer, None))]
    return figures


def _plain(way: str) -> str:
    return f"pwrite and fsync of as much, {way}"


def _save(way: str) -> str:
    return f"save on {RANKS} ranks, {way}"


def _dcp(way: str) -> str:
    return f"{DCP_SAVE}, {way}"
