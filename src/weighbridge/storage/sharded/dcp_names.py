"""What the files of a directory of torch.distributed.checkpoint are called, and how one is told by them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from weighbridge.base.errors import CheckpointError
from weighbridge.base.file_names import SAFETENSORS_SUFFIX, TORCH_SUFFIXES
from weighbridge.base.json_text import join_keys
from weighbridge.storage.places.directory import list_names

METADATA_NAME: Final = ".metadata"
ITEMS_SUFFIX: Final = ".distcp"
"""Ends the names of the files that items lie in."""


def is_dcp(directory: Path) -> bool:
    """Tell whether a directory is one of torch.distributed.checkpoint: it has metadata, and no other weights.

    Raises:
        CheckpointError: `dcp-invalid` where there are such files, and no metadata; `checkpoint-ambiguous` where there
            are safetensors files as well; `read-failed`.
    """
    names = list_names(directory)
    has_items = any(name.endswith(ITEMS_SUFFIX) for name in names)
    has_metadata = (directory / METADATA_NAME).is_file()
    others = [name for name in names if name.endswith(SAFETENSORS_SUFFIX)]
    has_weights = bool(others) or any(name.endswith(TORCH_SUFFIXES) for name in names)
    if has_items and others:
        what, hint = "more than one checkpoint is in here", f"open the file, or {directory / METADATA_NAME}"
        raise CheckpointError(
            "checkpoint-ambiguous", what, where=str(directory), got=join_keys([METADATA_NAME, *others]), hint=hint
        )
    if has_items and not has_metadata:
        expected, got = METADATA_NAME, f"files of items (*{ITEMS_SUFFIX}) alone"
        what, hint = "nothing says what is in these files", "take a save that was finished: its metadata comes last"
        raise CheckpointError("dcp-invalid", what, where=str(directory), expected=expected, got=got, hint=hint)
    return has_items or (has_metadata and not has_weights)
