"""A prefix of an object store that is being written: a record first, then weights, other files, index, receipt last.

A store has no directory that could be moved into its place. So the first object is a record, which is created where
there is none and by nobody else; whoever finds it in a folder knows that this is not finished. It goes when all else is
there. Each object appears whole or not at all. A run that fails takes away what it has put, or leaves it to one that
goes on: the record names the objects that are there, by their ETags, and is written anew only by the run that wrote
it last.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Any, Final
from uuid import uuid4

from weighbridge.base.errors import CheckpointError, DestinationError
from weighbridge.base.file_names import RECEIPT_NAME, RECORD_NAME, check_new_name
from weighbridge.base.file_sets import FileImage
from weighbridge.base.json_text import JsonError, join_keys, parse_json
from weighbridge.storage.outputs.store_sink import PART_BYTES, StoreSink
from weighbridge.storage.outputs.unfinished import Work
from weighbridge.storage.protocol import IndexText
from weighbridge.storage.remote.addresses import STORES, Address, is_elsewhere, read_address
from weighbridge.storage.remote.client_faults import writing_error_for
from weighbridge.storage.remote.clients import Client, FaultError, connect, is_same
from weighbridge.storage.remote.sending import Version, delete, find, list_versions, put_parts, put_whole, read_whole

_LOG: Final = logging.getLogger(__name__)


class StoreFolder:
    """A prefix that is being written.

    Args:
        address: Where.
        client: Who moves the bytes.
        work: What is going to be written.
    """

    def __init__(self, address: Address, client: Client, work: Work) -> None:
        self.address = address
        self.client = client
        self.work = work
        self.done: dict[str, str] = {}
        self._before: Mapping[str, str] = {}
        self._begun: set[str] = set()
        self._record_version: Version | None = None
        self._run = uuid4().hex
        self._lock = Lock()

    def start(self, *, resume: bool) -> None:
        """Write the record where nothing is; or go on with what an earlier run of the same work left.

        Raises:
            DestinationError: `destination-exists`, `destination-unfinished`, `destination-busy`, `resume-mismatch`,
                `remote-denied`, `write-failed`.
        """
        with self._reporting():
            self._before = there = list_versions(self.client)
        if RECORD_NAME in there:
            self._go_on(there, resume=resume)
        elif there:
            expected, got = "nothing under this address", join_keys(sorted(there))
            what = "something is there already"
            raise DestinationError("destination-exists", what, where=self.address.text, expected=expected, got=got)
        self._write_record()

    def _go_on(self, there: Mapping[str, str], *, resume: bool) -> None:
        if not resume:
            what = "an earlier run was stopped before its end, or is still writing here"
            hint = "go on with it (resume=True, --resume), or remove what lies under this address"
            raise DestinationError("destination-unfinished", what, where=self.address.text, hint=hint)
        with self._reporting():
            raw, self._record_version = read_whole(self.client, RECORD_NAME)
        try:
            form: Any = parse_json(raw)
            done: Any = form.pop("done")
            del form["run"]
        except (ValueError, AttributeError, KeyError, TypeError):
            form, done = None, {}
        if form != json.loads(self.work.record()) or not isinstance(done, dict):
            what, hint = "what was left here is of another run", "remove it, or run that one again"
            raise DestinationError("resume-mismatch", what, where=self.address.text, hint=hint)
        self.done = {name: said for name, said in done.items() if name in there and is_same(there[name], str(said))}
        _LOG.info("going on with %s: %d files are there", self.address.text, len(self.done))

    def _write_record(self) -> None:
        """Write the record, if nobody else has written it since."""
        form = {**json.loads(self.work.record()), "done": self.done, "run": self._run}
        with self._reporting():
            text = json.dumps(form).encode()
            try:
                self._record_version = put_whole(self.client, RECORD_NAME, text, replacing=self._record_version)
            except FaultError as problem:
                if problem.fault.kind not in ("exists", "changed"):
                    raise
                what, hint = "another run is writing here", "wait for its end"
                raise DestinationError("destination-busy", what, where=self.address.text, hint=hint) from None

    def create(self, image: FileImage) -> StoreSink:
        """Create an object from its image; the caller fills it in and closes it.

        Raises:
            CheckpointError: `path-unsafe`.
        """
        check_new_name(image.name, self.address.text)
        where = f"{self.address.text}/{image.name}"

        def put(parts: Iterator[memoryview], part_bytes: int) -> None:
            self._begun.add(image.name)
            try:
                if image.size_bytes <= PART_BYTES:
                    version = put_whole(self.client, image.name, b"".join(parts), is_ours=True)
                else:
                    version = self._put_parts(image, parts, part_bytes)
            except FaultError as problem:
                raise writing_error_for(problem.fault, where) from None
            with self._lock:
                self.done[image.name] = version.etag
                if image.head:
                    self._write_record()

        return StoreSink(where, put, image.head, image.size_bytes)

    def _put_parts(self, image: FileImage, parts: Iterator[memoryview], part_bytes: int) -> Version:
        """Put a long object; an upload that is there no more has become one, if there was none of its name before."""
        try:
            return put_parts(self.client, image.name, parts, part_bytes)
        except FaultError as problem:
            is_new = problem.fault.kind == "absent" and image.name not in self._before
            found = find(self.client, image.name) if is_new else None
            if found is None or found[0] != image.size_bytes:
                raise
            return found[1]

    def is_done(self, image: FileImage) -> bool:
        """Tell whether an earlier run has put an object, which is still what it was."""
        return image.name in self.done

    def add_index(self, index: IndexText) -> None:
        """Put the index, from which on other readers find the weights.

        Raises:
            DestinationError: `write-failed`, `remote-denied`.
        """
        self._put(index.name, index.text)

    def add_receipt(self, receipt: bytes) -> None:
        """Put the receipt.

        Raises:
            DestinationError: `write-failed`, `remote-denied`.
        """
        self._put(RECEIPT_NAME, receipt)

    def _put(self, name: str, content: bytes) -> None:
        self._begun.add(name)
        with self._reporting():
            self.done[name] = put_whole(self.client, name, content, is_ours=True).etag

    def finish(self) -> None:
        """Take the record away: all is there."""
        with self._reporting():
            delete(self.client, [RECORD_NAME])

    def remove(self) -> None:
        """Take away what this run has put, or may have put, the record last; not where another run has gone on."""
        with suppress(FaultError, JsonError):
            if self._has_own_record():
                delete(self.client, sorted(self._begun))
                delete(self.client, [RECORD_NAME])

    def _has_own_record(self) -> bool:
        record: Any = parse_json(read_whole(self.client, RECORD_NAME)[0])
        return isinstance(record, dict) and record.get("run") == self._run

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except FaultError as problem:
            raise writing_error_for(problem.fault, self.address.text) from None
        except CheckpointError as problem:
            if problem.code != "checkpoint-ambiguous":
                raise
            what = "something is there already"
            raise DestinationError("destination-exists", what, where=self.address.text, got=problem.what) from None


def read_destination(destination: str, sources: list[str]) -> Address:
    """Split the address of a new folder in a store.

    Args:
        destination: The address.
        sources: Addresses of what is read.

    Raises:
        DestinationError: `usage` for what is no store, or the name of a file; `destination-unsafe` for the source.
    """
    address = read_address(destination)
    if address.scheme not in STORES:
        expected = ", ".join(f"{scheme}://" for scheme in STORES)
        what, hint = "this is read, and not written", "write to a store, or to a directory here, and upload that"
        raise DestinationError("usage", what, where=address.text, expected=expected, hint=hint)
    if address.file_name:
        what, hint = "a folder is made here, and this is the name of a file", "name a folder"
        raise DestinationError("usage", what, where=address.text, hint=hint)
    for source in sources:
        folder = read_address(source).folder if is_elsewhere(source) else ""
        if f"{address.text}/".startswith(f"{folder}/") or f"{folder}/".startswith(f"{address.text}/"):
            what = "the destination is the source, or one lies inside the other"
            raise DestinationError("destination-unsafe", what, where=address.text, got=folder)
    return address


@contextmanager
def staged_folder(address: Address, work: Work, *, resume: bool) -> Iterator[StoreFolder]:
    """Write a folder of a store, which is finished when the block ends.

    Args:
        address: Where; see `read_destination`.
        work: What is going to be written.
        resume: Go on with what an earlier run left, and leave what there is if this one does not end.

    Raises:
        DestinationError: `destination-exists`, `destination-unfinished`, `destination-busy`, `resume-mismatch`,
            `remote-denied`, `write-failed`.
    """
    folder = StoreFolder(address, connect(address, is_written=True), work)
    folder.start(resume=resume)
    try:
        yield folder
        folder.finish()
    except BaseException:
        if not resume:
            folder.remove()
        raise
