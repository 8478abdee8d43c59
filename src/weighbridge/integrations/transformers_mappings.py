"""The mapping of one of the library's models: our families, the installed library's table, and the way back from both.

Mappings are looked up in this order: what was registered here, what was registered with the library's own function, the
families that come with weighbridge, the library's table.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Any

from weighbridge.base.specs import Header
from weighbridge.mappings.finding import AnyMapping, find_mapping
from weighbridge.mappings.known_tables import LEGACY
from weighbridge.mappings.mapping import Mapping, as_mapping
from weighbridge.mappings.registry import Registry, default_registry, registry_as_shipped
from weighbridge.mappings.transformers_table import in_order, registry
from weighbridge.mappings.transforms import PrefixChange, Transform, WeightRenaming
from weighbridge.models.resolve import Mount, base_prefix, class_name, compose, find_mounts
from weighbridge.models.wrappers import unwrap
from weighbridge.planning.way_back.one_way_rules import inverse_for


def mapping_of(model_or_config: Any) -> Mapping:
    """Return the mapping of a model's checkpoints; see `transformers.resolve`.

    Args:
        model_or_config: A model, or a configuration, of which one is made on the meta device.

    Raises:
        RegistryError: `integration-version`.
    """
    model = unwrap(model_or_config if hasattr(model_or_config, "named_modules") else _model_of(model_or_config))
    table = registry()
    return _composed(model, find_mounts(model, _registered_there(table), default_registry, table), table)


def mapping_as_shipped(model: Any) -> Mapping:
    """Return the mapping that a model's checkpoints have where nobody has registered anything for its classes.

    Args:
        model: The model, without wrappers.

    Raises:
        RegistryError: `integration-version`.
    """
    table = registry(as_shipped=True)
    return _composed(model, find_mounts(model, registry_as_shipped(), table), table)


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
    return inverse_to_published(_composed(model, mounts, table), header, known)


def inverse_to_published(mapping: Mapping, header: Callable[[], Header], known: Collection[Transform] = ()) -> Mapping:
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


def inverse_for_model(
    model: Any, mapping: AnyMapping | None, layout: str | None, header: Callable[[], Header]
) -> Mapping:
    """Return the inverse of the mapping that is given, or of the model's; of none for a model's own names."""
    if mapping is not None:
        return as_mapping(find_mapping(mapping)).inverse()
    return Mapping() if layout == "as is" else _way_out(model, header)
