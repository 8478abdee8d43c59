"""A server on this machine that serves files, is a hub where it is asked like one, and goes wrong as a test wants.

It answers ranges, lists a bucket as an object store does, and is a stand-in for the hub: `HF_ENDPOINT` leads
huggingface_hub to it. What goes wrong, and when, a test says by a function that looks at each request.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

COMMIT: Final = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY: Final = "org/tiny"


class Asked(NamedTuple):
    """One request.

    Args:
        number: How many came before it.
        method: `GET` or `HEAD`.
        path: The path, without what stands behind a question mark.
        span: The range that was asked for, [start, stop); None for all.
        headers: The headers, by their names in small letters.
        host: The host that was meant.
        query: What stands behind a question mark.
    """

    number: int
    method: str
    path: str
    span: tuple[int, int] | None
    headers: dict[str, str]
    host: str
    query: str = ""


class Wrong(NamedTuple):
    """What goes wrong with an answer.

    Args:
        status: Another status, without a content; 0 for none.
        retry_after: What the refusal asks to wait.
        sent: After how much of its content the connection is cut, as a share; None for not at all.
        short: Whether half of the range is sent, and said to be all of it.
        shift_bytes: By how much another range is sent, and said to be.
        etag: Another ETag.
        extra_bytes: How much longer the file is said to be.
        whole: Whether all of the file is sent, as servers without ranges do.
        location: Where else to go.
        body: The content of a refusal.
        is_done: Whether what was asked for is done all the same, and the answer alone is lost.
        seconds: How long the answer takes to begin.
    """

    status: int = 0
    retry_after: str = ""
    sent: float | None = None
    short: bool = False
    shift_bytes: int = 0
    etag: str = ""
    extra_bytes: int = 0
    whole: bool = False
    location: str = ""
    body: bytes = b"no"
    is_done: bool = False
    seconds: float = 0.0


Trouble = Callable[[Asked], "Wrong | None"]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    there: Loopback

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def _answer(self) -> None:
        url = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        span = _span(headers.get("range", ""))
        asked = Asked(0, self.command, unquote(url.path), span, headers, headers.get("host", ""), url.query)
        asked = self.there.note(asked)
        wrong = self.there.trouble(asked) or Wrong()
        time.sleep(wrong.seconds)
        with contextlib.suppress(ConnectionError):
            self.give(asked, wrong, parse_qs(url.query, keep_blank_values=True))

    def give(self, asked: Asked, wrong: Wrong, query: dict[str, list[str]]) -> None:
        """Answer a request, right or wrong."""
        if wrong.location:
            self.send(302, b"", {"Location": wrong.location})
        elif wrong.status:
            retry = {"Retry-After": wrong.retry_after} if wrong.retry_after else {}
            self.send(wrong.status, wrong.body, retry)
        elif asked.method not in ("GET", "HEAD"):
            self.send(405, b"nothing is written here")
        elif asked.path.startswith("/api/models/"):
            self._give_repository(asked)
        elif "list-type" in query:
            text = listing(dict(self.there.files), asked.path, query)
            self.send(200, text, {"Content-Type": "application/xml"}, cut=wrong.sent)
        else:
            self._give_file(asked, wrong, _stored_path(asked.path))

    def _give_repository(self, asked: Asked) -> None:
        name = asked.path.removeprefix("/api/models/").partition("/revision/")[0]
        revision = asked.path.partition("/revision/")[2] or "main"
        if self.there.token and asked.headers.get("authorization") != f"Bearer {self.there.token}":
            self.send(401, b"{}", {"X-Error-Code": "GatedRepo"})
            return
        files = {path: content for path, content in self.there.files.items() if path.startswith(f"/hub/{name}/")}
        if not files:
            self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif revision not in ("main", COMMIT, "v1"):
            self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        else:
            listed = [
                {"rfilename": path.removeprefix(f"/hub/{name}/"), "size": len(content), "blobId": "0" * 40}
                for path, content in files.items()
            ]
            text = {"id": name, "modelId": name, "sha": COMMIT, "siblings": listed, "tags": [], "private": False}
            self.send(200, json.dumps(text).encode(), {"Content-Type": "application/json"})

    def _give_file(self, asked: Asked, wrong: Wrong, path: str) -> None:
        content = self.there.files.get(path)
        if content is None:
            self.send(404, b"nothing")
            return
        etag = wrong.etag or self.there.etag(path)
        wanted = asked.headers.get("if-match")
        if wanted is not None and wanted != etag:
            self.send(412, b"changed")
            return
        span = None if wrong.whole else asked.span
        start, stop = span or (0, len(content))
        shift = wrong.shift_bytes if span is not None else 0
        start, stop = start + shift, min(stop, len(content)) + shift
        if span is not None and start >= len(content):
            self.send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            return
        stop = max(start + 1, stop - (stop - start) // 2) if wrong.short and span is not None else stop
        part = content[start:stop]
        head = {"ETag": etag, "Accept-Ranges": "bytes", **self.there.head(path)}
        if span is not None:
            head["Content-Range"] = f"bytes {start}-{start + len(part) - 1}/{len(content) + wrong.extra_bytes}"
        self.send(200 if span is None else 206, part, head, cut=wrong.sent)

    def send(self, status: int, content: bytes, head: dict[str, str] | None = None, cut: float | None = None) -> None:
        """Send an answer, or the beginning of one."""
        self.send_response(status)
        for name, value in (head or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if cut is not None:
            self.wfile.write(content[: int(len(content) * cut)])
            self.wfile.flush()
            self.hang_up()
            return
        self.wfile.write(content)

    def hang_up(self) -> None:
        """Cut the connection."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


class Loopback:
    """The server, and what it serves: contents by path, such as `/plain/model.safetensors`.

    Args:
        secured: How connections are encrypted; None for not at all.
    """

    handler: type[Handler] = Handler

    def __init__(self, secured: ssl.SSLContext | None = None) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[Asked] = []
        self.trouble: Trouble = lambda _: None
        self.token = ""
        self._lock = threading.Lock()
        handler = type("Handler", (self.handler,), {"there": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        if secured is not None:
            self._server.socket = secured.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.port = self._server.server_address[1]
        scheme = "http" if secured is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self.other_url = f"{scheme}://localhost:{self.port}"

    def etag(self, path: str) -> str:
        """Return the ETag of a file."""
        return etag_of(self.files[path])

    def head(self, path: str) -> dict[str, str]:
        """Return what else stands in the head of an answer with a file."""
        return {}

    def note(self, asked: Asked) -> Asked:
        """Number a request, and keep it."""
        with self._lock:
            asked = asked._replace(number=len(self.asked))
            self.asked.append(asked)
        return asked

    def serve(self, prefix: str, directory: Any) -> None:
        """Serve the files of a directory under a path."""
        for path in sorted(directory.rglob("*")):
            if path.is_file():
                self.files[f"{prefix}/{path.relative_to(directory).as_posix()}"] = path.read_bytes()

    def reset(self) -> None:
        """Go right again, and forget what was asked."""
        self.trouble = lambda _: None
        self.token = ""
        self.asked.clear()

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()


def etag_of(content: bytes) -> str:
    """Return the ETag of a file."""
    return f'"{hashlib.sha256(content).hexdigest()[:16]}"'


def _span(text: str) -> tuple[int, int] | None:
    match = re.fullmatch(r"bytes=(\d+)-(\d+)", text)
    return (int(match[1]), int(match[2]) + 1) if match else None


def _stored_path(path: str) -> str:
    """Return where a file of the hub is kept: `/org/name/resolve/COMMIT/file` is `/hub/org/name/file`."""
    match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
    return f"/hub/{match[1]}/{match[2]}" if match else path


def listing(files: dict[str, bytes], path: str, query: dict[str, list[str]]) -> bytes:
    """List a bucket, a thousand names a page, as S3 and Google do."""
    bucket, prefix = path.rstrip("/"), query.get("prefix", [""])[0]
    after = query.get("continuation-token", [""])[0]
    names = sorted(name.removeprefix(f"{bucket}/") for name in files if name.startswith(f"{bucket}/{prefix}"))
    rest = [name for name in names if name > after]
    page = rest[:1000]
    rows = "".join(
        f"<Contents><Key>{escape(name)}</Key><Size>{len(files[f'{bucket}/{name}'])}</Size>"
        f"<LastModified>2026-01-01T00:00:00Z</LastModified>"
        f"<ETag>{escape(etag_of(files[f'{bucket}/{name}']))}</ETag></Contents>"
        for name in page
    )
    more = len(rest) > len(page)
    token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><Name>{bucket[1:]}</Name><Prefix>{escape(prefix)}'
        f"</Prefix><KeyCount>{len(page)}</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>{str(more).lower()}"
        f"</IsTruncated>{token}{rows}</ListBucketResult>"
    ).encode()


@contextlib.contextmanager
def loopback(secured: ssl.SSLContext | None = None) -> Iterator[Loopback]:
    """Run a server while the block runs."""
    server = Loopback(secured)
    try:
        yield server
    finally:
        server.close()
