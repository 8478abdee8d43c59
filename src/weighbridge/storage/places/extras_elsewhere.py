"""Which files beside weights that lie elsewhere go with them: by the rule of `extras`, over a list of names."""

from __future__ import annotations

from collections.abc import Iterable

from weighbridge.base.file_names import RECEIPT_NAME
from weighbridge.storage.places.directory import Extra
from weighbridge.storage.places.extras import MOST_DEPTH, MOST_FILES, left_aside, may_go
from weighbridge.storage.remote.folders import RemoteFolder


def find_extras_elsewhere(folder: RemoteFolder, used: Iterable[str]) -> tuple[tuple[Extra, ...], tuple[str, ...]]:
    """Find the files of a folder elsewhere that go with a checkpoint, and name those that stay behind.

    Args:
        folder: The folder.
        used: Names of the files that the checkpoint is made of.

    Returns:
        The files, and at most one note.
    """
    own = {RECEIPT_NAME, *used}
    by_top: dict[str, list[str]] = {}
    for name in sorted(folder.files):
        if name not in own:
            by_top.setdefault(_top(name, own), []).append(name)
    extras: list[Extra] = []
    left: list[str] = []
    for top, names in by_top.items():
        shown = [name for name in names if not _is_hidden(name, top)]
        if may_go(top) and _may_all_go(shown):
            extras += [Extra(name, folder.files[name]) for name in shown]
            left += [name for name in names if name not in shown] if shown else [top]
        else:
            left.append(top)
    return tuple(extras), left_aside(left)


def _top(name: str, own: set[str]) -> str:
    """Return what a file stays or goes with: its outermost folder in which none of the checkpoint's own files lie."""
    parts = name.split("/")
    for count in range(1, len(parts)):
        top = "/".join(parts[:count])
        if not any(each.startswith(f"{top}/") for each in own):
            return top
    return name


def _is_hidden(name: str, top: str) -> bool:
    return any(part.startswith(".") for part in name[len(top) :].split("/"))


def _may_all_go(names: list[str]) -> bool:
    return len(names) <= MOST_FILES and all(may_go(name) and name.count("/") <= MOST_DEPTH for name in names)
