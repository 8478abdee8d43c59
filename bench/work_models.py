"""What measured processes do with models of the transformers library: load them, and save them.

Imports and the model's class come first, on every side. What a side does once in each process beyond that, such as
compiling its rules, is inside the clock: a process loads a model once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import weighbridge as wb
from bench.clock import run_timed
from bench.inventories import moe_mapping
from bench.work_files import SHARD_SIZE

if TYPE_CHECKING:
    import torch


def set_up(source: str) -> None:
    """Import what any side uses, with the model's own module, and keep progress bars out of the output."""
    import transformers

    import weighbridge.integrations.transformers
    import weighbridge.models.modules  # noqa: F401

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    meta_model(source)


def meta_model(source: str) -> torch.nn.Module:
    """Make the model of a checkpoint on the meta device."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model: torch.nn.Module = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(source))
    return model


def load_meta(source: str) -> torch.nn.Module:
    """Make the model on the meta device and load it by `weighbridge.load`."""
    model = meta_model(source)
    is_moe = getattr(model.config, "model_type", "") == "qwen3_moe"
    wb.load(model, source, moe_mapping() if is_moe else ())
    return model


def load_ours(source: str) -> torch.nn.Module:
    """Load by `from_pretrained` of `weighbridge.integrations.transformers`."""
    from transformers import AutoModelForCausalLM

    from weighbridge.integrations import transformers as wbt

    model: torch.nn.Module = wbt.from_pretrained(AutoModelForCausalLM, source)
    return model


def _load_in_pages(choice: str, source: str) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    from weighbridge.integrations import transformers as wbt

    model: torch.nn.Module = wbt.from_pretrained(AutoModelForCausalLM, source, huge_pages=choice)
    return model


def load_theirs(source: str) -> torch.nn.Module:
    """Load by the library's own `from_pretrained`."""
    from transformers import AutoModelForCausalLM

    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(source)
    return model


LOADERS = {
    "meta": load_meta,
    "ours": load_ours,
    "theirs": load_theirs,
    "ours_on": partial(_load_in_pages, "on"),
    "ours_off": partial(_load_in_pages, "off"),
}


def load(touch_bytes: int, source: str, loader: str) -> None:
    """Load a model, and then read every byte of it; the seconds of both count from the start."""
    set_up(source)
    held: list[torch.nn.Module] = []

    def work() -> None:
        held.append(LOADERS[loader](source))

    run_timed(work, lambda: checksum(held[0]), touch_bytes=touch_bytes, reads=[Path(source)])


def load_only(touch_bytes: int, source: str, loader: str) -> None:
    set_up(source)
    run_timed(lambda: LOADERS[loader](source), touch_bytes=touch_bytes, reads=[Path(source)])


def checksum(model: torch.nn.Module) -> int:
    """Add up all words of a model's parameters."""
    import torch

    total = 0
    for parameter in model.parameters():
        flat = parameter.detach().view(-1).view(torch.uint8)
        is_aligned = flat.numel() % 8 == 0 and flat.storage_offset() % 8 == 0
        total += int((flat.view(torch.int64) if is_aligned else flat).sum())
    return total


def save(touch_bytes: int, source: str, destination: str, forced: str) -> None:
    """Save a model that came through a plan in the layout that it came from, forced to the disk or not."""
    set_up(source)
    model = load_meta(source)
    run_timed(lambda: wb.save(model, destination, sync=forced == "1"), touch_bytes=touch_bytes)


def save_theirs(touch_bytes: int, source: str, destination: str) -> None:
    """Save a model by the library's own `save_pretrained`."""
    set_up(source)
    model: Any = load_theirs(source)
    run_timed(lambda: model.save_pretrained(destination, max_shard_size=SHARD_SIZE), touch_bytes=touch_bytes)


def resave(touch_bytes: int, source: str, destination: str) -> None:
    """Load a model and save it by the library's own calls."""
    set_up(source)

    def work() -> Any:
        model: Any = load_theirs(source)
        model.save_pretrained(destination, max_shard_size=SHARD_SIZE)
        return model  # what frees it is not part of the work

    run_timed(work, touch_bytes=touch_bytes, reads=[Path(source)])


def compare(source: str) -> None:
    """Load a model in every way and compare all values with those that the library loads."""
    set_up(source)
    theirs = load_theirs(source).state_dict()
    loaders: tuple[Callable[[str], torch.nn.Module], ...] = (load_meta, load_ours)
    for loader in loaders:
        found = loader(source).state_dict()
        wrong = set(found) ^ set(theirs)
        # As bytes: the pattern holds values that are not numbers, and those do not equal themselves.
        wrong |= {key for key in found.keys() & theirs.keys() if not _is_same(found[key], theirs[key])}
        if wrong:
            raise SystemExit(f"{loader.__name__}: {len(wrong)} tensors differ, such as {min(wrong)}")


def _is_same(first: torch.Tensor, second: torch.Tensor) -> bool:
    import torch

    same_kind = (first.dtype, first.shape) == (second.dtype, second.shape)
    return same_kind and torch.equal(first.view(torch.uint8), second.view(torch.uint8))
