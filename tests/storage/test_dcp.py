"""Directories of torch.distributed.checkpoint: each tensor opens as the whole that it is, whatever its chunks are."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from any_dtypes import every_dtype
from bounded import run_bounded
from command import run
from dcp_directories import cuts, item_of, part_of, write_dcp
from hypothesis import given, settings, strategies as st

import weighbridge as wb
from weighbridge.base.specs import Header, TensorSpec
from weighbridge.storage.protocol import pieces_of
from weighbridge.storage.sharded.boxes import Box, boxes_between, find_fault
from weighbridge.storage.sharded.dcp_items import Items


def numbers(*shape: int, start: float = 1.0) -> torch.Tensor:
    return torch.arange(start, start + torch.Size(shape).numel()).reshape(shape)


def error_of(function: Callable[[], object]) -> wb.WeighbridgeError:
    with pytest.raises(wb.WeighbridgeError) as caught:
        function()
    return caught.value


ROWS = [((0, 0), (2, 3)), ((2, 0), (2, 3)), ((4, 0), (1, 3))]
"""Three ranks' rows of a tensor of 5 rows, the last of them shorter."""


# What torch writes


TRAINED = """
import os
import sys
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

rank, count, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
dist.init_process_group("gloo", store=dist.FileStore(folder + "/store", count), rank=rank, world_size=count)
flat, square = init_device_mesh("cpu", (count,)), init_device_mesh("cpu", (2, count // 2))
whole = lambda *shape: torch.arange(1.0, 1.0 + torch.Size(shape).numel()).reshape(shape)
dcp.save({
    "rows": distribute_tensor(whole(7, 3), flat, [Shard(0)]),
    "columns": distribute_tensor(whole(3, 10).bfloat16(), flat, [Shard(1)]),
    "both": distribute_tensor(whole(5, 2, 9), square, [Shard(0), Shard(2)]),
    "again": distribute_tensor(whole(6, 3), square, [Replicate(), Shard(0)]),
    "short": distribute_tensor(whole(2), flat, [Shard(0)]),
    "plain": whole(4),
    "number": torch.tensor(3.5),
    "nothing": torch.zeros(0, 3),
    "epoch": 7,
}, checkpoint_id=folder + "/saved")
os._exit(0)  # the threads of gloo may not have ended when the interpreter takes their group apart
"""
WHOLE = {
    "rows": numbers(7, 3),
    "columns": numbers(3, 10).bfloat16(),
    "both": numbers(5, 2, 9),
    "again": numbers(6, 3),
    "short": numbers(2),
    "plain": numbers(4),
    "number": torch.tensor(3.5),
    "nothing": torch.zeros(0, 3),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What four processes wrote together."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-W", "ignore", "-c", TRAINED]
    ranks = [subprocess.Popen([*command, str(rank), "4", str(folder)]) for rank in range(4)]
    assert [rank.wait(timeout=240) for rank in ranks] == [0] * 4
    return folder / "saved"


def test_what_four_ranks_wrote_opens_as_whole_tensors(saved: Path) -> None:
    checkpoint = wb.open(saved)
    assert {key: checkpoint.header[key].shape for key in checkpoint.header} == {
        k: tuple(t.shape) for k, t in WHOLE.items()
    }
    assert all(checkpoint.tensor(key).equal(tensor) for key, tensor in WHOLE.items())
    assert checkpoint.notes == ("no tensors, left aside: 'epoch'",)
    assert wb.verify(saved, WHOLE)


def test_a_conversion_gives_the_file_that_whole_tensors_give(saved: Path, tmp_path: Path) -> None:
    mapping = [
        wb.WeightConverter(["rows", "again"], "joined", [wb.Concatenate(dim=0)]),
        wb.WeightConverter("both", "turned", [wb.Transpose(0, 2)]),
    ]
    wb.convert(saved, tmp_path / "out", mapping)
    wb.convert(WHOLE, tmp_path / "wanted", mapping)
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "wanted/model.safetensors").read_bytes()
    wb.revert(tmp_path / "out", tmp_path / "back")
    assert wb.verify(tmp_path / "back", saved)


def test_it_is_loaded_into_a_model(saved: Path) -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Linear(3, 7, bias=False)

    model = Model()
    wb.plan(
        saved,
        [wb.WeightRenaming("^rows", "table.weight")],
        target=model,
        drop=[f"^{key}$" for key in WHOLE if key != "rows"],
    ).load_into(model)
    assert model.table.weight.equal(WHOLE["rows"])
    state = wb.plan(saved).state_dict()
    assert all(state[key].equal(tensor) for key, tensor in WHOLE.items())


def test_the_command_reads_it(saved: Path, tmp_path: Path) -> None:
    assert "columns" in run(tmp_path, "inspect", str(saved)).out
    assert run(tmp_path, "verify", str(saved), str(saved / ".metadata")).status == 0
    assert run(tmp_path, "convert", str(saved), "out").status == 0
    assert wb.verify(tmp_path / "out", WHOLE)


def test_every_dtype_is_read(tmp_path: Path) -> None:
    tensors = every_dtype()
    boxes = {
        key: [((0, 0), (1, t.shape[1])), ((1, 0), (2, t.shape[1]))]
        for key, t in tensors.items()
        if t.dim() == 2 and len(t) == 3
    }
    assert wb.verify(write_dcp(tmp_path, tensors, boxes), tensors)


# Any chunks


SHAPES = st.lists(st.integers(1, 7), max_size=4).map(tuple)


@settings(deadline=None)
@given(st.data())
def test_any_interval_of_any_chunks_is_read_as_it_lies_in_the_whole(tmp_path_factory: Any, data: st.DataObject) -> None:
    shape = data.draw(SHAPES)
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.uint8, torch.float64, torch.bool]))
    tensor = (numbers(*shape) % 251).to(dtype)
    order = data.draw(st.permutations(range(len(shape))))
    turned = tensor.permute(order).contiguous().permute([order.index(axis) for axis in range(len(shape))])
    folder = tmp_path_factory.mktemp("any")
    checkpoint = wb.open(write_dcp(folder, {"w": turned}, {"w": data.draw(cuts(shape))}))
    raw = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    start = data.draw(st.integers(0, len(raw)))
    stop = data.draw(st.integers(start, len(raw)))
    buffer = bytearray(stop - start)
    checkpoint.read("w", start, memoryview(buffer))
    assert bytes(buffer) == raw[start:stop]
    assert checkpoint.tensor("w").equal(tensor)


def test_chunks_larger_than_a_section_are_read_in_parts(tmp_path: Path) -> None:
    tensor = torch.arange(3 * 700 * 900, dtype=torch.int32).reshape(3, 700, 900)
    boxes = [((0, 0, 0), (3, 700, 401)), ((0, 0, 401), (3, 700, 499))]
    turned = tensor.permute(0, 2, 1).contiguous().permute(0, 2, 1)
    for each in (tensor, turned):
        checkpoint = wb.open(write_dcp(tmp_path / "in", {"w": each}, {"w": boxes}))
        assert checkpoint.tensor("w").equal(tensor)
    wb.convert(tmp_path / "in", tmp_path / "out", memory_budget=2**20)
    assert wb.verify(tmp_path / "out", {"w": tensor})


@settings(deadline=None)
@given(st.data())
def test_a_fault_is_found_wherever_counting_finds_one(data: st.DataObject) -> None:
    """The twin counts each element of a small tensor."""
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple))
    boxes = [Box(*box) for box in data.draw(cuts(shape))]
    for _ in range(data.draw(st.integers(0, 2))):
        at = tuple(data.draw(st.integers(0, size - 1)) for size in shape)
        more = Box(at, tuple(data.draw(st.integers(1, size - start)) for size, start in zip(shape, at, strict=True)))
        boxes = data.draw(st.sampled_from([[*boxes, more], boxes[1:], boxes]))
    counts = torch.zeros(shape, dtype=torch.int64)
    for box in boxes:
        part_of(counts, box).add_(1)
    fault = find_fault(shape, boxes)
    assert (fault is None) == bool(counts.eq(1).all())
    if fault is not None:
        found = part_of(counts, fault.box)
        assert found.numel()
        assert bool((found == 0).all() if fault.what == "no chunk holds this" else (found > 1).all())


@given(st.data())
def test_boxes_of_an_interval_are_its_elements_in_order(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(0, 4), max_size=4).map(tuple))
    flat = torch.arange(torch.Size(shape).numel())
    start = data.draw(st.integers(0, len(flat)))
    stop = data.draw(st.integers(start, len(flat)))
    found = [part_of(flat.reshape(shape), box).reshape(-1) for box in boxes_between(shape, start, stop)]
    assert torch.cat([flat[:0], *found]).tolist() == list(range(start, stop))


def test_a_tensor_is_never_held_whole(tmp_path: Path) -> None:
    """Its chunks go to the output through windows of the budget's size, and what is one run is copied by the system."""
    checkpoint = wb.open(write_dcp(tmp_path / "in", {"w": numbers(5, 3), "v": numbers(4)}, {"w": ROWS}))
    assert checkpoint.extent("w") is None
    extent = checkpoint.extent("v")
    assert extent is not None
    assert extent.path.read_bytes()[extent.offset :][:16] == numbers(4).numpy().tobytes()
    wb.convert(checkpoint, tmp_path / "out", memory_budget=16)
    assert wb.verify(tmp_path / "out", {"w": numbers(5, 3), "v": numbers(4)})


# Which dict is meant


STATE = {
    "model": {"a.w": numbers(5, 3), "b": numbers(2)},
    "optim": {
        "state": {"a.w": {"exp_avg": numbers(5, 3, start=90), "step": torch.tensor(4.0)}, "b": {"exp_avg": numbers(2)}},
        "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99), "params": ["a.w", "b"]}],
    },
}
FLAT = {"optim": {"state.a.w.exp_avg": numbers(5, 3), "state.a.w.step": torch.tensor(4.0), "param_groups.a.w.lr": 0.1}}


def save(folder: Path, state: dict[str, Any]) -> Path:
    dcp.save(state, checkpoint_id=folder, no_dist=True)
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("state", [STATE, STATE | FLAT], ids=["nested", "flattened"])
def test_the_weights_are_what_is_meant(tmp_path: Path, state: dict[str, Any]) -> None:
    folder = save(tmp_path / "in", state)
    checkpoint = wb.open(folder)
    assert {key: checkpoint.tensor(key).tolist() for key in checkpoint.header} == {
        key: tensor.tolist() for key, tensor in STATE["model"].items()
    }
    assert checkpoint.notes == ("the tensors are those of 'model'; left aside: 'optim'",)


@pytest.mark.filterwarnings("ignore")
def test_an_entry_names_another_dict_or_all(tmp_path: Path) -> None:
    folder = save(tmp_path / "in", STATE)
    assert list(wb.open(f"{folder}::optim.state.b").header) == ["exp_avg"]
    every = wb.open(f"{folder}::**")
    assert sorted(every.header) == [
        *("model.a.w", "model.b", "optim.state.a.w.exp_avg", "optim.state.a.w.step", "optim.state.b.exp_avg"),
    ]
    assert every.tensor("optim.state.a.w.step").equal(torch.tensor(4.0))
    assert error_of(lambda: wb.open(f"{folder}::modle")).code == "checkpoint-not-found"


@pytest.mark.filterwarnings("ignore")
def test_two_dicts_of_weights_are_ambiguous(tmp_path: Path) -> None:
    folder = save(tmp_path / "in", {"model": {"w": numbers(2)}, "ema": {"w": numbers(2)}})
    error = error_of(lambda: wb.open(folder))
    assert error.code == "checkpoint-ambiguous"
    assert f"{folder}::model" in error.hint
    assert wb.open(f"{folder}::ema").tensor("w").equal(numbers(2))


@pytest.mark.filterwarnings("ignore")
def test_an_optimizer_alone_has_no_weights(tmp_path: Path) -> None:
    folder = save(tmp_path / "in", {"optim": STATE["optim"]})
    error = error_of(lambda: wb.open(folder))
    assert error.code == "checkpoint-not-found"
    assert "**" in error.hint


def test_metadata_without_paths_gives_full_names(tmp_path: Path) -> None:
    folder = write_dcp(tmp_path, {"model.w": numbers(5, 3)}, {"model.w": ROWS}, objects={"step": 3})
    assert list(wb.open(folder).header) == ["model.w"]


# Bad input


class Hostile:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("place", ["planner_data", "storage_meta", "version"])
def test_metadata_that_names_code_is_refused_and_not_run(tmp_path: Path, place: str) -> None:
    def hide(metadata: Any) -> None:
        setattr(metadata, place, Hostile(tmp_path / "ran"))

    folder = write_dcp(tmp_path / "in", {"w": numbers(2)}, metadata=hide)
    error = error_of(lambda: wb.open(folder))
    assert error.code == "dcp-unsafe"
    assert "system" in error.got
    assert not (tmp_path / "ran").exists()


def test_item_that_names_code_is_refused_and_not_run(tmp_path: Path) -> None:
    folder = write_dcp(tmp_path / "in", {"w": numbers(2)}, files=1)
    hostile = io.BytesIO()
    with zipfile.ZipFile(hostile, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Hostile(tmp_path / "ran"), 2))
    replace_item(folder, "w", hostile.getvalue())
    assert error_of(lambda: wb.open(folder)).code == "dcp-unsafe"
    assert not (tmp_path / "ran").exists()


def test_an_item_like_one_before_says_what_it_says_by_itself(tmp_path: Path) -> None:
    """Whichever byte of it is another one."""
    first, second = item_of(numbers(2, 3)), item_of(-numbers(2, 3))
    assert len(first) == len(second)
    with (tmp_path / "items").open("w+b", buffering=0) as file:
        number = file.fileno()

        def outcome(known: Items) -> object:
            try:
                return known.find(number, len(first), len(second), "rows")
            except wb.CheckpointError as problem:
                return problem.to_dict()

        found = []
        for place in range(len(second)):
            changed = bytearray(second)
            changed[place] ^= 0x55
            os.pwrite(number, first + changed, 0)
            known = Items()
            known.find(number, 0, len(first), "rows")
            found.append(outcome(known))
            assert found[-1] == outcome(Items())
        assert {isinstance(each, dict) for each in found} == {True, False}


def read_metadata(folder: Path) -> Any:
    return pickle.loads((folder / ".metadata").read_bytes())


def replace_item(folder: Path, name: str, item: bytes) -> None:
    """Put another item in the place of the one that holds the first chunk of a tensor."""
    metadata = read_metadata(folder)
    index = next(index for index in metadata.storage_data if index.fqn == name)
    info = metadata.storage_data[index]
    path = folder / info.relative_path
    info.offset, info.length = path.stat().st_size, len(item)
    path.write_bytes(path.read_bytes() + item)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


def test_metadata_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    folder = write_dcp(tmp_path, {"w": numbers(5, 3)}, {"w": ROWS})
    raw = (folder / ".metadata").read_bytes()
    for size in range(0, len(raw), 7):
        (folder / ".metadata").write_bytes(raw[:size])
        assert error_of(lambda: wb.open(folder)).code == "dcp-invalid"


@settings(deadline=None, max_examples=300)
@given(place=st.integers(0, 10**6), value=st.integers(0, 255), in_metadata=st.booleans())
def test_a_changed_byte_is_refused_or_does_no_harm(
    tmp_path_factory: Any, place: int, value: int, in_metadata: bool
) -> None:
    tensor = numbers(5, 3)
    folder = write_dcp(tmp_path_factory.mktemp("changed"), {"w": tensor}, {"w": ROWS}, files=1)
    path = folder / (".metadata" if in_metadata else "__0_0.distcp")
    raw = bytearray(path.read_bytes())
    raw[place % len(raw)] = value
    path.write_bytes(raw)
    try:
        checkpoint = wb.open(folder)
        found = {key: checkpoint.tensor(key) for key in checkpoint.header}
    except wb.WeighbridgeError:
        return
    assert [(len(tensor.shape), tensor.dtype) for tensor in found.values()] == [(2, torch.float32)]


def test_very_many_chunks_that_lie_across_each_other_take_a_moment() -> None:
    body = """
from weighbridge.storage.sharded.boxes import Box, find_fault
side = 10**6
fault = find_fault((side, side), [Box((i, i), (10**5, 10**5)) for i in range(100_000)])
strips = [Box((r * 100, c), (100, 1)) for r in range(300) for c in range(50)]
strips += [Box((r * 60, 50 + c), (60, 1)) for r in range(500) for c in range(50)]
stairs = [box for i in range(1, 5000) for box in (Box((0, i), (side - i, 1)), Box((side - i, i), (i, 1)))]
stairs.append(Box((0, 0), (side, 1)))
return [fault.what, find_fault((30_000, 100), strips), find_fault((side, 5000), stairs).what]
"""
    told_apart = ["no chunk holds this", None]
    assert run_bounded(body).value == [*told_apart, "more chunks lie across each other than can be told apart"]


@pytest.mark.parametrize(
    ("boxes", "said"),
    [
        (ROWS[:2], "no chunk holds this: [4:5, 0:3]"),
        (ROWS[1:], "no chunk holds this: [0:2, 0:3]"),
        ([*ROWS[:2], ((3, 0), (2, 3))], "two chunks hold this: [3:4, 0:3]"),
        ([((0, 0), (5, 2)), ((0, 2), (3, 1))], "no chunk holds this: [3:5, 2:3]"),
    ],
)
def test_chunks_that_overlap_or_leave_holes_name_tensor_and_box(tmp_path: Path, boxes: Any, said: str) -> None:
    folder = write_dcp(tmp_path, {"w": numbers(5, 3), "v": numbers(2)}, {"w": boxes})
    error = error_of(lambda: wb.open(folder))
    assert error.code == "dcp-invalid"
    assert said in error.got
    assert error.where.endswith(": w")


def test_chunk_outside_of_its_tensor_is_refused(tmp_path: Path) -> None:
    def shrink(metadata: Any) -> None:
        metadata.state_dict_metadata["w"].size = torch.Size((4, 3))

    folder = write_dcp(tmp_path, {"w": numbers(5, 3)}, {"w": ROWS}, metadata=shrink)
    error = error_of(lambda: wb.open(folder))
    assert (error.code, error.got) == ("dcp-invalid", "[4:5, 0:3]")


def test_item_that_is_another_chunk_is_refused(tmp_path: Path) -> None:
    folder = write_dcp(tmp_path, {"w": numbers(5, 3)}, {"w": ROWS})
    for other in (numbers(3, 2), numbers(2, 3).int(), numbers(6)):
        replace_item(folder, "w", item_of(other))
        assert error_of(lambda: wb.open(folder)).code == "dcp-invalid"
    replace_item(folder, "w", item_of({"w": numbers(2, 3)}))
    assert error_of(lambda: wb.open(folder)).code == "dcp-unsupported"


def test_compressed_and_transformed_items_are_not_supported(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(item_of(numbers(2)))) as plain,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name in plain.namelist():
            archive.writestr(name, plain.read(name))

    def transform(metadata: Any) -> None:
        for info in metadata.storage_data.values():
            info.transform_descriptors = ["zstd"]

    folder = write_dcp(tmp_path / "packed", {"w": numbers(2)})
    replace_item(folder, "w", packed.getvalue())
    assert error_of(lambda: wb.open(folder)).code == "dcp-unsupported"
    replace_item(folder, "w", b"\x28\xb5\x2f\xfd" + bytes(50))
    assert error_of(lambda: wb.open(folder)).code == "dcp-unsupported"
    error = error_of(lambda: wb.open(write_dcp(tmp_path / "transformed", {"w": numbers(2)}, metadata=transform)))
    assert (error.code, error.got) == ("dcp-unsupported", "'zstd', on 'w'")


def test_file_that_is_short_or_missing_or_elsewhere_is_refused(tmp_path: Path) -> None:
    folder = write_dcp(tmp_path / "in", {"w": numbers(5, 3)}, {"w": ROWS}, files=1)
    os.truncate(folder / "__0_0.distcp", 900)
    assert error_of(lambda: wb.open(folder)).code == "file-truncated"
    (folder / "__0_0.distcp").rename(folder / "__1_0.distcp")
    error = error_of(lambda: wb.open(folder))
    assert (error.code, error.got) == ("dcp-invalid", "no file __0_0.distcp")

    def lead_out(metadata: Any) -> None:
        for info in metadata.storage_data.values():
            info.relative_path = "../in/" + info.relative_path

    assert (
        error_of(lambda: wb.open(write_dcp(tmp_path / "out", {"w": numbers(2)}, metadata=lead_out))).code
        == "path-unsafe"
    )


def test_unfinished_save_and_file_of_one_rank_are_refused(tmp_path: Path) -> None:
    folder = write_dcp(tmp_path, {"w": numbers(2)})
    assert error_of(lambda: wb.open(folder / "__0_0.distcp")).code == "checkpoint-partial"
    (folder / ".metadata").unlink()
    assert error_of(lambda: wb.open(folder)).code == "dcp-invalid"


def test_two_checkpoints_in_one_directory_are_ambiguous(tmp_path: Path) -> None:
    folder = write_dcp(tmp_path, {"w": numbers(2)})
    wb.convert({"w": numbers(3)}, tmp_path / "other")
    (tmp_path / "other/model.safetensors").rename(folder / "model.safetensors")
    assert error_of(lambda: wb.open(folder)).code == "checkpoint-ambiguous"
    assert wb.open(folder / ".metadata").header["w"].shape == (2,)


@pytest.mark.parametrize("name", ["__1_0.distcp", ".metadata"])
def test_file_that_changes_is_noticed(tmp_path: Path, name: str) -> None:
    folder = write_dcp(tmp_path / "in", {"w": numbers(5, 3)}, {"w": ROWS})
    plan = wb.plan(folder)
    path = folder / name
    path.write_bytes(path.read_bytes() + b" ")
    assert error_of(lambda: plan.write(tmp_path / "out")).code == "source-changed"
    assert not (tmp_path / "out").exists()


def test_pieces_of_rows_are_the_bytes_that_are_read(tmp_path: Path) -> None:
    columns = [((0, 0), (5, 1)), ((0, 1), (5, 2))]
    boxes = {"rows": [ROWS[1], ROWS[2], ROWS[0]], "columns": columns}
    folder = write_dcp(tmp_path, {"rows": numbers(5, 3), "columns": numbers(5, 3), "whole": numbers(5, 3)}, boxes)
    checkpoint = wb.open(folder)
    for key, start, stop in product(("rows", "whole"), (0, 1, 24, 59), (60, 59, 30, 24)):
        pieces = pieces_of(checkpoint, key, start, max(0, stop - start))
        assert pieces is not None
        expected = bytearray(max(0, stop - start))
        checkpoint.read(key, start, memoryview(expected))
        assert b"".join(piece.path.read_bytes()[piece.offset :][: piece.size_bytes] for piece in pieces) == expected
    assert pieces_of(checkpoint, "columns", 0, 60) is None
    assert pieces_of(wb.open(Header({"w": TensorSpec("F32", (5, 3))})), "w", 0, 60) is None


def test_rows_are_moved_there_and_back_without_torch(tmp_path: Path) -> None:
    """To import it takes longer, and more memory, than to move some gigabytes."""
    folder = write_dcp(tmp_path / "in", {"w": numbers(5, 3), "v": numbers(2, 3)}, {"w": ROWS})
    script = """if True:
        import sys, weighbridge as wb
        print(wb.open(sys.argv[1]).header["w"], end=";")
        made = wb.convert(sys.argv[1], sys.argv[2], [wb.WeightRenaming("w", "new")], sync=False)
        wb.convert(made, sys.argv[3], (), to="dcp", sync=False)
        print("torch" in sys.modules)"""
    places = [str(tmp_path / name) for name in ("in", "out", "back")]
    done = subprocess.run([sys.executable, "-c", script, *places], capture_output=True, text=True, check=True)
    assert done.stdout == "F32 [5, 3];False\n"
    for place, name in ((folder, "w"), (tmp_path / "out", "new"), (tmp_path / "back", "new")):
        assert wb.open(place).tensor(name).equal(numbers(5, 3))


def test_item_larger_than_four_gigabytes_is_found_by_its_directory(tmp_path: Path) -> None:
    """Written by torch without its data: a file of holes, in which sizes and places do not fit into 32 bits."""
    folder = write_dcp(tmp_path, {"w": torch.empty(0), "v": numbers(4)}, files=1)
    size = 2**32 + 70
    path = folder / "__9_0.distcp"
    with torch.serialization.skip_data():
        torch.save(torch.empty(size, dtype=torch.uint8), path)
    length = path.stat().st_size
    with path.open("ab") as file:
        file.write(item_of(numbers(4)))
    metadata = read_metadata(folder)
    large = metadata.state_dict_metadata["w"]
    large.size, large.chunks[0].sizes = torch.Size((size,)), torch.Size((size,))
    large.properties.dtype = torch.uint8
    for index, info in metadata.storage_data.items():
        info.relative_path, info.offset = path.name, length if index.fqn == "v" else 0
        info.length = path.stat().st_size - length if index.fqn == "v" else length
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    checkpoint = wb.open(folder)
    extent = checkpoint.extent("w")
    assert extent is not None
    assert checkpoint.tensor("v").equal(numbers(4))
    with path.open("r+b") as file:
        file.truncate(length)
        file.seek(extent.offset + size - 3)
        file.write(b"\x07\x08\x09")
    assert torch.load(path, mmap=True, weights_only=True)[-4:].tolist() == [0, 7, 8, 9]


def test_many_ways_of_cutting_a_tensor_in_two_axes(tmp_path: Path) -> None:
    """Every grid of a small matrix."""
    tensor = numbers(4, 6)
    for rows, columns in product(range(1, 5), range(1, 7)):
        grid = [
            ((row, column), (min(rows, 4 - row), min(columns, 6 - column)))
            for row, column in product(range(0, 4, rows), range(0, 6, columns))
        ]
        checkpoint = wb.open(write_dcp(tmp_path / f"{rows}x{columns}", {"w": tensor}, {"w": grid}))
        assert checkpoint.tensor("w").equal(tensor)
