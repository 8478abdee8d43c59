"""Rows of what a user waits for: a model's first load in a fresh process, and commands from start to end."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Final

from bench.checkpoints import write_checkpoint
from bench.inventories import Moe, header_of
from bench.measure import Figure, Run
from bench.rounds import ROUNDS, SHARD_BYTES, Bench, Side, against, take_turns, times

FIRST_RATIOS: Final = {"moe": 0.6, "dense": 0.9}
CLASSES: Final = {"moe": "Qwen3MoeForCausalLM", "dense": "LlamaForCausalLM"}
INSPECT_S: Final = 0.5
PLAN_COMMAND_S: Final = 1.0

SPARSE: Final = Moe(expert_intermediate=608)
"""Sizes of 4.0 GB, of which only the headers are on the disk."""

COMMAND: Final = "from weighbridge.cli import main; raise SystemExit(main())"
"""What the installed `weighbridge` script does."""

NAMES: Final = {"theirs": "from_pretrained of transformers", "ours": "wbt.from_pretrained"}


def measure_first(bench: Bench, rounds: int = ROUNDS, kinds: Collection[str] = tuple(FIRST_RATIOS)) -> list[Figure]:
    """Load a fused mixture of experts, and a dense model, for the first time in a process, imports of ours included."""
    figures: list[Figure] = []
    both = {"moe": bench.moe, "dense": bench.dense}
    for name, sizes in ((kind, both[kind]) for kind in kinds):
        source, size_bytes = bench.checkpoint(name, sizes, room=1), header_of(sizes).size_bytes
        bench.say(f"first: {name}, in turn, {rounds} rounds after a comparison of all values")
        bench.check("compare", source)
        sides = [
            Side(f"{said}, {name}", "bench.first", (source, loader, CLASSES[name]), size_bytes, source)
            for loader, said in NAMES.items()
        ]
        runs = take_turns(bench, sides, rounds)
        peer, ours = (times(side.name, runs[side.name], is_ours=side is sides[1]) for side in sides)
        figures += [peer, against(ours, (peer, FIRST_RATIOS[name]))]
    return figures


def measure_inspect(bench: Bench, rounds: int = 11) -> list[Figure]:
    """Time `weighbridge inspect` and `weighbridge plan` as whole processes, on files that hold their headers alone."""
    place = bench.work / "sparse"
    write_checkpoint(place, SPARSE, SHARD_BYTES, sparse=True)
    bench.say(f"inspect: 4.0 GB in {len(list(place.glob('*.safetensors')))} shards, {rounds} processes of each command")
    figures = []
    for name, arguments, limit in (
        ("weighbridge inspect, 4.0 GB", ("inspect", place), INSPECT_S),
        ("weighbridge plan, 4.0 GB", ("plan", place, "qwen3_moe"), PLAN_COMMAND_S),
    ):
        _run(bench, *arguments)
        walls = tuple(_run(bench, *arguments).wall_s for _ in range(rounds))
        figures.append(Figure(name, "s", walls, limit))
    return figures


def _run(bench: Bench, *arguments: str | Path) -> Run:
    return bench.python("-c", COMMAND, *arguments)
