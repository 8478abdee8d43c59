"""What a process holds of a tensor that torch spreads over several, told from what the tensor says in public.

A `DTensor` names its placements and its device mesh, and holds a local tensor. The placements say which intervals of
each axis these are; the local shape must be theirs, or nothing is taken for granted. No process is asked for anything.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import Any, Final, NamedTuple

import torch

from weighbridge.algebra.held_parts import Interval, Part
from weighbridge.base.errors import PlanError
from weighbridge.base.specs import Shape

_TENSORS: Final = "torch.distributed.tensor"


class Sharded(NamedTuple):
    """A tensor of a model of which this process holds a part.

    Args:
        whole: The `DTensor`, which is a parameter or a buffer of the model.
        local: What is held here, in the tensor's own memory; on the meta device for one that has no values yet.
        part: Which part of the whole that is.
    """

    whole: Any
    local: torch.Tensor
    part: Part

    def is_copied(self, processes: int) -> bool:
        """Tell whether others of some processes, which include all of the mesh, may hold the same part."""
        mesh = self.whole.device_mesh
        pairs = zip(self.whole.placements, mesh.shape, strict=True)
        return mesh.size() < processes or any(ways > 1 and not hasattr(placement, "dim") for placement, ways in pairs)

    def around(self, local: torch.Tensor) -> torch.Tensor:
        """Return a tensor that is spread as this one is, of which this process holds `local`."""
        return type(self.whole).from_local(  # type: ignore[no-any-return]
            local,
            self.whole.device_mesh,
            self.whole.placements,
            run_check=False,
            shape=self.whole.shape,
            stride=self.whole.stride(),
        )


def as_shards(modules: Iterable[torch.nn.Module]) -> bool:
    """Let modules that FSDP2 shards hold their shards, as their state dict does, and tell whether there are any.

    After a forward pass such a module may hold whole parameters, which are given up the next time that it is sharded.

    Raises:
        PlanError: `parts-unclear` for what FSDP1 has cut to flat pieces.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")
    found = False
    for module in modules if fsdp is not None else ():
        if isinstance(module, fsdp.FSDPModule):  # type: ignore[union-attr]
            module.reshard()
            found = True
        elif isinstance(module, fsdp.FullyShardedDataParallel):  # type: ignore[union-attr]
            _refuse_flat(module, fsdp.ShardingStrategy.NO_SHARD)  # type: ignore[union-attr]
    return found


def _refuse_flat(module: Any, whole: object) -> None:
    if module.sharding_strategy != whole:
        raise PlanError(
            "parts-unclear",
            "FullyShardedDataParallel (FSDP1) holds flat pieces, which are no parts of tensors",
            expected="a model that torch.distributed.fsdp.fully_shard (FSDP2) shards",
            got=str(module.sharding_strategy),
            hint="load the model before it is wrapped, or shard it by fully_shard",
        )


def is_sharded(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor is a `DTensor`; nothing is imported to find out."""
    module = sys.modules.get(_TENSORS)
    return module is not None and isinstance(tensor, module.DTensor)


def look_into(tensor: Any, where: str, *, by_fsdp: bool) -> Sharded | None:
    """Find out what this process holds of a `DTensor`; None for a tensor that it has by itself.

    Args:
        tensor: The tensor.
        where: Its key, for messages.
        by_fsdp: Whether it belongs to a module that FSDP2 sharded.

    Raises:
        PlanError: `parts-unclear` where the placements do not say it, and for a tensor that torch shards otherwise.
    """
    if not is_sharded(tensor):
        if any(kind.__name__ == "ShardedTensor" for kind in type(tensor).__mro__):
            shape, got = tuple(tensor.size()), f"{len(tensor.local_shards())} shards here, by {tensor.sharding_spec()}"
            raise _shards_otherwise("ShardedTensor", shape, where, got[:300])
        return None
    with torch.no_grad():
        local = tensor.detach().to_local()
    if type(local).__name__ == "LocalShardsWrapper":
        got = f"shards of {[list(shard.shape) for shard in local.local_shards()]} at {local.local_offsets()}"
        raise _shards_otherwise("DTensor of LocalShardsWrapper", tuple(tensor.shape), where, got[:300])
    return Sharded(tensor, local, _part_of(tensor, tuple(local.shape), where, by_fsdp=by_fsdp))


def _shards_otherwise(kind: str, shape: Shape, where: str, got: str) -> PlanError:
    return PlanError(
        "parts-unclear",
        f"a {kind} holds shards by themselves, which no placements explain",
        where=where,
        expected=f"a DTensor of {list(shape)}, or a tensor of this process alone",
        got=got,
        hint="shard the model by fully_shard or parallelize_module, or load it before it is sharded",
    )


def _part_of(tensor: Any, local: Shape, where: str, *, by_fsdp: bool) -> Part:
    shape, placements = tuple(tensor.shape), tuple(tensor.placements)
    strange = [placement for placement in placements if not _is_understood(placement)]
    if strange:
        is_sum = any(placement.is_partial() for placement in strange)
        what = "holds a summand of each element" if is_sum else "is of a kind whose parts are not known"
        raise _unclear(tensor, local, where, f"{strange[0]} {what}")
    coordinate = tensor.device_mesh.get_coordinate()
    if coordinate is None:
        if not shape or _numel(local):
            raise _unclear(tensor, local, where, "this process is not in the tensor's device mesh")
        return Part.empty(shape)
    split = Split(shape, tuple(tensor.device_mesh.shape), tuple(coordinate), placements)
    readings = {split.part(last) for last in _readings(split, by_fsdp=by_fsdp)}
    fitting = [part for part in readings if part.held == local or part.numel == _numel(local) == 0]
    if len(fitting) != 1:
        said = " or ".join(sorted({str(list(part.held)) for part in readings}))
        raise _unclear(tensor, local, where, f"the placements say {said}" + (", in two ways" if fitting else ""))
    return fitting[0]


def _numel(shape: Shape) -> int:
    return prod(shape)


def _is_understood(placement: Any) -> bool:
    """Tell whether a placement says which slices are held: all of an axis, a chunk of it, or a chunk of each chunk."""
    return type(placement).__name__ in ("Replicate", "Shard", "_StridedShard")


def _unclear(tensor: Any, local: Shape, where: str, why: str) -> PlanError:
    mesh = tuple(tensor.device_mesh.shape)
    return PlanError(
        "parts-unclear",
        "it cannot be told which part of this tensor the process holds",
        where=where,
        expected=f"a part of {list(tensor.shape)} that {tuple(tensor.placements)} on a mesh {mesh} explain",
        got=f"{list(local)} here; {why}",
        hint="load the model before it is sharded this way, or give what .full_tensor() returns",
    )


class Split(NamedTuple):
    """How a tensor is cut by the axes of a device mesh, one after the other."""

    shape: Shape
    mesh: Shape
    coordinate: Shape
    placements: tuple[Any, ...]

    def axis(self, number: int) -> int | None:
        """Return the axis of the tensor that an axis of the mesh cuts; None where it cuts none."""
        axis = getattr(self.placements[number], "dim", None)
        return None if axis is None else axis % len(self.shape)

    def strided(self) -> Iterator[int]:
        """Yield the axes of the mesh that cut chunks of chunks."""
        yield from (number for number, placement in enumerate(self.placements) if _chunks(placement) > 1)

    def ways_right_of(self, number: int) -> int:
        """Return into how many pieces the axes of the mesh behind one cut the same axis of the tensor."""
        behind = range(number + 1, len(self.mesh))
        return prod([self.mesh[other] for other in behind if self.axis(other) == self.axis(number)])

    def part(self, last: frozenset[int]) -> Part:
        """Return the part that this process holds.

        Args:
            last: Axes of the mesh that cut what the others have left, by plain chunks.
        """
        axes: list[list[Interval]] = [[(0, size)] for size in self.shape]
        for number in sorted(range(len(self.mesh)), key=lambda number: number in last):
            axis = self.axis(number)
            if axis is not None:
                groups = 1 if number in last else _chunks(self.placements[number])
                axes[axis] = _cut(axes[axis], groups, self.mesh[number], self.coordinate[number])
        return Part(self.shape, tuple(tuple(piece for piece in pieces if piece[0] < piece[1]) for pieces in axes))


def _chunks(placement: Any) -> int:
    return getattr(placement, "split_factor", 1)


def _readings(split: Split, *, by_fsdp: bool) -> Iterator[frozenset[int]]:
    """Yield the sets of mesh axes that may have cut last.

    FSDP2 cuts what tensor parallelism has left, and writes that as chunks of as many chunks as there are behind it
    (`_init_sharding_spec_tp` of torch's `_fsdp_param.py`). In any other tensor, chunks of chunks are what they say.
    """
    strided = {number: _chunks(split.placements[number]) for number in split.strided()}
    last = frozenset(number for number, chunks in strided.items() if split.ways_right_of(number) == chunks)
    yield last
    if not by_fsdp:
        yield frozenset()


def _cut(intervals: Sequence[Interval], groups: int, ways: int, place: int) -> list[Interval]:
    """Take one process's share of a row of intervals: of each of `groups` chunks, chunk number `place` of `ways`."""
    found: list[Interval] = []
    for group in range(groups):
        start, stop = _chunk(sum(stop - start for start, stop in intervals), groups, group)
        first, last = _chunk(stop - start, ways, place)
        found += _between(intervals, start + first, start + last)
    return found


def _chunk(size: int, ways: int, place: int) -> Interval:
    """Return the interval of one chunk, as `torch.chunk` cuts them: the last ones are shorter, or empty."""
    step = -(-size // ways)
    start = min(step * place, size)
    return start, min(start + step, size)


def _between(intervals: Sequence[Interval], start: int, stop: int) -> Iterator[Interval]:
    """Yield what lies at [start, stop) of intervals that are laid one behind the other."""
    done = 0
    for low, high in intervals:
        first, last = max(start, done), min(stop, done + high - low)
        if first < last:
            yield low + first - done, low + last - done
        done += high - low
