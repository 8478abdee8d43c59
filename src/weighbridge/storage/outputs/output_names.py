"""The names of an output's files: which ones they may have, and whether they are as many files where they lie."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final
from unicodedata import normalize

from weighbridge.base.errors import DestinationError
from weighbridge.base.file_names import SAFETENSORS_SUFFIX, TORCH_SUFFIXES

MOST_NAME_BYTES: Final = 200
"""What a file system takes, less what the names of shards and index add."""

_ENDINGS: Final = (SAFETENSORS_SUFFIX, *TORCH_SUFFIXES, ".json", ".index")
_SHARD_NUMBER: Final = re.compile(r"-\d+-of-\d+$")


def check_stem(name: object) -> None:
    """Refuse what cannot be the name of new weight files, its ending left out, or would be read as another file.

    Raises:
        DestinationError: `usage`.

    Examples:
        >>> check_stem("diffusion_pytorch_model.fp16")
        >>> check_stem("adapter_model.safetensors")
        Traceback (most recent call last):
        ...
        weighbridge.DestinationError: usage: weight files cannot have this name
          expected  a name without its ending, such as adapter_model
          got       'adapter_model.safetensors': it ends in .safetensors
    """
    cause = f"a {type(name).__name__}" if not isinstance(name, str) else _fault(name)
    if cause:
        expected = "a name without its ending, such as adapter_model"
        got = f"{name!r:.120}: {cause}" if isinstance(name, str) else cause
        raise DestinationError("usage", "weight files cannot have this name", expected=expected, got=got)


def _fault(name: str) -> str:
    """Say what is wrong with a name; nothing for one that will do."""
    ending = next((ending for ending in _ENDINGS if name.casefold().endswith(ending)), "")
    faults = {
        "it is empty": not name,
        "a slash or a colon is in it": any(character in name for character in "/\\:"),
        "a character in it is not printable": not name.isprintable(),
        "it begins with a dot or a space, or ends in one": name.strip(". ") != name,
        f"it ends in {ending}": bool(ending),
        "it ends in the number of a shard": _SHARD_NUMBER.search(name) is not None,
        "it is too long": name.isprintable() and len(name.encode()) > MOST_NAME_BYTES,
    }
    return next((fault for fault, applies in faults.items() if applies), "")


def check_apart(names: Iterable[str], there: Path, where: str) -> None:
    """Refuse names that differ in case alone, or in the form of their characters, where that is one name.

    Args:
        names: Names of the files that will be written.
        there: A file that was written beside them.
        where: What to call the destination.

    Raises:
        DestinationError: `write-failed`.

    Examples:
        >>> check_apart(["config.json", "model.safetensors"], Path("out/record.json"), "out")
    """
    alike: dict[str, list[str]] = {}
    for name in sorted(names):
        alike.setdefault(normalize("NFC", name).casefold(), []).append(name)
    same = next((group for group in alike.values() if len(group) > 1), None)
    if same is not None and not tells_case_apart(there):
        raise DestinationError(
            "write-failed",
            "two files of the output have one name on this file system",
            where=where,
            got=", ".join(map(repr, same)),
            hint="write to a file system that tells upper and lower case apart",
        )


def tells_case_apart(there: Path) -> bool:
    """Say whether a file system tells names in upper and in lower case apart, by a file that is there."""
    return not there.with_name(there.name.swapcase()).exists()
