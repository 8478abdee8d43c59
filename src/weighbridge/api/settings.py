"""Settings that are laid over a configuration: said one by one, and each of them asked for by some rule."""

from __future__ import annotations

from collections.abc import Collection, ItemsView, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from weighbridge.base.errors import WeighbridgeError
from weighbridge.base.nearby import close_names
from weighbridge.operations.configuration import ALIKE, UnreadConfig


@dataclass(frozen=True, slots=True)
class Settings:
    """What is said of a configuration beside it.

    Args:
        values: Values by name; dots lead into nested configurations.
        config: The configuration, or its place, as `weighbridge.plan` takes it; None for the one that it finds.
    """

    values: Mapping[str, Any]
    config: Any = None

    def over(self, config: Any) -> WatchedConfig:
        """Lay the settings over a configuration.

        Args:
            config: Values by name, with nested configurations; None for no configuration.

        Raises:
            WeighbridgeError: `usage` for a configuration that cannot be read, and a setting within a value that is no
                nested configuration.

        Examples:
            >>> found = Settings({"text.heads": 3}).over({"text": {"heads": 2, "dim": 8}})
            >>> dict(found["text"]), found.unasked()
            ({'heads': 3, 'dim': 8}, [])
        """
        if isinstance(config, UnreadConfig):
            what, got = "the configuration that is to be set cannot be read", config.cause
            raise WeighbridgeError("usage", what, where=config.where, got=got, hint="give another one with --config")
        if config is not None and not isinstance(config, Mapping):
            what, got = "only a configuration of values by name can be set", f"a {type(config).__name__}"
            raise WeighbridgeError("usage", what, got=got)
        made: dict[str, Any] = dict(config or {})
        for name, value in self.values.items():
            _put(made, name, value)
        return WatchedConfig(made, self)


def _put(config: dict[str, Any], name: str, value: Any) -> None:
    """Set a value in a configuration whose nested ones, as far as the name leads into them, become copies."""
    *path, last = name.split(".")
    for number, part in enumerate(path, 1):
        inner = config.get(part, {})
        if not isinstance(inner, dict):
            where, got = ".".join(path[:number]), f"{inner!r:.80}"
            expected = "a nested configuration"
            raise WeighbridgeError("usage", f"--set {name}: it leads nowhere", where=where, expected=expected, got=got)
        config[part] = dict(inner)
        config = config[part]
    config[last] = value


@dataclass(slots=True)
class WatchedConfig(Mapping[str, Any]):
    """A configuration with settings, which remembers the names that are asked for.

    Args:
        entries: What it says.
        settings: What of it was set.
        path: The way to a nested one, with a dot at its end.
        asked: The names that were asked for, from the outermost configuration on.
    """

    entries: dict[str, Any]
    settings: Settings
    path: str = ""
    asked: set[str] = field(default_factory=set)

    def __getitem__(self, name: str) -> Any:
        whole = f"{self.path}{name}"
        self.asked.add(whole)
        found = self.entries[name]
        return WatchedConfig(found, self.settings, f"{whole}.", self.asked) if isinstance(found, dict) else found

    def __contains__(self, name: object) -> bool:
        return name in self.entries  # to look whether it is there is not to ask for what it says

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def items(self) -> ItemsView[str, Any]:
        """Return all that it says: to list it is not to ask for any of it."""
        return self.entries.items()

    def unasked(self) -> list[str]:
        """List the settings that nothing has asked for."""
        return [name for name in self.settings.values if name not in self.asked]


def refuse_unasked(config: Any, asked: Collection[str] = ()) -> None:
    """Refuse settings that no rule has asked for: one that is misspelt would leave another size in its place.

    Args:
        config: The configuration of a plan that has been made.
        asked: What else was asked for, by the paths of the source.

    Raises:
        WeighbridgeError: `usage`.
    """
    unasked = [name for name in config.unasked() if name not in asked] if isinstance(config, WatchedConfig) else []
    if unasked:
        near = close_names(unasked[0], sorted(config.asked), 3, ALIKE)
        got = ", ".join(unasked) + (f"; asked for: {', '.join(near)}" if near else "")
        hint = "leave it out" if not near else f"set {near[0]}, if that is what is meant, or leave it out"
        raise WeighbridgeError("usage", "--set: no rule asks for this", got=got, hint=hint)
