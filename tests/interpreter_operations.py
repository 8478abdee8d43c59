"""What each operation does to tensors, run one after the other with torch: no layouts, no copies, no programs.

A lane is what one pattern of a converter stands for: its name, its tensors, and whether there is one for each index.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, NamedTuple

import torch

Shape = tuple[int, ...]


class RefusedError(Exception):
    """This cannot be done, or nobody can know how; the code is that of `docs/errors.md`."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Lane(NamedTuple):
    """A pattern's text, and the tensors that it stands for."""

    name: str
    tensors: list[torch.Tensor]
    indexed: bool = False


@dataclass(frozen=True)
class Place:
    """What an operation may know: its targets, their shapes as far as they are known, and the configuration.

    `last` says that no other operation comes after this one which changes shapes or numbers, and `listed` that what
    comes takes one tensor for each index: an operation, or the targets. `parts` is how many tensors a cut is to give;
    None where what comes after it joins them to one again, which `joined` says. `repeats` is how often
    each is repeated.
    """

    targets: tuple[str, ...]
    shapes: tuple[tuple[Shape | None, ...], ...] = ()
    splits: bool = False
    config: Any = None
    last: bool = True
    listed: bool = False
    parts: int | None = None
    joined: bool = False
    repeats: int = 1

    def within(self, index: int, made: int) -> Place:
        """Return what may be known of one of the outer indices, of which there are `made` with those within."""
        inner = [lane[index] if index < len(lane) else None for lane in self.shapes]
        if made > 1:
            return replace(self, shapes=tuple(inner) if all(inner) else ())
        return replace(self, shapes=tuple((shape,) for shape in inner), splits=False)

    def shape(self, target: int, index: int = 0) -> Shape | None:
        lane = self.shapes[target] if self.last and target < len(self.shapes) else ()
        return lane[index] if index < len(lane) else None


LISTING = "MergeModulelist", "Concatenate", "ErnieFuseAndSplitTextVisionExperts", "MergeEqual"
"""Operations that take one tensor for each index."""

SINGLE = "SplitModulelist", "Chunk", "Split", "ErnieSplitAndDecoupleTextVisionExperts"
"""Operations that take tensors without an index, and take them apart."""

Lanes = list[Lane]
Run = Callable[[Any, Lanes, Place], Lanes]


def nest(held: dict[tuple[int, ...], Any], levels: int) -> list[Any]:
    """Put tensors into lists in the order of their indices: a list for each combination of the outer ones."""
    if levels < 2:
        return [held[place] for place in sorted(held)]
    outer = sorted({place[0] for place in held})
    return [nest({at[1:]: each for at, each in held.items() if at[0] == first}, levels - 1) for first in outer]


def unnest(lists: Sequence[Any], levels: int) -> Iterator[tuple[tuple[int, ...], Any]]:
    """Yield what lists hold, with its indices."""
    for index, each in enumerate(lists):
        yield from (
            [((index, *place), held) for place, held in unnest(each, levels - 1)] if levels > 1 else [((index,), each)]
        )


BY_ITSELF = {"Concatenate", "Chunk", "Split"}
"""Operations that run for each index by itself, where a later one uses the index up, or an earlier one has made it."""

REGROUPING = BY_ITSELF | {"Repeat", "MergeEqual", "InsertConstant", "RemoveConstant", SINGLE[3], LISTING[2]}
"""Operations that may give another number of tensors than they take, or than each index has."""


def run_levels(operations: Sequence[Any], lanes: Lanes, merged: int, made: int, place: Place) -> Lanes:
    """Run operations on tensors with several indices: for each outer one by itself, before it is used up or once made.

    Args:
        operations: First to last.
        lanes: Tensors in lists, as many deep as there are indices.
        merged: How many indices the operations use up.
        made: How many they make.
        place: What they may know.
    """
    names = [type(each).__name__ for each in operations]
    at, levels = _last_use(operations, names, merged)
    if at is not None and (merged > 1 or BY_ITSELF & set(names[:at])):
        targets = place.targets if REGROUPING.isdisjoint(names[at:]) else ()
        inner = [
            run_levels(operations[:at], own, merged - levels, 0, Place(targets, config=place.config))
            for own in _divided(lanes, levels, merged > levels)
        ]
        joined = [Lane(first.name, [tensor for own in inner for tensor in own[number].tensors], indexed=True)
                  for number, first in enumerate(inner[0])]  # fmt: skip
        return run_levels(operations[at:], joined, 1, made, place)
    first = _first_make(operations, names, made, len(place.targets))
    if first is not None and (made > 1 or BY_ITSELF & set(names[first + 1 :])):
        targets = place.targets if names[first] in BY_ITSELF else ()
        outer = run_operations(operations[: first + 1], lanes, replace(place, targets=targets, shapes=()))
        if len({len(lane.tensors) for lane in outer}) > 1 or not outer[0].tensors:
            raise RefusedError("operation-arity")
        done = [
            run_levels(operations[first + 1 :], [Lane(lane.name, [lane.tensors[index]]) for lane in outer], 0, made - 1,
                       place.within(index, made))
            for index in range(len(outer[0].tensors))
        ]  # fmt: skip
        return [
            Lane(target, [own[number].tensors if made > 1 else own[number].tensors[0] for own in done], indexed=True)
            for number, target in enumerate(place.targets)
        ]
    return run_operations(operations, lanes, place)


def _last_use(operations: Sequence[Any], names: Sequence[str], merged: int) -> tuple[int | None, int]:
    """Find the operation that uses up the outermost index, and how many indices it uses up."""
    stacking = [at for at, name in enumerate(names) if name in ("MergeModulelist", LISTING[2])][:merged]
    uses = dict.fromkeys(stacking, 1)
    joining = [at for at, each in enumerate(operations)
               if names[at] == "Concatenate" or (names[at] == "MergeEqual" and each.times is None)]  # fmt: skip
    if merged > len(stacking) and joining:
        uses[joining[0]] = merged - len(stacking)
    return (max(uses), uses[max(uses)]) if uses and merged else (None, 0)


def _first_make(operations: Sequence[Any], names: Sequence[str], made: int, targets: int) -> int | None:
    """Find the operation that makes the outermost index: the last ones that take apart, or a cut before them."""
    apart = [at for at, name in enumerate(names) if name in ("SplitModulelist", SINGLE[3])][-made:] if made else []
    cuts = [at for at, name in enumerate(names) if name in ("Chunk", "Split") and "Concatenate" not in names[at:]]
    if made > len(apart) and not (apart and "Repeat" in names):
        return cuts[0] if cuts and targets == 1 else None
    return apart[0] if apart else None


def _divided(lanes: Lanes, levels: int, is_indexed: bool) -> Iterator[Lanes]:
    """Yield the lanes of each combination of some outer indices, in the order of the first lane."""
    lists = [dict(unnest(lane.tensors, levels)) for lane in lanes]
    for place in lists[0]:
        yield [
            Lane(lane.name, own[place] if is_indexed else [own[place]], is_indexed)
            for lane, own in zip(lanes, lists, strict=True)
        ]


def run_operations(operations: Sequence[Any], lanes: Lanes, place: Place) -> Lanes:
    """Run a converter's operations, first to last, on tensors that have one index or none."""
    for number, operation in enumerate(operations):
        later = [type(each).__name__ for each in operations[number + 1 :]]
        regrouping = [name for name in later if name in LISTING or name in SINGLE]
        listed = regrouping[0] in LISTING if regrouping else place.splits
        joined = "Concatenate" in later
        parts = _parts(operations[number + 1 :], len(place.targets))
        last = set(later) <= {"Cast"}
        times = [each.times or 1 for each in operations[number + 1 :] if type(each).__name__ == "Repeat"]
        seen = Place(place.targets, place.shapes, place.splits, place.config, last, listed, parts, joined, prod(times))
        lanes = OPERATIONS[type(operation).__name__](operation, lanes, seen)
    if place.targets and len(lanes) != len(place.targets):
        raise RefusedError("operation-arity")
    return lanes


def _parts(later: Sequence[Any], targets: int) -> int | None:
    """Return how many tensors there must be before some operations for there to be one for each target."""
    parts: int | None = targets
    for operation in reversed(later):
        name = type(operation).__name__
        if name in ("Repeat", "MergeEqual") and parts is not None:
            times = operation.times
            parts = None if times is None else -(-parts // times) if name == "Repeat" else parts * times
        elif name in ("InsertConstant", "RemoveConstant") and parts is not None:
            parts += 1 if name == "RemoveConstant" else -1
        elif name in LISTING:
            parts = None
    return parts


def _axis(dim: int, count: int) -> int:
    if not -count <= dim < count:
        raise RefusedError("axis-out-of-range")
    return dim % count


def _each(change: Callable[[Any, torch.Tensor, str, Place, Shape | None], torch.Tensor]) -> Run:
    """Make what runs over each tensor by itself."""

    def run(operation: Any, lanes: Lanes, place: Place) -> Lanes:
        alike = len(lanes) == len(place.targets)
        return [
            lane._replace(
                tensors=[
                    change(operation, tensor, lane.name, place, place.shape(number, index) if alike else None)
                    for index, tensor in enumerate(lane.tensors)
                ]
            )
            for number, lane in enumerate(lanes)
        ]

    return run


def _same(tensors: Sequence[torch.Tensor], but: int | None = None) -> None:
    """Refuse to join what differs in dtype, or in its shape (on any axis `but` one)."""
    if not tensors or len({tensor.dtype for tensor in tensors}) > 1:
        raise RefusedError("dtype-mismatch" if tensors else "operation-arity")
    shapes = {tuple(size for axis, size in enumerate(tensor.shape) if axis != but) for tensor in tensors}
    if len(shapes) > 1 or len({tensor.ndim for tensor in tensors}) > 1:
        raise RefusedError("shape-mismatch")


def _cat(tensors: Sequence[torch.Tensor], dim: int) -> torch.Tensor:
    if not tensors:
        raise RefusedError("operation-arity")
    axis = _axis(dim, tensors[0].ndim)
    _same(tensors, axis)
    return torch.cat(list(tensors), axis)


def _stack(tensors: Sequence[torch.Tensor], dim: int) -> torch.Tensor:
    _same(tensors)
    return torch.stack(list(tensors), _axis(dim, tensors[0].ndim + 1))


def _cut(tensor: torch.Tensor, dim: int, sizes: Sequence[int]) -> list[torch.Tensor]:
    axis = _axis(dim, tensor.ndim)
    if sum(sizes) != tensor.shape[axis] or min(sizes, default=0) < 0:
        raise RefusedError("split-unequal")
    return list(torch.split(tensor, list(sizes), axis))


def _equal(size: int, parts: int) -> list[int]:
    if parts < 1 or size % parts:
        raise RefusedError("split-unequal")
    return [size // parts] * parts


def _merge(operation: Any, lanes: Lanes, place: Place) -> Lanes:
    if not all(lane.indexed for lane in lanes):
        raise RefusedError("operation-arity")
    return [Lane(lane.name, [_stack(lane.tensors, operation.dim)]) for lane in lanes]


def _unmerge(operation: Any, lanes: Lanes, place: Place) -> Lanes:
    parts = []
    for name, tensors, _ in lanes:
        (tensor,) = tensors
        parts.append(Lane(name, list(torch.unbind(tensor, _axis(operation.dim, tensor.ndim))), indexed=True))
    return parts


def _concatenate(operation: Any, lanes: Lanes, place: Place) -> Lanes:
    tensors = [tensor for lane in lanes for tensor in lane.tensors]
    whole = _cat(tensors, operation.dim)
    sizes = tuple(tensor.shape[operation.dim] for tensor in tensors)
    if operation.sizes is not None and operation.sizes != sizes:
        raise RefusedError("shape-mismatch")
    if operation.chunks is not None and (len(sizes) != operation.chunks or len(set(sizes)) > 1):
        raise RefusedError("shape-mismatch")
    return [Lane(place.targets[0] if len(place.targets) == 1 else lanes[0].name, [whole])]


def _only(lanes: Lanes) -> torch.Tensor:
    if len(lanes) != 1 or len(lanes[0].tensors) != 1:
        raise RefusedError("operation-arity")
    return lanes[0].tensors[0]


def _wanted_sizes(place: Place, tensor: torch.Tensor, dim: int) -> list[int] | None:
    """Sizes of the parts as the targets have them; None where one of them is not known."""
    shapes = [shape for lane in place.shapes for shape in lane] if place.last else []
    if not shapes or any(shape is None for shape in shapes):
        return None
    if any(len(shape) != tensor.ndim for shape in shapes if shape is not None):
        raise RefusedError("shape-mismatch")
    return [shape[_axis(dim, tensor.ndim)] for shape in shapes if shape is not None]


def _chunk(operation: Any, lanes: Lanes, place: Place) -> Lanes:
    tensor = _only(lanes)
    size = tensor.shape[_axis(operation.dim, tensor.ndim)]
    known = _wanted_sizes(place, tensor, operation.dim)
    if operation.num_shards_attribute is not None:
        count = _setting(place.config, operation.num_shards_attribute)
        if known is not None and len(known) != count:
            known = None
        return [Lane(place.targets[0], _cut(tensor, operation.dim, known or _equal(size, count)), indexed=True)]
    if operation.chunks is not None:
        return _dealt(lanes, place, _cut(tensor, operation.dim, _equal(size, operation.chunks)))
    if place.splits and len(place.targets) == 1 and place.last:
        if known is None:
            raise RefusedError("operation-argument")
        return [Lane(place.targets[0], _cut(tensor, operation.dim, known), indexed=True)]
    if place.splits and len(place.targets) == 1 and place.repeats > 1:
        if not place.shapes or not place.shapes[0]:
            raise RefusedError("operation-argument")
        count = -(-len(place.shapes[0]) // place.repeats)
        return [Lane(place.targets[0], _cut(tensor, operation.dim, _equal(size, count)), indexed=True)]
    if place.parts is None:
        raise RefusedError("operation-arity")
    parts = _cut(tensor, operation.dim, known or _equal(size, place.parts))
    return [Lane(place.targets[0], [part]) for part in parts]


def _split(operation: Any, lanes: Lanes, place: Place) -> Lanes:
    tensor = _only(lanes)
    sizes = operation.sizes if operation.sizes is not None else _wanted_sizes(place, tensor, operation.dim)
    if sizes is None:
        raise RefusedError("operation-argument")
    named = [_size(size, place.config) for size in sizes]
    return _dealt(lanes, place, _cut(tensor, operation.dim, named))


def _dealt(lanes: Lanes, place: Place, parts: list[torch.Tensor]) -> Lanes:
    """Give each target its part; parts that are joined again go on by themselves."""
    if place.joined:
        return [Lane(lanes[0].name, [part]) for part in parts]
    if place.splits and len(place.targets) == 1:
        return [Lane(place.targets[0], parts, indexed=True)]
    if len(parts) != place.parts:
        raise RefusedError("operation-arity")
    names = place.targets if len(parts) == len(place.targets) else (lanes[0].name,) * len(parts)
    return [Lane(name, [part]) for name, part in zip(names, parts, strict=True)]


def _repeat(operation: Any, lanes: Lanes, place: Place) -> Lanes:
    times = operation.times
    if times is None:
        tensor = _only(lanes)
        if not place.splits:
            return [Lane(target, [tensor.clone()]) for target in place.targets]
        if not place.shapes or not all(place.shapes):
            raise RefusedError("operation-argument")
        wanted = zip(place.targets, place.shapes, strict=True)
        return [Lane(target, [tensor.clone() for _ in shapes], indexed=True) for target, shapes in wanted]
    if any(lane.indexed for lane in lanes) or place.listed:
        repeated = [[x.clone() for x in lane.tensors for _ in range(times)] for lane in lanes]
        return [Lane(lane.name, tensors, indexed=True) for lane, tensors in zip(lanes, repeated, strict=True)]
    return [Lane(lane.name, [lane.tensors[0].clone()]) for lane in lanes for _ in range(times)]


def _merge_equal(operation: Any, lanes: Lanes, place: Place) -> Lanes:
    times = operation.times
    if times is None:
        return [Lane(lanes[0].name, [_one_of([tensor for lane in lanes for tensor in lane.tensors])])]
    if any(lane.indexed for lane in lanes):
        merged = []
        for lane in lanes:
            count = len(lane.tensors)
            if count == 0 or count % times or (count != times and not place.listed):
                raise RefusedError("operation-arity")
            parts = [_one_of(lane.tensors[at : at + times]) for at in range(0, count, times)]
            merged.append(Lane(lane.name, parts, place.listed))
        return merged
    if len(lanes) % times:
        raise RefusedError("operation-arity")
    groups = [lanes[at : at + times] for at in range(0, len(lanes), times)]
    return [Lane(group[0].name, [_one_of([lane.tensors[0] for lane in group])]) for group in groups]


def _one_of(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the first of some tensors that must be the same bytes."""
    _same(tensors)
    raw = [each.contiguous().reshape(-1).view(torch.uint8) for each in tensors]
    if not all(torch.equal(raw[0], each) for each in raw):
        raise RefusedError("sources-differ")
    return tensors[0]


def _fuse_ernie(operation: Any, lanes: Lanes, place: Place) -> Lanes:
    fused = []
    for number, target in enumerate(place.targets):
        stacks = []
        for lane in lanes:
            share = _equal(len(lane.tensors), len(place.targets))[0]
            stacks.append(_stack(lane.tensors[number * share : (number + 1) * share], operation.stack_dim))
        fused.append(Lane(target, [_cat(stacks, operation.concat_dim)]))
    return fused


def _split_ernie(operation: Any, lanes: Lanes, place: Place) -> Lanes:
    made: list[list[torch.Tensor]] = [[] for _ in place.targets]
    for lane in lanes:
        (tensor,) = lane.tensors
        stacked, cut = _axis(operation.stack_dim, tensor.ndim), _axis(operation.concat_dim, tensor.ndim)
        wanted = [place.shape(number, len(made[number])) for number in range(len(place.targets))]
        known = [(*shape[:stacked], 1, *shape[stacked:]) for shape in wanted if shape is not None]
        usable = len(known) == len(wanted) and all(len(shape) == tensor.ndim for shape in known)
        sizes = [shape[cut] for shape in known] if usable else _equal(tensor.shape[cut], len(wanted))
        for number, part in enumerate(_cut(tensor, cut, sizes)):
            made[number] += torch.unbind(part, stacked)
    return [Lane(target, tensors, indexed=True) for target, tensors in zip(place.targets, made, strict=True)]


def _element(value: Any, dtype: torch.dtype) -> torch.Tensor:
    """Return one element, which torch itself makes of a number."""
    if isinstance(value, str) and value.startswith("bits:"):
        digits = value.removeprefix("bits:0x")
        if len(digits) != 2 * dtype.itemsize:
            raise RefusedError("operation-argument")
        return torch.tensor(list(bytes.fromhex(digits))[::-1], dtype=torch.uint8).view(dtype)
    number = float(value) if isinstance(value, str) else value
    if not dtype.is_floating_point and (not isinstance(number, int) or not _holds(number, dtype)):
        raise RefusedError("operation-argument")
    made = torch.tensor([number], dtype=torch.float64 if dtype.is_floating_point else dtype)
    element = made.to(dtype)
    if not torch.equal(element.double(), made.double()) and number == number:
        raise RefusedError("operation-argument")
    return element


def _holds(number: int, dtype: torch.dtype) -> bool:
    if dtype == torch.bool:
        return number in (0, 1)
    return torch.iinfo(dtype).min <= number <= torch.iinfo(dtype).max


def _refuse_unlike(tensor: torch.Tensor, value: Any) -> None:
    """Refuse to cut off what does not hold a declared value, bit for bit."""
    element = _element(value, tensor.dtype)
    raw = tensor.contiguous().reshape(-1).view(torch.uint8).view(-1, tensor.dtype.itemsize)
    if not torch.equal(raw, element.view(torch.uint8).expand_as(raw)):
        raise RefusedError("padding-differs")


def _known_size(size: int | str | None, place: Place) -> int | None:
    try:
        return None if size is None else _size(size, place.config)
    except RefusedError:
        return None


def _padded_size(operation: Any, there: int, place: Place) -> int:
    step = _size(operation.multiple_of, place.config)
    return there + (-there % step)


def _pad(operation: Any, x: torch.Tensor, name: str, place: Place, wanted: Shape | None) -> torch.Tensor:
    axis = _axis(operation.dim, x.ndim)
    there = x.shape[axis]
    if _known_size(operation.source_size, place) not in (None, there):
        raise RefusedError("shape-mismatch")
    if operation.multiple_of is not None:
        size = _padded_size(operation, there, place)
    else:
        size = _said_size(operation, x, axis, wanted, place)
    if size < there:
        raise RefusedError("shape-mismatch")
    if size == there:
        return x
    rows = [*x.shape[:axis], size - there, *x.shape[axis + 1 :]]
    return torch.cat([x, _element(operation.value, x.dtype).expand(prod(rows)).reshape(rows)], axis)


def _said_size(operation: Any, x: torch.Tensor, axis: int, wanted: Shape | None, place: Place) -> int:
    if isinstance(operation.size, int):
        return operation.size
    if wanted is not None and len(wanted) == x.ndim:
        return wanted[axis]
    if operation.size is None:
        raise RefusedError("operation-argument")
    return _size(operation.size, place.config)


def _trim(operation: Any, x: torch.Tensor, name: str, place: Place, wanted: Shape | None) -> torch.Tensor:
    axis = _axis(operation.dim, x.ndim)
    size = _said_size(operation, x, axis, wanted, place)
    before = x.shape[axis]
    if operation.multiple_of is not None:
        before = _padded_size(operation, size, place)
    else:
        before = _known_size(operation.source_size, place) or before
    if before != x.shape[axis] or size > before:
        raise RefusedError("shape-mismatch")
    if size == before:
        return x
    kept, rest = torch.split(x, [size, before - size], axis)
    _refuse_unlike(rest, operation.value)
    return kept


def _insert(operation: Any, lanes: Lanes, place: Place) -> Lanes:
    tensors = [tensor for lane in lanes for tensor in lane.tensors]
    if operation.part > len(lanes) or any(lane.indexed for lane in lanes):
        raise RefusedError("operation-arity")
    if len({tensor.dtype for tensor in tensors}) > 1:
        raise RefusedError("dtype-mismatch")
    shape = [_size(size, place.config) for size in operation.shape]
    made = _element(operation.value, tensors[0].dtype).expand(prod(shape)).reshape(shape)
    return [*lanes[: operation.part], Lane("constant", [made.clone()]), *lanes[operation.part :]]


def _remove(operation: Any, lanes: Lanes, place: Place) -> Lanes:
    if operation.part >= len(lanes) or len(lanes) < 2 or any(lane.indexed for lane in lanes):
        raise RefusedError("operation-arity")
    (tensor,) = lanes[operation.part].tensors
    said = zip(operation.shape, tensor.shape, strict=False)
    if len(operation.shape) != tensor.ndim or any(isinstance(one, int) and one != size for one, size in said):
        raise RefusedError("shape-mismatch")
    _refuse_unlike(tensor, operation.value)
    return [*lanes[: operation.part], *lanes[operation.part + 1 :]]


def _on(operation: Any, lanes: Lanes, place: Place) -> Lanes:
    if max(operation.parts) >= len(lanes):
        raise RefusedError("operation-arity")
    alike = len(lanes) == len(place.targets)
    done = []
    for number, lane in enumerate(lanes):
        if number in operation.parts:
            own = Place((lane.name,), place.shapes[number : number + 1] if alike else (), config=place.config)
            done += OPERATIONS[type(operation.apply).__name__](operation.apply, [lane], own)
        else:
            done.append(lane)
    return done


def _transpose(operation: Any, x: torch.Tensor, name: str, place: Place, wanted: Shape | None) -> torch.Tensor:
    turned = x.transpose(_axis(operation.dim0, x.ndim), _axis(operation.dim1, x.ndim))
    if not operation.check_dims:
        return turned
    if wanted is None:
        raise RefusedError("operation-argument")
    if wanted not in (x.shape, turned.shape):
        raise RefusedError("shape-mismatch")
    if x.shape == turned.shape:
        raise RefusedError("layout-ambiguous")
    return turned if wanted == turned.shape else x


def _permute(operation: Any, x: torch.Tensor, name: str, place: Place, wanted: Shape | None) -> torch.Tensor:
    if len(operation.dims) != x.ndim:
        raise RefusedError("shape-mismatch")
    return x.permute(operation.dims)


def _reshape(operation: Any, x: torch.Tensor, name: str, place: Place, wanted: Shape | None) -> torch.Tensor:
    for shape in filter(None, (operation.source_shape, operation.shape)):
        known = prod(size for size in shape if size != -1)
        if shape.count(-1) > 1 or (x.numel() % known if -1 in shape and known else known != x.numel()):
            raise RefusedError("shape-mismatch")
    if operation.source_shape is not None and x.reshape(operation.source_shape).shape != x.shape:
        raise RefusedError("shape-mismatch")
    return x.reshape(operation.shape)


def _halves(x: torch.Tensor, axis: int, back: bool) -> torch.Tensor:
    """Gather every other slice into halves; `back` lets two halves alternate."""
    count = x.shape[axis]
    if count % 2:
        raise RefusedError("split-unequal")
    order = [*range(0, count, 2), *range(1, count, 2)]
    if back:
        order = [order.index(at) for at in range(count)]
    return x.index_select(axis, torch.tensor(order, dtype=torch.long))


def _interleave(operation: Any, x: torch.Tensor, name: str, place: Place, wanted: Shape | None) -> torch.Tensor:
    return _halves(x, _axis(operation.dim, x.ndim), operation.is_inverse)


def _setting(config: Any, name: str) -> int:
    for part in name.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    if type(config) is not int or config < 1:
        raise RefusedError("operation-config")
    return config


def _rope(operation: Any, x: torch.Tensor, name: str, place: Place, wanted: Shape | None) -> torch.Tensor:
    named = operation.permute_layer_names
    if named is not None and not any(text in name for text in named):
        return x
    setting = operation.num_heads or "num_attention_heads"
    path = f"{operation.subconfig_key}.{setting}" if operation.subconfig_key else setting
    heads = setting if isinstance(setting, int) else _setting(place.config, path)
    if x.ndim not in (1, 2):
        raise RefusedError("shape-mismatch")
    if heads < 1 or x.shape[0] % (2 * heads):
        raise RefusedError("split-unequal")
    return torch.cat([_halves(head, 0, operation.is_inverse) for head in x.chunk(heads)]) if x.shape[0] else x


def _conv_to_linear(operation: Any, x: torch.Tensor, name: str, place: Place, wanted: Shape | None) -> torch.Tensor:
    if tuple(x.shape[1:]) != (operation.in_channels, *operation.kernel_size):
        raise RefusedError("shape-mismatch")
    return x.flatten(1)


def _linear_to_conv(operation: Any, x: torch.Tensor, name: str, place: Place, wanted: Shape | None) -> torch.Tensor:
    kernel = (operation.in_channels, *operation.kernel_size)
    if x.ndim != 2 or x.shape[1] != prod(kernel):
        raise RefusedError("shape-mismatch")
    return x.reshape(x.shape[0], *kernel)


def _axes(side: str, rest: int) -> list[list[str]]:
    """Return the names that each axis of one side is made of; the ellipsis is `rest` axes."""
    axes: list[list[str]] = []
    for group in re.findall(r"\([^)]*\)|[^\s()]+", side):
        if group == "...":
            axes += [[f"...{number}"] for number in range(rest)]
        else:
            axes.append([name for name in group.strip("()").split() if name != "1"])
    return axes


def _rearrange(operation: Any, x: torch.Tensor, name: str, place: Place, wanted: Shape | None) -> torch.Tensor:
    before, after = operation.pattern.split("->")
    rest = x.ndim - len(_axes(before, 0))
    if rest < 0 or (rest and "..." not in before):
        raise RefusedError("shape-mismatch")
    left, right = _axes(before, rest), _axes(after, rest)
    sizes = {axis: size if isinstance(size, int) else _setting(place.config, size) for axis, size in operation.lengths}
    for names, size in zip(left, x.shape, strict=True):
        known, unknown = prod(sizes.get(each, 1) for each in names), [each for each in names if each not in sizes]
        if len(unknown) > 1 or size % known or (not unknown and size != known):
            raise RefusedError("split-unequal")
        sizes |= dict.fromkeys(unknown, size // known)
    order = [each for names in left for each in names]
    turned = x.reshape([sizes[each] for each in order]).permute(
        [order.index(each) for names in right for each in names]
    )
    return turned.reshape([prod(sizes[each] for each in names) for names in right])


def _size(size: int | str, config: Any) -> int:
    return size if isinstance(size, int) else prod(_setting(config, name) for name in size.split("*"))


def _reorder(operation: Any, x: torch.Tensor, name: str, place: Place, wanted: Shape | None) -> torch.Tensor:
    axis, order = _axis(operation.dim, x.ndim), operation.order
    if operation.sizes is None:
        sizes = _equal(x.shape[axis], len(order))
    else:
        sizes = [_size(size, place.config) for size in operation.sizes]
    if sum(sizes) != x.shape[axis]:
        raise RefusedError("shape-mismatch")
    ranks = [1 if n is None else _size(n, place.config) for n in (operation.source_stripes, operation.target_stripes)]
    pieces = [[_equal(size, count)[0] for size in sizes] for count in ranks]
    read = [rank.split(pieces[0], axis) for rank in x.split([x.shape[axis] // ranks[0]] * ranks[0], axis)]
    parts = [torch.cat([rank[part] for rank in read], axis) for part in order]
    written = [part.split([pieces[1][at]] * ranks[1], axis) for at, part in zip(order, parts, strict=True)]
    return torch.cat([part[rank] for rank in range(ranks[1]) for part in written], axis)


def _cast(operation: Any, x: torch.Tensor, name: str, place: Place, wanted: Shape | None) -> torch.Tensor:
    if operation.source_dtype is not None and DTYPES[operation.source_dtype] != x.dtype:
        raise RefusedError("dtype-mismatch")
    return x.to(DTYPES[operation.dtype])


DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}

OPERATIONS: dict[str, Run] = {
    "Cast": _each(_cast),
    "Chunk": _chunk,
    "Concatenate": _concatenate,
    "Conv3dToLinear": _each(_conv_to_linear),
    "ErnieFuseAndSplitTextVisionExperts": _fuse_ernie,
    "ErnieSplitAndDecoupleTextVisionExperts": _split_ernie,
    "Interleave": _each(_interleave),
    "LinearToConv3d": _each(_linear_to_conv),
    "InsertConstant": _insert,
    "MergeEqual": _merge_equal,
    "MergeModulelist": _merge,
    "On": _on,
    "Pad": _each(_pad),
    "Permute": _each(_permute),
    "PermuteForRope": _each(_rope),
    "Rearrange": _each(_rearrange),
    "RemoveConstant": _remove,
    "Reorder": _each(_reorder),
    "Repeat": _repeat,
    "Reshape": _each(_reshape),
    "Split": _split,
    "SplitModulelist": _unmerge,
    "Transpose": _each(_transpose),
    "Trim": _each(_trim),
}
"""Every operation by its name."""
