"""What a quantised format stores for one weight, as data: which tensors, and how their axes lie over the weight's.

A weight W has [..., out, in] elements; leading axes are stacks, such as of experts, and every tensor of its group has
them. Each axis of a stored tensor holds entries along one axis of W, each entry for so many elements. That one number
says a grid of scales (128: a block), a packing (8: eight codes in an element, which lie in it in an order that must
stay) and an orientation (columns before rows) alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from fractions import Fraction
from math import ceil, floor
from typing import Final, Literal, NamedTuple

from weighbridge.base.specs import Shape, TensorSpec

INTEGERS: Final = ("I8", "U8", "I32", "U32", "I64")
FLOATS: Final = ("F32", "BF16", "F16")
F8: Final = ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")


class Axis(Enum):
    """Where the entries of a stored axis lie."""

    ROWS = "rows"
    COLUMNS = "columns"
    FLAT = "elements, row after row"
    INSIDE = "inside"
    """Along no axis of the weight: its size is a fact of the format."""


class Along(NamedTuple):
    """One axis of a stored tensor.

    Args:
        axis: Which axis of the weight its entries lie along.
        elements: How many of the weight's elements there are for each entry, the last of which may have fewer; None for
            one entry for all of them. A fraction where they are packed: they lie in the entry in an order that must
            stay, as those of codes do. For `Axis.INSIDE`, the size.
    """

    axis: Axis
    elements: int | Fraction | None = 1


ANY: Final = 0
"""In the place of a number of elements: each entry may be for so many of them as there are."""

ROW: Final = Along(Axis.ROWS)
COLUMN: Final = Along(Axis.COLUMNS)
ONE: Final = Along(Axis.INSIDE, 1)


def columns(elements: int | Fraction | None) -> Along:
    """Return an axis along the weight's columns."""
    return Along(Axis.COLUMNS, elements)


def rows(elements: int | Fraction | None) -> Along:
    """Return an axis along the weight's rows."""
    return Along(Axis.ROWS, elements)


Kind = Literal["codes", "moved", "numbered", "shared", "derived"]


Role = Literal[
    "",
    "apart",
    "scale",
    "divisor",
    "zero",
    "addend",
    "table",
    "shape",
    "state",
    "nested scale",
    "nested table",
]


class Coding(NamedTuple):
    """How numbers lie in the elements of a stored tensor: one after the other, from the lowest bit on.

    Args:
        bits: Bits of a number.
        along: The axis of the weight whose numbers lie side by side.
        less: What is subtracted from each.
        values: What each code stands for; none where it is the number.
        is_signed: Whether the number is a two's complement.
        order: Where in an element each of its numbers lies; none for one after the other.
        high_first: Whether the first number of a byte is in its high bits.
    """

    bits: int
    along: Axis = Axis.COLUMNS
    less: int = 0
    values: tuple[float, ...] = ()
    is_signed: bool = False
    order: tuple[int, ...] = ()
    high_first: bool = False


E2M1: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
"""The values of a float of 4 bits: one of sign, two of exponent, one of mantissa."""

FLOATS_OF_4_BITS: Final = Coding(4, values=E2M1)


@dataclass(frozen=True, slots=True)
class Member:
    """One tensor of a group.

    Args:
        ending: What its name has behind what all names of the group begin with.
        what: What it is.
        along: Its axes, in order, behind those of a stack; None where they depend on more than the weight's shape.
        dtypes: The dtypes that it may have.
        kind: `codes` are the weight's elements; what is `moved` has entries for parts of them; what is `numbered` says
            for each column which of its entries it has, so that the columns must stay; what is `shared` is one for all,
            and what is `derived` repeats a shape or a state.
        is_needed: Whether no group is without it.
        role: What becomes of it, beside the codes, where the weight's values are computed: see `Formula`. What has none
            is left out, as a scale of activations is; what stands `apart` belongs to what a plain model does not have.
        coding: How numbers lie in its elements; None where each is one.
    """

    ending: str
    what: str
    along: tuple[Along, ...] | None
    dtypes: tuple[str, ...]
    kind: Kind = "moved"
    is_needed: bool = True
    role: Role = ""
    coding: Coding | None = None


Form = tuple[Member, ...]
"""The tensors of a group, the codes first."""

WEIGHT: Final = ".weight"


def is_fused(form: Form) -> bool:
    """Tell whether a group is called by a parameter's name, as stacked experts are, and not by a module's."""
    return not form[0].ending.startswith(".")


def fused_ending(ending: str) -> str:
    """Return what a tensor of a group has behind the name of a parameter, by what it has behind that of a module.

    Examples:
        >>> [fused_ending(ending) for ending in (".weight", ".weight_scale", ".weight.absmax", ".input_scale")]
        ['', '_scale', '.absmax', '_input_scale']
    """
    return ending.removeprefix(WEIGHT) if ending.startswith(WEIGHT) else f"_{ending[1:]}"


@dataclass(frozen=True, slots=True)
class Formula:
    """How a weight is computed: (codes - zeros) * (scales / divisors) / over + addends, in one dtype.

    Codes and zero points are subtracted as what they are, and scales multiplied with each other first, as the formats'
    own readers do.

    Args:
        dtype: The code of the dtype that is computed in; none for that of the scales, which is BF16 for bytes.
        over: A number that all is divided by.
        is_turned: Whether readers hold the weight with its columns first.
        is_flat: Whether blocks are those of the flat weight, whose shape and dtype stand in a state beside it.
    """

    dtype: str = "F32"
    over: int = 1
    is_turned: bool = False
    is_flat: bool = False


class Setting(NamedTuple):
    """Where a configuration says how large blocks are, and how large that is.

    Args:
        place: Names that lead there, from the part that speaks of quantisation.
        sizes: The rows and columns of a block, or its columns alone.
    """

    place: tuple[str, ...]
    sizes: tuple[int, ...]

    def refine(self, form: Form, sizes: tuple[int, ...]) -> Form:
        """Return a form with finer blocks.

        Args:
            form: The tensors of a group.
            sizes: The sizes to be.

        Examples:
            >>> scales = Member(".scale", "scales", (rows(32), columns(128)), FLOATS)
            >>> Setting(("block",), (32, 128)).refine((scales,), (8, 128))[0].along
            (Along(axis=<Axis.ROWS: 'rows'>, elements=8), Along(axis=<Axis.COLUMNS: 'columns'>, elements=128))
        """
        axes = (Axis.ROWS, Axis.COLUMNS)[-len(sizes) :]
        finer = {(axis, size): Along(axis, to) for axis, size, to in zip(axes, self.sizes, sizes, strict=True)}

        def along(each: Along) -> Along:
            return finer.get((each.axis, each.elements), each) if isinstance(each.elements, int) else each

        return tuple(
            replace(member, along=tuple(map(along, member.along)))
            if member.along and member.kind == "moved"
            else member
            for member in form
        )


@dataclass(frozen=True, slots=True)
class Scheme:
    """How a format stores a weight.

    Args:
        title: What it is, with its sizes.
        forms: The groups that it writes, each under other names.
        targets: The modules that it is for, in the dialect of compressed-tensors; none for all that have its tensors.
        formula: How the weight is computed; or why it is not.
        in_metadata: Whether the file's metadata says by each weight's name how it is stored.
        as_it_is: Why weights only move as they are; empty where they may be joined, cut and turned.
        setting: Where the configuration says how large blocks are; None where a format has but one size, or several
            places that say it.
    """

    title: str
    forms: tuple[Form, ...]
    targets: tuple[str, ...] = ()
    formula: Formula | str = "no formula is known for it"
    in_metadata: bool = False
    as_it_is: str = ""
    setting: Setting | None = None

    def name(self, base: str, form: Form, member: Member) -> str:
        """Name a tensor of a group by the weight that it belongs to, whichever of the two ways that is called in.

        Args:
            base: The weight's name.
            form: The form of the group that is renamed.
            member: The tensor, one of that form.

        Examples:
            >>> codes, scales = Member(".weight", "codes", None, ()), Member(".scale", "scales", None, ())
            >>> scheme = Scheme("some", ((codes, scales),))
            >>> [scheme.name(base, scheme.forms[0], scales) for base in ("up.weight", "experts.up")]
            ['up.scale', 'experts.up_scale']
        """
        ending = member.ending
        if is_fused(form):
            plain = [each.ending for other in self.forms if not is_fused(other) for each in other]
            ending = next((each for each in plain if fused_ending(each) == ending), f"{WEIGHT}{ending}")
        return base.removesuffix(WEIGHT) + ending if base.endswith(WEIGHT) else base + fused_ending(ending)


def with_open_sizes(scheme: Scheme) -> Scheme:
    """Return a scheme that says nothing of how large blocks are, where the configuration has a place for that.

    Args:
        scheme: The scheme.
    """
    setting = scheme.setting
    if setting is None:
        return scheme
    sizes = tuple(ANY for _ in setting.sizes)
    return replace(scheme, forms=tuple(setting.refine(form, sizes) for form in scheme.forms))


class Span(NamedTuple):
    """The sizes that an axis may have, ends included: a packed axis does not say how full its last element is."""

    least: int
    most: int

    def within(self, entries: int, elements: int | Fraction) -> Span | None:
        """Return the sizes that have so many entries, each of so many elements; None if there is none.

        Examples:
            >>> Span(1, 10**9).within(3, 128), Span(320, 320).within(3, 128), Span(80, 80).within(4, 32)
            (Span(least=257, most=384), Span(least=320, most=320), None)
        """
        found = Span(max(self.least, floor((entries - 1) * elements) + 1), min(self.most, floor(entries * elements)))
        return found if found.least <= found.most else None


_ANY: Final = Span(1, 1 << 62)


def read_shape(members: Sequence[tuple[Member, TensorSpec]]) -> tuple[dict[Axis, Span], str | None]:
    """Tell the sizes of a weight by those of its group's tensors, and what of them contradicts the others.

    Args:
        members: The tensors that are there, the codes first.

    Returns:
        The sizes by axis, and a sentence for the first tensor that does not fit them.
    """
    spans: dict[Axis, Span] = {}
    stack: Shape | None = None
    for member, spec in members:
        if spec.dtype not in member.dtypes:
            return spans, f"{member.what} are {spec.dtype}, where {' or '.join(member.dtypes)} is known"
        if member.along is None or (member.kind == "shared" and spec.numel == 1):
            continue
        cut = len(spec.shape) - len(member.along)
        if cut < 0 or (stack is not None and spec.shape[:cut] != stack):
            return spans, f"{member.what} have the shape {list(spec.shape)}, which does not fit that of the others"
        stack = spec.shape[:cut] if member.kind == "codes" else stack
        for along, size in zip(member.along, spec.shape[cut:], strict=True):
            problem = _narrow(spans, along, size)
            if problem is not None:
                return spans, f"{member.what} have {list(spec.shape)} entries, and {problem}"
    return spans, None


def _narrow(spans: dict[Axis, Span], along: Along, size: int) -> str | None:
    """Take what one axis says into account; return what contradicts it."""
    axis, elements = along
    if elements == ANY:
        return None
    if axis is Axis.INSIDE:
        return None if size == elements else f"{elements} are expected where there are {size}"
    if elements is None:
        return None if size == 1 else f"one is expected for all {axis.value} where there are {size}"
    if axis is Axis.FLAT and axis not in spans and {Axis.ROWS, Axis.COLUMNS} <= spans.keys():
        spans[axis] = Span(*(a * b for a, b in zip(spans[Axis.ROWS], spans[Axis.COLUMNS], strict=True)))
    before = spans.get(axis, _ANY)
    found = before.within(size, elements)
    if found is None:
        wanted = ceil(before.most / elements)
        return f"{wanted} are expected for {before.most} {axis.value}, {elements} each"
    spans[axis] = found
    return None
