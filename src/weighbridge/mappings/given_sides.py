"""Check the sides, paths and flags that a transform is given: texts, none of them empty, and dotted paths."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from weighbridge.base.errors import MappingError

Patterns = str | Iterable[str]

_NOT_PLAIN: Final = frozenset("\\^$*+?()[]{}|")
"""Characters with a meaning in patterns; a path is no pattern."""


def read_sides(sources: Patterns, targets: Patterns) -> dict[str, tuple[str, ...]]:
    """Return the patterns of both sides by the names of their fields.

    Raises:
        MappingError: `mapping-invalid`.

    Examples:
        >>> read_sides("gamma", ["weight"])
        {'source_patterns': ('gamma',), 'target_patterns': ('weight',)}
    """
    sides = {"source_patterns": _texts(sources), "target_patterns": _texts(targets)}
    for name, texts in sides.items():
        if not texts or not all(texts):
            what, hint = f"{name} needs at least one pattern, none empty", _say_what_is_meant(*sides.values())
            raise MappingError("mapping-invalid", what, got=repr(texts), hint=hint)
    if len(set(sides["source_patterns"])) != len(sides["source_patterns"]):
        raise MappingError("mapping-invalid", "a source pattern stands twice", got=repr(sides["source_patterns"]))
    return sides


def _texts(patterns: Patterns) -> tuple[str, ...]:
    given: object = patterns
    texts = (patterns,) if isinstance(patterns, str) else tuple(patterns) if isinstance(given, Iterable) else ()
    if not all(type(text) is str for text in texts) or not isinstance(given, Iterable):
        raise MappingError("mapping-invalid", "a pattern is a text", got=repr(patterns))
    return texts


def _say_what_is_meant(sources: tuple[str, ...], targets: tuple[str, ...]) -> str:
    """Say how a part of a name is taken away, or put in front of every name, which an empty pattern cannot say."""
    if len(sources) != 1 or len(targets) != 1:
        return ""
    part = sources[0].removesuffix(".").removesuffix("\\")
    if not part:
        hint = f"to put it in front of every name: PrefixChange(prefix_to_add={targets[0]!r})"
        return hint if _is_path(targets[0]) else ""
    whole = f"{{rest:**}}.{part}" if part.endswith("$") else f"{part}.{{rest:**}}"
    hint, path = f"to take it away, capture what stays: {whole!r} -> '{{rest}}'", part.removeprefix("^")
    return f"{hint},\nor PrefixChange(prefix_to_remove={path!r}) at the start alone" if _is_path(path) else hint


def check_path(name: str, path: object) -> None:
    """Refuse what is no dotted path: a scope or a prefix is taken as it stands, and would silently match nothing.

    Raises:
        MappingError: `mapping-invalid`.
    """
    if not isinstance(path, str) or not _is_path(path):
        example = "a path such as model.vision_tower"
        raise MappingError("mapping-invalid", f"{name} is no dotted path", expected=example, got=repr(path))


def _is_path(text: str) -> bool:
    return all(text.split(".")) and not _NOT_PLAIN.intersection(text)


def check_flag(name: str, value: object) -> None:
    """Refuse what is neither true nor false.

    Raises:
        MappingError: `mapping-invalid`.
    """
    if not isinstance(value, bool):
        raise MappingError("mapping-invalid", f"{name} is no flag", expected="True or False", got=repr(value))
