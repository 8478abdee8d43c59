"""Who writes what: of each part of a tensor that several ranks hold, one of them writes it.

All parts together must be the tensor, each element in one of them: that is proven here, of what each rank says that it
holds, and not of what it should hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from weighbridge.algebra.copies import swapped
from weighbridge.algebra.coverage import Coverage, coverage
from weighbridge.algebra.held_parts import Interval, Part, cut_layout
from weighbridge.algebra.layout import Layout
from weighbridge.base.errors import DestinationError
from weighbridge.base.keys import index_set
from weighbridge.base.specs import Header, Shape, TensorSpec

Axes: TypeAlias = tuple[tuple[Interval, ...], ...]
"""The intervals of a part on each axis."""


def deal_writing(specs: Header, held: Sequence[Mapping[str, Axes]]) -> list[set[str]]:
    """Choose for each part the rank that writes it: of those that hold it the one with the least to write so far.

    The largest parts are dealt out first, so that what all ranks hold is spread over them by its size.

    Args:
        specs: Specs of the whole tensors that are read.
        held: What each rank holds of them; one of another stage holds nothing of a tensor.

    Returns:
        For each rank the tensors of which it writes what it holds.

    Raises:
        DestinationError: `ranks-disagree` where the ranks do not hold each element of a tensor, or hold parts of it
            that overlap and are not the same.

    Examples:
        >>> specs = Header({"a": TensorSpec("F32", (4,)), "b": TensorSpec("F32", (2,))})
        >>> halves = [{"a": (((0, 2),),), "b": (((0, 2),),)}, {"a": (((2, 4),),), "b": (((0, 2),),)}]
        >>> [sorted(keys) for keys in deal_writing(specs, halves)]
        [['a', 'b'], ['a']]
    """
    known: dict[tuple[Shape, frozenset[Axes]], Coverage] = {}
    pieces: list[tuple[int, str, list[int]]] = []
    for key, spec in specs.items():
        holders: dict[Axes, list[int]] = {}
        for rank, parts in enumerate(held):
            if key in parts:
                holders.setdefault(parts[key], []).append(rank)
        name = spec.shape, frozenset(holders)
        if name not in known:
            known[name] = _covered(spec.shape, holders)
        if not known[name].exact:
            raise _no_whole(key, spec, known[name], holders)
        pieces += ((_size_bytes(spec, axes), key, ranks) for axes, ranks in holders.items())
    return _deal(pieces, len(held))


def _covered(shape: Shape, parts: Iterable[Axes]) -> Coverage:
    whole = Layout.of(0, shape)
    copies = [swapped(copy) for axes in parts for copy in cut_layout(whole, Part(shape, axes)).copies]
    return coverage(copies, whole.numel)


def _size_bytes(spec: TensorSpec, axes: Axes) -> int:
    return TensorSpec(spec.dtype, Part(spec.shape, axes).held).size_bytes


def _deal(pieces: Iterable[tuple[int, str, list[int]]], ranks: int) -> list[set[str]]:
    writes: list[set[str]] = [set() for _ in range(ranks)]
    sizes = [0] * ranks
    # What one rank alone holds is given; the others are weighed against it.
    for size_bytes, key, holders in sorted(pieces, key=lambda piece: (len(piece[2]) > 1, -piece[0], piece[1:])):
        rank = min(holders, key=lambda rank: (sizes[rank], rank))
        sizes[rank] += size_bytes
        writes[rank].add(key)
    return writes


def _no_whole(key: str, spec: TensorSpec, found: Coverage, holders: Mapping[Axes, list[int]]) -> DestinationError:
    shown = list(holders.items())[:4]
    parts = [f"rank {index_set(ranks)}: {_text(axes)}" for axes, ranks in shown]
    return DestinationError(
        "ranks-disagree",
        "what the ranks hold of this tensor is not the whole of it, each element once",
        where=key,
        expected=f"{spec}, in parts that are equal or apart",
        got="\n".join([str(found), *parts, *(["…"] if len(holders) > len(shown) else [])]),
        hint="spread the model over all ranks that save it, in the same way on each of them",
    )


def _text(axes: Axes) -> str:
    spans = (" and ".join(f"{start}:{stop}" for start, stop in intervals) or "none" for intervals in axes)
    return f"[{', '.join(spans)}]"
