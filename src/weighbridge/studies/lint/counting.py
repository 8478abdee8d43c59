"""Find converters that do not say how many tensors there are, or how long an axis is."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from weighbridge.mappings.one_way import one_way_reason
from weighbridge.mappings.transforms import WeightConverter
from weighbridge.operations.chosen_parts import On
from weighbridge.operations.declaring.padding import Pad, Trim
from weighbridge.operations.groupings import Chunk, Concatenate, Split
from weighbridge.operations.ops import Operation
from weighbridge.operations.replicas import MergeEqual, Repeat
from weighbridge.studies.lint.findings import Finding
from weighbridge.studies.lint.rule_checks import Subject


def check_uncounted(subject: Subject) -> Iterator[Finding]:
    """Find converters that make as many tensors, or as long an axis, as nobody says, there or on the way back."""
    for number, transform in enumerate(subject.mapping):
        if isinstance(transform, WeightConverter):
            is_there_alone = number in subject.legacy or bool(one_way_reason(transform))
            yield from _uncounted_tensors(subject, number, transform, is_there_alone)
            yield from _unsized(subject, number, transform, is_there_alone)


def _uncounted_tensors(
    subject: Subject, number: int, transform: WeightConverter, is_there_alone: bool
) -> Iterator[Finding]:
    """Yield a finding for each direction in which nobody says how many tensors an index stands for.

    Those that are stacked say it themselves; those that are joined, cut, or equal do not.
    """
    counts = zip(transform.operations, pairwise(transform.arity.count_indices()), strict=True)
    changed = [(operation, after - before) for operation, (before, after) in counts if after != before]
    made = [operation for operation, more in changed if more > 0 and _is_silent(operation)]
    used = [operation for operation, more in changed if more < 0 and _is_silent(operation)]
    if made:
        words = "only a target says how many tensors this makes"
        yield _uncounted(subject, number, words, _COUNTED[type(made[0])])
    if used and not is_there_alone:
        words = "the way back says how many tensors there were only by a record or a target"
        yield _uncounted(subject, number, words, _COUNTED[type(used[0])])


def _is_silent(operation: Operation) -> bool:
    """Tell whether an operation leaves it open how many tensors there are."""
    match operation:
        case Repeat(times) | MergeEqual(times):
            return times is None
        case Concatenate(_, name, sizes, chunks):
            return name is None and sizes is None and chunks is None
        case Chunk(_, name, chunks):
            return name is None and chunks is None
        case Split(_, sizes):
            return sizes is None
    return False


_EQUAL: Final = "if they are always as many, write the number: times=..."
_PARTS: Final = "if they are always as many, write the number, chunks=..., or what each has, sizes=..., by a list of \
numbers or its name in the configuration"
_COUNTED: Final = {Repeat: _EQUAL, MergeEqual: _EQUAL, Concatenate: _PARTS, Chunk: _PARTS, Split: _PARTS}


def _unsized(subject: Subject, number: int, transform: WeightConverter, is_there_alone: bool) -> Iterator[Finding]:
    """Yield a finding for each direction in which an axis that is padded or trimmed has a size that nobody says."""
    applied = [each.apply if isinstance(each, On) else each for each in transform.operations]
    sizes = [each for each in applied if isinstance(each, Pad | Trim)]
    there = [each for each in sizes if each.size is None and not (isinstance(each, Pad) and each.multiple_of)]
    back = [each for each in sizes if each.source_size is None and not (isinstance(each, Trim) and each.multiple_of)]
    if there:
        words = f"only a target says the size that {there[0]} makes"
        yield _uncounted(subject, number, words, "write it: size=..., or a name of the configuration")
    if back and not is_there_alone:
        words = f"the way back of {back[0]} has its size only by a record or a target"
        yield _uncounted(subject, number, words, "write it: source_size=..., or a name of the configuration")


def _uncounted(subject: Subject, number: int, words: str, hint: str) -> Finding:
    return subject.find("uncounted", "warning", [number], words, hint=hint)
