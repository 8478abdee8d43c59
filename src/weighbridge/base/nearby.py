"""Find names that are like one that is not there; for a path, the part of it that goes astray."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def close_names(name: str, names: Iterable[str], most: int = 1, alike: float = 0.6) -> list[str]:
    """Return the names that are most like a name, the nearest first.

    Args:
        name: The name that nobody has.
        names: Those that there are.
        most: How many to return.
        alike: How alike they must be, between 0 and 1.

    Examples:
        >>> close_names("dtypo", ["drop", "dtype"])
        ['dtype']
    """
    from difflib import get_close_matches

    return get_close_matches(name, list(names), most, alike)


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
    if (folder / lost).is_symlink():
        return f"{folder / lost} is a link to {(folder / lost).readlink()}, which is not there"
    try:
        near = close_names(lost, (entry.name for entry in folder.iterdir()), 3)
    except OSError:  # what may not be listed may still be entered
        near = []
    return f"no {lost} in {folder}" + (f"; nearest: {', '.join(near)}" if near else "")
