"""Do something to some of a converter's tensors, and leave the others as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from weighbridge.base.errors import LayoutError
from weighbridge.operations.casting import Cast
from weighbridge.operations.declaring.padding import Pad, Trim
from weighbridge.operations.movements import Moving
from weighbridge.operations.values import Arguments, Context, Lane, arity_error, brief, is_whole

Single = Moving | Cast | Pad | Trim
"""An operation on each single tensor."""


@dataclass(frozen=True, slots=True)
class On(Arguments):
    """Apply an operation to some of the tensors alone: of the sources, or of the parts that one was cut into.

    Args:
        parts: Their numbers, from 0, in the order of the patterns or of the cut. A pattern with an index counts as one.
        apply: An operation on each single tensor: none that joins or cuts, and no other `On`.

    Examples:
        >>> from weighbridge.operations.movements import PermuteForRope, Transpose
        >>> print(On([1], Transpose(0, 1)))
        On(parts=[1], apply=Transpose(dim1=1))
        >>> print(On([0, 1], PermuteForRope(num_heads=4)).inverse())
        On(parts=[0, 1], apply=PermuteForRope(inverse=True, num_heads=4))
    """

    parts: tuple[int, ...]
    apply: Single

    def __post_init__(self) -> None:
        given: Any = self.parts
        if not isinstance(given, Sequence) or not given or not all(is_whole(part) and part >= 0 for part in given):
            _refuse("parts are named by their numbers", "whole numbers from 0", given)
        if len(set(given)) != len(given):
            _refuse("a part is named twice", "each part once", given)
        if not isinstance(self.apply, Single):
            _refuse("this is not for single tensors", "an operation that neither joins nor cuts", self.apply)
        object.__setattr__(self, "parts", tuple(sorted(given)))

    def at(self, number: int) -> Single | None:
        """Return what is done to the tensors of one number; None for nothing."""
        return self.apply if number in self.parts else None

    def lower(self, lanes: tuple[Lane, ...], context: Context) -> tuple[Lane, ...]:
        """Apply the operation to each lane that is named."""
        if self.parts[-1] >= len(lanes):
            raise arity_error(f"{self.parts[-1] + 1} tensors or more, for part {self.parts[-1]}", lanes)
        are_targets = len(lanes) == len(context.targets)
        changed = list(lanes)
        for part in self.parts:
            alone = context.only(part) if are_targets else Context(config=context.config, declared=context.declared)
            (changed[part],) = self.apply.lower((lanes[part],), alone)
        return tuple(changed)

    def inverse(self) -> On:
        """Return the operation that undoes it on the same parts.

        Raises:
            LayoutError: `operation-one-way`.
        """
        return On(self.parts, self.apply.inverse())

    def __str__(self) -> str:
        return f"On(parts={list(self.parts)}, apply={self.apply})"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form of an operation: its name and its arguments."""
        return {"operation": "On", "parts": list(self.parts), "apply": self.apply.to_dict()}


def _refuse(what: str, expected: str, got: object) -> None:
    raise LayoutError("operation-argument", what, expected=expected, got=brief(got))
