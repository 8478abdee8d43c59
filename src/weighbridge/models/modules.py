"""`nn.Module` as a target: whether a plan is its own, and whether what the plan writes can be set in it.

A meta tensor has a spec and no values, and loading gives it both.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Final

import torch

from weighbridge.base.collecting import without_collection
from weighbridge.base.errors import PlanError, WeighbridgeError
from weighbridge.base.keys import collapse
from weighbridge.base.specs import DTYPES, Header
from weighbridge.models.holdings import Places, take_stock
from weighbridge.models.wrappers import parts
from weighbridge.planning.plan import Plan
from weighbridge.planning.steps import Step

if TYPE_CHECKING:
    from weighbridge.storage.protocol import Checkpoint

_LOG: Final = logging.getLogger(__name__)


@without_collection()
def module_header(model: torch.nn.Module) -> Header:
    """Return the specs of all that a model holds and can be given, and which of it is tied; see `holdings`.

    Examples:
        >>> module_header(torch.nn.Linear(3, 2, bias=False))["weight"]
        TensorSpec(dtype='F32', shape=(2, 3))
    """
    return take_stock(model).header()


def module_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return a model's parameters and persistent buffers by the names that `module_header` gives them.

    They share the model's storage and take no part in gradients.

    Examples:
        >>> list(module_tensors(torch.nn.Sequential(torch.nn.Linear(3, 2))))
        ['0.weight', '0.bias']
    """
    return {key: place.tensor.detach() for key, place in take_stock(model).places.items()}


def steps_into(plan: Plan, places: dict[str, Places]) -> Iterator[Step]:
    """Yield the steps that write a tensor of the model; a tied one has been compared with what writes in its place."""
    return (step for step in plan.steps if step.fate != "tied" and any(key in places for key in step.targets))


def shares_memory(checkpoint: Checkpoint, places: dict[str, Places]) -> bool:
    """Tell whether a source holds tensors in memory that belongs to the model."""
    own = sorted(_extent(place.tensor) for place in places.values() if not place.tensor.is_meta)
    reached = list(accumulate((stop for _, stop in own), max))
    for tensor in checkpoint.held_tensors():
        if not tensor.is_meta:
            start, stop = _extent(tensor)
            before = bisect_left(own, (stop, 0))
            if before and reached[before - 1] > start:
                return True
    return False


def _extent(tensor: torch.Tensor) -> tuple[int, int]:
    storage = tensor.untyped_storage()
    return storage.data_ptr(), storage.data_ptr() + storage.nbytes()


def probe(plan: Plan, checkpoint: Checkpoint, places: dict[str, Places]) -> None:
    """Ask for tensors of a source in memory before anything is set: one on the meta device has no data."""
    if not any(tensor.is_meta for tensor in checkpoint.held_tensors()):
        return
    for step in steps_into(plan, places):
        for key in step.sources:
            if checkpoint.extent(key) is None:
                checkpoint.tensor(key)


def check_settable(plan: Plan, places: dict[str, Places]) -> None:
    """Refuse what torch would refuse half-way: integers for a parameter with gradients, memory that overlaps itself."""
    problems: list[WeighbridgeError] = []
    for key, spec in plan.target.items():
        tensor = places[key].tensor if key in places else None
        if tensor is None:
            continue
        if tensor.requires_grad and DTYPES[spec.dtype].kind not in ("float", "complex"):
            expected = "a floating dtype, or a parameter without gradients"
            problems.append(
                PlanError(
                    "dtype-mismatch", "this parameter has gradients", where=key, expected=expected, got=spec.dtype
                )
            )
        if not tensor.is_contiguous() and _is_expanded(tensor):
            problems.append(PlanError("model-mismatch", "this parameter is an expanded view", where=key))
    problems += _overlaps(places)
    if problems:
        raise PlanError("model-mismatch", "the model cannot be loaded as it is", problems=problems)


def _is_expanded(tensor: torch.Tensor) -> bool:
    return any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _overlaps(places: dict[str, Places]) -> Iterator[PlanError]:
    """Yield an error for tensors that share a part of their memory without being the same."""
    spans: dict[int, tuple[int, int, str]] = {}
    for key, (tensor, slots, receive) in places.items():
        if id(slots) in spans or tensor.is_meta or tensor.is_cuda or receive is not None:
            continue
        start = tensor.data_ptr()
        size_bytes = tensor.nbytes if tensor.is_contiguous() else _reach(tensor) * tensor.element_size()
        spans[id(slots)] = start, start + size_bytes, key
    for (_, stop, one), (start, _, other) in pairwise(sorted(spans.values())):
        if start < stop:
            yield PlanError("model-mismatch", "two parameters share part of their memory", where=f"{one}, {other}")


def _reach(tensor: torch.Tensor) -> int:
    """Return how many elements of its storage a tensor spans."""
    return sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1


def warn_of_meta(model: torch.nn.Module) -> None:
    """Say which tensors are still without values: no checkpoint holds them."""
    left = [
        f"{part.path}.{name}" if part.path else name
        for part in parts(model)
        for slots in (part.module._parameters, part.module._buffers)
        for name, tensor in slots.items()
        if part.inner is None and tensor is not None and tensor.is_meta
    ]
    if left:
        text = ", ".join(collapse(left)[:4])
        _LOG.warning("no checkpoint holds these tensors, they stay on meta: %s", text)


def check_initialised(plan: Plan, places: dict[str, Places]) -> None:
    """Refuse to leave a tensor as it is that has no values at all."""
    empty = [fated for fated in plan.initialised if fated.key in places and places[fated.key].tensor.is_meta]
    if empty:
        raise PlanError(
            "model-mismatch",
            "these parameters are to keep their values, and have none on the meta device",
            got="\n".join(f"{fated.key}, initialised by {fated.by}" for fated in empty[:12]),
            hint="make the model on a real device, or give the missing tensors",
        )


def check_model(plan: Plan, header: Header) -> None:
    """Check that a plan accounts for exactly a model's tensors.

    Raises:
        PlanError: `model-mismatch`.
    """
    accounted = dict(plan.target_fates())
    problems: list[WeighbridgeError] = [
        PlanError("model-mismatch", "the plan says nothing of this parameter", where=key)
        for key in header
        if key not in accounted
    ]
    for key, fate in accounted.items():
        spec, planned = header.specs.get(key), plan.target.specs.get(key)
        if spec == planned:
            continue
        carried = fate.step is not None and plan.steps[fate.step].fate == "carried"
        if spec is None and not carried:
            problems.append(PlanError("model-mismatch", "the model has no such parameter", where=key))
        elif spec is not None and planned is not None and spec.shape != planned.shape:
            expected, got = str(list(planned.shape)), str(list(spec.shape))
            problems.append(
                PlanError("model-mismatch", "the model's shape is another", where=key, expected=expected, got=got)
            )
    problems += _broken_ties(plan, header)
    if problems:
        hint = "make the plan anew, with this model as its target"
        raise PlanError("model-mismatch", "the plan was not made for this model", hint=hint, problems=problems)


def _broken_ties(plan: Plan, header: Header) -> Iterator[PlanError]:
    """Yield an error for each target that a plan leaves to its twin, and that is another parameter of the model."""
    for key, twin in (*plan.twins, *((fated.key, fated.by) for fated in plan.tied_targets)):
        if key in header and header.ties.get(key, key) != header.ties.get(twin, twin):
            what = "this parameter was tied to another one when the plan was made, and is not tied now"
            yield PlanError("model-mismatch", what, where=key, expected=f"the same parameter as {twin}")
