"""Rows that write files: convert, revert, and save, each beside the plainest way to write the same bytes."""

from __future__ import annotations

from typing import Final

from bench.checkpoints import differing_tensors, file_hashes, wrong_tensors
from bench.inventories import header_of
from bench.measure import Figure
from bench.rounds import ROUNDS, Bench, Side, against, agree, memory, take_once, take_turns, times

COPY_RATIO: Final = 1.3
WRITE_RATIO: Final = 1.3
CONVERT_MB: Final = 400.0
SAVE_EXTRA_MB: Final = 300.0
PROCESSES: Final = 4
PARTS_RATIO: Final = 1.1

COPY: Final = "cp -r"
SYNCED: Final = "cp -r, then sync"
CONVERT: Final = "wb.convert"
ALONE: Final = "wb.convert, processor time"
SHARED: Final = f"wb.convert in {PROCESSES} processes, processor time"
RESAVE: Final = "from_pretrained, save_pretrained"
REVERT: Final = "wb.revert"
SAVE: Final = "wb.save"
SAVE_UNFORCED: Final = "wb.save, sync=False"
THEIR_SAVE: Final = "save_pretrained of transformers"
WRITE: Final = "the same bytes, written plainly"
FORCED: Final = "the same bytes, written and forced to disk"


def measure_convert(bench: Bench, rounds: int = ROUNDS) -> list[Figure]:
    """Fuse the experts from files to files, beside copying the files, and beside loading and saving with transformers.

    What the library saves is the layout that it loaded, not the fused one; it writes the same bytes.
    """
    source, size_bytes = bench.checkpoint("moe", bench.moe), header_of(bench.moe).size_bytes
    fused, copied, saved = (bench.work / name for name in ("fused", "copied", "saved"))
    bench.say(f"convert: in turn, {rounds} rounds after a comparison of all bytes")

    def check_fused() -> None:
        agree(wrong_tensors(source, fused, bench.moe.experts), "tensors converted wrongly")

    def check_saved() -> None:
        agree(differing_tensors(source, saved), "tensors saved differently by transformers")

    sides = [
        Side(COPY, "copy", (source, copied, "0"), size_bytes, source, copied),
        Side(SYNCED, "copy", (source, copied, "1"), size_bytes, source, copied),
        Side(CONVERT, "convert", (source, fused), size_bytes, source, fused, check_fused),
        Side(RESAVE, "resave", (source, saved), 2 * size_bytes, source, saved, check_saved),
    ]
    runs = take_turns(bench, sides, rounds)
    plain = times(COPY, runs[COPY])
    synced, peer = (against(times(name, runs[name]), (plain, None)) for name in (SYNCED, RESAVE))
    ours = against(times(CONVERT, runs[CONVERT], is_ours=True), (plain, COPY_RATIO), (synced, None), (peer, None))
    peaks = [*memory(RESAVE, runs[RESAVE]), *memory(CONVERT, runs[CONVERT], limit_mb=CONVERT_MB, is_ours=True)]
    return [plain, synced, peer, ours, *peaks]


def measure_convert_large(bench: Bench) -> list[Figure]:
    """Fuse the experts of a checkpoint four times the size, once, for its memory."""
    large = bench.moe._replace(layers=bench.layers_factor * bench.moe.layers)
    size_bytes = header_of(large).size_bytes
    source, fused = bench.checkpoint("large", large, room=4.4), bench.work / "fused-large"
    bench.say(f"convert-large: {size_bytes / 1e9:.1f} GB, once")

    def check() -> None:
        agree(wrong_tensors(source, fused, large.experts), "tensors converted wrongly")

    name = f"{CONVERT}, {size_bytes / 1e9:.1f} GB"
    run = take_once(bench, Side(name, "convert", (source, fused), size_bytes // 4, None, fused, check))
    return [times(name, [run], is_ours=True), *memory(name, [run], limit_mb=CONVERT_MB, is_ours=True)]


def measure_parts(bench: Bench, rounds: int = ROUNDS) -> list[Figure]:
    """Fuse the experts in several processes that share the output, beside one process: the processors' time of all.

    Every file has the SHA-256 that it has from one process. Imports do not count, and each process opens and plans
    anew: the model has twice the layers, so that this does not stand for a tenth of all.
    """
    twice = bench.moe._replace(layers=2 * bench.moe.layers)
    source, size_bytes = bench.checkpoint("twice", twice, room=2.1), header_of(twice).size_bytes
    alone, shared = bench.work / "alone", bench.work / "shared"
    bench.say(f"parts: in turn, {rounds} rounds after a comparison of all files")
    expected: dict[str, str] = {}

    def check() -> None:
        found = file_hashes(shared)
        agree((name for name in expected.keys() | found if found.get(name) != expected.get(name)), "files differ")

    sides = [
        Side(
            ALONE,
            "convert_in_processes",
            (source, alone, "1"),
            size_bytes,
            source,
            alone,
            lambda: expected.update(file_hashes(alone)),
        ),
        Side(SHARED, "convert_in_processes", (source, shared, str(PROCESSES)), size_bytes, source, shared, check),
    ]
    runs = take_turns(bench, sides, rounds)
    one = times(ALONE, runs[ALONE], is_ours=True)
    return [one, against(times(SHARED, runs[SHARED], is_ours=True), (one, PARTS_RATIO))]


def measure_revert(bench: Bench, rounds: int = ROUNDS) -> list[Figure]:
    """Undo the conversion, beside copying what is undone; each file that comes back has the SHA-256 that it had."""
    source, size_bytes = bench.checkpoint("moe", bench.moe, room=4), header_of(bench.moe).size_bytes
    fused, copied, back = (bench.work / name for name in ("fused", "copied", "back"))
    expected = file_hashes(source)
    bench.say(f"revert: in turn, {rounds} rounds after a comparison of all files")
    bench.timed("convert", 0, source, fused)

    def check() -> None:
        found = file_hashes(back)
        agree((name for name in expected if found.get(name) != expected[name]), "files are not what they were")

    sides = [
        Side(COPY, "copy", (fused, copied, "0"), size_bytes, fused, copied),
        Side(SYNCED, "copy", (fused, copied, "1"), size_bytes, fused, copied),
        Side(REVERT, "revert", (fused, back), size_bytes, fused, back, check),
    ]
    runs = take_turns(bench, sides, rounds)
    plain = times(f"{COPY} of the fused", runs[COPY])
    synced = against(times(SYNCED, runs[SYNCED]), (plain, None))
    ours = against(times(REVERT, runs[REVERT], is_ours=True), (plain, COPY_RATIO), (synced, None))
    return [plain, synced, ours, *memory(REVERT, runs[REVERT], limit_mb=CONVERT_MB, is_ours=True)]


def measure_save(bench: Bench, rounds: int = ROUNDS) -> list[Figure]:
    """Save a loaded model in the layout that it came from, beside a plain loop that writes the same bytes.

    `wb.save` forces its files to the disk unless it is told not to: each way stands beside the loop that does likewise.
    """
    source, size_bytes = bench.checkpoint("moe", bench.moe), header_of(bench.moe).size_bytes
    saved = bench.work / "saved"
    bench.say(f"save: in turn, {rounds} rounds after a comparison of all bytes")

    def check() -> None:
        agree(differing_tensors(source, saved), "tensors saved wrongly")

    sides = [
        Side(WRITE, "write", (source, saved, "0"), size_bytes, source, saved, check),
        Side(FORCED, "write", (source, saved, "1"), size_bytes, source, saved, check),
        Side(SAVE, "save", (source, saved, "1"), size_bytes, source, saved, check),
        Side(SAVE_UNFORCED, "save", (source, saved, "0"), size_bytes, source, saved, check),
        Side(THEIR_SAVE, "save_theirs", (source, saved), size_bytes, source, saved, check),
    ]
    runs = take_turns(bench, sides, rounds)
    plain = times(WRITE, runs[WRITE])
    forced, peer = (against(times(name, runs[name]), (plain, None)) for name in (FORCED, THEIR_SAVE))
    figures = [plain, forced, peer, *memory(THEIR_SAVE, runs[THEIR_SAVE])]
    for name in (SAVE, SAVE_UNFORCED):
        others = (plain, WRITE_RATIO), (forced, None), (peer, None)
        figures.append(against(times(name, runs[name], is_ours=True), *others))
        figures += memory(name, runs[name], extra_mb=SAVE_EXTRA_MB, is_ours=True)
    return figures
