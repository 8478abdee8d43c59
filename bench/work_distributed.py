"""What measured processes do with distributed checkpoints, and the ranks that write one for them.

    python -m bench.work_distributed SOURCE DESTINATION COUNT

starts COUNT processes, each of which saves its rows of a checkpoint's tensors, as a training does that is sharded by
them. torch alone writes what is read here.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import warnings
from functools import partial
from pathlib import Path

import weighbridge as wb
from bench.clock import run_timed
from bench.inventories import moe_mapping
from bench.work_files import SHARD_SIZE, import_all, rename


def convert_from_dcp(touch_bytes: int, source: str, destination: str) -> None:
    """Fuse the experts of a distributed checkpoint into safetensors files; the disk is not waited for, as with `cp`."""
    import_all(partial(rename, to="dcp"), wb.convert)

    def work() -> Path:
        return wb.convert(source, destination, moe_mapping(), max_shard_size=SHARD_SIZE, sync=False)

    run_timed(work, touch_bytes=touch_bytes, reads=[Path(source)])


def convert_to_dcp(touch_bytes: int, source: str, destination: str) -> None:
    """Fuse the experts of safetensors files into a distributed checkpoint; the disk is not waited for."""
    import_all(partial(rename, to="dcp"))

    def work() -> Path:
        return wb.convert(source, destination, moe_mapping(), to="dcp", max_shard_size=SHARD_SIZE, sync=False)

    run_timed(work, touch_bytes=touch_bytes, reads=[Path(source)])


def dcp_to_torch(touch_bytes: int, source: str, destination: str) -> None:
    """Do what torch has for it: load all into memory, and save one torch file, with the tensors as they are."""
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    warnings.simplefilter("ignore")

    def work() -> None:
        Path(destination).mkdir()
        dcp_to_torch_save(source, Path(destination) / "model.pt")

    run_timed(work, touch_bytes=touch_bytes, reads=[Path(source)])


def torch_to_dcp(touch_bytes: int, source: str, destination: str) -> None:
    """Load safetensors files into memory and save them by torch, with the tensors as they are."""
    import torch.distributed.checkpoint as dcp
    from safetensors.torch import load_file

    warnings.simplefilter("ignore")

    def work() -> None:
        files = sorted(Path(source).glob("*.safetensors"))
        state = {key: tensor for path in files for key, tensor in load_file(path).items()}
        dcp.save(state, checkpoint_id=destination, no_dist=True)

    run_timed(work, touch_bytes=touch_bytes, reads=[Path(source)])


def read_dcp(source: str, destination: str) -> None:
    """Have torch load a distributed checkpoint, and write what it found into a safetensors file, to be compared."""
    import torch
    import torch.distributed.checkpoint as dcp
    from safetensors.torch import save_file

    warnings.simplefilter("ignore")
    described = dcp.FileSystemReader(source).read_metadata().state_dict_metadata
    state = {key: torch.empty(each.size, dtype=each.properties.dtype) for key, each in described.items()}
    dcp.load(state, checkpoint_id=source, no_dist=True)
    Path(destination).mkdir()
    save_file(state, Path(destination) / "model.safetensors")


def save_rank(source: str, destination: str, rank: int, count: int, store: str) -> None:
    """Save one rank's rows of every tensor."""
    import torch
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    from safetensors import safe_open
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard

    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", store=dist.FileStore(store, count), rank=rank, world_size=count)
    mesh = init_device_mesh("cpu", (count,))
    state = {}
    for path in sorted(Path(source).glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - it is no dict
                part = file.get_slice(key)
                shape = part.get_shape()
                step = -(-shape[0] // count)
                rows = part[min(rank * step, shape[0]) : min((rank + 1) * step, shape[0])]
                size, strides = torch.Size(shape), torch.empty(shape, device="meta").stride()
                state[key] = DTensor.from_local(rows, mesh, [Shard(0)], run_check=False, shape=size, stride=strides)
    dcp.save(state, checkpoint_id=destination)
    dist.barrier()
    os._exit(0)  # the threads of gloo may not have ended when the interpreter takes their group apart


def save_ranks(source: str, destination: str, count: str) -> None:
    """Start the ranks, and wait for them."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "bench.work_distributed", source, destination, count, f"{folder}/store"]
        ranks = [subprocess.Popen([*words, str(rank)]) for rank in range(int(count))]
        failed = [rank.wait() for rank in ranks]
    if any(failed):
        raise SystemExit(f"ranks ended with {failed}")


if __name__ == "__main__":
    if len(sys.argv) == 4:
        save_ranks(*sys.argv[1:])
    else:
        save_rank(sys.argv[1], sys.argv[2], int(sys.argv[5]), int(sys.argv[3]), sys.argv[4])
