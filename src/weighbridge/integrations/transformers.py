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

from pathlib import Path
from typing import TYPE_CHECKING, Any

from weighbridge.mappings.library_parts import UNDERSTOOD

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from weighbridge.api.bound_plan import Plan
    from weighbridge.base.specs import Header
    from weighbridge.mappings.exception_rules import Rules
    from weighbridge.mappings.finding import AnyMapping
    from weighbridge.mappings.mapping import Mapping
    from weighbridge.mappings.registry import Registry

__all__ = ["UNDERSTOOD", "from_pretrained", "registry", "resolve", "save_pretrained"]


def registry() -> Registry:
    """Return the installed library's own table, as a registry.

    Returns:
        As `weighbridge.mappings.transformers_table.registry`.

    Raises:
        RegistryError: `integration-version`.
    """
    from weighbridge.mappings.transformers_table import registry as read_table

    return read_table()


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
    from weighbridge.integrations.transformers_mappings import mapping_of

    return mapping_of(model_or_config)


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
    declared = {"partial": partial, "initialise": initialise, "drop": drop, "carry": carry}
    declared["allow_overflow"] = allow_overflow
    ways = {"copy": copy, "dequantize": dequantize, "stream": stream}
    is_plain = config is device is mapping is huge_pages is group is None and layout == "auto"
    if is_plain and not any((*declared.values(), *ways.values())):
        from weighbridge.integrations.as_it_lies.unplanned_load import load_as_it_lies

        found = load_as_it_lies(model_class, path, dtype, arguments)
        if found is not None:
            return found
    from weighbridge.models.spread_sources import loading_alike
    from weighbridge.storage.places.huge_pages import decided

    with decided(huge_pages), loading_alike(f"a {model_class.__name__}", group, timeout) as compare:
        return _load_through_plan(
            model_class, path, config, dtype, device, mapping, declared | {"layout": layout}, arguments, compare, **ways
        )


def _load_through_plan(
    model_class: Any,
    path: str | Path | None,
    config: Any,
    dtype: Any,
    device: Any,
    mapping: AnyMapping | None,
    declared: dict[str, Any],
    arguments: dict[str, Any],
    compare: Callable[..., None],
    *,
    copy: bool,
    dequantize: bool,
    stream: bool,
) -> Any:
    """Load a model through a plan, as `from_pretrained` does; `declared` are its options, and `compare` is a load's."""
    from weighbridge.integrations import transformers_arguments as asking
    from weighbridge.integrations.transformers_loading import Load
    from weighbridge.integrations.transformers_mappings import mapping_of, resolve_theirs
    from weighbridge.integrations.transformers_numbers import read_for_library
    from weighbridge.mappings.finding import find_mapping
    from weighbridge.planning.plan_options import Options

    model_class, path, config, late = asking.whence(model_class, path, config, arguments, stream=stream)
    asking.refuse_arguments(model_class, path, config, device, arguments)
    options = Options(**declared)
    on, (checkpoint, directory) = asking.accelerator(device), asking.open_weights(path, arguments)
    arguments |= {} if on is None else {"device_map": {"": on}}
    placed = arguments.get("device_map")
    read = read_for_library(checkpoint, directory, config, dtype, dequantize=dequantize, device_map=placed)
    rules = None if mapping is None else find_mapping(mapping)
    load = Load(read.checkpoint, rules, mapping_of, options, copy, resolve_theirs, read.note, read.saying)
    load.asked, load.compare = asking.asked_of(arguments), compare
    found = load.run(model_class, path, config=read.config, dtype=read.dtype, **arguments)
    late.settle(found[0] if load.asked.info else found, device)
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
    from weighbridge.models.spread_sources import held_by_ranks, readable_header
    from weighbridge.models.wrappers import unwrap

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
    from weighbridge.integrations.transformers_mappings import (
        inverse_for_model,
        inverse_to_published,
        mapping_of,
        resolve_theirs,
    )
    from weighbridge.integrations.transformers_saving import plan_derived
    from weighbridge.models.resolve import class_name
    from weighbridge.models.spread_sources import readable_header
    from weighbridge.models.wrappers import unwrap

    inner, options = unwrap(model), planning | planned_layout(layout)

    def header() -> Header:
        return readable_header(inner) if held is None else held.header

    plan = plan_derived(model, inverse_for_model(inner, mapping, layout, header), options, held)
    if mapping is None and layout is None and not is_read_by_library(inner, plan):
        other = plan_derived(model, inverse_to_published(resolve_theirs(inner), header), options, held)
        if is_read_by_library(inner, other):
            name = mapping_of(inner).name
            say([f"saved as the library saves a {class_name(inner)}: it does not read what {name} leads to"])
            plan = other
    say(plan.notes)
    return plan
