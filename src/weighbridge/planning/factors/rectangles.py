"""Cut what a program does to matrices into rectangles: which of the rows and columns go to which.

A weight is `[out, in]`, or turned, `[in, out]`; experts are several of them, one behind the other. What moves rows and
columns each by themselves is a product of two movements, of which the one acts on B and the other on A. Everything else
has no factors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import NamedTuple

from weighbridge.algebra.copies import Copy, Loop, align, fuse, simplify, strides
from weighbridge.algebra.layout import Layout
from weighbridge.base.errors import PlanError
from weighbridge.base.specs import Shape

OUT, IN = 0, 1


class Matrix(NamedTuple):
    """The shape of a weight: how many matrices it has, and their sizes as it is stored.

    Args:
        members: Number of experts; 1 for a plain weight.
        rows: Size of the axis before the last.
        columns: Size of the last axis.
        is_turned: Whether the rows are inputs.
    """

    members: int
    rows: int
    columns: int
    is_turned: bool

    @staticmethod
    def of(shape: Shape, *, is_turned: bool) -> Matrix:
        """Read a shape of two or three axes.

        Raises:
            PlanError: `adapter-inexact`.
        """
        if len(shape) not in (2, 3):
            raise inexact("a weight with factors has two axes, or three for experts", str(list(shape)))
        return Matrix(shape[0] if len(shape) == 3 else 1, shape[-2], shape[-1], is_turned)

    def size(self, axis: int) -> int:
        """Return the number of outputs, or of inputs."""
        return self.rows if self._stored(axis) == 1 else self.columns

    def _stored(self, axis: int) -> int:
        return 2 - axis if self.is_turned else 1 + axis

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of members, rows and columns, in elements."""
        return strides((self.members, self.rows, self.columns))

    def axis_of(self, stride: int) -> int | None:
        """Return the axis that a loop lies on, after `align`: `OUT`, `IN`, or None for that of the members."""
        if self.columns > 1 and stride < self.columns:
            return OUT if self.is_turned else IN
        if stride < self.rows * self.columns:
            return IN if self.is_turned else OUT
        return None

    def place(self, index: int) -> tuple[int, dict[int, int]]:
        """Return the member of a flat index, and its place on the axes `OUT` and `IN`."""
        member, inside = divmod(index, self.rows * self.columns)
        row, column = divmod(inside, self.columns)
        return member, {OUT: column, IN: row} if self.is_turned else {OUT: row, IN: column}

    def unit(self, axis: int) -> int:
        """Return the stride of one output, or of one input."""
        return self.strides[self._stored(axis)]


class Share(NamedTuple):
    """What one matrix gives to another: some of its outputs and inputs, to some of the other's.

    Args:
        slot: Number of the source.
        source_member: Which matrix of the source.
        member: Which matrix of the target.
        is_crossed: Whether outputs become inputs.
        parts: For the target's axis `OUT`, and then for `IN`, what is moved along it, in units of the axis.
    """

    slot: int
    source_member: int
    member: int
    is_crossed: bool
    parts: tuple[tuple[Copy, ...], tuple[Copy, ...]]

    def covers(self, axis: int, size: int) -> bool:
        """Tell whether the whole of a target's axis comes from this matrix."""
        return sum(copy.numel for copy in self.parts[axis]) == size


def shares(layout: Layout, sources: Sequence[Matrix], target: Matrix) -> list[Share]:
    """Cut a layout into the shares that matrices have in it, in the order of their places.

    Args:
        layout: What a program writes.
        sources: The matrices that it reads, by slot.
        target: The matrix that it writes.

    Raises:
        PlanError: `adapter-inexact` for what is no product of two movements.

    Examples:
        >>> from weighbridge.algebra.layout import concat
        >>> fused = concat([Layout.of(0, (2, 3)), Layout.of(1, (4, 3))], axis=0)
        >>> sources = [Matrix.of((2, 3), is_turned=False), Matrix.of((4, 3), is_turned=False)]
        >>> [share.parts[OUT][0].target_start for share in shares(fused, sources, Matrix(1, 6, 3, False))]
        [0, 2]
    """
    found: dict[tuple[int, int, int, bool], list[tuple[Copy, Copy]]] = {}
    for copy in align(layout.copies, target.strides):
        source = sources[copy.source] if copy.source < len(sources) else None
        if source is None:
            raise inexact("the weight is made through a temporary, or in part of a declared value")
        for piece in align([_turned(copy)], source.strides):
            for key, pair in _pairs(_turned(piece), source, target):
                found.setdefault(key, []).append(pair)
    made = [Share(*key, _product(pairs)) for key, pairs in found.items()]
    return sorted(made, key=lambda share: (share.member, *(part[0].target_start for part in share.parts)))


def _turned(copy: Copy) -> Copy:
    """Swap the sides of a copy, and leave its loops as they are cut."""
    loops = tuple(Loop(size, write, read) for size, read, write in copy.loops)
    return Copy(copy.source, copy.target_start, copy.source_start, loops)


def _pairs(
    copy: Copy, source: Matrix, target: Matrix
) -> Iterator[tuple[tuple[int, int, int, bool], tuple[Copy, Copy]]]:
    """Yield what an aligned copy moves of each member: along the outputs, and along the inputs of the target."""
    along: dict[int, list[Loop]] = {OUT: [], IN: []}
    members, ways = [], set()
    for loop in copy.loops:
        _, read, write = loop
        axes = source.axis_of(read), target.axis_of(write)
        if 0 in (read, write) or (axes[0] is None) != (axes[1] is None):
            raise inexact("experts are cut into rows, or rows into experts")
        if axes[0] is None or axes[1] is None:
            members.append(loop)
            continue
        ways.add(axes[0] != axes[1])
        along[axes[1]].append(Loop(loop.size, read // source.unit(axes[0]), write // target.unit(axes[1])))
    if len(ways) > 1:
        raise inexact("outputs and inputs are mixed")
    is_crossed = True in ways
    for steps in product(*(range(loop.size) for loop in members)):
        at = zip(steps, members, strict=True)
        offsets = [(step * loop.source_stride, step * loop.target_stride) for step, loop in at]
        one, there = source.place(copy.source_start + sum(read for read, _ in offsets))
        other, here = target.place(copy.target_start + sum(write for _, write in offsets))
        parts = [
            simplify(Copy(0, there[1 - axis if is_crossed else axis], here[axis], tuple(along[axis])))
            for axis in (OUT, IN)
        ]
        yield (copy.source, one, other, is_crossed), (parts[OUT], parts[IN])


def _product(pairs: Sequence[tuple[Copy, Copy]]) -> tuple[tuple[Copy, ...], tuple[Copy, ...]]:
    """Write rectangles as the product of what is moved along both axes."""
    for axis in (OUT, IN):
        by_other: dict[Copy, list[Copy]] = {}
        for pair in pairs:
            by_other.setdefault(pair[1 - axis], []).append(pair[axis])
        along = {fuse(copies) for copies in by_other.values()}
        if len(along) == 1:
            one, other = along.pop(), fuse(by_other)
            return (one, other) if axis == OUT else (other, one)
    raise inexact("rows and columns are not moved by themselves")


def inexact(cause: str, got: str = "") -> PlanError:
    """Make the error for what has no factors, or none that are exact."""
    hint = "merge the adapter into its model with PEFT, and convert that"
    return PlanError("adapter-inexact", f"the change of this weight has no exact factors: {cause}", got=got, hint=hint)


def along(copies: Iterable[Copy], numel: int) -> bool:
    """Tell whether something is moved along an axis as a whole, in its order."""
    loops = (Loop(numel, 1, 1),) if numel > 1 else ()
    return tuple(copies) == (Copy(0, 0, 0, loops),)
