"""A distributed checkpoint as an output: read by torch itself on any ranks, found again, whole or not there."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from any_dtypes import every_dtype, same
from command import run
from dcp_directories import cuts, write_dcp
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

import weighbridge as wb
from weighbridge.storage.sharded import dcp_image
from weighbridge.storage.sharded.dcp_metadata import read_metadata
from weighbridge.storage.sharded.dcp_metadata_text import metadata_text

RULES = wb.Mapping(
    [
        wb.WeightRenaming("old", "new"),
        wb.WeightConverter("t", "t", [wb.Transpose(0, 1)]),
        wb.WeightConverter(["gate", "up"], "gate_up", [wb.Concatenate(0)]),
    ],
    name="rules",
)


def numbers(*shape: int, start: float = 1.0) -> torch.Tensor:
    return torch.arange(start, start + torch.Size(shape).numel()).reshape(shape)


def tensors() -> dict[str, torch.Tensor]:
    return every_dtype() | {"gate": numbers(7, 3), "up": numbers(4, 3, start=90.0)}


def wanted(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Do by hand what the rules say."""
    made = {key.replace("old", "new"): tensor for key, tensor in given.items()}
    return made | {"t": given["t"].t().contiguous(), "gate_up": torch.cat([made.pop("gate"), made.pop("up")])}


def publish(folder: Path) -> Path:
    folder.mkdir()
    save_file(tensors(), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text('{"model_type": "small"}')
    return folder


def load(folder: Path, template: dict[str, torch.Tensor], **options: Any) -> dict[str, torch.Tensor]:
    """Have torch load a directory into tensors of its own."""
    state = {key: torch.zeros_like(tensor) for key, tensor in template.items()}
    dcp.load(state, checkpoint_id=folder, no_dist=True, **options)
    return state


def error_of(function: Callable[[], object]) -> wb.WeighbridgeError:
    with pytest.raises(wb.WeighbridgeError) as caught:
        function()
    return caught.value


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(params=[None, 40, 1], ids=["whole", "rows", "row"])
def chunk_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param is not None:
        monkeypatch.setattr(dcp_image, "CHUNK_BYTES", request.param)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("chunk_bytes")
@pytest.mark.parametrize("options", [{}, {"max_shard_size": 2000}, {"max_shard_size": None, "memory_budget": 100}])
def test_torch_reads_what_is_written_and_it_goes_back_byte_for_byte(tmp_path: Path, options: dict[str, Any]) -> None:
    source = publish(tmp_path / "source")
    out = wb.convert(source, tmp_path / "out", RULES, to="dcp", digests=True, **options)
    assert same(load(out, wanted(tensors())), wanted(tensors()))
    assert wb.verify(out, wanted(tensors()))
    assert wb.verify(out)
    assert (out / "config.json").read_bytes() == (source / "config.json").read_bytes()
    assert contents(wb.revert(out, tmp_path / "back")) == contents(source)


@pytest.mark.filterwarnings("ignore")
def test_every_item_is_an_archive_that_others_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dcp_image, "CHUNK_BYTES", 40)
    out = wb.convert(tensors(), tmp_path / "out", to="dcp", max_shard_size=4000)
    metadata = pickle.loads((out / ".metadata").read_bytes())
    assert len({info.relative_path for info in metadata.storage_data.values()}) > 3
    assert len(metadata.state_dict_metadata["gate"].chunks) == 3
    for index, info in metadata.storage_data.items():
        with (out / info.relative_path).open("rb") as file:
            file.seek(info.offset)
            item = io.BytesIO(file.read(info.length))
        with zipfile.ZipFile(item) as archive:
            assert archive.testzip() is None
        item.seek(0)
        part = torch.load(item, weights_only=True)
        place = tuple(slice(start, start + size) for start, size in zip(index.offset, part.shape, strict=True))
        assert same({"": part}, {"": tensors()[index.fqn][place]})


@pytest.mark.filterwarnings("ignore")
def test_tensors_are_put_under_a_name(tmp_path: Path) -> None:
    state = {"w": numbers(5, 3), "a.b": numbers(2)}
    out = wb.convert(state, tmp_path / "out", to="dcp", under="model")
    assert same(
        load(out, {"model.w": state["w"], "model.a.b": state["a.b"]}), {f"model.{k}": t for k, t in state.items()}
    )
    dcp_to_torch_save(out, tmp_path / "whole.pt")
    assert same(torch.load(tmp_path / "whole.pt", weights_only=True)["model"], state)
    assert sorted(wb.open(out).header) == ["a.b", "w"]
    wb.revert(out, tmp_path / "back")
    assert wb.verify(tmp_path / "back", state)


@pytest.mark.filterwarnings("ignore")
def test_what_is_known_to_be_one_lies_there_once(tmp_path: Path) -> None:
    tied = numbers(300, 100)
    out = wb.convert({"a": tied, "b": tied, "c": numbers(3)}, tmp_path / "out", to="dcp", digests=True)
    assert sum(path.stat().st_size for path in out.glob("*.distcp")) < 1.2 * tied.nbytes
    assert same(load(out, {"a": tied, "b": tied}), {"a": tied, "b": tied})
    assert wb.verify(out)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_from_any_chunks_through_movements_to_chunks_of_rows(tmp_path_factory: Any, data: st.DataObject) -> None:
    """What torch computes from whole tensors is the twin."""
    shape = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4)))
    order = data.draw(st.permutations(range(3)))
    folder = tmp_path_factory.mktemp("any")
    state = {name: numbers(*shape, start=start).to(torch.bfloat16) for name, start in (("x.0", 0.0), ("x.1", 150.0))}
    write_dcp(folder / "in", state, {name: data.draw(cuts(shape)) for name in state})
    rules = [
        wb.WeightConverter("x.*", "joined", [wb.MergeModulelist(0)]),
        wb.WeightConverter("joined", "turned", [wb.Permute((0, *(axis + 1 for axis in order)))]),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dcp_image, "CHUNK_BYTES", data.draw(st.sampled_from([1, 30, 200])))
        first = wb.convert(folder / "in", folder / "middle", rules[:1], to="dcp", memory_budget=64)
        out = wb.convert(first, folder / "out", [rules[1]], to="dcp", memory_budget=64)
    expected = torch.stack([state["x.0"], state["x.1"]]).permute(0, *(axis + 1 for axis in order)).contiguous()
    assert wb.open(out).tensor("turned").equal(expected)
    assert wb.verify(wb.revert(out, folder / "first", to="dcp"), first)
    assert wb.verify(wb.revert(first, folder / "back"), folder / "in")


def test_a_tensor_larger_than_a_chunk_is_cut_into_rows(tmp_path: Path) -> None:
    tensor = torch.arange(5 * 2**21, dtype=torch.int32).reshape(5, 2**21)
    out = wb.convert({"w": tensor}, tmp_path / "out", to="dcp")
    chunks = read_metadata((out / ".metadata").read_bytes()).tensors["w"].chunks
    assert [box.sizes for box, _ in chunks] == [(4, 2**21), (1, 2**21)]
    assert wb.verify(out, {"w": tensor})


def test_metadata_says_again_what_torch_wrote(tmp_path: Path) -> None:
    """What is read of torch's own text, and written anew, torch reads as the same."""
    write_dcp(
        tmp_path,
        {"model.w": numbers(5, 3), "number": torch.tensor(2.0)},
        {"model.w": [((0, 0), (2, 3)), ((2, 0), (3, 3))]},
        objects={"epoch": 3},
        paths={"model.w": ("model", "w"), "number": ("number",), "epoch": ("train", 0, "epoch")},
    )
    raw = (tmp_path / ".metadata").read_bytes()
    first, second = pickle.loads(raw), pickle.loads(metadata_text(read_metadata(raw)))
    for name in ("state_dict_metadata", "planner_data", "storage_data"):
        assert getattr(second, name) == getattr(first, name)


# On ranks


RANKS = """
import os
import sys
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", store=dist.FileStore(folder + "/store", 3), rank=rank, world_size=3)
mesh = init_device_mesh("cpu", (3,))
whole = torch.arange(1.0, 36.0).reshape(7, 5)
for placement in (Shard(0), Shard(1), Replicate()):
    state = {"w": distribute_tensor(torch.zeros(7, 5), mesh, [placement]), "number": torch.tensor(0.0)}
    dcp.load(state, checkpoint_id=folder + "/out")
    assert state["w"].full_tensor().equal(whole), placement
    assert state["number"].item() == 8
os._exit(0)  # the threads of gloo may not have ended when the interpreter takes their group apart
"""


def test_three_ranks_load_it_by_rows_and_by_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dcp_image, "CHUNK_BYTES", 40)
    wb.convert({"w": numbers(7, 5), "number": torch.tensor(8.0)}, tmp_path / "out", to="dcp")
    command = [sys.executable, "-W", "ignore", "-c", RANKS]
    ranks = [subprocess.Popen([*command, str(rank), str(tmp_path)]) for rank in range(3)]
    assert [rank.wait(timeout=240) for rank in ranks] == [0] * 3


# Whole or not there


@pytest.mark.filterwarnings("ignore")
def test_a_stopped_run_leaves_nothing_that_loads_and_is_gone_on_with(tmp_path: Path) -> None:
    source = publish(tmp_path / "source")
    whole = contents(wb.convert(source, tmp_path / "whole", RULES, to="dcp"))
    out, hidden = tmp_path / "out", tmp_path / ".out.weighbridge-partial"

    def stop(done: int, all_bytes: int) -> None:
        if done > all_bytes // 2:
            raise KeyboardInterrupt

    for resume in (False, True):
        with pytest.raises(KeyboardInterrupt):
            wb.convert(source, out, RULES, to="dcp", progress=stop, memory_budget=100, resume=resume)
        assert (out.exists(), hidden.exists()) == (False, resume)
    assert error_of(lambda: wb.open(hidden)).code == "dcp-invalid"
    assert error_of(lambda: wb.convert(source, out, RULES, to="dcp")).code == "destination-unfinished"
    assert error_of(lambda: wb.convert(source, out, RULES, resume=True)).code == "resume-mismatch"
    laid_out = hidden / "__0_0.distcp"
    raw = bytearray(laid_out.read_bytes())
    raw[len(raw) // 3 : len(raw) // 3 + 40] = bytes(range(40))
    laid_out.write_bytes(bytes(raw))
    assert contents(wb.convert(source, out, RULES, to="dcp", resume=True)).keys() == whole.keys()
    assert {name: raw for name, raw in contents(out).items() if name != "weighbridge.json"} == {
        name: raw for name, raw in whole.items() if name != "weighbridge.json"
    }
    assert not hidden.exists()


def test_nothing_takes_the_place_of_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").touch()
    error = error_of(lambda: wb.convert({"w": numbers(2)}, tmp_path / "out", to="dcp"))
    assert error.code == "destination-exists"
    source = wb.convert({"w": numbers(2)}, tmp_path / "in", to="dcp")
    assert error_of(lambda: wb.convert(source, source / "out", to="dcp")).code == "destination-unsafe"


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("out", {"to": "gguf"}, "no such kind"),
        ("out", {"under": "model"}, "under this name"),
        ("out", {"to": "dcp", "under": "a..b"}, "under this name"),
        ("out", {"to": "dcp", "name": "weights"}, "names of their own"),
        ("out", {"to": "dcp", "link": "hard"}, "shares no blocks"),
        ("out.pt", {"to": "dcp"}, "is a directory"),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path: Path, name: str, options: dict[str, Any], said: str) -> None:
    error = error_of(lambda: wb.convert({"w": numbers(2)}, tmp_path / name, **options))
    assert error.code == "usage"
    assert said in error.what
    assert not list(tmp_path.iterdir())


def test_a_dtype_that_torch_lacks_is_named_before_anything_is_written(tmp_path: Path) -> None:
    from weighbridge.base.specs import TensorSpec
    from weighbridge.storage import FileWriter, build_image

    (tmp_path / "in").mkdir()
    image = build_image("model.safetensors", {"odd": TensorSpec("F6_E2M3", (4,))})
    with FileWriter.of_image(tmp_path / "in", image):
        pass
    assert error_of(lambda: wb.convert(tmp_path / "in", tmp_path / "out", to="dcp")).code == "dtype-unknown"
    assert not (tmp_path / "out").exists()


def test_a_receipt_refuses_a_second_conversion(tmp_path: Path) -> None:
    out = wb.convert({"w": numbers(2)}, tmp_path / "out", [wb.WeightRenaming("w", "v.w")], to="dcp")
    assert error_of(lambda: wb.plan(out, [wb.WeightRenaming("w", "v.w")])).code == "already-converted"


@pytest.mark.filterwarnings("ignore")
def test_the_command_writes_one(tmp_path: Path) -> None:
    publish(tmp_path / "source")
    assert run(tmp_path, "convert", "source", "out", "--to", "dcp", "--under", "model", "--digests").status == 0
    assert same(load(tmp_path / "out", {"model.gate": tensors()["gate"]}), {"model.gate": tensors()["gate"]})
    assert run(tmp_path, "verify", "out").status == 0
    assert run(tmp_path, "revert", "out", "back").status == 0
    assert same(load_file(tmp_path / "back/model.safetensors"), tensors())
    assert run(tmp_path, "revert", "out", "again", "--to", "dcp").status == 0
    assert wb.verify(tmp_path / "again", tmp_path / "back")
