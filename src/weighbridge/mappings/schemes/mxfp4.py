"""MXFP4 as gpt-oss publishes it: blocks of 32 columns as 16 bytes, with a power of two for each.

After `integrations/mxfp4.py` of transformers 5.23. Gate and up alternate by row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from weighbridge.mappings.schemes.dialects import READ_BY_TRANSFORMERS
from weighbridge.mappings.schemes.said import Said
from weighbridge.mappings.schemes.scheme import FLOATS_OF_4_BITS, ROW, Along, Axis, Formula, Member, Scheme, columns

METHOD: Final = "mxfp4"

NAMES: Final = READ_BY_TRANSFORMERS


def read(said: Said) -> Iterator[Scheme]:
    """Yield the scheme that the configuration says."""
    if said.method == METHOD:
        axes = (ROW, columns(32), Along(Axis.INSIDE, 16))
        members = (
            Member("_blocks", "codes", axes, ("U8",), "codes", coding=FLOATS_OF_4_BITS),
            Member("_scales", "scales", (ROW, columns(32)), ("U8", "F8_E8M0"), role="scale"),
        )
        yield Scheme("MXFP4 in blocks of 32 columns", (members,), formula=Formula(is_turned=True))
