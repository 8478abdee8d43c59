"""Who moves the bytes: obstore's clients of object stores and of servers, which know credentials, signing and proxies.

A client is made for one folder. It asks for one range by one request (`get` with a range; its `get_ranges` would send
one request after the other), and says what it got: a file's size, its version, and the bytes. Its own retries are
off: whoever asks again must look at the version first. See `transfers`.
"""

from __future__ import annotations

import os
import threading
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, Final
from urllib.parse import quote, unquote

from weighbridge._version import __version__
from weighbridge.base.errors import CheckpointError, WeighbridgeError
from weighbridge.storage.remote import pace
from weighbridge.storage.remote.addresses import SERVERS, Address
from weighbridge.storage.remote.client_faults import Fault, error_for, fault_of
from weighbridge.storage.remote.pace import Pace, pace_for
from weighbridge.storage.remote.traffic import count_request

CHUNK_BYTES: Final = 2**20
"""Bytes of an answer are taken in pieces of at least this size, so that no range is held whole."""

MOST_LISTED: Final = 100_000
"""How many files a folder may hold, sub-folders included."""

_SLOW: Final = 1.0
"""What a latency is taken for before anything was asked, in seconds."""


class FaultError(Exception):
    """A request failed; `fault` says how, without secrets."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.said)
        self.fault = fault


class Answer:
    """What a server sent for one range.

    Args:
        size_bytes: Size of the whole file.
        version: What identifies its contents: an ETag, or when it was changed; empty where the server says neither.
        start: The first byte that is sent.
        chunks: The bytes, as they come.
        generation: The number that some stores give to each content of an object; empty elsewhere.
    """

    __slots__ = ("chunks", "generation", "size_bytes", "start", "version")

    def __init__(
        self, size_bytes: int, version: str, start: int, chunks: Iterator[memoryview], generation: str = ""
    ) -> None:
        self.size_bytes = size_bytes
        self.version = version
        self.start = start
        self.chunks = chunks
        self.generation = generation


class Client:
    """Reads and lists the files of one folder.

    Args:
        where: The folder's address, without secrets.
        store: What obstore made for it.
        plain_url: The address by which a server is asked how long to wait; empty where none says that.
        headers: What is sent along; secrets among it.
        uploads: What obstore made for it that sends a lost part again by itself; None where nothing is written.
    """

    def __init__(
        self,
        where: str,
        store: Any,
        plain_url: str = "",
        headers: Mapping[str, str] | None = None,
        uploads: Any = None,
    ) -> None:
        self.where = where
        self.store = store
        self.uploads = uploads
        self.plain_url = plain_url
        self.headers = dict(headers or {})
        self.latency_seconds = _SLOW
        self.gate = threading.Lock()
        self.not_before = 0.0

    @property
    def pace(self) -> Pace:
        """How this is best read, by how long its answers have taken to begin."""
        return pace_for(self.latency_seconds)

    def get(self, name: str, span: tuple[int, int] | None, version: str = "", *, is_repeated: bool = False) -> Answer:
        """Ask for bytes [start, stop) of a file, or for all of it.

        Args:
            name: The file, relative to the folder.
            span: The range; None for the whole file.
            version: What the file must be; empty for anything.
            is_repeated: Whether this was asked before.

        Raises:
            FaultError: What went wrong.
        """
        import obstore

        options: dict[str, Any] = {} if span is None else {"range": span}
        if version and not version.startswith(("W/", "at ")):
            options["if_match"] = version
        count_request(is_repeated=is_repeated)
        begun = time.monotonic()
        with reporting_faults():
            result = obstore.get(self.store, name, options=options)
            meta = result.meta
            generation = meta.get("version") or ""
            answer = Answer(meta["size"], version_of(meta), result.range[0], _chunks(result), generation)
        self.latency_seconds = min(self.latency_seconds, time.monotonic() - begun)
        return answer

    def list_files(self) -> Iterator[tuple[str, int, str]]:
        """Yield name, size and version of each file of the folder and of its sub-folders.

        Raises:
            FaultError: What went wrong.
            CheckpointError: `checkpoint-ambiguous` for more than `MOST_LISTED`.
        """
        import obstore

        count = 0
        with reporting_faults():
            for page in obstore.list(self.store, chunk_size=1000):
                count_request()
                count += len(page)
                if count > MOST_LISTED:
                    what, hint = "there are too many files in here", "name the index, or the file, that is meant"
                    expected = f"at most {MOST_LISTED:,}"
                    raise CheckpointError("checkpoint-ambiguous", what, where=self.where, expected=expected, hint=hint)
                yield from ((meta["path"], meta["size"], _quoted(version_of(meta))) for meta in page)

    def asked_wait_seconds(self, name: str) -> float | None:
        """Ask a server that is busy how long to wait; None where it does not say.

        The client does not hand on what stands in the head of a refusal. So the plain library asks for the head of the
        same file: with the same credentials, from the same host, and without going anywhere else.
        """
        if not self.plain_url:
            return None
        from urllib.request import HTTPRedirectHandler, Request, build_opener

        class Nowhere(HTTPRedirectHandler):
            def redirect_request(self, *_: Any) -> None:
                return None

        from urllib.error import HTTPError

        request = Request(f"{self.plain_url}/{quote(name)}", headers=self.headers, method="HEAD")
        count_request(is_repeated=True)
        try:
            with build_opener(Nowhere).open(request, timeout=15) as found:
                return _seconds(found.headers.get("Retry-After"))
        except HTTPError as refused:
            return _seconds(refused.headers.get("Retry-After"))
        except (OSError, ValueError):
            return None


def _seconds(text: str | None) -> float | None:
    """Read the value of `Retry-After`: seconds, or a date.

    Examples:
        >>> _seconds("12"), _seconds("soon"), _seconds("Wed, 21 Oct 2015 07:28:00 GMT")
        (12.0, None, 0.0)
    """
    if text is None:
        return None
    if text.strip().isdigit():
        return float(text)
    from datetime import UTC, datetime
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None


def _chunks(result: Any) -> Iterator[memoryview]:
    with reporting_faults():
        for chunk in result.stream(min_chunk_size=CHUNK_BYTES):
            yield memoryview(chunk).cast("B")


class reporting_faults:  # noqa: N801 - it is used as a function
    """Turn whatever the client raises within a block into a `FaultError`, and let go of the client's own words."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, _: object) -> None:
        if isinstance(problem, Exception) and not isinstance(problem, (FaultError, WeighbridgeError)):
            raise FaultError(fault_of(problem)) from None


def version_of(meta: Mapping[str, Any]) -> str:
    """Return what identifies a file's contents: its ETag, or when it was changed; empty where neither is known."""
    if meta.get("e_tag"):
        return str(meta["e_tag"])
    changed = meta.get("last_modified")
    return f"at {changed.isoformat()}" if changed is not None and changed.timestamp() > 0 else ""


def _quoted(version: str) -> str:
    """Return an ETag as answers have it; the lists of some stores leave its quotes out.

    Examples:
        >>> _quoted("0x8DB"), _quoted('"0x8DB"')
        ('"0x8DB"', '"0x8DB"')
    """
    return version if not version or version.startswith(('"', "W/", "at ")) else f'"{version}"'


def is_same(version: str, other: str) -> bool:
    """Tell whether two versions are one, whether or not an ETag has its quotes.

    Examples:
        >>> is_same("0x8DB", '"0x8DB"'), is_same("", '"0x8DB"')
        (True, False)
    """
    return version.strip('"') == other.strip('"')


def connect(address: Address, *, is_written: bool = False) -> Client:
    """Return the client of a store's prefix, or of a server's folder; nothing is asked yet.

    Args:
        address: The folder.
        is_written: Whether it is written to.

    Raises:
        WeighbridgeError: `integration-version` where obstore is not installed.
        CheckpointError: `checkpoint-not-found`, `remote-denied` for what the client refuses at once.
    """
    if address.scheme in SERVERS:
        return connect_server(address.folder, address.folder, _login(address.user))
    make, options = _obstore().from_url, _options(_is_plain(address.scheme))
    try:
        with reporting_faults():
            store = make(address.folder, client_options=options, retry_config=_NO_RETRIES)
            uploads = make(address.folder, client_options=options, retry_config=_retries()) if is_written else None
    except FaultError as problem:
        raise error_for(problem.fault, address.folder) from None
    return Client(address.folder, store, uploads=uploads)


def connect_server(where: str, url: str, headers: Mapping[str, str]) -> Client:
    """Return the client of a folder behind a server.

    Args:
        where: What to call the folder.
        url: Its address, without secrets.
        headers: What is sent along; to this host alone.

    Raises:
        WeighbridgeError: `integration-version` where obstore is not installed.
        CheckpointError: `checkpoint-not-found` for what is no address.
    """
    options = {**_options(url.startswith("http://")), "default_headers": dict(headers)}
    try:
        with reporting_faults():
            made = _obstore().HTTPStore.from_url(url, client_options=options, retry_config=_NO_RETRIES)
    except FaultError as problem:
        raise error_for(problem.fault, where) from None
    return Client(where, made, url, headers)


_NO_RETRIES: Final = {"max_retries": 0}


def _retries() -> dict[str, Any]:
    """Return how the client asks again by itself, as patiently as we do: with each part of an upload."""
    patience = pace.PATIENCE
    first, most = timedelta(seconds=patience.first_seconds), timedelta(seconds=patience.most_seconds)
    backoff = {"init_backoff": first, "max_backoff": most, "base": 2.0}
    return {"max_retries": patience.tries - 1, "backoff": backoff, "retry_timeout": timedelta(minutes=5)}


def _options(is_plain: bool) -> dict[str, Any]:
    answer = timedelta(seconds=pace.PATIENCE.answer_seconds)
    times = {"connect_timeout": timedelta(seconds=15), "read_timeout": answer}
    agent = {"user_agent": f"weighbridge/{__version__}", "timeout": timedelta(minutes=15)}
    return {**times, **agent, **({"allow_http": True} if is_plain else {})}


_ENDPOINTS: Final = {
    "s3": ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
"""Where the client looks for another endpoint of a store than its own."""


def _is_plain(scheme: str) -> bool:
    """Tell whether whoever set up a store named an endpoint without encryption, such as one on this machine."""
    return any(os.environ.get(name, "").startswith("http://") for name in _ENDPOINTS[scheme])


def _login(user: str) -> dict[str, str]:
    if not user:
        return {}
    packed = b64encode(unquote(user).encode()).decode()
    return {"Authorization": f"Basic {packed}"}


def _obstore() -> Any:
    try:
        import obstore.store
    except ImportError:
        what, hint = "obstore is not installed, and it reads what lies elsewhere", "pip install 'weighbridge[remote]'"
        raise WeighbridgeError("integration-version", what, hint=hint) from None
    return obstore.store
