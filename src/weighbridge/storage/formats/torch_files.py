"""Torch files: `.bin`, `.pt`, `.pth`, `.ckpt`.

Their pickles are read for what they say, and none of their code is run (`pickles`). The file itself is mapped: only
the pickle is read, and of the tensors only those of the dict that was chosen (`torch_entries`) are made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Final

from weighbridge.base.errors import CheckpointError
from weighbridge.base.json_text import join_keys, shorten
from weighbridge.base.specs import Header, TensorSpec
from weighbridge.storage.formats.memory import TensorsCheckpoint, hold_tensors
from weighbridge.storage.formats.safetensors_files import find_shards
from weighbridge.storage.formats.shard_index import WeightMap, check_shards
from weighbridge.storage.formats.torch_archives import Builder, item_bytes, open_archive
from weighbridge.storage.formats.torch_entries import choose, notes_on
from weighbridge.storage.formats.torch_pickles import UNSAFE_HINT, Stored, Strange, forbidden
from weighbridge.storage.places.directory import Extra
from weighbridge.storage.places.paths import resolve_inside
from weighbridge.storage.places.regular_files import SourceFile, sample_file
from weighbridge.storage.protocol import IndexText

if TYPE_CHECKING:
    import torch

REPEATED_BYTES: Final = 64 * 2**20
"""How much the tensors of a file may hold beyond twice its size: with a stride of 0, a few bytes are a tensor of any
size, and a file of a kilobyte would fill a disk."""


def open_torch_file(path: Path, entry: str | None = None) -> TensorsCheckpoint:
    """Open one torch file; nothing around it is looked at.

    Args:
        path: The file.
        entry: Which of its dicts is meant; see `load_tensors`.

    Raises:
        CheckpointError: What `load_tensors` raises, `checkpoint-not-found`, `read-failed`.
    """
    return _open_all(str(path), [(path.name, path.resolve())], None, None, entry)


def open_torch_set(
    directory: Path,
    names: Sequence[str],
    entry: str | None = None,
    *,
    extras: tuple[Extra, ...] = (),
    notes: tuple[str, ...] = (),
) -> TensorsCheckpoint:
    """Open torch files that lie in one directory without an index.

    Raises:
        CheckpointError: `path-unsafe`, and what `open_torch_file` raises.
    """
    files = [(name, resolve_inside(directory, name)) for name in sorted(names)]
    return _open_all(str(directory), files, None, None, entry, extras, notes)


def open_torch_index(
    directory: Path,
    index: SourceFile,
    weight_map: WeightMap,
    entry: str | None = None,
    *,
    where: str,
    extras: tuple[Extra, ...] = (),
    notes: tuple[str, ...] = (),
) -> TensorsCheckpoint:
    """Open the torch files that an index names.

    Raises:
        CheckpointError: `index-mismatch`, `path-unsafe`, and what `open_torch_file` raises.
    """
    return _open_all(where, find_shards(directory, weight_map, index.name), index, weight_map, entry, extras, notes)


def _open_all(
    where: str,
    paths: Sequence[tuple[str, Path]],
    index: SourceFile | None,
    weight_map: WeightMap | None,
    entry: str | None,
    extras: tuple[Extra, ...] = (),
    notes: tuple[str, ...] = (),
) -> TensorsCheckpoint:
    files = [sample_file(name, path) for name, path in paths]
    tensors: dict[str, torch.Tensor] = {}
    specs: dict[str, TensorSpec] = {}
    ties: dict[str, str] = {}
    found: list[str] = list(notes)
    shards: dict[str, Mapping[str, torch.Tensor]] = {}
    for file in files:
        shard, left = load_tensors(file, entry)
        shards[file.name] = shard
        held = hold_tensors(shard, str(file.path))
        found.extend(left)
        _check_new(tensors, shard, file)
        ties.update(held.header.ties)
        specs.update(held.header.specs)
        tensors.update(held.tensors)
    if index and weight_map:
        check_shards(weight_map, shards, index.name)
    return TensorsCheckpoint(
        where,
        Header(specs, ties=ties),
        tensors=tensors,
        opened=(*files, index) if index else tuple(files),
        index=IndexText(index.name, index.head) if index else None,
        extras=extras,
        notes=tuple(dict.fromkeys(found)),
    )


def _check_new(tensors: Mapping[str, object], shard: Mapping[str, object], file: SourceFile) -> None:
    shared = tensors.keys() & shard.keys()
    if shared:
        got = join_keys(shared)
        raise CheckpointError("index-mismatch", "two shards hold the same key", where=str(file.path), got=got)


def load_tensors(file: SourceFile, entry: str | None = None) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Map the tensors of one torch file.

    Args:
        file: The file.
        entry: Which of its dicts is meant: names with dots between them; None for the one that holds its weights.

    Returns:
        The tensors by key, and notes on what was chosen and what stands beside it.

    Raises:
        CheckpointError: `pickle-unsafe`, `pickle-invalid`, `checkpoint-ambiguous`, `checkpoint-not-found` for an entry
            that is not there, `tensor-unsupported`, `tensor-bounds`, `dtype-unknown`.
    """
    try:
        return _load(file, entry)
    except CheckpointError as problem:
        if problem.code == "checkpoint-ambiguous" and problem.hint:
            problem.hint = f"name the one that is meant: {quote(f'{file.path}::{problem.hint}')}"
        raise problem.with_context(where=str(file.path)) from None


def _load(file: SourceFile, entry: str | None) -> tuple[dict[str, torch.Tensor], list[str]]:
    archive = open_archive(file)
    name = forbidden(archive.pickled.globals)
    if name is not None:
        got = f"the code of {name}"
        raise CheckpointError("pickle-unsafe", "the pickle holds more than tensors", got=got, hint=UNSAFE_HINT)
    chosen = choose(archive.pickled.value, entry)
    _check_claims(chosen.tensors.values(), file.stamp.size_bytes)
    builder = Builder(archive)
    tensors: dict[str, torch.Tensor] = {}
    for key, stored in chosen.tensors.items():
        try:
            tensors[key] = _build(builder, stored)
        except CheckpointError as problem:
            raise problem.with_context(where=f"{file.path}: {shorten(key) if type(key) is str else '?'}") from None
    return tensors, notes_on(archive.pickled.value, chosen)


def _build(builder: Builder, stored: Stored | Strange) -> torch.Tensor:
    if isinstance(stored, Strange):
        what, expected = "this tensor has no dense memory of its own", "a dense tensor"
        hint = "save the plain tensor, of a DTensor its .full_tensor(), with the program that wrote this file"
        raise CheckpointError("tensor-unsupported", what, expected=expected, got=stored.what, hint=hint)
    return builder.build(stored)


def _check_claims(tensors: Iterable[Stored | Strange], size_bytes: int) -> None:
    """Refuse tensors that hold far more than their file does."""
    own = {stored for stored in tensors if isinstance(stored, Stored) and stored.storage is not None}
    claimed = sum([prod(stored.shape) * item_bytes(stored.dtype) for stored in own])
    most = 2 * size_bytes + REPEATED_BYTES
    if claimed > most:
        expected, got = f"at most {most:,} bytes", f"{claimed:,} bytes in a file of {size_bytes:,}"
        hint = "save them dense, with .contiguous()"
        what = "the tensors repeat their elements beyond all measure"
        raise CheckpointError("tensor-bounds", what, expected=expected, got=got, hint=hint)
