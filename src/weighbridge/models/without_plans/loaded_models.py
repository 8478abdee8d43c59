"""What each model was last loaded through; a plan that ran before anybody asked for it is made when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    import torch

    from weighbridge.planning.plan import Plan
    from weighbridge.storage.protocol import Checkpoint


class Loaded(NamedTuple):
    """What a model was last loaded through.

    Args:
        plan: The plan.
        checkpoint: What it read.
        config: The configuration that it was made with.
        whole: For one that was restricted, the plan before; it says how a model goes back of which this is a stage.
    """

    plan: Plan
    checkpoint: Checkpoint
    config: Any = None
    whole: Plan | None = None


_loaded: WeakKeyDictionary[torch.nn.Module, Loaded | Callable[[], Loaded]] = WeakKeyDictionary()


def remember(model: torch.nn.Module, loaded: Loaded) -> None:
    """Note what a model was loaded through."""
    _loaded[model] = loaded


def remember_later(model: torch.nn.Module, make: Callable[[], Loaded]) -> None:
    """Note how to find out what a model was loaded through.

    Args:
        model: The model.
        make: Makes the plan, when it is first asked for; it must not hold the model.
    """
    _loaded[model] = make


def recall(model: torch.nn.Module) -> Loaded | None:
    """Return what a model was last loaded through, if it was."""
    found = _loaded.get(model)
    if callable(found):
        found = _loaded[model] = found()
    return found
