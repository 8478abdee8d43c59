"""Find the mapping that is meant: one that is given, a registered name, or the path of a mapping file."""

from __future__ import annotations

import re
from pathlib import Path
from shlex import quote

from weighbridge.base.errors import RegistryError, WeighbridgeError
from weighbridge.base.nearby import name_near
from weighbridge.mappings.mapping import Mapping, MappingLike
from weighbridge.mappings.mapping_files import is_mapping_file, load_mapping
from weighbridge.mappings.registry import default_registry

AnyMapping = MappingLike | str | Path
"""A mapping, a list of transforms, a registered name, or the path of a mapping file."""


def find_mapping(mapping: AnyMapping) -> MappingLike:
    """Return what is registered under a name, or what a mapping file holds; anything else is a mapping already.

    Args:
        mapping: A mapping, a list of transforms, a registered name, or the path of a mapping file.

    Raises:
        RegistryError: `mapping-not-found`.
        MappingError: As `load_mapping`.
    """
    if isinstance(mapping, Path) or is_mapping_file(mapping):
        return load_mapping(mapping)
    return find_named(mapping) if isinstance(mapping, str) else mapping


def find_named(name: str) -> Mapping:
    """Return what is registered under a name.

    Raises:
        RegistryError: `mapping-not-found`; for what looks like a path, with the files that are there by such a name.
    """
    try:
        return default_registry.find(name)
    except RegistryError as problem:
        path = Path(name)
        try:
            looks_like_a_path = "/" in name or path.suffix or path.exists()
            if problem.code == "mapping-not-found" and looks_like_a_path:
                path = path.expanduser()
                problem.got = f"{path} is no mapping file by its name" if path.exists() else name_near(path)
                problem.hint = "a mapping file's name ends in .yaml, .yml or .json (for the command also .py)"
        except (OSError, ValueError, RuntimeError):
            raise problem from None  # what cannot be a path: too long, with a null byte, of a user that is not known
        raise


def refuse_swapped(source: object, destination: str | Path, mapping: object) -> None:
    """Refuse the path of a mapping where a directory is to be made, unless what stands for the mapping is one, too.

    Args:
        source: What is to be converted.
        destination: The directory to make.
        mapping: What is given as the mapping; None where nothing is.

    Raises:
        WeighbridgeError: `usage`.

    Examples:
        >>> refuse_swapped("model", "fix.yaml", "out")
        Traceback (most recent call last):
        ...
        weighbridge.WeighbridgeError: usage: the directory to make stands before the mapping
          expected  SOURCE DESTINATION MAPPING
          got       model fix.yaml out
          try       model out fix.yaml
    """
    if mapping is None and (_names_a_mapping(destination) or str(destination) in default_registry):
        what, expected = "the directory to make has the name of a mapping", "SOURCE DESTINATION [MAPPING]"
        given = f"{quote(str(source))} {quote(str(destination))}"
        hint = "name the directory before the mapping"
        if not _names_a_mapping(destination):
            hint += f", or write ./{destination} if that is to be its name"
        raise WeighbridgeError("usage", what, expected=expected, got=given, hint=hint)
    if not isinstance(mapping, str | Path) or _names_a_mapping(mapping):
        return
    if _names_a_mapping(destination):
        raise _swapped("the directory to make stands before", (source, destination, mapping), (0, 2, 1))
    is_new = str(mapping) not in default_registry and not Path(mapping).exists()
    if isinstance(source, str | Path) and _names_a_mapping(source) and is_new and Path(destination).exists():
        raise _swapped("the source and the directory to make stand before", (source, destination, mapping), (1, 2, 0))


def _swapped(what: str, given: tuple[object, ...], order: tuple[int, ...]) -> WeighbridgeError:
    typed = [quote(str(part)) for part in given]
    return WeighbridgeError(
        "usage",
        f"{what} the mapping",
        expected="SOURCE DESTINATION MAPPING",
        got=" ".join(typed),
        hint=" ".join(typed[place] for place in order),
    )


def _names_a_mapping(place: str | Path) -> bool:
    return is_mapping_file(place) or re.search(r"\.py(:\w+)?$", str(place)) is not None
