"""What measured processes do with an accelerator: bring the tensors of a checkpoint to it, each in another way.

The device's own start comes before the clock, on every side; what a side allocates does not. A side is done when the
device has everything.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import weighbridge as wb
from bench.clock import run_timed
from bench.inventories import moe_mapping, transposed_mapping

if TYPE_CHECKING:
    import torch

Tensors = dict[str, "torch.Tensor"]

BOUND_BYTES: Final = 2**28
"""Size of the pinned memory that is copied over and over, to know how fast the way to the device is."""

MAPPINGS: Final[dict[str, Callable[[], Any]]] = {"plain": list, "fused": moe_mapping, "transposed": transposed_mapping}


def files(source: str) -> list[str]:
    """Return the files of a checkpoint, in order."""
    return [str(path) for path in sorted(Path(source).glob("*.safetensors"))]


def _ours(kind: str, source: str, device: str) -> Tensors:
    return dict(wb.plan(source, MAPPINGS[kind]()).state_dict(copy=True, device=device))


def _safetensors(source: str, device: str) -> Tensors:
    from safetensors.torch import load_file

    return {key: tensor for path in files(source) for key, tensor in load_file(path, device=device).items()}


def _fastsafetensors(source: str, device: str) -> Tensors:
    from fastsafetensors import fastsafe_open

    found = {}
    with fastsafe_open(filenames=files(source), nogds=True, device=device) as opened:
        for key in opened.keys():  # noqa: SIM118 - it is no dict
            found[key] = opened.get_tensor(key)
    return found


def _instanttensor(source: str, device: str) -> Tensors:
    from instanttensor import safe_open

    with safe_open(files(source), framework="pt", device=device) as opened:
        return dict(opened.tensors())


def _model(load: Callable[..., torch.nn.Module], placed: str, source: str, device: str) -> Tensors:
    from transformers import AutoModelForCausalLM

    return dict(load(AutoModelForCausalLM, source, **{placed: device}).state_dict())


def _load_theirs(model_class: Any, source: str, **arguments: Any) -> torch.nn.Module:
    model: torch.nn.Module = model_class.from_pretrained(source, **arguments)
    return model


def _load_ours(model_class: Any, source: str, **arguments: Any) -> torch.nn.Module:
    from weighbridge.integrations import transformers as wbt

    model: torch.nn.Module = wbt.from_pretrained(model_class, source, **arguments)
    return model


WAYS: Final[dict[str, Callable[[str, str], Tensors]]] = {
    **{kind: partial(_ours, kind) for kind in MAPPINGS},
    "safetensors": _safetensors,
    "fastsafetensors": _fastsafetensors,
    "instanttensor": _instanttensor,
    "model of theirs": partial(_model, _load_theirs, "device_map"),
    "model of ours": partial(_model, _load_ours, "device"),
}
"""Ways to bring a checkpoint to a device, by name: each takes the checkpoint and the device."""


def settle(device: str) -> None:
    """Wait until a device has done all that it was asked for."""
    import torch

    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def _set_up(way: str, device: str) -> None:
    """Import what a way uses, and start the device."""
    import torch

    if way.startswith("model"):
        import transformers

        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()
        importlib.import_module("transformers.models.qwen3_moe.modeling_qwen3_moe")
    elif way in ("safetensors", "fastsafetensors", "instanttensor"):
        importlib.import_module(f"{way}.torch" if way == "safetensors" else way)
    torch.ones(1, device=device).sum()
    settle(device)


def to_device(touch_bytes: int, source: str, way: str, device: str) -> None:
    """Bring a checkpoint to a device."""
    _set_up(way, device)

    def work() -> Tensors:
        found = WAYS[way](source, device)
        settle(device)
        return found

    run_timed(work, touch_bytes=touch_bytes, reads=[Path(source)])


def pinned(touch_bytes: int, size_bytes: str, device: str) -> None:
    """Copy as many bytes to a device from pinned memory, as fast as the way there is."""
    import torch

    _set_up("", device)
    block = torch.ones(min(BOUND_BYTES, int(size_bytes)), dtype=torch.uint8, pin_memory=device != "cpu")
    whole, rest = divmod(int(size_bytes), block.numel())
    goal = torch.empty_like(block, device=device)

    def work() -> None:
        for size in (*[block.numel()] * whole, rest):
            goal[:size].copy_(block[:size], non_blocking=True)
        settle(device)

    run_timed(work, touch_bytes=touch_bytes)


def compare_on_device(source: str, way: str, device: str) -> None:
    """Compare what a way brings to a device with the tensors that are made in memory, byte by byte."""
    import torch

    _set_up(way, device)
    kind = "fused" if way.startswith("model") else way if way in MAPPINGS else "plain"
    expected, found = wb.plan(source, MAPPINGS[kind]()).state_dict(), WAYS[way](source, device)
    wrong = sorted({*_differing(expected, found), *(expected.keys() ^ found.keys())})
    if wrong:
        raise SystemExit(f"{way}: {len(wrong)} tensors differ, such as {wrong[0]}")
    elsewhere = [key for key, tensor in found.items() if tensor.device != torch.device(device)]
    if elsewhere:
        raise SystemExit(f"{way}: {len(elsewhere)} tensors lie elsewhere, such as {elsewhere[0]}")


def _differing(expected: Any, found: Tensors) -> Iterator[str]:
    import torch

    for key in expected.keys() & found.keys():
        pair = [tensors[key].cpu().contiguous().view(torch.uint8) for tensors in (expected, found)]
        if pair[0].shape != pair[1].shape or not torch.equal(*pair):
            yield key
