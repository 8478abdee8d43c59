"""Statistics of one tensor's values, in windows of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf as infinity, sqrt
from typing import TYPE_CHECKING, Any, Final

from weighbridge.base.errors import WeighbridgeError
from weighbridge.studies.contents import Held
from weighbridge.studies.differences import json_number

if TYPE_CHECKING:
    import torch

    from weighbridge.storage.protocol import Checkpoint

NAMES: Final = ("numel", "finite", "nan", "inf", "zeros", "min", "max", "mean", "std")
"""What is measured; the last four over the finite values, of complex ones their sizes."""


@dataclass(slots=True)
class Statistics:
    """What is known of values that were added window by window, in double precision."""

    numel: int = 0
    finite: int = 0
    nan: int = 0
    inf: int = 0
    zeros: int = 0
    min: float = infinity
    max: float = -infinity
    mean: float = 0.0
    _squares: float = 0.0

    def add(self, values: torch.Tensor) -> None:
        """Add a window; means and squares are joined by the formula of Chan, Golub and LeVeque (1979)."""
        import torch

        wide = values.to(torch.complex128).abs() if values.is_complex() else values.to(torch.float64)
        kept = wide[torch.isfinite(wide)]
        self.numel += wide.numel()
        self.nan += int(torch.isnan(wide).sum())
        self.inf += int(torch.isinf(wide).sum())
        self.zeros += int((wide == 0).sum())
        if not kept.numel():
            return
        count, mean = kept.numel(), float(kept.mean())
        whole, gap = self.finite + count, mean - self.mean
        self._squares += float((kept - mean).square().sum()) + gap * gap * self.finite * count / whole
        self.mean += gap * count / whole
        self.finite = whole
        self.min, self.max = min(self.min, float(kept.min())), max(self.max, float(kept.max()))

    @property
    def std(self) -> float:
        """Standard deviation of the finite values, as of a whole population."""
        return sqrt(self._squares / self.finite) if self.finite else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form; without finite values there are no least, greatest and mean ones."""
        form = {name: json_number(getattr(self, name)) for name in NAMES}
        return form if self.finite else {**form, **dict.fromkeys(NAMES[5:])}


def measure(checkpoint: Checkpoint, key: str) -> Statistics:
    """Read a tensor and measure its values.

    Raises:
        CheckpointError: `tensor-not-found`, `data-missing` and the codes of reading.
        WeighbridgeError: `usage` for elements smaller than a byte.
    """
    checkpoint.extent(key)
    contents = Held(checkpoint).contents(key)
    if contents.is_packed:
        what = "elements smaller than a byte have no statistics here"
        raise WeighbridgeError("usage", what, where=key, got=contents.spec.dtype)
    found = Statistics()
    for _, window in contents.windows():
        found.add(window)
    return found


def statistics_lines(form: dict[str, Any]) -> Iterator[str]:
    """Write what `Statistics.to_dict` gives as text."""
    for name in NAMES[1:]:
        value = form[name]
        text = "none" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.7g}"
        yield f"{name:<9} {text}"
