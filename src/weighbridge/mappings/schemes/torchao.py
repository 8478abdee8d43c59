"""torchao: the tensors of its subclasses, flattened; their types and blocks stand in the file's metadata, by name.

After `prototype/safetensors` of torchao 0.18.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from weighbridge.base.specs import DTYPES
from weighbridge.mappings.schemes.dialects import READ_BY_TRANSFORMERS, TORCHAO, named_at
from weighbridge.mappings.schemes.said import Said, whole
from weighbridge.mappings.schemes.scheme import COLUMN, F8, FLOATS, ROW, Along, Formula, Member, Scheme, columns, rows

METHOD: Final = "torchao"

_BY_NAME: Final = "quant_type.default._data"

NAMES: Final = (
    *named_at((f"{_BY_NAME}.fqn_to_config", f"{_BY_NAME}.module_fqn_to_config"), TORCHAO),
    *READ_BY_TRANSFORMERS,
)

LISTED: Final = "tensor_names"
"""The entry of the metadata that lists all names that have an entry of their own, as JSON."""

_WORDS = {"scale": "scales", "zero_point": "zero points"}
_TYPES = {"Int8Tensor": ("int8", ("I8",)), "Float8Tensor": ("FP8", F8)}


def read(said: Said) -> Iterator[Scheme]:
    """Yield a scheme for each kind of tensor and block that the metadata names; types of others move as they are."""
    if said.method != METHOD:
        return
    names: dict[tuple[str, bool, int | None], list[str]] = {}
    others: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for name, text in said.metadata.items():
        kind, block, parts = _described(text)
        if kind in _TYPES and block is not None:
            names.setdefault((kind, *block), []).append(name.removesuffix(".weight"))
        elif parts:
            others.setdefault((kind, parts), []).append(name.removesuffix(".weight"))
    for (kind, by_row, size), modules in names.items():
        yield _scheme(*_TYPES[kind], by_row, size, tuple(modules))
    yield from (_as_it_is(kind, parts, tuple(modules)) for (kind, parts), modules in others.items())


def _as_it_is(kind: str, parts: tuple[str, ...], modules: tuple[str, ...]) -> Scheme:
    """Return the scheme of a type that is not known here, by the names of its tensors, the codes first."""
    first, *rest = sorted(parts, key=lambda part: part != "qdata")
    members = (
        Member(f"._weight_{first}", "codes", None, tuple(DTYPES), "codes"),
        *(Member(f"._weight_{part}", _WORDS.get(part, part), None, tuple(DTYPES)) for part in rest),
    )
    reason = "how its tensors lie over the weight is not known here"
    return Scheme(kind, (members,), modules, in_metadata=True, as_it_is=reason)


def listed_names(metadata: Mapping[str, str]) -> list[str]:
    """Return the names that the metadata says something of, in its order; none where it has no such list.

    Raises:
        ValueError: Where a list of names should be, there is something else.

    Examples:
        >>> listed_names({"tensor_names": '["q.weight"]'}), listed_names({"format": "pt"})
        (['q.weight'], [])
    """
    found: Any = json.loads(metadata.get(LISTED, "[]"))
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise ValueError("no list of names")
    return found


def is_of_plain_tensor(text: str) -> bool:
    """Tell whether what the metadata says of a tensor is that it is no quantised one, whatever its axes are.

    Examples:
        >>> is_of_plain_tensor('{"_type": "Tensor"}'), is_of_plain_tensor('{"_type": "Int8Tensor"}')
        (True, False)
    """
    return _described(text).kind == "Tensor"


class _Described(NamedTuple):
    """What the metadata says of one tensor.

    Args:
        kind: Its type.
        block: Whether its blocks are of one row, and of how many columns; None where nothing says it.
        parts: What it is made of.
    """

    kind: str
    block: tuple[bool, int] | None
    parts: tuple[str, ...]


def _described(text: str) -> _Described:
    try:
        found: Any = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, Mapping):
        return _Described("", None, ())
    data, parts = found.get("_data"), found.get("_tensor_data_names")
    block = data.get("block_size") if isinstance(data, Mapping) else None
    sizes = [size for size in map(whole, block) if size] if isinstance(block, list) else []
    is_block = isinstance(block, list) and 0 < len(block) == len(sizes)
    return _Described(
        str(found.get("_type")),
        (all(size == 1 for size in sizes[:-1]), sizes[-1]) if is_block else None,
        tuple(map(str, parts)) if isinstance(parts, list) else (),
    )


def _scheme(word: str, dtypes: tuple[str, ...], by_row: bool, size: int | None, modules: tuple[str, ...]) -> Scheme:
    grid: tuple[Along, ...] = (ROW if by_row else rows(None), columns(size))
    members = (
        Member("._weight_qdata", "codes", (ROW, COLUMN), dtypes, "codes"),
        Member("._weight_scale", "scales", grid, FLOATS, role="scale"),
        Member("._weight_zero_point", "zero points", grid, ("I8", "I32", *FLOATS), is_needed=False, role="zero"),
    )
    blocks = f"{size} columns of {'a row' if by_row else 'all rows'}"
    title = f"{word}, one scale for {blocks}"
    return Scheme(title, (members,), modules, Formula(), in_metadata=True)
