r"""What stands beside the tensors of a distributed checkpoint and is none: settings of an optimizer, counters, names.

    dcp-objects.json
      {"format": "weighbridge-dcp-objects", "version": 1, "items": [base64], "objects": {name: number of its item}}

Each is a pickle. Those of plain values, which name no code, are kept as they are in a file beside the weights, so that
the way back has them again. They are never unpickled here, and checked before they are kept, and before they go back:
torch runs what such an item names. Others are named, and left aside.
"""

from __future__ import annotations

import io
import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from weighbridge.base.errors import CheckpointError
from weighbridge.base.forms.json_forms import items, number, table, text
from weighbridge.base.json_text import JsonError, join_keys, parse_json, shorten
from weighbridge.storage.formats.pickles import Bounded, read_pickle
from weighbridge.storage.formats.torch_archives import list_members, read_content
from weighbridge.storage.formats.torch_pickles import UNSAFE_HINT
from weighbridge.storage.places.directory import Extra
from weighbridge.storage.remote.remote_files import RemoteFile
from weighbridge.storage.sharded.dcp_metadata import Item
from weighbridge.storage.sharded.dcp_names import ITEMS_SUFFIX

OBJECTS_NAME: Final = "dcp-objects.json"
_FORMAT: Final = "weighbridge-dcp-objects"
_VERSION: Final = 1
_ITEMS_NAME: Final = f"__1_0{ITEMS_SUFFIX}"
"""The file that they lie in again: tensors are in those of the first rank."""

MAX_OBJECT_BYTES: Final = 2**20
MAX_OBJECTS_BYTES: Final = 2**26
"""The largest item, and the most bytes of different items, that are kept."""

_PLAIN: Final = frozenset({"collections.OrderedDict"})
"""What the pickles of plain values may name."""


def fault_of(raw: bytes) -> str:
    """Say why an item is not to be kept; nothing for one of plain values.

    Args:
        raw: The item's bytes.
    """
    try:
        stream = io.BytesIO(raw)
        members = list_members(stream)
        described = next((member for name, member in members.items() if name.endswith("/data.pkl")), None)
        if described is None:
            return "no archive of torch.save"
        content = read_content(stream, described, len(raw))
        pickled = read_pickle(Bounded(io.BytesIO(content), len(content)))
    except CheckpointError as problem:
        return problem.got or problem.what
    strange = next((name for name in pickled.globals if str(name) not in _PLAIN), None)
    if strange is not None:
        return f"the code of {str(strange)[:80]}"
    return "tensors inside of it" if pickled.outside else ""


def keep_objects(
    objects: Mapping[str, Item], read: Callable[[Item], bytes], path: Path
) -> tuple[tuple[Extra, ...], tuple[str, ...]]:
    """Put objects into a file that goes with the weights.

    Args:
        objects: Their items by name.
        read: Reads an item.
        path: The metadata that they were found in.

    Returns:
        The file, if there are any, and notes on those that are left aside.

    Raises:
        CheckpointError: The codes of reading.
    """
    numbers: dict[bytes, int] = {}
    kept: dict[str, int] = {}
    left: list[str] = []
    faults: dict[bytes, str] = {}
    for name, item in objects.items():
        raw = read(item) if item.size_bytes <= MAX_OBJECT_BYTES else b""
        if raw not in faults:
            faults[raw] = fault_of(raw) if raw else "too large"
        if faults[raw] or sum(map(len, numbers)) + len(raw) > MAX_OBJECTS_BYTES:
            left.append(f"{shorten(name)} ({faults[raw] or 'too large'})")
        else:
            kept[name] = numbers.setdefault(raw, len(numbers))
    notes = (f"no tensors, left aside: {', '.join(left[:8])}",) if left else ()
    if not kept:
        return (), notes
    form = {
        "format": _FORMAT,
        "version": _VERSION,
        "items": [b64encode(raw).decode() for raw in numbers],
        "objects": kept,
    }
    said = f"no tensors, kept in {OBJECTS_NAME}: {join_keys(kept)}"
    return (Extra(OBJECTS_NAME, path, json.dumps(form).encode() + b"\n"),), (said, *notes)


class Kept(NamedTuple):
    """Objects as they go back.

    Args:
        file: The file of their items.
        objects: Where each of them lies in it, by name.
    """

    file: Extra
    objects: dict[str, Item]


def _content_of(extra: Extra) -> bytes:
    if extra.content is not None:
        return extra.content
    path = extra.path
    return path.read_all(path.size_bytes) if isinstance(path, RemoteFile) else path.read_bytes()


def restore_objects(extra: Extra) -> Kept:
    """Take objects out of the file that they were kept in.

    Args:
        extra: The file.

    Raises:
        CheckpointError: `dcp-invalid` for a file that is none, `dcp-unsafe` for an item that names code; `read-failed`.
    """
    raw = _content_of(extra)
    try:
        form = table(parse_json(raw))
        if (form["format"], form["version"]) != (_FORMAT, _VERSION):
            raise JsonError("it is of no known version")
        parts = [b64decode(text(part), validate=True) for part in items(form["items"])]
        named = {name: number(value) for name, value in table(form["objects"]).items()}
        if any(not 0 <= value < len(parts) for value in named.values()):
            raise JsonError("it names an item that is not there")
    except (KeyError, ValueError, TypeError) as problem:
        what, got = "the objects of a distributed checkpoint cannot be read", str(problem)[:120]
        raise CheckpointError("dcp-invalid", what, where=str(extra.path), got=got) from None
    for part in parts:
        fault = fault_of(part)
        if fault:
            what = "an object that would go back is more than plain values"
            raise CheckpointError("dcp-unsafe", what, where=str(extra.path), got=fault, hint=UNSAFE_HINT)
    places, at = [], 0
    for part in parts:
        places.append(Item(_ITEMS_NAME, at, len(part)))
        at += len(part)
    return Kept(Extra(_ITEMS_NAME, extra.path, b"".join(parts)), {name: places[value] for name, value in named.items()})
