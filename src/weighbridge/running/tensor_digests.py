"""SHA-256 of every tensor of an output, and of what stands around them in its files.

In a receipt:

    "digests": {"algorithm": "sha256",
                "tensors": {key: hexadecimal digest of the tensor's row-major bytes},
                "files": {name: hexadecimal digest of a weight file's head, or of the whole shard index}}

SHA-256 is that of FIPS 180-4. A file's head is all that comes before its tensors' bytes, so that the digests of a
checkpoint account for each of its bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from weighbridge.base.batches import WINDOW_BYTES, run_in_batches, windows_of
from weighbridge.base.errors import CheckpointError
from weighbridge.base.file_sets import FileImage
from weighbridge.base.forms.json_forms import table, text
from weighbridge.base.hashes import sha256_of
from weighbridge.base.specs import Placed
from weighbridge.storage.places.regular_files import OpenFiles

if TYPE_CHECKING:
    from weighbridge.storage.protocol import Checkpoint, IndexText

ALGORITHM: Final = "sha256"
NO_DIGEST: Final = 64 * "0"
"""Takes the room of a digest that is not known yet."""
_DIGEST: Final = re.compile("[0-9a-f]{64}")


class Digests(NamedTuple):
    """Hexadecimal digests: of tensors by key, and of weight files' heads and the shard index by file name."""

    tensors: Mapping[str, str]
    files: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"algorithm": ALGORITHM, "tensors": dict(self.tensors), "files": dict(self.files)}

    @staticmethod
    def from_dict(form: object) -> Digests:
        """Read the JSON form.

        Raises:
            PlanError: `plan-format` for a value of another type.
            CheckpointError: `receipt-invalid` for another algorithm, or what is no digest.

        Examples:
            >>> Digests.from_dict({"algorithm": "sha256", "tensors": {}, "files": {"a": 64 * "0"}}).files["a"][:4]
            '0000'
        """
        parts = table(form)
        if parts["algorithm"] != ALGORITHM:
            raise CheckpointError(
                "receipt-invalid",
                "the receipt's digests are of an unknown algorithm",
                expected=ALGORITHM,
                got=repr(parts["algorithm"])[:80],
            )
        return Digests(_read_digests(parts["tensors"]), _read_digests(parts["files"]))


def _read_digests(form: object) -> dict[str, str]:
    digests = table(form)
    for name, digest in digests.items():
        if not _DIGEST.fullmatch(text(digest)):
            raise CheckpointError("receipt-invalid", "this is no digest", where=name[:200], got=repr(digest)[:80])
    return digests


def digest_tensor(checkpoint: Checkpoint, key: str) -> str:
    """Return the digest of a tensor's row-major bytes, read through one buffer of `batches.WINDOW_BYTES`.

    Raises:
        CheckpointError: The codes of reading.

    Examples:
        >>> import torch
        >>> from weighbridge.storage import open_checkpoint
        >>> digest_tensor(open_checkpoint({"a": torch.tensor([1, 2], dtype=torch.uint8)}), "a")[:8]
        'a12871fe'
    """
    return _digest(partial(checkpoint.read, key), checkpoint.header[key].size_bytes)


def _digest(read: Callable[[int, memoryview], None], size_bytes: int) -> str:
    from hashlib import sha256

    running = sha256()
    buffer = memoryview(bytearray(min(WINDOW_BYTES, size_bytes)))
    for start, stop in windows_of(size_bytes):
        window = buffer[: stop - start]
        read(start, window)
        running.update(window)
    return running.hexdigest()


def digest_files(images: Iterable[FileImage], index: IndexText | None) -> dict[str, str]:
    """Return the digests of weight files' heads and of the shard index, by file name."""
    found = {image.name: sha256_of(image.head) for image in images}
    return found | ({index.name: sha256_of(index.text)} if index is not None else {})


def digest_written(
    directory: Path,
    images: Iterable[FileImage],
    index: IndexText | None,
    elsewhere: Mapping[str, Path] = MappingProxyType({}),
) -> Digests:
    """Return the digests of files that have just been written; their tensors are read back, several at a time.

    Args:
        directory: Where the files are. Their heads need not be there yet.
        images: What was to be written.
        index: The shard index; it need not be there yet either.
        elsewhere: Files that lie in another place, by name.

    Raises:
        CheckpointError: The codes of reading.
    """
    images = tuple(images)
    paths = {image.name: elsewhere.get(image.name, directory / image.name) for image in images}
    places = [(paths[image.name], placed) for image in images for placed in image.tensors]
    files = OpenFiles({}, is_passing=True)

    def work(place: tuple[Path, Placed]) -> str:
        path, (_, offset, size_bytes) = place
        return _digest(lambda start, buffer: files.read(path, offset + start, buffer), size_bytes)

    found = run_in_batches(work, places, lambda place: place[1].size_bytes)
    tensors = {placed.key: digest for (_, placed), digest in zip(places, found, strict=True)}
    return Digests(dict(sorted(tensors.items())), digest_files(images, index))
