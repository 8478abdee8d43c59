"""Declared exceptions: rules that say by name what would otherwise be an error.

A source tensor is dropped, carried along or refused; a target tensor is left as it was made. Each rule has a name,
which reports repeat; nothing is ever dropped without one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping as MappingOf
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from weighbridge.base.errors import MappingError
from weighbridge.pattern import Pattern


@dataclass(frozen=True, slots=True)
class KeyRule:
    """Pick the keys that a declared exception is about.

    Args:
        pattern: Key pattern.
        why: The rule's name in reports; the pattern by default.
        scope: Path of the sub-module whose keys this rule sees; empty for all keys.
    """

    pattern: str
    why: str = ""
    scope: str = ""

    def __post_init__(self) -> None:
        values: tuple[object, ...] = (self.pattern, self.why, self.scope)
        if not all(isinstance(value, str) for value in values):
            what = "pattern, why and scope of a declared exception are texts"
            raise MappingError("mapping-invalid", what, got=", ".join(map(repr, values)))
        Pattern.parse(self.pattern)


@dataclass(frozen=True, slots=True)
class Drop(KeyRule):
    """Leave out the source tensors whose key matches `pattern`; they are lost on the way back.

    Args:
        pattern: Key pattern, matched against the checkpoint's own keys.
        why: The rule's name in reports; the pattern by default.
        scope: Path of the sub-module whose keys this rule sees; empty for all keys.
    """


@dataclass(frozen=True, slots=True)
class Carry(KeyRule):
    """Pass the source tensors whose key matches `pattern` through under their own name, past every transform.

    One that the target has under that name fills it.

    Args:
        pattern: Key pattern, matched against the checkpoint's own keys.
        why: The rule's name in reports; the pattern by default.
        scope: Path of the sub-module whose keys this rule sees; empty for all keys.
    """


@dataclass(frozen=True, slots=True)
class Initialise(KeyRule):
    """Let the target tensors whose key matches `pattern` keep the values that the model was made with.

    Args:
        pattern: Key pattern, matched against the target's keys.
        why: The rule's name in reports; the pattern by default.
        scope: Path of the sub-module whose keys this rule sees; empty for all keys.
        saved: Whether a model that is saved writes these tensors; False for those that no published file has.
    """

    saved: bool = True


@dataclass(frozen=True, slots=True)
class Refuse(KeyRule):
    """Refuse a load in which a source tensor whose key matches `pattern` has no place, a declared partial one too.

    For tensors that a model cannot do without: carried beside it, they would leave it computing something else.

    Args:
        pattern: Key pattern, matched against the checkpoint's own keys.
        why: The reason, for the error.
        scope: Path of the sub-module whose keys this rule sees; empty for all keys.
    """


ExceptionRule = Drop | Carry | Initialise | Refuse

Rules = str | ExceptionRule | Iterable[str | ExceptionRule]
"""Declared exceptions: rules, or patterns that become rules; one or several."""

RULE_KINDS: Final[MappingOf[str, type[Any]]] = {
    "drop": Drop,
    "carry": Carry,
    "initialise": Initialise,
    "refuse": Refuse,
}
"""The kinds of rules by the name of their field in a mapping, in the order in which they are shown."""

_Rule = TypeVar("_Rule", bound=KeyRule)


def mounted(rule: _Rule, prefix: str) -> _Rule:
    """Mount a declared exception under a path; a scope that it already has lies below."""
    return replace(rule, scope=".".join(part for part in (prefix, rule.scope) if part))


def exception_rules(kind: type[Any], rules: Any) -> tuple[Any, ...]:
    """Read declared exceptions: rules of `kind`, or patterns that become such rules.

    Raises:
        MappingError: `mapping-invalid`.
    """
    listed = (rules,) if isinstance(rules, str | kind) or not isinstance(rules, Iterable) else tuple(rules)
    wrong = [rule for rule in listed if not isinstance(rule, str | kind)]
    if wrong:
        raise MappingError("mapping-invalid", f"expected patterns or {kind.__name__} rules", got=repr(wrong))
    return tuple(kind(rule) if isinstance(rule, str) else rule for rule in listed)
