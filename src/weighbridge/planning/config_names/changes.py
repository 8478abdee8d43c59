"""What changes in a configuration, member by member."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple


class ConfigChange(NamedTuple):
    """A member of a configuration with its value before and after; None where it is not there.

    Args:
        file: The file's name.
        place: The names of members that lead to it.
        before: What the source's says.
        after: What the target's says.
    """

    file: str
    place: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.file}: {self.place} {_shortened(self.before)} -> {_shortened(self.after)}"


def _shortened(value: Any, limit: int = 72) -> str:
    """Write a value in one line, cut where it is long."""
    text = "nothing" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def spell_place(path: Iterable[str | int]) -> str:
    """Write a path of members as one text.

    Examples:
        >>> spell_place(("quantization_config", "ignore")), spell_place(("quantization", "model.norm", 0))
        ('quantization_config.ignore', 'quantization["model.norm"][0]')
    """
    text = ""
    for part in path:
        is_plain = isinstance(part, str) and "." not in part
        text += (f".{part}" if text else str(part)) if is_plain else f"[{json.dumps(part, ensure_ascii=False)}]"
    return text


def changes_between(file: str, before: str, after: str) -> Iterator[ConfigChange]:
    """Yield each member in which two texts of a configuration differ.

    Args:
        file: The file's name.
        before: The source's text.
        after: The target's.

    Examples:
        >>> [str(change) for change in changes_between("config.json", '{"a": {"b": 1}, "c": 2}', '{"a": {}, "c": 2}')]
        ['config.json: a.b 1 -> nothing']
    """
    if before != after:
        for path, old, new in _differences(_read(before), _read(after), ()):
            yield ConfigChange(file, spell_place(path), old, new)


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _differences(one: Any, other: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    if one == other:
        return
    if isinstance(one, dict) and isinstance(other, dict):
        for name in dict.fromkeys((*one, *other)):
            yield from _differences(one.get(name), other.get(name), (*path, name))
    else:
        yield path, one, other
