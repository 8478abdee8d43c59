"""MLX: codes packed along the columns, with scales and biases for groups of columns, or scales alone for its FP4s.

After `mlx.nn.layers.quantized` of mlx 0.32.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from weighbridge.mappings.schemes.said import Said, whole
from weighbridge.mappings.schemes.scheme import FLOATS, ROW, Member, Scheme, columns


def read(said: Said) -> Iterator[Scheme]:
    """Yield the scheme that the configuration says for all modules; it may say others for some by name."""
    bits, size = whole(said.config.get("bits")), whole(said.config.get("group_size"))
    if said.method != "mlx" or bits is None or size is None:
        return
    mode = str(said.config.get("mode", "affine"))
    is_affine = mode == "affine"
    scales = FLOATS if is_affine else ("U8",)
    members = [
        Member(".weight", "codes", (ROW, columns(Fraction(32, bits))), ("U32",), "codes"),
        Member(".scales", "scales", (ROW, columns(size)), scales),
    ]
    if is_affine:
        members.append(Member(".biases", "biases of groups", (ROW, columns(size)), FLOATS))
    yield Scheme(f"{mode} of {bits} bits in groups of {size} columns", (tuple(members),))
