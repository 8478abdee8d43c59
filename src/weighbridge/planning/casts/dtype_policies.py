"""The dtype that a caller wants each target to be in: one for all, or by patterns over the targets' keys.

A policy casts floats of 16 bits and more. Integers, truth values, complex numbers and packed elements stay as they are,
and so does what is quantised: floats of 8 bits, and whatever belongs to the codes of a weight.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping as MappingOf
from dataclasses import dataclass
from typing import Any, Final

from weighbridge.base.errors import PatternError, PlanError, WeighbridgeError
from weighbridge.base.keys import nearest
from weighbridge.base.specs import DTYPES, dtype_named
from weighbridge.planning.names.selections import selection_pattern
from weighbridge.planning.readings import Names

ALL: Final = "**"
"""The pattern that names every target."""

KEEP: Final = "keep"
TARGET: Final = "target"
"""Words in the place of a dtype: as it is, and as the target has it."""


@dataclass(frozen=True, slots=True)
class DtypePolicy:
    """Which dtype each target is to be in.

    Args:
        rules: Patterns over the targets' keys, each with a dtype's code, ``"target"`` or ``"keep"``; the last one that
            names a key decides. A target that none of them names stays as it is.
    """

    rules: tuple[tuple[str, str], ...]

    def wanted(self, keys: Collection[str]) -> dict[str, str]:
        """Return what is wanted for each key that a rule names."""
        return {key: dtype for number in self._named(keys) for key, dtype in number.items()}

    def _named(self, keys: Collection[str]) -> Iterator[dict[str, str]]:
        """Yield, for each rule, the keys that it names."""
        names = Names(keys)
        for pattern, dtype in self.rules:
            if pattern == ALL:
                yield dict.fromkeys(keys, dtype)
                continue
            found = dict.fromkeys(names.matching(selection_pattern(pattern)), dtype)
            yield {**found, pattern: dtype} if pattern in keys else found

    def refuse_unused(self, keys: Collection[str]) -> None:
        """Refuse a rule that decides about no target.

        Raises:
            PlanError: `rule-unused`.
        """
        named = list(self._named(keys))
        later: set[str] = set()
        for (pattern, _), found in reversed(list(zip(self.rules, named, strict=True))):
            if found.keys() <= later and keys:
                raise _unused(pattern, found, keys)
            later |= found.keys()


def _unused(pattern: str, named: Collection[str], keys: Collection[str]) -> PlanError:
    if named:
        what = "later patterns decide about everything that this dtype is asked for"
        hint = "of several patterns that name a target, the last one decides: list the general ones first"
        return PlanError("rule-unused", what, where=pattern, hint=hint)
    near = ", ".join(nearest(pattern, sorted(keys)))
    got = f"nearest: {near}" if near else ""
    hint = "a pattern speaks of the targets' keys, and finds whole segments anywhere in them"
    return PlanError("rule-unused", "this dtype is asked for no target", where=pattern, got=got, hint=hint)


def read_policy(given: Any) -> DtypePolicy | None:
    """Read what a caller says of dtypes.

    Args:
        given: A dtype, by its name or torch's own; ``"target"``, or ``"keep"``; or such for each of several patterns.
            None stands for no wish.

    Raises:
        CheckpointError: `dtype-unknown`.
        PatternError: `pattern-syntax`.
        WeighbridgeError: `usage`.

    Examples:
        >>> read_policy("bfloat16").rules
        (('**', 'BF16'),)
        >>> read_policy({"**": "BF16", "A_log": "F32"}).wanted(["mixer.A_log", "mixer.D"])
        {'mixer.A_log': 'F32', 'mixer.D': 'BF16'}
    """
    if given is None or isinstance(given, DtypePolicy):
        return given
    if not isinstance(given, MappingOf):
        return DtypePolicy(((ALL, _dtype(given)),))
    if not given:
        return None
    return DtypePolicy(tuple((_pattern(pattern), _dtype(dtype)) for pattern, dtype in given.items()))


def _pattern(text: Any) -> str:
    if not isinstance(text, str):
        raise WeighbridgeError("usage", "a dtype is asked for by a pattern", expected="a text", got=repr(text)[:120])
    if text == "*":
        what, hint = "this names every key with an index in it, and no other", f"{ALL} names all; A_log all that end so"
        raise PatternError("pattern-syntax", what, where=text, hint=hint)
    selection_pattern(text)
    return text


def _dtype(given: Any) -> str:
    if given is None or given in (KEEP, TARGET):
        return given or KEEP
    found = dtype_named(str(given))
    if not is_castable(found.code, to=True):
        what, floats = "only floats are cast, and only to floats", ", ".join(_floats())
        raise WeighbridgeError("usage", what, where=str(given), expected=f"{floats}, {TARGET} or {KEEP}")
    return found.code


def _floats() -> Iterator[str]:
    return (code for code in DTYPES if is_castable(code, to=True))


def is_castable(dtype: str, *, to: bool = False) -> bool:
    """Tell whether a policy casts elements of a dtype, or casts others to it.

    Examples:
        >>> is_castable("BF16"), is_castable("I64"), is_castable("F8_E4M3"), is_castable("F8_E4M3", to=True)
        (True, False, False, True)
    """
    kind = DTYPES[dtype]
    return kind.kind == "float" and (kind.bits > 8 or (to and kind.mantissa_bits > 0))
