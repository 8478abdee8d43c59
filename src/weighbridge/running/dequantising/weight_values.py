"""A part of a weight, by its format's formula, from the same part of each tensor of its group.

Each member is read for the rows and columns that are asked for, its numbers are taken out of their elements, and its
entries are spread over the elements that they are for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, lcm, prod
from typing import TYPE_CHECKING, Final, NamedTuple

import torch

from weighbridge.base.errors import CheckpointError
from weighbridge.base.specs import DTYPES, Shape, TensorSpec
from weighbridge.mappings.schemes.scheme import Along, Axis, Coding, Formula, Member
from weighbridge.running.dequantising.blocks import Range, read_block
from weighbridge.running.dequantising.codings import powers_of_two, unpack
from weighbridge.storage.formats.torch_tensors import dtype_of

if TYPE_CHECKING:
    from weighbridge.storage.protocol import Checkpoint


@dataclass(frozen=True, slots=True)
class Group:
    """The tensors of one weight.

    Args:
        members: Each member that there is, with its key, the codes first.
        formula: How the weight is computed.
        stack: Sizes of the axes before its rows.
        rows: Number of its rows.
        columns: Number of its columns.
    """

    members: tuple[tuple[Member, str], ...]
    formula: Formula
    stack: Shape
    rows: int
    columns: int

    def of_role(self, role: str) -> Iterator[tuple[Member, str]]:
        """Yield the members of one role."""
        return ((member, key) for member, key in self.members if member.role == role)


class Wanted(NamedTuple):
    """A part of a weight: which one of a stack, and its rows and columns."""

    number: int
    rows: Range
    columns: Range

    def along(self, axis: Axis) -> Range:
        """Return the range along one axis."""
        return self.rows if axis is Axis.ROWS else self.columns


class Spread(NamedTuple):
    """Entries, by rows and columns; each is for `each` rows, and the first one for `first` of them less."""

    entries: torch.Tensor
    each: int | None
    first: int


def compute(group: Group, checkpoint: Checkpoint, wanted: Wanted) -> torch.Tensor:
    """Return a part of a weight.

    Args:
        group: Its tensors.
        checkpoint: What holds them.
        wanted: The part.

    Returns:
        Its values, by rows and columns, in the formula's dtype.

    Raises:
        CheckpointError: `scheme-conflict` for columns of groups that there are not, and the codes of reading.
    """
    member, key = group.members[0]
    dtype = dtype_of(computed_dtype(group, checkpoint.header.specs))
    reading = Reading(group, checkpoint, wanted)
    codes = reading.spread(member, key, None).entries
    for member, key in group.of_role("zero"):
        codes = codes if codes.dtype.is_floating_point else codes.int()
        zeros = reading.spread(member, key, None)
        if zeros.entries.dtype.is_floating_point or codes.dtype.is_floating_point:
            codes, zeros = codes.to(dtype), zeros._replace(entries=zeros.entries.to(dtype))
        codes = _over_rows(torch.sub, codes, zeros)
    values = codes.to(dtype) if codes.dtype is not dtype else codes
    values = _over_rows(torch.mul, values, _scales(reading, dtype))
    if group.formula.over != 1:
        values /= group.formula.over
    for member, key in group.of_role("addend"):
        values = _over_rows(torch.add, values, reading.spread(member, key, dtype))
    return values


def computed_dtype(group: Group, specs: Mapping[str, TensorSpec]) -> str:
    """Return the code of the dtype that a weight is computed in."""
    scales = [specs[key].dtype for _, key in group.of_role("scale")]
    found = group.formula.dtype or scales[0]
    return found if DTYPES[found].kind == "float" and DTYPES[found].bits > 8 else "BF16"


def _scales(reading: Reading, dtype: torch.dtype) -> Spread:
    """Return the product of all scales, over the divisors; what is one number for all is taken first."""
    found: Spread | None = None
    for member, key in reading.group.of_role("scale"):
        scale = reading.spread(member, key, dtype)
        found = scale if found is None else _product(found, scale)
    assert found is not None, "every formula has a scale"
    for member, key in reading.group.of_role("divisor"):
        found = found._replace(entries=found.entries / reading.spread(member, key, dtype).entries)
    return found


def _product(one: Spread, other: Spread) -> Spread:
    wide, narrow = (one, other) if one.each is not None else (other, one)
    return wide._replace(entries=wide.entries * narrow.entries)


def _over_rows(function: object, values: torch.Tensor, spread: Spread) -> torch.Tensor:
    """Apply a function of two tensors, in place, where each row of entries is for several of the values."""
    entries, each, first = spread
    if each is None or each == 1:
        return function(values, entries, out=values)  # type: ignore[operator, no-any-return]
    start = 0
    for number in range(len(entries)):
        stop = min(len(values), (number + 1) * each - first)
        part = values[start:stop]
        function(part, entries[number : number + 1], out=part)  # type: ignore[operator]
        start = stop
    return values


class Reading:
    """The members of a group, for one part of the weight."""

    def __init__(self, group: Group, checkpoint: Checkpoint, wanted: Wanted) -> None:
        self.group = group
        self.checkpoint = checkpoint
        self.wanted = wanted
        self._groups = next((key for member, key in group.members if member.kind == "numbered"), None)

    def spread(self, member: Member, key: str, dtype: torch.dtype | None) -> Spread:
        """Return the entries of a member, spread over the columns that they are for.

        Args:
            member: The member.
            key: Its tensor.
            dtype: What to turn the entries into; None to leave them.
        """
        shape = self.checkpoint.header[key].shape[len(self.group.stack) :]
        along, shape = _merged(member, shape)
        if not any(each.elements for each in along if each.axis is not Axis.INSIDE):
            number = self._read(key, (1,), [Range(0, 1)]).view(1, 1)
            return Spread(_numbers(number, dtype), None, 0)
        spans = [self._span(each, size, member.coding) for each, size in zip(along, shape, strict=True)]
        found = self._read(key, shape, [span.stored for span in spans])
        for axis, span in enumerate(spans):
            if span.coding is not None:
                found = unpack(found, span.coding, axis).narrow(axis, span.skipped, span.wanted)
        if [each.axis for each in along] == [Axis.ROWS]:
            along, spans, found = (*along, Along(Axis.COLUMNS, None)), [*spans, _ALL], found[:, None]
        elif along[0].axis is Axis.COLUMNS:
            along, spans, found = (*along[1:], along[0]), [*spans[1:], spans[0]], found.movedim(0, -1)
        if len(spans) == 1:
            along, spans, found = (Along(Axis.ROWS, None), *along), [_ALL, *spans], found[None]
        return self._over_columns(_numbers(found, dtype), along, spans)

    def _group_of_columns(self, key: str, count: int) -> torch.Tensor:
        """Return the number of each wanted column's group, of so many that there are."""
        numbers = self._read(key, (self.group.columns,), [self.wanted.columns]).long()
        strange = numbers[(numbers < 0) | (numbers >= count)]
        if len(strange):
            what, got = "a column is of a group that there is not", str(int(strange[0]))
            raise CheckpointError("scheme-conflict", what, where=key, expected=f"numbers below {count}", got=got)
        return numbers

    def _read(self, key: str, shape: Shape, ranges: list[Range]) -> torch.Tensor:
        number = self.wanted.number
        whole = (prod(self.group.stack), *shape) if self.group.stack else shape
        ranges = [Range(number, number + 1), *ranges] if self.group.stack else ranges
        found = read_block(self.checkpoint, key, whole, ranges)
        return found[0] if self.group.stack else found

    def _span(self, along: Along, size: int, coding: Coding | None) -> _Span:
        """Return what is to be read along one axis."""
        axis, elements = along
        if elements is None:
            return _ALL
        wanted = self.wanted.along(axis)
        if coding is not None and coding.along is axis:
            # From one bound that numbers and elements have in common to another.
            numbers = lcm(Fraction(elements).numerator, len(coding.order) or 1)
            start = wanted.start // numbers * numbers
            stop = -(-wanted.stop // numbers) * numbers
            stored = Range(int(start / elements), min(size, ceil(stop / elements)))
            return _Span(stored, coding, wanted.start - start, wanted.size, None, 0)
        each = int(elements)
        if axis is Axis.COLUMNS and self._groups is not None and each > 1:
            return _Span(Range(0, size), None, 0, wanted.size, each, 0)
        stored = Range(wanted.start // each, -(-wanted.stop // each))
        return _Span(stored, None, 0, wanted.size, each, wanted.start % each)

    def _over_columns(self, entries: torch.Tensor, along: tuple[Along, ...], spans: list[_Span]) -> Spread:
        rows, columns = spans
        if columns.each is not None and columns.each > 1:
            if self._groups is not None:
                entries = entries[:, self._group_of_columns(self._groups, entries.shape[1])]
            else:
                wide = entries[:, :, None].expand(-1, -1, columns.each).flatten(1)
                entries = wide[:, columns.first : columns.first + columns.wanted]
        is_one = along[0].elements is None
        return Spread(entries, None if is_one else rows.each or 1, rows.first)


class _Span(NamedTuple):
    """What is read along one axis, and what of it is wanted.

    Args:
        stored: The stored elements.
        coding: How numbers lie in them, where they are packed along this axis.
        skipped: How many of the numbers come before those that are wanted.
        wanted: How many rows or columns are wanted.
        each: How many of these an entry is for.
        first: How many of them, for the first entry, come before those that are wanted.
    """

    stored: Range
    coding: Coding | None
    skipped: int
    wanted: int
    each: int | None
    first: int


_ALL: Final = _Span(Range(0, 1), None, 0, 0, None, 0)


def _merged(member: Member, shape: Shape) -> tuple[tuple[Along, ...], Shape]:
    """Take an axis inside of elements together with the one before it, whose elements it holds."""
    along = member.along or ()
    if len(along) < 2 or along[-1].axis is not Axis.INSIDE or member.coding is None:
        return along, shape
    per = Fraction(along[-2].elements or 1) / (along[-1].elements or 1)
    return (*along[:-2], Along(along[-2].axis, per)), (*shape[:-2], shape[-2] * shape[-1])


def _numbers(stored: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    if dtype is None:
        return stored
    if stored.dtype is torch.uint8:
        return powers_of_two()[stored.int()].to(dtype)
    return stored.to(dtype)
