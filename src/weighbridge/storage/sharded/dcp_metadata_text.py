"""Write the `.metadata` of a directory of torch.distributed.checkpoint: what `dcp_metadata` reads, and torch does.

No class of torch's is made for it, so that the text depends on nothing but the tensors and where they lie.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from weighbridge.base.specs import Shape
from weighbridge.storage.formats.pickles import Global, Made
from weighbridge.storage.outputs.pickle_text import pickle_value
from weighbridge.storage.sharded.boxes import Box
from weighbridge.storage.sharded.dcp_metadata import DCP_CLASSES, Described, Item, Tensor

_VERSION: Final = "1.0.0"
"""The version that torch writes since it writes one (torch/distributed/checkpoint/metadata.py)."""
_CONTIGUOUS: Final = Made(Global(DCP_CLASSES, "_MEM_FORMAT_ENCODING"), (0,))
_STRIDED: Final = Made(Global("torch.serialization", "_get_layout"), ("torch.strided",))


def metadata_text(described: Described) -> bytes:
    """Return the bytes of a directory's metadata.

    Args:
        described: What it is to say.

    Examples:
        >>> from weighbridge.storage.sharded.dcp_metadata import read_metadata
        >>> whole = (Box((0, 0), (2, 3)), Item("__0_0.distcp", 0, 900))
        >>> said = Described({"model.w": Tensor("float32", (2, 3), (whole,))}, {}, {"model.w": ("model", "w")})
        >>> read_metadata(metadata_text(said)) == said
        True
    """
    places: dict[Any, Any] = {}
    for name, tensor in described.tensors.items():
        for number, (box, item) in enumerate(tensor.chunks):
            index = {"fqn": name, "index": number, "offset": _size(box.offsets)}
            places[_object("MetadataIndex", index)] = _place(item)
    for name, item in described.objects.items():
        places[_object("MetadataIndex", {"fqn": name, "index": None})] = _place(item)
    values = {name: _tensor(tensor) for name, tensor in described.tensors.items()}
    values |= {name: _object("BytesStorageMetadata", {}) for name in described.objects}
    return pickle_value(
        _object(
            "Metadata",
            {
                "state_dict_metadata": values,
                "planner_data": {name: described.path(name) for name in values},
                "storage_data": places,
                "storage_meta": _object(
                    "StorageMeta", {"checkpoint_id": None, "save_id": None, "load_id": None, "modules": []}
                ),
                "version": _VERSION,
            },
        )
    )


def _object(name: str, fields: Mapping[str, Any], module: str = DCP_CLASSES) -> Made:
    return Made(Global(module, name), (), dict(fields))


def _size(sizes: Shape) -> Made:
    return Made(Global("torch", "Size"), (sizes,))


def _place(item: Item) -> Made:
    fields = {"relative_path": item.name, "offset": item.offset, "length": item.size_bytes}
    return _object("_StorageInfo", fields, "torch.distributed.checkpoint.filesystem")


def _tensor(tensor: Tensor) -> Made:
    properties = _object("TensorProperties", {})
    properties.state = (Global("torch", tensor.dtype), _STRIDED, False, _CONTIGUOUS, False)
    chunks = [_chunk(box) for box, _ in tensor.chunks]
    fields = {"properties": properties, "size": _size(tensor.shape), "chunks": chunks}
    return _object("TensorStorageMetadata", fields)


def _chunk(box: Box) -> Made:
    return _object("ChunkStorageMetadata", {"offsets": _size(box.offsets), "sizes": _size(box.sizes)})
