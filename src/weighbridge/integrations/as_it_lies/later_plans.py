"""The plan of a load: for one that goes on through a plan after all, and for one that has gone without."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from weighbridge.integrations.transformers_arguments import open_weights
from weighbridge.integrations.transformers_loading import Load
from weighbridge.integrations.transformers_mappings import mapping_as_shipped, mapping_of, resolve_theirs
from weighbridge.integrations.transformers_numbers import read_for_library
from weighbridge.integrations.transformers_ranks import make_anew
from weighbridge.models.holdings import take_stock
from weighbridge.models.without_plans.loaded_models import Loaded
from weighbridge.planning.plan_options import Options

if TYPE_CHECKING:
    import torch

    from weighbridge.storage.plain_directories import PlainDirectory


def planned_load(path: str | Path, dtype: Any) -> Load:
    """Return a load through a plan, for which nothing special was asked.

    Args:
        path: Directory of the checkpoint, whose configuration does not speak of quantised weights.
        dtype: As in the library.

    Raises:
        CheckpointError: As `open_weights`.
    """
    checkpoint, directory = open_weights(path, {})
    read = read_for_library(checkpoint, directory, None, dtype, dequantize=False)
    assert read.config is None
    return Load(read.checkpoint, None, mapping_of, Options(), False, resolve_theirs, read.note, read.saying)


def plan_of(kind: type[Any], config: Any, dtype: torch.dtype, directory: PlainDirectory) -> Loaded:
    """Make the plan that a model would have been loaded through, had one been made.

    Nothing was registered for the model then, so what was registered since has no part in it.

    Args:
        kind: The class of the model.
        config: The configuration that it was made with.
        dtype: What the library made its weights in.
        directory: What was loaded, as it was then.

    Raises:
        RegistryError: `integration-version`.
        PlanError: As `Load.fill`.
    """
    checkpoint, model = directory.opened(), make_anew(kind, config, dtype)
    load = Load(checkpoint, None, mapping_as_shipped, Options())
    plan, _, _ = load.plan_whole(model, take_stock(model))
    return Loaded(plan, checkpoint)
