"""One file that is named, and is all the weights that its directory holds: the settings beside it are its own."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from weighbridge.base.errors import CheckpointError
from weighbridge.storage.formats.opened import Opened
from weighbridge.storage.places.directory import Extra, find_weights
from weighbridge.storage.places.paths import resolve_inside
from weighbridge.storage.protocol import Checkpoint

_LOG: Final = logging.getLogger(__name__)


def with_settings(opened: Checkpoint, path: Path, names: Sequence[str]) -> Checkpoint:
    """Add the settings beside a file of weights, if the directory, named itself, would be just that file.

    No other files beside it are taken along: the directory may be any.

    Args:
        opened: What was opened.
        path: The path that was named.
        names: Names of files with settings; without the first of them nothing is taken.
    """
    if not isinstance(opened, Opened) or opened.extras or not path.is_file():
        return opened
    extras = tuple(_settings(path.parent, names))
    if not any(extra.name == names[0] for extra in extras) or not _is_all(path):
        return opened
    _LOG.info("%s: taken with the %s beside it", path, ", ".join(extra.name for extra in extras))
    return replace(opened, extras=extras)


def _settings(directory: Path, names: Sequence[str]) -> Iterator[Extra]:
    """Yield files of a directory by their names; a link that leads out is none."""
    for name in names:
        try:
            found = resolve_inside(directory, name)
        except CheckpointError:
            continue
        if found.is_file():
            yield Extra(name, found)


def _is_all(path: Path) -> bool:
    try:
        found = find_weights(path.parent)
    except CheckpointError:
        return False
    return found.names == (path.name,)
