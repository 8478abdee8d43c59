"""What a caller declares beside the mapping."""

from __future__ import annotations

from collections.abc import Mapping as MappingOf
from dataclasses import dataclass
from typing import Any, Final

from weighbridge.base.errors import PlanError
from weighbridge.base.forms.named_options import read_named
from weighbridge.mappings.exception_rules import Rules
from weighbridge.planning.casts.dtype_policies import read_policy

REFINE: Final = "refine"
"""What declares that blocks may be made finer."""

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
        dtype: Dtype that floats are cast to, by its name or torch's own; ``"target"`` for the target's, None to keep
            the source's. Or several by patterns over the target's keys: ``{"**": "BF16", "A_log": "F32"}``, of which
            the last that names a key decides; ``"keep"`` leaves a tensor as it is. Integers and truth values are never
            cast. A dtype for all tensors also reads quantised weights as numbers, where the configuration says how they
            are stored; see `docs/quantised.md`.
        allow_overflow: Let a value beyond the range of the dtype that it is cast to become infinite (of a float of 8
            bits, what torch makes of it), instead of an error of the run.
        layout: ``"auto"`` to find the reading that fits, ``"mapped"`` or ``"as is"`` to declare it.
        base_prefix: See `Mapping.base_prefix`, which it overrides.
        config: The model's configuration (a mapping, or an object with attributes), for operations that read it. To
            `weighbridge.plan` also the path of a `config.json`, or of a directory that has one.
        companions: Whether a rule that names a quantised weight moves all that belongs to it, where the configuration
            says how it is stored. Without, each tensor goes by its own name, and those of a weight may not part. With
            ``"refine"``, blocks that a rule would cut are made finer: every entry of their scales is repeated, in the
            whole checkpoint, and the configuration says so; see `docs/quantised.md`.
        config_names: Whether names of modules in the configuration beside the weights follow what becomes of these.

    Raises:
        PlanError: `usage` for what says nothing of companions.
    """

    partial: bool = False
    drop: Rules = ()
    carry: Rules = ()
    initialise: Rules = ()
    dtype: Any = None
    allow_overflow: bool = False
    layout: str = "auto"
    base_prefix: str = ""
    config: Any = None
    companions: bool | str = True
    config_names: bool = True

    def __post_init__(self) -> None:
        if self.companions not in (True, False, REFINE):
            expected = f'True, False, "{REFINE}"'
            raise PlanError("usage", "unknown wish for companions", expected=expected, got=repr(self.companions)[:80])
        object.__setattr__(self, "dtype", read_policy(self.dtype))


def read_options(given: MappingOf[str, Any]) -> Options:
    """Take options by their names.

    Args:
        given: Values by name.

    Raises:
        WeighbridgeError: `usage` for a name that is none.
        CheckpointError: `dtype-unknown`.
        PatternError: `pattern-syntax`.

    Examples:
        >>> read_options({"initialize": "head"})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        weighbridge.WeighbridgeError: usage: there is no such option @ initialize
          expected  partial, drop, carry, initialise, dtype, ...
          got       nearest: initialise
    """
    return read_named(Options, given)
