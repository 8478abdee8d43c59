"""How the files of a checkpoint are called, and which names a file may have."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Final

from weighbridge.base.errors import CheckpointError
from weighbridge.base.json_text import shorten

SAFETENSORS_SUFFIX: Final = ".safetensors"
TORCH_SUFFIXES: Final = (".bin", ".pt", ".pth", ".ckpt")
INDEX_SUFFIX: Final = ".index.json"
"""Ends the name of a shard index; what stands before it is the name of one file with all weights."""

FILE_SUFFIXES: Final = (SAFETENSORS_SUFFIX, INDEX_SUFFIX, ".gguf", ".pkl", ".pickle", ".npz", ".h5", ".onnx")
"""How the names of files end that nobody means a new directory by; torch files are written under their own names."""

RECEIPT_NAME: Final = "weighbridge.json"
"""Name of the receipt that stands beside every output; it describes one output and is never carried along."""

RECORD_NAME: Final = "weighbridge-partial.json"
"""Name of what an unfinished output says of itself; it is gone before the output appears, and never carried along."""


_INDEX = re.compile(r".*\.(safetensors|bin|pt|pth|ckpt)\.index\.[^.]+\.json|.*\.index\.json", re.DOTALL)


def names_index(path: str | PurePath) -> bool:
    """Tell whether a path's last part is the name of a shard index, that of a variant among them.

    Examples:
        >>> names_index("model.safetensors.index.json"), names_index("model.safetensors.index.fp16.json")
        (True, True)
        >>> names_index("header.index.old.json")
        False
    """
    return _INDEX.fullmatch(PurePath(path).name) is not None


def names_torch_file(path: str | PurePath) -> bool:
    """Tell whether a path's last part is the name of a torch file.

    Examples:
        >>> names_torch_file("out/consolidated.pth"), names_torch_file("out.pth/model")
        (True, False)
    """
    return PurePath(path).name.endswith(TORCH_SUFFIXES)


def check_name(name: str, where: str) -> None:
    r"""Refuse a name that is not a clean relative path: absolute, with `..`, `.`, `\`, or an empty part.

    Raises:
        CheckpointError: `path-unsafe`.

    Examples:
        >>> check_name("sub/model-00001-of-00002.safetensors", "index.json")
    """
    parts = name.split("/")
    clean = all(part not in ("", ".", "..") for part in parts) and "\\" not in name and "\0" not in name
    drive = len(parts[0]) > 1 and parts[0][1] == ":"
    if not clean or drive or any("\ud800" <= character <= "\udfff" for character in name):
        expected = "a relative path without '..'"
        hint = "do not use this checkpoint before you know who wrote it"
        raise CheckpointError(
            "path-unsafe", "a name leaves the directory", where=where, expected=expected, got=shorten(name), hint=hint
        )


def check_new_name(name: str, where: str) -> None:
    """Refuse a name that a new file of a checkpoint may not have: an unsafe one, and those of the receipt and record.

    Raises:
        CheckpointError: `path-unsafe`.
    """
    check_name(name, where)
    if name in (RECEIPT_NAME, RECORD_NAME):
        what = "this name belongs to the receipt, or to the record of an unfinished output"
        raise CheckpointError("path-unsafe", what, where=where, expected="another name", got=shorten(name))
