"""Put objects into a store, and take them away: whole ones that nobody else has made, and long ones part by part.

A request whose answer was lost may have done its work. So each is one that can be made again: what was put is put over,
or is known by its bytes; what was taken away is not there the second time, and that is no fault.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

from weighbridge.storage.remote import pace
from weighbridge.storage.remote.clients import Client, FaultError, reporting_faults
from weighbridge.storage.remote.traffic import count_bytes, count_request

PARTS_IN_FLIGHT: Final = 4
"""How many parts of one object are on their way at once."""

Found = TypeVar("Found")


class Version(NamedTuple):
    """What identifies one content of an object.

    Args:
        etag: Its ETag.
        generation: The number that Google's store gives to each content, and asks for where one is to be replaced;
            empty for the others.
    """

    etag: str
    generation: str = ""


def _version(made: Mapping[str, Any]) -> Version:
    return Version(str(made["e_tag"]), str(made["version"] or ""))


def insisting(request: Callable[[], Found], is_open: Callable[[], bool] = lambda: True) -> Found:
    """Return what a request gives, which is made again as long as that may help, after waits that grow.

    Args:
        request: Asks once.
        is_open: Whether it can be made again.

    Raises:
        FaultError: What will not pass, or has not passed in time.
    """
    for failed in range(1, pace.PATIENCE.tries):
        try:
            return request()
        except FaultError as problem:
            if not problem.fault.may_pass or not is_open():
                raise
        time.sleep(pace.PATIENCE.wait_seconds(failed))
    return request()


def put_whole(
    client: Client, name: str, content: bytes, *, replacing: Version | None = None, is_ours: bool = False
) -> Version:
    """Put one object by one request, where there is none.

    Args:
        client: Who sends it.
        name: What it is to be called.
        content: What it holds; what is not `is_ours` must be unlike what any other run puts.
        replacing: The version that is there and is to be replaced; None for none.
        is_ours: Whether what is there may be replaced whatever it is: the record says that this run alone writes here.

    Returns:
        Its version.

    Raises:
        FaultError: ``"exists"`` where something is there already, ``"changed"`` where that is not what was to be
            replaced, and whatever else went wrong.
    """
    import obstore

    wanted = {} if replacing is None else {"e_tag": replacing.etag, "version": replacing.generation}
    mode: Any = "overwrite" if is_ours else {key: value for key, value in wanted.items() if value} or "create"

    def put() -> Version:
        count_request()
        count_bytes(len(content), written=True)
        with reporting_faults():
            return _version(obstore.put(client.store, name, content, mode=mode, use_multipart=False))

    try:
        return insisting(put)
    except FaultError as problem:
        there = _look(read_whole, client, name) if problem.fault.kind in ("exists", "changed") else None
        if there is None or there[0] != content:
            raise
        return there[1]


def put_parts(client: Client, name: str, parts: Iterator[memoryview], part_bytes: int) -> Version:
    """Put one object part by part, in the order of the parts; it is there when the last one is, or not at all.

    Args:
        client: Who sends it.
        name: What it is to be called.
        parts: Its bytes, in parts of one size but for the last. What they raise ends the upload, and is raised.
        part_bytes: That size.

    Returns:
        Its version.

    Raises:
        FaultError: What went wrong; ``"absent"`` also where the answer to the last request was lost, for then the
            upload is there no more. Where the store refuses to the very end, parts may be left, which nobody sees.
    """
    import obstore

    begun: list[bool] = []
    failed: list[BaseException] = []

    def counted() -> Iterator[memoryview]:
        begun.append(True)
        try:
            for part in parts:
                count_request()
                count_bytes(len(part), written=True)
                yield part
        except GeneratorExit:  # the client has given up, and says why
            raise
        except BaseException as problem:
            failed.append(problem)
            raise

    def send() -> Version:
        how: Any = {"chunk_size": part_bytes, "max_concurrency": PARTS_IN_FLIGHT, "use_multipart": True}
        with reporting_faults():
            return _version(obstore.put(client.uploads, name, counted(), **how))

    try:
        return insisting(send, is_open=lambda: not begun)
    except FaultError:
        if failed:
            raise failed[0] from None
        raise


def read_whole(client: Client, name: str) -> tuple[bytes, Version]:
    """Return a small object and its version.

    Raises:
        FaultError: What went wrong.
    """

    def read() -> tuple[bytes, Version]:
        answer = client.get(name, None)
        return b"".join(answer.chunks), Version(answer.version, answer.generation)

    return insisting(read)


def find(client: Client, name: str) -> tuple[int, Version] | None:
    """Return size and version of an object; None where there is none.

    Raises:
        FaultError: What went wrong.
    """
    return _look(_size_and_version, client, name)


def _size_and_version(client: Client, name: str) -> tuple[int, Version]:
    def ask() -> tuple[int, Version]:
        answer = client.get(name, (0, 1))
        return answer.size_bytes, Version(answer.version, answer.generation)

    return insisting(ask)


def _look(ask: Callable[[Client, str], Found], client: Client, name: str) -> Found | None:
    """Return what there is to say of an object; None where there is none."""
    try:
        return ask(client, name)
    except FaultError as problem:
        if problem.fault.kind != "absent":
            raise
        return None


def list_versions(client: Client) -> dict[str, str]:
    """Return the version of each object of a folder, by its name in it.

    Raises:
        FaultError: What went wrong.
        CheckpointError: `checkpoint-ambiguous` for too many.
    """
    return insisting(lambda: {name: version for name, _, version in client.list_files()})


def delete(client: Client, names: Iterable[str]) -> None:
    """Take objects away; one that is not there is no fault.

    Raises:
        FaultError: What went wrong.
    """
    for name in names:
        try:
            insisting(partial(_delete, client, name))
        except FaultError as problem:
            if problem.fault.kind != "absent":
                raise


def _delete(client: Client, name: str) -> None:
    import obstore

    count_request()
    with reporting_faults():
        obstore.delete(client.store, name)
