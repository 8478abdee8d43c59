"""The movements that operations on a single tensor are, and a notation for one of them.

A `Movement` splits the axes of a tensor, permutes them, and joins them again. Its reverse follows from it, so no
operation has a second, hand-written direction. A `Reordering` cuts one axis into parts of any sizes, and joins them in
another order.

The notation is that of einops (https://einops.rocks): `"(h two d) c -> (two h d) c"`. It is compiled in two stages:
`parse` knows no shapes and is cached, `movement` solves the sizes of the axes for one shape.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import accumulate
from math import prod
from typing import Final, NamedTuple

from weighbridge.algebra.layout import Layout, concat
from weighbridge.base.errors import LayoutError
from weighbridge.base.specs import Shape


class Movement(NamedTuple):
    """Split a tensor's axes, permute them, join them.

    Args:
        split: Sizes of the axes after splitting.
        axes: Axis `i` afterwards is split axis `axes[i]`.
        joined: Sizes of the axes after joining.
    """

    split: Shape
    axes: tuple[int, ...]
    joined: Shape


class Reordering(NamedTuple):
    """Cut an axis into parts, and join them in another order.

    Args:
        joined: Sizes of the axes, before and afterwards.
        axis: The axis.
        sizes: Sizes of the parts before.
        order: Part `i` afterwards is part `order[i]` before.
        stripes: Into how many equal pieces each part is cut before and afterwards; the first pieces of all parts come
            first, then the second ones, and so on.
    """

    joined: Shape
    axis: int
    sizes: tuple[int, ...]
    order: tuple[int, ...]
    stripes: tuple[int, int]

    def places(self) -> list[int]:
        """Return for each place on the axis afterwards its place before.

        Examples:
            >>> Reordering((6,), 0, (4, 2), (1, 0), (2, 1)).places()
            [2, 5, 0, 1, 3, 4]
        """
        before, after = self.stripes
        row = sum(self.sizes) // before
        starts = (0, *accumulate(size // before for size in self.sizes))
        parts = [
            [stripe * row + start + at for stripe in range(before) for at in range(size // before)]
            for start, size in zip(starts, self.sizes, strict=False)
        ]
        ordered = [(parts[part], self.sizes[part] // after) for part in self.order]
        return [place for stripe in range(after) for part, piece in ordered
                for place in part[stripe * piece : (stripe + 1) * piece]]  # fmt: skip


def move(layout: Layout, movement: Movement | Reordering) -> Layout:
    """Apply a movement.

    Raises:
        LayoutError: `shape-mismatch`.

    Examples:
        >>> move(Layout.of(0, (6,)), Movement((2, 3), (1, 0), (3, 2))).shape
        (3, 2)
        >>> move(Layout.of(0, (6, 2)), Reordering((6, 2), 0, (4, 2), (1, 0), (1, 1))).copies[0].source_start
        8
    """
    if isinstance(movement, Reordering):
        return _reorder(layout, movement)
    return layout.reshape(movement.split).permute(movement.axes).reshape(movement.joined)


def _reorder(layout: Layout, change: Reordering) -> Layout:
    axis, (before, after) = change.axis, change.stripes
    left, right = change.joined[:axis], change.joined[axis + 1 :]
    striped = layout.reshape((*left, before, change.joined[axis] // before, *right))
    parts = striped.split(axis + 1, [size // before for size in change.sizes])
    pieces = [parts[part].reshape((*left, after, change.sizes[part] // after, *right)) for part in change.order]
    return concat(pieces, axis + 1).reshape(change.joined)


def reverse(movement: Movement, shape: Shape) -> Movement:
    """Return the movement that undoes `movement` on a tensor of the given shape.

    Examples:
        >>> reverse(Movement((2, 3), (1, 0), (3, 2)), (6,))
        Movement(split=(3, 2), axes=(1, 0), joined=(6,))
    """
    split = tuple(movement.split[axis] for axis in movement.axes)
    axes = tuple(sorted(range(len(split)), key=lambda axis: movement.axes[axis]))
    return Movement(split, axes, shape)


# Notation

Side = tuple[tuple[str, ...], ...]
"""One side of a pattern: for each axis of the tensor the names that it is composed of."""

ELLIPSIS: Final = "..."
JOINED: Final = "(...)"
"""The further axes within a bracket: joined, and not left as they are."""

MAX_CHARACTERS: Final = 4096
_TOKEN: Final = re.compile(r"\s*(?:(?:(?P<name>[A-Za-z_]\w*)|(?P<sign>\.\.\.|1))(?![^\s()])|(?P<bracket>[()]))")


class Expression(NamedTuple):
    """A parsed pattern."""

    source: Side
    target: Side


@lru_cache(maxsize=1024)
def parse(pattern: str) -> Expression:
    """Parse a pattern; no shapes are needed.

    Raises:
        LayoutError: `operation-argument` with a caret under the offending place.

    Examples:
        >>> parse("(h two d) c -> two h d c").source
        (('h', 'two', 'd'), ('c',))
    """
    if len(pattern) > MAX_CHARACTERS:
        expected, got = f"at most {MAX_CHARACTERS:,} characters", f"{len(pattern):,}"
        raise LayoutError("operation-argument", "this pattern is too long", expected=expected, got=got)
    left, arrow, _ = pattern.partition("->")
    if not arrow:
        raise _error(pattern, len(pattern), "there is no '->'")
    source = _parse_side(pattern, 0, len(left), divides=True)
    target = _parse_side(pattern, len(left) + len(arrow), len(pattern), divides=False)
    ours, theirs = _names(source), _names(target)
    for name in [*ours, *theirs]:
        if (name in ours) != (name in theirs):
            place = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", pattern)
            raise _error(pattern, place.start() if place else 0, f"{name!r} is on one side only")
    return Expression(source, target)


def swap(pattern: str) -> str:
    """Exchange the two sides of a pattern.

    Examples:
        >>> swap("(a b) -> b a")
        'b a -> (a b)'
    """
    source, _, target = pattern.partition("->")
    return f"{target.strip()} -> {source.strip()}"


def _names(side: Side) -> list[str]:
    return [ELLIPSIS if name == JOINED else name for axis in side for name in axis]


def _tokens(pattern: str, start: int, stop: int) -> Iterator[tuple[int, str]]:
    while pattern[start:stop].strip():
        token = _TOKEN.match(pattern, start, stop)
        if token is None:
            blank = len(pattern[start:stop]) - len(pattern[start:stop].lstrip())
            raise _error(
                pattern, start + blank, "an axis is a name, 1, ... or names in brackets, with spaces between them"
            )
        text = token["name"] or token["sign"] or token["bracket"]
        yield token.end() - len(text), text
        start = token.end()


def _parse_side(pattern: str, start: int, stop: int, *, divides: bool) -> Side:
    """Parse one side; one that divides axes cannot tell how many, and how long, `...` in a bracket would be."""
    side: list[tuple[str, ...]] = []
    seen: set[str] = set()
    group: list[str] | None = None
    at = start
    for at, token in _tokens(pattern, start, stop):
        if token == "(" and group is None:
            group = []
        elif token == ")" and group is not None:
            side.append(tuple(group))
            group = None
        elif token in "()":
            raise _error(pattern, at, "brackets do not nest" if token == "(" else "no bracket is open here")
        elif token == "1":
            side += [()] if group is None else []
        elif token in seen:
            raise _error(pattern, at, f"{token!r} stands twice on one side")
        elif token == ELLIPSIS and group is not None and divides:
            raise _error(pattern, at, "'...' cannot stand in a bracket on the left: its sizes could not be found")
        else:
            seen.add(token)
            side += [(token,)] if group is None else []
            (group if group is not None else []).append(JOINED if token == ELLIPSIS else token)
    if group is not None:
        raise _error(pattern, at, "a bracket is not closed")
    return tuple(side)


def _error(pattern: str, place: int, what: str) -> LayoutError:
    got = f"{pattern}\n{' ' * place}^"
    return LayoutError("operation-argument", what, expected="a pattern like '(h two d) c -> (two h d) c'", got=got)


def movement(pattern: str, shape: Shape, lengths: Mapping[str, int]) -> Movement:
    """Return what a pattern does to a tensor of the given shape.

    Args:
        pattern: Both sides, see `parse`.
        shape: Sizes of the tensor's axes.
        lengths: Sizes of named axes; in each bracket at most one may be missing.

    Raises:
        LayoutError: `operation-argument` for a bad pattern or length, `shape-mismatch` or `split-unequal` when the
            pattern does not fit the shape.

    Examples:
        >>> movement("(h two d) c -> (two h d) c", (24, 5), {"two": 2, "h": 3})
        Movement(split=(3, 2, 4, 5), axes=(1, 0, 2, 3), joined=(24, 5))
    """
    expression = parse(pattern)
    source, target = (_expand(side, pattern, len(shape), expression) for side in expression)
    unknown = sorted(set(lengths) - set(_names(source)))
    if unknown:
        raise LayoutError("operation-argument", f"no axis of the pattern is named {unknown[0]!r}", got=pattern)
    sizes: dict[str, int] = {}
    for axis, size in zip(source, shape, strict=True):
        sizes.update(_solve(axis, size, lengths))
    order = _names(source)
    axes = tuple(order.index(name) for name in _names(target))
    joined = tuple(prod(sizes[name] for name in axis) for axis in target)
    return Movement(tuple(sizes[name] for name in order), axes, joined)


def _expand(side: Side, pattern: str, ndim: int, expression: Expression) -> Side:
    """Replace the ellipsis by as many axes as the tensor has beyond those that are named; a bracket joins them."""
    wild = (ELLIPSIS,) in expression.source
    missing = ndim - len(expression.source) + wild
    if missing < 0 or (missing > 0 and not wild):
        count = f"{'at least ' if wild else ''}{len(expression.source) - wild} axes"
        raise LayoutError(
            "shape-mismatch", "the pattern has another number of axes", expected=count, got=f"{ndim} axes"
        )
    rest = tuple(f"{ELLIPSIS}{number}" for number in range(missing))
    loose = tuple((name,) for name in rest)
    placed = (part for axis in side for part in (loose if axis == (ELLIPSIS,) else (axis,)))
    return tuple(tuple(part for name in axis for part in (rest if name == JOINED else (name,))) for axis in placed)


def _solve(axis: tuple[str, ...], size: int, lengths: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """Yield the size of each name of one axis; a single unknown one is found by division."""
    unknown = [name for name in axis if name not in lengths]
    known = prod(lengths[name] for name in axis if name in lengths)
    if len(unknown) > 1:
        names = " and ".join(unknown)
        raise LayoutError("operation-argument", f"the sizes of {names} cannot both be found", expected="all but one")
    if size % known:
        named = " x ".join(f"{name}={lengths[name]}" for name in axis if name in lengths)
        raise LayoutError("split-unequal", f"an axis of size {size} is no multiple of {known}", expected=named)
    if not unknown and size != known:
        raise LayoutError("shape-mismatch", "an axis has another size", expected=str(known), got=str(size))
    for name in axis:
        yield name, lengths.get(name, size // known)
