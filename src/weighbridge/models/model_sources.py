"""A live model as a source: what it holds, opened like a checkpoint."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeGuard

from weighbridge.storage import open_checkpoint
from weighbridge.storage.formats.memory import hold_tensors

if TYPE_CHECKING:
    import torch

    from weighbridge.storage.protocol import Checkpoint


def is_model(place: Any) -> TypeGuard[torch.nn.Module]:
    """Tell whether a place is a model; torch is not imported to find out."""
    return hasattr(place, "named_modules") and callable(getattr(place, "state_dict", None))


def is_live(place: Any) -> bool:
    """Tell whether a place is a model, or what one of several ranks holds of one."""
    if is_model(place):
        return True
    from weighbridge.running.by_ranks.held_source import HeldSource

    return isinstance(place, HeldSource)


def open_place(place: Any, *, direct: bool = False, entry: str | None = None) -> Checkpoint:
    """Open a model, or whatever else can be opened; see `open_checkpoint`."""
    is_live = is_model(place) and not direct and entry is None
    return open_model(place) if is_live else open_checkpoint(place, direct=direct, entry=entry)


def open_model(model: torch.nn.Module) -> Checkpoint:
    """Open a model: nothing is copied, moved or read; what hooks keep in files is read from there.

    Raises:
        CheckpointError: As `hold_tensors`, and as `take_stock`.
        RegistryError: `integration-unsupported`, as `take_stock`, and where adapters are merged into part of the model.

    Examples:
        >>> import torch
        >>> list(open_model(torch.nn.DataParallel(torch.nn.Linear(3, 2))).header)
        ['weight', 'bias']
    """
    from weighbridge.models.holdings import take_stock
    from weighbridge.models.kept_elsewhere import with_kept

    held, where = take_stock(model), f"a {type(model).__name__}"
    opened = replace(hold_tensors(held.tensors(), where=where), notes=held.notes)
    return with_kept(opened, held.kept) if held.kept else opened
