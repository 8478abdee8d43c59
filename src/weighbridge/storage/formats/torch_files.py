"""Torch files: `.bin`, `.pt`, `.pth`.

They are read with `torch.load(weights_only=True)`, always: a pickle that holds more than tensors and plain values is
refused. The zip format of torch >= 1.6 is mapped, so that only the pickle is read. The older format has no directory of
its tensors: such a file is read whole, the one case where opening reads tensor data.

A training checkpoint often has the tensors one level down, `{"state_dict": {...}, "epoch": 3}`. If exactly one dict,
the outer one or one directly in it, holds tensors, then that is the checkpoint; everything else is named in the notes.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weighbridge.base.errors import CheckpointError
from weighbridge.base.json_text import join_keys, shorten
from weighbridge.base.specs import Header
from weighbridge.storage.formats.file_starts import name_start
from weighbridge.storage.formats.memory import TensorsCheckpoint, hold_tensors
from weighbridge.storage.formats.safetensors_files import find_shards
from weighbridge.storage.formats.shard_index import WeightMap, check_shards
from weighbridge.storage.places.directory import Extra
from weighbridge.storage.places.paths import resolve_inside
from weighbridge.storage.places.regular_files import SourceFile, sample_file
from weighbridge.storage.protocol import IndexText

if TYPE_CHECKING:
    import torch

_ZIP_MAGIC = b"PK\x03\x04"
_FORBIDDEN = re.compile(r"(GLOBAL [\w.]+|Can only (create|build)|Trying to (call|instantiate))[^\n]*")
_GLOBAL = re.compile(r"GLOBAL ([\w.]*\w)\b.*")
_CAUSE = re.compile(r"WeightsUnpickler error:\s*([^\n]+)")


def open_torch_file(path: Path) -> TensorsCheckpoint:
    """Open one torch file; nothing around it is looked at.

    Raises:
        CheckpointError: `pickle-unsafe`, `pickle-invalid`, `checkpoint-ambiguous`, `dtype-unknown`,
            `checkpoint-not-found`, `read-failed`.
    """
    return _open_all(str(path), [(path.name, path.resolve())], None, None)


def open_torch_set(
    directory: Path, names: Sequence[str], *, extras: tuple[Extra, ...] = (), notes: tuple[str, ...] = ()
) -> TensorsCheckpoint:
    """Open torch files that lie in one directory without an index.

    Raises:
        CheckpointError: `path-unsafe`, and what `open_torch_file` raises.
    """
    files = [(name, resolve_inside(directory, name)) for name in sorted(names)]
    return _open_all(str(directory), files, None, None, extras, notes)


def open_torch_index(
    directory: Path,
    index: SourceFile,
    weight_map: WeightMap,
    *,
    where: str,
    extras: tuple[Extra, ...] = (),
    notes: tuple[str, ...] = (),
) -> TensorsCheckpoint:
    """Open the torch files that an index names.

    Raises:
        CheckpointError: `index-mismatch`, `path-unsafe`, and what `open_torch_file` raises.
    """
    return _open_all(where, find_shards(directory, weight_map, index.name), index, weight_map, extras, notes)


def _open_all(
    where: str,
    paths: Sequence[tuple[str, Path]],
    index: SourceFile | None,
    weight_map: WeightMap | None,
    extras: tuple[Extra, ...] = (),
    notes: tuple[str, ...] = (),
) -> TensorsCheckpoint:
    files = [sample_file(name, path) for name, path in paths]
    tensors: dict[str, torch.Tensor] = {}
    ties: dict[str, str] = {}
    found: list[str] = list(notes)
    shards: dict[str, Mapping[str, torch.Tensor]] = {}
    for file in files:
        shard, left = load_tensors(file)
        shards[file.name] = shard
        held = hold_tensors(shard, str(file.path))
        ties.update(held.header.ties)
        found.extend(left)
        _check_new(tensors, shard, file)
        tensors.update(shard)
    if index and weight_map:
        check_shards(weight_map, shards, index.name)
    held = hold_tensors(tensors, where)
    return TensorsCheckpoint(
        where,
        Header(held.header.specs, ties=ties),
        tensors=held.tensors,
        opened=(*files, index) if index else tuple(files),
        index=IndexText(index.name, index.head) if index else None,
        extras=extras,
        notes=tuple(found),
    )


def _check_new(tensors: Mapping[str, object], shard: Mapping[str, object], file: SourceFile) -> None:
    shared = tensors.keys() & shard.keys()
    if shared:
        got = join_keys(shared)
        raise CheckpointError("index-mismatch", "two shards hold the same key", where=str(file.path), got=got)


def load_tensors(file: SourceFile) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Load the tensors of one torch file, mapped where its format allows that.

    Returns:
        The tensors by key, and notes on what stands beside them.

    Raises:
        CheckpointError: `pickle-unsafe`, `pickle-invalid`, `checkpoint-ambiguous`.
    """
    is_zip = file.head.startswith(_ZIP_MAGIC)
    if is_zip:
        _check_uncompressed(file.path)
    try:
        content = _load(file.path, is_zip)
    except pickle.UnpicklingError as error:
        raise _explain(error, file) from None
    except MemoryError:
        raise
    # A damaged pickle can raise anything, an assertion within torch included.
    except Exception as error:
        got = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]
        raise _no_torch_file("this is no torch file", file, got) from None
    tensors, notes = _unwrap(content, str(file.path))
    _check_storages(tensors, str(file.path))
    return tensors, notes


def _load(path: Path, is_zip: bool) -> Any:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)


def _check_uncompressed(path: Path) -> None:
    """Check that an archive's directory can be read, and that no member is compressed: such a file cannot be mapped."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [info.filename for info in archive.infolist() if info.compress_type != zipfile.ZIP_STORED]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
        hint = "check that the file was copied to its end"
        raise CheckpointError(
            "pickle-invalid", "the archive is damaged", where=str(path), got=str(error), hint=hint
        ) from None
    if packed:
        raise CheckpointError("pickle-invalid", "the archive is compressed", where=str(path), got=join_keys(packed))


def _no_torch_file(what: str, file: SourceFile, got: str) -> CheckpointError:
    """Return the error for a file that cannot be read, with what it is instead where its start tells."""
    foreign = None if file.head.startswith(_ZIP_MAGIC) else name_start(file.head)
    got, hint = (foreign.what, foreign.hint) if foreign else (got, "write it again with a current PyTorch")
    return CheckpointError("pickle-invalid", what, where=str(file.path), got=got, hint=hint)


def _explain(error: Exception, file: SourceFile) -> CheckpointError:
    """Tell a forbidden pickle from a broken one; torch says both with one class, and advises to load it unsafely."""
    forbidden = _FORBIDDEN.search(str(error))
    if forbidden:
        hint = "convert it with the program that wrote it, and only if you trust its origin"
        what = "the pickle holds more than tensors"
        got = _GLOBAL.sub(r"the code of \1", forbidden[0])[:200]
        return CheckpointError("pickle-unsafe", what, where=str(file.path), got=got, hint=hint)
    cause = _CAUSE.search(str(error))
    return _no_torch_file("the pickle cannot be read", file, cause[1][:200] if cause else type(error).__name__)


def _unwrap(content: Any, where: str) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Find the one dict of tensors: the outer one, or one directly in it."""
    if not isinstance(content, Mapping):
        got = f"a {type(content).__name__}"
        raise CheckpointError("pickle-invalid", "this is no dict of tensors", where=where, got=got)
    holders: list[tuple[str, Mapping[Any, Any]]] = [("", content)] if _has_tensors(content) else []
    holders += [(str(name), value) for name, value in content.items() if _has_tensors(value)]
    if len(holders) != 1:
        code = "checkpoint-ambiguous" if holders else "pickle-invalid"
        what = "more than one dict holds tensors" if holders else "there is no tensor in this file"
        got = ", ".join(shorten(name) if name else "the outer dict" for name, _ in holders[:8])
        raise CheckpointError(code, what, where=where, expected="one dict of tensors by key", got=got)
    name, holder = holders[0]
    beside = [key for key, value in holder.items() if not _is_tensor(value)]
    notes = [f"no tensors, left aside: {join_keys(map(str, beside))}"] if beside else []
    if holder is not content:
        others = join_keys(str(key) for key in content if str(key) != name)
        notes.append(f"the tensors are those of {shorten(name)}" + (f"; left aside: {others}" if others else ""))
    return {key: value for key, value in holder.items() if _is_tensor(value)}, notes


def _is_tensor(value: object) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _has_tensors(value: object) -> bool:
    return isinstance(value, Mapping) and any(map(_is_tensor, value.values()))


def _check_storages(tensors: Mapping[str, torch.Tensor], where: str) -> None:
    """Check that each tensor lies within its storage: a forged pickle may claim more than the file holds."""
    for key, tensor in tensors.items():
        if tensor.numel() == 0 or not hasattr(tensor, "untyped_storage") or tensor.is_sparse or tensor.is_meta:
            continue
        steps = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        stop = (tensor.storage_offset() + steps + 1) * tensor.element_size()
        if stop > tensor.untyped_storage().nbytes():
            place = f"{where}: {shorten(str(key))}"
            raise CheckpointError("pickle-invalid", "a tensor is larger than its storage", where=place)
