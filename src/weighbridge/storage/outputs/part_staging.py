"""One new directory that several processes fill, on one machine or many, without a word to each other but by files.

    .NAME.weighbridge-parts/
      output/        the files; the first bytes of weight files are zero until the end
      3.json         what part 3 is going to write, and once it has: what it wrote
      3.lock         held by the process that writes part 3
      finish.lock    held by the one that writes what belongs to no part, and publishes

      {"format": "weighbridge-part", "version": 1, "run": what all parts must say alike, by name,
       "done": {"files": [[name, size_bytes]], "linked": [name], "digests": {key: SHA-256}}; null until then}

Each part writes down its run before it writes anything else, and compares it with what the others wrote down: of two
that disagree, the later one sees it. Nobody waits for anybody. Whoever has written that it is done looks for the
others; the last one to write it finds them all. A part that died is run again: it goes on with its own files, of which
it compares every byte. The locks keep out a second process of the same number; where there are none, as `claiming` has
it, the file of a part that died must be removed by hand.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from weighbridge.base.errors import CheckpointError, DestinationError, WeighbridgeError
from weighbridge.base.file_sets import FileImage
from weighbridge.base.forms.json_forms import table
from weighbridge.base.hashes import sha256_of
from weighbridge.base.json_text import parse_json
from weighbridge.base.keys import counted
from weighbridge.base.process.part_numbers import PartNumber
from weighbridge.storage.outputs.adopting import adopt_access
from weighbridge.storage.outputs.claiming import holding, partial_path, parts_path
from weighbridge.storage.outputs.destination import OutputDirectory, make_parents
from weighbridge.storage.outputs.file_writer import reporting_write_errors, sync_directory, unseal, write_file
from weighbridge.storage.outputs.output_names import check_apart
from weighbridge.storage.outputs.sinks import FileOptions
from weighbridge.storage.outputs.unfinished import (
    Work,
    allocated_bytes,
    check_owner,
    choose_left,
    is_laid_out,
    list_known,
    mismatch,
)
from weighbridge.storage.outputs.vacancy import check_absent, check_destination, publish_directory
from weighbridge.storage.places.regular_files import read_small_file

_LOG: Final = logging.getLogger(__name__)

PART_FORMAT: Final = "weighbridge-part"
PART_VERSION: Final = 1
_MAX_RECORD_BYTES: Final = 200_000_000
_OUTPUT: Final = "output"
_RECORD: Final = re.compile(r"(\d{1,9})\.json", re.ASCII)
_SAID: Final = {
    "parts": "number of parts",
    "weighbridge": "version of weighbridge",
    "mapping": "mapping",
    "plan_hash": "plan",
    "where": "place of the source",
    "source": "files of the source",
    "files": "weight files",
    "others": "files beside the weights",
    "receipt_sha256": "receipt",
    "digests": "digests",
    "link": "link",
    "sync": "waits for the disk",
}
"""What all parts must say alike, and what it is called."""


class Done(NamedTuple):
    """What a part has written.

    Args:
        files: Its files, each with its size in bytes; those that are to be links, too.
        linked: Those of them that are to be links to files of the source, made by whoever publishes.
        digests: Digests of its tensors by key, if they are asked for.
    """

    files: Sequence[tuple[str, int]] = ()
    linked: Sequence[str] = ()
    digests: Mapping[str, str] = MappingProxyType({})

    @staticmethod
    def from_dict(form: object) -> Done:
        """Read the JSON form.

        Raises:
            KeyError, TypeError, ValueError: If it is none.
        """
        parts = table(form)
        files = [(str(name), int(size_bytes)) for name, size_bytes in parts["files"]]
        return Done(files, [str(name) for name in parts["linked"]], dict(table(parts["digests"])))


class PartRecord(NamedTuple):
    """What a part has written down.

    Args:
        run: What all parts must say alike, by name.
        done: What it has written; None until it has.
    """

    run: Mapping[str, Any]
    done: Done | None = None

    def to_bytes(self) -> bytes:
        """Return the JSON form as text."""
        done = None if self.done is None else {**self.done._asdict(), "digests": dict(self.done.digests)}
        form = {"format": PART_FORMAT, "version": PART_VERSION, "run": self.run, "done": done}
        return json.dumps(form).encode() + b"\n"


class PartStaging:
    """A directory that several processes fill, as one of them has it.

    Args:
        target: Where the output will stand.
        part: Which of the processes this one is.
        run: What all of them must say alike, by the names of `_SAID`.
        work: All that is to be written.
        options: How files are written.
    """

    def __init__(
        self, target: Path, part: PartNumber, run: Mapping[str, Any], work: Work, options: FileOptions
    ) -> None:
        self.target = target.absolute()
        self.part = part
        # As JSON has it, which knows no tuples.
        self.run = json.loads(json.dumps(run))
        self.work = work
        self.hidden = parts_path(self.target)
        self.output = self.hidden / _OUTPUT
        self._options = options

    def was_published(self) -> bool:
        """Tell whether the output stands there already, and a process was killed before it removed what is hidden.

        That is removed now.

        Raises:
            DestinationError: `resume-mismatch` for a record that cannot be read.
        """
        own = self._records().get(self.part.number)
        is_over = own is not None and own.done is not None and own.run == self.run
        if not is_over or self.output.exists() or not self.target.exists():
            return False
        shutil.rmtree(self.hidden, ignore_errors=True)
        return True

    def is_laid_out(self) -> bool:
        """Tell whether all files stand at the target, the weight files of the sizes and with the heads that they get.

        Raises:
            CheckpointError: `read-failed`.
        """
        is_there = all((self.target / name).is_file() for name in self.work.names)
        return is_there and all(is_laid_out(self.target / image.name, image) for image in self.work.images)

    @contextmanager
    def joining(self, sources: Iterable[Path | str], needed_bytes: int) -> Iterator[bool]:
        """Take part in the run during the block.

        Args:
            sources: Files and directories that are read; the destination must not touch them.
            needed_bytes: How much all parts will write.

        Yields:
            Whether this part is done already.

        Raises:
            DestinationError: `ranks-disagree`, before anything is written; `destination-busy` where another process
                has the same number; `destination-exists`, `destination-unsafe`, `destination-no-room`,
                `destination-unfinished`, `resume-mismatch`, `write-failed`.
        """
        check_destination(self.target, sources, needed_bytes - allocated_bytes(self.hidden))
        made: list[Path] = []
        try:
            with reporting_write_errors(str(self.target)):
                make_parents(self.target.parent, made)
                self._refuse_partial()
                self.hidden.mkdir(exist_ok=True)
                check_owner(self.hidden)
            with holding(self.hidden / f"{self.part.number}.lock"):
                self._agree()
                with self._saying_what_is_kept():
                    yield self.part.number in self._done_parts()
        finally:
            # Only what is empty goes: where nothing was begun, or all is published.
            for folder in (self.hidden, *reversed(made)):
                with suppress(OSError):
                    folder.rmdir()

    def _refuse_partial(self) -> None:
        hidden = partial_path(self.target)
        if hidden.exists():
            raise DestinationError(
                "destination-unfinished",
                "a process that does not share this output is writing it, or was stopped before its end",
                where=str(hidden),
                hint="wait until it is done, or remove this directory to start anew",
            )

    def _agree(self) -> None:
        """Compare this part with the others, and write it down; nothing of the output has been touched by then."""
        there = self._records()
        self._check_agree(there)
        # Whoever publishes removes the records after that: who does not find them has to look at the target.
        check_absent(self.target)
        if self.part.number in there:
            return
        with reporting_write_errors(str(self.hidden)):
            adopt_access(self.hidden, self.target)
        self._write(PartRecord(self.run))
        try:
            self._check_agree(self._records())
            check_apart(self.work.names, self._record_path, str(self.target))
        except BaseException:
            self._record_path.unlink()
            raise

    def begin(self, images: Iterable[FileImage]) -> OutputDirectory:
        """Return the directory, to make the files of this part in it, or to go on with those that it left.

        Raises:
            DestinationError: `resume-mismatch`, `write-failed`.
        """
        left = choose_left(self.output, (image.name for image in images))
        for name in left:
            unseal(self.output / name)
        return OutputDirectory(self.output, self.target, left, self._options)

    def finish(self, done: Done) -> None:
        """Write down what this part has written.

        Raises:
            DestinationError: `destination-no-room`, `write-failed`.
        """
        self._write(PartRecord(self.run, done))

    @contextmanager
    def publishing(self) -> Iterator[tuple[OutputDirectory, list[Done]] | None]:
        """Let this process alone write what belongs to no part; the output appears when the block ends.

        Yields:
            The directory, and what the parts have written, in their order; None where one of them is not done, or
            another process does it.

        Raises:
            DestinationError: `destination-exists`, `resume-mismatch`, `write-failed`.
        """
        with ExitStack() as stack:
            is_last = self._is_whole() and self._takes_turn(stack) and self._is_whole()
            if not is_last:
                yield None
                return
            parts = self._done_parts()
            output = self._take_all(parts.values())
            yield output, [parts[number] for number in sorted(parts)]
            output.finish()
            publish_directory(self.output, self.target, sync=self._options.sync)
        shutil.rmtree(self.hidden, ignore_errors=True)

    def _is_whole(self) -> bool:
        return self._done_parts().keys() == set(range(self.part.parts))

    def _takes_turn(self, stack: ExitStack) -> bool:
        try:
            stack.enter_context(holding(self.hidden / "finish.lock"))
        except DestinationError as problem:
            if problem.code not in ("destination-busy", "destination-unfinished"):
                raise
            _LOG.info("another process writes the rest: %s", problem.where)
            return False
        return True

    def _take_all(self, parts: Iterable[Done]) -> OutputDirectory:
        with reporting_write_errors(str(self.output)):
            self.output.mkdir(exist_ok=True)
        output = OutputDirectory(self.output, self.target, list_known(self.output, self.work), self._options)
        linked = {name for done in parts for name in done.linked}
        output.take(image for image in self.work.images if image.name not in linked)
        return output

    # ---- what the parts have written down ----

    @property
    def _record_path(self) -> Path:
        return self.hidden / f"{self.part.number}.json"

    def _write(self, record: PartRecord) -> None:
        new = self._record_path.with_suffix(".new")
        with reporting_write_errors(str(self._record_path)):
            new.unlink(missing_ok=True)
            write_file(new, record.to_bytes())
            new.replace(self._record_path)
        try:
            sync_directory(self.hidden)
        except DestinationError:
            if self.hidden.exists():
                raise  # else another process has seen the last record there is to be, and has published

    def _records(self) -> dict[int, PartRecord]:
        """Read what all parts have written down, by their numbers."""
        names: list[str] = []
        with reporting_write_errors(str(self.hidden)), suppress(FileNotFoundError):
            names = sorted(path.name for path in self.hidden.iterdir())
        found = {int(match[1]): self.hidden / name for name in names if (match := _RECORD.fullmatch(name))}
        read = {number: _read_record(path) for number, path in found.items()}
        return {number: record for number, record in read.items() if record is not None}

    def _done_parts(self) -> dict[int, Done]:
        """Return what the parts have written whose files are all there."""
        records = self._records()
        return {number: record.done for number, record in records.items() if record.done and self._fits(record.done)}

    def _fits(self, done: Done) -> bool:
        try:
            own = [(name, size_bytes) for name, size_bytes in done.files if name not in done.linked]
            return all((self.output / name).lstat().st_size == size_bytes for name, size_bytes in own)
        except OSError:
            return False

    def _check_agree(self, records: Mapping[int, PartRecord]) -> None:
        """Refuse to write what another part would not write.

        Raises:
            DestinationError: `ranks-disagree`.
        """
        for number, record in sorted(records.items()):
            names = [name for name in _SAID if record.run.get(name) != self.run.get(name)]
            if names:
                # The receipt holds most of the rest: it says something where it alone is another one.
                names = [name for name in names if name != "receipt_sha256"] or names
                said = [(_show(record.run.get(name)), _show(self.run.get(name))) for name in names]
                raise DestinationError(
                    "ranks-disagree",
                    f"part {self.part} would not write the output that part {number} writes",
                    where=str(self.hidden),
                    expected="\n".join(f"{_SAID[name]}: {his}" for name, (his, _) in zip(names, said, strict=True)),
                    got="\n".join(f"{_SAID[name]}: {own}" for name, (_, own) in zip(names, said, strict=True)),
                    hint="run all parts with the same arguments; remove the directory to start anew with others",
                )

    @contextmanager
    def _saying_what_is_kept(self) -> Iterator[None]:
        try:
            yield
        except BaseException as problem:
            hint = f"run this part again to go on; what is written is kept in {self.hidden}"
            if isinstance(problem, WeighbridgeError):
                raise problem.with_context(hint=hint) from problem
            problem.add_note(hint)
            raise


def _show(value: Any) -> str:
    """Show what a part says: a short value as it is, of a longer one its length and its digest."""
    if not isinstance(value, list):
        return str(value)[:200]
    return f"{counted(len(value), 'file')}, SHA-256 {sha256_of(json.dumps(value).encode())[:16]}"


def _read_record(path: Path) -> PartRecord | None:
    """Read what a part has written down; None where that is removed just now.

    Raises:
        DestinationError: `resume-mismatch`.
    """
    try:
        form = table(parse_json(read_small_file(path, _MAX_RECORD_BYTES)[0]))
        if (form["format"], form["version"]) != (PART_FORMAT, PART_VERSION):
            raise ValueError("it is of no known version")
        return PartRecord(table(form["run"]), None if form["done"] is None else Done.from_dict(form["done"]))
    except (KeyError, TypeError, ValueError, RecursionError) as problem:
        if isinstance(problem, CheckpointError) and problem.code == "checkpoint-not-found":
            return None
        got = problem.got if isinstance(problem, WeighbridgeError) else f"{type(problem).__name__}: {problem}"
        raise mismatch(path, "what a part of this run has written down", f"damaged: {got[:200]}") from None
