"""Tell one rank's pieces of a checkpoint from a whole one, and find out where they lie in it.

torch's distributed checkpoint writes safetensors files in which each process puts its own pieces of the tensors
(torch/distributed/checkpoint/filesystem.py and _hf_utils.py): `DCP_SHARDING_INFO` in the metadata says where each piece
begins in its tensor, but nothing says how large the tensor is. The files that one process writes for all carry it, too,
and are told by their names: `model-00001-of-00002.safetensors`, where those of a rank begin with `shard-00001-`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from weighbridge.base.errors import CheckpointError
from weighbridge.base.json_text import JsonError, join_keys, parse_json, shorten

_INFO: Final = "DCP_SHARDING_INFO"
_VERSION: Final = "DCP_VERSION"
_OFFSETS: Final = "saved_offsets"
_WHOLE: Final = re.compile(r"(.*/)?model-\d+-of-\d+\.safetensors")
_PIECE: Final = re.compile(r"shard-(\d{1,9})-model-\d{1,9}-of-(\d{1,9})\.safetensors")
_HINT: Final = (
    "open the directory that holds the files of all ranks, under the names that torch.distributed.checkpoint gave them"
)


def check_whole(name: str, metadata: Mapping[str, str], where: str) -> None:
    """Refuse a safetensors file that holds one rank's pieces, or of which nothing says that it does not.

    Args:
        name: The file's name.
        metadata: The metadata of its header.
        where: The file, for messages.

    Raises:
        CheckpointError: `checkpoint-partial`.

    Examples:
        >>> check_whole("model-00001-of-00001.safetensors", {_INFO: '{"w": {"saved_offsets": [0, 0]}}'}, "")
    """
    text = metadata.get(_INFO)
    if text is None:
        return
    found = _offsets(text)
    if found is None:
        raise _partial(where, f"a {_INFO} that cannot be read")
    pieces = {key: offsets for key, offsets in found.items() if any(offsets)}
    if pieces:
        key, offsets = next(iter(pieces.items()))
        more = f", and pieces of {len(pieces) - 1} more" * (len(pieces) > 1)
        raise _partial(where, f"{shorten(key)} from {list(offsets)} on{more}")
    if not _WHOLE.fullmatch(name):
        raise _partial(where, f"a {_INFO} under a name that is of no whole file of torch's")


def without_pieces(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return a whole file's metadata without what says where its pieces lie: it is true of no other file.

    Examples:
        >>> without_pieces({"format": "pt", _INFO: "{}"})
        {'format': 'pt'}
    """
    return {name: text for name, text in metadata.items() if name not in (_INFO, _VERSION)}


def are_of_ranks(names: Iterable[str]) -> bool:
    """Tell whether files, by their names, are those of ranks alone.

    Examples:
        >>> are_of_ranks(["shard-00001-model-00001-of-00001.safetensors"]), are_of_ranks(["model.safetensors"])
        (True, False)
    """
    listed = list(names)
    return bool(listed) and all(map(_PIECE.fullmatch, listed))


def check_ranks(names: Iterable[str], where: str) -> int:
    """Refuse files of ranks among which one is missing: their numbers begin at 1, and a single one is a part.

    Args:
        names: The files' names.
        where: The directory, for messages.

    Returns:
        How many ranks there are.

    Raises:
        CheckpointError: `checkpoint-partial`.
    """
    listed = sorted(names)
    matches = [match for name in listed if (match := _PIECE.fullmatch(name))]
    ranks = {int(match[1]) for match in matches}
    if len(ranks) < 2 or ranks != set(range(1, len(ranks) + 1)) or len({match[2] for match in matches}) > 1:
        raise _partial(where, join_keys(listed))
    return len(ranks)


def offsets_of(metadata: Mapping[str, str], where: str) -> dict[str, tuple[int, ...]]:
    """Return where each piece of a file begins in its tensor, on each axis.

    Args:
        metadata: The metadata of the file's header.
        where: The file, for messages.

    Raises:
        CheckpointError: `checkpoint-partial` where the file does not say it.
    """
    found = _offsets(metadata.get(_INFO, ""))
    if found is None or any(min(offsets, default=0) < 0 for offsets in found.values()):
        raise _partial(where, f"no {_INFO} that can be read")
    return found


def _offsets(text: str) -> dict[str, tuple[int, ...]] | None:
    """Return where pieces begin, by the keys of their tensors; None for a text that is not understood."""
    try:
        table = parse_json(text.encode())
    except (JsonError, UnicodeEncodeError):
        return None
    if type(table) is not dict or not all(type(entry) is dict for entry in table.values()):
        return None
    offsets = {key: entry.get(_OFFSETS) for key, entry in table.items()}
    if not all(type(places) is list and all(type(place) is int for place in places) for places in offsets.values()):
        return None
    return {key: tuple(places) for key, places in offsets.items()}


def _partial(where: str, got: str) -> CheckpointError:
    what, expected = "this is one rank's piece of a checkpoint", "whole tensors"
    return CheckpointError("checkpoint-partial", what, where=where, expected=expected, got=got, hint=_HINT)
