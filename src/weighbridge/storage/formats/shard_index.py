"""Read a shard index: which file holds which tensor.

The format is that of the transformers library: `{"metadata": {...}, "weight_map": {key: file name}}`. Here the index is
an allow-list and a must-have list: what it names must be there, and nothing else may be.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from weighbridge.base.errors import CheckpointError
from weighbridge.base.file_names import check_name
from weighbridge.base.json_text import JsonError, check_characters, join_keys, kind_of, parse_json, shorten

MAX_INDEX_BYTES: Final = 100_000_000

WeightMap = dict[str, str]
"""File name of each tensor by key."""


def parse_index(text: bytes, where: str) -> WeightMap:
    """Check an index and return its weight map.

    Raises:
        CheckpointError: `index-invalid`, `path-unsafe`.

    Examples:
        >>> parse_index(b'{"weight_map": {"a": "model-00001-of-00001.safetensors"}}', "model.safetensors.index.json")
        {'a': 'model-00001-of-00001.safetensors'}
    """
    try:
        weight_map = _parse_weight_map(text)
    except JsonError as problem:
        hint = "fetch the index again; without it, a complete set of shards opens as well"
        raise CheckpointError(
            "index-invalid", "the index is not valid", where=where, got=str(problem), hint=hint
        ) from None
    for name in dict.fromkeys(weight_map.values()):
        check_name(name, where)
    return weight_map


def _parse_weight_map(text: bytes) -> WeightMap:
    table = parse_json(text)
    if type(table) is not dict:
        raise JsonError(f"it is {kind_of(table)}, not an object")
    weight_map = table.get("weight_map")
    if type(weight_map) is not dict:
        raise JsonError(f"weight_map is {kind_of(weight_map)}, not an object of file names")
    if not weight_map:
        raise JsonError("weight_map names no tensor")
    for key, name in weight_map.items():
        if type(name) is not str:
            raise JsonError(f"weight_map has {kind_of(name)} under {shorten(key)}, not a file name")
    check_characters(weight_map)
    return weight_map


def check_shards(weight_map: WeightMap, shards: Mapping[str, Collection[str]], where: str) -> None:
    """Check that each shard holds exactly the tensors that the index places in it.

    Args:
        weight_map: What the index says.
        shards: The keys in each shard, by file name.
        where: The index, for messages.

    Raises:
        CheckpointError: `index-mismatch`.
    """
    named: dict[str, set[str]] = {name: set() for name in shards}
    for key, name in weight_map.items():
        named[name].add(key)
    for name, keys in shards.items():
        absent = named[name].difference(keys)
        if absent:
            raise _mismatch("a shard lacks tensors that the index places in it", f"{where}: {name}", absent)
    for name, keys in shards.items():
        extra = set(keys).difference(named[name])
        if extra:
            raise _mismatch("a shard holds tensors that the index does not place in it", f"{where}: {name}", extra)


def _mismatch(what: str, where: str, keys: Collection[str]) -> CheckpointError:
    hint = "fetch the index and all shards again, from one revision"
    return CheckpointError("index-mismatch", what, where=where, got=f"{len(keys)}: {join_keys(keys)}", hint=hint)
