"""`nn.Module` as a target and as a source: what it holds, and how its tensors are set.

A model's tensors are its parameters and persistent buffers, by the names of `state_dict()`. Two names of one storage
are tied; a meta tensor has a spec and no values, and loading gives it both.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from weighbridge.errors import PlanError, WeighbridgeError
from weighbridge.execute import Slots, allocate, fill
from weighbridge.render import Report
from weighbridge.running import bind, check_ties
from weighbridge.specs import Header, TensorSpec
from weighbridge.storage.torch_tensors import spec_of, torch_layout

if TYPE_CHECKING:
    from weighbridge.plan import Plan
    from weighbridge.program import Output

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
        owner = first.setdefault(id(place.tensor), key)
        if owner != key:
            ties[key] = ties[owner] = owner
    return Header(specs, ties=ties)


class Places(NamedTuple):
    """A tensor of a model, and every slot of a module that holds it."""

    tensor: torch.Tensor
    slots: list[tuple[dict[str, Any], str]]


def tensor_places(model: torch.nn.Module) -> dict[str, Places]:
    """Return a model's parameters and persistent buffers by key; tied ones share their places."""
    found: dict[str, Places] = {}
    shared: dict[int, Places] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        for slots, name, tensor in _slots(module):
            places = shared.setdefault(id(tensor), Places(tensor, []))
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
        PlanError: `model-mismatch`, `tie-differs`, `source-unbound`; nothing has been changed then.
        CheckpointError: `source-changed` and the codes of reading.
    """
    checkpoint = bind(plan, source)
    places = tensor_places(model)
    header = _header_of(places)
    check_model(plan, header)
    _check_initialised(plan, places)
    check_ties(plan, checkpoint, dict(header.ties))
    with torch.no_grad():
        for step in plan.steps:
            if step.fate == "tied" or not any(key in places for key in step.targets):
                continue
            slots = Slots(step, checkpoint)
            for key, output in zip(step.targets, step.program.targets, strict=True):
                if key in places:
                    _set(places[key], output, slots)
    plan.binding.produced = weakref.ref(model)
    _loaded[model] = plan
    return Report(plan)


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
    current, dtype = places.tensor, torch_dtype(output.dtype)
    if current.device.type == "cpu" and current.dtype == dtype and current.is_contiguous():
        fill(current.detach().view(-1), output.layout, slots, output.dtype)
        return
    made = allocate(output.spec)
    fill(made.view(-1), output.layout, slots, output.dtype)
    if not current.is_meta and current.dtype == dtype:
        current.detach().copy_(made)
    else:
        _replace(places, made if current.is_meta else made.to(current.device))


def _replace(places: Places, made: torch.Tensor) -> None:
    """Give a parameter new data, or put a new tensor in the place of one, under every name that it has."""
    current = places.tensor
    if not current.is_meta and isinstance(current, torch.nn.Parameter):
        current.data = made
        return
    if isinstance(current, torch.nn.Parameter):
        made = torch.nn.Parameter(made, requires_grad=current.requires_grad)
    for slots, name in places.slots:
        slots[name] = made


def torch_dtype(code: str) -> torch.dtype:
    """Return torch's dtype for a safetensors code; uint8 for those that torch does not have."""
    layout = torch_layout(TensorSpec(code, (2,)))
    return torch.uint8 if layout is None else layout[0]
