"""What a tensor is, before anybody takes its address.

Much that torch calls a tensor has no dense memory of its own: one rank's view of a distributed tensor, nested, sparse
and fake ones, those whose storage was freed. To take their address ends the process, or gives the bytes of something
else. `kind_of` decides, by what a tensor is and not by what it says of itself, and refuses all others by name.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple

import torch
from torch.nn.parameter import is_lazy

from weighbridge.base.errors import CheckpointError


class Kind(Enum):
    """How a tensor holds its elements."""

    PLAIN = "each lies in memory as it is, within the tensor's storage"
    LAZY = "what lies in memory is their conjugate or their negative"
    META = "there are none, but a dtype and a shape"


class _Strange(NamedTuple):
    """A kind of tensor without dense memory of its own, and what to give instead of it."""

    what: str
    hint: str


_SUBCLASSES: Final = {
    "DTensor": "give what its .full_tensor() returns, which every rank must call",
    "AsyncCollectiveTensor": "give what its .wait() returns",
    "FakeTensor": "make it outside of FakeTensorMode, or on the meta device",
    "NestedTensor": "give the tensors that its .unbind() returns",
}
_ORDINARY: Final = (torch.Tensor, torch.nn.Parameter)


def kind_of(tensor: torch.Tensor, where: str = "") -> Kind:
    """Decide what a tensor is, before its address is taken.

    Args:
        tensor: Anything that torch calls a tensor.
        where: What to call it in a message.

    Raises:
        CheckpointError: `tensor-unsupported` for what has no dense memory of its own, by its name; `tensor-bounds` for
            what reaches beyond its storage, as it does when that was freed or made smaller.

    Examples:
        >>> kind_of(torch.zeros(2, dtype=torch.complex64).conj())
        <Kind.LAZY: 'what lies in memory is their conjugate or their negative'>
    """
    if type(tensor) in _ORDINARY:
        return _kind_of(tensor, where)
    strange = _strange_class(tensor)
    if strange is not None:
        raise _unsupported(strange, where)
    # A subclass may answer for its attributes with code of its own.
    with torch._C.DisableTorchFunctionSubclass():
        return _kind_of(tensor, where)


def _kind_of(tensor: torch.Tensor, where: str) -> Kind:
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested:
        raise _unsupported(_strange_layout(tensor), where)
    if tensor.is_meta:
        return Kind.META
    if tensor.numel():
        _check_memory(tensor, where)
    return Kind.LAZY if tensor.is_conj() or tensor.is_neg() else Kind.PLAIN


def _unsupported(strange: _Strange, where: str) -> CheckpointError:
    what, expected = "this tensor has no dense memory of its own", "a dense tensor"
    return CheckpointError(
        "tensor-unsupported", what, where=where, expected=expected, got=strange.what, hint=strange.hint
    )


def _strange_class(tensor: torch.Tensor) -> _Strange | None:
    """Recognise what intercepts every operation, and what has no shape yet."""
    if is_lazy(tensor):
        hint = "run the model once, so that its lazy modules learn their shapes"
        return _Strange(f"an {type(tensor).__name__}", hint)
    if type(tensor).__torch_dispatch__ is torch.Tensor.__torch_dispatch__:
        return None
    known = [kind.__name__ for kind in type(tensor).__mro__ if kind.__name__ in _SUBCLASSES]
    hint = _SUBCLASSES[known[0]] if known else "give the plain tensor that it stands for"
    return _Strange(f"a {type(tensor).__name__}", hint)


def _strange_layout(tensor: torch.Tensor) -> _Strange:
    if tensor.is_nested:
        return _Strange("a nested tensor", "give the tensors that its .unbind() returns")
    if tensor.is_quantized:
        hint = "give its .int_repr() and its scales, or its .dequantize()"
        return _Strange(f"a quantised tensor, {tensor.dtype}", hint)
    return _Strange(f"a tensor of the layout {tensor.layout}", "give its .to_dense()")


def _check_memory(tensor: torch.Tensor, where: str) -> None:
    """Check that a tensor's elements lie within its storage, and that the storage has memory."""
    try:
        storage = tensor.untyped_storage()
    except NotImplementedError:
        if tensor.device.type in ("cpu", "cuda"):
            raise _unsupported(_without_memory(tensor), where) from None
        return  # of a device that keeps its memory to itself, and gives copies alone
    numel = tensor.numel() if tensor.is_contiguous() else span_numel(tensor)
    needed = (tensor.storage_offset() + numel) * tensor.element_size()
    if storage.nbytes() < needed:
        hint = "give it while it has its memory; what shards a model frees its parameters until they are gathered"
        expected, got = f"a storage of at least {needed:,} bytes", f"{storage.nbytes():,} bytes"
        what = "this tensor reaches beyond its storage, which was freed or made smaller"
        raise CheckpointError("tensor-bounds", what, where=where, expected=expected, got=got, hint=hint)
    if not _has_memory(storage):
        raise _unsupported(_without_memory(tensor), where)


def _has_memory(storage: torch.UntypedStorage) -> bool:
    try:
        return storage.data_ptr() != 0
    except RuntimeError:
        return False


def _without_memory(tensor: torch.Tensor) -> _Strange:
    if torch._is_functional_tensor(tensor):
        return _Strange("a functional tensor", "give tensors from outside of torch.func.functionalize")
    if tensor._is_zerotensor():
        return _Strange("a tensor of zeros without memory", "give its .clone()")
    return _Strange("a tensor without a storage", "give tensors from outside of torch.func's transforms")


def span_numel(tensor: torch.Tensor) -> int:
    """Return how many elements of its storage a tensor spans, from its first element on.

    Examples:
        >>> span_numel(torch.zeros(4, 3)[:, 0]), span_numel(torch.zeros(1).expand(7))
        (10, 1)
    """
    return sum([(size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)]) + 1


def is_plain(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor's elements lie in the CPU's memory one after the other, as they are.

    Raises:
        CheckpointError: As `kind_of`.
    """
    return kind_of(tensor) is Kind.PLAIN and tensor.device.type == "cpu" and tensor.is_contiguous()


def plain_tensor(tensor: torch.Tensor, where: str = "") -> torch.Tensor:
    """Return a tensor's elements, in the same memory, without the code of a subclass of its own.

    Raises:
        CheckpointError: As `kind_of`.
    """
    if type(tensor) in _ORDINARY:
        return tensor
    kind_of(tensor, where)
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.as_subclass(torch.Tensor)
