"""The way back from one of transformers' models to a published layout: its plan, the dtypes, the settings beside."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from weighbridge.api.bound_plan import Plan
from weighbridge.api.configurations import config_beside, saying_of
from weighbridge.api.live_models import naming_the_ways_out, say
from weighbridge.api.renamed_configs import follow_names
from weighbridge.base.errors import WeighbridgeError
from weighbridge.base.file_names import INDEX_SUFFIX, SAFETENSORS_SUFFIX, names_torch_file
from weighbridge.base.keys import collapse
from weighbridge.base.specs import Header
from weighbridge.integrations.transformers_names import leave_out_unsaved
from weighbridge.mappings.exception_rules import Drop, exception_rules
from weighbridge.mappings.mapping import Mapping
from weighbridge.mappings.schemes.said import CONFIG, QUANTISATION
from weighbridge.models.model_sources import open_model
from weighbridge.models.module_saving import tied_names
from weighbridge.models.resolve import class_name
from weighbridge.models.without_plans.loaded_models import recall
from weighbridge.models.wrappers import unwrap
from weighbridge.planning.compiling import compile_plan
from weighbridge.planning.plan_options import read_options
from weighbridge.running.by_ranks.held_source import HeldSource
from weighbridge.storage.formats.safetensors_write import WEIGHTS_NAME
from weighbridge.storage.places.directory import Extra
from weighbridge.storage.places.regular_files import read_settings

_GENERATION: Final = "generation_config.json"


def plan_derived(model: Any, back: Mapping, planning: dict[str, Any], held: HeldSource | None = None) -> Plan:
    """Plan with the inverse of a mapping; of tied weights one is written, as the library does.

    Args:
        model: The model.
        back: The inverse.
        planning: Options of a plan.
        held: The model as a source, where it is spread over ranks.

    Raises:
        PlanError: `inverse-unproven`.
    """
    inner: Any = unwrap(model)
    checkpoint = open_model(model) if held is None else held
    unsaved = leave_out_unsaved(inner, checkpoint.header)
    drop = (*tied_names(inner, held), *unsaved, *exception_rules(Drop, planning.get("drop", ())))
    # A live model is in the layout that the mapping gives: there is nothing to be told from its names.
    options = read_options({"config": inner.config, "layout": "mapped", **planning, "drop": drop})
    with naming_the_ways_out(inner):
        plan = compile_plan(
            checkpoint.header, back, options=options, saying=saying_of(checkpoint, inner.config.to_dict())
        )
    return Plan.bind(replace(plan, notes=(*plan.notes, *checkpoint.notes)), checkpoint)


def refuse_other_names(out: str | Path, options: dict[str, Any]) -> None:
    """Refuse to save a model where the library would not look for its weights.

    Args:
        out: The directory to make.
        options: Options of `Plan.write`.

    Raises:
        WeighbridgeError: `usage` for one torch file, which has no place for a configuration, and for another name.
    """
    if names_torch_file(out):
        what, hint = (
            "a saved model is a directory",
            "weighbridge.save(model, out) writes its weights alone into a torch file",
        )
        raise WeighbridgeError("usage", what, got=str(out), hint=hint)
    if options.get("name") is not None:
        what, hint = (
            "the library finds weights under its own name alone",
            "weighbridge.save(model, out, name=...) takes any",
        )
        raise WeighbridgeError("usage", what, got=f"name={options['name']!r}", hint=hint)


def library_names(back: Plan) -> dict[str, str]:
    """Return the option that names files as the library looks for them, where those that came in had other names.

    Args:
        back: The way back.
    """
    files = back.target_files
    names = () if files is None else [files.index_name] if files.index_name else [image.name for image in files.images]
    is_found = all(name in (WEIGHTS_NAME, WEIGHTS_NAME + INDEX_SUFFIX) for name in names)
    return {} if is_found else {"name": WEIGHTS_NAME.removesuffix(SAFETENSORS_SUFFIX)}


def is_of_another_class(model: Any) -> bool:
    """Tell whether a model was loaded from a checkpoint whose configuration names another class than the model's."""
    return bool(_other_class(model))


def say_other_class(model: Any, held: Header) -> None:
    """Log in which layout a model is saved that came from a checkpoint of another class.

    Args:
        model: The model, without wrappers.
        held: The specs of all that can be read of it.
    """
    name = class_name(model)
    note = f"saved in the published layout of {name}, and not in that of {_other_class(model)}, which it came in"
    notes = [f'{note}: layout="as loaded" keeps the latter, with its configuration']
    loaded = recall(model)
    carried = (step for step in (loaded.plan.steps if loaded is not None else ()) if step.fate == "carried")
    aside = [key for step in carried for key in step.sources if key not in held]
    say([*notes, *([f"{', '.join(collapse(aside)[:4])}: no part of a {name}, not saved"] if aside else [])])


def _other_class(model: Any) -> str:
    """Return the class, or the type, that the checkpoint's configuration names; empty if it is the model's, or none."""
    config = _own_settings(model)
    names, kind = config.get("architectures"), config.get("model_type")
    if isinstance(kind, str) and kind != getattr(model.config, "model_type", kind):
        return str(names[0]) if isinstance(names, list) and names else kind
    known = {kind.__name__ for kind in type(model).__mro__} | {class_name(model)}
    if isinstance(names, list) and names and known.isdisjoint(map(str, names)):
        return str(names[0])
    return ""


@contextmanager
def settings_of(model: Any, derived: Plan | None = None, held: HeldSource | None = None) -> Iterator[list[Extra]]:
    """Write the configuration and the generation settings to a place of their own, as the library does.

    What still says what a file of the loaded checkpoint says is that file, byte for byte, but for names of modules
    that are quantised, or are not, where these get others.

    Args:
        model: The model, without wrappers.
        derived: The plan that it is saved by, where that is not the way back to the layout that it came in.
        held: The model as a source, where it is spread over ranks.

    Yields:
        The files, to be put beside the weights before these are seen; they are gone afterwards.

    Raises:
        PlanError: `plan-failed`, with a `names-mixed` or `names-unmapped` for what cannot be said of the new names.
    """
    config, own = copy.deepcopy(model.config), _own_settings(model)
    config.dtype = _dtype_name(model, held)
    config.architectures = [class_name(model)]
    if getattr(model, "hf_quantizer", None) is not None and QUANTISATION in own:
        config.quantization_config = own[QUANTISATION]  # the library keeps part of what is said there
    with TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        _put_own_file(model, config, Path(folder) / CONFIG)
        if derived is not None and QUANTISATION in own:
            _follow_names(model, derived, Path(folder) / CONFIG)
        if model.can_generate():
            model.generation_config.save_pretrained(folder)
            _put_own_file(model, model.generation_config, Path(folder) / _GENERATION)
        paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        yield [Extra(path.relative_to(folder).as_posix(), path.resolve()) for path in paths]


def _dtype_name(model: Any, held: HeldSource | None) -> str:
    """Return the name of a model's dtype, which the library tells by its first weight; that may be in another stage."""
    if held is None or not held.in_stages:
        return str(model.dtype).removeprefix("torch.")
    own = next((tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()), None)
    return held.first_word("the dtype of the model", str(own or "").removeprefix("torch."))


def _follow_names(model: Any, derived: Plan, path: Path) -> None:
    """Let a configuration name the modules that are saved: it names those of the checkpoint that the model came from.

    Args:
        model: The model, whose plan leads from the names of that checkpoint to its own.
        derived: The plan that leads from these to the names to save.
        path: The configuration.
    """
    loaded = recall(model)
    for plan in (loaded.plan if loaded is not None else None, derived):
        for change in () if plan is None else follow_names(plan, [Extra(CONFIG, path.resolve())]):
            path.write_bytes(change.written)


def _own_settings(model: Any) -> dict[str, Any]:
    """Return the configuration that lay beside the weights that a model was loaded from."""
    loaded = recall(model)
    found = None if loaded is None else config_beside(loaded.checkpoint)
    return found if isinstance(found, dict) else {}


def _put_own_file(model: Any, settings: Any, path: Path) -> None:
    """Put a file of the loaded checkpoint in the place of a new one, if the library reads the same settings in it."""
    loaded = recall(model)
    if loaded is None or is_of_another_class(model):
        return
    own = next((extra.path for extra in loaded.checkpoint.extras if extra.name == path.name), None)
    said = None if own is None else config_beside(loaded.checkpoint, path.name)
    if own is not None and isinstance(said, dict):
        again = type(settings).from_dict(copy.deepcopy(said))
        if again.to_json_string() == settings.to_json_string():
            path.write_bytes(read_settings(own))
