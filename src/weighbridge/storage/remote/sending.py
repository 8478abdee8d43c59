"""Put objects into a store, and take them away: whole ones that nobody else has made, and long ones part by part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from weighbridge.storage.remote.clients import Client, FaultError, reporting_faults
from weighbridge.storage.remote.traffic import count_bytes, count_request

PARTS_IN_FLIGHT: Final = 4
"""How many parts of one object are on their way at once."""


def put_whole(client: Client, name: str, content: bytes, *, replacing: str = "", is_ours: bool = False) -> str:
    """Put one object by one request, where there is none.

    Args:
        client: Who sends it.
        name: What it is to be called.
        content: What it holds.
        replacing: The version that is there and is to be replaced; empty for none.
        is_ours: Whether what is there may be replaced whatever it is: the record says that this run alone writes here.

    Returns:
        Its version.

    Raises:
        FaultError: ``"exists"`` where something is there already, ``"changed"`` where that is not what was to be
            replaced, and whatever else went wrong.
    """
    import obstore

    mode: Any = "overwrite" if is_ours else {"e_tag": replacing} if replacing else "create"
    count_request()
    count_bytes(len(content), written=True)
    with reporting_faults():
        return str(obstore.put(client.store, name, content, mode=mode, use_multipart=False)["e_tag"])


def put_parts(client: Client, name: str, parts: Iterator[memoryview], part_bytes: int) -> str:
    """Put one object part by part, in the order of the parts; it is there when the last one is, or not at all.

    Args:
        client: Who sends it.
        name: What it is to be called.
        parts: Its bytes, in parts of one size but for the last. What they raise ends the upload, and is raised.
        part_bytes: That size.

    Returns:
        Its version.

    Raises:
        FaultError: What went wrong; no part is left in the store.
    """
    import obstore

    failed: list[BaseException] = []

    def counted() -> Iterator[memoryview]:
        try:
            for part in parts:
                count_request()
                count_bytes(len(part), written=True)
                yield part
        except BaseException as problem:
            failed.append(problem)
            raise

    try:
        with reporting_faults():
            how: Any = {"chunk_size": part_bytes, "max_concurrency": PARTS_IN_FLIGHT, "use_multipart": True}
            done = obstore.put(client.store, name, counted(), **how)
    except FaultError:
        if failed:
            raise failed[0] from None
        raise
    return str(done["e_tag"])


def read_whole(client: Client, name: str) -> tuple[bytes, str]:
    """Return a small object and its version.

    Raises:
        FaultError: What went wrong.
    """
    answer = client.get(name, None)
    return b"".join(answer.chunks), answer.version


def delete(client: Client, names: Iterable[str]) -> None:
    """Take objects away; one that is not there is no fault.

    Raises:
        FaultError: What went wrong.
    """
    import obstore

    for name in names:
        count_request()
        try:
            with reporting_faults():
                obstore.delete(client.store, name)
        except FaultError as problem:
            if problem.fault.kind != "absent":
                raise
