"""Stand-ins for three object stores that are written to: S3, Google's and Azure's, as their clients speak to them.

What is sent part by part appears when its list of parts does, and not before. Conditions are kept: an object is put
where there is none, or in the place of one version. The lists of Azure leave the quotes of ETags out, as they do there.
Nobody's signature is looked at.
"""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from typing import Final, NamedTuple
from urllib.parse import unquote
from uuid import uuid4
from xml.sax.saxutils import escape, unescape

from loopback import Asked, Handler, Loopback, Wrong, etag_of

GOOGLE: Final = "/google"
AZURE: Final = "/azure/devstoreaccount1"
BUCKET: Final = "bucket"
ROOTS: Final = {"s3": f"/{BUCKET}", "gs": f"{GOOGLE}/{BUCKET}", "az": f"{AZURE}/{BUCKET}"}
"""Where the server keeps what lies in the bucket of this name, by the scheme of its address."""

LEAST_PART_BYTES: Final = 5 * 2**20
"""S3 and Google take no part below this size but the last."""

DATE: Final = formatdate(1_800_000_000, usegmt=True)


class Reply(NamedTuple):
    """What a store says."""

    status: int
    content: bytes = b""
    head: dict[str, str] | None = None


class StoreHandler(Handler):
    """Answers one connection, and does what it is asked to."""

    there: LoopbackStores

    def give(self, asked: Asked, wrong: Wrong, query: dict[str, list[str]]) -> None:
        """Answer a request; one that changes something may go wrong before that is done, or after it."""
        if asked.method in ("GET", "HEAD"):
            self._give_listed(asked, wrong, query)
            return
        size_bytes = int(asked.headers.get("content-length", "0"))
        fails = wrong.status or wrong.sent is not None
        if wrong.sent is not None and not wrong.is_done:
            self.rfile.read(int(size_bytes * wrong.sent))
            self.hang_up()
            return
        body = self.rfile.read(size_bytes)
        reply = self.there.change(asked, query, body) if wrong.is_done or not fails else Reply(wrong.status, wrong.body)
        if wrong.sent is not None:
            self.hang_up()
        elif wrong.status:
            self.send(wrong.status, wrong.body)
        else:
            self.send(*reply)

    def _give_listed(self, asked: Asked, wrong: Wrong, query: dict[str, list[str]]) -> None:
        is_listing = "list-type" in query or query.get("comp") == ["list"]
        if is_listing and not wrong.status and asked.path.rstrip("/") not in ROOTS.values():
            self.send(404, b"<Code>NoSuchBucket</Code>")
        elif query.get("comp") == ["list"] and not wrong.status:
            text = _blobs(self.there, asked.path.rstrip("/"), query)
            self.send(200, text, {"Content-Type": "application/xml"}, cut=wrong.sent)
        else:
            super().give(asked, wrong, query)


class LoopbackStores(Loopback):
    """A server that is three stores at once, and whatever `Loopback` is.

    Args:
        least_part_bytes: The least size of a part but the last.
    """

    handler = StoreHandler

    def __init__(self, least_part_bytes: int = LEAST_PART_BYTES) -> None:
        self.least_part_bytes = least_part_bytes
        self.uploads: dict[str, tuple[str, dict[str, bytes]]] = {}
        self._generations: dict[str, int] = {}
        self._writes = 0
        self._changing = threading.RLock()
        super().__init__()

    def etag(self, path: str) -> str:
        """Return an object's ETag: of its bytes, but in Azure's store, where each write has one of its own."""
        return f'"0x8D{self._generations.get(path, 0):013X}"' if path.startswith(AZURE) else etag_of(self.files[path])

    def head(self, path: str) -> dict[str, str]:
        """Return when an object was made, and in Google's store its generation."""
        made = {"Last-Modified": DATE}
        return {**made, "x-goog-generation": self._generation(path)} if path.startswith(GOOGLE) else made

    def objects(self, scheme: str, prefix: str) -> dict[str, bytes]:
        """Return what lies under a prefix of the bucket, by its name there."""
        root = f"{ROOTS[scheme]}/{prefix}/"
        return {path.removeprefix(root): content for path, content in dict(self.files).items() if path.startswith(root)}

    def change(self, asked: Asked, query: dict[str, list[str]], body: bytes) -> Reply:
        """Do what is asked: put, take away, or a step of an upload."""
        with self._changing:
            if not any(f"{asked.path}/".startswith(f"{root}/") for root in ROOTS.values()):
                return Reply(404, b"<Code>NoSuchBucket</Code>")
            if asked.path.startswith(AZURE):
                return self._change_blob(asked, query, body)
            return self._change_object(asked, query, body)

    def _change_object(self, asked: Asked, query: dict[str, list[str]], body: bytes) -> Reply:
        upload = query.get("uploadId", [""])[0]
        if asked.method == "POST" and "delete" in query:
            names = [unescape(name) for name in re.findall("<Key>(.*?)</Key>", body.decode())]
            gone = "".join(f"<Deleted><Key>{escape(name)}</Key></Deleted>" for name in names)
            for name in names:
                self.files.pop(f"{asked.path.rstrip('/')}/{name}", None)
            return Reply(200, f"<DeleteResult>{gone}</DeleteResult>".encode())
        if asked.method == "POST" and "uploads" in query:
            upload = uuid4().hex
            self.uploads[upload] = asked.path, {}
            text = f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            return Reply(200, text.encode())
        if upload and upload not in self.uploads:
            return Reply(404, b"<Code>NoSuchUpload</Code>")
        if asked.method == "DELETE":
            was_there = self.uploads.pop(upload) if upload else self.files.pop(asked.path, None)
            return Reply(204 if was_there is not None or not asked.path.startswith(GOOGLE) else 404)
        if upload and asked.method == "PUT":
            self.uploads[upload][1][query["partNumber"][0]] = body
            return Reply(200, b"", {"ETag": etag_of(body)})
        if upload:
            return self._complete(asked.path, upload, body.decode())
        return self._put(asked, body)

    def _complete(self, path: str, upload: str, listed: str) -> Reply:
        """Make an object of the parts that are listed, each by its number and its ETag."""
        parts = self.uploads[upload][1]
        numbers = re.findall("<PartNumber>(.*?)</PartNumber>", listed)
        etags = [unescape(etag, {"&quot;": '"'}) for etag in re.findall("<ETag>(.*?)</ETag>", listed)]
        if [etag_of(parts[number]) if number in parts else "" for number in numbers] != etags:
            return Reply(400, b"<Code>InvalidPart</Code>")
        if any(len(parts[number]) < self.least_part_bytes for number in numbers[:-1]):
            return Reply(400, b"<Code>EntityTooSmall</Code>")
        del self.uploads[upload]
        self._write(path, b"".join(parts[number] for number in numbers))
        etag = escape(self.etag(path), {'"': "&quot;"})
        text = f"<CompleteMultipartUploadResult><ETag>{etag}</ETag></CompleteMultipartUploadResult>"
        return Reply(200, text.encode(), self.head(path))

    def _put(self, asked: Asked, body: bytes) -> Reply:
        """Put an object, if the conditions are met."""
        path, there = asked.path, asked.path in self.files
        generation, etag = asked.headers.get("x-goog-if-generation-match"), asked.headers.get("if-match")
        if asked.headers.get("if-none-match") == "*" and there:
            return Reply(409 if path.startswith(AZURE) else 412, b"it is there")
        if generation is not None and generation != (self._generation(path) if there else "0"):
            return Reply(412, b"another generation")
        if etag is not None and (not there or etag != self.etag(path)):
            return Reply(412 if there else 404, b"another version")
        self._write(path, body)
        status = 201 if path.startswith(AZURE) else 200
        return Reply(status, b"", {"ETag": self.etag(path), **self.head(path)})

    def _change_blob(self, asked: Asked, query: dict[str, list[str]], body: bytes) -> Reply:
        step = query.get("comp", [""])[0]
        if step == "batch":
            return self._delete_batch(asked.headers["content-type"].partition("boundary=")[2], body.decode())
        if step == "block":
            self.uploads.setdefault(asked.path, (asked.path, {}))[1][query["blockid"][0]] = body
            return Reply(201)
        if step == "blocklist":
            blocks = self.uploads.get(asked.path, ("", {}))[1]
            listed = re.findall("<Uncommitted>(.*?)</Uncommitted>", body.decode())
            if any(block not in blocks for block in listed):
                return Reply(400, b"<Code>InvalidBlockList</Code>")
            del self.uploads[asked.path]
            self._write(asked.path, b"".join(blocks[block] for block in listed))
            return Reply(201, b"", {"ETag": self.etag(asked.path), **self.head(asked.path)})
        if asked.headers.get("x-ms-blob-type") != "BlockBlob":
            return Reply(400, b"<Code>MissingRequiredHeader</Code>")
        return self._put(asked, body)

    def _delete_batch(self, boundary: str, body: str) -> Reply:
        """Take away each blob that one of several requests in one body names."""
        answers = []
        for number, name in enumerate(re.findall(r"DELETE (\S+) HTTP", body)):
            was_there = self.files.pop(unquote(name), None) is not None
            status = "202 Accepted" if was_there else "404 Not Found"
            answers.append(
                f"--{boundary}\r\nContent-Type: application/http\r\nContent-ID: {number}\r\n\r\n"
                f"HTTP/1.1 {status}\r\nServer: loopback\r\n\r\n"
            )
        head = {"Content-Type": f"multipart/mixed; boundary={boundary}"}
        return Reply(202, f"{''.join(answers)}--{boundary}--\r\n".encode(), head)

    def _write(self, path: str, content: bytes) -> None:
        self._writes += 1
        self.files[path] = content
        self._generations[path] = self._writes

    def _generation(self, path: str) -> str:
        return str(1_700_000_000_000_000 + self._generations.get(path, 0))


def _blobs(there: LoopbackStores, container: str, query: dict[str, list[str]]) -> bytes:
    """List a container, a thousand names a page, as Azure's store does."""
    prefix, after = query.get("prefix", [""])[0], query.get("marker", [""])[0]
    files = dict(there.files)
    names = sorted(path.removeprefix(f"{container}/") for path in files if path.startswith(f"{container}/{prefix}"))
    rest = [name for name in names if name > after]
    rows = "".join(
        f"<Blob><Name>{escape(name)}</Name><Properties><Last-Modified>{DATE}</Last-Modified>"
        f"<Etag>{there.etag(f'{container}/{name}').strip(chr(34))}</Etag>"
        f"<Content-Length>{len(files[f'{container}/{name}'])}</Content-Length>"
        f"<Content-Type>application/octet-stream</Content-Type></Properties></Blob>"
        for name in rest[:1000]
    )
    marker = rest[999] if len(rest) > 1000 else ""
    return (
        f'<?xml version="1.0" encoding="utf-8"?><EnumerationResults><Prefix>{escape(prefix)}</Prefix>'
        f"<Blobs>{rows}</Blobs><NextMarker>{escape(marker)}</NextMarker></EnumerationResults>"
    ).encode()


@contextmanager
def loopback_stores(least_part_bytes: int = LEAST_PART_BYTES) -> Iterator[LoopbackStores]:
    """Run the server while the block runs."""
    server = LoopbackStores(least_part_bytes)
    try:
        yield server
    finally:
        server.close()


def settings_of(server: Loopback) -> dict[str, str]:
    """Return the variables, secrets among them, that lead the clients of all three stores to the server."""
    key = base64.b64encode(b"SECRETKEY").decode()
    return {
        "AWS_ENDPOINT_URL": server.url,
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "SECRETKEY",
        "AWS_REGION": "us-east-1",
        "GOOGLE_BASE_URL": f"{server.url}{GOOGLE}",
        "GOOGLE_BEARER_TOKEN": "SECRETTOKEN",
        "AZURE_STORAGE_USE_EMULATOR": "true",
        "AZURITE_BLOB_STORAGE_URL": f"{server.url}/azure",
        "AZURE_STORAGE_ACCOUNT_KEY": key,
    }
