"""Lay out new safetensors files: heads, shards and the index, as the field's own libraries do.

A file gets the bytes that the safetensors library gives it (https://github.com/huggingface/safetensors, `prepare` of
the reference implementation): tensors sorted by dtype, then by key; a compact header, padded with spaces to a multiple
of eight. Shards are filled and named as huggingface_hub does it (`split_state_dict_into_shards_factory`), and the index
is written as the transformers library writes it. Two differences: the library writes the pairs of `__metadata__` in
random order, here they keep theirs; and of empty metadata without tensors it makes a broken text, here it is valid.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from weighbridge.base.errors import CheckpointError, DestinationError
from weighbridge.base.file_names import INDEX_SUFFIX
from weighbridge.base.file_sets import FileImage
from weighbridge.base.json_text import JsonError, check_characters, shorten
from weighbridge.base.specs import DTYPES, Placed, TensorSpec
from weighbridge.storage.formats.safetensors_header import LENGTH_BYTES, MAX_HEADER_BYTES, read_spec
from weighbridge.storage.places.kernel import BLOCK_BYTES
from weighbridge.storage.protocol import IndexText

_LARGEST_FIRST: Final = (
    *("U64", "I64", "F64", "C64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16"),
    *("F8_E5M2FNUZ", "F8_E4M3FNUZ", "F8_E8M0", "F8_E4M3", "F8_E5M2", "I8", "U8", "F6_E3M2", "F6_E2M3", "F4", "BOOL"),
)
"""Dtypes in the order of their tensors in a file; it keeps every tensor aligned."""
_RANK: Final = {code: rank for rank, code in enumerate(_LARGEST_FIRST)}
_UNITS: Final = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
DEFAULT_SHARD_SIZE: Final = "5GB"
WEIGHTS_NAME: Final = "model.safetensors"
"""Name of a single file, where nobody gives another one."""


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """How tensors are spread over files.

    Args:
        files: The keys in each file, by file name.
        index: The shard index; None for a single file.
    """

    files: dict[str, tuple[str, ...]]
    index: IndexText | None


def build_image(
    name: str,
    specs: Mapping[str, TensorSpec],
    metadata: Mapping[str, str] | None = None,
    *,
    in_order: bool = False,
    congruent_to: int | None = None,
) -> FileImage:
    """Lay out one new safetensors file.

    Args:
        name: The file's name.
        specs: The tensors in it, in any order.
        metadata: The header's `__metadata__`; None to leave it out.
        in_order: Keep the order of the tensors, as far as each stays aligned to its elements.
        congruent_to: Let the tensors begin where the rest of a division by `kernel.BLOCK_BYTES` is that of this number.

    Raises:
        CheckpointError: `header-invalid` for a key, a text or a shape that no header can hold, `tensor-bounds` for one
            that is too large, `header-too-large`.

    Examples:
        >>> image = build_image("a.safetensors", {"w": TensorSpec("F16", (3,))})
        >>> image.head[8:], image.size_bytes
        (b'{"w":{"dtype":"F16","shape":[3],"data_offsets":[0,6]}}  ', 70)
    """
    if "__metadata__" in specs:
        raise CheckpointError("header-invalid", "no tensor can have this name", where=name, got="__metadata__")
    for spec in set(specs.values()):
        _check_spec(name, spec)
    table: dict[str, object] = {} if metadata is None else {"__metadata__": _check_texts(name, metadata)}
    places = []
    offset = 0
    for key in _arrange(specs, in_order=in_order):
        spec = specs[key]
        size_bytes = spec.size_bytes
        table[key] = {"dtype": spec.dtype, "shape": spec.shape, "data_offsets": (offset, offset + size_bytes)}
        places.append((key, offset, size_bytes))
        offset += size_bytes
    head = _encode(name, table, congruent_to)
    tensors = tuple(Placed(key, len(head) + start, size_bytes) for key, start, size_bytes in places)
    return FileImage(name, len(head) + offset, head, tensors)


def _check_spec(name: str, spec: TensorSpec) -> None:
    """Refuse what no reader would take: too many axes or elements, or some that do not fill whole bytes."""
    try:
        read_spec(spec.dtype, list(spec.shape))
    except CheckpointError as problem:
        raise problem.with_context(where=name) from None


def _arrange(specs: Mapping[str, TensorSpec], *, in_order: bool) -> list[str]:
    """Return the keys in the order in which their tensors lie in the file."""
    if not in_order:
        return sorted(specs, key=lambda key: (_RANK[specs[key].dtype], key))
    offset = 0
    for spec in specs.values():
        if offset % DTYPES[spec.dtype].itemsize:
            return sorted(specs, key=lambda key: _RANK[specs[key].dtype])
        offset += spec.size_bytes
    return list(specs)


def _check_texts(name: str, metadata: Mapping[str, Any]) -> dict[str, str]:
    strange = [text for pair in metadata.items() for text in pair if type(text) is not str]
    if strange:
        got = f"a {type(strange[0]).__name__}"
        raise CheckpointError("header-invalid", "metadata holds something else than texts", where=name, got=got)
    return dict(metadata)


def _encode(name: str, table: Mapping[str, object], congruent_to: int | None = None) -> bytes:
    text = json.dumps(table, ensure_ascii=False, separators=(",", ":"))
    try:
        check_characters([text])
    except JsonError as problem:
        raise CheckpointError("header-invalid", "a name is no text", where=name, got=str(problem)) from None
    raw = text.encode()
    # A header may end in spaces: https://github.com/huggingface/safetensors#format.
    stop, unit = (0, 8) if congruent_to is None else (congruent_to, BLOCK_BYTES)
    raw += b" " * ((stop - LENGTH_BYTES - len(raw)) % unit)
    if len(raw) > MAX_HEADER_BYTES:
        expected, got = f"at most {MAX_HEADER_BYTES:,} bytes", f"{len(raw):,} bytes"
        hint = "write more, smaller shards"
        raise CheckpointError(
            "header-too-large", "too many tensors for one file", where=name, expected=expected, got=got, hint=hint
        )
    return len(raw).to_bytes(LENGTH_BYTES, "little") + raw


def plan_shards(
    specs: Mapping[str, TensorSpec],
    max_shard_size: int | str | None = DEFAULT_SHARD_SIZE,
    weights_name: str = WEIGHTS_NAME,
) -> ShardPlan:
    """Spread tensors over files: in the order of the keys, the next file when the next tensor would not fit.

    Args:
        specs: The tensors, in the order in which files are filled.
        max_shard_size: The most bytes of tensor data in one file, or a text such as `"5GB"` (10**9 bytes each); a
            larger tensor gets a file of its own. None for a single file.
        weights_name: Name of a single file, from which the names of shards and index are made.

    Raises:
        DestinationError: `usage` for a size that cannot be read.

    Examples:
        >>> plan = plan_shards({"a": TensorSpec("U8", (6,)), "b": TensorSpec("U8", (7,))}, 10)
        >>> plan.files
        {'model-00001-of-00002.safetensors': ('a',), 'model-00002-of-00002.safetensors': ('b',)}
    """
    limit = None if max_shard_size is None else parse_size(max_shard_size)
    shards = _fill_shards(specs, limit)
    if len(shards) <= 1:
        return ShardPlan({weights_name: tuple(specs)}, None)
    names = shard_names(weights_name, len(shards))
    files = {name: tuple(keys) for name, keys in zip(names, shards, strict=True)}
    return ShardPlan(files, index_text(weights_name, specs, files))


def shard_names(weights_name: str, count: int) -> list[str]:
    """Name so many files that hold a checkpoint together.

    Args:
        weights_name: Name that a single file has.
        count: Number of files.

    Examples:
        >>> shard_names("model.safetensors", 1), shard_names("model.safetensors", 2)[-1:]
        (['model.safetensors'], ['model-00002-of-00002.safetensors'])
    """
    if count == 1:
        return [weights_name]
    stem, dot, suffix = weights_name.rpartition(".")
    return [f"{stem}-{number:05d}-of-{count:05d}{dot}{suffix}" for number in range(1, count + 1)]


def _fill_shards(specs: Mapping[str, TensorSpec], limit: int | None) -> list[list[str]]:
    shards: list[list[str]] = []
    current: list[str] = []
    filled = 0
    for key, spec in specs.items():
        size_bytes = spec.size_bytes
        if limit is not None and size_bytes > limit:
            shards.append([key])
            continue
        if limit is not None and filled + size_bytes > limit:
            shards.append(current)
            current, filled = [], 0
        current.append(key)
        filled += size_bytes
    return [*shards, current] if current else shards


def index_text(weights_name: str, specs: Mapping[str, TensorSpec], files: Mapping[str, tuple[str, ...]]) -> IndexText:
    """Write the index of a set of shards.

    Args:
        weights_name: Name that a single file would have.
        specs: All tensors.
        files: The keys in each file, by file name.

    Raises:
        CheckpointError: `header-invalid` for a key that no file can hold.
    """
    total_size = sum(spec.size_bytes for spec in specs.values())
    weight_map = {key: name for name, keys in files.items() for key in keys}
    text = json.dumps({"metadata": {"total_size": total_size}, "weight_map": weight_map}, indent=2, sort_keys=True)
    return IndexText(weights_name + INDEX_SUFFIX, (text + "\n").encode())


def parse_size(size: int | str) -> int:
    """Read a size in bytes: a positive number, or a text with a unit of 1000, 1000**2, ... bytes.

    Raises:
        DestinationError: `usage`.

    Examples:
        >>> parse_size("5GB"), parse_size("1.5 MB"), parse_size(7)
        (5000000000, 1500000, 7)
    """
    try:
        text = str(size).strip()
        size_bytes = size if isinstance(size, int) else int(float(text[:-2]) * _UNITS[text[-2:].upper()])
    except (ValueError, KeyError, OverflowError):
        size_bytes = 0
    if size_bytes <= 0 or isinstance(size, bool):
        expected = 'a positive number of bytes, or a text such as "5GB" (KB, MB, GB, TB)'
        got = shorten(size) if isinstance(size, str) else repr(size)
        raise DestinationError("usage", "this is no size", expected=expected, got=got)
    return size_bytes
