"""From a model to the mapping of its checkpoints: one ordered, scoped list for a model and all models inside it.

Every sub-model may follow a mapping of its own, found by class name first and then by `model_type`. It is mounted where
the sub-model hangs in the module tree, so that it sees that sub-model's keys as if there were no others. Four rules say
who gets one:

    a mapping speaks for the whole sub-tree of the identifiers that it was found by, so a model of the same class or
    type inside it gets none of its own
    a mapping found by a class name says nothing about the `model_type`: sub-models of that type still get theirs
    siblings never speak for each other
    code from outside the library that the built-in mappings are made for gets only what somebody registered for it

Wrappers are no part of a layout: they are looked through; see `wrappers`.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping as MappingOf
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from weighbridge.mappings.mapping import Mapping
from weighbridge.mappings.registry import Registry, default_registry
from weighbridge.models.wrappers import branches, layout_class, unwrap

if TYPE_CHECKING:
    import torch

LIBRARY: Final = "transformers"
"""The package whose classes the built-in mappings are made for."""


class Mount(NamedTuple):
    """A mapping and the sub-model that it is for.

    Args:
        path: Dotted path of the sub-model; empty for the model itself.
        name: The class name or `model_type` that the mapping was found by.
        mapping: The mapping, as it is registered.
        registry: Where it was found.
    """

    path: str
    name: str
    mapping: Mapping
    registry: Registry


class Known(NamedTuple):
    """What a sub-model can be looked up by.

    Args:
        class_name: Name of its class; empty where only a configuration is known.
        model_type: Its configuration's `model_type`, or empty.
        is_custom: Whether only mappings that somebody registered may apply.
    """

    class_name: str
    model_type: str
    is_custom: bool


def resolve(model: torch.nn.Module, registry: Registry = default_registry, *, required: bool = False) -> Mapping:
    """Return the mapping of a model's checkpoints.

    Args:
        model: The model; it may be on the meta device, and wrapped.
        registry: Where mappings are looked up.
        required: Whether it is an error that nothing is registered for the model, nor for any model inside it.

    Returns:
        One mapping: the model's own transforms first, then those of its sub-models in the order of the module tree,
        each under the path of its sub-model. It has no transforms if nothing is registered for any of them. The
        answer is kept until the registry changes, or a model in the tree or its `model_type` does.

    Raises:
        RegistryError: `mapping-not-found`.

    Examples:
        >>> import torch
        >>> from weighbridge.mappings.transforms import WeightRenaming, describe
        >>> class Tower(torch.nn.Module): ...
        >>> model = torch.nn.ModuleDict({"left": Tower(), "right": Tower()})
        >>> registry = Registry()
        >>> _ = registry.register("Tower", [WeightRenaming("^layer", "layers")])
        >>> [describe(transform) for transform in resolve(model, registry)]
        ['WeightRenaming(^layer -> layers) in left', 'WeightRenaming(^layer -> layers) in right']
    """
    inner = unwrap(model)
    known = _resolved.setdefault(inner, weakref.WeakKeyDictionary())
    asked = _Question(tuple(_submodels(inner)), base_prefix(inner), registry.changes)
    if registry not in known or known[registry].asked != asked:
        mounts = _mounts_of(asked.submodels, (registry,))
        mapping = compose(mounts, class_name(inner), asked.prefix)
        known[registry] = _Answer(asked, mapping, is_known=bool(mounts))
    if required and not known[registry].is_known:
        problem = registry.not_found(class_name(inner), _model_type(getattr(inner, "config", None)))
        problem.hint += "\ngive [] as the mapping if the checkpoint has the model's own names"
        raise problem
    return known[registry].mapping


class _Question(NamedTuple):
    """What an answer depends on: the models in a tree by path, the base prefix, and the changes to the registry."""

    submodels: tuple[tuple[str, Known], ...]
    prefix: str
    changes: int


class _Answer(NamedTuple):
    """What was found for a model, and for which state of it and of the registry."""

    asked: _Question
    mapping: Mapping
    is_known: bool


_Answers = weakref.WeakKeyDictionary[Registry, _Answer]
_resolved: weakref.WeakKeyDictionary[torch.nn.Module, _Answers] = weakref.WeakKeyDictionary()


def resolve_config(config: Any, registry: Registry = default_registry) -> Mapping:
    """Return the mapping of the checkpoints of the model that a configuration describes; no model is needed.

    Args:
        config: A configuration: a mapping such as the content of a `config.json`, or an object with attributes.
        registry: Where mappings are looked up.

    Returns:
        The mapping found by the first of the configuration's `architectures` or by its `model_type`, and below it
        those of the parts that it names. It has no transforms if nothing is registered.

    Examples:
        >>> registry = Registry()
        >>> _ = registry.register("plain", [])
        >>> resolve_config({"model_type": "plain"}, registry).name
        'plain'
    """
    architecture = str(next(iter(_entry(config, "architectures") or ()), ""))
    mounts = tuple(_mounts_of_config(config, architecture, "", _Claims(), registry))
    prefix = mounts[0].mapping.base_prefix if mounts else ""
    return compose(mounts, architecture or _model_type(config), prefix)


def _mounts_of_config(config: Any, name: str, path: str, claims: _Claims, registry: Registry) -> Iterator[Mount]:
    known = Known(name, _model_type(config), is_custom=False)
    mount = _find(known, path, claims, (registry,))
    if mount is None:
        return
    claims.add(mount, known)
    yield mount
    for part in mount.mapping.parts:
        inner = _entry(config, part.config) if part.config else config
        if inner is not None:
            part_path = f"{path}.{part.path}" if path else part.path
            inner_name = dict(part.classes).get(_model_type(inner), "")
            yield from _mounts_of_config(inner, inner_name, part_path, claims, registry)


def find_mounts(model: torch.nn.Module, *registries: Registry) -> tuple[Mount, ...]:
    """Find the mapping of a model and of each model inside it, in the order of the module tree.

    Args:
        model: The model.
        registries: Where to look; an earlier registry goes before a later one, whichever name it knows.
    """
    return _mounts_of(_submodels(unwrap(model)), registries)


def _mounts_of(submodels: Iterable[tuple[str, Known]], registries: Iterable[Registry]) -> tuple[Mount, ...]:
    claims, found, unknown = _Claims(), [], set[Known]()
    for path, known in submodels:
        mount = None if known in unknown else _find(known, path, claims, registries)
        if mount is not None:
            claims.add(mount, known)
            found.append(mount)
        elif not claims.owners(known.class_name, path) and not claims.owners(known.model_type, path):
            unknown.add(known)  # a model has many modules of a class that no registry knows
    return tuple(found)


def compose(mounts: Iterable[Mount], name: str, prefix: str) -> Mapping:
    """Join mounted mappings into one; a rule that stands in two of them for the same scope runs once.

    What a sub-model's mapping drops or carries is named as it stands in the file, where the sub-model may lie elsewhere
    than in the model, so these rules hold for the whole file: a key with a place that one of them takes is missing.

    Args:
        mounts: Mappings and their places, in the order in which they run.
        name: What to call the result where it comes from several mappings or none.
        prefix: The base prefix of the result.
    """
    found = list(mounts)
    listed = [mount.mapping.scoped(mount.path) for mount in found]
    return Mapping(
        dict.fromkeys(rule for mapping in listed for rule in mapping.transforms),
        name=listed[0].name if len(listed) == 1 else name,
        drop=dict.fromkeys(rule for mount in found for rule in mount.mapping.drop),
        carry=dict.fromkeys(rule for mount in found for rule in mount.mapping.carry),
        initialise=dict.fromkeys(rule for mapping in listed for rule in mapping.initialise),
        refuse=dict.fromkeys(rule for mount in found for rule in mount.mapping.refuse),
        base_prefix=prefix,
        legacy=dict.fromkeys(rule for mapping in listed for rule in mapping.legacy),
    )


@dataclass(slots=True)
class _Claims:
    """Which identifiers are spoken for: below which paths, and by the mappings of which registries."""

    places: dict[str, list[tuple[str, Registry]]] = field(default_factory=dict)

    def add(self, mount: Mount, known: Known) -> None:
        """Note a mapping that was found: for its class always, for its type only if that is how it was found."""
        for name in {known.class_name, mount.name, *mount.mapping.claims} - {""}:
            self.places.setdefault(name, []).append((mount.path, mount.registry))

    def owners(self, name: str, path: str) -> list[Registry]:
        """Return the registries whose mappings speak for an identifier at a path."""
        found = self.places.get(name, ())
        return [registry for above, registry in found if not above or path.startswith(f"{above}.")]


def _find(known: Known, path: str, claims: _Claims, registries: Iterable[Registry]) -> Mount | None:
    """Look a sub-model up by its class name, then by its type, unless a model around it speaks for them.

    What a registry says of a type, it says instead of all later registries: their class names are not asked for then.
    """
    if claims.owners(known.class_name, path):
        return None
    owners = claims.owners(known.model_type, path)
    for registry in registries:
        for name in filter(None, (known.class_name, "" if owners else known.model_type)):
            mapping = None if known.is_custom and registry.is_built_in(name) else registry.get(name)
            if mapping is not None:
                return Mount(path, name, mapping, registry)
        if registry in owners:
            return None
    return None


# ---- module trees ----


def _submodels(root: torch.nn.Module) -> Iterator[tuple[str, Known]]:
    """Yield every module that a mapping may be registered for, with its path in the checkpoint's layout."""
    for path, _, module, inner in branches(root):
        if inner is not None:
            continue
        owner = layout_class(module)
        is_model = isinstance(getattr(owner, "base_model_prefix", None), str)
        model_type = _model_type(getattr(module, "config", None)) if is_model or not path else ""
        is_custom = not is_model or owner.__module__.partition(".")[0] != LIBRARY
        yield path, Known(owner.__name__, model_type, is_custom)


def class_name(model: torch.nn.Module) -> str:
    """Return the name of a model's class, wrappers and the classes that sharding makes left aside."""
    return layout_class(unwrap(model)).__name__


def base_prefix(model: torch.nn.Module) -> str:
    """Return the name under which head models hold their base model; empty for a model that has no such pair."""
    prefix = getattr(layout_class(unwrap(model)), "base_model_prefix", "")
    return prefix if isinstance(prefix, str) else ""


# ---- configurations ----


def _model_type(config: Any) -> str:
    found = _entry(config, "model_type")
    return found if isinstance(found, str) else ""


def _entry(config: Any, name: str) -> Any:
    return config.get(name) if isinstance(config, MappingOf) else getattr(config, name, None)
