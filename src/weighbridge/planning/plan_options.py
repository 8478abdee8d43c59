"""What a caller declares beside the mapping."""

from __future__ import annotations

from collections.abc import Mapping as MappingOf
from dataclasses import dataclass
from typing import Any, Final

from weighbridge.base.forms.named_options import read_named
from weighbridge.base.specs import dtype_named
from weighbridge.mappings.exception_rules import Rules

MODES: Final = ("auto", "mapped", "as is")
"""Ways to choose the reading of a checkpoint's layout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a caller declares beside the mapping.

    Args:
        partial: Accept targets that nothing fills and sources without a place; at least one target must be filled.
        drop: `Drop` rules, or patterns.
        carry: `Carry` rules, or patterns.
        initialise: `Initialise` rules, or patterns.
        dtype: Dtype that floating targets are cast to, by its name or torch's own; ``"target"`` for the target's, None
            to keep the source's.
        layout: ``"auto"`` to find the reading that fits, ``"mapped"`` or ``"as is"`` to declare it.
        base_prefix: See `Mapping.base_prefix`, which it overrides.
        config: The model's configuration (a mapping, or an object with attributes), for operations that read it.
    """

    partial: bool = False
    drop: Rules = ()
    carry: Rules = ()
    initialise: Rules = ()
    dtype: Any = None
    layout: str = "auto"
    base_prefix: str = ""
    config: Any = None

    def __post_init__(self) -> None:
        if self.dtype not in (None, "target"):
            object.__setattr__(self, "dtype", dtype_named(str(self.dtype)).code)


def read_options(given: MappingOf[str, Any]) -> Options:
    """Take options by their names.

    Args:
        given: Values by name.

    Raises:
        WeighbridgeError: `usage` for a name that is none.
        CheckpointError: `dtype-unknown`.

    Examples:
        >>> read_options({"initialize": "head"})
        Traceback (most recent call last):
        ...
        weighbridge.WeighbridgeError: usage: there is no such option @ initialize
          expected  partial, drop, carry, initialise, dtype, layout, base_prefix, config
          got       nearest: initialise
    """
    return read_named(Options, given)
