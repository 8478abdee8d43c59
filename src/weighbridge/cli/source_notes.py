"""What a plan's source has to say: which dict of a torch file was chosen, and what was left aside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from weighbridge.api import Plan


def source_notes(plan: Plan) -> tuple[str, ...]:
    """Return the notes of what a plan reads."""
    notes: tuple[str, ...] = getattr(plan.binding.source, "notes", ())
    return notes


def note_lines(plan: Plan) -> Iterator[str]:
    """Write the notes of what a plan reads as lines of its report."""
    yield from (f"note      {note}" for note in source_notes(plan))


def report_form(plan: Plan) -> dict[str, Any]:
    """Return a report's JSON form, the notes of what the plan reads among its own."""
    form = plan.report.to_dict()
    return {**form, "notes": [*source_notes(plan), *form["notes"]]}
