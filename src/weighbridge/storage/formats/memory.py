"""Sources without safetensors files: tensors in memory, and headers alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from weighbridge.base.errors import CheckpointError
from weighbridge.base.specs import Header, TensorSpec, check_keys
from weighbridge.storage.formats.opened import Opened
from weighbridge.storage.lookup import check_range, not_found
from weighbridge.storage.protocol import Extent

if TYPE_CHECKING:
    import torch


class HeaderCheckpoint(Opened):
    """A header without data: enough to plan, not to read."""

    __slots__ = ()

    def extent(self, key: str) -> Extent | None:
        """Return None: no file holds the bytes.

        Raises:
            CheckpointError: `tensor-not-found`.
        """
        if key not in self.header:
            raise not_found(key, self.header, self.where)
        return None

    def tensor(self, key: str) -> torch.Tensor:
        """Fail: there is no data.

        Raises:
            CheckpointError: `data-missing`, `tensor-not-found`.
        """
        self.extent(key)
        hint = "open the checkpoint that this header was taken from"
        raise CheckpointError("data-missing", "a header alone has no data", where=f"{self.where}: {key}", hint=hint)

    def read(self, key: str, start_byte: int, buffer: memoryview) -> None:
        """Fail: there is no data.

        Raises:
            CheckpointError: `data-missing`, `tensor-not-found`.
        """
        self.tensor(key)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TensorsCheckpoint(Opened):
    """Tensors in memory, or mapped by `torch.load`.

    Args:
        tensors: The tensors: of any strides, on any device, meta ones included.
    """

    tensors: Mapping[str, torch.Tensor]

    def extent(self, key: str) -> Extent | None:
        """Return None: the bytes are in memory.

        Raises:
            CheckpointError: `tensor-not-found`.
        """
        self.held(key)
        return None

    def tensor(self, key: str) -> torch.Tensor:
        """Return the tensor as it is.

        Raises:
            CheckpointError: `tensor-not-found`, `data-missing` for a meta tensor.
        """
        tensor = self.held(key)
        if tensor.is_meta:
            where, hint = f"{self.where}: {key}", "materialise the model first"
            raise CheckpointError("data-missing", "a meta tensor has no data", where=where, hint=hint)
        return tensor

    def read(self, key: str, start_byte: int, buffer: memoryview) -> None:
        """Fill the buffer with the tensor's row-major bytes; a tensor that is not dense is copied whole for that.

        Raises:
            CheckpointError: `tensor-not-found`, `data-missing`, `tensor-bounds`.
        """
        from weighbridge.storage.formats.torch_tensors import bytes_of

        source = bytes_of(self.tensor(key))
        check_range(key, len(source), start_byte, buffer.nbytes, self.where)
        with buffer.cast("B") as view:
            view[:] = source[start_byte : start_byte + len(view)]

    def held(self, key: str) -> torch.Tensor:
        """Return the tensor as it is, a meta one included.

        Raises:
            CheckpointError: `tensor-not-found`.
        """
        try:
            return self.tensors[key]
        except KeyError:
            raise not_found(key, self.header, self.where) from None

    def held_tensors(self) -> Iterable[torch.Tensor]:
        """Return all tensors."""
        return self.tensors.values()


def hold_tensors(tensors: Mapping[str, torch.Tensor], where: str = "tensors in memory") -> TensorsCheckpoint:
    """Make a checkpoint of tensors by key; nothing is copied, moved or read.

    Raises:
        CheckpointError: `dtype-unknown`, `name-too-long`, `header-invalid` for something else than tensors by text.
    """
    import torch

    for key, tensor in tensors.items():
        if type(key) is not str or not isinstance(tensor, torch.Tensor):
            got = f"{type(tensor).__name__} under {key!r:.80}"
            raise CheckpointError("header-invalid", "this is no tensor by its key", where=where, got=got)
    check_keys(tensors, where)
    header = Header(_specs_of(tensors, where), ties=find_ties(tensors))
    return TensorsCheckpoint(where, header, tensors=dict(tensors))


def _specs_of(tensors: Mapping[str, torch.Tensor], where: str) -> dict[str, TensorSpec]:
    from weighbridge.storage.formats.torch_tensors import spec_of

    specs = {}
    for key, tensor in tensors.items():
        try:
            specs[key] = spec_of(tensor)
        except CheckpointError as error:
            raise CheckpointError(
                error.code, "this tensor cannot be described", where=f"{where}: {key}", got=error.got or error.where
            ) from None
    return specs


def find_ties(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Find tensors that are the same elements of one storage.

    Returns:
        For each key but the first by name of every such set, that first key.
    """
    from weighbridge.storage.formats.torch_tensors import tie_of

    first: dict[tuple[object, ...], str] = {}
    ties = {}
    for key in sorted(tensors):
        tie = tie_of(tensors[key])
        if tie is not None and first.setdefault(tie, key) != key:
            ties[key] = first[tie]
    return ties
