"""Open whatever a user points at."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias, TypeGuard, cast

from weighbridge.base.errors import CheckpointError, WeighbridgeError
from weighbridge.base.file_names import INDEX_SUFFIX, SAFETENSORS_SUFFIX, TORCH_SUFFIXES, names_index
from weighbridge.base.json_text import join_keys
from weighbridge.base.nearby import name_near
from weighbridge.base.specs import Header
from weighbridge.storage.formats.inventory import open_inventory
from weighbridge.storage.formats.memory import HeaderCheckpoint, hold_tensors
from weighbridge.storage.formats.safetensors_files import (
    SafetensorsCheckpoint,
    open_safetensors_file,
    open_safetensors_index,
    open_safetensors_set,
)
from weighbridge.storage.formats.shard_index import MAX_INDEX_BYTES, parse_index
from weighbridge.storage.opening_elsewhere import open_address, refuse_entry
from weighbridge.storage.places.directory import find_weights
from weighbridge.storage.places.extras import find_extras
from weighbridge.storage.places.paths import resolve_inside
from weighbridge.storage.places.regular_files import SourceFile, read_small_file, reporting_read_errors
from weighbridge.storage.protocol import Checkpoint
from weighbridge.storage.remote.addresses import hint_for_path, is_address, is_elsewhere, local_path, read_address
from weighbridge.storage.sharded.dcp_names import ITEMS_SUFFIX, METADATA_NAME, is_dcp

if TYPE_CHECKING:
    import torch

Place: TypeAlias = "str | os.PathLike[str] | Header | Checkpoint | Mapping[str, torch.Tensor]"
"""Whatever can be opened."""

_LOG: Final = logging.getLogger(__name__)

_PICKLE_HINT: Final = "give it a name that ends in .pt, if torch.save wrote it"
_OF_OTHERS: Final = {
    ".gguf": "make safetensors files of it with its own tools, and open these",
    ".pkl": _PICKLE_HINT,
    ".pickle": _PICKLE_HINT,
}
"""What to do with files of other formats, by how their names end."""

_ENTRY_MARK: Final = "::"
"""Stands between the path of a torch file and the dict in it that is meant."""


def open_checkpoint(place: Place, *, direct: bool = False, entry: str | None = None) -> Checkpoint:
    """Open a checkpoint: read its headers, check them, and read no tensor data.

    Args:
        place: An address, `hf://`, `s3://`, `gs://`, `az://`, `https://` or `file://`; see `docs/remote.md`. Or a
            directory, that of a distributed checkpoint among them; a safetensors file; a shard index
            (`*.index.json`); a torch file (`.bin`, `.pt`, `.pth`); an inventory (`.json`, `.json.gz`); a dict of
            tensors; a header; or a checkpoint, which is returned as it is. A path may end in an entry,
            `ckpt.pt::model`.
        direct: Read tensors past the page cache; for safetensors files alone.
        entry: Which of the dicts of a torch file, or of a distributed checkpoint, is meant: names with dots between
            them, or nothing for the outermost dict.

    Raises:
        WeighbridgeError: `usage` for direct reads of anything else, and an entry of anything but torch files.
        CheckpointError: `checkpoint-not-found`, `checkpoint-ambiguous`, and the code of what is wrong with its files.

    Examples:
        >>> from weighbridge.base.specs import TensorSpec
        >>> open_checkpoint(Header({"a": TensorSpec("F32", (2, 3))})).header.size_bytes
        24
    """
    if is_address(place):
        place = str(place)
        if is_elsewhere(place):
            return _open_elsewhere(place, direct=direct, entry=entry)
        place = local_path(place)
    if direct:
        return _past_cache(open_checkpoint(place, entry=entry))
    if isinstance(place, (str, os.PathLike)):
        path, named = split_entry(_expand(place))
        return _logged(_open_path(path, named if entry is None else entry))
    if entry is not None:
        raise _no_entries(f"a {type(place).__name__}")
    if _is_opened(place):
        return place
    if isinstance(place, Header):
        return HeaderCheckpoint("a header", place)
    if isinstance(place, Mapping):
        return hold_tensors(cast("Mapping[str, torch.Tensor]", place))
    got = type(place).__name__
    expected = "a path, a dict of tensors, a model, a header or a checkpoint"
    raise CheckpointError("checkpoint-not-found", "this cannot be opened", expected=expected, got=got)


def _open_elsewhere(text: str, *, direct: bool, entry: str | None) -> Checkpoint:
    if direct:
        what, hint = "only files on this disk are read past the page cache", "leave out direct=True"
        raise WeighbridgeError("usage", what, where=read_address(text).text, hint=hint)
    refuse_entry(entry, read_address(text).text)
    return _logged(open_address(text))


def _past_cache(checkpoint: Checkpoint) -> Checkpoint:
    if isinstance(checkpoint, SafetensorsCheckpoint):
        return checkpoint.past_cache()
    what = "only safetensors files are read past the page cache"
    raise WeighbridgeError("usage", what, where=checkpoint.where, hint="leave out direct=True")


def _logged(checkpoint: Checkpoint) -> Checkpoint:
    _LOG.info("opened %s: %s", checkpoint.where, checkpoint.header)
    for note in checkpoint.notes:
        _LOG.info("%s", note)
    return checkpoint


_MEMBERS: Final = sorted(name for name in vars(Checkpoint) if not name.startswith("_"))
_MARKS: Final = ("header", "tensor", "read", "check_unchanged")
"""Members that nothing but a checkpoint has together."""


def _is_opened(place: object) -> TypeGuard[Checkpoint]:
    """Tell whether a place is a checkpoint, ours or of another make; one that lacks a member is refused here.

    Raises:
        CheckpointError: `checkpoint-not-found`.
    """
    if not all(hasattr(place, name) for name in _MARKS):
        return False
    lacking = [name for name in _MEMBERS if not hasattr(place, name)]
    if lacking:
        expected, got = "every member of weighbridge.storage.Checkpoint", f"no {', '.join(lacking)}"
        where, hint = type(place).__name__, "give it these members, or open the path or the tensors that it stands for"
        raise CheckpointError(
            "checkpoint-not-found", "this is half a checkpoint", where=where, expected=expected, got=got, hint=hint
        )
    return True


def _expand(place: str | os.PathLike[str]) -> Path:
    text = os.fspath(place)
    if not text or "\0" in text:
        raise CheckpointError("checkpoint-not-found", "this is no path", got=ascii(text)[:120])
    return Path(text).expanduser() if text.startswith("~/") else Path(text)


def split_entry(path: Path) -> tuple[Path, str | None]:
    """Split an entry from a path that ends in one; a path that leads somewhere as it is has none."""
    text = str(path)
    if _ENTRY_MARK not in text or os.path.lexists(text):
        return path, None
    ends = [place.start() for place in re.finditer(_ENTRY_MARK, text)]
    end = next((end for end in reversed(ends) if os.path.lexists(text[:end])), ends[0])
    return Path(text[:end]), text[end + len(_ENTRY_MARK) :]


def _no_entries(where: str) -> WeighbridgeError:
    return WeighbridgeError(
        "usage",
        "only a torch file, or a directory of a distributed checkpoint, has entries",
        where=where,
        hint="leave out the entry",
    )


def _open_path(path: Path, entry: str | None = None) -> Checkpoint:
    _check_there(path)
    name = path.name
    if path.is_dir():
        return _open_directory(path, entry)
    if names_index(name):
        return _open_index(path.parent, name, str(path), entry)
    if name == METADATA_NAME:
        return _open_dcp(path.parent, entry)
    if name.endswith(ITEMS_SUFFIX):
        what, hint = "this is a piece of a checkpoint, of one rank", f"open its directory: {path.parent}"
        raise CheckpointError("checkpoint-partial", what, where=str(path), expected="whole tensors", hint=hint)
    if name.endswith(TORCH_SUFFIXES):
        from weighbridge.storage.formats.torch_files import open_torch_file

        return open_torch_file(path, entry)
    if entry is not None:
        raise _no_entries(str(path))
    if name.endswith(SAFETENSORS_SUFFIX):
        return open_safetensors_file(path)
    if name.endswith((".json", ".json.gz")):
        return open_inventory(path)
    expected = ", ".join((SAFETENSORS_SUFFIX, INDEX_SUFFIX, *TORCH_SUFFIXES, ".json", ".json.gz"))
    what, hint = "this file's name is not that of a checkpoint", _OF_OTHERS.get(path.suffix, "")
    raise CheckpointError("checkpoint-not-found", what, where=str(path), expected=expected, hint=hint)


def _check_there(path: Path) -> None:
    """Refuse a path that leads nowhere, and name what stands where it goes astray."""
    try:
        with reporting_read_errors(str(path)):
            path.stat()
    except CheckpointError as problem:
        if problem.code != "checkpoint-not-found":
            raise
        near = name_near(path)
        hint = "take the nearest name, if that is what is meant" if "nearest: " in near else ""
        if not path.is_absolute():
            hint = hint_for_path(path) or f"a relative path starts at {Path.cwd()}"
        raise problem.with_context(got=near, hint=hint) from problem.__cause__


def open_weights_named(directory: Path, name: str) -> Checkpoint:
    """Open one file of weights, or one index, as if it were all that its directory holds, with the files beside it.

    Raises:
        CheckpointError: As `open_checkpoint`.
    """
    if names_index(name):
        return _logged(_open_index(directory, name, str(directory / name), None))
    extras, notes = find_extras(directory, (name,))
    if not name.endswith(TORCH_SUFFIXES):
        return _logged(open_safetensors_set(directory, (name,), extras=extras, notes=notes))
    from weighbridge.storage.formats.torch_files import open_torch_set

    return _logged(open_torch_set(directory, (name,), extras=extras, notes=notes))


def _open_directory(directory: Path, entry: str | None) -> Checkpoint:
    if is_dcp(directory):
        return _open_dcp(directory, entry)
    found = find_weights(directory)
    if found.index_name:
        return _open_index(directory, found.index_name, str(directory), entry)
    if not found.is_torch and entry is not None:
        raise _no_entries(str(directory))
    if found.is_of_ranks:
        from weighbridge.storage.sharded.rank_files import open_rank_files

        return open_rank_files(directory, found.names)
    extras, notes = find_extras(directory, found.names)
    if not found.is_torch:
        return open_safetensors_set(directory, found.names, extras=extras, notes=notes)
    from weighbridge.storage.formats.torch_files import open_torch_set

    return open_torch_set(directory, found.names, entry, extras=extras, notes=notes)


def _open_dcp(directory: Path, entry: str | None) -> Checkpoint:
    from weighbridge.storage.sharded.dcp_directory import open_dcp

    return open_dcp(directory, entry)


def _open_index(directory: Path, name: str, where: str, entry: str | None) -> Checkpoint:
    path = resolve_inside(directory, name)
    text, stamp = read_small_file(path, MAX_INDEX_BYTES, is_resolved=True)
    weight_map = parse_index(text, str(directory / name))
    index = SourceFile(name, path, stamp, text)
    is_torch = _holds_torch(weight_map.values(), str(directory / name))
    extras, notes = find_extras(directory, (name, *weight_map.values()))
    if not is_torch:
        if entry is not None:
            raise _no_entries(where)
        return open_safetensors_index(directory, index, weight_map, where=where, extras=extras, notes=notes)
    from weighbridge.storage.formats.torch_files import open_torch_index

    return open_torch_index(directory, index, weight_map, entry, where=where, extras=extras, notes=notes)


def _holds_torch(names: Iterable[str], where: str) -> bool:
    """Tell whether an index names torch files or safetensors files; it may not name both, or anything else."""
    files = set(names)
    torch_files = {name for name in files if name.endswith(TORCH_SUFFIXES)}
    strange = {name for name in files - torch_files if not name.endswith(SAFETENSORS_SUFFIX)}
    if strange or 0 < len(torch_files) < len(files):
        expected = "files of one format: " + ", ".join((SAFETENSORS_SUFFIX, *TORCH_SUFFIXES))
        got = join_keys(strange or files)
        raise CheckpointError(
            "index-invalid", "the index names files of another format", where=where, expected=expected, got=got
        )
    return bool(torch_files)
