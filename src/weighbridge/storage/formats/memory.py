"""Sources without safetensors files: tensors in memory, and headers alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from weighbridge.base.errors import CheckpointError
from weighbridge.base.process.machines import check_byte_order
from weighbridge.base.specs import Header, check_keys
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
            CheckpointError: `tensor-not-found`, `data-missing` for a meta tensor, `tensor-bounds` for one whose storage
                was freed or made smaller since it was opened.
        """
        from weighbridge.storage.formats.tensor_kinds import Kind, kind_of

        tensor, where = self.held(key), f"{self.where}: {key}"
        if kind_of(tensor, where) is Kind.META:
            hint = "materialise the model first"
            raise CheckpointError("data-missing", "a meta tensor has no data", where=where, hint=hint)
        return tensor

    def read(self, key: str, start_byte: int, buffer: memoryview) -> None:
        """Fill the buffer with the tensor's row-major bytes, whatever its strides.

        Raises:
            CheckpointError: `tensor-not-found`, `data-missing`, `tensor-bounds`.
        """
        from weighbridge.storage.formats.torch_tensors import read_bytes

        check_byte_order()
        tensor = self.tensor(key)
        check_range(key, self.header[key].size_bytes, start_byte, buffer.nbytes, self.where)
        read_bytes(tensor, start_byte, buffer)

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
        CheckpointError: `tensor-unsupported` for a tensor that has no dense memory of its own, `tensor-bounds` for one
            that reaches beyond its storage, `dtype-unknown`, `name-too-long`, `header-invalid` for something else than
            tensors by text.
    """
    import torch

    from weighbridge.storage.formats.tensor_kinds import plain_tensor
    from weighbridge.storage.formats.torch_tensors import spec_of

    for key, tensor in tensors.items():
        if type(key) is not str or not isinstance(tensor, torch.Tensor):
            got = f"{type(tensor).__name__} under {key!r:.80}"
            raise CheckpointError("header-invalid", "this is no tensor by its key", where=where, got=got)
    check_keys(tensors, where)
    held = {key: plain_tensor(tensor, f"{where}: {key}") for key, tensor in tensors.items()}
    specs = {key: spec_of(tensor, f"{where}: {key}") for key, tensor in held.items()}
    return TensorsCheckpoint(where, Header(specs, ties=find_ties(held)), tensors=held)


def find_ties(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Find tensors that are the same elements of one storage; a conjugated view of one is none of them.

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
