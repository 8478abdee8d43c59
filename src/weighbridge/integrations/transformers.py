"""Load, save and resolve the models of the transformers library.

    from weighbridge.integrations import transformers as wbt

    model = wbt.from_pretrained(AutoModelForCausalLM, "path")
    wbt.save_pretrained(model, "out")

`from_pretrained` gives the model that the library's own call gives, through a plan: a weight that would be left random,
or a tensor that would be left over, is an error before anything is read. `save_pretrained` goes back through the same
plan. `registry` is the installed library's table of mappings, and `resolve` the mapping of one model.

Mappings are looked up in this order: what was registered here, what was registered with the library's own function, the
families that come with weighbridge, the library's table. Where that does not fit a checkpoint, `from_pretrained` tries
the library's own rules alone, as it mounts them: what the library has written may be in no published layout.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weighbridge.base.specs import Header
from weighbridge.integrations.transformers_arguments import (
    accelerator,
    asked_of,
    open_weights,
    refuse_arguments,
    whence,
)
from weighbridge.mappings.exception_rules import Rules
from weighbridge.mappings.finding import AnyMapping, find_mapping
from weighbridge.mappings.mapping import Mapping, as_mapping
from weighbridge.mappings.registry import Registry, default_registry
from weighbridge.mappings.transformers_table import LEGACY, UNDERSTOOD, in_order, registry
from weighbridge.mappings.transforms import PrefixChange, Transform, WeightRenaming
from weighbridge.models.resolve import Mount, base_prefix, class_name, compose, find_mounts
from weighbridge.models.spread_sources import held_by_ranks, loading_alike, readable_header
from weighbridge.models.wrappers import unwrap
from weighbridge.planning.plan_options import Options
from weighbridge.planning.way_back.one_way_rules import inverse_for
from weighbridge.storage.places.huge_pages import decided

if TYPE_CHECKING:
    import torch

    from weighbridge.api.bound_plan import Plan

__all__ = ["UNDERSTOOD", "from_pretrained", "registry", "resolve", "save_pretrained"]


def resolve(model_or_config: Any) -> Mapping:
    """Return the mapping of a model's checkpoints, by our families and the installed library's table.

    Args:
        model_or_config: A model, which may be on the meta device, or one of the library's configurations; for a
            configuration, the model is made on the meta device.

    Returns:
        One ordered mapping. Families come as they are; of the library's own entries all renames run before all
        converters, as they do there. Its rules for very old checkpoints run as well, and are no part of the inverse.

    Raises:
        RegistryError: `integration-version`.
    """
    model = unwrap(model_or_config if hasattr(model_or_config, "named_modules") else _model_of(model_or_config))
    table = registry()
    return _composed(model, find_mounts(model, _registered_there(table), default_registry, table), table)


def _composed(model: Any, mounts: tuple[Mount, ...], table: Registry) -> Mapping:
    composed = compose(mounts, class_name(model), base_prefix(model))
    legacy = [rule for rule in table.find(LEGACY) if rule not in composed.transforms] if LEGACY in table else []
    prefix = _head_prefix(model, mounts, table)
    rules = dict.fromkeys(_in_library_order(_also_below(prefix, mounts, table), legacy, table))
    if prefix:
        legacy.append(WeightRenaming(f"^{prefix}.{{rest:**}}", "{rest}"))
        rules[legacy[-1]] = None
    return replace(composed, transforms=tuple(rules), legacy=(*composed.legacy, *legacy))


def resolve_theirs(model: Any) -> Mapping:
    """Return the library's own rules for a model's checkpoints, mounted as the library mounts them, families aside.

    The library lets the rules of a sub-model look below its path with the base prefix and without it: those of the base
    model itself look at every key that lacks the prefix, and so at what a head has.

    Args:
        model: The model, without wrappers.
    """
    table, prefix = registry(), base_prefix(model)
    twice = []
    for mount in find_mounts(model, table):
        bare = mount.path.removeprefix(prefix).removeprefix(".") if prefix else mount.path
        paths = [".".join(filter(None, (prefix, bare))), bare] if mount.path else [""]
        twice += [mount._replace(path=path) for path in dict.fromkeys(paths)]
    composed = compose(twice, class_name(model), prefix)
    legacy = list(table.find(LEGACY)) if LEGACY in table else []
    rules = dict.fromkeys(_in_library_order(tuple(twice), legacy, table))
    return replace(composed, transforms=tuple(rules), legacy=(*composed.legacy, *legacy))


def _way_out(model: Any, header: Callable[[], Header]) -> Mapping:
    """Return the inverse of a model's mapping that gives published names.

    A prefix that a family takes off is one that every published file of the family has, and it is put back. One of the
    library's own entries may have been there or not: nobody knows it of a checkpoint that never was.
    """
    table = registry()
    mounts = find_mounts(model, _registered_there(table), default_registry, table)
    known = {rule for mount in mounts if mount.registry is not table for rule in mount.mapping.scoped(mount.path)}
    return _inverse_to_published(_composed(model, mounts, table), header, known)


def _inverse_to_published(mapping: Mapping, header: Callable[[], Header], known: Collection[Transform] = ()) -> Mapping:
    """Return the inverse of a mapping without the prefixes that a file may or may not have; known ones are kept."""
    from weighbridge.api.live_models import say

    kept = tuple(rule for rule in mapping.transforms if rule in known or not isinstance(rule, PrefixChange))
    inverse, notes = inverse_for(replace(mapping, transforms=kept, carry=()), header)
    say(notes)
    return inverse


def _head_prefix(model: Any, mounts: tuple[Mount, ...], table: Registry) -> str:
    """Return the prefix that the library's rules may put before a base model's keys, as if it were in its head model.

    Many entries are written for the head classes of a model type, and the library takes the prefix off afterwards where
    the model turns out to be the base model.
    """
    prefix = base_prefix(model)
    is_theirs = bool(mounts) and not mounts[0].path and mounts[0].registry is table
    return prefix if is_theirs and prefix not in dict(model.named_children()) else ""


def _also_below(prefix: str, mounts: tuple[Mount, ...], table: Registry) -> tuple[Mount, ...]:
    """Mount the library's entries for sub-models below the prefix too, where its rules for the head put the keys."""
    if not prefix:
        return mounts
    twice = ((mount._replace(path=f"{prefix}.{mount.path}"), mount) for mount in mounts if mount.path)
    return (mounts[0], *(one for pair in twice for one in (pair if pair[1].registry is table else pair[1:])))


def _registered_there(table: Registry) -> Registry:
    """Return what was registered with the library's own function, and not here as well."""
    here, made = default_registry.registered(), Registry(use_entry_points=False)
    for name in table.registered():
        if name not in here:
            made.register(name, table.find(name))
    return made


def _in_library_order(mounts: tuple[Mount, ...], legacy: list[Transform], table: Registry) -> Iterator[Transform]:
    """Yield all rules; the converters of the library's entries wait until every rename has run."""
    waiting: list[Transform] = []
    for mount in mounts:
        mounted = mount.mapping.scoped(mount.path)
        is_theirs = mount.registry is table
        yield from mounted.renames if is_theirs else mounted.transforms
        waiting += mounted.converters if is_theirs else ()
    yield from in_order(legacy)
    yield from waiting


def _model_of(config: Any) -> Any:
    """Make the model that a configuration names, on the meta device."""
    import torch
    import transformers

    names = getattr(config, "architectures", None) or ()
    kind = next((found for name in names if (found := getattr(transformers, name, None)) is not None), None)
    with torch.device("meta"):
        return transformers.AutoModel.from_config(config) if kind is None else kind(config)


def from_pretrained(
    model_class: Any,
    path: str | Path | None,
    *,
    config: Any = None,
    dtype: Any = None,
    device: Any = None,
    partial: bool = False,
    initialise: Rules = (),
    drop: Rules = (),
    carry: Rules = (),
    mapping: AnyMapping | None = None,
    layout: str = "auto",
    allow_overflow: bool = False,
    copy: bool = False,
    huge_pages: str | None = None,
    dequantize: bool = False,
    stream: bool = False,
    group: Any = None,
    timeout: float | None = None,
    **arguments: Any,
) -> Any:
    """Load a model as the library's `from_pretrained` does, through a plan that was proven first.

    The library makes the model, initialises what is missing, ties, and reads generation settings; the weights come from
    the plan. Afterwards every weight is proven to hold the bytes that were loaded. The model remembers its plan:
    `weighbridge.loaded_plan(model).report` says what became of each tensor.

    Args:
        model_class: A model class of the library, or one of its `Auto` classes.
        path: Directory of the checkpoint, or a name on the hub; None where the weights are given as `state_dict`.
        config: As in the library.
        dtype: As in the library: a torch dtype, or "auto" (the default) for the configuration's or the checkpoint's.
        device: Where the model is wanted; None for the CPU. Weights are made on an accelerator from the start if
            `accelerate` is installed, which the library needs for it; otherwise the model is moved there in the end.
        partial: Accept weights that nothing fills, which are left random, and tensors without a place.
        initialise: Weights that may be missing; the library initialises them.
        drop: Tensors of the checkpoint that are left out.
        carry: Tensors of the checkpoint that have no place in the model and are written back on saving.
        mapping: A mapping, a list of transforms, a registered name, or the path of a mapping file; by default what
            `resolve` finds.
        layout: How the checkpoint's layout is read: ``"auto"``, or ``"mapped"`` or ``"as is"`` to declare it.
        allow_overflow: Let a value beyond the range of the dtype that the library casts to become infinite.
        copy: Give every weight memory of its own; otherwise one that a file holds as it is wanted is mapped, as
            the library does it. See `Plan.stream` for what that means when somebody writes into the file.
        huge_pages: Whether the weights' memory is backed with huge pages: ``"on"``, ``"off"``, or ``"auto"`` to measure
            what is faster here; by default what `WEIGHBRIDGE_HUGE_PAGES` says.
        dequantize: Load a quantised checkpoint into the plain model, with the numbers that its codes stand for, as is
            also done where the library would compute them; see `docs/quantised.md`. Values of the configuration are
            then given by `config`. Otherwise codes are loaded as they are, where the library's model has them.
        stream: Read the weights by ranges of bytes from where they lie, a name on the hub or an address such as
            ``"s3://bucket/model"``, instead of downloading them into the library's cache; see `docs/remote.md`.
        group: As for `weighbridge.load`: a process group, all of which load the same, and compare that first.
        timeout: As there.
        arguments: More of the library's own arguments, such as `attn_implementation` or values of the configuration;
            `device_map` with `max_memory`, `offload_folder` and `offload_buffers`, `key_mapping`, `state_dict`,
            `variant`, `ignore_mismatched_sizes` and `output_loading_info` among them; see `docs/transformers.md`. With
            `distributed_config`, or the older `tp_plan` and `tp_size`, the library spreads the model over processes
            that all call this alike, and each of them reads its own part; see `docs/ranks.md`.

    Returns:
        The model, in evaluation mode; with `output_loading_info` also what the library says of the load.

    Raises:
        PlanError: `plan-failed` with every problem, `layout-ambiguous`, `model-mismatch`, `cast-overflow`.
        RegistryError: `integration-unsupported` for an argument or a kind of checkpoint that has no plan,
            `integration-version`.
        CheckpointError: As `weighbridge.open`; `ranks-disagree` with a group.
        DestinationError: `rank-missing` with a group.
        WeighbridgeError: `usage` for another word about huge pages, for two words about the device, and for weights
            that go to the disk without a folder of their own for them.
    """
    from weighbridge.integrations.transformers_loading import Load
    from weighbridge.integrations.transformers_numbers import read_for_library

    model_class, path, config, late = whence(model_class, path, config, arguments, stream=stream)
    refuse_arguments(model_class, path, config, device, arguments)
    options = Options(
        partial=partial, initialise=initialise, drop=drop, carry=carry, layout=layout, allow_overflow=allow_overflow
    )
    on, (checkpoint, directory) = accelerator(device), open_weights(path, arguments)
    arguments |= {} if on is None else {"device_map": {"": on}}
    placed, rules = arguments.get("device_map"), None if mapping is None else find_mapping(mapping)
    read = read_for_library(checkpoint, directory, config, dtype, dequantize=dequantize, device_map=placed)
    asked = asked_of(arguments)
    load = Load(read.checkpoint, rules, resolve, options, copy, resolve_theirs, read.note, read.saying, asked)
    with decided(huge_pages), loading_alike(f"a {model_class.__name__}", group, timeout) as load.compare:
        found = load.run(model_class, path, config=read.config, dtype=read.dtype, **arguments)
    late.settle(found[0] if asked.info else found, device)
    return found


def save_pretrained(
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
    """Save a model in the layout that its weights came in, with its configuration as the library writes it.

    A model that came through a plan goes back through that plan; what has another shape by now goes back by the rules
    that made it. Any other model goes back through the inverse of its mapping, and each key is proven to come back. So
    does one that came from a checkpoint of another class: those names would contradict the configuration beside them.
    Weights and settings appear together, or not at all.

    Args:
        model: A model of the library; wrappers and adapters are looked through, and a warning says what is left aside.
        out: Directory to make; it must not exist, or be empty.
        mapping: A mapping whose inverse is used, in the place of the plan or of what `resolve` finds.
        layout: ``"as loaded"`` for the layout that the weights came in, also where it is another class's, whose
            configuration is written then; ``"published"`` for that of the model's class, whatever they came in; ``"as
            is"`` for the model's own names.
        lossy: Accept that what a rule dropped on loading is not saved either.
        group: As for `weighbridge.save`: a model that is spread over processes is saved by all of them.
        timeout: As there.
        stages: As there.
        options: As for `Plan.write`, such as `max_shard_size`; where no recorded way is taken, also as for
            `weighbridge.plan`, such as `drop`.

    Returns:
        The directory.

    Raises:
        PlanError: `inverse-unproven`, `inverse-lossy`; `model-mismatch` where codes have become numbers beside their
            scales.
        RegistryError: `integration-unsupported`, `mapping-not-found`.
        DestinationError: As `Plan.write`.
        WeighbridgeError: `usage` for an option that is none, or that has no part in a recorded way back.
    """
    from weighbridge.api.live_models import plan_recorded, split_options, takes_record
    from weighbridge.integrations.transformers_saving import (
        is_of_another_class,
        library_names,
        refuse_other_names,
        say_other_class,
        settings_of,
    )
    from weighbridge.models.module_saving import refuse_lost_codes

    planning, writing = split_options(options)
    refuse_other_names(out, writing)
    inner, is_other = unwrap(model), is_of_another_class(unwrap(model))
    with held_by_ranks(model, str(out), group, timeout, stages=stages) as held:
        refuse_lost_codes(model)
        back = None
        if takes_record(model, mapping, layout) and (layout is not None or not is_other):
            back = plan_recorded(model, planning, lossy=lossy, held=held)
        writing |= {} if back is None else library_names(back)
        if back is not None and is_other:
            return back.write(out, **writing)
        if back is None and mapping is None and layout is None and is_other:
            say_other_class(inner, readable_header(inner) if held is None else held.header)
        plan = _plan_derived(model, mapping, layout, planning, held) if back is None else back
        with settings_of(inner, plan if back is None else None, held) as settings:
            return plan.write(out, beside=settings, **writing)


def _plan_derived(
    model: Any, mapping: AnyMapping | None, layout: str | None, planning: dict[str, Any], held: Any
) -> Plan:
    """Plan the way to the layout that was asked for; without one, to the published one where the library reads it.

    The library has rules for the classes that are published, and none for a part of theirs that is saved alone: what
    the mapping of the model type leads to, only weighbridge would understand. That is saved as the library saves it.
    """
    from weighbridge.api.live_models import planned_layout, say
    from weighbridge.integrations.library_reading import is_read_by_library
    from weighbridge.integrations.transformers_saving import plan_derived

    inner, options = unwrap(model), planning | planned_layout(layout)

    def header() -> Header:
        return readable_header(inner) if held is None else held.header

    plan = plan_derived(model, _inverse_for(inner, mapping, layout, header), options, held)
    if mapping is None and layout is None and not is_read_by_library(inner, plan):
        other = plan_derived(model, _inverse_to_published(resolve_theirs(inner), header), options, held)
        if is_read_by_library(inner, other):
            name = resolve(inner).name
            say([f"saved as the library saves a {class_name(inner)}: it does not read what {name} leads to"])
            plan = other
    say(plan.notes)
    return plan


def _inverse_for(model: Any, mapping: AnyMapping | None, layout: str | None, header: Callable[[], Header]) -> Mapping:
    """Return the inverse of the mapping that is given, or of the model's; of none for a model's own names."""
    if mapping is not None:
        return as_mapping(find_mapping(mapping)).inverse()
    return Mapping() if layout == "as is" else _way_out(model, header)
