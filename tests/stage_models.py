"""Pieces of one model in four processes, which save it together.

    python tests/stage_models.py FOLDER

Forks of one process that has imported torch, whose group is a fake: nothing is asked of it but its store, which is a
real one. What each rank was refused with, case by case, is printed as a line of JSON.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from spread_models import RULES, Net, published, warm_up
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import weighbridge as wb

RANKS: Final = 4
TIMEOUT_S: Final = 20.0
HALVES: Final = (("embed", "blocks.0", "steps"), ("blocks.1", "head"))
"""Two stages: the modules and buffers of each."""

FOUR: Final = (("embed", "blocks.0"), ("blocks.1",), (), ("head", "steps"))
"""Four stages, of which one has nothing."""


def stage_of(model: Net, kept: tuple[str, ...]) -> Net:
    """Leave in a model what belongs to a stage, and put empty modules in the place of all else."""
    for name in ("embed", "head"):
        if name not in kept:
            setattr(model, name, nn.Identity())
    for number in range(len(model.blocks)):
        if f"blocks.{number}" not in kept:
            model.blocks[number] = nn.Identity()
    if "steps" not in kept:
        del model.steps
    return model


def net(device: str, kept: tuple[str, ...]) -> Net:
    with torch.device(device):
        return stage_of(Net(), kept)


def load(stage: Net, folder: Path) -> Net:
    """Load a stage by its part of the plan for the whole."""
    with torch.device("meta"):
        whole = Net()
    plan = wb.plan(folder / "published", RULES, target=whole)
    plan.restrict(list(stage.state_dict())).load_into(stage)
    return stage


def save(model: nn.Module, folder: Path, name: str, **options: Any) -> None:
    wb.save(model, folder / name, stages=True, timeout=TIMEOUT_S, sync=False, **options)


# ---- ways to make stages ----


def four(rank: int, mesh: DeviceMesh) -> Net:
    """Four stages, of which one has nothing."""
    return net("meta", FOUR[rank])


def replicas(rank: int, mesh: DeviceMesh) -> Net:
    """Two stages, each of them twice."""
    return net("meta", HALVES[rank // 2])


def rows(rank: int, mesh: DeviceMesh) -> Net:
    """Two stages, of which FSDP2 shards each."""
    model = net("meta", HALVES[rank // 2])
    for block in model.blocks:
        if not isinstance(block, nn.Identity):
            fully_shard(block, mesh=mesh["inner"])
    fully_shard(model, mesh=mesh["inner"])
    return model


def tensors(rank: int, mesh: DeviceMesh) -> Net:
    """Two stages, each of which has columns, rows, and some of the experts."""
    model = net("meta", HALVES[rank // 2])
    block, inner = model.blocks[rank // 2], mesh["inner"]
    parallelize_module(block, inner, {"qkv": ColwiseParallel(), "out": RowwiseParallel()}, src_data_rank=None)
    for name in ("gate_up", "down"):
        whole = distribute_tensor(getattr(block, name), inner, [Shard(0)], src_data_rank=None)
        setattr(block, name, nn.Parameter(whole))
    return model


WAYS: Final = {"four": four, "replicas": replicas, "rows": rows, "tensors": tensors}


def save_way(way: str, rank: int, mesh: DeviceMesh, folder: Path) -> None:
    """Save as it came, and through the mapping, which has no record to go by."""
    model = load(WAYS[way](rank, mesh), folder)
    save(model, folder, f"{way} as loaded")
    save(model, folder, f"{way} published", mapping=RULES, max_shard_size=1500, digests=True)


# ---- what is tied ----


def pair(*, tied: bool) -> nn.Sequential:
    """An embedding and a head."""
    whole = nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 3, bias=False))
    for layer in whole:
        nn.init.ones_(layer.weight)
    if tied:
        whole[1].weight = whole[0].weight
    return whole


def save_tied(rank: int, folder: Path) -> None:
    """Save weights that one process would tie, and that lie in different stages; then with a head of its own."""
    source = {"0.weight": torch.arange(6.0).reshape(3, 2)}
    stage = pair(tied=False)
    stage[1 - rank % 2] = nn.Identity()
    wb.plan(source, [], target=pair(tied=True)).restrict(list(stage.state_dict())).load_into(stage)
    save(stage, folder, "tied")
    if rank % 2:
        with torch.no_grad():
            stage[1].weight.mul_(2)
    save(stage, folder, "untied")


def save_tied_in_one(rank: int, folder: Path) -> None:
    """The last stage has the embedding as well, tied to its head, as a pipeline of the transformers library has it."""
    whole = pair(tied=True)
    if rank == 0:
        wb.save(whole, folder / "tied in one, alone", [], sync=False)
    if rank < RANKS - 1:
        whole[1] = nn.Identity()
    save(whole, folder, "tied in one", mapping=[])


def save_scalars(rank: int, folder: Path) -> None:
    """A scalar has no smaller part than all of it."""
    torch.manual_seed(0)
    whole = nn.Sequential(*(nn.BatchNorm1d(3 + number) for number in range(RANKS)))
    for number, layer in enumerate(whole):
        layer.num_batches_tracked.fill_(number + 5)
    if rank == 0:
        wb.save(whole, folder / "scalars, alone", [], sync=False)
    for number in range(RANKS):
        if number not in (rank, 0):
            whole[number] = nn.Identity()
    save(whole, folder, "scalars", mapping=[])


def save_outside(folder: Path) -> None:
    """Two of the ranks are not in the mesh of what all of them save."""
    layer = nn.Linear(3, 4, bias=False)
    nn.init.eye_(layer.weight)
    spread = distribute_tensor(layer.weight.detach(), DeviceMesh("cpu", [0, 1]), [Shard(0)], src_data_rank=None)
    layer.weight = nn.Parameter(spread)
    wb.save(layer, folder / "outside", [], timeout=TIMEOUT_S, sync=False)


# ---- what is refused ----


def refusal(act: Callable[[], Any]) -> list[str]:
    try:
        act()
    except wb.WeighbridgeError as problem:
        return [problem.code, *getattr(problem, "codes", ()), str(problem)]
    return ["nothing was refused"]


def refusals(rank: int, folder: Path) -> dict[str, list[str]]:
    """What the ranks say where their stages do not belong together; no directory is there afterwards."""

    def other_shape() -> None:
        save(nn.Linear(3, 2 + rank // 3), folder, "other shape", mapping=[])

    def other_values() -> None:
        layer = nn.Linear(3, 2)
        nn.init.constant_(layer.weight, rank // 3)
        save(layer, folder, "other values", mapping=[])

    def tied_on_some() -> None:
        save(pair(tied=rank > 0), folder, "tied on some", mapping=[])

    def missing() -> None:
        save(load(net("meta", FOUR[min(rank, 2)]), folder), folder, "missing")

    def half_of_it() -> None:
        wb.save(load(net("meta", FOUR[0]), folder), folder / "half of it", timeout=TIMEOUT_S)

    def not_all() -> None:
        model = rows_of_all()
        wb.load(model, folder / "published", RULES, group=dist.group.WORLD, timeout=TIMEOUT_S)
        wb.save(model, folder / "not all", RULES, timeout=TIMEOUT_S, stages=rank > 0)

    def absent() -> None:
        if rank:
            wb.save(nn.Linear(3, 2), folder / "absent", [], timeout=0.5, stages=True)

    def other_files() -> None:
        place = folder / ("published" if rank else "published otherwise")
        wb.load(rows_of_all(), place, RULES, group=dist.group.WORLD, timeout=TIMEOUT_S)

    def other_rules() -> None:
        rules = RULES if rank else [*RULES.transforms, wb.WeightRenaming("^nothing", "something")]
        wb.load(rows_of_all(), folder / "published", rules, group=dist.group.WORLD, timeout=TIMEOUT_S)

    def missing_file() -> None:
        place = folder / ("published" if rank != 1 else "nowhere")
        wb.load(rows_of_all(), place, RULES, group=dist.group.WORLD, timeout=TIMEOUT_S)

    def no_room() -> None:
        stage = load(net("meta", FOUR[rank]), folder)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        if rank == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
        try:
            save(stage, folder, "no room")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    def absent_from_load() -> None:
        if rank:
            values = nn.Linear(3, 2).state_dict()
            wb.load(nn.Linear(3, 2), values, [], group=dist.group.WORLD, timeout=0.5)

    def of_no_group() -> None:
        torch.manual_seed(0)
        wb.save(nn.Linear(3, 2), folder / "of two ranks", [], stages=True, group=GROUPS[0], sync=False)

    together = (other_shape, other_values, tied_on_some, missing, half_of_it, not_all)
    apart = (other_files, other_rules, missing_file, no_room, of_no_group, absent, absent_from_load)
    return {act.__name__: refusal(act) for act in (*together, *apart)}


def rows_of_all() -> Net:
    """The whole model, of which each rank has rows."""
    model = net("meta", ("embed", "blocks.0", "blocks.1", "head", "steps"))
    fully_shard(model, mesh=GROUPS[1])
    return model


GROUPS: list[Any] = []
"""A group of the first two ranks, and a mesh of all of them."""


# ---- processes ----


def found_by(rank: int, folder: Path) -> dict[str, Any]:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("stage", "inner"))
    for way in WAYS:
        save_way(way, rank, mesh, folder)
    GROUPS.extend([dist.new_group([0, 1]), init_device_mesh("cpu", (RANKS,))])
    save_tied(rank, folder)
    save_tied_in_one(rank, folder)
    save_scalars(rank, folder)
    save_outside(folder)
    return {"refused": refusals(rank, folder)}


def work(rank: int, folder: Path, pipe: Any) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", pipe.recv(), RANKS, is_master=False)
    dist.init_process_group("fake", store=store, rank=rank, world_size=RANKS)
    try:
        found = found_by(rank, folder)
    except Exception:
        found = {"raised": traceback.format_exc()}
    pipe.send({"rank": rank, **found})
    os._exit(0)


def main(folder: Path) -> None:
    warm_up(folder)
    tensors = published()
    tensors["steps"] += 1
    (folder / "published otherwise").mkdir()
    save_file(tensors, folder / "published otherwise" / "model.safetensors")
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe() for _ in range(RANKS)]
    ranks = [context.Process(target=work, args=(rank, folder, there)) for rank, (_, there) in enumerate(pipes)]
    for process in ranks:
        process.start()
    store = dist.TCPStore("127.0.0.1", 0, RANKS, is_master=True, wait_for_workers=False)
    for here, there in pipes:
        there.close()
        here.send(store.port)
    for here, _ in pipes:
        print(json.dumps(here.recv()), flush=True)
    for process in ranks:
        process.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
