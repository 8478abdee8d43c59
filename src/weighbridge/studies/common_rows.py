"""Tell whether one tensor could be another one with rows behind it, and whether these all hold one value."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weighbridge.base.specs import Shape
from weighbridge.studies.contents import Contents

if TYPE_CHECKING:
    import torch


def one_longer_axis(first: Shape, second: Shape) -> int | None:
    """Return the one axis on which two shapes differ; None where they differ otherwise, or one holds nothing.

    Examples:
        >>> one_longer_axis((11, 4), (16, 4)), one_longer_axis((11, 4), (16, 5)), one_longer_axis((0, 4), (3, 4))
        (0, None, None)
    """
    axes = [axis for axis, sizes in enumerate(zip(first, second, strict=False)) if sizes[0] != sizes[1]]
    return axes[0] if len(first) == len(second) and len(axes) == 1 and 0 not in (*first, *second) else None


def common_element(contents: Contents) -> bytes | None:
    """Return the bytes of the one value that all elements hold; None where they differ, or there are none."""
    import torch

    found: torch.Tensor | None = None
    for _, window in contents.windows():
        rows = window.view(torch.uint8).view(len(window), -1)
        found = rows[0].clone() if found is None else found
        if not rows.equal(found.expand_as(rows)):
            return None
    return None if found is None else bytes(found.tolist())
