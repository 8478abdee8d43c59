"""`nn.Module` as a target: whether a plan is its own, and whether what the plan writes can be set in it.

A meta tensor has a spec and no values, and loading gives it both.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Final, NamedTuple

import torch

from weighbridge.algebra.copies import Copy, Loop, simplify
from weighbridge.algebra.coverage import coverage
from weighbridge.base.errors import LayoutError, PlanError, WeighbridgeError
from weighbridge.base.keys import collapse
from weighbridge.base.process.collecting import without_collection
from weighbridge.base.specs import DTYPES, Header, TensorSpec
from weighbridge.models.holdings import Places, take_stock
from weighbridge.models.kept_elsewhere import Hooks
from weighbridge.models.wrappers import branches
from weighbridge.planning.plan import Plan
from weighbridge.planning.steps import Step
from weighbridge.storage.formats.torch_tensors import dtype_of, storage_span

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
    return {key: place.whole.detach() for key, place in take_stock(model).places.items()}


def steps_into(plan: Plan, places: dict[str, Places]) -> Iterator[Step]:
    """Yield the steps that write a tensor of the model; a tied one has been compared with what writes in its place."""
    return (step for step in plan.steps if step.fate != "tied" and any(key in places for key in step.targets))


def shares_memory(checkpoint: Checkpoint, places: dict[str, Places]) -> bool:
    """Tell whether a source holds tensors in memory that belongs to the model."""
    own = sorted(span for place in places.values() if (span := storage_span(place.tensor)) is not None)
    reached = list(accumulate((stop for _, stop in own), max))
    for tensor in checkpoint.held_tensors():
        if (span := storage_span(tensor)) is not None:
            start, stop = span
            before = bisect_left(own, (stop, 0))
            if before and reached[before - 1] > start:
                return True
    return False


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
        problems += _retyped(key, places[key], spec)
        if places[key].whole.requires_grad and DTYPES[spec.dtype].kind not in ("float", "complex"):
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


def _retyped(key: str, place: Places, spec: TensorSpec) -> Iterator[PlanError]:
    """Yield an error for a tensor that is spread, or kept elsewhere, and would have to be another one for a dtype."""
    is_held = place.sharded is not None or place.kept is not None
    if not is_held or place.tensor.is_meta or place.tensor.dtype == dtype_of(spec.dtype):
        return
    by = "shards" if place.sharded is not None else "offloads"
    what, expected = f"what {by} this parameter keeps its memory, which is of another dtype", place.spec(key).dtype
    hint = 'dtype="target" casts to the model\'s dtypes, or load the model while it is on the meta device'
    yield PlanError("dtype-mismatch", what, where=key, expected=expected, got=spec.dtype, hint=hint)


def _is_expanded(tensor: torch.Tensor) -> bool:
    return any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


class _Span(NamedTuple):
    """The bytes between a tensor's first and last element, and the tensor."""

    start: int
    stop: int
    key: str
    tensor: torch.Tensor


def _overlaps(places: dict[str, Places]) -> Iterator[PlanError]:
    """Yield an error for tensors that share a part of their memory without being the same."""
    spans: dict[int, _Span] = {}
    for key, (tensor, slots, receive, *_) in places.items():
        if id(slots) in spans or tensor.is_meta or tensor.is_cuda or receive is not None or not tensor.numel():
            continue
        start = tensor.data_ptr()
        size_bytes = tensor.nbytes if tensor.is_contiguous() else _reach(tensor) * tensor.element_size()
        spans[id(slots)] = _Span(start, start + size_bytes, key, tensor)
    for near in _crossing(sorted(spans.values(), key=lambda span: span[:3])):
        if not _are_apart(near):
            names = ", ".join(span.key for span in near[:4])
            yield PlanError("model-mismatch", "these parameters share part of their memory", where=names)


def _crossing(spans: list[_Span]) -> Iterator[list[_Span]]:
    """Yield the groups of spans that reach into each other."""
    group: list[_Span] = []
    reached = 0
    for span in spans:
        if group and span.start >= reached:
            yield from [group] if len(group) > 1 else []
            group = []
        group.append(span)
        reached = max(reached, span.stop)
    yield from [group] if len(group) > 1 else []


def _are_apart(spans: list[_Span]) -> bool:
    """Tell whether no byte belongs to two tensors whose spans cross, such as interleaved columns of one matrix."""
    first = spans[0].start
    copies = []
    for start, _, _, tensor in spans:
        size = tensor.element_size()
        pairs = zip(tensor.shape, tensor.stride(), strict=True)
        loops = [Loop(count, 0, stride * size) for count, stride in pairs if count > 1]
        copies.append(simplify(Copy(0, 0, start - first, (*loops, Loop(size, 0, 1)))))
    try:
        return coverage(copies, max(span.stop for span in spans) - first).multiple == 0
    except LayoutError:
        return False


def _reach(tensor: torch.Tensor) -> int:
    """Return how many elements of its storage a tensor spans."""
    return sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1


def warn_of_meta(model: torch.nn.Module) -> None:
    """Say which tensors are still without values: no checkpoint holds them."""
    hooks = Hooks(branches(model))
    left = [
        f"{branch.path}.{name}" if branch.path else name
        for branch in branches(model)
        for slots in (branch.module._parameters, branch.module._buffers)
        for name, tensor in slots.items()
        if branch.inner is None and tensor is not None and tensor.is_meta and hooks.find(branch, name) is None
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
