"""Load a plan's targets into a model, which remembers the plan that they came through."""

from __future__ import annotations

import logging
from collections import Counter as Counts
from typing import Any, Final, NamedTuple

import torch

from weighbridge.base.workers import Counter, Progress
from weighbridge.models.held_portions import held_portion, is_spread
from weighbridge.models.holdings import Places, take_stock
from weighbridge.models.modules import (
    check_initialised,
    check_model,
    check_settable,
    probe,
    shares_memory,
    steps_into,
    warn_of_meta,
)
from weighbridge.models.own_rows import around_own
from weighbridge.models.without_plans.loaded_models import Loaded, remember
from weighbridge.models.wrappers import unwrap
from weighbridge.planning.casts.asked_casts import rounded_lines
from weighbridge.planning.plan import Plan
from weighbridge.planning.steps import Step
from weighbridge.running.devices import fill_tensors
from weighbridge.running.execute import is_whole
from weighbridge.running.gather import Wanted, group_steps, start_output
from weighbridge.running.results import STREAM_BYTES, mapped_files
from weighbridge.running.ties import check_values
from weighbridge.storage.formats.torch_tensors import dtype_of, put_elements
from weighbridge.storage.protocol import Checkpoint, Mapped

_LOG: Final = logging.getLogger(__name__)


def load_into(
    plan: Plan,
    model: torch.nn.Module,
    checkpoint: Checkpoint,
    *,
    copy: bool = False,
    device: Any = "cpu",
    progress: Progress | None = None,
    config: Any = None,
    unrestricted: Plan | None = None,
) -> Plan:
    """Put a plan's targets into a model.

    A meta tensor that a safetensors file holds as it is wanted is mapped, not copied; see `results.stream`.

    Args:
        plan: A plan that was made for this model, or for one with the same tensors.
        model: Its parameters and persistent buffers are set: in place where device and dtype already fit, else
            replaced by tensors of the plan's dtype on the model's device.
        checkpoint: What the plan reads.
        copy: Give every tensor memory of its own.
        device: Where to make tensors that are on the meta device now.
        progress: Called with the bytes loaded so far and the bytes in all, by one thread at a time; what it raises
            stops the load.
        config: The configuration that the plan was made with, to be remembered.
        unrestricted: For a plan that was restricted, the one before, to be remembered.

    Returns:
        The plan that was run: where the model is spread over processes, it is cut to what this one holds. The model
        remembers the whole one.

    Raises:
        PlanError: `parts-unclear`, `model-mismatch`, `tie-differs`, `sources-differ`, `padding-differs`,
            `dtype-mismatch`; nothing has been changed then.
            `cast-overflow`, which may leave part of a model loaded, as an error of reading does.
        CheckpointError: `source-changed` and `data-missing`, before anything is changed; the codes of reading, which
            may leave part of a model loaded that had values before, and a meta model as it was.
    """
    held = take_stock(model)
    places, header = held.places_for(plan.target), held.header(plan.target)
    whole, plan = plan, held_portion(plan, places)
    whole = plan.portion.whole if plan.portion is not None and is_spread(places) else whole
    check_model(whole, header)
    check_initialised(plan, places)
    check_settable(plan, places)
    check_values(plan, checkpoint, dict(header.ties), has_model=True)
    run = around_own(plan, places)
    probe(plan, checkpoint, places)
    _warn_of_dtypes(plan, places)
    for line in rounded_lines(plan):
        _LOG.info(line)
    with torch.no_grad():
        if shares_memory(checkpoint, places):
            _set_all_at_once(run, checkpoint, places, progress)
        else:
            _set_in_batches(run, checkpoint, places, copy=copy, device=device, progress=progress)
    checkpoint.check_unchanged()
    remember(unwrap(model), Loaded(whole, checkpoint, config, unrestricted))
    warn_of_meta(model)
    _LOG.info("loaded %s into a %s: %s", checkpoint.where, type(model).__name__, plan.target)
    for fated in plan.initialised:
        _LOG.debug("left as it is: %s, by %s", fated.key, fated.by)
    return plan


def _warn_of_dtypes(plan: Plan, places: dict[str, Places]) -> None:
    """Say which tensors of a model, if it has values, take a file's dtype that nobody asked for by a cast."""
    uncast = [step for step in plan.steps if not step.program.casts]
    made = ((key, step.program.targets[number]) for step in uncast for key, number in step.writes.items())
    new = ((key, dtype_of(output.dtype)) for key, output in made if key in places)
    pairs = ((places[key].tensor, dtype) for key, dtype in new if places[key].receive is None)
    changed = Counts((held.dtype, dtype) for held, dtype in pairs if not held.is_meta and held.dtype != dtype)
    for (held, dtype), count in changed.items():
        words = f"{count:,} tensor{'s' * (count != 1)} of the model"
        _LOG.warning('%s, %s so far, will be %s: dtype="target" keeps the model\'s', words, held, dtype)


class _Target(NamedTuple):
    """One target of a step, the model's places for it, and whether its own memory takes the values as they are."""

    step: Step
    number: int
    places: Places
    is_in_place: bool

    @property
    def is_new(self) -> bool:
        """Whether a tensor is to be made where there is none."""
        return self.places.tensor.is_meta and self.places.receive is None

    @property
    def size_bytes(self) -> int:
        return self.step.program.targets[self.number].spec.size_bytes


def _targets(step: Step, places: dict[str, Places]) -> list[_Target]:
    found = []
    for key, number in step.writes.items():
        place = places.get(key)
        if place is not None:
            current = place.tensor
            fits = current.dtype == dtype_of(step.program.targets[number].dtype) and current.is_contiguous()
            is_lazy = current.is_meta or current.is_conj() or current.is_neg() or place.receive is not None
            found.append(_Target(step, number, place, fits and not is_lazy))
    return found


def _set_in_batches(
    plan: Plan,
    checkpoint: Checkpoint,
    places: dict[str, Places],
    *,
    copy: bool,
    device: Any,
    progress: Progress | None,
) -> None:
    """Fill what is there already, and what is on meta, all at once; replace the others batch by batch."""
    together: list[_Target] = []
    others: list[Step] = []
    total = 0
    for step in steps_into(plan, places):
        found = _targets(step, places)
        total += sum([target.size_bytes for target in found])
        if all(target.is_in_place or target.is_new for target in found):
            together += found
        else:
            others.append(step)
    counter = Counter(total, progress)
    mapped = mapped_files(checkpoint, copy=copy or str(device) != "cpu")
    _set(together, checkpoint, mapped, device, counter)
    # A module may look at its weights when it is given its extra state.
    others.sort(key=lambda step: any(places[key].receive is not None for key in step.targets if key in places))
    for steps in group_steps(others, STREAM_BYTES):
        _set([target for step in steps for target in _targets(step, places)], checkpoint, None, "cpu", counter)


def _set(targets: list[_Target], checkpoint: Checkpoint, mapped: Mapped | None, device: Any, counter: Counter) -> None:
    wanted: list[Wanted] = []
    new: list[tuple[Places, torch.Tensor]] = []
    for target in targets:
        step, number, places, is_in_place = target
        if is_in_place:
            wanted.append(Wanted(step, number, places.tensor.detach()))
            continue
        made, want = start_output(step, number, mapped, device)
        if not is_whole(step.program.targets[number]):
            made.copy_(places.tensor)  # the rest of it is the model's own
        new.append((places, made))
        if want is None:
            counter.add(target.size_bytes)
        else:
            wanted.append(want)
    fill_tensors(wanted, checkpoint, counter)
    for target in targets:
        if target.is_in_place:
            # What autograd keeps for a backward pass is of the old values: it must be able to notice.
            torch.autograd.graph.increment_version(target.places.whole)
    for places, made in sorted(new, key=lambda pair: pair[0].receive is not None):
        _put(places, made)


def _set_all_at_once(plan: Plan, checkpoint: Checkpoint, places: dict[str, Places], progress: Progress | None) -> None:
    """Make all tensors before the first is set: what is read is the model's own memory."""
    found = [target for step in steps_into(plan, places) for target in _targets(step, places)]
    counter = Counter(sum([target.size_bytes for target in found]), progress)
    _set([target._replace(is_in_place=False) for target in found], checkpoint, None, "cpu", counter)


def _put(places: Places, made: torch.Tensor) -> None:
    """Give a tensor of a model the values of another one."""
    current = places.tensor
    if places.receive is not None:
        places.receive(made)
    elif not current.is_meta and current.dtype == made.dtype:
        put_elements(current, made)
    else:
        _replace(places, made if current.is_meta else made.to(current.device))


def _replace(places: Places, made: torch.Tensor) -> None:
    """Give a parameter new data, or put a new tensor in the place of one, under every name that it has."""
    made = made if places.sharded is None else places.sharded.around(made)
    new: dict[int, torch.Tensor] = {}
    for slots, name in places.slots:
        held = slots[name]
        if not isinstance(held, torch.nn.Parameter):
            slots[name] = made
        elif not held.is_meta:
            held.data = made
        else:
            slots[name] = new.setdefault(id(held), torch.nn.Parameter(made, requires_grad=held.requires_grad))
