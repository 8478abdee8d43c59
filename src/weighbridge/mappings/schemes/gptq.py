"""GPTQ: integers packed along the columns, stored with the columns first.

After `nn_modules/qlinear` of gptqmodel 7.7 and auto-gptq 0.7. `checkpoint_format` says whether zero points are stored
minus one (`gptq`) or as they are (`gptq_v2`).
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from weighbridge.mappings.schemes.said import Said, whole
from weighbridge.mappings.schemes.scheme import COLUMN, FLOATS, ROW, Member, Scheme, columns, rows


def read(said: Said) -> Iterator[Scheme]:
    """Yield the scheme that the configuration says."""
    bits = whole(said.config.get("bits"))
    if said.method != "gptq" or bits is None:
        return
    size, dense = whole(said.config.get("group_size")), Fraction(32, bits)
    members = (
        Member(".qweight", "codes", (columns(dense), ROW), ("I32",), "codes"),
        Member(".qzeros", "zero points", (columns(size), rows(dense)), ("I32",)),
        Member(".scales", "scales", (columns(size), ROW), FLOATS),
        Member(".g_idx", "the groups of columns", (COLUMN,), ("I32",), "numbered", is_needed=False),
    )
    version = said.config.get("checkpoint_format", "undeclared")
    order = ", in the order of activations" if said.config.get("desc_act") else ""
    groups = f"groups of {size} columns" if size else "one group of columns"
    yield Scheme(f"int{bits} in {groups}{order}, format {version}", (members,))
