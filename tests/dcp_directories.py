"""Directories of torch.distributed.checkpoint, written by torch's own classes, with chunks of any shape."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

Box = tuple[tuple[int, ...], tuple[int, ...]]
"""Offsets and sizes."""


def item_of(value: object) -> bytes:
    """Return what torch saves for a chunk, or for an object."""
    buffer = io.BytesIO()
    torch.save(value.clone() if isinstance(value, torch.Tensor) else value, buffer)
    return buffer.getvalue()


def part_of(tensor: torch.Tensor, box: Box) -> torch.Tensor:
    """Return what a box holds."""
    return tensor[tuple(slice(start, start + size) for start, size in zip(*box, strict=True))]


def whole_box(tensor: torch.Tensor) -> Box:
    """Return the box that is all of a tensor."""
    return (0,) * tensor.dim(), tuple(tensor.shape)


def write_dcp(
    directory: Path,
    tensors: Mapping[str, torch.Tensor],
    boxes: Mapping[str, Sequence[Box]] = {},
    *,
    objects: Mapping[str, Any] = {},
    paths: Mapping[str, tuple[str | int, ...]] | None = None,
    files: int = 2,
    metadata: Any = None,
) -> Path:
    """Write a directory.

    Args:
        directory: Where.
        tensors: The tensors by name.
        boxes: The chunks that each is cut into; one by default.
        objects: What is no tensor, by name.
        paths: Where the values stood in what was saved; None to say nothing of it.
        files: Over how many files the items are spread.
        metadata: Changes the metadata before it is written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    names = [f"__{number}_0.distcp" for number in range(files)]
    contents = [bytearray() for _ in names]
    described: dict[str, Any] = {}
    places: dict[MetadataIndex, _StorageInfo] = {}

    def put(index: MetadataIndex, item: bytes) -> None:
        number = len(places) % files
        places[index] = _StorageInfo(names[number], len(contents[number]), len(item))
        contents[number] += item

    for name, tensor in tensors.items():
        cut = boxes.get(name, [whole_box(tensor)])
        chunks = [ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)) for offsets, sizes in cut]
        described[name] = TensorStorageMetadata(TensorProperties(tensor.dtype), tensor.size(), chunks)
        for number, box in enumerate(cut):
            put(MetadataIndex(name, torch.Size(box[0]), number), item_of(part_of(tensor, box)))
    for name, value in objects.items():
        described[name] = BytesStorageMetadata()
        put(MetadataIndex(name), item_of(value))
    made = Metadata(described, planner_data=paths, storage_data=places)
    if metadata is not None:
        metadata(made)
    for name, content in zip(names, contents, strict=True):
        (directory / name).write_bytes(content)
    (directory / ".metadata").write_bytes(pickle.dumps(made))
    return directory


@st.composite
def cuts(draw: st.DrawFn, shape: tuple[int, ...]) -> list[Box]:
    """Draw boxes that tile a shape: it is cut in two, on any axis, a few times; what comes out is often no grid."""
    boxes: list[Box] = [((0,) * len(shape), shape)]
    for _ in range(draw(st.integers(0, 5))):
        number = draw(st.integers(0, len(boxes) - 1))
        offsets, sizes = boxes[number]
        axes = [axis for axis, size in enumerate(sizes) if size > 1]
        if axes:
            axis = draw(st.sampled_from(axes))
            at = draw(st.integers(1, sizes[axis] - 1))
            first = (*sizes[:axis], at, *sizes[axis + 1 :])
            second = (*sizes[:axis], sizes[axis] - at, *sizes[axis + 1 :])
            after = (*offsets[:axis], offsets[axis] + at, *offsets[axis + 1 :])
            boxes[number : number + 1] = [(offsets, first), (after, second)]
    return draw(st.permutations(boxes))
