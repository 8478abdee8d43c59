"""The two ways in which asking a checkpoint for bytes goes wrong."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Final

from weighbridge.base.errors import CheckpointError
from weighbridge.base.json_text import join_keys, shorten
from weighbridge.base.keys import nearest
from weighbridge.base.nearby import close_names

ALL_KEYS: Final = "list(checkpoint.header) has all"
"""The end of a hint; a command says it in its own words."""


def not_found(key: str, keys: Iterable[str], where: str) -> CheckpointError:
    """Describe a key that is not there, with the nearest ones that are.

    Examples:
        >>> print(not_found("wieght", ["weight", "bias"], "a.safetensors").got)
        nearest: 'weight'
    """
    # Comparing with each of 100,000 keys takes seconds; those that end alike are the likely ones.
    tail, names = key.rpartition(".")[2], list(keys)
    alike = list(islice((other for other in names if other.endswith(tail)), 2000))
    near = close_names(key, alike or islice(names, 2000), 3) or nearest(key, names)
    got = f"nearest: {join_keys(near)}" if near else ""
    hint = f"{'take one of these names; ' if near else ''}{ALL_KEYS}"
    return CheckpointError("tensor-not-found", f"there is no tensor {shorten(key)}", where=where, got=got, hint=hint)


def check_range(key: str, size_bytes: int, start_byte: int, length_bytes: int, where: str) -> None:
    """Check that an interval of bytes lies in a tensor.

    Raises:
        CheckpointError: `tensor-bounds`.
    """
    if not 0 <= start_byte <= start_byte + length_bytes <= size_bytes:
        expected, got = f"within {size_bytes:,} bytes", f"bytes [{start_byte:,}, {start_byte + length_bytes:,})"
        raise CheckpointError(
            "tensor-bounds", "this is not in the tensor", where=f"{where}: {key}", expected=expected, got=got
        )
