"""NVIDIA ModelOpt: FP8 with one scale for each weight, NVFP4, and int4 after AWQ.

After `modelopt/torch/export` of nvidia-modelopt 0.47. NVFP4's global scale multiplies, where that of compressed-tensors
divides; int4 has two rows in a byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from weighbridge.mappings.schemes.dialects import COMPRESSED_TENSORS, EXACT, WILDCARDS, NamesAt, named_at
from weighbridge.mappings.schemes.said import Said, whole
from weighbridge.mappings.schemes.scheme import (
    COLUMN,
    F8,
    FLOATS,
    FLOATS_OF_4_BITS,
    ROW,
    Axis,
    Coding,
    Form,
    Formula,
    Member,
    Scheme,
    Setting,
    columns,
    rows,
)

METHOD: Final = "modelopt"

NAMES: Final = (
    *named_at(("ignore", "exclude_modules"), WILDCARDS),
    NamesAt("quantized_layers", EXACT),
    NamesAt("config_groups.*.targets", COMPRESSED_TENSORS),
)

_TWO_ROWS: Final = Coding(4, Axis.ROWS, is_signed=True)


def read(said: Said) -> Iterator[Scheme]:
    """Yield the scheme that the configuration says."""
    if said.method != METHOD:
        return
    members: Form
    static = Member(".input_scale", "scales of activations", (), ("F32",), "shared", is_needed=False)
    settings = _settings(said)
    size = settings[0].sizes[0] if settings else None
    setting = settings[0] if len(settings) == 1 else None
    match said.config.get("quant_algo"):
        case "FP8":
            members = (
                Member(".weight", "codes", (ROW, COLUMN), F8, "codes"),
                Member(".weight_scale", "scales of whole weights", (), ("F32",), "shared", role="scale"),
                static,
            )
            yield Scheme("FP8, one scale for each weight", (members,), formula=Formula())
        case "NVFP4" if size is not None:
            members = (
                Member(".weight", "codes", (ROW, columns(2)), ("U8",), "codes", coding=FLOATS_OF_4_BITS),
                Member(".weight_scale", "scales", (ROW, columns(size)), ("F8_E4M3",), role="scale"),
                Member(".weight_scale_2", "scales of whole weights", (), ("F32",), "shared", role="scale"),
                static,
            )
            yield Scheme(f"NVFP4 in groups of {size} columns", (members,), formula=Formula())
        case "W4A16_AWQ" | "INT4_AWQ" if size is not None:
            members = (
                Member(".weight", "codes", (rows(2), COLUMN), ("U8",), "codes", coding=_TWO_ROWS),
                Member(".weight_scale", "scales", (ROW, columns(size)), FLOATS, role="scale"),
                Member(".pre_quant_scale", "scales of columns", (COLUMN,), FLOATS, is_needed=False, role="apart"),
            )
            title = f"int4 in groups of {size} columns, two rows in a byte"
            yield Scheme(title, (members,), formula=Formula(), setting=setting)


def _settings(said: Said) -> list[Setting]:
    """Return each place where the columns of a group are said, at the top or in the part for weights."""
    groups = said.config.get("config_groups")
    named = groups.items() if isinstance(groups, Mapping) else ()
    parts = [((), said.config), *((("config_groups", str(name)), part) for name, part in named)]
    parts += [((*place, "weights"), part.get("weights")) for place, part in parts if isinstance(part, Mapping)]
    sized = ((place, whole(part.get("group_size"))) for place, part in parts if isinstance(part, Mapping))
    return [Setting((*place, "group_size"), (size,)) for place, size in sized if size]
