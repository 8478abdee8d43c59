"""Find out how two tensors of one name are related: equal, cast, transposed, permuted, or different by how much.

Everything is read in windows. The sum of all elements' bits, taken along, tells whether one tensor can be the other one
in another order; only then is a transposition, and after that a permutation, looked for. A transposition is compared
byte for byte. A permutation is told by hashes of 64 bits, one for each row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from math import isfinite, prod
from typing import TYPE_CHECKING, Any, Final

from weighbridge.algebra.copies import strides
from weighbridge.base.forms.elements import spell_element
from weighbridge.base.keys import natural_key
from weighbridge.base.specs import Shape, coordinates
from weighbridge.studies.axis_swaps import find_head_swaps, find_part_swaps
from weighbridge.studies.block_orders import find_block_order
from weighbridge.studies.common_rows import common_element, one_longer_axis
from weighbridge.studies.contents import WINDOW_NUMEL, Contents, Side
from weighbridge.studies.differences import Compared, Diff, Numbers, Relation

if TYPE_CHECKING:
    import torch

MAX_AXES: Final = 5
"""Tensors of more axes are not searched for transpositions."""

_MASK: Final = 2**64 - 1
_ROUNDS: Final = (-0x61C8864680B583EB, -0x3D4D51CB4A3B2A05)
"""Odd multipliers that spread a number's bits, as signed 64-bit numbers: the golden ratio's, and one of its mixers'."""


def compare_sides(first: Side, second: Side) -> Diff:
    """Compare two sides, tensor by tensor.

    Args:
        first: What is compared; a plan's side is asked in the order of its steps.
        second: What it is compared with.

    Raises:
        CheckpointError: The codes of reading.
    """
    related = {
        key: Compared(key, spec, second.header[key], relate(first.contents(key), second.contents(key)))
        for key, spec in first.header.items()
        if key in second.header
    }
    lone = [
        tuple((key, header[key]) for key in sorted(header.keys() - related.keys(), key=natural_key))
        for header in (first.header, second.header)
    ]
    tensors = tuple(related[key] for key in sorted(related, key=natural_key))
    return Diff(first.where, second.where, tensors, *lone)


def relate(first: Contents, second: Contents) -> Relation:
    """Compare two tensors.

    Args:
        first: One side.
        second: The other side.

    Returns:
        How they are related. Values are compared as bytes where the dtypes agree: two NaNs of the same bits are equal,
        0.0 and -0.0 are not.

    Raises:
        CheckpointError: The codes of reading.
    """
    if first.spec.dtype != second.spec.dtype:
        return _relate_dtypes(first, second)
    if first.shape != second.shape:
        return _relate_shapes(first, second)
    tally = _tally(first, second)
    if tally.differing == 0:
        return Relation("equal")
    if tally.is_reordered and not first.is_packed:
        found = _find_order(first, second)
        if found is not None:
            return found
    return Relation("different", "", tally.numbers(first.shape))


# Differences


@dataclass(slots=True)
class _Tally:
    """What is counted while two tensors are read side by side."""

    differing: int = 0
    first: int = -1
    largest: float = 0.0
    place: int = -1
    values: tuple[Any, Any] = (None, None)
    scale: float = 0.0
    nan_first: int = 0
    nan_second: int = 0
    bits: int = 0
    is_numeric: bool = True

    @property
    def is_reordered(self) -> bool:
        """Whether both sides could hold the same elements in another order."""
        return self.bits == 0

    def add(self, start: int, one: torch.Tensor, other: torch.Tensor, unequal: torch.Tensor) -> None:
        """Count a window in which something differs."""
        if self.first < 0:
            self.first = start + int(unequal.nonzero()[0])
            self.place = self.first
            self.values = one[self.first - start].item(), other[self.first - start].item()
        self.differing += int(unequal.sum())
        if not self.is_numeric:
            return
        gaps = _gaps(one, other)
        number = int(gaps.argmax())
        if float(gaps[number]) > self.largest:
            self.largest, self.place = float(gaps[number]), start + number
            self.values = one[number].item(), other[number].item()
        self.measure(one, other)

    def measure(self, one: torch.Tensor, other: torch.Tensor) -> None:
        """Count NaNs, and keep the greatest value of the first side."""
        self.nan_first += _nan_count(one)
        self.nan_second += _nan_count(other)
        self.scale = max(self.scale, _greatest(one))

    def numbers(self, shape: Shape) -> Numbers | None:
        """Return what was counted; None where torch cannot tell the elements apart."""
        if not self.is_numeric:
            return None
        relative = self.largest / self.scale if self.scale else None
        return Numbers(
            self.differing,
            self.largest,
            relative if relative is not None and isfinite(relative) else None,
            coordinates(self.place, shape),
            self.values,
            (self.nan_first, self.nan_second),
        )


def _tally(first: Contents, second: Contents) -> _Tally:
    """Read two tensors of one dtype and shape side by side."""
    tally = _Tally(is_numeric=not first.is_packed)
    alike: list[int] = []
    for start, one, other in _pairs(first, second):
        if _is_alike(one, other):
            alike.append(start)
            continue
        bits = _bits(one), _bits(other)
        unequal = bits[0] != bits[1]
        tally.bits = (tally.bits + int(bits[0].sum()) - int(bits[1].sum())) & _MASK
        tally.add(start, one, other, unequal)
    if tally.differing and tally.is_numeric:
        for start in alike:
            window = first.read(start, min(start + WINDOW_NUMEL, first.numel))
            tally.measure(window, window)
    return tally


def _pairs(first: Contents, second: Contents) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    for (start, one), (_, other) in zip(first.windows(), second.windows(), strict=True):
        yield start, one, other


def _is_alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Tell whether two windows hold the same bytes."""
    import torch

    return torch.equal(one.view(torch.uint8), other.view(torch.uint8))


def _bits(values: torch.Tensor) -> torch.Tensor:
    """View elements as whole numbers of 64 bits."""
    import torch

    sizes = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return values.view(sizes[values.element_size()]).to(torch.int64)


def _gaps(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return the absolute differences; 0 where both are equal, NaN or not, or one side alone is NaN."""
    import torch

    if one.is_complex() or other.is_complex():
        sides = one.to(torch.complex128), other.to(torch.complex128)
    elif one.is_floating_point() or other.is_floating_point():
        sides = one.to(torch.float64), other.to(torch.float64)
    else:
        return _whole_gaps(one, other)
    gaps = (sides[0] - sides[1]).abs()
    gaps[sides[0] == sides[1]] = 0
    return torch.nan_to_num(gaps, nan=0.0, posinf=float("inf"))


def _whole_gaps(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Subtract whole numbers of up to 64 bits, the smaller from the greater: exact until it becomes a float."""
    import torch

    if torch.uint64 in (one.dtype, other.dtype) and one.dtype != other.dtype:
        return (one.to(torch.float64) - other.to(torch.float64)).abs()
    sides = [_ordered(side) for side in (one, other)]
    gaps = torch.maximum(*sides) - torch.minimum(*sides)
    return gaps.to(torch.float64) + (gaps < 0) * 2.0**64


def _ordered(values: torch.Tensor) -> torch.Tensor:
    """Give whole numbers as signed ones in the same order."""
    import torch

    if values.dtype == torch.uint64:
        return values.view(torch.int64) ^ torch.iinfo(torch.int64).min
    return values.to(torch.int64)


def _nan_count(values: torch.Tensor) -> int:
    import torch

    if not (values.is_floating_point() or values.is_complex()):
        return 0
    return int(torch.isnan(_wide(values)).sum())


def _greatest(values: torch.Tensor) -> float:
    """Return the greatest absolute value that is finite."""
    import torch

    sizes = _wide(values).abs()
    if sizes.is_floating_point():
        sizes = torch.where(torch.isfinite(sizes), sizes, 0.0)
    return float(sizes.max()) if sizes.numel() else 0.0


def _wide(values: torch.Tensor) -> torch.Tensor:
    import torch

    return values.to(torch.complex128 if values.is_complex() else torch.float64)


# Dtypes and shapes


def _relate_dtypes(first: Contents, second: Contents) -> Relation:
    """Compare two tensors of different dtypes: one may be the other one, cast."""
    if first.is_packed or second.is_packed or first.shape != second.shape:
        return Relation("different", "dtype and shape" if first.spec.shape != second.spec.shape else "dtype")
    tally = _Tally()
    there = back = True
    for _, one, other in _pairs(first, second):
        there = there and _is_same(one.to(other.dtype), other)
        back = back and _is_same(other.to(one.dtype), one)
        if not (there or back):
            break
    if there or back:
        names = first.spec.dtype, second.spec.dtype
        return Relation("cast", f"{names[0]} to {names[1]}" + ("" if there and back else _rounded(there)))
    for start, one, other in _pairs(first, second):
        unequal = _wide(one) != _wide(other)
        if unequal.any():
            tally.add(start, one, other, unequal)
        else:
            tally.measure(one, other)
    return Relation("different", "dtype", tally.numbers(first.shape))


def _rounded(there: bool) -> str:
    return ", rounded" if there else "; the first is the second one rounded"


def _is_same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Tell whether values are the same; NaNs, whatever their bits, are."""
    import torch

    if not (other.is_floating_point() or other.is_complex()):
        return torch.equal(one, other)
    sides = _wide(one), _wide(other)
    return bool(((sides[0] == sides[1]) | (torch.isnan(sides[0]) & torch.isnan(sides[1]))).all())


def _relate_shapes(first: Contents, second: Contents) -> Relation:
    """Compare two tensors of different shapes: one may be the other one, reshaped, padded, or in other axes."""
    if first.is_packed:
        return Relation("different", "shape")
    if first.numel != second.numel:
        return _find_padding(first, second) or Relation("different", "shape")
    if _is_equal(first, second):
        return Relation("reshaped", f"{list(first.shape)} to {list(second.shape)}")
    if _bit_sum(first) != _bit_sum(second):
        return Relation("different", "shape")
    return _find_transposition(first, second) or _find_elements(first, second) or Relation("different", "shape")


def _find_padding(first: Contents, second: Contents) -> Relation | None:
    """Find out whether the longer one is the shorter one, and rows behind it that all hold one value."""
    axis = one_longer_axis(first.shape, second.shape)
    if axis is None:
        return None
    longer, shorter = sorted((first, second), key=lambda side: side.numel, reverse=True)
    size, whole = shorter.shape[axis], longer.shape[axis]
    element = common_element(longer.sliced(axis, size, whole))
    if element is None or not _is_equal(shorter, longer.sliced(axis, 0, size)):
        return None
    sizes = f"axis {axis} from {first.shape[axis]} to {second.shape[axis]}"
    return Relation("padded", f"{sizes}, by {spell_element(element, longer.spec.dtype)}")


def _is_equal(first: Contents, second: Contents) -> bool:
    return all(_is_alike(one, other) for _, one, other in _pairs(first, second))


def _bit_sum(contents: Contents) -> int:
    return sum(int(_bits(window).sum()) for _, window in contents.windows()) & _MASK


# Order


def _find_order(first: Contents, second: Contents) -> Relation | None:
    """Find the order in which one tensor of the same shape holds the other one's elements."""
    return _find_transposition(first, second) or _find_rows(first, second) or _find_elements(first, second)


def _find_transposition(first: Contents, second: Contents) -> Relation | None:
    shape = first.shape
    if len(shape) > MAX_AXES:
        return None
    for axes in permutations(range(len(shape))):
        moved = [axis for axis in axes if shape[axis] > 1]
        fits = tuple(shape[axis] for axis in axes) == second.shape
        if fits and moved != sorted(moved) and _is_equal(first.permuted(axes), second):
            return Relation("transposed", f"axes {list(axes)}")
    return None


def _find_rows(first: Contents, second: Contents) -> Relation | None:
    """Find the axis along which whole rows, columns or slices stand in another order."""
    import torch

    shape = first.shape
    for axis, size in enumerate(shape):
        if size < 2:
            continue
        sides = [_row_hashes(contents, axis) for contents in (first, second)]
        word = "elements" if prod(shape) == size else ("rows", "columns")[axis] if len(shape) == 2 else "slices"
        blocks = find_block_order(sides[0], sides[1], axis)
        if blocks is not None:
            return Relation("permuted", f"{word}, along axis {axis}, in blocks: {blocks}")
        for find, where in ((find_head_swaps, "in a part of each head"), (find_part_swaps, "in some parts")):
            chain = find(sides[0], sides[1], axis, len(shape))
            if chain is not None:
                return Relation("permuted", f"{word}, along axis {axis}, {where}: {', '.join(map(str, chain))}")
        if prod(shape) != size and torch.equal(sides[0].sort().values, sides[1].sort().values):
            return Relation("permuted", f"{word}, along axis {axis}")  # rows of one element are elements
    return None


def _row_hashes(contents: Contents, axis: int) -> torch.Tensor:
    """Hash what stands at each index of an axis, each element with its place there."""
    import torch

    size, inner = contents.shape[axis], strides(contents.shape)[axis]
    sums = torch.zeros(size, dtype=torch.int64)
    for start, window in contents.windows():
        flat = torch.arange(start, start + window.numel())
        place = flat // (inner * size) * inner + flat % inner
        sums.index_add_(0, flat // inner % size, _mixed(_bits(window) + _mixed(place)))
    return sums


def _find_elements(first: Contents, second: Contents) -> Relation | None:
    sums = [sum(int(_mixed(_bits(part)).sum()) for _, part in side.windows()) & _MASK for side in (first, second)]
    return Relation("permuted", "elements, in no order of an axis") if sums[0] == sums[1] else None


def _mixed(numbers: torch.Tensor) -> torch.Tensor:
    """Spread every bit of a 64-bit number over all bits of another one; what does not fit in is left out."""
    for factor in _ROUNDS:
        numbers = (numbers ^ (numbers >> 29)) * factor
    return numbers ^ (numbers >> 32)
