"""What says that a checkpoint's weights are quantised: its configuration, companions of weights, and dtypes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from weighbridge.base.keys import by_name, collapse, counted
from weighbridge.base.specs import DTYPES, Header
from weighbridge.mappings.schemes.endings import COMPANIONS
from weighbridge.mappings.schemes.quantisation import Quantisation, QuantisedWeight, find_quantisation
from weighbridge.mappings.schemes.said import QUANTISATION

_SHOWN: Final = 2


def quantisation_hints(header: Header, config: Any = None, beside: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """List what says that weights are quantised.

    Args:
        header: Specs of the tensors.
        config: The content of the checkpoint's `config.json`, if there is one.
        beside: The content of the other files beside it that speak of quantisation, by name.

    Returns:
        A sentence for each scheme that the configuration says and the tensors have, then what contradicts it; then one
        for each other sign. None for a checkpoint that shows no sign of it.

    Examples:
        >>> from weighbridge.base.specs import TensorSpec
        >>> quantisation_hints(Header({"w.qweight": TensorSpec("I32", (2, 3))}))
        ('packed integers with zero points and groups, as of GPTQ and AWQ: 1 tensor, w.qweight',)
    """
    found = find_quantisation(header, config, beside or {})
    if found is None or not found.weights:
        problems = found.problems if found is not None else []
        return (*_declared(config), *_problems(problems), *_companions(header), *_dtypes(header))
    grouped = {key for weight in found.weights for _, key in weight.keys}
    rest = Header({key: spec for key, spec in header.items() if key not in grouped})
    return (*_schemes(header, found), *_problems(found.problems), *_companions(rest), *_dtypes(rest))


def _schemes(header: Header, found: Quantisation) -> Iterator[str]:
    """Say each scheme with its weights, and the dtypes of what is stored for each of them."""
    by_title: defaultdict[str, list[QuantisedWeight]] = defaultdict(list)
    for weight in found.weights:
        by_title[weight.scheme.title].append(weight)
    for title, weights in by_title.items():
        dtypes: dict[str, dict[str, None]] = {}
        for member, key in (pair for weight in weights for pair in weight.keys if pair[0].kind != "derived"):
            dtypes.setdefault(member.ending.lstrip("._"), {})[header[key].dtype] = None
        stored = ", ".join(f"{name} {'/'.join(codes)}".lstrip() for name, codes in dtypes.items())
        yield f"{found.method}, {title}: {counted(len(weights), 'weight')} as {stored}"


def _problems(problems: Sequence[str]) -> Iterator[str]:
    yield from (f"CHECK: {problem}" for problem in problems[:_SHOWN])
    if len(problems) > _SHOWN:
        yield f"CHECK: … and {len(problems) - _SHOWN:,} more that the configuration does not explain"


def _declared(config: Any) -> Iterator[str]:
    found = config.get(QUANTISATION) if isinstance(config, Mapping) else None
    if isinstance(found, Mapping):
        method = found.get("quant_method")
        parts = [f"{name} {found[name]}" for name in ("bits", "fmt", "group_size", "format") if name in found]
        yield f"config.json: {method or 'quantization_config'}" + (f", {', '.join(parts)}" if parts else "")


def _companions(header: Header) -> Iterator[str]:
    names = by_name(header)
    for kind in COMPANIONS:
        held = [name for name in names if re.search(kind.pattern, name)]
        count = sum(len(names[name]) for name in held)
        if held:
            shown = collapse(key for name in held for key in names[name])
            more = f", … and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
            yield f"{kind.what}: {count:,} tensor{'s' * (count != 1)}, {', '.join(shown[:_SHOWN])}{more}"


def _dtypes(header: Header) -> Iterator[str]:
    narrow = {spec.dtype for spec in header.values() if DTYPES[spec.dtype].kind in ("float", "packed")}
    for code in sorted(code for code in narrow if DTYPES[code].bits <= 8):
        count = sum(spec.dtype == code for spec in header.values())
        yield f"{code} elements of {DTYPES[code].bits} bits: {count:,} tensor{'s' * (count != 1)}"
