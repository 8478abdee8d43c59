"""MLX: codes packed along the columns, with scales and biases for groups of columns, or scales alone for its FP4s.

After `mlx.nn.layers.quantized` of mlx 0.32.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Final

from weighbridge.mappings.schemes.dialects import EXACT, NamesAt
from weighbridge.mappings.schemes.said import Said, whole
from weighbridge.mappings.schemes.scheme import (
    FLOATS,
    FLOATS_OF_4_BITS,
    ROW,
    Coding,
    Formula,
    Member,
    Scheme,
    Setting,
    columns,
)

METHOD: Final = "mlx"

NAMES: Final = (NamesAt("", EXACT),)


def read(said: Said) -> Iterator[Scheme]:
    """Yield the scheme that the configuration says for all modules; it may say others for some by name."""
    bits, size = whole(said.config.get("bits")), whole(said.config.get("group_size"))
    if said.method != METHOD or bits is None or size is None:
        return
    mode = str(said.config.get("mode", "affine"))
    is_affine = mode == "affine"
    scales = FLOATS if is_affine else ("U8",)
    formula = Formula(dtype="" if is_affine else "F32") if mode in ("affine", "mxfp4") else f"its mode is {mode}"
    coding = Coding(bits) if is_affine else FLOATS_OF_4_BITS
    members = [
        Member(".weight", "codes", (ROW, columns(Fraction(32, bits))), ("U32",), "codes", coding=coding),
        Member(".scales", "scales", (ROW, columns(size)), scales, role="scale"),
    ]
    if is_affine:
        members.append(Member(".biases", "biases of groups", (ROW, columns(size)), FLOATS, role="addend"))
    title, setting = f"{mode} of {bits} bits in groups of {size} columns", Setting(("group_size",), (size,))
    yield Scheme(title, (tuple(members),), formula=formula, setting=setting if is_affine else None)
