"""The text of a mapping file, and how an error shows a place in it: name:line:column, the line, and a caret."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from weighbridge.base.errors import MappingError, WeighbridgeError
from weighbridge.base.nearby import name_near
from weighbridge.base.plain_files import OddFileError, read_plain

MAX_BYTES: Final = 2**20
"""Size of the largest file that is read; ten thousand rules need less."""

SHOWN_PROBLEMS: Final = 12
SHOWN_COLUMNS: Final = 96
_BREAK: Final = re.compile("[\n\r\x85\u2028\u2029]")


class Place(NamedTuple):
    """A place in a text.

    Args:
        line: Number of the line, from 1.
        column: Number of the character in the line, from 1.
        start: Index in the text at which the line starts.
    """

    line: int
    column: int
    start: int


@dataclass(frozen=True, slots=True)
class Document:
    """The text of one mapping file.

    Args:
        name: What errors call it.
        text: All of it.
    """

    name: str
    text: str

    def where(self, place: Place) -> str:
        """Name a place in the document."""
        return f"{self.name}:{place.line}:{place.column}"

    def show(self, place: Place) -> str:
        """Return the line of a place, cut to a readable length, and a caret under the column."""
        ends = _BREAK.search(self.text, place.start)
        line = self.text[place.start : ends.start() if ends else len(self.text)].replace("\t", " ")
        blank = len(line) - len(line.lstrip(" "))
        first = max(min(blank, place.column - 1), place.column - SHOWN_COLUMNS * 3 // 4)
        return f"{line[first : first + SHOWN_COLUMNS].rstrip()}\n{' ' * (place.column - 1 - first)}^"

    def complain(self, place: Place, what: str, *, expected: str = "", hint: str = "") -> MappingError:
        """Make the error for what is wrong at a place."""
        where, shown = self.where(place), self.show(place)
        return MappingError("mapping-file", what, where=where, expected=expected, got=shown, hint=hint)


def one_error(document: Document, problems: Iterable[WeighbridgeError]) -> WeighbridgeError:
    """Return the only problem, or one error that lists all of them."""
    found = sorted(problems, key=lambda problem: _line_and_column(document, problem))
    if len(found) == 1:
        return found[0]
    listed = [str(problem) for problem in found[:SHOWN_PROBLEMS]]
    hidden = len(found) - len(listed)
    got = "\n".join([*listed, *([f"… and {hidden} more"] if hidden else [])])
    return MappingError("mapping-file", f"this file has {len(found)} problems", where=document.name, got=got)


def _line_and_column(document: Document, problem: WeighbridgeError) -> list[int]:
    numbers = problem.where.removeprefix(document.name).split(":")[1:]
    return [int(number) for number in numbers if number.isdecimal()]


def read_bytes(path: Path, limit_bytes: int = MAX_BYTES) -> bytes:
    """Read a mapping file, if it is a regular file of a reasonable size.

    Args:
        path: The file.
        limit_bytes: The most bytes that it may have.

    Raises:
        MappingError: `mapping-file`.
    """
    try:
        return read_plain(path.expanduser(), limit_bytes)
    except OddFileError as problem:
        raise MappingError("mapping-file", "this is no regular file", where=str(path), got=problem.kind) from None
    except (OSError, ValueError) as problem:
        if isinstance(problem, OSError) and problem.errno == errno.EFBIG:
            raise _too_large(str(path), limit_bytes) from None
        reason = getattr(problem, "strerror", None) or str(problem)
        got = name_near(path) if isinstance(problem, FileNotFoundError) else f"{type(problem).__name__}: {reason}"
        raise MappingError("mapping-file", "this file cannot be read", where=str(path), got=got) from None


def open_document(path: Path) -> Document:
    """Read a file as text.

    Raises:
        MappingError: `mapping-file`.
    """
    try:
        return Document(str(path), read_bytes(path).decode("utf-8-sig"))
    except UnicodeDecodeError as problem:
        got = f"byte {problem.start}: {problem.reason}"
        raise MappingError("mapping-file", "this file is no UTF-8", where=str(path), got=got) from None


def document_of(text: str) -> Document:
    """Take a text as a document without a file.

    Raises:
        MappingError: `mapping-file` for one that is too long.
    """
    name = "the text"
    if len(text) > MAX_BYTES:
        raise _too_large(name)
    return Document(name, text)


def _too_large(where: str, limit_bytes: int = MAX_BYTES) -> MappingError:
    expected = f"at most {limit_bytes:,} bytes"
    return MappingError("mapping-file", "this file is too large for a mapping", where=where, expected=expected)
