"""What is made of checkpoints that lie elsewhere is read as they are: by as many requests at once as answers take."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from elsewhere import reached
from loopback import Asked, Loopback, loopback
from safetensors.torch import save_file

import weighbridge as wb
from weighbridge.running import devices
from weighbridge.running.devices import gather_staged
from weighbridge.running.gather import start_output
from weighbridge.running.sources import LayeredCheckpoint
from weighbridge.storage.joined import Part, join_checkpoints
from weighbridge.storage.protocol import Checkpoint, pace_of

pytest.importorskip("obstore", reason="needs obstore, of the extra weighbridge[remote]")

AT_ONCE = 6
"""More than the machines that run this have cores to spare."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Loopback, Path]]:
    folder = tmp_path_factory.mktemp("paced")
    for part in ("front", "behind"):
        tensors = {f"{part}.{number}": torch.randn(640, 640) for number in range(4)}
        (folder / part).mkdir()
        save_file(tensors, folder / part / "model.safetensors")
    with loopback() as server, reached(server, folder):
        server.serve("/bucket", folder)
        yield server, folder


def layered(places: list[str]) -> Checkpoint:
    front, behind = map(wb.open, places)
    return LayeredCheckpoint(front, behind, frozenset(behind.header))


def joined(places: list[str]) -> Checkpoint:
    return join_checkpoints("both", [Part(str(number), f"{number}.", wb.open(at)) for number, at in enumerate(places)])


class Crowd:
    """Holds answers back until so many are wanted at once, or for a while."""

    def __init__(self, enough: int) -> None:
        self.enough = enough
        self.inside = self.most = 0
        self._changed = threading.Condition()

    def __call__(self, asked: Asked) -> None:
        if asked.span == (0, 1):  # whether the file is what it was
            return
        with self._changed:
            self.inside += 1
            self.most = max(self.most, self.inside)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.most >= self.enough, timeout=1)
            self.inside -= 1


@pytest.mark.parametrize("make", [layered, joined])
def test_layers_are_read_at_the_pace_of_what_they_are_made_of(
    served: tuple[Loopback, Path], make: Callable[[list[str]], Checkpoint]
) -> None:
    server, folder = served
    source = make(["s3://bucket/front", "s3://bucket/behind"])
    pace = pace_of(source)
    assert pace is not None
    assert pace.in_flight >= 8
    server.trouble = crowd = Crowd(AT_ONCE)
    found = wb.plan(source, []).state_dict()
    server.reset()
    assert crowd.most >= AT_ONCE
    wanted = wb.plan(make([str(folder / "front"), str(folder / "behind")]), []).state_dict()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert pace_of(make([str(folder / "front"), str(folder / "behind")])) is None


def test_weights_are_computed_at_that_pace(served: tuple[Loopback, Path], tmp_path: Path) -> None:
    server, _ = served
    tensors: dict[str, torch.Tensor] = {}
    for number in range(8):
        tensors[f"layers.{number}.proj.weight"] = torch.randn(512, 1024).to(torch.float8_e4m3fn)
        tensors[f"layers.{number}.proj.weight_scale_inv"] = torch.rand(4, 8) + 0.5
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    said = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "tiny", "quantization_config": said}))
    server.serve("/codes", tmp_path)
    plan = wb.plan("s3://codes", dtype="bfloat16")
    assert plan.computed
    server.trouble = crowd = Crowd(AT_ONCE)
    found = plan.state_dict()
    server.reset()
    assert crowd.most >= AT_ONCE
    wanted = wb.plan(tmp_path, dtype="bfloat16").state_dict()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_devices_are_filled_at_that_pace(served: tuple[Loopback, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "STAGE_BYTES", 2**21)  # a tensor, and not two
    server, folder = served
    plan = wb.plan(wb.open("s3://bucket/front"), [])
    made = [start_output(step, 0, None) for step in plan.steps]
    server.trouble = crowd = Crowd(4)
    gather_staged([want for _, want in made if want is not None], plan.binding.source, torch.device("cpu"))
    server.reset()
    assert crowd.most >= 4
    wanted = wb.plan(folder / "front", []).state_dict()
    assert all(torch.equal(tensor, wanted[step.targets[0]]) for step, (tensor, _) in zip(plan.steps, made, strict=True))
