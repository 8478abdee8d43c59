"""What measured processes do with tensors alone: transposed experts, many small tensors, one huge tensor."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import weighbridge as wb
from bench.clock import run_timed
from bench.inventories import Small, huge, moe_mapping, small, transposed_mapping

if TYPE_CHECKING:
    import torch

TURNS = {"plain": moe_mapping, "transposed": transposed_mapping}


def fuse(touch_bytes: int, source: str, kind: str) -> None:
    """Open a checkpoint, plan, and make the tensors of a mapping, each in memory of its own."""
    import weighbridge.models.modules  # noqa: F401 - what makes tensors is imported before

    mapping = TURNS[kind]()
    run_timed(lambda: wb.plan(source, mapping).state_dict(copy=True), touch_bytes=touch_bytes, reads=[Path(source)])


def compare_fused(source: str) -> None:
    """Compare the transposed tensors with the plain ones."""
    import torch

    plain, turned = (wb.plan(source, mapping()).state_dict() for mapping in TURNS.values())
    for key, tensor in plain.items():
        expected = tensor.transpose(1, 2) if ".experts." in key else tensor
        if not torch.equal(turned[key].view(torch.int16), expected.contiguous().view(torch.int16)):
            raise SystemExit(f"{key} is transposed wrongly")


def module_of(header: wb.Header, device: str) -> torch.nn.Module:
    """Make a module with a parameter for each key of a header; off the meta device, zeros."""
    import torch

    root = torch.nn.Module()
    for key, spec in header.items():
        *path, name = key.split(".")
        place = root
        for part in path:
            if part not in place._modules:
                place.add_module(part, torch.nn.Module())
            place = place.get_submodule(part)
        dtype = {"F32": torch.float32, "BF16": torch.bfloat16}[spec.dtype]
        values = torch.zeros(spec.shape, dtype=dtype, device=device)
        place.register_parameter(name, torch.nn.Parameter(values, requires_grad=False))
    return root


def _load_ours(model: torch.nn.Module, path: str) -> None:
    wb.load(model, path, ())


def _load_plainly(model: torch.nn.Module, path: str) -> None:
    from safetensors.torch import load_file

    model.load_state_dict(load_file(path), assign=next(model.parameters()).is_meta)


LOADERS: dict[str, Callable[[torch.nn.Module, str], None]] = {"ours": _load_ours, "plainly": _load_plainly}


def load_small(touch_bytes: int, path: str, sizes: str, device: str, loader: str) -> None:
    """Load many small tensors into a module that has them under the same names."""
    import weighbridge.models.modules  # noqa: F401

    model = module_of(small(Small(*json.loads(sizes))), device)
    run_timed(lambda: LOADERS[loader](model, path), touch_bytes=touch_bytes, reads=[Path(path)])


def compare_small(path: str, sizes: str) -> None:
    """Compare what each way loads with what safetensors reads, on both devices."""
    import torch
    from safetensors.torch import load_file

    expected = load_file(path)
    for device in ("cpu", "meta"):
        for name, loader in LOADERS.items():
            model = module_of(small(Small(*json.loads(sizes))), device)
            loader(model, path)
            found = model.state_dict()
            wrong = [key for key in expected if not torch.equal(*(s[key].view(torch.int32) for s in (expected, found)))]
            if wrong or len(found) != len(expected):
                raise SystemExit(f"{name} on {device}: {len(wrong)} tensors differ")


def load_huge(touch_bytes: int, path: str, rows: str) -> None:
    """Load one huge tensor into a module on the meta device, in memory of its own."""
    import weighbridge.models.modules  # noqa: F401

    model = module_of(huge(int(rows)), "meta")

    def work() -> None:
        wb.plan(path, (), target=model).load_into(model, copy=True)

    run_timed(work, touch_bytes=touch_bytes, reads=[Path(path)])


def compare_huge(source: str, converted: str, kind: str) -> None:
    """Compare a huge matrix with what it was converted to, some rows at a time."""
    import torch
    from safetensors.torch import load_file

    before, after = (_only(load_file(path)) for place in (source, converted) for path in _files(place))
    expected = before.t() if kind == "transposed" else before
    step = max(1, 2**25 // expected.shape[1])
    for row in range(0, expected.shape[0], step):
        pair = (matrix[row : row + step].contiguous().view(torch.int16) for matrix in (expected, after))
        if not torch.equal(*pair):
            raise SystemExit(f"{kind}: rows from {row} on differ")


def _files(place: str) -> list[Path]:
    return sorted(Path(place).glob("*.safetensors"))


def _only(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    (tensor,) = tensors.values()
    return tensor
