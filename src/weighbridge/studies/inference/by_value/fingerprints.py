"""Fingerprints of tensors: of their bytes, and of their elements whatever the order.

The sum of a hash of each element stays the same when elements change places, and the sum of a joined tensor is that of
its parts. So transposed, permuted, stacked and concatenated tensors are found by looking sums up, not by trying. Sums
only propose; what is proposed is run and compared before it is believed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from math import prod
from typing import TYPE_CHECKING, Any, Final

from weighbridge.base.forms.elements import Element, element_value
from weighbridge.base.specs import DTYPES, Shape, dtype_named

if TYPE_CHECKING:
    import torch

    from weighbridge.storage.protocol import Checkpoint

WINDOW: Final = 2**14
"""Number of elements that are looked at a time: few enough for a processor's cache, and for one thread."""

_DIGESTED: Final = 2**20
"""Number of elements whose bytes are hashed at a time."""

_ODD: Final = (-7046029254386353131, -4658895280553007687)
"""Odd numbers, as signed 64-bit integers, that spread the bits of an element."""


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums of element hashes of one tensor, modulo 2^64, as signed numbers.

    Args:
        shape: Sizes of the axes.
        total: Sum over all elements.
        axes: For an axis, the sum over each of its slices; of more than three axes, the first two have one.
        grids: For axes 0 and `c` of a tensor with three axes, the sums over the third.
    """

    shape: Shape
    total: int
    axes: dict[int, torch.Tensor]
    grids: dict[int, torch.Tensor]

    @property
    def size(self) -> int:
        """Number of sums."""
        return sum(sums.numel() for sums in (*self.axes.values(), *self.grids.values()))


def cast_dtype(own: str, wanted: str) -> bool:
    """Tell whether values of one dtype may be compared after a cast to another one.

    Examples:
        >>> cast_dtype("BF16", "F32"), cast_dtype("I64", "F32"), cast_dtype("F4", "BF16")
        (True, False, False)
    """
    return own == wanted or (DTYPES[own].kind == "float" and DTYPES[wanted].kind == "float")


def read_as(checkpoint: Checkpoint, key: str, dtype: str) -> torch.Tensor:
    """Read a whole tensor and cast it.

    Args:
        checkpoint: Where it is.
        key: Its key.
        dtype: The code that its elements are cast to; its own for none.

    Raises:
        CheckpointError: As `Checkpoint.tensor`.
    """
    tensor = checkpoint.tensor(key).detach().to("cpu")
    if checkpoint.header[key].dtype != dtype:
        tensor = tensor.to(_torch_dtype(dtype))
    return tensor.contiguous()


def _torch_dtype(code: str) -> torch.dtype:
    import torch

    found: torch.dtype = getattr(torch, dtype_named(code).torch_name)
    return found


def digest_as(checkpoint: Checkpoint, key: str, dtypes: list[str]) -> dict[str, bytes]:
    """Hash a tensor's row-major bytes, once for each dtype that it is to be cast to.

    Raises:
        CheckpointError: As `Checkpoint.tensor`.
    """
    import torch

    from weighbridge.storage.formats.torch_tensors import bytes_of

    own = checkpoint.header[key].dtype
    hashes = {dtype: blake2b(digest_size=16) for dtype in dtypes}
    flat = checkpoint.tensor(key).detach().to("cpu").contiguous().view(-1)
    for window in torch.split(flat, _DIGESTED):
        for dtype, running in hashes.items():
            running.update(bytes_of(window if dtype == own else window.to(_torch_dtype(dtype))))
    return {dtype: running.digest() for dtype, running in hashes.items()}


def is_telling(checkpoint: Checkpoint, key: str, least: int = 4) -> bool:
    """Tell whether a tensor's values can tell it from others: they are not few, and not all the same.

    Raises:
        CheckpointError: As `Checkpoint.tensor`.
    """
    import torch

    if checkpoint.header[key].numel < least:
        return False
    flat = bits_of(checkpoint.tensor(key).detach().to("cpu").contiguous().view(-1))
    return any(bool((window != flat[0]).any()) for window in torch.split(flat, WINDOW))


def only_value(tensor: torch.Tensor) -> Element | None:
    """Return the value that all elements of a tensor hold, to the bit; None where they differ, or there are none.

    Examples:
        >>> import torch
        >>> only_value(torch.zeros(2, 3)), only_value(torch.tensor([0.0, -0.0]))
        (0, None)
    """
    import torch

    bits = bits_of(tensor)
    if not bits.numel():
        return None
    first = bits.new_tensor([bits[(0,) * bits.dim()].item()])
    if bool((bits != first).any()):
        return None
    return element_value(bytes(first.view(torch.uint8).tolist()), dtype_named(str(tensor.dtype)).code)


def bit_total(checkpoint: Checkpoint, key: str) -> int:
    """Sum a tensor's elements as integers of the same bits: equal for any two that hold the same elements.

    Raises:
        CheckpointError: As `Checkpoint.tensor`.
    """
    import torch

    flat = bits_of(checkpoint.tensor(key).detach().to("cpu").contiguous().view(-1))
    return sum(int(window.sum(dtype=torch.int64)) for window in torch.split(flat, _DIGESTED))


def bits_of(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor's elements as integers of the same bits, so that any two NaN can be told apart."""
    import torch

    whole: Any = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.view(whole[tensor.element_size()])


def _hashes(bits: torch.Tensor) -> torch.Tensor:
    import torch

    mixed = bits.to(torch.int64, copy=True)
    mixed *= _ODD[0]
    mixed ^= mixed >> 29
    mixed *= _ODD[1]
    mixed ^= mixed >> 32
    return mixed


def sum_hashes(tensor: torch.Tensor) -> Sums:
    """Sum the hashes of a tensor's elements over all of it, over slices, and over slices of slices.

    Args:
        tensor: A dense tensor of any number of axes; of more than three, the third and all after it count as one.
    """
    import torch

    shape = tuple(tensor.shape)
    sizes = (*shape, 1, 1, 1)[:2]
    view = bits_of(tensor).reshape(*sizes, prod(shape[2:]))
    axes = [torch.zeros(size, dtype=torch.int64) for size in view.shape]
    flat = (1, 2) if len(shape) == 3 else ()
    grids = {axis: torch.zeros(view.shape[0], view.shape[axis], dtype=torch.int64) for axis in flat}
    for rows, columns in _windows(view.shape):
        hashes = _hashes(view[rows, columns])
        by_column, by_last = hashes.sum(2), hashes.sum(1)
        axes[0][rows] += by_column.sum(1)
        axes[1][columns] += by_column.sum(0)
        axes[2] += by_last.sum(0)
        if grids:
            grids[1][rows, columns] = by_column
            grids[2][rows] += by_last
    kept = min(max(1, len(shape)), 3) if len(shape) <= 3 else 2
    found = dict(enumerate(axes[:kept]))
    return Sums(shape, int(axes[0].sum()), found, grids)


def _windows(shape: Shape) -> Iterator[tuple[slice, slice]]:
    """Cut the first two axes so that a window's elements are few."""
    height = max(1, WINDOW // max(1, shape[1] * shape[2]))
    width = shape[1] if height > 1 else max(1, WINDOW // max(1, shape[2]))
    for row in range(0, shape[0], height):
        for column in range(0, shape[1], max(1, width)):
            yield slice(row, row + height), slice(column, column + width)
