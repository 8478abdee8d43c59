"""Tensors that share one storage, and so must be the same bytes.

Whatever fills one group of tied targets is sorted into classes of equal value. A model, a state dict, a stream and new
files are made only where there is one class, and where all else holds that a plan takes for granted: the values are
compared window by window, before anything is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from weighbridge.algebra.layout import windows
from weighbridge.base.batches import windows_of
from weighbridge.base.errors import PlanError
from weighbridge.base.specs import DTYPES
from weighbridge.base.spelling import exact_pattern
from weighbridge.planning.plan import Plan
from weighbridge.planning.program import Output, Program
from weighbridge.planning.steps import Fated, Step
from weighbridge.running.by_ranks.held_source import HeldSource
from weighbridge.running.execute import Slots
from weighbridge.running.taken_values import (
    COMPARED_BYTES,
    NOT_AS_TAKEN,
    broken_conditions,
    refuse_own,
    window_bytes,
)
from weighbridge.running.tensor_digests import digest_tensor

if TYPE_CHECKING:
    import torch

    from weighbridge.storage.protocol import Checkpoint


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


def check_values(
    plan: Plan, checkpoint: Checkpoint, ties: Mapping[str, str] | None = None, *, has_model: bool = False
) -> None:
    """Compare what fills targets of one storage, which must be the same bytes; and hold a plan's conditions to values.

    Args:
        plan: The plan.
        checkpoint: What it reads.
        ties: For each key that shares its storage, the key that stands for all of them; None for what the plan says.
        has_model: Whether there is a model, some of whose rows may stay as they are.

    Raises:
        PlanError: `plan-failed`, with a `tie-differs` for every class of values beyond the first, and the codes of
            `check_conditions`.
        CheckpointError: The codes of reading.
    """
    if not has_model:
        refuse_own(plan)
    problems = [
        differs(classes[0], other)
        for classes in value_classes(plan, checkpoint, dict(plan.twins) if ties is None else ties)
        for other in classes[1:]
    ]
    broken = list(broken_conditions(plan, checkpoint))
    if problems or broken:
        what = "tied tensors differ" if not broken else NOT_AS_TAKEN
        raise PlanError("plan-failed", what, problems=[*problems, *broken])


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
        yield window_bytes(window, output.dtype, slots)


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
    ties = checkpoint.header.ties
    if isinstance(checkpoint, HeldSource) and ties.get(key, key) != ties.get(other, other):
        return _are_equal_on_all(key, other, checkpoint)
    return same_values(_as_it_is(key, checkpoint), _as_it_is(other, checkpoint), checkpoint)


def _are_equal_on_all(key: str, other: str, held: HeldSource) -> bool:
    """Tell whether two tensors that several ranks hold are the same; all of them ask for it.

    Each says the digests of what it holds of both. What is spread in two ways cannot be compared so, and is taken to
    differ.
    """
    if held.header[key] != held.header[other]:
        return False
    said = [[_digest_of_part(each, held)] if each in held.parts else [] for each in (key, other)]

    def compare(words: Sequence[Sequence[Sequence[Sequence[str]]]]) -> list[bool]:
        one, two = ({tuple(part) for own in words for part in own[side] if part} for side in (0, 1))
        return [one == two] * len(words)

    found: bool = held.exchange.agree(f"whether {other} is still {key}", said, compare)
    return found


def _digest_of_part(key: str, held: HeldSource) -> list[str]:
    """Return which part of a tensor is held, and its digest; nothing of a part without elements."""
    part = held.parts[key]
    return [str(part.axes), digest_tensor(held.local, key)] if part.numel else []


def _as_it_is(key: str, checkpoint: Checkpoint) -> Value:
    return Value(Step((key,), (key,), Program.identity(checkpoint.header[key]), "carried"), 0)
