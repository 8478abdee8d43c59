"""AWQ, version gemm: integers of 4 bits packed along the rows in the order 0, 2, 4, 6, 1, 3, 5, 7, columns first.

After `modules/linear/gemm.py` of autoawq 0.2.7.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Final

from weighbridge.mappings.schemes.dialects import PART, NamesAt
from weighbridge.mappings.schemes.said import Said, whole
from weighbridge.mappings.schemes.scheme import (
    COLUMN,
    FLOATS,
    ROW,
    Axis,
    Coding,
    Formula,
    Member,
    Scheme,
    Setting,
    columns,
    rows,
)

METHOD: Final = "awq"

NAMES: Final = (NamesAt("modules_to_not_convert", PART),)

_WORDS: Final = Coding(4, Axis.ROWS, order=(0, 4, 1, 5, 2, 6, 3, 7))


def read(said: Said) -> Iterator[Scheme]:
    """Yield the scheme that the configuration says."""
    version = said.config.get("version", "gemm")
    if said.method != METHOD or whole(said.config.get("bits")) != 4 or str(version).lower() != "gemm":
        return
    size = whole(said.config.get("group_size"))
    members = (
        Member(".qweight", "codes", (COLUMN, rows(8)), ("I32",), "codes", coding=_WORDS),
        Member(".qzeros", "zero points", (columns(size), rows(Fraction(8))), ("I32",), role="zero", coding=_WORDS),
        Member(".scales", "scales", (columns(size), ROW), FLOATS, role="scale"),
    )
    groups = f"groups of {size} columns" if size else "one group of columns"
    setting = Setting(("group_size",), (size,)) if size else None
    yield Scheme(f"int4 in {groups}, version gemm", (members,), formula=Formula(dtype=""), setting=setting)
