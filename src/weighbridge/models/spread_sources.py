"""A live model that is spread over processes as a source: its header is that of the whole, its tensors are parts."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from weighbridge.algebra.held_parts import Part
from weighbridge.base.errors import RegistryError, WeighbridgeError
from weighbridge.base.specs import Header, TensorSpec
from weighbridge.models.model_sources import open_model
from weighbridge.models.wrappers import layout_class, unwrap
from weighbridge.running.by_ranks.exchange import DEFAULT_TIMEOUT_S, Exchange
from weighbridge.running.by_ranks.held_source import HeldSource
from weighbridge.storage.formats.memory import TensorsCheckpoint, hold_tensors

if TYPE_CHECKING:
    import torch

    from weighbridge.models.holdings import Holdings


def holds_parts(model: torch.nn.Module) -> bool:
    """Tell whether a process holds parts of a model's tensors.

    Raises:
        PlanError: `parts-unclear` for what FSDP1 has cut to flat pieces.
    """
    if "torch.distributed.tensor" not in sys.modules:
        return False
    from weighbridge.models.spread_tensors import as_shards, is_sharded

    as_shards(model.modules())
    return any(is_sharded(tensor) for held in (model.parameters(), model.buffers()) for tensor in held)


@contextmanager
def held_by_ranks(
    model: torch.nn.Module, where: str, group: Any = None, timeout_s: float | None = None
) -> Iterator[HeldSource | None]:
    """Open what this process holds of a model, while all that hold the rest do the same; None if it holds the whole.

    An error in the block is told to the others.

    Args:
        model: The model, with or without wrappers.
        where: What is made of it, for messages.
        group: The process group of those that hold the model; None for all processes.
        timeout_s: How long to wait for the others at a time, in seconds.

    Raises:
        PlanError, CheckpointError, RegistryError: As `take_stock`.
        WeighbridgeError: `usage` where no process group was made.
    """
    if not holds_parts(model):
        yield None
        return
    exchange = _join(where, group, DEFAULT_TIMEOUT_S if timeout_s is None else timeout_s)
    with exchange.failing_first():
        yield _open_parts(model, exchange)


def _join(where: str, group: Any, timeout_s: float) -> Exchange:
    import torch.distributed as dist

    if not dist.is_initialized():
        what, hint = "there is no process group to save a model with that is spread", "call init_process_group first"
        raise WeighbridgeError("usage", what, hint=hint)
    group = dist.group.WORLD if group is None else group
    rank = dist.get_rank(group)
    if rank < 0:
        what, hint = "this process is not in the group that saves", "call save on the ranks of the group alone"
        raise WeighbridgeError("usage", what, got=f"rank {dist.get_rank()}", hint=hint)
    find = getattr(group, "get_group_store", None)
    store = find() if find is not None else dist.distributed_c10d._get_process_group_store(group)
    return Exchange(store, rank, dist.get_world_size(group), where, timeout_s)


def readable_header(model: torch.nn.Module) -> Header:
    """Return the specs of all of a model that can be read, of the whole tensors where it is spread over processes.

    Raises:
        PlanError, CheckpointError, RegistryError: As `take_stock`.
    """
    from weighbridge.models.holdings import take_stock

    if not holds_parts(model):
        return open_model(model).header
    stock = take_stock(model)
    held = hold_tensors(stock.tensors(parts=True))
    return _whole_header(stock, held, _parts(stock, held))


def _open_parts(model: torch.nn.Module, exchange: Exchange) -> HeldSource:
    from weighbridge.models.holdings import take_stock

    stock = take_stock(model)
    if stock.kept:
        what = "these weights of a model that is spread over processes are kept in files until they are used"
        hint, names = "save the model before it is offloaded", ", ".join([*stock.kept][:4])
        raise RegistryError("integration-unsupported", what, where=names, hint=hint)
    held = hold_tensors(stock.tensors(parts=True), where=f"a {layout_class(unwrap(model)).__name__}")
    parts = _parts(stock, held)
    sharded = {key: place.sharded for key, place in stock.places.items() if place.sharded is not None}
    copied = frozenset(key for key in parts if key not in sharded or sharded[key].is_copied(exchange.ranks))
    return HeldSource(_whole_header(stock, held, parts), held, parts, copied, exchange, stock.notes)


def _parts(stock: Holdings, held: TensorsCheckpoint) -> dict[str, Part]:
    sharded = {key: place.sharded.part for key, place in stock.places.items() if place.sharded is not None}
    return {key: sharded[key] if key in sharded else Part.whole(spec.shape) for key, spec in held.header.items()}


def _whole_header(stock: Holdings, held: TensorsCheckpoint, parts: Mapping[str, Part]) -> Header:
    """Return the specs of whole tensors; which are one is told by the model, also of those that hold nothing here."""
    specs = {key: TensorSpec(spec.dtype, parts[key].shape) for key, spec in held.header.items()}
    first: dict[int, str] = {}
    ties = dict(held.header.ties)
    for key in sorted(stock.places):
        owner = first.setdefault(id(stock.places[key].slots), key)
        if owner != key:
            ties[key] = ties.get(owner, owner)
    return Header(specs, ties=ties)
