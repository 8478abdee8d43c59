"""Plan an adapter by the mapping of its model: which weights it changes, and what the mapping does to these."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping as MappingOf
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from weighbridge.api.bound_plan import Plan
from weighbridge.api.configurations import config_for
from weighbridge.api.joined_files import open_source
from weighbridge.api.named_adapters import Names, follow_metadata, hold_names, naming_of, read_names, say_strengths
from weighbridge.api.settings import refuse_unasked
from weighbridge.base.errors import PlanError
from weighbridge.base.keys import collapse
from weighbridge.base.specs import Header, TensorSpec
from weighbridge.mappings.bound_offsets import bind_offsets
from weighbridge.mappings.lora.adapter_names import AS_ADAPTER, PREFIX
from weighbridge.mappings.lora.named_dialects import PEFT
from weighbridge.mappings.lora.peft_configs import CONFIG_NAME, ORDERS, Modules, PeftConfig
from weighbridge.mappings.mapping import Mapping
from weighbridge.planning import plan as planned
from weighbridge.planning.compiling import compile_plan
from weighbridge.planning.factors.adapter_steps import Moved, move_adapter
from weighbridge.planning.factors.adapter_tensors import Held, hold, invalid
from weighbridge.planning.factors.naming import Naming
from weighbridge.planning.factors.rectangles import IN
from weighbridge.planning.plan_options import Options, read_options
from weighbridge.storage.places.regular_files import read_settings, read_small_file
from weighbridge.storage.remote.folders import find_beside
from weighbridge.storage.remote.remote_files import Location

if TYPE_CHECKING:
    from weighbridge.running.changed_files import FileChange, RecordedChange
    from weighbridge.storage.protocol import Checkpoint


_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterOptions:
    """What is declared of an adapter beside the mapping of its model.

    Args:
        base: The model that it belongs to, or the header of that: it is held against the factors' shapes, and has the
            weights without factors. Without it the factors say themselves how large the weights are; which of the axes
            of fused experts are inputs they do not say.
        block_diagonal: Whether weights that become one, and whose other factors may differ, are joined as blocks on the
            diagonal: the ranks add up. Otherwise these factors must be equal, and the rank stays.
        lora_B_layout: How the columns of B lie for fused experts, where the configuration does not say it:
            ``"rank_major"`` as of PEFT, ``"grouped_by_expert"`` as of earlier versions of Unsloth.
        adapter_prefix: What the names of a new adapter begin with, where they are to be in another dialect, or of
            another part of a pipeline: such as ``"transformer."`` of diffusers, ``"lora_unet_"`` of kohya, or
            ``"base_model.model."`` of PEFT. For an adapter of several parts a dict, with what each begins with now.
    """

    base: Any = None
    block_diagonal: bool = False
    lora_B_layout: str | None = None  # noqa: N815 - the name that it has in the configuration
    adapter_prefix: str | MappingOf[str, str] | None = None


def take_options(options: MappingOf[str, Any]) -> tuple[AdapterOptions, dict[str, Any]]:
    """Take the options of adapters from among those of a plan; return them, and the others.

    Raises:
        PlanError: `usage` for an order of the columns of B that is none.
    """
    names = AdapterOptions.__dataclass_fields__
    given = {name: value for name, value in options.items() if name in names}
    packing = given.get("lora_B_layout")
    if packing not in (None, *ORDERS):
        what, expected = "this is no order of the columns of B", ", ".join(ORDERS)
        raise PlanError("usage", what, where=_spelled("lora_B_layout"), expected=expected, got=repr(packing))
    return AdapterOptions(**given), {name: value for name, value in options.items() if name not in names}


class Adapter(NamedTuple):
    """An opened adapter: its tensors, and what says how strong they are.

    Args:
        source: Its tensors.
        names: How they are called, and what configurations say of them.
        text: The text of PEFT's configuration beside them; empty where there is none.
    """

    source: Checkpoint
    names: Names
    text: str

    @property
    def config(self) -> PeftConfig:
        """What PEFT's configuration says."""
        return self.names.configs.get(PREFIX) or PeftConfig({})


def read_adapter(source: Checkpoint, mapping: Mapping, given: AdapterOptions, target: Any) -> Adapter | None:
    """Tell whether a checkpoint is an adapter that the mapping of its model is to move, and read its configuration.

    A mapping without rules, one that speaks of factors itself, and one that is to reach a target take an adapter's
    tensors as they are.

    Raises:
        PlanError: `adapter-invalid` for a configuration that cannot be read; `usage` for options that only adapters
            have.
    """
    place = next((extra.path for extra in source.extras if extra.name == CONFIG_NAME), None)
    patterns = [text for rule in mapping for text in (*rule.source_patterns, *rule.target_patterns)]
    is_asked = bool(mapping.transforms) or given.adapter_prefix is not None
    is_meant = target is None and is_asked and not any("lora_" in text for text in patterns)
    if is_meant and place is not None and any(key.startswith(PREFIX) for key in source.header):
        text = _text_of(place)
        return Adapter(source, Names(PEFT, {PREFIX: _read_config(text, place)}), text)
    names = read_names(source) if is_meant else None
    if names is not None:
        return Adapter(source, names, _text_of(place) if place is not None else "")
    if is_meant and _is_alone(source):
        what = "%s is read without the %s beside it: open their directory for an adapter"
        _LOG.warning(what, source.where, CONFIG_NAME)
    if given != AdapterOptions():
        plain = AdapterOptions()
        asked = [each.name for each in fields(given) if getattr(given, each.name) != getattr(plain, each.name)]
        what = "only an adapter that its model's mapping moves is planned so"
        hint = "leave this out, or open the directory of an adapter and give the mapping of its model"
        raise PlanError("usage", what, where=source.where, got=", ".join(map(_spelled, asked)), hint=hint)
    return None


def _is_alone(source: Checkpoint) -> bool:
    """Tell whether a source is the file of an adapter that was opened without the configuration beside it."""
    has_factors = any(key.startswith(PREFIX) for key in source.header)
    place = Path(source.where).expanduser()
    return has_factors and place.is_file() and place.with_name(CONFIG_NAME).is_file()


def _spelled(name: str) -> str:
    """Write an option as Python and as the command have it."""
    return f"{name}= (--{name.lower().replace('_', '-')})"


def _text_of(place: Location) -> str:
    try:
        return read_settings(place).decode("utf-8")
    except ValueError as problem:
        raise invalid("the configuration of an adapter cannot be read", str(place), str(problem)) from None


def _read_config(text: str, place: Location) -> PeftConfig:
    try:
        form = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise invalid("the configuration of an adapter cannot be read", str(place), str(problem)) from None
    if not isinstance(form, dict):
        raise invalid("the configuration of an adapter is a JSON object", str(place), type(form).__name__)
    config = PeftConfig(form)
    config.check()
    config.refuse_variants()
    return config


def plan_adapter(
    adapter: Adapter, mapping: Mapping, given: AdapterOptions, options: MappingOf[str, Any], place: Any
) -> Plan:
    """Plan an adapter.

    Args:
        adapter: The adapter.
        mapping: The mapping of its model.
        given: What is declared of it.
        options: Other options of a plan, of which it takes `config` alone.
        place: What it was opened from.

    Raises:
        PlanError: `adapter-invalid`, `adapter-inexact`, `adapter-module`; `plan-failed`, with each problem; `usage`.
    """
    _refuse_others(read_options(options))
    source, names = adapter.source, adapter.names
    base = open_source(given.base) if given.base is not None else None
    config = config_for(options.get("config"), source if base is None else base, None, place)
    known = base.header if base is not None else None
    is_peft = names.dialect is PEFT
    held = (
        hold(source.header, adapter.config, known, given.lora_B_layout) if is_peft else hold_names(source, names, known)
    )
    naming = naming_of(names, held, given.adapter_prefix)
    rules = bind_offsets(mapping, config)
    weights = compile_plan(_weights(held, known), rules, options=Options(config=config))
    refuse_unasked(config)
    is_turned = adapter.config.is_turned
    moved = move_adapter(weights, held, naming, is_turned=is_turned, is_blockwise=given.block_diagonal)
    said = say_strengths(names, held, naming, moved) if naming is not None else {}
    metadata, notes = follow_metadata(source.header.metadata, names, naming, said)
    made = planned.Plan(
        weights.mapping,
        tuple(moved.steps),
        reading=weights.reading + AS_ADAPTER + ("" if is_peft else f" in the names of {names.dialect.name}"),
        metadata=metadata,
        notes=(*weights.notes, *_said(moved), *notes),
        source_files=source.files,
        is_back=False,
    )
    made.check()
    bound = Plan.bind(made, source)
    bound.binding.config = config
    bound.binding.changes = _changes(adapter, held, moved) if naming is None else _new_files(adapter, naming, said)
    bound.binding.weights = held.weights()
    return bound


def _refuse_others(chosen: Options) -> None:
    """Refuse options that an adapter's tensors know nothing of; groups of quantised weights are none of theirs."""
    plain = Options()
    names = [each.name for each in fields(Options) if each.name not in ("config", "companions")]
    strange = [name for name in names if (getattr(chosen, name) or None) != (getattr(plain, name) or None)]
    if strange:
        raise PlanError("usage", "an adapter is planned without these options", got=", ".join(strange))


def _said(moved: Moved) -> Iterator[str]:
    """Say where a number of the configuration is not quite the one that would be right."""
    if moved.rounded:
        names = ", ".join(collapse(moved.rounded)[:4])
        yield f"alpha is the nearest number that there is, and the strength differs in its last bit: {names}"


def _weights(held: Held, base: Header | None) -> Header:
    """Return the header of the model's weights: those of the base, or as many as the adapter knows of."""
    first = next((each.factors[IN].spec.dtype for each in held.adapted.values()), "F32")
    specs = {key: TensorSpec(first, spec.shape) for key, spec in base.specs.items()} if base is not None else {}
    specs |= {key: TensorSpec(each.factors[IN].spec.dtype, each.shape) for key, each in held.adapted.items()}
    return Header(specs | {key: spec for key, (_, spec) in held.whole.items()})


def _changes(adapter: Adapter, held: Held, moved: Moved) -> tuple[FileChange]:
    """Return the change of the configuration; one that says the right thing already stays byte for byte."""
    from weighbridge.running.changed_files import FileChange

    before = Modules(held.strengths(parameters=False), held.strengths(parameters=True))
    form = adapter.config.follow(before, Modules(moved.linear, moved.parameters), moved.whole)
    text = adapter.text if form == adapter.config.form else json.dumps(form, indent=2, ensure_ascii=False)
    return (FileChange(CONFIG_NAME, adapter.text, text),)


def _new_files(adapter: Adapter, naming: Naming, said: MappingOf[str, Any]) -> tuple[FileChange, ...]:
    """Return the change of PEFT's configuration where only the old adapter has one, or only the new one."""
    from weighbridge.running.changed_files import FileChange

    after = json.dumps({"peft_type": "LORA"} | said[PREFIX], indent=2) if naming.dialect is PEFT else ""
    return (FileChange(CONFIG_NAME, adapter.text, after),) if PEFT in (naming.dialect, adapter.names.dialect) else ()


def undo_changes(
    place: Path | str, recorded: Iterable[RecordedChange]
) -> tuple[tuple[FileChange, ...], tuple[str, ...]]:
    """Return how files that an output's receipt says were changed become again what they were, and what to say of it.

    Args:
        place: The output; a path, or an address.
        recorded: What the receipt says.
    """
    made, notes = [], []
    for change in recorded:
        now = _text_now(place, change.name)
        if not change.is_as_written(now):
            notes.append(f"{change.name} is not what was written here: what it was before the conversion goes back")
        made.append(change.undo(now))
    return tuple(made), tuple(notes)


def _text_now(place: Path | str, name: str) -> str:
    """Return what a file of an output holds by now; nothing where it is not there."""
    if isinstance(place, str):
        found = find_beside(place, name)
        return "" if found is None else read_settings(found).decode("utf-8", "replace")
    path = place / name
    return read_small_file(path)[0].decode("utf-8", "replace") if path.is_file() else ""
