"""The row of an accelerator: a mixture of experts brought to its memory, beside what others do with the same files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench.inventories import header_of
from bench.measure import Figure, RunFailedError
from bench.rounds import Bench, Side, against, take_turns, times
from bench.work_devices import WAYS

OURS: Final = {
    "plain": "wb, as it is",
    "fused": "wb, fused",
    "transposed": "wb, fused and transposed",
    "model of ours": "wbt.from_pretrained(device=)",
}
THEIRS: Final = {
    "safetensors": "safetensors load_file(device=)",
    "fastsafetensors": "fastsafetensors",
    "instanttensor": "instanttensor",
    "model of theirs": "from_pretrained(device_map=) of transformers",
}
OPTIONAL: Final = ("fastsafetensors", "instanttensor")
BOUND: Final = "as many bytes from pinned memory"


def measure_cuda(bench: Bench, rounds: int = 3, device: str = "cuda:0") -> list[Figure]:
    """Bring a mixture of experts to an accelerator: as it is, fused, transposed, and as a model.

    Raises:
        RunFailedError: If there is no such device here, or what we bring there is wrong.
    """
    import torch

    is_cuda = torch.device(device).type == "cuda"
    if is_cuda and not torch.cuda.is_available():
        raise RunFailedError("there is no CUDA device here")
    source, size_bytes = bench.checkpoint("moe", bench.moe, room=1), header_of(bench.moe).size_bytes
    card = torch.cuda.get_device_name(device) if is_cuda else device
    bench.say(f"cuda: {size_bytes / 1e9:.1f} GB to {card}, in turn, {rounds} rounds after a comparison of all values")
    ways = list(_working(bench, source, device))
    sides = [Side(BOUND, "pinned", (str(size_bytes), device), 0)]
    sides += [Side(way, "to_device", (source, way, device), 0, source) for way in ways]
    runs = take_turns(bench, sides, rounds)
    bound = times(BOUND, runs[BOUND])
    theirs = {way: against(times(THEIRS[way], runs[way]), (bound, None)) for way in ways if way in THEIRS}
    figures = [bound, *theirs.values()]
    for way, name in OURS.items():
        peer = theirs["model of theirs" if way == "model of ours" else "safetensors"]
        figures.append(against(times(name, runs[way], is_ours=True), (bound, None), (peer, None)))
    return figures


def _working(bench: Bench, source: Path, device: str) -> Iterator[str]:
    """Yield the ways that bring the right values; say which of the optional ones do not, and why."""
    for way in WAYS:
        try:
            bench.check("compare_on_device", source, way, device)
        except RunFailedError as problem:
            if way not in OPTIONAL:
                raise
            bench.say(f"left out: {way}, {str(problem).splitlines()[-1]}")
        else:
            yield way
