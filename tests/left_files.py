"""What lies in a directory after a run, whole or killed."""

from __future__ import annotations

import hashlib
from pathlib import Path

from safetensors import SafetensorError, safe_open


def contents(folder: Path) -> dict[str, bytes]:
    """Return the SHA-256 of every file below a directory."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).digest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def opens(path: Path) -> bool:
    """Tell whether the safetensors library opens a file."""
    try:
        with safe_open(path, "numpy"):
            return True
    except SafetensorError:
        return False
