"""Models that torch spreads over processes, and what each process finds when weighbridge loads them.

    python tests/spread_models.py fake 2,4 FOLDER      each process alone: its mesh is real, and nobody answers
    python tests/spread_models.py gloo 2,4 FOLDER      all processes at once, which train a step together

Forks of one process that has imported torch, since a test of eight processes would mostly import. What each rank found
is printed as a line of JSON.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from counting import Counting
from safetensors.torch import save_file
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.distributed.tensor.placement_types import _StridedShard

import weighbridge as wb

EXPERTS, WIDTH, INNER, ROWS = 4, 6, 8, 17


class Block(nn.Module):
    """Fused projections, and stacked experts that are fused and turned."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 24, bias=False)
        self.out = nn.Linear(24, WIDTH, bias=False)
        self.gate_up = nn.Parameter(torch.empty(EXPERTS, 2 * INNER, WIDTH))
        self.down = nn.Parameter(torch.empty(EXPERTS, WIDTH, INNER))
        self.norm = nn.LayerNorm(WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.out(self.qkv(x))
        return self.norm(x)


class Net(nn.Module):
    """Embedding, blocks, and a head of a number of rows that nothing divides."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(ROWS, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(WIDTH, ROWS, bias=False)
        self.register_buffer("steps", torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


RULES = wb.Mapping(
    [
        wb.WeightConverter(["q.weight", "k.weight", "v.weight"], "qkv.weight", [wb.Concatenate(0)]),
        wb.WeightConverter("o.weight", "out.weight", [wb.Transpose(0, 1)]),
        wb.WeightConverter(["experts.*.gate", "experts.*.up"], "gate_up", [wb.MergeModulelist(0), wb.Concatenate(1)]),
        wb.WeightConverter("experts.*.down", "down", [wb.Transpose(0, 1), wb.MergeModulelist(0)]),
    ],
    name="net",
)


def published() -> dict[str, torch.Tensor]:
    """The weights as they are published, all numbers different."""
    shapes = {"embed.weight": (ROWS, WIDTH), "head.weight": (ROWS, WIDTH), "steps": (3,)}
    for i in range(2):
        block = {f"{name}.weight": (rows, WIDTH) for name, rows in (("q", 12), ("k", 6), ("v", 6))}
        block |= {"o.weight": (24, WIDTH), "norm.weight": (WIDTH,)}
        for expert in range(EXPERTS):
            block |= {f"experts.{expert}.{name}": (INNER, WIDTH) for name in ("gate", "up", "down")}
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
    made, done = {}, 0
    for key, shape in shapes.items():
        count = torch.Size(shape).numel()
        made[key] = torch.arange(done, done + count, dtype=torch.float32).reshape(shape) / 100
        done += count
    return made


def fused(source: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same as the model has them, in plain torch."""
    made = {key: source[key] for key in ("embed.weight", "head.weight", "steps")}
    for i in range(2):
        at = f"blocks.{i}."
        made[f"{at}qkv.weight"] = torch.cat([source[f"{at}{name}.weight"] for name in "qkv"])
        made[f"{at}out.weight"] = source[f"{at}o.weight"].T.contiguous()
        made[f"{at}norm.weight"] = source[f"{at}norm.weight"]
        experts = [[source[f"{at}experts.{e}.{name}"] for e in range(EXPERTS)] for name in ("gate", "up", "down")]
        made[f"{at}gate_up"] = torch.stack([torch.cat(pair) for pair in zip(*experts[:2], strict=True)])
        made[f"{at}down"] = torch.stack([down.T for down in experts[2]])
    return made


def publish(folder: Path) -> Path:
    """Write them into a folder, in two files."""
    tensors, names = published(), {}
    (folder / "published").mkdir()
    for number in (1, 2):
        keys = sorted(tensors)[number - 1 :: 2]
        name = f"model-{number:05}-of-00002.safetensors"
        save_file({key: tensors[key] for key in keys}, folder / "published" / name)
        names |= dict.fromkeys(keys, name)
    (folder / "published" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return folder


# ---- ways to spread a model ----


def by_rows(model: Net, world: int) -> None:
    """FSDP2: rows of everything; the last processes hold fewer, or none."""
    _shard(model, init_device_mesh("cpu", (world,)))


def _shard(model: Net, mesh: Any) -> None:
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def hybrid(model: Net, world: int) -> None:
    """HSDP: two replicas, each of which is sharded."""
    _shard(model, init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("replicate", "shard")))


def by_tensors(model: Net, world: int) -> None:
    """Tensor parallelism: columns, rows, and the packed gate and up of each expert."""
    _parallelize(model, init_device_mesh("cpu", (world,), mesh_dim_names=("tp",)))


def _parallelize(model: Net, mesh: Any) -> None:
    for block in model.blocks:
        parallelize_module(block, mesh, {"qkv": ColwiseParallel(), "out": RowwiseParallel()}, src_data_rank=None)
        spread = {"gate_up": _StridedShard(1, split_factor=2), "down": Shard(2)}
        for name, placement in spread.items():
            whole = getattr(block, name)
            setattr(block, name, nn.Parameter(distribute_tensor(whole, mesh, [placement], src_data_rank=None)))


def by_experts(model: Net, world: int) -> None:
    """Each process has some of the experts."""
    mesh = init_device_mesh("cpu", (world,), mesh_dim_names=("ep",))
    for block in model.blocks:
        for name in ("gate_up", "down"):
            whole = getattr(block, name)
            setattr(block, name, nn.Parameter(distribute_tensor(whole, mesh, [Shard(0)], src_data_rank=None)))


def rows_of_tensors(model: Net, world: int) -> None:
    """FSDP2 over tensor parallelism, even and uneven sizes."""
    mesh = init_device_mesh("cpu", (world // 2, 2), mesh_dim_names=("dp", "tp"))
    plan = {"embed": RowwiseParallel(), "head": ColwiseParallel()}
    for block in model.blocks:
        parallelize_module(block, mesh["tp"], {"qkv": ColwiseParallel(), "out": RowwiseParallel()}, src_data_rank=None)
    parallelize_module(model, mesh["tp"], plan, src_data_rank=None)
    _shard(model, mesh["dp"])


def packed_and_rows(model: Net, world: int) -> None:
    """Packed tensor parallelism with FSDP2 on the same axis, which torch itself gathers wrongly."""
    mesh = init_device_mesh("cpu", (world // 2, 2), mesh_dim_names=("dp", "tp"))
    for block in model.blocks:
        for name in ("qkv", "out"):
            layer = getattr(block, name)
            placement = [_StridedShard(0, split_factor=2)]
            layer.weight = nn.Parameter(distribute_tensor(layer.weight, mesh["tp"], placement, src_data_rank=None))
    _shard(model, mesh["dp"])


def on_two_axes(model: Net, world: int) -> None:
    """A mesh whose axes cut two axes of a tensor, or the same one twice, or the one and not the other."""
    mesh = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("a", "b"))
    both = {"gate_up": [Shard(0), Shard(1)], "down": [Shard(2), Replicate()]}
    for block in model.blocks:
        for name, placements in both.items():
            whole = getattr(block, name)
            setattr(block, name, nn.Parameter(distribute_tensor(whole, mesh, placements, src_data_rank=None)))
    twice = distribute_tensor(model.head.weight, mesh, [Shard(0), Shard(0)], src_data_rank=None)
    model.head.weight = nn.Parameter(twice)


WAYS: dict[str, tuple[Callable[[Net, int], None], tuple[int, ...]]] = {
    "rows": (by_rows, (1, 2, 4, 8)),
    "hybrid": (hybrid, (4,)),
    "tensors": (by_tensors, (1, 2, 4, 8)),
    "experts": (by_experts, (1, 2, 4, 8)),
    "rows of tensors": (rows_of_tensors, (4, 6, 8)),
    "packed and rows": (packed_and_rows, (4, 6)),
    "two axes": (on_two_axes, (4, 6)),
}
"""Each way to spread the model, and for how many processes."""


def spread(way: str, world: int, device: str, values: dict[str, torch.Tensor] | None = None) -> Net:
    """Make the model, with values if it is to have some, and spread it."""
    with torch.device(device):
        model = Net()
    if values is not None:
        model.load_state_dict(values)
    WAYS[way][0](model, world)
    return model


def here(model: nn.Module) -> dict[str, torch.Tensor]:
    """What this process holds, by name."""
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {key: (t.to_local() if isinstance(t, DTensor) else t).detach() for key, t in state.items()}


def differing(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> list[str]:
    wrong = [key for key in wanted if found[key].shape != wanted[key].shape or not found[key].equal(wanted[key])]
    return wrong + sorted(found.keys() ^ wanted.keys())


# ---- what a rank does ----


def load_each(way: str, world: int, folder: Path) -> dict[str, Any]:
    """Load a meta model and a live one, and compare what is here with what torch puts here of the whole values."""
    wanted = here(spread(way, world, "cpu", fused(published())))
    found: dict[str, Any] = {}
    for device in ("meta", "cpu"):
        model = spread(way, world, device)
        kinds = {key: type(tensor) for key, tensor in model.named_parameters()}
        counting = Counting(wb.open(folder))
        report = wb.load(model, counting, RULES, copy=True)
        found[f"{device} reads"] = counting.count
        found[device] = differing(here(model), wanted)
        found[f"{device} kinds"] = kinds == {key: type(tensor) for key, tensor in model.named_parameters()}
        found["said"] = report.to_dict().get("portion")
        found["parts"] = {key: part.to_dict() for key, part in wb.parts(model).items()}
    return found


def train(way: str, world: int, folder: Path) -> dict[str, Any]:
    """Take one step with the loaded model: the loss and what comes of a weight are those of one process."""
    model = spread(way, world, "meta")
    wb.load(model, folder, RULES)
    loss, weight = step(model)
    with torch.no_grad():
        model(torch.arange(5).reshape(1, 5))  # leaves whole parameters in the place of shards
    wb.load(model, folder, RULES)
    wrong = differing(here(model), here(spread(way, world, "cpu", fused(published()))))
    return {"loss": loss, "norm": weight, "again": wrong}


def save_each(way: str, world: int, folder: Path) -> None:
    """Save a loaded model in the layout that it came in, and through its mapping."""
    model = spread(way, world, "meta")
    wb.load(model, folder / "published", RULES)
    out = folder / f"saved {way} {world}"
    wb.save(model, out / "as loaded", sync=False)
    wb.save(model, out / "published", RULES, max_shard_size=1500, digests=True, sync=False)


def save_trained(way: str, world: int, folder: Path) -> None:
    model = spread(way, world, "meta")
    wb.load(model, folder / "published", RULES)
    step(model)
    wb.save(model, folder / f"saved {way} {world}" / "trained", sync=False)


def save_tied(world: int, folder: Path) -> dict[str, Any]:
    """Save tied weights, then those of the same model with a head that has learnt something of its own."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 3, bias=False))
    model[1].weight = model[0].weight
    fully_shard(model, mesh=init_device_mesh("cpu", (world,)))
    wb.load(model, {"0.weight": torch.arange(6.0).reshape(3, 2)}, [])
    wb.save(model, folder / "tied", sync=False)
    shard = model[0].weight
    model[1].weight = nn.Parameter(shard.detach().clone())
    wb.save(model, folder / "untied but equal", sync=False)
    with torch.no_grad():
        model[1].weight.mul_(2)
    wb.save(model, folder / "untied", sync=False)
    return {"rows": shard.to_local().shape[0]}


def step(model: Net) -> tuple[float, float]:
    """One step of plain gradient descent; the loss, and the sum of the first norm's weights then."""
    x = torch.arange(10).reshape(2, 5) % ROWS
    loss = model(x).float().square().mean()
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.sub_(parameter.grad, alpha=1e-3)
    norm = model.blocks[0].norm.weight
    return loss.item(), (norm.full_tensor() if isinstance(norm, DTensor) else norm).sum().item()


def refuse_flat() -> str:
    """The code with which a model that FSDP1 shards is refused."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    model = FullyShardedDataParallel(nn.Linear(3, 8), device_id=torch.device("cpu"))
    try:
        wb.load(model, {"weight": torch.zeros(8, 3), "bias": torch.zeros(8)}, [])
    except wb.WeighbridgeError as refused:
        return refused.code
    return "nothing was refused"


TRAINED = ("rows", "hybrid")
SAVED_BY_8 = ("rows", "tensors", "experts", "rows of tensors")


def run_way(backend: str, way: str, world: int, folder: Path) -> dict[str, Any]:
    """Load; where there are other processes, save as well, and train; many of them save alone, and not every way."""
    if backend == "fake":
        return load_each(way, world, folder / "published")
    if world < 8 or way in SAVED_BY_8:
        save_each(way, world, folder)
    found = load_each(way, world, folder / "published") if world < 8 else {}
    if way in TRAINED and world < 8:
        found |= train(way, world, folder / "published")
        save_trained(way, world, folder)
    return found


def work(backend: str, world: int, rank: int, folder: str, out: Any) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store-{world}", world)
    if backend == "fake":
        from torch.testing._internal.distributed.fake_pg import FakeStore

        store = FakeStore()
    dist.init_process_group(backend, store=store, rank=rank, world_size=world)
    found: dict[str, Any] = {"rank": rank, "world": world}
    for way, (_, worlds) in WAYS.items():
        if world in worlds:
            try:
                found[way] = run_way(backend, way, world, Path(folder))
            except Exception:
                found[way] = {"raised": traceback.format_exc()}
    if backend == "gloo" and world == 2:
        found["flat"] = refuse_flat()
        found["tied"] = save_tied(world, Path(folder))
    out.send(found)
    dist.destroy_process_group()
    out.close()
    os._exit(0)


def warm_up(folder: Path) -> None:
    """Do all of it once in the process that is forked then: each fork would import what is imported when it is used."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=1)
    model = spread("rows", 1, "meta")
    wb.load(model, folder / "published", RULES)
    with tempfile.TemporaryDirectory() as out:
        wb.save(model, out, sync=False)
    dist.destroy_process_group()


def main(backend: str, worlds: str, folder: str) -> None:
    warm_up(Path(folder))
    context = multiprocessing.get_context("fork")
    for world in map(int, worlds.split(",")):
        ends = [context.Pipe(duplex=False) for _ in range(world)]
        ranks = [
            context.Process(target=work, args=(backend, world, rank, folder, writing))
            for rank, (_, writing) in enumerate(ends)
        ]
        for process in ranks:
            process.start()
        for reading, writing in ends:
            writing.close()
            print(json.dumps(reading.recv()), flush=True)
        for process in ranks:
            process.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
