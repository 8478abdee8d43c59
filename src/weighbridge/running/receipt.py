"""The receipt that lies in every output: the plan that made it, and what the plan read and wrote.

It is a file in a directory, and in a torch file a member of the archive beside its tensors.

    weighbridge.json
      {"format": "weighbridge-receipt", "version": 1, "weighbridge": package version, "plan_hash": SHA-256,
       "mapping": name, "source": {"where", "files": [{"name", "size_bytes", "mtime_ns", "head_sha256"}]},
       "plan": the plan's JSON form, files of the source included,
       "changed": files beside the weights that were written anew, as [name, text before, SHA-256 of the new one]; where
           there are such,
       "checked": which sources were compared and found equal, as [target, [sources of each way of making it]], and
           which parts that were cut off held their value, as [target, [sources], part, value]; where the plan has
           such conditions,
       "digests": what `tensor_digests` describes, where it was asked for}

With it, `revert` needs nothing else. The mapping and the layout of the source's files are inside the plan. Digests came
later, and so did what was checked and changed, and the version is still 1: a reader that does not know them leaves them
aside and misreads nothing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from weighbridge._version import __version__
from weighbridge.base.errors import CheckpointError, DestinationError, WeighbridgeError
from weighbridge.base.file_names import RECEIPT_NAME, names_torch_file
from weighbridge.base.forms.json_forms import items, table, text
from weighbridge.base.json_text import parse_json
from weighbridge.planning.plan import Plan
from weighbridge.planning.stored import read_plan
from weighbridge.running.changed_files import FileChange, RecordedChange
from weighbridge.running.tensor_digests import Digests
from weighbridge.storage.places.regular_files import read_small_file
from weighbridge.storage.protocol import Checkpoint
from weighbridge.storage.remote.addresses import path_or_address
from weighbridge.storage.remote.folders import folder_at
from weighbridge.storage.remote.remote_files import Location, RemoteFile

_LOG: Final = logging.getLogger(__name__)

RECEIPT_FORMAT: Final = "weighbridge-receipt"
RECEIPT_VERSION: Final = 1
MAX_RECEIPT_BYTES: Final = 200_000_000
"""Limit for a receipt that is read; that of 90,000 tensors has a sixth of it."""


class Receipt(NamedTuple):
    """What a receipt says.

    Args:
        plan: The plan that made the output.
        source: The fingerprints of what it read.
        package_version: The package's version at the time.
        digests: Digests of the output; None where they were not asked for.
        changed: Files beside the weights that were written anew.
    """

    plan: Plan
    source: dict[str, Any]
    package_version: str
    digests: Digests | None = None
    changed: tuple[RecordedChange, ...] = ()


def receipt_text(plan: Plan, checkpoint: Checkpoint, changes: Sequence[FileChange] = ()) -> bytes:
    """Write a receipt for what a plan makes from a checkpoint, and for files beside it that are written anew."""
    form = {
        "format": RECEIPT_FORMAT,
        "version": RECEIPT_VERSION,
        "weighbridge": __version__,
        "plan_hash": plan.hash,
        "mapping": plan.mapping.name,
        "source": {"where": checkpoint.where, "files": checkpoint.fingerprint()},
        "plan": plan.to_dict(),
        **({"changed": [change.to_list() for change in changes]} if changes else {}),
        **({"checked": _checked(plan)} if plan.conditions else {}),
    }
    return json.dumps(form, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass") + b"\n"


def _checked(plan: Plan) -> list[Any]:
    """Return the form of what held of the source when the output was made: a run compares it before it writes."""
    return [
        [target, [list(way) for way in ways], *([part, value] if part else [])]
        for target, ways, part, value in plan.conditions
    ]


def check_receipt_follows(plan: Plan) -> None:
    """Refuse digests where there will be no receipt to hold them: for files that are restored exactly as they were.

    Raises:
        DestinationError: `usage`.
    """
    if plan.target_files is not None:
        raise DestinationError(
            "usage",
            "files that are restored as they were have no receipt, so it can hold no digests",
            hint="leave out digests=True; weighbridge verify A B compares what is restored with another copy",
        )


def add_digests(receipt: bytes, digests: Digests) -> bytes:
    r"""Return a receipt with the digests of the output that it is for.

    They are known last, when all else is written and the receipt's size has long been set aside; so they are put at the
    end of the text, and the plan's form is not made a second time.

    Examples:
        >>> json.loads(add_digests(b'{"format": "weighbridge-receipt"}\n', Digests({}, {})))["digests"]["tensors"]
        {}
    """
    form = json.dumps(digests.to_dict(), ensure_ascii=False).encode("utf-8", "surrogatepass")
    return _before_digests(receipt) + form + b"}\n"


def _before_digests(receipt: bytes) -> bytes:
    return receipt.rstrip().removesuffix(b"}") + b', "digests": '


def holds_receipt(directory: Path, receipt: bytes, *, with_digests: bool) -> bool:
    """Tell whether a receipt stands in a directory, with the output's digests or without any.

    Args:
        directory: An output, or what may be one.
        receipt: The receipt, without digests.
        with_digests: Whether there are to be some; they are not looked at.
    """
    try:
        found, _ = read_small_file(directory / RECEIPT_NAME, MAX_RECEIPT_BYTES)
    except CheckpointError:
        return False
    return found.startswith(_before_digests(receipt)) if with_digests else found == receipt


def read_recorded_mapping(place: str | Path) -> tuple[dict[str, Any], str]:
    """Read the JSON form of the mapping that an output's receipt holds, and the reading that it was run under.

    Nothing else is looked at, and no plan is proven.

    Args:
        place: The output, or one of the files in it; a path, or an address.

    Raises:
        CheckpointError: `receipt-invalid`.
    """
    path = _path_of(place)
    with _reporting(path):
        plan = table(_read_form(path)["plan"])
        return table(plan["mapping"]), text(plan["reading"])


def read_receipt(place: str | Path) -> Receipt:
    """Read the receipt of an output, and prove its plan again.

    Args:
        place: The output, or one of the files in it; a path, or an address.

    Raises:
        CheckpointError: `receipt-invalid`, `path-unsafe`.
    """
    path = _path_of(place)
    with _reporting(path):
        form = _read_form(path)
        found = form["format"], form["version"]
        if found != (RECEIPT_FORMAT, RECEIPT_VERSION):
            what = "this is no receipt of a known version"
            raise CheckpointError("receipt-invalid", what, where=str(path), got=repr(found))
        digests = Digests.from_dict(form["digests"]) if "digests" in form else None
        changed = tuple(map(RecordedChange.from_form, items(form.get("changed", []))))
        receipt = Receipt(read_plan(form["plan"]), table(form["source"]), text(form["weighbridge"]), digests, changed)
        if (form["plan_hash"], form["mapping"]) != (receipt.plan.hash, receipt.plan.mapping.name):
            raise CheckpointError("receipt-invalid", "the receipt belongs to another plan", where=str(path))
        if form.get("checked", []) != _checked(receipt.plan):
            what = "what was checked is not what the plan takes for granted"
            raise CheckpointError("receipt-invalid", what, where=str(path))
        if digests is not None and digests.tensors.keys() != receipt.plan.target.keys():
            raise CheckpointError("receipt-invalid", "the digests are not those of the plan's tensors", where=str(path))
        _LOG.info('read the receipt %s of mapping "%s"', path, receipt.plan.mapping.name)
        return receipt


def _path_of(place: str | Path) -> Location:
    """Return the file that is to hold the receipt, whether it is there or not."""
    there = path_or_address(place)
    if isinstance(there, str):
        folder = folder_at(there)
        return folder.find(RECEIPT_NAME) or Path(f"{folder.where}/{RECEIPT_NAME}")
    if there.is_dir():
        return there / RECEIPT_NAME
    return there if names_torch_file(there) else there.parent / RECEIPT_NAME


def has_receipt(place: str | Path) -> bool:
    """Tell whether a receipt lies in an output, or in the directory of one of its files."""
    path = _path_of(place)
    if isinstance(path, RemoteFile):
        return True
    if path.name == RECEIPT_NAME:
        return path.is_file()
    try:
        return _read_member(path) is not None
    except CheckpointError:
        return False


def _read_member(path: Path) -> bytes | None:
    from weighbridge.storage.formats.torch_archives import read_member

    return read_member(path, RECEIPT_NAME, MAX_RECEIPT_BYTES)


@contextmanager
def _reporting(path: Location) -> Iterator[None]:
    """Report whatever is wrong with the text of a receipt under its code."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RecursionError) as problem:
        if isinstance(problem, CheckpointError):
            raise problem.with_context(where=str(path)) from None
        plain = f"{type(problem).__name__}: {problem}"[:200]
        got = problem.headline if isinstance(problem, WeighbridgeError) else plain
        raise CheckpointError("receipt-invalid", "this is no receipt", where=str(path), got=got) from None


def _read_text(path: Location) -> bytes | None:
    if isinstance(path, RemoteFile):
        return path.read_all(MAX_RECEIPT_BYTES)
    return read_small_file(path, MAX_RECEIPT_BYTES)[0] if path.name == RECEIPT_NAME else _read_member(path)


def _read_form(path: Location) -> Any:
    try:
        raw = _read_text(path)
    except CheckpointError as problem:
        if problem.code != "checkpoint-not-found":
            got = problem.got if not problem.expected else f"{problem.got}, of {problem.expected}"
            raise CheckpointError("receipt-invalid", "the receipt cannot be read", where=str(path), got=got) from None
        raw = None
    if raw is None:
        raise CheckpointError(
            "receipt-invalid",
            "there is no receipt here, so the way back is not recorded",
            where=str(path),
            hint="to go back, give the mapping: weighbridge convert --reverse SOURCE DESTINATION MAPPING\n"
            "to compare, give the other checkpoint: weighbridge verify A B",
        )
    return parse_json(raw, surrogates=True)
