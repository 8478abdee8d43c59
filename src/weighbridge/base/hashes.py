"""SHA-256 of bytes; what computes it is loaded when it is first wanted, not by `import weighbridge`."""

from __future__ import annotations


def sha256_of(content: bytes) -> str:
    """Return the SHA-256 of some bytes, as 64 hexadecimal digits.

    Examples:
        >>> sha256_of(b"")[:8]
        'e3b0c442'
    """
    from hashlib import sha256

    return sha256(content).hexdigest()
