"""From the shares of weights to what their factors are made of: the copies that write each factor of one weight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final, NamedTuple

from weighbridge.algebra.copies import Copy, Loop, simplify
from weighbridge.base.errors import PlanError
from weighbridge.base.specs import TensorSpec
from weighbridge.mappings.lora.ranks import Strength
from weighbridge.planning.factors.adapted import Adapted, Factor, Scalar
from weighbridge.planning.factors.rectangles import IN, OUT, Matrix, Share, along, inexact


class Piece(NamedTuple):
    """A copy from one tensor of the adapter; without a key, from a declared value."""

    key: str
    copy: Copy


class Made(NamedTuple):
    """A tensor of the new adapter, as one of the ways of making it.

    Args:
        what: ``A``, ``B``, ``bias``, ``magnitude`` or ``alpha``.
        spec: Its dtype and shape.
        pieces: What it is made of.
        blank: The bytes of each element that comes from no tensor; zeros if it is empty.
        instead: Tensors that it stands for, which are read no further: they must hold what was read of them.
        beside: A tensor in whose step it is made, where it has no source of its own.
    """

    what: str
    spec: TensorSpec
    pieces: tuple[Piece, ...]
    blank: bytes = b""
    instead: tuple[Scalar, ...] = ()
    beside: str = ""

    @property
    def keys(self) -> list[str]:
        """The tensors of the adapter that it is made of, or stands for."""
        return [*(piece.key for piece in self.pieces if piece.key), *(scalar.key for scalar in self.instead)]


ONE: Final = Copy(0, 0, 0, ())
"""The copy of a tensor that has one element."""


class Joined(NamedTuple):
    """What the factors of one weight come to.

    Args:
        strength: How strong they are.
        made: Every way of making each of its tensors.
        is_rounded: Whether alpha is the nearest number to one that would say it exactly.
    """

    strength: Strength
    made: tuple[Made, ...]
    is_rounded: bool = False


def factors_of(shares: Sequence[Share], sources: Sequence[Adapted], target: Matrix, *, is_blockwise: bool) -> Joined:
    """Make the factors of one weight from those of the weights that it is made of.

    Args:
        shares: What each of them gives to it.
        sources: The weights, by slot.
        target: Its shape.
        is_blockwise: Whether weights whose other factor differs are joined as blocks on the diagonal.

    Raises:
        PlanError: `adapter-inexact`.
    """
    if len({share.is_crossed for share in shares}) > 1:
        raise inexact("outputs and inputs are mixed")
    by_member = [tuple(group) for _, group in groupby(shares, key=lambda share: share.member)]
    if len(by_member) != target.members or len({len(group) for group in by_member}) != 1:
        raise inexact("the experts are made of different numbers of weights")
    joined = _joined_axis(by_member, target)
    used = [sources[share.slot] for share in shares]
    is_blockwise = is_blockwise and len(by_member[0]) > 1
    ranks = [sources[share.slot].strength.rank for share in by_member[0]] if is_blockwise else []
    strength = _strength(used, sum(ranks), is_blockwise=is_blockwise)
    dtype = one_dtype({factor.spec.dtype for each in used for factor in each.factors})
    new = [Factor.of(axis, dtype, target, strength.rank) for axis in (OUT, IN)]
    ways = (_blocks if is_blockwise else _ways)(by_member, sources, new, joined)
    made = [Made("AB"[axis == OUT], new[axis].spec, pieces) for axis, pieces in ways]
    is_rounded = not strength.is_as_strong(used[0].strength)
    return Joined(strength, (*made, *_rows(shares, sources, target, joined)), is_rounded)


def one_dtype(found: set[str]) -> str:
    """Return the one dtype of tensors that become one.

    Raises:
        PlanError: `dtype-mismatch`.
    """
    if len(found) > 1:
        what = "factors of different dtypes cannot become one"
        raise PlanError("dtype-mismatch", what, got=", ".join(sorted(found)))
    return found.pop()


def _joined_axis(by_member: Sequence[Sequence[Share]], target: Matrix) -> int:
    """Return the axis that weights are joined on: the other one comes whole from each of them."""
    for axis in (OUT, IN):
        if all(share.covers(1 - axis, target.size(1 - axis)) for group in by_member for share in group):
            return axis
    if len(by_member[0]) == 1:
        return OUT
    raise inexact("weights are joined on both axes")


def _strength(used: Sequence[Adapted], rank: int, *, is_blockwise: bool) -> Strength:
    """Return the strength of the new factors: that of the old ones, at another rank for blocks."""
    kinds = {(each.strength.rank, each.strength.scaling) for each in used}
    first = used[0].strength
    if not is_blockwise and len(kinds) > 1:
        got = ", ".join(f"rank {rank}, s = {scaling:.6g}" for rank, scaling in sorted(kinds))
        raise inexact("weights that become one have other ranks or strengths", got)
    if not is_blockwise:
        return first
    if len({scaling for _, scaling in kinds}) > 1:
        got = ", ".join(f"s = {scaling:.6g}" for _, scaling in sorted(kinds))
        raise inexact("weights that become one have other strengths", got)
    return first.at(rank)


def _ways(
    by_member: Sequence[Sequence[Share]], sources: Sequence[Adapted], new: Sequence[Factor], joined: int
) -> Iterator[tuple[int, tuple[Piece, ...]]]:
    """Yield the one factor, joined, and every way of making the other, which must be the same in all of them."""
    every = [share for group in by_member for share in group]
    yield joined, tuple(piece for share in every for piece in _pieces(share, sources, joined, new[joined]))
    other = 1 - joined
    for shares in zip(*by_member, strict=True):
        yield other, tuple(piece for share in shares for piece in _pieces(share, sources, other, new[other]))


def _blocks(
    by_member: Sequence[Sequence[Share]], sources: Sequence[Adapted], new: Sequence[Factor], joined: int
) -> Iterator[tuple[int, tuple[Piece, ...]]]:
    """Yield the one factor as blocks on a diagonal between zeros, and the other joined along the ranks."""
    pieces: dict[int, list[Piece]] = {OUT: [], IN: []}
    zeros = 0
    for group in by_member:
        start, total = 0, sum(sources[share.slot].strength.rank for share in group)
        for share in group:
            stop = start + sources[share.slot].strength.rank
            for axis in (OUT, IN):
                pieces[axis] += _pieces(share, sources, axis, new[axis], start)
            for first, last in ((0, start), (stop, total)):
                for copy in _blanks(share, joined, new[joined], (first, last), zeros):
                    pieces[joined].append(Piece("", copy))
                    zeros += copy.numel
            start = stop
    yield from ((axis, tuple(found)) for axis, found in pieces.items())


def _pieces(share: Share, sources: Sequence[Adapted], axis: int, new: Factor, start: int = 0) -> Iterator[Piece]:
    """Yield what a share gives to a factor, all its ranks, the first of them to the rank `start`."""
    source = sources[share.slot]
    number = 1 - axis if share.is_crossed else axis
    old = source.factors[number]
    for copy in share.parts[axis]:
        loops = [Loop(size, read * old.unit, write * new.unit) for size, read, write in copy.loops]
        loops.append(Loop(source.strength.rank, old.rank, new.rank))
        read = share.source_member * old.member + copy.source_start * old.unit
        write = share.member * new.member + copy.target_start * new.unit + start * new.rank
        yield Piece(source.keys[number], simplify(Copy(0, read, write, tuple(loops))))


def _blanks(share: Share, axis: int, new: Factor, ranks: tuple[int, int], used: int) -> Iterator[Copy]:
    """Yield the copies of zeros to where a share lies on the axis, at ranks that are not its own."""
    first, last = ranks
    for copy in share.parts[axis] if last > first else ():
        sizes = [(size, write * new.unit) for size, _, write in copy.loops] + [(last - first, new.rank)]
        loops, read = [], 1
        for size, write in reversed(sizes):
            loops.append(Loop(size, read, write))
            read *= size
        write = share.member * new.member + copy.target_start * new.unit + first * new.rank
        yield simplify(Copy(0, used, write, tuple(reversed(loops))))
        used += read


def _rows(shares: Sequence[Share], sources: Sequence[Adapted], target: Matrix, joined: int) -> Iterator[Made]:
    """Yield what has an entry for each output: it goes where the rows of B go, as long as each row stays whole."""
    for role in sorted({role for share in shares for role in sources[share.slot].rows}):
        having = [share for share in shares if role in sources[share.slot].rows]
        if len(having) < len(shares):
            raise inexact(f"some of the weights have a {role} beside their factors, and others have none")
        size = target.size(IN)
        whole = [along(share.parts[IN], size) if role == "magnitude" else share.covers(IN, size) for share in shares]
        if joined != OUT or target.members > 1 or not all(whole) or any(share.is_crossed for share in shares):
            raise inexact(f"the {role} of an output belongs to all of its inputs")
        dtype = one_dtype({sources[share.slot].rows[role][1].dtype for share in shares})
        found = (Piece(sources[share.slot].rows[role][0], copy) for share in shares for copy in share.parts[OUT])
        yield Made(role, TensorSpec(dtype, (target.size(OUT),)), tuple(found))
