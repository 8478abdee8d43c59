"""Say the same of new names in the text of a configuration, at each place where its format names modules."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from weighbridge.base.errors import WeighbridgeError
from weighbridge.base.json_text import JsonPath, with_values
from weighbridge.mappings.schemes.dialects import Dialect
from weighbridge.mappings.schemes.quantisation import names_in
from weighbridge.mappings.schemes.said import parts_of
from weighbridge.planning.config_names.changes import spell_place
from weighbridge.planning.config_names.entries import CannotSayError, Entry, MixedError, follow_entries
from weighbridge.planning.config_names.meanings import UnreadableError
from weighbridge.planning.config_names.moved_modules import MovedModules
from weighbridge.planning.config_names.unsaid import cannot_say, is_mixed, is_no_expression


class Config(NamedTuple):
    """A configuration that names modules.

    Args:
        name: The file's name.
        text: What it holds.
        places: Where it names modules, what stands there, and what that means.
    """

    name: str
    text: str
    places: tuple[tuple[JsonPath, Any, Dialect], ...]


def read_config(name: str, text: str) -> Config | None:
    """Return a configuration with the places where it names modules; None where there is none.

    Args:
        name: The file's name.
        text: What it holds, which may be no JSON.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    places: list[tuple[JsonPath, Any, Dialect]] = []
    for member, method, part in parts_of(name, content):
        root: JsonPath = (member,) if member else ()
        for names in names_in(method):
            places += [(path, value, names.dialect) for path, value in _below(part, names.path, root) if value]
    return Config(name, text, tuple(places)) if places else None


def follow_config(config: Config, modules: MovedModules, problems: list[WeighbridgeError]) -> str:
    """Return the text of a configuration that says the same of a plan's target; what is right in it stays.

    Args:
        config: The source's configuration.
        modules: What becomes of the modules.
        problems: What cannot be said is added to it.
    """
    name, text, places = config
    values: dict[JsonPath, Any] = {}
    for path, value, dialect in places:
        try:
            new = _follow(value, dialect, modules)
            if new is not None:
                values[path] = new
        except MixedError as problem:
            problems.append(is_mixed(problem.mixed, name, spell_place(path)))
        except CannotSayError as problem:
            problems.append(cannot_say(problem, name, spell_place(path)))
        except UnreadableError as problem:
            problems.append(is_no_expression(problem, name, spell_place(path)))
    return with_values(text, values) if values else text


def _below(value: Any, path: Sequence[str], root: JsonPath) -> Iterator[tuple[JsonPath, Any]]:
    """Yield what stands at a path below a value, of which a part may be a star, with its whole path."""
    if not path:
        yield root, value
        return
    named: dict[Any, Any] = {}
    if isinstance(value, Mapping):
        named = dict(value) if path[0] == "*" else {path[0]: value[path[0]]} if path[0] in value else {}
    elif isinstance(value, list) and path[0] == "*":
        named = dict(enumerate(value))
    for name, inner in named.items():
        yield from _below(inner, path[1:], (*root, name))


def _follow(value: Any, dialect: Dialect, modules: MovedModules) -> Any:
    """Return what is to stand in the place of some entries; None where they are right."""
    entries = entries_of(value)
    if isinstance(value, str):
        made = follow_entries(entries, dialect, modules)
        texts = [] if made is None else [entry.text for entry in made[0]]
        if made is not None and len(texts) != 1:
            raise CannotSayError("one name has the place of several", [value], texts)
        return texts[0] if texts else None
    if isinstance(value, list):
        made = follow_entries(entries, dialect, modules)
        return None if made is None else _filled(value, iter(made))
    if isinstance(value, Mapping):
        made = follow_entries(entries, dialect, modules, is_list=False)
        return None if made is None else _with_members(value, iter(made))
    return None


def entries_of(value: Any) -> list[Entry]:
    """Return the entries that stand in one place: one text, those of a list and of the lists in it, or members.

    Examples:
        >>> [entry.text for entry in entries_of(["a", ["b", "c"]])], [entry.text for entry in entries_of({"a": False})]
        (['a', 'b', 'c'], ['a'])
    """
    if isinstance(value, Mapping):
        return [Entry(name, inner) for name, inner in value.items() if _is_entry(inner)]
    return [
        Entry(text) for text in _flat([value] if isinstance(value, str) else value if isinstance(value, list) else [])
    ]


def _is_entry(value: Any) -> bool:
    """Tell whether a member says something of modules by its name, and is no setting."""
    return value is None or isinstance(value, bool | Mapping)


def _flat(value: Sequence[Any]) -> Iterator[str]:
    """Yield the entries of a list, and of the lists in it, in order."""
    for each in value:
        inner = each if isinstance(each, list) else [each]
        yield from (entry for entry in inner if isinstance(entry, str))


def _filled(value: Sequence[Any], made: Iterator[list[Entry]]) -> list[Any]:
    """Return a list, and the lists in it, with what stands in the place of each entry."""
    filled: list[Any] = []
    for each in value:
        inner = each if isinstance(each, list) else [each]
        parts = [[entry.text for entry in next(made)] if isinstance(part, str) else [part] for part in inner]
        new = list(chain.from_iterable(parts))
        filled += [new] if isinstance(each, list) else new
    return filled


def _with_members(value: Mapping[str, Any], made: Iterator[list[Entry]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, inner in value.items():
        members |= {entry.text: entry.value for entry in next(made)} if _is_entry(inner) else {name: inner}
    return members
