"""The weight that a tensor belongs to where that is quantised, and the name by which rules know it."""

from __future__ import annotations

from typing import NamedTuple

from weighbridge.base.keys import collapse
from weighbridge.base.specs import Header
from weighbridge.mappings.schemes.scheme import WEIGHT
from weighbridge.planning.companions import find_groups


class Belonging(NamedTuple):
    """A quantised weight.

    Args:
        weight: What rules call it: the name that it would have without quantisation.
        tensors: The keys of its tensors, the codes first.
    """

    weight: str
    tensors: tuple[str, ...]

    def __str__(self) -> str:
        codes, *beside = self.tensors
        return f"{codes} holds its codes; beside it {', '.join(collapse(beside))}"


def find_belongings(header: Header) -> dict[str, Belonging]:
    """Tell by names and dtypes which weight each tensor belongs to, for those of quantised weights.

    Examples:
        >>> from weighbridge.base.specs import TensorSpec
        >>> specs = {"q.qweight": TensorSpec("I32", (4, 4)), "q.scales": TensorSpec("F16", (1, 4))}
        >>> find_belongings(Header(specs))["q.scales"].weight
        'q.weight'
    """
    found: dict[str, Belonging] = {}
    for stem, codes, beside in find_groups(header):
        is_of_module = codes.removeprefix(stem).startswith(".")
        weight = Belonging(stem + WEIGHT if is_of_module else stem, (codes, *beside))
        found |= dict.fromkeys(weight.tensors, weight)
    return found
