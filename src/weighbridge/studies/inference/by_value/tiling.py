"""Find which tensors a larger one was joined from, by sums of hashes: a part's sum is that of the slices it fills."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from weighbridge.studies.inference.by_value.fingerprints import Sums
from weighbridge.studies.inference.by_value.movement_search import divisors

if TYPE_CHECKING:
    import torch

Parts = Mapping[tuple[int, int], list[str]]
"""Keys of tensors that may be parts, by number of elements and total."""


class Tile(NamedTuple):
    """One part of a larger tensor: its key, and how many slices it fills."""

    key: str
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
        return tuple(tile.key for lane in zip(*self.rows, strict=True) for tile in lane)


def find_tiling(whole: Sums, parts: Parts) -> Tiling | None:
    """Find a division of a tensor into two or more others, each taken once.

    Args:
        whole: Sums of the larger tensor.
        parts: Tensors that may be parts; where several have one total, none of them is taken.

    Returns:
        The division; None where there is none.
    """
    sizes = sorted({numel for numel, _ in parts}, reverse=True)
    numel = prod(whole.shape)
    if not numel:
        return None
    for axis, groups, sums in _views(whole):
        tiles = _tile(sums, numel // len(sums), sizes, parts)
        if tiles is not None:
            return Tiling(axis, groups, stacked=False, rows=(tiles,))
    return _stacked_tiling(whole, sizes, parts)


def _views(whole: Sums) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Yield each axis in one piece, and then each in any number of equal groups whose pieces are taken together."""
    for axis, sums in whole.axes.items():
        yield axis, 1, sums
    for axis, sums in whole.axes.items():
        for groups in divisors(len(sums))[1:-1]:
            yield axis, groups, sums.reshape(groups, -1).sum(0)


def _tile(sums: torch.Tensor, unit: int, sizes: list[int], parts: Parts) -> tuple[Tile, ...] | None:
    """Fill a row of slices from its start, one part after the other."""
    import torch

    bounds = torch.cat([sums.new_zeros(1), sums.cumsum(0)])
    tiles: list[Tile] = []
    taken: set[str] = set()
    at = 0
    while at < len(sums):
        tile = _next_tile(bounds, at, unit, sizes, parts)
        if tile is None or tile.key in taken:
            return None
        tiles.append(tile)
        taken.add(tile.key)
        at += tile.length
    return tuple(tiles) if len(tiles) > 1 else None


def _next_tile(bounds: torch.Tensor, at: int, unit: int, sizes: list[int], parts: Parts) -> Tile | None:
    for size in sizes:
        length, rest = divmod(size, unit)
        if rest or not length or at + length >= len(bounds):
            continue
        keys = parts.get((size, int(bounds[at + length] - bounds[at])), ())
        if len(keys) == 1:
            return Tile(keys[0], length)
    return None


def _stacked_tiling(whole: Sums, sizes: list[int], parts: Parts) -> Tiling | None:
    """Find parts of each slice along axis 0, alike in all of them."""
    for axis, grid in whole.grids.items():
        unit = prod(whole.shape) // grid.numel()
        for groups in divisors(grid.shape[1])[:-1]:
            sums = grid.reshape(len(grid), groups, -1).sum(1)
            rows = _tile_rows(sums, unit * groups, sizes, parts)
            if rows is not None:
                return Tiling(axis, groups, stacked=True, rows=rows)
    return None


def _tile_rows(sums: torch.Tensor, unit: int, sizes: list[int], parts: Parts) -> tuple[tuple[Tile, ...], ...] | None:
    rows: list[tuple[Tile, ...]] = []
    for row in sums:
        tiles = _tile(row, unit, sizes, parts)
        if tiles is None or (rows and [tile.length for tile in tiles] != [tile.length for tile in rows[0]]):
            return None
        rows.append(tiles)
    keys = {tile.key for row in rows for tile in row}
    return tuple(rows) if rows and len(keys) == len(rows) * len(rows[0]) else None
