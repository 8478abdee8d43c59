"""One element of a dtype: every value is what torch makes of it, to the bit, and nothing is rounded."""

from __future__ import annotations

import math

import pytest
import torch

import weighbridge as wb
from weighbridge.base.forms.elements import (
    cast_element,
    element_bytes,
    element_value,
    is_element,
    plain_element,
    spell_element,
)
from weighbridge.base.specs import DTYPES

WHOLE = {
    code: getattr(torch, kind.torch_name)
    for code, kind in DTYPES.items()
    if kind.kind in ("unsigned", "signed", "bool")
}
FLOATS = {code: getattr(torch, kind.torch_name) for code, kind in DTYPES.items() if kind.kind == "float"}
SMALL = {code: dtype for code, dtype in FLOATS.items() if dtype.itemsize <= 2}


def raw(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().view(-1).view(torch.uint8).tolist())


@pytest.mark.parametrize("code", SMALL)
def test_every_bit_pattern_of_a_small_float_is_the_number_that_torch_has(code: str) -> None:
    """Both ways: its value, and the pattern of that value; of what is no number, the one that torch gives."""
    size = SMALL[code].itemsize
    codes = torch.arange(256**size, dtype=torch.int32).to(torch.uint8 if size == 1 else torch.uint16)
    for bits, number in zip(codes.tolist(), codes.view(SMALL[code]).double().tolist(), strict=True):
        element = bits.to_bytes(size, "little")
        value = element_value(element, code)
        assert element_bytes(value, code) == element
        if not math.isnan(number):
            assert not isinstance(value, str) or value in ("inf", "-inf", "-0.0")
            assert float(value) == number
            assert element_bytes(plain_element(number), code) == element  # type: ignore[arg-type]


@pytest.mark.parametrize("code", FLOATS)
def test_what_is_no_number_is_what_torch_fills_in(code: str) -> None:
    assert element_bytes("nan", code) == raw(torch.tensor([math.nan], dtype=FLOATS[code]))


@pytest.mark.parametrize("code", ["F32", "F64", "BF16", "F16"])
def test_numbers_are_those_of_torch(code: str) -> None:
    values = (0, 1, -1, 0.5, -2.75, 2.0**-14, 2.0**-20, 65504 if code == "F16" else 2.0**100, math.inf, -math.inf, -0.0)
    for value in values:
        made = torch.full((1,), value, dtype=FLOATS[code])
        if float(made) == value:
            assert element_bytes(plain_element(value), code) == raw(made)  # type: ignore[arg-type]


@pytest.mark.parametrize("code", WHOLE)
def test_whole_numbers_reach_from_the_least_to_the_greatest(code: str) -> None:
    low, high = (0, 1) if code == "BOOL" else (torch.iinfo(WHOLE[code]).min, torch.iinfo(WHOLE[code]).max)
    for value in {low, high, 0, 1}:
        element = element_bytes(value, code)
        assert element == raw(torch.tensor([value], dtype=WHOLE[code]))
        assert element_value(element, code) == value
    for value in (low - 1, high + 1, 0.5, "nan"):
        with pytest.raises(wb.LayoutError) as caught:
            element_bytes(value, code)
        assert caught.value.code == "operation-argument"


def test_a_complex_number_has_no_other_part() -> None:
    assert element_bytes(-1.5, "C64") == raw(torch.tensor([-1.5 + 0j], dtype=torch.complex64))
    assert element_value(element_bytes(-1.5, "C64"), "C64") == "bits:0x00000000bfc00000"


@pytest.mark.parametrize(
    ("value", "code", "nearest"),
    [
        (0.1, "BF16", "0.10009765625"),
        (257, "BF16", "256.0"),
        (1e39, "F32", "inf"),
        (1e-50, "F16", "0.0"),
        (500, "F8_E4M3", "448.0"),
        ("-inf", "F8_E4M3", "-448.0"),
        ("-0.0", "F8_E4M3FNUZ", "0.0"),
        (0, "F8_E8M0", ""),
        (10**400, "F64", "inf"),
    ],
)
def test_what_a_dtype_does_not_have_is_refused_and_not_rounded(value: float, code: str, nearest: str) -> None:
    with pytest.raises(wb.LayoutError) as caught:
        element_bytes(value, code)
    assert caught.value.code == "operation-argument"
    assert nearest in caught.value.expected


@pytest.mark.parametrize(("bits", "code"), [("bits:0x7fc1", "F32"), ("bits:0x7fc10", "BF16"), ("bits:0x00", "F4")])
def test_bits_are_those_of_one_element(bits: str, code: str) -> None:
    with pytest.raises(wb.LayoutError) as caught:
        element_bytes(bits, code)
    assert caught.value.code == "operation-argument"


def test_bits_are_written_as_a_number() -> None:
    assert element_bytes("bits:0x7fc1", "BF16") == raw(torch.tensor([0x7FC1], dtype=torch.int16))
    assert spell_element(b"\xc1\x7f", "BF16") == "bits:0x7fc1"


@pytest.mark.parametrize("value", ["1.5", "0x3f80", "NaN", "", None, [0], "bits:3f80", 1j])
def test_what_is_no_value_is_none(value: object) -> None:
    assert not is_element(value)


def test_each_value_is_written_in_one_way() -> None:
    """So that two operations that say the same are equal, and two that differ are not."""
    assert wb.Pad(0, 4, value=1.0) == wb.Pad(0, 4, value=1) == wb.Pad(0, 4, value=True)
    assert wb.Pad(0, 4, value=-0.0) != wb.Pad(0, 4, value=0.0)
    assert wb.Pad(0, 4, value=math.nan) == wb.Pad(0, 4, value="nan") == wb.Pad(0, 4, value=math.nan)
    assert wb.Pad(0, 4, value=math.inf).value == "inf"


@pytest.mark.parametrize(("before", "after"), [("BF16", "F32"), ("F32", "BF16"), ("F16", "F64"), ("F32", "F16")])
def test_an_element_is_cast_as_torch_casts_it(before: str, after: str) -> None:
    for value in (0.0, -0.0, 1.0, -2.75, 1 / 3, 1e-3, 70000.0, math.inf, -math.inf):
        element = torch.tensor([value], dtype=FLOATS[before])
        assert cast_element(raw(element), before, after) == raw(element.to(FLOATS[after]))
