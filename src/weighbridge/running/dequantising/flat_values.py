"""A part of a weight whose blocks are those of its flat elements, as bitsandbytes writes 4 bits.

After `functional.py` of bitsandbytes 0.50: the first of two elements is in the high bits of a byte, and its value is
what the table has for its code, times the scale of its block. Scales may be codes themselves, with a table, scales of
their own blocks, and one offset. What a block is stands in a JSON text beside each weight.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import torch

from weighbridge.base.errors import WeighbridgeError
from weighbridge.base.specs import Shape, dtype_named
from weighbridge.mappings.schemes.bitsandbytes import MOST_STATE_BYTES
from weighbridge.mappings.schemes.quantisation import QuantisedWeight
from weighbridge.mappings.schemes.said import whole
from weighbridge.mappings.schemes.scheme import Coding
from weighbridge.running.dequantising.blocks import Range, read_block, read_whole
from weighbridge.running.dequantising.codings import unpack
from weighbridge.storage.formats.torch_tensors import bytes_of, dtype_of

if TYPE_CHECKING:
    from weighbridge.storage.protocol import Checkpoint

_HALVES = Coding(4, high_first=True)


@dataclass(frozen=True, slots=True)
class FlatGroup:
    """The tensors of one weight.

    Args:
        keys: The tensors by their roles, the first by its kind.
        shape: The weight's shape.
        dtype: The code of its dtype.
        block: How many elements a scale is for.
        nested_block: How many scales a scale of scales is for.
        offset: What is added to each scale.
    """

    keys: Mapping[str, str]
    shape: Shape
    dtype: str
    block: int
    nested_block: int
    offset: float


def read_flat_group(weight: QuantisedWeight, checkpoint: Checkpoint) -> FlatGroup | str:
    """Read the state of a weight.

    Args:
        weight: The weight.
        checkpoint: What holds it.

    Returns:
        The weight's tensors and blocks; a sentence where they contradict each other.

    Raises:
        CheckpointError: The codes of reading.
    """
    keys: dict[str, str] = {member.role or member.kind: key for member, key in weight.keys}
    state = _read_state(checkpoint, keys["state"])
    shape, block = state.get("shape"), whole(state.get("blocksize"))
    is_shape = isinstance(shape, list) and all(whole(size) for size in shape) and len(shape) > 0
    try:
        dtype = dtype_named(str(state.get("dtype"))).code
    except WeighbridgeError:
        dtype = ""
    if not isinstance(shape, list) or not is_shape or block is None or not dtype:
        return f"the state of {weight.stem} gives no shape, block and dtype"
    nested, offset = whole(state.get("nested_blocksize")), state.get("nested_offset", 0.0)
    is_nested = "nested scale" in keys
    if is_nested and (nested is None or not isinstance(offset, int | float)):
        return f"the state of {weight.stem} gives no block and offset for the scales of its scales"
    found = FlatGroup(keys, tuple(shape), dtype, block, nested or 1, float(offset) if is_nested else 0.0)
    return _contradiction(found, checkpoint, weight.stem) or found


def _read_state(checkpoint: Checkpoint, key: str) -> Mapping[str, Any]:
    if checkpoint.header[key].size_bytes > MOST_STATE_BYTES:
        return {}
    try:
        found = json.loads(bytes(bytes_of(read_whole(checkpoint, key))))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _contradiction(group: FlatGroup, checkpoint: Checkpoint, stem: str) -> str | None:
    """Hold the sizes of the tensors against what the state says."""
    numel, header = prod(group.shape), checkpoint.header
    scales = -(-numel // group.block)
    wanted = {"codes": -(-numel // 2), "scale": scales * (1 if "nested scale" in group.keys else 4)}
    if "nested scale" in group.keys:
        wanted["nested scale"] = -(-scales // group.nested_block) * 4
    for role, size_bytes in wanted.items():
        if header[group.keys[role]].size_bytes != size_bytes:
            got = f"{header[group.keys[role]].size_bytes:,} bytes where the state of {stem} asks for {size_bytes:,}"
            return f"{group.keys[role]} has {got}"
    return None


def compute_flat(group: FlatGroup, checkpoint: Checkpoint, part: Range) -> torch.Tensor:
    """Return a range of a weight's flat elements, in its dtype.

    Args:
        group: The tensors.
        checkpoint: What holds them.
        part: Which elements.

    Raises:
        CheckpointError: The codes of reading.
    """
    first, last = part.start // 2, -(-part.stop // 2)
    raw = torch.empty(last - first, dtype=torch.uint8)
    checkpoint.read(group.keys["codes"], first, bytes_of(raw))
    codes = unpack(raw, _HALVES, 0)[part.start - 2 * first :][: part.size]
    table = read_whole(checkpoint, group.keys["table"])
    blocks = Range(part.start // group.block, -(-part.stop // group.block))
    scales = _scales(group, checkpoint, blocks).repeat_interleave(group.block)
    values = table[codes] * scales[part.start - blocks.start * group.block :][: part.size]
    return values.to(dtype_of(group.dtype))


def _scales(group: FlatGroup, checkpoint: Checkpoint, blocks: Range) -> torch.Tensor:
    key = group.keys["scale"]
    stored = read_block(checkpoint, key, (checkpoint.header[key].numel,), [blocks])
    if "nested scale" not in group.keys:
        return stored
    outer = Range(blocks.start // group.nested_block, -(-blocks.stop // group.nested_block))
    key = group.keys["nested scale"]
    scales = read_block(checkpoint, key, (checkpoint.header[key].numel,), [outer]).repeat_interleave(group.nested_block)
    scales = scales[blocks.start - outer.start * group.nested_block :][: blocks.size]
    return scales * read_whole(checkpoint, group.keys["nested table"])[stored.int()] + group.offset
