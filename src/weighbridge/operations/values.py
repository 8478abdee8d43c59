"""What operations work on: lanes of values, and what they may know about the place they work in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Final, TypeGuard

from weighbridge.algebra.layout import Layout
from weighbridge.base.errors import LayoutError
from weighbridge.base.forms.elements import Constant, Element, element_bytes, is_element
from weighbridge.base.specs import Shape, TensorSpec

MAX_WHOLE: Final = 2**63
"""Bound of every number that an operation is given: sizes and element counts fit 63 bits."""

SHOWN_CHARACTERS: Final = 200

Place = tuple[int, ...]
"""The indices of one tensor, that of the first `*` first."""


@dataclass(frozen=True, slots=True)
class Value:
    """One tensor on its way: what it is made of, and the dtype that it has by now.

    Args:
        layout: The copies that write it.
        dtype: A code of `DTYPES`.
        is_rounded: Whether a cast on the way here may have changed values, so that no further cast can be fused to it.
    """

    layout: Layout
    dtype: str
    is_rounded: bool = False

    @property
    def shape(self) -> Shape:
        """Sizes of the axes."""
        return self.layout.shape

    def __str__(self) -> str:
        return f"{self.dtype} [{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class Lane:
    """The values that one key pattern stands for.

    Args:
        name: Text of the pattern that the values come from or go to.
        values: One value, or one for each index of the pattern's `*`, in the order of the index.
        indexed: Whether there is one value for each index.
        places: The indices of each value, in order, where each has several; empty where it has one or none.
    """

    name: str
    values: tuple[Value, ...]
    indexed: bool = False
    places: tuple[Place, ...] = ()

    @property
    def numbered(self) -> Iterator[tuple[Place, Value]]:
        """Each value with its indices."""
        counted: Iterable[Place] = ((number,) for number in range(len(self.values))) if self.indexed else ((),)
        return zip(self.places or counted, self.values, strict=False)

    def __str__(self) -> str:
        shown = ", ".join(dict.fromkeys(map(str, self.values)))
        return f"{self.name}: {len(self.values)} x {shown}" if self.indexed else f"{self.name}: {shown}"


@dataclass(slots=True)
class Declared:
    """What operations take from no tensor: constants that they put in, and what they cut off of others.

    Args:
        made: The constants; that of number `k` has the slot number `-1 - k` until all operations have run.
        cut: What was cut off, and the bytes that each of its elements must have.
    """

    made: list[Constant] = field(default_factory=list)
    cut: list[tuple[Value, bytes]] = field(default_factory=list)

    def make(self, spec: TensorSpec, value: Element) -> Value:
        """Return a constant.

        Raises:
            LayoutError: `operation-argument` where the dtype does not have the value.
        """
        self.made.append(Constant(spec, element_bytes(value, spec.dtype)))
        return Value(Layout.of(-len(self.made), spec.shape), spec.dtype)

    def cut_off(self, value: Value, element: Element) -> None:
        """Note a part that no target takes, and what all of it must be.

        Raises:
            LayoutError: `operation-argument` where the dtype does not have the value.
        """
        self.cut.append((value, element_bytes(element, value.dtype)))

    def renumbered(self, layout: Layout, sources: int) -> Layout:
        """Return a layout with the constants' slots behind those of the sources, and before those of temporaries."""
        count = len(self.made)

        def number(slot: int) -> int:
            return slot if 0 <= slot < sources else sources - 1 - slot if slot < 0 else slot + count

        copies = tuple([copy._replace(source=number(copy.source)) for copy in layout.copies])
        return replace(layout, copies=copies)

    def forget(self, made: int, cut: int) -> None:
        """Take back all but the first ones."""
        del self.made[made:], self.cut[cut:]


@dataclass(frozen=True, slots=True)
class Context:
    """What an operation may know about the place that it works in.

    Args:
        targets: Texts of the target patterns.
        target_shapes: For each target the shapes that it must have, as far as they are known: one, or one for each
            index.
        indexed: For each target whether it takes one tensor for each index of its `*`. When left empty, that is so for
            a pattern with a segment `*` that has more or fewer shapes than one.
        counts: For each target how many indices it has, where that is known; empty for "unknown".
        config: The model's configuration: attributes or items, with nested configurations.
        takes_list: Whether what follows takes several tensors as a list, one for each index.
        levels: How many indices a tensor of an indexed target has.
        places: For each target the indices of each of its shapes, in order, where they are several.
        declared: Takes what comes from no tensor, and what goes to none.
    """

    targets: tuple[str, ...] = ()
    target_shapes: tuple[tuple[Shape | None, ...], ...] | None = None
    indexed: tuple[bool, ...] = ()
    counts: tuple[int | None, ...] = ()
    config: object = None
    takes_list: bool = False
    levels: int = 1
    places: tuple[tuple[Place, ...], ...] = ()
    declared: Declared = field(default_factory=Declared, compare=False, repr=False)

    @property
    def made(self) -> int:
        """How many indices each target has that operations make."""
        return self.levels if self.targets and self.is_indexed(0) else 0

    def is_indexed(self, number: int) -> bool:
        """Tell whether a target takes one tensor for each index."""
        if self.indexed:
            return self.indexed[number]
        shapes = self.target_shapes[number] if self.target_shapes is not None else (None,)
        return self.has_star(number) and len(shapes) != 1

    def has_star(self, number: int) -> bool:
        """Tell whether a target's pattern has a segment `*`."""
        return "*" in self.targets[number].split(".")

    def of_single(self, count: int) -> Context:
        """Return the context in which the first targets are single tensors of which nothing is known."""
        names, no = self.targets[:count], (False,) * count
        return replace(self, targets=names, target_shapes=None, indexed=no, counts=(1,) * count, levels=1, places=())

    def count(self, number: int) -> int | None:
        """Return how many tensors a target takes, or None where that is unknown."""
        if not self.is_indexed(number):
            return 1
        known = self.counts[number] if self.counts else None
        if known is None and self.target_shapes is not None:
            known = len(self.target_shapes[number]) or None
        return known

    def shape(self, target: int, index: int = 0) -> Shape | None:
        """Return the shape that a tensor of a target must have, or None where that is unknown."""
        shapes = self.target_shapes[target] if self.target_shapes and target < len(self.target_shapes) else ()
        return shapes[index] if index < len(shapes) else None

    def within(self, outer: Place) -> Context:
        """Return what may be known of the tensors that have some outer indices, without these."""
        if not outer or not self.targets:
            return self
        left, depth = max(0, self.made - len(outer)), len(outer)
        shapes: list[tuple[Shape | None, ...]] = []
        places: list[tuple[Place, ...]] = []
        for number, group in enumerate(self.target_shapes or ()):
            known = self.places[number] if self.places else tuple((index,) for index in range(len(group)))
            inside = [pair for pair in zip(known, group, strict=True) if pair[0][:depth] == outer]
            shapes.append(tuple(shape for _, shape in inside))
            places.append(tuple(place[depth:] for place, _ in inside))
        return replace(
            self,
            target_shapes=tuple(shapes) if self.target_shapes and self.made >= depth else None,
            indexed=(left > 0,) * len(self.targets),
            counts=(),
            levels=max(1, left),
            places=tuple(places) if left > 1 else (),
        )

    def only(self, number: int) -> Context:
        """Return what may be known of one target, as if it were the only one."""
        shapes = self.target_shapes and self.target_shapes[number : number + 1]
        return Context((self.targets[number],), shapes, config=self.config, declared=self.declared)


def single(lanes: tuple[Lane, ...]) -> tuple[Lane, Value]:
    """Return the only lane and its only value.

    Raises:
        LayoutError: `operation-arity`.
    """
    if len(lanes) != 1 or len(lanes[0].values) != 1:
        raise arity_error("one tensor", lanes)
    return lanes[0], lanes[0].values[0]


def arity_error(expected: str, lanes: Iterable[Lane]) -> LayoutError:
    """Return the error for lanes that are too many or too few."""
    counts = [f"{len(lane.values)} in {lane.name!r}" for lane in lanes]
    got = f"tensors: {', '.join(counts)}" if counts else "no tensors"
    return LayoutError("operation-arity", "the operation takes other tensors", expected=expected, got=got)


def common_dtype(values: Iterable[Value]) -> str:
    """Return the dtype of values that become one tensor.

    Raises:
        LayoutError: `operation-arity` for no values, `dtype-mismatch` when they differ.
    """
    dtypes = list(dict.fromkeys(value.dtype for value in values))
    if not dtypes:
        raise arity_error("at least one tensor", ())
    if len(dtypes) > 1:
        raise LayoutError(
            "dtype-mismatch",
            "tensors of different dtypes cannot become one",
            expected="one dtype",
            got=", ".join(dtypes),
            hint="put a Cast before the operation that joins them",
        )
    return dtypes[0]


def is_whole(value: object) -> TypeGuard[int]:
    """Say whether a value is a whole number of no more than 63 bits, and no truth value."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < MAX_WHOLE


def brief(value: object) -> str:
    """Write a value for a message; one that is too long to be read by its beginning.

    Examples:
        >>> brief("heads"), brief(10**5000)
        ("'heads'", 'a number of very many digits')
    """
    try:
        text = repr(value)
    except ValueError:  # Python writes no number of more than some thousand digits
        return "a number of very many digits"
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"


def _is_wholes(value: object) -> bool:
    return isinstance(value, tuple) and all(map(is_whole, value))


Size = int | str
"""A size: a number, or the names of a configuration's values that give it as their product, such as ``"heads*dim"``."""


def agree(said: Sequence[Size], sizes: Sequence[int]) -> bool:
    """Tell whether sizes are those that were said; a name stands for any, as the tensors themselves say it.

    Examples:
        >>> agree((4, "head_dim"), (4, 64)), agree((4, "head_dim"), (5, 64))
        (True, False)
    """
    pairs = zip(said, sizes, strict=False)
    return len(said) == len(sizes) and all(isinstance(one, str) or one == size for one, size in pairs)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_sizes(value: object) -> bool:
    return isinstance(value, tuple) and all(is_whole(size) or _is_text(size) for size in value)


def _is_texts(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(item, str) for item in value)


ARGUMENT_KINDS: Final[Mapping[str, tuple[Callable[[object], bool], str]]] = {
    "int": (is_whole, "a whole number"),
    "bool": (lambda value: isinstance(value, bool), "true or false"),
    "Element": (is_element, "a number, inf, -inf, nan or -0.0, or an element's bits as bits:0x..."),
    "Size": (
        lambda value: is_whole(value) or _is_text(value),
        "a whole number, or names of the configuration's values",
    ),
    "str": (lambda value: isinstance(value, str), "a text"),
    "tuple[int, ...]": (_is_wholes, "whole numbers"),
    "tuple[Size, ...]": (_is_sizes, "whole numbers, or names of the configuration's values"),
    "tuple[int, int, int]": (lambda value: _is_wholes(value) and len(value) == 3, "three whole numbers"),  # type: ignore[arg-type]
    "tuple[str, ...]": (_is_texts, "texts"),
    "None": (lambda value: value is None, "nothing"),
}
"""For each annotation of an operation's arguments: what checks it, and how it is called."""


class Arguments:
    """What all operations share: their arguments are checked when they are made, and have a JSON form.

    Args:
        added: Arguments that stand in the form only where they are given: the forms of before have none.
    """

    __slots__ = ()
    added: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for argument in fields(self):  # type: ignore[arg-type]
            value = getattr(self, argument.name)
            if isinstance(value, list):
                value = tuple(value)
                object.__setattr__(self, argument.name, value)
            kinds = [ARGUMENT_KINDS[kind] for kind in str(argument.type).split(" | ")]
            if not any(fits(value) for fits, _ in kinds):
                raise LayoutError(
                    "operation-argument",
                    f"{type(self).__name__} has another kind of {argument.name.rstrip('_')!r}",
                    expected=" or ".join(name for _, name in kinds),
                    got=brief(value),
                )

    def __str__(self) -> str:
        """Write the operation without the arguments that are not set."""
        form = {name: value for name, value in self.to_dict().items() if name != "operation"}
        arguments = (f"{name}={value!r}" for name, value in form.items() if value not in (None, False, {}))
        return f"{type(self).__name__}({', '.join(arguments)})"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form of an operation: its name and its arguments."""
        arguments = {each.name: getattr(self, each.name) for each in fields(self)}  # type: ignore[arg-type]
        form = {name: list(value) if isinstance(value, tuple) else value for name, value in arguments.items()}
        given = {name: value for name, value in form.items() if value is not None or name not in self.added}
        return {"operation": type(self).__name__, **given}
