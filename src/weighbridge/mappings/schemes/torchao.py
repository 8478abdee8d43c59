"""torchao: the tensors of its subclasses, flattened; their types and blocks stand in the file's metadata, by name.

After `prototype/safetensors` of torchao 0.18.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from weighbridge.mappings.schemes.dialects import READ_BY_TRANSFORMERS, TORCHAO, named_at
from weighbridge.mappings.schemes.said import Said
from weighbridge.mappings.schemes.scheme import COLUMN, F8, FLOATS, ROW, Along, Formula, Member, Scheme, columns, rows

METHOD: Final = "torchao"

_BY_NAME: Final = "quant_type.default._data"

NAMES: Final = (
    *named_at((f"{_BY_NAME}.fqn_to_config", f"{_BY_NAME}.module_fqn_to_config"), TORCHAO),
    *READ_BY_TRANSFORMERS,
)

LISTED: Final = "tensor_names"
"""The entry of the metadata that lists all names that have an entry of their own, as JSON."""

_TYPES = {"Int8Tensor": ("int8", ("I8",)), "Float8Tensor": ("FP8", F8)}


def read(said: Said) -> Iterator[Scheme]:
    """Yield a scheme for each kind of tensor and block that the metadata names."""
    if said.method != METHOD:
        return
    names: dict[tuple[str, bool, int | None], list[str]] = {}
    for name, text in said.metadata.items():
        kind, block = _described(text)
        if kind in _TYPES and block is not None:
            names.setdefault((kind, *block), []).append(name.removesuffix(".weight"))
    for (kind, by_row, size), modules in names.items():
        yield _scheme(*_TYPES[kind], by_row, size, tuple(modules))


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


def _described(text: str) -> tuple[str, tuple[bool, int | None] | None]:
    """Return the type of a tensor, and whether its blocks are of one row, and of how many columns."""
    try:
        found: Any = json.loads(text)
    except ValueError:
        return "", None
    if not isinstance(found, Mapping):
        return "", None
    data = found.get("_data")
    block = data.get("block_size") if isinstance(data, Mapping) else None
    if not isinstance(block, list) or not block or not all(isinstance(size, int) and size > 0 for size in block):
        return str(found.get("_type")), None
    return str(found.get("_type")), (all(size == 1 for size in block[:-1]), block[-1])


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
