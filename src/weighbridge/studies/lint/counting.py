"""Find converters that do not say how many equal tensors there are."""

from __future__ import annotations

from collections.abc import Iterator

from weighbridge.mappings.transforms import WeightConverter
from weighbridge.operations.replicas import MergeEqual, Repeat
from weighbridge.studies.lint.findings import Finding
from weighbridge.studies.lint.rule_checks import Subject


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
