"""Where a name in a checkpoint's directory may lead.

A name must be a clean relative path, and the file behind it must lie in the directory. One exception: the cache of the
Hugging Face hub lays a checkpoint out as links, `models--x--y/snapshots/<revision>/<name>` to
`models--x--y/blobs/<hash>` (https://huggingface.co/docs/huggingface_hub/guides/manage-cache). A link may leave
a directory of this shape if, and only if, it ends in that `blobs` folder, which is a folder and no link.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from weighbridge.base.errors import CheckpointError
from weighbridge.base.file_names import check_name
from weighbridge.storage.places.regular_files import reporting_read_errors

REPOSITORY_PREFIXES: Final = ("models--", "datasets--", "spaces--")
"""How the hub's cache calls the folders of repositories."""


def resolve_inside(directory: Path, name: str) -> Path:
    """Return the file behind a name, links resolved, if the name may lead there.

    Raises:
        CheckpointError: `path-unsafe`, `checkpoint-not-found`, `read-failed`.
    """
    check_name(name, str(directory))
    real_directory = Path(os.path.realpath(directory))
    with reporting_read_errors(str(directory / name)):
        target = Path(os.path.realpath(directory / name, strict=True))
    if target.is_relative_to(real_directory):
        return target
    blobs = hub_blobs(real_directory)
    if blobs is not None and target.parent == blobs:
        return target
    expected, got = "a file in the checkpoint's directory", f"a link to {target}"
    hint = "put the file itself there, or open the place where it is"
    raise CheckpointError(
        "path-unsafe", "a link leaves the directory", where=str(directory / name), expected=expected, got=got, hint=hint
    )


def hub_blobs(real_directory: Path) -> Path | None:
    """Return the `blobs` folder that belongs to a hub snapshot or a folder in one; None for any other directory.

    Args:
        real_directory: The directory, links resolved. The folder is its repository's own: a link would lead out of it.
    """
    for folder in (real_directory, *real_directory.parents):
        repository = folder.parent.parent
        if folder.parent.name == "snapshots" and repository.name.startswith(REPOSITORY_PREFIXES):
            blobs = repository / "blobs"
            return blobs if blobs.is_dir() and not blobs.is_symlink() else None
    return None
