"""What ranks of a measured process do with a mixture of experts that is spread over them: load it, and save it.

fsdp    rows of everything
tp      columns and rows, gate and up of each expert packed; norms and routers on every rank
tp-unpacked     the same, but for gate and up, which torch's own checkpoints have no way to say packed
ep      experts dealt out, the rest on every rank
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import weighbridge as wb
from bench.inventories import Moe, moe, moe_mapping
from bench.rank_jobs import RANKS, Parts, run_ranks
from bench.work_models import set_up

if TYPE_CHECKING:
    import torch

PIECE_BYTES: Final = 2**23
COLUMNS: Final = ("q_proj.weight", "k_proj.weight", "v_proj.weight", "embed_tokens.weight", "lm_head.weight")


def _placement(way: str, key: str) -> Any:
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor.placement_types import _StridedShard

    if way == "fsdp" or (way == "ep" and ".experts." in key):
        return Shard(0)
    if way.startswith("tp"):
        if key.endswith("gate_up_proj"):
            return _StridedShard(1, split_factor=2) if way == "tp" else Shard(1)
        if key.endswith(".experts.down_proj"):
            return Shard(2)
        if key.endswith(COLUMNS):
            return Shard(0)
        if key.endswith("o_proj.weight"):
            return Shard(1)
    return Replicate()


def spread_model(way: str, header: wb.Header) -> torch.nn.Module:
    """Make a model of a header's tensors on the meta device, spread over the ranks."""
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_tensor

    mesh, root = init_device_mesh("cpu", (torch.distributed.get_world_size(),)), torch.nn.Module()
    for key, spec in header.items():
        *path, name = key.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, torch.nn.Module())
            module = module.get_submodule(part)
        whole = torch.empty(spec.shape, dtype=torch.bfloat16, device="meta")
        held = distribute_tensor(whole, mesh, [_placement(way, key)], src_data_rank=None)
        module.register_parameter(name, torch.nn.Parameter(held, requires_grad=False))
    return root


def _import_all() -> None:
    """Import what any rank would import when it is first used, in the process that ranks are forked from."""
    import torch.distributed as dist
    import torch.distributed.checkpoint
    import torch.testing._internal.distributed.fake_pg  # what registers a group of which nobody answers

    import weighbridge.models.module_loading
    import weighbridge.models.module_saving
    import weighbridge.running.by_ranks.rank_writing  # noqa: F401

    dist.init_process_group("fake", store=dist.HashStore(), rank=0, world_size=1)
    model = spread_model("fsdp", wb.Header({"weight": wb.TensorSpec("BF16", (RANKS,))}))
    wb.load(model, {"weight": torch.zeros(RANKS, dtype=torch.bfloat16)}, ())
    dist.destroy_process_group()


def _fused(sizes_json: str) -> wb.Header:
    return moe(Moe(*json.loads(sizes_json)), fused=True)


def load_by_ranks(touch_bytes: int, source: str, sizes_json: str, way: str) -> None:
    """Plan, and then fill what each rank holds: every tensor has memory of its own."""
    _import_all()

    def prepare(rank: int) -> Parts:
        model, plans = spread_model(way, _fused(sizes_json)), list[wb.Plan]()

        def plan() -> None:
            plans.append(wb.plan(source, moe_mapping(), target=model))

        return plan, lambda: plans[0].load_into(model, copy=True)

    run_ranks(prepare, 2, touch_bytes=touch_bytes, reads=[Path(source)])


def bytes_of_ranks(source: str, sizes_json: str, way: str, found: str) -> None:
    """Load once, and write down what each rank needs of the files, and what it reads."""
    _import_all()

    def prepare(rank: int) -> Parts:
        model = spread_model(way, _fused(sizes_json))
        plan = wb.plan(source, moe_mapping(), target=model)

        def work() -> None:
            before = _read_so_far()
            portion = plan.load_into(model, copy=True).to_dict()["portion"]
            read = _read_so_far() - before
            Path(found, f"{rank}.json").write_text(json.dumps([portion["needed_bytes"], read]))

        return (work,)

    run_ranks(prepare, 1, touch_bytes=0, reads=[Path(source)])


def _read_so_far() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


def read_by_ranks(touch_bytes: int, source: str, sizes_json: str, way: str) -> None:
    """Read as many bytes as each rank needs for its part, from the files one after the other, into fresh memory."""
    held = _held_bytes(sizes_json, way)

    def prepare(rank: int) -> Parts:
        files = [os.open(path, os.O_RDONLY) for path in sorted(Path(source).glob("*.safetensors"))]
        places = _places([os.fstat(file).st_size for file in files], rank * held, held)

        def work() -> None:
            import torch

            view = memoryview(torch.empty(held, dtype=torch.uint8).numpy())
            done = 0
            for number, start, size_bytes in places:
                done += os.preadv(files[number], [view[done : done + size_bytes]], start)

        return (work,)

    run_ranks(prepare, 1, touch_bytes=touch_bytes, reads=[Path(source)])


def _held_bytes(sizes_json: str, way: str) -> int:
    """Return how many bytes a rank holds."""
    total = 0
    for key, spec in _fused(sizes_json).items():
        total += spec.size_bytes // (1 if _placement(way, key).is_replicate() else RANKS)
    return total


def _places(sizes: list[int], start: int, size_bytes: int) -> list[tuple[int, int, int]]:
    """Cut bytes of files that lie in a row, over and over, into pieces: number of the file, start, and size."""
    total, found, end = sum(sizes), [], start + size_bytes
    while start < end:
        number, at = 0, start % total
        while at >= sizes[number]:
            at -= sizes[number]
            number += 1
        piece = min(PIECE_BYTES, sizes[number] - at, end - start)
        found.append((number, at, piece))
        start += piece
    return found


def load_by_dcp(touch_bytes: int, source: str, sizes_json: str) -> None:
    """Let torch's reader of such files fill rows of every published tensor, which it does not fuse."""
    _import_all()

    def prepare(rank: int) -> Parts:
        import torch
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

        model = spread_model("fsdp", moe(Moe(*json.loads(sizes_json))))
        state = {key: torch.empty_like(tensor, device="cpu") for key, tensor in model.named_parameters()}
        return (lambda: dcp.load(state, storage_reader=HuggingFaceStorageReader(source)),)

    run_ranks(prepare, 1, touch_bytes=touch_bytes, reads=[Path(source)])


def load_by_transformers(touch_bytes: int, source: str, way: str) -> None:
    """Load by the library's own sharded loading."""
    import transformers
    from transformers.distributed.configuration_utils import DistributedConfig

    set_up(source)
    sizes = {"fsdp": {"fsdp_size": RANKS}, "tp": {"tp_size": RANKS}, "ep": {"fsdp_size": RANKS, "ep_size": RANKS}}
    held: list[Any] = []

    def prepare(rank: int) -> Parts:
        load = transformers.AutoModelForCausalLM.from_pretrained
        return (lambda: held.append(load(source, distributed_config=DistributedConfig(**sizes[way]))),)

    run_ranks(prepare, 1, touch_bytes=touch_bytes, reads=[Path(source)])


def _loaded(source: str, sizes_json: str, way: str) -> torch.nn.Module:
    model = spread_model(way, _fused(sizes_json))
    wb.load(model, source, moe_mapping(), copy=True)
    return model


def save_by_ranks(touch_bytes: int, source: str, destination: str, sizes_json: str, way: str) -> None:
    """Save a model that was loaded, in the layout that it came in, forced to the disk."""
    _import_all()

    def prepare(rank: int) -> Parts:
        model = _loaded(source, sizes_json, way)
        return (lambda: wb.save(model, destination),)

    run_ranks(prepare, 1, touch_bytes=touch_bytes)


def write_by_ranks(touch_bytes: int, source: str, destination: str, sizes_json: str, way: str) -> None:
    """Write files of the same sizes from memory, each rank its quarter of all bytes, forced to the disk."""
    sizes = {path.name: path.stat().st_size for path in sorted(Path(source).glob("*.safetensors"))}
    held = sum(sizes.values()) // RANKS

    def prepare(rank: int) -> Parts:
        import torch

        filled = memoryview(torch.full((held,), rank + 1, dtype=torch.uint8).numpy())
        Path(destination).mkdir(exist_ok=True)

        def work() -> None:
            names, done = list(sizes), 0
            how = os.O_CREAT | os.O_WRONLY
            files = {number: os.open(Path(destination, name), how) for number, name in enumerate(names)}
            for number, start, size_bytes in _places(list(sizes.values()), rank * held, held):
                done += os.pwrite(files[number], filled[done : done + size_bytes], start)
            for file in files.values():
                os.fsync(file)

        return (work,)

    run_ranks(prepare, 1, touch_bytes=touch_bytes)


def save_by_dcp(touch_bytes: int, source: str, destination: str, sizes_json: str, way: str) -> None:
    """Save the fused tensors as a distributed checkpoint, as torch does it."""
    _import_all()

    def prepare(rank: int) -> Parts:
        import torch.distributed.checkpoint as dcp

        spread = f"{way}-unpacked" if way == "tp" else way
        state = dict(_loaded(source, sizes_json, spread).named_parameters())
        return (lambda: dcp.save(state, checkpoint_id=destination),)

    run_ranks(prepare, 1, touch_bytes=touch_bytes)
