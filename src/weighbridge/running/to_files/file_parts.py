"""The parts that the work on a new file falls into: bytes that move as they are, and what is built.

Moves that follow each other on both sides are one. Of a file that lies elsewhere, those that follow each other there
come by one request, wherever they go: each request takes a while to be answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from weighbridge.storage.protocol import Extent
from weighbridge.storage.remote.remote_files import Location, RemoteFile

if TYPE_CHECKING:
    from weighbridge.storage.outputs.sinks import Sink


class Move(NamedTuple):
    """Bytes of a file that move as they are: where they lie, and where they go in the new file."""

    path: Location
    offset: int
    target_offset: int
    size_bytes: int

    def write(self, sink: Sink) -> None:
        """Have the new file hold them."""
        sink.copy_range(Extent(self.path, self.offset, self.size_bytes), self.target_offset)


class Together(NamedTuple):
    """Bytes that follow each other in a file elsewhere, and go to several places of the new one."""

    path: RemoteFile
    moves: tuple[Move, ...]

    @property
    def size_bytes(self) -> int:
        """How many they are."""
        return sum([move.size_bytes for move in self.moves])

    def write(self, sink: Sink) -> None:
        """Have the new file hold them, as they come."""
        left = iter(self.moves)
        move, done = next(left), 0
        for piece in self.path.pieces(move.offset, self.size_bytes):
            while piece:
                count = min(len(piece), move.size_bytes - done)
                sink.write(move.target_offset + done, piece[:count])
                piece, done = piece[count:], done + count
                if done == move.size_bytes:
                    move, done = next(left, move), 0


Reads: TypeAlias = "Iterator[tuple[str, list[tuple[int, int]]]]"
"""What is read: a source's key, and places of it that are read by one call, each a start and a size in bytes."""


class Build(NamedTuple):
    """Any other part of a tensor in the new file: its size, what writes it, and what is read for that."""

    size_bytes: int
    write: Callable[[Sink], None]
    reads: Callable[[], Reads] = lambda: iter(())


Part: TypeAlias = "Move | Together | Build"


def regroup_moves(parts: Iterator[Move | Build], most_bytes: int) -> Iterator[Move | Build]:
    """Join moves that follow each other on both sides, and cut long ones, so that every worker has its share.

    Args:
        parts: The parts, in the order of the new file.
        most_bytes: The most that one move is to be.
    """
    pending: Move | None = None
    for part in parts:
        if pending is not None and isinstance(part, Move) and _follows(pending, part, most_bytes):
            pending = pending._replace(size_bytes=pending.size_bytes + part.size_bytes)
        else:
            yield from _cut_move(pending, most_bytes)
            pending = part if isinstance(part, Move) else None
            if isinstance(part, Build):
                yield part
    yield from _cut_move(pending, most_bytes)


def _follows(first: Move, second: Move, most_bytes: int) -> bool:
    reached = first.path, first.offset + first.size_bytes, first.target_offset + first.size_bytes
    return first.size_bytes < most_bytes and second[:3] == reached


def _cut_move(move: Move | None, most_bytes: int) -> Iterator[Move]:
    for start in range(0, move.size_bytes if move is not None else 0, most_bytes):
        assert move is not None
        size_bytes = min(most_bytes, move.size_bytes - start)
        yield Move(move.path, move.offset + start, move.target_offset + start, size_bytes)


def together(parts: Iterator[Move | Build], most_bytes: int) -> Iterator[Part]:
    """Take moves from elsewhere out of the order of the new file, and into that of the files that they are in.

    Args:
        parts: The parts.
        most_bytes: The most that comes by one request.
    """
    distant: dict[str, tuple[RemoteFile, list[Move]]] = {}
    for part in parts:
        if isinstance(part, Move) and isinstance(part.path, RemoteFile):
            distant.setdefault(part.path.url, (part.path, []))[1].append(part)
        else:
            yield part
    for path, moves in distant.values():
        moves.sort(key=lambda move: move.offset)
        yield from _batches(path, moves, most_bytes)


def _batches(path: RemoteFile, moves: list[Move], most_bytes: int) -> Iterator[Part]:
    """Yield moves of one file, in its order; those that follow each other are one part as far as they may."""
    first = 0
    for number in range(1, len(moves) + 1):
        before, follower = moves[number - 1], moves[number] if number < len(moves) else None
        stop = before.offset + before.size_bytes
        if (
            follower is not None
            and follower.offset == stop
            and follower.offset + follower.size_bytes - moves[first].offset <= most_bytes
        ):
            continue
        yield moves[first] if number - first == 1 else Together(path, tuple(moves[first:number]))
        first = number
