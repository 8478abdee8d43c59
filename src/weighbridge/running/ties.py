"""Tensors that must be the same bytes: those that share one storage, and those that are to become one.

Whatever fills one group of tied targets is sorted into classes of equal value. A model, a state dict, a stream and new
files are made only where there is one class, and where all that a plan takes to be equal is: the values are compared
window by window, before anything is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from weighbridge.algebra.layout import Layout, flat, windows
from weighbridge.base.batches import windows_of
from weighbridge.base.errors import PlanError
from weighbridge.base.specs import DTYPES, TensorSpec, coordinates
from weighbridge.base.spelling import exact_pattern
from weighbridge.planning.companions import quantised_keys
from weighbridge.planning.plan import Plan
from weighbridge.planning.program import Output, Program
from weighbridge.planning.steps import Fated, Step
from weighbridge.running.execute import Slots, allocate, fill

if TYPE_CHECKING:
    import torch

    from weighbridge.storage.protocol import Checkpoint

COMPARED_BYTES: Final = 2**20
"""How much of each of two values is held at a time."""


class Value(NamedTuple):
    """What a step writes as one of its targets."""

    step: Step
    number: int

    @property
    def key(self) -> str:
        """The target's key."""
        return self.step.targets[self.number]

    @property
    def output(self) -> Output:
        """How it is made."""
        return self.step.program.targets[self.number]


def check_values(plan: Plan, checkpoint: Checkpoint, ties: Mapping[str, str] | None = None) -> None:
    """Compare what fills targets of one storage, and what are to be equal sources; it must be the same bytes.

    Args:
        plan: The plan.
        checkpoint: What it reads.
        ties: For each key that shares its storage, the key that stands for all of them; None for what the plan says.

    Raises:
        PlanError: `plan-failed`, with a `tie-differs` for every class of values beyond the first, and a
            `sources-differ` for every way beyond the first in which a target would be made otherwise, or a
            `companion-differs` where that belongs to a quantised weight.
        CheckpointError: The codes of reading.
    """
    problems = [
        differs(classes[0], other)
        for classes in value_classes(plan, checkpoint, dict(plan.twins) if ties is None else ties)
        for other in classes[1:]
    ]
    unequal = list(_unequal_sources(plan, checkpoint))
    if problems or unequal:
        what = "tied tensors differ" if not unequal else "tensors that must be equal differ"
        raise PlanError("plan-failed", what, problems=[*problems, *unequal])


def check_equal(plan: Plan, checkpoint: Checkpoint) -> None:
    """Compare the sources that must be equal, and nothing else.

    Raises:
        PlanError: `plan-failed`, with each `sources-differ` and `companion-differs`.
        CheckpointError: The codes of reading.
    """
    problems = list(_unequal_sources(plan, checkpoint))
    if problems:
        raise PlanError("plan-failed", "tensors that must be equal differ", problems=problems)


def _unequal_sources(plan: Plan, checkpoint: Checkpoint) -> Iterator[PlanError]:
    for step in plan.steps:
        for key, number, element in first_differences(step, checkpoint):
            one, other = (_Element.of(step, way, element) for way in (step.writes[key], number))
            if one.key in quantised_keys(plan.source):
                yield _companions_differ(key, one, other, checkpoint)
            else:
                yield _sources_differ(key, one, other, checkpoint, is_back=bool(plan.is_back))


def first_differences(step: Step, checkpoint: Checkpoint) -> Iterator[tuple[str, int, int]]:
    """Compare what a step takes to be equal, before any cast: what differs is not the same, though it may be rounded.

    Two windows of a tensor are held at a time, and what has differed is not looked at again.

    Args:
        step: The step.
        checkpoint: What it reads.

    Yields:
        A target, the number of an output that does not give the same as the first one, and the first element of it
        that differs.
    """
    compared = step.program.uncast if step.fate == "checked" else None
    if compared is None:
        return
    slots = Slots(replace(step, program=compared), checkpoint)
    for key in step.writes:
        ways = [number for number, target in enumerate(step.targets) if target == key]
        yield from ((key, number, element) for number, element in _unlike_the_first(slots, ways))


def _unlike_the_first(slots: Slots, ways: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield each of some ways of making a target that does not give what the first one does, with an element."""
    outputs = [slots.step.program.targets[number] for number in ways]
    dtype = outputs[0].dtype
    most = max(1, COMPARED_BYTES // (DTYPES[dtype].bits // 8))
    start, left = 0, dict(enumerate(ways))
    del left[0]
    for parts in zip(*(windows(output.layout, most) for output in outputs), strict=True):
        first = _window(parts[0], dtype, slots)
        for place, number in list(left.items()):
            unequal = (first != _window(parts[place], dtype, slots)).nonzero()
            if unequal.numel():
                del left[place]
                yield number, start + int(unequal[0]) // DTYPES[dtype].itemsize
        start += parts[0].numel


class _Element(NamedTuple):
    """One element of a source: its key, and where it is."""

    key: str
    spec: TensorSpec
    number: int

    @staticmethod
    def of(step: Step, number: int, element: int) -> _Element:
        """Return what an element of a target is made of."""
        program, layout = step.program, step.program.targets[number].layout
        while True:
            copy = flat(layout, element, element + 1).copies[0]
            if copy.source < len(step.sources):
                return _Element(step.sources[copy.source], program.sources[copy.source], copy.source_start)
            layout, element = program.temporaries[copy.source - len(step.sources)].layout, copy.source_start

    def text(self, checkpoint: Checkpoint) -> str:
        """Write where the element is, and its bytes."""
        size_bytes = DTYPES[self.spec.dtype].bits // 8
        raw = bytearray(size_bytes)
        checkpoint.read(self.key, self.number * size_bytes, memoryview(raw))
        place = ", ".join(map(str, coordinates(self.number, self.spec.shape)))
        return f"{self.key}[{place}] is {_value(raw, self.spec.dtype)}, 0x{raw[::-1].hex()}"


def _value(raw: bytearray, dtype: str) -> str:
    import torch

    from weighbridge.storage.formats.torch_tensors import dtype_of

    return str(torch.frombuffer(raw, dtype=dtype_of(dtype)).item())


def _sources_differ(key: str, one: _Element, other: _Element, checkpoint: Checkpoint, *, is_back: bool) -> PlanError:
    hint = "give each a target of its own, or rename the one that is meant and drop the others"
    return PlanError(
        "sources-differ",
        "these sources are to become one target, and differ",
        where=key,
        expected="the same bytes in both",
        got=f"{one.text(checkpoint)}\n{other.text(checkpoint)}",
        hint='save the model under its own names by layout="as is", or through other rules' if is_back else hint,
    )


def _companions_differ(key: str, one: _Element, other: _Element, checkpoint: Checkpoint) -> PlanError:
    return PlanError(
        "companion-differs",
        "these belong to quantised weights that are to become one, and differ",
        where=key,
        expected="the same bytes in both",
        got=f"{one.text(checkpoint)}\n{other.text(checkpoint)}",
        hint="narrow the rule to other weights, or quantise these with one scale",
    )


def value_classes(plan: Plan, checkpoint: Checkpoint, ties: Mapping[str, str]) -> list[list[list[Value]]]:
    """Sort what fills targets of one storage into classes of equal value.

    Args:
        plan: The plan.
        checkpoint: What it reads.
        ties: As for `check_values`.

    Returns:
        For each storage that is filled more than once, its classes, in the order of the plan's steps.
    """
    representatives = set(ties.values())
    groups: dict[str, list[Value]] = {}
    for step in plan.steps:
        for key, number in step.writes.items():
            if key in ties or key in representatives:
                groups.setdefault(ties.get(key, key), []).append(Value(step, number))
    return [_classes(values, checkpoint) for values in groups.values() if len(values) > 1]


def _classes(values: Iterable[Value], checkpoint: Checkpoint) -> list[list[Value]]:
    classes: list[list[Value]] = []
    for value in values:
        alike = next((alike for alike in classes if same_values(alike[0], value, checkpoint)), None)
        if alike is None:
            classes.append([value])
        else:
            alike.append(value)
    return classes


def shared_targets(plan: Plan, checkpoint: Checkpoint) -> dict[str, str]:
    """Find targets that are known to hold the same: tied by the plan, or made alike of what the source has tied.

    Args:
        plan: The plan.
        checkpoint: What it reads.

    Returns:
        For each of them but the first by name, that first one.
    """
    groups: dict[str, set[str]] = {}
    pairs = [
        *((fated.key, fated.by) for fated in plan.tied_targets),
        *plan.twins,
        *_alike(plan, checkpoint.header.ties),
    ]
    for one, other in pairs:
        joined = groups.setdefault(one, {one}) | groups.setdefault(other, {other})
        groups.update(dict.fromkeys(joined, joined))
    return {key: min(group) for key, group in groups.items() if key != min(group)}


def _alike(plan: Plan, ties: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield pairs of targets that the same program makes of sources that share their storages."""
    tied = {*ties, *ties.values()}
    first: dict[tuple[Program, tuple[str, ...]], Step] = {}
    for step in plan.steps:
        if tied.isdisjoint(step.sources):
            continue
        twin = first.setdefault((step.program, tuple(ties.get(key, key) for key in step.sources)), step)
        yield from zip(twin.targets, step.targets, strict=True) if twin is not step else ()


def differs(first: Sequence[Value], other: Sequence[Value]) -> PlanError:
    """Make the error for two classes of values that are to fill one storage."""
    remedy = how_to_drop([other, first])
    return PlanError(
        "tie-differs",
        "these tensors share one parameter of the model, and differ",
        where=other[0].key,
        got=f"{_sources(other)} against {_sources(first)}",
        hint=f"{remedy}, or untie the model" if remedy else "untie the model",
    )


def _sources(values: Sequence[Value]) -> str:
    keys = dict.fromkeys(key for value in values for key in value.step.sources)
    return ", ".join(list(keys)[:3])


def how_to_drop(classes: Iterable[Sequence[Value]]) -> str:
    """Say how a caller drops the first of some classes that can be dropped: its tensors fill nothing else."""
    for values in classes:
        steps = [value.step for value in values]
        if all(len(step.sources) == len(step.targets) == 1 for step in steps):
            keys = dict.fromkeys(step.sources[0] for step in steps)
            return f"drop what is not meant, such as drop={[exact_pattern(key) for key in keys]} (--drop)"
    return ""


def same_values(one: Value, other: Value, checkpoint: Checkpoint) -> bool:
    """Tell whether two values of a plan are the same: dtype, shape and bytes."""
    if one.output.spec != other.output.spec:
        return False
    if one.step.program.is_identity and other.step.program.is_identity:
        keys = [value.step.sources[0] for value in (one, other)]
        ties = checkpoint.header.ties
        if ties.get(keys[0], keys[0]) == ties.get(keys[1], keys[1]):
            return True
    import torch

    pairs = zip(_parts(one, checkpoint), _parts(other, checkpoint), strict=True)
    return all(torch.equal(part, twin) for part, twin in pairs)


def _parts(value: Value, checkpoint: Checkpoint) -> Iterator[torch.Tensor]:
    """Yield a value's bytes in row-major order, a part at a time; each part lasts until the next is asked for."""
    step, output = value.step, value.output
    if DTYPES[output.dtype].kind == "packed":
        yield from _packed_parts(step.sources[0], output, checkpoint)
        return
    slots = Slots(step, checkpoint)
    most = max(1, COMPARED_BYTES // (DTYPES[output.dtype].bits // 8))
    for window in windows(output.layout, most):
        yield _window(window, output.dtype, slots)


def _window(window: Layout, dtype: str, slots: Slots) -> torch.Tensor:
    """Return the bytes of a part of a value."""
    import torch

    part = allocate(TensorSpec(dtype, window.shape))
    fill(part, window, slots, dtype)
    return part.view(torch.uint8)


def _packed_parts(key: str, output: Output, checkpoint: Checkpoint) -> Iterator[torch.Tensor]:
    """Yield the bytes of a tensor whose elements are smaller than a byte, and which moves whole."""
    import torch

    for start, stop in windows_of(output.spec.size_bytes):
        buffer = bytearray(stop - start)
        checkpoint.read(key, start, memoryview(buffer))
        yield torch.frombuffer(buffer, dtype=torch.uint8)


def broken_ties(tied: Iterable[Fated], checkpoint: Checkpoint) -> Iterator[str]:
    """Yield the keys of tensors that were tied to another one, and hold something else than that now.

    Args:
        tied: Tensors, each with what it was tied to.
        checkpoint: What holds them, or has lost one of the two.
    """
    for key, _, twin in tied:
        if key not in checkpoint.header or twin not in checkpoint.header:
            continue
        if not are_equal(key, twin, checkpoint):
            yield key


def check_standing_ties(plan: Plan, checkpoint: Checkpoint) -> None:
    """Check that what a plan leaves unread because it is tied still holds what its twin holds.

    Raises:
        PlanError: `tie-differs`.
    """
    twins = {fated.key: fated.by for fated in plan.tied_sources}
    for key in broken_ties(plan.tied_sources, checkpoint):
        raise PlanError(
            "tie-differs",
            "these tensors were one when they were loaded, and differ now",
            where=key,
            got=f"{twins[key]} holds something else",
            hint="this plan has a place for one of them: tie them again; save(model, out) saves both",
        )


def are_equal(key: str, other: str, checkpoint: Checkpoint) -> bool:
    """Tell whether two tensors of a checkpoint are the same: dtype, shape and bytes."""
    return same_values(_as_it_is(key, checkpoint), _as_it_is(other, checkpoint), checkpoint)


def _as_it_is(key: str, checkpoint: Checkpoint) -> Value:
    return Value(Step((key,), (key,), Program.identity(checkpoint.header[key]), "carried"), 0)
