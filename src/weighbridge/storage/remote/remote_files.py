"""A file that lies elsewhere, in the place where a path would stand: a size, a version, and ranges of bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from weighbridge.base.errors import CheckpointError
from weighbridge.storage.remote.client_faults import changed_elsewhere, error_for
from weighbridge.storage.remote.clients import Client, FaultError, is_same
from weighbridge.storage.remote.pace import GAP_BYTES, RANGE_BYTES
from weighbridge.storage.remote.transfers import asking_again, bring

FIRST_BYTES: Final = 256 * 2**10
"""How much of a file is asked for first; it normally holds the whole header."""

KEPT_BYTES: Final = 2**20
"""Files up to this size, such as configurations, are kept once they are read."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file as it was when its folder was opened.

    Args:
        url: Its address, without secrets, and with the commit that a revision meant.
        size_bytes: Its size.
        version: The commit, or the ETag.
        etag: The ETag that every answer must have; empty where the address itself stands for one content.
        name_there: What the client calls it.
        client: Who moves its bytes.
        kept: What of it is here already: its first bytes, or all of a small one; filled when they are read.
    """

    url: str
    size_bytes: int
    version: str
    etag: str
    name_there: str
    client: Client = field(compare=False, repr=False)
    kept: list[bytes] = field(default_factory=list, compare=False, repr=False)

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """The last part of its address."""
        return self.url.rpartition("/")[2]

    def has(self, start: int, size_bytes: int) -> bool:
        """Tell whether bytes from `start` on are here already."""
        return bool(self.kept) and start + size_bytes <= len(self.kept[0])

    def pieces(self, start: int, size_bytes: int) -> Iterator[memoryview]:
        """Yield bytes from `start` on, in pieces, by requests of bounded size.

        Raises:
            CheckpointError: `source-changed`, `remote-denied`, `remote-no-ranges`, `file-truncated`, `read-failed`.
        """
        stop = start + size_bytes
        if stop > self.size_bytes:
            expected, got = f"{size_bytes:,} bytes from byte {start:,} on", f"a file of {self.size_bytes:,} bytes"
            what = "the file ends too early"
            raise CheckpointError("file-truncated", what, where=self.url, expected=expected, got=got)
        if self.has(start, size_bytes):
            yield memoryview(self.kept[0])[start:stop]
            return
        for first in range(start, stop, RANGE_BYTES):
            yield from bring(self, first, min(first + RANGE_BYTES, stop))

    def read(self, start: int, buffer: memoryview) -> None:
        """Fill the whole buffer with the bytes from `start` on.

        Raises:
            CheckpointError: As `pieces`.
        """
        with buffer.cast("B") as view:
            done = 0
            for piece in self.pieces(start, len(view)):
                view[done : done + len(piece)] = piece
                done += len(piece)

    def first_bytes(self) -> bytes:
        """Return the file's first `FIRST_BYTES`; fewer where it is shorter.

        Raises:
            CheckpointError: As `pieces`.
        """
        if self.kept:
            return self.kept[0]
        found = b"".join(self.pieces(0, min(FIRST_BYTES, self.size_bytes)))
        if len(found) == self.size_bytes <= FIRST_BYTES:
            self.kept[:] = [found]
        return found

    def read_all(self, limit_bytes: int) -> bytes:
        """Return all bytes of a file of settings, an index or a receipt.

        Raises:
            CheckpointError: `read-failed` for one that is larger than the limit, and as `pieces`.
        """
        if self.size_bytes > limit_bytes:
            expected, got = f"at most {limit_bytes:,} bytes", f"{self.size_bytes:,} bytes"
            what = "this file is too large to be read"
            raise CheckpointError("read-failed", what, where=self.url, expected=expected, got=got)
        found = b"".join(self.pieces(0, self.size_bytes))
        if len(found) <= KEPT_BYTES:
            self.kept[:] = [found]
        return found

    def collect(self, places: Sequence[tuple[int, int]], buffer: memoryview) -> None:
        """Fill a buffer from several places, each a start and a size; what lies close together is read together.

        Raises:
            CheckpointError: As `pieces`.
        """
        done = 0
        for group in close_together(places):
            first, stop = group[0][0], sum(group[-1])
            if len(group) == 1:
                self.read(first, buffer[done : done + stop - first])
                done += stop - first
                continue
            raw = bytearray(stop - first)
            self.read(first, memoryview(raw))
            for start, size_bytes in group:
                buffer[done : done + size_bytes] = raw[start - first : start - first + size_bytes]
                done += size_bytes

    def check_unchanged(self) -> None:
        """Ask whether the file still is what was opened; a commit stays what it is.

        Raises:
            CheckpointError: `source-changed`, `remote-denied`, `read-failed`.
        """
        if not self.etag:
            return
        span = (0, 1) if self.size_bytes else None
        try:
            answer = asking_again(
                self.client, self.name_there, self.url, lambda: self.client.get(self.name_there, span, self.etag)
            )
        except FaultError as problem:
            raise error_for(problem.fault, self.url, is_open=True) from None
        if answer.size_bytes != self.size_bytes or not is_same(answer.version, self.etag):
            raise changed_elsewhere(self.url, "it was replaced")


def close_together(places: Iterable[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Group places that follow each other closely, so that one request of bounded size brings a group.

    Args:
        places: Start and size of each, in bytes, sorted.

    Examples:
        >>> list(close_together([(0, 4), (8, 4), (9_000_000, 4)]))
        [[(0, 4), (8, 4)], [(9000000, 4)]]
    """
    group: list[tuple[int, int]] = []
    for start, size_bytes in places:
        gap = start - sum(group[-1]) if group else 0
        if group and not (0 <= gap <= GAP_BYTES and start + size_bytes - group[0][0] <= RANGE_BYTES):
            yield group
            group = []
        group.append((start, size_bytes))
    if group:
        yield group


Location: TypeAlias = "Path | RemoteFile"
"""Where the bytes of a file lie: on this disk, or elsewhere."""


class RemoteSource(NamedTuple):
    """One file of a checkpoint that lies elsewhere, as it was when it was opened.

    Args:
        name: Path relative to the checkpoint's folder, with `/`.
        path: The file itself.
        head: Its first bytes: the safetensors header, or a whole index.
    """

    name: str
    path: RemoteFile
    head: bytes

    @property
    def size_bytes(self) -> int:
        """Its size."""
        return self.path.size_bytes
