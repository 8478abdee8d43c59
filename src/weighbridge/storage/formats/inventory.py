"""Headers as JSON: what a checkpoint holds, without the checkpoint.

The format, as plain text or compressed with gzip:

    {"format": "weighbridge-inventory", "version": 1,
     "metadata": {"format": "pt"},
     "ties": {"lm_head.weight": "model.embed_tokens.weight"},
     "tensors": {"model.embed_tokens.weight": {"dtype": "BF16", "shape": [32000, 4096]}, ...}}

`metadata` and `ties` may be left out. A plan can be made from an inventory, and a plan's target can be one.
"""

from __future__ import annotations

import gzip
import io
import json
import os
from pathlib import Path
from typing import Any, Final

from weighbridge.base.errors import CheckpointError, DestinationError
from weighbridge.base.forms.inflating import GZIP, inflate_bounded
from weighbridge.base.json_text import JsonError, check_characters, kind_of, parse_json, shorten
from weighbridge.base.specs import Header, TensorSpec, check_keys
from weighbridge.storage.formats.memory import HeaderCheckpoint
from weighbridge.storage.formats.safetensors_header import read_spec
from weighbridge.storage.places.regular_files import HEAD_SAMPLE_BYTES, SourceFile, read_small_file
from weighbridge.storage.remote.remote_files import Location, RemoteFile, RemoteSource

FORMAT: Final = "weighbridge-inventory"
VERSION: Final = 1
MAX_INVENTORY_BYTES: Final = 200_000_000
INVENTORY_SUFFIXES: Final = (".json", ".json.gz")
_GZIP_MAGIC: Final = b"\x1f\x8b"


def open_inventory(path: Location) -> HeaderCheckpoint:
    """Read an inventory file, here or elsewhere.

    Raises:
        CheckpointError: `inventory-invalid`, `name-too-long`, `dtype-unknown`, `checkpoint-not-found`, `read-failed`.
    """
    if isinstance(path, RemoteFile):
        raw = path.read_all(MAX_INVENTORY_BYTES)
        source = RemoteSource(path.name, path, raw[:HEAD_SAMPLE_BYTES])
        return HeaderCheckpoint(str(path), parse_inventory(raw, str(path)), (source,))
    raw, stamp = read_small_file(path, MAX_INVENTORY_BYTES)
    file = SourceFile(path.name, path.resolve(), stamp, raw[:HEAD_SAMPLE_BYTES])
    return HeaderCheckpoint(str(path), parse_inventory(raw, str(path)), (file,))


def parse_inventory(raw: bytes, where: str) -> Header:
    """Read an inventory's text, compressed or not.

    Raises:
        CheckpointError: `inventory-invalid`, `name-too-long`, `dtype-unknown`.

    Examples:
        >>> header = Header({"a": TensorSpec("F32", (2,))})
        >>> parse_inventory(inventory_text(header).encode(), "a.json") == header
        True
    """
    try:
        table = _check_frame(parse_json(_decompress(raw)))
        header = Header({}, _read_texts(table, "metadata"), _read_texts(table, "ties"))
        specs = _read_specs(table.get("tensors"), where)
        astray = [key for pair in header.ties.items() for key in pair if key not in specs]
        if astray:
            raise JsonError(f"a tie names {shorten(astray[0])}, which is no tensor")
    except JsonError as problem:
        what = "the inventory is not valid"
        hint = "give the weights or their directory, or what weighbridge inspect --inventory writes"
        raise CheckpointError("inventory-invalid", what, where=where, got=str(problem), hint=hint) from None
    return Header(specs, header.metadata, header.ties)


def write_inventory(header: Header, path: Path | str) -> None:
    """Write a header as an inventory, compressed if the name ends in `.gz`; the same header gives the same bytes.

    Raises:
        DestinationError: `destination-exists`, `write-failed`; `usage` for a name that is not read as an inventory.
    """
    path = Path(path)
    if not path.name.endswith(INVENTORY_SUFFIXES):
        expected = " or ".join(INVENTORY_SUFFIXES)
        raise DestinationError(
            "usage", "an inventory has another name", where=str(path), expected=f"a name in {expected}"
        )
    text = inventory_text(header).encode()
    if path.suffix == ".gz":
        packed = io.BytesIO()
        with gzip.GzipFile(fileobj=packed, mode="wb", filename="", mtime=0) as stream:
            stream.write(text)
        text = packed.getvalue()
    try:
        with path.open("xb") as stream_out:
            stream_out.write(text)
            stream_out.flush()
            os.fsync(stream_out.fileno())
    except FileExistsError:
        raise DestinationError("destination-exists", "this file is already there", where=str(path)) from None
    except OSError as error:
        raise DestinationError(
            "write-failed", "the inventory cannot be written", where=str(path), got=error.strerror or str(error)
        ) from error


def inventory_text(header: Header) -> str:
    """Return a header's inventory as JSON text, one tensor per line.

    Examples:
        >>> print(inventory_text(Header({"a": TensorSpec("F32", (2, 3))})))
        {"format": "weighbridge-inventory", "version": 1,
         "metadata": {},
         "tensors": {
          "a": {"dtype": "F32", "shape": [2, 3]}}}
        <BLANKLINE>
    """
    entries = (
        f'\n  {json.dumps(key)}: {{"dtype": "{spec.dtype}", "shape": {json.dumps(spec.shape)}}}'
        for key, spec in header.items()
    )
    ties = f' "ties": {json.dumps(dict(header.ties))},\n' if header.ties else ""
    return (
        f'{{"format": "{FORMAT}", "version": {VERSION},\n "metadata": {json.dumps(dict(header.metadata))},\n{ties}'
        f' "tensors": {{{",".join(entries)}}}}}\n'
    )


def _decompress(raw: bytes) -> bytes:
    if not raw.startswith(_GZIP_MAGIC):
        return raw
    try:
        return inflate_bounded(raw, MAX_INVENTORY_BYTES, GZIP)
    except ValueError as problem:
        raise JsonError(f"it cannot be decompressed: {problem}") from None


def _check_frame(table: Any) -> dict[str, Any]:
    if type(table) is not dict or table.get("format") != FORMAT:
        raise JsonError(f'it does not say "format": "{FORMAT}"')
    if type(table.get("version")) is not int or table["version"] != VERSION:
        raise JsonError(f"its version is {table.get('version')!r:.40}, this program reads {VERSION}")
    unknown = table.keys() - {"format", "version", "metadata", "ties", "tensors"}
    if unknown:
        raise JsonError(f"it has an unknown part {shorten(min(unknown))}")
    return table


def _read_texts(table: dict[str, Any], part: str) -> dict[str, str]:
    texts = table.get(part, {})
    if type(texts) is not dict or not all(type(value) is str for value in texts.values()):
        raise JsonError(f"{part} is not an object of texts")
    check_characters(texts)
    check_characters(texts.values())
    return texts


def _read_specs(tensors: Any, where: str) -> dict[str, TensorSpec]:
    if type(tensors) is not dict:
        raise JsonError(f"tensors is {kind_of(tensors)}, not an object")
    check_characters(tensors)
    check_keys(tensors, where)
    specs = {}
    for key, entry in tensors.items():
        if type(entry) is not dict or entry.keys() != {"dtype", "shape"}:
            raise JsonError(f"{shorten(key)} is not an object of dtype and shape")
        try:
            specs[key] = read_spec(entry["dtype"], entry["shape"])
        except CheckpointError as error:
            if error.code == "dtype-unknown":
                raise error.with_context(where=f"{where}: {shorten(key)}") from None
            raise JsonError(f"{shorten(key)}: {error.what} ({error.got or error.expected})") from None
    return specs
