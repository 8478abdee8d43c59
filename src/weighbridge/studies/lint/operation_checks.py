"""The checks of what converters do to tensors, from their operations alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from weighbridge.base.errors import LayoutError
from weighbridge.mappings.transforms import WeightConverter
from weighbridge.operations.movements import Permute, Transpose
from weighbridge.operations.ops import Operation, invert
from weighbridge.operations.reordering import Reorder
from weighbridge.operations.replicas import MergeEqual, Repeat
from weighbridge.studies.lint.findings import Finding
from weighbridge.studies.lint.rule_checks import Subject


def check_idle(subject: Subject) -> Iterator[Finding]:
    """Find converters whose operations move nothing: each leaves its tensors alone, or is undone by the next one."""
    for number, transform in enumerate(subject.mapping):
        if isinstance(transform, WeightConverter) and not _remaining(transform.operations):
            hint = "names alone: WeightRenaming; or correct the order, the axes or the stripes"
            yield subject.find("idle", "warning", [number], "the operations leave every tensor as it is", hint=hint)


def _remaining(operations: Iterable[Operation]) -> list[Operation]:
    """Leave out what moves nothing, and pairs that undo each other."""
    left: list[Operation] = []
    for operation in operations:
        if _leaves_alone(operation):
            continue
        if left and _undoes(left[-1], operation):
            left.pop()
        else:
            left.append(operation)
    return left


def _leaves_alone(operation: Operation) -> bool:
    match operation:
        case Transpose(dim0, dim1):
            return dim0 == dim1
        case Permute(axes):
            return list(axes) == list(range(len(axes)))
        case Reorder(_, order, _, before, after):
            return list(order) == list(range(len(order))) and (before or 1) == (after or 1)
    return False


def _undoes(first: Operation, second: Operation) -> bool:
    if isinstance(first, MergeEqual):
        return False  # it may be undone, but has found that they are equal
    try:
        return invert([first]) == (second,)
    except LayoutError:
        return False


def check_uncounted(subject: Subject) -> Iterator[Finding]:
    """Find converters that make of one tensor as many equal ones as nobody says, on their way or on the way back."""
    for number, transform in enumerate(subject.mapping):
        if not isinstance(transform, WeightConverter):
            continue
        made = {type(operation) for operation in transform.operations if operation in (Repeat(), MergeEqual())}
        if Repeat in made and transform.arity.splits:
            yield _uncounted(subject, number, "only a target says how many tensors this makes")
        if MergeEqual in made and transform.arity.merges and number not in subject.legacy:
            yield _uncounted(
                subject, number, "the way back says how many tensors there were only by a record or a target"
            )


def _uncounted(subject: Subject, number: int, words: str) -> Finding:
    hint = "if they are always as many, write the number: times=..."
    return subject.find("uncounted", "warning", [number], words, hint=hint)
