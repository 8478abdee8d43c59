"""Find the one checkpoint in a directory.

In this order, and never in sub-directories:

1. one `*.safetensors.index.json`, and the files it names;
2. `model.safetensors`, whatever else lies beside it;
3. the complete set `*-00001-of-0000N.safetensors`;
4. one `*.safetensors`, or several that share no key;
5. the same with `*.bin.index.json`, `pytorch_model.bin` and `*.bin`, or one torch file `*.bin`, `*.pt`, `*.pth`.

Where two readings are possible the answer is an error, not a guess. Weights that lie beside a checkpoint chosen by its
name or by an index are named in the notes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from weighbridge.base.errors import CheckpointError
from weighbridge.base.file_names import (
    INDEX_SUFFIX,
    RECEIPT_NAME,
    RECORD_NAME,
    SAFETENSORS_SUFFIX,
    TORCH_SUFFIXES,
    check_name,
)
from weighbridge.base.json_text import join_keys
from weighbridge.storage.places.paths import resolve_inside
from weighbridge.storage.places.regular_files import reporting_read_errors

_WHOLE: Final = ("model.safetensors", "pytorch_model.bin")
"""Names by which the hub's libraries look for a checkpoint of one file, whatever else lies beside it."""
_OTHER_WEIGHTS: Final = (".gguf", ".ggml", ".h5", ".msgpack", ".onnx", ".onnx_data", ".tflite", ".ot", ".npz", ".npy")
MOST_FOLDERS: Final = 16
"""How deep in a sub-directory files are looked for."""

_SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d{1,9})-of-(?P<count>\d{1,9})(?P<suffix>\.[a-z]+)")
_TRAINING_STATE = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state|random_states).*")


class Extra(NamedTuple):
    """A file that belongs to a checkpoint and holds no weights: its relative name and where it lies."""

    name: str
    path: Path


class Found(NamedTuple):
    """The files of a directory's checkpoint.

    Args:
        names: The weight files; empty where the index names them.
        index_name: The index, if there is one.
        is_torch: Whether they are torch files, not safetensors.
        notes: What was left aside.
    """

    names: tuple[str, ...]
    index_name: str | None
    is_torch: bool
    notes: tuple[str, ...]


def list_names(directory: Path) -> list[str]:
    """List a directory's entries by name, sorted, without those that start with a dot.

    Raises:
        CheckpointError: `checkpoint-not-found`, `read-failed`.
    """
    with reporting_read_errors(str(directory)):
        return sorted(entry.name for entry in directory.iterdir() if not entry.name.startswith("."))


def find_weights(directory: Path) -> Found:
    """Find the one checkpoint in a directory.

    Raises:
        CheckpointError: `checkpoint-not-found`, `checkpoint-ambiguous`, `index-mismatch`, `read-failed`.
    """
    names = list_names(directory)
    for is_torch in (False, True):
        suffixes = TORCH_SUFFIXES if is_torch else (SAFETENSORS_SUFFIX,)
        files = [name for name in names if name.endswith(suffixes) and not (is_torch and _TRAINING_STATE.match(name))]
        indexes = [name for name in names if name.endswith(tuple(suffix + INDEX_SUFFIX for suffix in suffixes))]
        if indexes:
            return _follow_index(indexes, files, is_torch, str(directory))
        if files:
            chosen = _choose(files, is_torch, str(directory))
            return Found(chosen, None, is_torch, note_unused(directory, chosen, is_torch))
    expected = f"*{SAFETENSORS_SUFFIX}, *{SAFETENSORS_SUFFIX}{INDEX_SUFFIX}, or a torch file"
    got = join_keys(names) or "an empty directory"
    hint = "open the directory that holds the weights; sub-directories are not searched"
    raise CheckpointError(
        "checkpoint-not-found", "no checkpoint is in here", where=str(directory), expected=expected, got=got, hint=hint
    )


def _follow_index(indexes: Sequence[str], files: Sequence[str], is_torch: bool, where: str) -> Found:
    whole = indexes[0].removesuffix(INDEX_SUFFIX)
    rivals = [*indexes, *([whole] if whole in files else [])]
    if len(rivals) > 1:
        raise _ambiguous(rivals, where)
    return Found((), indexes[0], is_torch, ())


def _choose(files: Sequence[str], is_torch: bool, where: str) -> tuple[str, ...]:
    """Choose among the weight files of one format, where no index says which ones belong together."""
    shards = {name: match for name in files if (match := _SHARD.fullmatch(name))}
    whole = [name for name in files if name in _WHOLE]
    if whole and not any(match["stem"] + match["suffix"] in whole for match in shards.values()):
        return tuple(whole)
    if not shards:
        if is_torch and len(files) > 1:
            raise _ambiguous(files, where)
        return tuple(files)
    sets = {(match["stem"], match["count"], match["suffix"]) for match in shards.values()}
    if len(sets) > 1 or len(shards) < len(files):
        raise _ambiguous(files, where)
    numbers = {int(match["number"]) for match in shards.values()}
    count = int(next(iter(sets))[1])
    if len(files) != count or max(numbers) - min(numbers) + 1 != count or min(numbers) > 1:
        expected, got = f"all {count} shards of the set", f"{len(files)}: {join_keys(files)}"
        raise CheckpointError("index-mismatch", "shards are missing", where=where, expected=expected, got=got)
    return tuple(files)


def _ambiguous(names: Iterable[str], where: str) -> CheckpointError:
    return CheckpointError(
        "checkpoint-ambiguous",
        "more than one checkpoint is in here",
        where=where,
        expected="one index, one set of shards, or files that share no key",
        got=join_keys(names),
        hint="open the file or the index that is meant",
    )


def note_unused(directory: Path, used: Iterable[str], is_torch: bool) -> tuple[str, ...]:
    """Name the weight files of the same format that are not part of the checkpoint."""
    suffixes = TORCH_SUFFIXES if is_torch else (SAFETENSORS_SUFFIX,)
    others = {name for name in list_names(directory) if name.endswith(suffixes)}.difference(used)
    return (f"other weights, left aside: {join_keys(others)}",) if others else ()


def find_extras(directory: Path) -> tuple[tuple[Extra, ...], tuple[str, ...]]:
    """Find the files that belong to the model beside its weights, and note what stays behind.

    Weights of any format, training state, indexes, receipts and hidden files are not carried along. Links out of the
    directory are noted, and so are sub-directories that hold weights: they are models of their own.

    Raises:
        CheckpointError: `checkpoint-not-found`, `read-failed`.
    """
    extras: list[Extra] = []
    left: list[str] = []
    for name in list_names(directory):
        if _is_weights(name) or name == RECEIPT_NAME:
            continue
        inside = None if name == RECORD_NAME else _files_below(directory, name)
        if inside is None or any(_is_weights(extra.name) for extra in inside):
            left.append(name)
        else:
            extras += inside
    return tuple(extras), ((f"not carried along: {join_keys(left)}",) if left else ())


def _files_below(directory: Path, name: str) -> list[Extra] | None:
    """List a file, or those of a sub-directory; None for what lies elsewhere, is too deep, or cannot be listed."""
    try:
        path = resolve_inside(directory, name)
        if path.is_dir() and not (directory / name).is_symlink():
            return list(_walk(directory, name, path, MOST_FOLDERS))
        return [_file_at(name, path)]
    except (CheckpointError, OSError):
        return None


def _file_at(name: str, path: Path) -> Extra:
    if not path.is_file():
        raise CheckpointError("read-failed", "this is not a regular file", where=str(path))
    return Extra(name, path)


def _walk(directory: Path, name: str, folder: Path, depth: int) -> Iterator[Extra]:
    """Yield the files of a folder that lies in the directory, and is no link.

    Raises:
        CheckpointError: `read-failed` for folders inside each other beyond `depth`; as `resolve_inside`.
    """
    if depth == 0:
        raise CheckpointError("read-failed", "folders are nested too deeply", where=str(folder))
    for inner in list_names(folder):
        path, inside = folder / inner, f"{name}/{inner}"
        if path.is_symlink():
            yield _file_at(inside, resolve_inside(directory, inside))
            continue
        check_name(inside, str(directory))
        if path.is_dir():
            yield from _walk(directory, inside, path, depth - 1)
        else:
            yield _file_at(inside, path)


def _is_weights(name: str) -> bool:
    return name.endswith((SAFETENSORS_SUFFIX, *TORCH_SUFFIXES, *_OTHER_WEIGHTS, INDEX_SUFFIX))
