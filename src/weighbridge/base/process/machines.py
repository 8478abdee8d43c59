"""What of the machine decides whether a number in a file is the number in memory."""

from __future__ import annotations

import sys

from weighbridge.base.errors import WeighbridgeError


def byte_order() -> str:
    """Return the order in which this machine keeps the bytes of a number: ``"little"`` or ``"big"``."""
    return sys.byteorder


def check_byte_order() -> None:
    """Refuse to read or write tensors where memory has another order of bytes than the formats have.

    Bytes are moved as they stand, so that on such a machine each number would be another one, silently.

    Raises:
        WeighbridgeError: `machine-unsupported`.
    """
    if byte_order() != "little":
        raise WeighbridgeError(
            "machine-unsupported",
            "tensors are read and written on little-endian machines alone",
            expected="little-endian, as the files are",
            got=f"{byte_order()}-endian",
            hint="names and shapes can be inspected and planned here; convert on x86-64 or arm64",
        )
