"""GPTQ: integers packed along the columns, stored with the columns first.

After `nn_modules/qlinear` of gptqmodel 7.7 and auto-gptq 0.7. `checkpoint_format` says whether zero points are stored
minus one (`gptq`) or as they are (`gptq_v2`).
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Final

from weighbridge.mappings.schemes.dialects import BLOCKS, EXACT, GPTQ, READ_BY_TRANSFORMERS, SEGMENTS, NamesAt, named_at
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

METHOD: Final = "gptq"

NAMES: Final = (
    NamesAt("dynamic", GPTQ),
    *named_at(("modules_in_block_to_quantize", "inside_layer_modules"), SEGMENTS),
    NamesAt("block_name_to_quantize", BLOCKS),
    NamesAt("module_name_preceding_first_block", EXACT),
    *READ_BY_TRANSFORMERS,
)

_LESS: Final = {"gptq": -1, "gptq_v2": 0}


def read(said: Said) -> Iterator[Scheme]:
    """Yield the scheme that the configuration says."""
    bits = whole(said.config.get("bits"))
    if said.method != METHOD or bits is None:
        return
    size, dense = whole(said.config.get("group_size")), Fraction(32, bits)
    version = str(said.config.get("checkpoint_format", "undeclared"))
    # What is stored is one less, which is taken off with its opposite sign.
    zeros = Coding(bits, Axis.ROWS, less=_LESS.get(version, 0))
    members = (
        Member(".qweight", "codes", (columns(dense), ROW), ("I32",), "codes", coding=Coding(bits)),
        Member(".qzeros", "zero points", (columns(size), rows(dense)), ("I32",), role="zero", coding=zeros),
        Member(".scales", "scales", (columns(size), ROW), FLOATS, role="scale"),
        Member(".g_idx", "the groups of columns", (COLUMN,), ("I32",), "numbered", is_needed=False),
    )
    formula = Formula() if version in _LESS else f"its checkpoint_format is {version}, which decides on its zero points"
    order = ", in the order of activations" if said.config.get("desc_act") else ""
    groups = f"groups of {size} columns" if size else "one group of columns"
    setting = Setting(("group_size",), (size,)) if size else None
    yield Scheme(f"int{bits} in {groups}{order}, format {version}", (members,), formula=formula, setting=setting)
