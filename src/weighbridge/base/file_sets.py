"""How a checkpoint's tensors lie in files, recorded so closely that the same files can be written again.

A safetensors file is its head (8 length bytes and the header's JSON, exactly as it stands) followed by the tensors'
bytes. An image keeps the head and each tensor's place: with the tensors' bytes at hand the file is complete.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from weighbridge.base.errors import PlanError
from weighbridge.base.file_names import check_new_name
from weighbridge.base.forms.json_forms import deflate, inflate, items, number, text
from weighbridge.base.hashes import sha256_of
from weighbridge.base.specs import Placed

MAX_HEAD_BYTES: Final = 100_000_000 + 8
"""Largest head of one file: the format's limit on a header, and the eight length bytes."""

MAX_INDEX_BYTES: Final = 100_000_000
MAX_ALL_HEADS_BYTES: Final = 5 * MAX_HEAD_BYTES
"""Limit for the heads of all files together when a recorded form is read."""


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
            "head": deflate(self.head),
            "tensors": [list(placed) for placed in self.tensors],
        }

    @staticmethod
    def from_dict(form: Mapping[str, Any], limit_bytes: int = MAX_HEAD_BYTES) -> FileImage:
        """Read the JSON form; `planning.checking.check_files` must still vouch for it.

        Args:
            form: What `to_dict` gave.
            limit_bytes: Largest head to accept.

        Raises:
            PlanError: `plan-format`.
        """
        places = [items(placed, 3) for placed in items(form["tensors"])]
        return FileImage(
            text(form["name"]),
            number(form["size_bytes"]),
            inflate(form["head"], min(limit_bytes, MAX_HEAD_BYTES)),
            tuple([Placed(text(key), number(offset), number(size)) for key, offset, size in places]),
        )


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
            form["index_text"] = deflate(self.index_text)
        return form

    @property
    def digest(self) -> str:
        """SHA-256 of all that is recorded, in a form that does not depend on how it was deflated."""
        images = [[*image[:2], sha256_of(image.head), image.tensors] for image in self.images]
        index = [self.index_name, sha256_of(self.index_text)]
        return sha256_of(json.dumps([images, index]).encode())

    @staticmethod
    def from_dict(form: Mapping[str, Any]) -> FileSet:
        """Read the JSON form. Its names lead nowhere but into the directory that the files are written to.

        Raises:
            PlanError: `plan-format`.
            CheckpointError: `path-unsafe`.
        """
        images: list[FileImage] = []
        left_bytes = MAX_ALL_HEADS_BYTES
        for image in items(form["images"]):
            images.append(FileImage.from_dict(image, left_bytes))
            left_bytes -= len(images[-1].head)
        files = FileSet(tuple(images))
        if "index_name" in form:
            files = FileSet(files.images, text(form["index_name"]), inflate(form["index_text"], MAX_INDEX_BYTES))
        files.check_names()
        return files

    def check_names(self) -> None:
        """Refuse names that leave the directory, stand twice, or belong to the receipt.

        Raises:
            PlanError: `plan-format`.
            CheckpointError: `path-unsafe`.
        """
        names = [image.name for image in self.images] + [self.index_name] * bool(self.index_name or self.index_text)
        for name in names:
            check_new_name(name, "recorded files")
        if len(set(names)) != len(names):
            raise PlanError("plan-format", "two recorded files have one name")
