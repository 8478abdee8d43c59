"""Numbers out of packed elements, as a `Coding` says how they lie there. Elements are little-endian."""

from __future__ import annotations

from functools import cache

import torch

from weighbridge.mappings.schemes.scheme import Coding


def unpack(stored: torch.Tensor, coding: Coding, axis: int) -> torch.Tensor:
    """Return the numbers of a stored tensor, side by side along one axis.

    Args:
        stored: Integers, of any shape; along the axis as many elements as whole numbers lie in.
        coding: How the numbers lie in them.
        axis: The axis.

    Returns:
        The same shape with more entries along the axis: integers of 32 bits, or floats where codes stand for such.

    Examples:
        >>> unpack(torch.tensor([0x21, 0x43], dtype=torch.uint8), Coding(4), 0).tolist()
        [1, 2, 3, 4]
        >>> unpack(torch.tensor([0x21], dtype=torch.uint8), Coding(4, values=(0.0, 0.5, 1.0)), 0).tolist()
        [0.5, 1.0]
    """
    last = stored.movedim(axis, -1)
    raw = last.flatten().view(torch.uint8).view(*last.shape[:-1], -1)
    codes = _of_bytes(raw, coding) if 8 % coding.bits == 0 else _of_stream(raw, coding.bits)
    if coding.order:
        codes = codes.view(*codes.shape[:-1], -1, len(coding.order))[..., list(coding.order)].flatten(-2)
    if coding.values:
        return table_of(coding.values)[codes.int()].movedim(-1, axis)
    found = codes.int()
    if coding.is_signed:
        half = 1 << (coding.bits - 1)
        found = (found ^ half) - half
    return (found - coding.less if coding.less else found).movedim(-1, axis)


@cache
def table_of(values: tuple[float, ...]) -> torch.Tensor:
    """Return what codes stand for as floats of 32 bits."""
    return torch.tensor(values, dtype=torch.float32)


def _of_bytes(raw: torch.Tensor, coding: Coding) -> torch.Tensor:
    """Return the codes of which a byte holds a whole number."""
    if coding.bits == 8:
        return raw
    starts = range(0, 8, coding.bits)
    parts = [(raw >> start) & ((1 << coding.bits) - 1) for start in (reversed(starts) if coding.high_first else starts)]
    return torch.stack(parts, -1).flatten(-2)


def _of_stream(raw: torch.Tensor, bits: int) -> torch.Tensor:
    """Return codes that lie across the bounds of bytes and words; bits that are too few for one at the end are none."""
    single = ((raw[..., None] >> torch.arange(8, dtype=torch.uint8)) & 1).flatten(-2)
    count = single.shape[-1] // bits
    codes = single[..., : count * bits].reshape(*single.shape[:-1], count, bits).int()
    return torch.sum(codes << torch.arange(bits, dtype=torch.int32), -1, dtype=torch.int32)


@cache
def powers_of_two() -> torch.Tensor:
    """Return what the bytes of E8M0 stand for: powers of two, and no number for the last.

    Examples:
        >>> powers_of_two()[[0, 127, 130]].tolist(), bool(powers_of_two()[255].isnan())
        ([5.877471754111438e-39, 1.0, 8.0], True)
    """
    return torch.tensor([2.0 ** (code - 127) for code in range(255)] + [float("nan")], dtype=torch.float32)
