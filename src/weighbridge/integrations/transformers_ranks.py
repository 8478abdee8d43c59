"""Models that the library spreads over processes while it loads them: what this process takes of a plan.

The library makes the mesh and cuts the model by its own plans, into stages, columns, rows or experts, before any weight
is there. It would then cut what it *reads* as the weight is cut that comes of it, which is the same thing for some
conversions and not for others. Here the plan is made for the whole model, and cut to what this process holds.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from copy import deepcopy
from typing import Any, Final

import torch

from weighbridge.base.errors import RegistryError
from weighbridge.base.keys import collapse
from weighbridge.base.process.context_values import set_to
from weighbridge.base.specs import Header
from weighbridge.integrations.as_it_lies.stand_ins import StandIn
from weighbridge.mappings.library_parts import library_module, library_name
from weighbridge.models.holdings import take_stock
from weighbridge.models.spread_sources import is_stage
from weighbridge.models.spread_tensors import is_sharded
from weighbridge.models.wrappers import layout_class
from weighbridge.planning.plan import Plan
from weighbridge.planning.restricting import restrict

_LOG: Final = logging.getLogger("weighbridge")


def say_mesh(model: Any, mesh: Any) -> None:
    """Warn where a mesh was given that the library did not spread the model by: it makes one of its own."""
    if mesh is not None and not any(tensor.device_mesh == mesh for tensor in model.parameters() if is_sharded(tensor)):
        _LOG.warning("device_mesh is left aside: the library makes the mesh itself, as distributed_config says")


def say_made_apart(model: Any, keys: Iterable[str]) -> None:
    """Warn of weights that no file has, and that several processes hold: each of them has made its own.

    Args:
        model: The model.
        keys: The weights that the library has initialised.
    """
    if not any(map(is_sharded, model.parameters())):
        return
    places, processes = take_stock(model).places, torch.distributed.get_world_size()
    held = {key: places[key].sharded for key in keys if key in places}
    alike = [key for key, sharded in held.items() if sharded is None or sharded.is_copied(processes)]
    if alike:
        _LOG.warning(
            "%s: made by each process for itself, and held by several, where it must be the same: call "
            "torch.manual_seed alike before, or torch.distributed.broadcast after; saving compares it",
            ", ".join(collapse(alike)[:4]),
        )


# ---- stages of a pipeline ----


def whole_model(model: Any, dtype: torch.dtype) -> Any:
    """Return the model of which this one is a stage, made anew on the meta device; the model itself if it is none.

    What is missing in a checkpoint, and what is left over, can be told of the whole alone. It is not tied yet, as the
    library's is not while it loads.

    Args:
        model: The model; a stage may have no weight at all.
        dtype: What the library makes its weights in.

    Raises:
        RegistryError: `integration-version`.
    """
    return make_anew(layout_class(model), model.config, dtype) if is_stage(model) else model


def make_anew(kind: type[Any], config: Any, dtype: torch.dtype) -> Any:
    """Make a model on the meta device as the library makes it while it loads: it is not tied yet.

    Args:
        kind: Its class.
        config: Its configuration, which stays as it is.
        dtype: What the library makes its weights in.

    Raises:
        RegistryError: `integration-version`.
    """
    untied = library_name(library_module("initialization"), "no_tie_weights")
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"), untied():
            return kind(deepcopy(config))
    finally:
        torch.set_default_dtype(before)


def check_stage(model: Any, whole: Header, own: Header) -> None:
    """Check that each tensor of a stage is one of the whole model's.

    Raises:
        RegistryError: `integration-unsupported` for a model that its configuration alone does not make again.
    """
    strange = [key for key, spec in own.items() if key not in whole or whole[key].shape != spec.shape]
    if strange:
        raise RegistryError(
            "integration-unsupported",
            "the stages of this model's pipeline are not those of the model that its configuration makes",
            where=", ".join(collapse(strange)[:4]),
            got=type(model).__name__,
            hint="give what changes the model as values of the configuration, or load it without pp_size",
        )


def plan_of_stage(plan: Plan, model: Any, own: Header) -> Plan:
    """Restrict the plan of a whole model to the tensors of a stage; of a model that is no stage it is left as it is."""
    if not is_stage(model):
        return plan
    there = [*plan.target, *(fated.key for fated in plan.initialised)]
    return restrict(plan, collapse(key for key in there if key in own))


# ---- parts of tensors ----


class _CutAlready:
    """Takes the place of the library's operation that cuts what is read: what it is given here is the part itself."""

    def shard_tensor(self, source: Any, tensor_idx: int | None = None, device: Any = None, dtype: Any = None) -> Any:
        """Return the part, on the device and in the dtype that the library wants it in."""
        assert tensor_idx is None, "a tensor of a plan is collected into no list"
        return source[...].to(device=device, dtype=dtype)


_are_cut: ContextVar[bool] = ContextVar("weighbridge_are_cut", default=False)


def _operation(original: Any, parameter: Any) -> Any:
    return _CutAlready() if _are_cut.get() else original(parameter)


_CUTTING: Final = StandIn("core_model_loading", "DtensorShardOperation", _operation)


def cut_already(model: Any) -> AbstractContextManager[None]:
    """Let the library take what it is given for this process's parts, in this thread; for a model that has parts.

    Raises:
        RegistryError: `integration-version` where the library cuts what it reads in another way.
    """
    return _cut_already() if any(map(is_sharded, model.parameters())) else nullcontext()


@contextmanager
def _cut_already() -> Iterator[None]:
    with _CUTTING.installed(), set_to(_are_cut, True):
        yield
