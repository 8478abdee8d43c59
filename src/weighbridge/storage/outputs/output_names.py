"""Whether the names of an output's files are as many files on the file system that they are written to."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from unicodedata import normalize

from weighbridge.base.errors import DestinationError


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
