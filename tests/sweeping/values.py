"""Compare by value: a small model, every element of it different, written and read by the library and by us."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sweeping.configurations import Small, make, narrow
from sweeping.outcomes import NOT_COMPARED, Outcome, finding, said
from weighbridge.integrations import transformers as wbt

MOST_BYTES: Final = 100 * 2**20


def compare(kind: Any, model: Any, small: Small | None) -> Outcome:
    """Compare the smallest model that the library itself can write and read.

    Args:
        kind: The class.
        model: A model of it, on the meta device.
        small: How small that is.
    """
    why = f"no model of less than {MOST_BYTES >> 20} MiB"
    for config in narrow(kind, model, small, MOST_BYTES):
        with tempfile.TemporaryDirectory() as folder:
            try:
                made = filled(make(kind, config, "cpu"))
                made.save_pretrained(Path(folder) / "theirs")
                theirs = tensors_of(kind.from_pretrained(Path(folder) / "theirs"))
            except Exception as refused:
                why = f"the library itself: {said(refused)}"
                continue
            return _compare(kind, made, theirs, Path(folder))
    return {"code": NOT_COMPARED, "said": why}


def filled(model: Any) -> Any:
    """Give every floating tensor of a model's state values of its own; tied ones share them."""
    import torch

    chance = torch.Generator().manual_seed(len(list(model.parameters())))
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=chance))
    return model


def tensors_of(model: Any) -> dict[str, Any]:
    """Return what a model holds, by name."""
    return dict(model.state_dict())


def _compare(kind: Any, made: Any, theirs: Mapping[str, Any], folder: Path) -> Outcome:
    ours = wbt.from_pretrained(kind, folder / "theirs")
    wbt.save_pretrained(made, folder / "fresh")
    wbt.save_pretrained(ours, folder / "loaded")
    written = {name: _file(folder / name) for name in ("theirs", "fresh", "loaded")}
    fresh = _unequal(written["fresh"], written["theirs"])  # names that differ are a matter of another check
    return finding(
        "values",
        {
            "read otherwise than the library reads": _unequal(tensors_of(ours), theirs),
            "read otherwise than it was": sorted(
                set(_unequal(tensors_of(ours), tensors_of(made))) - set(_unequal(theirs, tensors_of(made)))
            ),
            "the library reads ours otherwise": _unequal(tensors_of(kind.from_pretrained(folder / "fresh")), theirs),
            "a fresh one is written otherwise": [
                key for key in fresh if all(key in found for found in written.values())
            ],
            "a loaded one is written otherwise": _unequal(written["loaded"], written["theirs"]),
        },
    )


def _file(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {key: tensor for path in sorted(folder.glob("*.safetensors")) for key, tensor in load_file(path).items()}


def _unequal(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the names that only one has, or both with different values."""
    import torch

    both = one.keys() & other.keys()
    return sorted((one.keys() ^ other.keys()) | {key for key in both if not torch.equal(one[key], other[key])})
