"""Serve the files of a directory on this machine as an object store: by ranges, as lists, and written part by part.

    python -m bench.ranges_server DIRECTORY DELAY_SECONDS

prints its address and serves until its input ends. What is sent goes from the page cache to the socket by the kernel,
so that little of what is measured is the server's. Each answer begins after the delay, as one from far away does.
"""

from __future__ import annotations

import os
import re
import shutil
import socketserver
import sys
import threading
import time
import uuid
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

BUCKET = "bucket"


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 256

    def __init__(self, directory: Path, delay_s: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.directory = directory
        self.delay_s = delay_s

    def handle_error(self, *_: object) -> None:
        """Say nothing of connections that a killed client has left."""


class _Handler(socketserver.StreamRequestHandler):
    server: _Server
    disable_nagle_algorithm = True

    def handle(self) -> None:
        """Answer the requests of one connection."""
        while line := self.rfile.readline():
            head = b""
            while (row := self.rfile.readline()) not in (b"\r\n", b""):
                head += row
            method, target, _ = line.decode().split()
            time.sleep(self.server.delay_s)
            length = re.search(r"(?im)^content-length: *(\d+)", head.decode())
            content = self.rfile.read(int(length[1])) if length else b""
            url = urlsplit(target)
            path = self.server.directory / unquote(url.path).removeprefix(f"/{BUCKET}").lstrip("/")
            query = parse_qs(url.query, keep_blank_values=True)
            if method in ("GET", "HEAD"):
                self._give(method, path, query, head.decode())
            else:
                self._take(method, path, query, content, head.decode())

    def _take(self, method: str, path: Path, query: dict[str, list[str]], content: bytes, head: str) -> None:
        """Do what writes: whole objects, parts of uploads, and their ends."""
        upload = query.get("uploadId", [""])[0]
        hidden = self.server.directory / ".uploads" / upload
        if method == "DELETE":
            path.unlink(missing_ok=True) if not upload else shutil.rmtree(hidden, ignore_errors=True)
            self._send("204 No Content", b"", method)
        elif "delete" in query:
            names = re.findall("<Key>([^<]*)</Key>", content.decode())
            for name in names:
                (self.server.directory / name).unlink(missing_ok=True)
            rows = "".join(f"<Deleted><Key>{name}</Key></Deleted>" for name in names)
            self._send("200 OK", f"<DeleteResult>{rows}</DeleteResult>".encode(), method)
        elif "uploads" in query:
            name = uuid.uuid4().hex
            (self.server.directory / ".uploads" / name).mkdir(parents=True)
            text = f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId></InitiateMultipartUploadResult>"
            self._send("200 OK", text.encode(), method)
        elif "partNumber" in query:
            (hidden / f"{int(query['partNumber'][0]):05}").write_bytes(content)
            self._send("200 OK", b"", method, etag='"part"')
        elif upload:
            self._join(hidden, path)
            text = f"<CompleteMultipartUploadResult><ETag>{_etag(path)}</ETag></CompleteMultipartUploadResult>"
            self._send("200 OK", text.encode(), method)
        elif path.exists() and re.search(r"(?im)^if-none-match: *\*", head):
            self._send("412 Precondition Failed", b"", method)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            self._send("200 OK", b"", method, etag=_etag(path))

    def _join(self, hidden: Path, path: Path) -> None:
        """Make one object of the parts of an upload."""
        path.parent.mkdir(parents=True, exist_ok=True)
        first, *others = sorted(hidden.iterdir())
        with first.open("ab") as whole:
            for part in others:
                with part.open("rb") as stream:
                    shutil.copyfileobj(stream, whole, 2**20)
                part.unlink()
        first.replace(path)
        hidden.rmdir()

    def _give(self, method: str, file: Path, query: dict[str, list[str]], head: str) -> None:
        """Send a list, or a file or a range of one."""
        if "list-type" in query:
            self._send("200 OK", self._listing(query.get("prefix", [""])[0]), method)
            return
        if not file.is_file():
            self._send("404 Not Found", b"", method)
            return
        size_bytes = file.stat().st_size
        match = re.search(r"(?im)^range: *bytes=(\d+)-(\d+)", head)
        start, stop = (int(match[1]), min(int(match[2]) + 1, size_bytes)) if match else (0, size_bytes)
        span = f"Content-Range: bytes {start}-{stop - 1}/{size_bytes}\r\n" if match else ""
        status = "206 Partial Content" if match else "200 OK"
        self.wfile.write(
            f"HTTP/1.1 {status}\r\nETag: {_etag(file)}\r\n{span}Content-Length: {stop - start}\r\n\r\n".encode()
        )
        self.wfile.flush()
        with file.open("rb") as stream:
            while method != "HEAD" and start < stop:
                start += os.sendfile(self.connection.fileno(), stream.fileno(), start, stop - start)

    def _send(self, status: str, content: bytes, method: str, *, etag: str = "") -> None:
        named = f"ETag: {etag}\r\n" if etag else ""
        self.wfile.write(f"HTTP/1.1 {status}\r\n{named}Content-Length: {len(content)}\r\n\r\n".encode())
        self.wfile.write(content if method != "HEAD" else b"")

    def _listing(self, prefix: str) -> bytes:
        found = sorted(self.server.directory.rglob("*"))
        files = [path for path in found if path.is_file() and ".uploads" not in path.parts]
        names = {path.relative_to(self.server.directory).as_posix(): path for path in files}
        rows = "".join(
            f"<Contents><Key>{name}</Key><Size>{path.stat().st_size}</Size><ETag>{_etag(path)}</ETag>"
            "<LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"
            for name, path in names.items()
            if name.startswith(prefix)
        )
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>".encode()


def _etag(path: Path) -> str:
    status = path.stat()
    return f'"{status.st_size:x}-{status.st_mtime_ns:x}"'


def main(directory: str, delay_s: str) -> None:
    """Serve until the input ends."""
    with _Server(Path(directory), float(delay_s)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
        sys.stdin.read()
        server.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
