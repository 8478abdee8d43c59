"""The file that says which parts of tensors a process holds."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from weighbridge.algebra.held_parts import Part
from weighbridge.base.errors import PlanError, WeighbridgeError
from weighbridge.base.forms.json_forms import table
from weighbridge.base.json_text import JsonError, parse_json
from weighbridge.storage.places.regular_files import read_small_file

MAX_PARTS_BYTES: Final = 200_000_000
"""Limit for the file; that of a model of 90,000 tensors has a tenth of it."""


def read_parts(path: Path) -> dict[str, Part]:
    """Read parts by key, each in the form that `Part.to_dict` gives.

    Raises:
        PlanError: `plan-format` for a file that holds something else.
        LayoutError: `axis-out-of-range` for intervals that lie outside their tensor.
        CheckpointError: `checkpoint-not-found`, `read-failed`.
    """
    raw, _ = read_small_file(path, MAX_PARTS_BYTES)
    try:
        form = parse_json(raw)
    except JsonError as problem:
        what, expected = "this file holds no parts", "JSON: {key: part.to_dict() for key, part in parts.items()}"
        raise PlanError("plan-format", what, where=str(path), expected=expected, got=str(problem)) from None
    found: dict[str, Part] = {}
    key = ""
    try:
        for key, part in table(form).items():
            found[key] = Part.from_dict(part)
    except WeighbridgeError as problem:
        raise problem.with_context(where=f"{path}: {key}") from None
    return found
