"""Find the one checkpoint in a directory.

In this order, and never in sub-directories:

1. one `*.safetensors.index.json`, and the files it names;
2. `model.safetensors`, whatever else lies beside it;
3. the complete set `*-00001-of-0000N.safetensors`;
4. one `*.safetensors`, or several that share no key, or those of all ranks of a distributed checkpoint;
5. the same with `*.bin.index.json`, `pytorch_model.bin` and `*.bin`, or one torch file `*.bin`, `*.pt`, `*.pth`.

Where two readings are possible the answer is an error, not a guess. Weights that lie beside a checkpoint chosen by its
name or by an index are named among the files that are left aside; see `extras`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from weighbridge.base.errors import CheckpointError
from weighbridge.base.file_names import INDEX_SUFFIX, SAFETENSORS_SUFFIX, TORCH_SUFFIXES
from weighbridge.base.json_text import join_keys
from weighbridge.storage.places.rank_pieces import are_of_ranks
from weighbridge.storage.places.regular_files import reporting_read_errors
from weighbridge.storage.remote.remote_files import Location, RemoteFile

_WHOLE: Final = ("model.safetensors", "pytorch_model.bin")
"""Names by which the hub's libraries look for a checkpoint of one file, whatever else lies beside it."""
_SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d{1,9})-of-(?P<count>\d{1,9})(?P<suffix>\.[a-z]+)")
_TRAINING_STATE = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state|random_states).*")


class Extra(NamedTuple):
    """A file that belongs to a checkpoint and holds no weights.

    Args:
        name: Its relative name.
        path: Where it lies: on this disk with links resolved, or elsewhere.
        content: What it is to hold in a new directory; None for what it holds.
    """

    name: str
    path: Location
    content: bytes | None = None

    @property
    def size_bytes(self) -> int:
        """Its size in a new directory."""
        if self.content is not None:
            return len(self.content)
        return self.path.size_bytes if isinstance(self.path, RemoteFile) else self.path.stat().st_size


class Found(NamedTuple):
    """The files of a directory's checkpoint.

    Args:
        names: The weight files; empty where the index names them.
        index_name: The index, if there is one.
        is_torch: Whether they are torch files, not safetensors.
        is_of_ranks: Whether they are safetensors files of the ranks of a distributed checkpoint.
    """

    names: tuple[str, ...]
    index_name: str | None
    is_torch: bool
    is_of_ranks: bool = False


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
    return choose_weights(list_names(directory), str(directory))


def choose_weights(names: Sequence[str], where: str) -> Found:
    """Choose the one checkpoint among the names of a folder.

    Args:
        names: The names, sorted, without those that start with a dot.
        where: The folder, for messages.

    Raises:
        CheckpointError: `checkpoint-not-found`, `checkpoint-ambiguous`, `index-mismatch`.
    """
    for is_torch in (False, True):
        suffixes = TORCH_SUFFIXES if is_torch else (SAFETENSORS_SUFFIX,)
        files = [name for name in names if name.endswith(suffixes) and not (is_torch and _TRAINING_STATE.match(name))]
        indexes = [name for name in names if name.endswith(tuple(suffix + INDEX_SUFFIX for suffix in suffixes))]
        if indexes:
            return _follow_index(indexes, files, is_torch, where)
        if are_of_ranks(files):
            return Found(tuple(files), None, is_torch=False, is_of_ranks=True)
        if files:
            return Found(_choose(files, is_torch, where), None, is_torch)
    expected = f"*{SAFETENSORS_SUFFIX}, *{SAFETENSORS_SUFFIX}{INDEX_SUFFIX}, or a torch file"
    got = join_keys(names) or "an empty directory"
    hint = "open the directory that holds the weights; sub-directories are not searched"
    raise CheckpointError(
        "checkpoint-not-found", "no checkpoint is in here", where=where, expected=expected, got=got, hint=hint
    )


def _follow_index(indexes: Sequence[str], files: Sequence[str], is_torch: bool, where: str) -> Found:
    whole = indexes[0].removesuffix(INDEX_SUFFIX)
    rivals = [*indexes, *([whole] if whole in files else [])]
    if len(rivals) > 1:
        raise _ambiguous(rivals, where)
    return Found((), indexes[0], is_torch)


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
        raise _ambiguous(files, where, set_apart=any(int(match["count"]) > 1 for match in shards.values()))
    numbers = {int(match["number"]) for match in shards.values()}
    count = int(next(iter(sets))[1])
    if len(files) != count or max(numbers) - min(numbers) + 1 != count or min(numbers) > 1:
        expected, got = f"all {count} shards of the set", f"{len(files)}: {join_keys(files)}"
        raise CheckpointError("index-mismatch", "shards are missing", where=where, expected=expected, got=got)
    return tuple(files)


def count_shards(name: str) -> int:
    """Return of how many files one is a part, as its own name says; 1 for a name that says nothing of it.

    Examples:
        >>> count_shards("model-00001-of-00002.safetensors"), count_shards("model.safetensors")
        (2, 1)
    """
    match = _SHARD.fullmatch(name)
    return int(match["count"]) if match is not None else 1


def _ambiguous(names: Sequence[str], where: str, *, set_apart: bool = False) -> CheckpointError:
    """Make the error; what is meant is opened by its name, but for a set of files, which no index names."""
    hint = "put the files that are meant into a directory of their own, and open that"
    return CheckpointError(
        "checkpoint-ambiguous",
        "more than one checkpoint is in here",
        where=where,
        expected="one index, one set of shards, or files that share no key",
        got=join_keys(names),
        hint=hint if set_apart else "open the file or the index that is meant",
    )
