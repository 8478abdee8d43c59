"""Which files beside a checkpoint's weights go with it, by one rule.

A file is carried along, and a sub-directory as a whole, unless

- its name begins with a dot,
- it can hold tensors or pickled objects, by its suffix: further weights, an optimizer, a scheduler, random states;
  a sub-directory that holds such a file stays behind whole, as a model, or a training state, of its own,
- a link leads out of the checkpoint's directory, or something is no file, or cannot be read,
- it is named like the records that stand in an output: a receipt describes one output alone.

What stays behind is named, all but the receipt: a new one takes its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from weighbridge.base.errors import CheckpointError
from weighbridge.base.file_names import (
    INDEX_SUFFIX,
    RECEIPT_NAME,
    RECORD_NAME,
    SAFETENSORS_SUFFIX,
    TORCH_SUFFIXES,
    names_index,
)
from weighbridge.base.json_text import join_keys
from weighbridge.storage.places.directory import Extra
from weighbridge.storage.places.paths import resolve_inside
from weighbridge.storage.places.regular_files import reporting_read_errors

STATE_SUFFIXES: Final = (
    SAFETENSORS_SUFFIX,
    *TORCH_SUFFIXES,
    INDEX_SUFFIX,
    *(".gguf", ".ggml", ".h5", ".hdf5", ".keras", ".msgpack", ".onnx", ".onnx_data", ".tflite", ".ot", ".npz", ".npy"),
    *(".distcp", ".pkl", ".pickle", ".joblib", ".nemo", ".pdparams", ".pdopt", ".mar"),
)
"""Ends of the names of files that can hold tensors or pickled objects."""

MOST_DEPTH: Final = 32
"""How deep sub-directories may lie in each other."""

MOST_FILES: Final = 10_000
"""How many files a sub-directory may hold."""

_NAMED: Final = 50
"""How many of the files that stay behind are named."""


def find_extras(directory: Path, used: Iterable[str] = ()) -> tuple[tuple[Extra, ...], tuple[str, ...]]:
    """Find the files that go with a checkpoint, and name those that stay behind.

    Args:
        directory: The checkpoint's directory.
        used: Names of the files that the checkpoint is made of.

    Returns:
        The files, and at most one note.

    Raises:
        CheckpointError: `checkpoint-not-found`, `read-failed` for the directory itself.
    """
    own = {RECEIPT_NAME, *used}
    extras: list[Extra] = []
    left: list[str] = []
    for name in _names_in(directory):
        inner = [each for each in own if each.startswith(f"{name}/")]
        if name in own:
            continue
        for part in _names_beside(directory, name, own) if inner else [name]:
            found, hidden = _files_at(directory, part)
            extras += found
            left += hidden if found else [part]
    return tuple(extras), left_aside(left)


def left_aside(names: Sequence[str]) -> tuple[str, ...]:
    """Return the note that names what stays behind; none where nothing does."""
    return (f"left aside, not carried along: {join_keys(names, _NAMED)}",) if names else ()


def _names_in(directory: Path) -> list[str]:
    with reporting_read_errors(str(directory)):
        return sorted(entry.name for entry in directory.iterdir())


def _names_beside(directory: Path, name: str, own: set[str]) -> Iterator[str]:
    """Yield the names in a sub-directory that holds some of the checkpoint's own files, those left out."""
    for inner in _names_in(directory / name):
        path = f"{name}/{inner}"
        if path not in own and not any(each.startswith(f"{path}/") for each in own):
            yield path


def _files_at(directory: Path, name: str) -> tuple[list[Extra], list[str]]:
    """List the file of this name, or those below it and what is hidden among them; nothing for what stays behind."""
    hidden: list[str] = []
    if not may_go(name):
        return [], hidden
    try:
        path = resolve_inside(directory, name)
        if path.is_file():
            return [Extra(name, path)], hidden
        return list(_files_below(directory, name, hidden)), hidden
    except (CheckpointError, OSError):
        return [], hidden


def may_go(name: str) -> bool:
    """Tell whether a file or a sub-directory may be carried along, by its name."""
    last = name.rpartition("/")[2]
    holds_state = last.endswith(STATE_SUFFIXES) or names_index(last)
    return not last.startswith(".") and not holds_state and name != RECORD_NAME


def _files_below(directory: Path, name: str, hidden: list[str]) -> Iterator[Extra]:
    """Yield the files of a sub-directory, and note what is hidden among them.

    Raises:
        CheckpointError: `path-unsafe` for what makes it stay behind, `read-failed`.
    """
    count = 0
    waiting = [name]
    while waiting:
        folder = waiting.pop()
        if (directory / folder).is_symlink() or not (directory / folder).is_dir() or folder.count("/") > MOST_DEPTH:
            raise _stays(directory, folder)
        for inner in reversed(_names_in(directory / folder)):
            path = f"{folder}/{inner}"
            count += 1
            if inner.startswith("."):
                hidden.append(path)
                continue
            if not may_go(path) or count > MOST_FILES:
                raise _stays(directory, path)
            real = resolve_inside(directory, path)
            if real.is_file():
                yield Extra(path, real)
            else:
                waiting.append(path)


def _stays(directory: Path, name: str) -> CheckpointError:
    return CheckpointError("path-unsafe", "this is not carried along", where=str(directory / name))
