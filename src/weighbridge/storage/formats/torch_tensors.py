"""The border between torch and bytes: specs of tensors, tensors over bytes, bytes of tensors.

This module imports torch; the others import it when a tensor is needed, not before.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Any, Final

import torch

from weighbridge.base.errors import CheckpointError
from weighbridge.base.specs import DTYPES, Shape, TensorSpec, dtype_named
from weighbridge.storage.formats.tensor_kinds import Kind, is_plain, kind_of, plain_tensor

_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)
_MAP_FAILED = ctypes.c_void_p(-1).value
_LIBRARY = ctypes.CDLL(None, use_errno=True)
_LIBRARY.mmap.restype = ctypes.c_void_p
_LIBRARY.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
_LIBRARY.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def torch_layout(spec: TensorSpec) -> tuple[torch.dtype, Shape] | None:
    """Return the torch dtype and shape of a spec, or None where torch has no such dtype.

    Two elements of `F4` are one of torch's `float4_e2m1fn_x2`: its last axis is halved, as in the safetensors library.

    Examples:
        >>> torch_layout(TensorSpec("F4", (3, 8)))
        (torch.float4_e2m1fn_x2, (3, 4))
        >>> torch_layout(TensorSpec("F6_E2M3", (4,))) is None
        True
    """
    dtype = getattr(torch, DTYPES[spec.dtype].torch_name or " ", None)
    if not isinstance(dtype, torch.dtype):
        return None
    if spec.dtype != "F4":
        return dtype, spec.shape
    if not spec.shape or spec.shape[-1] % 2:
        return None
    return dtype, (*spec.shape[:-1], spec.shape[-1] // 2)


@cache
def dtype_of(code: str) -> torch.dtype:
    """Return torch's dtype for a safetensors code; uint8 for those that torch does not have.

    Examples:
        >>> dtype_of("BF16"), dtype_of("F6_E2M3")
        (torch.bfloat16, torch.uint8)
    """
    layout = torch_layout(TensorSpec(code, (2,)))
    return torch.uint8 if layout is None else layout[0]


@cache
def code_of(dtype: torch.dtype) -> str:
    """Return the safetensors code of torch's dtype.

    Raises:
        CheckpointError: `dtype-unknown`.

    Examples:
        >>> code_of(torch.bfloat16)
        'BF16'
    """
    return dtype_named(str(dtype)).code


def spec_of(tensor: torch.Tensor, where: str = "") -> TensorSpec:
    """Return a tensor's spec.

    Raises:
        CheckpointError: `dtype-unknown` for a dtype that no file can hold, and as `kind_of`.

    Examples:
        >>> print(spec_of(torch.zeros(2, 3, dtype=torch.bfloat16)))
        BF16 [2, 3]
    """
    kind_of(tensor, where)
    tensor = plain_tensor(tensor)
    try:
        return _spec_of(tensor.dtype, tuple(tensor.shape))
    except CheckpointError as error:
        raise error.with_context(where=where) from None


@lru_cache(maxsize=4096)
def _spec_of(dtype: torch.dtype, shape: Shape) -> TensorSpec:
    code = code_of(dtype)
    if code != "F4":
        return TensorSpec(code, shape)
    if not shape:
        raise CheckpointError("dtype-unknown", "a float4 tensor has no axis", expected="at least one axis")
    return TensorSpec(code, (*shape[:-1], shape[-1] * 2))


FileMap = ctypes.Array[ctypes.c_ubyte]
"""The bytes of a mapped file; the map lives as long as somebody holds them."""


class _Mapped:
    """Memory that a file is mapped to, until this is given up."""

    def __init__(self, address: int, size_bytes: int) -> None:
        self.address = address
        self.size_bytes = size_bytes

    def __del__(self, unmap: Any = _LIBRARY.munmap) -> None:
        unmap(self.address, self.size_bytes)


def map_file(descriptor: int, size_bytes: int) -> FileMap:
    """Map a whole file so that nothing written to the map reaches the file; no memory is set aside for writing.

    torch warns about read-only buffers, so the map is a private one that may be written to. Python's own maps hold a
    descriptor each for as long as they live, and a process has only so many: a model of a thousand shards has more.

    Raises:
        OSError: As the system says.
    """
    flags = mmap.MAP_PRIVATE | _NO_RESERVE
    address = _LIBRARY.mmap(None, size_bytes, mmap.PROT_READ | mmap.PROT_WRITE, flags, descriptor, 0)
    if address in (None, _MAP_FAILED):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    array = (ctypes.c_ubyte * size_bytes).from_address(address)
    array.owner = _Mapped(address, size_bytes)  # type: ignore[attr-defined]
    return array


def tensor_over(buffer: FileMap | bytearray | memoryview, offset: int, spec: TensorSpec) -> torch.Tensor:
    """Return the tensor that lies in a buffer, without copying where its alignment allows that.

    Args:
        buffer: Holds the tensor's row-major bytes; itself aligned to at least 8 bytes. The tensor keeps it alive.
        offset: Where they start, in bytes.
        spec: What they mean. A dtype that torch lacks comes as one axis of uint8.
    """
    layout = torch_layout(spec)
    if spec.size_bytes == 0:
        dtype, shape = layout or (torch.uint8, (0,))
        return torch.empty(shape, dtype=dtype, device="cpu")
    if layout is None:
        return torch.frombuffer(buffer, dtype=torch.uint8, count=spec.size_bytes, offset=offset)
    dtype, shape = layout
    if offset % dtype.itemsize == 0:
        return torch.frombuffer(buffer, dtype=dtype, count=spec.size_bytes // dtype.itemsize, offset=offset).view(shape)
    flat = torch.frombuffer(buffer, dtype=torch.uint8, count=spec.size_bytes, offset=offset)
    return flat.clone().view(dtype).reshape(shape)


def is_aligned(offset: int, spec: TensorSpec) -> bool:
    """Tell whether `tensor_over` gives a view of what lies at `offset`, and not a copy.

    Examples:
        >>> is_aligned(6, TensorSpec("F16", (2,))), is_aligned(6, TensorSpec("F32", (2,)))
        (True, False)
    """
    layout = torch_layout(spec)
    return layout is None or offset % layout[0].itemsize == 0


# Bytes of tensors


def bytes_of(tensor: torch.Tensor) -> memoryview:
    r"""Return a tensor's row-major bytes: a view of its own memory if it is dense and on the CPU, else of a copy.

    Raises:
        CheckpointError: `data-missing` for a meta tensor; as `kind_of`; without the key.

    Examples:
        >>> bytes_of(torch.tensor([1, 2], dtype=torch.int16)).tobytes()
        b'\x01\x00\x02\x00'
    """
    dense = row_major(tensor)
    size_bytes = dense.numel() * dense.element_size()
    if size_bytes == 0:
        return memoryview(b"")
    array = (ctypes.c_ubyte * size_bytes).from_address(dense.data_ptr())
    # The view holds the array, and the array the tensor: the memory lives as long as somebody can see it.
    array.owner = dense  # type: ignore[attr-defined]
    return memoryview(array).cast("B")


def row_major(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor's elements dense and on the CPU: the tensor itself if they are, else a copy, bit for bit.

    Raises:
        CheckpointError: As `bytes_of`.
    """
    kind = kind_of(tensor)
    if kind is Kind.META:
        raise CheckpointError("data-missing", "a meta tensor has no data")
    found = plain_tensor(tensor).detach()
    if kind is Kind.LAZY:
        found = found.resolve_conj().resolve_neg()
    return _of_bytes(found).to("cpu").contiguous().view(found.dtype)


def _of_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """View elements of a byte each as numbers: where torch copies bools by strides, every byte but 0 becomes a 1."""
    return tensor.view(torch.uint8) if tensor.element_size() == 1 else tensor


def put_elements(target: torch.Tensor, source: torch.Tensor) -> None:
    """Copy a tensor of the same shape and dtype into another one of any strides, bit for bit.

    Args:
        target: What is written, conjugated if it is a conjugated view.
        source: What is read, on any device.
    """
    _of_bytes(target.detach()).copy_(_of_bytes(source.detach()))


PART_NUMEL: Final = 2**15 - 1
"""torch spreads an operation on more elements over threads of its own; here the callers are the threads."""


def read_bytes(tensor: torch.Tensor, start_byte: int, buffer: memoryview) -> None:
    r"""Fill a buffer with a tensor's row-major bytes, whatever its strides and its device; nothing else is copied.

    Args:
        tensor: The tensor.
        start_byte: Where to begin among its bytes; with the buffer's size within them.
        buffer: What is filled.

    Raises:
        CheckpointError: As `bytes_of`.

    Examples:
        >>> found = bytearray(3)
        >>> read_bytes(torch.tensor([[1, 2], [3, 4]], dtype=torch.int8).t(), 1, memoryview(found))
        >>> found
        bytearray(b'\x03\x02\x04')
    """
    with buffer.cast("B") as view:
        if not len(view):
            return
        if is_plain(tensor):
            view[:] = bytes_of(tensor)[start_byte : start_byte + len(view)]
            return
        itemsize = tensor.element_size()
        start, skipped = divmod(start_byte, itemsize)
        stop = -(-(start_byte + len(view)) // itemsize)
        if not skipped and stop * itemsize == start_byte + len(view) and _address(view) % itemsize == 0:
            _fill(torch.frombuffer(view, dtype=tensor.dtype), tensor, start, stop)
            return
        whole = torch.empty(stop - start, dtype=tensor.dtype, device="cpu")
        _fill(whole, tensor, start, stop)
        view[:] = bytes_of(whole)[skipped : skipped + len(view)]


def _address(view: memoryview) -> int:
    return torch.frombuffer(view, dtype=torch.uint8).data_ptr()


def _fill(buffer: torch.Tensor, tensor: torch.Tensor, start: int, stop: int) -> None:
    """Fill a flat buffer with elements [start, stop) of a tensor's row-major value."""
    if kind_of(tensor) is Kind.META:
        raise CheckpointError("data-missing", "a meta tensor has no data")
    source = tensor.detach()
    step = PART_NUMEL if source.device.type == "cpu" else stop - start
    done = 0
    for first in range(start, stop, step):
        for part in _parts(source, first, min(first + step, stop)):
            put_elements(buffer[done : done + part.numel()].view(part.shape), part)
            done += part.numel()


def _parts(tensor: torch.Tensor, start: int, stop: int) -> Iterator[torch.Tensor]:
    """Yield parts of a tensor whose elements, one part after the other, are [start, stop) of its row-major value."""
    if tensor.dim() < 2:
        yield tensor.view(-1)[start:stop] if tensor.dim() == 0 else tensor[start:stop]
        return
    row = tensor[0].numel()
    (first, head), (last, tail) = divmod(start, row), divmod(stop, row)
    if first == last:
        yield from _parts(tensor[first], head, tail)
        return
    if head:
        yield from _parts(tensor[first], head, row)
        first += 1
    if first < last:
        yield tensor[first:last]
    if tail:
        yield from _parts(tensor[last], 0, tail)


# Memory that tensors share


def tie_of(tensor: torch.Tensor) -> tuple[object, ...] | None:
    """Return what two tensors have in common if, and only if, they are the same elements of one storage.

    A conjugated or negated view has other elements than what it is a view of; two such views have the same.
    """
    place = address_of(tensor)
    if place is None:
        return None
    tensor = plain_tensor(tensor)
    if tensor.numel() == 0:
        return None
    lazy = tensor.is_conj(), tensor.is_neg()
    # All meta storages start at address 0; there the storage object tells them apart.
    offset = tensor.storage_offset() if tensor.is_meta else 0
    return place, tensor.device, tensor.dtype, lazy, offset, tuple(tensor.shape), tensor.stride()


def address_of(tensor: torch.Tensor) -> int | None:
    """Return where a tensor's memory begins, for a meta tensor what tells its storage from others; None for neither."""
    try:
        kind, tensor = kind_of(tensor), plain_tensor(tensor)
        return tensor.untyped_storage()._cdata if kind is Kind.META else tensor.data_ptr()
    except (CheckpointError, NotImplementedError, RuntimeError):
        return None


def storage_span(tensor: torch.Tensor) -> tuple[int, int] | None:
    """Return the addresses between which a tensor's whole storage lies; None for one without an address.

    Raises:
        CheckpointError: As `kind_of`.
    """
    if kind_of(tensor) is Kind.META:
        return None
    try:
        storage = plain_tensor(tensor).untyped_storage()
    except NotImplementedError:
        return None
    return storage.data_ptr(), storage.data_ptr() + storage.nbytes()
