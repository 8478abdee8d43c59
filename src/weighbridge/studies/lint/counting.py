"""Find converters that do not say how many equal tensors there are, or how long an axis is."""

from __future__ import annotations

from collections.abc import Iterator

from weighbridge.mappings.transforms import WeightConverter
from weighbridge.operations.chosen_parts import On
from weighbridge.operations.declaring.padding import Pad, Trim
from weighbridge.operations.replicas import MergeEqual, Repeat
from weighbridge.studies.lint.findings import Finding
from weighbridge.studies.lint.rule_checks import Subject


def check_uncounted(subject: Subject) -> Iterator[Finding]:
    """Find converters that make as many equal tensors, or as long an axis, as nobody says, there or on the way back."""
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

        yield from _unsized(subject, number, transform)


def _unsized(subject: Subject, number: int, transform: WeightConverter) -> Iterator[Finding]:
    """Yield a finding for each direction in which an axis that is padded or trimmed has a size that nobody says."""
    applied = [each.apply if isinstance(each, On) else each for each in transform.operations]
    sizes = [each for each in applied if isinstance(each, Pad | Trim)]
    there = [each for each in sizes if each.size is None and not (isinstance(each, Pad) and each.multiple_of)]
    back = [each for each in sizes if each.source_size is None and not (isinstance(each, Trim) and each.multiple_of)]
    if there:
        words = f"only a target says the size that {there[0]} makes"
        yield _uncounted(subject, number, words, "write it: size=..., or a name of the configuration")
    if back and number not in subject.legacy:
        words = f"the way back of {back[0]} has its size only by a record or a target"
        yield _uncounted(subject, number, words, "write it: source_size=..., or a name of the configuration")


def _uncounted(
    subject: Subject, number: int, words: str, hint: str = "if they are always as many, write the number: times=..."
) -> Finding:
    return subject.find("uncounted", "warning", [number], words, hint=hint)
