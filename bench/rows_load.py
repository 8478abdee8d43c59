"""Rows that load: a fused mixture of experts, a dense model, transposed experts, many small tensors, one huge one."""

from __future__ import annotations

import json
import os
from typing import Final

from bench.checkpoints import write_file
from bench.inventories import header_of, huge, small
from bench.measure import Figure, Run
from bench.rounds import ROUNDS, Bench, Side, against, memory, take_once, take_turns, times

READ_RATIO: Final = 1.25
PEER_RATIO: Final = 0.667
LOAD_EXTRA_MB: Final = 300.0
TRANSPOSED_RATIO: Final = 2.0
SMALL_RATIO: Final = 1.0
HUGE_EXTRA_MB: Final = 100.0
TURNED_RATIO: Final = 4.0
HUGE_BUDGET_BYTES: Final = 64_000_000

OURS: Final = "wbt.from_pretrained"
HUGE: Final = {f"{OURS}, huge pages {choice}": f"ours_{choice}" for choice in ("on", "off")}
META: Final = "wb.load into a meta model"
THEIRS: Final = "from_pretrained of transformers"
READ: Final = "bare read by two threads"


def measure_load_moe(bench: Bench, rounds: int = ROUNDS) -> list[Figure]:
    """Load a mixture of experts, fused on the way, beside the library's own loading and a bare read of the files."""
    source = bench.checkpoint("moe", bench.moe, room=1)
    size_bytes = header_of(bench.moe).size_bytes
    bench.say(f"load-moe: in turn, {rounds} rounds after a comparison of all values")
    bench.check("compare", source)
    sides = [Side(READ, "read", (source,), size_bytes, source)]
    loaders = {META: "meta", OURS: "ours", THEIRS: "theirs", **HUGE}
    sides += [Side(name, "load_only", (source, kind), size_bytes, source) for name, kind in loaders.items()]
    runs = take_turns(bench, sides, rounds)
    floor, peer = times(READ, runs[READ]), times(THEIRS, runs[THEIRS])
    figures = [floor, against(peer, (floor, None)), *memory(THEIRS, runs[THEIRS])]
    for name in (OURS, META):
        figures.append(
            against(times(name, runs[name], is_ours=True), (floor, READ_RATIO), (peer, PEER_RATIO)),
        )
        figures += memory(name, runs[name], limit_mb=size_bytes / 1e6 + LOAD_EXTRA_MB, is_ours=True)
    measured = times(OURS, runs[OURS])
    return figures + [against(times(name, runs[name], is_ours=True), (measured, None)) for name in HUGE]


def measure_load_dense(bench: Bench, rounds: int = ROUNDS) -> list[Figure]:
    """Load a model whose checkpoint has its own layout; and load it and read every byte, since files may be mapped."""
    source = bench.checkpoint("dense", bench.dense, room=1)
    size_bytes = header_of(bench.dense).size_bytes
    bench.say(f"load-dense: in turn, {rounds} rounds after a comparison of all values")
    bench.check("compare", source)
    loaders = {THEIRS: "theirs", OURS: "ours", META: "meta"}
    sides = [Side(name, "load", (source, kind), size_bytes, source) for name, kind in loaders.items()]
    runs = take_turns(bench, sides, rounds)
    figures: list[Figure] = []
    for part, ending in ((0, ""), (1, ", then read")):
        peer = times(THEIRS + ending, runs[THEIRS], part=part)
        ours = [times(name + ending, runs[name], part=part, is_ours=True) for name in (OURS, META)]
        figures += [peer, *(against(figure, (peer, None)) for figure in ours)]
    for name in loaders:
        figures += memory(name, runs[name], is_ours=name != THEIRS)
    return figures


def measure_transposed(bench: Bench, rounds: int = ROUNDS) -> list[Figure]:
    """Fuse experts and transpose each on the way, beside fusing alone."""
    source = bench.checkpoint("moe", bench.moe, room=1)
    size_bytes = header_of(bench.moe).size_bytes
    bench.say(f"transposed: in turn with plain ones, {rounds} rounds after a comparison of all values")
    bench.check("compare_fused", source)
    names = {kind: f"state_dict of {kind} experts" for kind in ("plain", "transposed")}
    sides = [Side(name, "fuse", (source, kind), size_bytes, source) for kind, name in names.items()]
    runs = take_turns(bench, sides, rounds)
    plain, turned = (times(name, runs[name], is_ours=True) for name in names.values())
    peaks = memory(names["transposed"], runs[names["transposed"]], is_ours=True)
    return [plain, against(turned, (plain, TRANSPOSED_RATIO)), *peaks]


def measure_small(bench: Bench, rounds: int = ROUNDS) -> list[Figure]:
    """Load many small tensors into a module, opening and planning included, beside safetensors and torch."""
    header, path = small(bench.small), bench.work / "small" / "model.safetensors"
    bench.need_room(header.size_bytes)
    write_file(path, header)
    sizes = json.dumps(bench.small)
    bench.say(f"small: {len(header):,} tensors, in turn, {rounds} rounds after a comparison of all values")
    bench.check("compare_small", path, sizes)
    names = {
        (device, loader): f"{text} into a {'meta' if device == 'meta' else 'live'} module"
        for device in ("cpu", "meta")
        for loader, text in (("plainly", "load_file, load_state_dict"), ("ours", "wb.load"))
    }
    sides = [
        Side(name, "load_small", (path, sizes, *pair), 2 * header.size_bytes, path) for pair, name in names.items()
    ]
    runs = take_turns(bench, sides, rounds)
    figures: list[Figure] = []
    for device in ("cpu", "meta"):
        plain, ours = names[device, "plainly"], names[device, "ours"]
        other = times(plain, runs[plain])
        figures += [other, against(times(ours, runs[ours], is_ours=True), (other, SMALL_RATIO))]
    return figures


def measure_huge(bench: Bench, rounds: int = ROUNDS) -> list[Figure]:
    """Load one huge tensor, and convert it within a small budget: the memory is what matters."""
    header, path = huge(bench.huge_rows), bench.work / "huge" / "model.safetensors"
    bench.need_room(2 * header.size_bytes)
    bench.say(f"huge: one tensor of {header.size_bytes / 1e9:.2g} GB, {rounds} rounds; converted within 64 MB")
    write_file(path, header)
    os.sync()
    load = "wb, loaded and copied"
    size_bytes = header.size_bytes
    sides = [
        Side(READ, "read", (path.parent,), size_bytes, path),
        Side(load, "load_huge", (path, str(bench.huge_rows)), size_bytes, path),
    ]
    runs = take_turns(bench, sides, rounds)
    floor = times(READ, runs[READ])
    figures = [floor, against(times(load, runs[load], is_ours=True), (floor, READ_RATIO))]
    figures += memory(load, runs[load], extra_mb=size_bytes / 1e6 + HUGE_EXTRA_MB, is_ours=True)
    renamed: Figure | None = None
    for kind in ("renamed", "transposed"):
        name, run = f"wb.convert, {kind}", _convert_huge(bench, kind)
        figure = times(name, [run], is_ours=True)
        figures.append(figure if renamed is None else against(figure, (renamed, TURNED_RATIO)))
        renamed = figure
        figures += memory(name, [run], extra_mb=HUGE_BUDGET_BYTES / 1e6 + HUGE_EXTRA_MB, is_ours=True)
    return figures


def _convert_huge(bench: Bench, kind: str) -> Run:
    """Convert the huge tensor once; a round that does not count would tell no more of its memory."""
    source, output = bench.work / "huge", bench.work / "huge-converted"
    needed = huge(bench.huge_rows).size_bytes
    arguments = (source, output, kind, str(HUGE_BUDGET_BYTES))

    def check() -> None:
        bench.check("compare_huge", source, output, kind)

    return take_once(bench, Side(kind, "convert_huge", arguments, needed, source, output, check))
