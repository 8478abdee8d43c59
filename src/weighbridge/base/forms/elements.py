"""One element of a dtype: what a declared value is in it, to the bit, and how its bytes are written for a reader.

Nothing is rounded: a value that a dtype does not have is an error, which names the nearest one that it has. No torch
here, as plans are made without it. How the small floats are laid out is said by the OCP 8-bit and MX specifications
(https://www.opencompute.org/documents/ocp-8-bit-floating-point-specification-ofp8-revision-1-0-2023-12-01-pdf-1), and
of those without a negative zero by https://arxiv.org/abs/2206.02915.
"""

from __future__ import annotations

import re
from math import copysign, frexp, inf, isfinite, isinf, isnan, ldexp, nan
from typing import Final, NamedTuple

from weighbridge.base.errors import LayoutError
from weighbridge.base.specs import DTYPES, DType, TensorSpec

Element = int | float | str
"""A declared value: a number, a text of `NAMED`, or an element's bits, such as ``bits:0x7fc00001``."""

NAMED: Final = {"inf": inf, "-inf": -inf, "nan": nan, "-0.0": -0.0}
"""Numbers that JSON does not have, or that are equal to another one, by the text that stands for them."""

OWN: Final = "own"
"""Says of rows that are put in that they stay as the model has them; their element has no bytes."""

ANY: Final = "any"
"""Says of what is cut off that it may hold anything; its element has no bytes."""

_FAR: Final = 1e9
"""Beyond all values of 8 bits that have a sign."""

_BITS: Final = re.compile(r"bits:0x([0-9a-f]+)")
"""Not the number alone: in YAML and in Python that is a whole number, and not bits."""


class Constant(NamedTuple):
    """A tensor that is declared, and read from nowhere: its spec, and the bytes of each of its elements."""

    spec: TensorSpec
    element: bytes


def plain_element(value: object) -> object:
    """Write a declared value in the one way that it has; what is none is left as it is.

    Examples:
        >>> plain_element(1.0), plain_element(-0.0), plain_element(float("-inf")), plain_element("bits:0xFF")
        (1, '-0.0', '-inf', 'bits:0xff')
    """
    if isinstance(value, str):
        return value.lower()
    if isinstance(value, bool):
        return int(value)
    if not isinstance(value, float):
        return value
    named = next((text for text, number in NAMED.items() if _is_same(number, value)), None)
    if named is not None:
        return named
    return int(value) if value.is_integer() else value


def is_element(value: object) -> bool:
    """Tell whether something is a value that `plain_element` has written."""
    if isinstance(value, str):
        return value in (*NAMED, OWN, ANY) or bool(_BITS.fullmatch(value))
    return isinstance(value, int | float) and not isinstance(value, bool)


def element_bytes(value: Element, dtype: str) -> bytes:
    """Return the bytes of one element, as a file has them; none for what nobody says.

    Args:
        value: What `is_element` takes.
        dtype: A code of `DTYPES`.

    Raises:
        LayoutError: `operation-argument` where the dtype does not have the value.

    Examples:
        >>> element_bytes(1, "BF16").hex(), element_bytes(-1, "I16").hex(), element_bytes("bits:0x7fc1", "BF16").hex()
        ('803f', 'ffff', 'c17f')
    """
    if value in (OWN, ANY):
        return b""
    kind = DTYPES[dtype]
    size_bytes = kind.bits // 8
    if kind.kind == "packed":
        raise _unheld(value, dtype, "a dtype whose elements have bytes of their own")
    bits = _BITS.fullmatch(value) if isinstance(value, str) else None
    if bits is not None:
        if len(bits[1]) != 2 * size_bytes:
            raise _unheld(value, dtype, f"{2 * size_bytes} hexadecimal digits")
        return bytes.fromhex(bits[1])[::-1]
    number = NAMED[value] if isinstance(value, str) else value
    if kind.kind in ("bool", "unsigned", "signed"):
        return _whole(number, kind).to_bytes(size_bytes, "little", signed=kind.kind == "signed")
    part = DTYPES["F32"] if kind.kind == "complex" else kind
    code = _nearest(number, part)
    if not _is_same(_decoded(code, part), number):
        raise _unheld(value, dtype, f"a value that it has, such as {_decoded(code, part)!r}")
    return code.to_bytes(size_bytes, "little")


def element_value(element: bytes, dtype: str) -> Element:
    r"""Return the value that `element_bytes` turns into these bytes.

    Examples:
        >>> element_value(bytes(4), "F32"), element_value(b"\xff", "I8"), element_value(b"\x01\x7c", "F16")
        (0, -1, 'bits:0x7c01')
    """
    kind, code = DTYPES[dtype], int.from_bytes(element, "little")
    if kind.kind in ("bool", "unsigned", "signed"):
        return int.from_bytes(element, "little", signed=kind.kind == "signed")
    bits = f"bits:0x{element[::-1].hex()}"
    if kind.kind != "float":
        return bits
    value = _decoded(code, kind)
    if isnan(value) and code != _nearest(nan, kind):
        return bits
    plain = plain_element(value)
    assert isinstance(plain, int | float | str)
    return plain


def cast_element(element: bytes, source: str, target: str) -> bytes:
    r"""Return an element in another dtype: the same value, or the nearest that the other dtype has, as a cast gives it.

    Raises:
        LayoutError: `operation-argument` where the other dtype has no such value at all.

    Examples:
        >>> cast_element(b"\x80\x3f", "BF16", "F32").hex(), cast_element(bytes(4), "F32", "F16").hex()
        ('0000803f', '0000')
    """
    if source == target or not element:
        return element
    before, after = DTYPES[source], DTYPES[target]
    if before.kind == after.kind == "float":
        number = _decoded(int.from_bytes(element, "little"), before)
        return _nearest(number, after).to_bytes(after.bits // 8, "little")
    return element_bytes(element_value(element, source), target)


def spell_element(element: bytes, dtype: str) -> str:
    r"""Write an element for a reader; one of no bytes is anything.

    Examples:
        >>> spell_element(bytes(2), "BF16"), spell_element(b"\x80\xff", "BF16")
        ('0', '-inf')
    """
    return str(element_value(element, dtype)) if element else "anything"


def _unheld(value: Element, dtype: str, expected: str) -> LayoutError:
    what = f"{dtype} does not have this value"
    hint = "give a value of the tensor's dtype, or its bits as bits:0x..."
    return LayoutError("operation-argument", what, expected=expected, got=str(value)[:80], hint=hint)


def _whole(number: float, kind: DType) -> int:
    """Return a whole number that a dtype holds."""
    bits = 1 if kind.kind == "bool" else kind.bits
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if kind.kind == "signed" else (0, 2**bits)
    if not isinstance(number, int) or not low <= number < high:
        raise _unheld(number, kind.code, f"a whole number from {low} to {high - 1}")
    return number


def _is_same(one: float, other: float) -> bool:
    """Tell whether two numbers are one: no number is the same as no number, and the two zeros are two."""
    if one != one or other != other:
        return one != one and other != other
    return one == other and (one != 0 or copysign(1, one) == copysign(1, other))


def _decoded(code: int, kind: DType) -> float:
    """Return the number that some bits are in a floating dtype."""
    if kind.code == "F8_E8M0":
        return nan if code == 0xFF else ldexp(1.0, code - 127)
    is_unsigned_zero = kind.code.endswith("FNUZ")
    if is_unsigned_zero and code == 0x80:
        return nan
    mantissa, exponent = kind.mantissa_bits, kind.exponent_bits
    fraction, power = code & ((1 << mantissa) - 1), code >> mantissa & ((1 << exponent) - 1)
    sign = -1.0 if code >> (mantissa + exponent) else 1.0
    if power == (1 << exponent) - 1 and not is_unsigned_zero:
        if kind.code != "F8_E4M3":
            return nan if fraction else sign * inf
        if fraction == (1 << mantissa) - 1:
            return nan
    bias = (1 << (exponent - 1)) - (not is_unsigned_zero)
    return sign * ldexp(fraction + ((1 << mantissa) if power else 0), max(power, 1) - bias - mantissa)


def _nearest(number: float, kind: DType) -> int:
    """Return the bits of the value of a floating dtype that is nearest to a number."""
    try:
        number = float(number)
    except OverflowError:
        number = inf if number > 0 else -inf
    if kind.bits == 8:
        return _nearest_of_few(number, kind)
    mantissa, exponent = kind.mantissa_bits, kind.exponent_bits
    top = ((1 << exponent) - 1) << mantissa
    sign = (copysign(1, number) < 0) << (mantissa + exponent)
    if isnan(number):
        return top | 1 << (mantissa - 1)
    if isinf(number):
        return sign | top
    bias = (1 << (exponent - 1)) - 1
    power = max(frexp(number)[1] - 1, 1 - bias)  # below it, all values lie as far apart
    steps = round(ldexp(abs(number), mantissa - power))
    code = steps + ((power + bias - 1) << mantissa if steps else 0)
    return sign | min(code, top)


def _nearest_of_few(number: float, kind: DType) -> int:
    codes = {code: _decoded(code, kind) for code in range(256)}
    if isnan(number):
        nans = [code for code, value in codes.items() if isnan(value)]
        return max([code for code in nans if code < 0x80] or nans)
    same = [code for code, value in codes.items() if _is_same(value, number)]
    finite = [code for code, value in codes.items() if isfinite(value)]
    near = max(-_FAR, min(_FAR, number))
    return same[0] if same else min(finite, key=lambda code: abs(codes[code] - near))
