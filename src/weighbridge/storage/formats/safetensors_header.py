"""Check all of the head of a safetensors file before anything relies on it; who has its bytes needs nothing else.

The format (https://github.com/huggingface/safetensors#format): eight bytes, little-endian, give the header's length N;
N bytes of JSON name each tensor with `dtype`, `shape` and `data_offsets`, counted from the end of the header; the
tensors' bytes follow and fill the rest of the file without overlaps and without holes. Stricter than the reference
implementation in eight points: a name that stands twice, an entry with further fields or written as a list, white space
before the text, and `"__metadata__": null` are errors, an axis of size 0 does not excuse the other axes from fitting 63
bits, a shape has at most 64 axes, and a name at most 4,096 characters and 256 segments.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from weighbridge.base.errors import CheckpointError
from weighbridge.base.json_text import (
    JsonError,
    Pairs,
    check_characters,
    kind_of,
    parse_json,
    shorten,
    shorten_number,
    unique_object,
)
from weighbridge.base.process.collecting import without_collection
from weighbridge.base.specs import DTYPES, MAX_AXES, Placed, TensorSpec, check_keys
from weighbridge.storage.formats.file_starts import name_start

LENGTH_BYTES: Final = 8
MAX_HEADER_BYTES: Final = 100_000_000
"""The format's limit on a header's length, without the eight length bytes."""
MAX_TENSOR_BITS: Final = 2**63
_FIELDS: Final = ("dtype", "shape", "data_offsets")

_Entry = tuple[TensorSpec, int, int]
"""A tensor's spec and where its bytes start and stop, counted from the end of the header."""


class Head(NamedTuple):
    """What the head of a safetensors file says.

    Args:
        specs: Spec of each tensor by key, in the header's order.
        metadata: The header's `__metadata__`.
        tensors: Place of each tensor in the file, in order of offset.
    """

    specs: dict[str, TensorSpec]
    metadata: dict[str, str]
    tensors: tuple[Placed, ...]


def check_length(prefix: bytes, file_size_bytes: int, where: str) -> int:
    """Return the header's length from the file's first eight bytes.

    Raises:
        CheckpointError: `file-truncated`, `header-too-large`.
    """
    if len(prefix) < LENGTH_BYTES:
        got = f"{len(prefix)} bytes" if prefix else "an empty file"
        expected = "at least the 8 bytes of the header's length"
        raise CheckpointError("file-truncated", "the file has no header", where=where, expected=expected, got=got)
    length = int.from_bytes(prefix, "little")
    room = file_size_bytes - LENGTH_BYTES
    if length > MAX_HEADER_BYTES or length > room:
        expected = f"at most {min(MAX_HEADER_BYTES, room):,} bytes"
        foreign = name_start(prefix)
        got = f"{length:,} bytes" + (f"; the file begins like {foreign.what}" if foreign else "")
        hint = foreign.hint if foreign else "check that this is a safetensors file and that it was copied to its end"
        raise CheckpointError(
            "header-too-large", "the header is too long", where=where, expected=expected, got=got, hint=hint
        )
    return length


def parse_head(head: bytes, file_size_bytes: int, where: str) -> Head:
    """Check a head against the format and against the size of its file.

    Args:
        head: The eight length bytes and the header's text.
        file_size_bytes: Size of the whole file.
        where: The file, for messages.

    Raises:
        CheckpointError: `file-truncated`, `header-too-large`, `header-invalid`, `header-duplicate-key`,
            `name-too-long`, `dtype-unknown`, `tensor-bounds`.

    Examples:
        >>> text = b'{"a":{"dtype":"F16","shape":[3],"data_offsets":[0,6]}}'
        >>> parse_head(len(text).to_bytes(8, "little") + text, 8 + len(text) + 6, "a.safetensors").tensors
        (Placed(key='a', offset=62, size_bytes=6),)
    """
    stop = LENGTH_BYTES + check_length(head[:LENGTH_BYTES], file_size_bytes, where)
    if len(head) < stop:
        raise CheckpointError("file-truncated", "the file ends within its header", where=where)
    with without_collection():
        return _parse_text(head[LENGTH_BYTES:stop], stop, file_size_bytes, where)


def _parse_text(text: bytes, data_start: int, file_size_bytes: int, where: str) -> Head:
    try:
        table = _parse_table(text)
        metadata = _take_metadata(table)
        check_characters(table)
    except JsonError as problem:
        code = "header-duplicate-key" if problem.duplicate else "header-invalid"
        raise CheckpointError(code, "the header is not valid", where=where, got=str(problem)) from None
    check_keys(table, where)
    entries = _check_entries(table, where)
    specs = {key: entry[0] for key, entry in entries.items()}
    return Head(specs, metadata, _place_tensors(entries, data_start, file_size_bytes, where))


def _parse_table(text: bytes) -> dict[str, Any]:
    if not text.startswith(b"{"):
        raise JsonError(f"it starts with {ascii(text[:1])[1:]}, not with '{{'" if text else "it is empty")
    reader = _EntryReader()
    table = parse_json(text, reader.build, unsigned=True)
    if type(table) is not dict:
        raise JsonError("it describes one tensor, without a name")
    return table


def _take_metadata(table: dict[str, Any]) -> dict[str, str]:
    metadata = table.pop("__metadata__", {})
    if type(metadata) is not dict:
        raise JsonError(f"__metadata__ is {kind_of(metadata)}, not an object of texts")
    for name, value in metadata.items():
        if type(value) is not str:
            raise JsonError(f"__metadata__ has {kind_of(value)} under {shorten(name)}, not a text")
    check_characters(metadata)
    check_characters(metadata.values())
    return metadata


class _EntryReader:
    """Make an entry of each JSON object as it is parsed: a hundred thousand dicts never come to be.

    An object that is no perfect entry stays a dict: it is the metadata or the whole table, or it gets its error later,
    when its key is known.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], tuple[TensorSpec, int]] = {}

    def build(self, pairs: Pairs) -> Any:
        """Return an entry, or a dict."""
        if len(pairs) == 3:
            (first, dtype), (second, shape), (third, offsets) = pairs
            if first == "dtype" and second == "shape" and third == "data_offsets":
                try:
                    return self._read(dtype, shape, offsets)
                except (TypeError, ValueError):
                    pass
        return unique_object(pairs)

    def _read(self, dtype: Any, shape: Any, offsets: Any) -> _Entry:
        start, stop = offsets
        if type(start) is not int or type(stop) is not int or type(shape) is not list or type(offsets) is not list:
            raise TypeError
        if len(shape) > MAX_AXES:
            raise ValueError
        # `True` equals 1, so the types must be looked at before the spec is looked up.
        for size in shape:
            if type(size) is not int:
                raise TypeError
        found = self._known.get((dtype, *shape))
        if found is None:
            spec = read_spec(dtype, shape)
            found = self._known[dtype, *shape] = spec, spec.size_bytes
        if start < 0 or stop - start != found[1]:
            raise ValueError
        return found[0], start, stop


def read_spec(dtype: object, shape: object) -> TensorSpec:
    """Check a dtype and a shape that come from a JSON text.

    Raises:
        CheckpointError: `header-invalid`, `dtype-unknown`, `tensor-bounds`; without the place.
    """
    if type(dtype) is not str:
        raise CheckpointError("header-invalid", "a dtype is not a text", got=kind_of(dtype))
    if dtype not in DTYPES:
        expected = "one of " + ", ".join(DTYPES)
        raise CheckpointError("dtype-unknown", "this is no dtype", expected=expected, got=shorten(dtype))
    sizes = _read_sizes(shape, "shape")
    if len(sizes) > MAX_AXES:
        expected, got = f"at most {MAX_AXES}", f"{len(sizes):,}"
        raise CheckpointError("header-invalid", "a shape has too many axes", expected=expected, got=got)
    bits = DTYPES[dtype].bits
    for size in sizes:
        bits *= size or 1
        if bits >= MAX_TENSOR_BITS:
            raise CheckpointError("tensor-bounds", "the shape is too large", expected="less than 2**63 bits")
    spec = TensorSpec(dtype, tuple(sizes))
    if spec.numel * DTYPES[dtype].bits % 8:
        raise CheckpointError("tensor-bounds", "the elements do not fill whole bytes", got=str(spec))
    return spec


def _read_sizes(value: object, what: str) -> list[int]:
    if type(value) is not list:
        raise CheckpointError("header-invalid", f"{what} is not a list", got=kind_of(value))
    for number in value:
        if type(number) is not int:
            raise CheckpointError("header-invalid", f"{what} holds something else than integers", got=kind_of(number))
        if number < 0:
            raise CheckpointError("header-invalid", f"{what} holds a negative number", got=shorten_number(number))
    return value


def _check_entries(table: dict[str, Any], where: str) -> dict[str, _Entry]:
    for key, entry in table.items():
        if type(entry) is not tuple:
            try:
                table[key] = _read_slowly(entry)
            except CheckpointError as error:
                raise error.with_context(where=_place(where, key)) from None
    return table


def _read_slowly(entry: object) -> _Entry:
    if type(entry) is not dict:
        raise CheckpointError("header-invalid", "a tensor's entry is not an object", got=kind_of(entry))
    if sorted(entry) != sorted(_FIELDS):
        got = ", ".join(shorten(name, 40) for name in list(entry)[:8]) or "none"
        raise CheckpointError(
            "header-invalid", "a tensor's entry has other fields", expected=", ".join(_FIELDS), got=got
        )
    spec = read_spec(entry["dtype"], entry["shape"])
    offsets = _read_sizes(entry["data_offsets"], "data_offsets")
    if len(offsets) != 2:
        raise CheckpointError("header-invalid", "data_offsets is not a pair", got=f"{len(offsets)} numbers")
    start, stop = offsets
    if stop - start != spec.size_bytes:
        expected, got = (
            f"{spec.size_bytes:,} bytes for {spec}",
            f"bytes [{shorten_number(start)}, {shorten_number(stop)})",
        )
        raise CheckpointError("tensor-bounds", "the offsets do not match the shape", expected=expected, got=got)
    return spec, start, stop


def _place_tensors(entries: dict[str, _Entry], data_start: int, file_size_bytes: int, where: str) -> tuple[Placed, ...]:
    """Check that the tensors' bytes follow one another from the header's end to the file's end."""
    order = sorted([(start, stop, key) for key, (_, start, stop) in entries.items()])
    position = 0
    for start, stop, key in order:
        if start != position:
            what = "overlaps the tensor before it" if start < position else "leaves a hole before it"
            expected, got = f"a start at byte {position:,}", f"bytes [{shorten_number(start)}, {shorten_number(stop)})"
            raise CheckpointError(
                "tensor-bounds", f"the tensor {what}", where=_place(where, key), expected=expected, got=got
            )
        position = stop
    _check_end(data_start + position, file_size_bytes, where)
    return tuple([Placed(key, data_start + start, stop - start) for start, stop, key in order])


def _check_end(stop: int, file_size_bytes: int, where: str) -> None:
    if stop != file_size_bytes:
        code, what = "tensor-bounds", "the file goes on after its last tensor"
        if stop > file_size_bytes:
            code, what = "file-truncated", "the file ends before its last tensor does"
        expected, got = f"{stop:,} bytes", f"{file_size_bytes:,} bytes"
        hint = "fetch or copy the file again"
        raise CheckpointError(code, what, where=where, expected=expected, got=got, hint=hint)


def _place(where: str, key: str) -> str:
    return f"{where}: {shorten(key)}"
