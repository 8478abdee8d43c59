"""Registries: a class name or a `model_type` to a mapping. The class name wins.

A registry is an instance; the default one is only the one that `weighbridge.register` fills. No mapping and the
identity mapping are different answers: the first is an error here, the second is `Mapping(())`.

A mapping comes from one of three places, and the first that has a name wins: what was registered, what installed
packages ship as entry points, and what providers load when it is asked for. The first two were put there by somebody
who meant this very name; a provider (our own families, another library's table) only knows what a name usually means.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from weighbridge.base.errors import RegistryError
from weighbridge.base.nearby import close_names
from weighbridge.mappings.families import MODULES, load_family, module_of
from weighbridge.mappings.mapping import Mapping, MappingLike, as_mapping
from weighbridge.mappings.registered_names import ENTRY_POINT_GROUP, REGISTERED, shipped_names

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

Provider = Callable[[str], MappingLike]
"""Loads the mapping of one of the names that it was offered under."""


class Origin(NamedTuple):
    """Where a name comes from.

    Args:
        kind: ``registered`` in this process, ``entry point`` of an installed package, or ``built in``.
        package: The package that offers it; empty for what was registered.
        place: Module that holds the mapping, as an entry point with the name in it; for an alias, what it stands for.
    """

    kind: str
    package: str = ""
    place: str = ""


@dataclass(eq=False)
class Registry:
    """Mappings by name, with aliases.

    Args:
        use_entry_points: Also look a name up among the entry points of installed packages.
        noted: Takes each name under which something is registered or provided.

    Examples:
        >>> registry = Registry(use_entry_points=False)
        >>> len(registry.register("llava", []))
        0
        >>> registry.find("LlavaModel", "llava").name
        'llava'
    """

    use_entry_points: bool = True
    _mappings: dict[str, Mapping] = field(default_factory=dict, repr=False)
    _aliases: dict[str, str] = field(default_factory=dict, repr=False)
    _providers: dict[str, Provider] = field(default_factory=dict, repr=False)
    _places: dict[str, str] = field(default_factory=dict, repr=False)
    _provided: dict[str, Mapping] = field(default_factory=dict, repr=False)
    _shipped: dict[str, Mapping] = field(default_factory=dict, repr=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    _changes: int = field(default=0, repr=False)
    noted: set[str] = field(default_factory=set, repr=False)

    def register(self, name: str, mapping: MappingLike, *, overwrite: bool = False) -> Mapping:
        """Put a mapping under a class name or a `model_type`.

        Args:
            name: Class name (`LlavaModel`) or model type (`llava`).
            mapping: A mapping or a list of transforms.
            overwrite: Replace what is registered under this name.

        Returns:
            The mapping as it was registered; it takes the name if it had none.

        Raises:
            RegistryError: `mapping-exists`.
        """
        value = as_mapping(mapping)
        value = value if value.name else replace(value, name=name)
        with self._lock:
            self._refuse_taken(name, overwrite)
            self.noted.add(name)
            self._aliases.pop(name, None)
            self._mappings[name] = value
            self._changes += 1
        return value

    def alias(self, name: str, of: str, *, overwrite: bool = False) -> None:
        """Let `name` stand for the mapping that is registered under `of`.

        Raises:
            RegistryError: `mapping-exists`, `mapping-not-found`.
        """
        with self._lock:
            self._refuse_taken(name, overwrite)
            if self._lookup(of) is None:
                raise self.not_found(of)
            if self._aliases.get(of, of) == name:
                raise RegistryError("mapping-exists", "an alias cannot stand for itself", where=name)
            self.noted.add(name)
            self._mappings.pop(name, None)
            self._aliases[name] = self._aliases.get(of, of)
            self._changes += 1

    def provide(self, names: Iterable[str], load: Provider, place: Callable[[str], str] | None = None) -> None:
        """Offer built-in mappings, each loaded when it is first asked for.

        What is registered under the same name goes first, and so does what another provider offered before.

        Args:
            names: Class names and model types.
            load: Called with one of the names; returns its mapping.
            place: Called with one of the names; returns the module that its mapping is in. The module of `load` by
                default.

        Examples:
            >>> registry = Registry(use_entry_points=False)
            >>> registry.provide(["llava"], lambda name: Mapping((), name="from a file"))
            >>> registry.find("llava").name, registry.is_built_in("llava")
            ('from a file', True)
        """
        with self._lock:
            for name in names:
                self.noted.add(name)
                self._providers.setdefault(name, load)
                self._places.setdefault(name, place(name) if place is not None else load.__module__)
            self._changes += 1

    def get(self, name: str) -> Mapping | None:
        """Return the mapping under a name, or None."""
        return self._lookup(name)

    def is_built_in(self, name: str) -> bool:
        """Tell whether a name is only known from a provider: nobody registered it, and no package ships it."""
        with self._lock:
            return name in self._providers and not self._is_meant(name)

    def origin(self, name: str) -> Origin:
        """Say where a name comes from; nothing is loaded.

        Raises:
            RegistryError: `mapping-not-found`.

        Examples:
            >>> registry = Registry(use_entry_points=False)
            >>> registry.provide(["llava"], lambda name: Mapping(), lambda name: "weighbridge.mappings.families.llava")
            >>> registry.origin("llava")
            Origin(kind='built in', package='weighbridge', place='weighbridge.mappings.families.llava')
        """
        with self._lock:
            if name in self._mappings or name in self._aliases:
                return Origin("registered", place=self._aliases.get(name, ""))
            if name in self._entry_points():
                points = _entry_points_named(name)
                packages = dict.fromkeys(point.dist.name for point in points if point.dist is not None)
                return Origin("entry point", ", ".join(packages), ", ".join(point.value for point in points))
            if name not in self._providers:
                raise self.not_found(name)
            return Origin("built in", self._places[name].partition(".")[0], self._places[name])

    @property
    def changes(self) -> int:
        """How often the registry was changed; a result that was computed from it holds while this stays the same."""
        return self._changes

    def find(self, *names: str) -> Mapping:
        """Return the mapping of the first name that has one; give the class name before the `model_type`.

        Raises:
            RegistryError: `mapping-not-found`.
        """
        for name in names:
            found = self._lookup(name)
            if found is not None:
                return found
        raise self.not_found(*names)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._lookup(name) is not None

    def __iter__(self) -> Iterator[str]:
        """Iterate over all names in alphabetical order: aliases, entry points and provided ones included."""
        return iter(sorted({*self._mappings, *self._aliases, *self._entry_points(), *self._providers}))

    def copy(self) -> Registry:
        """Return a registry that starts with the same content and changes on its own."""
        with self._lock:
            made = Registry(self.use_entry_points, dict(self._mappings), dict(self._aliases))
            made._providers, made._provided = dict(self._providers), dict(self._provided)
            made._places, made._shipped = dict(self._places), dict(self._shipped)
            return made

    def registered(self) -> Registry:
        """Return a registry of only what was registered or is shipped by packages, nothing that is built in."""
        with self._lock:
            made = Registry(self.use_entry_points, dict(self._mappings), dict(self._aliases))
            made._shipped = dict(self._shipped)
            return made

    def _is_meant(self, name: str) -> bool:
        return name in self._mappings or name in self._aliases or name in self._entry_points()

    def _refuse_taken(self, name: str, overwrite: bool) -> None:
        if not overwrite and (self._is_meant(name) or name in self._providers):
            raise RegistryError(
                "mapping-exists",
                "a mapping is already registered under this name",
                where=name,
                hint="choose another name, or pass overwrite=True to replace what is there",
            )

    def _lookup(self, name: str) -> Mapping | None:
        with self._lock:
            name = self._aliases.get(name, name)
            if name in self._mappings:
                return self._mappings[name]
            if name in self._entry_points():
                if name not in self._shipped:
                    self._shipped[name] = self._load(name)
                return self._shipped[name]
            return self._lookup_provided(name)

    def _lookup_provided(self, name: str) -> Mapping | None:
        if name not in self._provided and name in self._providers:
            mapping = as_mapping(self._providers[name](name))
            self._provided[name] = mapping if mapping.name else replace(mapping, name=name)
        return self._provided.get(name)

    def _entry_points(self) -> frozenset[str]:
        return shipped_names() if self.use_entry_points else frozenset()

    def _load(self, name: str) -> Mapping:
        found = _entry_points_named(name)
        if len(found) > 1:
            owners = ", ".join(str(point.value) for point in found)
            raise RegistryError("mapping-exists", "two packages ship this mapping", where=name, got=owners)
        value = found[0].load()
        mapping = as_mapping(value() if callable(value) else value)
        return mapping if mapping.name else replace(mapping, name=name)

    def not_found(self, *names: str) -> RegistryError:
        """Make the error for a model that nothing is registered for, with the names that are nearest."""
        near = [near for name in names for near in close_names(name, self, 3)]
        return RegistryError(
            "mapping-not-found",
            "no mapping is registered under this name",
            where=" or ".join(filter(None, names)),
            got="nearest: " + ", ".join(near) if near else f"{len(list(self))} registered names, none alike",
            hint="weighbridge.register(name, transforms), or give a mapping file, such as path.yaml;\n"
            "weighbridge mapping list prints all names",
        )


def _entry_points_named(name: str) -> list[EntryPoint]:
    """Find the entry points of a name; more than one if several packages ship it."""
    from importlib.metadata import entry_points

    return list(entry_points(group=ENTRY_POINT_GROUP, name=name))


def registry_as_shipped() -> Registry:
    """Return a registry of the families that come with weighbridge, whatever was registered in their place."""
    made = Registry(use_entry_points=False)
    made.provide(MODULES, load_family, module_of)
    return made


default_registry: Final = Registry(noted=REGISTERED)
"""The registry that `weighbridge.register` fills and names given as strings are looked up in."""

default_registry.provide(MODULES, load_family, module_of)
REGISTERED.difference_update(MODULES)
