"""Say where a path goes astray, and what stands there by a name that is like it."""

from __future__ import annotations

import difflib
from pathlib import Path


def name_near(path: Path) -> str:
    """Name the part of a path that is not there, the folder that lacks it, and that folder's nearest names.

    Args:
        path: A path that leads nowhere.

    Returns:
        One line; an empty text where no part of the path exists.

    Examples:
        >>> name_near(Path("/no_such_folder/model.safetensors"))
        'no no_such_folder in /'
    """
    folder = next((parent for parent in path.parents if parent.exists()), None)
    if folder is None:
        return ""
    if not folder.is_dir():
        return f"{folder} is a file"
    lost = path.relative_to(folder).parts[0]
    try:
        near = difflib.get_close_matches(lost, [entry.name for entry in folder.iterdir()], 3)
    except OSError:  # what may not be listed may still be entered
        near = []
    return f"no {lost} in {folder}" + (f"; nearest: {', '.join(near)}" if near else "")
