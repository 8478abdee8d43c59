"""`nn.Module` as a target and as a source: what it holds, and how its tensors are set.

A model's tensors are its parameters and persistent buffers, by the names of `state_dict()` without those of wrappers
inside the model. Two names of one storage
are tied; a meta tensor has a spec and no values, and loading gives it both.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from weighbridge.errors import CheckpointError, PlanError, WeighbridgeError
from weighbridge.execute import Slots, fill, make, run_step
from weighbridge.keys import collapse, layout_path
from weighbridge.plan import Binding, Plan, Step
from weighbridge.render import Report
from weighbridge.running import bind, check_ties
from weighbridge.specs import DTYPES, Header, TensorSpec
from weighbridge.storage.torch_tensors import spec_of, tie_of, torch_layout

if TYPE_CHECKING:
    from weighbridge.program import Output
    from weighbridge.storage.protocol import Checkpoint

_loaded: weakref.WeakKeyDictionary[torch.nn.Module, Plan] = weakref.WeakKeyDictionary()


def module_header(model: torch.nn.Module) -> Header:
    """Return the specs of a model's parameters and persistent buffers, and which of them are tied.

    Examples:
        >>> module_header(torch.nn.Linear(3, 2, bias=False))["weight"]
        TensorSpec(dtype='F32', shape=(2, 3))
    """
    return _header_of(tensor_places(model))


def _header_of(places: dict[str, Places]) -> Header:
    specs: dict[str, TensorSpec] = {}
    ties: dict[str, str] = {}
    first: dict[int, str] = {}
    for key, place in places.items():
        specs[key] = spec_of(place.tensor)
        owner = first.setdefault(id(place.slots), key)
        if owner != key:
            ties[key] = ties[owner] = owner
    return Header(specs, ties=ties)


def module_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return a model's parameters and persistent buffers by the names that `module_header` gives them.

    They share the model's storage and take no part in gradients.

    Examples:
        >>> list(module_tensors(torch.nn.Sequential(torch.nn.Linear(3, 2))))
        ['0.weight', '0.bias']
    """
    return {key: place.tensor.detach() for key, place in tensor_places(model).items()}


class Places(NamedTuple):
    """A tensor of a model, and every slot of a module that holds it or another view of the very same elements."""

    tensor: torch.Tensor
    slots: list[tuple[dict[str, Any], str]]


def tensor_places(model: torch.nn.Module) -> dict[str, Places]:
    """Return a model's parameters and persistent buffers by key; tied ones share their places."""
    found: dict[str, Places] = {}
    shared: dict[object, Places] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        prefix = f"{inner}." if (inner := layout_path(path)) else ""
        for slots, name, tensor in _slots(module):
            same = shared.setdefault(id(tensor), Places(tensor, []))
            places = shared.setdefault(tie_of(tensor) or id(tensor), same)
            places.slots.append((slots, name))
            found[prefix + name] = places
    return found


def _slots(module: torch.nn.Module) -> Iterator[tuple[dict[str, Any], str, torch.Tensor]]:
    hidden = module._non_persistent_buffers_set
    for slots in (module._parameters, module._buffers):
        for name, tensor in slots.items():
            if tensor is not None and name not in hidden:
                yield slots, name, tensor


def load_into(plan: Plan, model: torch.nn.Module, source: Any = None) -> Report:
    """Put a plan's targets into a model.

    Args:
        plan: A plan that was made for this model, or for one with the same tensors.
        model: Its parameters and persistent buffers are set: in place where device and dtype already fit, else
            replaced by tensors of the plan's dtype on the model's device (on the CPU for meta tensors).
        source: What to read, if not what the plan was made on.

    Returns:
        The plan's report.

    Raises:
        PlanError: `model-mismatch`, `tie-differs`, `source-unbound`, `dtype-mismatch`; nothing has been changed then.
        CheckpointError: `source-changed` and `data-missing`, before anything is changed; the codes of reading, which
            may leave part of the model loaded.
    """
    checkpoint = bind(plan, source)
    places = tensor_places(model)
    header = _header_of(places)
    check_model(plan, header)
    _check_initialised(plan, places)
    _check_settable(plan, places)
    check_ties(plan, checkpoint, dict(header.ties))
    _probe(plan, checkpoint, places)
    with torch.no_grad():
        if _shares_memory(checkpoint, places):
            _set_all_at_once(plan, checkpoint, places)
        else:
            _set_in_turn(plan, checkpoint, places)
    plan.binding.produced = weakref.ref(model)
    # A copy of its own: what the same plan reads or makes later is no business of this model's.
    _loaded[model] = replace(plan, binding=Binding(checkpoint, weakref.ref(model), checkpoint))
    _warn_of_meta(model)
    return Report(plan)


def _steps_into(plan: Plan, places: dict[str, Places]) -> Iterator[Step]:
    """Yield the steps that write a tensor of the model; a tied one has been compared with what writes in its place."""
    return (step for step in plan.steps if step.fate != "tied" and any(key in places for key in step.targets))


def _set_in_turn(plan: Plan, checkpoint: Checkpoint, places: dict[str, Places]) -> None:
    for step in _steps_into(plan, places):
        slots = Slots(step, checkpoint)
        for key, output in zip(step.targets, step.program.targets, strict=True):
            if key in places:
                _set(places[key], output, slots)


def _set_all_at_once(plan: Plan, checkpoint: Checkpoint, places: dict[str, Places]) -> None:
    """Make all tensors before the first is set: what is read is the model's own memory."""
    made = [item for step in _steps_into(plan, places) for item in run_step(step, checkpoint) if item[0] in places]
    for key, tensor in made:
        _put(places[key], tensor)


def _shares_memory(checkpoint: Checkpoint, places: dict[str, Places]) -> bool:
    """Tell whether a source holds tensors in storages that belong to the model."""
    held = getattr(checkpoint, "tensors", None)
    if not isinstance(held, Mapping):
        return False
    own = {place.tensor.untyped_storage().data_ptr() for place in places.values() if not place.tensor.is_meta}
    return any(not t.is_meta and t.untyped_storage().data_ptr() in own for t in held.values())


def _probe(plan: Plan, checkpoint: Checkpoint, places: dict[str, Places]) -> None:
    """Ask for tensors of a source in memory before anything is set: one on the meta device has no data."""
    held = getattr(checkpoint, "tensors", None)
    if not isinstance(held, Mapping):
        return
    for step in _steps_into(plan, places):
        for key in step.sources:
            if held[key].is_meta:
                raise CheckpointError("data-missing", "a meta tensor has no data", where=f"{checkpoint.where}: {key}")


def _check_settable(plan: Plan, places: dict[str, Places]) -> None:
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
        if any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True)):
            problems.append(PlanError("model-mismatch", "this parameter is an expanded view", where=key))
    problems += _overlaps(places)
    if problems:
        raise PlanError("model-mismatch", "the model cannot be loaded as it is", problems=problems)


def _overlaps(places: dict[str, Places]) -> Iterator[PlanError]:
    """Yield an error for tensors that share a part of their memory without being the same."""
    spans: dict[int, list[tuple[int, int, str]]] = {}
    seen: set[int] = set()
    for key, place in places.items():
        tensor = place.tensor
        if id(place.slots) in seen or tensor.is_meta or tensor.numel() == 0:
            continue
        seen.add(id(place.slots))
        reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
        start = tensor.data_ptr()
        storage = tensor.untyped_storage().data_ptr()
        spans.setdefault(storage, []).append((start, start + reach * tensor.element_size(), key))
    for found in spans.values():
        for (_, stop, one), (start, _, other) in pairwise(sorted(found)):
            if start < stop:
                yield PlanError("model-mismatch", "two parameters share part of their memory", where=f"{one}, {other}")


def _warn_of_meta(model: torch.nn.Module) -> None:
    """Say which buffers are still without values: no checkpoint holds them."""
    left = [name for name, buffer in model.named_buffers() if buffer.is_meta]
    if left:
        text = ", ".join(collapse(left)[:4])
        logging.getLogger("weighbridge").warning("no checkpoint holds these buffers, they stay on meta: %s", text)


def _check_initialised(plan: Plan, places: dict[str, Places]) -> None:
    """Refuse to leave a tensor as it is that has no values at all."""
    empty = [fated for fated in plan.initialised if fated.key in places and places[fated.key].tensor.is_meta]
    if empty:
        raise PlanError(
            "model-mismatch",
            "these parameters are to keep their values, and have none on the meta device",
            got="\n".join(f"{fated.key}, initialised by {fated.by}" for fated in empty[:12]),
            hint="make the model on a real device, or give the missing tensors",
        )


def loaded_plan(model: torch.nn.Module) -> Plan | None:
    """Return the plan that a model was last loaded through, if there is one."""
    return _loaded.get(model)


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
        carried = fate.step is not None and plan.steps[fate.step].fate == "carried"
        if spec is None and not carried:
            problems.append(PlanError("model-mismatch", "the model has no such parameter", where=key))
        elif spec is not None and planned is not None and spec.shape != planned.shape:
            expected, got = str(list(planned.shape)), str(list(spec.shape))
            problems.append(
                PlanError("model-mismatch", "the model's shape is another", where=key, expected=expected, got=got)
            )
    if problems:
        raise PlanError("model-mismatch", "the plan was not made for this model", problems=problems)


def _set(places: Places, output: Output, slots: Slots) -> None:
    """Fill one tensor of a model: in its own storage where that fits, else in a new one."""
    current = places.tensor
    if current.device.type == "cpu" and current.dtype == torch_dtype(output.dtype) and current.is_contiguous():
        fill(current.detach().view(-1), output.layout, slots, output.dtype)
        return
    _put(places, make(output, slots))


def _put(places: Places, made: torch.Tensor) -> None:
    """Give a tensor of a model the values of another one."""
    current = places.tensor
    if not current.is_meta and current.dtype == made.dtype:
        current.detach().copy_(made)
    else:
        _replace(places, made if current.is_meta else made.to(current.device))


def _replace(places: Places, made: torch.Tensor) -> None:
    """Give a parameter new data, or put a new tensor in the place of one, under every name that it has."""
    new: dict[int, torch.Tensor] = {}
    for slots, name in places.slots:
        held = slots[name]
        if not isinstance(held, torch.nn.Parameter):
            slots[name] = made
        elif not held.is_meta:
            held.data = made
        else:
            slots[name] = new.setdefault(id(held), torch.nn.Parameter(made, requires_grad=held.requires_grad))


def torch_dtype(code: str) -> torch.dtype:
    """Return torch's dtype for a safetensors code; uint8 for those that torch does not have."""
    layout = torch_layout(TensorSpec(code, (2,)))
    return torch.uint8 if layout is None else layout[0]
