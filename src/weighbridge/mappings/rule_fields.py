"""The fields that transforms have in common, checked and set: patterns, paths, and flags."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from weighbridge.base.errors import MappingError

Patterns = str | Iterable[str]

_NOT_PLAIN: Final = frozenset("\\^$*+?()[]{}|")
"""Characters with a meaning in patterns; a path is no pattern."""


def _texts(patterns: Patterns) -> tuple[str, ...]:
    given: object = patterns
    texts = (patterns,) if isinstance(patterns, str) else tuple(patterns) if isinstance(given, Iterable) else ()
    if not all(type(text) is str for text in texts) or not isinstance(given, Iterable):
        raise MappingError("mapping-invalid", "a pattern is a text", got=repr(patterns))
    return texts


def check_path(name: str, path: object) -> None:
    """Refuse what is no dotted path: a scope or a prefix is taken as it stands, and would silently match nothing.

    Raises:
        MappingError: `mapping-invalid`.
    """
    if not isinstance(path, str) or not all(path.split(".")) or _NOT_PLAIN.intersection(path):
        example = "a path such as model.vision_tower"
        raise MappingError("mapping-invalid", f"{name} is no dotted path", expected=example, got=repr(path))


def check_flag(name: str, value: object) -> None:
    """Refuse what is neither true nor false.

    Raises:
        MappingError: `mapping-invalid`.
    """
    if not isinstance(value, bool):
        raise MappingError("mapping-invalid", f"{name} is no flag", expected="True or False", got=repr(value))


def mount(scope: str, inner: str) -> str:
    """Put a path in front of another one; either may be empty.

    Examples:
        >>> mount("model", "tower"), mount("", "tower")
        ('model.tower', 'tower')
    """
    return ".".join(part for part in (scope, inner) if part)


def set_fields(transform: Any, **values: object) -> None:
    """Set the fields of a new frozen value."""
    for name, value in values.items():
        object.__setattr__(transform, name, value)


def set_sides(transform: Any, sources: Patterns, targets: Patterns, scope: str, if_wanted: bool) -> None:
    """Set what all transforms with patterns have in common, and check it.

    Raises:
        MappingError: `mapping-invalid`.
    """
    sides = {"source_patterns": _texts(sources), "target_patterns": _texts(targets)}
    for name, texts in sides.items():
        if not texts or not all(texts):
            raise MappingError("mapping-invalid", f"{name} needs at least one pattern, none empty", got=repr(texts))
    if len(set(sides["source_patterns"])) != len(sides["source_patterns"]):
        raise MappingError("mapping-invalid", "a source pattern stands twice", got=repr(sides["source_patterns"]))
    if scope != "":
        check_path("scope", scope)
    check_flag("if_wanted", if_wanted)
    set_fields(transform, **sides, scope=scope, if_wanted=if_wanted)
