"""What configurations say of some modules: the entry that decides on each of them, before and after."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from weighbridge.base.json_text import JsonPath, shorten
from weighbridge.mappings.schemes.dialects import Dialect
from weighbridge.planning.config_names.changes import spell_place
from weighbridge.planning.config_names.meanings import UnreadableError, find_meanings
from weighbridge.planning.config_names.named_places import entries_of, read_config

ChangedText = tuple[str, str, str]
"""A configuration that changes: its name, and its text before and after."""


def said_of_modules(changed: ChangedText, sources: Sequence[str], targets: Sequence[str]) -> Iterator[str]:
    """Yield a line for each place where a configuration says something of a module, and what it says of the new ones.

    Args:
        changed: The configuration.
        sources: Modules of the source.
        targets: What they become.

    Examples:
        >>> text = '{"quantization_config": {"quant_method": "awq", "modules_to_not_convert": ["a"]}}'
        >>> list(said_of_modules(("config.json", text, text.replace('"a"', '"b"')), ["a"], ["b"]))
        ["config.json: quantization_config.modules_to_not_convert names a by 'a' -> b by 'b'"]
    """
    name, *texts = changed
    before, after = ({path: each for path, *each in _places(name, text)} for text in texts)
    for path in dict.fromkeys((*before, *after)):
        named = [_named(place.get(path), modules) for place, modules in ((before, sources), (after, targets))]
        if any(named):
            one, other = (", ".join(each) or "nothing" for each in named)
            yield f"{name}: {spell_place(path)} names {one}" + (f" -> {other}" if other != one else ", and stays")


def _places(name: str, text: str) -> Iterator[tuple[JsonPath, Any, Dialect]]:
    config = read_config(name, text)
    yield from config.places if config is not None else ()


def _named(place: Sequence[Any] | None, modules: Sequence[str]) -> list[str]:
    """Say by which entry each module is named that is."""
    if place is None:
        return []
    value, dialect = place
    texts = [entry.text for entry in entries_of(value)]
    try:
        meant = find_meanings(texts, dialect, modules)
    except UnreadableError:
        return []
    deciding = ((module, meant.deciding(module)) for module in modules)
    return [f"{module} by {shorten(texts[number])}" for module, number in deciding if number is not None]
