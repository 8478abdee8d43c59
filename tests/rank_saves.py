"""Models that transformers spreads over two processes, saved by `save_pretrained` of both; for `rank_loads`.

Each case leaves a directory, and beside it what one process makes of the same; or what each rank was refused with.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard

import weighbridge as wb
from weighbridge.integrations import transformers as wbt

SIZES: Final = {
    "fsdp": {"fsdp_size": 2},
    "tp": {"tp_size": 2},
    "ep": {"fsdp_size": 2, "ep_size": 2},
    "pp": {"pp_size": 2},
}
"""Ways to spread a model over two processes, as the library's configuration says them."""

LAYOUTS: Final = ("as loaded", "published", "as is")


def language(path: Path, sizes: dict[str, int] | None = None, **arguments: Any) -> Any:
    """Load a model of a language, by one process or by all."""
    from transformers import Qwen3MoeForCausalLM
    from transformers.distributed import DistributedConfig

    spread = {} if sizes is None else {"distributed_config": DistributedConfig(**sizes)}
    return wbt.from_pretrained(Qwen3MoeForCausalLM, path, **spread, **arguments)


def save(model: Any, out: Path, **options: Any) -> None:
    wbt.save_pretrained(model, out, sync=False, timeout=60, **options)


def save_all(rank: int, folder: Path, make: Callable[..., Any], train: Callable[[Any], Any]) -> dict[str, Any]:
    """Save in each way, and say what was refused, and which rank holds what is compared.

    Args:
        rank: The number of this process.
        folder: Where the published model lies, under `language`.
        make: Makes a model that was never loaded.
        train: Takes a step with a model.
    """
    if rank == 0:
        save_alone(folder, make)
    for mode, sizes in SIZES.items():
        for layout in LAYOUTS:
            save(language(folder / "language", sizes), folder / f"{mode}, {layout}", layout=layout)
    for mode in ("fsdp", "pp"):
        for dtype, name in ((torch.bfloat16, "rounded"), (None, "tied")):
            path = folder / ("language" if name == "rounded" else "language tied")
            save(language(path, SIZES[mode], dtype=dtype), folder / f"{mode}, {name}")
    fresh = make()
    for part in (*fresh.model.layers, fresh):
        fully_shard(part, mesh=dist.init_device_mesh("cpu", (2,)))
    save(fresh, folder / "fsdp, fresh", max_shard_size="8KB", digests=True)
    save(train(language(folder / "language", SIZES["fsdp"])), folder / "fsdp, trained")
    return refusals(rank, folder)


def save_alone(folder: Path, make: Callable[..., Any]) -> None:
    for layout in LAYOUTS:
        save(language(folder / "language"), folder / f"alone, {layout}", layout=layout)
    save(language(folder / "language", dtype=torch.bfloat16), folder / "alone, rounded")
    save(language(folder / "language tied"), folder / "alone, tied")
    save(make(), folder / "alone, fresh", max_shard_size="8KB", digests=True)


def refusals(rank: int, folder: Path) -> dict[str, Any]:
    """What each rank is refused with where one of them would save something else."""
    model = language(folder / "language", SIZES["fsdp"])
    found = {"other layout": refused_to_save(model, folder / "other layout", layout=LAYOUTS[1 + rank])}
    model.config.max_position_embeddings += rank  # as long as it was, when it is written
    found["other config"] = refused_to_save(model, folder / "other config")
    model.config.max_position_embeddings -= rank
    model.generation_config.max_new_tokens = 7 + rank
    found["other generation"] = refused_to_save(model, folder / "other generation")
    found["other files"] = refused_to_load(folder / ("language" if rank else "language without a router"))
    return found | {
        "made apart": made_apart(rank, folder, alike=False),
        "made alike": made_apart(rank, folder, alike=True),
    }


def made_apart(rank: int, folder: Path, *, alike: bool) -> list[str]:
    """Load what lacks a weight that all processes hold, with one seed on them or with several, and save it."""
    torch.manual_seed(0 if alike else rank)
    model = language(folder / "language without a router", SIZES["tp"], partial=True)
    return refused_to_save(model, folder / ("made alike" if alike else "made apart"))


def refused_to_load(path: Path) -> list[str]:
    try:
        language(path, SIZES["fsdp"], partial=True, group=dist.group.WORLD, timeout=60)
    except wb.WeighbridgeError as problem:
        return [problem.code, str(problem)]
    return ["nothing was refused", ""]


def refused_to_save(model: Any, out: Path, **options: Any) -> list[str]:
    try:
        save(model, out, **options)
    except wb.WeighbridgeError as problem:
        return [problem.code, str(problem)]
    return ["nothing was refused", ""]
