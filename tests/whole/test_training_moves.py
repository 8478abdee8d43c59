"""A training on two ranks is published, and goes on from what was published, on four ranks, with equal losses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import weighbridge as wb

RULES = wb.Mapping(
    [
        wb.WeightConverter("gate_up.weight", ["gate.weight", "up.weight"], [wb.Chunk(dim=0)]),
        wb.WeightConverter("experts", "experts.*.weight", [wb.Transpose(1, 2), wb.SplitModulelist(dim=0)]),
        wb.WeightRenaming("norm.scale", "norm.weight"),
    ],
    name="published",
)

TRAINING = """
import json
import os
import sys
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard

rank, count, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store{count}", count), rank=rank, world_size=count)
FORMS = {"nested": StateDictOptions(), "flat": StateDictOptions(flatten_optimizer_state_dict=True)}

class Norm(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(8))

    def forward(self, x):
        return x / x.norm(dim=-1, keepdim=True) * self.scale

class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = Norm()
        self.gate_up = torch.nn.Linear(8, 14, bias=False)
        self.down = torch.nn.Linear(7, 8)
        self.experts = torch.nn.Parameter(torch.randn(6, 8, 5) / 10)

    def forward(self, x):
        gate, up = self.gate_up(self.norm(x)).chunk(2, dim=-1)
        mixed = torch.einsum("bi,eio->bo", x, self.experts)
        return x + self.down(torch.nn.functional.silu(gate) * up) + mixed.mean(-1, keepdim=True)

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList([Block(), Block()])
        self.head = torch.nn.Linear(8, 3)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x)

def start(seed):
    torch.manual_seed(seed)
    model = Model().double()
    for layer in model.layers:
        fully_shard(layer)
    fully_shard(model)
    return model, torch.optim.AdamW(model.parameters(), lr=0.01 * seed, betas=(0.8, 0.97), weight_decay=0.1)

def train(model, optimizer, first, steps=3):
    losses = []
    for step in range(first, first + steps):
        chance = torch.Generator().manual_seed(step)
        x, wanted = (torch.randn(16, size, dtype=torch.float64, generator=chance) for size in (8, 3))
        loss = (model(x) - wanted).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses

if count == 2:
    model, optimizer = start(1)
    train(model, optimizer, 0)
    for name, options in FORMS.items():
        weights, states = get_state_dict(model, optimizer, options=options)
        dcp.save({"model": weights, "optim": states, "step": 3}, checkpoint_id=f"{folder}/{name}")
    found = train(model, optimizer, 3)
else:
    found = {}
    for name, options in FORMS.items():
        model, optimizer = start(2)
        weights, states = get_state_dict(model, optimizer, options=options)
        state = {"model": weights, "optim": states, "step": 0}
        dcp.load(state, checkpoint_id=f"{folder}/{name}.back")
        assert state["step"] == 3
        set_state_dict(
            model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optim"], options=options
        )
        found[name] = train(model, optimizer, 3)
    model, optimizer = start(2)
    weights, _ = get_state_dict(model, optimizer)
    dcp.load({"model": weights}, checkpoint_id=f"{folder}/nested.back")
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=get_state_dict(model, optimizer)[1])
    found["weights alone"] = train(model, optimizer, 3)
if rank == 0:
    with open(f"{folder}/losses{count}.json", "w") as file:
        json.dump(found, file)
dist.barrier()
os._exit(0)  # the threads of gloo may not have ended when the interpreter takes their group apart
"""


def run_ranks(folder: Path, count: int) -> object:
    command = [sys.executable, "-W", "ignore", "-c", TRAINING]
    ranks = [subprocess.Popen([*command, str(rank), str(count), str(folder)]) for rank in range(count)]
    assert [rank.wait(timeout=400) for rank in ranks] == [0] * count
    return json.loads((folder / f"losses{count}.json").read_text())


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, object, object]:
    """Train on two ranks, publish, go back, and train on four; return the place, and the losses of both."""
    folder = tmp_path_factory.mktemp("training")
    first = run_ranks(folder, 2)
    for name in ("nested", "flat"):
        wb.convert(f"{folder / name}::**", folder / f"{name}.published", RULES, digests=True)
        wb.revert(folder / f"{name}.published", folder / f"{name}.back", to="dcp")
    return folder, first, run_ranks(folder, 4)


@pytest.mark.parametrize("name", ["nested", "flat"])
def test_training_goes_on_with_equal_losses(moved: tuple[Path, list[float], dict[str, list[float]]], name: str) -> None:
    _, first, second = moved
    assert len(set(first)) == 3
    assert second[name] == pytest.approx(first, rel=1e-12)
    assert second["weights alone"] != pytest.approx(first, rel=1e-3)


@pytest.mark.parametrize("name", ["nested", "flat"])
def test_what_is_published_has_the_published_names(moved: tuple[Path, object, object], name: str) -> None:
    folder, _, _ = moved
    published, saved = wb.open(folder / f"{name}.published"), wb.open(f"{folder / name}::**")
    block = "layers.1."
    assert wb.verify(folder / f"{name}.published")
    for state in ("model.{}", "optim.state.{}.exp_avg", "optim.state.{}.exp_avg_sq"):
        whole = saved.tensor(state.format(f"{block}gate_up.weight"))
        assert published.tensor(state.format(f"{block}up.weight")).equal(whole[7:])
        experts = saved.tensor(state.format(f"{block}experts"))
        assert published.tensor(state.format(f"{block}experts.5.weight")).equal(experts[5].t())
    assert published.tensor(f"optim.state.{block}experts.5.weight.step").equal(torch.tensor(3.0))
    assert (folder / f"{name}.published/dcp-objects.json").is_file()
    assert wb.verify(wb.open(f"{folder / name}.back::**"), saved)


def test_the_weights_alone_are_published_under_their_own_names(moved: tuple[Path, object, object]) -> None:
    folder, _, _ = moved
    out = wb.convert(folder / "nested", folder / "weights", RULES)
    names = wb.open(out).header
    assert "layers.0.gate.weight" in names
    assert not [name for name in names if name.startswith(("model.", "optim."))]
    assert not (out / "dcp-objects.json").exists()
