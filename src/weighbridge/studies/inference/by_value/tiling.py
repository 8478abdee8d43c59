"""Find which tensors a larger one was joined from, by sums of hashes: a part's sum is that of the slices it fills.

One part may be no tensor's, if all slices of it look alike: it may hold one value throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from weighbridge.studies.axis_swaps import divisors
from weighbridge.studies.inference.by_value.fingerprints import Sums

if TYPE_CHECKING:
    import torch

Parts = Mapping[tuple[int, int], list[str]]
"""Keys of tensors that may be parts, by number of elements and total."""

Pick = Callable[[Sequence[str]], str | None]
"""Chooses one of several tensors that have one total; None for none of them."""


def only_one(keys: Sequence[str]) -> str | None:
    """Choose a tensor if no other one has its total."""
    return keys[0] if len(keys) == 1 else None


class Tile(NamedTuple):
    """One part of a larger tensor: its key, None for a part that is no tensor's, and how many slices it fills."""

    key: str | None
    length: int


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a tensor is divided among others.

    Args:
        axis: The axis along which the parts lie.
        groups: Number of equal groups that the axis consists of; each part has a piece in every group.
        stacked: Whether axis 0 holds one tensor for each index, each divided in this way.
        rows: The parts in order; one row, or one for each index where `stacked`.
    """

    axis: int
    groups: int
    stacked: bool
    rows: tuple[tuple[Tile, ...], ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of all parts; of stacked ones, first those of the first lane."""
        return tuple(tile.key for lane in zip(*self.rows, strict=True) for tile in lane if tile.key is not None)

    @property
    def gap(self) -> int | None:
        """Number of the part that is no tensor's; None where all are."""
        return next((number for number, tile in enumerate(self.rows[0]) if tile.key is None), None)


def find_tiling(whole: Sums, parts: Parts, pick: Pick = only_one, *, has_gap: bool = False) -> Tiling | None:
    """Find a division of a tensor into two or more others, each taken once.

    Args:
        whole: Sums of the larger tensor.
        parts: Tensors that may be parts.
        pick: Chooses among those that have one total, of which the values cannot tell which one it is.
        has_gap: Whether one part is no tensor's; then one other is enough.

    Returns:
        The division; None where there is none.
    """
    if has_gap:
        return _gapped_tiling(whole, parts, pick)
    sizes = sorted({numel for numel, _ in parts}, reverse=True)
    numel = prod(whole.shape)
    if not numel:
        return None
    for axis, groups, sums in _views(whole):
        tiles = _tile(sums, numel // len(sums), sizes, _Untaken(parts, pick))
        if tiles is not None:
            return Tiling(axis, groups, stacked=False, rows=(tiles,))
    return _stacked_tiling(whole, sizes, parts, pick)


def _gapped_tiling(whole: Sums, parts: Parts, pick: Pick) -> Tiling | None:
    """Fill a row of slices from its start and then from its end; what is left between must look alike throughout."""
    sizes = sorted({numel for numel, _ in parts}, reverse=True)
    for axis, sums in whole.axes.items():
        if not len(sums):
            continue
        unit, untaken = prod(whole.shape) // len(sums), _Untaken(parts, pick)
        before = _fill(sums, unit, sizes, untaken)
        rest = sums[sum(tile.length for tile in before) :].flip(0)
        after = _fill(rest, unit, sizes, untaken)[::-1]
        between = rest[sum(tile.length for tile in after) :]
        if (before or after) and len(between) * unit > 1 and bool((between == between[0]).all()):
            return Tiling(axis, 1, stacked=False, rows=((*before, Tile(None, len(between)), *after),))
    return None


class _Untaken:
    """Parts that one division has not taken yet."""

    def __init__(self, parts: Parts, pick: Pick) -> None:
        self.parts = parts
        self.pick = pick
        self.taken: set[str] = set()

    def take(self, numel: int, total: int) -> str | None:
        """Take a part of this size and total; None if there is none, or if it is not told which one."""
        keys = self.parts.get((numel, total), ())
        found = self.pick([key for key in keys if key not in self.taken]) if keys else None
        self.taken |= {found} if found is not None else set()
        return found


def _views(whole: Sums) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Yield each axis in one piece, and then each in any number of equal groups whose pieces are taken together."""
    for axis, sums in whole.axes.items():
        yield axis, 1, sums
    for axis, sums in whole.axes.items():
        for groups in divisors(len(sums))[1:-1]:
            yield axis, groups, sums.reshape(groups, -1).sum(0)


def _tile(sums: torch.Tensor, unit: int, sizes: list[int], parts: _Untaken) -> tuple[Tile, ...] | None:
    """Fill a row of slices from its start, one part after the other."""
    tiles = _fill(sums, unit, sizes, parts)
    return tuple(tiles) if len(tiles) > 1 and sum(tile.length for tile in tiles) == len(sums) else None


def _fill(sums: torch.Tensor, unit: int, sizes: list[int], parts: _Untaken) -> list[Tile]:
    """Fill slices from their start as far as there are parts."""
    import torch

    bounds = torch.cat([sums.new_zeros(1), sums.cumsum(0)])
    tiles: list[Tile] = []
    at = 0
    while at < len(sums):
        tile = _next_tile(bounds, at, unit, sizes, parts)
        if tile is None:
            break
        tiles.append(tile)
        at += tile.length
    return tiles


def _next_tile(bounds: torch.Tensor, at: int, unit: int, sizes: list[int], parts: _Untaken) -> Tile | None:
    for size in sizes:
        length, rest = divmod(size, unit)
        if rest or not length or at + length >= len(bounds):
            continue
        key = parts.take(size, int(bounds[at + length] - bounds[at]))
        if key is not None:
            return Tile(key, length)
    return None


def _stacked_tiling(whole: Sums, sizes: list[int], parts: Parts, pick: Pick) -> Tiling | None:
    """Find parts of each slice along axis 0, alike in all of them."""
    for axis, grid in whole.grids.items():
        unit = prod(whole.shape) // grid.numel()
        for groups in divisors(grid.shape[1])[:-1]:
            sums = grid.reshape(len(grid), groups, -1).sum(1)
            rows = _tile_rows(sums, unit * groups, sizes, _Untaken(parts, pick))
            if rows is not None:
                return Tiling(axis, groups, stacked=True, rows=rows)
    return None


def _tile_rows(sums: torch.Tensor, unit: int, sizes: list[int], parts: _Untaken) -> tuple[tuple[Tile, ...], ...] | None:
    rows: list[tuple[Tile, ...]] = []
    for row in sums:
        tiles = _tile(row, unit, sizes, parts)
        if tiles is None or (rows and [tile.length for tile in tiles] != [tile.length for tile in rows[0]]):
            return None
        rows.append(tiles)
    return tuple(rows) if rows else None
