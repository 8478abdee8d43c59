"""The `.metadata` of a directory of torch.distributed.checkpoint: which tensors there are, and where their chunks lie.

It is a pickle of dataclasses (torch/distributed/checkpoint/metadata.py, and `_StorageInfo` of filesystem.py beside it):

    Metadata
      state_dict_metadata    name: TensorStorageMetadata (properties, size, chunks of offsets and sizes), or
                             BytesStorageMetadata for an object that is no tensor
      planner_data           name: the keys that lead to the value in the state dict that was saved
      storage_data           MetadataIndex (name, offsets): _StorageInfo (relative_path, offset, length)

torch reads it with `pickle.load`. Here it is read for what it says, and none of it is run (`pickles`); whatever names
a function or a class that is none of these is refused.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from weighbridge.base.errors import CheckpointError
from weighbridge.base.json_text import shorten
from weighbridge.base.specs import DTYPES, Shape
from weighbridge.storage.formats.pickles import Bounded, Global, Made, read_pickle
from weighbridge.storage.formats.torch_pickles import UNSAFE_HINT, items_of, sizes_of
from weighbridge.storage.sharded.boxes import Box

MAX_METADATA_BYTES: Final = 2**30
"""Largest metadata that is read; that of 100,000 tensors on 64 ranks has half of it."""

DCP_CLASSES: Final = "torch.distributed.checkpoint.metadata"
"""The module that the classes of the metadata are in."""
_OLD: Final = "torch.distributed._shard.sharded_tensor.metadata"
_CLASSES: Final = frozenset(
    {
        *(
            f"{DCP_CLASSES}.{name}"
            for name in (
                *("Metadata", "MetadataIndex", "TensorStorageMetadata", "BytesStorageMetadata"),
                *("ChunkStorageMetadata", "TensorProperties", "StorageMeta", "_MEM_FORMAT_ENCODING"),
            )
        ),
        f"{_OLD}.TensorProperties",
        f"{_OLD}.MEM_FORMAT_ENCODING",
        "torch.distributed.checkpoint.filesystem._StorageInfo",
        "torch.Size",
        "torch.device",
        "torch.serialization._get_layout",
        "collections.OrderedDict",
        *(f"pathlib{part}.{name}" for part in ("", "._local") for name in ("PosixPath", "WindowsPath")),
        *(f"pathlib{part}.{name}" for part in ("", "._local") for name in ("PurePosixPath", "PureWindowsPath")),
    }
)
"""Every class and function that the metadata may name, beside torch's dtypes."""


_DTYPES: Final = frozenset(
    {*(dtype.torch_name for dtype in DTYPES.values() if dtype.torch_name)}
    | {"complex32", "complex128", "qint8", "quint8", "qint32", "quint4x2", "quint2x4"}
)


class Item(NamedTuple):
    """Where a chunk, or an object, lies: a part of a file.

    Args:
        name: The file's path, relative to the directory.
        offset: Where the part begins, in bytes.
        size_bytes: Its length.
    """

    name: str
    offset: int
    size_bytes: int


class Tensor(NamedTuple):
    """A tensor, as the metadata describes it.

    Args:
        dtype: Name of its dtype in torch.
        shape: Its shape, as torch has it.
        chunks: Its chunks, each with the item that holds it; none of them is empty.
    """

    dtype: str
    shape: Shape
    chunks: tuple[tuple[Box, Item], ...]


class Described(NamedTuple):
    """What the metadata says.

    Args:
        tensors: The tensors by name.
        objects: The items of all else by name.
        paths: The keys that lead to a value in what was saved; a name that is none of them stands for itself.
    """

    tensors: Mapping[str, Tensor]
    objects: Mapping[str, Item]
    paths: Mapping[str, tuple[str | int, ...]]

    def under(self, folder: str) -> Described:
        """Return the same tensors in a dict of a name, which stands before theirs.

        Args:
            folder: The name; dots in it lead into dicts in dicts. Empty to leave all as it is.
        """
        if not folder:
            return self
        names = {name: f"{folder}.{name}" for name in (*self.tensors, *self.objects)}
        return Described(
            {names[name]: tensor for name, tensor in self.tensors.items()},
            {names[name]: item for name, item in self.objects.items()},
            {names[name]: (*folder.split("."), *self.path(name)) for name in names},
        )

    def path(self, name: str) -> tuple[str | int, ...]:
        """Return the keys that lead to a value in what was saved."""
        return self.paths.get(name, (name,))


def read_metadata(raw: bytes) -> Described:
    """Read the metadata of a directory.

    Args:
        raw: The bytes of its `.metadata`.

    Raises:
        CheckpointError: `dcp-unsafe`, `dcp-invalid`, `dcp-unsupported`; without the place.
    """
    try:
        pickled = read_pickle(Bounded(io.BytesIO(raw), len(raw)))
    except CheckpointError as problem:
        hint = "check that the save was finished, and the file copied to its end"
        raise CheckpointError("dcp-invalid", "the metadata cannot be read", got=problem.got, hint=hint) from None
    strange = next((name for name in pickled.globals if not _is_known(name)), None)
    if strange is not None or pickled.outside:
        got = f"the code of {str(strange)[:80]}" if strange is not None else "a value that lies outside of it"
        raise CheckpointError("dcp-unsafe", "the metadata holds more than metadata", got=got, hint=UNSAFE_HINT)
    try:
        return _read(pickled.value)
    except CheckpointError as problem:
        if problem.code != "pickle-invalid":
            raise
        raise _unsound("sizes, offsets or lengths that are none") from None


def _read(value: object) -> Described:
    fields = _fields(value, "Metadata")
    places = dict(
        _read_place(index, info) for index, info in _items(fields.get("storage_data"), "storage_data").items()
    )
    tensors: dict[str, Tensor] = {}
    objects: dict[str, Item] = {}
    for name, value in _items(fields.get("state_dict_metadata"), "state_dict_metadata").items():
        if type(name) is not str:
            raise _unsound("a name that is no text")
        if _is_a(value, "BytesStorageMetadata"):
            objects[name] = _place_of(places, name, None)
        else:
            tensors[name] = _read_tensor(name, value, places)
    return Described(tensors, objects, dict(_read_paths(fields.get("planner_data"))))


def _is_known(name: Global) -> bool:
    return str(name) in _CLASSES or (name.module == "torch" and name.name in _DTYPES)


def _unsound(got: str) -> CheckpointError:
    hint = "write it again with a current PyTorch"
    return CheckpointError("dcp-invalid", "the metadata is not what torch writes", got=got, hint=hint)


def _is_a(value: object, kind: str) -> bool:
    maker = value.maker if isinstance(value, Made) else None
    return isinstance(maker, Global) and maker.name == kind


def _fields(value: object, kind: str) -> dict[Any, Any]:
    """Return the fields of a dataclass: the state that a pickle gives it."""
    if not _is_a(value, kind) or not isinstance(value, Made) or type(value.state) is not dict:
        raise _unsound(f"no {kind} where one must be")
    return value.state


def _items(value: object, name: str) -> dict[Any, Any]:
    found = items_of(value)
    if found is None:
        raise _unsound(f"no dict as {name}")
    return found


_Place = tuple[str, Shape | None]
"""A name, and the offsets of a chunk of it."""


def _read_place(index: object, info: object) -> tuple[_Place, Item]:
    """Read one entry of `storage_data`.

    Raises:
        CheckpointError: `dcp-unsupported` for what an extension has changed, `dcp-invalid`.
    """
    key, place = _fields(index, "MetadataIndex"), _fields(info, "_StorageInfo")
    name, path = key.get("fqn"), place.get("relative_path")
    if type(name) is not str or type(path) is not str:
        raise _unsound("a name, or the path of a file, that is no text")
    if place.get("transform_descriptors"):
        got = f"{_plain(place['transform_descriptors'])}, on {shorten(name)}"
        what, hint = (
            "an item was changed by an extension as it was written",
            "write it without extensions, or open it with those that wrote it",
        )
        raise CheckpointError("dcp-unsupported", what, got=got, hint=hint)
    offset, size_bytes = sizes_of((place.get("offset"), place.get("length")))
    offsets = key.get("offset")
    return (name, None if offsets is None else sizes_of(offsets)), Item(path, offset, size_bytes)


def _plain(value: object) -> str:
    listed = tuple(value) if isinstance(value, list | tuple) else ()
    return ", ".join(shorten(each) for each in listed[:4] if type(each) is str) or "something else than names"


def _place_of(places: Mapping[_Place, Item], name: str, offsets: Shape | None) -> Item:
    found = places.get((name, offsets))
    if found is None:
        where = "" if offsets is None else f" from {list(offsets)} on"
        raise _unsound(f"no place for {shorten(name)}{where}")
    return found


def _read_tensor(name: str, value: object, places: Mapping[_Place, Item]) -> Tensor:
    fields = _fields(value, "TensorStorageMetadata")
    properties = fields.get("properties")
    state = properties.state if isinstance(properties, Made) and _is_a(properties, "TensorProperties") else None
    dtype = next(iter(state), None) if isinstance(state, tuple) else None
    chunks = fields.get("chunks")
    if not isinstance(dtype, Global) or dtype.module != "torch" or type(chunks) is not list:
        raise _unsound(f"no dtype and no chunks of {shorten(name)}")
    boxes = [Box(sizes_of(chunk.get("offsets")), sizes_of(chunk.get("sizes"))) for chunk in map(_chunk, chunks)]
    # A rank without a part of a tensor may still have a chunk in the list, which is empty and lies nowhere.
    found = tuple((box, _place_of(places, name, box.offsets)) for box in boxes if box.numel)
    return Tensor(dtype.name, sizes_of(fields.get("size")), found)


def _chunk(value: object) -> dict[Any, Any]:
    return _fields(value, "ChunkStorageMetadata")


def _read_paths(value: object) -> Iterable[tuple[str, tuple[str | int, ...]]]:
    """Read where values stood in what was saved; what another planner left there is no such thing, and passed over."""
    for name, path in (items_of(value) or {}).items():
        if type(name) is str and type(path) is tuple and path and all(type(key) in (str, int) for key in path):
            yield name, path
