"""How a number stands in a key: moved by an offset, divided in two, with leading zeros."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from weighbridge.base.errors import PatternError
from weighbridge.base.keys import INDEX, INDEX_DIGITS, RESERVED, index_fault, is_index, shift_index


class Reading(NamedTuple):
    """What counts as an index, beside a canonical integer.

    Args:
        templates: Whether reserved characters stand for integers.
        padded: Whether an index with a form of its own may be any digits.
    """

    templates: bool = False
    padded: bool = False


LITERAL: Final = Reading()
TEMPLATE: Final = Reading(templates=True)
PADDED: Final = Reading(templates=True, padded=True)


@dataclass(frozen=True, slots=True)
class Form:
    """What is done to an index before it is written.

    Args:
        offset: What is added to it.
        divisor: What it is divided by; 0 if it is not.
        is_rest: Whether what is left of the division is written, and not the quotient.
        digits: The least number of digits, with zeros in front; 0 for as many as it takes.
        named: An offset that a configuration knows: its sign and its name. It is a number before any key is looked at.

    Examples:
        >>> Form(offset=1).write("7"), Form(digits=2).write("7"), Form(divisor=2).write("7"), Form(offset=-1).write("0")
        ('8', '07', '3', None)
        >>> Form(digits=2).read("07"), Form(digits=2).read("7"), Form(digits=2).read("007")
        ('7', None, None)
    """

    offset: int = 0
    divisor: int = 0
    is_rest: bool = False
    digits: int = 0
    named: str = ""

    def bound(self, find: Callable[[str], int]) -> Form:
        """Return the form with a number in the place of the name of an offset.

        Args:
            find: Returns the number of a name.
        """
        return replace(self, named="", offset=int(f"{self.named[0]}{find(self.named[1:])}")) if self.named else self

    def _check_known(self) -> None:
        if self.named:
            raise PatternError(
                "pattern-reference",
                f"the offset `{self.named[1:]}` is a number of the configuration, and there is none here",
                hint="pass config= with the model's configuration",
            )

    @property
    def is_offset(self) -> bool:
        """Whether nothing but an offset is there, or nothing at all: templates of keys can carry that."""
        return not self.divisor and not self.digits

    @property
    def compares(self) -> bool:
        """Whether it depends on an index which of its forms are read, so that one does not stand for all."""
        return self.offset > 0 or bool(self.named) or not self.is_offset

    @property
    def other_half(self) -> Form:
        """The form that has what this one leaves out of a division."""
        return replace(self, is_rest=not self.is_rest)

    def is_half_of(self, other: Form) -> bool:
        """Tell whether this form and another one have the quotient and the rest of one division."""
        return (
            bool(self.divisor)
            and (self.offset, self.divisor) == (other.offset, other.divisor)
            and (self.is_rest != other.is_rest)
        )

    def __str__(self) -> str:
        divided = f"{'%' if self.is_rest else '//'}{self.divisor}" if self.divisor else ""
        return f"{self.offset:+d}" * bool(self.offset) + self.named + divided

    def write(self, index: str) -> str | None:
        """Write an index; None where it would be negative, or is no canonical number.

        Raises:
            PatternError: `pattern-reference` for an offset that is still a name.
        """
        self._check_known()
        if self.is_offset:
            return shift_index(index, self.offset)
        moved = shift_index(index, self.offset) if is_index(index) else None
        if moved is None:
            return None
        number = int(moved)
        if self.divisor:
            number = number % self.divisor if self.is_rest else number // self.divisor
        return str(number).zfill(self.digits)

    def read(self, text: str) -> str | None:
        """Return the index that was written so, of a form that is no half; None where there is none."""
        if self.is_offset:
            return shift_index(text, -self.offset)
        if not re.fullmatch(self._number(), text):
            return None
        return shift_index(str(int(text)), -self.offset)

    def join(self, text: str, other: str) -> str:
        """Return the index that was written in two halves, of which this form has the first."""
        quotient, rest = (int(other), int(text)) if self.is_rest else (int(text), int(other))
        return str(quotient * self.divisor + rest)

    def write_fault(self, index: str) -> str:
        """Say why an index cannot be written; empty if it can."""
        return index_fault(index, self.offset)

    def read_fault(self, text: str) -> str:
        """Say why no index was written as these digits; empty if one was."""
        if self.divisor and self.is_rest and int(text) >= self.divisor:
            return f"is not less than {self.divisor}"
        if not self.digits:
            return index_fault(text, -self.offset)
        if len(text) < self.digits:
            return f"has fewer than {self.digits} digits"
        if len(text) > self.digits and text.startswith("0"):
            return "has more leading zeros than could be written back"
        return index_fault(text.lstrip("0") or "0", -self.offset)

    def regex(self, reading: Reading) -> str:
        """Match a whole run of digits that an index may have been written as.

        Raises:
            PatternError: `pattern-reference` for an offset that is still a name.
        """
        self._check_known()
        small = "|".join(map(str, range(self.offset))) if self.offset > 0 else ""
        too_small = f"(?!0*(?:{small})(?![0-9]))" if small else ""
        number = "[0-9]+" if reading.padded else self._number()
        placeholder = f"|[{RESERVED}]+" if reading.templates and self.is_offset else ""
        return rf"(?:(?<![0-9]){too_small}{number}(?![0-9]){placeholder})"

    def _number(self) -> str:
        if self.divisor and self.is_rest:
            rests = {str(rest).zfill(self.digits) for rest in range(self.divisor)}
            return f"(?:{'|'.join(sorted(rests, key=len, reverse=True))})"
        if not self.digits:
            return INDEX
        return f"(?:[0-9]{{{self.digits}}}|[1-9][0-9]{{{self.digits},{INDEX_DIGITS - 1}}})"


PLAIN: Final = Form()
"""The index as it is."""
