"""Bring bytes of a file from elsewhere: exactly those that were asked for, of exactly the file that was opened.

Each answer is held against the size and the version that the file had when it was opened, and against the range that
was asked for. What breaks off is asked for again from there on, after a wait that grows, or that the server asks for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

from weighbridge.base.errors import CheckpointError
from weighbridge.storage.remote import pace
from weighbridge.storage.remote.client_faults import Fault, changed_elsewhere, error_for
from weighbridge.storage.remote.clients import Answer, Client, FaultError, is_same
from weighbridge.storage.remote.traffic import count_bytes

Found = TypeVar("Found")

_ASKS_TO_WAIT = (429, 503)
"""Statuses that may come with a time to wait."""


class Fetched(Protocol):
    """A file whose bytes are asked for, as it was when it was opened; see `remote_files.RemoteFile`."""

    @property
    def url(self) -> str:
        """Its address, without secrets."""

    @property
    def name_there(self) -> str:
        """What the client calls it."""

    @property
    def size_bytes(self) -> int:
        """Its size."""

    @property
    def etag(self) -> str:
        """The ETag that every answer must have; empty for none."""

    @property
    def client(self) -> Client:
        """Who moves its bytes."""


def bring(file: Fetched, start: int, stop: int) -> Iterator[memoryview]:
    """Yield bytes [start, stop) of a file, in pieces, in order.

    Args:
        file: The file, as it was when it was opened.
        start: The first byte.
        stop: Behind the last one.

    Raises:
        CheckpointError: `source-changed`, `remote-denied`, `remote-no-ranges`, `file-truncated`, `read-failed`.
    """
    failed = breaks = 0
    while start < stop:
        before = start
        try:
            for piece in _ask(file, start, stop, is_repeated=bool(breaks)):
                start += len(piece)
                count_bytes(len(piece))
                yield piece
            fault = Fault("busy", "it sent fewer bytes than it said")
        except FaultError as problem:
            fault = problem.fault
        if start < stop:
            breaks += 1
            failed = 1 if start > before else failed + 1
            _wait_or_raise(file.client, file.name_there, fault, failed, breaks, file.url)


def _ask(file: Fetched, start: int, stop: int, *, is_repeated: bool) -> Iterator[memoryview]:
    """Ask once, and yield what comes of what was asked for."""
    span = None if (start, stop) == (0, file.size_bytes) else (start, stop)
    answer = file.client.get(file.name_there, span, file.etag, is_repeated=is_repeated)
    _check_answer(file, answer, start)
    for piece in answer.chunks:
        if len(piece) > stop - start:
            got = f"more than the {stop - start:,} bytes that were left"
            raise CheckpointError("read-failed", "the server sends too many bytes", where=file.url, got=got)
        start += len(piece)
        yield piece


def _check_answer(file: Fetched, answer: Answer, start: int) -> None:
    """Hold what a server says of its answer against what was opened and asked for."""
    if answer.size_bytes != file.size_bytes:
        raise changed_elsewhere(file.url, f"it had {file.size_bytes:,} bytes and has {answer.size_bytes:,}")
    if file.etag and not is_same(answer.version, file.etag):
        raise changed_elsewhere(file.url, "it was replaced, by its ETag")
    if answer.start != start:
        expected, got = f"bytes from {start:,} on", f"bytes from {answer.start:,} on"
        what = "the server sends another part of the file"
        raise CheckpointError("read-failed", what, where=file.url, expected=expected, got=got)


def asking_again(client: Client, name: str, where: str, request: Callable[[], Found]) -> Found:
    """Return what one request gives, which is made again as long as that may help.

    Args:
        client: Who asks.
        name: The file that is asked for.
        where: What to call it.
        request: Asks once.

    Raises:
        FaultError: What will not pass: it is the caller's to say what that means.
        CheckpointError: `read-failed` for what did not pass in time.
    """
    failed = 0
    while True:
        try:
            return request()
        except FaultError as problem:
            if not problem.fault.may_pass:
                raise
            failed += 1
            _wait_or_raise(client, name, problem.fault, failed, failed, where)


def _wait_or_raise(client: Client, name: str, fault: Fault, failed: int, breaks: int, where: str) -> None:
    """Wait before the next try, together with all others that ask this server; raise where no other try is due."""
    patience = pace.PATIENCE
    if not fault.may_pass:
        raise error_for(fault, where, is_open=True) from None
    if failed >= patience.tries or breaks >= 4 * patience.tries:
        got, hint = f"{fault.said}, {failed} times in a row", "try again later; what has arrived here is complete"
        if fault.said.startswith("it sent fewer"):
            what = "the file ends too early"
            raise CheckpointError("file-truncated", what, where=where, got=got, hint=hint) from None
        raise CheckpointError("read-failed", "this did not arrive", where=where, got=got, hint=hint) from None
    own = patience.wait_seconds(failed)
    if fault.status not in _ASKS_TO_WAIT:
        time.sleep(own)
        return
    with client.gate:
        if client.not_before <= time.monotonic():
            asked = client.asked_wait_seconds(name) or 0.0
            if asked > patience.longest_asked_seconds:
                got = f"{fault.said}: it asks to wait for {asked:,.0f} s"
                raise CheckpointError("read-failed", "the server is busy", where=where, got=got) from None
            client.not_before = time.monotonic() + max(own, asked)
    time.sleep(max(0.0, client.not_before - time.monotonic()))
