"""FP8 in blocks, as DeepSeek-V3 and Qwen3 publish it: one scale for each block of rows and columns.

After `quantizers/quantizer_finegrained_fp8.py` of transformers 5.23 and DeepSeek-V3's own `inference/kernel.py`: W is
weight * weight_scale_inv of its block; blocks are counted from 0, and the last one may be partial.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from weighbridge.mappings.schemes.dialects import ENDING, TRANSFORMERS, NamesAt, named_at
from weighbridge.mappings.schemes.said import Said, block_sizes
from weighbridge.mappings.schemes.scheme import COLUMN, F8, ONE, ROW, Formula, Member, Scheme, Setting, columns, rows

METHOD: Final = "fp8"

NAMES: Final = (
    *named_at(("modules_to_not_convert", "ignored_layers"), TRANSFORMERS),
    NamesAt("modules_to_convert", ENDING),
)

_SCALES = ("F32", "BF16", "F16", "F8_E8M0", "U8")


def read(said: Said) -> Iterator[Scheme]:
    """Yield the scheme that the configuration says."""
    if said.method != METHOD:
        return
    sizes = block_sizes(said.config.get("weight_block_size"))
    if sizes is None:
        return
    grid = (rows(sizes[0]), columns(sizes[1]))
    static = Member(".activation_scale", "scales of activations", (ONE,), ("F32", "BF16"), "shared", is_needed=False)
    plain = (
        Member(".weight", "codes", (ROW, COLUMN), F8, "codes"),
        Member(".weight_scale_inv", "scales", grid, _SCALES, role="scale"),
        static,
    )
    fused = (
        Member("", "codes", (ROW, COLUMN), F8, "codes"),
        Member("_scale_inv", "scales", grid, _SCALES, role="scale"),
    )
    title, setting = f"FP8 in blocks of {sizes[0]} x {sizes[1]}", Setting(("weight_block_size",), sizes)
    yield Scheme(title, (plain, fused), formula=Formula(), setting=setting)
