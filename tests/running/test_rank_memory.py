"""Law 9 for ranks: beside what it holds, a rank takes no more memory than is predicted, whether it loads or saves."""

from __future__ import annotations

from pathlib import Path

import pytest
from bounded import run_bounded

IMPORTS = """
import ctypes, torch, torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from rank_runs import Ranks
from weighbridge.reporting.costs import cost

torch.set_num_threads(1)
LAYERS, WIDTH = 12, 512
RULES = wb.Mapping([
    wb.WeightConverter(["q", "k"], "qk", [wb.Concatenate(0)]),
    wb.WeightConverter("o", "out", [wb.Transpose(0, 1)]),
], name="layers")

def anonymous():
    text = open("/proc/self/status").read()
    return 1024 * int(text.split("RssAnon:")[1].split()[0])

class Watch:
    def __init__(self):
        ctypes.CDLL(None).malloc_trim(0)  # what was freed before is not taken up again unseen
        self.before = self.peak = anonymous()
    def __call__(self, *_):
        self.peak = max(self.peak, anonymous())

def published():
    made = {}
    for layer in range(LAYERS):
        for name in "qko":
            made[f"{layer}.{name}"] = torch.full((WIDTH, WIDTH), float(layer))
    return made

def fused(layers):
    with torch.device("meta"):
        model = nn.ModuleDict({str(layer): nn.Module() for layer in range(layers)})
    for part in model.values():
        part.qk = nn.Parameter(torch.empty(2 * WIDTH, WIDTH, device="meta"))
        part.out = nn.Parameter(torch.empty(WIDTH, WIDTH, device="meta"))
    return model

def spread(model, axis, mesh):
    for part in model.values():
        for name in ("qk", "out"):
            whole = getattr(part, name)
            setattr(part, name, nn.Parameter(distribute_tensor(whole, mesh, [Shard(axis)], src_data_rank=None)))
    return model
"""

LOAD = """
axis, folder = int(sys.argv[1]), sys.argv[2]
wb.plan(published()).write(folder, sync=False)
dist.init_process_group("fake", store=FakeStore(), rank=1, world_size=2)
mesh = init_device_mesh("cpu", (2,))
few = {key: tensor for key, tensor in published().items() if key.startswith("0.")}
wb.load(spread(fused(1), axis, mesh), few, RULES)
del few
model = spread(fused(LAYERS), axis, mesh)
predicted = cost(wb.plan(folder, RULES, target=model).cut(wb.parts(model)))
watch = Watch()
report = wb.load(model, folder, RULES, copy=True, progress=watch)
return [watch.peak - watch.before, report.to_dict()["portion"]["held_bytes"], predicted.buffer_bytes]
"""

SAVE = """
axis, folder = int(sys.argv[1]), sys.argv[2]
def ranks(tensors):
    made = []
    for number in range(2):
        mine = {}
        for key, t in tensors.items():
            size = t.shape[axis]
            cut = ((number * size // 2, (number + 1) * size // 2),)
            mine[key] = wb.Part(tuple(t.shape), tuple(cut if at == axis else ((0, n),) for at, n in enumerate(t.shape)))
        made.append(mine)
    return Ranks(tensors, made)
budget_bytes = 2 * 2**20
for name, layers in (("warm", 1), ("out", LAYERS)):
    source = {key: t for key, t in published().items() if int(key.split(".")[0]) < layers}
    plan = wb.plan(source, RULES)
    group = ranks(plan.state_dict())
    back = plan.inverse()
    watch = Watch()
    ended = group.write(back, folder + "/" + name, sync=False, memory_budget=budget_bytes, progress=watch)
    assert [str(each) for each in ended] == [folder + "/" + name] * 2, ended
held = sum(t.nbytes for mine in group.held for t in mine.values())
return [watch.peak - watch.before, held, 2 * cost(back, budget_bytes).buffer_bytes]
"""

SLACK_BYTES = 4 * 2**20
"""What Python and the allocator take meanwhile."""


@pytest.mark.parametrize("axis", [0, 1], ids=["rows", "columns"])
def test_a_load_takes_what_it_holds_and_what_is_predicted(axis: int, tmp_path: Path) -> None:
    taken, held, predicted = run_bounded(LOAD, axis, tmp_path / "out", imports=IMPORTS).value  # type: ignore[misc]
    assert held <= taken <= held + predicted + SLACK_BYTES
    assert predicted + SLACK_BYTES < held, "the whole would be within the bound"


@pytest.mark.parametrize("axis", [0, 1], ids=["rows", "columns"])
def test_a_save_takes_what_is_predicted(axis: int, tmp_path: Path) -> None:
    """Two ranks in one process, which hold all of it before it begins."""
    taken, held, predicted = run_bounded(SAVE, axis, tmp_path, imports=IMPORTS).value  # type: ignore[misc]
    assert taken <= predicted + SLACK_BYTES
    assert 4 * (predicted + SLACK_BYTES) < held
