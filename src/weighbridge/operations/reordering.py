"""Put blocks within one tensor in another order: fused parts, halves, and the stripes that ranks write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from weighbridge.algebra.layout import checked_axis
from weighbridge.base.errors import LayoutError
from weighbridge.base.specs import Shape
from weighbridge.operations.configuration import read_size
from weighbridge.operations.movements import Moving
from weighbridge.operations.rearrange import Reordering
from weighbridge.operations.values import Arguments, Size, brief

_SIZES_HINT: Final = "correct the sizes of the parts, or the pattern that takes a tensor of another size"


@dataclass(frozen=True, slots=True)
class Reorder(Moving):
    """Cut each tensor along an axis into parts, and join them in another order.

    Parts may lie in stripes, one for each rank or each group of heads: a stripe holds an equal piece of each part, the
    parts in their order. `source_stripes` says that they do so before, and `target_stripes` that they shall afterwards.

    Args:
        dim: The axis.
        order: Part `i` of the result is part `order[i]`.
        sizes: Sizes of the parts on the axis, as for `Split`, in the order in which they lie; equal ones if left out.
            With stripes, a size is that of all of a part's pieces.
        source_stripes: Number of stripes before, or names of the configuration's values whose product it is.
        target_stripes: Number of stripes afterwards.

    Examples:
        >>> Reorder(0, (1, 2, 0), sizes=("kv", "q", "kv")).inverse()
        Reorder(dim=0, order=(2, 0, 1), sizes=('q', 'kv', 'kv'), source_stripes=None, target_stripes=None)
        >>> Reorder(0, (0, 1), source_stripes=4).inverse()
        Reorder(dim=0, order=(0, 1), sizes=None, source_stripes=None, target_stripes=4)
    """

    dim: int
    order: tuple[int, ...]
    sizes: tuple[Size, ...] | None = None
    source_stripes: int | str | None = None
    target_stripes: int | str | None = None

    def __post_init__(self) -> None:
        Arguments.__post_init__(self)
        if not self.order or sorted(self.order) != list(range(len(self.order))):
            _refuse("an order names each part once", "the numbers from 0 on, in any order", self.order)
        if self.sizes is not None and len(self.sizes) != len(self.order):
            _refuse("the sizes are those of other parts", f"{len(self.order)} sizes", self.sizes)
        if any(isinstance(size, int) and size < 1 for size in self.sizes or ()):
            _refuse("each part has a size", "whole numbers above 0", self.sizes)
        for stripes in (self.source_stripes, self.target_stripes):
            if stripes == "" or (isinstance(stripes, int) and stripes < 1):
                _refuse("a number of stripes is no such number", "a whole number above 0, or a name", stripes)

    def movement(self, shape: Shape, name: str, wanted: Shape | None, config: object) -> Reordering:
        """Solve the sizes for one shape."""
        axis = checked_axis(self.dim, len(shape))
        sizes = self._sizes(shape[axis], config)
        if sum(sizes) != shape[axis]:
            got = " + ".join(map(str, sizes))
            what, expected = f"the parts do not add up to axis {axis}", f"sizes that add up to {shape[axis]}"
            raise LayoutError("shape-mismatch", what, expected=expected, got=got, hint=_SIZES_HINT)
        stripes = [1 if given is None else read_size(config, given) for given in self._stripes]
        for size in sizes:
            for count in stripes:
                _divide(size, count, "stripes")
        return Reordering(shape, axis, sizes, self.order, (stripes[0], stripes[1]))

    @property
    def _stripes(self) -> tuple[Size | None, Size | None]:
        return self.source_stripes, self.target_stripes

    def _sizes(self, size: int, config: object) -> tuple[int, ...]:
        if self.sizes is not None:
            return tuple(read_size(config, part) for part in self.sizes)
        return (_divide(size, len(self.order), "parts"),) * len(self.order)

    def inverse(self) -> Reorder:
        """Return the operation that restores the order."""
        order = tuple(sorted(range(len(self.order)), key=self.order.__getitem__))
        sizes = None if self.sizes is None else tuple(self.sizes[part] for part in self.order)
        return Reorder(self.dim, order, sizes, self.target_stripes, self.source_stripes)


def _divide(size: int, count: int, what: str) -> int:
    if size % count:
        hint = "give the sizes of the parts: Reorder(dim, order, sizes)" if what == "parts" else _SIZES_HINT
        raise LayoutError("split-unequal", f"a size of {size} does not divide into {count} equal {what}", hint=hint)
    return size // count


def _refuse(what: str, expected: str, got: object) -> None:
    raise LayoutError("operation-argument", what, expected=expected, got=brief(got))
