"""How a checkpoint's tensors lie in files, recorded so closely that the same files can be written again.

A safetensors file is its head (8 length bytes and the header's JSON, exactly as it stands) followed by the tensors'
bytes. An image keeps the head and each tensor's place: with the tensors' bytes at hand the file is complete.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple


class Placed(NamedTuple):
    """Where a tensor's bytes lie in its file; offset and size in bytes from the file's start."""

    key: str
    offset: int
    size_bytes: int


class FileImage(NamedTuple):
    """One safetensors file without its tensors' values.

    Args:
        name: Path relative to the checkpoint's directory, with forward slashes.
        size_bytes: Size of the whole file.
        head: Everything before the first tensor's bytes.
        tensors: The place of each tensor, in order of offsets.
    """

    name: str
    size_bytes: int
    head: bytes
    tensors: tuple[Placed, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form; the head is deflated and in base64."""
        return {
            "name": self.name,
            "size_bytes": self.size_bytes,
            "head": base64.b64encode(zlib.compress(self.head, 6)).decode(),
            "tensors": [list(placed) for placed in self.tensors],
        }

    @staticmethod
    def from_dict(form: Mapping[str, Any]) -> FileImage:
        """Read the JSON form."""
        head = zlib.decompress(base64.b64decode(form["head"]))
        return FileImage(form["name"], form["size_bytes"], head, tuple(Placed(*placed) for placed in form["tensors"]))


@dataclass(frozen=True, slots=True)
class FileSet:
    """The files of one checkpoint, and its shard index.

    Args:
        images: One for each safetensors file, sorted by name.
        index_name: Name of the index file; empty for a checkpoint without one.
        index_text: The index file's exact bytes.
    """

    images: tuple[FileImage, ...]
    index_name: str = ""
    index_text: bytes = b""

    @property
    def size_bytes(self) -> int:
        """Sum of the files' sizes, the index included."""
        return sum(image.size_bytes for image in self.images) + len(self.index_text)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        form: dict[str, Any] = {"images": [image.to_dict() for image in self.images]}
        if self.index_name:
            form["index_name"] = self.index_name
            form["index_text"] = base64.b64encode(zlib.compress(self.index_text, 6)).decode()
        return form

    @staticmethod
    def from_dict(form: Mapping[str, Any]) -> FileSet:
        """Read the JSON form."""
        images = tuple(FileImage.from_dict(image) for image in form["images"])
        if "index_name" not in form:
            return FileSet(images)
        return FileSet(images, form["index_name"], zlib.decompress(base64.b64decode(form["index_text"])))
