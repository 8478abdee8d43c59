"""The border between torch and bytes: specs of tensors, tensors over bytes, bytes of tensors.

This module imports torch; the others import it when a tensor is needed, not before.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from functools import cache, lru_cache
from typing import Any

import torch

from weighbridge.base.errors import CheckpointError
from weighbridge.base.specs import DTYPES, Shape, TensorSpec, dtype_named

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
def _code_of(dtype: torch.dtype) -> str:
    return dtype_named(str(dtype)).code


def spec_of(tensor: torch.Tensor) -> TensorSpec:
    """Return a tensor's spec.

    Raises:
        CheckpointError: `dtype-unknown` for a dtype, or a kind of tensor, that no file can hold; without the key.

    Examples:
        >>> print(spec_of(torch.zeros(2, 3, dtype=torch.bfloat16)))
        BF16 [2, 3]
    """
    if tensor.layout != torch.strided or tensor.is_quantized:
        got = f"{tensor.layout}, {tensor.dtype}"
        raise CheckpointError("dtype-unknown", "this is no dense tensor", expected="a strided tensor", got=got)
    return _spec_of(tensor.dtype, tuple(tensor.shape))


@lru_cache(maxsize=4096)
def _spec_of(dtype: torch.dtype, shape: Shape) -> TensorSpec:
    code = _code_of(dtype)
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


def bytes_of(tensor: torch.Tensor) -> memoryview:
    r"""Return a tensor's row-major bytes: a view of its own memory if it is dense and on the CPU, else of a copy.

    Raises:
        CheckpointError: `data-missing` for a meta tensor; without the key.

    Examples:
        >>> bytes_of(torch.tensor([1, 2], dtype=torch.int16)).tobytes()
        b'\x01\x00\x02\x00'
    """
    if tensor.is_meta:
        raise CheckpointError("data-missing", "a meta tensor has no data")
    dense = tensor.detach().resolve_conj().resolve_neg().to("cpu").contiguous()
    size_bytes = dense.numel() * dense.element_size()
    if size_bytes == 0:
        return memoryview(b"")
    array = (ctypes.c_ubyte * size_bytes).from_address(dense.data_ptr())
    # The view holds the array, and the array the tensor: the memory lives as long as somebody can see it.
    array.owner = dense  # type: ignore[attr-defined]
    return memoryview(array).cast("B")


def tie_of(tensor: torch.Tensor) -> tuple[object, ...] | None:
    """Return what two tensors have in common if, and only if, they are the same elements of one storage."""
    if tensor.numel() == 0:
        return None
    try:
        # All meta storages start at address 0; there the storage object tells them apart.
        place = tensor.untyped_storage()._cdata if tensor.is_meta else tensor.data_ptr()
    except (NotImplementedError, RuntimeError):
        return None
    return place, tensor.device, tensor.dtype, tensor.storage_offset() if tensor.is_meta else 0, *_strides(tensor)


def _strides(tensor: torch.Tensor) -> tuple[object, ...]:
    return tuple(tensor.shape), tensor.stride()
