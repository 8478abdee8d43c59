"""HQQ: groups of the flat weight, of which the first half and the second share bytes; nothing of it moves but names.

After `core/quantize.py` of hqq 0.2.8.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from weighbridge.mappings.schemes.dialects import TAGS, named_at
from weighbridge.mappings.schemes.said import Said, whole
from weighbridge.mappings.schemes.scheme import FLOATS, ONE, Along, Axis, Member, Scheme

METHOD: Final = "hqq"

NAMES: Final = named_at(("skip_modules", "quant_config"), TAGS)

_STATE = (
    *("nbits", "axis", "shape", "group_size", "packing", "view_as_float", "unpack_view_dtype"),
    *("quant_scale", "quant_zero", "compute_dtype", "channel_wise", "optimize", "round_zero", "offload_meta"),
    *("encoded_state_dict", "stores_quant_config"),
)
_HALVES = "a byte holds codes of groups that are far apart, of the first half of the weight and the second"
_STATES = ("I64", "I32", "I8", "U8", "BOOL", *FLOATS)


def read(said: Said) -> Iterator[Scheme]:
    """Yield the scheme that the configuration says."""
    given: Any = said.config.get("quant_config")
    weights = given.get("weight_quant_params") if isinstance(given, Mapping) else None
    if said.method != METHOD or not isinstance(weights, Mapping):
        return
    bits, size = whole(weights.get("nbits")), whole(weights.get("group_size"))
    if bits is None or size is None:
        return
    entries = (Along(Axis.FLAT, size), ONE)
    grid = {"scale": "scales", "zero": "zero points"}
    members = [Member(".W_q", "codes", None, ("U8", "I32"), "codes")]
    members += [Member(f".{name}", what, entries, FLOATS) for name, what in grid.items()]
    members += [Member(f".{name}", "the state", None, _STATES, "derived", is_needed=False) for name in _STATE]
    yield Scheme(f"int{bits} in groups of {size} of the flat weight", (tuple(members),), as_it_is=_HALVES)
