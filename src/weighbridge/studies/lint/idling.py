"""Find what a converter says without effect: operations that change nothing, and parts that are all there are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from weighbridge.base.errors import LayoutError
from weighbridge.mappings.transforms import WeightConverter
from weighbridge.operations.chains import say_sizes
from weighbridge.operations.chosen_parts import On, Single
from weighbridge.operations.declaring.padding import Pad, RemoveConstant, Trim
from weighbridge.operations.movements import Permute, Transpose
from weighbridge.operations.ops import Operation
from weighbridge.operations.reordering import Reorder
from weighbridge.operations.replicas import MergeEqual
from weighbridge.studies.lint.findings import Finding
from weighbridge.studies.lint.rule_checks import Subject


def check_idle(subject: Subject) -> Iterator[Finding]:
    """Find converters whose operations move nothing: each leaves its tensors alone, or is undone by the next one.

    So is what names parts, and names all of them.
    """
    for number, transform in enumerate(subject.mapping):
        if not isinstance(transform, WeightConverter):
            continue
        if not _remaining(transform.operations):
            hint = "names alone: WeightRenaming; or correct the order, the axes or the stripes"
            yield subject.find("idle", "warning", [number], "the operations leave every tensor as it is", hint=hint)
        for operation, lanes in zip(transform.operations, transform.arity.count_lanes(), strict=True):
            if isinstance(operation, On) and len(operation.parts) == lanes:
                words, hint = f"{operation} names every part there is", f"{operation.apply} alone says the same"
                yield subject.find("idle", "warning", [number], words, hint=hint)


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


def _leaves_alone(operation: Operation | Single) -> bool:
    match operation:
        case Transpose(dim0, dim1):
            return dim0 == dim1
        case Permute(axes):
            return list(axes) == list(range(len(axes)))
        case Reorder(_, order, _, before, after):
            return list(order) == list(range(len(order))) and (before or 1) == (after or 1)
        case Pad(_, size, multiple_of, _, source_size) | Trim(_, size, multiple_of, _, source_size):
            return multiple_of == 1 or (isinstance(size, int) and size == source_size)
        case On():
            return _leaves_alone(operation.apply)
    return False


def _undoes(first: Operation, second: Operation) -> bool:
    if isinstance(first, MergeEqual | Trim | RemoveConstant):
        return False  # it may be undone, but has found that the values are what they must be
    try:
        return [first.inverse()] == say_sizes([first, second])[1:]
    except LayoutError:
        return False
