"""Models that are spread over processes: each finds its own part of what one process loads, and of the files."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from conftest import ROOT
from drawn_parts import held_of
from hypothesis import given, settings, strategies as st
from left_files import contents
from safetensors.torch import save_file
from spread_models import RULES, SAVED_BY_8, TRAINED, WAYS, Net, fused, publish, published, step
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import _StridedShard

import weighbridge as wb
from weighbridge.models.spread_tensors import Split

WORLDS = tuple(sorted({world for _, worlds in WAYS.values() for world in worlds}))
TOGETHER = (1, 2, 4)
SAVING = (*TOGETHER, 8)
TABLE = [(way, world) for way, (_, worlds) in WAYS.items() for world in worlds]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the published weights, in two files."""
    return publish(tmp_path_factory.mktemp("spread"))


@cache
def found(backend: str, worlds: tuple[int, ...], folder: Path) -> dict[int, list[dict[str, Any]]]:
    """What each rank found, by the number of processes; they run once."""
    words = backend, ",".join(map(str, worlds)), str(folder)
    command = [sys.executable, str(ROOT / "tests" / "spread_models.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"rank"')]
    return {world: [rank for rank in ranks if rank["world"] == world] for world in worlds}


def hold_ranks(way: str, ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert "raised" not in rank[way], rank[way]["raised"]
        assert (rank[way]["meta"], rank[way]["cpu"]) == ([], []), rank["rank"]
        assert rank[way]["meta kinds"]
        assert rank[way]["cpu kinds"]
        assert rank[way]["meta reads"] == rank[way]["cpu reads"] == rank[way]["said"]["reads_bytes"]


@pytest.mark.parametrize(("way", "world"), TABLE)
def test_each_process_holds_its_part_of_what_one_loads(way: str, world: int, folder: Path) -> None:
    """What torch puts there of the whole values, on the meta device and on a real one; the parts say the same."""
    ranks = found("fake", WORLDS, folder)[world]
    assert len(ranks) == world
    hold_ranks(way, ranks)
    whole = fused(published())
    for key, tensor in whole.items():
        counts = torch.zeros(tensor.shape)
        for rank in ranks:
            part = wb.Part.from_dict(rank[way]["parts"][key])
            places = torch.arange(tensor.numel()).reshape(tensor.shape)
            counts.view(-1)[held_of(places, part).reshape(-1)] += 1
        assert counts.unique().numel() == 1, key
        assert counts.min() >= 1


@pytest.mark.parametrize("world", TOGETHER)
def test_processes_that_talk_to_each_other_do_the_same_and_train_on(world: int, folder: Path) -> None:
    """The loss and a weight after a step are those of one process; what a pass has left in place is filled, too."""
    ranks = found("gloo", SAVING, folder)[world]
    alone = Net()
    wb.load(alone, folder / "published", RULES)
    loss, norm = step(alone)
    for way, (_, worlds) in WAYS.items():
        if world not in worlds:
            continue
        hold_ranks(way, ranks)
        for rank in ranks if way in TRAINED else ():
            assert rank[way]["loss"] == pytest.approx(loss, rel=1e-5)
            assert rank[way]["norm"] == pytest.approx(norm, rel=1e-5)
            assert rank[way]["again"] == []


SAVED = [
    (way, world)
    for way, (_, worlds) in WAYS.items()
    for world in worlds
    if world in TOGETHER or (world == 8 and way in SAVED_BY_8)
]


@pytest.mark.parametrize(("way", "world"), SAVED)
def test_what_processes_save_together_is_what_one_saves(way: str, world: int, folder: Path) -> None:
    """The very files that were loaded; and through the mapping, with a receipt and digests, those of one process."""
    found("gloo", SAVING, folder)
    saved = folder / f"saved {way} {world}"
    assert contents(saved / "as loaded") == contents(folder / "published")
    assert contents(saved / "published") == contents(saved_alone(folder))
    assert not list(saved.glob(".*"))


@cache
def saved_alone(folder: Path) -> Path:
    alone = Net()
    wb.load(alone, folder / "published", RULES)
    return wb.save(alone, folder / "alone", RULES, max_shard_size=1500, digests=True)


@pytest.mark.parametrize(("way", "world"), [pair for pair in SAVED if pair[0] in TRAINED and pair[1] in TOGETHER])
def test_what_was_trained_together_and_saved_is_loaded_by_one(way: str, world: int, folder: Path) -> None:
    found("gloo", SAVING, folder)
    alone, read = Net(), Net()
    wb.load(alone, folder / "published", RULES)
    step(alone)
    wb.load(read, folder / f"saved {way} {world}" / "trained", RULES)
    before = fused(published())
    for key, tensor in alone.state_dict().items():
        assert torch.allclose(read.state_dict()[key], tensor, rtol=1e-5), key
    assert not alone.head.weight.equal(before["head.weight"])


def test_tied_weights_are_saved_once_until_they_differ(folder: Path) -> None:
    """One of the two processes holds a row more than the other, and both have a say in whether weights are equal."""
    assert [rank["tied"] for rank in found("gloo", SAVING, folder)[2]] == [{"rows": 2}, {"rows": 1}]
    rows = torch.arange(6.0).reshape(3, 2)
    for name in ("tied", "untied but equal"):
        assert wb.plan(folder / name).state_dict().keys() == {"0.weight"}
    both = wb.plan(folder / "untied").state_dict()
    assert both["0.weight"].equal(rows)
    assert both["1.weight"].equal(2 * rows)


def test_flat_pieces_are_refused_by_name(folder: Path) -> None:
    assert [rank["flat"] for rank in found("gloo", SAVING, folder)[2]] == ["parts-unclear"] * 2


def test_the_report_says_what_a_process_holds(folder: Path) -> None:
    whole = sum(tensor.nbytes for tensor in fused(published()).values())
    ranks = found("fake", WORLDS, folder)[4]
    held = [rank["experts"]["said"]["held_bytes"] for rank in ranks]
    experts = sum(tensor.nbytes for key, tensor in fused(published()).items() if "gate_up" in key or "down" in key)
    assert held == [whole - experts * 3 // 4] * 4
    assert all(rank["rows"]["said"]["needed_bytes"] == rank["rows"]["said"]["held_bytes"] for rank in ranks)
    assert len({rank["rows"]["said"]["whole"] for rank in ranks}) == 1


# ---- by coordinates ----


def cut_by_torch(tensor: torch.Tensor, split: Split) -> torch.Tensor:
    """Cut a tensor along a mesh's axes in their order, by chunks as torch cuts them."""
    for placement, ways, place in zip(split.placements, split.mesh, split.coordinate, strict=True):
        axis = getattr(placement, "dim", None)
        if axis is not None:
            groups = tensor.chunk(getattr(placement, "split_factor", 1), axis)
            tensor = torch.cat([chunk_of(group, ways, place, axis) for group in groups], axis)
    return tensor


def chunk_of(tensor: torch.Tensor, ways: int, place: int, axis: int) -> torch.Tensor:
    chunks = tensor.chunk(ways, axis)
    return chunks[place] if place < len(chunks) else tensor.narrow(axis, 0, 0)


@settings(max_examples=max(1000, settings().max_examples), deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_coordinate_of_a_mesh_is_a_part_and_all_of_them_are_the_tensor(seed: int) -> None:
    """Law 8c: each element is held as often as the axes that replicate say."""
    chance = random.Random(seed)
    shape = tuple(chance.choices((1, 2, 3, 5, 8, 12, 17), k=chance.randint(1, 3)))
    mesh = tuple(chance.choices((1, 2, 3, 4), k=chance.randint(1, 3)))
    placements = tuple(placement(chance, len(shape)) for _ in mesh)
    whole = torch.arange(torch.Size(shape).numel()).reshape(shape)
    counts = torch.zeros(shape, dtype=torch.long)
    for coordinate in itertools.product(*map(range, mesh)):
        split = Split(shape, mesh, coordinate, placements)
        part = split.part(frozenset())
        local = cut_by_torch(whole, split)
        assert part.held == tuple(local.shape) or part.numel == local.numel() == 0
        assert held_of(whole, part).reshape(-1).equal(local.reshape(-1))
        counts.view(-1)[local.reshape(-1)] += 1
    replicas = [ways for ways, each in zip(mesh, placements, strict=True) if isinstance(each, Replicate)]
    assert (counts == torch.tensor([1, *replicas]).prod()).all()


def placement(chance: random.Random, axes: int) -> Any:
    kind = chance.random()
    if kind < 0.25:
        return Replicate()
    axis = chance.randrange(axes)
    return Shard(axis) if kind < 0.75 else _StridedShard(axis, split_factor=chance.choice((2, 3)))


TWO_READINGS = """
import torch, torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.distributed.tensor.placement_types import _StridedShard
from torch.testing._internal.distributed.fake_pg import FakeStore
import weighbridge as wb

dist.init_process_group("fake", store=FakeStore(), rank=10, world_size=12)
mesh = init_device_mesh("cpu", (3, 4), mesh_dim_names=("dp", "tp"))
model = nn.Sequential(nn.Linear(2, 27, bias=False))
with torch.no_grad():
    model[0].weight.copy_(torch.arange(54.0).reshape(27, 2))
parallelize_module(model, mesh["tp"], {"0": ColwiseParallel()}, src_data_rank=None)
fully_shard(model, mesh=mesh["dp"])
print(wb.parts(model)["0.weight"].axes[0], model[0].weight.to_local().tolist())
placements = [_StridedShard(0, split_factor=4), Shard(0)]
spread = DTensor.from_local(torch.zeros(1, 2), mesh, placements, run_check=False, shape=(27, 2), stride=(2, 1))
plain = nn.Linear(2, 27, bias=False)
plain.weight = nn.Parameter(spread)
try:
    print(wb.parts(plain))
except wb.PlanError as refused:
    print(refused.code, refused.problems[0].got)
"""


def test_where_two_readings_fit_it_is_told_by_who_sharded_it_or_refused() -> None:
    """27 rows on 3 x 4 processes: FSDP2 cuts what is left of tensor parallelism, and nobody knows who else would."""
    command = [sys.executable, "-W", "ignore", "-c", TWO_READINGS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    by_fsdp, by_nobody = done.stdout.splitlines()
    assert by_fsdp == "((20, 21),) [[40.0, 41.0]]"
    assert by_nobody == "parts-unclear [1, 2] here; the placements say [1, 2], in two ways"


# ---- one process by itself ----


@pytest.fixture
def alone() -> Any:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def unclear(model: nn.Module) -> list[tuple[str, str]]:
    """The code and the key of what is refused, by every way in."""
    told = []
    plain = {key: torch.zeros(tensor.shape) for key, tensor in model.state_dict().items()}
    for act in (
        lambda: wb.parts(model),
        lambda: wb.load(model, plain, []),
        lambda: wb.plan(plain, [], target=model),
    ):
        with pytest.raises(wb.PlanError) as caught:
            act()
        assert caught.value.code == "parts-unclear"
        told.append([(problem.code, problem.where) for problem in caught.value.problems])
    assert told[0] == told[1] == told[2]
    return told[0]


def holding(tensor: torch.Tensor) -> nn.Module:
    model = nn.Linear(3, 4, bias=False)
    model.weight = nn.Parameter(tensor)
    return model


def test_a_summand_is_no_part(alone: Any) -> None:
    tensor = DTensor.from_local(torch.zeros(4, 3), alone, [Partial()])
    assert unclear(holding(tensor)) == [("parts-unclear", "weight")]


def test_a_local_tensor_that_the_placements_do_not_explain_is_refused(alone: Any) -> None:
    tensor = DTensor.from_local(torch.zeros(3, 3), alone, [Shard(0)], run_check=False, shape=(4, 3), stride=(3, 1))
    assert unclear(holding(tensor)) == [("parts-unclear", "weight")]


def test_an_unknown_placement_is_refused(alone: Any) -> None:
    class Odd(Replicate):
        pass

    tensor = DTensor.from_local(torch.zeros(4, 3), alone, [Replicate()], run_check=False)
    tensor._spec.placements = (Odd(),)
    assert unclear(holding(tensor)) == [("parts-unclear", "weight")]


@pytest.mark.filterwarnings("ignore:Please use DTensor")
def test_shards_of_the_older_kinds_are_refused_by_name(alone: Any) -> None:
    """Those of torch.distributed._shard, and those that lie by themselves in a `DTensor`."""
    from torch.distributed._shard import shard_parameter
    from torch.distributed._shard.sharding_spec import ChunkShardingSpec
    from torch.distributed.tensor._shards_wrapper import LocalShardsWrapper

    older = nn.Linear(3, 4, bias=False)
    shard_parameter(older, "weight", ChunkShardingSpec(dim=0, placements=["rank:0/cpu"]))
    shards = LocalShardsWrapper([torch.zeros(4, 2), torch.zeros(4, 1)], [(0, 0), (0, 2)])
    wrapped = DTensor.from_local(shards, alone, [Shard(0)], run_check=False, shape=(4, 3), stride=(3, 1))
    for model, kind in ((older, "ShardedTensor"), (holding(wrapped), "LocalShardsWrapper")):
        with pytest.raises(wb.PlanError) as caught:
            wb.parts(model)
        assert [problem.code for problem in caught.value.problems] == ["parts-unclear"]
        assert kind in caught.value.problems[0].what


def test_flat_pieces_of_a_buffer_are_other_tensors(alone: Any) -> None:
    """A range of a tensor that was made flat, as Megatron's optimizers have it, passes for no part of it."""
    model = holding(torch.zeros(6))
    with pytest.raises(wb.PlanError) as caught:
        wb.load(model, {"weight": torch.arange(12.0).reshape(4, 3)}, [])
    assert caught.value.codes == ("spec-mismatch",)


def test_values_go_into_the_memory_that_is_there(alone: Any) -> None:
    model = nn.Linear(3, 4)
    fully_shard(model, mesh=alone)
    before = model.weight
    address = before.to_local().data_ptr()
    version = before._version
    wb.load(model, {"weight": torch.arange(12.0).reshape(4, 3), "bias": torch.ones(4)}, [])
    assert model.weight is before
    assert model.weight.to_local().data_ptr() == address
    assert model.weight._version > version
    assert model.weight.full_tensor().equal(torch.arange(12.0).reshape(4, 3))


def test_memory_of_another_dtype_is_kept_or_the_load_is_refused(alone: Any) -> None:
    """What shards a model has noted where its memory lies: another tensor in its place would not be trained."""
    model = nn.Linear(3, 4, bias=False)
    fully_shard(model, mesh=alone)
    values = {"weight": torch.arange(12.0).reshape(4, 3).bfloat16()}
    before = model.weight.to_local().clone()
    with pytest.raises(wb.PlanError) as caught:
        wb.load(model, values, [])
    assert caught.value.codes == ("dtype-mismatch",)
    assert model.weight.to_local().equal(before)
    wb.load(model, values, [], dtype="target")
    assert model.weight.full_tensor().equal(values["weight"].float())


def test_a_meta_model_takes_the_dtypes_of_the_checkpoint(alone: Any) -> None:
    with torch.device("meta"):
        model = nn.Linear(3, 4, bias=False)
    fully_shard(model, mesh=alone)
    wb.load(model, {"weight": torch.ones(4, 3).bfloat16()}, [])
    assert isinstance(model.weight, nn.Parameter)
    assert isinstance(model.weight.data, DTensor)
    assert model.weight.full_tensor().equal(torch.ones(4, 3).bfloat16())


def test_tied_weights_are_one_parameter_still(alone: Any) -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    model[1].weight = model[0].weight
    fully_shard(model, mesh=alone)
    wb.load(model, {"0.weight": torch.arange(15.0).reshape(5, 3)}, [])
    assert model[1].weight is model[0].weight
    assert model[1].weight.full_tensor().equal(torch.arange(15.0).reshape(5, 3))


def test_a_load_that_fails_leaves_a_meta_model_as_it_was(alone: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.rand(40, 30), "bias": torch.rand(40)}, path)
    with torch.device("meta"):
        model = nn.Linear(30, 40)
    fully_shard(model, mesh=alone)
    before = dict(model.named_parameters())
    checkpoint = wb.open(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(wb.CheckpointError):
        wb.load(model, checkpoint, [], copy=True)
    assert all(model.get_parameter(key) is tensor and tensor.is_meta for key, tensor in before.items())


def test_a_cut_plan_loads_into_the_model_that_it_was_cut_for_and_no_other(alone: Any) -> None:
    values = {"weight": torch.arange(12.0).reshape(4, 3)}
    plan = wb.plan(values, [])
    model = nn.Linear(3, 4, bias=False)
    fully_shard(model, mesh=alone)
    plan.cut(wb.parts(model)).load_into(model)
    assert model.weight.full_tensor().equal(values["weight"])
    with pytest.raises(wb.PlanError) as caught:
        plan.cut({"weight": wb.Part((4, 3), (((0, 2),), ((0, 3),)))}).load_into(model)
    assert caught.value.code == "model-mismatch"


def test_a_cut_plan_fills_a_plain_model_of_the_parts(tmp_path: Path) -> None:
    """Tensors that a process holds by itself, as Megatron has them: the parts are given, and nothing is asked."""
    values = {"weight": torch.arange(24.0).reshape(8, 3)}
    model = nn.Linear(3, 4, bias=False)
    wb.plan(values, []).cut({"weight": wb.Part((8, 3), (((2, 6),), ((0, 3),)))}).load_into(model)
    assert model.weight.equal(values["weight"][2:6])
    with pytest.raises(wb.PlanError) as caught:
        wb.save(model, tmp_path / "out")
    assert caught.value.code == "usage"
    assert not (tmp_path / "out").exists()


def test_a_stage_of_a_pipeline_takes_its_part_of_the_whole_plan(folder: Path) -> None:
    """The whole model says what is missing; a stage is the plan restricted to its keys."""
    with torch.device("meta"):
        whole, stage = Net(), Net()
    stage.embed, stage.head = nn.Identity(), nn.Identity()
    stage.blocks[0] = nn.Identity()
    plan = wb.plan(folder / "published", RULES, target=whole)
    plan.restrict(list(stage.state_dict())).load_into(stage)
    wanted = fused(published())
    assert all(tensor.equal(wanted[key]) for key, tensor in stage.state_dict().items())
    assert not any(tensor.is_meta for tensor in stage.state_dict().values())


def test_chunks_of_chunks_by_themselves_are_understood(alone: Any) -> None:
    tensor = distribute_tensor(torch.zeros(4, 3), alone, [_StridedShard(0, split_factor=2)], src_data_rank=None)
    assert wb.parts(holding(tensor))["weight"].is_whole
