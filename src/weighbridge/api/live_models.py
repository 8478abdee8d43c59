"""The functions for live models: load a checkpoint into one, and save one in the layout that its weights came in."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from weighbridge.algebra.held_parts import Part
from weighbridge.api.bound_plan import Plan
from weighbridge.api.configurations import read_given
from weighbridge.api.functions import plan
from weighbridge.api.opened_places import Place, open
from weighbridge.base.errors import PlanError, RegistryError, WeighbridgeError
from weighbridge.mappings.bound_offsets import bind_offsets
from weighbridge.mappings.exception_rules import Drop, exception_rules
from weighbridge.mappings.finding import AnyMapping, find_mapping
from weighbridge.mappings.mapping import as_mapping
from weighbridge.models.model_sources import is_model
from weighbridge.models.resolve import resolve as resolve_model
from weighbridge.models.wrappers import layout_class, unwrap
from weighbridge.planning.plan_options import MODES, Options
from weighbridge.planning.way_back.inverting import open_names
from weighbridge.planning.way_back.one_way_rules import inverse_for

if TYPE_CHECKING:
    import torch

    from weighbridge.reporting.report import Report
    from weighbridge.running.by_ranks.held_source import HeldSource

_LOG: Final = logging.getLogger(__name__)


def load(
    model: torch.nn.Module,
    place: Place,
    mapping: AnyMapping | None = None,
    *,
    copy: bool = False,
    device: Any = "cpu",
    direct: bool = False,
    progress: Callable[[int, int], None] | None = None,
    group: Any = None,
    timeout: float | None = None,
    **options: Any,
) -> Report:
    """Load a checkpoint into a model.

    Where the model is spread over processes, each of them calls this, and fills what it holds; see `docs/ranks.md`.

    The model takes the dtypes of the checkpoint, not the other way round: give ``dtype="target"`` to cast to the
    model's own. Where they differ, the report has a note, and a model that has values logs a warning.

    Args:
        model: Its parameters and persistent buffers are set; it may be on the meta device.
        place: What to read.
        mapping: A mapping, a list of transforms, a registered name, or the path of a mapping file; by default the one
            that is registered for the model's class name or its `config.model_type`.
        copy: Give every tensor memory of its own; otherwise a meta tensor that a safetensors file holds as it is
            wanted is mapped, see `Plan.stream`.
        device: Where to make tensors that are on the meta device now.
        direct: Read past the page cache; see `open`.
        progress: Called with the bytes loaded so far and the bytes in all.
        group: A process group, all of which load the same: before a tensor is read, they compare plan and files. None
            for a load of which no other process is told.
        timeout: How long each of them waits for the others, in seconds; None for half an hour.
        options: As for `plan`.

    Returns:
        The report of what was done.

    Raises:
        PlanError, RegistryError, CheckpointError: As `plan`, and `parts-unclear`; the model is unchanged then.
        CheckpointError, DestinationError: `ranks-disagree` and `rank-missing`, with a group; unchanged as well.
        WeighbridgeError: `usage` for what is no model.
    """
    from weighbridge.models.spread_sources import loading_alike

    refuse_no_model(model, "load(model, place, mapping)")
    source = open(place, direct=True, config=options.get("config")) if direct else place
    with loading_alike(f"a {layout_class(unwrap(model)).__name__}", group, timeout) as compare:
        made = plan(source, _mapping_for(unwrap(model), mapping), target=model, **options)
        compare(made, made.checkpoint)
    return made.load_into(model, copy=copy, device=device, progress=progress)


def refuse_no_model(model: object, expected: str) -> None:
    """Refuse what stands in the place of a model, and is none.

    Raises:
        WeighbridgeError: `usage`.
    """
    if not is_model(model):
        raise WeighbridgeError("usage", "the model comes first", expected=expected, got=f"a {type(model).__name__}")


def _mapping_for(model: torch.nn.Module, mapping: AnyMapping | None) -> AnyMapping:
    if mapping is not None:
        return mapping
    found = resolve_model(model, required=True)
    _LOG.debug("resolved the mapping of a %s: %d transforms", type(model).__name__, len(found.transforms))
    return found


def parts(model: torch.nn.Module) -> dict[str, Part]:
    """Say which part of each of a model's tensors this process holds.

    It is told from what each `DTensor` says of itself, on the meta device as well, and held against the shape of what
    lies here; no other process is asked. FSDP2, tensor parallelism, experts that are dealt out, and meshes of several
    axes are understood. Parts are plain data: `Part.to_dict` writes them as JSON, and `Plan.cut` takes them.

    Args:
        model: The model, with or without wrappers.

    Returns:
        A part for each tensor that a load fills; the whole of those that are not spread.

    Raises:
        PlanError: `parts-unclear` for tensors whose placements do not say which part is held.
        CheckpointError, RegistryError: As for `load`.

    Examples:
        >>> import torch
        >>> parts(torch.nn.Linear(3, 2))["weight"].is_whole
        True
    """
    from weighbridge.models.holdings import take_stock

    return take_stock(model).parts()


def loaded_plan(model: torch.nn.Module) -> Plan | None:
    """Return the plan that a model was last loaded through, bound to the checkpoint that it read; None without one.

    Its `inverse()` reads the model as it is now.

    Args:
        model: The model, with or without wrappers.
    """
    from weighbridge.models.without_plans.loaded_models import recall

    inner = unwrap(model)
    loaded = recall(inner)
    if loaded is None:
        return None
    made = Plan.bind(loaded.plan, loaded.checkpoint)
    made.binding.read, made.binding.produced = loaded.checkpoint, weakref.ref(inner)
    made.binding.config = loaded.config
    return made


def save(
    model: torch.nn.Module,
    out: str | Path,
    mapping: AnyMapping | None = None,
    *,
    layout: str | None = None,
    lossy: bool = False,
    group: Any = None,
    timeout: float | None = None,
    stages: bool = False,
    **options: Any,
) -> Path:
    """Save a model in the layout that its weights came in.

    Where the model is spread over processes, each of them calls this, and writes what it holds; see `docs/ranks.md`.

    A model that was loaded through a plan goes back through that plan's inverse, in the dtypes that it has now.
    What has another shape by now goes back by the rules that made it, and what is gone is left out; the log says so.
    Parameters that were initialised take the names that the rules, run backwards, give them; those that no rule leads
    back keep their own, and a warning names them where these would not be read again.

    Any other model needs a mapping, whose inverse is used and proven key by key: each name comes back to the model's.
    That is the published name wherever the rules leave no choice; where they do, a warning says so. Where
    a model says that weights are tied, as those of transformers do, the second name is left out by a rule named "tied".

    Args:
        model: The model to save; wrappers and adapters are looked through, and a warning says what is left aside.
        out: Directory to make, or a torch file; see `Plan.write`.
        mapping: What would have been used to load the model. It may be given for one that was loaded through a plan
            too, which is then not asked.
        layout: ``"as loaded"`` for the layout that the weights came in; ``"published"`` for that which the mapping
            leads back to, whatever they came in; ``"as is"`` for the model's own names. By default the first, where the
            model was loaded through a plan and no mapping is given, and else the second.
        lossy: Accept that what a rule dropped on loading is not saved either.
        group: The process group of those that hold the model, where it is spread over some of the processes; None for
            all of them.
        timeout: How long each of them waits for the others at a time, in seconds; None for half an hour.
        stages: Whether each of them holds some of the tensors, as a stage of a pipeline does, under the names that they
            have in the whole model. Of stages that the transformers library makes it is known.
        options: As for `Plan.write`; where no recorded way is taken, also as for `plan`, such as `drop`.

    Returns:
        The directory.

    Raises:
        PlanError: `inverse-unproven`, `inverse-lossy`, `dtype-mismatch`; `model-mismatch` where codes have become
            numbers beside their scales.
        RegistryError: `mapping-not-found`, `integration-unsupported`.
        DestinationError: As `Plan.write`; `ranks-disagree` and `rank-missing` where the model is spread.
        WeighbridgeError: `usage` for what is no model, for an option that is none, or that has no part in a recorded
            way back.
    """
    from weighbridge.models.module_saving import refuse_lost_codes
    from weighbridge.models.spread_sources import held_by_ranks

    refuse_no_model(model, "save(model, out, mapping)")
    planning, writing = split_options(options)
    with held_by_ranks(model, str(out), group, timeout, stages=stages) as held:
        refuse_lost_codes(model)
        is_recorded = takes_record(model, mapping, layout)
        back = plan_recorded(model, planning, lossy=lossy, held=held) if is_recorded else None
        if back is None:
            back = _derived(model, mapping, planning | planned_layout(layout), held)
        return back.write(out, **writing)


LAYOUTS: Final = ("as loaded", "published", *MODES)
"""The layouts to save a model in: those for whoever saves, and the ways to read a layout, which a plan takes."""


def takes_record(model: torch.nn.Module, mapping: AnyMapping | None, layout: str | None) -> bool:
    """Tell whether a model is to be saved by the plan that it was loaded through, if there is one.

    Args:
        model: The model.
        mapping: The mapping that was given, if any.
        layout: The layout that was asked for, if any.

    Raises:
        WeighbridgeError: `usage` for a layout that is none, or that this model cannot be saved in.
    """
    if layout is None:
        return mapping is None
    if layout not in LAYOUTS:
        raise WeighbridgeError("usage", "there is no such layout", expected=", ".join(LAYOUTS), got=str(layout))
    if layout != "as loaded":
        return False
    if mapping is not None or loaded_plan(model) is None:
        why = "a mapping is given" if mapping is not None else "it was not loaded through a plan"
        raise WeighbridgeError(
            "usage",
            f"the model cannot be saved as it was loaded: {why}",
            hint='layout="published" saves it through a mapping, layout="as is" under its own names',
        )
    return True


def planned_layout(layout: str | None) -> dict[str, str]:
    """Return the option of a plan that a layout to save in comes to."""
    return {} if layout in (None, "published") else {"layout": str(layout)}


def plan_recorded(
    model: torch.nn.Module, planning: dict[str, Any], *, lossy: bool = False, held: HeldSource | None = None
) -> Plan | None:
    """Return the plan that takes a model's weights back to where they came from; None if it came through no plan.

    Args:
        model: The model.
        planning: Options of a plan, which have no part in it.
        lossy: Accept that what a rule dropped on loading is not saved either.
        held: The model as a source, where it is spread over ranks.

    Raises:
        PlanError: `inverse-lossy`, `dtype-mismatch`.
        WeighbridgeError: `usage` for an option of a plan.
    """
    from weighbridge.models.module_saving import recorded_way_back

    found = recorded_way_back(model, lossy=lossy, held=held)
    if found is None:
        return None
    _refuse_planning(planning)
    say(found.notes)
    return Plan.bind(found.plan, model if held is None else held, origin=found.origin)


def _derived(
    model: torch.nn.Module, mapping: AnyMapping | None, planning: dict[str, Any], held: HeldSource | None
) -> Plan:
    from weighbridge.models.model_sources import open_model
    from weighbridge.models.module_saving import tied_names

    inner, loaded = unwrap(model), loaded_plan(model)
    if planning.get("config") is None and loaded is not None and not getattr(inner, "config", None):
        planning = {**planning, "config": loaded.binding.config}
    if planning.get("config") is None and held is not None:
        planning = {**planning, "config": getattr(inner, "config", None)}
    needs_none = mapping is None and planning.get("layout") == "as is"
    found = as_mapping(() if needs_none else find_mapping(_mapping_back(inner, mapping)))
    found = bind_offsets(found, read_given(planning.get("config")) or getattr(inner, "config", None))
    drop = (*tied_names(inner, held), *exception_rules(Drop, planning.get("drop", ())))
    # A live model is in the layout that the mapping gives: there is nothing to be told from its names.
    inverse, notes = inverse_for(found, lambda: (held or open_model(model)).header)
    with naming_the_ways_out(inner):
        made = plan(held or model, inverse, **{"layout": "mapped", **planning, "drop": drop})
    say(notes)
    say(dict.fromkeys((*made.notes, *(open_names(made, found).notes if mapping is not None else ()))))
    return made


@contextmanager
def naming_the_ways_out(model: torch.nn.Module) -> Iterator[None]:
    """Let an error of a derived way back say in which layouts the model can be saved besides.

    Args:
        model: The model, without wrappers.
    """
    try:
        yield
    except PlanError as problem:
        if problem.code in ("inverse-unproven", "plan-failed"):
            ways = ['layout="as loaded" saves it as it came'] if loaded_plan(model) is not None else []
            problem.hint = ", ".join([*ways, 'layout="as is" saves it under its own names'])
        raise


def _mapping_back(model: torch.nn.Module, mapping: AnyMapping | None) -> AnyMapping:
    """Return the mapping to save by; where none is registered, the one that the model was loaded with."""
    try:
        return _mapping_for(model, mapping)
    except RegistryError as problem:
        loaded = loaded_plan(model)
        if loaded is None or problem.code != "mapping-not-found":
            raise
    given = loaded.mapping
    is_changed = " with " in loaded.reading  # then the first rule is the reading's own
    return replace(given, transforms=given.transforms[1:]) if is_changed else given


def say(notes: Iterable[str]) -> None:
    """Log what a caller who gets no report would not hear of."""
    for note in notes:
        _LOG.warning("%s", note)


def split_options(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split options by name into those of a plan and all others."""
    names = {each.name for each in fields(Options)}
    planning = {name: value for name, value in options.items() if name in names}
    return planning, {name: value for name, value in options.items() if name not in names}


def _refuse_planning(planning: dict[str, Any]) -> None:
    """Refuse options of a plan where the plan is made already.

    Raises:
        WeighbridgeError: `usage`.
    """
    if planning:
        raise WeighbridgeError(
            "usage",
            "the model was loaded through a plan, whose way back takes no such options",
            got=", ".join(planning),
            hint='layout="published" saves the model through its mapping, which takes them, and so does a mapping\n'
            "that is given: save(model, out, mapping)",
        )
