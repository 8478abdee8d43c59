"""A live model that is spread over processes as a source: its header is that of the whole, its tensors are parts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from weighbridge._version import __version__
from weighbridge.algebra.held_parts import Part
from weighbridge.base.errors import RegistryError, WeighbridgeError
from weighbridge.base.specs import Header, TensorSpec
from weighbridge.models.model_sources import open_model
from weighbridge.models.wrappers import layout_class, unwrap
from weighbridge.running.by_ranks.agreement import check_loads_alike
from weighbridge.running.by_ranks.exchange import DEFAULT_TIMEOUT_S, Exchange
from weighbridge.running.by_ranks.held_source import HeldSource
from weighbridge.running.by_ranks.stages import Stage, join_stages
from weighbridge.storage.formats.memory import TensorsCheckpoint, hold_tensors

if TYPE_CHECKING:
    import torch

    from weighbridge.models.holdings import Holdings
    from weighbridge.models.spread_tensors import Sharded
    from weighbridge.planning.plan import Plan
    from weighbridge.storage.protocol import Checkpoint


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


def is_stage(model: torch.nn.Module) -> bool:
    """Tell whether a model of the transformers library has the layers of one stage of a pipeline, and no others."""
    return getattr(unwrap(model), "_pp_stage", None) is not None


@contextmanager
def held_by_ranks(
    model: torch.nn.Module, where: str, group: Any = None, timeout_s: float | None = None, *, stages: bool = False
) -> Iterator[HeldSource | None]:
    """Open what this process holds of a model, while all that hold the rest do the same; None if it holds the whole.

    An error in the block is told to the others.

    Args:
        model: The model, with or without wrappers.
        where: What is made of it, for messages.
        group: The process group of those that hold the model; None for all processes.
        timeout_s: How long to wait for the others at a time, in seconds.
        stages: Whether each of them holds some of the tensors; a stage that the transformers library makes is known.

    Raises:
        PlanError, CheckpointError, RegistryError: As `take_stock`.
        DestinationError: As `join_stages`.
        WeighbridgeError: `usage` where no process group was made.
    """
    in_stages = stages or is_stage(model)
    if not in_stages and not holds_parts(model):
        yield None
        return
    exchange = _join(where, group, DEFAULT_TIMEOUT_S if timeout_s is None else timeout_s)
    with exchange.failing_first():
        held = _take_parts(model)
        yield _of_stages(held, exchange) if in_stages else _of_parts(held, exchange)


@contextmanager
def loading_alike(
    where: str, group: Any = None, timeout_s: float | None = None
) -> Iterator[Callable[[Plan, Callable[[], Checkpoint]], None]]:
    """Give what compares a load with those of the other processes of a group; without a group it does nothing.

    An error in the block is told to the others, until all have compared.

    Args:
        where: What is loaded into, for messages.
        group: The process group of those that load it; None if they are not to be compared.
        timeout_s: How long to wait for the others at a time, in seconds.

    Raises:
        WeighbridgeError: `usage` where no process group was made.
    """
    if group is None:
        yield lambda plan, opened: None
        return
    exchange = _join(where, group, DEFAULT_TIMEOUT_S if timeout_s is None else timeout_s, "load")
    with exchange.failing_first():
        yield partial(_compare_loads, exchange)


def _compare_loads(exchange: Exchange, plan: Plan, opened: Callable[[], Checkpoint]) -> None:
    """Compare what is loaded with what the others load, whenever their files were written.

    Raises:
        CheckpointError: `ranks-disagree`; nothing has been read but headers, and no model is changed.
        DestinationError: `rank-missing`.
    """
    files = [{name: value for name, value in each.items() if name != "mtime_ns"} for each in opened().fingerprint()]
    said = {"weighbridge": __version__, "mapping": plan.mapping.name, "plan_hash": plan.hash, "files": files}

    def decide(words: Sequence[Mapping[str, Any]]) -> list[None]:
        check_loads_alike(words, exchange.where)
        return [None] * len(words)

    exchange.agree("what is loaded", said, decide)


def _join(where: str, group: Any, timeout_s: float, doing: str = "save") -> Exchange:
    import torch.distributed as dist

    if not dist.is_initialized():
        what, hint = f"there is no process group to {doing} a model with", "call init_process_group first"
        raise WeighbridgeError("usage", what, hint=hint)
    group = dist.group.WORLD if group is None else group
    rank = dist.get_rank(group)
    if rank < 0:
        what, hint = "this process is not in the group", f"call {doing} on the ranks of the group alone"
        raise WeighbridgeError("usage", what, got=f"rank {dist.get_rank()}", hint=hint)
    find = getattr(group, "get_group_store", None)
    store = find() if find is not None else dist.distributed_c10d._get_process_group_store(group)
    return Exchange(store, rank, dist.get_world_size(group), where, timeout_s, doing)


def readable_header(model: torch.nn.Module) -> Header:
    """Return the specs of all of a model that can be read, of the whole tensors where it is spread over processes.

    Raises:
        PlanError, CheckpointError, RegistryError: As `take_stock`.
    """
    return open_model(model).header if not holds_parts(model) else _take_parts(model).stage.header


class _Taken(NamedTuple):
    """What this process holds of a model: said, in memory, and of what is spread how it is."""

    stage: Stage
    held: TensorsCheckpoint
    sharded: Mapping[str, Sharded]


def _take_parts(model: torch.nn.Module) -> _Taken:
    from weighbridge.models.holdings import take_stock
    from weighbridge.models.module_saving import second_names

    stock, inner = take_stock(model), unwrap(model)
    if stock.kept:
        what = "these weights of a model that is spread over processes are kept in files until they are used"
        hint, names = "save the model before it is offloaded", ", ".join([*stock.kept][:4])
        raise RegistryError("integration-unsupported", what, where=names, hint=hint)
    held = hold_tensors(stock.tensors(parts=True), where=f"a {layout_class(inner).__name__}")
    parts = _parts(stock, held)
    sharded = {key: place.sharded for key, place in stock.places.items() if place.sharded is not None}
    header = _whole_header(stock, held, parts)
    return _Taken(Stage(held.where, header, parts, second_names(inner, header.ties), stock.notes), held, sharded)


def _of_parts(taken: _Taken, exchange: Exchange) -> HeldSource:
    """Make a source of what this rank holds of every tensor."""
    stage, sharded, ranks = taken.stage, taken.sharded, exchange.ranks
    copied = frozenset(key for key in stage.parts if key not in sharded or sharded[key].is_copied(ranks))
    return HeldSource(stage.header, taken.held, stage.parts, copied, exchange, stage.notes, stage.second_names)


def _of_stages(taken: _Taken, exchange: Exchange) -> HeldSource:
    """Make a source of what this rank holds of some tensors; it holds a tied one under all of its names."""
    all_held = join_stages(exchange, taken.stage)
    ties, parts = all_held.header.ties, taken.stage.parts
    own = {ties.get(key, key): key for key in parts}
    names = {key: own[ties.get(key, key)] for key in all_held.header if ties.get(key, key) in own}
    tensors = {key: taken.held.held(name) for key, name in names.items()}
    return HeldSource(
        all_held.header,
        hold_tensors(tensors, all_held.where),
        {key: parts[name] for key, name in names.items()},
        all_held.shared & names.keys(),
        exchange,
        all_held.notes,
        all_held.second_names,
        in_stages=True,
    )


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
