"""Files that torch's distributed checkpoint writes: one rank's piece is never taken for the whole."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import weighbridge as wb

WEIGHTS = {"w": torch.arange(24.0).reshape(8, 3), "b": torch.arange(4.0)}

WRITE = """
import os
import sys
import warnings
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", store=dist.FileStore(folder + "/store", 2), rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
state = {
    "w": distribute_tensor(torch.arange(24.0).reshape(8, 3), mesh, [Shard(0)]),
    "b": distribute_tensor(torch.arange(4.0), mesh, [Replicate()]),
}
for name, options in {"pieces": {}, "together": {"enable_consolidation": True}}.items():
    writer = dcp.HuggingFaceStorageWriter(folder + "/" + name, save_distributed=True, **options)
    dcp.save(dict(state), storage_writer=writer)
dist.barrier()
if rank == 0:
    whole = {"w": torch.arange(24.0).reshape(8, 3), "b": torch.arange(4.0)}
    dcp.save(whole, storage_writer=dcp.HuggingFaceStorageWriter(folder + "/whole"), no_dist=True)
dist.barrier()
os._exit(0)  # the threads of gloo may not have ended when the interpreter takes their group apart
"""
"""Written by each of two processes: pieces alone, pieces that are put together; and by one of them, whole tensors."""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dcp")
    ranks = [subprocess.Popen([sys.executable, "-W", "ignore", "-c", WRITE, str(rank), str(folder)]) for rank in (0, 1)]
    assert [rank.wait(timeout=240) for rank in ranks] == [0, 0]
    return folder


def error_of(function: Callable[[], object]) -> wb.WeighbridgeError:
    with pytest.raises(wb.WeighbridgeError) as caught:
        function()
    return caught.value


def pieces_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("shard-*.safetensors"))


def test_a13_file_of_a_rank_is_partial(written: Path) -> None:
    pieces = pieces_in(written / "pieces")
    assert len(pieces) == 2
    for piece in (*pieces, *pieces_in(written / "together/sharded")):
        error = error_of(lambda piece=piece: wb.open(piece))
        assert error.code == "checkpoint-partial"
        assert "open the directory" in error.hint
    assert "'w' from [4, 0] on" in error_of(lambda: wb.open(pieces[1])).got


def test_files_of_all_ranks_open_as_the_whole(written: Path, tmp_path: Path) -> None:
    for folder in (written / "pieces", written / "together/sharded"):
        checkpoint = wb.open(folder)
        assert wb.verify(checkpoint, WEIGHTS)
        assert checkpoint.header.metadata == {"format": "pt"}
        assert "2 ranks" in checkpoint.notes[0]
    wb.convert(written / "pieces", tmp_path / "out", [wb.WeightConverter("w", "t", [wb.Transpose(0, 1)])])
    assert wb.verify(tmp_path / "out", {"t": WEIGHTS["w"].t().contiguous(), "b": WEIGHTS["b"]})


def write_rank(folder: Path, rank: int, info: str, **tensors: torch.Tensor) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / f"shard-{rank:05}-model-00001-of-00001.safetensors"
    save_file(tensors, path, {"DCP_SHARDING_INFO": info})


AT_0, AT_2, AT_3 = (json.dumps({"w": {"saved_offsets": [row, 0]}}) for row in (0, 2, 3))


@pytest.mark.parametrize(
    ("ranks", "code"),
    [
        ({1: AT_0}, "checkpoint-partial"),
        ({2: AT_0, 3: AT_2}, "checkpoint-partial"),
        ({1: AT_0, 3: AT_2}, "checkpoint-partial"),
        ({1: AT_0, 2: AT_3}, "dcp-invalid"),
        ({1: AT_0, 2: AT_0}, "dcp-invalid"),
        ({1: AT_2, 2: AT_2}, "dcp-invalid"),
        ({1: AT_0, 2: "{}"}, "checkpoint-partial"),
        ({1: AT_0, 2: '{"w": {"saved_offsets": [2]}}'}, "checkpoint-partial"),
        ({1: AT_0, 2: '{"w": {"saved_offsets": [2, -1]}}'}, "checkpoint-partial"),
    ],
)
def test_files_of_ranks_that_are_not_the_whole_are_refused(tmp_path: Path, ranks: dict[int, str], code: str) -> None:
    for rank, info in ranks.items():
        write_rank(tmp_path / "in", rank, info, w=torch.ones(2, 3))
    assert error_of(lambda: wb.open(tmp_path / "in")).code == code


def test_pieces_of_two_dtypes_are_not_one_tensor(tmp_path: Path) -> None:
    write_rank(tmp_path / "in", 1, AT_0, w=torch.ones(2, 3))
    write_rank(tmp_path / "in", 2, AT_2, w=torch.ones(2, 3).half())
    assert error_of(lambda: wb.open(tmp_path / "in")).code == "dcp-invalid"


def test_files_of_ranks_have_no_entries(written: Path) -> None:
    assert error_of(lambda: wb.open(f"{written / 'pieces'}::model")).code == "usage"


def test_a13_file_of_the_first_rank_is_partial_wherever_it_lies(written: Path, tmp_path: Path) -> None:
    """Its pieces all begin at 0: only its name tells it from a whole file."""
    for name in ("shard-00001-model-00001-of-00001.safetensors", "model.safetensors", "rank0.safetensors"):
        shutil.copy(pieces_in(written / "pieces")[0], tmp_path / name)
        for place in (tmp_path / name, tmp_path):
            assert error_of(lambda place=place: wb.open(place)).code == "checkpoint-partial"
        (tmp_path / name).unlink()


def test_a13_pieces_under_other_names_are_partial(written: Path, tmp_path: Path) -> None:
    for number, piece in enumerate(pieces_in(written / "pieces")):
        shutil.copy(piece, tmp_path / f"rank{number}.safetensors")
    assert error_of(lambda: wb.open(tmp_path)).code == "checkpoint-partial"
    for number in (1, 2):
        (tmp_path / f"rank{number - 1}.safetensors").rename(tmp_path / f"model-{number:05}-of-00002.safetensors")
    assert error_of(lambda: wb.open(tmp_path)).code == "checkpoint-partial"


@pytest.mark.parametrize("name", ["together", "whole"])
def test_a13_what_is_whole_opens(written: Path, name: str) -> None:
    assert wb.verify(written / name, WEIGHTS)
    (file,) = (written / name).glob("*.safetensors")
    assert wb.verify(file, WEIGHTS)


def test_a13_whole_file_is_converted_and_comes_back_byte_for_byte(written: Path, tmp_path: Path) -> None:
    """What is written is no file of DCP's, and says of no tensor where a piece of it lies."""
    mapping = [wb.WeightRenaming("w", "weight")]
    out, back = tmp_path / "out", tmp_path / "back"
    wb.convert(written / "whole", out, mapping)
    assert wb.open(out).header.metadata == {"format": "pt"}
    assert wb.verify(out, {"weight": WEIGHTS["w"], "b": WEIGHTS["b"]})
    wb.revert(out, back)
    (file,) = (written / "whole").glob("*.safetensors")
    assert (back / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    "info", ["", "{", "[]", '{"w": 3}', '{"w": {}}', '{"w": {"saved_offsets": [0.5]}}', '"\\ud800"']
)
def test_a13_record_of_pieces_that_cannot_be_read_is_partial(tmp_path: Path, info: str) -> None:
    path = tmp_path / "model-00001-of-00001.safetensors"
    save_file({"w": torch.zeros(2)}, path, {"DCP_SHARDING_INFO": info})
    assert error_of(lambda: wb.open(path)).code == "checkpoint-partial"


def test_a13_piece_among_whole_tensors_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model-00001-of-00001.safetensors"
    info = {"a": {"saved_offsets": [0]}, "b": {"saved_offsets": [3]}, "c": {"saved_offsets": [0, 5]}}
    save_file({"a": torch.zeros(2), "b": torch.zeros(2)}, path, {"DCP_SHARDING_INFO": json.dumps(info)})
    assert error_of(lambda: wb.open(path)).got == "'b' from [3] on, and pieces of 1 more"
