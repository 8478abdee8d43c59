"""What a mapping file includes: files below the folder of the first one, and registered mappings."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Final

from weighbridge.base.errors import MappingError
from weighbridge.mappings.mapping import Mapping
from weighbridge.mappings.registry import default_registry

MAX_INCLUDED: Final = 20_000
"""Rules that all files together may include, each counted as often as it is put in."""

MAX_FILES_DEEP: Final = 20

ReadFile = Callable[[Path, "Includes"], Mapping]


@dataclass(slots=True)
class Total:
    """What has been read and put in so far, by all files together."""

    rules: int = 0
    mappings: dict[str, Mapping] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Includes:
    """Finds what one file includes.

    Args:
        read: Reads a file; given so that the reader and this can call each other.
        root: Folder of the first file, links resolved; nothing outside it is read. None for a text without a file.
        open_files: The files that are being read, from the first to this one, links resolved.
        total: Shared by all files of one reading.
    """

    read: ReadFile
    root: str | None = None
    open_files: tuple[str, ...] = ()
    total: Total = field(default_factory=Total)

    def of(self, path: Path) -> Includes:
        """Return what finds the includes of a file."""
        real = os.path.realpath(path)
        root = self.root if self.root is not None else os.path.dirname(real)  # noqa: PTH120
        return replace(self, root=root, open_files=(*self.open_files, real))

    def __call__(self, name: str) -> Mapping:
        """Return the mapping of a file, or of a registered name.

        Raises:
            MappingError: `mapping-file`.
            RegistryError: `mapping-not-found`.
        """
        mapping = self._file(name) if name.endswith((".yaml", ".yml")) else default_registry.find(name)
        rules = mapping.drop, mapping.carry, mapping.initialise, mapping.refuse
        self.total.rules += len(mapping) + len(mapping.parts) + len(mapping.claims) + sum(map(len, rules))
        if self.total.rules > MAX_INCLUDED:
            raise _error("this includes too much", name, f"at most {MAX_INCLUDED:,} rules in all")
        return mapping

    def _file(self, name: str) -> Mapping:
        real = self._find(name)
        if real in self.open_files:
            chain = [Path(path).name for path in self.open_files[self.open_files.index(real) :]]
            raise _error("this file includes itself", " -> ".join([*chain, Path(real).name]))
        if len(self.open_files) >= MAX_FILES_DEEP:
            raise _error("files include each other too deeply", name, f"at most {MAX_FILES_DEEP} levels")
        if real not in self.total.mappings:
            self.total.mappings[real] = self.read(Path(real), self)
        return self.total.mappings[real]

    def _find(self, name: str) -> str:
        """Return the real path of a file that may be included."""
        if self.root is None:
            raise _error("only a file can include files", name, "a registered name")
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or ":" in path.parts[0]:
            expected = "a relative path without '..'"
            raise _error("an included file lies in the folder of the first file, or below", name, expected)
        real = os.path.realpath(Path(self.open_files[-1]).parent / path)
        if not Path(real).is_relative_to(self.root):
            raise _error("this link leads out of the folder of the first file", name)
        return real


def _error(what: str, got: str, expected: str = "") -> MappingError:
    return MappingError("mapping-file", what, expected=expected, got=got)
