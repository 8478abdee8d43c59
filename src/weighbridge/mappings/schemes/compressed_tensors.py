"""compressed-tensors: packed or plain integers, FP8, NVFP4 and MXFP4, each group of modules by a part of the config.

After `compressed_tensors` 0.20: its compressors, and `quantization/quant_args.py` for the strategies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any, Final

from weighbridge.mappings.schemes.dialects import COMPRESSED_TENSORS, named_at
from weighbridge.mappings.schemes.said import Said, block_sizes, whole
from weighbridge.mappings.schemes.scheme import (
    COLUMN,
    F8,
    FLOATS,
    FLOATS_OF_4_BITS,
    ONE,
    ROW,
    Along,
    Axis,
    Coding,
    Form,
    Formula,
    Kind,
    Member,
    Scheme,
    Setting,
    columns,
    rows,
)

METHOD: Final = "compressed-tensors"

NAMES: Final = named_at(
    (
        *("ignore", "config_groups.*.targets", "sparsity_config.targets", "sparsity_config.ignore"),
        *("transform_config.config_groups.*.apply.*.targets", "transform_config.config_groups.*.apply.*.ignore"),
    ),
    COMPRESSED_TENSORS,
)

_FOUR_BITS: Final = {"nvfp4-pack-quantized": ("nvfp4", 16), "mxfp4-pack-quantized": ("mxfp4", 32)}


def read(said: Said) -> Iterator[Scheme]:
    """Yield a scheme for each group of the configuration."""
    groups = said.config.get("config_groups")
    if said.method != METHOD or not isinstance(groups, Mapping):
        return
    for name, group in groups.items():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if isinstance(weights, Mapping):
            targets = tuple(map(str, group.get("targets") or ()))
            form = group.get("format") or said.config.get("format")
            scheme = _scheme(weights, form, targets)
            setting = None if form in _FOUR_BITS else _setting(weights, ("config_groups", str(name), "weights"))
            if scheme is not None:
                yield replace(scheme, setting=setting)


def _scheme(weights: Mapping[str, Any], form: Any, targets: tuple[str, ...]) -> Scheme | None:
    if form in _FOUR_BITS:
        return _four_bits(*_FOUR_BITS[form], targets)
    bits, grid = whole(weights.get("num_bits")), _grid(weights)
    if bits is None or grid is None:
        return None
    members: Form
    axes, words = grid
    has_zeros = weights.get("symmetric") is False
    kind: Kind = "shared" if axes == (ONE,) else "moved"
    scale = Member(".weight_scale", "scales", axes, (*FLOATS, "U8", "F8_E8M0"), kind, role="scale")
    formula = Formula(dtype="")
    if form == "pack-quantized":
        members = _packed(bits, axes, scale, has_zeros=has_zeros)
        return Scheme(f"int{bits} packed into words, {words}", (members,), targets, formula)
    word = "int" if weights.get("type") == "int" else "fp"
    members = (
        Member(".weight", "codes", (ROW, COLUMN), ("I8",) if word == "int" else F8, "codes"),
        scale,
        Member(".weight_zero_point", "zero points", axes, ("I8", *F8), is_needed=has_zeros, role="zero"),
        _static(".input_scale", FLOATS),
    )
    return Scheme(f"{word}{bits}, {words}", (members,), targets, formula)


def _packed(bits: int, axes: tuple[Along, ...], scale: Member, *, has_zeros: bool) -> Form:
    dense, half = Fraction(32, bits), 1 << (bits - 1)
    # Zero points are packed along the rows, one for each group of columns.
    grid, by_row = (rows(dense), axes[-1]), Coding(bits, Axis.ROWS, less=half)
    return (
        Member(".weight_packed", "codes", (ROW, columns(dense)), ("I32",), "codes", coding=Coding(bits, less=half)),
        scale,
        Member(".weight_zero_point", "zero points", grid, ("I32",), is_needed=has_zeros, role="zero", coding=by_row),
        Member(".weight_shape", "the weight's shape", None, ("I64", "I32"), "derived", role="shape"),
        Member(".weight_g_idx", "the groups of columns", (COLUMN,), ("I32",), "numbered", is_needed=False),
        _static(".input_scale", FLOATS),
    )


def _static(ending: str, dtypes: tuple[str, ...]) -> Member:
    return Member(ending, "scales of activations", (ONE,), dtypes, "shared", is_needed=False)


def _grid(weights: Mapping[str, Any]) -> tuple[tuple[Along, ...], str] | None:
    """Return the axes of the scales, and in words what each of them is for."""
    size, blocks = whole(weights.get("group_size")), block_sizes(weights.get("block_structure"))
    match weights.get("strategy"):
        case "tensor":
            return (ONE,), "one scale for each weight"
        case "channel":
            return (ROW, columns(None)), "one scale for each row"
        case "group" if size is not None:
            return (ROW, columns(size)), f"groups of {size} columns"
        case "block" if blocks is not None:
            return (rows(blocks[0]), columns(blocks[1])), f"blocks of {blocks[0]} x {blocks[1]}"
    return None


def _setting(weights: Mapping[str, Any], place: tuple[str, ...]) -> Setting | None:
    """Return where the sizes of blocks are said, and what they are."""
    size, blocks = whole(weights.get("group_size")), block_sizes(weights.get("block_structure"))
    match weights.get("strategy"):
        case "group" if size is not None:
            return Setting((*place, "group_size"), (size,))
        case "block" if blocks is not None:
            return Setting((*place, "block_structure"), blocks)
    return None


def _four_bits(name: str, size: int, targets: tuple[str, ...]) -> Scheme:
    is_global = name == "nvfp4"
    scales = ("F8_E4M3",) if is_global else ("U8", "F8_E8M0")
    members = [
        Member(".weight_packed", "codes", (ROW, columns(2)), ("U8",), "codes", coding=FLOATS_OF_4_BITS),
        Member(".weight_scale", "scales", (ROW, columns(size)), scales, role="scale"),
    ]
    if is_global:
        whole_weight = "scales of whole weights"
        members.append(Member(".weight_global_scale", whole_weight, (ONE,), ("F32",), "shared", role="divisor"))
        members.append(_static(".input_global_scale", ("F32",)))
    return Scheme(f"{name.upper()} in groups of {size} columns", (tuple(members),), targets, Formula())
