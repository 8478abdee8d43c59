"""The weights that a plan gives to the library, and the proof that they are what it left in the model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Final

import torch

from weighbridge.base.errors import PlanError
from weighbridge.models.holdings import take_stock
from weighbridge.models.kept_elsewhere import Kept, Stored
from weighbridge.models.wrappers import layout_class
from weighbridge.planning.steps import Step
from weighbridge.running.devices import fill_tensors
from weighbridge.running.gather import Wanted, start_output
from weighbridge.running.strided import check_cast
from weighbridge.storage.formats.torch_tensors import bytes_of, dtype_of
from weighbridge.storage.protocol import Checkpoint, Mapped

_LOG: Final = logging.getLogger("weighbridge")


class Pending:
    """One tensor of a plan, made when the library takes it, as it takes a slice of a file.

    Args:
        step: The step that writes it.
        key: Which of the step's targets it is.
        checkpoint: What the step reads.
        mapped: Maps of its files, for a tensor that moves as it is; None to copy all.
    """

    def __init__(self, step: Step, key: str, checkpoint: Checkpoint, mapped: Mapped | None = None) -> None:
        self.step = step
        self.key = key
        self.checkpoint = checkpoint
        self.mapped = mapped
        self.ready: torch.Tensor | None = None
        self.given: tuple[int, int, torch.dtype] | None = None

    def start(self, device: torch.device) -> Wanted:
        """Allocate the tensor on a device; whoever fills what is returned has made it ready."""
        self.ready, want = start_output(self.step, self.number, None, device)
        assert want is not None  # without maps there is always something left to do
        return want

    def __getitem__(self, index: Any) -> torch.Tensor:
        made, self.ready = self._make(self.mapped) if self.ready is None else self.ready, None
        # An inference tensor has no count of writes, and is compared in the end.
        self.given = None if made.is_inference() else (made.data_ptr(), made._version, made.dtype)
        return made[index]

    @property
    def number(self) -> int:
        """Which of the step's targets it is."""
        return self.step.targets.index(self.key)

    @property
    def stored(self) -> Stored | None:
        """Where it lies in a safetensors file of this disk as it is; None where it is made of what lies there."""
        extent = self.checkpoint.extent(self.step.sources[0]) if self.step.program.is_identity else None
        if extent is None or not isinstance(extent.path, Path) or not self.checkpoint.files:
            return None
        return Stored(extent.path, self.step.sources[0])

    def make(self) -> torch.Tensor:
        """Run the step for this target alone, in memory of its own: what was given out may have been written to."""
        return self._make(None)

    def _make(self, mapped: Mapped | None) -> torch.Tensor:
        made, want = start_output(self.step, self.number, mapped)
        if want is not None:
            fill_tensors([want], self.checkpoint)
        return made

    def is_kept_as(self, kept: Kept) -> bool:
        """Tell whether a tensor that is kept in a file is this one, in the file that it comes from."""
        dtype = self.step.program.targets[self.number].dtype
        return kept.stored is not None and kept.stored == self.stored and kept.stand_in.dtype == dtype_of(dtype)

    def is_untouched(self, tensor: torch.Tensor, whole: Any = None) -> bool:
        """Tell whether a tensor is the memory that was given out, and was not written to since.

        Args:
            tensor: The tensor.
            whole: If it is what this process holds of one that is spread, that one.
        """
        if self.given is None or tensor.is_inference():
            return False
        address, version, dtype = self.given
        if whole is None:
            return (address, version, dtype) == (tensor.data_ptr(), tensor._version, tensor.dtype)
        # What is spread counts what is written to it, and what is held of it is counted anew since it was given out.
        with torch.no_grad():
            held = whole.to_local()
        return (address, 0, 0, dtype) == (held.data_ptr(), held._version, whole._version, held.dtype)


def prove(model: Any, tensors: dict[str, Pending], *, allow_overflow: bool) -> None:
    """Prove that every loaded weight holds the bytes that were given to the library; write them again where not.

    In the library's own classes, memory that was given out and never written to through torch is proof. Everything
    else, such as a weight that was cast or a class that may write past torch's bookkeeping, is compared byte by byte.

    Raises:
        PlanError: `model-mismatch` for a weight that is gone, or has another shape; `cast-overflow`.
    """
    held = take_stock(model)
    places, elsewhere = held.places, held.kept
    is_custom = layout_class(model).is_custom_code()
    for key, pending in tensors.items():
        kept = elsewhere.get(key)
        if kept is not None and pending.is_kept_as(kept):
            continue
        place = places.get(key) if kept is None else None
        tensor = kept.tensor(key) if kept is not None else place.tensor if place is not None else None
        whole = place.whole if place is not None and place.sharded is not None else None
        if tensor is not None and pending.is_untouched(tensor, whole) and not is_custom:
            continue
        made = pending.make()
        if tensor is None or tensor.is_meta or tensor.shape != made.shape:
            got = "nothing" if tensor is None else f"{list(tensor.shape)} on {tensor.device}"
            raise PlanError("model-mismatch", "a loaded weight is gone", where=key, expected=str(made.shape), got=got)
        wanted = made.to(tensor.dtype)
        if made.dtype != tensor.dtype and not allow_overflow:
            check_cast(made, wanted, [key])
        if bytes_of(tensor.detach().cpu().contiguous()) != bytes_of(wanted):
            if kept is not None:
                what = "a weight that was offloaded is not the one that was loaded"
                raise PlanError("model-mismatch", what, where=key, hint="load it again, with another offload_folder=")
            _LOG.warning("%s was changed after it was loaded; its bytes were put back", key)
            tensor.data.copy_(wanted)
