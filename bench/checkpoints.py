"""Checkpoints on disk: sharded safetensors files with a known pattern, or sparse ones with a header and no data.

Written without the library that is measured, straight from the format's description
(https://github.com/huggingface/safetensors#format), so that what it reads was not made by itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import weighbridge as wb
from bench.inventories import Sizes, header_of

INDEX: Final = "model.safetensors.index.json"
_BLOCK_BYTES: Final = 2**24
_STEP_BYTES: Final = 4099
_CHUNK_BYTES: Final = 2**22


class Pattern:
    """Endless bytes for each tensor, all different, at the cost of one random block.

    Tensor number n gets the block from byte n * 4,099 on, over and over.
    """

    def __init__(self, seed: int = 0) -> None:
        block = random.Random(seed).randbytes(_BLOCK_BYTES)
        self._doubled = memoryview(block + block)

    def pieces(self, number: int, size_bytes: int) -> Iterator[memoryview]:
        """Yield the bytes of tensor `number`."""
        start = number * _STEP_BYTES % _BLOCK_BYTES
        for position in range(0, size_bytes, _BLOCK_BYTES):
            yield self._doubled[start : start + min(_BLOCK_BYTES, size_bytes - position)]


def write_checkpoint(directory: Path, sizes: Sizes, shard_bytes: int, *, sparse: bool = False) -> None:
    """Write a sharded checkpoint with its index and a `config.json`.

    Args:
        directory: Directory to make.
        sizes: The model's sizes; its tensors are numbered, and laid out, in the order of the layers.
        shard_bytes: Most bytes of tensors in one file.
        sparse: Write the headers alone, and leave the rest of each file a hole.
    """
    header = header_of(sizes)
    directory.mkdir(parents=True)
    shards = _split(header, shard_bytes)
    pattern = None if sparse else Pattern()
    numbers = {key: number for number, key in enumerate(header)}
    places: dict[str, str] = {}
    for position, keys in enumerate(shards, 1):
        name = f"model-{position:05}-of-{len(shards):05}.safetensors"
        places |= dict.fromkeys(keys, name)
        _write_shard(directory / name, {key: header[key] for key in keys}, numbers, pattern)
    index = {"metadata": {"total_size": header.size_bytes}, "weight_map": places}
    (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    (directory / "config.json").write_text(json.dumps(sizes.config(), indent=2) + "\n", encoding="utf-8")


def write_file(path: Path, header: wb.Header) -> None:
    """Write one file with a header's tensors, in a directory of its own, which is made."""
    path.parent.mkdir(parents=True)
    _write_shard(path, header.specs, {key: number for number, key in enumerate(header)}, Pattern())


def _split(header: wb.Header, shard_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    filled = 0
    for key, spec in header.items():
        if shards[-1] and filled + spec.size_bytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(key)
        filled += spec.size_bytes
    return shards


def _write_shard(
    path: Path, specs: Mapping[str, wb.TensorSpec], numbers: Mapping[str, int], pattern: Pattern | None
) -> None:
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for key, spec in specs.items():
        table[key] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": [position, position + spec.size_bytes],
        }
        position += spec.size_bytes
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("xb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        if pattern is None:
            file.truncate(8 + len(text) + position)
            return
        for key, spec in specs.items():
            file.writelines(pattern.pieces(numbers[key], spec.size_bytes))


def file_hashes(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a directory, by name."""
    found = {}
    for path in sorted(directory.iterdir()):
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


class Tensors:
    """The tensors' bytes of a directory of safetensors files, read by their headers."""

    def __init__(self, directory: Path) -> None:
        self._places: dict[str, tuple[Path, int, int]] = {}
        for path in sorted(directory.glob("*.safetensors")):
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                table = json.loads(file.read(length))
            for key, entry in table.items():
                if key != "__metadata__":
                    start, stop = entry["data_offsets"]
                    self._places[key] = path, 8 + length + start, stop - start

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def digest(self, keys: Iterable[str]) -> str:
        """Return the SHA-256 of some tensors' bytes, one after the other."""
        found = hashlib.sha256()
        for key in keys:
            path, start, size_bytes = self._places[key]
            with path.open("rb") as file:
                file.seek(start)
                for position in range(0, size_bytes, _CHUNK_BYTES):
                    found.update(file.read(min(_CHUNK_BYTES, size_bytes - position)))
        return found.hexdigest()


def wrong_tensors(source: Path, fused: Path, experts: int) -> list[str]:
    """Compare a fused checkpoint with the one it comes from, byte by byte and without the library.

    Stacked experts lie one after the other; gate and up of one expert follow each other, since they are joined along
    the axis after the experts'.

    Args:
        source: Directory with one tensor for each expert.
        fused: Directory with the fused tensors.
        experts: Number of experts.

    Returns:
        Keys whose bytes are not those expected, and keys that only one side accounts for.
    """
    before, after = Tensors(source), Tensors(fused)
    wrong, left = [], set(before)
    for key in after:
        parts = _parts(key, experts)
        if not left.issuperset(parts) or after.digest([key]) != before.digest(parts):
            wrong.append(key)
        left.difference_update(parts)
    return wrong + sorted(left)


def differing_tensors(first: Path, second: Path) -> list[str]:
    """Compare two directories of safetensors files; return keys whose bytes differ, and keys of one side only."""
    before, after = Tensors(first), Tensors(second)
    wrong = set(before) ^ set(after)
    wrong |= {key for key in set(before) & set(after) if before.digest([key]) != after.digest([key])}
    return sorted(wrong)


def _parts(key: str, experts: int) -> list[str]:
    """List the tensors that a fused tensor is made of, in the order of their bytes."""
    prefix, found, name = key.rpartition(".experts.")
    if not found:
        return [key]
    halves = ("gate", "up") if name == "gate_up_proj" else ("down",)
    return [f"{prefix}.experts.{expert}.{half}_proj.weight" for expert in range(experts) for half in halves]


def discard(directory: Path) -> None:
    """Remove an output and let the disk finish, so that the next run does not pay for this one."""
    shutil.rmtree(directory)
    os.sync()
