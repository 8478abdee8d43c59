"""bitsandbytes: 4 bits in blocks of the flat weight, with a table of values, or 8 bits with a scale for each row.

After `functional.py` and `nn/modules.py` of bitsandbytes 0.50. The size of a block stands in the state beside each
weight, not in the configuration: 64 unless somebody chose another, so that it is not held against the sizes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from weighbridge.mappings.schemes.dialects import TRANSFORMERS, NamesAt
from weighbridge.mappings.schemes.said import Said, whole
from weighbridge.mappings.schemes.scheme import COLUMN, ONE, ROW, Along, Axis, Formula, Member, Scheme

METHOD: Final = "bitsandbytes"

NAMES: Final = (NamesAt("llm_int8_skip_modules", TRANSFORMERS),)

MOST_STATE_BYTES: Final = 100_000
"""Limit for the text of a state, which has two hundred bytes."""

_STATE = "quant_state.bitsandbytes__"
_FLAT = "their rows and columns stand in a text beside them, and in no header"
_NESTED = "scales that are codes have an offset of each weight's own, in the text beside them"
_SHAPE = re.compile(rb'"shape": \[(\d+(?:, \d+)+)\]')


class State(NamedTuple):
    """The text beside a weight of 4 bits: its sizes, with what stands before and behind them.

    Args:
        before: What stands before its sizes.
        shape: The rows and columns, behind the axes of a stack.
        after: What stands behind its sizes.
        block: How many elements a scale is for.
    """

    before: bytes
    shape: tuple[int, ...]
    after: bytes
    block: int

    def told(self, shape: tuple[int, ...]) -> tuple[bytes, bytes, bytes]:
        """Return the text with another shape in parts: what stands before the sizes, these, and the rest.

        Examples:
            >>> read_state(b'{"blocksize": 64, "shape": [8, 32]}').told((4, 8, 32))
            (b'{"blocksize": 64, "shape": [', b'4, 8, 32', b']}')
        """
        return self.before, ", ".join(map(str, shape)).encode(), self.after


def read_state(raw: bytes) -> State | None:
    """Read the text beside a weight; None where it says no rows and columns, or its scales have an offset of their own.

    Examples:
        >>> read_state(b'{"blocksize": 64, "shape": [8, 32]}')
        State(before=b'{"blocksize": 64, "shape": [', shape=(8, 32), after=b']}', block=64)
    """
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    places = list(_SHAPE.finditer(raw))
    block = whole(found.get("blocksize")) if isinstance(found, dict) else None
    if block is None or len(places) != 1 or "nested_offset" in found:
        return None
    (place,) = places
    shape = tuple(map(int, place[1].split(b", ")))
    return State(raw[: place.start(1)], shape, raw[place.end(1) :], block)


def read(said: Said) -> Iterator[Scheme]:
    """Yield the scheme that the configuration says."""
    if said.method != METHOD:
        return
    if said.config.get("load_in_8bit"):
        members = (
            Member(".weight", "codes", (ROW, COLUMN), ("I8",), "codes"),
            Member(".SCB", "scales", (ROW,), ("F32",), role="scale"),
            Member(".weight_format", "the format's number", (), ("U8",), "shared", is_needed=False),
        )
        yield Scheme("int8, one scale for each row", (members,), formula=Formula(over=127))
    elif said.config.get("load_in_4bit"):
        kind, nested = str(said.config.get("bnb_4bit_quant_type", "fp4")), said.config.get("bnb_4bit_use_double_quant")
        title = f"{kind.upper()} in blocks of the flat weight"
        why = _NESTED if nested is True else _FLAT
        yield Scheme(title, (_four_bits(kind, nested),), formula=Formula(is_flat=True), as_it_is=why)


def _four_bits(kind: str, nested: object) -> tuple[Member, ...]:
    """Return the tensors of a group; where nothing says whether its scales are codes themselves, either may be."""
    codes, is_nested = (Along(Axis.FLAT, 2), ONE), nested is True
    scales = tuple(dtype for dtype, other in (("F32", True), ("U8", False)) if nested is not other)
    return (
        Member(".weight", "codes", codes, ("U8", "F32", "BF16", "F16"), "codes"),
        Member(".weight.absmax", "scales", None, scales, role="scale"),
        Member(".weight.quant_map", "the table of values", _table(16), ("F32",), "shared", role="table"),
        Member(f".weight.{_STATE}{kind}", "the state", None, ("U8",), "derived", role="state"),
        Member(".weight.nested_absmax", "scales of scales", None, ("F32",), is_needed=is_nested, role="nested scale"),
        Member(
            ".weight.nested_quant_map",
            "the table of scales",
            _table(256),
            ("F32",),
            "shared",
            is_needed=is_nested,
            role="nested table",
        ),
    )


def _table(size: int) -> tuple[Along, ...]:
    return (Along(Axis.INSIDE, size),)
